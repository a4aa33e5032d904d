//! The guard: private, metadata, our own listeners, in either mode and on every form of an address.

use sluice_policy::*;

use crate::support::*;

fn guarded(guard: GuardInput, services: Vec<ServiceInput>) -> Snapshot {
    compiled(PolicyInput { guard, ..policy(Mode::AllowAny, services) })
}

fn allowing(ranges: &[&str]) -> Snapshot {
    guarded(
        GuardInput { allow: ranges.iter().map(|range| cidr(range)).collect(), ..GuardInput::default() },
        vec![],
    )
}

fn class(snapshot: &Snapshot, address: &str) -> Option<GuardClass> {
    snapshot.guard(std::net::SocketAddr::new(ip(address), 443), None).err().map(|refusal| refusal.class)
}

#[test]
fn every_class_is_refused_by_default() {
    let snapshot = allowing(&[]);
    for (address, expected) in [
        ("10.1.2.3", GuardClass::Private),
        ("172.16.0.1", GuardClass::Private),
        ("172.31.255.255", GuardClass::Private),
        ("192.168.1.1", GuardClass::Private),
        ("100.64.0.1", GuardClass::Cgnat),
        ("fc00::1", GuardClass::Private),
        ("fdff::1", GuardClass::Private),
        ("127.0.0.1", GuardClass::Loopback),
        ("127.8.8.8", GuardClass::Loopback),
        ("::1", GuardClass::Loopback),
        ("169.254.169.254", GuardClass::Metadata),
        ("169.254.0.1", GuardClass::Metadata),
        ("fd00:ec2::254", GuardClass::Metadata),
        ("fd20:ce::254", GuardClass::Metadata),
        ("100.100.100.200", GuardClass::Metadata),
        ("168.63.129.16", GuardClass::Metadata),
        ("fe80::1", GuardClass::LinkLocal),
        ("224.0.0.1", GuardClass::Multicast),
        ("ff02::1", GuardClass::Multicast),
        ("0.0.0.0", GuardClass::ThisNetwork),
        ("0.1.2.3", GuardClass::ThisNetwork),
        ("::", GuardClass::ThisNetwork),
        ("255.255.255.255", GuardClass::Reserved),
        ("::10.0.0.1", GuardClass::Reserved),
    ] {
        assert_eq!(class(&snapshot, address), Some(expected), "{address}");
    }
    for address in [
        "198.51.100.20",
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "2001:db8::1",
        "2606:4700::1111",
        "169.253.1.1",
    ] {
        assert_eq!(class(&snapshot, address), None, "{address}");
    }
}

#[test]
fn mapped_nat64_and_6to4_forms_are_judged_as_the_address_within() {
    let nat64 = vec![cidr("2001:db8:64::/96")];
    let snapshot = guarded(GuardInput { nat64, ..GuardInput::default() }, vec![]);
    for address in
        ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:db8:64::a9fe:a9fe"]
    {
        assert_eq!(class(&snapshot, address), Some(GuardClass::Metadata), "{address}");
    }
    assert_eq!(class(&snapshot, "::ffff:127.0.0.1"), Some(GuardClass::Loopback));
    assert_eq!(class(&snapshot, "64:ff9b::8.8.8.8"), None);
}

#[test]
fn guard_allow_opens_private_ranges() {
    let snapshot = allowing(&["10.20.0.0/16", "64:ff9b::192.168.0.0/112"]);
    assert_eq!(class(&snapshot, "10.20.3.4"), None);
    assert_eq!(class(&snapshot, "::ffff:10.20.3.4"), None);
    assert_eq!(class(&snapshot, "10.21.0.1"), Some(GuardClass::Private));
    // Written behind NAT64, meant for the address within.
    assert_eq!(class(&snapshot, "192.168.0.9"), None);
    let everything = allowing(&["0.0.0.0/0", "::/0"]);
    for address in ["10.1.2.3", "100.64.0.1", "127.0.0.1", "fd01::1", "::1"] {
        assert_eq!(class(&everything, address), None, "{address}");
    }
}

#[test]
fn ranges_written_behind_a_nat64_prefix_of_64_bits_leave_out_octet_8() {
    let guard = GuardInput {
        // 10.1.0.0/16: 64 bits of prefix, 8 of zero, 16 of the address.
        allow: vec![cidr("2001:db8:122:344:a:100::/88")],
        nat64: vec![cidr("2001:db8:122:344::/64")],
        ..GuardInput::default()
    };
    let snapshot = guarded(guard, vec![]);
    assert_eq!(class(&snapshot, "10.1.2.3"), None);
    assert_eq!(class(&snapshot, "2001:db8:122:344:a:102:300::"), None);
    assert_eq!(class(&snapshot, "10.2.0.1"), Some(GuardClass::Private));
    assert_eq!(class(&snapshot, "10.0.255.255"), Some(GuardClass::Private));
}

