//! ClientHellos as no honest client sends them: in crumbs, padded, cut off, with odd names. What is refused reaches
//! nobody, what is accepted arrives unmodified.

use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_tests::harness::hello::{client_hello, hello_with, padded_hello};
use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, door, until};

fn tls_door(more: &str) -> String {
    format!("mode = \"registry_only\"\n{}", door("tls", &format!("destination_port = 443\n{more}")))
}

fn gateway_to(origin: &Origin, more: &str) -> Gateway {
    let service = Service::new("a", "allowed.test").host("*.wild.test").port(443, "TLS", origin.address());
    Gateway::start(&(tls_door("") + &service.toml() + more))
}

/// Writes a hello in pieces with a pause between them.
fn in_pieces(gateway: &Gateway, pieces: impl Iterator<Item = Vec<u8>>, pause: Duration) -> Http {
    let mut client = Http::connect(gateway.door("tls"));
    for piece in pieces {
        if !client.try_send(&piece) {
            break;
        }
        let_pass(pause);
    }
    client
}

fn cuts(hello: &[u8], sizes: usize) -> impl Iterator<Item = Vec<u8>> {
    hello.chunks(sizes).map(<[u8]>::to_vec)
}

#[test]
fn bytes_five_milliseconds_apart_make_a_hello() {
    let origin = Origin::echo();
    let gateway = gateway_to(&origin, "");
    let hello = client_hello(&[b"allowed.test"]);
    let mut client = in_pieces(&gateway, cuts(&hello, 1), Duration::from_millis(5));
    assert_eq!(client.exactly(hello.len()), hello);
    client.finish();
    client.expect_end(Ending::Closed);
}

/// The name is judged wherever the hello was cut: no cut shows the gateway another name than the origin.
#[test]
fn a_denied_name_is_denied_wherever_its_hello_is_cut() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "");
    let hello = client_hello(&[b"denied.test"]);
    let at = hello.windows(11).position(|window| window == b"denied.test").expect("the name is in it");
    for cut in [1, 4, 5, 6, 9, at - 1, at, at + 3, at + 6, at + 11, hello.len() - 1] {
        let halves = [hello[..cut].to_vec(), hello[cut..].to_vec()];
        let mut client = in_pieces(&gateway, halves.into_iter(), Duration::from_millis(2));
        client.expect_end(Ending::Reset);
    }
    for records_of in [1, 2, 7, 50] {
        let mut client = Http::connect(gateway.door("tls"));
        client.try_send(padded_hello(b"denied.test", 0, records_of));
        client.expect_end(Ending::Reset);
    }
    until("every record", || (gateway.log_lines().len() == 15).then_some(()));
    for entry in gateway.log_entries() {
        assert_eq!(
            (&entry["policy_reason"], &entry["requested_server_name"]),
            (&"not_registered".into(), &"denied.test".into()),
            "{entry}"
        );
    }
    origin.untouched();
}

#[test]
fn a_padded_hello_in_crumbs_arrives_unmodified() {
    let origin = Origin::echo();
    let gateway = gateway_to(&origin, "");
    for (hello, size) in [
        (padded_hello(b"allowed.test", 20 * 1024, 16_000), 997),
        (padded_hello(b"allowed.test", 20 * 1024, 100), 4_096),
        (padded_hello(b"allowed.test", 1_700, 1), 1_000),
        // As large as a post-quantum key share makes it.
        (hello_with(b"allowed.test", 51, &[9; 1_300]), 512),
    ] {
        let mut client = in_pieces(&gateway, cuts(&hello, size), Duration::from_millis(1));
        assert!(client.exactly(hello.len()) == hello, "{} bytes by {size}", hello.len());
    }
}

#[test]
fn an_unfinished_hello_is_closed_at_the_sniff_time_out_and_nobody_is_dialled() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "[limits]\nsniff_timeout_ms = 400\n");
    let hello = client_hello(&[b"allowed.test"]);
    let padded = padded_hello(b"allowed.test", 20 * 1024, 16_000);
    let almost =
        [&hello[..0], &hello[..1], &hello[..5], &hello[..60], &hello[..hello.len() - 1], &padded[..20_000]];
    for bytes in almost {
        let start = Instant::now();
        let mut client = Http::connect(gateway.door("tls"));
        client.send(bytes);
        let (rest, _) = client.rest();
        assert!(rest.is_empty());
        assert!(
            start.elapsed() >= Duration::from_millis(350),
            "{} bytes: {:?}",
            bytes.len(),
            start.elapsed()
        );
    }
    // A byte now and then does not prolong it.
    let start = Instant::now();
    let mut client = in_pieces(&gateway, cuts(&hello, 1), Duration::from_millis(20));
    assert!(client.rest().0.is_empty());
    assert!(start.elapsed() >= Duration::from_millis(350), "{:?}", start.elapsed());
    gateway.wait_metric("egress_policy_decisions_total", &["sniff_timeout"], 7.0);
    origin.untouched();
}

