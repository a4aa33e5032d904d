//! The compiled policy: immutable, shared by pointer, asked by every worker. It must not know how it was made
//! or who holds it.

use alloc::sync::Arc;
use core::{
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
};

use crate::{
    Host, Identity, MatchId, Mode, Problem, Scope, ScopeId, Service, ServiceId, UnixSeconds,
    guard::Guard,
    limits::OWN_SOCKETS_MAX,
    registry::{Binding, Candidate, Registry},
    scope::Scopes,
    trie::Trie,
    unwrap_address,
};

/// A compiled policy. Ids of one snapshot mean nothing to another: after a reload look services up by name.
///
/// A clone shares all that is large.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) registry: Arc<Registry>,
    /// By namespace, then name.
    pub(crate) services: Arc<[Service]>,
    pub(crate) scopes: Arc<Scopes>,
    pub(crate) workloads: Arc<Trie<u32>>,
    pub(crate) identities: Arc<[Arc<Identity>]>,
    pub(crate) guard: Guard,
    /// Sorted, without doubles.
    pub(crate) expiries: Arc<[UnixSeconds]>,
    /// Ports that every service which has them declares opaque. Sorted, without doubles.
    pub(crate) opaque_ports: Arc<[u16]>,
}

/// How much a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// Different host patterns.
    pub hosts: usize,
    /// Different address ranges of services.
    pub addresses: usize,
    /// Workloads.
    pub workloads: usize,
    /// Scopes.
    pub scopes: usize,
}

impl Snapshot {
    /// The same policy with other sockets and addresses of the gateway itself than its input named: they are known for
    /// certain only once the sockets are bound. All that is large is shared.
    ///
    /// # Errors
    /// More of either than [`crate::limits::OWN_SOCKETS_MAX`].
    pub fn with_own_sockets(
        &self,
        listeners: &[SocketAddr],
        local_addresses: &[IpAddr],
    ) -> Result<Self, Problem> {
        for (what, count) in [("listeners", listeners.len()), ("local addresses", local_addresses.len())] {
            if count > OWN_SOCKETS_MAX {
                return Err(Problem::TooMany { what, limit: OWN_SOCKETS_MAX });
            }
        }
        Ok(Self { guard: self.guard.with_own_sockets(listeners, local_addresses), ..self.clone() })
    }

    /// The mode of sources that no scope covers.
    pub fn mode(&self) -> Mode {
        self.scopes.global
    }

    /// The mode that holds for a (proven) identity, with the scope that says so.
    pub fn mode_of(&self, identity: Option<&Identity>) -> (Mode, Option<ScopeId>) {
        self.scopes.mode_of(identity)
    }

    /// A scope by the id that a decision gave.
    ///
    /// # Panics
    /// Never for an id of this snapshot; an id of another one may be out of range.
    pub fn scope(&self, id: ScopeId) -> &Scope {
        self.scopes.get(id).expect("invariant: scope ids are used with the snapshot that gave them")
    }

    /// A service by the id that a decision gave.
    ///
    /// # Panics
    /// Never for an id of this snapshot; an id of another one may be out of range.
    pub fn service(&self, id: ServiceId) -> &Service {
        self.services
            .get(id.index())
            .expect("invariant: service ids are used with the snapshot that gave them")
    }

    /// A service by an id of any origin: `None` if this snapshot has no such id.
    pub fn find_service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index())
    }

    /// The service of this name, if there is one.
    pub fn service_by_name(&self, namespace: &str, name: &str) -> Option<ServiceId> {
        let index = self
            .services
            .binary_search_by(|service| (&*service.namespace, &*service.name).cmp(&(namespace, name)));
        index.ok().and_then(|index| u32::try_from(index).ok()).map(ServiceId)
    }

    /// All services with their ids, by namespace, then name.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        (0..).map(ServiceId).zip(&*self.services)
    }

    /// Whether a canonical host falls under the rule of a service at a port: among the live services that have that
    /// port, it stands with the exact host, else the longest wildcard (for an address: the longest prefix). Asked of
    /// inner names (SNI inside CONNECT, an authority inside TLS); sources were judged when the service was chosen.
    pub fn covers(&self, service: ServiceId, host: Host<'_>, port: u16, now: UnixSeconds) -> bool {
        let mut covered = false;
        let look = |candidate: Candidate<'_>| {
            let bindings = candidate.at_port(port);
            if !bindings.iter().any(|binding| self.is_live(binding, now)) {
                return ControlFlow::Continue(());
            }
            let own = |binding: &Binding| binding.service == service.0 && self.is_live(binding, now);
            covered = bindings.iter().any(own);
            ControlFlow::Break(())
        };
        match host {
            Host::Name(name) => self.registry.by_name(name, look),
            Host::Address(address) => {
                self.registry.by_address(unwrap_address(address, &self.guard.nat64), look);
            }
        }
        covered
    }

    pub(crate) fn is_live(&self, binding: &Binding, now: UnixSeconds) -> bool {
        self.services.get(binding.service as usize).is_some_and(|service| !service.is_expired(now))
    }

    /// Whether an address lies in the `addresses` of a service (not in its endpoints).
    pub fn names_address(&self, service: ServiceId, address: IpAddr) -> bool {
        let mut named = false;
        self.registry.by_address(unwrap_address(address, &self.guard.nat64), |candidate| {
            named |= candidate.bindings.iter().any(|binding| binding.service == service.0);
            ControlFlow::Continue(())
        });
        named
    }

    /// The first host of a service as it is written (with `*.` if it is a wildcard), for its name in
    /// telemetry.
    pub fn service_host(&self, id: ServiceId) -> Option<&str> {
        self.services.get(id.index())?.first_host.map(|id| self.registry.text(id))
    }

    /// What a decision matched, as it is written: a host with its `*.`, or a range.
    pub fn matched_host(&self, id: MatchId) -> &str {
        self.registry.text(id)
    }

    /// Every host of every service as it is written, in no particular order.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.registry.hosts_as_text()
    }

    /// The workload that a source address belongs to: longest prefix; IPv4-mapped addresses count as IPv4.
    pub fn workload_by_address(&self, address: IpAddr) -> Option<&Arc<Identity>> {
        let mut longest = None;
        self.workloads.covering(address.to_canonical(), |index| longest = Some(*index));
        longest.and_then(|index| self.identities.get(index as usize))
    }

    /// Whether every service that has this port declares it opaque, and at least one has it: whoever connects there
    /// without a name is not asked for one, as a server may speak first.
    pub fn is_opaque_port(&self, port: u16) -> bool {
        self.opaque_ports.binary_search(&port).is_ok()
    }

    /// How much it holds.
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            hosts: self.registry.hosts(),
            addresses: self.registry.ranges(),
            workloads: self.identities.len(),
            scopes: self.scopes.len(),
        }
    }

    /// The first second after `now` at which a rule expires: a change of the policy like a reload.
    pub fn next_expiry(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        self.expiries.get(self.expiries.partition_point(|expiry| *expiry <= now)).copied()
    }
}
