//! Reloads: what they change at once, what they refuse, what they cut and what they leave alone.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluice_tests::harness::gateway::{Start, binary};
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, door, registry_only, until};

/// A gateway whose configuration names its ports, so that the same text can be loaded again.
fn start(config: impl Fn(&str) -> String) -> (Gateway, impl Fn(&str) -> String) {
    let address = sluice_tests::harness::servers::free().to_string();
    let make = move |mode: &str| config(mode).replacen("127.0.0.1:0", &address, 1);
    (Gateway::start(&make("allow_any")), make)
}

fn proxy_config(more: &str) -> impl Fn(&str) -> String + use<> {
    let more = more.to_owned();
    move |mode| format!("mode = \"{mode}\"\n{}{more}", door("http_proxy", ""))
}

#[test]
fn one_line_flips_between_allow_any_and_registry_only() {
    let origin = Origin::http("x");
    let (gateway, config) = start(proxy_config("[guard]\nallow = [\"127.0.0.0/8\"]\n"));
    let url = format!("http://localhost:{}/", origin.port());
    let mut client = gateway.client();
    for _ in 0..2 {
        assert_eq!(client.get(&url).status, 200);
        gateway.reload(&config("registry_only"));
        let denied = client.get(&url);
        assert_eq!((denied.status, denied.reason()), (502, "not_registered"), "the keep-alive client stays");
        gateway.reload(&config("allow_any"));
    }
    assert_eq!(client.get(&url).status, 200);
    assert!((gateway.metric("egress_policy_mode_info", &["allow_any"]) - 1.0).abs() < 0.5);
}

#[test]
fn sighup_reloads() {
    let (gateway, config) = start(proxy_config(""));
    let before = gateway.metric("egress_config_reload_total", &["success"]);
    // The file stays as it is: only the signal can be the cause.
    drop(config);
    gateway.signal(Signal::HUP);
    gateway.wait_metric("egress_config_reload_total", &["success"], before + 1.0);
    assert_eq!(gateway.admin_get("/readyz").status, 200);
}

#[test]
fn a_swap_of_a_mounted_configmap_reloads() {
    let address = sluice_tests::harness::servers::free().to_string();
    let config = |mode: &str| {
        format!("mode = \"{mode}\"\n{}", door("http_proxy", "")).replacen("127.0.0.1:0", &address, 1)
            + "[admin]\nbind = \"127.0.0.1:0\"\n[access_log]\nformat = \"json\"\n"
    };
    // As kubelet does it: the file is a link through `..data`, which is a link to a folder of one version.
    let start = Start::new(&config("allow_any"));
    let folder = start.folder().to_path_buf();
    for (version, mode) in [("..one", "allow_any"), ("..two", "registry_only")] {
        std::fs::create_dir(folder.join(version)).expect("a folder");
        std::fs::write(folder.join(version).join("sluice.toml"), config(mode)).expect("written");
    }
    std::fs::remove_file(folder.join("sluice.toml")).expect("removed");
    symlink("..one", folder.join("..data")).expect("a link");
    symlink("..data/sluice.toml", folder.join("sluice.toml")).expect("a link");
    let gateway = start.ready();
    assert!((gateway.metric("egress_policy_mode_info", &["allow_any"]) - 1.0).abs() < 0.5);
    symlink("..two", folder.join("..data_tmp")).expect("a link");
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renamed");
    until("the new mode", || {
        (gateway.metric("egress_policy_mode_info", &["registry_only"]) > 0.5).then_some(())
    });
}

#[test]
fn a_swapped_link_to_the_folder_of_the_file_reloads() {
    let address = sluice_tests::harness::servers::free().to_string();
    let config = |mode| proxy_config("")(mode).replacen("127.0.0.1:0", &address, 1);
    // In a folder beside the one that the harness names.
    let mut command = Command::new("sh");
    let script = r#"exec "$0" "$1" "$2" "$(dirname "$3")/current/sluice.toml""#;
    command.arg("-c").arg(script).arg(binary());
    let start = Start::through(command, &config("allow_any"));
    let folder = start.folder().to_path_buf();
    let whole = std::fs::read_to_string(folder.join("sluice.toml")).expect("read");
    for (version, mode) in [("v1", "allow_any"), ("v2", "registry_only"), ("v3", "allow_any")] {
        std::fs::create_dir(folder.join(version)).expect("a folder");
        let text = whole.replacen("allow_any", mode, 1);
        std::fs::write(folder.join(version).join("sluice.toml"), text).expect("written");
    }
    symlink("v1", folder.join("current")).expect("a link");
    let gateway = start.ready();
    for (version, mode) in [("v2", "registry_only"), ("v3", "allow_any")] {
        symlink(version, folder.join("new")).expect("a link");
        std::fs::rename(folder.join("new"), folder.join("current")).expect("renamed");
        until("the new mode", || (gateway.metric("egress_policy_mode_info", &[mode]) > 0.5).then_some(()));
    }
}

