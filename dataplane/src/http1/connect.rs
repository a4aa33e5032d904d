//! CONNECT: a tunnel to a named host and port. The destination is dialled before the client hears 200; what it sends
//! ahead of that is held.
//!
//! What a declared port promises is checked before any payload goes up: TLS wants a ClientHello whose name stays
//! inside the rule, HTTP is proxied request by request. An IP literal is an original destination without a name:
//! the client's first bytes are asked for one.

use std::rc::Rc;
use std::time::Duration;

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Deadline, Engine, Stream};
use sluice_policy::{HostBuf, Protocol, Reason, parse_host};
use sluice_proto::http1::Target;
use sluice_proto::tls::{ClientHello, HelloParser};
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;

use super::exchange::{Request, Unacceptable};
use super::identity::identify;
use super::{After, Client, Mode};
use crate::connection::Connection;
use crate::inside::Inside;
use crate::reach::{Reached, reach};
use crate::record::Record;
use crate::route::{Destination, Route, Wanted};
use crate::session::note_obstacle;
use crate::sniff::{self, Held, Sniffed};
use crate::tunnel;
use crate::worker::Worker;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Serves a CONNECT. `None` when the connection became a tunnel or is gone.
pub(super) async fn serve<E: Engine>(
    mut client: Client<E>,
    request: &Request<'_>,
    mut record: Record<E>,
) -> Option<(Client<E>, After)> {
    record.is_connect();
    let Ok(asker) = identify(&client, request.head) else {
        let after = request.unauthenticated(&client, &mut record).await;
        return Some((client, after));
    };
    let wanted = match wanted(&client, request) {
        Ok(wanted) => wanted,
        Err(unacceptable) => {
            let after = request.refuse(&client, &mut record, &unacceptable).await;
            return Some((client, after));
        }
    };
    let route = client.route(&asker, wanted);
    let never = route.is_denied() && is_never_dialled(client.worker(), &route);
    if !never && sniffs_for_a_name(&client, &route) {
        return unnamed(client, record, route).await;
    }
    record.decided(&route);
    if never {
        let after = request.deny(&client, &mut record, &route, Reason::Guard, None).await;
        return Some((client, after));
    }
    if route.is_denied() {
        let after = request.deny(&client, &mut record, &route, route.reason(), None).await;
        return Some((client, after));
    }
    client.connection.begin(&route);
    let reached = match reach(&client.connection, &route).await {
        Ok(reached) => reached,
        Err(obstacle) => {
            let after = request.obstructed(&client, &mut record, &route, obstacle).await;
            return Some((client, after));
        }
    };
    if establish(&client, &mut record).await.is_err() {
        return None;
    }
    match route.declared_protocol() {
        Some(protocol) if protocol.is_tls() => typed_tls(client, record, &route, reached).await,
        Some(protocol) if protocol.is_http() => return Some(typed_http(client, record, route, reached)),
        Some(_) => {
            let Client { connection, stream, held, .. } = client;
            connection.carries(Inside::Opaque);
            tunnel::start(connection, record, stream, reached, held);
        }
        None => passing_look(client, record, reached).await,
    }
    None
}

fn wanted<E: Engine>(client: &Client<E>, request: &Request<'_>) -> Result<Wanted, Unacceptable> {
    let malformed = |status, text| Unacceptable { status, reason: Reason::Malformed, text };
    let (Mode::Proxy, Target::Authority(authority)) = (&client.mode, request.head.target) else {
        return Err(malformed(405, "CONNECT inside a tunnel"));
    };
    let mut scratch = HostBuf::new();
    let host = parse_host(authority.host, &mut scratch)
        .map_err(|_| malformed(400, "the host is neither a name nor an address"))?;
    let port = authority.port.ok_or_else(|| malformed(400, "CONNECT without a port"))?;
    Ok(Wanted::named(host, port))
}

/// Answers 200: from here on the connection is a tunnel.
async fn establish<E: Engine>(client: &Client<E>, record: &mut Record<E>) -> std::io::Result<()> {
    let mut answer = client.worker().engine.buffer();
    let fits = answer.append(ESTABLISHED);
    debug_assert!(fits, "an empty buffer takes a line");
    record.code(200);
    record.become_tunnel();
    client.deadline.set(client.after_ms(client.worker().snapshot().limits.linger_timeout_ms));
    let sent = client.deadline.run(client.stream.send(answer)).await;
    let sent = sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    sent.inspect_err(|_| {
        record.flag(ResponseFlags::DC);
        client.stream.reset();
    })
}

