//! An original destination that nobody has named: an IP literal that a client asked for, an address that its packets
//! were on the way to. The client's first bytes are asked for a name (the SNI of a ClientHello, the Host of requests);
//! with one the name decides and our resolution of it is dialled, without one the address decides.
//!
//! It must not know which door the client came through, nor what that door said to let it in: whoever comes here has
//! been told all that it waits for.

use std::rc::Rc;

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Engine, Stream};
use sluice_policy::Reason;
use sluice_proto::http1::{Opening, opening};
use sluice_telemetry::ResponseFlags;

use crate::carried::Carried;
use crate::connection::{Connection, Downstream};
use crate::http1::{Client, Mode};
use crate::inside;
use crate::reach::{Obstacle, reach};
use crate::record::Record;
use crate::refusal::{note_obstacle, refuse_tls, refuse_tunnel};
use crate::route::Route;
use crate::sniff::{self, Held, Sniffed};
use crate::tunnel;
use crate::worker::Worker;

/// The first byte of a TLS record that begins a handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Whether a destination has no name and its first bytes may tell one. Where a server may speak first nobody is waited
/// for: at a port that the registry declares opaque, and at the door's opaque ports if the address passes through.
pub(crate) fn may_tell_a_name<E: Engine>(connection: &Connection<E>, route: &Route) -> bool {
    let port = route.wanted.port;
    let opaque = match route.declared_protocol() {
        Some(protocol) => protocol.is_opaque(),
        None => {
            connection.worker.snapshot().policy.is_opaque_port(port)
                || !route.is_denied() && connection.door.opaque_ports.contains(&port)
        }
    };
    route.wanted.host.is_none() && !opaque
}

/// Whether an IP literal is one that no resolver gives for a name that might be asked for inside (a metadata service,
/// a multicast group, a listener of our own): there is nothing to wait for. A private address may be one: many clients
/// resolve for themselves.
pub(crate) fn is_never_dialled<E: Engine>(worker: &Worker<E>, route: &Route) -> bool {
    let Some(original) = route.wanted.original else { return false };
    let guarded = worker.snapshot().policy.guard(original, route.decision.service);
    guarded.is_err_and(|refused| refused.class.is_strict())
}

/// Serves a client that waits for nothing more: its first bytes are asked for a name, then the decision is made and the
/// destination dialled. `by_address` is the decision on the address alone. Gives back a client whose requests are to be
/// served one by one, as [`inside::serve`] does.
pub(crate) async fn serve<E: Engine>(
    mut downstream: Downstream<E>,
    mut record: Record<E>,
    by_address: Rc<Route>,
) -> Option<Client<E>> {
    let Some(first) = first_bytes(&mut downstream).await else {
        record.decided(&by_address);
        record.flag(ResponseFlags::DC);
        return None;
    };
    if first.as_deref().is_some_and(|first| opening(first) == Opening::Request) {
        // Each request is decided and recorded by itself.
        record.supersede();
        let downstream = Downstream { early: first, ..downstream };
        return Some(Client::new(downstream, Mode::Inner { outer: by_address, bound: false }));
    }
    let Downstream { connection, stream, .. } = downstream;
    let told = match ask(&connection, &stream, &mut record, first, &by_address).await {
        Ok(told) => told,
        Err(reason) => {
            record.denied(reason);
            refuse_tls(&connection, record, stream).await;
            return None;
        }
    };
    let Told { route, early, carried } = told;
    let is_tls = matches!(carried, Carried::Tls(_));
    record.decided(&route);
    // What the port is declared to carry holds for an address as it does for a name.
    let misfits = !route.is_denied() && !carried.fits(route.declared_protocol());
    if misfits {
        record.denied(if early.is_none() { Reason::SniffTimeout } else { Reason::ProtocolMismatch });
    }
    if misfits || route.is_denied() {
        refuse(&connection, record, stream, is_tls).await;
        return None;
    }
    connection.begin(&route);
    connection.carries(carried);
    match reach(&connection, &route).await {
        Ok(reached) => tunnel::start(connection, record, stream, reached, early),
        Err(obstacle) => {
            note_obstacle(&mut record, &obstacle);
            if let Obstacle::Denied(..) = obstacle {
                refuse(&connection, record, stream, is_tls).await;
            } else {
                stream.reset();
            }
        }
    }
    None
}

/// What the first bytes told.
struct Told {
    /// The decision on the name, or on the address where there is none.
    route: Rc<Route>,
    /// `None` where nothing came in time.
    early: Option<Buffer>,
    carried: Carried,
}

/// Reads a name out of bytes that are no HTTP, and decides on it. Without one the address decides, under the policy that
/// is in force by now. A hello that cannot be judged is refused.
async fn ask<E: Engine>(
    connection: &Connection<E>,
    stream: &E::Stream,
    record: &mut Record<E>,
    first: Option<Buffer>,
    by_address: &Route,
) -> Result<Told, Reason> {
    let address_decides = || {
        let asker = Rc::clone(&connection.asker.borrow());
        connection.worker.decide(&asker, by_address.wanted.clone())
    };
    let Some(first) = first else {
        return Ok(Told { route: address_decides(), early: None, carried: Carried::Opaque });
    };
    if first.first() != Some(&TLS_HANDSHAKE) {
        return Ok(Told { route: address_decides(), early: Some(first), carried: Carried::Opaque });
    }
    record.become_tls();
    let sniffed = sniff::client_hello(connection, stream, Some(first)).await;
    let Sniffed { hello, early } =
        sniffed.map_err(|no_hello| no_hello.reason().unwrap_or(Reason::Malformed))?;
    inside::note_server_name(record, &hello);
    let named = inside::inner_route(connection, &hello, by_address.wanted.clone())?;
    Ok(Told {
        route: named.unwrap_or_else(address_decides),
        early: Some(early),
        carried: inside::tls_of(&hello),
    })
}

/// Refuses a flow that nothing was dialled for.
async fn refuse<E: Engine>(connection: &Connection<E>, record: Record<E>, stream: E::Stream, is_tls: bool) {
    if is_tls { refuse_tls(connection, record, stream).await } else { refuse_tunnel(record, &stream) }
}

/// Reads as much as tells what is spoken: `Some(None)` where nothing came in time, an empty buffer where the client
/// only listens, `None` where it is gone.
async fn first_bytes<E: Engine>(downstream: &mut Downstream<E>) -> Option<Option<Buffer>> {
    let Downstream { connection, stream, early } = downstream;
    connection.phase.set(Phase::Sniffing);
    let worker = &connection.worker;
    let deadline = worker.deadline_in_ms(worker.snapshot().limits.sniff_timeout_ms);
    let mut held = Held::default();
    let mut next = early.take();
    loop {
        let buffer = match next.take() {
            Some(buffer) => buffer,
            None => match deadline.run(stream.receive()).await {
                Ok(received) => received.ok()?,
                Err(_) => return Some(Some(held.into_buffer()).filter(|held| !held.is_empty())),
            },
        };
        if buffer.is_empty() {
            return held.bytes().is_empty().then_some(Some(buffer));
        }
        held.push(buffer);
        if opening(held.bytes()) != Opening::Unclear {
            return Some(Some(held.into_buffer()));
        }
    }
}
