//! Names: decided on, resolved by the gateway itself, and every address checked before it is dialled.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use sluice_tests::harness::dns::Reply;
use sluice_tests::harness::gateway::{Start, binary, sum};
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::origin::Loopback;
use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{Dns, Gateway, Http, Origin, Service, door, engine, registry_only, until};

const GUARD: &str = "[guard]\nallow = [\"127.0.0.0/8\"]\n";

fn v4(text: &str) -> IpAddr {
    text.parse::<Ipv4Addr>().expect("an address").into()
}

/// A gateway for `a.test`, port 80 of which is dialled at `port`.
fn gateway_for(dns: &Dns, port: u16, settings: &str) -> Gateway {
    let service = Service::new("a", "a.test").host("*.wild.test").resolved_port(80, "HTTP", port).toml();
    Gateway::start(&(registry_only() + &service + GUARD + &dns.toml(settings)))
}

/// A new connection upstream each time.
fn named(body: &'static str) -> impl Fn(&mut sluice_tests::harness::origin::Peer) {
    move |peer| {
        peer.request();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        peer.send(format!("{head}{body}"));
    }
}

/// Two origins on the same port of two addresses.
fn two_origins() -> (Origin, Origin, Loopback, Loopback) {
    let (one, two) = (Loopback::new(), Loopback::new());
    let first = Origin::at((one.ip, 0).into(), named("one"));
    let second = Origin::at((two.ip, first.port()).into(), named("two"));
    (first, second, one, two)
}

#[test]
fn a_name_is_resolved_here_cached_and_asked_again_after_its_ttl() {
    let (one, two, ..) = two_origins();
    let dns = Dns::start();
    dns.set("a.test", one.address().ip(), 2);
    let gateway = gateway_for(&dns, one.port(), "");
    for _ in 0..5 {
        assert_eq!(gateway.client().get("http://a.test/").text(), "one");
    }
    assert_eq!(dns.asked("a.test"), 1, "the answer is kept for its TTL");
    assert_eq!(dns.names(), ["a.test"], "no search list");
    dns.set("a.test", two.address().ip(), 300);
    until("the new address", || (gateway.client().get("http://a.test/").text() == "two").then_some(()));
    assert!(dns.asked("a.test") <= 3, "{}", dns.asked("a.test"));
}

#[test]
fn many_who_ask_at_once_cost_one_question() {
    let origin = Origin::http("x");
    let dns = Dns::start();
    dns.reply("a.test", Reply::Silence);
    let gateway = gateway_for(&dns, origin.port(), "timeout_ms = 20000");
    let mut clients: Vec<Http> = (0..20).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n");
    }
    until("the question", || (dns.asked("a.test") > 0).then_some(()));
    dns.set("a.test", v4("127.0.0.1"), 60);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert!(dns.asked("a.test") < 10, "{} questions for 20 clients", dns.asked("a.test"));
}

#[test]
fn dns_failures_are_503_df_and_say_which() {
    let dns = Dns::start();
    dns.reply("silent.wild.test", Reply::Silence);
    dns.reply("broken.wild.test", Reply::Failure);
    dns.reply("empty.wild.test", Reply::Addresses(Vec::new(), 60));
    let gateway = gateway_for(&dns, 80, "timeout_ms = 300");
    for name in ["nx.wild.test", "silent.wild.test", "broken.wild.test", "empty.wild.test"] {
        let start = Instant::now();
        let response = gateway.client().get(&format!("http://{name}/"));
        assert_eq!(response.status, 503, "{name}");
        assert!(response.text().contains(name) || response.text().contains("DNS"), "{}", response.text());
        assert!(start.elapsed() < Duration::from_secs(10), "{name}: {:?}", start.elapsed());
        let entry = gateway.wait_entry(|entry| entry["authority"] == name);
        assert_eq!(entry["response_flags"], "DF", "{entry}");
        assert!(
            entry["upstream_transport_failure_reason"].as_str().is_some_and(|why| !why.is_empty()),
            "{entry}"
        );
    }
    assert_eq!(gateway.client().connect_to("silent.wild.test:80").status, 503);
    gateway.wait_metric("egress_dns_queries_total", &[], 4.0);
    // "No such name" is believed for a while.
    let before = dns.asked("nx.wild.test");
    assert_eq!(gateway.client().get("http://nx.wild.test/").status, 503);
    assert_eq!(dns.asked("nx.wild.test"), before);
}

