//! The binary as a person or an init system sees it: commands, exit codes, signals, the log. Loopback only; every process
//! that is started is ended by its own handle.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const WAIT: Duration = Duration::from_secs(20);

fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = sluice().args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

const REGISTRY: &str = r#"mode = "registry_only"
[[workload]]
name = "idgen"
addresses = ["10.1.2.0/24"]
[[service]]
name = "httpbin-ext"
hosts = ["httpbin.org"]
allow = [{ workload = "idgen" }]
"#;

#[test]
fn check_says_every_error_with_its_place() {
    let folder = Folder::new();
    let good = folder.write("good.toml", REGISTRY);
    let (code, out, _) = run(&["check", "--config", &good]);
    assert_eq!((code, out.contains("valid")), (0, true), "{out}");

    let bad = folder.write("bad.toml", "mode = \"registry_onyl\"\n\n[limits]\nconect_timeout_ms = 1\n");
    let (code, _, err) = run(&["check", "--config", &bad]);
    assert_eq!(code, 64);
    assert!(err.contains(&format!("{bad}:1:8: mode: ")), "{err}");
    assert!(err.contains(&format!("{bad}:4:1: limits.conect_timeout_ms: ")), "{err}");
    assert!(err.contains("connect_timeout_ms") && err.contains("registry_only"), "suggestions: {err}");

    for (text, what) in [("", "empty"), ("mode = \"allow", "syntax"), ("[admin]\n", "mode")] {
        let path = folder.write("broken.toml", text);
        let (code, _, err) = run(&["check", "--config", &path]);
        assert_eq!(code, 64);
        assert!(err.contains(what), "{err}");
    }
    let (code, _, err) = run(&["check", "--config", "/nonexistent/sluice.toml"]);
    assert_eq!((code, err.contains("no such file")), (64, true), "{err}");
}

#[test]
fn usage_errors_are_64_and_help_is_0() {
    for wrong in [&["explode"][..], &["--nonsense"], &["explain"], &["run", "--set", "x"]] {
        let (code, out, err) = run(wrong);
        assert_eq!((code, out.is_empty(), err.is_empty()), (64, true, false), "{wrong:?}");
    }
    for right in [&["--help"][..], &["--version"], &["run", "--help"]] {
        assert_eq!(run(right).0, 0, "{right:?}");
    }
    let (code, _, err) = run(&["check", "--engine", "dpdk"]);
    assert_eq!((code, err.contains("--engine")), (64, true), "{err}");
}

#[test]
fn explain_decides_and_shows_the_trail() {
    let folder = Folder::new();
    let config = folder.write("sluice.toml", REGISTRY);
    let ask = |from: &str, to: &str| run(&["explain", "--config", &config, "--from", from, "--to", to]);
    let (code, out, _) = ask("default/idgen", "https://httpbin.org");
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("allow: registered by default/httpbin-ext\n"), "{out}");
    assert!(out.contains("sluice.toml:5"), "the line of the service: {out}");
    let (code, out, _) = ask("default/other", "https://httpbin.org");
    assert_eq!((code, out.starts_with("deny: workload_not_allowed")), (1, true), "{out}");
    let (code, out, _) = ask("10.1.2.3", "http://elsewhere.test");
    assert_eq!((code, out.starts_with("deny: not_registered")), (1, true), "{out}");
    assert_eq!(ask("default/idgen", "httpbin.org").0, 64, "no port");
    assert_eq!(ask("idgen", "https://httpbin.org").0, 64, "no namespace");
    let (code, out, _) = run(&["explain", "--config", &config, "--to", "https://httpbin.org", "--json"]);
    assert_eq!((code, out.contains("\"reason\": \"workload_not_allowed\"")), (1, true), "{out}");
    let (code, _, _) = run(&["explain", "--mode", "allow_any", "--to", "https://anything.test"]);
    assert_eq!(code, 0, "flags override");
}

