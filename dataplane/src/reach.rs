//! From a route to an upstream connection: resolve → guard → dial, in that order, for every address and every time.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_bridge::{DoorKind, Phase, UpstreamSource};
use sluice_engine::{Engine, SourceAddress};
use sluice_policy::{Endpoint, EndpointAddress, Reason, Resolution, Service};
use sluice_telemetry::Family;

use crate::connection::Connection;
use crate::dial::{self, DialError, Times};
use crate::resolve::Unresolved;
use crate::route::{Destination, Route};
use crate::transparent;
use crate::worker::Worker;

/// Why a route that the policy allows could not be followed.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// No address passed the guard; or the policy changed meanwhile. The text tells what would allow it.
    Denied(Reason, Option<String>),
    /// The name has no address.
    Dns(Unresolved),
    /// No address answered.
    Dial(DialError),
    /// The connection was cut meanwhile: there is nobody to answer.
    Cut,
}

/// An upstream connection.
pub(crate) struct Reached<E: Engine> {
    pub(crate) stream: E::Stream,
    pub(crate) dialled: SocketAddr,
}

/// Where a route may be dialled.
pub(crate) struct Candidates {
    /// Every address, in the order in which they are to be tried.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Those of the endpoint that was drawn, where more than one could have been: a connection kept for another one is no
    /// substitute, or the first connection would make the draw for all that follow.
    drawn: Option<Vec<SocketAddr>>,
}

impl Candidates {
    /// Addresses to which a connection that is there already serves as well as a new one.
    pub(crate) fn kept(&self) -> &[SocketAddr] {
        self.drawn.as_deref().unwrap_or(&self.addresses)
    }
}

/// Connects to where `route` leads.
pub(crate) async fn reach<E: Engine>(
    connection: &Connection<E>,
    route: &Rc<Route>,
) -> Result<Reached<E>, Obstacle> {
    let (route, candidates) = addresses(connection, route).await?;
    connection.phase.set(Phase::Dialing);
    dial_guarded(connection, &route, &candidates.addresses).await
}

/// The addresses that `route` may be dialled at, and the route as the policy in force sees it: it may have changed
/// while the name was being resolved.
pub(crate) async fn addresses<E: Engine>(
    connection: &Connection<E>,
    route: &Rc<Route>,
) -> Result<(Rc<Route>, Candidates), Obstacle> {
    let worker = &connection.worker;
    connection.phase.set(Phase::Resolving);
    let route = still_allowed(connection, route)?;
    let candidates = connection.unless_cut(candidates(worker, &route)).await.unwrap_or(Err(Obstacle::Cut))?;
    let route = still_allowed(connection, &route)?;
    let addresses = guard(worker, &route, candidates.addresses)?;
    let addresses = of_family(source(connection, &route), addresses)?;
    // Where nothing of the drawn endpoint is left, the others take its place.
    let drawn = candidates.drawn.map(|mut drawn| {
        drawn.retain(|address| addresses.contains(address));
        drawn
    });
    Ok((route, Candidates { addresses, drawn: drawn.filter(|drawn| !drawn.is_empty()) }))
}

/// The address that connections for a route come from, where that is not the kernel's choice: the service's own, else
/// the client's where the door keeps it.
pub(crate) fn source<E: Engine>(connection: &Connection<E>, route: &Route) -> Option<SourceAddress> {
    let own = route.service.as_ref().and_then(|service| service.source_address);
    let kept = || match connection.door.upstream_source {
        UpstreamSource::Gateway => None,
        UpstreamSource::Client => Some(SourceAddress::Foreign(route.asker.address.ip())),
    };
    own.map(SourceAddress::Own).or_else(kept)
}

