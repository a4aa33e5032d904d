//! The way upstream: both address families, time-outs, addresses as destinations, and what doors say when it fails.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use sluice_tests::harness::dns::Reply;
use sluice_tests::harness::gateway::{Start, binary};
use sluice_tests::harness::hello::client_hello;
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::{
    Dns, Ending, Gateway, Http, Origin, Service, door, engine, registry_only, servers, until,
};

const GUARD: &str = "[guard]\nallow = [\"127.0.0.0/8\", \"::1\", \"fd00::/8\"]\n";
/// An address whose packets the namespace drops: nobody answers, nobody refuses.
const BLACK_HOLE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);

#[test]
fn ipv6_works_on_both_sides() {
    let origin = Origin::at((Ipv6Addr::LOCALHOST, 0).into(), |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nv6");
    });
    let dns = Dns::start();
    dns.reply("six.test", Reply::Addresses(vec![Ipv6Addr::LOCALHOST.into()], 60));
    let config = registry_only().replace("127.0.0.1:0", "[::1]:0")
        + &Service::new("a", "six.test").resolved_port(80, "HTTP", origin.port()).toml()
        + GUARD
        + &dns.toml("");
    let gateway = Gateway::start(&config);
    assert!(gateway.proxy().is_ipv6());
    assert_eq!(gateway.client().get("http://six.test/").text(), "v6");
    let entry = gateway.first_entry();
    assert_eq!(entry["upstream_host"], origin.address().to_string());
    assert!(entry["downstream_remote_address"].as_str().is_some_and(|address| address.starts_with("[::1]:")));
}

/// A namespace in which [`BLACK_HOLE`] swallows everything.
fn swallowing() -> Netns {
    let netns = Netns::new();
    netns.run("ip", &["-6", "address", "add", &format!("{BLACK_HOLE}/128"), "dev", "lo"]);
    netns.run("nft", &["add table inet swallow"]);
    netns.run("nft", &["add chain inet swallow in { type filter hook input priority 0; }"]);
    netns.run("nft", &[&format!("add rule inet swallow in ip6 daddr {BLACK_HOLE} drop")]);
    netns
}

fn in_namespace(netns: &Netns, config: &str) -> Gateway {
    let config = format!("{config}[dataplane]\nengine = \"{}\"\n", engine());
    Start::through(netns.command(binary()), &config).ready()
}

#[test]
fn a_silent_address_of_one_family_costs_a_quarter_second() {
    let netns = swallowing();
    let origin = netns.enter(|| Origin::http("over v4"));
    let dns = netns.enter(Dns::start);
    dns.reply("a.test", Reply::Addresses(vec![BLACK_HOLE.into(), origin.address().ip()], 60));
    let service = Service::new("a", "a.test").resolved_port(80, "HTTP", origin.port()).toml();
    let gateway = in_namespace(&netns, &(registry_only() + &service + GUARD + &dns.toml("")));
    let proxy = gateway.proxy();
    netns.enter(|| {
        let start = Instant::now();
        assert_eq!(Http::connect(proxy).get("http://a.test/").text(), "over v4");
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(200), "the first family has a head start: {took:?}");
        assert!(took < Duration::from_secs(4), "not the whole connect timeout: {took:?}");
    });
    // Each attempt began a connection, so each is counted.
    netns.enter(|| {
        let attempts = |result: &str| gateway.metric("egress_upstream_connects_total", &[result]);
        assert_eq!((attempts("result=\"ok\""), attempts("result=\"abandoned\"")), (1.0, 1.0));
    });
}

#[test]
fn an_address_that_swallows_everything_is_given_up_in_time() {
    let netns = swallowing();
    let dns = netns.enter(Dns::start);
    dns.reply("a.test", Reply::Addresses(vec![BLACK_HOLE.into()], 60));
    let service = Service::new("a", "a.test").resolved_port(80, "HTTP", 80).toml();
    let limits = "[limits]\nconnect_timeout_ms = 400\n";
    let gateway = in_namespace(&netns, &(registry_only() + &service + GUARD + &dns.toml("") + limits));
    let proxy = gateway.proxy();
    netns.enter(|| {
        let start = Instant::now();
        assert_eq!(Http::connect(proxy).get("http://a.test/").status, 503);
        assert!(start.elapsed() >= Duration::from_millis(350), "{:?}", start.elapsed());
        assert_eq!(Http::connect(proxy).connect_to("a.test:80").status, 503);
        assert_eq!(gateway.metric("egress_upstream_connects_total", &["result=\"timeout\""]), 2.0);
    });
    let entry = gateway.first_entry();
    assert_eq!((&entry["response_flags"], &entry["response_code"]), (&"UF".into(), &503.into()));
}

