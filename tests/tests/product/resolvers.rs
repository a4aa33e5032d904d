//! dnsmasq and unbound as the gateway's DNS servers: their answers are kept for the TTL that they give, and followed when
//! they change.

use std::net::{IpAddr, Ipv4Addr};

use sluice_tests::harness::origin::{Loopback, Peer};
use sluice_tests::harness::resolvers::Resolver;
use sluice_tests::harness::{Dns, Gateway, Origin, Service, registry_only, until};

/// A new connection upstream for each request.
fn named(body: &'static str) -> impl Fn(&mut Peer) + Send + Sync + 'static {
    move |peer| {
        if peer.request().is_some() {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            peer.send(head + body);
        }
    }
}

/// Two origins on the same port of two addresses.
fn two_origins() -> (Origin, Origin, [Loopback; 2]) {
    let held = [Loopback::new(), Loopback::new()];
    let first = Origin::at((held[0].ip, 0).into(), named("one"));
    let second = Origin::at((held[1].ip, first.port()).into(), named("two"));
    (first, second, held)
}

/// A gateway for names under `test`, port 80 of which is dialled at `port`.
fn gateway_for(dns: &str, port: u16) -> Gateway {
    let service = Service::new("a", "*.test").resolved_port(80, "HTTP", port).toml();
    Gateway::start(&(registry_only() + &service + "[guard]\nallow = [\"127.0.0.0/8\"]\n" + dns))
}

fn fetch(gateway: &Gateway, name: &str) -> String {
    gateway.client().get(&format!("http://{name}/")).text()
}

#[test]
fn dnsmasq_is_followed_to_a_new_address_and_to_the_end_of_a_name() {
    let (one, two, _held) = two_origins();
    let (one_ip, two_ip) = (one.address().ip(), two.address().ip());
    let server = Resolver::dnsmasq(&[("a.test", one_ip), ("b.test", two_ip)], 2);
    let gateway = gateway_for(&server.toml(""), one.port());
    for _ in 0..5 {
        assert_eq!(fetch(&gateway, "a.test"), "one");
    }
    assert_eq!(server.asked("a.test"), 1, "the answer is kept for its TTL");
    assert_eq!(fetch(&gateway, "b.test"), "two");
    assert_eq!(fetch(&gateway, "alias.test"), "one", "an alias leads to the addresses of its name");
    // The name moves, and another one ends.
    server.set(&[("a.test", two_ip)]);
    until("the new address", || (fetch(&gateway, "a.test") == "two").then_some(()));
    assert!(server.asked("a.test") <= 3, "{} questions for one change", server.asked("a.test"));
    until("the end of a name", || (gateway.client().get("http://b.test/").status == 503).then_some(()));
    let entry = gateway.wait_entry(|entry| entry["authority"] == "b.test" && entry["response_code"] == 503);
    assert_eq!(entry["response_flags"], "DF", "{entry}");
    // A name that nobody has was never there.
    assert_eq!(gateway.client().get("http://absent.test/").status, 503);
    assert!(server.asked("absent.test") > 0);
}

#[test]
fn an_answer_of_dnsmasq_that_no_datagram_holds_is_fetched_over_tcp() {
    let origin = Origin::at((Ipv4Addr::UNSPECIFIED, 0).into(), named("one of many"));
    let addresses = (1..=250).map(|last| IpAddr::from(Ipv4Addr::new(127, 3, 0, last)));
    let names: Vec<_> = addresses.map(|address| ("many.test", address)).collect();
    let server = Resolver::dnsmasq(&names, 60);
    let gateway = gateway_for(&server.toml(""), origin.port());
    assert_eq!(fetch(&gateway, "many.test"), "one of many");
    assert_eq!(server.asked("many.test"), 2, "over UDP, and then over TCP");
}

#[test]
fn unbound_is_believed_for_the_ttl_that_is_left() {
    let (one, two, _held) = two_origins();
    // Where the names are from; unbound keeps what it hears.
    let source = Dns::start();
    source.set("a.test", one.address().ip(), 3);
    let server = Resolver::unbound(source.address());
    let gateway = gateway_for(&server.toml(""), one.port());
    for _ in 0..5 {
        assert_eq!(fetch(&gateway, "a.test"), "one");
    }
    assert_eq!(source.asked("a.test"), 1, "the answer is kept for its TTL");
    // Another gateway hears what unbound has kept for a while.
    let other = gateway_for(&server.toml(""), one.port());
    assert_eq!(fetch(&other, "a.test"), "one");
    source.set("a.test", two.address().ip(), 300);
    for each in [&gateway, &other] {
        until("the new address", || (fetch(each, "a.test") == "two").then_some(()));
    }
    assert!(source.asked("a.test") <= 3, "{} questions for one change", source.asked("a.test"));
    // What unbound cannot find out is no name.
    assert_eq!(gateway.client().get("http://absent.test/").status, 503);
}
