//! Real DNS servers: dnsmasq and unbound with generated configurations, in the foreground, on a loopback address and a
//! port of their own, ended when dropped. They read nothing of the system's: no resolv.conf, no hosts file.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::process::Process;
use super::servers::free;
use super::wait::until;

/// A running server, over UDP and TCP.
pub struct Resolver {
    process: Process,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Resolver {
    /// dnsmasq, to which these names under `test` belong, each with a TTL of `ttl_s` seconds and with every address that
    /// it is listed with; `alias.test` is another name for `a.test`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn dnsmasq(names: &[(&str, IpAddr)], ttl_s: u32) -> Self {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), free());
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, hosts_file(names)).expect("written");
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"]);
        command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--local=/test/"]);
        command.args(["--cname=alias.test,a.test", "--log-queries", "--log-facility=-"]);
        command.arg(format!("--listen-address={}", address.ip())).arg(format!("--port={}", address.port()));
        command.arg(format!("--local-ttl={ttl_s}")).arg(format!("--addn-hosts={}", hosts.display()));
        Self::wait(&mut command, address, folder)
    }

    /// unbound, which asks `upstream` for what is under `test` and keeps the answers for their TTL.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn unbound(upstream: SocketAddr) -> Self {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), free());
        let config = format!(
            "server:\n  interface: {}\n  port: {}\n  username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n\
             \x20 pidfile: \"\"\n  use-syslog: no\n  logfile: \"\"\n  do-daemonize: no\n  num-threads: 1\n\
             \x20 module-config: \"iterator\"\n  do-not-query-localhost: no\n  local-zone: \"test.\" nodefault\n\
             forward-zone:\n  name: \"test.\"\n  forward-addr: {}@{}\nremote-control:\n  control-enable: no\n",
            address.ip(),
            address.port(),
            folder.path().display(),
            upstream.ip(),
            upstream.port()
        );
        let path = folder.path().join("unbound.conf");
        std::fs::write(&path, config).expect("written");
        Self::wait(Command::new("unbound").arg("-d").arg("-c").arg(path), address, folder)
    }

    fn wait(command: &mut Command, address: SocketAddr, folder: tempfile::TempDir) -> Self {
        let mut process = Process::spawn(command);
        until("a DNS server that listens", || {
            assert!(process.ended().is_none(), "it ended: {}", process.stderr.all().join("\n"));
            TcpStream::connect(address).is_ok().then_some(())
        });
        Self { process, address, folder }
    }

    fn hosts(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }

    /// Replaces the names of dnsmasq, as an operator does: the file, then SIGHUP.
    ///
    /// # Panics
    /// When the file cannot be written, or is not read again.
    pub fn set(&self, names: &[(&str, IpAddr)]) {
        let hosts = self.hosts();
        let read = || {
            let part = format!("read {}", hosts.display());
            self.process.stderr.all().iter().filter(|line| line.contains(&part)).count()
        };
        std::fs::write(&hosts, hosts_file(names)).expect("written");
        let before = read();
        self.process.signal(Signal::HUP);
        until("dnsmasq reads its names again", || (read() > before).then_some(()));
    }

    /// How often dnsmasq was asked for the IPv4 addresses of a name, over UDP and TCP.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        let part = format!("query[A] {name} from");
        self.process.stderr.all().iter().filter(|line| line.contains(&part)).count()
    }

    /// The `[dns]` table that names it, with `more` lines.
    #[must_use]
    pub fn toml(&self, more: &str) -> String {
        format!("[dns]\nservers = [\"{}\"]\n{more}\n", self.address)
    }
}

fn hosts_file(names: &[(&str, IpAddr)]) -> String {
    let mut file = String::new();
    for (name, address) in names {
        // Writing to a String does not fail.
        let _ = writeln!(file, "{address} {name}");
    }
    file
}
