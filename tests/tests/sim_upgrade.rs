//! A switch of protocols through the production sessions: who may ask for it, who may grant it, and what becomes of
//! both connections.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_engine::{Engine, Stream};
use sluice_engine_sim::{Capture, Faults, Sim, SimEngine};
use sluice_policy::PolicyInput;
use sluice_proto::http1::Method;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::client::{Client, connect};
use sluice_tests::sim::pattern;
use sluice_tests::sim::script::{self, Heard, Step, send};
use sluice_tests::sim::world::{ALLOWED, DENIED, HTTP, REDIRECT, Setup, TPROXY, World, registry_only};

const ASK: &str = "GET http://allowed.test/chat HTTP/1.1\r\nHost: allowed.test\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a2V5\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: x\r\n\r\n";
const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &[u8] = b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n";

fn world(script: impl Fn(usize) -> Vec<Step> + 'static) -> (World, SimEngine, Heard) {
    script::world(Sim::new(11, Faults::none()), Setup::default(), script)
}

/// Reads a head as it stands.
async fn head(client: &mut Client) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.exactly(1).await.expect("a head"));
    }
    String::from_utf8(head).expect("a text head")
}

#[test]
fn a_websocket_becomes_a_tunnel_that_is_one_request() {
    let (world, engine, heard) =
        world(|_| vec![Step::Heads(1), send([SWITCH, "first"].concat()), Step::Echo]);
    let payload = pattern(3, 100_000);
    let counted = world.sim.block_on(async {
        let mut client = connect(&engine).await;
        client.send(ASK.as_bytes()).await.unwrap();
        let head = head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        for line in ["Connection: Upgrade\r\n", "Upgrade: websocket\r\n", "Sec-WebSocket-Accept: x\r\n"] {
            assert!(head.contains(line), "{line} in {head}");
        }
        assert_eq!(client.exactly(5).await.unwrap(), b"first", "what came with the answer");
        client.start(&payload);
        assert_eq!(client.exactly(payload.len()).await.unwrap(), payload);
        client.stream.shutdown().unwrap();
        assert_eq!(client.to_end().await.unwrap(), b"", "a clean end is passed on");
        head.len()
    });
    world.sim.run_for(Duration::from_secs(1));
    let sent = heard.text(0);
    for line in ["Connection: Upgrade\r\n", "Upgrade: websocket\r\n", "Sec-WebSocket-Key: a2V5\r\n"] {
        assert!(sent.contains(line), "{line} in {}", &sent[..400]);
    }
    assert_eq!(world.sim.open().engine_streams, 0, "neither connection is kept");
    let records = world.records();
    assert_eq!(records.len(), 1, "one request, no connection beside it");
    let record = &records[0];
    assert_eq!((record.response_code, record.response_flags), (101, ResponseFlags::default()));
    assert_eq!(record.bytes_received as usize, ASK.len() + payload.len());
    assert_eq!(record.bytes_sent as usize, counted + 5 + payload.len());
    assert_eq!(record.get(Field::ResponseCodeDetails), Some(&b"via_upstream"[..]));
    assert_eq!(world.metric("istio_requests_total", "response_code=\"101\""), 1.0);
    assert_eq!(world.metric("istio_tcp_connections_opened_total", ""), 0.0);
    world.stop();
}

