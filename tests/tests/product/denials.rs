//! What a refused client sees, in words, codes and headers; and who may what.

use std::net::TcpStream;

use sluice_tests::harness::gateway::{Start, run};
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, allow_any, registry_only, tools};

#[test]
fn an_unregistered_host_is_502_and_the_answer_says_what_to_do() {
    let origin = Origin::forbidden();
    let config =
        registry_only() + "[deny]\ncontact = \"ask #platform\"\n[guard]\nallow = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::start(&config);
    let mut client = gateway.client();
    let url = format!("http://localhost:{}/uuid", origin.port());
    let response = client.request("GET", &url, "x-request-id: r-1\r\n");
    assert_eq!(response.status, 502);
    assert_eq!(response.reason(), "not_registered");
    assert_eq!(response.header("x-request-id"), Some("r-1"));
    let body = response.text();
    for part in ["localhost", "127.0.0.1", "not_registered", "[[service]]", "ask #platform", "r-1"] {
        assert!(body.contains(part), "{part:?} in {body}");
    }
    let reason = response.header("x-sluice-reason").expect("a reason");
    for part in ["localhost", "ask #platform", "r-1", "[[service]]"] {
        assert!(reason.contains(part), "{part:?} in {reason}");
    }
    // The connection goes on: the next request is a new decision.
    assert_eq!(client.get("http://other.test/").status, 502);
    let entry = gateway.first_entry();
    for (key, value) in [
        ("response_code", 502.into()),
        ("response_flags", "-".into()),
        ("response_code_details", "direct_response".into()),
        ("upstream_cluster", "BlackHoleCluster".into()),
        ("policy_decision", "deny".into()),
        ("policy_reason", "not_registered".into()),
        ("request_id", "r-1".into()),
        ("upstream_host", serde_json::Value::Null),
    ] {
        assert_eq!(entry[key], value, "{key} of {entry}");
    }
    let labels =
        ["BlackHoleCluster", "response_code=\"502\"", "response_flags=\"-\"", "source_workload=\"unknown\""];
    gateway.wait_metric("istio_requests_total", &labels, 2.0);
    gateway.wait_metric("egress_policy_decisions_total", &["deny", "not_registered", "http"], 2.0);
    origin.untouched();
}

#[test]
fn a_denied_connect_is_502_and_what_follows_is_not_interpreted() {
    let allowed = Origin::forbidden();
    let service = Service::new("a", "allowed.test").port(80, "HTTP", allowed.address()).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    let mut client = gateway.client();
    client.send(
        "CONNECT denied.test:443 HTTP/1.1\r\nHost: denied.test:443\r\n\r\nGET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
    );
    let response = client.response();
    assert_eq!((response.status, response.reason()), (502, "not_registered"));
    client.expect_end(Ending::Closed);
    let entry = gateway.first_entry();
    assert_eq!(entry["method"], "CONNECT");
    assert_eq!(entry["authority"], "denied.test:443");
    allowed.untouched();
}

