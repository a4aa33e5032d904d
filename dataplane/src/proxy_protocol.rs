//! The PROXY header that a door wants in front of every connection: who may write one, what it changes, and what becomes
//! of a connection without. It must not know the door's own protocol: the bytes behind the header are handed on as they
//! are.

use std::rc::Rc;
use std::sync::Arc;

use sluice_bridge::{Phase, ProxyProtocol};
use sluice_engine::{Buffer, Engine, Stream};
use sluice_policy::Reason;
use sluice_proto::proxy_protocol::{ProxyError, ProxyHeader, parse};
use sluice_telemetry::access_log::Field;
use sluice_telemetry::{Family, ResponseFlags};

use crate::connection::{Connection, Downstream};
use crate::record::Record;
use crate::sniff::Held;

/// Why a connection is not let in.
enum Refused {
    /// The peer is not one whose header is believed.
    Untrusted,
    /// The bytes are no acceptable header.
    Header(ProxyError),
    /// The peer ended or failed within its header.
    Incomplete,
    /// The peer ended or failed before it sent anything: a probe of the port.
    Nothing,
    /// The peer took too long.
    Timeout,
}

/// Reads the header that the door wants, and takes over the addresses that it tells; what came behind it already is
/// held. `None`: the connection has been refused, recorded and reset.
pub(crate) async fn introduce<E: Engine>(client: Downstream<E>) -> Option<Downstream<E>> {
    let Downstream { connection, stream, .. } = client;
    let door = Arc::clone(&connection.door);
    let expected = door.proxy_protocol.as_ref()?;
    match read(&connection, expected, &stream).await {
        Ok((header, early)) => {
            if let Some(forwarded) = header.forwarded {
                let original = Some(forwarded.destination).filter(|_| expected.use_destination);
                connection.forwarded(forwarded.source, original);
            }
            Some(Downstream { connection, stream, early })
        }
        Err(refused) => {
            refuse(&connection, &refused);
            stream.reset();
            None
        }
    }
}

async fn read<E: Engine>(
    connection: &Rc<Connection<E>>,
    expected: &ProxyProtocol,
    stream: &E::Stream,
) -> Result<(ProxyHeader, Option<Buffer>), Refused> {
    if !expected.trusts(connection.peer.get().ip()) {
        return Err(Refused::Untrusted);
    }
    connection.phase.set(Phase::Sniffing);
    let worker = &connection.worker;
    let deadline = worker.deadline_in_ms(worker.snapshot().limits.sniff_timeout_ms);
    let mut held = Held::default();
    loop {
        match deadline.run(stream.receive()).await {
            Ok(Ok(buffer)) if !buffer.is_empty() => held.push(buffer),
            Ok(_) if held.bytes().is_empty() => return Err(Refused::Nothing),
            Ok(_) => return Err(Refused::Incomplete),
            Err(_) => return Err(Refused::Timeout),
        }
        if let Some(header) = parse(held.bytes()).map_err(Refused::Header)? {
            let mut behind = held.into_buffer();
            behind.advance(header.wire_bytes);
            return Ok((header, Some(behind).filter(|behind| !behind.is_empty())));
        }
    }
}

/// Writes down a connection that is not let in.
fn refuse<E: Engine>(connection: &Rc<Connection<E>>, refused: &Refused) {
    let mut record = Record::tunnel(connection, "proxy_protocol");
    let (reason, details) = match refused {
        Refused::Untrusted => (Reason::Auth, "proxy_protocol_untrusted_peer"),
        Refused::Header(_) | Refused::Incomplete => (Reason::Malformed, "proxy_protocol_malformed"),
        Refused::Timeout => (Reason::SniffTimeout, "proxy_protocol_timeout"),
        Refused::Nothing => return record.flag(ResponseFlags::DC),
    };
    if let Refused::Untrusted = refused {
        let labels = [&*connection.door.name, "untrusted_peer"];
        connection.worker.metrics.count(Family::ProtocolErrors, &labels, 1);
    }
    if let Refused::Header(error) = refused {
        record.entry.set_text(Field::ConnectionTerminationDetails, &error.to_string());
    }
    record.denied(reason);
    record.black_holed();
    record.details(details);
}
