//! PROXY headers in front of every door, in a simulated world: whole, cut, wrong, from whom they must not come.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::time::Duration;

use sluice_bridge::{Notice, ProxyProtocol};
use sluice_engine::{Engine, Stream};
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_policy::{
    Identity, Origin, Pattern, PolicyInput, PortInput, Protocol, Resolution, Selector, ServiceInput,
    WorkloadInput,
};
use sluice_proto::http1::Method;
use sluice_telemetry::access_log::{Entry, Field};
use sluice_tests::sim::client::{Client, client_hello};
use sluice_tests::sim::world::{
    ALLOWED, DENIED, HTTP, PROXY, REDIRECT, SOCKS, Setup, TCP, TLS, TPROXY, World, allow_any, cidr, patterns,
    registry_only,
};

/// Whom the headers speak of, where the table of workloads knows it.
const CLIENT: &str = "192.0.2.7:4000";

fn expected(use_destination: bool) -> Option<ProxyProtocol> {
    Some(ProxyProtocol { trusted: [cidr("10.0.0.0/24")].into(), use_destination })
}

fn world(policy: PolicyInput, proxy_protocol: Option<ProxyProtocol>) -> (World, SimEngine) {
    let setup = Setup { proxy_protocol, ..Setup::default() };
    let world = World::with(Sim::new(5, Faults::none()), policy, setup);
    world.serve_origins();
    let engine = world.host(5);
    (world, engine)
}

/// The registry, for the workload at [`CLIENT`] only.
fn for_the_client_only() -> PolicyInput {
    let mut input = registry_only();
    let identity = Identity {
        workload: Some("payer".into()),
        namespace: Some("payments".into()),
        ..Identity::default()
    };
    input.workloads = vec![WorkloadInput {
        identity: identity.into(),
        addresses: vec![cidr("192.0.2.7")],
        origin: Origin::new("simulation", 2),
    }];
    let payments = Selector {
        namespace: Some("payments".parse::<Pattern>().expect("a pattern")),
        ..Selector::default()
    };
    for service in &mut input.services {
        service.allow = Some(vec![payments.clone()]);
        service.require_proof = Some(sluice_policy::Proof::ProxyProtocol);
    }
    input
}

fn v1(source: &str, destination: &str) -> Vec<u8> {
    let (source, destination) =
        (source.parse::<SocketAddr>().unwrap(), destination.parse::<SocketAddr>().unwrap());
    let line = format!(
        "PROXY TCP4 {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
    line.into_bytes()
}

/// Version 2 over IPv4 from [`CLIENT`] to 198.51.100.2:443, with these fields.
fn v2(command: u8, fields: &[u8]) -> Vec<u8> {
    let length = 12 + fields.len() as u16;
    let block = [192, 0, 2, 7, 198, 51, 100, 2, 0x0f, 0xa0, 1, 0xbb];
    let head = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11], &length.to_be_bytes(), &block].concat();
    [&head, fields].concat()
}

fn get() -> Vec<u8> {
    b"GET http://allowed.test/2/5 HTTP/1.1\r\nHost: allowed.test\r\n\r\n".to_vec()
}

/// What each door gets behind the header, and whether it did what it should.
async fn works(client: &mut Client, door: SocketAddr, payload: &[u8]) -> bool {
    if door == PROXY {
        return client.response(Method::Get).await.is_ok_and(|response| response.status == 200);
    }
    if door == SOCKS {
        // The method, the reply, and what the origin sent back.
        return client.exactly(2 + 10 + 1).await.is_ok_and(|heard| heard[3] == 0 && heard[12] == b'x');
    }
    client.exactly(payload.len()).await.is_ok_and(|echoed| echoed == payload)
}

fn payload(door: SocketAddr) -> Vec<u8> {
    match door {
        PROXY => get(),
        TLS => client_hello("allowed.test"),
        SOCKS => {
            [b"\x05\x01\x00\x05\x01\x00\x03\x0callowed.test", &9000_u16.to_be_bytes()[..], b"x"].concat()
        }
        _ => b"select 1".to_vec(),
    }
}

