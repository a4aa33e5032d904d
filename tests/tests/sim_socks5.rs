//! The SOCKS5 door in a simulated world: whole conversations however they are cut, every refusal with its reply and
//! without a packet, hostile clients.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sluice_bridge::Auth;
use sluice_engine::{Engine, Stream};
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_policy::{PolicyInput, Selector};
use sluice_proto::http1::Method;
use sluice_telemetry::access_log::{Entry, Field};
use sluice_tests::sim::client::{Client, client_hello};
use sluice_tests::sim::pattern;
use sluice_tests::sim::world::{ALLOWED, DENIED, SOCKS, Setup, World, allow_any, registry_only};

fn world(policy: PolicyInput, auth: Auth) -> (World, SimEngine) {
    let users = vec![("idgen", "s3cret", "idgen")];
    let world = World::with(Sim::new(7, Faults::none()), policy, Setup { auth, users, ..Setup::default() });
    world.serve_origins();
    let engine = world.host(5);
    (world, engine)
}

const OPEN: &[u8] = b"\x05\x01\x00";
const SHOWN: &[u8] = b"\x05\x02\x00\x02";

fn to_name(name: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, name.len() as u8][..], name.as_bytes(), &port.to_be_bytes()].concat()
}

fn to_address(address: impl Into<IpAddr>, port: u16) -> Vec<u8> {
    match address.into() {
        IpAddr::V4(address) => [&[5, 1, 0, 1][..], &address.octets(), &port.to_be_bytes()].concat(),
        IpAddr::V6(address) => [&[5, 1, 0, 4][..], &address.octets(), &port.to_be_bytes()].concat(),
    }
}

fn login(user: &str, password: &str) -> Vec<u8> {
    let (user, password) = (user.as_bytes(), password.as_bytes());
    [&[1, user.len() as u8][..], user, &[password.len() as u8], password].concat()
}

/// A client that has asked for this; gives the reply's code, and the address in it.
async fn ask(engine: &SimEngine, request: &[u8]) -> (Client, u8, SocketAddr) {
    let mut client = Client::connect(engine, SOCKS).await.unwrap();
    client.send(OPEN).await.unwrap();
    assert_eq!(client.exactly(2).await.unwrap(), [5, 0]);
    client.send(request).await.unwrap();
    let (code, bound) = reply(&mut client).await;
    (client, code, bound)
}

async fn reply(client: &mut Client) -> (u8, SocketAddr) {
    let reply = client.exactly(10).await.unwrap();
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1), "{reply:?}");
    let address = [reply[4], reply[5], reply[6], reply[7]];
    (reply[1], (address, u16::from_be_bytes([reply[8], reply[9]])).into())
}

fn text(entry: &Entry, field: Field) -> String {
    String::from_utf8_lossy(entry.get(field).unwrap_or(b"-")).into_owned()
}

#[test]
fn a_name_is_reached_and_the_reply_tells_our_address() {
    let (world, engine) = world(registry_only(), Auth::Off);
    world.sim.block_on(async {
        let (mut client, code, bound) = ask(&engine, &to_name("AlLoWeD.test.", 9000)).await;
        assert_eq!(code, 0);
        assert_eq!(bound.ip().to_string(), "10.0.0.1", "our address towards the destination");
        assert_ne!(bound.port(), 0);
        client.send(b"payload").await.unwrap();
        assert_eq!(client.exactly(7).await.unwrap(), b"payload");
    });
    let attempts = world.sim.engine_attempts();
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].to, (ALLOWED, 9000).into());
    let records = world.stop();
    assert_eq!((records[0].bytes_received, records[0].bytes_sent), (7, 7), "payload only");
    assert_eq!(records[0].response_code, 0, "a TCP flow");
    assert_eq!(text(&records[0], Field::Authority), "AlLoWeD.test.:9000");
    assert_eq!(text(&records[0], Field::Service), "default/opaque");
}

