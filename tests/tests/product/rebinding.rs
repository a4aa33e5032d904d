//! Names that turn: a DNS server that answers with a public address now and a metadata address then. The kernel counts
//! what leaves for the metadata range, whatever was asked and answered.

use std::net::{IpAddr, Ipv4Addr};

use sluice_tests::harness::dns::Reply;
use sluice_tests::harness::gateway::{Start, binary, get, sum};
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::origin::Peer;
use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{Dns, Gateway, Http, Origin, allow_any, engine, until};

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Documentation's own (RFC 5737), public as far as the guard is concerned; here it lives in the namespace.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const DIALS: usize = 1_000;

/// A namespace with both addresses, one origin at each, and a gateway in allow-any.
struct Rig {
    netns: Netns,
    dns: Dns,
    public: Origin,
    metadata: Origin,
    gateway: Gateway,
}

fn answer(body: &'static str) -> impl Fn(&mut Peer) {
    move |peer| {
        if peer.request().is_some() {
            let length = body.len();
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            ));
        }
    }
}

fn rig(dns_settings: &str) -> Rig {
    let netns = Netns::new();
    netns.address(METADATA);
    netns.address(PUBLIC);
    netns.count("169.254.0.0/16");
    let dns = netns.enter(Dns::start);
    let public = netns.enter(|| Origin::at((PUBLIC, 0).into(), answer("public")));
    let metadata = netns.enter(|| Origin::at((METADATA, public.port()).into(), answer("secret")));
    let config = allow_any() + &dns.toml(dns_settings) + &format!("[dataplane]\nengine = \"{}\"\n", engine());
    let gateway = Start::through(netns.command(binary()), &config).ready();
    Rig { netns, dns, public, metadata, gateway }
}

/// One dial: `Some(true)` where the public origin answered, `Some(false)` where the guard refused.
#[derive(Clone, Copy)]
enum Via {
    Connect,
    Absolute,
}

impl Rig {
    fn dial(&self, via: Via) -> bool {
        let host = format!("turn.test:{}", self.public.port());
        let mut client = Http::connect(self.gateway.proxy());
        if let Via::Connect = via {
            let response = client.connect_to(&host);
            if response.status != 200 {
                assert_eq!((response.status, response.reason()), (502, "guard"), "{}", response.head);
                return false;
            }
            client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(client.response().text(), "public");
            return true;
        }
        let response = client.get(&format!("http://{host}/"));
        match (response.status, response.reason()) {
            (200, _) => assert_eq!(response.text(), "public"),
            other => {
                assert_eq!(other, (502, "guard"), "{}", response.text());
                return false;
            }
        }
        true
    }

    fn dials(&self, via: Via, count: usize) -> (usize, usize) {
        let passed = self.netns.enter(|| (0..count).filter(|_| self.dial(via)).count());
        (passed, count - passed)
    }

    fn refusals(&self) -> f64 {
        let metrics = self.netns.enter(|| get(self.gateway.admin(), "/metrics").text());
        sum(&metrics, "egress_guard_refusals_total", &["metadata"])
    }

    /// No packet left for the range; and the counter does count.
    fn assert_metadata_was_never_dialled(&self) {
        assert_eq!(self.netns.counted(), 0, "a packet left for 169.254.0.0/16");
        assert_eq!(self.metadata.accepted(), 0);
        self.netns.enter(|| drop(Http::connect(self.metadata.address())));
        assert!(self.netns.counted() > 0, "a client that dials the address itself is seen");
    }
}

fn good() -> IpAddr {
    PUBLIC.into()
}

fn bad() -> IpAddr {
    METADATA.into()
}

fn alternating() -> Reply {
    Reply::Turns(vec![vec![good()], vec![bad()]])
}

#[test]
fn a_thousand_connects_to_a_name_that_turns_send_no_packet_to_metadata() {
    let rig = rig("ttl_min_s = 0\nttl_max_s = 1");
    rig.dns.reply("turn.test", alternating());
    let (passed, refused) = rig.dials(Via::Connect, DIALS);
    assert!(passed > 0 && refused > 0, "{passed} passed, {refused} refused");
    assert!(rig.refusals() >= refused as f64);
    rig.assert_metadata_was_never_dialled();
}

