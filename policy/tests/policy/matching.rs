//! Matching on host and port, merging of services, modes, expiry, addresses and bound doors.

use sluice_policy::*;

use crate::support::*;

#[test]
fn the_mode_decides_only_about_what_matches_no_service() {
    let services = || vec![service("default/httpbin", &["httpbin.org"], &[80])];
    let (strict, open) = (registry_only(services()), allow_any(services()));
    assert_eq!(verdict(&strict, &to("httpbin.org", 80)), REGISTERED);
    assert_eq!(verdict(&open, &to("httpbin.org", 80)), REGISTERED);
    assert_eq!(verdict(&strict, &to("example.com", 80)), NOT_REGISTERED);
    assert_eq!(verdict(&open, &to("example.com", 80)), PASSTHROUGH);
}

#[test]
fn the_shadow_verdict_is_what_registry_only_would_have_said() {
    let mut closed = service("default/closed", &["closed.test"], &[443]);
    closed.allow = Some(vec![]);
    let mut old = service("default/old", &["old.test"], &[443]);
    old.expires = Some(NOW);
    let services = vec![service("default/open", &["open.test"], &[443]), closed, old];
    let (strict, open) = (registry_only(services.clone()), allow_any(services));
    for (name, port) in
        [("open.test", 443), ("open.test", 80), ("closed.test", 443), ("old.test", 443), ("none.test", 443)]
    {
        let (in_strict, in_open) = (ask(&strict, &to(name, port)), ask(&open, &to(name, port)));
        let said = Shadow { verdict: in_strict.verdict, reason: in_strict.reason };
        assert_eq!((in_strict.shadow, in_open.shadow), (said, said), "{name}:{port}");
        assert_eq!(in_open.near, in_strict.near);
    }
    assert_eq!(verdict(&open, &to("old.test", 443)), PASSTHROUGH);
    assert_eq!(verdict(&open, &to("closed.test", 443)), NOT_ALLOWED);
}

#[test]
fn absent_ports_are_80_http_and_443_tls() {
    let snapshot = registry_only(vec![service("default/a", &["a.test"], &[])]);
    for (port, protocol) in [(80, Protocol::Http), (443, Protocol::Tls)] {
        let decision = ask(&snapshot, &to("a.test", port));
        let found =
            decision.service.zip(decision.port).and_then(|(id, port)| snapshot.service(id).port(port));
        assert_eq!(found.map(|port| (port.number, port.protocol)), Some((port, protocol)));
    }
    assert_eq!(verdict(&snapshot, &to("a.test", 8080)), PORT_NOT_REGISTERED);
}

#[test]
fn a_known_host_on_an_unknown_port_is_port_not_registered() {
    let snapshot = registry_only(vec![
        service("default/a", &["allowed.test"], &[443]),
        service("default/w", &["*.wild.test"], &[443]),
    ]);
    for (name, port, expected) in [
        ("allowed.test", 25, PORT_NOT_REGISTERED),
        ("x.wild.test", 25, PORT_NOT_REGISTERED),
        ("other.test", 25, NOT_REGISTERED),
    ] {
        assert_eq!(verdict(&snapshot, &to(name, port)), expected, "{name}:{port}");
    }
    let decision = ask(&snapshot, &to("allowed.test", 25));
    // Not a label for telemetry, but what the text of the denial can name.
    assert_eq!(decision.service, None);
    assert_eq!(decision.near.map(|id| snapshot.service(id).to_string()).as_deref(), Some("default/a"));
    assert_eq!(
        verdict(&allow_any(vec![service("default/a", &["allowed.test"], &[443])]), &to("allowed.test", 25)),
        PASSTHROUGH
    );
}

#[test]
fn port_zero_is_malformed_in_either_mode() {
    for snapshot in [registry_only(vec![]), allow_any(vec![])] {
        assert_eq!(verdict(&snapshot, &to("a.test", 0)), (Verdict::Deny, Reason::Malformed));
    }
}