#[test]
fn a_conversation_may_be_cut_anywhere_or_come_in_one_piece() {
    let (world, engine) = world(registry_only(), Auth::Required);
    let wire = [SHOWN, &login("idgen", "s3cret"), &to_name("allowed.test", 9000), b"hello"].concat();
    world.sim.block_on(async {
        for piece_bytes in 1..=wire.len() {
            let mut client = Client::connect(&engine, SOCKS).await.unwrap();
            client.send_split(&wire, piece_bytes, Duration::from_millis(1)).await.unwrap();
            assert_eq!(client.exactly(4).await.unwrap(), [5, 2, 1, 0], "in pieces of {piece_bytes}");
            assert_eq!(reply(&mut client).await.0, 0);
            assert_eq!(client.exactly(5).await.unwrap(), b"hello", "what came early is not lost");
        }
    });
    let records = world.stop();
    assert_eq!(records.len(), wire.len());
    for record in records {
        assert_eq!(text(&record, Field::Proof), "credentials");
        assert_eq!(text(&record, Field::SourceWorkload), "idgen");
        assert_eq!(record.bytes_received, 5);
    }
}

#[test]
fn what_a_port_declares_holds_inside() {
    let (world, engine) = world(registry_only(), Auth::Off);
    world.sim.block_on(async {
        let hello = client_hello("allowed.test");
        let (mut client, code, _) = ask(&engine, &to_name("allowed.test", 443)).await;
        assert_eq!(code, 0);
        client.send(&hello).await.unwrap();
        assert_eq!(client.exactly(hello.len()).await.unwrap(), hello);
        for inner in [client_hello("denied.test"), b"SSH-2.0-x\r\n".to_vec()] {
            let (mut client, code, _) = ask(&engine, &to_name("allowed.test", 443)).await;
            assert_eq!(code, 0);
            client.send(&inner).await.unwrap();
            assert!(client.to_end().await.is_err(), "cut");
        }
        let (mut client, code, _) = ask(&engine, &to_name("allowed.test", 80)).await;
        assert_eq!(code, 0);
        client.send(b"GET /4/9 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().body, pattern(4, 9));
        client.send(b"GET /4/9 HTTP/1.1\r\nHost: denied.test\r\n\r\n").await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 421);
    });
    let sent: Vec<u64> =
        world.sim.connections().iter().filter(|c| c.from_engine).map(|c| c.client_sent_bytes).collect();
    assert_eq!(sent[1..3], [0, 0], "no payload byte went up in the tunnels that were cut");
    world.stop();
}

#[test]
fn an_address_is_asked_for_its_name() {
    let (world, engine) = world(registry_only(), Auth::Off);
    world.sim.block_on(async {
        // The name decides, and our resolution of it is dialled: not the address that the client had.
        let hello = client_hello("allowed.test");
        for request in [to_address(DENIED, 443), to_name(&DENIED.to_string(), 443)] {
            let (mut client, code, _) = ask(&engine, &request).await;
            assert_eq!(code, 0, "let in, to hear what it says");
            client.send(&hello).await.unwrap();
            assert_eq!(client.exactly(hello.len()).await.unwrap(), hello);
        }
        let (mut client, _, _) = ask(&engine, &to_address(ALLOWED, 80)).await;
        client.send(b"GET /4/9 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().body, pattern(4, 9));
        client.send(b"GET /4/9 HTTP/1.1\r\nHost: denied.test\r\n\r\n").await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 502, "each request by itself");
        for inner in [client_hello("denied.test"), b"SSH-2.0-x\r\n".to_vec()] {
            let (mut client, code, _) = ask(&engine, &to_address(ALLOWED, 443)).await;
            assert_eq!(code, 0);
            client.start(&inner);
            assert!(client.to_end().await.is_err(), "neither a name nor an address that is registered");
        }
    });
    let dialled: Vec<IpAddr> = world.sim.engine_attempts().iter().map(|attempt| attempt.to.ip()).collect();
    assert_eq!(dialled, [IpAddr::from(ALLOWED); 3]);
    world.stop();
}

