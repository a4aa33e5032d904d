//! The production sessions in a simulated world: first that they do what they should, then that nothing which may
//! happen to them makes them do anything else.

use std::rc::Rc;
use std::time::Duration;

use sluice_bridge::{Command, Notice};
use sluice_engine::Engine;
use sluice_engine_sim::{Faults, Sim};
use sluice_proto::http1::Method;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::chaos::{Asked, Chaos, Rules, judge_records};
use sluice_tests::sim::client::{Client, client_hello};
use sluice_tests::sim::pattern;
use sluice_tests::sim::world::{ALLOWED, DENIED, PROXY, TCP, TLS, World, allow_any, registry_only};

fn world(policy: sluice_policy::PolicyInput) -> World {
    let world = World::start(Sim::new(1, Faults::none()), policy);
    world.serve_origins();
    world
}

fn get(host: &str, tag: u64, length: usize) -> Vec<u8> {
    format!("GET http://{host}/{tag}/{length} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

#[test]
fn a_registered_host_passes_and_its_connection_is_used_again() {
    let world = world(registry_only());
    let engine = world.host(5);
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        for (tag, length) in [(2, 0), (3, 10), (4, 100_000), (5, 50_000), (6, 1)] {
            client.send(&get("allowed.test", tag, length)).await.unwrap();
            let response = client.response(Method::Get).await.unwrap();
            assert_eq!((response.status, response.persistent), (200, true));
            assert_eq!(response.body, pattern(tag, length));
        }
    });
    assert_eq!(world.sim.engine_attempts().len(), 1, "one upstream connection for five requests");
    let records = world.records();
    assert_eq!(records.len(), 5);
    assert_eq!(records[0].get(Field::PolicyReason), Some(&b"registered"[..]));
    assert_eq!(records[0].get(Field::Service), Some(&b"default/web"[..]));
    world.stop();
}

#[test]
fn what_is_not_registered_is_answered_and_no_packet_goes_up() {
    let world = world(registry_only());
    let engine = world.host(5);
    let refused = [
        ("denied.test", 502, "not_registered"),
        ("allowed.test:81", 502, "port_not_registered"),
        ("metadata.test", 502, "guard"),
        ("private.test", 502, "guard"),
        ("a..test", 400, "malformed"),
        ("0x7f.1", 400, "malformed"),
        ("evilallowed.test", 502, "not_registered"),
    ];
    world.sim.block_on(async {
        for (host, status, reason) in refused {
            let mut client = Client::connect(&engine, PROXY).await.unwrap();
            client.send(&get(host, 2, 5)).await.unwrap();
            let response = client.response(Method::Get).await.unwrap();
            assert_eq!(response.status, status, "{host}");
            let text = response.reason.unwrap();
            assert!(text.starts_with(reason), "{host}: {text}");
            let mut client = Client::connect(&engine, PROXY).await.unwrap();
            let authority = if host.contains(':') { host.to_owned() } else { format!("{host}:443") };
            client
                .send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let response = client.response(Method::Connect).await.unwrap();
            assert_eq!(response.status, status, "CONNECT {authority}");
            assert!(!response.persistent);
        }
    });
    assert_eq!(world.sim.engine_attempts(), [], "a denial sends no packet");
    world.stop();
}

#[test]
fn an_address_that_is_never_dialled_is_refused_at_once() {
    for policy in [registry_only(), allow_any()] {
        let world = world(policy);
        let engine = world.host(5);
        let literals = [
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::]",
            "[fe80::1]",
            "224.0.0.1",
            "0.0.0.0",
        ];
        world.sim.block_on(async {
            for literal in literals {
                let mut client = Client::connect(&engine, PROXY).await.unwrap();
                let connect = format!("CONNECT {literal}:80 HTTP/1.1\r\nHost: {literal}:80\r\n\r\n");
                client.send(connect.as_bytes()).await.unwrap();
                let response = client.response(Method::Connect).await.unwrap();
                assert_eq!(response.status, 502, "{literal}");
                assert!(response.reason.unwrap().starts_with("guard"), "{literal}");
            }
            // A private address may be what a client resolved for itself: the name inside is asked for.
            let mut client = Client::connect(&engine, PROXY).await.unwrap();
            client.send(b"CONNECT 10.7.7.7:80 HTTP/1.1\r\nHost: 10.7.7.7:80\r\n\r\n").await.unwrap();
            assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
        });
        assert_eq!(world.sim.engine_attempts(), [], "no packet");
        world.stop();
    }
}

