//! Properties over random names, ranges and small policies; the reference is the design read literally,
//! without any index.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::{collection::vec, option, prelude::*, sample::select};
use sluice_policy::*;

use crate::support::*;

/// Few names, so that exact hosts, wildcards and requests meet often.
fn some_name() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "evila"]), 1..4).prop_map(|labels| labels.join(".") + ".test")
}

fn some_pattern() -> impl Strategy<Value = HostPattern> {
    (any::<bool>(), some_name()).prop_map(|(wildcard, name)| {
        HostPattern::parse(&format!("{}{name}", if wildcard { "*." } else { "" })).expect("a pattern")
    })
}

/// Few addresses in both families, some wrapped, some special.
fn some_address() -> impl Strategy<Value = IpAddr> {
    let v4 = select(vec![
        [198, 51, 100, 1],
        [198, 51, 100, 130],
        [198, 51, 7, 1],
        [10, 0, 0, 1],
        [169, 254, 169, 254],
        [127, 0, 0, 1],
    ])
    .prop_map(Ipv4Addr::from);
    (v4, 0..4).prop_map(|(v4, form)| {
        let [a, b, c, d] = v4.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        match form {
            0 => IpAddr::V4(v4),
            1 => IpAddr::V6(v4.to_ipv6_mapped()),
            2 => IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low)),
            _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low)),
        }
    })
}

fn some_range() -> impl Strategy<Value = Cidr> {
    (some_address(), select(vec![0, 8, 16, 24, 25, 32, 96, 104, 120, 128]))
        .prop_filter_map("prefix too long", |(address, bits)| Cidr::new(address, bits))
}

fn some_selector() -> impl Strategy<Value = Selector> {
    select(vec![
        "",
        "namespace=one",
        "namespace=*",
        "workload=x",
        "namespace=two, workload=y",
        "workload=*x*",
    ])
    .prop_map(selector)
}

fn some_port() -> impl Strategy<Value = u16> {
    select(vec![80_u16, 443, 3306])
}

fn some_service() -> impl Strategy<Value = ServiceInput> {
    let who =
        (option::of(vec(some_selector(), 0..3)), vec(some_selector(), 0..2), option::of(select(Proof::ALL)));
    let when = option::of(-1_i64..2);
    (vec(some_pattern(), 0..4), vec(some_range(), 0..3), vec(some_port(), 0..3), who, when).prop_map(
        |(hosts, addresses, mut ports, (allow, deny, require_proof), expires)| {
            ports.sort_unstable();
            ports.dedup();
            let mut input = service("default/x", &[], &ports);
            (input.hosts, input.addresses, input.allow, input.deny) = (hosts, addresses, allow, deny);
            input.require_proof = require_proof;
            input.expires = expires.map(|offset| UnixSeconds(NOW.0 + offset));
            input
        },
    )
}

fn some_policy() -> impl Strategy<Value = PolicyInput> {
    let mode = || select(Mode::ALL);
    let scopes = vec((some_selector(), mode()), 0..3);
    (mode(), vec(some_service(), 0..6), scopes, vec(some_range(), 0..2), any::<u64>()).prop_map(
        |(mode, mut services, scopes, allow, hash_seed)| {
            for (index, service) in services.iter_mut().enumerate() {
                service.namespace = if index % 2 == 0 { "even".into() } else { "odd".into() };
                service.name = format!("s{}", 9 - index).into();
            }
            let mut input = PolicyInput { hash_seed, ..policy(mode, services) };
            for (line, (source, mode)) in (1..).zip(scopes) {
                if !input.scopes.iter().any(|scope| scope.source == source) {
                    input.scopes.push(ScopeInput { source, mode, origin: origin(line) });
                }
            }
            input.guard.allow = allow;
            input
        },
    )
}

#[derive(Debug, Clone)]
struct Asked {
    identity: Option<Identity>,
    proof: Proof,
    name: Option<String>,
    original: Option<IpAddr>,
    port: u16,
}

