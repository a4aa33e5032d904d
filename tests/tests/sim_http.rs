//! HTTP/1.1 through the production sessions: what hostile origins and hostile clients come to.

use std::io;
use std::time::Duration;

use sluice_engine::{Engine, Stream};
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_proto::http1::Method;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::client::{Client, Response, connect};
use sluice_tests::sim::origin::{Behaviour, Expected, Ledger, summary};
use sluice_tests::sim::world::{World, registry_only};
use sluice_tests::sim::{pattern, request, request_with_body};

/// A world, its clients' host and what its origins see.
fn world() -> (World, SimEngine, Ledger) {
    let world = World::start(Sim::new(7, Faults::none()), registry_only());
    let ledger = world.serve_origins();
    let engine = world.host(5);
    (world, engine, ledger)
}

/// Sends while it reads: an early answer must not have to wait for the whole request.
async fn ask(client: &mut Client, request: &[u8], method: Method) -> io::Result<Response> {
    client.start(request);
    client.response(method).await
}

fn is_reset(result: &io::Result<Response>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn what_an_origin_does_is_what_its_client_sees() {
    for what in Behaviour::ALL {
        for (method, version) in [("GET", "1.1"), ("GET", "1.0"), ("POST", "1.1")] {
            let (world, engine, ledger) = world();
            let context = format!("{what:?} to {method} in HTTP/{version}");
            let body = pattern(4, 5000);
            let first = match method {
                "GET" => request(method, "allowed.test", what, 10, 700),
                _ => request_with_body(method, "allowed.test", what, 10, &body),
            };
            let first = at_version(&first, version);
            world.sim.block_on(async {
                let mut client = connect(&engine).await;
                let result = ask(&mut client, &first, Method::Get).await;
                let expected = match what {
                    _ if method == "GET" => pattern(10, 700),
                    Behaviour::Early | Behaviour::EarlyClose => pattern(10, 5000),
                    _ => summary(&body),
                };
                match what.expected() {
                    Expected::Whole(status) => {
                        let response = result.expect(&context);
                        assert_eq!((response.status, response.id), (status, Some(10)), "{context}");
                        assert!(status != 200 || response.body == expected, "{context}");
                    }
                    Expected::Answer(status) => {
                        let response = result.expect(&context);
                        assert_eq!((response.status, response.id), (status, None), "{context}");
                    }
                    Expected::Broken => assert!(is_reset(&result), "{context}: {result:?}"),
                }
            });
            assert_eq!(ledger.seen(10), 1, "{context}: sent once");
            let records = world.records();
            assert_eq!(records.len(), 1, "{context}");
            let code = match what.expected() {
                Expected::Whole(code) | Expected::Answer(code) => code,
                Expected::Broken => 200,
            };
            assert_eq!(records[0].response_code, code, "{context}");
            let clean = matches!(what.expected(), Expected::Whole(_));
            assert_eq!(records[0].response_flags.is_empty(), clean, "{context}");
            world.stop();
        }
    }
}

fn at_version(request: &[u8], version: &str) -> Vec<u8> {
    let at = request.windows(8).position(|window| window == b"HTTP/1.1").expect("a request line");
    [&request[..at + 5], version.as_bytes(), &request[at + 8..]].concat()
}

#[test]
fn a_connection_is_used_again_only_when_nothing_is_left_on_it() {
    use Behaviour as B;
    for what in [B::Plain, B::Chunked, B::Interim, B::Split, B::NoContent, B::NotModified] {
        assert_eq!(second_request(what, "GET"), (200, 1, 1), "{what:?} leaves a connection for the next");
    }
    for what in [B::Extra, B::LateExtra, B::Close, B::QuietClose, B::UntilClose] {
        for method in ["GET", "POST"] {
            assert_eq!(second_request(what, method), (200, 2, 1), "{what:?}, then {method}");
        }
    }
}

#[test]
fn only_what_is_idempotent_and_has_no_body_is_sent_twice() {
    use Behaviour as B;
    for what in [B::NextClose, B::NextReset] {
        for method in ["GET", "DELETE", "OPTIONS"] {
            assert_eq!(second_request(what, method), (200, 2, 2), "{what:?}, then {method}");
        }
        for method in ["POST", "PATCH", "FETCH"] {
            assert_eq!(second_request(what, method), (503, 1, 1), "{what:?}, then {method}");
        }
        assert_eq!(second_request(what, "PUT with a body"), (503, 1, 1), "{what:?}, then PUT");
    }
}

/// Asks for `what`, then for something plain with `method`. Gives the second status, how many upstream connections it
/// took, and how often the origin saw the second request.
fn second_request(what: Behaviour, method: &str) -> (u16, usize, u32) {
    let (world, engine, ledger) = world();
    let response = world.sim.block_on(async {
        let mut client = connect(&engine).await;
        let first = ask(&mut client, &request("GET", "allowed.test", what, 10, 3), Method::Get).await;
        assert!(first.expect("the first response").persistent);
        engine.sleep_until(engine.now() + Duration::from_millis(20)).await;
        let second = match method.strip_suffix(" with a body") {
            Some(method) => request_with_body(method, "allowed.test", Behaviour::Plain, 11, b"body"),
            None => request(method, "allowed.test", Behaviour::Plain, 11, 3),
        };
        let response = ask(&mut client, &second, Method::Get).await.expect("the second response");
        assert!(response.status != 200 || response.id == Some(11), "{what:?}: a response of another request");
        response
    });
    let attempts = world.sim.engine_attempts().len();
    assert_eq!(world.records().len(), 2);
    world.stop();
    (response.status, attempts, ledger.seen(11))
}

#[test]
fn an_early_answer_ends_the_connection_and_reaches_the_client() {
    for what in [Behaviour::Early, Behaviour::EarlyClose] {
        let (world, engine, _) = world();
        let body = pattern(1, 700_000);
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            let upload = request_with_body("POST", "allowed.test", what, 10, &body);
            let response = ask(&mut client, &upload, Method::Post).await.unwrap();
            assert_eq!((response.status, response.id), (200, Some(10)));
            assert!(!response.persistent, "{what:?}: what is left of the body cannot be told from a request");
            assert_eq!(response.body.len(), 700_000);
        });
        world.sim.run_for(Duration::from_secs(5));
        assert_eq!(world.sim.open().engine_streams, 0, "{what:?}: nothing of it is used again");
        world.stop();
    }
}

