//! The trail of a decision: the very code of `decide`, with a tracer that keeps one line per step.
//! It must not judge anything itself: it only words what `decide` looked at.

use alloc::{string::String, vec::Vec};
use core::fmt;

use crate::{Decision, Origin, Protocol, Reason, Request, Snapshot, Spoken, UnixSeconds, decide};

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was looked at: "source", "destination", "host", "service", "mode", "guard", "protocol",
    /// "verdict".
    pub about: &'static str,
    /// What was found.
    pub found: String,
    /// Where the item that decided this step stands.
    pub origin: Option<Origin>,
    /// What would change this step.
    pub change: Option<String>,
}

impl Step {
    fn new(about: &'static str, found: String) -> Self {
        Self { about, found, origin: None, change: None }
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin = Some(origin.clone());
        self
    }

    fn change(mut self, change: String) -> Self {
        self.change = Some(change);
        self
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12} {}", self.about, self.found)?;
        if let Some(origin) = &self.origin {
            write!(f, "  [{origin}]")?;
        }
        if let Some(change) = &self.change {
            write!(f, "; to change this: {change}")?;
        }
        Ok(())
    }
}

/// How a decision came about, step by step. Prints one line per step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// In the order in which things were looked at.
    pub steps: Vec<Step>,
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{step}")?;
        }
        Ok(())
    }
}

/// [`crate::decide`] with the trail that led to its answer.
pub fn explain(snapshot: &Snapshot, request: &Request<'_>, now: UnixSeconds) -> (Decision, Trail) {
    trace(snapshot, request, None, now)
}

/// [`explain`] for a flow of which it is known what it speaks: a port that is declared to carry something else denies
/// it, as the data plane does where it sees that.
pub fn explain_spoken(
    snapshot: &Snapshot,
    request: &Request<'_>,
    spoken: Spoken,
    now: UnixSeconds,
) -> (Decision, Trail) {
    trace(snapshot, request, Some(spoken), now)
}

fn trace(
    snapshot: &Snapshot,
    request: &Request<'_>,
    spoken: Option<Spoken>,
    now: UnixSeconds,
) -> (Decision, Trail) {
    let mut trail = Trail::default();
    let mut decision = decide::run(snapshot, request, now, &mut trail);
    if let Some(spoken) = spoken.filter(|_| decision.passes())
        && let Some(service) = decision.service.and_then(|id| snapshot.find_service(id))
    {
        let declared =
            decision.port.and_then(|id| service.port(id)).map_or(Protocol::Tcp, |port| port.protocol);
        if !declared.admits(spoken) {
            trail.steps.push(note::misfit(service, request.port, declared, spoken));
            let denied = Decision::denied(Reason::ProtocolMismatch);
            decision = Decision {
                service: decision.service,
                port: decision.port,
                matched: decision.matched,
                ..denied
            };
        }
    }
    trail.steps.push(note::verdict(&decision));
    (decision, trail)
}

/// Hears of every step of a decision.
pub(crate) trait Tracer {
    /// The step is built only by a tracer that keeps it.
    fn note(&mut self, step: impl FnOnce() -> Step);
}

impl Tracer for () {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Step) {}
}

impl Tracer for Trail {
    fn note(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }
}

/// The wording of each step.
pub(crate) mod note {
    use alloc::{
        format,
        string::{String, ToString},
        vec::Vec,
    };
    use core::{fmt::Write, net::IpAddr};

    use super::Step;
    use crate::{
        Decision, GuardRefusal, Mode, Proof, Protocol, Reason, ScopeId, Service, Snapshot, Source, Spoken,
        Verdict,
        registry::{Binding, Candidate},
    };

    pub(crate) fn source(source: &Source<'_>) -> Step {
        let step = Step::new("source", source.to_string());
        if source.proven().is_some() {
            return step;
        }
        step.change(
            "list its address under a [[workload]], or let it present credentials or a certificate".into(),
        )
    }

    pub(crate) fn port_zero() -> Step {
        Step::new("destination", "port 0 is no port".into())
    }

    pub(crate) fn no_name() -> Step {
        Step::new("destination", "neither a name nor an original destination is known".into())
            .change("the client must send a name (SNI, Host, CONNECT target)".into())
    }

    pub(crate) fn name(name: &str, port: u16) -> Step {
        Step::new("destination", format!("name {name}, port {port}"))
    }

    pub(crate) fn address(address: IpAddr, unwrapped: IpAddr, port: u16) -> Step {
        let mut found = format!("no name; address {address}, port {port}");
        if unwrapped != address {
            push(&mut found, format_args!(", which stands for {unwrapped}"));
        }
        Step::new("destination", found)
    }