#[test]
fn the_guard_skips_refused_addresses_and_dials_the_rest() {
    let world = world(registry_only());
    let engine = world.host(5);
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        client.send(&get("mixed.test", 2, 7)).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().body, pattern(2, 7));
    });
    let attempts = world.sim.engine_attempts();
    assert_eq!(attempts.iter().map(|attempt| attempt.to.ip()).collect::<Vec<_>>(), [ALLOWED]);
    world.stop();
}

#[test]
fn tls_goes_by_its_server_name_and_tcp_by_its_service() {
    let world = world(registry_only());
    let engine = world.host(5);
    world.sim.block_on(async {
        let hello = client_hello("AlLoWeD.TeSt");
        let mut client = Client::connect(&engine, TLS).await.unwrap();
        client.send(&hello).await.unwrap();
        assert_eq!(client.exactly(hello.len()).await.unwrap(), hello, "relayed unmodified, echoed back");
        let mut client = Client::connect(&engine, TCP).await.unwrap();
        client.send(b"select 1").await.unwrap();
        assert_eq!(client.exactly(8).await.unwrap(), b"select 1");
        for refused in [client_hello("denied.test"), b"SSH-2.0-x\r\n".to_vec(), client_hello("10.0.0.1")] {
            let mut client = Client::connect(&engine, TLS).await.unwrap();
            client.send(&refused).await.unwrap();
            assert!(client.to_end().await.is_err(), "a denial on TLS is a reset");
        }
    });
    assert_eq!(world.sim.engine_attempts().len(), 2);
    world.stop();
}

#[test]
fn connect_to_a_tls_port_wants_a_hello_inside_the_rule() {
    let world = world(registry_only());
    let engine = world.host(5);
    let connect = |port: u16| format!("CONNECT allowed.test:{port} HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        client.send(connect(443).as_bytes()).await.unwrap();
        assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
        let hello = client_hello("allowed.test");
        client.send(&hello).await.unwrap();
        assert_eq!(client.exactly(hello.len()).await.unwrap(), hello);

        for inner in [client_hello("denied.test"), b"SSH-2.0-x\r\n".to_vec()] {
            let mut client = Client::connect(&engine, PROXY).await.unwrap();
            client.send(connect(443).as_bytes()).await.unwrap();
            assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
            client.send(&inner).await.unwrap();
            assert!(client.to_end().await.is_err(), "cut");
        }

        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        client.send(connect(9000).as_bytes()).await.unwrap();
        assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
        client.send(b"anything").await.unwrap();
        assert_eq!(client.exactly(8).await.unwrap(), b"anything", "a declared TCP port is opaque");
    });
    let served: Vec<u64> =
        world.sim.connections().iter().filter(|c| c.from_engine).map(|c| c.client_sent_bytes).collect();
    assert_eq!(served[1..3], [0, 0], "no payload byte went up in the tunnels that were cut");
    world.stop();
}

#[test]
fn connect_to_an_http_port_is_proxied_request_by_request() {
    let world = world(registry_only());
    let engine = world.host(5);
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        client.send(b"CONNECT allowed.test:80 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
        client.send(b"GET /4/9 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().body, pattern(4, 9));
        client.send(b"GET /4/9 HTTP/1.1\r\nHost: denied.test\r\n\r\n").await.unwrap();
        let response = client.response(Method::Get).await.unwrap();
        assert_eq!(response.status, 421);
        assert!(response.reason.unwrap().starts_with("name_mismatch"));
    });
    assert_eq!(world.sim.engine_attempts().len(), 1);
    world.stop();
}

#[test]
fn a_rejected_connect_hides_what_follows_it() {
    let world = world(registry_only());
    let engine = world.host(5);
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        let mut both = b"CONNECT denied.test:443 HTTP/1.1\r\nHost: denied.test\r\n\r\n".to_vec();
        both.extend_from_slice(&get("allowed.test", 2, 2));
        client.send(&both).await.unwrap();
        assert_eq!(client.response(Method::Connect).await.unwrap().status, 502);
        assert_eq!(client.to_end().await.unwrap(), b"", "one denial, then the end");
    });
    assert_eq!(world.sim.engine_attempts(), []);
    assert_eq!(world.records().len(), 1);
    world.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let world = world(registry_only());
    let engine = world.host(5);
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        let mut all = Vec::new();
        for tag in 1..20 {
            let host = if tag % 7 == 0 { "denied.test" } else { "allowed.test" };
            all.extend_from_slice(&get(host, tag, tag as usize * 100));
        }
        client.send(&all).await.unwrap();
        for tag in 1..20 {
            let response = client.response(Method::Get).await.unwrap();
            if tag % 7 == 0 {
                assert_eq!(response.status, 502);
            } else {
                assert_eq!((response.status, response.body), (200, pattern(tag, tag as usize * 100)));
            }
        }
    });
    world.stop();
}