#[test]
fn a_client_that_expects_100_may_get_its_final_answer_instead() {
    let (world, engine, _) = world();
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        let head =
            b"POST http://allowed.test/Early/10/9 HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 9\r\n\
            Expect: 100-continue\r\n\r\n";
        let response = ask(&mut client, head, Method::Post).await.unwrap();
        assert_eq!((response.status, response.persistent), (200, false));
        assert_eq!(client.to_end().await.unwrap(), b"");
        let mut client = connect(&engine).await;
        let head =
            b"POST http://allowed.test/Plain/11/9 HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 9\r\n\
            Expect: 100-continue\r\n\r\n";
        client.send(head).await.unwrap();
        engine.sleep_until(engine.now() + Duration::from_secs(2)).await;
        client.send(b"some body").await.unwrap();
        let response = client.response(Method::Post).await.unwrap();
        assert_eq!((response.body, response.persistent), (summary(b"some body"), true));
    });
    world.stop();
}

#[test]
fn a_head_has_no_body_and_leaves_its_connection() {
    let (world, engine, _) = world();
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        for what in [Behaviour::Plain, Behaviour::Chunked, Behaviour::Plain] {
            let head = request("HEAD", "allowed.test", what, 10, 900);
            let response = ask(&mut client, &head, Method::Head).await.unwrap();
            assert_eq!((response.status, response.body.len(), response.persistent), (200, 0, true));
        }
    });
    assert_eq!(world.sim.engine_attempts().len(), 1);
    world.stop();
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let (world, engine, _) = world();
    let body = pattern(2, 40);
    let chunks = b"POST http://allowed.test/Plain/12/0 HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\
        \r\n5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nx-t: 1\r\n\r\n";
    let all = [
        request("GET", "allowed.test", Behaviour::Plain, 10, 30),
        request_with_body("POST", "allowed.test", Behaviour::Plain, 11, &body),
        chunks.to_vec(),
    ]
    .concat();
    let expected = [pattern(10, 30), summary(&body), summary(b"helloyou")];
    world.sim.block_on(async {
        for at in (1..all.len()).step_by(3) {
            let mut client = connect(&engine).await;
            client.send(&all[..at]).await.unwrap();
            engine.sleep_until(engine.now() + Duration::from_millis(1)).await;
            client.send(&all[at..]).await.unwrap();
            for expected in &expected {
                let response = client.response(Method::Get).await.unwrap();
                assert_eq!((response.status, &response.body), (200, expected), "cut at {at}");
            }
        }
        let mut client = connect(&engine).await;
        client.send_split(&all, 1, Duration::from_micros(700)).await.unwrap();
        for expected in &expected {
            assert_eq!(&client.response(Method::Get).await.unwrap().body, expected);
        }
    });
    world.stop();
}

