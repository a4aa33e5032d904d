//! What travels to a destination that is known and has been reached: whatever door it came through, and whatever that
//! door said to its client before.
//!
//! What a declared port promises is checked before any payload goes up: TLS wants a ClientHello whose name stays
//! inside the rule, HTTP is proxied request by request. Everything else is relayed.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};
use sluice_bridge::Phase;
use sluice_engine::{Engine, Stream};
use sluice_policy::{HostBuf, Reason, parse_host};
use sluice_proto::tls::{ClientHello, HelloParser};
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;

use crate::carried::Carried;
use crate::connection::{Admitted, Connection, Downstream};
use crate::http1::{Client, Mode};
use crate::reach::{self, Reached};
use crate::record::Record;
use crate::route::{Destination, Route, Wanted};
use crate::sniff::{self, Sniffed};
use crate::tunnel;

/// Serves a flow whose destination has been reached. It becomes a tunnel, or ends; or it is a client whose requests
/// are to be served one by one (`http1::serve`).
pub(crate) async fn serve<E: Engine>(
    downstream: Downstream<E>,
    record: Record<E>,
    route: Rc<Route>,
    reached: Reached<E>,
) -> Option<Client<E>> {
    match route.declared_protocol() {
        Some(protocol) if protocol.is_tls() => typed_tls(downstream, record, &route, reached).await,
        Some(protocol) if protocol.is_http() => return Some(typed_http(downstream, record, route, reached)),
        Some(_) => {
            let Downstream { connection, stream, early } = downstream;
            connection.carries(Carried::Opaque);
            tunnel::start(connection, record, stream, reached, early);
        }
        None => passing_look(downstream, record, reached).await,
    }
    None
}

/// A port that is declared TLS: a ClientHello whose name stays inside the rule, or the flow is cut before any payload.
async fn typed_tls<E: Engine>(
    downstream: Downstream<E>,
    mut record: Record<E>,
    route: &Rc<Route>,
    reached: Reached<E>,
) {
    let Downstream { connection, stream, early } = downstream;
    let refused = match sniff::client_hello(&connection, &stream, early).await {
        Ok(Sniffed { hello, early }) => {
            note_server_name(&mut record, &hello);
            match inner_route(&connection, &hello, route.wanted.clone()) {
                Ok(Some(inner)) if !inner.is_denied() && inner.same_rule(route) => {
                    connection.carries(Carried::Tls(inner.wanted.host.clone()));
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
    cut(record, refused, &stream, &reached.stream);
}

/// A port that is declared HTTP: requests in the tunnel are proxied one by one, each inside the rule. The connection
/// that was dialled serves the first of them.
fn typed_http<E: Engine>(
    downstream: Downstream<E>,
    record: Record<E>,
    route: Rc<Route>,
    reached: Reached<E>,
) -> Client<E> {
    record.supersede();
    let worker = &downstream.connection.worker;
    let key = crate::upstream::Key {
        name: route.pool_name(),
        dialled: reached.dialled,
        source: reach::source(&downstream.connection, &route),
    };
    let (now, room) = (worker.engine.now(), worker.room_for_idle());
    worker.pool.put(&key, reached.stream, Rc::clone(&route), now, room);
    Client::new(downstream, Mode::Inner { outer: route, bound: true })
}

/// An unregistered destination that passes: relayed at once, its server name read in passing for the record.
async fn passing_look<E: Engine>(downstream: Downstream<E>, mut record: Record<E>, reached: Reached<E>) {
    let Downstream { connection, stream, early } = downstream;
    if early.is_none() {
        return look_at_first_bytes(connection, record, stream, reached).await;
    }
    connection.carries(note_passing_name(&mut record, early.as_deref()));
    tunnel::start(connection, record, stream, reached, early);
}

/// Waits for whichever side speaks first; its bytes start the relay.
async fn look_at_first_bytes<E: Engine>(
    connection: Admitted<E>,
    mut record: Record<E>,
    stream: E::Stream,
    reached: Reached<E>,
) {
    connection.phase.set(Phase::Relaying);
    let worker = &connection.worker;
    let deadline = worker.deadline_in_ms(worker.snapshot().limits.tunnel_idle_timeout_ms);
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

/// The decision on the name inside a tunnel; `None` where the ClientHello has none. A name that is none is refused.
pub(crate) fn inner_route<E: Engine>(
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

/// Notes the name that a ClientHello asks for.
pub(crate) fn note_server_name<E: Engine>(record: &mut Record<E>, hello: &ClientHello) {
    if let Some(name) = hello.server_name {
        record.entry.set_bytes(Field::RequestedServerName, name.as_bytes());
    }
}

/// Reads the server name of a tunnel that passes anyway, if its first bytes hold it.
fn note_passing_name<E: Engine>(record: &mut Record<E>, early: Option<&[u8]>) -> Carried {
    let Some(early) = early.filter(|early| early.first() == Some(&22)) else { return Carried::Opaque };
    let mut parser = HelloParser::new(early.len());
    let Ok(Some(hello)) = parser.feed(early) else { return Carried::Opaque };
    note_server_name(record, &hello);
    tls_of(&hello)
}

/// TLS as a flow carries it.
pub(crate) fn tls_of(hello: &ClientHello) -> Carried {
    let mut scratch = HostBuf::new();
    let name = hello.server_name.as_ref().map(|name| parse_host(name.as_bytes(), &mut scratch));
    match name {
        None => Carried::Tls(None),
        Some(Ok(host)) => Carried::Tls(Some(Destination::from_host(host))),
        Some(Err(_)) => Carried::Opaque,
    }
}

/// Cuts both sides of a tunnel before any payload went up.
fn cut<E: Engine>(mut record: Record<E>, reason: Reason, downstream: &E::Stream, upstream: &E::Stream) {
    record.denied(reason);
    record.flag(ResponseFlags::UH);
    downstream.reset();
    upstream.reset();
}
