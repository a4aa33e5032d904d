//! A connection from accept to close. Read downwards, this is the product's story; each step is one module.
//!
//! ```text
//! accept → PROXY header, where the door wants one
//!        → sniff (what is wanted?) → identify (who asks?) → decide (policy) → resolve → guard (each address)
//!        → dial (that very address) → relay | http1 → close → record (the only source of log and metrics)
//! ```

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use sluice_bridge::{DoorKind, DoorPlan};
use sluice_engine::{Buffer, Engine, Stream};
use sluice_policy::{HostBuf, Reason, parse_host};
use sluice_proto::tls::ClientHello;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;

use crate::carried::Carried;
use crate::connection::{Admitted, Connection, Downstream};
use crate::http1;
use crate::inside::note_server_name;
use crate::proxy_protocol;
use crate::reach::{Obstacle, reach};
use crate::record::Record;
use crate::refusal::{note_obstacle, refuse_tls, refuse_tunnel};
use crate::route::{Route, Wanted};
use crate::sniff::{self, Sniffed};
use crate::worker::Worker;
use crate::{socks5, transparent, tunnel};

/// Starts the session of a connection that a door has accepted.
pub(crate) fn start<E: Engine>(worker: &Rc<Worker<E>>, door: &Arc<DoorPlan>, stream: E::Stream) {
    let connection = Connection::admit(worker, door, &stream);
    let client = Downstream { connection, stream, early: None };
    match door.proxy_protocol {
        None => serve(client),
        Some(_) => worker.engine.spawn(introduced(client)),
    }
}

/// A door behind a load balancer: the PROXY header comes before everything else.
async fn introduced<E: Engine>(client: Downstream<E>) {
    if let Some(client) = proxy_protocol::introduce(client).await {
        serve(client);
    }
}

/// Starts what the door serves.
fn serve<E: Engine>(client: Downstream<E>) {
    let engine = client.connection.worker.engine.clone();
    match client.connection.door.kind {
        DoorKind::HttpProxy => engine.spawn(http1::serve_proxy(client)),
        DoorKind::Tls => engine.spawn(tls(client)),
        DoorKind::Tcp => engine.spawn(tcp(client)),
        DoorKind::Http => engine.spawn(http1::serve_direct(client)),
        DoorKind::Transparent => engine.spawn(transparent::serve(client)),
        DoorKind::Socks5 => engine.spawn(socks5::serve(client)),
        // Configuration refuses the kinds that are not built; should one slip through, nobody is served.
        _ => drop(client),
    }
}

/// TLS straight to the gateway: passed through, unread but for its ClientHello.
async fn tls<E: Engine>(client: Downstream<E>) {
    let Downstream { connection, stream: downstream, early } = client;
    let mut record = Record::tunnel(&connection, "tls");
    let Sniffed { hello, early } = match sniff::client_hello(&connection, &downstream, early).await {
        Ok(sniffed) => sniffed,
        Err(refused) => {
            if let Some(name) = refused.name_text() {
                record.entry.set_bytes(Field::RequestedServerName, name.as_bytes());
            }
            let Some(reason) = refused.reason() else {
                return record.flag(ResponseFlags::DC);
            };
            record.denied(reason);
            return refuse_tls(&connection, record, downstream).await;
        }
    };
    note_server_name(&mut record, &hello);
    let wanted = match wanted_by_hello(&connection, &hello) {
        Ok(wanted) => wanted,
        Err(reason) => {
            record.denied(reason);
            return refuse_tls(&connection, record, downstream).await;
        }
    };
    let asker = Rc::clone(&connection.asker.borrow());
    let route = connection.worker.decide(&asker, wanted);
    record.decided(&route);
    if route.is_denied() {
        return refuse_tls(&connection, record, downstream).await;
    }
    // TLS to a port where plain HTTP is declared would hide its requests from per-request policy.
    if route.declared_protocol().is_some_and(sluice_policy::Protocol::is_http) {
        record.denied(Reason::ProtocolMismatch);
        return refuse_tls(&connection, record, downstream).await;
    }
    connection.carries(Carried::Tls(route.wanted.host.clone()));
    forward(connection, record, &route, downstream, Some(early)).await;
}

/// What a ClientHello asks for: its name at the door's port, or at that of the original destination where one is known;
/// without a name that destination.
fn wanted_by_hello<E: Engine>(connection: &Connection<E>, hello: &ClientHello) -> Result<Wanted, Reason> {
    let (door, original) = (&connection.door, connection.announced.get());
    let port = door.destination_port.or(original.map(|original| original.port())).unwrap_or(door.bind.port());
    let original = original.map(|original| SocketAddr::new(original.ip(), port));
    let Some(name) = &hello.server_name else {
        original.ok_or(Reason::NoName)?;
        return Ok(Wanted { host: None, original, port, bound: None });
    };
    let mut scratch = HostBuf::new();
    let host = parse_host(name.as_bytes(), &mut scratch).map_err(|_| Reason::Malformed)?;
    Ok(Wanted { original, ..Wanted::named(host, port) })
}

/// Any TCP, bound to one service: nothing is read before the tunnel stands, so servers that speak first are served.
async fn tcp<E: Engine>(client: Downstream<E>) {
    let Downstream { connection, stream: downstream, early } = client;
    let mut record = Record::tunnel(&connection, "tcp");
    let asker = Rc::clone(&connection.asker.borrow());
    let port = connection.door.destination_port.unwrap_or(0);
    let wanted = Wanted {
        host: None,
        original: connection.announced.get().map(|original| SocketAddr::new(original.ip(), port)),
        port,
        bound: connection.door.service.clone(),
    };
    let route = connection.worker.decide(&asker, wanted);
    record.decided(&route);
    if route.is_denied() {
        return refuse_tunnel(record, &downstream);
    }
    forward(connection, record, &route, downstream, early).await;
}

/// Reaches the destination and becomes a tunnel; an obstacle resets the client.
async fn forward<E: Engine>(
    connection: Admitted<E>,
    mut record: Record<E>,
    route: &Rc<Route>,
    downstream: E::Stream,
    early: Option<Buffer>,
) {
    connection.begin(route);
    match reach(&connection, route).await {
        Ok(reached) => tunnel::start(connection, record, downstream, reached, early),
        Err(obstacle) => {
            let tls_denial =
                matches!(obstacle, Obstacle::Denied(..)) && connection.door.kind == DoorKind::Tls;
            note_obstacle(&mut record, &obstacle);
            if tls_denial {
                return refuse_tls(&connection, record, downstream).await;
            }
            downstream.reset();
        }
    }
}
