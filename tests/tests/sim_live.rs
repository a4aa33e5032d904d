//! What happens to flows that are under way: new policies, new users, drains, lost answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sluice_bridge::{Auth, Command, DenyTls, Limits, Notice};
use sluice_engine::{Engine, Stream};
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_policy::{Mode, PolicyInput};
use sluice_proto::http1::Method;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::client::{Client, client_hello};
use sluice_tests::sim::origin::Behaviour;
use sluice_tests::sim::world::{
    ALLOWED, DENIED, PROXY, Setup, TCP, TLS, World, allow_any, cidr, patterns, policy, registry_only,
};
use sluice_tests::sim::{pattern, request, request_with_body};

fn world(policy: PolicyInput, setup: Setup) -> (World, SimEngine) {
    let world = World::with(Sim::new(11, Faults::none()), policy, setup);
    world.serve_origins();
    let engine = world.host(5);
    (world, engine)
}

async fn open(engine: &SimEngine, door: SocketAddr, first: &[u8]) -> Client {
    let client = Client::connect(engine, door).await.expect("the door is open");
    client.send(first).await.expect("a new connection takes it");
    client
}

async fn tunnel(engine: &SimEngine, authority: &str) -> Client {
    let mut client = open(engine, PROXY, &connect_to(authority)).await;
    assert_eq!(client.response(Method::Connect).await.expect("an answer").status, 200, "{authority}");
    client
}

fn connect_to(authority: &str) -> Vec<u8> {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes()
}

fn get(host: &str, what: Behaviour, length: usize) -> Vec<u8> {
    request("GET", host, what, 10, length)
}

/// The registry without the service that has `allowed.test` on 80 and 443.
fn without_web() -> PolicyInput {
    let mut input = registry_only();
    input.services.retain(|service| &*service.name != "web");
    input
}

fn reasons(world: &World) -> Vec<String> {
    let reason = |reason: Option<&[u8]>| String::from_utf8_lossy(reason.unwrap_or(b"-")).into_owned();
    world.records().iter().map(|record| reason(record.get(Field::PolicyReason))).collect()
}

/// All of them are reset within a second.
fn assert_all_reset(world: &World, cut: Vec<(&str, Client)>) {
    let before = world.sim.now();
    world.sim.block_on(async {
        for (name, mut client) in cut {
            let error = client.to_end().await.expect_err(name);
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{name}");
        }
    });
    assert!(world.sim.now().since(before) < Duration::from_secs(1), "within a second");
}

#[test]
fn a_flow_is_cut_wherever_it_is_and_others_lose_nothing() {
    let (world, engine) = world(registry_only(), Setup::default());
    let body = pattern(3, 90_000);
    let (cut, mut kept, mut idle) = world.sim.block_on(async {
        let upload = request_with_body("POST", "allowed.test", Behaviour::Plain, 10, &body);
        let mut tls = open(&engine, TLS, &client_hello("allowed.test")).await;
        tls.exactly(10).await.unwrap();
        let mut typed = tunnel(&engine, "allowed.test:443").await;
        typed.send(&client_hello("allowed.test")).await.unwrap();
        typed.exactly(10).await.unwrap();
        let inner = tunnel(&engine, "allowed.test:80").await;
        inner.send(b"GET /Silent/10/9 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        let cut = vec![
            (
                "waiting for a response",
                open(&engine, PROXY, &get("allowed.test", Behaviour::Silent, 9)).await,
            ),
            ("within a response", open(&engine, PROXY, &get("allowed.test", Behaviour::Stall, 9)).await),
            ("within a body", open(&engine, PROXY, &upload[..50_000]).await),
            ("not read", open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 900_000)).await),
            ("a hello awaited", tunnel(&engine, "allowed.test:443").await),
            ("half a hello", {
                let client = tunnel(&engine, "allowed.test:443").await;
                client.send(&client_hello("allowed.test")[..20]).await.unwrap();
                client
            }),
            ("a request in a tunnel", inner),
            ("a typed tunnel", typed),
            ("a TLS tunnel", tls),
        ];
        let mut kept = vec![tunnel(&engine, "allowed.test:9000").await, open(&engine, TCP, b"").await];
        for client in &mut kept {
            client.send(b"ping").await.unwrap();
            assert_eq!(client.exactly(4).await.unwrap(), b"ping");
        }
        let mut idle = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        assert_eq!(idle.response(Method::Get).await.unwrap().status, 200);
        engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
        (cut, kept, idle)
    });
    let (before, count) = (world.records().len(), cut.len());
    world.publish(without_web());
    assert_all_reset(&world, cut);
    world.sim.block_on(async {
        for client in &mut kept {
            client.send(b"pong").await.unwrap();
            assert_eq!(client.exactly(4).await.unwrap(), b"pong", "what stays allowed loses nothing");
        }
        // An idle client stays; its next request is decided by itself.
        idle.send(&get("allowed.test", Behaviour::Plain, 5)).await.unwrap();
        assert_eq!(idle.response(Method::Get).await.unwrap().status, 502);
    });
    let records = world.records().split_off(before);
    let revoked = records.iter().filter(|record| record.get(Field::PolicyReason) == Some(b"revoked"));
    for record in revoked {
        assert_eq!(record.response_flags, ResponseFlags::LR, "neither side is to blame");
    }
    let reasons = reasons(&world).split_off(before);
    assert_eq!(reasons.iter().filter(|reason| *reason == "revoked").count(), count, "{reasons:?}");
    assert_eq!(reasons.len(), count + 1);
    assert_eq!(world.metric("egress_flows_revoked_total", ""), count as f64);
    let upstreams: Vec<_> = world.sim.connections().into_iter().filter(|c| c.from_engine).collect();
    let open: Vec<u16> = upstreams.iter().filter(|c| c.client_open).map(|c| c.server.port()).collect();
    assert_eq!(open, [9000, 5432], "pooled connections to the denied host are closed too");
    drop((kept, idle));
    world.stop();
}

