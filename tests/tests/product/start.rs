//! Starting and stopping: defaults, the report, the engine and its fallback, addresses in use, signals.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use sluice_tests::harness::gateway::{Start, binary, command, engine, run, run_command};
use sluice_tests::harness::process::Process;
use sluice_tests::harness::{
    Gateway, Http, Origin, Service, allow_any, door, registry_only, servers, tools, until,
};

const WITHOUT_IO_URING: &str = env!("CARGO_BIN_EXE_without_io_uring");

#[test]
fn without_a_configuration_it_is_a_proxy_that_lets_everything_pass() {
    let (bind, admin) = (servers::free(), servers::free());
    let (bind_text, mut admin_text) = (bind.to_string(), admin.to_string());
    // Admin must be loopback; any address of 127/8 is.
    let mut command = command();
    command.current_dir("/").arg("--bind").arg(&bind_text).arg("--admin").arg(&admin_text);
    command.arg("--engine").arg(engine());
    let process = Process::spawn(&mut command);
    let report = process.stderr.wait_for("  limits ");
    assert!(report.contains("open files"), "{report}");
    let all = process.stderr.all().join("\n");
    for part in
        ["mode         allow_any", "engine", "workers", &bind_text, "admin", "registry     0 services"]
    {
        assert!(all.contains(part), "{part:?} in {all}");
    }
    admin_text.insert_str(0, "http://");
    // The report is printed when everything is bound; the workers may still be opening their doors.
    let ready = || tools::tool(Command::new("curl").args(["-s", &format!("{admin_text}/readyz")]), b"");
    until("ready", || Some(ready()).filter(|done| (done.code, &*done.stdout) == (0, "ready\n")));
    // Loopback is guarded in allow-any too: the answer says how to allow it.
    let origin = Origin::forbidden();
    let done = tools::curl(bind, &["-i", &format!("http://{}/", origin.address())]);
    assert!(done.stdout.contains("x-sluice-reason: guard"), "{done:?}");
    assert!(done.stdout.contains("[guard]"), "{done:?}");
    origin.untouched();
}

#[test]
fn the_default_doors_are_3128_and_15000() {
    let output = run_command(command().current_dir("/").args(["check"]));
    assert_eq!(output.status.code(), Some(0));
    let netns = sluice_tests::harness::netns::Netns::new();
    let mut command = netns.command(binary());
    command.current_dir("/").env_remove("SLUICE_CONFIG");
    let process = Process::spawn(&mut command);
    let _ = process.stderr.wait_for("  limits ");
    let all = process.stderr.all().join("\n");
    assert!(all.contains("http_proxy on 127.0.0.1:3128"), "{all}");
    assert!(all.contains("http://127.0.0.1:15000/"), "{all}");
}