#[test]
fn among_services_with_the_port_the_exact_host_then_the_longest_wildcard() {
    let snapshot = registry_only(vec![
        service("default/exact", &["a.b.test"], &[443]),
        service("default/long", &["*.b.test"], &[443, 80]),
        service("default/short", &["*.test"], &[443, 80, 8080]),
    ]);
    for (name, port, expected) in [
        ("a.b.test", 443, "default/exact"),
        ("a.b.test", 80, "default/long"),
        ("a.b.test", 8080, "default/short"),
        ("x.b.test", 443, "default/long"),
        ("x.y.b.test", 443, "default/long"),
        ("b.test", 443, "default/short"),
        ("x.c.test", 443, "default/short"),
    ] {
        let decision = ask(&snapshot, &to(name, port));
        assert_eq!(service_of(&snapshot, &decision).as_deref(), Some(expected), "{name}:{port}");
    }
    let decision = ask(&snapshot, &to("x.y.b.test", 443));
    assert_eq!(decision.matched.map(|id| snapshot.matched_host(id)), Some("*.b.test"));
}

#[test]
fn a_wildcard_never_matches_the_apex_nor_a_name_that_ends_alike() {
    let snapshot = registry_only(vec![service("default/w", &["*.allowed.test"], &[443])]);
    for name in ["allowed.test", "evilallowed.test", "allowed.test.evil", "test"] {
        assert_eq!(verdict(&snapshot, &to(name, 443)), NOT_REGISTERED, "{name}");
    }
    assert_eq!(verdict(&snapshot, &to("a.allowed.test", 443)), REGISTERED);
}

#[test]
fn allow_absent_is_everyone_and_allow_empty_is_nobody_in_both_modes() {
    let idgen = workload("default/idgen");
    for mode in [Mode::RegistryOnly, Mode::AllowAny] {
        let mut input = service("default/a", &["a.test"], &[]);
        assert_eq!(verdict(&compiled(policy(mode, vec![input.clone()])), &to("a.test", 80)), REGISTERED);
        input.allow = Some(vec![]);
        let request = Request::new(proven(&idgen, Proof::Certificate), Host::Name("a.test"), 80);
        assert_eq!(verdict(&compiled(policy(mode, vec![input])), &request), NOT_ALLOWED);
    }
}

#[test]
fn selectors_are_ored_and_deny_wins() {
    let mut input = service("default/a", &["a.test"], &[]);
    input.allow = Some(vec![selector("namespace=one"), selector("namespace=two"), selector("workload=bad")]);
    input.deny = vec![selector("workload=bad")];
    for mode in [Mode::RegistryOnly, Mode::AllowAny] {
        let snapshot = compiled(policy(mode, vec![input.clone()]));
        for (who, expected) in [
            ("one/x", REGISTERED),
            ("two/x", REGISTERED),
            ("three/x", NOT_ALLOWED),
            ("one/bad", DENIED),
            ("three/bad", DENIED),
        ] {
            let identity = workload(who);
            let request = Request::new(proven(&identity, Proof::Address), Host::Name("a.test"), 80);
            assert_eq!(verdict(&snapshot, &request), expected, "{who}");
        }
    }
}

#[test]
fn a_deny_list_is_allow_any_and_a_service_that_denies_everyone() {
    let mut input = service("default/blocked", &["denied.test", "*.denied.test"], &[]);
    input.deny = vec![Selector::default()];
    let snapshot = allow_any(vec![input]);
    let mut buf = HostBuf::new();
    let host = parse_host(b"Denied.Test.", &mut buf).expect("a name");
    assert_eq!(verdict(&snapshot, &Request::new(anonymous(), host, 443)), DENIED);
    assert_eq!(verdict(&snapshot, &to("x.denied.test", 80)), DENIED);
    assert_eq!(verdict(&snapshot, &to("other.test", 80)), PASSTHROUGH);
}

