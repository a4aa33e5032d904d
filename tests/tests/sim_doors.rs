//! The doors that a client does not know to be a proxy: `transparent` in both kinds of capture, and `http`; and where
//! their upstream connections come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sluice_bridge::{Notice, UpstreamSource};
use sluice_engine::Engine;
use sluice_engine_sim::{Capture, Faults, Sim, SimEngine};
use sluice_policy::{Origin, PolicyInput, PortInput, Protocol, Resolution, ServiceInput};
use sluice_proto::http1::Method;
use sluice_telemetry::access_log::{Entry, Field};
use sluice_tests::sim::client::{Client, client_hello};
use sluice_tests::sim::world::{
    ALLOWED, DENIED, HTTP, PROXY, REDIRECT, Setup, TPROXY, World, allow_any, cidr, patterns, registry_only,
};

fn world(policy: PolicyInput, setup: Setup) -> World {
    let world = World::with(Sim::new(21, Faults::none()), policy, setup);
    world.serve_origins();
    world
}

/// Both kinds of capture, each with a host whose connections it takes.
fn captured(world: &World) -> [SimEngine; 2] {
    let host = |last, how| {
        let host = world.host(last);
        world.sim.capture(&host, how);
        host
    };
    [host(5, Capture::Redirect(REDIRECT)), host(6, Capture::Tproxy(TPROXY))]
}

async fn open(engine: &SimEngine, to: SocketAddr, first: &[u8]) -> Client {
    let client = Client::connect(engine, to).await.expect("captured");
    client.send(first).await.expect("a new connection takes it");
    client
}

async fn status(client: &mut Client, request: &str) -> u16 {
    client.send(request.as_bytes()).await.expect("the connection stands");
    client.response(Method::Get).await.expect("an answer").status
}