#[test]
fn a_flow_is_cut_while_its_name_is_resolved() {
    let (world, engine) = world(registry_only(), Setup::default());
    world.dns.lost.set(Some("allowed.test"));
    let cut = world.sim.block_on(waiting(&engine));
    world.publish(without_web());
    let count = cut.len();
    assert_all_reset(&world, cut);
    assert_eq!(reasons(&world), vec!["revoked"; count]);
    assert_eq!(world.sim.engine_attempts(), [], "no packet");
    world.stop();
}

#[test]
fn a_flow_is_cut_while_it_dials_and_dials_no_more() {
    let (world, engine) = world(registry_only(), Setup::default());
    world.sim.set_faults(Faults { connect_silent_permille: 1000, ..Faults::none() });
    let cut = world.sim.block_on(waiting(&engine));
    let attempts = world.sim.engine_attempts().len();
    assert_eq!(attempts, cut.len());
    world.publish(without_web());
    let count = cut.len();
    assert_all_reset(&world, cut);
    assert_eq!(reasons(&world), vec!["revoked"; count]);
    world.sim.run_for(Duration::from_secs(10));
    assert_eq!(world.sim.engine_attempts().len(), attempts);
    world.stop();
}

/// Flows that do not get as far as their destination.
async fn waiting(engine: &SimEngine) -> Vec<(&'static str, Client)> {
    let waiting = vec![
        ("a request", open(engine, PROXY, &get("allowed.test", Behaviour::Plain, 9)).await),
        ("a CONNECT", open(engine, PROXY, &connect_to("allowed.test:443")).await),
        ("TLS", open(engine, TLS, &client_hello("allowed.test")).await),
    ];
    engine.sleep_until(engine.now() + Duration::from_millis(500)).await;
    waiting
}

#[test]
fn an_address_that_is_being_dialled_is_judged_by_the_policy_that_finds_it_connected() {
    let private = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 7, 7, 7)), 80);
    let guarded = |allowed: bool| {
        let mut input = registry_only();
        input.guard.allow = if allowed { vec![cidr("10.7.0.0/16")] } else { Vec::new() };
        input
    };
    let (world, engine) = world(guarded(true), Setup::default());
    let ledger = world.serve_http_at(private);
    let client = world.sim.block_on(async {
        let client = open(&engine, PROXY, &get("private.test", Behaviour::Plain, 9)).await;
        world.sim.set_faults(Faults { latency_us_min: 400_000, latency_us_max: 400_000, ..Faults::none() });
        engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
        client
    });
    assert_eq!(world.sim.engine_attempts().len(), 1, "the dial is under way");
    world.publish(guarded(false));
    world.sim.run_for(Duration::from_secs(5));
    assert_eq!(ledger.seen(10), 0, "no byte went up");
    assert!(world.sim.connections().iter().all(|c| !c.from_engine || c.client_sent_bytes == 0));
    assert_eq!(reasons(&world), ["guard"]);
    drop(client);
    world.stop();
}

