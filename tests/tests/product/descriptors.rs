//! Open files: however few there are, clients cannot take those of the admin API, of reloads or of name resolution, and what
//! was short is made up for by itself.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use sluice_tests::harness::gateway::{Start, binary, command, run_command};
use sluice_tests::harness::servers::free;
use sluice_tests::harness::{Dns, Gateway, Http, Origin, Service, allow_any, registry_only, until};

/// A gateway that starts with this limit of open files.
fn limited(to: u64, config: &str) -> Start {
    let mut limited = Command::new("prlimit");
    limited.args([&format!("--nofile={to}:{to}"), "--"]).arg(binary());
    Start::through(limited, config)
}

/// The limit of a running process is lowered to what it holds now, and later raised again.
fn limit_descriptors(gateway: &Gateway, to: Option<u64>) {
    let pid = i32::try_from(gateway.id()).ok().and_then(Pid::from_raw);
    let hard = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: to.or(hard), maximum: hard }).expect("root may");
}

/// The number that the process's `nth` next descriptor would have: the system gives the lowest free one.
fn free_descriptor(gateway: &Gateway, nth: usize) -> u64 {
    let is_open = |number: &u64| Path::new(&format!("/proc/{}/fd/{number}", gateway.id())).exists();
    (0..).filter(|number| !is_open(number)).nth(nth).expect("numbers do not end")
}

fn reloads(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("egress_config_reload_total", &[result])
}

#[test]
fn when_accept_fails_for_want_of_descriptors_the_door_rests_and_control_goes_on() {
    let origin = Origin::http("x");
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    let mut steady = gateway.client();
    assert_eq!(steady.get("http://a.test/").status, 200);
    // A limit that leaves two descriptors.
    limit_descriptors(&gateway, Some(free_descriptor(&gateway, 2)));
    let mut waiting: Vec<Http> = (0..60).map(|_| gateway.client()).collect();
    let line = gateway.wait_log("cannot accept");
    assert!(line.contains("os error 24"), "{line}");
    assert!(line.contains(&gateway.proxy().to_string()), "it names the door: {line}");
    // The process has none left, and control still has its own: probes, scrapes, a reload.
    let healthy = |_| assert_eq!(gateway.admin_get("/healthz").status, 200);
    (0..30).for_each(healthy);
    gateway.wait_metric("egress_accept_errors_total", &["EMFILE"], 2.0);
    assert_eq!(gateway.admin_get("/connections").status, 200);
    let several: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(gateway.admin()).expect("accepts")).collect();
    healthy(0);
    drop(several);
    let before = reloads(&gateway, "success");
    until("a reload without descriptors", || {
        gateway.signal(Signal::HUP);
        (reloads(&gateway, "success") > before).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(steady.get("http://b.test/").status, 502, "who is in is served");
    }
    let start = Instant::now();
    limit_descriptors(&gateway, None);
    for client in &mut waiting {
        assert_eq!(client.get("http://b.test/").status, 502, "who waited is served");
    }
    println!("60 waiting clients were served {:?} after there was room", start.elapsed());
    assert_eq!(gateway.client().get("http://a.test/").status, 200);
    assert_eq!(gateway.admin_get("/readyz").status, 200);
}

#[test]
fn a_small_limit_is_divided_so_that_nobody_takes_what_is_anothers() {
    for limit in [128, 256, 1024] {
        let origin = Origin::echo();
        let dns = Dns::start();
        dns.silence(true);
        let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
        let config = allow_any() + &service + &dns.toml("timeout_ms = 10000");
        let gateway = limited(limit, &config).ready();
        assert!(gateway.wait_log("open files is small").contains("LimitNOFILE"), "{limit}");
        let max = gateway.metric("egress_connections_max", &[]) as usize;
        assert!((20..=limit as usize * 45 / 100).contains(&max), "{max} of {limit}");
        // Names that no server answers for: a socket for each family, server and try.
        let mut clients: Vec<Http> = (0..max / 3).map(|_| gateway.client()).collect();
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET http://n{index}.test/ HTTP/1.1\r\nHost: n{index}.test\r\n\r\n"));
        }
        // Tunnels with their two sockets, and more clients than there is room for.
        clients.extend((0..max).map(|_| gateway.client()));
        for client in &mut clients[max / 3..] {
            client.send("CONNECT a.test:9000 HTTP/1.1\r\nHost: a.test:9000\r\n\r\n");
        }
        gateway.wait_metric("egress_connection_limit_reached_total", &[], 1.0);
        gateway.wait_log("connection limit reached");
        until("lookups that wait", || (dns.names().len() >= 2).then_some(()));
        // What is promised to control is there at the same time.
        let idle: Vec<TcpStream> =
            (0..12).map(|_| TcpStream::connect(gateway.admin()).expect("accepts")).collect();
        for _ in 0..10 {
            assert_eq!(gateway.admin_get("/healthz").status, 200);
        }
        let before = reloads(&gateway, "success");
        gateway.signal(Signal::HUP);
        until("a reload", || (reloads(&gateway, "success") > before).then_some(()));
        assert_eq!(gateway.metric("egress_accept_errors_total", &[]), 0.0, "{limit}: {}", gateway.stderr());
        drop(idle);
        // Who leaves makes room for who waits.
        drop(clients);
        until("recovery", || {
            let mut client = gateway.client();
            client.stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            client.try_send("CONNECT a.test:9000 HTTP/1.1\r\nHost: a.test:9000\r\n\r\n").then_some(())?;
            (client.response_to("CONNECT").status == 200).then_some(())
        });
        gateway.wait_log("below the connection limit");
        dns.silence(false);
    }
}

