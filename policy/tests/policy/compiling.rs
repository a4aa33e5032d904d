//! Compilation: errors with their places, warnings, look-ups in the snapshot.

use sluice_policy::*;

use crate::support::*;

fn problems(input: PolicyInput) -> Vec<String> {
    compile(input).expect_err("errors").iter().map(ToString::to_string).collect()
}

#[test]
fn all_errors_are_reported_at_once_with_their_places() {
    let mut first = service("default/a", &["a.test"], &[80, 80]);
    first.origin = origin(1);
    let mut second = service("default/a", &["a.test"], &[0]);
    second.origin = origin(2);
    let mut third = service("default/b", &["a.test"], &[80]);
    third.origin = Origin::new("more.toml", 0);
    third.endpoints = vec![EndpointInput {
        address: EndpointAddress::Name("b.test".into()),
        ports: vec![("http".into(), 8080)],
        locality: None,
        weight: 1,
    }];
    let mut input = policy(Mode::RegistryOnly, vec![first, second, third]);
    input.guard.nat64 = vec![cidr("2001:db8::/33")];
    let scope = |mode, line| ScopeInput { source: selector("namespace=a"), mode, origin: origin(line) };
    input.scopes = vec![scope(Mode::AllowAny, 8), scope(Mode::RegistryOnly, 9)];
    assert_eq!(
        problems(input),
        [
            "2001:db8::/33 is no NAT64 prefix: IPv6, of length 32, 40, 48, 56, 64 or 96",
            "two scopes of { namespace = \"a\" } have different modes: sluice.toml:8 and sluice.toml:9",
            "service default/a is defined twice: sluice.toml:1 and sluice.toml:2",
            "service default/a has port 80 twice: sluice.toml:1",
            "service default/a has a port of 0: ports are 1 to 65535: sluice.toml:2",
            "an endpoint of service default/b names the port \"http\", which the service does not have: more.toml",
        ]
    );
}

#[test]
fn the_number_of_errors_is_bounded() {
    let services =
        (0..3000).map(|index| service(&format!("default/{index:04}"), &["a.test"], &[0])).collect();
    assert_eq!(problems(policy(Mode::RegistryOnly, services)).len(), limits::ERRORS_MAX);
}

#[test]
fn too_many_services_on_one_host_and_port_are_an_error() {
    let services = |count| {
        (0..count).map(|index| service(&format!("default/{index:04}"), &["a.test"], &[443])).collect()
    };
    let limit = limits::SERVICES_PER_HOST_PORT_MAX;
    assert!(compile(policy(Mode::RegistryOnly, services(limit))).is_ok());
    let errors = compile(policy(Mode::RegistryOnly, services(limit + 1))).expect_err("too many");
    assert_eq!(errors[0].problem, Problem::TooManyServicesOnHost { host: "a.test".into(), limit });
}

#[test]
fn the_same_host_twice_in_one_service_is_one_host() {
    let mut input = service("default/a", &["a.test", "A.test.", "*.a.test", "a.test"], &[443]);
    input.addresses = vec![cidr("192.0.2.0/24"), cidr("192.0.2.0/24"), cidr("::ffff:192.0.2.0/120")];
    let snapshot = registry_only(vec![input]);
    assert_eq!(snapshot.counts(), Counts { services: 1, hosts: 2, addresses: 1, workloads: 0, scopes: 0 });
    assert_eq!(verdict(&snapshot, &to("a.test", 443)), REGISTERED);
}

#[test]
fn a_list_of_hosts_means_what_single_hosts_mean() {
    let mut input = service("default/a", &["one.test", "b.test"], &[443]);
    for host in ["B.test.", "*.c.test", "d.test", "d.test"] {
        input.host_list.parse(host).expect("a pattern");
    }
    let alone = {
        let mut list_only = service("default/z", &[], &[443]);
        list_only.host_list.push(&HostPattern::parse("z.test").expect("a pattern"));
        list_only
    };
    let snapshot = registry_only(vec![input, alone]);
    let mut hosts: Vec<&str> = snapshot.hosts().collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["*.c.test", "b.test", "d.test", "one.test", "z.test"]);
    for name in ["one.test", "b.test", "x.c.test", "d.test", "z.test"] {
        assert_eq!(verdict(&snapshot, &to(name, 443)), REGISTERED, "{name}");
    }
    assert_ne!(verdict(&snapshot, &to("c.test", 443)), REGISTERED);
    let first = |name: &str| snapshot.service_host(snapshot.service_by_name("default", name).expect("there"));
    assert_eq!((first("a"), first("z")), (Some("one.test"), Some("z.test")));
}

