//! The decision: one request against one snapshot. Total, without allocation, and the same code that
//! `explain` traces. It must not know how a verdict is carried out.

use core::{
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
};

use crate::{
    GuardClass, Host, MatchId, Mode, PortId, Proof, ScopeId, Selector, Service, ServiceId, Snapshot, Source,
    explain::{Step, Tracer, note},
    registry::{Binding, Candidate},
    service::words,
    unwrap_address,
};

/// Seconds since 1970-01-01 UTC. The clock is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub i64);

/// What is asked for, by whom.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub source: Source<'a>,
    /// What it asks for. An address here is judged as an original destination without a name: it, not `original`, is
    /// then what may be dialled.
    pub host: Option<Host<'a>>,
    /// Where the client's packets were going before they were redirected. With a name it does not count.
    pub original: Option<SocketAddr>,
    /// The destination's port, 1–65535.
    pub port: u16,
    /// The one service that the door is bound to (`tcp` doors): it alone is judged, host and original
    /// destination are not.
    pub bound: Option<ServiceId>,
}

impl<'a> Request<'a> {
    /// A request for a host, as a door with a name in its protocol makes it.
    pub const fn new(source: Source<'a>, host: Host<'a>, port: u16) -> Self {
        Self { source, host: Some(host), original: None, port, bound: None }
    }
}

words! {
    /// What becomes of a flow or request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    Verdict, "verdict", {
        /// A service allows it.
        Allow = "allow",
        /// No service matches, and the mode lets it pass.
        Passthrough = "passthrough",
        /// It is denied.
        Deny = "deny",
    }
}

words! {
    /// Why, in the words of every log line, metric, span and `explain`. Some are the data plane's alone.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    Reason, "reason", {
        /// A service allows it.
        Registered = "registered",
        /// No service matches, and the mode lets it pass.
        Passthrough = "passthrough",
        /// No service has this host.
        NotRegistered = "not_registered",
        /// A service has this host, but not this port.
        PortNotRegistered = "port_not_registered",
        /// Services match, and none allows this source.
        WorkloadNotAllowed = "workload_not_allowed",
        /// A service that matches denies this source.
        WorkloadDenied = "workload_denied",
        /// The service that would match has expired.
        Expired = "expired",
        /// The address must not be dialled.
        Guard = "guard",
        /// It could not be parsed.
        Malformed = "malformed",
        /// Two names that must agree do not.
        NameMismatch = "name_mismatch",
        /// What is spoken is not what the port is typed as.
        ProtocolMismatch = "protocol_mismatch",
        /// Neither a name nor an original destination.
        NoName = "no_name",
        /// Nothing that tells a name came in time.
        SniffTimeout = "sniff_timeout",
        /// A virtual address that belongs to no service.
        UnknownVip = "unknown_vip",
        /// Credentials are missing or wrong.
        Auth = "auth",
        /// A limit is reached.
        Limit = "limit",
        /// A reload or an expiry took the permission away.
        Revoked = "revoked",
    }
}

/// What registry-only would have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Never passthrough.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

/// The answer. Ids are those of the snapshot that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The service that matched: the first that allows, else the first that denies, by namespace and name.
    pub service: Option<ServiceId>,
    /// Its port.
    pub port: Option<PortId>,
    /// What registry-only would have said; the same in registry-only itself.
    pub shadow: Shadow,
    /// The host pattern or range that matched.
    pub matched: Option<MatchId>,
    /// The scope whose mode counted; `None` where a service matched or the global mode counted.
    pub scope: Option<ScopeId>,
    /// For the text of a denial only: the service that would have matched but for its port or expiry.
    pub near: Option<ServiceId>,
}

impl Decision {
    /// A denial for a reason that the data plane found itself (`malformed`, `auth`, …), in either mode.
    pub const fn denied(reason: Reason) -> Self {
        let verdict = Verdict::Deny;
        let shadow = Shadow { verdict, reason };
        Self { verdict, reason, service: None, port: None, shadow, matched: None, scope: None, near: None }
    }

    /// Whether the flow may go on.
    pub const fn passes(&self) -> bool {
        !matches!(self.verdict, Verdict::Deny)
    }
}

/// Judges a request. Total: whatever is asked, there is an answer, and nothing is allocated.
pub fn decide(snapshot: &Snapshot, request: &Request<'_>, now: UnixSeconds) -> Decision {
    run(snapshot, request, now, &mut ())
}