#[test]
fn a_client_that_half_closes_gets_its_answers_and_a_clean_end() {
    let (world, engine, _) = world();
    world.sim.block_on(async {
        for (host, status) in [("allowed.test", 200), ("denied.test", 502)] {
            for pipelined in [1, 3] {
                let mut client = connect(&engine).await;
                let one = request("GET", host, Behaviour::Chunked, 10, 5000);
                client.send(&one.repeat(pipelined)).await.unwrap();
                client.stream.shutdown().unwrap();
                for _ in 0..pipelined {
                    assert_eq!(client.response(Method::Get).await.unwrap().status, status);
                }
                assert_eq!(client.to_end().await.unwrap(), b"", "{host}: a clean end");
            }
        }
    });
    assert_eq!(world.records().len(), 8);
    world.stop();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_takes_the_upstream_with_it() {
    for reset in [false, true] {
        let (world, engine, ledger) = world();
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            let whole = request_with_body("POST", "allowed.test", Behaviour::Plain, 10, &pattern(1, 50_000));
            client.send(&whole[..20_000]).await.unwrap();
            engine.sleep_until(engine.now() + Duration::from_millis(50)).await;
            if reset {
                client.stream.reset();
            } else {
                client.stream.shutdown().unwrap();
                assert!(client.to_end().await.is_err(), "no clean end to half a request");
            }
        });
        world.sim.run_for(Duration::from_secs(1));
        assert_eq!(ledger.seen(10), 1);
        assert_eq!(world.sim.open().engine_streams, 0);
        let records = world.records();
        assert_eq!(records.len(), 1);
        assert!(records[0].response_flags.contains(ResponseFlags::DC));
        world.stop();
    }
}

#[test]
fn a_client_that_never_reads_is_cut_and_holds_nothing() {
    let (world, engine, _) = world();
    let mut silent = world.sim.block_on(async {
        let silent = connect(&engine).await;
        silent.send(&request("GET", "allowed.test", Behaviour::Plain, 10, 3_000_000)).await.unwrap();
        // Denials of ours, more than its socket takes.
        let denied = connect(&engine).await;
        let one = request("GET", "denied.test", Behaviour::Plain, 11, 0);
        denied.start(&one.repeat(3000));
        [silent, denied]
    });
    world.sim.run_for(Duration::from_secs(310));
    assert_eq!(world.sim.open().engine_streams, 0, "both are gone");
    world.sim.block_on(async {
        for client in &mut silent {
            assert!(client.to_end().await.is_err(), "and know that they have not got all");
        }
    });
    let records = world.records();
    assert!(records.iter().any(|record| record.response_flags.contains(ResponseFlags::SI)));
    assert!(records.iter().any(|record| record.response_flags.contains(ResponseFlags::DC)));
    world.stop();
}