#[test]
fn a_denial_is_reply_2_and_sends_no_packet() {
    let (world, engine) = world(registry_only(), Auth::Off);
    let denied: [Vec<u8>; 12] = [
        to_name("denied.test", 443),
        to_name("allowed.test", 25),
        to_name("evilallowed.test", 80),
        to_name("metadata.test", 80),
        to_name("private.test", 80),
        to_address([169, 254, 169, 254], 80),
        to_address([224, 0, 0, 1], 80),
        to_address([0, 0, 0, 0], 80),
        to_address("::ffff:169.254.169.254".parse::<IpAddr>().unwrap(), 80),
        to_address("64:ff9b::a9fe:a9fe".parse::<IpAddr>().unwrap(), 80),
        to_address("fe80::1".parse::<IpAddr>().unwrap(), 80),
        to_name("169.254.169.254", 80),
    ];
    world.sim.block_on(async {
        for request in &denied {
            let (mut client, code, bound) = ask(&engine, request).await;
            assert_eq!((code, bound), (2, ([0, 0, 0, 0], 0).into()), "{}", request.escape_ascii());
            assert_eq!(client.to_end().await.unwrap(), b"", "then the end");
        }
        // What follows a refused request is discarded, never interpreted.
        let mut client = Client::connect(&engine, SOCKS).await.unwrap();
        let both = [OPEN, &to_name("denied.test", 443), OPEN, &to_name("allowed.test", 9000)].concat();
        client.send(&both).await.unwrap();
        assert_eq!(client.exactly(2).await.unwrap(), [5, 0]);
        assert_eq!(reply(&mut client).await.0, 2);
        assert_eq!(client.to_end().await.unwrap(), b"");
    });
    assert_eq!(world.sim.engine_attempts(), []);
    let decisions = world.metric("egress_policy_decisions_total", "decision=\"deny\"");
    assert_eq!(decisions as usize, denied.len() + 1, "one decision for each flow");
    let opened = world.metric("istio_tcp_connections_opened_total", "BlackHoleCluster");
    assert_eq!(opened as usize, denied.len() + 1, "a TCP flow that was opened and closed");
    let records = world.stop();
    assert_eq!(records.len(), denied.len() + 1);
    for record in &records {
        assert_eq!((record.response_code, &*record.response_flags.to_string()), (0, "UH"));
        assert_eq!(text(record, Field::PolicyDecision), "deny");
    }
}

#[test]
fn a_workload_that_may_not_is_told_apart_in_the_record() {
    let mut policy = registry_only();
    policy.services[0].deny = vec![Selector::default()];
    let (world, engine) = world(policy, Auth::Off);
    world.sim.block_on(async {
        assert_eq!(ask(&engine, &to_name("allowed.test", 443)).await.1, 2);
    });
    assert_eq!(world.sim.engine_attempts(), []);
    let records = world.stop();
    assert_eq!(text(&records[0], Field::ResponseCodeDetails), "rbac_access_denied");
}

#[test]
fn each_trouble_has_its_reply() {
    let (world, engine) = world(allow_any(), Auth::Off);
    world.sim.block_on(async {
        assert_eq!(ask(&engine, &to_name("nowhere.test", 443)).await.1, 4, "no such name");
        assert_eq!(ask(&engine, &to_name("open.test", 4444)).await.1, 5, "refused");
        world.sim.set_faults(Faults { connect_silent_permille: 1000, ..Faults::none() });
        assert_eq!(ask(&engine, &to_name("open.test", 443)).await.1, 6, "no answer in time");
        world.sim.set_faults(Faults::none());
        for command in [2, 3, 0, 9, 0xf0] {
            let (mut client, code, _) = ask(&engine, &[5, command, 0, 1, 1, 2, 3, 4, 0, 80]).await;
            assert_eq!(code, 7, "command {command}");
            assert_eq!(client.to_end().await.unwrap(), b"");
        }
        for kind in [0, 2, 5, 255] {
            assert_eq!(ask(&engine, &[5, 1, 0, kind, 1, 2, 3, 4, 0, 80]).await.1, 8, "type {kind}");
        }
    });
    let flags: Vec<String> = world.stop().iter().map(|record| record.response_flags.to_string()).collect();
    assert_eq!(flags[..3], ["DF", "UF", "UF"]);
}