#[test]
fn the_report_says_what_runs() {
    let origin = Origin::http("x");
    let config = registry_only()
        + &door("tls", "destination_port = 443")
        + "[[scope]]\nsource = { namespace = \"sandbox\" }\nmode = \"allow_any\"\n"
        + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()
        + "[telemetry.prometheus]\nbind = \"127.0.0.1:0\"\n";
    let gateway = Gateway::start(&config);
    let report = gateway.report().join("\n");
    for part in [
        concat!("sluice ", env!("CARGO_PKG_VERSION")),
        "mode         registry_only",
        "allow_any for",
        "sandbox",
        "http_proxy on 127.0.0.1:",
        "tls on 127.0.0.2:",
        "1 service, 1 host,",
        "request head 32 KiB in 10 s",
        "connections",
        "/metrics",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
    if engine() != "auto" {
        assert!(report.contains(&format!("engine       {} (configured)", engine())), "{report}");
        let label = format!("engine=\"{}\"", engine());
        assert!((gateway.metric("egress_engine_info", &[&label]) - 1.0).abs() < 0.5);
    }
}

#[test]
fn an_address_in_use_ends_the_start_with_69() {
    let first = Gateway::start(&allow_any());
    let taken = first.proxy();
    let config = allow_any().replace("127.0.0.1:0", &taken.to_string());
    let mut second = Start::new(&config).started();
    assert_eq!(second.process().wait_code(), 69);
    let _ = second.wait_log(&taken.to_string());
    // The first one is not disturbed: SO_REUSEPORT has not let the second in.
    assert_eq!(first.client().get("http://127.0.0.1:1/").status, 502);
}

#[test]
fn where_io_uring_is_denied_it_runs_on_epoll_and_says_why() {
    let origin = Origin::http("through epoll");
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let config = registry_only() + &service + "[dataplane]\nengine = \"auto\"\n";
    let mut wrapped = Command::new(WITHOUT_IO_URING);
    wrapped.arg(binary());
    let gateway = Start::through(wrapped, &config).ready();
    let report = gateway.report().join("\n");
    let line = gateway.report().iter().find(|line| line.contains("engine")).expect("an engine line");
    assert!(
        line.contains("epoll") && line.contains("io_uring_setup") && line.contains("seccomp"),
        "{report}"
    );
    assert!((gateway.metric("egress_engine_info", &["epoll", "uring_unavailable"]) - 1.0).abs() < 0.5);
    assert_eq!(gateway.client().get("http://a.test/").text(), "through epoll");
}

#[test]
fn a_demanded_engine_that_is_denied_ends_the_start_with_69() {
    let mut wrapped = Command::new(WITHOUT_IO_URING);
    wrapped.arg(binary());
    let config = allow_any() + "[dataplane]\nengine = \"uring\"\n";
    let mut gateway = Start::through(wrapped, &config).started();
    assert_eq!(gateway.process().wait_code(), 69);
    // Its last lines may still be on their way through the pipe.
    let _ = gateway.wait_log("seccomp");
}

#[test]
fn several_workers_share_a_door() {
    let origin = Origin::http("x");
    let config = registry_only()
        + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()
        + &format!("[dataplane]\nengine = \"{}\"\ncores = [0, 1]\n", engine());
    let gateway = Gateway::start(&config);
    for _ in 0..40 {
        assert_eq!(gateway.client().get("http://a.test/").status, 200);
    }
    assert!((gateway.metric("egress_workers", &[]) - 2.0).abs() < 0.5);
    // Every worker counts its own; the sum is all of them.
    gateway.wait_metric("istio_requests_total", &["response_code=\"200\""], 40.0);
}

#[test]
fn sigterm_drains_what_runs_and_refuses_what_comes() {
    let (origin, release) = held_origin();
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let mut gateway = Gateway::start(&(registry_only() + &service));
    let mut running = gateway.client();
    running.send("GET http://a.test/slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
    until("the request at the origin", || (origin.heads().len() == 1).then_some(()));
    let mut idle = gateway.client();
    assert_eq!(idle.get("http://unknown.test/").status, 502);
    gateway.signal(Signal::TERM);
    until("no more accepting", || std::net::TcpStream::connect(gateway.proxy()).is_err().then_some(()));
    assert_eq!(gateway.admin_get("/readyz").status, 503);
    let _ = idle.rest();
    release.send(()).expect("the origin waits");
    let response = running.response();
    assert_eq!((response.status, response.text().as_str()), (200, "late"));
    assert_eq!(response.header("connection"), Some("close"), "it answers no further request");
    assert_eq!(gateway.process().wait_code(), 0);
    assert_eq!(gateway.wait_entry(|entry| entry["path"] == "/slow")["response_code"], 200);
}

#[test]
fn at_sigterm_who_waits_in_the_doors_queues_is_served() {
    const QUEUED: usize = 200;
    let origin = Origin::http("x");
    let service = Service::new("a", "a.test").port(80, "TCP", origin.address()).toml();
    let tcp = door("tcp", "service = \"default/a\"\n");
    let mut gateway = Gateway::start(&(registry_only() + &service + &tcp));
    // While the process stands still the kernel lets clients in, and the signal comes to a queue that nobody has looked at.
    gateway.signal(Signal::STOP);
    let ask = |to: std::net::SocketAddr, request: &str| {
        let mut client = Http::connect(to);
        client.send(request);
        client
    };
    let doors = [
        (gateway.proxy(), "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n"),
        (gateway.door("tcp"), "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"),
    ];
    let mut queued: Vec<Http> = (0..QUEUED).map(|nth| ask(doors[nth % 2].0, doors[nth % 2].1)).collect();
    gateway.signal(Signal::TERM);
    gateway.signal(Signal::CONT);
    for (nth, client) in queued.iter_mut().enumerate() {
        let method = if nth % 2 == 0 { "CONNECT" } else { "GET" };
        assert_eq!(client.response_to(method).status, 200, "{nth} of {QUEUED}");
    }
    drop(queued);
    assert_eq!(gateway.process().wait_code(), 0);
}

#[test]
fn a_drain_ends_at_its_deadline_and_a_second_signal_ends_it_at_once() {
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
    for second_signal in [false, true] {
        let drain_ms = if second_signal { 600_000 } else { 300 };
        let config = format!("{}{service}[limits]\ndrain_timeout_ms = {drain_ms}\n", registry_only());
        let mut gateway = Gateway::start(&config);
        let mut tunnel = gateway.client();
        assert_eq!(tunnel.connect_to("a.test:9000").status, 200);
        tunnel.send("x");
        assert_eq!(tunnel.exactly(1), b"x");
        gateway.signal(Signal::TERM);
        if second_signal {
            until("draining", || (gateway.admin_get("/readyz").status == 503).then_some(()));
            gateway.signal(Signal::TERM);
        }
        assert_eq!(gateway.process().wait_code(), 0, "{}", gateway.stderr());
        let _ = tunnel.rest();
    }
}

/// An origin that answers once it is told to.
pub(crate) fn held_origin() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (release, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        if peer.request().is_some() {
            let waited = wait.lock().expect("one at a time").recv_timeout(Duration::from_secs(60));
            assert!(waited.is_ok(), "the test tells when");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        }
    });
    (origin, release)
}

#[test]
fn the_configuration_may_be_named_by_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.toml");
    std::fs::write(&path, "mode = 7\n").expect("written");
    let output = run_command(command().env("SLUICE_CONFIG", &path).arg("check"));
    assert_eq!(output.status.code(), Some(64));
    let output = run_command(command().env("SLUICE__LIMITS__NO_SUCH", "1").current_dir("/").arg("check"));
    assert_eq!(output.status.code(), Some(64), "unknown keys are errors in the environment too");
    // Kubernetes injects such names for a service called sluice.
    let output =
        run_command(command().env("SLUICE_PORT_3128_TCP", "tcp://1.2.3.4").current_dir("/").arg("check"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn wrong_usage_is_64() {
    assert_eq!(run(&["--no-such-flag"]).status.code(), Some(64));
    assert_eq!(run(&["run", "--config", "/does/not/exist.toml"]).status.code(), Some(64));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
    let _ = Http::connect;
}