#[test]
fn bad_heads_are_answered_once_and_what_follows_is_not_read() {
    let (world, engine, ledger) = world();
    let good = request("GET", "allowed.test", Behaviour::Plain, 10, 1);
    let headers = |count: usize| "x: y\r\n".repeat(count);
    let cases = [
        (b"\x16\x03\x01\x02\x00 garbage\r\n\r\n".to_vec(), 400),
        (b"GET /origin/form HTTP/1.1\r\nHost: allowed.test\r\n\r\n".to_vec(), 400),
        (b"GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n".to_vec(), 400),
        (b"GET http://allowed.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n".to_vec(), 400),
        (b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test:81\r\n\r\n".to_vec(), 400),
        (b"GET http://allowed.test/ HTTP/1.1\r\n\r\n".to_vec(), 400),
        (b"GET http://allowed.test/ HTTP/2.0\r\nHost: allowed.test\r\n\r\n".to_vec(), 505),
        (b"CONNECT allowed.test HTTP/1.1\r\nHost: allowed.test\r\n\r\n".to_vec(), 400),
        (
            format!("GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n{}\r\n", headers(1500))
                .into(),
            431,
        ),
        (format!("GET http://allowed.test/{} HTTP/1.1\r\n", "a".repeat(1 << 20)).into(), 431),
        (
            b"POST http://allowed.test/Plain/9/1 HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 1\r\n\
            Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_vec(),
            400,
        ),
    ];
    world.sim.block_on(async {
        for (bytes, status) in &cases {
            let mut client = connect(&engine).await;
            let response = ask(&mut client, &[&bytes[..], &good].concat(), Method::Get).await.unwrap();
            let context = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            assert_eq!((response.status, response.persistent), (*status, false), "{context}");
            // More than the linger takes may be answered by a reset; a second answer never.
            assert_eq!(client.to_end().await.unwrap_or_default(), b"", "{context}");
        }
        let mut client = connect(&engine).await;
        client.send(&good[..30]).await.unwrap();
        let before = engine.now();
        let response = client.response(Method::Get).await.unwrap();
        assert_eq!(response.status, 408);
        assert!((9..12).contains(&engine.now().since(before).as_secs()), "10 s for a head");
        // Chunks that are none: the origin must not take what came for a whole request.
        let mut client = connect(&engine).await;
        let bad = b"POST http://allowed.test/Plain/11/1 HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n\
            2\r\nab\r\n0x2\r\nab\r\n0\r\n\r\n";
        let response = ask(&mut client, bad, Method::Post).await.unwrap();
        assert_eq!((response.status, response.persistent), (400, false));
    });
    assert_eq!(ledger.seen(10), 0, "nothing behind a bad head is interpreted");
    let records = world.records();
    assert_eq!(records.len(), cases.len() + 2);
    let with = |reason: &[u8]| {
        records.iter().filter(|record| record.get(Field::PolicyReason) == Some(reason)).count()
    };
    let too_large = cases.iter().filter(|(_, status)| *status == 431).count();
    assert_eq!(
        (with(b"malformed"), with(b"limit")),
        (cases.len() - too_large, too_large + 1),
        "408 is a limit too"
    );
    world.stop();
}

#[test]
fn requests_in_a_tunnel_stay_inside_its_rule() {
    let (world, engine, ledger) = world();
    let cases: [(&[u8], u16); 7] = [
        (b"GET /Plain/10/5 HTTP/1.1\r\nHost: denied.test\r\n\r\n", 421),
        (b"GET /Plain/10/5 HTTP/1.1\r\nHost: allowed.test:81\r\n\r\n", 421),
        (b"GET http://denied.test/Plain/10/5 HTTP/1.1\r\nHost: denied.test\r\n\r\n", 421),
        (b"GET http://denied.test/Plain/10/5 HTTP/1.1\r\nHost: allowed.test\r\n\r\n", 400),
        (b"GET /Plain/10/5 HTTP/1.1\r\nHost: 93.184.216.20\r\n\r\n", 421),
        (b"CONNECT denied.test:80 HTTP/1.1\r\nHost: denied.test:80\r\n\r\n", 405),
        (b"GET /Plain/10/5 HTTP/1.1\r\nHost: a..test\r\n\r\n", 400),
    ];
    world.sim.block_on(async {
        for (bytes, status) in cases {
            let mut client = connect(&engine).await;
            client.send(b"CONNECT allowed.test:80 HTTP/1.1\r\nHost: allowed.test:80\r\n\r\n").await.unwrap();
            assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
            let response = ask(&mut client, bytes, Method::Get).await.unwrap();
            assert_eq!(response.status, status, "{}", String::from_utf8_lossy(bytes));
        }
    });
    assert_eq!(ledger.seen(10), 0);
    world.stop();
}

#[test]
fn an_empty_line_behind_a_body_begins_no_request() {
    for separately in [false, true] {
        let (world, engine, _) = world();
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            let mut wire = request_with_body("POST", "allowed.test", Behaviour::Plain, 10, b"12345678");
            if !separately {
                wire.extend(b"\r\n");
            }
            client.send(&wire).await.unwrap();
            assert_eq!(client.response(Method::Post).await.unwrap().status, 200);
            if separately {
                client.send(b"\r\n").await.unwrap();
            }
            // Longer than a head may take, shorter than a client may be idle.
            engine.sleep_until(engine.now() + Duration::from_secs(30)).await;
            client.send(&request("GET", "allowed.test", Behaviour::Plain, 11, 5)).await.unwrap();
            let response = client.response(Method::Get).await.unwrap();
            assert_eq!((response.status, response.id), (200, Some(11)));
            client.send(b"\r\n").await.unwrap();
            client.stream.shutdown().unwrap();
            assert_eq!(client.to_end().await.unwrap(), b"");
        });
        assert_eq!(world.records().len(), 2, "what begins no request is none");
        world.stop();
    }
}
