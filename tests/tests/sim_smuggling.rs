//! Responses that two parties could read differently, through the production sessions: the client gets an answer of
//! ours or a cut, and the connection serves nobody else.

use std::time::Duration;

use sluice_engine::Engine;
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_proto::http1::Method;
use sluice_telemetry::ResponseFlags;
use sluice_tests::sim::client::{Client, Response, connect};
use sluice_tests::sim::script::{self, FORGED, Heard, Step, send};
use sluice_tests::sim::world::{Setup, World};

fn world(steps: Vec<Step>) -> (World, SimEngine, Heard) {
    script::world(Sim::new(23, Faults::none()), Setup::default(), script::first(steps))
}

async fn ask(client: &mut Client, method: &str) -> std::io::Result<Response> {
    client.start(format!("{method} http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n").as_bytes());
    client.response(if method == "HEAD" { Method::Head } else { Method::Get }).await
}

/// A second client, right after and a moment later: it never sees what was meant for, or forged for, another.
fn others_are_served(world: &World, engine: &SimEngine, what: &str) {
    world.sim.block_on(async {
        let mut client = connect(engine).await;
        for _ in 0..3 {
            let response = ask(&mut client, "GET").await.expect(what);
            assert_eq!((response.status, &*response.body), (200, &b"honest"[..]), "{what}");
            engine.sleep_until(engine.now() + Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn a_response_that_can_be_read_in_two_ways_is_none() {
    let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n0\r\n\r\n{FORGED}");
    let heads = [
        with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        with("Content-Length: 5\r\nContent-Length: 5\r\n"),
        with("Content-Length: 5, 5\r\n"),
        with("Content-Length: +5\r\n"),
        with("Content-Length: 0x5\r\n"),
        with("Content-Length: 5_0\r\n"),
        with("Content-Length: -1\r\n"),
        with("Content-Length:\r\n"),
        with("Content-Length: 18446744073709551616\r\n"),
        with("Transfer-Encoding: gzip, chunked\r\n"),
        with("Transfer-Encoding: chunked, identity\r\n"),
        with("Transfer-Encoding: identity\r\n"),
        with("Transfer-Encoding: xchunked\r\n"),
        with("Transfer-Encoding: \x0bchunked\r\n"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        with("Transfer-Encoding : chunked\r\n"),
        with("Content_Length: 5\r\n"),
        with("Content-Length: 5\r\ntransfer_encoding: chunked\r\n"),
        with("X: a\rb\r\n"),
        with("X: a\nb: c\r\n"),
        with("X: a\r\n folded\r\n"),
        with(" X: a\r\n"),
        with(": a\r\n"),
        with("X\0: a\r\n"),
        with("X: a\0b\r\n"),
        with("X y: a\r\n"),
        with("X: a\r\r\n"),
        with("X").replace("200 OK\r\n", "200 OK\n"),
        with("").replace("HTTP/1.1", "HTTP/2.0"),
        with("").replace("HTTP/1.1", "HTTP/1.1 "),
        with("").replace(" 200 ", " 20 "),
        with("").replace(" 200 ", " 2000 "),
        with("").replace(" 200 ", " 099 "),
        with("Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0"),
        format!("\r\n{FORGED}"),
        format!("HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\nhello{FORGED}"),
        format!("HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{FORGED}"),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(200) + FORGED,
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(40_000)),
        format!("HTTP/1.1 200 OK\r\n{}\r\n{FORGED}", "X: a\r\n".repeat(1001)),
    ];
    let chunks = [
        "0x5\r\nhello",
        "5 \r\nhello",
        "+5\r\nhello",
        "\r\n",
        "g\r\n",
        "5\nhello",
        "5\r\nhelloX",
        "-1\r\n",
        "10000000000000000\r\nx",
        "5;\r\nhello",
        "5;a\rb\r\nhello",
        "5;a\nb\r\nhello",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\nbad trailer\r\n\r\n",
        "0\r\n folded: x\r\n\r\n",
        "0\r\nx: a\rb\r\n\r\n",
    ];
    let chunked = chunks.map(|chunk| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"));
    for wire in heads.iter().chain(&chunked) {
        let (world, engine, heard) = world(vec![Step::Heads(1), send(wire), Step::Heads(1), send(FORGED)]);
        let what = &wire[..wire.len().min(90)];
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            let response = ask(&mut client, "GET").await.expect(what);
            assert_eq!((response.status, response.persistent), (502, false), "{what:?}");
            assert_eq!(client.to_end().await.unwrap_or_default(), b"", "{what:?}");
        });
        others_are_served(&world, &engine, what);
        assert_eq!(heard.text(0).matches("GET ").count(), 1, "{what:?}: never used again");
        let record = &world.records()[0];
        assert!(record.response_flags.contains(ResponseFlags::UPE), "{what:?}: {:?}", record.response_flags);
        world.stop();
    }
}

#[test]
fn a_chunk_that_is_none_behind_good_ones_breaks_the_response() {
    let start = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let pause = Step::Pause(Duration::from_millis(20));
    let (world, engine, _) =
        world(vec![Step::Heads(1), send(start), pause, send("5x\r\nhello"), Step::Heads(1), send(FORGED)]);
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        let broken = ask(&mut client, "GET").await;
        assert!(broken.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    });
    others_are_served(&world, &engine, "a bad chunk");
    let record = &world.records()[0];
    assert_eq!(record.response_code, 200);
    assert!(record.response_flags.contains(ResponseFlags::UPE));
    world.stop();
}

#[test]
fn what_belongs_to_no_response_is_dropped_with_its_connection_and_counted() {
    let pause = || Step::Pause(Duration::from_millis(3));
    // What follows the response at once, and what follows it a moment later, when its connection is idle.
    let cases: [(&str, &str, &str); 6] = [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", FORGED),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", FORGED),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n", "forged"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", "forged"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "forged"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "\r\n"),
    ];
    for (method, response, surplus) in cases {
        for late in [false, true] {
            let both = format!("{response}{surplus}");
            let steps = match late {
                false => vec![Step::Heads(1), send(&both), Step::Heads(1), send(FORGED)],
                true => {
                    vec![Step::Heads(1), send(response), pause(), send(surplus), Step::Heads(1), send(FORGED)]
                }
            };
            let what = format!("{method} {response:?} then {surplus:?}, late: {late}");
            let (world, engine, heard) = world(steps);
            world.sim.block_on(async {
                let mut client = connect(&engine).await;
                let response = ask(&mut client, method).await.expect(&what);
                assert!(response.status < 400 && response.body != b"forged", "{what}: {response:?}");
                assert!(response.persistent, "{what}: the client may go on");
                engine.sleep_until(engine.now() + Duration::from_millis(20)).await;
                assert_eq!(ask(&mut client, "GET").await.expect(&what).body, b"honest", "{what}");
            });
            others_are_served(&world, &engine, &what);
            assert_eq!(heard.text(0).matches("HTTP/1.1").count(), 1, "{what}: never used again");
            world.sim.run_for(Duration::from_secs(2));
            // A 204 that announces a body has its connection closed before that body can come.
            let closed_at_once = late && response.contains("204") && response.contains("Length");
            let counted = f64::from(u8::from(!closed_at_once));
            assert_eq!(world.metric("egress_upstream_unsolicited_total", ""), counted, "{what}");
            world.stop();
        }
    }
}

#[test]
fn an_answer_to_half_a_request_leaves_nothing_to_be_misread() {
    let half = "POST http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 100\r\n\r\nhalf";
    let rest = "GET http://allowed.test/smuggled HTTP/1.1\r\nHost: allowed.test\r\n\r\n";
    for close in ["", "Connection: close\r\n"] {
        let early = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 5\r\n\r\nearly");
        let (world, engine, heard) = world(vec![Step::Heads(1), send(early), Step::Heads(1), send(FORGED)]);
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            client.start(half.as_bytes());
            let response = client.response(Method::Post).await.unwrap();
            assert_eq!((response.status, &*response.body, response.persistent), (200, &b"early"[..], false));
            // The rest of the body would be a request to whoever lost count.
            client.start(rest.as_bytes());
            assert_eq!(client.to_end().await.unwrap_or_default(), b"");
        });
        others_are_served(&world, &engine, "half a request");
        assert!(!heard.all().contains("smuggled"));
        assert_eq!(world.records()[0].response_code, 200);
        world.stop();
    }
}
