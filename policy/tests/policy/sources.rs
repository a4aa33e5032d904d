//! Who asks: proofs, selectors, scopes and the workload table.

use std::sync::Arc;

use sluice_policy::*;

use crate::support::*;

#[test]
fn proofs_rise_from_none_to_certificate() {
    let words: Vec<_> = Proof::ALL.iter().map(|proof| proof.as_str()).collect();
    assert_eq!(words, ["none", "address", "proxy_protocol", "credentials", "certificate"]);
    assert!(Proof::ALL.is_sorted());
    assert_eq!("credentials".parse(), Ok(Proof::Credentials));
    let error = "passport".parse::<Proof>().expect_err("no proof").to_string();
    assert_eq!(
        error,
        "unknown proof \"passport\": known are none address proxy_protocol credentials certificate"
    );
}

#[test]
fn fields_of_a_selector_are_anded() {
    let idgen = workload("default/idgen");
    for (text, expected) in [
        ("", true),
        ("namespace=default", true),
        ("namespace=default, workload=idgen", true),
        ("namespace=default, workload=other", false),
        ("namespace=other, workload=idgen", false),
        ("principal=spiffe://cluster.local/ns/default/sa/idgen", true),
        ("service_account=idgen, app=idgen", true),
        ("app=other", false),
        ("service_account=other", false),
        ("principal=spiffe://cluster.local/ns/default/sa/other", false),
    ] {
        assert_eq!(selector(text).matches(Some(&idgen)), expected, "{text}");
    }
}

#[test]
fn a_star_matches_any_run_of_characters() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("*", "anything", true),
        ("pay*", "payments", true),
        ("*ments", "payments", true),
        ("p*y*s", "payments", true),
        ("p*y*x", "payments", false),
        ("payments", "payment", false),
        ("payments", "Payments", false),
        ("a*", "ba", false),
        ("*a*b*", "xxaxxbxx", true),
        ("*ab", "aab", true),
        ("spiffe://*/ns/default/sa/*", "spiffe://cluster.local/ns/default/sa/idgen", true),
        ("a**b", "ab", true),
    ] {
        assert_eq!(
            pattern.parse::<Pattern>().expect("a pattern").matches(text),
            expected,
            "{pattern} {text}"
        );
    }
    assert_eq!("".parse::<Pattern>(), Err(PatternError::Empty));
    assert_eq!("a".repeat(2049).parse::<Pattern>(), Err(PatternError::TooLong));
}

#[test]
fn a_field_that_the_identity_lacks_matches_no_pattern() {
    assert!(!selector("principal=*").matches(Some(&Identity::default())));
    assert!(selector("").matches(Some(&Identity::default())));
}

#[test]
fn none_matches_only_a_selector_that_names_nothing() {
    let idgen = workload("default/idgen");
    let mut service = service("default/a", &["a.test"], &[]);
    service.allow = Some(vec![selector("namespace=default")]);
    let snapshot = registry_only(vec![service.clone()]);
    // Even with names claimed: without proof they do not count.
    assert_eq!(
        verdict(&snapshot, &Request::new(proven(&idgen, Proof::None), Host::Name("a.test"), 80)),
        NOT_ALLOWED
    );
    assert_eq!(
        verdict(&snapshot, &Request::new(proven(&idgen, Proof::Address), Host::Name("a.test"), 80)),
        REGISTERED
    );
    service.allow = Some(vec![selector("")]);
    assert_eq!(verdict(&registry_only(vec![service]), &to("a.test", 80)), REGISTERED);
}

#[test]
fn require_proof_lets_only_that_proof_or_better_through() {
    let idgen = workload("default/idgen");
    let mut service = service("default/a", &["a.test"], &[]);
    service.require_proof = Some(Proof::Certificate);
    for allow in [None, Some(vec![selector("")]), Some(vec![selector("namespace=default")])] {
        service.allow = allow;
        let snapshot = registry_only(vec![service.clone()]);
        for proof in Proof::ALL {
            let request = Request::new(proven(&idgen, *proof), Host::Name("a.test"), 443);
            let expected = if *proof == Proof::Certificate { REGISTERED } else { NOT_ALLOWED };
            assert_eq!(verdict(&snapshot, &request), expected, "{proof} {:?}", service.allow);
        }
        assert_eq!(verdict(&snapshot, &to("a.test", 443)), NOT_ALLOWED);
    }
}

#[test]
fn a_denial_counts_with_a_weaker_proof_than_is_required() {
    let idgen = workload("default/idgen");
    let mut service = service("default/a", &["a.test"], &[]);
    service.require_proof = Some(Proof::Certificate);
    service.deny = vec![selector("workload=idgen")];
    let snapshot = registry_only(vec![service]);
    let request = |proof| Request::new(proven(&idgen, proof), Host::Name("a.test"), 80);
    assert_eq!(verdict(&snapshot, &request(Proof::Address)), DENIED);
    assert_eq!(verdict(&snapshot, &request(Proof::Certificate)), DENIED);
    assert_eq!(verdict(&snapshot, &request(Proof::None)), NOT_ALLOWED);
}