fn get(host: &str) -> String {
    format!("GET /Plain/10/5 HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// The addresses that the gateway connected to.
fn dialled(world: &World) -> Vec<SocketAddr> {
    world.sim.engine_attempts().iter().map(|attempt| attempt.to).collect()
}

/// A registry-only policy with one service more, at the address [`DENIED`] and at no name.
fn with_address(ports: &[(u16, Protocol)]) -> PolicyInput {
    let mut input = registry_only();
    let mut service = ServiceInput::new("default", "by-address", Origin::new("simulation", 2));
    service.addresses = vec![cidr(&format!("{DENIED}/32"))];
    service.ports = ports.iter().map(|(port, protocol)| PortInput::new(*port, *protocol)).collect();
    input.services.push(service);
    input
}

#[test]
fn a_captured_name_decides_and_our_own_resolution_is_dialled() {
    let world = world(registry_only(), Setup::default());
    for engine in captured(&world) {
        let before = dialled(&world).len();
        world.sim.block_on(async {
            let hello = client_hello("allowed.test");
            let mut tls = open(&engine, at(DENIED, 443), b"").await;
            tls.send_split(&hello, 7, Duration::from_millis(1)).await.unwrap();
            assert_eq!(tls.exactly(hello.len()).await.unwrap(), hello);
            for refused in [client_hello("denied.test"), client_hello("a..test"), hello[..30].to_vec()] {
                let mut client = open(&engine, at(ALLOWED, 443), &refused).await;
                client.to_end().await.expect_err("a reset");
            }
            let mut kept = open(&engine, at(DENIED, 80), b"").await;
            for (host, expected) in [
                ("allowed.test", 200),
                ("denied.test", 502),
                ("ALLOWED.test.", 200),
                ("allowed.test:8080", 200),
                ("93.184.216.10", 502),
                ("allowed.test", 200),
            ] {
                assert_eq!(status(&mut kept, &get(host)).await, expected, "{host}");
            }
            for (request, expected) in [
                ("GET / HTTP/1.1\r\n\r\n", 400),
                ("GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: allowed.test\r\n\r\n", 400),
                ("GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n", 400),
                ("CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n", 405),
            ] {
                let mut client = open(&engine, at(ALLOWED, 80), b"").await;
                assert_eq!(status(&mut client, request).await, expected, "{request}");
            }
        });
        let dialled = dialled(&world).split_off(before);
        assert!(
            dialled.iter().all(|to| to.ip() == ALLOWED),
            "never where the client's packets went: {dialled:?}"
        );
        assert_eq!(dialled.first(), Some(&at(ALLOWED, 443)));
        assert!(dialled[1..].iter().all(|to| to.port() == 80), "at the original port: {dialled:?}");
    }
    let local: Vec<_> = world.records().iter().map(|record| record.downstream_local_address).collect();
    assert!(local.contains(&Some(at(DENIED, 443))), "the log names the original destination: {local:?}");
    world.stop();
}

#[test]
fn with_resolution_none_the_original_destination_is_kept_where_the_name_has_it() {
    let mut policy = registry_only();
    let mut service = ServiceInput::new("default", "none", Origin::new("simulation", 2));
    service.hosts = patterns(&["many.test"]);
    service.addresses = vec![cidr("198.51.100.7/32")];
    service.ports = vec![PortInput::new(80, Protocol::Http)];
    service.resolution = Resolution::None;
    policy.services.push(service);
    let world = world(policy, Setup::default());
    let _named = world.serve_http_at("198.51.100.7:80".parse().unwrap());
    let [redirected, tproxied] = captured(&world);
    let [elsewhere, named] = [[198, 51, 100, 8], [198, 51, 100, 7]].map(Ipv4Addr::from);
    world.sim.block_on(async {
        for engine in [&redirected, &tproxied] {
            for original in [elsewhere, ALLOWED, named] {
                let mut client = open(engine, at(original, 80), b"").await;
                assert_eq!(status(&mut client, &get("many.test")).await, 200, "{original}");
            }
            let mut nameless = open(engine, at(named, 80), b"").await;
            assert_eq!(status(&mut nameless, "GET /Plain/10/5 HTTP/1.0\r\n\r\n").await, 200);
        }
    });
    // Our own first answer where it is none of the name's, an answer of the name, one of the service's addresses.
    assert_eq!(dialled(&world)[..3], [DENIED, ALLOWED, named].map(|ip| at(ip, 80)));
    assert!(!dialled(&world).contains(&at(elsewhere, 80)));
    world.stop();
}

#[test]
fn without_a_name_the_address_decides() {
    let ports = [(9000, Protocol::Tcp), (80, Protocol::Http), (443, Protocol::Tls), (9002, Protocol::Http)];
    let world = world(with_address(&ports), Setup::default());
    for engine in captured(&world) {
        world.sim.block_on(async {
            let before = engine.now();
            let mut opaque = open(&engine, at(DENIED, 9000), b"hello").await;
            assert_eq!(opaque.exactly(5).await.unwrap(), b"hello");
            assert!(engine.now().since(before) < Duration::from_millis(100), "declared opaque: nobody waits");
            let mut old = open(&engine, at(DENIED, 80), b"").await;
            assert_eq!(status(&mut old, "GET /Plain/10/5 HTTP/1.0\r\n\r\n").await, 200);
            let mut nameless = open(&engine, at(ALLOWED, 80), b"").await;
            assert_eq!(status(&mut nameless, "GET /Plain/10/5 HTTP/1.0\r\n\r\n").await, 502);
        });
        let before = dialled(&world).len();
        world.sim.block_on(async {
            for (port, refused) in [
                (443, &b"SSH-2.0-x\r\n"[..]),
                (9002, b"SSH-2.0-x\r\n"),
                (9002, &client_hello("allowed.test")),
                (443, b""),
                (9001, b"SSH-2.0-x\r\n"),
                (9001, b""),
            ] {
                let mut client = open(&engine, at(DENIED, port), refused).await;
                client.to_end().await.expect_err("not what is declared there, or not registered");
            }
        });
        assert_eq!(dialled(&world).len(), before, "no packet upstream");
    }
    let reasons: Vec<_> = world
        .records()
        .iter()
        .filter_map(|record| {
            let reason = record.get(Field::PolicyReason)?;
            Some(String::from_utf8_lossy(reason).into_owned())
        })
        .collect();
    for reason in ["protocol_mismatch", "sniff_timeout", "not_registered", "port_not_registered"] {
        assert!(reasons.iter().any(|found| found == reason), "{reason}: {reasons:?}");
    }
    world.stop();
}

#[test]
fn where_a_server_may_speak_first_nobody_waits() {
    let setup = || Setup { opaque_ports: &[9001], ..Setup::default() };
    let open_world = world(allow_any(), setup());
    for engine in captured(&open_world) {
        open_world.sim.block_on(async {
            let before = engine.now();
            let mut first = open(&engine, at(DENIED, 9001), b"").await;
            assert_eq!(first.exactly(6).await.unwrap(), b"hello\n");
            assert!(engine.now().since(before) < Duration::from_millis(50));
            let before = engine.now();
            let silent = open(&engine, at(ALLOWED, 9002), b"").await;
            engine.sleep_until(before + Duration::from_millis(3100)).await;
            silent.send(b"late").await.unwrap();
        });
    }
    assert!(
        dialled(&open_world).contains(&at(ALLOWED, 9002)),
        "in allow-any the address passes after the wait"
    );
    open_world.stop();
    // Only `db` has 5432, and declares it opaque: no name can come, so nobody waits for one.
    let closed = world(registry_only(), setup());
    for engine in captured(&closed) {
        closed.sim.block_on(async {
            for (port, waits) in [(5432, false), (9001, true)] {
                let before = engine.now();
                let mut client = open(&engine, at(DENIED, port), b"").await;
                client.to_end().await.expect_err("refused");
                let waited = engine.now().since(before);
                assert_eq!(waited > Duration::from_secs(2), waits, "{port}: {waited:?}");
            }
        });
    }
    assert_eq!(dialled(&closed), []);
    closed.stop();
}

#[test]
fn a_connection_to_the_door_itself_is_refused_at_once() {
    let mut policy = allow_any();
    policy.guard.own_listeners = vec![PROXY, REDIRECT, TPROXY];
    let world = world(policy, Setup::default());
    let direct = world.host(7);
    let captured = captured(&world);
    world.sim.block_on(async {
        let before = direct.now();
        for door in [REDIRECT, TPROXY] {
            let mut client = open(&direct, door, get("allowed.test").as_bytes()).await;
            client.to_end().await.expect_err("refused");
        }
        for engine in &captured {
            for own in [PROXY, REDIRECT, TPROXY] {
                let mut client = open(engine, own, b"").await;
                client.to_end().await.expect_err("refused");
            }
            let mut metadata = open(engine, at(Ipv4Addr::new(169, 254, 169, 254), 80), b"").await;
            metadata.to_end().await.expect_err("never dialled: nothing to wait for");
        }
        assert!(direct.now().since(before) < Duration::from_millis(500), "at once");
    });
    assert_eq!(dialled(&world), []);
    assert_eq!(world.metric("egress_guard_refusals_total", "own_listener"), 8.0);
    let details = |record: &Entry| record.get(Field::ConnectionTerminationDetails) == Some(b"not_captured");
    assert_eq!(
        world.records().iter().filter(|record| details(record)).count(),
        8,
        "and the access log says why"
    );
    let told =
        world.notices.borrow().iter().filter(|notice| matches!(notice, Notice::NotCaptured { .. })).count();
    assert_eq!(told, 1, "the log hears of it, not of each");
    world.stop();
}

#[test]
fn the_http_door_takes_requests_as_an_origin_does() {
    let world = world(registry_only(), Setup::default());
    let engine = world.host(5);
    world.sim.block_on(async {
        let mut kept = open(&engine, HTTP, b"").await;
        for (host, expected) in [
            ("allowed.test", 200),
            ("allowed.test:80", 200),
            ("sub.allowed.test", 503),
            ("other.allowed.test", 200),
            ("denied.test", 502),
            ("allowed.test:81", 502),
            ("allowed.test:443", 502),
            ("93.184.216.10", 502),
        ] {
            assert_eq!(status(&mut kept, &get(host)).await, expected, "{host}");
        }
        let absolute = "GET http://allowed.test/Plain/10/5 HTTP/1.1\r\nHost: allowed.test\r\n\r\n";
        assert_eq!(status(&mut kept, absolute).await, 200);
        for (request, expected) in [
            ("GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n", 400),
            ("GET http://allowed.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n", 400),
            ("CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n", 405),
            ("GET / HTTP/1.0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: allowed.test\r\n\r\n", 505),
        ] {
            let mut client = open(&engine, HTTP, b"").await;
            assert_eq!(status(&mut client, request).await, expected, "{request}");
        }
    });
    assert!(dialled(&world).iter().all(|to| *to == at(ALLOWED, 80)), "{:?}", dialled(&world));
    world.stop();
}

#[test]
fn http2_with_prior_knowledge_is_refused_in_its_own_words() {
    let world = world(allow_any(), Setup::default());
    let [redirected, _] = captured(&world);
    let direct = world.host(7);
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // SETTINGS without settings; GOAWAY of stream 0: last stream 0, HTTP_1_1_REQUIRED.
    const GOAWAY: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13];
    world.sim.block_on(async {
        for (engine, door) in [(&direct, HTTP), (&direct, PROXY), (&redirected, at(ALLOWED, 80))] {
            let mut client = open(engine, door, PREFACE).await;
            assert_eq!(client.to_end().await.unwrap(), GOAWAY, "{door}");
            let mut slow = open(engine, door, b"").await;
            slow.send_split(&PREFACE[..24], 1, Duration::from_millis(1)).await.unwrap();
            assert_eq!(slow.to_end().await.unwrap(), GOAWAY, "{door}");
            // Nothing but the preface, to the byte, is HTTP/2: whoever else says PRI hears of it in HTTP/1.1.
            for (near, expected) in [
                ("PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", 400),
                ("PRI * HTTP/1.1\r\nHost: allowed.test\r\n\r\n", 400),
                ("PRI * HTTP/2.0\r\nHost: allowed.test\r\n\r\n", 400),
                ("PRI * HTTP/2.0\r\n\r\nSM\r\nx", 400),
                ("PRI * HTTP/2.0\r\n\r\n", 408),
            ] {
                let mut client = open(engine, door, b"").await;
                client.send_split(near.as_bytes(), 1, Duration::from_millis(1)).await.unwrap();
                assert_eq!(client.response(Method::Get).await.unwrap().status, expected, "{door}: {near}");
            }
        }
    });
    assert_eq!(dialled(&world), []);
    assert_eq!(world.metric("egress_protocol_errors_total", "error=\"http2\""), 6.0);
    world.stop();
}

#[test]
fn connections_come_from_the_address_that_is_asked_for() {
    let own: IpAddr = Ipv4Addr::new(192, 0, 2, 77).into();
    let mut policy = registry_only();
    let mut kept = ServiceInput::new("default", "kept", Origin::new("simulation", 2));
    kept.hosts = patterns(&["second.test"]);
    kept.ports = vec![PortInput::new(80, Protocol::Http)];
    policy.services[0].source_address = Some(own);
    policy.services.push(kept);
    let setup = Setup { upstream_source: UpstreamSource::Client, ..Setup::default() };
    let world = world(policy.clone(), setup);
    let [redirected, tproxied] = captured(&world);
    world.sim.block_on(async {
        for engine in [&redirected, &tproxied] {
            let mut client = open(engine, at(DENIED, 80), b"").await;
            for host in ["allowed.test", "dual.test", "second.test"] {
                assert_eq!(status(&mut client, &get(host)).await, 200, "{host}");
            }
        }
    });
    let from: Vec<IpAddr> = world.sim.engine_attempts().iter().map(|attempt| attempt.from.ip()).collect();
    let (gateway, client) = (world.sim.engine().address(), tproxied.address());
    // The second client's first two requests find pooled connections that have the same source.
    assert_eq!(
        from,
        [own, own, gateway, client],
        "the service's own, then the client's where the door keeps it"
    );
    policy.services[0].source_address = Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into());
    world.publish(policy);
    let answer = world.sim.block_on(async {
        let mut client = open(&redirected, at(DENIED, 80), get("allowed.test").as_bytes()).await;
        client.response(Method::Get).await.unwrap()
    });
    assert_eq!(answer.status, 503);
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains("source address 2001:db8::7"), "{text}");
    assert_eq!(world.sim.engine_attempts().len(), from.len(), "nothing was dialled from another address");
    world.stop();
}