fn text(entry: &Entry, field: Field) -> String {
    String::from_utf8_lossy(entry.get(field).unwrap_or(b"-")).into_owned()
}

#[test]
fn every_door_believes_a_trusted_peer_however_its_bytes_are_cut() {
    let (world, engine) = world(for_the_client_only(), expected(false));
    let headers = [v1(CLIENT, "198.51.100.2:443"), v2(0x21, &[]), v2(0x21, b"\x02\0\x01a\x04\0\x02xx")];
    let mut flows = 0;
    world.sim.block_on(async {
        for door in [PROXY, TLS, TCP, SOCKS] {
            for header in &headers {
                let wire = [&header[..], &payload(door)].concat();
                for piece_bytes in [1, 2, 7, 16, 28, wire.len()] {
                    let mut client = Client::connect(&engine, door).await.unwrap();
                    client.send_split(&wire, piece_bytes, Duration::from_millis(1)).await.unwrap();
                    assert!(works(&mut client, door, &payload(door)).await, "{door} in {piece_bytes}");
                    flows += 1;
                }
                // A pause where the header ends.
                let mut client = Client::connect(&engine, door).await.unwrap();
                client.send(header).await.unwrap();
                engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
                client.send(&payload(door)).await.unwrap();
                assert!(works(&mut client, door, &payload(door)).await, "{door} after a pause");
                flows += 1;
            }
        }
    });
    let records = world.stop();
    assert_eq!(records.len(), flows);
    for record in records {
        assert_eq!(record.downstream_remote_address, Some(CLIENT.parse().unwrap()));
        assert_eq!(text(&record, Field::Proof), "proxy_protocol");
        assert_eq!(text(&record, Field::SourceWorkload), "payer");
        assert_eq!(text(&record, Field::PolicyReason), "registered");
        if record.response_code == 0 {
            let sent = record.bytes_received as usize;
            let sizes = [payload(TLS).len(), payload(TCP).len(), 1];
            assert!(sizes.contains(&sent), "no byte of the header: {sent}");
        }
    }
}

#[test]
fn another_source_is_not_let_through_by_its_load_balancer() {
    let (world, engine) = world(for_the_client_only(), expected(false));
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        client.send(&[v1("192.0.2.8:4000", "198.51.100.2:80"), get()].concat()).await.unwrap();
        let response = client.response(Method::Get).await.unwrap();
        assert_eq!(response.status, 403);
        assert!(response.reason.unwrap().contains("192.0.2.8"), "the denial names the source as we know it");
        for own in [v2(0x20, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
            let mut client = Client::connect(&engine, PROXY).await.unwrap();
            client.send(&[own, get()].concat()).await.unwrap();
            let response = client.response(Method::Get).await.unwrap();
            assert_eq!(response.status, 403);
            assert!(response.reason.unwrap().contains("10.0.0.5"), "LOCAL speaks for the peer itself");
        }
    });
    assert_eq!(world.sim.engine_attempts(), []);
    world.stop();
}

/// Each of `wires` alone is reset, and nothing goes up.
fn all_are_reset(wires: &[Vec<u8>], trusted: &str, reason: &str, details: &str) {
    let proxy_protocol = ProxyProtocol { trusted: [cidr(trusted)].into(), use_destination: false };
    let (world, engine) = world(allow_any(), Some(proxy_protocol));
    world.sim.block_on(async {
        for door in [PROXY, TLS, TCP] {
            for wire in wires {
                let mut client = Client::connect(&engine, door).await.unwrap();
                client.start(wire);
                assert!(client.to_end().await.is_err(), "{door}: {}", wire.escape_ascii());
            }
        }
    });
    assert_eq!(world.sim.engine_attempts(), [], "no packet");
    let records = world.stop();
    assert_eq!(records.len(), 3 * wires.len());
    for record in records {
        assert_eq!(text(&record, Field::PolicyReason), reason);
        assert_eq!(text(&record, Field::ResponseCodeDetails), details);
    }
}

#[test]
fn an_untrusted_peer_is_reset_whatever_it_says() {
    let wires = [[v1(CLIENT, "198.51.100.2:443"), get()].concat(), v2(0x21, &[]), get()];
    all_are_reset(&wires, "10.0.1.0/24", "auth", "proxy_protocol_untrusted_peer");
}