fn some_request() -> impl Strategy<Value = Asked> {
    let identity = option::of(
        select(vec!["one/x", "one/y", "two/x", "two/y", "three/z"])
            .prop_map(|name| (*workload(name)).clone()),
    );
    (identity, select(Proof::ALL), option::of(some_name()), option::of(some_address()), some_port())
        .prop_map(|(identity, proof, name, original, port)| Asked { identity, proof, name, original, port })
}

impl Asked {
    fn request(&self) -> Request<'_> {
        let source = Source { proof: self.proof, identity: self.identity.as_ref(), address: ip("10.1.2.3") };
        let original = self.original.map(|address| (address, self.port).into());
        Request { source, host: self.name.as_deref().map(Host::Name), original, port: self.port, bound: None }
    }
}

/// Verdict, reason, service, matched pattern: the design read literally.
type Answer = (Verdict, Reason, Option<String>, Option<String>);

fn reference(input: &PolicyInput, asked: &Asked) -> Answer {
    let mut services: Vec<&ServiceInput> = input.services.iter().collect();
    services.sort_by_key(|service| (service.namespace.clone(), service.name.clone()));
    let has_port = |service: &ServiceInput| match &service.ports[..] {
        [] => asked.port == 80 || asked.port == 443,
        ports => ports.iter().any(|port| port.number == asked.port),
    };
    let live = |service: &ServiceInput| service.expires.is_none_or(|expires| expires > NOW);
    let unwrapped = asked.original.map(|address| unwrap_address(address, &[]));
    // How well a service fits the destination: length of what matched, and its text.
    let fit = |service: &ServiceInput| -> Vec<(usize, String)> {
        match (&asked.name, unwrapped) {
            (Some(name), _) => {
                let fits = service.hosts.iter().filter(|pattern| match pattern.suffix() {
                    None => pattern.as_str() == name,
                    Some(suffix) => name.ends_with(&format!(".{suffix}")),
                });
                // An exact host beats every wildcard.
                fits.map(|pattern| (pattern.suffix().map_or(usize::MAX, str::len), pattern.to_string()))
                    .collect()
            }
            (None, Some(address)) => {
                let unwrapped = service.addresses.iter().map(|range| {
                    if !range.network().is_ipv4()
                        && range.prefix_bits() >= 96
                        && cidr("64:ff9b::/96").contains_range(range)
                    {
                        Cidr::new(unwrap_address(range.network(), &[]), range.prefix_bits() - 96)
                            .expect("a range")
                    } else {
                        *range
                    }
                });
                let holding = unwrapped.filter(|range| range.contains(address));
                holding.map(|range| (usize::from(range.prefix_bits()), range.to_string())).collect()
            }
            (None, None) => vec![],
        }
    };
    let identity = if asked.proof == Proof::None { None } else { asked.identity.as_ref() };
    let proof = if asked.identity.is_none() { Proof::None } else { asked.proof };
    if asked.name.is_none() && asked.original.is_none() {
        return (Verdict::Deny, Reason::NoName, None, None);
    }
    let all: Vec<(usize, String, &ServiceInput)> = services
        .iter()
        .flat_map(|service| fit(service).into_iter().map(move |(length, text)| (length, text, *service)))
        .collect();
    let candidates = all.iter().filter(|(_, _, service)| has_port(service) && live(service));
    let answer = match candidates.clone().map(|(length, ..)| *length).max() {
        Some(best) => {
            let merged: Vec<_> = candidates.filter(|(length, ..)| *length == best).collect();
            let named = |service: &ServiceInput| Some(format!("{}/{}", service.namespace, service.name));
            let text = Some(merged[0].1.clone());
            let allows = |service: &ServiceInput| {
                service.require_proof.is_none_or(|required| proof >= required)
                    && service
                        .allow
                        .as_ref()
                        .is_none_or(|allow| allow.iter().any(|selector| selector.matches(identity)))
            };
            let denying = merged
                .iter()
                .find(|(.., service)| service.deny.iter().any(|selector| selector.matches(identity)));
            let allowing = merged.iter().find(|(.., service)| allows(service));
            match (denying, allowing) {
                (Some((.., service)), _) => (Verdict::Deny, Reason::WorkloadDenied, named(service), text),
                (None, Some((.., service))) => (Verdict::Allow, Reason::Registered, named(service), text),
                (None, None) => (Verdict::Deny, Reason::WorkloadNotAllowed, named(merged[0].2), text),
            }
        }
        None => {
            let mut scopes: Vec<&ScopeInput> =
                input.scopes.iter().filter(|scope| scope.source.matches(identity)).collect();
            scopes.sort_by_key(|scope| std::cmp::Reverse(specificity(&scope.source)));
            let mode = scopes.first().map_or(input.mode, |first| {
                let best = specificity(&first.source);
                scopes
                    .iter()
                    .filter(|scope| specificity(&scope.source) == best)
                    .map(|scope| scope.mode)
                    .min()
                    .expect("one")
            });
            let reason = if all.iter().any(|(.., service)| has_port(service)) {
                Reason::Expired
            } else if !all.is_empty() {
                Reason::PortNotRegistered
            } else {
                Reason::NotRegistered
            };
            match mode {
                Mode::AllowAny => (Verdict::Passthrough, Reason::Passthrough, None, None),
                Mode::RegistryOnly => (Verdict::Deny, reason, None, None),
            }
        }
    };
    match (asked.name.is_none(), unwrapped, answer.0) {
        (true, Some(address), Verdict::Allow | Verdict::Passthrough)
            if refused(input, address, answer.2.as_deref()) =>
        {
            (Verdict::Deny, Reason::Guard, answer.2, answer.3)
        }
        _ => answer,
    }
}

