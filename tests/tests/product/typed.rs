//! What a port is declared to carry: payload of another kind never reaches the origin, and a reload that declares
//! another protocol cuts what would be refused now.

use std::time::{Duration, Instant};

use sluice_tests::harness::hello::client_hello;
use sluice_tests::harness::origin::Loopback;
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, door, registry_only, servers, until};

/// A reload finds its doors by their addresses, so they are named.
struct Rig {
    gateway: Gateway,
    head: String,
}

impl Rig {
    fn start(service: &str) -> Self {
        let (proxy, tls) = (servers::free().to_string(), servers::free().to_string());
        let head = registry_only().replacen("127.0.0.1:0", &proxy, 1)
            + &door("tls", "destination_port = 9000").replacen("127.0.0.2:0", &tls, 1);
        Self { gateway: Gateway::start(&(head.clone() + service)), head }
    }

    fn reload(&self, service: &str) {
        self.gateway.reload(&(self.head.clone() + service));
    }

    fn tunnel(&self, inside: &[u8]) -> Http {
        let mut client = self.gateway.client();
        assert_eq!(client.connect_to("a.test:9000").status, 200);
        client.send(inside);
        assert_eq!(client.exactly(inside.len()), inside);
        client
    }
}

fn declared(protocol: &str, origin: &Origin) -> String {
    Service::new("a", "a.test").port(9000, protocol, origin.address()).toml()
}

#[test]
fn requests_in_flight_are_cut_when_their_port_becomes_tls() {
    let origin = Origin::start(|peer| {
        if peer.request().is_some_and(|request| request.head.contains("/idle")) {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        } else {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome");
        }
        peer.read_some();
    });
    let rig = Rig::start(&declared("HTTP", &origin));
    let mut idle = rig.gateway.client();
    assert_eq!(idle.get("http://a.test:9000/idle").text(), "ok");
    let mut absolute = rig.gateway.client();
    absolute.send("GET http://a.test:9000/ HTTP/1.1\r\nHost: a.test:9000\r\n\r\n");
    assert!(absolute.until(b"some").starts_with(b"HTTP/1.1 200"));
    let mut inner = rig.gateway.client();
    assert_eq!(inner.connect_to("a.test:9000").status, 200);
    inner.send("GET / HTTP/1.1\r\nHost: a.test:9000\r\n\r\n");
    assert!(inner.until(b"some").starts_with(b"HTTP/1.1 200"));
    rig.reload(&declared("TLS", &origin));
    let in_force = Instant::now();
    assert_eq!(absolute.rest().1, Ending::Reset);
    assert_eq!(inner.rest().1, Ending::Reset);
    assert!(in_force.elapsed() < Duration::from_secs(1), "{:?}", in_force.elapsed());
    until("both records", || {
        let revoked = |entry: &serde_json::Value| entry["policy_reason"] == "revoked";
        (rig.gateway.log_entries().into_iter().filter(revoked).count() == 2).then_some(())
    });
    until("the pooled connection's end", || {
        (rig.gateway.metric("egress_upstream_pool_idle_connections", &[]) < 0.5).then_some(())
    });
    let denied = idle.get("http://a.test:9000/idle");
    assert_eq!((denied.status, denied.reason()), (502, "protocol_mismatch"), "the idle client stays");
}

#[test]
fn a_tunnel_stays_only_if_a_new_one_like_it_would() {
    let origin = Origin::echo();
    let hello = client_hello(&[b"a.test"]);
    for (before, inside, after, stays) in [
        ("TCP", &b"anything"[..], "TLS", false),
        ("TCP", b"anything", "HTTP", false),
        ("TCP", b"anything", "MYSQL", true),
        ("TLS", &hello, "HTTP", false),
        ("TLS", &hello, "HTTPS", true),
        ("TLS", &hello, "TCP", true),
    ] {
        let rig = Rig::start(&declared(before, &origin));
        let mut tunnel = rig.tunnel(inside);
        rig.reload(&declared(after, &origin));
        if stays {
            tunnel.send("more");
            assert_eq!(tunnel.exactly(4), b"more", "{before} to {after}");
            assert!(rig.gateway.metric("egress_flows_revoked_total", &[]) < 0.5, "{before} to {after}");
        } else {
            assert_eq!(tunnel.rest().1, Ending::Reset, "{before} to {after}");
            let entry = rig.gateway.first_entry();
            assert_eq!(entry["policy_reason"], "revoked", "{before} to {after}: {entry}");
        }
    }
}

