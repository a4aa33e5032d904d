//! Bytes that two readers could take for different requests, headers that claim to be somebody, and requests that end
//! here. One reading, one answer, and nothing of it upstream.

use sluice_tests::harness::gateway::Start;
use sluice_tests::harness::hello::client_hello;
use sluice_tests::harness::{Ending, Gateway, Origin, Service, allow_any, door, registry_only};

const HIDDEN: &str = "GET http://allowed.test/hidden HTTP/1.1\r\nHost: allowed.test\r\n\r\n";

/// `allowed.test` for everybody, `other.test` for nobody here, both at an origin that must hear nothing.
fn gateway_to(origin: &Origin, auth: &str) -> Gateway {
    let config = format!("mode = \"registry_only\"\n{}", door("http_proxy", auth))
        + "[[workload]]\nname = \"idgen\"\ncredentials = [{ user = \"idgen\", password_file = \"password\" }]\n"
        + &Service::new("allowed", "allowed.test")
            .port(80, "HTTP", origin.address())
            .port(443, "TLS", origin.address())
            .toml()
        + &Service::new("other", "other.test").port(443, "TLS", origin.address()).with("allow = []").toml();
    let start = Start::new(&config);
    std::fs::write(start.folder().join("password"), "secret\n").expect("written");
    start.ready()
}

#[test]
fn what_follows_a_refused_connect_in_the_same_write_is_not_read() {
    let origin = Origin::forbidden();
    let (open, closed) = (gateway_to(&origin, ""), gateway_to(&origin, "auth = \"required\""));
    for (gateway, authority, status) in [
        (&open, "denied.test:443", 502),
        (&open, "allowed.test:25", 502),
        (&open, "other.test:443", 403),
        (&open, "allowed.test", 400),
        (&open, "u@allowed.test:443", 400),
        (&open, "169.254.169.254:443", 502),
        (&closed, "allowed.test:443", 407),
    ] {
        for hidden in [HIDDEN.as_bytes().to_vec(), client_hello(&[b"allowed.test"])] {
            let before = gateway.log_lines().len();
            let mut client = gateway.client();
            let connect = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            client.send([connect.as_bytes(), &hidden].concat());
            let response = client.response();
            assert_eq!(response.status, status, "{authority}");
            client.expect_end(Ending::Closed);
            let lines = sluice_tests::harness::until("its record", || {
                let lines = gateway.log_lines();
                (lines.len() > before).then_some(lines)
            });
            assert_eq!(lines.len(), before + 1, "one denial: {lines:?}");
        }
    }
    origin.untouched();
}

#[test]
fn what_follows_a_malformed_request_in_the_same_write_is_not_read() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "");
    for head in [
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding:\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.0\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 0, 5\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length:\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length : 0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 0\x0b\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent\0-Length: 0\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent_Length: 75\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 0\r\ncontent_length: 75\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 0\r\nTransfer_Encoding: chunked\r\n\r\n",
        "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\nContent.Length: 5\r\n\r\n0\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\n Host: allowed.test\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost : allowed.test\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\nX: y\r\n\r\n",
        "GET http://allowed.test/\0 HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
        "GET http://allowed.test/\tx HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
        "GET http://allowed.test/ HTTP/1.1 \r\nHost: allowed.test\r\n\r\n",
        "GET http://allowed.test/ http/1.1\r\nHost: allowed.test\r\n\r\n",
        "GET http://allowed.test@denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n",
        "GET http://allowed.test\\@denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n",
    ] {
        let before = gateway.log_lines().len();
        let mut client = gateway.client();
        client.send(format!("{head}{HIDDEN}"));
        let response = client.response();
        assert_eq!((response.status, response.reason()), (400, "malformed"), "{head:?}");
        client.expect_end(Ending::Closed);
        let lines = sluice_tests::harness::until("its record", || {
            let lines = gateway.log_lines();
            (lines.len() > before).then_some(lines)
        });
        assert_eq!(lines.len(), before + 1, "{head:?}: {lines:?}");
    }
    origin.untouched();
}

/// A denied request's body is not taken for the next request, whatever it looks like.
#[test]
fn the_body_of_a_denied_request_is_not_a_request() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "");
    for framing in [
        format!("Content-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len()),
    ] {
        let mut client = gateway.client();
        client.send(format!("POST http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n{framing}"));
        assert_eq!(client.response().status, 502);
        client.expect_end(Ending::Closed);
    }
    origin.untouched();
}

/// Host may stand there once. A thousand of them cost a connection, not memory.
#[test]
fn a_thousand_hosts_are_400_and_cost_no_memory() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "");
    let head = |count: usize| {
        format!("GET http://allowed.test/ HTTP/1.1\r\n{}\r\n", "Host: allowed.test\r\n".repeat(count))
    };
    let ask = |count: usize| {
        let mut client = gateway.client();
        client.try_send(head(count));
        let status = client.response().status;
        client.expect_end(Ending::Closed);
        status
    };
    for _ in 0..20 {
        assert_eq!((ask(2), ask(1_000)), (400, 400));
    }
    let before = gateway.rss_kib();
    for _ in 0..100 {
        assert_eq!(ask(1_000), 400);
        assert!(matches!(ask(5_000), 400 | 431));
    }
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 1024, "{grown} KiB more");
    origin.untouched();
}