/// Exact fields, then patterns, each from principal down to namespace; then characters.
fn specificity(selector: &Selector) -> (Vec<bool>, Vec<bool>, usize) {
    let fields = [
        &selector.principal,
        &selector.workload,
        &selector.service_account,
        &selector.app,
        &selector.namespace,
    ];
    let exact = fields
        .iter()
        .map(|field| field.as_ref().is_some_and(|pattern| !pattern.as_str().contains('*')))
        .collect();
    let pattern = fields
        .iter()
        .map(|field| field.as_ref().is_some_and(|pattern| pattern.as_str().contains('*')))
        .collect();
    let characters = fields
        .iter()
        .filter_map(|field| field.as_ref())
        .map(|field| field.as_str().replace('*', "").len())
        .sum();
    (exact, pattern, characters)
}

/// For the addresses that `some_address` makes.
fn refused(input: &PolicyInput, address: IpAddr, service: Option<&str>) -> bool {
    let (class, strict) = match address {
        IpAddr::V4(v4) if v4.is_link_local() => (cidr("169.254.0.0/16"), true),
        IpAddr::V4(v4) if v4.is_private() => (cidr("10.0.0.0/8"), false),
        IpAddr::V4(v4) if v4.is_loopback() => (cidr("127.0.0.0/8"), false),
        _ => return false,
    };
    let named = input
        .services
        .iter()
        .filter(|input| Some(&*format!("{}/{}", input.namespace, input.name)) == service);
    let ranges = input.guard.allow.iter().chain(named.flat_map(|service| &service.addresses));
    !ranges
        .map(|range| {
            let nat64 = range.network().is_ipv6() && cidr("64:ff9b::/96").contains_range(range);
            let network = unwrap_address(range.network(), &[]);
            if nat64 { Cidr::new(network, range.prefix_bits() - 96).expect("a range") } else { *range }
        })
        .any(|range| range.contains(address) && (!strict || class.contains_range(&range)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_form_is_a_fixed_point(wire in "[aAbZ0-9xX_.*%:\\-\\[\\]]{0,40}") {
        let mut buf = HostBuf::new();
        if let Ok(host) = parse_host(wire.as_bytes(), &mut buf) {
            let text = host.to_string();
            let mut again = HostBuf::new();
            prop_assert_eq!(parse_host(text.as_bytes(), &mut again), Ok(host));
            if let Host::Name(name) = host {
                prop_assert!(name.parse::<IpAddr>().is_err());
                prop_assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
        }
    }

    #[test]
    fn any_bytes_are_a_host_or_an_error(wire in vec(any::<u8>(), 0..400)) {
        let mut buf = HostBuf::new();
        if let Ok(Host::Name(name)) = parse_host(&wire, &mut buf) {
            prop_assert!((1..=limits::NAME_BYTES_MAX).contains(&name.len()));
        }
    }

    #[test]
    fn a_pattern_reads_back_as_itself(pattern in some_pattern()) {
        prop_assert_eq!(HostPattern::parse(pattern.as_str()), Ok(pattern));
    }

    #[test]
    fn a_wildcard_matches_neither_the_apex_nor_a_name_that_ends_alike(suffix in some_name(), prefix in "[a-z0-9]{1,9}") {
        let snapshot = registry_only(vec![service("default/w", &[&format!("*.{suffix}")], &[443])]);
        prop_assert_eq!(verdict(&snapshot, &to(&suffix, 443)), NOT_REGISTERED);
        prop_assert_eq!(verdict(&snapshot, &to(&format!("{prefix}{suffix}"), 443)), NOT_REGISTERED);
        prop_assert_eq!(verdict(&snapshot, &to(&format!("{suffix}.{prefix}x"), 443)), NOT_REGISTERED);
        prop_assert_eq!(verdict(&snapshot, &to(&format!("{prefix}.{suffix}"), 443)), REGISTERED);
    }

    #[test]
    fn a_range_reads_back_as_itself(range in some_range()) {
        prop_assert_eq!(range.to_string().parse(), Ok(range));
    }

    #[test]
    fn an_unwrapped_address_has_nothing_left_to_unwrap(bits in any::<u128>(), wrapped in some_address()) {
        for address in [IpAddr::V6(Ipv6Addr::from_bits(bits)), wrapped] {
            let once = unwrap_address(address, &[]);
            prop_assert_eq!(unwrap_address(once, &[]), once);
        }
    }

    #[test]
    fn a_pattern_matches_as_the_obvious_recursion_says(pattern in "[ab*]{1,8}", text in "[ab]{0,10}") {
        fn obvious(pattern: &[u8], text: &[u8]) -> bool {
            match pattern.split_first() {
                None => text.is_empty(),
                Some((b'*', rest)) => (0..=text.len()).any(|skip| obvious(rest, &text[skip..])),
                Some((byte, rest)) => text.split_first().is_some_and(|(first, text)| first == byte && obvious(rest, text)),
            }
        }
        let expected = obvious(pattern.as_bytes(), text.as_bytes());
        prop_assert_eq!(pattern.parse::<Pattern>().expect("a pattern").matches(&text), expected);
    }

    #[test]
    fn decide_says_what_the_design_says(input in some_policy(), asked in vec(some_request(), 1..12)) {
        let snapshot = compiled(input.clone());
        for asked in &asked {
            // `ask` also compares with `explain`.
            let decision = ask(&snapshot, &asked.request());
            let matched = decision.matched.map(|id| snapshot.matched_host(id).to_owned());
            let answer = (decision.verdict, decision.reason, service_of(&snapshot, &decision), matched);
            prop_assert_eq!(&answer, &reference(&input, asked), "{:?}", asked);
            // The shadow is the verdict of the same policy in registry-only.
            let strict = PolicyInput { mode: Mode::RegistryOnly, scopes: vec![], ..input.clone() };
            let (verdict, reason, ..) = reference(&strict, asked);
            prop_assert_eq!(decision.shadow, Shadow { verdict, reason });
        }
        let _ = snapshot.warnings(NOW);
    }

    #[test]
    fn the_longest_prefix_of_the_workload_table_wins(ranges in vec(some_range(), 0..6), address in some_address()) {
        let mut input = policy(Mode::AllowAny, vec![]);
        for (index, range) in (0..).zip(&ranges) {
            if !ranges[..index].contains(range) {
                let identity = workload(&format!("default/w{index}"));
                input.workloads.push(WorkloadInput { identity, addresses: vec![*range], origin: origin(1) });
            }
        }
        let expected = input.workloads.iter().filter(|workload| workload.addresses[0].contains(address.to_canonical()))
            .max_by_key(|workload| workload.addresses[0].prefix_bits()).map(|workload| workload.identity.clone());
        let snapshot = compiled(input);
        prop_assert_eq!(snapshot.workload_by_address(address), expected.as_ref());
    }
}
