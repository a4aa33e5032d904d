//! Addresses that must not be dialled, in every spelling, at every door, in allow-any: the kernel counts what leaves.
//! And the gateway's own listeners, however they are named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sluice_tests::harness::dns::Reply;
use sluice_tests::harness::gateway::{Start, binary, get, sum};
use sluice_tests::harness::hello::client_hello;
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::servers::free;
use sluice_tests::harness::{Dns, Gateway, Http, Origin, allow_any, door, engine, registry_only};

fn in_namespace(netns: &Netns, config: &str) -> Gateway {
    let config = format!("{config}[dataplane]\nengine = \"{}\"\n", engine());
    Start::through(netns.command(binary()), &config).ready()
}

/// An IP literal as CONNECT target is let in to be asked for a name, unless nothing inside could make it acceptable.
/// Whatever is sent inside then, it ends in a denial.
fn refused_by_connect(proxy: SocketAddr, target: &str) {
    for inside in [&b"SSH-2.0-x\r\n"[..], &client_hello(&[]), b"GET / HTTP/1.0\r\n\r\n"] {
        let mut client = Http::connect(proxy);
        let response = client.connect_to(target);
        if response.status != 200 {
            assert_eq!((response.status, response.reason()), (502, "guard"), "{target}");
            continue;
        }
        client.try_send(inside);
        let (rest, _) = client.rest();
        let rest = String::from_utf8_lossy(&rest);
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 502") || rest.starts_with("HTTP/1.1 400"),
            "{target}: {rest}"
        );
    }
}

#[test]
fn no_spelling_of_a_refused_address_sends_a_packet_in_allow_any() {
    let netns = Netns::new();
    netns.uplink();
    let config = allow_any() + "[guard]\nnat64 = [\"2001:db8:64::/96\"]\n";
    let gateway = in_namespace(&netns, &config);
    let proxy = gateway.proxy();
    let addresses = [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b::169.254.169.254]",
        "[2001:db8:64::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[2002:a9fe:a9fe::1]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "100.100.100.200",
        "168.63.129.16",
        "[fe80::1]",
        "224.0.0.1",
        "[ff02::1]",
        "0.0.0.0",
        "0.1.2.3",
        "[::]",
        "10.0.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "[2002:0a00:0001::1]",
        "100.64.0.1",
        "[fc00::1]",
        "[fec0::1]",
        "127.8.8.8",
        "[::1]",
        "[::ffff:127.8.8.8]",
        "240.0.0.1",
        "255.255.255.255",
        "[::169.254.169.254]",
    ];
    netns.enter(|| {
        for address in addresses {
            let response = Http::connect(proxy).get(&format!("http://{address}/"));
            assert_eq!((response.status, response.reason()), (502, "guard"), "GET {address}");
            refused_by_connect(proxy, &format!("{address}:80"));
        }
        for zone in ["[fe80::1%25lo]", "[fe80::1%lo]", "[fe80::1%251]"] {
            assert_eq!(Http::connect(proxy).get(&format!("http://{zone}/")).status, 400, "GET {zone}");
            assert_eq!(Http::connect(proxy).connect_to(&format!("{zone}:80")).status, 400, "CONNECT {zone}");
        }
        let metrics = get(gateway.admin(), "/metrics").text();
        // A literal counts like an address that a name resolved to.
        let refusals = sum(&metrics, "egress_guard_refusals_total", &[]);
        assert!(refusals >= 2.0 * addresses.len() as f64, "{refusals}: {metrics}");
        assert!(sum(&metrics, "egress_guard_refusals_total", &["metadata"]) >= 20.0, "{metrics}");
    });
    assert_eq!(netns.counted(), 0, "a packet left");
    // The counter does count: the same gateway dials an address that is fine.
    netns.enter(|| {
        let mut client = Http::connect(proxy);
        client.send("GET http://203.0.113.1/ HTTP/1.1\r\nHost: 203.0.113.1\r\n\r\n");
        sluice_tests::harness::until("a packet", || (netns.counted() > 0).then_some(()));
    });
}

#[test]
fn numbers_that_are_no_address_are_neither_resolved_nor_dialled_in_allow_any() {
    let netns = Netns::new();
    netns.uplink();
    let dns = netns.enter(Dns::start);
    let gateway = in_namespace(&netns, &(allow_any() + &dns.toml("")));
    let proxy = gateway.proxy();
    netns.enter(|| {
        for host in [
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "010.0.0.1",
            "169.254.169.254.1",
            "169.254.43518",
            "0xa9fea9fe",
            "1.2.3.256",
            "\u{ff11}27.0.0.1",
            "\u{2460}.0.0.1",
            "[127.0.0.1]",
            "[allowed.test]",
            "u@allowed.test",
            "u:p@allowed.test",
            "allowed.test%00",
            "allowed\u{3002}test",
            "\u{430}llowed.test",
            "a..test",
            ".test",
        ] {
            let get = Http::connect(proxy).get(&format!("http://{host}/"));
            let connect = Http::connect(proxy).connect_to(&format!("{host}:443"));
            for response in [get, connect] {
                assert_eq!((response.status, response.reason()), (400, "malformed"), "{host}");
            }
        }
        assert_eq!(dns.names(), Vec::<String>::new(), "nothing of this is asked for");
    });
    assert_eq!(netns.counted(), 0, "a packet left");
}