#[test]
fn an_established_flow_is_judged_by_a_new_guard() {
    let private = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 7, 7, 7)), 80);
    let mut input = registry_only();
    input.guard.allow = vec![cidr("10.7.0.0/16")];
    let (world, engine) = world(input, Setup::default());
    world.serve_http_at(private);
    let (cut, mut idle) = world.sim.block_on(async {
        let mut idle = open(&engine, PROXY, &get("private.test", Behaviour::Plain, 9)).await;
        assert_eq!(idle.response(Method::Get).await.unwrap().status, 200);
        let cut = vec![(
            "within a response",
            open(&engine, PROXY, &get("private.test", Behaviour::Stall, 9)).await,
        )];
        engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
        (cut, idle)
    });
    world.publish(registry_only());
    assert_all_reset(&world, cut);
    assert!(
        world.sim.connections().iter().all(|c| !c.from_engine || !c.client_open),
        "pooled ones are closed"
    );
    world.sim.block_on(async {
        idle.send(&get("private.test", Behaviour::Plain, 9)).await.unwrap();
        assert_eq!(idle.response(Method::Get).await.unwrap().status, 502);
    });
    assert_eq!(reasons(&world), ["registered", "revoked", "guard"]);
    world.stop();
}

#[test]
fn a_tunnel_to_a_tls_port_carries_no_name_of_another_rule() {
    let mut input = registry_only();
    let mut second =
        sluice_policy::ServiceInput::new("default", "second", sluice_policy::Origin::new("test", 1));
    second.hosts = patterns(&["second.test"]);
    second.ports = vec![sluice_policy::PortInput::new(443, sluice_policy::Protocol::Tls)];
    input.services.push(second);
    let (world, engine) = world(input, Setup::default());
    world.sim.block_on(async {
        let hello = client_hello("second.test");
        let mut direct = open(&engine, TLS, &client_hello("allowed.test")).await;
        direct.exactly(10).await.unwrap();
        let mut client = tunnel(&engine, "allowed.test:443").await;
        client.send(&hello).await.unwrap();
        assert!(client.to_end().await.is_err(), "allowed, but by another rule");
        let mut client = tunnel(&engine, "other.allowed.test:443").await;
        client.send(&client_hello("allowed.test")).await.unwrap();
        client.exactly(10).await.unwrap();
    });
    assert_eq!(reasons(&world), ["name_mismatch"]);
    world.stop();
}

#[test]
fn every_wait_has_its_end() {
    let (world, engine) = world(allow_any(), Setup::default());
    let seconds = |from: sluice_engine::Instant| engine.now().since(from).as_secs_f64();
    world.sim.block_on(async {
        let mut idle = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 9)).await;
        idle.response(Method::Get).await.unwrap();
        let start = engine.now();
        engine.sleep_until(start + Duration::from_secs(33)).await;
        let pooled = world.sim.connections().into_iter().filter(|c| c.from_engine && c.client_open).count();
        assert_eq!(pooled, 0, "an idle upstream is kept for 30 s");
        assert_eq!(idle.to_end().await.unwrap(), b"");
        assert!((59.0..62.0).contains(&seconds(start)), "an idle client for 60 s");

        let start = engine.now();
        let mut half_closed = open(&engine, PROXY, &connect_to("allowed.test:80")).await;
        half_closed.response(Method::Connect).await.unwrap();
        half_closed.send(b"GET /Silent/1/1 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        half_closed.stream.shutdown().unwrap();
        assert_eq!(half_closed.response(Method::Get).await.unwrap().status, 504);
        assert!((59.0..62.0).contains(&seconds(start)), "a response head for 60 s");

        let start = engine.now();
        let mut tls = open(&engine, TLS, &client_hello("allowed.test")).await;
        tls.exactly(20).await.unwrap();
        assert!(tls.to_end().await.is_err(), "an idle tunnel is reset");
        assert!((3599.0..3603.0).contains(&seconds(start)), "an idle tunnel for 1 h");

        world.sim.set_faults(Faults { connect_silent_permille: 1000, ..Faults::none() });
        let start = engine.now();
        let mut dialling = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 9)).await;
        assert_eq!(dialling.response(Method::Get).await.unwrap().status, 503);
        assert!((4.9..5.3).contains(&seconds(start)), "a connect for 5 s");
        world.sim.set_faults(Faults::none());

        // A client that goes on sending behind an answer that ended its connection.
        let start = engine.now();
        let mut talker = open(&engine, PROXY, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(talker.response(Method::Get).await.unwrap().status, 400);
        while talker.send(b"more").await.is_ok() && seconds(start) < 10.0 {
            engine.sleep_until(engine.now() + Duration::from_millis(50)).await;
        }
        assert!((0.9..1.5).contains(&seconds(start)), "a lingering close for 1 s");
    });
    world.stop();
}

