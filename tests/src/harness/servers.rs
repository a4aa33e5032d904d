//! Real origins and load balancers: nginx and HAProxy with generated configurations, in the foreground, ended when dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use super::process::Process;
use super::tools;
use super::wait::until;

/// A running server.
pub struct Server {
    process: Process,
    folder: tempfile::TempDir,
    /// Where it speaks plain HTTP.
    pub plain: SocketAddr,
    /// Where it speaks TLS.
    pub tls: SocketAddr,
}

impl Server {
    /// nginx for one name. It serves `/hello`, `/big` (a file of `big_bytes`), `/echo-headers`; uploads with PUT
    /// to `/put/…`; and, for clients that take gzip, the same file without a length at `/chunked` and `/until-close`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn nginx(name: &str, big_bytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        tools::certificate(root, name);
        std::fs::create_dir(root.join("put")).expect("a folder");
        std::fs::write(root.join("big"), pattern(big_bytes)).expect("written");
        // nginx's workers are another user when its master is root.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        for path in [root.to_path_buf(), root.join("put")] {
            std::fs::set_permissions(path, std::fs::Permissions::clone(&mode)).expect("permissions");
        }
        let (plain, tls) = (free(), free());
        let root = root.display();
        let config = format!(
            "daemon off; worker_processes 1; pid {root}/pid; error_log stderr warn;
             events {{ worker_connections 1024; }}
             http {{
               access_log off; client_max_body_size 0; keepalive_requests 100000;
               client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
               uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
               server {{
                 listen {plain}; listen {tls} ssl; server_name {name}; root {root};
                 ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;
                 location = /hello {{ return 200 'hello from nginx\n'; }}
                 location = /echo-headers {{ return 200 'host=$http_host via=$http_via connection=$http_connection forwarded=$http_x_forwarded_for\n'; }}
                 location /put/ {{ dav_methods PUT; }}
                 location = /chunked {{ alias {root}/big; gzip on; gzip_types *; gzip_http_version 1.0; gzip_proxied any; }}
                 location = /until-close {{ alias {root}/big; gzip on; gzip_types *; gzip_proxied any; chunked_transfer_encoding off; }}
               }}
             }}"
        );
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, config).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(path).arg("-p").arg(folder.path()).args(["-e", "stderr"]);
        Self::wait(Process::spawn(&mut command), folder, plain, tls)
    }

    /// HAProxy as an origin: every request is answered with 200 and `haproxy`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn haproxy(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        tools::certificate(root, name);
        let (cert, key) = (std::fs::read(root.join("cert.pem")), std::fs::read(root.join("key.pem")));
        let both = [cert.expect("made"), key.expect("made")].concat();
        std::fs::write(root.join("both.pem"), both).expect("written");
        let (plain, tls) = (free(), free());
        let config = format!(
            "global\n maxconn 2000\ndefaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n\
             frontend f\n bind {plain}\n bind {tls} ssl crt {root}/both.pem\n \
             http-request return status 200 content-type text/plain string haproxy\n",
            root = root.display()
        );
        let path = root.join("haproxy.cfg");
        std::fs::write(&path, config).expect("written");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(path);
        Self::wait(Process::spawn(&mut command), folder, plain, tls)
    }

    fn wait(mut process: Process, folder: tempfile::TempDir, plain: SocketAddr, tls: SocketAddr) -> Self {
        until("a server that listens", || {
            assert!(process.ended().is_none(), "it ended: {}", process.stderr.all().join("\n"));
            let both = TcpStream::connect(plain).is_ok() && TcpStream::connect(tls).is_ok();
            both.then_some(())
        });
        Self { process, folder, plain, tls }
    }

    /// Its folder: certificate, documents, uploads.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What it complained of.
    #[must_use]
    pub fn complaints(&self) -> String {
        self.process.stderr.all().join("\n")
    }
}

/// A load balancer that writes a PROXY header in front of each connection it passes on.
pub struct Balancer {
    process: Process,
    /// Where it listens, one front for each address that it passes on to.
    pub fronts: Vec<SocketAddr>,
    _folder: tempfile::TempDir,
}

impl Balancer {
    /// HAProxy, which passes TCP on to `doors` with these options of its `server` line.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn haproxy(doors: &[SocketAddr], options: &str) -> Self {
        let fronts: Vec<SocketAddr> = doors.iter().map(|_| free()).collect();
        let each = doors.iter().zip(&fronts).enumerate().map(|(n, (door, front))| {
            format!(
                "listen front{n}\n bind {front}\n unique-id-format %ci:%cp:%Ts\n server door {door} {options}\n"
            )
        });
        let config = format!(
            "global\n maxconn 2000\ndefaults\n mode tcp\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n{}",
            each.collect::<String>()
        );
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("written");
        Self::wait(Command::new("haproxy").arg("-db").arg("-f").arg(path), fronts, folder)
    }

    /// nginx, whose stream module writes version 1.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn nginx(doors: &[SocketAddr]) -> Self {
        let fronts: Vec<SocketAddr> = doors.iter().map(|_| free()).collect();
        let each = doors.iter().zip(&fronts).map(|(door, front)| {
            format!("server {{ listen {front}; proxy_pass {door}; proxy_protocol on; }}\n")
        });
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().display();
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
             daemon off; worker_processes 1; pid {root}/pid; error_log stderr warn;
             events {{ worker_connections 1024; }}
             stream {{ {} }}",
            each.collect::<String>()
        );
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, config).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(path).arg("-p").arg(folder.path()).args(["-e", "stderr"]);
        Self::wait(&mut command, fronts, folder)
    }

    fn wait(command: &mut Command, fronts: Vec<SocketAddr>, folder: tempfile::TempDir) -> Self {
        let mut process = Process::spawn(command);
        until("a balancer that listens", || {
            assert!(process.ended().is_none(), "it ended: {}", process.stderr.all().join("\n"));
            fronts.iter().all(|front| TcpStream::connect(front).is_ok()).then_some(())
        });
        Self { process, fronts, _folder: folder }
    }

    /// What it complained of.
    #[must_use]
    pub fn complaints(&self) -> String {
        self.process.stderr.all().join("\n")
    }
}

/// An address whose port was free just now. On an address of its own, so that hardly anybody else asks for it.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free() -> SocketAddr {
    let own = (std::process::id() % 200) as u8 + 20;
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, own, 1), 0)).expect("a free port");
    listener.local_addr().expect("a bound listener")
}

/// Bytes that tell where they were taken from: no two blocks of 8 alike.
#[must_use]
pub fn pattern(length: usize) -> Vec<u8> {
    let words = (0..=length as u64 / 8).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(length).collect()
}