fn scope(text: &str, mode: Mode, line: u32) -> ScopeInput {
    ScopeInput { source: selector(text), mode, origin: origin(line) }
}

#[test]
fn the_most_specific_scope_wins_over_the_global_mode() {
    let mut input = policy(Mode::RegistryOnly, vec![]);
    input.scopes = vec![
        scope("namespace=sandbox", Mode::AllowAny, 1),
        scope("namespace=sandbox, workload=vault", Mode::RegistryOnly, 2),
        scope("principal=spiffe://cluster.local/ns/sandbox/sa/vault-admin", Mode::AllowAny, 3),
        scope("namespace=sandbox, workload=vault*", Mode::RegistryOnly, 4),
        scope("workload=*", Mode::RegistryOnly, 5),
    ];
    // In whatever order they are written.
    for turn in 0..input.scopes.len() {
        input.scopes.rotate_left(1);
        let snapshot = compiled(input.clone());
        for (who, expected, line) in [
            ("sandbox/web", PASSTHROUGH, 1),
            ("sandbox/vault", NOT_REGISTERED, 2),
            ("sandbox/vault-admin", PASSTHROUGH, 3),
            ("sandbox/vault-ui", NOT_REGISTERED, 4),
            ("default/idgen", NOT_REGISTERED, 5),
        ] {
            let identity = workload(who);
            let request = Request::new(proven(&identity, Proof::Address), Host::Name("x.test"), 443);
            let decision = ask(&snapshot, &request);
            assert_eq!((decision.verdict, decision.reason), expected, "{who}, turn {turn}");
            let scope = decision.scope.map(|id| snapshot.scope(id).origin.line);
            assert_eq!(scope, Some(line), "{who}, turn {turn}");
        }
        let unproven = ask(&snapshot, &to("x.test", 443));
        assert_eq!((unproven.verdict, unproven.scope), (Verdict::Deny, None));
    }
}

#[test]
fn among_scopes_that_say_as_much_the_stricter_wins() {
    let mut input = policy(Mode::AllowAny, vec![]);
    input.scopes =
        vec![scope("namespace=a*", Mode::AllowAny, 1), scope("namespace=*b", Mode::RegistryOnly, 2)];
    let (snapshot, identity) = (compiled(input), workload("ab/x"));
    let request = Request::new(proven(&identity, Proof::Address), Host::Name("x.test"), 443);
    assert_eq!(verdict(&snapshot, &request), NOT_REGISTERED);
}

#[test]
fn a_scope_without_proof_covers_nobody_it_names() {
    let mut input = policy(Mode::RegistryOnly, vec![]);
    input.scopes = vec![scope("namespace=sandbox", Mode::AllowAny, 1)];
    let (snapshot, identity) = (compiled(input), workload("sandbox/x"));
    let request = Request::new(proven(&identity, Proof::None), Host::Name("x.test"), 443);
    assert_eq!(verdict(&snapshot, &request), NOT_REGISTERED);
}

fn table(entries: &[(&str, &[&str])]) -> PolicyInput {
    let mut input = policy(Mode::RegistryOnly, vec![]);
    input.workloads = (1..)
        .zip(entries)
        .map(|(line, (name, ranges))| WorkloadInput {
            identity: workload(name),
            addresses: ranges.iter().map(|range| cidr(range)).collect(),
            origin: origin(line),
        })
        .collect();
    input
}

#[test]
fn a_source_address_belongs_to_the_workload_with_the_longest_prefix() {
    let snapshot = compiled(table(&[
        ("default/any", &["10.0.0.0/8", "fd00::/8"]),
        ("default/idgen", &["10.1.2.0/24"]),
        ("default/one", &["10.1.2.3/32", "10.1.2.3"]),
    ]));
    let find = |address| {
        let found: Option<&Arc<Identity>> = snapshot.workload_by_address(ip(address));
        found.and_then(|identity| identity.workload.as_deref())
    };
    assert_eq!(find("10.9.9.9"), Some("any"));
    assert_eq!(find("10.1.2.4"), Some("idgen"));
    assert_eq!(find("10.1.2.3"), Some("one"));
    assert_eq!(find("fd12::1"), Some("any"));
    assert_eq!(find("192.0.2.1"), None);
    // IPv4-mapped sources are unmapped first; other wrapping is not a source's.
    assert_eq!(find("::ffff:10.1.2.3"), Some("one"));
    assert_eq!(find("2002:0a01:0203::"), None);
}

#[test]
fn an_equal_prefix_in_two_workloads_is_an_error_that_names_both_places() {
    let errors = compile(table(&[("default/a", &["10.1.0.0/16"]), ("default/b", &["::ffff:10.1.0.0/112"])]))
        .expect_err("two owners of one range");
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].problem, Problem::DuplicateWorkloadRange(cidr("10.1.0.0/16")));
    assert_eq!(
        errors[0].to_string(),
        "the range 10.1.0.0/16 belongs to two workloads: sluice.toml:1 and sluice.toml:2"
    );
}