#[test]
fn whatever_is_no_header_is_reset() {
    let mut wires = vec![
        get(),
        client_hello("allowed.test"),
        b"\x05\x01\x00".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.2 4000 443\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.2 4000 99999\r\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
        v2(0x22, &[]),
        v2(0x31, &[]),
        // A field that is longer than the header, one that is cut, a checksum that is wrong.
        v2(0x21, &[2, 0, 9, b'a']),
        v2(0x21, &[2, 0]),
        v2(0x21, &[3, 0, 4, 0, 0, 0, 0]),
    ];
    let mut long = v2(0x21, &[]);
    long[14] = 0xff;
    wires.push(long);
    all_are_reset(&wires, "10.0.0.0/24", "malformed", "proxy_protocol_malformed");
}

#[test]
fn a_header_that_stays_away_or_incomplete_is_not_waited_for() {
    let (world, engine) = world(allow_any(), expected(false));
    let header = v2(0x21, &[2, 0, 1, b'a']);
    let line = v1(CLIENT, "198.51.100.2:443");
    world.sim.block_on(async {
        for header in [&header, &line] {
            for end in 0..header.len() {
                let mut client = Client::connect(&engine, TCP).await.unwrap();
                client.send(&header[..end]).await.unwrap();
                let before = engine.now();
                assert!(client.to_end().await.is_err(), "silent after {end} bytes");
                let waited = engine.now().since(before);
                assert!(waited <= Duration::from_millis(3100), "{waited:?}");
                let mut client = Client::connect(&engine, TCP).await.unwrap();
                client.send(&header[..end]).await.unwrap();
                client.stream.shutdown().unwrap();
                assert!(client.to_end().await.is_err(), "ended after {end} bytes");
            }
        }
    });
    assert_eq!(world.sim.engine_attempts(), [], "no packet");
    let records = world.stop();
    let of = |reason: &str| records.iter().filter(|r| text(r, Field::PolicyReason) == reason).count();
    let cuts = header.len() + line.len();
    assert_eq!((of("sniff_timeout"), of("malformed"), of("-")), (cuts, cuts - 2, 2));
}

#[test]
fn only_one_header_is_accepted() {
    let (world, engine) = world(registry_only(), expected(false));
    let twice = [v1(CLIENT, "198.51.100.2:443"), v2(0x21, &[])].concat();
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, PROXY).await.unwrap();
        client.send(&[&twice[..], &get()].concat()).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 400);
        let mut client = Client::connect(&engine, TLS).await.unwrap();
        client.start(&[twice, client_hello("allowed.test")].concat());
        assert!(client.to_end().await.is_err());
    });
    assert_eq!(world.sim.engine_attempts(), []);
    world.stop();
}

#[test]
fn a_door_that_wants_no_header_refuses_one() {
    let (world, engine) = world(registry_only(), None);
    world.sim.block_on(async {
        for header in [v1(CLIENT, "198.51.100.2:443"), v2(0x21, &[])] {
            let mut client = Client::connect(&engine, PROXY).await.unwrap();
            client.send(&[&header[..], &get()].concat()).await.unwrap();
            assert_eq!(client.response(Method::Get).await.unwrap().status, 400);
            let mut client = Client::connect(&engine, TLS).await.unwrap();
            client.start(&[&header[..], &client_hello("allowed.test")].concat());
            assert!(client.to_end().await.is_err());
            assert_eq!(world.sim.engine_attempts().len(), 0);
        }
        // A tcp door reads nothing: the bytes are the client's payload, and change nobody's identity.
        let header = v1(CLIENT, "198.51.100.2:443");
        let mut client = Client::connect(&engine, TCP).await.unwrap();
        client.send(&header).await.unwrap();
        assert_eq!(client.exactly(header.len()).await.unwrap(), header);
    });
    for record in world.stop() {
        assert_eq!(record.downstream_remote_address.unwrap().ip().to_string(), "10.0.0.5");
    }
}