#[test]
fn tls_passed_through_is_cut_when_its_port_becomes_http() {
    let origin = Origin::echo();
    let hello = client_hello(&[b"a.test"]);
    let rig = Rig::start(&declared("TLS", &origin));
    let open = || {
        let mut client = Http::connect(rig.gateway.door("tls"));
        client.send(&hello);
        assert_eq!(client.exactly(hello.len()), hello);
        client
    };
    let mut client = open();
    rig.reload(&declared("HTTPS", &origin));
    client.send("more");
    assert_eq!(client.exactly(4), b"more", "the same to the gateway");
    rig.reload(&declared("HTTP", &origin));
    assert_eq!(client.rest().1, Ending::Reset);
    let mut client = Http::connect(rig.gateway.door("tls"));
    client.send(&hello);
    client.expect_end(Ending::Reset);
    let _ = rig.gateway.wait_entry(|entry| entry["policy_reason"] == "protocol_mismatch");
    assert_eq!(origin.accepted(), 1);
}

/// Two names of one rule become two rules: the server name inside no longer fits the tunnel's.
#[test]
fn a_tunnel_is_cut_when_the_name_inside_leaves_its_rule() {
    let origin = Origin::echo();
    let one = |name: &str, host: &str| Service::new(name, host).port(9000, "TLS", origin.address());
    let rig = Rig::start(&one("a", "a.test").host("b.test").toml());
    let (mut same, mut other) =
        (rig.tunnel(&client_hello(&[b"a.test"])), rig.tunnel(&client_hello(&[b"b.test"])));
    rig.reload(&(one("a", "a.test").toml() + &one("b", "b.test").toml()));
    assert_eq!(other.rest().1, Ending::Reset);
    same.send("more");
    assert_eq!(same.exactly(4), b"more");
}

#[test]
fn a_hello_in_a_tunnel_of_requests_is_no_request() {
    let origin = Origin::sink();
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    for inside in [client_hello(&[b"a.test"]), b"SSH-2.0-x\r\n".to_vec(), b"\0\0\0\0\r\n\r\n".to_vec()] {
        let mut client = gateway.client();
        assert_eq!(client.connect_to("a.test:80").status, 200);
        client.send(inside);
        let response = client.response();
        assert_eq!((response.status, response.reason()), (400, "malformed"));
        client.expect_end(Ending::Closed);
    }
    assert_eq!(origin.bytes(), 0, "the origin has been dialled and hears nothing");
}

/// The address is registered and its port is declared: what is no such protocol is cut before anybody is dialled.
#[test]
fn a_declared_port_of_an_address_carries_only_what_it_declares() {
    let place = Loopback::new();
    let origin = Origin::at((place.ip, 0).into(), sluice_tests::harness::origin::Peer::echo);
    let hello = client_hello(&[]);
    for (protocol, refused, reason) in [
        ("TLS", &b"SSH-2.0-x\r\n"[..], "protocol_mismatch"),
        ("TLS", b"", "sniff_timeout"),
        ("HTTP", b"SSH-2.0-x\r\n", "protocol_mismatch"),
        ("HTTP", &hello, "protocol_mismatch"),
    ] {
        let config = registry_only()
            + &format!(
                "[[service]]\nname = \"a\"\naddresses = [\"{}\"]\nports = [{{ number = {}, protocol = \"{protocol}\" }}]\nresolution = \"NONE\"\n",
                place.ip,
                origin.port()
            )
            + "[limits]\nsniff_timeout_ms = 300\n";
        let gateway = Gateway::start(&config);
        let mut client = gateway.client();
        assert_eq!(client.connect_to(&origin.address().to_string()).status, 200);
        client.send(refused);
        client.expect_end(Ending::Reset);
        let entry = gateway.first_entry();
        assert_eq!(
            (&entry["policy_decision"], &entry["policy_reason"]),
            (&"deny".into(), &reason.into()),
            "{entry}"
        );
        if protocol == "TLS" {
            assert_eq!(origin.accepted(), 0, "nobody was dialled");
            let mut client = gateway.client();
            assert_eq!(client.connect_to(&origin.address().to_string()).status, 200);
            if reason == "sniff_timeout" {
                client.send(&hello);
                assert_eq!(client.exactly(hello.len()), hello, "TLS without a name goes by the address");
            }
        }
    }
    assert_eq!(origin.accepted(), 1);
}