/// Keeps the addresses that can be reached from `source`: those of its family.
fn of_family(
    source: Option<SourceAddress>,
    mut candidates: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Obstacle> {
    let Some(source) = source.map(SourceAddress::ip) else { return Ok(candidates) };
    let had_some = !candidates.is_empty();
    candidates.retain(|candidate| candidate.is_ipv4() == source.is_ipv4());
    if candidates.is_empty() && had_some {
        return Err(Obstacle::Dial(DialError::OtherFamily(source)));
    }
    Ok(candidates)
}

fn still_allowed<E: Engine>(connection: &Connection<E>, route: &Rc<Route>) -> Result<Rc<Route>, Obstacle> {
    if route.generation == connection.worker.snapshot().generation {
        return Ok(Rc::clone(route));
    }
    let current = connection.decide_again(route).map_err(|reason| Obstacle::Denied(reason, None))?;
    connection.begin(&current);
    Ok(current)
}

/// Dials addresses that [`guard`] let through just now.
pub(crate) async fn dial_guarded<E: Engine>(
    connection: &Connection<E>,
    route: &Rc<Route>,
    candidates: &[SocketAddr],
) -> Result<Reached<E>, Obstacle> {
    let worker = &connection.worker;
    let times = {
        let limits = &worker.snapshot().limits;
        Times {
            timeout: Duration::from_millis(limits.connect_timeout_ms),
            stagger: Duration::from_millis(limits.connect_stagger_ms),
        }
    };
    if connection.door.kind == DoorKind::Transparent {
        transparent::refuse_loop(connection).await?;
    }
    let source = source(connection, route);
    worker.make_room();
    let count = |result| worker.metrics.count(Family::UpstreamConnects, &[result], 1);
    let dialled = connection.unless_cut(dial::dial(&worker.engine, candidates, source, times, &count)).await;
    let dialled = dialled.ok_or(Obstacle::Cut)?;
    let (stream, dialled) = dialled.map_err(Obstacle::Dial)?;
    // A policy that came meanwhile was asked about the name; nobody knew yet which address would answer.
    let current = still_allowed(connection, route)?;
    if !Rc::ptr_eq(&current, route) {
        guard(worker, &current, vec![dialled])?;
    }
    worker.note_own_dial(&stream, dialled);
    connection.attach(&stream, dialled);
    Ok(Reached { stream, dialled })
}

/// What one step of finding addresses needs of the snapshot, owned, so that no snapshot is held while waiting.
#[derive(Default)]
struct Plan {
    /// In the order in which they are to be tried.
    places: Vec<Place>,
    /// An original destination that may be dialled if the name's answers hold it.
    original: Option<SocketAddr>,
    /// Each connection is to begin at another address.
    in_turn: bool,
    /// The first place was drawn from all of them.
    drawn: bool,
}

/// Where a connection may lead.
enum Place {
    Address(SocketAddr),
    Name(Arc<str>, u16),
}

/// The addresses that a route may lead to, before the guard.
pub(crate) async fn candidates<E: Engine>(worker: &Worker<E>, route: &Route) -> Result<Candidates, Obstacle> {
    let Plan { places, original, in_turn, drawn: is_drawn } = plan(worker, route)?;
    let mut found = Vec::with_capacity(places.len());
    let mut drawn = None;
    let mut failure = None;
    for place in &places {
        if is_drawn && drawn.is_none() && !found.is_empty() {
            drawn = Some(found.clone());
        }
        let (name, port) = match place {
            Place::Address(address) => {
                found.push(*address);
                continue;
            }
            Place::Name(name, port) => (name, *port),
        };
        match worker.names.resolve(&worker.engine, &worker.metrics, name).await {
            Ok(addresses) => {
                if let Some(original) = original.filter(|original| addresses.contains(&original.ip())) {
                    return Ok(Candidates { addresses: vec![original], drawn: None });
                }
                found.extend(addresses.iter().map(|address| SocketAddr::new(*address, port)));
            }
            Err(unresolved) => failure = Some(unresolved),
        }
    }
    match failure {
        Some(unresolved) if found.is_empty() => return Err(Obstacle::Dns(unresolved)),
        _ => {}
    }
    if in_turn && found.len() > 1 {
        let first = draw(worker, found.len() as u64);
        found.rotate_left(usize::try_from(first).unwrap_or(0));
    }
    Ok(Candidates { addresses: found, drawn })
}

/// A number below `bound`, which is not 0.
fn draw<E: Engine>(worker: &Worker<E>, bound: u64) -> u64 {
    worker.engine.random() % bound
}

fn plan<E: Engine>(worker: &Worker<E>, route: &Route) -> Result<Plan, Obstacle> {
    let snapshot = worker.snapshot();
    let port = route.target_port();
    let own_name = match &route.wanted.host {
        Some(Destination::Name(name)) => Some(Place::Name(Arc::clone(name), port)),
        _ => None,
    };
    let original = route.wanted.original;
    let service = route.decision.service.filter(|_| route.generation == snapshot.generation);
    let Some((id, service)) = service.map(|id| (id, snapshot.policy.service(id))) else {
        // Passed through: the name if there is one, else the address that the client asked for.
        return Ok(only(own_name.or(original.map(Place::Address))));
    };
    let name = own_name.or_else(|| Some(Place::Name(first_name(&snapshot.policy, id)?, port)));
    let in_turn = service.resolution == Resolution::DnsRoundRobin;
    Ok(match service.resolution {
        Resolution::Static => endpoints(worker, service, route, port),
        Resolution::Dns | Resolution::DnsRoundRobin if !service.endpoints.is_empty() => {
            endpoints(worker, service, route, port)
        }
        Resolution::Dns | Resolution::DnsRoundRobin => {
            Plan { in_turn, ..only(name.or(original.map(Place::Address))) }
        }
        Resolution::None => match original {
            Some(original) if snapshot.policy.names_address(id, original.ip()) => {
                only(Some(Place::Address(original)))
            }
            Some(_) if name.is_none() => return Err(Obstacle::Denied(Reason::NoName, None)),
            original => Plan { original, ..only(name) },
        },
    })
}

fn only(place: Option<Place>) -> Plan {
    Plan { places: place.into_iter().collect(), ..Plan::default() }
}

/// The endpoints of a service, each at its own port for the port that was asked for. Another one leads each time, as
/// often as its weight says; the others follow, should it not answer.
fn endpoints<E: Engine>(worker: &Worker<E>, service: &Service, route: &Route, port: u16) -> Plan {
    let port_name = route.decision.port.and_then(|id| service.port(id)).and_then(|port| port.name.clone());
    let place = |endpoint: &Endpoint| {
        let own = port_name.as_ref().and_then(|name| endpoint.ports.iter().find(|(known, _)| known == name));
        let port = own.map_or(port, |(_, port)| *port);
        match &endpoint.address {
            EndpointAddress::Literal(address) => Place::Address(SocketAddr::new(*address, port)),
            EndpointAddress::Name(name) => Place::Name(Arc::clone(name), port),
        }
    };
    let mut places: Vec<_> = service.endpoints.iter().map(place).collect();
    if places.len() > 1 {
        let weights = service.endpoints.iter().map(|endpoint| u64::from(endpoint.weight.max(1)));
        let drawn = draw(worker, weights.clone().sum());
        places.rotate_left(leading(weights, drawn));
    }
    Plan { drawn: places.len() > 1, places, ..Plan::default() }
}

/// Which of the weighted entries a number below the sum of their weights falls on.
fn leading(weights: impl Iterator<Item = u64>, drawn: u64) -> usize {
    let mut passed = 0;
    let falls_on = |weight| {
        passed += weight;
        drawn < passed
    };
    weights.map(falls_on).position(|found| found).unwrap_or(0)
}

/// Keeps the addresses that may be dialled. Refused ones are skipped; when none is left the flow is denied.
pub(crate) fn guard<E: Engine>(
    worker: &Worker<E>,
    route: &Route,
    candidates: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Obstacle> {
    let snapshot = worker.snapshot();
    let service = route.decision.service.filter(|_| route.generation == snapshot.generation);
    let mut refusal = None;
    let kept: Vec<_> = candidates
        .into_iter()
        .filter(|candidate| match snapshot.policy.guard(*candidate, service) {
            Ok(()) => true,
            Err(refused) => {
                worker.metrics.count(Family::GuardRefusals, &[refused.class.as_str()], 1);
                refusal = Some(refused);
                false
            }
        })
        .collect();
    match refusal {
        Some(refused) if kept.is_empty() => Err(Obstacle::Denied(Reason::Guard, Some(guard_text(&refused)))),
        _ => Ok(kept),
    }
}

/// The name that a service without a wanted name is resolved by.
fn first_name(policy: &sluice_policy::Snapshot, id: sluice_policy::ServiceId) -> Option<Arc<str>> {
    policy.service_host(id).filter(|host| !host.starts_with('*')).map(Arc::from)
}

/// What the guard says of the original destination of a route that the policy denied for its address.
pub(crate) fn guard_remedy<E: Engine>(worker: &Worker<E>, route: &Route) -> Option<String> {
    let original = route.wanted.original.filter(|_| route.reason() == Reason::Guard)?;
    let refused = worker.snapshot().policy.guard(original, None).err()?;
    Some(guard_text(&refused))
}

/// Counts the refusal of an address that was named itself.
pub(crate) fn count_refusal<E: Engine>(worker: &Worker<E>, route: &Route) {
    let refused =
        route.wanted.original.and_then(|original| worker.snapshot().policy.guard(original, None).err());
    if let Some(refused) = refused {
        worker.metrics.count(Family::GuardRefusals, &[refused.class.as_str()], 1);
    }
}

fn guard_text(refused: &sluice_policy::GuardRefusal) -> String {
    match refused.would_allow() {
        Some(line) => format!("{refused}; to allow it: {line}"),
        None => refused.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::leading;

    #[test]
    fn weights_share_the_draws() {
        let counts = (0..6).fold([0; 3], |mut counts, drawn| {
            counts[leading([1, 2, 3].into_iter(), drawn)] += 1;
            counts
        });
        assert_eq!(counts, [1, 2, 3]);
    }
}
