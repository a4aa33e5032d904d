//! From a route to an upstream connection: resolve → guard → dial, in that order, for every address and every time.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_bridge::Phase;
use sluice_engine::Engine;
use sluice_policy::{EndpointAddress, Reason, Resolution, Service};
use sluice_telemetry::Family;

use crate::connection::Connection;
use crate::dial::{self, DialError, Times};
use crate::resolve::Unresolved;
use crate::route::{Destination, Route};
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

/// Connects to where `route` leads.
pub(crate) async fn reach<E: Engine>(
    connection: &Connection<E>,
    route: &Rc<Route>,
) -> Result<Reached<E>, Obstacle> {
    let (route, candidates) = addresses(connection, route).await?;
    connection.phase.set(Phase::Dialing);
    dial_guarded(connection, &route, &candidates).await
}

/// The addresses that `route` may be dialled at, and the route as the policy in force sees it: it may have changed
/// while the name was being resolved.
pub(crate) async fn addresses<E: Engine>(
    connection: &Connection<E>,
    route: &Rc<Route>,
) -> Result<(Rc<Route>, Vec<SocketAddr>), Obstacle> {
    let worker = &connection.worker;
    connection.phase.set(Phase::Resolving);
    let route = still_allowed(connection, route)?;
    let mut candidates =
        connection.unless_cut(candidates(worker, &route)).await.unwrap_or(Err(Obstacle::Cut))?;
    let route = still_allowed(connection, &route)?;
    order(&mut candidates);
    let candidates = guard(worker, &route, candidates)?;
    Ok((route, candidates))
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
    let source = route.service.as_ref().and_then(|service| service.source_address);
    worker.make_room();
    let dialled = connection.unless_cut(dial::dial(&worker.engine, candidates, source, times)).await;
    let dialled = dialled.ok_or(Obstacle::Cut)?;
    let result = dialled.as_ref().map_or_else(DialError::as_str, |_| "ok");
    worker.metrics.count(Family::UpstreamConnects, &[result], 1);
    let (stream, dialled) = dialled.map_err(Obstacle::Dial)?;
    // A policy that came meanwhile was asked about the name; nobody knew yet which address would answer.
    let current = still_allowed(connection, route)?;
    if !Rc::ptr_eq(&current, route) {
        guard(worker, &current, vec![dialled])?;
    }
    connection.attach(&stream, dialled);
    Ok(Reached { stream, dialled })
}

/// What one step of finding addresses needs of the snapshot, owned, so that no snapshot is held while waiting.
struct Plan {
    literals: Vec<SocketAddr>,
    names: Vec<(Arc<str>, u16)>,
    /// An original destination that may be dialled if the name's answers hold it.
    original: Option<SocketAddr>,
}

/// The addresses that a route may lead to, before the guard.
pub(crate) async fn candidates<E: Engine>(
    worker: &Worker<E>,
    route: &Route,
) -> Result<Vec<SocketAddr>, Obstacle> {
    let Plan { mut literals, names, original } = plan(worker, route)?;
    let mut failure = None;
    for (name, port) in &names {
        match worker.names.resolve(&worker.engine, &worker.metrics, name).await {
            Ok(addresses) => {
                if let Some(original) = original.filter(|original| addresses.contains(&original.ip())) {
                    return Ok(vec![original]);
                }
                literals.extend(addresses.iter().map(|address| SocketAddr::new(*address, *port)));
            }
            Err(unresolved) => failure = Some(unresolved),
        }
    }
    match failure {
        Some(unresolved) if literals.is_empty() => Err(Obstacle::Dns(unresolved)),
        _ => Ok(literals),
    }
}

fn plan<E: Engine>(worker: &Worker<E>, route: &Route) -> Result<Plan, Obstacle> {
    let snapshot = worker.snapshot();
    let port = route.target_port();
    let own_name = || match &route.wanted.host {
        Some(Destination::Name(name)) => Some((Arc::clone(name), port)),
        _ => None,
    };
    let original = route.wanted.original;
    let service = route.decision.service.filter(|_| route.generation == snapshot.generation);
    let Some((id, service)) = service.map(|id| (id, snapshot.policy.service(id))) else {
        // Passed through: the name if there is one, else the address that the client asked for.
        let names: Vec<_> = own_name().into_iter().collect();
        let literals = if names.is_empty() { original.into_iter().collect() } else { Vec::new() };
        return Ok(Plan { literals, names, original: None });
    };
    let name = own_name().or_else(|| Some((first_name(&snapshot.policy, id)?, port)));
    let plan = match service.resolution {
        Resolution::Static => endpoints(service, route, port),
        Resolution::Dns | Resolution::DnsRoundRobin if !service.endpoints.is_empty() => {
            endpoints(service, route, port)
        }
        Resolution::Dns | Resolution::DnsRoundRobin => named_or_original(name, original),
        Resolution::None => match original {
            Some(original) if snapshot.policy.names_address(id, original.ip()) => {
                Plan { literals: vec![original], names: Vec::new(), original: None }
            }
            Some(_) if name.is_none() => {
                return Err(Obstacle::Denied(Reason::NoName, None));
            }
            original => Plan { original, ..named_or_original(name, None) },
        },
    };
    Ok(plan)
}

fn named_or_original(name: Option<(Arc<str>, u16)>, original: Option<SocketAddr>) -> Plan {
    let literals = if name.is_none() { original.into_iter().collect() } else { Vec::new() };
    Plan { literals, names: name.into_iter().collect(), original: None }
}

/// The endpoints of a service, each at its own port for the port that was asked for.
fn endpoints(service: &Service, route: &Route, port: u16) -> Plan {
    let port_name = route.decision.port.and_then(|id| service.port(id)).and_then(|port| port.name.clone());
    let mut plan = Plan { literals: Vec::new(), names: Vec::new(), original: None };
    for endpoint in &service.endpoints {
        let own = port_name.as_ref().and_then(|name| endpoint.ports.iter().find(|(known, _)| known == name));
        let port = own.map_or(port, |(_, port)| *port);
        match &endpoint.address {
            EndpointAddress::Literal(address) => plan.literals.push(SocketAddr::new(*address, port)),
            EndpointAddress::Name(name) => plan.names.push((Arc::clone(name), port)),
        }
    }
    plan
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

fn guard_text(refused: &sluice_policy::GuardRefusal) -> String {
    match refused.would_allow() {
        Some(line) => format!("{refused}; to allow it: {line}"),
        None => refused.to_string(),
    }
}

/// IPv6 leads where both families are there (RFC 8305 §4).
fn order(addresses: &mut [SocketAddr]) {
    addresses.sort_by_key(SocketAddr::is_ipv4);
}