#[test]
fn a_half_closed_tunnel_is_kept_for_a_minute() {
    let (world, engine) = world(allow_any(), Setup::default());
    world.sim.block_on(async {
        let mut client = tunnel(&engine, "denied.test:9002").await;
        client.send(b"to a server that never ends").await.unwrap();
        engine.sleep_until(engine.now() + Duration::from_secs(5)).await;
        let start = engine.now();
        client.stream.shutdown().unwrap();
        assert!(client.to_end().await.is_err());
        let seconds = engine.now().since(start).as_secs_f64();
        assert!((59.0..62.0).contains(&seconds), "{seconds} s");
    });
    let record = &world.records()[0];
    assert_eq!(record.get(Field::ConnectionTerminationDetails), Some(&b"half_close_timeout"[..]));
    world.stop();
}

#[test]
fn tunnels_count_their_payload_to_the_byte() {
    let (world, engine) = world(registry_only(), Setup::default());
    world.sim.block_on(async {
        for (door, preface) in [(PROXY, 0), (TLS, client_hello("allowed.test").len()), (TCP, 0)] {
            let mut client = match door {
                PROXY => tunnel(&engine, "allowed.test:9000").await,
                TLS => open(&engine, TLS, &client_hello("allowed.test")).await,
                _ => open(&engine, TCP, b"").await,
            };
            client.start(&pattern(5, 100_000));
            client.exactly(100_000 + preface).await.unwrap();
            client.send(b"last").await.unwrap();
            client.exactly(2).await.unwrap();
            client.stream.shutdown().unwrap();
            assert_eq!(client.to_end().await.unwrap(), b"st");
        }
        // A server that speaks first sends more than it gets.
        let mut greeted = open(&engine, PROXY, &connect_to("allowed.test:9000")).await;
        greeted.response(Method::Connect).await.unwrap();
        greeted.stream.shutdown().unwrap();
        assert_eq!(greeted.to_end().await.unwrap(), b"");
    });
    let hello = client_hello("allowed.test").len() as u64;
    let bytes: Vec<_> =
        world.records().iter().map(|record| (record.bytes_received, record.bytes_sent)).collect();
    assert_eq!(bytes, [(100_004, 100_004), (100_004 + hello, 100_004 + hello), (100_004, 100_004), (0, 0)]);
    for name in ["istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"] {
        assert_eq!(world.metric(name, ""), (3 * 100_004 + hello) as f64, "{name}");
    }
    world.stop();
}

#[test]
fn a_reset_comes_behind_what_was_sent_before_it() {
    let (world, engine) = world(allow_any(), Setup::default());
    world.sim.block_on(async {
        // A client that takes little at a time and reads late.
        world.sim.set_faults(Faults {
            socket_buffer_bytes_min: 300,
            socket_buffer_bytes_max: 300,
            ..Faults::none()
        });
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        world.sim.set_faults(Faults::none());
        client.send(&connect_to("denied.test:9003")).await.unwrap();
        assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
        engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
        assert_eq!(client.exactly(30_000).await.unwrap(), pattern(9, 30_000));
        let error = client.to_end().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "and a reset stays a reset");
    });
    let record = &world.records()[0];
    assert!(record.response_flags.contains(sluice_telemetry::ResponseFlags::UC));
    assert_eq!(record.bytes_sent, 30_000);
    world.stop();
}