#[test]
fn a_rule_that_captures_the_gateway_itself_makes_no_loop() {
    for how in [Capture::Redirect(REDIRECT), Capture::Tproxy(TPROXY)] {
        let world = world(allow_any(), Setup { opaque_ports: &[9000], ..Setup::default() });
        world.sim.capture(&world.sim.engine(), how);
        let client = world.host(7);
        world.sim.block_on(async {
            let mut requests = open(&client, HTTP, b"").await;
            assert_eq!(status(&mut requests, &get("allowed.test")).await, 502, "{how:?}");
            for (port, first) in [(443, client_hello("allowed.test")), (9000, b"opaque".to_vec())] {
                let connect = format!("CONNECT {ALLOWED}:{port} HTTP/1.1\r\nHost: {ALLOWED}:{port}\r\n\r\n");
                let mut tunnel = open(&client, PROXY, connect.as_bytes()).await;
                let _ = tunnel.send(&first).await;
                tunnel.to_end().await.expect_err("the loop is cut");
            }
        });
        let dialled = dialled(&world).len();
        assert!((3..10).contains(&dialled), "{how:?}: {dialled} were dialled for three clients");
        let told = |notice: &Notice| matches!(notice, Notice::CapturesItself { .. });
        assert_eq!(world.notices.borrow().iter().filter(|notice| told(notice)).count(), 1);
        assert!(world.metric("egress_active_connections", "") < 4.0, "nothing goes on in circles");
        world.stop();
    }
}

#[test]
fn what_a_server_may_take_for_a_request_is_judged_as_one() {
    let world = world(registry_only(), Setup::default());
    for engine in captured(&world) {
        world.sim.block_on(async {
            for method in ["M-SEARCH", "get", "M", "VERSION-CONTROL-OF-ANY-LENGTH", "\r\nGET"] {
                let request = format!("{method} /Plain/10/5 HTTP/1.1\r\nHost: denied.test\r\n\r\n");
                let mut client = open(&engine, at(ALLOWED, 80), b"").await;
                assert_eq!(status(&mut client, &request).await, 502, "{method:?}");
            }
        });
    }
    assert_eq!(dialled(&world), []);
    world.stop();
}