#[test]
fn a_websocket_passes_a_door_that_is_no_proxy_to_its_client() {
    let (world, direct, heard) =
        world(|_| vec![Step::Heads(1), send([SWITCH, "first"].concat()), Step::Echo]);
    let [redirected, tproxied] =
        [(6, Capture::Redirect(REDIRECT)), (7, Capture::Tproxy(TPROXY))].map(|(last, how)| {
            let host = world.host(last);
            world.sim.capture(&host, how);
            host
        });
    // A captured client means an address of its own finding: the name decides, and ours is dialled.
    let elsewhere = SocketAddr::new(DENIED.into(), 80);
    let plain = ASK.replace("http://allowed.test/chat", "/chat");
    let payload = pattern(5, 100_000);
    for (index, (engine, to)) in
        [(&direct, HTTP), (&redirected, elsewhere), (&tproxied, elsewhere)].into_iter().enumerate()
    {
        world.sim.block_on(async {
            let mut client = Client::connect(engine, to).await.expect("the door is open");
            client.send(plain.as_bytes()).await.unwrap();
            let head = head(&mut client).await;
            assert!(
                head.starts_with("HTTP/1.1 101 ") && head.contains("Upgrade: websocket\r\n"),
                "{to}: {head}"
            );
            assert_eq!(client.exactly(5).await.unwrap(), b"first", "{to}");
            client.start(&payload);
            assert_eq!(client.exactly(payload.len()).await.unwrap(), payload, "{to}");
            client.stream.shutdown().unwrap();
            assert_eq!(client.to_end().await.unwrap(), b"", "{to}: a clean end is passed on");
            // Who may not reach the host may not switch on the way to it.
            let mut denied = Client::connect(engine, to).await.expect("the door is open");
            denied.send(plain.replace("allowed.test", "denied.test").as_bytes()).await.unwrap();
            assert_eq!(denied.response(Method::Get).await.unwrap().status, 502, "{to}");
        });
        assert!(heard.text(index).contains("Upgrade: websocket\r\n"), "{to}");
    }
    world.sim.run_for(Duration::from_secs(1));
    assert_eq!(heard.connections(), 3, "one upstream connection for each switch, none for a denial");
    assert!(world.sim.engine_attempts().iter().all(|attempt| attempt.to.ip() == ALLOWED));
    let codes: Vec<u16> = world.records().iter().map(|record| record.response_code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 101).count(), 3, "{codes:?}");
    assert_eq!(world.metric("istio_requests_total", "response_code=\"101\""), 3.0);
    world.stop();
}

#[test]
fn what_the_client_sends_ahead_is_held_until_the_answer() {
    let wait = Step::Pause(Duration::from_millis(300));
    let (world, engine, heard) = world(move |_| vec![Step::Heads(1), wait.clone(), send(SWITCH), Step::Echo]);
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        client.send(&[ASK.as_bytes(), b"early "].concat()).await.unwrap();
        engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
        assert!(!heard.text(0).contains("early"), "nothing ahead of the answer");
        client.send(b"data").await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 101"));
        assert_eq!(client.exactly(10).await.unwrap(), b"early data");
    });
    world.stop();
}

#[test]
fn any_other_answer_keeps_http_going() {
    let refuse =
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno";
    let (world, engine, heard) = world(move |_| {
        let answer = |text: &str| [Step::Heads(1), send(text)];
        [answer(refuse), answer(PLAIN), answer(refuse), answer(PLAIN)].concat()
    });
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        client.send(ASK.as_bytes()).await.unwrap();
        let head = head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 426") && !head.contains("Upgrade:"), "{head}");
        assert_eq!(client.exactly(2).await.unwrap(), b"no");
        client.send(GET).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().body, b"ok");
        // What came ahead of such an answer is a request like any other: here one that cannot be read.
        client.send(&[ASK.as_bytes(), b"\x81\x05hello\r\n\r\n"].concat()).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 426);
        assert_eq!(client.response(Method::Get).await.unwrap().status, 400);
        let mut other = connect(&engine).await;
        other.send(GET).await.unwrap();
        assert_eq!(other.response(Method::Get).await.unwrap().body, b"ok");
    });
    assert_eq!(heard.connections(), 1, "the same connection goes on");
    assert!(!heard.all().contains("hello"));
    world.stop();
}