#[test]
fn a_server_that_speaks_first_is_counted_on_its_own_side() {
    let (world, engine) = world(allow_any(), Setup::default());
    world.sim.block_on(async {
        let mut client = tunnel(&engine, "denied.test:9001").await;
        assert_eq!(client.exactly(6).await.unwrap(), b"hello\n");
        client.stream.shutdown().unwrap();
        assert_eq!(client.to_end().await.unwrap(), b"");
    });
    let record = &world.records()[0];
    assert_eq!((record.bytes_received, record.bytes_sent, record.response_code), (0, 6, 200));
    assert!(record.response_flags.is_empty());
    world.stop();
}

#[test]
fn a_drain_lets_go_of_idle_clients_serves_the_rest_and_ends_in_time() {
    let (world, engine) = world(allow_any(), Setup::default());
    let (mut idle, mut fresh, mut slow, mut stuck) = world.sim.block_on(async {
        let mut idle = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        assert!(idle.response(Method::Get).await.unwrap().persistent);
        let fresh = open(&engine, PROXY, b"").await;
        let mut slow = open(&engine, PROXY, b"").await;
        slow.send(&request_with_body("POST", "allowed.test", Behaviour::Plain, 10, b"12345678")[..60])
            .await
            .unwrap();
        let mut stuck = vec![
            tunnel(&engine, "allowed.test:9000").await,
            // Passing through unregistered: its first bytes are still awaited.
            tunnel(&engine, "denied.test:9000").await,
            open(&engine, PROXY, &get("allowed.test", Behaviour::Silent, 5)).await,
            open(&engine, PROXY, &get("allowed.test", Behaviour::Stall, 5)).await,
        ];
        engine.sleep_until(engine.now() + Duration::from_millis(50)).await;
        world.dns.lost.set(Some("open.test"));
        stuck.push(open(&engine, PROXY, &connect_to("open.test:443")).await);
        slow.exactly(0).await.unwrap();
        (idle, fresh, slow, stuck)
    });
    let before = world.sim.now();
    world.command(Command::Drain { deadline_ms: 4000 });
    world.sim.block_on(async {
        assert_eq!(idle.to_end().await.unwrap(), b"", "an idle client is let go");
        assert!(world.sim.now().since(before) < Duration::from_millis(100));
        fresh.send(&get("allowed.test", Behaviour::Plain, 5)).await.unwrap();
        let response = fresh.response(Method::Get).await.unwrap();
        assert_eq!((response.status, response.persistent), (200, false), "who has just come is served");
        let rest = &request_with_body("POST", "allowed.test", Behaviour::Plain, 10, b"12345678")[60..];
        slow.send(rest).await.unwrap();
        let response = slow.response(Method::Post).await.unwrap();
        assert_eq!((response.status, response.persistent), (200, false));
        assert_eq!(slow.to_end().await.unwrap(), b"");
        for client in &mut stuck {
            assert!(client.to_end().await.is_err(), "cut at the deadline");
        }
    });
    let took = world.sim.now().since(before).as_millis();
    assert!((3900..4600).contains(&took), "{took} ms");
    world.sim.run_for(Duration::from_millis(500));
    assert!(world.notices.borrow().iter().any(|notice| matches!(notice, Notice::Drained { cut: 5 })));
    assert_eq!(world.records().len(), 8);
    assert_eq!(world.sim.open().engine_listeners, 0);
    world.stop();
}

#[test]
fn a_name_whose_answer_was_lost_is_asked_for_again() {
    let (world, engine) = world(registry_only(), Setup::default());
    world.dns.lost.set(Some("allowed.test"));
    world.sim.block_on(async {
        let mut first = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        assert_eq!(first.response(Method::Get).await.unwrap().status, 503);
        world.dns.lost.set(None);
        let mut second = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        assert_eq!(second.response(Method::Get).await.unwrap().status, 200, "not stuck for ever");
    });
    assert!(world.dns.asked.get() <= 5, "asked {} times", world.dns.asked.get());
    world.stop();
}

