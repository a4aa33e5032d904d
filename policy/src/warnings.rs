//! What `check` should say of a policy that compiles and yet may not mean what was meant. It must not resolve
//! names.

use alloc::{collections::BTreeMap, format, string::String, vec, vec::Vec};
use core::{fmt, net::SocketAddr};

use crate::{
    Cidr, EndpointAddress, Origin, Resolution, Service, ServiceId, Snapshot, UnixSeconds,
    guard::{CLASSES, GuardClass},
    limits::WARNINGS_MAX,
    registry::Candidate,
};

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WarningKind {
    /// A service that no longer counts.
    Expired,
    /// A literal address that the guard refuses although the service names it.
    GuardRefuses,
    /// Services that share a host or range and a port and do not say the same.
    Merged,
    /// A service without hosts and addresses: only a door that is bound to it reaches it.
    Unreachable,
    /// A static service without endpoints: nothing to dial.
    NothingToDial,
}

/// A warning, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What may be wrong.
    pub kind: WarningKind,
    /// The same in words, with what to do.
    pub text: String,
    /// The places that it concerns.
    pub origins: Vec<Origin>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)?;
        for (index, origin) in self.origins.iter().enumerate() {
            write!(f, "{}{origin}", if index == 0 { ": " } else { " and " })?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Everything about this policy that may not mean what was meant, at most
    /// [`crate::limits::WARNINGS_MAX`].
    ///
    /// Names are not resolved here: ask [`Snapshot::guard`] about each address that a registered name has.
    pub fn warnings(&self, now: UnixSeconds) -> Vec<Warning> {
        let mut warnings = Warnings(Vec::new());
        let mut merges = BTreeMap::new();
        let mut reachable = vec![false; self.services.len()];
        for candidate in self.registry.candidates() {
            for binding in candidate.bindings {
                reachable[binding.service as usize] = true;
            }
            self.find_merges(&candidate, &mut merges);
        }
        for ((one, other), merge) in merges {
            self.warn_of_merge(one, other, &merge, &mut warnings);
        }
        for ((id, service), reachable) in self.services().zip(reachable) {
            self.warn_of_service(id, service, reachable, now, &mut warnings);
        }
        for (range, services) in self.guard.named() {
            for id in services {
                self.warn_of_range(range, *id, &mut warnings);
            }
        }
        // Tables are walked in the order of their hashes: sort, so that the same policy always says the same.
        warnings.0.sort_by(|a, b| (&a.origins, &a.text).cmp(&(&b.origins, &b.text)));
        warnings.0.dedup();
        warnings.0
    }

    /// Services that share a port of this host and differ: each pair is told once, however many hosts it shares.
    fn find_merges<'s>(&'s self, candidate: &Candidate<'s>, merges: &mut BTreeMap<(u32, u32), Merge<'s>>) {
        let host = candidate.matched.map(|id| self.registry.text(id)).unwrap_or_default();
        for shared in candidate.bindings.chunk_by(|a, b| a.port == b.port) {
            let [first, others @ ..] = shared else { continue };
            for other in others {
                let (a, b) = (&self.services[first.service as usize], &self.services[other.service as usize]);
                if differ(a, b) {
                    let place = (host, first.port);
                    let merge =
                        merges.entry((first.service, other.service)).or_insert(Merge { place, places: 0 });
                    merge.place = merge.place.min(place);
                    merge.places += 1;
                }
            }
        }
    }

    fn warn_of_merge(&self, one: u32, other: u32, merge: &Merge<'_>, warnings: &mut Warnings) {
        let (one, other) = (&self.services[one as usize], &self.services[other as usize]);
        let (host, port) = merge.place;
        let more = match merge.places - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let text = format!(
            "{host} port {port}{more} is in {one} and in {other}, which differ: any `deny` denies, else any `allow` \
             allows, and the first that allows (by namespace/name) says how it is dialled"
        );
        warnings.push(WarningKind::Merged, text, &[&one.origin, &other.origin]);
    }

    fn warn_of_service(
        &self,
        id: ServiceId,
        service: &Service,
        reachable: bool,
        now: UnixSeconds,
        warnings: &mut Warnings,
    ) {
        let at = [&service.origin];
        if service.is_expired(now) {
            warnings.push(
                WarningKind::Expired,
                format!("service {service} has expired and no longer counts"),
                &at,
            );
        }
        if !reachable {
            let text = format!(
                "service {service} has neither hosts nor addresses: only a door bound to it reaches it"
            );
            warnings.push(WarningKind::Unreachable, text, &at);
        }
        if service.resolution == Resolution::Static && service.endpoints.is_empty() {
            let text = format!("service {service} is STATIC without endpoints: there is nothing to dial");
            warnings.push(WarningKind::NothingToDial, text, &at);
        }
        for endpoint in &service.endpoints {
            let EndpointAddress::Literal(address) = endpoint.address else { continue };
            for port in service.ports.iter() {
                let socket = SocketAddr::new(address, service.dial_port(port, Some(endpoint)));
                if let Err(refusal) = self.guard(socket, Some(id)) {
                    let text =
                        format!("endpoint {socket} of service {service} will not be dialled: {refusal}");
                    warnings.push(WarningKind::GuardRefuses, text, &at);
                }
            }
        }
    }

    /// A range that reaches into a strict class from outside does not open it.
    fn warn_of_range(&self, range: &Cidr, id: ServiceId, warnings: &mut Warnings) {
        let Some(service) = self.services.get(id.index()) else { return };
        let partly = |(class, strict): &&(GuardClass, Cidr)| {
            class.is_strict() && range != strict && range.contains_range(strict)
        };
        if let Some((class, strict)) = CLASSES.iter().find(partly) {
            let text = format!(
                "service {service} names {range}, yet the guard still refuses {strict} ({class}) within: \
                 name a range inside it if it is meant"
            );
            warnings.push(WarningKind::GuardRefuses, text, &[&service.origin]);
        }
        for listener in self.guard.own_listeners() {
            if range.contains(listener.ip().to_canonical())
                && service.port_by_number(listener.port()).is_some()
            {
                let text = format!(
                    "service {service} names {range}, which holds the gateway's own listener {listener}: never dialled"
                );
                warnings.push(WarningKind::GuardRefuses, text, &[&service.origin]);
            }
        }
    }
}

/// Whether it matters which of two services on one host and port is asked.
fn differ(a: &Service, b: &Service) -> bool {
    (a.allow(), a.deny(), a.require_proof, a.resolution, &a.endpoints, a.source_address)
        != (b.allow(), b.deny(), b.require_proof, b.resolution, &b.endpoints, b.source_address)
}

/// What two services share.
struct Merge<'s> {
    /// The first host and port, in order of their text.
    place: (&'s str, u16),
    places: usize,
}

struct Warnings(Vec<Warning>);

impl Warnings {
    fn push(&mut self, kind: WarningKind, text: String, origins: &[&Origin]) {
        if self.0.len() < WARNINGS_MAX {
            self.0.push(Warning { kind, text, origins: origins.iter().copied().cloned().collect() });
        }
    }
}
