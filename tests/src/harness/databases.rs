//! Real databases and a mail server, each a process of its own with a folder of its own, on the loopback address of a
//! network namespace. The system's own services are never touched.
//!
//! Small and careless of their data: nothing outlives the test.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::netns::Netns;
use super::process::Process;
use super::tools::{self, tool};
use super::wait::until;

/// A running server on 127.0.0.1 of its namespace. Its certificate is for the name that it was started with.
pub struct Database {
    process: Process,
    folder: tempfile::TempDir,
    address: SocketAddr,
    /// What ends it at once.
    end: Signal,
}

impl Database {
    /// MariaDB: user `root` without a password, database `test`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn mariadb(netns: &Netns, name: &str, port: u16) -> Self {
        let folder = folder(name);
        let data = folder.path().join("data");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--skip-test-db", "--user=root"]);
        install.args(["--auth-root-authentication-method=normal", "--innodb-flush-method=nosync"]);
        install.args(["--innodb-log-file-size=4M", &format!("--datadir={}", data.display())]);
        succeeded(&mut install);
        std::fs::create_dir(data.join("test")).expect("a database is a folder");
        let mut command = netns.command("mariadbd");
        command.args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args([
            "--innodb-buffer-pool-size=8M",
            "--innodb-log-file-size=4M",
            "--performance-schema=off",
        ]);
        command.args(["--innodb-flush-method=nosync", "--max-connect-errors=1000000"]);
        command.arg(format!("--datadir={}", data.display())).arg(format!("--port={port}"));
        for (key, file) in
            [("socket", "socket"), ("pid-file", "pid"), ("ssl-cert", "cert.pem"), ("ssl-key", "key.pem")]
        {
            command.arg(format!("--{key}={}", folder.path().join(file).display()));
        }
        // Nothing of it is wanted any more: an orderly end would only take time.
        Self::wait(netns, &mut command, folder, port, Signal::KILL)
    }

    /// PostgreSQL: user and database `postgres`, trusted without a password.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn postgres(netns: &Netns, name: &str, port: u16) -> Self {
        let folder = folder(name);
        let (data, key) = (folder.path().join("data"), folder.path().join("key.pem"));
        // It refuses to run as root, and to use a key that others may read.
        succeeded(Command::new("chown").arg("postgres").arg(&key));
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("permissions");
        let as_postgres = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];
        let programs = postgres_programs();
        let mut install = Command::new("setpriv");
        install.args(as_postgres).arg(programs.join("initdb")).arg("-D").arg(&data);
        install.args(["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=postgres"]);
        succeeded(install.current_dir(folder.path()));
        let mut command = netns.command("setpriv");
        command.current_dir(folder.path());
        command.args(as_postgres).arg(programs.join("postgres")).arg("-D").arg(&data);
        let own = folder.path().display();
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "unix_socket_directories=".to_owned(),
            "fsync=off".to_owned(),
            "shared_buffers=2MB".to_owned(),
            "max_connections=20".to_owned(),
            "autovacuum=off".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={own}/cert.pem"),
            format!("ssl_key_file={own}/key.pem"),
        ] {
            command.arg("-c").arg(setting);
        }
        Self::wait(netns, &mut command, folder, port, Signal::INT)
    }

    /// Redis.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn redis(netns: &Netns, name: &str, port: u16) -> Self {
        let folder = folder(name);
        let mut command = netns.command("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"]);
        command.arg(folder.path());
        Self::wait(netns, &mut command, folder, port, Signal::TERM)
    }

    /// Exim, which takes mail for everybody and keeps it in its queue; it offers STARTTLS.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn exim(netns: &Netns, name: &str, port: u16) -> Self {
        let folder = folder(name);
        let own = folder.path().display();
        let config = format!(
            "primary_hostname = {name}\n\
             spool_directory = {own}/spool\nlog_file_path = {own}/%slog\npid_file_path = {own}/pid\n\
             local_interfaces = 127.0.0.1\ndaemon_smtp_ports = {port}\nkeep_environment =\n\
             exim_user = Debian-exim\nexim_group = Debian-exim\nqueue_only\nmessage_size_limit = 64M\n\
             tls_advertise_hosts = *\ntls_certificate = {own}/cert.pem\ntls_privatekey = {own}/key.pem\n\
             acl_smtp_rcpt = take\nacl_smtp_data = take\nbegin acl\ntake:\n  accept\n"
        );
        let path = folder.path().join("exim.conf");
        std::fs::write(&path, config).expect("written");
        let mut command = netns.command("exim4");
        command.arg("-bdf").arg("-C").arg(path);
        Self::wait(netns, &mut command, folder, port, Signal::TERM)
    }

    fn wait(netns: &Netns, command: &mut Command, folder: tempfile::TempDir, port: u16, end: Signal) -> Self {
        let mut process = Process::spawn(command);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        until("a server that listens", || {
            assert!(process.ended().is_none(), "it ended: {}", process.stderr.all().join("\n"));
            netns.enter(|| TcpStream::connect(address).is_ok()).then_some(())
        });
        Self { process, folder, address, end }
    }

    /// Where it listens, in its namespace.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A file of its folder: `cert.pem`, its certificate; `spool`, where Exim queues.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it said on standard error.
    #[must_use]
    pub fn complaints(&self) -> String {
        self.process.stderr.all().join("\n")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.process.signal(self.end);
    }
}

/// A folder that the server's own user may enter, with a certificate for `name`.
fn folder(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    tools::certificate(folder.path(), name);
    for (path, mode) in [(folder.path().to_path_buf(), 0o777), (folder.path().join("key.pem"), 0o644)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("permissions");
    }
    folder
}

fn succeeded(command: &mut Command) {
    let done = tool(command, b"");
    assert_eq!(done.code, 0, "{command:?}: {}{}", done.stdout, done.stderr);
}

/// Debian keeps each version's programs apart; the newest is taken.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("./test installs postgresql");
    let programs = versions.flatten().map(|version| version.path().join("bin"));
    let version = |path: &PathBuf| {
        let number =
            path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().parse::<u32>());
        number.and_then(Result::ok)
    };
    let newest = programs.filter(|path| path.join("initdb").exists()).max_by_key(version);
    newest.expect("./test installs postgresql")
}