#[test]
fn a_limit_that_is_too_small_for_anything_is_refused_at_start_and_told_by_doctor() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sluice.toml");
    std::fs::write(&path, registry_only() + "[admin]\nbind = \"127.0.0.1:0\"\n").expect("written");
    let with = |verb: &str| {
        let mut limited = Command::new("prlimit");
        limited.args(["--nofile=40:40", "--"]).arg(command().get_program());
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SLUICE")) {
            limited.env_remove(key);
        }
        let output = run_command(limited.arg(verb).arg("--config").arg(&path));
        (output.status.code(), [output.stdout, output.stderr].concat())
    };
    let (code, said) = with("run");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("the limit of open files is 40") && said.contains("LimitNOFILE="), "{said}");
    let (_, said) = with("doctor");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("open files") && said.contains("does not start"), "{said}");
}

#[test]
fn a_door_at_the_connection_cap_lets_the_next_in_when_one_leaves() {
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
    let config = registry_only() + &service + "[limits]\nconnections_percent_max = 10\n";
    let gateway = limited(200, &config).ready();
    let max = gateway.metric("egress_connections_max", &[]) as usize;
    assert!((5..=20).contains(&max), "{max}");
    let mut inside: Vec<Http> = (0..max).map(|_| gateway.client()).collect();
    for client in &mut inside {
        assert_eq!(client.connect_to("a.test:9000").status, 200);
    }
    let mut next = gateway.client();
    next.send("CONNECT a.test:9000 HTTP/1.1\r\nHost: a.test:9000\r\n\r\n");
    gateway.wait_metric("egress_connection_limit_reached_total", &[], 1.0);
    assert_eq!(gateway.admin_get("/healthz").status, 200);
    drop(inside.pop());
    assert_eq!(next.response_to("CONNECT").status, 200);
}

#[test]
fn doors_that_a_reload_adds_count_and_one_too_many_refuses_the_reload() {
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
    let address = free().to_string();
    let first = (registry_only() + &service).replacen("127.0.0.1:0", &address, 1);
    let added = |count: usize| -> String {
        let door = |index| {
            format!("[[listener]]\nkind = \"http_proxy\"\nname = \"more-{index}\"\nbind = \"{}\"\n", free())
        };
        (0..count).map(door).collect()
    };
    // Room for one more door beside the one of the start.
    let gateway = limited(256, &first).ready();
    let max = gateway.metric("egress_connections_max", &[]) as usize;
    gateway.reload_refused(&(first.clone() + &added(2)));
    let line = gateway.wait_log("one too many");
    for part in
        ["listener[2]", "more-1", "limit of 256 open files", "room for 2 doors", "restart", "LimitNOFILE="]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    let more = added(1);
    gateway.reload(&(first.clone() + &more));
    gateway.reload_refused(&(first + &more + &added(1)));
    // With both doors full of tunnels nobody runs out.
    let second: SocketAddr = more.rsplit('"').nth(1).and_then(|bind| bind.parse().ok()).expect("an address");
    let mut clients: Vec<Http> =
        (0..max).map(|nth| if nth % 2 == 0 { gateway.client() } else { Http::connect(second) }).collect();
    for client in &mut clients {
        assert_eq!(client.connect_to("a.test:9000").status, 200);
    }
    let beyond: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(second).expect("queued")).collect();
    let idle: Vec<TcpStream> =
        (0..12).map(|_| TcpStream::connect(gateway.admin()).expect("accepts")).collect();
    for _ in 0..10 {
        assert_eq!(gateway.admin_get("/healthz").status, 200);
    }
    gateway.wait_metric("egress_connection_limit_reached_total", &[], 1.0);
    assert_eq!(gateway.metric("egress_accept_errors_total", &[]), 0.0, "{}", gateway.stderr());
    drop((beyond, idle));
}