#[test]
fn a_port_that_is_not_registered_is_refused() {
    let origin = Origin::forbidden();
    let service = Service::new("a", "allowed.test").port(80, "HTTP", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    let response = gateway.client().connect_to("allowed.test:25");
    assert_eq!((response.status, response.reason()), (502, "port_not_registered"));
    let response = gateway.client().get("http://allowed.test:8080/");
    assert_eq!((response.status, response.reason()), (502, "port_not_registered"));
    origin.untouched();
}

#[test]
fn a_service_for_others_is_403() {
    let origin = Origin::forbidden();
    let services = Service::new("a", "allowed.test")
        .port(80, "HTTP", origin.address())
        .port(443, "TCP", origin.address())
        .with("allow = [{ namespace = \"payments\" }]")
        .toml()
        + &Service::new("b", "denied.test").port(80, "HTTP", origin.address()).with("deny = [{}]").toml();
    // Both are enforced in allow-any too.
    for mode in [registry_only(), allow_any()] {
        let gateway = Gateway::start(&(mode + &services));
        let response = gateway.client().get("http://allowed.test/");
        assert_eq!((response.status, response.reason()), (403, "workload_not_allowed"));
        assert!(response.text().contains("default/a"), "{}", response.text());
        let response = gateway.client().get("http://denied.test/");
        assert_eq!((response.status, response.reason()), (403, "workload_denied"));
        let response = gateway.client().connect_to("allowed.test:443");
        assert_eq!(response.status, 403);
        let entry = gateway.wait_entry(|entry| entry["policy_reason"] == "workload_denied");
        assert_eq!(entry["response_code_details"], "rbac_access_denied");
    }
    origin.untouched();
}

#[test]
fn an_expired_rule_is_refused_as_expired() {
    let origin = Origin::forbidden();
    let service = Service::new("a", "allowed.test")
        .port(80, "HTTP", origin.address())
        .with("expires = \"2020-01-01T00:00:00Z\"");
    let gateway = Gateway::start(&(registry_only() + &service.toml()));
    let response = gateway.client().get("http://allowed.test/");
    assert_eq!((response.status, response.reason()), (502, "expired"));
    origin.untouched();
}

/// A door with credentials for one workload, and a service for that workload alone.
fn with_credentials(auth: &str, origin: &Origin) -> Gateway {
    let service = Service::new("a", "allowed.test")
        .port(80, "HTTP", origin.address())
        .port(9000, "TCP", origin.address())
        .with("allow = [{ principal = \"spiffe://cluster.local/ns/default/sa/idgen\" }]\nrequire_proof = \"credentials\"");
    let config = format!(
        "mode = \"registry_only\"\n[[listener]]\nkind = \"http_proxy\"\nname = \"http_proxy\"\nbind = \"127.0.0.1:0\"\nauth = \"{auth}\"\n\
         [[workload]]\nname = \"idgen\"\nservice_account = \"idgen\"\nprincipal = \"spiffe://cluster.local/ns/default/sa/idgen\"\n\
         credentials = [{{ user = \"idgen\", password_file = \"password\" }}]\n{}",
        service.toml()
    );
    let start = Start::new(&config);
    std::fs::write(start.folder().join("password"), "s3cret:with/colon\n").expect("written");
    start.ready()
}

#[test]
fn credentials_name_the_workload() {
    let origin = Origin::http("for idgen");
    let gateway = with_credentials("required", &origin);
    let proxy = gateway.proxy();
    let url = "http://allowed.test/";
    let done = tools::curl(proxy, &["--proxy-user", "idgen:s3cret:with/colon", url]);
    assert_eq!(done.stdout, "for idgen", "{done:?}");
    for wrong in [None, Some("idgen:wrong"), Some("nobody:s3cret:with/colon")] {
        let mut arguments = vec!["-o", "/dev/null", "-D", "-", url];
        if let Some(user) = wrong {
            arguments.splice(0..0, ["--proxy-user", user]);
        }
        let done = tools::curl(proxy, &arguments);
        assert!(done.stdout.starts_with("HTTP/1.1 407 "), "{wrong:?}: {done:?}");
        let head = done.stdout.to_ascii_lowercase();
        assert!(head.contains("proxy-authenticate: basic "), "{head}");
        assert!(head.contains("x-sluice-reason: auth"), "{head}");
    }
    assert_eq!(origin.accepted(), 1);
    let entry = gateway.wait_entry(|entry| entry["response_code"] == 200);
    assert_eq!(entry["source_workload"], "idgen");
    assert_eq!(entry["source_principal"], "spiffe://cluster.local/ns/default/sa/idgen");
    assert_eq!(entry["source_proof"], "credentials");
    let labels =
        ["source_workload=\"idgen\"", "source_principal=\"spiffe://cluster.local/ns/default/sa/idgen\""];
    gateway.wait_metric("istio_requests_total", &labels, 1.0);
    // What the proxy is told is not what the origin is told.
    assert!(!origin.heads()[0].to_ascii_lowercase().contains("proxy-authorization"), "{:?}", origin.heads());
    // Secrets appear nowhere.
    for text in [gateway.admin_get("/config").text(), gateway.stderr(), gateway.log_lines().join("\n")] {
        assert!(!text.contains("s3cret") && !text.contains("aWRnZW46"), "{text}");
    }
}

#[test]
fn optional_credentials_are_checked_when_they_come() {
    let origin = Origin::http("x");
    let gateway = with_credentials("optional", &origin);
    let without = gateway.client().get("http://allowed.test/");
    assert_eq!((without.status, without.reason()), (403, "workload_not_allowed"));
    let wrong = gateway.client().request("GET", "http://allowed.test/", "Proxy-Authorization: Basic !!!\r\n");
    assert_eq!((wrong.status, wrong.reason()), (407, "auth"));
    let right = "Proxy-Authorization: Basic aWRnZW46czNjcmV0OndpdGgvY29sb24=\r\n";
    assert_eq!(gateway.client().request("GET", "http://allowed.test/", right).status, 200);
    // For a tunnel likewise.
    let mut client = gateway.client();
    client.send(format!("CONNECT allowed.test:9000 HTTP/1.1\r\nHost: allowed.test:9000\r\n{right}\r\n"));
    assert_eq!(client.response_to("CONNECT").status, 200);
    assert_eq!(gateway.client().connect_to("allowed.test:9000").status, 403);
}

#[test]
fn a_workload_is_known_by_its_address() {
    let origin = Origin::http("x");
    let config = registry_only()
        + "[[workload]]\nname = \"near\"\nnamespace = \"payments\"\naddresses = [\"127.0.9.0/24\"]\n\
           [[workload]]\nname = \"nearest\"\nnamespace = \"payments\"\naddresses = [\"127.0.9.9\"]\n"
        + &Service::new("a", "allowed.test")
            .port(80, "HTTP", origin.address())
            .with("allow = [{ workload = \"nearest\" }]")
            .toml();
    let gateway = Gateway::start(&config);
    let from = |ip: [u8; 4]| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from((ip, 0)).into()).expect("an address of loopback");
        socket.connect(&gateway.proxy().into()).expect("the door accepts");
        Http::over(TcpStream::from(socket))
    };
    assert_eq!(from([127, 0, 9, 9]).get("http://allowed.test/").status, 200);
    let other = from([127, 0, 9, 8]).get("http://allowed.test/");
    assert_eq!((other.status, other.reason()), (403, "workload_not_allowed"));
    assert!(other.text().contains("payments/near"), "{}", other.text());
    let entry = gateway.wait_entry(|entry| entry["response_code"] == 200);
    assert_eq!((&entry["source_workload"], &entry["source_proof"]), (&"nearest".into(), &"address".into()));
}

