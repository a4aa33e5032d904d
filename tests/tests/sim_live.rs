//! What happens to flows and doors that are at work when a policy changes, a drain begins, or a door is closed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sluice_bridge::{Command, Notice};
use sluice_engine::Engine;
use sluice_engine_sim::{Faults, SimEngine};
use sluice_policy::PolicyInput;
use sluice_proto::http1::Method;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::client::{Client, client_hello, open, tunnel};
use sluice_tests::sim::origin::Behaviour;
use sluice_tests::sim::world::{PROXY, Setup, TCP, TLS, World, allow_any, cidr, registry_only, undisturbed};
use sluice_tests::sim::{connect_to, get, pattern, request_with_body};

/// The registry without the service that has `allowed.test` on 80 and 443.
fn without_web() -> PolicyInput {
    let mut input = registry_only();
    input.services.retain(|service| &*service.name != "web");
    input
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
    let (world, engine) = undisturbed(registry_only(), Setup::default());
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
    let reasons = world.reasons().split_off(before);
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
fn a_client_that_is_kept_is_decided_by_the_policy_in_force() {
    let (world, engine) = undisturbed(without_web(), Setup::default());
    let request = get("allowed.test", Behaviour::Plain, 5);
    let mut client = world.sim.block_on(async { open(&engine, PROXY, b"").await });
    // Between two requests the connection is idle: no flow that could be cut. All of them ask the same.
    for (policy, status) in
        [(without_web(), 502), (registry_only(), 200), (without_web(), 502), (allow_any(), 200)]
    {
        world.publish(policy);
        world.sim.run_for(Duration::from_millis(50));
        world.sim.block_on(async {
            client.send(&request).await.unwrap();
            let response = client.response(Method::Get).await.unwrap();
            assert_eq!((response.status, response.reason.is_some()), (status, status == 502));
        });
    }
    world.stop();
}

#[test]
fn a_flow_is_cut_while_its_name_is_resolved() {
    let (world, engine) = undisturbed(registry_only(), Setup::default());
    world.dns.lost.set(Some("allowed.test"));
    let cut = world.sim.block_on(waiting(&engine));
    world.publish(without_web());
    let count = cut.len();
    assert_all_reset(&world, cut);
    assert_eq!(world.reasons(), vec!["revoked"; count]);
    assert_eq!(world.sim.engine_attempts(), [], "no packet");
    world.stop();
}

#[test]
fn a_flow_is_cut_while_it_dials_and_dials_no_more() {
    let (world, engine) = undisturbed(registry_only(), Setup::default());
    world.sim.set_faults(Faults { connect_silent_permille: 1000, ..Faults::none() });
    let cut = world.sim.block_on(waiting(&engine));
    let attempts = world.sim.engine_attempts().len();
    assert_eq!(attempts, cut.len());
    world.publish(without_web());
    let count = cut.len();
    assert_all_reset(&world, cut);
    assert_eq!(world.reasons(), vec!["revoked"; count]);
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
    let (world, engine) = undisturbed(guarded(true), Setup::default());
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
    assert_eq!(world.reasons(), ["guard"]);
    drop(client);
    world.stop();
}

#[test]
fn an_established_flow_is_judged_by_a_new_guard() {
    let private = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 7, 7, 7)), 80);
    let mut input = registry_only();
    input.guard.allow = vec![cidr("10.7.0.0/16")];
    let (world, engine) = undisturbed(input, Setup::default());
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
    assert_eq!(world.reasons(), ["registered", "revoked", "guard"]);
    world.stop();
}

#[test]
fn a_drain_lets_go_of_idle_clients_serves_the_rest_and_ends_in_time() {
    let (world, engine) = undisturbed(allow_any(), Setup::default());
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
        fresh.send(&get("allowed.test", Behaviour::Plain, 5)).await.unwrap();
        let response = fresh.response(Method::Get).await.unwrap();
        assert_eq!((response.status, response.persistent), (200, false), "who has just come is served");
        assert_eq!(
            idle.to_end().await.unwrap(),
            b"",
            "an idle client is let go once nothing can be on its way"
        );
        let waited = world.sim.now().since(before).as_millis();
        assert!((900..1100).contains(&waited), "{waited} ms");
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
fn doors_are_replaced_and_closed_without_leftovers() {
    let (world, engine) = undisturbed(registry_only(), Setup::default());
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