#[test]
fn doctor_reports_and_fails_only_where_something_cannot_work() {
    let folder = Folder::new();
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = folder.write(
        "sluice.toml",
        &format!("{REGISTRY}[dns]\nservers = [\"{}\"]\n", server.local_addr().unwrap()),
    );
    let answering = std::thread::spawn(move || {
        let mut packet = [0; 512];
        server.set_read_timeout(Some(WAIT)).unwrap();
        let (length, peer) = server.recv_from(&mut packet).unwrap();
        packet[2] |= 0x80;
        server.send_to(&packet[..length], peer).unwrap();
    });
    let (code, out, _) = run(&["doctor", "--config", &config]);
    answering.join().unwrap();
    assert_eq!(code, 0, "{out}");
    for about in
        ["configuration", "kernel", "io_uring", "seccomp", "open files", "capabilities", "processors"]
    {
        assert!(out.lines().any(|line| line.contains(about)), "{about} in {out}");
    }
    assert!(out.lines().any(|line| line.starts_with("ok") && line.contains("DNS server")), "{out}");

    let broken = folder.write("broken.toml", "mode = 1\n");
    let (code, out, _) = run(&["doctor", "--config", &broken]);
    assert_eq!(code, 64, "as check and run have it");
    assert!(out.contains("fail  configuration") && out.contains("sluice check"), "{out}");
    let remedy = "; did you mean \"registry_only\"?\n";
    let misspelt = folder.write("misspelt.toml", "mode = \"registry_onyl\"\n");
    let (code, out, _) = run(&["doctor", "--config", &misspelt]);
    assert!(code == 64 && out.contains(remedy), "{out}");
    assert!(!out.contains("help:"), "one line for each finding: {out}");
}

/// A running gateway on epoll with one worker.
struct Gateway {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    folder: Folder,
}

impl Gateway {
    fn start(folder: Folder, config: &str, stdout: Stdio) -> Self {
        Self::start_on("epoll", folder, config, stdout)
    }

    fn start_on(engine: &str, folder: Folder, config: &str, stdout: Stdio) -> Self {
        folder.write("sluice.toml", config);
        let mut gateway = Self::begin_on(engine, folder, stdout);
        gateway.wait_for(" ready");
        gateway
    }