#[test]
fn a_new_policy_cuts_what_it_denies_and_nothing_else() {
    let world = world(allow_any());
    let engine = world.host(5);
    let (mut kept, mut cut) = world.sim.block_on(async {
        let mut kept = Client::connect(&engine, PROXY).await.unwrap();
        kept.send(b"CONNECT allowed.test:9000 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(kept.response(Method::Connect).await.unwrap().status, 200);
        let mut cut = Client::connect(&engine, PROXY).await.unwrap();
        cut.send(b"CONNECT denied.test:9000 HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(cut.response(Method::Connect).await.unwrap().status, 200);
        for client in [&mut kept, &mut cut] {
            client.send(b"ping").await.unwrap();
            assert_eq!(client.exactly(4).await.unwrap(), b"ping");
        }
        (kept, cut)
    });
    let before = world.sim.now();
    world.publish(registry_only());
    world.sim.block_on(async {
        assert!(cut.to_end().await.is_err(), "the denied tunnel is reset");
        kept.send(b"pong").await.unwrap();
        assert_eq!(kept.exactly(4).await.unwrap(), b"pong", "the other one loses nothing");
    });
    assert!(world.sim.now().since(before).as_secs_f64() < 1.0);
    let records = world.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].get(Field::PolicyReason), Some(&b"revoked"[..]));
    drop((kept, cut));
    world.stop();
}

/// One run: many clients, everything may break, and the policy or the worker changes while they are at it.
fn one_seed(seed: u64) {
    let kind = seed % 4;
    let start = if matches!(kind, 0 | 3) { registry_only() } else { allow_any() };
    let rules = Rules { denies: matches!(kind, 0 | 3), drains: kind == 3 };
    let world = World::start(Sim::new(seed, Faults::none()), start);
    let ledger = world.serve_origins();
    world.sim.set_faults(Faults::all());
    if seed % 16 == 5 {
        world.dns.fresh_ms.set(0);
    }
    let asked = Asked::default();
    let complaints = world.sim.block_on(async {
        let clients = (0..12).map(|id| {
            let engine = world.host(10 + id as u8);
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let client = Chaos { engine: engine.clone(), id, rules, asked: Rc::clone(&asked) };
            engine.spawn(async move {
                // A receiver that is gone has panicked already.
                let _ = sender.send(client.run().await);
            });
            receiver
        });
        let clients = futures_util::future::join_all(clients.collect::<Vec<_>>());
        futures_util::future::join(clients, disturb(&world, kind)).await.0
    });
    for complaint in complaints {
        assert_eq!(complaint.expect("the client's task ends"), None, "seed {seed}");
    }
    assert_eq!(ledger.repeated(), None, "seed {seed}: a request was sent too often");
    if rules.denies {
        let astray = world.sim.engine_attempts().into_iter().find(|attempt| attempt.to.ip() == DENIED);
        assert_eq!(astray, None, "seed {seed}: a packet to a denied host");
    }
    if kind == 2 {
        world.publish(registry_only());
        world.sim.run_for(Duration::from_secs(1));
        let open = world.sim.connections().into_iter().find(|connection| {
            connection.from_engine && connection.client_open && connection.server.ip() == DENIED
        });
        assert_eq!(open, None, "seed {seed}: a connection that the policy denies");
    }
    if kind == 3 {
        world.sim.run_for(Duration::from_secs(12));
        let drained = |notice: &Notice| matches!(notice, Notice::Drained { .. });
        assert!(world.notices.borrow().iter().any(drained), "seed {seed}: the drain ends");
    }
    let records = world.stop();
    assert_eq!(judge_records(&asked, &records), None, "seed {seed}");
}

/// Flips the policy at random moments, or drains at one.
async fn disturb(world: &World, kind: u64) {
    let engine = world.host(250);
    let pause = |millis: u64| {
        let pause = Duration::from_micros(engine.random() % (millis * 1000));
        engine.sleep_until(engine.now() + pause)
    };
    match kind {
        2 => {
            for turn in 0..8 {
                pause(300).await;
                world.publish(if turn % 2 == 0 { registry_only() } else { allow_any() });
            }
        }
        3 => {
            pause(1500).await;
            world.command(Command::Drain { deadline_ms: 10_000 });
        }
        _ => {}
    }
}

#[test]
fn whatever_happens_no_byte_goes_astray() {
    sluice_engine_sim::for_each_seed(1000, one_seed);
}