#[test]
fn malformed_messages_are_closed_without_a_packet() {
    let (world, engine) = world(allow_any(), Auth::Optional);
    let request = |rest: &[u8]| [OPEN, &[5, 1, 0][..], rest].concat();
    let name = |name: &[u8]| request(&[&[3, name.len() as u8][..], name, &[0, 80]].concat());
    let wires: Vec<Vec<u8>> = vec![
        b"\x04\x01\x00\x50\x01\x02\x03\x04u\0".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        client_hello("allowed.test"),
        vec![5, 0],
        [OPEN, &[4, 1, 0, 1, 1, 2, 3, 4, 0, 80][..]].concat(),
        [OPEN, &[5, 1, 1, 1, 1, 2, 3, 4, 0, 80][..]].concat(),
        request(&[3, 0, 0, 80]),
        request(&[1, 1, 2, 3, 4, 0, 0]),
        name(b"a..test"),
        name(b"0x7f.1"),
        name(b"127.1"),
        name(b"2130706433"),
        name(b"allowed.test:80"),
        name(b"u@allowed.test"),
        name(b"::1"),
        name(b"[fe80::1%25lo]"),
        name("\u{430}llowed.test".as_bytes()),
        name(b"allowed.test\0.denied.test"),
        name(b"allowed.test\r\nHost: x"),
        name(&[b'a'; 255]),
        [SHOWN, &[2, 1, b'u', 1, b'p'][..]].concat(),
        [SHOWN, &[5, 1, 0, 1][..]].concat(),
    ];
    world.sim.block_on(async {
        for wire in &wires {
            let mut client = Client::connect(&engine, SOCKS).await.unwrap();
            client.start(wire);
            // A close with unread bytes may reach the client as a reset, which then takes what it had not read.
            let heard = client.to_end().await.unwrap_or_default();
            assert!(heard.len() <= 2, "no reply to {}: {heard:?}", wire.escape_ascii());
        }
    });
    assert_eq!(world.sim.engine_attempts(), [], "no packet");
    assert_eq!(world.dns.asked.get(), 0, "no question");
    let records = world.stop();
    assert_eq!(records.len(), wires.len());
    for record in records {
        assert_eq!(text(&record, Field::PolicyReason), "malformed");
        assert_eq!(text(&record, Field::ResponseCodeDetails), "socks5_malformed");
    }
}

#[test]
fn no_length_makes_the_door_wait_for_ever() {
    let (world, engine) = world(allow_any(), Auth::Required);
    let whole = [SHOWN, &login("idgen", "s3cret"), &to_name("allowed.test", 80)].concat();
    world.sim.block_on(async {
        for end in 0..whole.len() {
            let mut client = Client::connect(&engine, SOCKS).await.unwrap();
            client.send(&whole[..end]).await.unwrap();
            let before = engine.now();
            client.to_end().await.unwrap();
            assert!(engine.now().since(before) <= Duration::from_millis(10_100), "after {end} bytes");
            let mut client = Client::connect(&engine, SOCKS).await.unwrap();
            client.send(&whole[..end]).await.unwrap();
            client.stream.shutdown().unwrap();
            client.to_end().await.unwrap();
        }
    });
    assert_eq!(world.sim.engine_attempts(), []);
    let records = world.stop();
    let of = |reason: &str| records.iter().filter(|r| text(r, Field::PolicyReason) == reason).count();
    // At three places the client has ended between two messages: it asked for nothing.
    assert_eq!((of("limit"), of("malformed"), of("-")), (whole.len(), whole.len() - 3, 3));
}