    pub(crate) fn matched(
        snapshot: &Snapshot,
        candidate: &Candidate<'_>,
        bindings: &[Binding],
        port: u16,
    ) -> Step {
        Step::new(
            "host",
            format!("{} has port {port} in {}", pattern(snapshot, candidate), names(snapshot, bindings)),
        )
    }

    pub(crate) fn portless(snapshot: &Snapshot, candidate: &Candidate<'_>, port: u16) -> Step {
        let Some(service) =
            candidate.bindings.first().and_then(|first| snapshot.services.get(first.service as usize))
        else {
            return Step::new("host", format!("{} has no port", pattern(snapshot, candidate)));
        };
        let mut ports: Vec<u16> = candidate.bindings.iter().map(|binding| binding.port).collect();
        ports.dedup();
        Step::new(
            "host",
            format!(
                "{} is registered, but not for port {port}: only {}",
                pattern(snapshot, candidate),
                list(&ports)
            ),
        )
        .at(&service.origin)
        .change(format!("add {{ number = {port}, protocol = … }} to the ports of {service}"))
    }

    pub(crate) fn expired(snapshot: &Snapshot, candidate: &Candidate<'_>, bindings: &[Binding]) -> Step {
        let pattern = pattern(snapshot, candidate);
        match bindings {
            [only] => match snapshot.services.get(only.service as usize) {
                Some(service) => Step::new("host", format!("{pattern} matches, but {service} expired"))
                    .at(&service.origin)
                    .change(format!("set a later `expires` on {service}")),
                None => Step::new("host", format!("{pattern} matches, but expired")),
            },
            _ => Step::new(
                "host",
                format!("{pattern} matches, but all expired: {}", names(snapshot, bindings)),
            )
            .change("set a later `expires` on one of them".into()),
        }
    }

    pub(crate) fn not_registered(has_name: bool) -> Step {
        let step = Step::new("host", "no service has it".into());
        let change = if has_name {
            "register it as a [[service]]"
        } else {
            "list it under the `addresses` of a [[service]]"
        };
        step.change(change.into())
    }

    /// A listener of our own: registering it would not help.
    pub(crate) fn never_registered(refusal: &GuardRefusal) -> Step {
        Step::new("host", format!("no service has it, and none would help: {refusal}"))
    }

    pub(crate) fn no_such_service() -> Step {
        Step::new("host", "the door is bound to a service that does not exist".into())
            .change("set the door's `service` to a [[service]]".into())
    }

    pub(crate) fn bound(service: &Service, port: u16) -> Step {
        Step::new("host", format!("the door is bound to {service}, port {port}")).at(&service.origin)
    }

    pub(crate) fn bound_portless(service: &Service, port: u16) -> Step {
        let ports: Vec<u16> = service.ports.iter().map(|port| port.number).collect();
        Step::new(
            "host",
            format!("the door is bound to {service}, which has no port {port}: only {}", list(&ports)),
        )
        .at(&service.origin)
        .change(format!("add {{ number = {port}, protocol = … }} to its ports"))
    }

    pub(crate) fn bound_expired(service: &Service) -> Step {
        Step::new("host", format!("the door is bound to {service}, which expired"))
            .at(&service.origin)
            .change("set a later `expires` on it".into())
    }

    pub(crate) fn denied_by(service: &Service, index: usize) -> Step {
        let selector = service.deny().get(index).map(ToString::to_string).unwrap_or_default();
        Step::new("service", format!("{service} denies this source: deny = [… {selector} …]"))
            .at(&service.origin)
            .change("remove that selector from its `deny`".into())
    }

    pub(crate) fn allowed_by(service: &Service, index: usize) -> Step {
        let selector =
            service.allow().and_then(|allow| allow.get(index)).map(ToString::to_string).unwrap_or_default();
        Step::new("service", format!("{service} allows this source: allow = [… {selector} …]"))
            .at(&service.origin)
    }

    pub(crate) fn allows_everyone(service: &Service) -> Step {
        Step::new("service", format!("{service} allows every source: it has no `allow`")).at(&service.origin)
    }

    pub(crate) fn proof_too_weak(service: &Service, proof: Proof) -> Step {
        let required = service.require_proof.unwrap_or(Proof::None);
        Step::new("service", format!("{service} requires proof by {required}, this source has {proof}"))
            .at(&service.origin)
            .change(format!("the client must come with {required}, or relax `require_proof`"))
    }