/// The decision, traced. With `()` as tracer the notes compile to nothing.
pub(crate) fn run<T: Tracer>(
    snapshot: &Snapshot,
    request: &Request<'_>,
    now: UnixSeconds,
    tracer: &mut T,
) -> Decision {
    tracer.note(|| note::source(&request.source));
    if request.port == 0 {
        tracer.note(note::port_zero);
        return Decision::denied(Reason::Malformed);
    }
    let judge = Judge { snapshot, request, now };
    if let Some(service) = request.bound {
        return judge.bound(service, tracer);
    }
    let mut search = Search::default();
    let address = match (request.host, request.original) {
        (Some(Host::Name(name)), _) => {
            tracer.note(|| note::name(name, request.port));
            snapshot.registry.by_name(name, |candidate| search.consider(&judge, candidate, tracer));
            None
        }
        (Some(Host::Address(address)), _) => Some(address),
        (None, Some(original)) => Some(original.ip()),
        (None, None) => {
            tracer.note(note::no_name);
            return Decision::denied(Reason::NoName);
        }
    };
    if let Some(address) = address {
        let unwrapped = unwrap_address(address, &snapshot.guard.nat64);
        tracer.note(|| note::address(address, unwrapped, request.port));
        snapshot.registry.by_address(unwrapped, |candidate| search.consider(&judge, candidate, tracer));
    }
    let decision = match search.found {
        Some((matched, bindings)) => judge.merge(matched, bindings, tracer),
        None => judge.unmatched(&search, tracer),
    };
    match address {
        Some(address) if decision.passes() => judge.guarded(address, decision, tracer),
        _ => decision,
    }
}

/// What a look-up came upon.
#[derive(Default)]
struct Search<'s> {
    /// The most specific match with a live service at the port.
    found: Option<(Option<MatchId>, &'s [Binding])>,
    /// The most specific match whose services at the port have all expired.
    expired: Option<Binding>,
    /// The most specific match without the port.
    portless: Option<Binding>,
}

impl<'s> Search<'s> {
    /// Takes the next most specific candidate; breaks once a live service has host and port.
    fn consider<T: Tracer>(
        &mut self,
        judge: &Judge<'_>,
        candidate: Candidate<'s>,
        tracer: &mut T,
    ) -> ControlFlow<()> {
        let (snapshot, port) = (judge.snapshot, judge.request.port);
        let bindings = candidate.at_port(port);
        if bindings.iter().any(|binding| judge.is_live(binding)) {
            tracer.note(|| note::matched(snapshot, &candidate, bindings, port));
            self.found = Some((candidate.matched, bindings));
            return ControlFlow::Break(());
        }
        if bindings.is_empty() {
            tracer.note(|| note::portless(snapshot, &candidate, port));
            self.portless = self.portless.or(candidate.bindings.first().copied());
        } else {
            tracer.note(|| note::expired(snapshot, &candidate, bindings));
            self.expired = self.expired.or(bindings.first().copied());
        }
        ControlFlow::Continue(())
    }
}

/// One request in front of one snapshot.
struct Judge<'a> {
    snapshot: &'a Snapshot,
    request: &'a Request<'a>,
    now: UnixSeconds,
}

/// What one service says of a source.
enum Word {
    Allows,
    Denies,
    /// Neither denied nor allowed; the text says why.
    Silent,
}