/// A port that is declared TLS: a ClientHello whose name stays inside the rule, or the flow is cut before any payload.
async fn typed_tls<E: Engine>(
    client: Client<E>,
    mut record: Record<E>,
    route: &Rc<Route>,
    reached: Reached<E>,
) {
    let Client { connection, stream, held, .. } = client;
    let refused = match sniff::client_hello(&connection, &stream, held).await {
        Ok(Sniffed { hello, early }) => {
            note_server_name(&mut record, &hello);
            match inner_route(&connection, &hello, route.wanted.clone()) {
                Ok(Some(inner)) if !inner.is_denied() && inner.same_rule(route) => {
                    connection.carries(Inside::Tls(inner.wanted.host.clone()));
                    return tunnel::start(connection, record, stream, reached, Some(early));
                }
                _ => Reason::NameMismatch,
            }
        }
        Err(no_hello) => match no_hello.reason() {
            Some(reason) => reason,
            None => return record.flag(ResponseFlags::DC),
        },
    };
    cut(record, refused, &stream, Some(&reached.stream));
}

/// A port that is declared HTTP: requests in the tunnel are proxied one by one, each inside the rule. The connection
/// that was dialled serves the first of them.
fn typed_http<E: Engine>(
    mut client: Client<E>,
    record: Record<E>,
    route: Rc<Route>,
    reached: Reached<E>,
) -> (Client<E>, After) {
    record.supersede();
    let worker = client.worker();
    let key = crate::upstream::Key {
        name: route.pool_name(),
        dialled: reached.dialled,
        source: route.service.as_ref().and_then(|service| service.source_address),
    };
    let (now, room) = (worker.engine.now(), worker.room_for_idle());
    worker.pool.put(&key, reached.stream, Rc::clone(&route), now, room);
    client.mode = Mode::Inner { outer: route, bound: true };
    client.served = false;
    (client, After::KeepAlive)
}

/// An unregistered destination that passes: relayed at once, its server name read in passing for the record.
async fn passing_look<E: Engine>(client: Client<E>, mut record: Record<E>, reached: Reached<E>) {
    let Client { connection, stream, held, .. } = client;
    let early = match held {
        Some(held) => Some(held),
        None => return look_at_first_bytes(connection, record, stream, reached).await,
    };
    connection.carries(note_passing_name(&mut record, early.as_deref()));
    tunnel::start(connection, record, stream, reached, early);
}

/// Waits for whichever side speaks first; its bytes start the relay.
async fn look_at_first_bytes<E: Engine>(
    connection: crate::connection::Admitted<E>,
    mut record: Record<E>,
    stream: E::Stream,
    reached: Reached<E>,
) {
    use futures_util::future::{Either, select};
    use std::pin::pin;
    connection.phase.set(Phase::Relaying);
    let idle_ms = connection.worker.snapshot().limits.tunnel_idle_timeout_ms;
    let deadline = Deadline::new(connection.worker.engine.clone());
    deadline.set(Some(connection.worker.engine.now() + Duration::from_millis(idle_ms)));
    let (from_downstream, from_upstream) = {
        let (down, up) = (pin!(stream.receive()), pin!(reached.stream.receive()));
        match deadline.run(select(down, up)).await {
            Ok(Either::Left((Ok(buffer), _))) => (Some(buffer), None),
            Ok(Either::Right((Ok(buffer), _))) => (None, Some(buffer)),
            Ok(Either::Left((Err(_), _))) => {
                reached.stream.reset();
                return record.flag(ResponseFlags::DC);
            }
            Ok(Either::Right((Err(_), _))) => {
                stream.reset();
                return record.flag(ResponseFlags::UC);
            }
            Err(_) => {
                stream.reset();
                reached.stream.reset();
                return record.flag(ResponseFlags::SI);
            }
        }
    };
    connection.carries(note_passing_name(&mut record, from_downstream.as_deref()));
    tunnel::start_with(connection, record, stream, reached, from_downstream, from_upstream);
}

/// Whether a destination has no name and its first bytes may tell one. Opaque ports are never waited on: there the
/// server may speak first.
fn sniffs_for_a_name<E: Engine>(client: &Client<E>, route: &Route) -> bool {
    route.wanted.host.is_none()
        && !route.declared_protocol().is_some_and(Protocol::is_opaque)
        && !(route.service.is_none()
            && !route.is_denied()
            && client.connection.door.opaque_ports.contains(&route.wanted.port))
}

/// Whether an IP literal is one that no resolver gives for a name that might be asked for inside (a metadata service,
/// a multicast group, a listener of our own): there is nothing to wait for. A private address may be one: many clients
/// resolve for themselves.
fn is_never_dialled<E: Engine>(worker: &Worker<E>, route: &Route) -> bool {
    let Some(original) = route.wanted.original else { return false };
    let guarded = worker.snapshot().policy.guard(original, route.decision.service);
    guarded.is_err_and(|refused| refused.class.is_strict())
}