#[test]
fn an_answer_without_a_life_still_serves_those_who_waited() {
    let (world, engine) = world(registry_only(), Setup::default());
    world.dns.fresh_ms.set(0);
    world.sim.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await);
        }
        for client in &mut clients {
            assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
        }
    });
    assert!(world.dns.asked.get() <= 2, "asked {} times", world.dns.asked.get());
    world.stop();
}

#[test]
fn a_second_family_is_tried_when_the_first_does_not_answer() {
    let (world, engine) = world(registry_only(), Setup::default());
    let before = world.sim.now();
    world.sim.block_on(async {
        let mut client = open(&engine, PROXY, &get("dual.test", Behaviour::Plain, 5)).await;
        assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
    });
    assert!(world.sim.now().since(before) < Duration::from_millis(500));
    let tried: Vec<bool> = world.sim.engine_attempts().iter().map(|attempt| attempt.to.is_ipv6()).collect();
    assert_eq!(tried, [true, false]);
    world.stop();
}

const BASIC_ANN: &str = "Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n";
const BASIC_BOB: &str = "Proxy-Authorization: Basic Ym9iOnNlY3JldA==\r\n";

fn with_credentials(request: &[u8], line: &str) -> Vec<u8> {
    let end = request.len() - 2;
    [&request[..end], line.as_bytes(), b"\r\n"].concat()
}

#[test]
fn who_must_authenticate_does_and_a_removed_user_is_cut() {
    let users = vec![("ann", "secret", "ann-app"), ("bob", "secret", "bob-app")];
    let (world, engine) = world(registry_only(), Setup { users, auth: Auth::Required, ..Setup::default() });
    let good = get("allowed.test", Behaviour::Plain, 5);
    let (mut ann, mut bob, mut inner) = world.sim.block_on(async {
        let mut client = open(&engine, PROXY, &good).await;
        let refused = client.response(Method::Get).await.unwrap();
        assert_eq!((refused.status, refused.persistent), (407, true));
        client.send(&with_credentials(&good, "Proxy-Authorization: Basic YW5uOndyb25n\r\n")).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 407);
        client.send(&with_credentials(&good, BASIC_ANN)).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
        client.send(&good).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 407, "each request by itself");
        let mut tunnels = Vec::new();
        for (line, authority) in [
            (BASIC_ANN, "allowed.test:9000"),
            (BASIC_BOB, "allowed.test:9000"),
            (BASIC_ANN, "allowed.test:80"),
        ] {
            let mut client = open(&engine, PROXY, &with_credentials(&connect_to(authority), line)).await;
            assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
            tunnels.push(client);
        }
        let inner = tunnels.pop().unwrap();
        let mut bob = tunnels.pop().unwrap();
        bob.send(b"ping").await.unwrap();
        bob.exactly(4).await.unwrap();
        (tunnels.pop().unwrap(), bob, inner)
    });
    let workload = |at: usize| world.records()[at].get(Field::SourceWorkload).map(<[u8]>::to_vec);
    assert_eq!([workload(0), workload(2)], [None, Some(b"ann-app".to_vec())]);
    // The same users again: nobody is disturbed.
    world.publish(registry_only());
    world.sim.run_for(Duration::from_secs(1));
    assert_eq!(world.metric("egress_flows_revoked_total", ""), 0.0);
    world.set_users(vec![("bob", "secret", "bob-app")]);
    world.publish(registry_only());
    world.sim.block_on(async {
        assert!(ann.to_end().await.is_err(), "a removed user's tunnel is cut");
        bob.send(b"pong").await.unwrap();
        assert_eq!(bob.exactly(4).await.unwrap(), b"pong");
        inner.send(b"GET /Plain/10/5 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(inner.response(Method::Get).await.unwrap().status, 407, "an idle tunnel of requests, too");
    });
    assert_eq!(world.metric("egress_flows_revoked_total", ""), 1.0);
    drop(bob);
    world.stop();
}