#[test]
fn what_is_not_registered_is_never_asked_for() {
    let dns = Dns::start();
    let gateway = gateway_for(&dns, 80, "");
    for n in 0..50 {
        assert_eq!(gateway.client().get(&format!("http://secret-{n}.evil.test/")).status, 502);
    }
    assert_eq!(dns.names(), Vec::<String>::new());
}

#[test]
fn while_dns_is_down_the_last_answer_serves() {
    let origin = Origin::start(named("still here"));
    let dns = Dns::start();
    dns.set("a.test", v4("127.0.0.1"), 1);
    let gateway = gateway_for(&dns, origin.port(), "timeout_ms = 200\nttl_max_s = 1");
    assert_eq!(gateway.client().get("http://a.test/").status, 200);
    dns.silence(true);
    let asked = dns.asked("a.test");
    // Until the answer is old, it is not asked for again.
    until("a question that nobody answers", || {
        assert_eq!(gateway.client().get("http://a.test/").text(), "still here");
        (dns.asked("a.test") > asked).then_some(())
    });
    for _ in 0..5 {
        assert_eq!(gateway.client().get("http://a.test/").text(), "still here");
    }
    gateway.wait_metric("egress_dns_stale_answers_total", &[], 1.0);
}

#[test]
fn a_stale_answer_has_an_end() {
    let origin = Origin::start(named("x"));
    let dns = Dns::start();
    dns.set("a.test", v4("127.0.0.1"), 1);
    let gateway = gateway_for(&dns, origin.port(), "timeout_ms = 200\nttl_max_s = 1\nstale_s = 1");
    assert_eq!(gateway.client().get("http://a.test/").status, 200);
    dns.silence(true);
    until("the end of the stale answer", || {
        let_pass(Duration::from_millis(100));
        (gateway.client().get("http://a.test/").status == 503).then_some(())
    });
}

#[test]
fn the_next_address_is_tried_when_the_first_refuses() {
    let (one, alone) = (Loopback::new(), Loopback::new());
    let origin = Origin::at((one.ip, 0).into(), named("found"));
    let dns = Dns::start();
    dns.reply("a.test", Reply::Addresses(vec![alone.ip, one.ip], 60));
    let gateway = gateway_for(&dns, origin.port(), "");
    assert_eq!(gateway.client().get("http://a.test/").text(), "found");
}

#[test]
fn both_families_are_tried_the_second_one_soon() {
    let origin = Origin::start(named("over v4"));
    let dns = Dns::start();
    // ::1 refuses at once, v4 answers.
    dns.reply("a.test", Reply::Addresses(vec!["::1".parse().expect("v6"), v4("127.0.0.1")], 60));
    let service = Service::new("a", "a.test").resolved_port(80, "HTTP", origin.port()).toml();
    let guard = "[guard]\nallow = [\"127.0.0.0/8\", \"::1\"]\n";
    let gateway = Gateway::start(&(registry_only() + &service + guard + &dns.toml("")));
    assert_eq!(gateway.client().get("http://a.test/").text(), "over v4");
}