/// Headers that name somebody are neither believed nor passed on, in any spelling.
#[test]
fn claims_of_identity_go_no_further() {
    let origin = Origin::http("x");
    let config = registry_only()
        + &Service::new("a", "allowed.test").port(80, "HTTP", origin.address()).toml()
        + &Service::new("b", "admin.test")
            .port(80, "HTTP", origin.address())
            .with("allow = [{ principal = \"spiffe://td/ns/admin/sa/x\" }, { namespace = \"admin\" }]")
            .toml();
    let gateway = Gateway::start(&config);
    let claims = [
        "X-Forwarded-Client-Cert: By=spiffe://td/ns/a/sa/b;URI=spiffe://td/ns/admin/sa/x",
        "x_forwarded_client_cert: URI=spiffe://td/ns/admin/sa/x",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Host: admin.test",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "X-Envoy-Peer-Metadata: Q2xhaW0=",
        "X-Envoy-Peer-Metadata-Id: sidecar~10.0.0.1~admin.x~cluster.local",
        "X-Envoy-Original-Dst-Host: 10.0.0.1:80",
        "x-envoy-decorator-operation: claim",
        "Forwarded: for=10.0.0.1;host=admin.test",
        "Proxy-Authorization: Basic Y2xhaW06Y2xhaW0=",
        "Proxy-Connection: keep-alive",
        "Proxy-Claim: x",
        "Proxy: http://claim.test",
        "X-Sluice-Reason: claim",
    ];
    for claim in claims {
        let response = gateway.client().request("GET", "http://admin.test/", &format!("{claim}\r\n"));
        assert_eq!((response.status, response.reason()), (403, "workload_not_allowed"), "{claim}");
    }
    assert_eq!(origin.accepted(), 0);
    let all = claims.join("\r\n") + "\r\nX-Kept: yes\r\n";
    assert_eq!(gateway.client().request("GET", "http://allowed.test/", &all).status, 200);
    let head = origin.heads()[0].to_ascii_lowercase();
    assert!(head.contains("x-kept: yes"), "{head}");
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        assert!(matches!(name, "host" | "x-kept" | "via" | "x-request-id"), "{line} reached the origin");
    }
    for entry in gateway.log_entries() {
        assert_eq!(
            (&entry["source_principal"], &entry["source_proof"]),
            (&serde_json::Value::Null, &"none".into())
        );
    }
}

#[test]
fn a_request_whose_hops_are_used_up_is_answered_here() {
    let origin = Origin::http("origin");
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    let mut client = gateway.client();
    for (method, status) in [("OPTIONS", 200), ("TRACE", 405)] {
        let response = client.request(method, "http://a.test/", "Max-Forwards: 0\r\nCookie: secret\r\n");
        assert_eq!(response.status, status, "{method}");
        assert!(response.header("allow").is_some_and(|allow| allow.contains("GET")), "{}", response.head);
        assert!(!response.text().contains("secret"));
        let denied = client.request(method, "http://denied.test/", "Max-Forwards: 0\r\n");
        assert_eq!((denied.status, denied.reason()), (502, "not_registered"), "a denial comes first");
    }
    assert_eq!(origin.accepted(), 0);
    for (method, given, passed_on) in [("OPTIONS", "5", "4"), ("TRACE", "1", "0"), ("GET", "0", "0")] {
        let response = client.request(method, "http://a.test/", &format!("Max-Forwards: {given}\r\n"));
        assert_eq!(response.status, 200, "{method}");
        let head = origin.heads().pop().expect("a request").to_ascii_lowercase();
        assert!(head.contains(&format!("max-forwards: {passed_on}\r\n")), "{head}");
    }
}

/// The verdict on the metric is the last one, and there is one per flow.
#[test]
fn every_flow_counts_one_decision() {
    let origin = Origin::http("x");
    let config = allow_any()
        + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()
        + &Service::new("t", "t.test")
            .port(443, "TLS", origin.address())
            .port(9000, "TCP", origin.address())
            .toml();
    let gateway = Gateway::start(&config);
    let decisions = |parts: &[&str]| gateway.metric("egress_policy_decisions_total", parts);
    type Step<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);
    let steps: [Step<'_>; 7] = [
        (
            "a tunnel from its start to its end",
            &|| {
                let mut client = gateway.client();
                assert_eq!(client.connect_to("t.test:9000").status, 200);
                client.finish();
                client.expect_end(Ending::Closed);
                let _ = gateway.first_entry();
            },
            &["allow", "registered", "connect"],
        ),
        ("allowed", &|| drop(gateway.client().get("http://a.test/")), &["allow", "registered", "http"]),
        ("a literal", &|| drop(gateway.client().get("http://10.1.2.3/")), &["deny", "guard", "http"]),
        ("a name", &|| drop(gateway.client().get("http://localhost:1/")), &["deny", "guard", "http"]),
        ("CONNECT", &|| drop(gateway.client().connect_to("localhost:1")), &["deny", "guard", "connect"]),
        (
            "TLS typed",
            &|| drop(gateway.client().get("http://t.test:443/")),
            &["deny", "protocol_mismatch", "http"],
        ),
        (
            "no hello",
            &|| {
                let mut client = gateway.client();
                assert_eq!(client.connect_to("t.test:443").status, 200);
                client.send("SSH-2.0-x\r\n");
                client.expect_end(Ending::Reset);
            },
            &["deny", "protocol_mismatch", "connect"],
        ),
    ];
    for (index, (what, step, labels)) in steps.iter().enumerate() {
        step();
        gateway.wait_metric("egress_policy_decisions_total", labels, 1.0);
        assert!((decisions(&[]) - (index + 1) as f64).abs() < 0.5, "{what}: {}", gateway.metrics());
    }
    let refused = gateway.metric("egress_guard_refusals_total", &["private"]);
    assert!((refused - 1.0).abs() < 0.5, "a literal is refused like a name: {}", gateway.metrics());
    assert!(gateway.metric("egress_guard_refusals_total", &["loopback"]) >= 2.0);
}
