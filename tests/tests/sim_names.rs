//! The name that decides: which one a tunnel may carry, the one behind an address, and how it is resolved.

use std::time::Duration;

use sluice_engine::{Engine, Stream};
use sluice_policy::{Origin, PortInput, Protocol, ServiceInput};
use sluice_proto::http1::Method;
use sluice_tests::sim::client::{client_hello, open, tunnel};
use sluice_tests::sim::get;
use sluice_tests::sim::origin::Behaviour;
use sluice_tests::sim::world::{
    ALLOWED, DENIED, PROXY, Setup, TLS, allow_any, patterns, registry_only, undisturbed,
};

#[test]
fn a_tunnel_to_a_tls_port_carries_no_name_of_another_rule() {
    let mut input = registry_only();
    let mut second = ServiceInput::new("default", "second", Origin::new("test", 1));
    second.hosts = patterns(&["second.test"]);
    second.ports = vec![PortInput::new(443, Protocol::Tls)];
    input.services.push(second);
    let (world, engine) = undisturbed(input, Setup::default());
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
    assert_eq!(world.reasons(), ["name_mismatch"]);
    world.stop();
}

#[test]
fn an_address_is_asked_for_the_name_behind_it() {
    let (world, engine) = undisturbed(registry_only(), Setup::default());
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
    let (world, engine) = undisturbed(allow_any(), Setup { opaque_ports: &[9001], ..Setup::default() });
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
fn a_name_whose_answer_was_lost_is_asked_for_again() {
    let (world, engine) = undisturbed(registry_only(), Setup::default());
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
    let (world, engine) = undisturbed(registry_only(), Setup::default());
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
    let (world, engine) = undisturbed(registry_only(), Setup::default());
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