#[test]
fn a_bad_file_keeps_the_last_good_configuration() {
    let origin = Origin::http("x");
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let (gateway, config) = start(proxy_config(&service));
    gateway.reload(&config("registry_only"));
    for (bad, said) in [
        ("", "mode"),
        ("mode = \"registry_only\"\n[[listener", "unclosed"),
        ("mode = 7\n", "mode"),
        ("mode = \"registry_only\"\nmodus = 1\n", "modus"),
    ] {
        gateway.reload_refused(bad);
        until("a line that names the key", || gateway.stderr().contains(said).then_some(()));
        assert_eq!(gateway.client().get("http://a.test/").status, 200);
        assert_eq!(gateway.client().get("http://b.test/").status, 502);
    }
    std::fs::remove_file(gateway.config_path()).expect("removed");
    gateway.signal(Signal::HUP);
    gateway.wait_metric("egress_config_reload_total", &["failure"], 5.0);
    assert_eq!(gateway.client().get("http://a.test/").status, 200);
    gateway.reload(&config("registry_only"));
}

#[test]
fn doors_come_and_go() {
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
    let (gateway, config) = start(proxy_config(&service));
    let second = sluice_tests::harness::servers::free();
    let more = format!("[[listener]]\nkind = \"http_proxy\"\nname = \"second\"\nbind = \"{second}\"\n");
    gateway.reload(&(config("registry_only") + &more));
    let mut tunnel = until("the new door", || TcpStream::connect(second).ok().map(Http::over));
    assert_eq!(tunnel.connect_to("a.test:9000").status, 200);
    gateway.reload(&config("registry_only"));
    until("the old door's end", || TcpStream::connect(second).is_err().then_some(()));
    // What it has accepted lives on.
    tunnel.send("x");
    assert_eq!(tunnel.exactly(1), b"x");
    // One door that cannot be bound refuses the whole reload.
    let taken = Origin::sink();
    let busy =
        format!("[[listener]]\nkind = \"http_proxy\"\nname = \"busy\"\nbind = \"{}\"\n", taken.address());
    gateway.reload_refused(&(config("allow_any") + &busy));
    assert_eq!(gateway.client().get("http://b.test/").status, 502, "still registry-only");
}

/// Reads as fast as it can until the connection ends; tells when that was, how, and how much came.
fn read_on(mut stream: TcpStream) -> std::thread::JoinHandle<(Instant, Ending, u64)> {
    std::thread::spawn(move || {
        let mut block = vec![0; 1 << 20];
        let mut total = 0;
        let ending = loop {
            match stream.read(&mut block) {
                Ok(0) => break Ending::Closed,
                Ok(read) => total += read as u64,
                Err(_) => break Ending::Reset,
            }
        };
        (Instant::now(), ending, total)
    })
}

fn endless(peer: &mut sluice_tests::harness::origin::Peer) {
    let block = vec![7; 1 << 20];
    while peer.send(&block) {}
}

#[test]
fn revocation_cuts_a_spliced_flow_within_a_second_and_leaves_the_other_alone() {
    let (one, two) = (Origin::start(endless), Origin::start(endless));
    let service = |name: &str, origin: &Origin| {
        Service::new(name, &format!("{name}.test")).port(9000, "TCP", origin.address()).toml()
    };
    let (cut, kept) = (service("cut", &one), service("kept", &two));
    let (gateway, config) = start(proxy_config(""));
    gateway.reload(&(config("registry_only") + &cut + &kept));
    let open = |host: &str| {
        let mut client = gateway.client();
        assert_eq!(client.connect_to(host).status, 200);
        let stream = client.stream.try_clone().expect("a handle");
        (read_on(client.stream), stream)
    };
    let (cut_reader, _cut_stream) = open("cut.test:9000");
    let (kept_reader, kept_stream) = open("kept.test:9000");
    until("both by splice", || {
        let rows = gateway.connections();
        (rows.iter().filter(|row| row["path"] == "splice").count() == 2).then_some(())
    });
    let sent = |host: &str| {
        let rows = gateway.connections();
        rows.iter().find(|row| row["host"] == host).and_then(|row| row["sent_bytes"].as_u64()).unwrap_or(0)
    };
    gateway.reload(&(config("registry_only") + &kept));
    let in_force = Instant::now();
    let (ended, ending, _) = cut_reader.join().expect("no panic");
    assert_eq!(ending, Ending::Reset);
    assert!(ended.saturating_duration_since(in_force) < Duration::from_secs(1), "cut too late");
    let entry = gateway.wait_entry(|entry| entry["authority"] == "cut.test:9000");
    assert_eq!((&entry["policy_decision"], &entry["policy_reason"]), (&"deny".into(), &"revoked".into()));
    let before = sent("kept.test");
    until("the kept flow to go on", || (sent("kept.test") > before).then_some(()));
    assert!((gateway.metric("egress_flows_revoked_total", &[]) - 1.0).abs() < 0.5);
    kept_stream.shutdown(std::net::Shutdown::Both).ok();
    assert!(kept_reader.join().expect("no panic").2 > 1 << 20);
}