/// A service that is known by its addresses alone: the original destination, or nothing.
fn by_address() -> PolicyInput {
    let mut input = registry_only();
    let mut service = ServiceInput::new("default", "ranges", Origin::new("simulation", 3));
    service.addresses = vec![cidr("93.184.216.10")];
    service.ports = vec![PortInput::new(443, Protocol::Tls), PortInput::new(5432, Protocol::Tcp)];
    service.resolution = Resolution::None;
    input.services.push(service);
    let db = input.services.iter_mut().find(|service| &*service.name == "db").unwrap();
    db.resolution = Resolution::None;
    db.endpoints.clear();
    db.hosts = patterns(&["second.test"]);
    db.addresses = vec![cidr("93.184.216.20")];
    input
}

#[test]
fn the_destination_counts_where_the_door_says_so() {
    let nameless = nameless_hello();
    let tls_to = |address: &str| [v1(CLIENT, address), nameless.clone()].concat();
    let (world, engine) = world(by_address(), expected(true));
    world.sim.block_on(async {
        // Without a name the address decides, and is dialled.
        let mut client = Client::connect(&engine, TLS).await.unwrap();
        client.send(&tls_to("93.184.216.10:443")).await.unwrap();
        assert_eq!(client.exactly(nameless.len()).await.unwrap(), nameless);
        for refused in ["93.184.216.20:443", "169.254.169.254:443", "127.0.0.1:443", "10.0.0.1:3128"] {
            let mut client = Client::connect(&engine, TLS).await.unwrap();
            client.start(&tls_to(refused));
            assert!(client.to_end().await.is_err(), "{refused}");
        }
        // With a name our resolution of it is dialled, whatever the header says.
        let hello = client_hello("allowed.test");
        let mut client = Client::connect(&engine, TLS).await.unwrap();
        client.send(&[v1(CLIENT, "93.184.216.20:443"), hello.clone()].concat()).await.unwrap();
        assert_eq!(client.exactly(hello.len()).await.unwrap(), hello);
        // The tcp door: an address of its service, at the door's own port.
        for (original, reached) in [("93.184.216.20:9", DENIED), ("93.184.216.30:9", ALLOWED)] {
            let mut client = Client::connect(&engine, TCP).await.unwrap();
            client.send(&[v1(CLIENT, original), b"select 1".to_vec()].concat()).await.unwrap();
            assert_eq!(client.exactly(8).await.unwrap(), b"select 1");
            let last = world.sim.engine_attempts().last().unwrap().to;
            assert_eq!((last.ip(), last.port()), (reached.into(), 5432), "{original}");
        }
    });
    let dialled: Vec<String> = world.sim.engine_attempts().iter().map(|a| a.to.to_string()).collect();
    assert_eq!(dialled[..2], ["93.184.216.10:443", "93.184.216.10:443"]);
    assert_eq!(dialled.len(), 4, "{dialled:?}");
    let records = world.stop();
    let to: SocketAddr = "93.184.216.10:443".parse().unwrap();
    assert!(records.iter().any(|record| record.downstream_local_address == Some(to)), "the log has it too");
}

#[test]
fn the_destination_does_not_count_elsewhere() {
    let (world, engine) = world(by_address(), expected(false));
    world.sim.block_on(async {
        let mut client = Client::connect(&engine, TLS).await.unwrap();
        client.start(&[v1(CLIENT, "93.184.216.10:443"), nameless_hello()].concat());
        assert!(client.to_end().await.is_err(), "no name, and no address that counts");
    });
    assert_eq!(world.sim.engine_attempts(), []);
    let records = world.stop();
    assert_eq!(text(&records[0], Field::PolicyReason), "no_name");
    assert_eq!(records[0].downstream_local_address, Some(TLS));
}

/// A ClientHello without extensions.
fn nameless_hello() -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 0x01, 1, 0]].concat();
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    [&[22, 3, 1, 0, message.len() as u8][..], &message].concat()
}