#[test]
fn credentials_are_asked_for_as_the_door_says() {
    for (auth, methods, sent, heard, proof) in [
        (Auth::Off, OPEN, None, &[5, 0][..], "none"),
        (Auth::Off, SHOWN, None, &[5, 0], "none"),
        (Auth::Off, b"\x05\x01\x02", Some(login("idgen", "wrong")), &[5, 2, 1, 0], "none"),
        (Auth::Optional, OPEN, None, &[5, 0], "none"),
        (Auth::Optional, SHOWN, Some(login("idgen", "s3cret")), &[5, 2, 1, 0], "credentials"),
        (Auth::Optional, SHOWN, Some(login("idgen", "s3cre")), &[5, 2, 1, 1], "refused"),
        (Auth::Required, SHOWN, Some(login("idgen", "s3cret")), &[5, 2, 1, 0], "credentials"),
        (Auth::Required, SHOWN, Some(login("idgen", "s3crets")), &[5, 2, 1, 1], "refused"),
        (Auth::Required, SHOWN, Some(login("nobody", "s3cret")), &[5, 2, 1, 1], "refused"),
        (Auth::Required, SHOWN, Some(login("idgen", "")), &[5, 2, 1, 1], "refused"),
        (Auth::Required, SHOWN, Some(vec![1, 0, 0]), &[5, 2, 1, 1], "refused"),
        (Auth::Required, OPEN, None, &[5, 0xff], "refused"),
        (Auth::Off, b"\x05\x01\x01", None, &[5, 0xff], "refused"),
        (Auth::Optional, b"\x05\x02\x01\x03", None, &[5, 0xff], "refused"),
    ] {
        let (world, engine) = world(registry_only(), auth);
        world.sim.block_on(async {
            let mut client = Client::connect(&engine, SOCKS).await.unwrap();
            let request = to_name("allowed.test", 9000);
            client.send(&[methods, &sent.unwrap_or_default(), &request].concat()).await.unwrap();
            assert_eq!(client.exactly(heard.len()).await.unwrap(), heard, "{auth:?}");
            if proof == "refused" {
                assert_eq!(client.to_end().await.unwrap(), b"");
            } else {
                assert_eq!(reply(&mut client).await.0, 0);
            }
        });
        let attempts = world.sim.engine_attempts().len();
        assert_eq!(attempts, usize::from(proof != "refused"), "{auth:?} {heard:?}");
        let records = world.stop();
        if proof == "refused" {
            assert_eq!(text(&records[0], Field::PolicyReason), "auth");
        } else {
            assert_eq!(text(&records[0], Field::Proof), proof);
        }
    }
}

#[test]
fn a_user_who_is_gone_loses_the_tunnel() {
    let (world, engine) = world(registry_only(), Auth::Required);
    let mut client = world.sim.block_on(async {
        let mut client = Client::connect(&engine, SOCKS).await.unwrap();
        let wire = [SHOWN, &login("idgen", "s3cret"), &to_name("allowed.test", 9000), b"x"].concat();
        client.send(&wire).await.unwrap();
        client.exactly(4 + 10 + 1).await.unwrap();
        client
    });
    world.set_users(Vec::new());
    world.publish(registry_only());
    world.sim.block_on(async { assert!(client.to_end().await.is_err(), "reset") });
    let records = world.stop();
    assert_eq!(text(&records[0], Field::PolicyReason), "revoked");
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let (world, engine) = world(allow_any(), Auth::Off);
    world.sim.block_on(async {
        let (mut client, code, _) = ask(&engine, &to_name("open.test", 9001)).await;
        assert_eq!(code, 0);
        let before = engine.now();
        assert!(!client.exactly(1).await.unwrap().is_empty());
        assert!(
            engine.now().since(before) < Duration::from_secs(1),
            "nobody waits for the client's first bytes"
        );
    });
    world.stop();
}
