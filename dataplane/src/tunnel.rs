//! An established tunnel: handed to the engine's relay, watched by a small task until it ends.

use std::rc::Rc;

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Engine, RelaySetup, Stream};
use sluice_relay::{self as relay, End, Side};
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;

use crate::connection::{Admitted, Connection};
use crate::reach::Reached;
use crate::record::Record;

/// Moves a tunnel out of its session: the task that stays holds little more than the record.
pub(crate) fn start<E: Engine>(
    connection: Admitted<E>,
    record: Record<E>,
    downstream: E::Stream,
    upstream: Reached<E>,
    from_downstream: Option<Buffer>,
) {
    start_with(connection, record, downstream, upstream, from_downstream, None);
}

/// The same, with bytes of either side that were received before. An empty buffer says that the side has ended.
pub(crate) fn start_with<E: Engine>(
    connection: Admitted<E>,
    mut record: Record<E>,
    downstream: E::Stream,
    upstream: Reached<E>,
    from_downstream: Option<Buffer>,
    from_upstream: Option<Buffer>,
) {
    record.entry.upstream_local_address = Some(upstream.stream.local_address());
    record.established();
    relay(connection, record, downstream, upstream.stream, from_downstream, from_upstream);
}

/// Moves both connections out of their session. A request that has switched to another protocol comes here with its
/// own record: it stays a request there, one that ends with the tunnel and counts its bytes.
pub(crate) fn relay<E: Engine>(
    connection: Admitted<E>,
    record: Record<E>,
    downstream: E::Stream,
    upstream: E::Stream,
    from_downstream: Option<Buffer>,
    from_upstream: Option<Buffer>,
) {
    let has_ended = |early: &Option<Buffer>| early.as_ref().is_some_and(|early| early.is_empty());
    let setup = RelaySetup {
        downstream_ended: has_ended(&from_downstream),
        upstream_ended: has_ended(&from_upstream),
        from_downstream: from_downstream.filter(|early| !early.is_empty()),
        from_upstream: from_upstream.filter(|early| !early.is_empty()),
        ..setup(&connection)
    };
    let engine = connection.worker.engine.clone();
    let relayed = engine.relay(downstream, upstream, setup);
    engine.spawn(async move {
        let report = relayed.await;
        close(&connection, record, report);
    });
}

/// A relay's setup under the limits in force.
pub(crate) fn setup<E: Engine>(connection: &Connection<E>) -> RelaySetup {
    connection.phase.set(Phase::Relaying);
    let snapshot = connection.worker.snapshot();
    RelaySetup {
        settings: relay::Settings {
            idle_timeout_ms: snapshot.limits.tunnel_idle_timeout_ms,
            half_close_timeout_ms: snapshot.limits.half_closed_timeout_ms,
            ..relay::Settings::default()
        },
        counters: Rc::clone(&connection.counters),
        ..RelaySetup::default()
    }
}

/// Writes down how a tunnel ended.
fn close<E: Engine>(connection: &Connection<E>, mut record: Record<E>, report: relay::Report) {
    let (flags, details) = match report.end {
        End::Closed => return,
        End::Reset(Side::Downstream) => (ResponseFlags::DC, "downstream_remote_disconnect"),
        End::Reset(Side::Upstream) => (ResponseFlags::UC, "upstream_remote_reset"),
        End::IdleTimeout => (ResponseFlags::SI, "idle_timeout"),
        End::HalfCloseTimeout => (ResponseFlags::SI, "half_close_timeout"),
        End::Aborted if connection.revoked.get() => (ResponseFlags::LR, "revoked"),
        End::Aborted => (ResponseFlags::LR, "local_reset"),
    };
    record.flag(flags);
    record.entry.set_static(Field::ConnectionTerminationDetails, details);
}
