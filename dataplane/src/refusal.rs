//! Ends of flows that have no answer in HTTP: a reset or an alert, and what stays in the record of what stood in the way.
//! Knows nothing of why the policy denies.

use sluice_bridge::{DenyTls, Phase};
use sluice_engine::{Engine, Stream};
use sluice_proto::tls::unrecognized_name_alert;
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;

use crate::connection::Connection;
use crate::linger::linger;
use crate::reach::Obstacle;
use crate::record::Record;

/// Refuses a flow that has no HTTP answer and no TLS alert.
pub(crate) fn refuse_tunnel<E: Engine>(mut record: Record<E>, downstream: &E::Stream) {
    record.black_holed();
    downstream.reset();
}

/// Writes an obstacle into the record of a flow that has no HTTP answer.
pub(crate) fn note_obstacle<E: Engine>(record: &mut Record<E>, obstacle: &Obstacle) {
    match obstacle {
        Obstacle::Denied(reason, would_allow) => {
            record.denied(*reason);
            record.black_holed();
            if let Some(text) = would_allow {
                record.entry.set_text(Field::ConnectionTerminationDetails, text);
            }
        }
        Obstacle::Dns(unresolved) => {
            record.flag(ResponseFlags::DF);
            record.entry.set_static(Field::UpstreamTransportFailureReason, unresolved.as_str());
        }
        Obstacle::Cut => record.flag(ResponseFlags::LR),
        Obstacle::Dial(error) => {
            record.flag(ResponseFlags::UF);
            record.entry.set_text(Field::UpstreamTransportFailureReason, &error.to_text());
        }
    }
}

/// Refuses a TLS client: with a reset, or with an alert that tells it that the name is the reason.
pub(crate) async fn refuse_tls<E: Engine>(
    connection: &Connection<E>,
    mut record: Record<E>,
    downstream: E::Stream,
) {
    record.black_holed();
    // The decision is final: the record need not wait for the client to go.
    drop(record);
    if connection.door.deny_tls == DenyTls::Reset {
        downstream.reset();
        return;
    }
    let mut alert = connection.worker.engine.buffer();
    let fits = alert.append(unrecognized_name_alert());
    debug_assert!(fits, "an alert is 7 bytes");
    connection.phase.set(Phase::Lingering);
    if downstream.send(alert).await.is_ok() {
        linger(&connection.worker, downstream).await;
    }
}