/// Doors, admin and metrics: by name, by address, mapped, at the wildcard's other addresses, and from every door.
#[test]
fn own_listeners_are_never_dialled_however_they_are_named() {
    let netns = Netns::new();
    let lan = Ipv4Addr::new(10, 99, 0, 1);
    netns.address(lan);
    let dns = netns.enter(Dns::start);
    let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    dns.set("self.test", v4.into(), 60);
    dns.set("lan.test", lan.into(), 60);
    dns.set("mapped.test", IpAddr::V6(v4.to_ipv6_mapped()), 60);
    dns.set("six.test", v6.into(), 60);
    dns.set("zero.test", Ipv4Addr::UNSPECIFIED.into(), 60);
    let (any, metrics) = (free().port(), free().port());
    // The TLS door dials port `any`, which is itself a door's.
    let config = allow_any()
        + &format!("[[listener]]\nkind = \"http_proxy\"\nname = \"any\"\nbind = \"[::]:{any}\"\n")
        + &door("tls", &format!("destination_port = {any}"))
        + &format!("[telemetry.prometheus]\nbind = \"0.0.0.0:{metrics}\"\n")
        + "[guard]\nallow = [\"127.0.0.0/8\", \"::1\", \"10.0.0.0/8\", \"0.0.0.0/32\"]\n"
        + &dns.toml("");
    let gateway = in_namespace(&netns, &config);
    let (proxy, tls) = (gateway.proxy(), gateway.door("tls"));
    let ports = [
        (
            "http_proxy",
            proxy.port(),
            &["127.0.0.1", "[::ffff:127.0.0.1]", "self.test", "mapped.test", "0.0.0.0"][..],
        ),
        ("admin", gateway.admin().port(), &["127.0.0.1", "[::ffff:127.0.0.1]", "self.test", "mapped.test"]),
        (
            "prometheus",
            gateway.prometheus().port(),
            &["127.0.0.1", "127.0.0.9", "self.test", "lan.test", "10.99.0.1"],
        ),
        (
            "any",
            any,
            &["127.0.0.1", "[::1]", "six.test", "self.test", "mapped.test", "lan.test", "10.99.0.1"],
        ),
    ];
    netns.enter(|| {
        for (listener, port, hosts) in ports {
            for host in hosts {
                let response = Http::connect(proxy).get(&format!("http://{host}:{port}/healthz"));
                assert_eq!((response.status, response.reason()), (502, "guard"), "GET {host} {listener}");
                refused_by_connect(proxy, &format!("{host}:{port}"));
            }
        }
        for name in ["self.test", "lan.test", "mapped.test", "six.test"] {
            let mut client = Http::connect(tls);
            client.send(client_hello(&[name.as_bytes()]));
            assert!(client.rest().0.is_empty(), "{name}");
        }
        let metrics = get(gateway.admin(), "/metrics").text();
        assert!(sum(&metrics, "egress_guard_refusals_total", &["own_listener"]) >= 30.0, "{metrics}");
        // The guard allows the ranges as such: another port of the same address is dialled.
        let neighbour = Origin::http("neighbour");
        let response = Http::connect(proxy).get(&format!("http://self.test:{}/", neighbour.port()));
        assert_eq!(response.text(), "neighbour");
    });
    // No door has accepted a connection of the gateway's own: the test opened none at this one.
    for entry in gateway.log_entries() {
        let local = entry["downstream_local_address"].as_str().unwrap_or_default();
        assert!(!local.is_empty() && !local.ends_with(&format!(":{any}")), "{entry}");
    }
}

/// Two hostile answers of DNS at once: a listener of ours, and a refused range. Neither is dialled by the registry's rule.
#[test]
fn a_registered_name_is_no_way_to_a_refused_address() {
    let netns = Netns::new();
    netns.uplink();
    let dns = netns.enter(Dns::start);
    dns.reply(
        "a.test",
        Reply::Addresses(
            vec![Ipv4Addr::new(192, 168, 7, 7).into(), Ipv4Addr::new(169, 254, 1, 1).into()],
            60,
        ),
    );
    let config = registry_only()
        + &door("tls", "destination_port = 443")
        + &door("tcp", "service = \"default/a\"\ndestination_port = 9000")
        + "[[service]]\nname = \"a\"\nhosts = [\"a.test\"]\nports = [{ number = 80, protocol = \"HTTP\" }, { number = 443, protocol = \"TLS\" }, { number = 9000, protocol = \"TCP\" }]\n"
        + &dns.toml("");
    let gateway = in_namespace(&netns, &config);
    let (proxy, tls, tcp) = (gateway.proxy(), gateway.door("tls"), gateway.door("tcp"));
    netns.enter(|| {
        assert_eq!(Http::connect(proxy).get("http://a.test/").reason(), "guard");
        for port in [80, 443, 9000] {
            assert_eq!(Http::connect(proxy).connect_to(&format!("a.test:{port}")).reason(), "guard");
        }
        let mut client = Http::connect(tls);
        client.send(client_hello(&[b"a.test"]));
        assert!(client.rest().0.is_empty());
        assert!(Http::connect(tcp).rest().0.is_empty());
    });
    assert_eq!(netns.counted(), 0, "a packet left");
    let reasons = sluice_tests::harness::until("every record", || {
        let entries = gateway.log_entries();
        (entries.len() == 6)
            .then(|| entries.iter().map(|entry| entry["policy_reason"].clone()).collect::<Vec<_>>())
    });
    assert!(reasons.iter().all(|reason| reason == "guard"), "{reasons:?}");
}