#[test]
fn doors_without_http_reset_and_the_record_says_why() {
    let dns = Dns::start();
    let dead = servers::free();
    let config = format!("mode = \"registry_only\"\n{}", door("tls", "destination_port = 443"))
        + &door("tcp", "service = \"default/dead\"")
        + &Service::new("dead", "dead.test").port(443, "TLS", dead).toml()
        + &Service::new("nx", "nx.test").resolved_port(443, "TLS", 443).toml()
        + &dns.toml("");
    let gateway = Gateway::start(&config);
    for (name, flags) in [("dead.test", "UF"), ("nx.test", "DF")] {
        let mut client = Http::connect(gateway.door("tls"));
        client.send(client_hello(&[name.as_bytes()]));
        client.expect_end(Ending::Reset);
        let entry = gateway.wait_entry(|entry| entry["requested_server_name"] == name);
        assert_eq!(entry["response_flags"], flags, "{entry}");
        assert_ne!(entry["policy_decision"], "deny", "{entry}");
    }
    let mut client = Http::connect(gateway.door("tcp"));
    assert!(client.rest().0.is_empty());
    let entry =
        gateway.wait_entry(|entry| entry["downstream_local_address"] == gateway.door("tcp").to_string());
    assert_eq!(entry["response_flags"], "UF", "{entry}");
}

#[test]
fn the_tls_door_in_allow_any_dials_its_own_resolution() {
    let origin = Origin::echo();
    let dns = Dns::start();
    dns.set("any.test", origin.address().ip(), 60);
    let more = format!("destination_port = {}", origin.port());
    let config = format!("mode = \"allow_any\"\n{}", door("tls", &more)) + GUARD + &dns.toml("");
    let gateway = Gateway::start(&config);
    let hello = client_hello(&[b"any.test"]);
    let mut client = Http::connect(gateway.door("tls"));
    client.send(&hello);
    assert_eq!(client.exactly(hello.len()), hello);
    client.finish();
    client.expect_end(Ending::Closed);
    let entry = gateway.first_entry();
    assert_eq!(
        (&entry["policy_decision"], &entry["shadow_decision"]),
        (&"passthrough".into(), &"deny".into())
    );
    gateway.wait_metric("istio_tcp_connections_closed_total", &["PassthroughCluster"], 1.0);
}

/// Many clients resolve by themselves: with a name found inside, the name decides and our resolution is dialled.
#[test]
fn an_address_as_connect_target_is_decided_by_the_name_inside() {
    let (good, decoy) = (Origin::echo(), Origin::forbidden());
    let config = registry_only() + &Service::new("a", "a.test").port(443, "TLS", good.address()).toml();
    let gateway = Gateway::start(&config);
    let target = format!("{}:443", decoy.address().ip());
    let mut client = gateway.client();
    assert_eq!(client.connect_to(&target).status, 200);
    let hello = client_hello(&[b"a.test"]);
    client.send(&hello);
    assert_eq!(client.exactly(hello.len()), hello, "answered by the name's origin");
    for inside in [client_hello(&[b"denied.test"]), client_hello(&[]), b"SSH-2.0-x\r\n".to_vec()] {
        let mut client = gateway.client();
        assert_eq!(client.connect_to(&target).status, 200);
        client.send(inside);
        client.expect_end(Ending::Reset);
    }
    assert_eq!(good.accepted(), 1);
    decoy.untouched();
}