    pub(crate) fn not_named(service: &Service, source: &Source<'_>) -> Step {
        let selectors = service.allow().map_or(0, <[_]>::len);
        let found = match selectors {
            0 => format!("{service} allows nobody: allow = []"),
            1 => format!("{service} does not allow this source: its one selector names others"),
            _ => format!("{service} does not allow this source: none of its {selectors} selectors names it"),
        };
        let change = match source.proven() {
            None => "prove the source's identity, then name it in its `allow`".into(),
            Some(identity) => format!("add {} to its `allow`", super::selector_for(identity)),
        };
        Step::new("service", found).at(&service.origin).change(change)
    }

    pub(crate) fn mode(snapshot: &Snapshot, mode: Mode, scope: Option<ScopeId>, reason: Reason) -> Step {
        let shadow = if mode == Mode::AllowAny {
            format!("; registry_only would deny: {reason}")
        } else {
            String::new()
        };
        match scope.and_then(|id| snapshot.scopes.get(id)) {
            Some(scope) => Step::new("mode", format!("{mode}, by the scope of {}{shadow}", scope.source))
                .at(&scope.origin),
            None => {
                Step::new("mode", format!("{mode}, the global mode: no scope covers this source{shadow}"))
            }
        }
    }

    pub(crate) fn guard_passes(address: IpAddr) -> Step {
        Step::new("guard", format!("{address} may be dialled"))
    }

    pub(crate) fn guard_refuses(refusal: &GuardRefusal) -> Step {
        let step = Step::new("guard", refusal.to_string());
        match refusal.would_allow() {
            Some(line) => step.change(line.to_string()),
            None => step,
        }
    }

    pub(crate) fn misfit(service: &Service, port: u16, declared: Protocol, spoken: Spoken) -> Step {
        let found = format!("port {port} of {service} is declared {declared}, and {spoken} is asked for");
        let change = match spoken {
            Spoken::Requests => "ask by https, or declare protocol = \"HTTP\" at that port",
            Spoken::Tls => "ask by http, or declare protocol = \"TLS\" at that port",
            Spoken::Opaque => "declare protocol = \"TCP\" at that port",
        };
        Step::new("protocol", found).at(&service.origin).change(change.into())
    }

    pub(crate) fn verdict(decision: &Decision) -> Step {
        let mut found = decision.verdict.to_string();
        if decision.verdict != Verdict::Passthrough {
            push(&mut found, format_args!(", {}", decision.reason));
        }
        if decision.verdict == Verdict::Passthrough || decision.shadow.reason != decision.reason {
            push(
                &mut found,
                format_args!(" (registry_only: {}, {})", decision.shadow.verdict, decision.shadow.reason),
            );
        }
        Step::new("verdict", found)
    }

    fn pattern(snapshot: &Snapshot, candidate: &Candidate<'_>) -> String {
        candidate.matched.map(|id| snapshot.registry.text(id)).unwrap_or_default().into()
    }

    /// The services of some bindings, with where they stand; at most eight are written out.
    fn names(snapshot: &Snapshot, bindings: &[Binding]) -> String {
        const SHOWN_MAX: usize = 8;
        let mut text = String::new();
        for (index, binding) in bindings.iter().take(SHOWN_MAX).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            if let Some(service) = snapshot.services.get(binding.service as usize) {
                push(&mut text, format_args!("{separator}{service} [{}]", service.origin));
            }
        }
        if bindings.len() > SHOWN_MAX {
            push(&mut text, format_args!(" and {} more", bindings.len() - SHOWN_MAX));
        }
        text
    }

    fn list(ports: &[u16]) -> String {
        let mut text = String::new();
        for (index, port) in ports.iter().enumerate() {
            push(&mut text, format_args!("{}{port}", if index == 0 { "" } else { ", " }));
        }
        text
    }

    fn push(text: &mut String, more: core::fmt::Arguments<'_>) {
        text.write_fmt(more).expect("invariant: writing to a String does not fail");
    }
}

/// The narrowest selector that names this identity, as it would stand in TOML.
fn selector_for(identity: &crate::Identity) -> String {
    use alloc::format;
    if let Some(principal) = &identity.principal {
        return format!("{{ principal = {principal:?} }}");
    }
    let fields = [
        ("namespace", &identity.namespace),
        ("workload", &identity.workload),
        ("service_account", &identity.service_account),
        ("app", &identity.app),
    ];
    let mut text = String::new();
    for (name, value) in fields {
        if let Some(value) = value {
            text.push_str(if text.is_empty() { "{ " } else { ", " });
            text.push_str(&format!("{name} = {value:?}"));
        }
    }
    text.push_str(if text.is_empty() { "{}" } else { " }" });
    text
}