#[test]
fn services_are_found_by_name() {
    let names = ["z/a", "a/z", "default/httpbin", "default/a"];
    let snapshot =
        registry_only(names.iter().map(|name| service(name, &["*.x.test", "b.test"], &[])).collect());
    for name in names {
        let (namespace, short) = name.split_once('/').expect("namespace/name");
        let id = snapshot.service_by_name(namespace, short).expect("found");
        assert_eq!(snapshot.service(id).to_string(), name);
        assert_eq!(snapshot.service_host(id), Some("*.x.test"));
    }
    assert_eq!(snapshot.service_by_name("default", "none"), None);
    let order: Vec<_> = snapshot.services().map(|(_, service)| service.to_string()).collect();
    assert_eq!(order, ["a/z", "default/a", "default/httpbin", "z/a"]);
}

#[test]
fn the_hash_seed_changes_nothing_but_the_tables() {
    let services = |count: usize| {
        (0..count)
            .map(|index| service(&format!("default/{index}"), &[&format!("h{index}.test")], &[443]))
            .collect()
    };
    for hash_seed in [0, 1, u64::MAX] {
        let snapshot = compiled(PolicyInput { hash_seed, ..policy(Mode::RegistryOnly, services(500)) });
        for index in 0..500 {
            let name = format!("h{index}.test");
            let decision = ask(&snapshot, &to(&name, 443));
            assert_eq!(service_of(&snapshot, &decision), Some(format!("default/{index}")));
        }
    }
}

#[test]
fn dial_port_is_the_endpoints_own_else_the_target_port_else_the_number() {
    let mut input = service("default/a", &["a.test"], &[]);
    let port = |number, name: &str, target_port| PortInput {
        name: Some(name.into()),
        target_port,
        ..PortInput::new(number, Protocol::Tcp)
    };
    input.ports = vec![port(1, "one", Some(11)), port(2, "two", Some(22)), port(3, "three", None)];
    input.endpoints = vec![EndpointInput {
        address: EndpointAddress::Literal(ip("192.0.2.1")),
        ports: vec![("two".into(), 222)],
        locality: None,
        weight: 1,
    }];
    let snapshot = registry_only(vec![input]);
    let (_, service) = snapshot.services().next().expect("one service");
    let dial =
        |endpoint| service.ports.iter().map(|port| service.dial_port(port, endpoint)).collect::<Vec<_>>();
    assert_eq!(dial(None), [11, 22, 3]);
    assert_eq!(dial(service.endpoints.first()), [11, 222, 3]);
}

#[test]
fn warnings_name_what_may_not_mean_what_was_meant() {
    let mut merged = service("default/merged", &["shared.test", "*.shared.test"], &[443]);
    merged.allow = Some(vec![]);
    let mut expired = service("default/expired", &["old.test"], &[443]);
    expired.expires = Some(NOW);
    let mut fixed = service("default/static", &[], &[15000]);
    fixed.resolution = Resolution::Static;
    let mut broad = service("default/wide", &[], &[15000]);
    broad.addresses = vec![cidr("0.0.0.0/0")];
    let mut own = service("default/zelf", &["self.test"], &[15000]);
    own.endpoints = vec![EndpointInput {
        address: EndpointAddress::Literal(ip("127.0.0.1")),
        ports: vec![],
        locality: None,
        weight: 1,
    }];
    let shared = [
        service("default/plain", &["shared.test", "*.shared.test"], &[443]),
        service("default/same", &["shared.test"], &[443]),
    ];
    let mut services = vec![merged, expired, fixed, broad, own];
    services.extend(shared);
    for (line, service) in (1..).zip(&mut services) {
        service.origin = origin(line);
    }
    let mut input = policy(Mode::RegistryOnly, services);
    input.guard.own_listeners = vec![socket("127.0.0.1:15000")];
    let snapshot = compiled(input);
    let warnings = snapshot.warnings(NOW);
    let kinds: Vec<_> = warnings.iter().map(|warning| (warning.kind, warning.origins[0].line)).collect();
    assert_eq!(
        kinds,
        [
            (WarningKind::Merged, 1),
            (WarningKind::Merged, 1),
            (WarningKind::Expired, 2),
            (WarningKind::Unreachable, 3),
            (WarningKind::NothingToDial, 3),
            (WarningKind::GuardRefuses, 4),
            (WarningKind::GuardRefuses, 4),
            (WarningKind::GuardRefuses, 5),
            (WarningKind::GuardRefuses, 5),
        ],
        "{warnings:#?}"
    );
    assert!(
        warnings[0].to_string().starts_with("*.shared.test port 443 (and 1 more) is in default/merged"),
        "{}",
        warnings[0]
    );
    assert!(warnings[0].to_string().ends_with("sluice.toml:1 and sluice.toml:6"), "{}", warnings[0]);
    assert!(registry_only(vec![service("default/a", &["a.test"], &[])]).warnings(NOW).is_empty());
}
