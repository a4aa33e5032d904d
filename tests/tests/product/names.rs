//! Names and addresses that must not get through, in every spelling; and HTTP framing that could be read two ways.
//! Each case is answered, and the origins see nothing.

use std::sync::{Arc, Mutex};

use sluice_tests::harness::{Ending, Gateway, Origin, Service, allow_any, registry_only};

struct Rig {
    gateway: Gateway,
    allowed: Origin,
}

/// A registry with `allowed.test` (HTTP on 80, TLS on 443) whose origin nobody may reach in these tests.
fn rig(mode: &str) -> Rig {
    let allowed = Origin::forbidden();
    let config = mode.to_owned()
        + &Service::new("allowed", "allowed.test")
            .port(80, "HTTP", allowed.address())
            .port(443, "TLS", allowed.address())
            .toml()
        + &Service::new("wild", "*.wild.test").port(80, "HTTP", allowed.address()).toml()
        + &Service::new("blocked", "denied.test")
            .port(80, "HTTP", allowed.address())
            .with("deny = [{}]")
            .toml();
    Rig { gateway: Gateway::start(&config), allowed }
}

impl Rig {
    /// Sends bytes; returns status and reason of the one answer, after which the connection must be closed if it is
    /// an error of form.
    fn answer(&self, bytes: impl AsRef<[u8]>) -> (u16, String) {
        let mut client = self.gateway.client();
        client.send(bytes);
        let response = client.response_to("CONNECT");
        if matches!(response.status, 400 | 431) {
            client.expect_end(Ending::Closed);
        }
        (response.status, response.reason().to_owned())
    }