#[test]
fn same_host_and_port_in_several_services_any_deny_denies_else_any_allow_allows() {
    let with = |name: &str, allow: Option<&str>, deny: Option<&str>| {
        let mut input = service(name, &["a.test"], &[443]);
        input.allow = allow.map(|text| vec![selector(text)]);
        input.deny = deny.map(|text| vec![selector(text)]).unwrap_or_default();
        input
    };
    // Written in another order than that of their names.
    let snapshot = registry_only(vec![
        with("z/last", None, Some("workload=bad")),
        with("b/second", Some("namespace=one"), None),
        with("a/first", Some("namespace=two"), None),
    ]);
    for (who, expected, named) in [
        ("two/x", REGISTERED, "a/first"),
        ("one/x", REGISTERED, "b/second"),
        ("three/x", REGISTERED, "z/last"),
        ("two/bad", DENIED, "z/last"),
    ] {
        let identity = workload(who);
        let decision =
            ask(&snapshot, &Request::new(proven(&identity, Proof::Address), Host::Name("a.test"), 443));
        assert_eq!((decision.verdict, decision.reason), expected, "{who}");
        assert_eq!(service_of(&snapshot, &decision).as_deref(), Some(named), "{who}");
    }
}

#[test]
fn when_no_service_allows_the_first_by_name_is_named() {
    let closed = |name| {
        let mut input = service(name, &["a.test"], &[443]);
        input.allow = Some(vec![]);
        input
    };
    let snapshot = registry_only(vec![closed("b/x"), closed("a/y")]);
    let decision = ask(&snapshot, &to("a.test", 443));
    assert_eq!((decision.verdict, decision.reason), NOT_ALLOWED);
    assert_eq!(service_of(&snapshot, &decision).as_deref(), Some("a/y"));
}

#[test]
fn two_services_that_share_a_port_are_told_apart_by_name() {
    let mut closed = service("default/mysql-b", &["b.db.test"], &[3306]);
    closed.allow = Some(vec![]);
    let snapshot = registry_only(vec![service("default/mysql-a", &["a.db.test"], &[3306]), closed]);
    assert_eq!(verdict(&snapshot, &to("a.db.test", 3306)), REGISTERED);
    assert_eq!(verdict(&snapshot, &to("b.db.test", 3306)), NOT_ALLOWED);
}

#[test]
fn a_more_specific_rule_replaces_a_wildcard_it_is_not_merged() {
    let mut closed = service("default/wild", &["*.test"], &[443]);
    closed.deny = vec![Selector::default()];
    let snapshot = registry_only(vec![closed, service("default/exact", &["a.test"], &[443])]);
    assert_eq!(verdict(&snapshot, &to("a.test", 443)), REGISTERED);
    assert_eq!(verdict(&snapshot, &to("b.test", 443)), DENIED);
}

#[test]
fn a_rule_counts_until_the_second_of_its_expiry() {
    let mut input = service("default/a", &["a.test"], &[443]);
    input.expires = Some(NOW);
    let snapshot = registry_only(vec![input]);
    let at = |offset| {
        let decision = ask_at(&snapshot, &to("a.test", 443), UnixSeconds(NOW.0 + offset));
        (decision.verdict, decision.reason)
    };
    assert_eq!((at(-1), at(0), at(1)), (REGISTERED, EXPIRED, EXPIRED));
    // Another port of an expired rule is simply not registered with that port.
    assert_eq!(verdict(&snapshot, &to("a.test", 80)), PORT_NOT_REGISTERED);
}

#[test]
fn an_expired_rule_is_as_if_it_were_not_there() {
    let mut exact = service("default/exact", &["a.test"], &[443]);
    exact.expires = Some(NOW);
    exact.deny = vec![Selector::default()];
    let mut also = service("default/also", &["b.test"], &[443]);
    also.expires = Some(NOW);
    let snapshot = registry_only(vec![
        exact,
        also,
        service("default/wild", &["*.test"], &[443]),
        service("default/still", &["b.test"], &[443]),
    ]);
    let decision = ask(&snapshot, &to("a.test", 443));
    assert_eq!(service_of(&snapshot, &decision).as_deref(), Some("default/wild"));
    let decision = ask(&snapshot, &to("b.test", 443));
    assert_eq!(service_of(&snapshot, &decision).as_deref(), Some("default/still"));
}