#[test]
fn a_thousand_requests_to_a_name_that_turns_send_no_packet_to_metadata() {
    let rig = rig("ttl_min_s = 0\nttl_max_s = 1");
    rig.dns.reply("turn.test", alternating());
    let (passed, refused) = rig.dials(Via::Absolute, DIALS);
    assert!(passed > 0 && refused > 0, "{passed} passed, {refused} refused");
    rig.assert_metadata_was_never_dialled();
}

/// With the least life of an answer at one second, answers of both kinds are served from the cache.
#[test]
fn an_answer_that_is_kept_is_guarded_like_a_new_one() {
    let rig = rig("ttl_min_s = 1\nttl_max_s = 1");
    rig.dns.reply("turn.test", alternating());
    let (mut passed, mut refused) = (0, 0);
    until("answers of both kinds", || {
        let (good, bad) = (rig.dials(Via::Connect, 20), rig.dials(Via::Absolute, 20));
        passed += good.0 + bad.0;
        refused += good.1 + bad.1;
        (passed > 20 && refused > 20).then_some(())
    });
    let asked = rig.dns.asked("turn.test");
    assert!(asked < 60, "{asked} questions for {} dials: the cache was not used", passed + refused);
    rig.assert_metadata_was_never_dialled();
}

#[test]
fn a_stale_answer_is_guarded_on_every_dial() {
    let rig = rig("ttl_min_s = 0\nttl_max_s = 1\ntimeout_ms = 100\nstale_s = 600");
    rig.dns.reply("turn.test", Reply::Addresses(vec![bad()], 0));
    assert_eq!(rig.dials(Via::Connect, 1), (0, 1));
    rig.dns.silence(true);
    let stale = || {
        let metrics = rig.netns.enter(|| get(rig.gateway.admin(), "/metrics").text());
        sum(&metrics, "egress_dns_stale_answers_total", &[])
    };
    until("stale answers", || {
        assert_eq!(rig.dials(Via::Connect, 5), (0, 5));
        assert_eq!(rig.dials(Via::Absolute, 5), (0, 5));
        let_pass(std::time::Duration::from_millis(100));
        (stale() > 0.0).then_some(())
    });
    rig.assert_metadata_was_never_dialled();
}

#[test]
fn of_an_answer_with_both_the_good_address_is_used_and_the_bad_one_skipped() {
    for addresses in [vec![good(), bad()], vec![bad(), good()], vec![bad(), good(), bad()]] {
        let rig = rig("");
        rig.dns.reply("turn.test", Reply::Addresses(addresses.clone(), 60));
        assert_eq!(rig.dials(Via::Connect, 10), (10, 0), "{addresses:?}");
        assert_eq!(rig.dials(Via::Absolute, 10), (10, 0), "{addresses:?}");
        assert!(rig.refusals() >= 20.0, "the skipped address is counted on every dial");
        rig.assert_metadata_was_never_dialled();
    }
}

#[test]
fn a_name_with_bad_addresses_only_is_denied() {
    let rig = rig("");
    let ula: IpAddr = "fd00:ec2::254".parse().expect("an address");
    rig.dns.reply("turn.test", Reply::Addresses(vec![bad(), ula, Ipv4Addr::new(10, 1, 2, 3).into()], 60));
    assert_eq!(rig.dials(Via::Connect, 10), (0, 10));
    assert_eq!(rig.dials(Via::Absolute, 10), (0, 10));
    let entry = rig.gateway.first_entry();
    assert_eq!((&entry["policy_decision"], &entry["policy_reason"]), (&"deny".into(), &"guard".into()));
    assert_eq!(entry["upstream_host"], serde_json::Value::Null);
    // One flow, one decision.
    let metrics = rig.netns.enter(|| get(rig.gateway.admin(), "/metrics").text());
    let counted = |part: &str| sum(&metrics, "egress_policy_decisions_total", &[part]);
    assert!((counted("reason=\"guard\"") - 20.0).abs() < 0.5, "{metrics}");
    assert!(counted("reason=\"passthrough\"") < 0.5, "what the guard refused did not pass: {metrics}");
    rig.assert_metadata_was_never_dialled();
}