    /// With the file that is there, and without waiting until it is ready.
    fn begin_on(engine: &str, folder: Folder, stdout: Stdio) -> Self {
        let config = folder.path("sluice.toml");
        let mut child = sluice()
            .args(["run", "--engine", engine, "--config"])
            .arg(config)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Self { child, lines, seen: Vec::new(), folder }
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + WAIT;
        while !self.seen.iter().any(|line| line.contains(text)) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no {text:?} in {:#?}", self.seen),
            }
        }
    }

    /// The address in the report's line about this.
    fn address(&self, about: &str) -> SocketAddr {
        let line = self.seen.iter().find(|line| line.trim_start().starts_with(about)).unwrap();
        let mut words = line.split([' ', '/']).filter_map(|word| word.parse().ok());
        words.next_back().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(mut self) -> (ExitStatus, Vec<String>) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.seen.extend(self.lines.iter());
                return (status, std::mem::take(&mut self.seen));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end");
    }

    /// A request through the proxy's door; the answer's head and body.
    fn proxied(&self, url: &str) -> String {
        let host = url.split('/').nth(2).unwrap();
        let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange(self.address("door"), &request)
    }

    fn admin(&self, path: &str) -> String {
        exchange(
            self.address("admin"),
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        )
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

const GATEWAY: &str = "mode = \"registry_only\"\n[[listener]]\nkind = \"http_proxy\"\nbind = \"127.0.0.1:0\"\n\
                       [admin]\nbind = \"127.0.0.1:0\"\n";

#[test]
fn it_reports_at_start_serves_and_ends_cleanly() {
    let gateway = Gateway::start(Folder::new(), GATEWAY, Stdio::piped());
    for about in ["sluice ", "config", "mode", "engine", "workers", "door", "admin", "registry", "limits"] {
        assert!(
            gateway.seen.iter().any(|line| line.trim_start().starts_with(about)),
            "{about}: {:#?}",
            gateway.seen
        );
    }
    assert!(gateway.admin("/readyz").contains("200 OK"));
    assert!(
        gateway.admin("/metrics").contains("egress_engine_info{engine=\"epoll\",reason=\"configured\"} 1")
    );
    let denied = gateway.proxied("http://denied.test/");
    assert!(denied.starts_with("HTTP/1.1 502") && denied.contains("not_registered"), "{denied}");
    let (status, seen) = gateway.end();
    assert_eq!(status.code(), Some(0), "{seen:#?}");
    assert!(seen.iter().any(|line| line.contains("drained")), "{seen:#?}");
}

#[test]
fn a_taken_port_is_69_and_named() {
    let gateway = Gateway::start(Folder::new(), GATEWAY, Stdio::null());
    let door = gateway.address("door");
    let folder = Folder::new();
    // A second instance: SO_REUSEPORT must not let it in.
    let config = folder.write("sluice.toml", &GATEWAY.replacen("127.0.0.1:0", &door.to_string(), 1));
    let (code, _, err) = run(&["run", "--config", &config]);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains(&door.to_string()) && err.contains("another process"), "{err}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap().to_string();
    let (code, _, err) = run(&["run", "--bind", "127.0.0.1:0", "--admin", &admin]);
    assert_eq!((code, err.contains("admin")), (69, true), "{err}");
}

#[test]
fn a_refused_configuration_is_64() {
    let folder = Folder::new();
    let config = folder.write("sluice.toml", "mode = \"x\"\n");
    assert_eq!(run(&["run", "--config", &config]).0, 64);
    let (code, _, err) = run(&[
        "run",
        "--bind",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--set",
        "access_log.path=/nonexistent/x",
    ]);
    assert_eq!((code, err.contains("access_log")), (64, true), "{err}");
    let log = folder.path("missing/access.log");
    let config = folder.write("log.toml", &format!("{GATEWAY}[access_log]\npath = {log:?}\n"));
    let line = GATEWAY.lines().count() + 2;
    let (code, _, checked) = run(&["check", "--config", &config]);
    assert_eq!(code, 64, "{checked}");
    assert!(
        checked.contains(&format!("error: {config}:{line}:8: access_log.path: the folder ")),
        "{checked}"
    );
    assert!(checked.contains("/missing does not exist\n    help: make it"), "{checked}");
    let (code, _, started) = run(&["run", "--config", &config]);
    assert_eq!((code, started.starts_with(checked.trim_end())), (64, true), "{started}");
    let (code, _, err) = run(&["run", "--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cores", "900"]);
    assert_eq!((code, err.contains("core 900")), (64, true), "{err}");
}

#[test]
fn the_access_log_is_rotated_and_its_lines_are_there_within_a_second() {
    let folder = Folder::new();
    let (log, old) = (folder.path("access.log"), folder.path("access.log.1"));
    let config = format!("{GATEWAY}[access_log]\nformat = \"json\"\npath = {log:?}\n");
    let mut gateway = Gateway::start(folder, &config, Stdio::null());
    let line_with = |path: &PathBuf, text: &str| {
        fs::read_to_string(path).unwrap_or_default().lines().any(|line| line.contains(text)).then_some(())
    };
    let asked = Instant::now();
    gateway.proxied("http://first.test/");
    eventually("a line", || line_with(&log, "first.test"));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    fs::rename(&log, &old).unwrap();
    gateway.signal(Signal::USR1);
    gateway.wait_for("opened anew");
    gateway.proxied("http://second.test/");
    eventually("a line in the new file", || line_with(&log, "second.test"));
    assert!(line_with(&old, "first.test").is_some() && line_with(&old, "second.test").is_none());
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn lines_can_be_left_out() {
    let folder = Folder::new();
    let log = folder.path("access.log");
    let config = |lines: &str| format!("{GATEWAY}[access_log]\npath = {log:?}\nlines = \"{lines}\"\n");
    let mut gateway = Gateway::start(folder, &config("off"), Stdio::null());
    let written = |text: &str| fs::read_to_string(&log).unwrap_or_default().contains(text);
    gateway.proxied("http://first.test/");
    fs::write(gateway.folder.path("sluice.toml"), config("denied_and_errors")).unwrap();
    gateway.wait_for("configuration in force");
    gateway.proxied("http://second.test/");
    eventually("a denial has a line", || written("second.test").then_some(()));
    assert!(!written("first.test"));
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn a_full_disk_and_a_reader_that_does_not_read_disturb_nothing() {
    let full = format!("{GATEWAY}[access_log]\npath = \"/dev/full\"\n");
    let gateway = Gateway::start(Folder::new(), &full, Stdio::null());
    assert!(gateway.proxied("http://denied.test/").starts_with("HTTP/1.1 502"));
    eventually("counted", || {
        let metrics = gateway.admin("/metrics");
        metrics
            .contains("egress_telemetry_dropped_total{signal=\"access_log\",reason=\"writer\"} 1")
            .then_some(())
    });
    assert_eq!(gateway.end().0.code(), Some(0));

    // Standard output is a pipe that nobody empties.
    let gateway = Gateway::start(Folder::new(), GATEWAY, Stdio::piped());
    let long = "x".repeat(2000);
    for _ in 0..100 {
        assert!(gateway.proxied(&format!("http://denied.test/{long}")).starts_with("HTTP/1.1 502"));
    }
    assert!(gateway.admin("/healthz").contains("200 OK"));
    assert_eq!(gateway.end().0.code(), Some(0));
}

#[test]
fn sighup_reloads_and_a_bad_file_changes_nothing() {
    let mut gateway = Gateway::start(Folder::new(), GATEWAY, Stdio::null());
    let verdict = |gateway: &Gateway| {
        let answer = gateway.admin("/policy/explain?to=https://example.org");
        answer.split("\r\n\r\n").nth(1).unwrap().split(':').next().unwrap().to_owned()
    };
    assert_eq!(verdict(&gateway), "deny");
    // In place and without closing: only the signal can tell.
    let path = gateway.folder.path("sluice.toml");
    let replace = |text: &str| {
        fs::write(path.with_extension("next"), text).unwrap();
        fs::copy(path.with_extension("next"), &path).unwrap();
    };
    replace("mode = ");
    gateway.signal(Signal::HUP);
    gateway.wait_for("reload refused");
    assert_eq!(verdict(&gateway), "deny");
    replace(&GATEWAY.replace("registry_only", "allow_any"));
    gateway.signal(Signal::HUP);
    eventually("in force", || (verdict(&gateway) == "passthrough").then_some(()));
    assert!(
        gateway.proxied("http://127.0.0.1:1/").starts_with("HTTP/1.1 502"),
        "the same door, the guard in force"
    );
}

#[test]
fn signals_during_the_start_do_not_end_it() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = Folder::new();
    // A log that nobody reads yet: to open it is a part of the start, which lasts until the test reads.
    let pipe = folder.path("access.log");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    folder.write("sluice.toml", &format!("{GATEWAY}[access_log]\npath = {pipe:?}\n"));
    let mut gateway = Gateway::begin_on("epoll", folder, Stdio::null());
    let status = format!("/proc/{}/status", gateway.child.id());
    let wanted = [Signal::HUP, Signal::USR1].map(|signal| 1_u64 << (signal.as_raw() - 1));
    eventually("handlers of its own", || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
        wanted.iter().all(|bit| mask & bit != 0).then_some(())
    });
    gateway.signal(Signal::HUP);
    gateway.signal(Signal::USR1);
    let _log = fs::File::open(&pipe).unwrap();
    gateway.wait_for(" ready");
    assert_eq!(gateway.end().0.code(), Some(0));
}

/// Runs a child as a container runtime would: io_uring_setup(2) fails with EPERM. The filter holds for this thread and
/// what it starts.
fn without_io_uring<T: Send>(start: impl FnOnce() -> T + Send) -> T {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
    const IO_URING_SETUP: i64 = 425;
    const EPERM: u32 = 1;
    std::thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
            let rules = [(IO_URING_SETUP, Vec::new())].into_iter().collect();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM), arch);
            apply_filter(&BpfProgram::try_from(filter.unwrap()).unwrap()).unwrap();
            start()
        });
        filtered.join().unwrap()
    })
}