#[test]
fn nobody_switches_to_what_was_not_asked_for() {
    let other = |token: &str| SWITCH.replace("websocket", token);
    let plain = String::from_utf8(GET.to_vec()).unwrap();
    let cases = [
        (plain.clone(), SWITCH.to_owned()),
        (ASK.replace("websocket", "h2c"), SWITCH.to_owned()),
        (ASK.replace("websocket", "h2c"), other("h2c")),
        (ASK.replace("keep-alive, Upgrade", "keep-alive"), SWITCH.to_owned()),
        (ASK.replace("GET", "POST"), SWITCH.to_owned()),
        (ASK.replace("Sec-WebSocket-Version: 13", "Content-Length: 0"), SWITCH.to_owned()),
        (ASK.to_owned(), other("h2c")),
        (ASK.to_owned(), other("websocket, h2c")),
        (ASK.to_owned(), other("TLS/1.0")),
        (ASK.to_owned(), SWITCH.replace("Connection: Upgrade", "Connection: close")),
        (ASK.to_owned(), SWITCH.replace("Sec-WebSocket-Accept: x", "Content-Length: 3")),
        (ASK.to_owned(), SWITCH.replace("Sec-WebSocket-Accept: x", "Transfer-Encoding: chunked")),
    ];
    for (ask, switch) in cases {
        let answer = switch.clone();
        let (world, engine, heard) = world(move |_| vec![Step::Heads(1), send(&answer), Step::Echo]);
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            client.send(ask.as_bytes()).await.unwrap();
            let response = client.response(Method::Get).await.unwrap();
            assert_eq!((response.status, response.persistent), (502, false), "{ask} then {switch}");
            // Nothing that follows is relayed, to either side.
            client.start(b"GET http://allowed.test/smuggled HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
            assert_eq!(client.to_end().await.unwrap_or_default(), b"");
        });
        world.sim.run_for(Duration::from_secs(2));
        assert!(!heard.all().contains("smuggled"), "{ask} then {switch}");
        assert_eq!(world.sim.open().engine_streams, 0);
        let records = world.records();
        assert!(records[0].response_flags.contains(ResponseFlags::UPE), "{ask} then {switch}");
        world.stop();
    }
}

#[test]
fn what_is_not_asked_for_as_it_must_be_goes_on_without_the_switch() {
    let asks = [
        ASK.replace("websocket", "h2c").replace("\r\n\r\n", "\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"),
        ASK.replace("websocket", "TLS/1.0, foo/2"),
        ASK.replace("HTTP/1.1", "HTTP/1.0"),
        ASK.replace("GET", "POST"),
        ASK.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"),
        ASK.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ASK.replace("keep-alive, Upgrade", "keep-alive"),
    ];
    for ask in asks {
        let (world, engine, heard) = world(|_| vec![Step::Heads(1), send(PLAIN), Step::Heads(1)]);
        world.sim.block_on(async {
            let mut client = connect(&engine).await;
            client.send(ask.as_bytes()).await.unwrap();
            assert_eq!(client.response(Method::Get).await.unwrap().body, b"ok", "{ask}");
        });
        let sent = heard.all().to_ascii_lowercase();
        assert!(!sent.contains("upgrade") && !sent.contains("http2-settings"), "{ask} became {sent}");
        world.stop();
    }
}

#[test]
fn a_switched_connection_ends_as_a_tunnel_does() {
    let echo = |_| vec![Step::Heads(1), send(SWITCH), Step::Echo];
    let reset = |_| vec![Step::Heads(1), send(SWITCH), Step::Behind(1), Step::Reset];
    // A revocation, silence, and the origin's reset: the flags and what is written down of it.
    for (what, flags, details) in [
        ("revoked", ResponseFlags::LR, "revoked"),
        ("silence", ResponseFlags::SI, "idle_timeout"),
        ("reset", ResponseFlags::UC, "upstream_remote_reset"),
    ] {
        let (world, engine, _) = if what == "reset" { world(reset) } else { world(echo) };
        let mut client = world.sim.block_on(async {
            let mut client = connect(&engine).await;
            client.send(ASK.as_bytes()).await.unwrap();
            assert!(head(&mut client).await.starts_with("HTTP/1.1 101"));
            client
        });
        match what {
            "revoked" => {
                let mut nothing: PolicyInput = registry_only();
                nothing.services.clear();
                world.publish(nothing);
                world.sim.run_for(Duration::from_secs(1));
            }
            "silence" => world.sim.run_for(Duration::from_secs(3601)),
            _ => {
                client.start(b"x");
                world.sim.run_for(Duration::from_secs(1));
            }
        }
        assert_eq!(world.sim.open().engine_streams, 0, "{what}");
        world.sim.block_on(async {
            assert!(client.to_end().await.is_err(), "{what}: no clean end");
        });
        let records = world.records();
        assert_eq!(records.len(), 1, "{what}");
        assert_eq!(records[0].response_code, 101, "{what}");
        assert!(records[0].response_flags.contains(flags), "{what}: {:?}", records[0].response_flags);
        let told = records[0].get(Field::ConnectionTerminationDetails);
        assert_eq!(told, Some(details.as_bytes()), "{what}");
        world.stop();
    }
}
