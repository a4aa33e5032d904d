//! An original destination that nobody has named: an IP literal that a client asked for, an address that its packets
//! were on the way to. The client's first bytes are asked for a name (the SNI of a ClientHello, the Host of requests);
//! with one the name decides and our resolution of it is dialled, without one the address decides.
//!
//! It must not know which door the client came through, nor what that door said to let it in: whoever comes here has
//! been told all that it waits for.

use std::rc::Rc;
use std::time::Duration;

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Deadline, Engine, Stream};
use sluice_policy::{Protocol, Reason};
use sluice_telemetry::ResponseFlags;

use crate::carried::Carried;
use crate::connection::Connection;
use crate::http1::{Client, Mode};
use crate::inside::{self, Downstream};
use crate::reach::reach;
use crate::record::Record;
use crate::route::Route;
use crate::session::note_obstacle;
use crate::sniff::{self, Held, Sniffed};
use crate::tunnel;
use crate::worker::Worker;

/// Whether a destination has no name and its first bytes may tell one. Opaque ports are never waited on: there the
/// server may speak first.
pub(crate) fn may_tell_a_name<E: Engine>(connection: &Connection<E>, route: &Route) -> bool {
    route.wanted.host.is_none()
        && !route.declared_protocol().is_some_and(Protocol::is_opaque)
        && !(route.service.is_none()
            && !route.is_denied()
            && connection.door.opaque_ports.contains(&route.wanted.port))
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
    if first.as_deref().is_some_and(looks_like_http) {
        // Each request is decided and recorded by itself.
        record.supersede();
        let downstream = Downstream { early: first, ..downstream };
        return Some(Client::new(downstream, Mode::Inner { outer: by_address, bound: false }));
    }
    let Downstream { connection, stream, .. } = downstream;
    let (named, early, carried) = if first.as_deref().is_some_and(|first| first.first() == Some(&22)) {
        let refused = match sniff::client_hello(&connection, &stream, first).await {
            Ok(Sniffed { hello, early }) => {
                inside::note_server_name(&mut record, &hello);
                inside::inner_route(&connection, &hello, by_address.wanted.clone())
                    .map(|route| (route, Some(early), inside::tls_of(&hello)))
            }
            Err(no_hello) => Err(no_hello.reason().unwrap_or(Reason::Malformed)),
        };
        match refused {
            Ok(sniffed) => sniffed,
            Err(reason) => {
                inside::cut(record, reason, &stream, None);
                return None;
            }
        }
    } else {
        (None, first, Carried::Opaque)
    };
    // Without a name the address decides, under the policy that is in force by now.
    let route = named.unwrap_or_else(|| {
        let asker = Rc::clone(&connection.asker.borrow());
        connection.worker.decide(&asker, by_address.wanted.clone())
    });
    record.decided(&route);
    if route.is_denied() {
        record.black_holed();
        stream.reset();
        return None;
    }
    // What the port is declared to carry holds for an address as it does for a name.
    if !carried.fits(route.declared_protocol()) {
        let reason = if early.is_none() { Reason::SniffTimeout } else { Reason::ProtocolMismatch };
        inside::cut(record, reason, &stream, None);
        return None;
    }
    connection.begin(&route);
    connection.carries(carried);
    match reach(&connection, &route).await {
        Ok(reached) => tunnel::start(connection, record, stream, reached, early),
        Err(obstacle) => {
            note_obstacle(&mut record, &obstacle);
            stream.reset();
        }
    }
    None
}

/// Reads as much as tells what is spoken: `Some(None)` where nothing came in time, an empty buffer where the client
/// only listens, `None` where it is gone.
async fn first_bytes<E: Engine>(downstream: &mut Downstream<E>) -> Option<Option<Buffer>> {
    let Downstream { connection, stream, early } = downstream;
    connection.phase.set(Phase::Sniffing);
    let worker = &connection.worker;
    let sniff_ms = worker.snapshot().limits.sniff_timeout_ms;
    let deadline = Deadline::new(worker.engine.clone());
    deadline.set(Some(worker.engine.now() + Duration::from_millis(sniff_ms)));
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
        if !may_become_http(held.bytes()) {
            return Some(Some(held.into_buffer()));
        }
    }
}

/// The longest method that is looked for.
const METHOD_BYTES_MAX: usize = 16;

fn method_bytes(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count()
}

/// Whether bytes begin as an HTTP request does: a method of capital letters, then a space.
fn looks_like_http(bytes: &[u8]) -> bool {
    let method = method_bytes(bytes);
    (3..=METHOD_BYTES_MAX).contains(&method) && bytes.get(method) == Some(&b' ')
}

/// Whether bytes are too few to tell.
fn may_become_http(bytes: &[u8]) -> bool {
    bytes.len() <= METHOD_BYTES_MAX && method_bytes(bytes) == bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_other_protocols() {
        assert!(looks_like_http(b"GET / HTTP/1.1\r\n"));
        assert!(looks_like_http(b"PROPFIND /x"));
        assert!(!looks_like_http(b"SSH-2.0-OpenSSH"));
        assert!(!looks_like_http(b"\x16\x03\x01"));
        assert!(!looks_like_http(b"get / HTTP/1.1"));
        assert!(!looks_like_http(b""));
        assert!(may_become_http(b"G") && may_become_http(b"GET"));
        assert!(!may_become_http(b"GET ") && !may_become_http(b"\x16") && !may_become_http(b"SSH-"));
    }
}