impl Judge<'_> {
    fn is_live(&self, binding: &Binding) -> bool {
        self.snapshot.is_live(binding, self.now)
    }

    /// Several services on one host and port: any that denies denies, else any that allows allows.
    fn merge<T: Tracer>(&self, matched: Option<MatchId>, bindings: &[Binding], tracer: &mut T) -> Decision {
        let (mut first, mut allowing) = (None, None);
        for binding in bindings.iter().filter(|binding| self.is_live(binding)) {
            let Some(service) = self.snapshot.services.get(binding.service as usize) else { continue };
            match self.word_of(service, tracer) {
                Word::Denies => {
                    return self.registered(Verdict::Deny, Reason::WorkloadDenied, matched, *binding);
                }
                Word::Allows => allowing = allowing.or(Some(*binding)),
                Word::Silent => {}
            }
            first = first.or(Some(*binding));
        }
        match (allowing, first) {
            (Some(binding), _) => self.registered(Verdict::Allow, Reason::Registered, matched, binding),
            (None, Some(binding)) => {
                self.registered(Verdict::Deny, Reason::WorkloadNotAllowed, matched, binding)
            }
            // Only live matches come here; without one nothing is allowed.
            (None, None) => Decision::denied(Reason::NotRegistered),
        }
    }

    fn registered(
        &self,
        verdict: Verdict,
        reason: Reason,
        matched: Option<MatchId>,
        binding: Binding,
    ) -> Decision {
        Decision {
            verdict,
            reason,
            service: Some(ServiceId(binding.service)),
            port: Some(PortId(binding.index)),
            shadow: Shadow { verdict, reason },
            matched,
            scope: None,
            near: None,
        }
    }

    /// `deny` counts with any proof, `allow` only with the proof that the service requires.
    fn word_of<T: Tracer>(&self, service: &Service, tracer: &mut T) -> Word {
        let source = &self.request.source;
        let identity = source.proven();
        let names = |selectors: &[Selector]| selectors.iter().position(|selector| selector.matches(identity));
        if let Some(index) = names(service.deny()) {
            tracer.note(|| note::denied_by(service, index));
            return Word::Denies;
        }
        if service.require_proof.is_some_and(|required| self.proof() < required) {
            tracer.note(|| note::proof_too_weak(service, source.proof));
            return Word::Silent;
        }
        let Some(allow) = service.allow() else {
            tracer.note(|| note::allows_everyone(service));
            return Word::Allows;
        };
        match names(allow) {
            Some(index) => {
                tracer.note(|| note::allowed_by(service, index));
                Word::Allows
            }
            None => {
                tracer.note(|| note::not_named(service, source));
                Word::Silent
            }
        }
    }

    /// The proof that counts: none without an identity that it proves.
    fn proof(&self) -> Proof {
        if self.request.source.identity.is_some() { self.request.source.proof } else { Proof::None }
    }

    /// The mode decides, and only here.
    fn unmatched<T: Tracer>(&self, search: &Search<'_>, tracer: &mut T) -> Decision {
        let (reason, near) = match (search.expired, search.portless) {
            (Some(binding), _) => (Reason::Expired, Some(binding)),
            (None, Some(binding)) => (Reason::PortNotRegistered, Some(binding)),
            (None, None) => (Reason::NotRegistered, None),
        };
        if reason == Reason::NotRegistered {
            tracer.note(|| self.not_registered());
        }
        let (mode, scope) = self.snapshot.scopes.mode_of(self.request.source.proven());
        tracer.note(|| note::mode(self.snapshot, mode, scope, reason));
        let denied = Decision {
            scope,
            near: near.map(|binding| ServiceId(binding.service)),
            ..Decision::denied(reason)
        };
        match mode {
            Mode::RegistryOnly => denied,
            Mode::AllowAny => {
                Decision { verdict: Verdict::Passthrough, reason: Reason::Passthrough, ..denied }
            }
        }
    }

    fn not_registered(&self) -> Step {
        let address = match (self.request.host, self.request.original) {
            (Some(Host::Name(_)), _) | (None, None) => return note::not_registered(true),
            (Some(Host::Address(address)), _) => address,
            (None, Some(original)) => original.ip(),
        };
        match self.snapshot.guard.check(SocketAddr::new(address, self.request.port), None) {
            Err(refusal) if refusal.class == GuardClass::OwnListener => note::never_registered(&refusal),
            _ => note::not_registered(false),
        }
    }

    /// A destination without a name is dialled as it is (or stands for its service): the guard speaks at
    /// once.
    fn guarded<T: Tracer>(&self, address: IpAddr, decision: Decision, tracer: &mut T) -> Decision {
        let socket = SocketAddr::new(address, self.request.port);
        let Err(refusal) = self.snapshot.guard.check(socket, decision.service) else {
            tracer.note(|| note::guard_passes(address));
            return decision;
        };
        tracer.note(|| note::guard_refuses(&refusal));
        let refused = Shadow { verdict: Verdict::Deny, reason: Reason::Guard };
        // What registry-only denies before it looks at the address keeps its reason.
        let shadow = if decision.shadow.verdict == Verdict::Deny { decision.shadow } else { refused };
        Decision { verdict: refused.verdict, reason: refused.reason, shadow, ..decision }
    }

    /// The door has named the service: no mode can replace it.
    fn bound<T: Tracer>(&self, id: ServiceId, tracer: &mut T) -> Decision {
        let Some(service) = self.snapshot.services.get(id.index()) else {
            tracer.note(note::no_such_service);
            return Decision::denied(Reason::NotRegistered);
        };
        let Some((port, _)) = service.port_by_number(self.request.port) else {
            tracer.note(|| note::bound_portless(service, self.request.port));
            return Decision { near: Some(id), ..Decision::denied(Reason::PortNotRegistered) };
        };
        if service.is_expired(self.now) {
            tracer.note(|| note::bound_expired(service));
            return Decision { near: Some(id), ..Decision::denied(Reason::Expired) };
        }
        tracer.note(|| note::bound(service, self.request.port));
        self.merge(None, &[Binding { port: self.request.port, service: id.0, index: port.0 }], tracer)
    }
}