#[test]
fn an_address_that_a_service_names_is_a_destination() {
    let origin = Origin::start(|peer| {
        peer.send("server first\r\n");
        peer.echo();
    });
    let address = origin.address();
    let config = registry_only()
        + &format!(
            "[[service]]\nname = \"db\"\naddresses = [\"{}\"]\nports = [{{ number = {}, protocol = \"MYSQL\" }}]\nresolution = \"NONE\"\n",
            address.ip(),
            address.port()
        );
    let gateway = Gateway::start(&config);
    let mut client = gateway.client();
    assert_eq!(client.connect_to(&address.to_string()).status, 200);
    assert_eq!(client.until(b"\r\n"), b"server first\r\n");
    // Another port of the same address is not named.
    let mut other = gateway.client();
    let response = other.connect_to(&format!("{}:{}", address.ip(), address.port() ^ 1));
    if response.status == 200 {
        other.send("SSH-2.0-x\r\n");
        other.expect_end(Ending::Reset);
    } else {
        assert_eq!(response.status, 502);
    }
}

#[test]
fn an_idle_upstream_connection_is_closed_in_time() {
    let origin = Origin::http("x");
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let gateway =
        Gateway::start(&(registry_only() + &service + "[limits]\nupstream_keepalive_timeout_ms = 200\n"));
    let mut client = gateway.client();
    assert_eq!(client.get("http://a.test/").status, 200);
    gateway.wait_metric("egress_upstream_pool_evictions_total", &[], 1.0);
    assert_eq!(client.get("http://a.test/").status, 200);
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_body_that_does_not_move_ends_in_time() {
    let origin = Origin::start(|peer| {
        if peer.head().is_some_and(|head| head.starts_with("POST")) {
            let _ = peer.exactly(1000);
        } else {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome");
            peer.read_some();
        }
    });
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let gateway =
        Gateway::start(&(registry_only() + &service + "[limits]\nhttp_stream_idle_timeout_ms = 300\n"));
    let mut download = gateway.client();
    download.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(download.until(b"some").starts_with(b"HTTP/1.1 200"));
    assert_eq!(download.rest().1, Ending::Reset, "a cut answer must not look whole");
    let mut upload = gateway.client();
    upload.send("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\n\r\nsome");
    let (answer, _) = upload.rest();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    until("both records", || (gateway.log_lines().len() == 2).then_some(()));
}

#[test]
fn names_that_nobody_registered_cannot_fill_the_metrics() {
    let config = registry_only() + &Service::new("w", "*.wild.test").port(80, "HTTP", servers::free()).toml();
    let gateway = Gateway::start(&config);
    let mut client = gateway.client();
    for n in 0..600 {
        assert_eq!(client.get(&format!("http://n{n}.evil.test/")).status, 502);
    }
    gateway.wait_metric("istio_requests_total", &["BlackHoleCluster"], 600.0);
    let metrics = gateway.metrics();
    let labels = metrics.lines().filter(|line| line.starts_with("istio_requests_total{")).count();
    assert!((2..=257).contains(&labels), "{labels} series");
    assert!(gateway.metric("egress_host_label_overflow_total", &[]) >= 300.0);
    // A registered wildcard is one label, however many names match it.
    for n in 0..5 {
        assert_eq!(client.get(&format!("http://n{n}.wild.test/")).status, 503);
    }
    gateway.wait_metric(
        "istio_requests_total",
        &["destination_service=\"*.wild.test\"", "response_flags=\"UF\""],
        5.0,
    );
}

#[test]
fn a_service_with_endpoints_that_are_names_resolves_those() {
    let origin = Origin::http("by endpoint");
    let dns = Dns::start();
    dns.set("backend.test", origin.address().ip(), 60);
    let config = registry_only()
        + &format!(
            "[[service]]\nname = \"a\"\nhosts = [\"front.test\"]\nports = [{{ number = 80, protocol = \"HTTP\", target_port = {} }}]\n\
             endpoints = [{{ address = \"backend.test\" }}]\n",
            origin.port()
        )
        + GUARD
        + &dns.toml("");
    let gateway = Gateway::start(&config);
    assert_eq!(gateway.client().get("http://front.test/").text(), "by endpoint");
    assert_eq!(dns.asked("front.test"), 0);
    assert!(origin.heads()[0].contains("Host: front.test"), "{:?}", origin.heads());
    let _: SocketAddr = origin.address();
}