#[test]
fn next_expiry_is_the_first_second_after_now_at_which_a_rule_expires() {
    let expiring = |name, at| {
        let mut input = service(name, &["a.test"], &[443]);
        input.expires = Some(UnixSeconds(at));
        input
    };
    let snapshot = registry_only(vec![
        expiring("d/a", 30),
        expiring("d/b", 10),
        expiring("d/c", 20),
        expiring("d/d", 20),
    ]);
    let next = |now| snapshot.next_expiry(UnixSeconds(now)).map(|at| at.0);
    assert_eq!(
        [next(i64::MIN), next(9), next(10), next(20), next(30), next(i64::MAX)],
        [Some(10), Some(10), Some(20), Some(30), None, None]
    );
    assert_eq!(registry_only(vec![]).next_expiry(NOW), None);
}

fn by_address(name: &str, ranges: &[&str], ports: &[u16]) -> ServiceInput {
    let mut input = service(name, &[], ports);
    input.addresses = ranges.iter().map(|range| cidr(range)).collect();
    input
}

#[test]
fn addresses_are_compared_with_the_original_destination_when_there_is_no_name() {
    let snapshot = registry_only(vec![
        by_address("default/net", &["198.51.100.0/24"], &[443, 3306]),
        by_address("default/one", &["198.51.100.20/32"], &[443]),
        by_address("default/v6", &["2001:db8::/32"], &[443]),
    ]);
    for (address, port, expected, named) in [
        ("198.51.100.20", 443, REGISTERED, Some("default/one")),
        ("198.51.100.20", 3306, REGISTERED, Some("default/net")),
        ("198.51.100.21", 443, REGISTERED, Some("default/net")),
        ("198.51.100.21", 25, PORT_NOT_REGISTERED, None),
        ("192.0.2.1", 443, NOT_REGISTERED, None),
        ("2001:db8::1", 443, REGISTERED, Some("default/v6")),
        ("::ffff:198.51.100.20", 443, REGISTERED, Some("default/one")),
        ("64:ff9b::198.51.100.21", 443, REGISTERED, Some("default/net")),
    ] {
        let decision = ask(&snapshot, &to_original(address, port));
        assert_eq!((decision.verdict, decision.reason), expected, "{address}:{port}");
        assert_eq!(service_of(&snapshot, &decision).as_deref(), named, "{address}:{port}");
        // A literal CONNECT target is an original destination without a name.
        let literal = Request::new(anonymous(), Host::Address(ip(address)), port);
        assert_eq!(ask(&snapshot, &literal), decision);
    }
    let decision = ask(&snapshot, &to_original("198.51.100.21", 443));
    assert_eq!(decision.matched.map(|id| snapshot.matched_host(id)), Some("198.51.100.0/24"));
}

#[test]
fn with_a_name_the_name_decides_whatever_the_original_destination_is() {
    let mut named = service("default/named", &["allowed.test"], &[443]);
    named.addresses = vec![cidr("198.51.100.10/32")];
    let snapshot = registry_only(vec![named]);
    let with =
        |name: &'static str, original| Request { host: Some(Host::Name(name)), ..to_original(original, 443) };
    // SNI ok, address not: the name's rule; our own resolution is dialled.
    assert_eq!(verdict(&snapshot, &with("allowed.test", "198.51.100.20")), REGISTERED);
    // Shared address: the name decides.
    assert_eq!(verdict(&snapshot, &with("denied.test", "198.51.100.10")), NOT_REGISTERED);
    assert_eq!(verdict(&snapshot, &to_original("198.51.100.10", 443)), REGISTERED);
}

#[test]
fn neither_name_nor_original_destination_is_no_name_in_either_mode() {
    for snapshot in [registry_only(vec![]), allow_any(vec![])] {
        let request = Request { original: None, ..to_original("198.51.100.1", 443) };
        assert_eq!(verdict(&snapshot, &request), (Verdict::Deny, Reason::NoName));
    }
}