#[test]
fn where_io_uring_is_blocked_epoll_runs_and_says_why() {
    let (code, _, err) = without_io_uring(|| {
        run(&["run", "--engine", "uring", "--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
    });
    assert_eq!((code, err.contains("seccomp")), (69, true), "{err}");
    let (_, out, _) = without_io_uring(|| run(&["doctor"]));
    assert!(out.lines().any(|line| line.starts_with("warn  io_uring") && line.contains("epoll")), "{out}");

    let folder = Folder::new();
    let log = folder.path("access.log");
    let config = format!("{GATEWAY}[access_log]\npath = {log:?}\n");
    let gateway = without_io_uring(|| Gateway::start_on("auto", folder, &config, Stdio::null()));
    let told = |text: &str| gateway.seen.iter().any(|line| line.contains(text));
    assert!(told("engine       epoll: ") && told("falling back"), "{:#?}", gateway.seen);
    let metrics = gateway.admin("/metrics");
    assert!(
        metrics.contains("egress_engine_info{engine=\"epoll\",reason=\"uring_unavailable\"} 1"),
        "{metrics}"
    );
    assert!(gateway.proxied("http://denied.test/").starts_with("HTTP/1.1 502"));
    eventually("the log is written all the same", || {
        fs::read_to_string(&log).unwrap_or_default().contains("denied.test").then_some(())
    });
}
