//! Tunnels and waits: what each of them counts, in which order it ends, and that no wait is without its end.

use std::time::Duration;

use sluice_engine::{Engine, Stream};
use sluice_engine_sim::Faults;
use sluice_proto::http1::Method;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::client::{Client, client_hello, open, tunnel};
use sluice_tests::sim::origin::Behaviour;
use sluice_tests::sim::world::{PROXY, Setup, TCP, TLS, allow_any, registry_only, undisturbed};
use sluice_tests::sim::{connect_to, get, pattern};

#[test]
fn every_wait_has_its_end() {
    let (world, engine) = undisturbed(allow_any(), Setup::default());
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
    let (world, engine) = undisturbed(allow_any(), Setup::default());
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
    let (world, engine) = undisturbed(registry_only(), Setup::default());
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
    let (world, engine) = undisturbed(allow_any(), Setup::default());
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
    assert!(record.response_flags.contains(ResponseFlags::UC));
    assert_eq!(record.bytes_sent, 30_000);
    world.stop();
}

#[test]
fn a_server_that_speaks_first_is_counted_on_its_own_side() {
    let (world, engine) = undisturbed(allow_any(), Setup::default());
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
