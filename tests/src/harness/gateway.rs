//! The program under test: started with a configuration, found by what it prints at start, ended when dropped.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::process::Signal;
use serde_json::Value;

use super::client::Http;
use super::process::Process;
use super::wait::{DEADLINE, until, within};

/// The engine that this run of the suite is about: `SLUICE_TEST_ENGINE`, else `auto`.
#[must_use]
pub fn engine() -> String {
    std::env::var("SLUICE_TEST_ENGINE").unwrap_or_else(|_| "auto".to_owned())
}

/// The program, built once: `SLUICE_TEST_BINARY`, else next to this test's own executable.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("SLUICE_TEST_BINARY") {
        Some(named) => named.into(),
        None => built("sluice-gateway", "sluice"),
    })
}

/// The sidecar, built once next to this test's own executable.
///
/// # Panics
/// When it cannot be built.
pub fn sidecar_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("sluice-sidecar", "sluice-sidecar"))
}

fn built(package: &str, binary: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running test has a path");
    let profile = own.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", package, "--bin", binary]);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    build.arg("--target-dir").arg(profile.parent().expect("target"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success(), "{binary} does not build");
    profile.join(binary)
}

/// A command of the program with nothing of the test's own environment that it could mistake for configuration.
#[must_use]
pub fn command() -> Command {
    clean(Command::new(binary()))
}

fn clean(mut command: Command) -> Command {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("SLUICE") {
            command.env_remove(&key);
        }
    }
    command
}

/// Runs the program to its end: for `check`, `explain`, `doctor` and failing starts.
///
/// # Panics
/// When it cannot be started or does not end.
#[must_use]
pub fn run(arguments: &[&str]) -> Output {
    run_command(command().args(arguments))
}