/// An IP literal: the client is let in, its first bytes are asked for a name, then the decision is made and the
/// destination dialled.
async fn unnamed<E: Engine>(
    mut client: Client<E>,
    mut record: Record<E>,
    by_address: Rc<Route>,
) -> Option<(Client<E>, After)> {
    if establish(&client, &mut record).await.is_err() {
        return None;
    }
    let Some(first) = first_bytes(&mut client).await else {
        record.decided(&by_address);
        record.flag(ResponseFlags::DC);
        return None;
    };
    if first.as_deref().is_some_and(looks_like_http) {
        // Each request is decided and recorded by itself.
        record.supersede();
        client.held = first;
        client.mode = Mode::Inner { outer: by_address, bound: false };
        return Some((client, After::KeepAlive));
    }
    let Client { connection, stream, .. } = client;
    let (named, early, inside) = if first.as_deref().is_some_and(|first| first.first() == Some(&22)) {
        let refused = match sniff::client_hello(&connection, &stream, first).await {
            Ok(Sniffed { hello, early }) => {
                note_server_name(&mut record, &hello);
                let inside = tls_of(&hello);
                inner_route(&connection, &hello, by_address.wanted.clone())
                    .map(|route| (route, Some(early), inside))
            }
            Err(no_hello) => Err(no_hello.reason().unwrap_or(Reason::Malformed)),
        };
        match refused {
            Ok(sniffed) => sniffed,
            Err(reason) => {
                cut(record, reason, &stream, None);
                return None;
            }
        }
    } else {
        (None, first, Inside::Opaque)
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
    if !inside.fits(route.declared_protocol()) {
        let reason = if early.is_none() { Reason::SniffTimeout } else { Reason::ProtocolMismatch };
        cut(record, reason, &stream, None);
        return None;
    }
    connection.begin(&route);
    connection.carries(inside);
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
async fn first_bytes<E: Engine>(client: &mut Client<E>) -> Option<Option<Buffer>> {
    client.connection.phase.set(Phase::Sniffing);
    let sniff_ms = client.worker().snapshot().limits.sniff_timeout_ms;
    client.deadline.set(client.after_ms(sniff_ms));
    let mut held = Held::default();
    let mut next = client.held.take();
    loop {
        let buffer = match next.take() {
            Some(buffer) => buffer,
            None => match client.deadline.run(client.stream.receive()).await {
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

/// The decision on the name inside a tunnel; `None` where the ClientHello has none. A name that is none is refused.
fn inner_route<E: Engine>(
    connection: &Connection<E>,
    hello: &ClientHello,
    outer: Wanted,
) -> Result<Option<Rc<Route>>, Reason> {
    let Some(name) = hello.server_name else { return Ok(None) };
    let mut scratch = HostBuf::new();
    let host = parse_host(name.as_bytes(), &mut scratch).map_err(|_| Reason::Malformed)?;
    let wanted = Wanted { original: outer.original, ..Wanted::named(host, outer.port) };
    let asker = Rc::clone(&connection.asker.borrow());
    Ok(Some(connection.worker.decide(&asker, wanted)))
}

fn note_server_name<E: Engine>(record: &mut Record<E>, hello: &ClientHello) {
    if let Some(name) = hello.server_name {
        record.entry.set_bytes(Field::RequestedServerName, name.as_bytes());
    }
}

/// Reads the server name of a tunnel that passes anyway, if its first bytes hold it.
fn note_passing_name<E: Engine>(record: &mut Record<E>, early: Option<&[u8]>) -> Inside {
    let Some(early) = early.filter(|early| early.first() == Some(&22)) else { return Inside::Opaque };
    let mut parser = HelloParser::new(early.len());
    let Ok(Some(hello)) = parser.feed(early) else { return Inside::Opaque };
    note_server_name(record, &hello);
    tls_of(&hello)
}

fn tls_of(hello: &ClientHello) -> Inside {
    let mut scratch = HostBuf::new();
    let name = hello.server_name.as_ref().map(|name| parse_host(name.as_bytes(), &mut scratch));
    match name {
        None => Inside::Tls(None),
        Some(Ok(host)) => Inside::Tls(Some(Destination::from_host(host))),
        Some(Err(_)) => Inside::Opaque,
    }
}

/// Cuts a tunnel before any payload went up.
fn cut<E: Engine>(mut record: Record<E>, reason: Reason, stream: &E::Stream, upstream: Option<&E::Stream>) {
    record.denied(reason);
    record.flag(ResponseFlags::UH);
    stream.reset();
    if let Some(upstream) = upstream {
        upstream.reset();
    }
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
