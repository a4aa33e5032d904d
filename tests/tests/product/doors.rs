//! The doors `tls` and `tcp`, and what a declared port promises inside CONNECT.

use std::time::{Duration, Instant};

use sluice_tests::harness::hello::{client_hello, hello_with, padded_hello};
use sluice_tests::harness::servers::Server;
use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, door, registry_only, tools};

fn tls_door(more: &str) -> String {
    format!("mode = \"registry_only\"\n{}", door("tls", &format!("destination_port = 443\n{more}")))
}

#[test]
fn openssl_reaches_nginx_through_the_tls_door() {
    let server = Server::nginx("a.test", 0);
    let service = Service::new("a", "a.test").port(443, "TLS", server.tls).toml();
    let gateway = Gateway::start(&(tls_door("") + &service));
    let done = tools::s_client(
        gateway.door("tls"),
        &["-servername", "a.test", "-quiet"],
        b"GET /hello HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    );
    assert!(done.stdout.contains("hello from nginx"), "{done:?}");
    let entry = gateway.first_entry();
    assert_eq!(
        (&entry["requested_server_name"], &entry["policy_reason"]),
        (&"a.test".into(), &"registered".into())
    );
    assert!(entry["bytes_sent"].as_u64() > Some(100), "{entry}");
    gateway.wait_metric("istio_tcp_connections_closed_total", &["destination_service=\"a.test\""], 1.0);
}

#[test]
fn curl_reaches_nginx_through_connect() {
    let server = Server::nginx("a.test", 0);
    let service = Service::new("a", "a.test").port(443, "TLS", server.tls).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    let cacert = server.folder().join("cert.pem");
    let cacert = cacert.to_string_lossy();
    let done = tools::curl(gateway.proxy(), &["--cacert", &cacert, "https://a.test/hello"]);
    assert_eq!(done.stdout, "hello from nginx\n", "{done:?}");
    let entry = gateway.first_entry();
    assert_eq!((&entry["method"], &entry["response_code"]), (&"CONNECT".into(), &200.into()));
    assert_eq!(entry["requested_server_name"], "a.test");
    let done = tools::curl(gateway.proxy(), &["https://denied.test/hello"]);
    assert!(done.stderr.contains("502"), "{done:?}");
}

#[test]
fn a_denied_name_is_reset_or_alerted() {
    let origin = Origin::forbidden();
    let service = Service::new("a", "a.test").port(443, "TLS", origin.address()).toml();
    for (more, wanted) in [("", ""), ("deny_tls = \"alert\"", "\u{15}\u{3}")] {
        let gateway = Gateway::start(&(tls_door(more) + &service));
        let mut client = Http::connect(gateway.door("tls"));
        client.send(client_hello(&[b"denied.test"]));
        let (rest, ending) = client.rest();
        assert!(String::from_utf8_lossy(&rest).starts_with(wanted));
        assert_eq!(ending, if more.is_empty() { Ending::Reset } else { Ending::Closed });
        if !more.is_empty() {
            // Fatal unrecognized_name (RFC 6066 §3).
            assert_eq!(rest, [21, 3, 3, 0, 2, 2, 112]);
        }
        let entry = gateway.first_entry();
        assert_eq!(
            (&entry["requested_server_name"], &entry["response_flags"]),
            (&"denied.test".into(), &"UH".into())
        );
        assert_eq!(
            (&entry["upstream_cluster"], &entry["policy_reason"]),
            (&"BlackHoleCluster".into(), &"not_registered".into())
        );
        let labels = ["BlackHoleCluster", "response_flags=\"UH\""];
        gateway.wait_metric("istio_tcp_connections_opened_total", &labels, 1.0);
        gateway.wait_metric("istio_tcp_connections_closed_total", &labels, 1.0);
    }
    origin.untouched();
}

#[test]
fn what_is_no_acceptable_hello_reaches_nobody() {
    let origin = Origin::forbidden();
    let service = Service::new("a", "a.test").port(443, "TLS", origin.address()).toml();
    let gateway = Gateway::start(&(tls_door("") + &service));
    let good = client_hello(&[b"a.test"]);
    let mut short = good.clone();
    short[8] ^= 0x40; // the handshake's length and the record's disagree
    let cases: [(&str, Vec<u8>, &str); 10] = [
        ("no name", client_hello(&[]), "no_name"),
        ("an address", client_hello(&[b"198.51.100.20"]), "malformed"),
        ("two names", client_hello(&[b"a.test", b"b.test"]), "malformed"),
        ("a line break", client_hello(&[b"a\n{\"x\":1}"]), "malformed"),
        ("an empty name", client_hello(&[b""]), "malformed"),
        ("not LDH", client_hello(&[b"a b.test"]), "malformed"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(), "protocol_mismatch"),
        ("SSH", b"SSH-2.0-x\r\n".to_vec(), "protocol_mismatch"),
        ("suffix", client_hello(&[b"evila.test"]), "not_registered"),
        ("prefix", client_hello(&[b"a.test.evil"]), "not_registered"),
    ];
    for (what, bytes, reason) in cases {
        let before = gateway.log_lines().len();
        let mut client = Http::connect(gateway.door("tls"));
        client.send(bytes);
        let (rest, _) = client.rest();
        assert!(rest.is_empty(), "{what}");
        let entry = sluice_tests::harness::until(what, || gateway.log_entries().get(before).cloned());
        assert_eq!(entry["policy_reason"], reason, "{what}: {entry}");
        assert_eq!(entry["upstream_host"], serde_json::Value::Null, "{what}");
    }
    assert!(gateway.log_lines().iter().all(|line| !line.contains("{\"x\":1}")), "no forged JSON");
    // Garbage that looks like a hello: no promise about the reason, but it ends and goes nowhere.
    let mut client = Http::connect(gateway.door("tls"));
    client.send(short);
    // It may have been reset by now.
    client.stream.shutdown(std::net::Shutdown::Write).ok();
    let _ = client.rest();
    origin.untouched();
}

#[test]
fn a_hello_in_pieces_is_put_together_and_relayed_unmodified() {
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").port(443, "TLS", origin.address()).toml();
    let gateway = Gateway::start(&(tls_door("") + &service));
    let grease_ech = hello_with(b"a.test", 0xfe0d, &[0; 200]);
    let cases = [
        ("byte by byte", client_hello(&[b"a.test"]), 1),
        ("records of one byte", padded_hello(b"a.test", 0, 1), 64),
        ("20 KiB", padded_hello(b"A.Test", 20_000, 16_000), 1000),
        ("cut in the name", client_hello(&[b"a.test"]), 60),
        ("GREASE ECH", grease_ech, 10_000),
    ];
    for (what, hello, piece) in cases {
        let mut client = Http::connect(gateway.door("tls"));
        for piece in hello.chunks(piece) {
            client.send(piece);
            if hello.len() < 200 {
                let_pass(Duration::from_millis(1));
            }
        }
        assert!(client.exactly(hello.len()) == hello, "{what}");
        client.finish();
        client.expect_end(Ending::Closed);
    }
}

#[test]
fn half_a_hello_and_silence_is_closed_in_time() {
    let origin = Origin::forbidden();
    let service = Service::new("a", "a.test").port(443, "TLS", origin.address()).toml();
    let gateway = Gateway::start(&(tls_door("") + &service + "[limits]\nsniff_timeout_ms = 300\n"));
    for bytes in [&client_hello(&[b"a.test"])[..40], b""] {
        let start = Instant::now();
        let mut client = Http::connect(gateway.door("tls"));
        client.send(bytes);
        let (rest, _) = client.rest();
        assert!(rest.is_empty());
        assert!(start.elapsed() >= Duration::from_millis(250), "not before its time");
    }
    assert_eq!(gateway.first_entry()["policy_reason"], "sniff_timeout");
    gateway.wait_metric("egress_policy_decisions_total", &["sniff_timeout"], 2.0);
    origin.untouched();
}

#[test]
fn a_hello_beyond_the_limit_is_refused() {
    let origin = Origin::forbidden();
    let service = Service::new("a", "a.test").port(443, "TLS", origin.address()).toml();
    let gateway = Gateway::start(&(tls_door("") + &service + "[limits]\nsniff_bytes_max = 16384\n"));
    let mut client = Http::connect(gateway.door("tls"));
    client.try_send(padded_hello(b"a.test", 30_000, 16_000));
    let (rest, ending) = client.rest();
    assert!(rest.is_empty());
    assert_eq!(ending, Ending::Reset);
    origin.untouched();
}

#[test]
fn the_tcp_door_leads_to_its_service_and_lets_the_server_speak_first() {
    let origin = Origin::start(|peer| {
        peer.send("220 mysql speaks first\r\n");
        peer.echo();
    });
    let config = format!("mode = \"registry_only\"\n{}", door("tcp", "service = \"default/db\""))
        + &Service::new("db", "db.test").port(3306, "MYSQL", origin.address()).toml();
    let gateway = Gateway::start(&config);
    let mut client = Http::connect(gateway.door("tcp"));
    assert_eq!(client.until(b"\r\n"), b"220 mysql speaks first\r\n");
    client.send("select 1");
    assert_eq!(client.exactly(8), b"select 1");
    client.finish();
    client.expect_end(Ending::Closed);
    let entry = gateway.first_entry();
    assert_eq!((&entry["bytes_received"], &entry["bytes_sent"]), (&8.into(), &32.into()));
    assert_eq!(entry["service"], "default/db");
    gateway.wait_metric("istio_tcp_received_bytes_total", &["destination_service=\"db.test\""], 8.0);
    gateway.wait_metric("istio_tcp_sent_bytes_total", &["destination_service=\"db.test\""], 32.0);
}

#[test]
fn h2load_keeps_many_tunnels_busy() {
    let server = Server::nginx("a.test", 0);
    let config = format!("mode = \"registry_only\"\n{}", door("tcp", "service = \"default/web\""))
        + &Service::new("web", "a.test").port(80, "TCP", server.plain).toml();
    let gateway = Gateway::start(&config);
    let url = format!("http://{}/hello", gateway.door("tcp"));
    let mut command = std::process::Command::new("h2load");
    let done = tools::tool(command.args(["--h1", "-n", "5000", "-c", "50", &url]), b"");
    assert!(done.stdout.contains("5000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{done:?}");
    assert!(done.stdout.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{done:?}");
    gateway.wait_metric("istio_tcp_connections_closed_total", &["destination_service=\"a.test\""], 50.0);
}

#[test]
fn the_tcp_door_resets_whom_its_service_does_not_allow() {
    let origin = Origin::forbidden();
    let config = format!("mode = \"registry_only\"\n{}", door("tcp", "service = \"default/db\""))
        + &Service::new("db", "db.test").port(3306, "MYSQL", origin.address()).with("allow = []").toml();
    let gateway = Gateway::start(&config);
    let mut client = Http::connect(gateway.door("tcp"));
    let (rest, _) = client.rest();
    assert!(rest.is_empty());
    let entry = gateway.first_entry();
    assert_eq!(
        (&entry["policy_reason"], &entry["response_flags"]),
        (&"workload_not_allowed".into(), &"UH".into())
    );
    origin.untouched();
}

/// No payload of a refused tunnel may reach the origin; that it was dialled is the one exception of the design.
#[test]
fn a_tunnel_to_a_tls_port_carries_only_tls_for_its_rule() {
    let origin = Origin::sink();
    let service = Service::new("a", "a.test").port(443, "TLS", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    for (inner, reason) in [
        (client_hello(&[b"denied.test"]), "name_mismatch"),
        (client_hello(&[]), "name_mismatch"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "protocol_mismatch"),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(), "protocol_mismatch"),
    ] {
        let before = gateway.log_lines().len();
        let mut client = gateway.client();
        assert_eq!(client.connect_to("a.test:443").status, 200);
        client.send(inner);
        let (rest, ending) = client.rest();
        assert!(rest.is_empty());
        assert_eq!(ending, Ending::Reset);
        let entry = sluice_tests::harness::until("a record", || gateway.log_entries().get(before).cloned());
        assert_eq!(
            (&entry["policy_decision"], &entry["policy_reason"]),
            (&"deny".into(), &reason.into()),
            "{entry}"
        );
    }
    assert_eq!(origin.bytes(), 0);
    let hello = client_hello(&[b"a.test"]);
    let mut client = gateway.client();
    assert_eq!(client.connect_to("a.test:443").status, 200);
    client.send(&hello);
    sluice_tests::harness::until("the good hello", || (origin.bytes() == hello.len() as u64).then_some(()));
}

#[test]
fn a_tunnel_to_an_http_port_is_proxied_per_request() {
    let origin = Origin::http("inner");
    let other = Origin::forbidden();
    let config = registry_only()
        + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()
        + &Service::new("b", "b.test").port(80, "HTTP", other.address()).toml();
    let gateway = Gateway::start(&config);
    let mut client = gateway.client();
    assert_eq!(client.connect_to("a.test:80").status, 200);
    client.send("GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.response().text(), "inner");
    client.send("GET /2 HTTP/1.1\r\nHost: b.test\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.reason()), (421, "name_mismatch"));
    other.untouched();
}

#[test]
fn early_data_after_connect_is_held_until_200() {
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    let mut client = gateway.client();
    client.send("CONNECT a.test:9000 HTTP/1.1\r\nHost: a.test:9000\r\n\r\nearly");
    assert_eq!(client.response_to("CONNECT").status, 200);
    assert_eq!(client.exactly(5), b"early");
}