#[test]
fn a_header_takes_the_place_of_a_capture() {
    let (world, engine) = world(by_address(), expected(true));
    let hello = client_hello("allowed.test");
    world.sim.block_on(async {
        for (original, first) in [
            // The name decides and our resolution of it is dialled; without a name the address does.
            ("93.184.216.20:443", &hello),
            ("93.184.216.10:443", &nameless_hello()),
        ] {
            let mut client = Client::connect(&engine, REDIRECT).await.unwrap();
            client.send(&[v1(CLIENT, original), first.clone()].concat()).await.unwrap();
            assert_eq!(client.exactly(first.len()).await.unwrap(), *first, "{original}");
        }
        // The door itself, another listener of ours: nobody was captured.
        for header in [v1(CLIENT, "10.0.0.1:15001"), v1(CLIENT, "10.0.0.1:3128")] {
            let mut client = Client::connect(&engine, REDIRECT).await.unwrap();
            client.start(&[header, hello.clone()].concat());
            assert!(client.to_end().await.is_err());
        }
    });
    let dialled: Vec<String> = world.sim.engine_attempts().iter().map(|a| a.to.to_string()).collect();
    assert_eq!(dialled, ["93.184.216.10:443"; 2]);
    world.stop();
}

#[test]
fn a_check_of_a_door_that_captures_is_no_denial() {
    let mut policy = allow_any();
    policy.guard.own_listeners = vec![REDIRECT, TPROXY];
    let (world, engine) = world(policy, expected(false));
    world.sim.block_on(async {
        for door in [REDIRECT, TPROXY] {
            for own in [v2(0x20, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
                for behind in [Vec::new(), client_hello("allowed.test"), get()] {
                    let mut client = Client::connect(&engine, door).await.unwrap();
                    client.send(&[&own[..], &behind].concat()).await.unwrap();
                    let heard = client.to_end().await;
                    assert!(
                        heard.as_ref().is_ok_and(Vec::is_empty),
                        "{door}: closed, with no answer: {heard:?}"
                    );
                }
            }
        }
    });
    assert_eq!(world.sim.engine_attempts(), [], "what a check says goes nowhere");
    for name in
        ["egress_policy_decisions_total", "egress_guard_refusals_total", "egress_protocol_errors_total"]
    {
        assert_eq!(world.metric(name, ""), 0.0, "{name}");
    }
    let told = |notice: &Notice| matches!(notice, Notice::NotCaptured { .. });
    assert!(!world.notices.borrow().iter().any(told), "nor has an operator anything to repair");
    // Who forwards somebody to the door itself, or writes no header, is no check.
    world.sim.block_on(async {
        for (door, wire) in [
            (REDIRECT, v1(CLIENT, "198.51.100.2:443")),
            (TPROXY, v1(CLIENT, "198.51.100.2:443")),
            (TPROXY, get()),
        ] {
            let mut client = Client::connect(&engine, door).await.unwrap();
            client.start(&wire);
            assert!(client.to_end().await.is_err());
        }
    });
    assert_eq!(world.metric("egress_guard_refusals_total", "own_listener"), 2.0);
    let reasons: Vec<String> = world.stop().iter().map(|record| text(record, Field::PolicyReason)).collect();
    assert_eq!(reasons, ["guard", "guard", "malformed"], "a check has no line in the log");
}

#[test]
fn the_http_door_keeps_an_address_that_its_rule_has() {
    let mut policy = by_address();
    let db = policy.services.iter_mut().find(|service| &*service.name == "db").unwrap();
    db.ports = vec![PortInput::new(80, Protocol::Http)];
    for (use_destination, reached) in [(true, DENIED), (false, ALLOWED)] {
        let (world, engine) = world(policy.clone(), expected(use_destination));
        world.sim.block_on(async {
            let mut client = Client::connect(&engine, HTTP).await.unwrap();
            let request = b"GET /2/5 HTTP/1.1\r\nHost: second.test\r\n\r\n";
            client.send(&[&v1(CLIENT, "93.184.216.20:9")[..], request].concat()).await.unwrap();
            assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
        });
        let dialled: Vec<SocketAddr> = world.sim.engine_attempts().iter().map(|a| a.to).collect();
        assert_eq!(dialled, [SocketAddr::from((reached, 80))], "use_destination = {use_destination}");
        world.stop();
    }
}