#[test]
fn strict_classes_open_only_to_a_range_that_lies_within_them() {
    let broad = allowing(&[
        "0.0.0.0/0",
        "::/0",
        "169.0.0.0/8",
        "100.64.0.0/10",
        "168.63.129.0/24",
        "fd00::/8",
        "fe00::/7",
        "224.0.0.0/3",
    ]);
    for address in [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "0.0.0.0",
        "::",
    ] {
        assert!(class(&broad, address).is_some_and(GuardClass::is_strict), "{address}");
    }
    let named =
        allowing(&["169.254.169.254/32", "100.100.100.200/32", "fd00:ec2::/32", "fe80::/64", "239.0.0.0/8"]);
    for address in ["169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1", "239.1.1.1"] {
        assert_eq!(class(&named, address), None, "{address}");
    }
    for address in ["169.254.169.253", "fe80:1::1", "224.0.0.1"] {
        assert!(class(&named, address).is_some(), "{address}");
    }
}

#[test]
fn literal_addresses_of_a_service_are_named_for_that_service_only() {
    let mut db = service("default/db", &["db.test"], &[3306]);
    db.addresses = vec![cidr("10.96.0.0/24")];
    db.endpoints = vec![EndpointInput {
        address: EndpointAddress::Literal(ip("10.0.0.5")),
        ports: vec![],
        locality: None,
        weight: 1,
    }];
    let mut metadata = service("default/metadata", &["metadata.test"], &[80]);
    metadata.addresses = vec![cidr("169.254.169.254/32")];
    let mut broad = service("default/broad", &["broad.test"], &[80]);
    broad.addresses = vec![cidr("0.0.0.0/0")];
    let snapshot = guarded(GuardInput::default(), vec![metadata, db, broad]);
    let id = |name| snapshot.service_by_name("default", name);
    let passes = |address: &str, service| snapshot.guard(socket(address), service).is_ok();
    for (address, allowed) in [
        ("10.0.0.5:3306", vec!["db", "broad"]),
        ("10.96.0.7:3306", vec!["db", "broad"]),
        ("169.254.169.254:80", vec!["metadata"]),
        ("169.254.169.253:80", vec![]),
    ] {
        for name in ["db", "metadata", "broad"] {
            assert_eq!(passes(address, id(name)), allowed.contains(&name), "{address} for {name}");
        }
        assert!(!passes(address, None));
    }
}

#[test]
fn own_listeners_are_never_dialled_whatever_names_them() {
    let mut selfish = service("default/self", &["self.test"], &[3128]);
    selfish.addresses = vec![cidr("127.0.0.1/32"), cidr("192.0.2.9/32"), cidr("10.0.0.9/32")];
    let guard = GuardInput {
        allow: vec![cidr("127.0.0.0/8"), cidr("10.0.0.0/8")],
        own_listeners: vec![
            socket("127.0.0.1:15000"),
            socket("0.0.0.0:3128"),
            socket("[::]:3129"),
            socket("192.0.2.9:443"),
        ],
        local_addresses: vec![ip("10.0.0.9"), ip("::ffff:10.0.0.10"), ip("2001:db8::9")],
        ..GuardInput::default()
    };
    let snapshot = guarded(guard, vec![selfish]);
    let service = snapshot.service_by_name("default", "self");
    for address in [
        "127.0.0.1:15000",
        "[::ffff:127.0.0.1]:15000",
        "0.0.0.0:15000",
        "[::]:15000",
        "127.0.0.1:3128",
        "127.0.0.2:3128",
        "10.0.0.9:3128",
        "10.0.0.10:3128",
        "[64:ff9b::10.0.0.9]:3128",
        "0.0.0.0:3128",
        "[::]:3128",
        "[::1]:3129",
        "127.0.0.1:3129",
        "[2001:db8::9]:3129",
        "192.0.2.9:443",
    ] {
        let refusal = snapshot.guard(socket(address), service).expect_err(address);
        assert_eq!(refusal.class, GuardClass::OwnListener, "{address}");
        assert!(refusal.would_allow().is_none(), "no line may open {address}");
    }
    for address in
        ["127.0.0.1:8080", "127.0.0.2:15000", "10.0.0.11:3128", "[2001:db8::9]:3128", "192.0.2.9:80"]
    {
        assert_eq!(snapshot.guard(socket(address), service), Ok(()), "{address}");
    }
}