    fn connect(&self, authority: &str) -> (u16, String) {
        self.answer(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"))
    }

    fn get(&self, authority: &str) -> (u16, String) {
        self.answer(format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"))
    }

    fn malformed(&self, what: &str, bytes: impl AsRef<[u8]>) {
        assert_eq!(self.answer(bytes), (400, "malformed".to_owned()), "{what}");
    }
}

#[test]
fn odd_authorities_are_400() {
    let rig = rig(&registry_only());
    for authority in [
        "[denied.test]:443",
        "u@denied.test:443",
        "denied.test:443@allowed.test:443",
        "allowed.test:+443",
        "allowed.test:65979",
        "allowed.test:0",
        "allowed.test:",
        "allowed.test",
        "allowed.test:443x",
        "a..test:443",
        ".allowed.test:443",
        ":443",
        "0x7f.1:443",
        "2130706433:443",
        "0177.0.0.1:443",
        "127.1:443",
        "127.0.0.1.:443x",
        "1.2.3.256:443",
        "\u{ff11}27.0.0.1:443",
        "\u{430}llowed.test:443",
        "allowed\u{3002}test:443",
        "[fe80::1%25lo]:80",
        "[::1:443",
        "::1:443",
        "allowed.test\\:443",
        "allowed.test,b.test:443",
    ] {
        assert_eq!(rig.connect(authority).0, 400, "CONNECT {authority}");
    }
    for authority in [
        "u@allowed.test",
        "a..test",
        "0x7f.1",
        "127.1",
        "\u{430}llowed.test",
        "allowed.test:x",
        "[allowed.test]",
    ] {
        assert_eq!(rig.get(authority).0, 400, "GET {authority}");
    }
    rig.allowed.untouched();
}

#[test]
fn a_suffix_is_whole_labels_and_never_the_apex() {
    let rig = rig(&registry_only());
    for host in [
        "evilallowed.test",
        "allowed.test.evil",
        "wild.test",
        "evilwild.test",
        "allowed.tes",
        "x.allowed.test",
    ] {
        assert_eq!(rig.get(host), (502, "not_registered".to_owned()), "{host}");
    }
    rig.allowed.untouched();
}

#[test]
fn case_and_a_trailing_dot_change_nothing() {
    let origin = Origin::http("x");
    let config = registry_only()
        + &Service::new("a", "allowed.test")
            .host("*.wild.test")
            .host("a_b.test")
            .port(80, "HTTP", origin.address())
            .toml()
        + &Service::new("b", "denied.test").port(80, "HTTP", origin.address()).with("deny = [{}]").toml();
    let gateway = Gateway::start(&config);
    let mut client = gateway.client();
    for host in ["AlLoWeD.TeSt.", "allowed.test", "X.Y.wild.TEST", "a_b.test"] {
        assert_eq!(client.get(&format!("http://{host}/")).status, 200, "{host}");
    }
    for host in ["denied.test.", "DENIED.test"] {
        let response = client.get(&format!("http://{host}/"));
        assert_eq!((response.status, response.reason()), (403, "workload_denied"), "{host}");
    }
}

#[test]
fn addresses_in_other_clothes_are_unwrapped_and_refused_in_allow_any_too() {
    let rig = rig(&allow_any());
    for address in [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "10.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "[ff02::1]",
    ] {
        assert_eq!(rig.get(address), (502, "guard".to_owned()), "{address}");
    }
    rig.allowed.untouched();
}

#[test]
fn an_address_as_connect_target_is_refused_by_the_guard_after_its_first_bytes() {
    let target = Origin::forbidden();
    let gateway = Gateway::start(&allow_any());
    let mut client = gateway.client();
    let response = client.connect_to(&target.address().to_string());
    // A literal target is an original destination: the inside is asked for a name first, then the guard decides.
    if response.status == 200 {
        client.send("not http, not tls");
        assert_eq!(client.rest().0, b"");
    }
    let entry = gateway.wait_entry(|entry| entry["method"] == "CONNECT");
    assert_eq!(
        (&entry["policy_decision"], &entry["policy_reason"]),
        (&"deny".into(), &"guard".into()),
        "{entry}"
    );
    target.untouched();
}

#[test]
fn target_and_host_must_agree() {
    let rig = rig(&registry_only());
    rig.malformed("another Host", "GET http://allowed.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n");
    rig.malformed(
        "two Hosts",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nHost: allowed.test\r\n\r\n",
    );
    rig.malformed("no Host", "GET http://allowed.test/ HTTP/1.1\r\n\r\n");
    rig.malformed("an empty Host", "GET http://allowed.test/ HTTP/1.1\r\nHost:\r\n\r\n");
    rig.malformed(
        "a Host list",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test, denied.test\r\n\r\n",
    );
    rig.malformed("origin form", "GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    rig.malformed("https", "GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    rig.malformed("no authority", "GET http:/// HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    rig.malformed("bytes above ASCII", b"GET http://allowed.test/ HTTP/1.1\r\nHost: \xff\r\n\r\n");
    rig.malformed("another scheme", "GET ftp://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    rig.allowed.untouched();
}

#[test]
fn the_target_of_connect_decides_whatever_its_host_says() {
    let rig = rig(&registry_only());
    let connect =
        |target: &str, host: &str| rig.answer(format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(connect("denied.test:80", "allowed.test:80").0, 403);
    assert_eq!(connect("absent.test:80", "allowed.test:80"), (502, "not_registered".to_owned()));
    rig.allowed.untouched();
    assert_eq!(connect("allowed.test:80", "denied.test:80").0, 200);
}

#[test]
fn http_to_a_tls_port_is_a_mismatch() {
    let rig = rig(&registry_only());
    assert_eq!(rig.get("allowed.test:443"), (502, "protocol_mismatch".to_owned()));
    rig.allowed.untouched();
    let mut client = rig.gateway.client();
    client.send("GET http://allowed.test:443/ HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n");
    let response = client.response_to("GET");
    let remedy = "remedy: port 443 of service default/allowed is declared TLS and this is plain HTTP: ask for https://, \
                  or set protocol = \"HTTP\" at that port\n";
    assert!(response.text().contains(remedy), "{}", response.text());
    // The admin API's word for it is the same.
    for (to, said) in [
        ("http%3A%2F%2Fallowed.test%3A443", "deny: protocol_mismatch by default/allowed\n"),
        ("https%3A%2F%2Fallowed.test%3A80", "deny: protocol_mismatch by default/allowed\n"),
        ("https%3A%2F%2Fallowed.test", "allow: registered"),
        ("allowed.test%3A443", "allow: registered"),
    ] {
        let explained = rig.gateway.admin_get(&format!("/policy/explain?to={to}")).text();
        assert!(explained.starts_with(said), "{to}: {explained}");
    }
}

#[test]
fn ambiguous_framing_is_400_and_closed() {
    let rig = rig(&registry_only());
    let post =
        |lines: &str| format!("POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n{lines}\r\n\r\n");
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5_0",
        "Content-Length: -1",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 99999999999999999999999",
        "X-A: a\r\n b",
        ": x",
        "X-A: a\x00b",
        "X A: b",
        "X-A",
        "X-A: a\rb",
    ] {
        rig.malformed(lines, post(lines));
    }
    rig.malformed("bare LF", "GET http://allowed.test/ HTTP/1.1\nHost: allowed.test\n\n");
    rig.malformed("CR alone", "GET http://allowed.test/ HTTP/1.1\rHost: allowed.test\r\n\r\n");
    rig.malformed(
        "1.0 with TE",
        "POST http://allowed.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    rig.malformed("two spaces", "GET  http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    rig.malformed("no version", "GET http://allowed.test/\r\nHost: allowed.test\r\n\r\n");
    let (status, _) = rig.answer("GET http://allowed.test/ HTTP/3.0\r\nHost: allowed.test\r\n\r\n");
    assert!(matches!(status, 400 | 505), "{status}");
    rig.gateway.wait_metric("egress_policy_decisions_total", &["malformed", "http"], 20.0);
    rig.allowed.untouched();
}

/// The head was fine, so the origin has been reached; what must never happen is that the bad bytes are relayed.
#[test]
fn bad_chunks_never_reach_the_origin() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&seen);
    let origin = Origin::start(move |peer| {
        while let Some(bytes) = peer.read_some().filter(|bytes| !bytes.is_empty()) {
            all.lock().expect("no panic").extend(bytes);
        }
    });
    let gateway = Gateway::start(
        &(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()),
    );
    for chunk in [
        "0x2\r\nab\r\n",
        "2 \r\nab\r\n",
        "2;a=\rb\r\nab\r\n",
        "g\r\n",
        "\r\n",
        "2\nab\n",
        "ffffffffffffffffff\r\n",
        "2\r\nabc",
    ] {
        let mut client = gateway.client();
        client.send(format!("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}SMUGGLED"));
        let response = client.response();
        assert_eq!(response.status, 400, "{chunk:?}");
        client.expect_end(Ending::Closed);
    }
    let seen = String::from_utf8_lossy(&seen.lock().expect("no panic")).into_owned();
    assert!(!seen.contains("SMUGGLED"), "{seen}");
}

#[test]
fn forged_identity_changes_nothing() {
    let origin = Origin::forbidden();
    let service = Service::new("a", "allowed.test")
        .port(80, "HTTP", origin.address())
        .with("allow = [{ principal = \"spiffe://td/ns/admin/sa/x\" }]");
    let gateway = Gateway::start(&(registry_only() + &service.toml()));
    let forged = "X-Forwarded-Client-Cert: URI=spiffe://td/ns/admin/sa/x\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n";
    let response = gateway.client().request("GET", "http://allowed.test/", forged);
    assert_eq!((response.status, response.reason()), (403, "workload_not_allowed"));
    assert_eq!(gateway.first_entry()["source_principal"], serde_json::Value::Null);
    origin.untouched();
}

/// Two names of one address: the name decides, and a good flow before changes nothing.
#[test]
fn a_shared_address_is_no_way_in() {
    let shared = Origin::http("shared");
    let config =
        registry_only() + &Service::new("a", "allowed.test").port(80, "HTTP", shared.address()).toml();
    let gateway = Gateway::start(&config);
    let mut client = gateway.client();
    assert_eq!(client.get("http://allowed.test/").status, 200);
    assert_eq!(client.get("http://denied.test/").status, 502);
    assert_eq!(shared.heads().len(), 1);
}