#[test]
fn optional_credentials_are_checked_where_they_are_sent() {
    let users = vec![("ann", "secret", "ann-app")];
    let (world, engine) = world(registry_only(), Setup { users, auth: Auth::Optional, ..Setup::default() });
    let good = get("allowed.test", Behaviour::Plain, 5);
    world.sim.block_on(async {
        let mut client = open(&engine, PROXY, &good).await;
        for (line, status) in [("", 200), (BASIC_ANN, 200), ("", 200), (BASIC_BOB, 407)] {
            client.send(&with_credentials(&good, line)).await.unwrap();
            if line.is_empty() && world.records().is_empty() {
                assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
            }
            assert_eq!(client.response(Method::Get).await.unwrap().status, status);
        }
    });
    let proofs: Vec<_> = world
        .records()
        .iter()
        .map(|record| String::from_utf8_lossy(record.get(Field::Proof).unwrap()).into_owned())
        .collect();
    assert_eq!(
        proofs,
        ["none", "none", "credentials", "none", "none"],
        "a proof lasts as long as it is shown"
    );
    world.stop();
}

#[test]
fn an_address_is_asked_for_the_name_behind_it() {
    let (world, engine) = world(registry_only(), Setup::default());
    let literal = format!("{DENIED}:443");
    world.sim.block_on(async {
        let mut named = tunnel(&engine, &literal).await;
        let hello = client_hello("allowed.test");
        named.send_split(&hello, 1, Duration::from_millis(1)).await.unwrap();
        assert_eq!(named.exactly(hello.len()).await.unwrap(), hello);
        for refused in [&client_hello("denied.test")[..], &client_hello("a..test"), b"SSH-2.0-x\r\n", b""] {
            let mut client = tunnel(&engine, &literal).await;
            client.send(refused).await.unwrap();
            assert!(client.to_end().await.is_err(), "{}", String::from_utf8_lossy(refused));
        }
        for (host, status) in [("allowed.test", 200), ("denied.test", 502), ("10.7.7.7", 502)] {
            let mut client = tunnel(&engine, &format!("{DENIED}:80")).await;
            let request = format!("GET /Plain/10/5 HTTP/1.1\r\nHost: {host}\r\n\r\n");
            client.send_split(request.as_bytes(), 1, Duration::from_millis(1)).await.unwrap();
            assert_eq!(client.response(Method::Get).await.unwrap().status, status, "{host}");
        }
    });
    let dialled: Vec<_> = world.sim.engine_attempts().iter().map(|attempt| attempt.to.ip()).collect();
    assert_eq!(dialled, [ALLOWED, ALLOWED], "the name's own address, never the one that was given");
    let black_holed = world.metric("istio_tcp_connections_closed_total", "BlackHoleCluster");
    assert_eq!(black_holed, 4.0, "a tunnel of requests is no denied flow");
    world.stop();
}

#[test]
fn in_allow_any_an_address_without_a_name_passes_and_a_server_may_speak_first() {
    let (world, engine) = world(allow_any(), Setup { opaque_ports: &[9001], ..Setup::default() });
    world.sim.block_on(async {
        let before = engine.now();
        let mut first = tunnel(&engine, &format!("{DENIED}:9001")).await;
        assert_eq!(first.exactly(6).await.unwrap(), b"hello\n");
        assert!(engine.now().since(before) < Duration::from_millis(100), "an opaque port is not waited on");
        let mut first = tunnel(&engine, "denied.test:9001").await;
        assert_eq!(first.exactly(6).await.unwrap(), b"hello\n", "nor is a name that passes");
        first.send(b"and back").await.unwrap();
        assert_eq!(first.exactly(8).await.unwrap(), b"and back");
        let before = engine.now();
        let mut silent = tunnel(&engine, &format!("{DENIED}:9000")).await;
        engine.sleep_until(before + Duration::from_millis(3100)).await;
        silent.send(b"late").await.unwrap();
        assert_eq!(silent.exactly(4).await.unwrap(), b"late", "after 3 s the address decides");
        let mut half = tunnel(&engine, &format!("{DENIED}:9000")).await;
        half.stream.shutdown().unwrap();
        assert_eq!(half.to_end().await.unwrap(), b"", "an end is passed on");
        let mut capitals = tunnel(&engine, &format!("{DENIED}:9000")).await;
        capitals.send(b"HEL").await.unwrap();
        engine.sleep_until(engine.now() + Duration::from_millis(1)).await;
        capitals.send(b"LO\r\n").await.unwrap();
        assert_eq!(capitals.exactly(7).await.unwrap(), b"HELLO\r\n");
        for refused in [client_hello("a..test"), client_hello("a.test")[..30].to_vec()] {
            let mut client = tunnel(&engine, &format!("{DENIED}:443")).await;
            client.send(&refused).await.unwrap();
            assert!(client.to_end().await.is_err(), "a hello that cannot be judged never passes");
        }
    });
    assert!(world.sim.engine_attempts().iter().all(|attempt| attempt.to.port() != 443));
    world.stop();
}

