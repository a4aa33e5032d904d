//! The admin API over real sockets: who may ask, what is answered, how much is put up with.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use sluice_bridge::{Command, WorkerPort, limits::Bounds};

use super::{Scope, serve};
use crate::descriptors::Budget;
use crate::doors::bind_exclusive;
use crate::heavy::Heavy;
use crate::limits::ADMIN_CONNECTIONS_MAX;
use crate::publish::{Surroundings, snapshot};
use crate::status::{Current, Phase, Status};

/// Two listeners on a runtime of their own; one worker whose commands the test answers, or not.
struct Rig {
    admin: SocketAddr,
    public: SocketAddr,
    status: Arc<Status>,
    worker: WorkerPort,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    fn start() -> Self {
        let plan = sluice_config::load(&sluice_config::Source::isolated(None)).expect("defaults").plan;
        let budget = Budget::divide(&plan.limits, 1000, 1, 1).expect("enough");
        let surroundings = Surroundings { listeners: Vec::new(), local_addresses: Vec::new(), budget };
        let snapshot = snapshot(&plan, 1, &surroundings).expect("publishes");
        let (worker, control) = sluice_bridge::pair(0, &Bounds::default());
        let (heavy, _) = Heavy::start(&[]).expect("a thread");
        let metrics = Arc::new(|out: &mut String| out.push_str("egress_test 1\n"));
        let current = Current { plan: Arc::new(plan), snapshot: Arc::new(snapshot) };
        let status = Arc::new(Status::new(current, vec![control.commands], heavy, metrics, budget.spares));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners =
            [Scope::Admin, Scope::Public].map(|scope| (bind_exclusive("test", any).expect("free"), scope));
        let [admin, public] = [0, 1].map(|at| listeners[at].0.local_addr().expect("bound"));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shown = Arc::clone(&status);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                for (listener, scope) in listeners {
                    tokio::spawn(serve(listener, scope, Arc::clone(&shown)));
                }
                stopped.await.ok();
            });
        });
        Self { admin, public, status, worker, stop: Some(stop), thread: Some(thread) }
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().expect("once").join().expect("no panic");
    }
}

fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and an end");
    answer
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer =
        raw(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
    (code(&answer), answer.split_once("\r\n\r\n").expect("a head").1.to_owned())
}

fn code(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
}

#[test]
fn every_path_answers() {
    let rig = Rig::start();
    assert_eq!(rig.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(rig.get("/metrics"), (200, "egress_test 1\n".to_owned()));
    assert!(rig.get("/").1.contains("/policy/explain"));
    let config: Value = serde_json::from_str(&rig.get("/config").1).expect("JSON");
    assert_eq!(config["values"]["mode"], "allow_any");
    assert_eq!(rig.get("/nothing").0, 404);
}

#[test]
fn pages_do_not_wait_for_a_reload() {
    let rig = Rig::start();
    let heavy = rig.status.heavy.clone();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (start, started) = std::sync::mpsc::channel::<()>();
    let compiling = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(heavy.run(move || {
            start.send(()).ok();
            released.recv_timeout(Duration::from_secs(60)).is_ok()
        }))
    });
    started.recv().expect("the job starts");
    for path in ["/metrics", "/config", "/healthz", "/policy/explain?to=https://example.org"] {
        assert_eq!(rig.get(path).0, 200, "{path}");
    }
    release.send(()).expect("the job still runs");
    assert_eq!(compiling.join().expect("no panic"), Ok(true));
}

#[test]
fn ready_follows_the_life_of_the_gateway() {
    let rig = Rig::start();
    assert_eq!(rig.get("/readyz"), (503, "starting\n".to_owned()));
    rig.status.set_phase(Phase::Ready);
    assert_eq!(rig.get("/readyz"), (200, "ready\n".to_owned()));
    rig.status.set_phase(Phase::Draining);
    assert_eq!(rig.get("/readyz"), (503, "draining\n".to_owned()));
    rig.status.set_phase(Phase::Ready);
    assert_eq!(rig.get("/readyz").0, 503, "there is no way back from draining");
    assert_eq!(rig.get("/healthz").0, 200);
}

