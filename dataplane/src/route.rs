//! Who wants what, and what the policy said: the facts of a decision, owned, so that a flow can be decided again.
//!
//! A route holds no snapshot: an idle tunnel must not keep a replaced policy alive. Its ids count only while its
//! generation is the published one; [`crate::worker::Worker::current`] renews it otherwise.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use sluice_bridge::Snapshot;
use sluice_policy::{self as policy, Decision, Host, Identity, Proof, Reason, Source, UnixSeconds, Verdict};
use sluice_telemetry::HttpSeries;

/// Who asks, with the proof of it.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) proof: Proof,
    pub(crate) identity: Option<Arc<Identity>>,
    /// Whose credentials the proof is, where it is credentials.
    pub(crate) user: Option<Rc<[u8]>>,
    /// The client's address, v4-mapped addresses unmapped.
    pub(crate) address: SocketAddr,
}

impl Asker {
    pub(crate) fn source(&self) -> Source<'_> {
        Source { proof: self.proof, identity: self.identity.as_deref(), address: self.address.ip() }
    }

    /// The identity, if anything proves it.
    pub(crate) fn proven(&self) -> Option<&Arc<Identity>> {
        if self.proof == Proof::None { None } else { self.identity.as_ref() }
    }
}

/// A destination host in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Name(Arc<str>),
    Address(IpAddr),
}

impl Destination {
    /// Owns a canonical host.
    pub(crate) fn from_host(host: Host<'_>) -> Self {
        match host {
            Host::Name(name) => Self::Name(name.into()),
            Host::Address(address) => Self::Address(address),
        }
    }

    pub(crate) fn host(&self) -> Host<'_> {
        match self {
            Self::Name(name) => Host::Name(name),
            Self::Address(address) => Host::Address(*address),
        }
    }

    /// As text, for logs and pool keys.
    pub(crate) fn to_text(&self) -> Arc<str> {
        match self {
            Self::Name(name) => Arc::clone(name),
            Self::Address(address) => address.to_string().into(),
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The host, where there is one.
    pub(crate) host: Option<Destination>,
    /// The original destination: of a captured connection, or the IP literal that a client asked for.
    pub(crate) original: Option<SocketAddr>,
    pub(crate) port: u16,
    /// The one service that the door is bound to: (namespace, name).
    pub(crate) bound: Option<(Arc<str>, Arc<str>)>,
}

impl Wanted {
    /// A host and port as a client named them. An IP literal is an original destination without a name.
    pub(crate) fn named(host: Host<'_>, port: u16) -> Self {
        match host {
            Host::Name(_) => {
                Self { host: Some(Destination::from_host(host)), original: None, port, bound: None }
            }
            Host::Address(address) => Self::address(SocketAddr::new(address, port)),
        }
    }

    /// An original destination without a name.
    pub(crate) fn address(original: SocketAddr) -> Self {
        Self { host: None, original: Some(original), port: original.port(), bound: None }
    }

    /// The name or address in text, for logs; `None` where nothing was named.
    pub(crate) fn host_text(&self) -> Option<Arc<str>> {
        match (&self.host, self.original) {
            (Some(host), _) => Some(host.to_text()),
            (None, Some(original)) => Some(original.ip().to_string().into()),
            (None, None) => None,
        }
    }
}

/// What a route remembers of the service that decided it.
#[derive(Clone, Debug)]
pub(crate) struct ServiceFacts {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// `namespace/name`.
    pub(crate) label: Arc<str>,
    /// Istio's name of the upstream cluster.
    pub(crate) cluster: Arc<str>,
    /// The host of the registry that matched, a wildcard as it is written; the service's name where it has none.
    pub(crate) host: Arc<str>,
    pub(crate) protocol: policy::Protocol,
    /// The port to dial.
    pub(crate) target_port: u16,
    pub(crate) source_address: Option<IpAddr>,
}

/// A decision with its facts.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) asker: Rc<Asker>,
    pub(crate) wanted: Wanted,
    /// Its ids belong to the snapshot of `generation`.
    pub(crate) decision: Decision,
    pub(crate) generation: u64,
    pub(crate) service: Option<ServiceFacts>,
    /// The series of its last request: most requests of a route end alike.
    pub(crate) http_series: Cell<Option<HttpSeries>>,
}

impl Route {
    /// Asks the policy.
    pub(crate) fn decide(snapshot: &Snapshot, asker: Rc<Asker>, wanted: Wanted, now: UnixSeconds) -> Self {
        let policy = &snapshot.policy;
        let bound = wanted.bound.as_ref().map(|(namespace, name)| policy.service_by_name(namespace, name));
        let decision = match bound {
            // The door's own service has left the registry.
            Some(None) => Decision::denied(Reason::NotRegistered),
            bound => {
                let request = policy::Request {
                    source: asker.source(),
                    host: wanted.host.as_ref().map(Destination::host),
                    original: wanted.original,
                    port: wanted.port,
                    bound: bound.flatten(),
                };
                policy::decide(policy, &request, now)
            }
        };
        let service = decision.service.map(|id| {
            let service = policy.service(id);
            let port = decision.port.and_then(|port| service.port(port));
            let host: Arc<str> = decision
                .matched
                .map(|matched| policy.matched_host(matched))
                .or_else(|| policy.service_host(id))
                .map_or_else(|| Arc::clone(&service.name), Arc::from);
            ServiceFacts {
                label: service.to_string().into(),
                cluster: format!("outbound|{}||{host}", wanted.port).into(),
                namespace: Arc::clone(&service.namespace),
                name: Arc::clone(&service.name),
                host,
                protocol: port.map_or(policy::Protocol::Tcp, |port| port.protocol),
                target_port: port.and_then(|port| port.target_port).unwrap_or(wanted.port),
                source_address: service.source_address,
            }
        });
        let generation = snapshot.generation;
        Self { asker, wanted, decision, generation, service, http_series: Cell::new(None) }
    }

    pub(crate) fn is_denied(&self) -> bool {
        self.decision.verdict == Verdict::Deny
    }

    pub(crate) fn reason(&self) -> Reason {
        self.decision.reason
    }

    /// What is spoken there, as far as the registry says; nothing for what only passes through.
    pub(crate) fn declared_protocol(&self) -> Option<policy::Protocol> {
        self.service.as_ref().map(|service| service.protocol)
    }

    /// The port to dial.
    pub(crate) fn target_port(&self) -> u16 {
        self.service.as_ref().map_or(self.wanted.port, |service| service.target_port)
    }

    /// The name that upstream connections are pooled under.
    pub(crate) fn pool_name(&self) -> Arc<str> {
        self.wanted.host_text().unwrap_or_else(|| "".into())
    }

    /// Whether both were decided by the same service: an inner name fits the rule of the outer one.
    pub(crate) fn same_rule(&self, other: &Self) -> bool {
        match (&self.service, &other.service) {
            (Some(one), Some(two)) => one.namespace == two.namespace && one.name == two.name,
            _ => false,
        }
    }
}