#[test]
fn a_bound_door_asks_its_own_service_only() {
    let mut db = service("default/db", &["db.test"], &[3306]);
    db.allow = Some(vec![selector("workload=idgen")]);
    let mut old = service("default/old", &["db.test"], &[3306]);
    old.expires = Some(NOW);
    let mut shadowing = service("default/another", &["db.test"], &[3306]);
    shadowing.deny = vec![Selector::default()];
    let snapshot = allow_any(vec![db, old, shadowing]);
    let id = |name| snapshot.service_by_name("default", name).expect("a service");
    let identity = workload("default/idgen");
    let request =
        |source, port, bound| Request { source, host: None, original: None, port, bound: Some(bound) };
    let idgen = proven(&identity, Proof::Address);
    assert_eq!(verdict(&snapshot, &request(idgen, 3306, id("db"))), REGISTERED);
    assert_eq!(verdict(&snapshot, &request(anonymous(), 3306, id("db"))), NOT_ALLOWED);
    // Nothing could be dialled instead: allow-any does not let these pass.
    assert_eq!(verdict(&snapshot, &request(idgen, 3307, id("db"))), PORT_NOT_REGISTERED);
    assert_eq!(verdict(&snapshot, &request(idgen, 3306, id("old"))), EXPIRED);
    // An id of a larger snapshot is no panic.
    let empty = allow_any(vec![]);
    assert_eq!(verdict(&empty, &request(idgen, 3306, id("old"))), NOT_REGISTERED);
    assert!(empty.find_service(id("old")).is_none());
}

#[test]
fn a_service_covers_the_names_that_its_rule_would_match() {
    let mut wide = service("default/wide", &["*.wide.test", "one.test"], &[443]);
    wide.addresses = vec![cidr("198.51.100.0/24")];
    let mut narrow = service("default/narrow", &["own.wide.test"], &[443]);
    narrow.addresses = vec![cidr("198.51.100.7/32")];
    let snapshot = registry_only(vec![wide, narrow]);
    let id = |name| snapshot.service_by_name("default", name).expect("a service");
    for (name, port, wide, narrow) in [
        ("a.wide.test", 443, true, false),
        ("one.test", 443, true, false),
        ("own.wide.test", 443, false, true),
        ("wide.test", 443, false, false),
        ("a.wide.test", 80, false, false),
    ] {
        let covers = |service| snapshot.covers(id(service), Host::Name(name), port, NOW);
        assert_eq!((covers("wide"), covers("narrow")), (wide, narrow), "{name}:{port}");
    }
    let covers = |address| snapshot.covers(id("wide"), Host::Address(ip(address)), 443, NOW);
    assert_eq!((covers("198.51.100.6"), covers("198.51.100.7")), (true, false));
    // An expired rule does not stand before a wider one.
    let mut old = service("default/old", &["own.wide.test"], &[443]);
    old.expires = Some(NOW);
    let with_old = registry_only(vec![service("default/wide", &["*.wide.test"], &[443]), old]);
    let covers = |name| {
        let id = with_old.service_by_name("default", name).expect("a service");
        with_old.covers(id, Host::Name("own.wide.test"), 443, NOW)
    };
    assert_eq!((covers("wide"), covers("old")), (true, false));
    let named = |address| snapshot.names_address(id("wide"), ip(address));
    assert_eq!(
        (named("198.51.100.7"), named("::ffff:198.51.100.6"), named("198.51.101.1")),
        (true, true, false)
    );
}

#[test]
fn the_words_of_the_design() {
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "registered",
            "passthrough",
            "not_registered",
            "port_not_registered",
            "workload_not_allowed",
            "workload_denied",
            "expired",
            "guard",
            "malformed",
            "name_mismatch",
            "protocol_mismatch",
            "no_name",
            "sniff_timeout",
            "unknown_vip",
            "auth",
            "limit",
            "revoked",
        ]
    );
    let verdicts: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect();
    assert_eq!(verdicts, ["allow", "passthrough", "deny"]);
    assert_eq!((Mode::AllowAny.as_str(), Mode::RegistryOnly.as_str()), ("allow_any", "registry_only"));
    for reason in Reason::ALL {
        assert!(!Decision::denied(*reason).passes());
    }
}