#[test]
fn the_mode_of_a_scope_wins_over_the_global_one() {
    let origin = Origin::http("x");
    let config = allow_any()
        + "[[scope]]\nsource = { namespace = \"payments\" }\nmode = \"registry_only\"\n\
           [[workload]]\nname = \"pay\"\nnamespace = \"payments\"\naddresses = [\"127.0.0.0/8\"]\n\
           [guard]\nallow = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::start(&config);
    let url = format!("http://127.0.0.1:{}/", origin.port());
    let response = gateway.client().get(&url);
    assert_eq!((response.status, response.reason()), (502, "not_registered"));
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn allow_any_passes_and_keeps_the_shadow_verdict() {
    let origin = Origin::http("passed");
    let gateway = Gateway::start(&(allow_any() + "[guard]\nallow = [\"127.0.0.0/8\"]\n"));
    let response = gateway.client().get(&format!("http://localhost:{}/", origin.port()));
    assert_eq!((response.status, response.text().as_str()), (200, "passed"));
    let entry = gateway.first_entry();
    for (key, value) in [
        ("policy_decision", "passthrough"),
        ("policy_reason", "passthrough"),
        ("shadow_decision", "deny"),
        ("shadow_reason", "not_registered"),
        ("upstream_cluster", "PassthroughCluster"),
    ] {
        assert_eq!(entry[key], value, "{key} of {entry}");
    }
    gateway.wait_metric("istio_requests_total", &["PassthroughCluster", "response_code=\"200\""], 1.0);
}

/// The lines that an answer's remedy says to put into the configuration.
fn registration(answer: &str) -> String {
    let lines = answer.lines().skip_while(|line| line.trim() != "[[service]]");
    lines.take_while(|line| line.starts_with(' ')).fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_remedy_is_configuration_that_works() {
    let origin = Origin::http("now it is");
    let base = registry_only();
    let gateway = Gateway::start(&base);
    let denied = |authority: &str| {
        let response = gateway.client().get(&format!("http://{authority}/"));
        assert_eq!((response.status, response.reason()), (502, "not_registered"), "{authority}");
        registration(&response.text())
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sluice.toml");
    for (authority, line) in [
        ("denied.test", "hosts = [\"denied.test\"]"),
        ("198.51.100.10", "addresses = [\"198.51.100.10/32\"]"),
        ("[2001:db8::7]:443", "addresses = [\"2001:db8::7/128\"]"),
        ("10.1.2.3:8080", "addresses = [\"10.1.2.3/32\"]"),
    ] {
        let service = denied(authority);
        assert!(service.contains(line), "{line} in {service}");
        std::fs::write(&path, format!("{}{service}", base.replace("127.0.0.1:0", "127.0.0.1:3128")))
            .expect("written");
        let output = run(&["check", "--config", &path.to_string_lossy()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{service}: {said}");
    }
    let authority = origin.address().to_string();
    let service = denied(&authority);
    gateway.reload(&(base.clone() + &service));
    let response = gateway.client().get(&format!("http://{authority}/"));
    assert_eq!((response.status, response.text().as_str()), (200, "now it is"), "{service}");
    // What is never dialled has no remedy, whether it is asked for in one way or the other.
    let own = gateway.proxy().to_string();
    for response in [gateway.client().get(&format!("http://{own}/")), gateway.client().connect_to(&own)] {
        let text = response.text();
        assert_eq!(response.status, 502, "{text}");
        assert!(
            text.contains("own_listener") && !text.contains("register it") && !text.contains("to allow it"),
            "{text}"
        );
    }
}

#[test]
fn the_remedy_for_a_tunnel_works_and_takes_nobodys_name() {
    let origin = Origin::echo();
    // Its name is the one that would be suggested.
    let other = Service::new("localhost", "other.test").port(80, "HTTP", origin.address()).toml();
    let base = registry_only() + &other + "[guard]\nallow = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::start(&base);
    let authority = format!("localhost:{}", origin.port());
    let response = gateway.client().connect_to(&authority);
    assert_eq!((response.status, response.reason()), (502, "not_registered"));
    let service = registration(&response.text());
    assert!(
        service.contains("name = \"localhost-2\"") && service.contains("protocol = \"TCP\""),
        "{service}"
    );
    gateway.reload(&(base + &service));
    let mut tunnel = gateway.client();
    assert_eq!(tunnel.connect_to(&authority).status, 200, "{service}");
    tunnel.send("no HTTP at all");
    assert_eq!(tunnel.exactly(14), b"no HTTP at all");
    let text = gateway.client().connect_to("other.test:8443").text();
    assert!(text.contains("add { number = 8443, protocol = \"TLS\" }"), "{text}");
}

#[test]
fn every_answer_to_an_unreadable_head_has_the_id_of_its_log_line() {
    let limit = "[limits]\nrequest_head_timeout_ms = 300\n";
    let gateway = Gateway::start(&(registry_only() + limit));
    let long = format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let mut ids = std::collections::HashSet::new();
    for (sent, status) in [
        ("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nx : y\r\nx-request-id: forged\r\n\r\n", 400),
        ("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nExpect: wonders\r\n\r\n", 417),
        ("GET http://a.test/ HTTP/3.0\r\nHost: a.test\r\n\r\n", 505),
        ("PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", 400),
        ("GET http://a.test/ HTTP/1.1\r\n", 408),
        (&long, 431),
    ] {
        let mut client = gateway.client();
        // An answer may come, and the connection end, before all of it is sent.
        client.try_send(sent);
        let response = client.response();
        assert_eq!(response.status, status);
        let id = response.header("x-request-id").expect("an id").to_owned();
        assert!(response.text().contains(&format!("request id: {id}\n")), "{}", response.text());
        assert!(response.header("x-sluice-reason").is_some_and(|line| line.contains(&id)), "{status}");
        let entry = gateway.wait_entry(|entry| entry["request_id"] == id.as_str());
        assert_eq!(entry["response_code"], status, "{entry}");
        assert!(ids.insert(id), "{status}: an id of its own");
    }
}
