//! The trail: what a person reads.

use sluice_policy::*;

use crate::support::*;

fn trail(snapshot: &Snapshot, request: &Request<'_>) -> String {
    explain(snapshot, request, NOW).1.to_string()
}

#[test]
fn each_step_is_one_line_with_its_origin() {
    let mut input = service("default/httpbin-ext", &["httpbin.org"], &[80]);
    input.allow = Some(vec![selector("namespace=other"), selector("workload=id*")]);
    let snapshot = registry_only(vec![input]);
    let identity = workload("default/idgen");
    let request = Request::new(proven(&identity, Proof::Address), Host::Name("httpbin.org"), 80);
    assert_eq!(
        trail(&snapshot, &request),
        "source       default/idgen at 10.1.2.3 (proof: address)\n\
         destination  name httpbin.org, port 80\n\
         host         httpbin.org has port 80 in default/httpbin-ext [sluice.toml:7]\n\
         service      default/httpbin-ext allows this source: allow = [… { workload = \"id*\" } …]  [sluice.toml:7]\n\
         verdict      allow, registered"
    );
}

#[test]
fn a_denial_says_what_would_change_it() {
    let mut input = service("default/httpbin-ext", &["httpbin.org"], &[80]);
    input.allow = Some(vec![selector("namespace=other")]);
    let snapshot = registry_only(vec![input]);
    let identity = workload("default/idgen");
    let lines = |name, port| {
        trail(&snapshot, &Request::new(proven(&identity, Proof::Address), Host::Name(name), port))
    };
    let allowed = lines("httpbin.org", 80);
    assert!(
        allowed.contains("to change this: add { principal = \"spiffe://cluster.local/ns/default/sa/idgen\" } to its `allow`"),
        "{allowed}"
    );
    let port = lines("httpbin.org", 8080);
    assert!(
        port.contains("is registered, but not for port 8080: only 80  [sluice.toml:7]; to change this: add"),
        "{port}"
    );
    let unknown = lines("example.com", 80);
    assert!(unknown.contains("no service has it; to change this: register it as a [[service]]"), "{unknown}");
    assert!(
        unknown.contains("mode         registry_only, the global mode: no scope covers this source"),
        "{unknown}"
    );
}

#[test]
fn the_scope_that_counts_and_the_shadow_are_shown() {
    let mut input = policy(Mode::RegistryOnly, vec![]);
    input.scopes =
        vec![ScopeInput { source: selector("namespace=sandbox"), mode: Mode::AllowAny, origin: origin(3) }];
    let (snapshot, identity) = (compiled(input), workload("sandbox/x"));
    let text =
        trail(&snapshot, &Request::new(proven(&identity, Proof::Address), Host::Name("example.com"), 443));
    assert!(
        text.ends_with(
            "mode         allow_any, by the scope of { namespace = \"sandbox\" }; \
             registry_only would deny: not_registered  [sluice.toml:3]\n\
             verdict      passthrough (registry_only: deny, not_registered)"
        ),
        "{text}"
    );
}

#[test]
fn a_guarded_address_shows_the_line_that_would_allow_it() {
    let text = trail(&allow_any(vec![]), &to_original("64:ff9b::a9fe:a9fe", 80));
    assert!(text.contains("address 64:ff9b::a9fe:a9fe, port 80, which stands for 169.254.169.254"), "{text}");
    assert!(text.contains("to change this: [guard] allow = [\"169.254.169.254/32\"]"), "{text}");
}

#[test]
fn a_listener_of_our_own_is_not_told_to_be_registered() {
    let mut input = policy(Mode::RegistryOnly, vec![]);
    input.guard.own_listeners = vec![socket("127.0.0.1:3128")];
    let snapshot = compiled(input);
    let named = Request::new(anonymous(), Host::Address(ip("127.0.0.1")), 3128);
    let own = [to_original("127.0.0.1", 3128), named, to_original("::ffff:127.0.0.1", 3128)];
    for request in own {
        let text = trail(&snapshot, &request);
        let refusal = snapshot.guard(socket("127.0.0.1:3128"), None).expect_err("our own");
        assert!(text.contains(&format!("no service has it, and none would help: {refusal}")), "{text}");
        assert!(!text.contains("addresses"), "{text}");
        assert!(text.ends_with("verdict      deny, not_registered"), "{text}");
    }
    let text = trail(&snapshot, &to_original("127.0.0.1", 3129));
    assert!(text.contains("list it under the `addresses`"), "{text}");
}

#[test]
fn every_reason_of_a_decision_has_a_trail_that_ends_in_it() {
    let mut old = service("default/old", &["old.test"], &[443]);
    old.expires = Some(NOW);
    let mut denying = service("default/denying", &["denying.test"], &[443]);
    denying.deny = vec![Selector::default()];
    let mut closed = service("default/closed", &["closed.test"], &[443]);
    closed.allow = Some(vec![]);
    let mut strict = service("default/strict", &["strict.test"], &[443]);
    strict.require_proof = Some(Proof::Certificate);
    let snapshot = registry_only(vec![old, denying, closed, strict]);
    for (request, said) in [
        (to("old.test", 443), "set a later `expires` on default/old"),
        (to("denying.test", 443), "default/denying denies this source: deny = [… {} …]"),
        (to("closed.test", 443), "default/closed allows nobody: allow = []"),
        (to("strict.test", 443), "default/strict requires proof by certificate, this source has none"),
        (to("closed.test", 443), "prove the source's identity, then name it in its `allow`"),
        (to_original("192.0.2.1", 443), "list it under the `addresses` of a [[service]]"),
        (to("closed.test", 0), "port 0 is no port"),
        (
            Request { original: None, ..to_original("192.0.2.1", 1) },
            "neither a name nor an original destination",
        ),
    ] {
        let (decision, trail) = explain(&snapshot, &request, NOW);
        let text = trail.to_string();
        assert!(text.contains(said), "{said} in:\n{text}");
        assert!(text.ends_with(&format!("verdict      deny, {}", decision.reason)), "{text}");
        assert!(trail.steps.iter().all(|step| !step.to_string().contains('\n')), "one line per step: {text}");
    }
}