#[test]
fn a_name_that_turns_private_is_refused_also_in_allow_any() {
    let origin = Origin::forbidden();
    let dns = Dns::start();
    for address in
        ["127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "100.64.0.1", "169.254.169.254", "0.0.0.0"]
    {
        dns.set(&format!("h{}.test", address.replace('.', "-")), v4(address), 60);
    }
    let gateway =
        Gateway::start(&(format!("mode = \"allow_any\"\n{}", door("http_proxy", "")) + &dns.toml("")));
    for name in dns_names() {
        let response = gateway.client().get(&format!("http://{name}:{}/", origin.port()));
        assert_eq!((response.status, response.reason()), (502, "guard"), "{name}");
        let response = gateway.client().connect_to(&format!("{name}:{}", origin.port()));
        assert_eq!((response.status, response.reason()), (502, "guard"), "{name}");
    }
    let entry = gateway.wait_entry(|entry| entry["policy_reason"] == "guard" && entry["method"] == "GET");
    assert_eq!(entry["response_code_details"], "egress_guard", "{entry}");
    // The denial says which line would allow it, where one could.
    let body = gateway.client().get(&format!("http://h10-1-2-3.test:{}/", origin.port())).text();
    assert!(body.contains("[guard]") && body.contains("10.1.2.3"), "{body}");
    gateway.wait_metric("egress_policy_decisions_total", &["guard"], 14.0);
    origin.untouched();
}

fn dns_names() -> [&'static str; 7] {
    [
        "h127-0-0-1.test",
        "h10-1-2-3.test",
        "h192-168-1-1.test",
        "h172-16-0-1.test",
        "h100-64-0-1.test",
        "h169-254-169-254.test",
        "h0-0-0-0.test",
    ]
}

#[test]
fn a_broad_range_does_not_allow_metadata() {
    let dns = Dns::start();
    dns.set("a.test", v4("169.254.169.254"), 60);
    let service = Service::new("a", "a.test").resolved_port(80, "HTTP", 80).toml();
    let guard = "[guard]\nallow = [\"0.0.0.0/0\"]\n";
    let gateway = Gateway::start(&(registry_only() + &service + guard + &dns.toml("")));
    assert_eq!(gateway.client().get("http://a.test/").reason(), "guard");
}

#[test]
fn own_listeners_are_never_dialled() {
    let dns = Dns::start();
    dns.set("self.test", v4("127.0.0.1"), 60);
    let config = format!("mode = \"allow_any\"\n{}", door("http_proxy", "")) + GUARD + &dns.toml("");
    let gateway = Gateway::start(&config);
    for own in [gateway.admin(), gateway.proxy()] {
        for host in ["self.test", "127.0.0.1"] {
            let response = gateway.client().get(&format!("http://{host}:{}/healthz", own.port()));
            assert_eq!((response.status, response.reason()), (502, "guard"), "{host} {own}");
        }
    }
}

/// The kernel's own counter says that nothing left for the metadata range, whatever the DNS server answered.
#[test]
fn rebinding_never_reaches_metadata() {
    const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    let netns = Netns::new();
    netns.address(METADATA);
    netns.count("169.254.0.0/16");
    let dns = netns.enter(Dns::start);
    let origin = netns.enter(|| Origin::start(named("public")));
    let metadata = netns.enter(|| Origin::at((METADATA, origin.port()).into(), named("secret")));
    let good = vec![v4("127.0.0.1")];
    dns.reply(
        "a.test",
        Reply::Turns(vec![good.clone(), vec![METADATA.into()], [good, vec![METADATA.into()]].concat()]),
    );
    let service = Service::new("a", "a.test").resolved_port(80, "HTTP", origin.port()).toml();
    let config = registry_only()
        + &service
        + "[guard]\nallow = [\"127.0.0.0/8\"]\n"
        + &dns.toml("ttl_min_s = 0\nttl_max_s = 1")
        + &format!("[dataplane]\nengine = \"{}\"\n", engine());
    let gateway = Start::through(netns.command(binary()), &config).ready();
    let (proxy, admin) = (gateway.proxy(), gateway.admin());
    let (mut passed, mut refused) = (0, 0);
    netns.enter(|| {
        let mut client = Http::connect(proxy);
        for _ in 0..1000 {
            let response = client.get("http://a.test/");
            match (response.status, response.reason()) {
                (200, _) => {
                    assert_eq!(response.text(), "public");
                    passed += 1;
                }
                (502, "guard") => refused += 1,
                other => panic!("{other:?}: {}", response.text()),
            }
        }
        let metrics = sluice_tests::harness::gateway::get(admin, "/metrics").text();
        assert!(sum(&metrics, "egress_guard_refusals_total", &[]) > 0.0);
    });
    assert!(passed > 0 && refused > 0, "{passed} passed, {refused} refused");
    assert_eq!(netns.counted(), 0, "a packet left for 169.254.0.0/16");
    assert_eq!(metadata.accepted(), 0);
    // The counter does count: a client that dials the address itself is seen.
    netns.enter(|| drop(Http::connect(metadata.address())));
    assert!(netns.counted() > 0);
}