#[test]
fn odd_server_names_are_denied_and_cannot_forge_a_log_line() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "");
    let long = [b'a'; 300];
    let cases: &[(&[&[u8]], &str)] = &[
        (&[b"a\n{\"x\":1}"], "malformed"),
        (&[b"allowed.test\0"], "malformed"),
        (&[b"allowed.test\0.denied.test"], "malformed"),
        (&[b"allowed.test\r\nx: y"], "malformed"),
        (&[b"198.51.100.20"], "malformed"),
        (&[b"127.0.0.1"], "malformed"),
        (&[b"127.1"], "malformed"),
        (&[b"0x7f000001"], "malformed"),
        (&[b"::1"], "malformed"),
        (&[b"[::1]"], "malformed"),
        (&[b"allowed.test", b"denied.test"], "malformed"),
        (&[b"allowed.test", b"allowed.test"], "malformed"),
        (&[b""], "malformed"),
        (&[b"."], "malformed"),
        (&[b"allowed..test"], "malformed"),
        (&[b".allowed.test"], "malformed"),
        (&[b"*.wild.test"], "malformed"),
        (&[b"allowed.test:443"], "malformed"),
        (&[b"u@allowed.test"], "malformed"),
        (&["\u{430}llowed.test".as_bytes()], "malformed"),
        (&[b"allowed\xe3\x80\x82test"], "malformed"),
        (&[b"\xff\xfe"], "malformed"),
        (&[&long], "malformed"),
        (&[], "no_name"),
        (&[b"evilallowed.test"], "not_registered"),
        (&[b"allowed.test.evil"], "not_registered"),
        (&[b"wild.test"], "not_registered"),
        (&[b"evilwild.test"], "not_registered"),
    ];
    for (index, (names, reason)) in cases.iter().enumerate() {
        let mut client = Http::connect(gateway.door("tls"));
        client.send(client_hello(names));
        client.expect_end(Ending::Reset);
        let entry = until("its record", || gateway.log_entries().get(index).cloned());
        assert_eq!(
            (&entry["policy_decision"], &entry["policy_reason"]),
            (&"deny".into(), &(*reason).into()),
            "{entry}"
        );
        assert_eq!(entry["upstream_host"], Value::Null, "{entry}");
        assert_eq!(entry.get("x"), None, "{entry}");
    }
    let lines = gateway.log_lines();
    assert_eq!(lines.len(), cases.len(), "one line per flow: {lines:?}");
    assert!(lines.iter().all(|line| line.bytes().all(|byte| byte >= b' ')), "{lines:?}");
    origin.untouched();
}

#[test]
fn a_name_in_capitals_or_with_a_dot_is_the_same_name() {
    let (origin, denied) = (Origin::echo(), Origin::forbidden());
    let config = tls_door("")
        + &Service::new("a", "allowed.test").host("a_b.test").port(443, "TLS", origin.address()).toml()
        + &Service::new("b", "denied.test").port(443, "TLS", denied.address()).with("deny = [{}]").toml();
    let gateway = Gateway::start(&config);
    for name in [&b"AlLoWeD.TeSt"[..], b"allowed.test.", b"a_b.test"] {
        let hello = client_hello(&[name]);
        let mut client = Http::connect(gateway.door("tls"));
        client.send(&hello);
        assert_eq!(client.exactly(hello.len()), hello, "{}", String::from_utf8_lossy(name));
    }
    for name in [&b"DENIED.test"[..], b"denied.test.", b"Denied.Test."] {
        let mut client = Http::connect(gateway.door("tls"));
        client.send(client_hello(&[name]));
        client.expect_end(Ending::Reset);
    }
    gateway.wait_metric("egress_policy_decisions_total", &["workload_denied", "tls"], 3.0);
    denied.untouched();
}

/// One address behind two names: a good flow before opens nothing for the other name.
#[test]
fn a_shared_address_is_no_way_in_by_server_name() {
    let shared = Origin::echo();
    let gateway = gateway_to(&shared, "");
    let hello = client_hello(&[b"allowed.test"]);
    let mut good = Http::connect(gateway.door("tls"));
    good.send(&hello);
    assert_eq!(good.exactly(hello.len()), hello);
    let mut client = Http::connect(gateway.door("tls"));
    client.send(client_hello(&[b"denied.test"]));
    client.expect_end(Ending::Reset);
    assert_eq!(shared.accepted(), 1);
}

/// GREASE is indistinguishable from a real offer: the outer name is judged, the extension alone denies nothing.
#[test]
fn encrypted_client_hello_is_judged_by_its_outer_name() {
    let (origin, grease) = (Origin::echo(), [0x5a; 220]);
    let gateway = gateway_to(&origin, "");
    let hello = hello_with(b"allowed.test", 0xfe0d, &grease);
    let mut client = Http::connect(gateway.door("tls"));
    client.send(&hello);
    assert_eq!(client.exactly(hello.len()), hello);
    let mut client = Http::connect(gateway.door("tls"));
    client.send(hello_with(b"denied.test", 0xfe0d, &grease));
    client.expect_end(Ending::Reset);
    assert_eq!(origin.accepted(), 1);
}
