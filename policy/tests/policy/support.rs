//! Short ways to write policies and requests. It must not judge anything.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use sluice_policy::*;

/// Every test happens at this second unless it says otherwise.
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().expect("a range")
}

pub(crate) fn origin(line: u32) -> Origin {
    Origin::new("sluice.toml", line)
}

/// `namespace/name` with hosts and port numbers (443 is TLS, everything else HTTP; none: the default ports).
pub(crate) fn service(qualified: &str, hosts: &[&str], ports: &[u16]) -> ServiceInput {
    let (namespace, name) = qualified.split_once('/').expect("namespace/name");
    let mut service = ServiceInput::new(namespace, name, origin(7));
    service.hosts = hosts.iter().map(|host| HostPattern::parse(host).expect("a pattern")).collect();
    let protocol = |number| if number == 443 { Protocol::Tls } else { Protocol::Http };
    service.ports = ports.iter().map(|number| PortInput::new(*number, protocol(*number))).collect();
    service
}

pub(crate) fn policy(mode: Mode, services: Vec<ServiceInput>) -> PolicyInput {
    PolicyInput { services, hash_seed: 7, ..PolicyInput::new(mode) }
}

pub(crate) fn compiled(input: PolicyInput) -> Snapshot {
    compile(input).unwrap_or_else(|errors| panic!("the policy compiles: {errors:?}"))
}

pub(crate) fn registry_only(services: Vec<ServiceInput>) -> Snapshot {
    compiled(policy(Mode::RegistryOnly, services))
}

pub(crate) fn allow_any(services: Vec<ServiceInput>) -> Snapshot {
    compiled(policy(Mode::AllowAny, services))
}

/// `namespace = "a", app = "b"`.
pub(crate) fn selector(text: &str) -> Selector {
    let mut selector = Selector::default();
    for field in text.split(',').filter(|field| !field.trim().is_empty()) {
        let (key, value) = field.split_once('=').expect("key = value");
        let pattern = Some(value.trim().trim_matches('"').parse().expect("a pattern"));
        match key.trim() {
            "principal" => selector.principal = pattern,
            "namespace" => selector.namespace = pattern,
            "service_account" => selector.service_account = pattern,
            "workload" => selector.workload = pattern,
            "app" => selector.app = pattern,
            other => panic!("no field {other}"),
        }
    }
    selector
}

/// A workload of a namespace, with service account and principal of the same name.
pub(crate) fn workload(qualified: &str) -> Arc<Identity> {
    let (namespace, name) = qualified.split_once('/').expect("namespace/name");
    Arc::new(Identity {
        principal: Some(format!("spiffe://cluster.local/ns/{namespace}/sa/{name}").into()),
        namespace: Some(namespace.into()),
        service_account: Some(name.into()),
        workload: Some(name.into()),
        app: Some(name.into()),
        ..Identity::default()
    })
}

pub(crate) fn anonymous() -> Source<'static> {
    Source::unproven(IpAddr::from([10, 1, 2, 3]))
}

pub(crate) fn proven(identity: &Identity, proof: Proof) -> Source<'_> {
    Source { proof, identity: Some(identity), address: IpAddr::from([10, 1, 2, 3]) }
}

/// A request for a canonical name by nobody in particular.
pub(crate) fn to(name: &str, port: u16) -> Request<'_> {
    Request::new(anonymous(), Host::Name(name), port)
}

/// A request whose name is not known, only where it was going.
pub(crate) fn to_original(address: &str, port: u16) -> Request<'static> {
    let original = Some(SocketAddr::new(ip(address), port));
    Request { source: anonymous(), host: None, original, port, bound: None }
}

/// Asks, and checks on the way that `explain` says the same.
pub(crate) fn ask(snapshot: &Snapshot, request: &Request<'_>) -> Decision {
    ask_at(snapshot, request, NOW)
}

pub(crate) fn ask_at(snapshot: &Snapshot, request: &Request<'_>, now: UnixSeconds) -> Decision {
    let decision = decide(snapshot, request, now);
    let (explained, trail) = explain(snapshot, request, now);
    assert_eq!(decision, explained, "decide and explain disagree:\n{trail}");
    decision
}

pub(crate) fn verdict(snapshot: &Snapshot, request: &Request<'_>) -> (Verdict, Reason) {
    let decision = ask(snapshot, request);
    (decision.verdict, decision.reason)
}

/// The qualified name of the service that a decision names.
pub(crate) fn service_of(snapshot: &Snapshot, decision: &Decision) -> Option<String> {
    decision.service.map(|id| snapshot.service(id).to_string())
}

pub(crate) const REGISTERED: (Verdict, Reason) = (Verdict::Allow, Reason::Registered);
pub(crate) const PASSTHROUGH: (Verdict, Reason) = (Verdict::Passthrough, Reason::Passthrough);
pub(crate) const NOT_REGISTERED: (Verdict, Reason) = (Verdict::Deny, Reason::NotRegistered);
pub(crate) const PORT_NOT_REGISTERED: (Verdict, Reason) = (Verdict::Deny, Reason::PortNotRegistered);
pub(crate) const NOT_ALLOWED: (Verdict, Reason) = (Verdict::Deny, Reason::WorkloadNotAllowed);
pub(crate) const DENIED: (Verdict, Reason) = (Verdict::Deny, Reason::WorkloadDenied);
pub(crate) const EXPIRED: (Verdict, Reason) = (Verdict::Deny, Reason::Expired);
pub(crate) const GUARDED: (Verdict, Reason) = (Verdict::Deny, Reason::Guard);