#[test]
fn explain_answers_in_text_and_json() {
    let rig = Rig::start();
    let (code, text) = rig.get("/policy/explain?from=default/idgen&to=https://example.org");
    assert_eq!(code, 200);
    assert!(text.starts_with("passthrough: passthrough\n"), "{text}");
    let (_, json) = rig.get("/policy/explain?to=https://example.org&format=json");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json["decision"], &json["shadow"]["reason"]),
        (&"passthrough".into(), &"not_registered".into())
    );
    for question in ["", "?to=example.org", "?to=https://a&from=x", "?to=%ff", "?to=https://a&original=x"] {
        assert_eq!(rig.get(&format!("/policy/explain{question}")).0, 400, "{question}");
    }
}

#[test]
fn only_get_and_head_are_understood() {
    let rig = Rig::start();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let request = format!("{method} /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = raw(rig.admin, &request);
        assert_eq!(code(&answer), 405, "{method}");
        assert!(answer.to_ascii_lowercase().contains("allow: get"), "{answer}");
    }
}

#[test]
fn a_name_as_host_is_refused_on_admin_and_not_on_the_public_listener() {
    let rig = Rig::start();
    let ask = |address, head: &str| code(&raw(address, &format!("GET {head}Connection: close\r\n\r\n")));
    assert_eq!(ask(rig.admin, "/config HTTP/1.1\r\nHost: localhost:15000\r\n"), 200);
    assert_eq!(ask(rig.admin, "/config HTTP/1.1\r\nHost: [::1]:15000\r\n"), 200);
    assert_eq!(ask(rig.admin, "/config HTTP/1.1\r\nHost: rebound.test\r\n"), 403);
    assert_eq!(ask(rig.admin, "http://rebound.test/config HTTP/1.1\r\nHost: localhost\r\n"), 403);
    assert_eq!(ask(rig.admin, "/config HTTP/1.1\r\n"), 400);
    assert_eq!(ask(rig.admin, "/config HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n"), 400);
    assert_eq!(ask(rig.public, "/healthz HTTP/1.1\r\nHost: sluice.egress.svc\r\n"), 200);
}

#[test]
fn the_public_listener_has_metrics_and_probes_only() {
    let rig = Rig::start();
    for path in ["/metrics", "/healthz"] {
        assert_eq!(get(rig.public, path).0, 200, "{path}");
    }
    assert_eq!(get(rig.public, "/readyz").0, 503);
    for path in ["/", "/config", "/connections", "/policy/explain?to=https://a"] {
        assert_eq!(get(rig.public, path).0, 404, "{path}");
    }
}

#[test]
fn a_silent_worker_is_named_and_not_waited_for() {
    let mut rig = Rig::start();
    let (_, listed) = rig.get("/connections");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&listed["workers_without_answer"], &listed["total"]), (&Value::from(vec![0]), &0.into()));
    let Some(Command::List(_)) = rig.worker.commands.blocking_recv() else { panic!("it was asked") };
    let admin = rig.admin;
    let asking = std::thread::spawn(move || get(admin, "/connections").1);
    let Some(Command::List(reply)) = rig.worker.commands.blocking_recv() else { panic!("it is asked again") };
    reply.send(Vec::new()).expect("it waits");
    let listed: Value = serde_json::from_str(&asking.join().expect("no panic")).expect("JSON");
    assert_eq!(listed["workers_without_answer"], Value::from(Vec::<usize>::new()));
}

#[test]
fn heads_are_bounded() {
    let rig = Rig::start();
    let long = "x".repeat(64 * 1024);
    let mut stream = TcpStream::connect(rig.admin).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    // The server may close before all of it is sent.
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n").as_bytes()).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || code(&answer) == 431 || code(&answer) == 400, "{answer}");
    assert_eq!(rig.get("/healthz").0, 200);
}

#[test]
fn idle_connections_do_not_shut_others_out_for_long() {
    let rig = Rig::start();
    let idle: Vec<_> =
        (0..ADMIN_CONNECTIONS_MAX).map(|_| TcpStream::connect(rig.admin).expect("connects")).collect();
    // One more is closed at once …
    let mut more = TcpStream::connect(rig.admin).expect("connects");
    more.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    assert_eq!(more.read(&mut [0; 1]).expect("closed"), 0);
    // … and there is room again when one of them goes.
    drop(idle);
    let served = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let mut stream = TcpStream::connect(rig.admin).expect("connects");
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        let sent = stream.write_all(request.as_bytes());
        sent.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.contains("200 OK")
    });
    assert!(served);
}
