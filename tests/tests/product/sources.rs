//! The `http` door, and the addresses that upstream connections come from, on loopback.

use std::process::Command;

use sluice_tests::harness::gateway::run;
use sluice_tests::harness::servers::Server;
use sluice_tests::harness::tools::tool;
use sluice_tests::harness::{Gateway, Http, Origin, Service, door, registry_only};

#[test]
fn curl_takes_the_http_door_for_an_origin() {
    let server = Server::nginx("a.test", 0);
    let forbidden = Origin::forbidden();
    let config = format!("mode = \"registry_only\"\n{}", door("http", ""))
        + &Service::new("a", "a.test").port(80, "HTTP", server.plain).toml()
        + &Service::new("tls", "tls.test").port(80, "TLS", forbidden.address()).toml();
    let gateway = Gateway::start(&config);
    let at = gateway.door("http");
    let curl = |host: &str, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "%{http_code}"]);
        command.args(["--connect-to", &format!("::{at}")]).args(more);
        tool(command.arg(format!("http://{host}/hello")), b"")
    };
    assert_eq!(curl("a.test", &[]).stdout, "hello from nginx\n200");
    for (host, status, reason) in
        [("denied.test", "502", "not_registered"), ("tls.test", "502", "protocol_mismatch")]
    {
        let done = curl(host, &["--include"]);
        assert!(done.stdout.contains(&format!("x-sluice-reason: {reason}")), "{done:?}");
        assert!(done.stdout.ends_with(status), "{done:?}");
    }
    let mut connect = Http::connect(at);
    assert_eq!(connect.connect_to("a.test:80").status, 405);
    // curl knows from the GOAWAY that its HTTP/2 is not wanted; what it makes of that is no success.
    let done = curl("a.test", &["--http2-prior-knowledge"]);
    assert!(done.code != 0 && !done.stdout.contains("hello"), "{done:?}");
    assert!(gateway.metric("egress_protocol_errors_total", &["error=\"http2\""]) >= 1.0);
    forbidden.untouched();
}

#[test]
fn a_service_is_reached_from_its_source_address() {
    let from = |peer: &mut sluice_tests::harness::origin::Peer| {
        let text = peer.stream.peer_addr().expect("a connected socket").ip().to_string();
        while peer.request().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
        }
    };
    let origin = Origin::start(from);
    let service = |name: &str, source: &str| {
        let service = Service::new(name, &format!("{name}.test")).port(80, "HTTP", origin.address());
        let line = if source.is_empty() { String::new() } else { format!("source_address = \"{source}\"") };
        service.with(&line).toml()
    };
    let config = |own: &str| {
        registry_only() + &service("plain", "") + &service("own", own) + &service("gone", "192.0.2.99")
    };
    let gateway = Gateway::start(&config("127.0.0.9"));
    let mut client = gateway.client();
    for (host, wanted) in [("plain", "127.0.0.1"), ("own", "127.0.0.9"), ("plain", "127.0.0.1")] {
        assert_eq!(client.get(&format!("http://{host}.test/")).text(), wanted, "{host}");
    }
    let before = origin.accepted();
    let answer = client.get("http://gone.test/");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("cannot connect from 192.0.2.99"), "{}", answer.text());
    assert_eq!(origin.accepted(), before, "never from another address");
    let entry = gateway.wait_entry(|entry| entry["authority"] == "gone.test");
    assert_eq!(entry["response_flags"], "UF", "{entry}");
    assert!(gateway.metric("egress_upstream_connects_total", &["result=\"source_address\""]) >= 1.0);
    let _warning = gateway.wait_log("192.0.2.99");
    gateway.reload(&config("127.0.0.10"));
    assert_eq!(
        client.get("http://own.test/").text(),
        "127.0.0.10",
        "pooled connections of before are not used"
    );
    let checked = run(&["check", "--config", &gateway.config_path().display().to_string()]);
    assert_eq!(checked.status.code(), Some(0));
    let warnings = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(warnings.contains("192.0.2.99") && warnings.contains("default/gone"), "{warnings}");
    assert!(!warnings.contains("127.0.0.10"), "{warnings}");
}