/// As [`run`], for a prepared command.
///
/// # Panics
/// When it cannot be started or does not end.
#[must_use]
pub fn run_command(command: &mut Command) -> Output {
    let (stdout, stderr) = (Stdio::piped(), Stdio::piped());
    let mut child =
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().expect("sluice starts");
    let ended = within(DEADLINE, || child.try_wait().ok().flatten());
    if ended.is_none() {
        child.kill().ok();
    }
    let output = child.wait_with_output().expect("an ended child has output");
    assert!(ended.is_some(), "sluice did not end: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A running gateway.
pub struct Gateway {
    process: Process,
    /// Its folder; `sluice.toml` lies there, and whatever a test puts next to it.
    pub folder: tempfile::TempDir,
    report: Vec<String>,
}

/// How a gateway is started, where the defaults do not do.
pub struct Start {
    command: Command,
    folder: tempfile::TempDir,
    collect_stdout: bool,
}

impl Start {
    /// With this configuration. `[admin]` on a free port and the engine of this run are added unless it has them,
    /// and the JSON access log.
    ///
    /// # Panics
    /// When no folder can be made.
    #[must_use]
    pub fn new(toml: &str) -> Self {
        Self::through(Command::new(binary()), toml)
    }

    /// As [`Self::new`], started by another program that executes its arguments.
    ///
    /// # Panics
    /// When no folder can be made.
    #[must_use]
    pub fn through(command: Command, toml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sluice.toml");
        std::fs::write(&path, complete(toml)).expect("the configuration is written");
        let mut command = clean(command);
        command.arg("run").arg("--config").arg(path);
        Self { command, folder, collect_stdout: true }
    }

    /// The folder, to put files into.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Changes the command.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Standard output goes elsewhere; no access log is collected.
    #[must_use]
    pub fn stdout(mut self, to: Stdio) -> Self {
        self.command.stdout(to);
        self.collect_stdout = false;
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn ready(self) -> Gateway {
        let mut gateway = self.started();
        let Some(process) = within(DEADLINE, || {
            if gateway.process.ended().is_some() || gateway.process.stderr.find("  limits ").is_some() {
                gateway.report = gateway.process.stderr.all();
                Some(())
            } else {
                None
            }
        }) else {
            panic!("no start-up report: {}", gateway.stderr());
        };
        let () = process;
        assert!(gateway.process.ended().is_none(), "sluice ended: {}", gateway.stderr());
        let ready = gateway.report.iter().any(|line| line.trim_start().starts_with("admin"));
        assert!(ready, "no admin address: {}", gateway.stderr());
        if !gateway.in_namespace() {
            until("readiness", || (gateway.admin_get("/readyz").status == 200).then_some(()));
        }
        gateway
    }

    /// Starts it and waits for nothing.
    #[must_use]
    pub fn started(mut self) -> Gateway {
        let process = if self.collect_stdout {
            Process::spawn(&mut self.command)
        } else {
            Process::start(&mut self.command)
        };
        Gateway { process, folder: self.folder, report: Vec::new() }
    }
}

/// What a test's configuration leaves out.
fn complete(toml: &str) -> String {
    let mut whole = toml.to_owned();
    if !toml.contains("[admin]") {
        whole.push_str("\n[admin]\nbind = \"127.0.0.1:0\"\n");
    }
    if !toml.contains("[dataplane]") {
        whole.push_str(&format!("\n[dataplane]\nengine = \"{}\"\n", engine()));
    }
    if !toml.contains("[access_log]") {
        whole.push_str("\n[access_log]\nformat = \"json\"\n");
    }
    whole
}

impl Gateway {
    /// Starts it with a configuration and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(toml: &str) -> Self {
        Start::new(toml).ready()
    }

    fn in_namespace(&self) -> bool {
        // Started through `ip netns exec`: its addresses cannot be reached from here.
        let own = std::fs::read_link("/proc/self/ns/net").ok();
        std::fs::read_link(format!("/proc/{}/ns/net", self.process.id())).ok() != own
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The lines of the start-up report.
    #[must_use]
    pub fn report(&self) -> &[String] {
        &self.report
    }

    /// Everything on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr.all().join("\n")
    }

    /// Waits for a line of the gateway's own log.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_log(&self, part: &str) -> String {
        self.process.stderr.wait_for(part)
    }

    fn reported(&self, key: &str, part: &str) -> SocketAddr {
        let found = self.report.iter().find(|line| line.trim_start().starts_with(key) && line.contains(part));
        let Some(line) = found else { panic!("no {key} {part} in {:?}", self.report) };
        let words = line.split([' ', '/']);
        match words.filter_map(|word| word.parse().ok()).next() {
            Some(address) => address,
            None => panic!("no address in {line}"),
        }
    }

    /// The address of the door with this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn door(&self, name: &str) -> SocketAddr {
        self.reported("door", &format!("({name})"))
    }

    /// The address of the door named `http_proxy`.
    #[must_use]
    pub fn proxy(&self) -> SocketAddr {
        self.door("http_proxy")
    }

    /// The admin address.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.reported("admin", "http")
    }

    /// The address of `[telemetry.prometheus]`.
    #[must_use]
    pub fn prometheus(&self) -> SocketAddr {
        self.reported("prometheus", "http")
    }

    /// A fresh client connection to the proxy door.
    #[must_use]
    pub fn client(&self) -> Http {
        Http::connect(self.proxy())
    }

    /// Asks the admin API.
    #[must_use]
    pub fn admin_get(&self, path: &str) -> super::Response {
        get(self.admin(), path)
    }

    /// The metrics as text.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.admin_get("/metrics").text()
    }

    /// The sum of all series of `name` whose labels contain every one of `parts`.
    #[must_use]
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        sum(&self.metrics(), name, parts)
    }

    /// Waits until [`Self::metric`] is at least `value`.
    ///
    /// # Panics
    /// When it stays below.
    pub fn wait_metric(&self, name: &str, parts: &[&str], value: f64) {
        let reached = within(DEADLINE, || (self.metric(name, parts) >= value).then_some(()));
        assert!(reached.is_some(), "{name}{parts:?} stays below {value}:\n{}", self.metrics());
    }

    /// Live connections as the admin API lists them.
    #[must_use]
    pub fn connections(&self) -> Vec<Value> {
        match self.admin_get("/connections").json()["connections"].take() {
            Value::Array(rows) => rows,
            _ => Vec::new(),
        }
    }

    /// Access-log lines so far.
    #[must_use]
    pub fn log_lines(&self) -> Vec<String> {
        self.process.stdout.all()
    }

    /// Access-log entries so far.
    ///
    /// # Panics
    /// When a line is not JSON.
    #[must_use]
    pub fn log_entries(&self) -> Vec<Value> {
        let parse = |line: &String| match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {line}"),
        };
        self.log_lines().iter().map(parse).collect()
    }

    /// Waits for the first access-log entry that `wanted` accepts.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn wait_entry(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        match within(DEADLINE, || self.log_entries().into_iter().find(&wanted)) {
            Some(entry) => entry,
            None => panic!("no such entry in:\n{}\n{}", self.log_lines().join("\n"), self.stderr()),
        }
    }

    /// Waits for the first access-log entry at all.
    #[must_use]
    pub fn first_entry(&self) -> Value {
        self.wait_entry(|_| true)
    }

    /// Where its configuration lies.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("sluice.toml")
    }

    /// The TOML with this gateway's own addresses in place of port 0, so that a reload finds its doors again.
    fn pinned(&self, toml: &str) -> String {
        let mut whole = complete(toml);
        let admin = format!("[admin]\nbind = \"{}\"", self.admin());
        whole = whole.replace("[admin]\nbind = \"127.0.0.1:0\"", &admin);
        whole
    }

    /// Replaces the configuration by a rename and waits until it is in force.
    ///
    /// # Panics
    /// When it is refused.
    pub fn reload(&self, toml: &str) {
        let before = self.metric("egress_config_reload_total", &["success"]);
        let fresh = self.folder.path().join("fresh.toml");
        std::fs::write(&fresh, self.pinned(toml)).expect("written");
        std::fs::rename(&fresh, self.config_path()).expect("renamed");
        let done = within(DEADLINE, || {
            (self.metric("egress_config_reload_total", &["success"]) > before).then_some(())
        });
        assert!(done.is_some(), "not reloaded: {}", self.stderr());
    }

    /// Replaces the configuration by a rename and waits until it is refused.
    ///
    /// # Panics
    /// When it is not refused.
    pub fn reload_refused(&self, toml: &str) {
        let before = self.metric("egress_config_reload_total", &["failure"]);
        let fresh = self.folder.path().join("fresh.toml");
        std::fs::write(&fresh, toml).expect("written");
        std::fs::rename(&fresh, self.config_path()).expect("renamed");
        self.wait_metric("egress_config_reload_total", &["failure"], before + 1.0);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it with SIGTERM; returns the exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) -> i32 {
        self.process.signal(Signal::TERM);
        self.process.wait_code()
    }

    /// Resident memory in KiB.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn rss_kib(&self) -> u64 {
        status_number(self.id(), "VmRSS:")
    }
}

/// A number of `/proc/<pid>/status`.
///
/// # Panics
/// When the process has ended.
#[must_use]
pub fn status_number(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line of status");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

/// One GET on a fresh connection.
#[must_use]
pub fn get(address: SocketAddr, path: &str) -> super::Response {
    let mut http = Http::over(TcpStream::connect(address).expect("admin accepts"));
    http.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
    http.response()
}

/// The sum of all series of `name` whose labels contain every one of `parts`.
#[must_use]
pub fn sum(metrics: &str, name: &str, parts: &[&str]) -> f64 {
    let series = metrics.lines().filter(|line| !line.starts_with('#'));
    let ours = series.filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']));
    let matching = ours.filter(|rest| parts.iter().all(|part| rest.contains(part)));
    matching.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