#[test]
fn revocation_reaches_every_path() {
    let http = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome");
        peer.read_some();
    });
    let (echo, pooled) = (Origin::echo(), Origin::http("pooled"));
    let services = Service::new("http", "http.test").port(80, "HTTP", http.address()).toml()
        + &Service::new("echo", "echo.test").port(9000, "TCP", echo.address()).toml()
        + &Service::new("pooled", "pooled.test").port(80, "HTTP", pooled.address()).toml();
    let (gateway, config) = start(proxy_config(""));
    gateway.reload(&(config("registry_only") + &services));
    // A request in flight, a tunnel through buffers, an idle pooled connection, an idle client.
    let mut in_flight = gateway.client();
    in_flight.send("GET http://http.test/ HTTP/1.1\r\nHost: http.test\r\n\r\n");
    assert!(in_flight.until(b"some").starts_with(b"HTTP/1.1 200"));
    let mut tunnel = gateway.client();
    assert_eq!(tunnel.connect_to("echo.test:9000").status, 200);
    tunnel.send("x");
    assert_eq!(tunnel.exactly(1), b"x");
    let mut idle = gateway.client();
    assert_eq!(idle.get("http://pooled.test/").text(), "pooled");
    gateway.reload(&config("registry_only"));
    let in_force = Instant::now();
    assert_eq!(in_flight.rest().1, Ending::Reset);
    assert_eq!(tunnel.rest().1, Ending::Reset);
    assert!(in_force.elapsed() < Duration::from_secs(1), "{:?}", in_force.elapsed());
    until("the pooled connection's end", || {
        (gateway.metric("egress_upstream_pool_idle_connections", &[]) < 0.5).then_some(())
    });
    assert_eq!(
        idle.get("http://pooled.test/").status,
        502,
        "the idle client stays, its next request is denied"
    );
}

#[test]
fn a_rule_that_expires_cuts_its_flows() {
    let origin = Origin::echo();
    let expires = Command::new("date").args(["-u", "-d", "+4 seconds", "+%Y-%m-%dT%H:%M:%SZ"]).output();
    let expires = String::from_utf8(expires.expect("date").stdout).expect("text");
    let service = Service::new("a", "a.test")
        .port(9000, "TCP", origin.address())
        .with(&format!("expires = \"{}\"", expires.trim()));
    let gateway = Gateway::start(&(registry_only() + &service.toml()));
    let mut tunnel = gateway.client();
    assert_eq!(tunnel.connect_to("a.test:9000").status, 200);
    assert_eq!(tunnel.rest().1, Ending::Reset);
    assert_eq!(gateway.first_entry()["policy_reason"], "revoked");
    assert_eq!(gateway.client().connect_to("a.test:9000").reason(), "expired");
}

#[test]
fn reloads_under_load_lose_no_request() {
    let origin = Origin::http("x");
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let (gateway, config) = start(proxy_config(&service));
    gateway.reload(&config("registry_only"));
    let proxy = gateway.proxy();
    let load = std::thread::spawn(move || {
        let mut client = Http::connect(proxy);
        (0..300).filter(|_| client.get("http://a.test/").status == 200).count()
    });
    for mode in ["allow_any", "registry_only", "allow_any"] {
        gateway.reload(&config(mode));
    }
    assert_eq!(load.join().expect("no panic"), 300);
}

#[test]
fn what_needs_a_restart_says_so() {
    let (gateway, config) = start(proxy_config(""));
    let other = format!("[dataplane]\nengine = \"{}\"\ncores = [0]\n", sluice_tests::harness::engine());
    gateway.reload(&(config("registry_only") + &other));
    let line = gateway.wait_log("restart");
    assert!(line.contains("cores") || line.contains("dataplane"), "{line}");
    assert_eq!(gateway.client().get("http://b.test/").status, 502, "the rest is in force");
}