#[test]
fn a_refused_tls_client_may_be_told_why() {
    let (world, engine) = world(registry_only(), Setup { deny_tls: DenyTls::Alert, ..Setup::default() });
    world.sim.block_on(async {
        let mut client = open(&engine, TLS, &client_hello("denied.test")).await;
        assert_eq!(
            client.to_end().await.unwrap(),
            [21, 3, 3, 0, 2, 2, 112],
            "unrecognized_name, then the end"
        );
        // A probe of the port asks for nothing: it is no denial.
        for reset in [false, true] {
            let client = open(&engine, TLS, b"").await;
            engine.sleep_until(engine.now() + Duration::from_millis(10)).await;
            if reset {
                client.stream.reset();
            }
        }
        // Half a hello, then silence: 3 s and no packet.
        let before = engine.now();
        let mut client = open(&engine, TLS, &client_hello("allowed.test")[..40]).await;
        client.to_end().await.unwrap();
        assert!((2900..4200).contains(&engine.now().since(before).as_millis()));
    });
    assert_eq!(world.sim.engine_attempts(), []);
    assert_eq!(reasons(&world), ["not_registered", "-", "-", "sniff_timeout"]);
    assert_eq!(world.metric("egress_protocol_errors_total", "sniff_timeout"), 1.0);
    assert_eq!(world.metric("istio_tcp_connections_opened_total", "BlackHoleCluster"), 2.0);
    world.stop();
}

#[test]
fn a_registered_destination_that_is_denied_says_so_on_every_door() {
    let mut input = policy(Mode::AllowAny);
    for service in &mut input.services {
        service.allow = Some(Vec::new());
    }
    let limits = Limits::default();
    let (world, engine) = world(input, Setup { limits, ..Setup::default() });
    world.sim.block_on(async {
        let mut client = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        assert_eq!(client.response(Method::Get).await.unwrap().status, 403);
        client.send(&connect_to("allowed.test:443")).await.unwrap();
        assert_eq!(client.response(Method::Connect).await.unwrap().status, 403);
        for (door, first) in [(TLS, client_hello("allowed.test")), (TCP, b"x".to_vec())] {
            // A denial may come before the first byte has gone.
            let mut client = Client::connect(&engine, door).await.unwrap();
            client.start(&first);
            assert!(client.to_end().await.is_err());
        }
    });
    for record in world.records() {
        assert_eq!(record.get(Field::ResponseCodeDetails), Some(&b"rbac_access_denied"[..]));
        assert_eq!(record.get(Field::PolicyReason), Some(&b"workload_not_allowed"[..]));
    }
    assert_eq!(world.metric("egress_policy_decisions_total", "protocol=\"connect\""), 1.0);
    assert_eq!(world.sim.engine_attempts(), []);
    world.stop();
}

#[test]
fn doors_are_replaced_and_closed_without_leftovers() {
    let (world, engine) = world(registry_only(), Setup::default());
    let address = SocketAddr::new(PROXY.ip(), 4000);
    let plan = Arc::new(sluice_bridge::DoorPlan::new(sluice_bridge::DoorKind::HttpProxy, address));
    world.command(Command::OpenDoor(sluice_bridge::Door { plan: Arc::clone(&plan), socket: None }));
    world.sim.run_until_idle();
    world.sim.block_on(async {
        let queued = open(&engine, address, &get("allowed.test", Behaviour::Plain, 5)).await;
        world.command(Command::CloseDoor(address));
        let mut queued = queued;
        assert_eq!(queued.response(Method::Get).await.unwrap().status, 200);
        engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
        assert!(Client::connect(&engine, address).await.is_err(), "closed");
    });
    assert!(
        world
            .notices
            .borrow()
            .iter()
            .any(|notice| matches!(notice, Notice::DoorClosed(at) if *at == address))
    );
    world.stop();
}