#[test]
fn a_refusal_prints_the_line_that_would_allow_it_and_that_line_does() {
    let refused = [
        "169.254.169.254",
        "10.1.2.3",
        "fe80::1",
        "::1",
        "100.100.100.200",
        "0.0.0.0",
        "ff02::1",
        "2002:a00::",
    ];
    for address in refused {
        let target = std::net::SocketAddr::new(ip(address), 443);
        let refusal = allowing(&[]).guard(target, None).expect_err(address);
        let line = refusal.would_allow().expect("a line").to_string();
        let range = line
            .strip_prefix("[guard] allow = [\"")
            .and_then(|rest| rest.strip_suffix("\"]"))
            .expect("a [guard] line");
        assert_eq!(allowing(&[range]).guard(target, None), Ok(()), "{line}");
    }
    let refusal = allowing(&[]).guard(socket("[64:ff9b::a9fe:a9fe]:80"), None).expect_err("metadata");
    assert_eq!(refusal.to_string(), "169.254.169.254 is refused: metadata (169.254.0.0/16)");
    assert_eq!(
        refusal.would_allow().map(|line| line.to_string()).as_deref(),
        Some("[guard] allow = [\"169.254.169.254/32\"]")
    );
}

#[test]
fn a_destination_without_a_name_is_guarded_by_the_decision_even_in_allow_any() {
    let mut named = service("default/metadata", &[], &[80]);
    named.addresses = vec![cidr("169.254.169.254/32")];
    let mut broad = service("default/broad", &[], &[8080]);
    broad.addresses = vec![cidr("169.0.0.0/8")];
    let open = guarded(GuardInput::default(), vec![named.clone(), broad.clone()]);
    for address in ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "169.254.169.254"] {
        let literal = |port| Request::new(anonymous(), Host::Address(ip(address)), port);
        assert_eq!(verdict(&open, &literal(80)), REGISTERED, "named for that service");
        let decision = ask(&open, &literal(443));
        assert_eq!((decision.verdict, decision.reason), GUARDED);
        assert_eq!(decision.shadow.reason, Reason::PortNotRegistered);
        // A broader range does not imply it.
        assert_eq!(verdict(&open, &literal(8080)), GUARDED);
    }
    assert_eq!(verdict(&allow_any(vec![]), &to_original("10.0.0.1", 443)), GUARDED);
    assert_eq!(verdict(&allow_any(vec![]), &to_original("198.51.100.1", 443)), PASSTHROUGH);
}

#[test]
fn our_own_sockets_may_be_told_later_and_replace_what_the_input_said() {
    let socket = |text: &str| text.parse::<std::net::SocketAddr>().expect("a socket");
    let guard = GuardInput {
        allow: vec![cidr("127.0.0.0/8"), cidr("10.0.0.0/8")],
        own_listeners: vec![socket("127.0.0.1:1000"), socket("0.0.0.0:3000")],
        ..GuardInput::default()
    };
    let before = guarded(guard, vec![service("default/a", &["a.test"], &[443])]);
    let after = before
        .with_own_sockets(&[socket("127.0.0.1:2000"), socket("0.0.0.0:3000")], &[ip("10.1.1.1")])
        .expect("few");
    let refused = |snapshot: &Snapshot, text: &str| snapshot.guard(socket(text), None).is_err();
    let seen = |snapshot: &Snapshot| {
        ["127.0.0.1:1000", "127.0.0.1:2000", "10.1.1.1:3000"].map(|text| refused(snapshot, text))
    };
    assert_eq!((seen(&before), seen(&after)), ([true, false, false], [false, true, true]));
    // The rest is as it was.
    assert_eq!(after.counts(), before.counts());
    assert_eq!(verdict(&after, &to("a.test", 443)), verdict(&before, &to("a.test", 443)));
    assert!(!refused(&after, "10.1.1.1:443") && refused(&after, "192.168.0.1:443"));
}

#[test]
fn too_many_sockets_of_our_own_are_an_error() {
    let limit = limits::OWN_SOCKETS_MAX;
    let sockets = vec!["127.0.0.1:1".parse().expect("a socket"); limit + 1];
    let addresses = vec![ip("10.0.0.1"); limit + 1];
    let snapshot = allowing(&[]);
    assert!(snapshot.with_own_sockets(&sockets[1..], &addresses[1..]).is_ok());
    for (sockets, addresses, what) in
        [(&*sockets, &[][..], "listeners"), (&[][..], &*addresses, "local addresses")]
    {
        let problem = snapshot.with_own_sockets(sockets, addresses).expect_err("too many");
        assert_eq!(problem, Problem::TooMany { what, limit });
    }
}
