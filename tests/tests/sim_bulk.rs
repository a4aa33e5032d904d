//! Long bodies of a known length through the production sessions: spliced, exact, and no byte beyond their length.

use std::time::Duration;

use sluice_engine::{Engine, Stream};
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_proto::http1::Method;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::client::{Client, connect};
use sluice_tests::sim::pattern;
use sluice_tests::sim::script::{self, FORGED, HONEST, Heard, Step, send};
use sluice_tests::sim::world::{Setup, World, registry_only};

const LONG: usize = 3_000_000;
const GET: &[u8] = b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n";

/// Sockets that hold more than makes a run of full buffers. Who then begins to read late makes one, whatever the seed.
const ROOMY: Faults =
    Faults { socket_buffer_bytes_min: 1 << 20, socket_buffer_bytes_max: 1 << 20, ..Faults::none() };
const LATE: Duration = Duration::from_millis(200);

fn world(faults: Faults, steps: Vec<Step>) -> (World, SimEngine, Heard) {
    script::world(Sim::new(29, faults), Setup::default(), script::first(steps))
}

fn response(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

fn spliced(world: &World) -> f64 {
    world.metric("egress_http_exchanges_spliced_total", "")
}

#[test]
fn a_long_body_is_spliced_and_exact_in_both_directions() {
    let body = pattern(5, LONG);
    for refused in [0, 1000] {
        let faults = Faults { splice_unavailable_permille: refused, ..ROOMY };
        let steps = vec![
            Step::Heads(1),
            send(response(&body)),
            Step::Heads(1),
            Step::Pause(LATE),
            Step::Behind(LONG),
            send(HONEST),
            Step::Heads(1),
            send(response(&body)),
        ];
        let (world, engine, heard) = world(faults, steps);
        let upload = format!(
            "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: {LONG}\r\n\r\n"
        );
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            client.start(GET);
            engine.sleep_until(engine.now() + LATE).await;
            assert!(client.response(Method::Get).await.unwrap().body == body, "the download differs");
            // What follows the body is the next request, not a part of it.
            client.start(&[upload.as_bytes(), &body, GET].concat());
            let answer = client.response(Method::Post).await.unwrap();
            assert_eq!((&*answer.body, answer.persistent), (&b"honest"[..], true));
            engine.sleep_until(engine.now() + LATE).await;
            assert!(client.response(Method::Get).await.unwrap().body == body, "the second download differs");
        });
        assert_eq!(heard.connections(), 1);
        let sent = heard.text(0).len();
        assert!(sent > LONG, "all of it has arrived");
        let records = world.records();
        assert_eq!(records.len(), 3);
        assert_eq!(records[1].bytes_received as usize, upload.len() + LONG);
        for record in [&records[0], &records[2]] {
            let head = record.bytes_sent as usize - LONG;
            assert!((30..200).contains(&head), "{head} bytes of head");
            assert!(record.response_flags.is_empty());
        }
        assert_eq!(spliced(&world), if refused == 0 { 3.0 } else { 0.0 });
        world.stop();
    }
}

#[test]
fn not_a_byte_beyond_the_length_is_passed_on() {
    let body = pattern(6, LONG);
    for surplus in ["x", FORGED] {
        let steps = vec![
            Step::Heads(1),
            send([&response(&body), surplus.as_bytes()].concat()),
            Step::Heads(1),
            send(FORGED),
        ];
        let (world, engine, heard) = world(ROOMY, steps);
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            client.start(GET);
            engine.sleep_until(engine.now() + LATE).await;
            assert!(client.response(Method::Get).await.unwrap().body == body);
            for _ in 0..2 {
                client.start(GET);
                assert_eq!(client.response(Method::Get).await.unwrap().body, b"honest");
            }
        });
        assert_eq!(heard.text(0).matches("GET").count(), 1, "the connection is not used again");
        assert_eq!(spliced(&world), 1.0);
        world.stop();
    }
}

/// Starts a download that the origin does not go on with behind half of its body.
fn half(end: Step) -> (World, Client) {
    let body = response(&pattern(7, LONG));
    let steps = vec![Step::Heads(1), send(&body[..LONG / 2]), Step::Pause(Duration::from_secs(1)), end];
    let (world, engine, _) = world(ROOMY, steps);
    let client = world.sim.block_on(async {
        let mut client = connect(&engine).await;
        client.start(GET);
        engine.sleep_until(engine.now() + LATE).await;
        client.exactly(LONG / 4).await.expect("the first part");
        client
    });
    (world, client)
}

#[test]
fn a_body_that_breaks_off_while_it_is_spliced_never_looks_whole() {
    let forever = || Step::Pause(Duration::from_secs(10_000));
    for (what, end, flags) in [
        ("end", send(""), ResponseFlags::UC),
        ("reset", Step::Reset, ResponseFlags::UC),
        ("silence", forever(), ResponseFlags::SI),
        ("revoked", forever(), ResponseFlags::LR),
        ("client", forever(), ResponseFlags::DC),
    ] {
        let (world, mut client) = half(end);
        assert_eq!(spliced(&world), 0.0, "counted at its end");
        match what {
            "revoked" => {
                let mut nothing = registry_only();
                nothing.services.clear();
                world.publish(nothing);
            }
            "client" => client.stream.reset(),
            _ => {}
        }
        if what == "client" {
            drop(client);
            world.sim.run_for(Duration::from_secs(2));
        } else {
            world.sim.run_for(Duration::from_secs(if what == "silence" { 302 } else { 3 }));
            world.sim.block_on(async {
                assert!(client.to_end().await.is_err(), "{what}: no clean end");
            });
        }
        assert_eq!(world.sim.open().engine_streams, 0, "{what}: both are gone");
        let records = world.records();
        assert_eq!(records.len(), 1, "{what}");
        assert!(records[0].response_flags.contains(flags), "{what}: {:?}", records[0].response_flags);
        assert!((LONG / 4..LONG).contains(&(records[0].bytes_sent as usize)), "{what}");
        let revoked = records[0].get(Field::PolicyReason) == Some(&b"revoked"[..]);
        assert_eq!(revoked, what == "revoked");
        assert_eq!(spliced(&world), 1.0, "{what}");
        world.stop();
    }
}

#[test]
fn an_upload_that_breaks_off_while_it_is_spliced_takes_the_upstream_with_it() {
    let (world, engine, heard) =
        world(ROOMY, vec![Step::Heads(1), Step::Pause(LATE), Step::Behind(LONG), send(HONEST)]);
    world.sim.block_on(async {
        let client = connect(&engine).await;
        let head = format!(
            "PUT http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: {LONG}\r\n\r\n"
        );
        client.send(&[head.as_bytes(), &pattern(8, LONG)[..LONG / 2]].concat()).await.unwrap();
        engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
        client.stream.shutdown().unwrap();
        engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
    });
    assert_eq!(heard.connections(), 1);
    assert_eq!(world.sim.open().engine_streams, 0);
    let records = world.records();
    assert!(records[0].response_flags.contains(ResponseFlags::DC));
    assert_eq!(spliced(&world), 1.0);
    world.stop();
}
