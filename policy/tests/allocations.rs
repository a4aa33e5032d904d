//! No allocation in a decision or a guard check, and the size of a large registry.

use std::{hint::black_box, net::IpAddr, sync::Arc};

use allocation_counter::measure;
use sluice_policy::*;

fn origin() -> Origin {
    Origin::new("sluice.toml", 1)
}

fn selector(namespace: &str) -> Selector {
    Selector { namespace: Some(namespace.parse().expect("a pattern")), ..Selector::default() }
}

/// Every path of a decision: exact, wildcard, range, merge, proofs, expiry, scopes, guard.
fn mixed(mode: Mode) -> Snapshot {
    let mut input = PolicyInput::new(mode);
    for index in 0..200 {
        let mut service = ServiceInput::new("default", format!("s{index}"), origin());
        service.hosts = vec![
            HostPattern::parse(&format!("h{index}.test")).expect("a pattern"),
            HostPattern::parse(&format!("*.w{index}.test")).expect("a pattern"),
            HostPattern::parse("shared.test").expect("a pattern"),
        ];
        service.addresses = vec![format!("10.{index}.0.0/16").parse().expect("a range")];
        service.allow = (index % 2 == 0).then(|| vec![selector("a*b*c"), selector("default")]);
        service.deny = vec![selector("evil-*")];
        service.require_proof = (index % 7 == 0).then_some(Proof::Credentials);
        service.expires = (index % 11 == 0).then_some(UnixSeconds(1000));
        input.services.push(service);
    }
    input.scopes = vec![ScopeInput { source: selector("sand*"), mode: Mode::AllowAny, origin: origin() }];
    input.guard.allow = vec!["10.3.0.0/16".parse().expect("a range")];
    input.guard.own_listeners = vec!["0.0.0.0:3128".parse().expect("a socket")];
    compile(input).expect("a policy")
}

#[test]
fn a_decision_allocates_nothing_on_any_path() {
    let identity = Identity { namespace: Some("default".into()), ..Identity::default() };
    let address = IpAddr::from([10, 0, 0, 1]);
    for mode in [Mode::RegistryOnly, Mode::AllowAny] {
        let snapshot = mixed(mode);
        let names: Vec<String> = (0..220)
            .flat_map(|index| {
                [format!("h{index}.test"), format!("a.b.w{index}.test"), format!("w{index}.test")]
            })
            .chain([String::from("shared.test"), "a.".repeat(126) + "a"])
            .collect();
        let mut denials = 0;
        let info = measure(|| {
            for (index, name) in names.iter().enumerate() {
                let proof = Proof::ALL[index % Proof::ALL.len()];
                let source = Source { proof, identity: Some(&identity), address };
                for port in [0, 80, 443, 8080] {
                    let mut buf = HostBuf::new();
                    let host = parse_host(black_box(name.as_bytes()), &mut buf).expect("a name");
                    let by_name = decide(&snapshot, &Request::new(source, host, port), UnixSeconds(2000));
                    // The last octets walk through known and unknown ranges.
                    let target = IpAddr::from([10, (index % 256) as u8, 1, 1]);
                    let by_address = decide(
                        &snapshot,
                        &Request::new(source, Host::Address(target), port),
                        UnixSeconds(2000),
                    );
                    let guard = snapshot.guard((target, port).into(), by_name.service);
                    let known: Option<&Arc<Identity>> = snapshot.workload_by_address(target);
                    denials += u32::from(!by_name.passes()) + u32::from(!by_address.passes());
                    black_box((guard.is_ok(), known.is_some(), snapshot.next_expiry(UnixSeconds(1))));
                }
            }
        });
        assert!(denials > 0);
        assert_eq!(info.count_total, 0, "{mode}: {info:?}");
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(black_box(String::from("x")))).count_total, 1);
}

/// Bytes that a snapshot of `hosts` hosts holds, `hosts_per_service` of them in each service.
fn bytes_held(hosts: u32, hosts_per_service: u32) -> i64 {
    let file: Arc<str> = "registry.txt".into();
    let mut snapshot = None;
    let info = measure(|| {
        let mut input = PolicyInput::new(Mode::RegistryOnly);
        for first in (0..hosts).step_by(hosts_per_service as usize) {
            let mut service =
                ServiceInput::new("default", format!("s{first}"), Origin::new(file.clone(), first));
            service.hosts = (first..hosts.min(first + hosts_per_service))
                .map(|host| {
                    HostPattern::parse(&format!("host-{host:07}.example{}.com", host % 97))
                        .expect("a pattern")
                })
                .collect();
            input.services.push(service);
        }
        snapshot = Some(compile(input).expect("a policy"));
    });
    assert_eq!(snapshot.expect("compiled").counts().hosts, hosts as usize);
    info.bytes_current
}

/// The design asks for at most 200 bytes for each host of a million. The table of hosts doubles at powers of
/// two, so its worst is just behind one: 115,000 hosts are as sparse as a table can be.
#[test]
fn a_host_costs_at_most_200_bytes() {
    for hosts in [100_000, 115_000] {
        let each = bytes_held(hosts, 1000) / i64::from(hosts);
        assert!(each <= 100, "{hosts} hosts in services of 1000: {each} bytes each");
    }
}

#[test]
fn hosts_that_many_services_share_are_held_once() {
    let hosts: Vec<HostPattern> =
        (0..100).map(|host| HostPattern::parse(&format!("host-{host}.test")).expect("a pattern")).collect();
    let compiled = |services: u32| {
        let mut input = PolicyInput::new(Mode::RegistryOnly);
        for index in 0..services {
            let mut service = ServiceInput::new("default", format!("s{index}"), Origin::new("r", index));
            service.hosts.clone_from(&hosts);
            service.ports = vec![PortInput::new(u16::try_from(index + 1).expect("small"), Protocol::Tcp)];
            input.services.push(service);
        }
        let mut snapshot = None;
        let info = measure(|| snapshot = Some(compile(&input).expect("a policy")));
        assert_eq!(snapshot.expect("compiled").counts().hosts, 100);
        info.bytes_current
    };
    let more = compiled(1000) - compiled(500);
    assert!(more / 500 <= 500, "{} bytes for one more service on the same hosts", more / 500);
}

#[test]
fn a_service_of_its_own_for_every_host_is_bounded_too() {
    let each = bytes_held(100_000, 1) / 100_000;
    println!("one service per host: {each} bytes each");
    assert!(each <= 500, "{each} bytes each");
}
