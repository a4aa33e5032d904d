//! The end of a connection that we answer and close: what was sent must not be lost to a reset.

use sluice_engine::{Engine, Stream};

use crate::worker::Worker;

/// Ends the write side, then discards (never interprets) what still arrives, within bounds, and closes. Without this,
/// closing with unread bytes would reset the connection and the peer might never see the answer (RFC 9112 §9.6).
pub(crate) async fn linger<E: Engine>(worker: &Worker<E>, stream: E::Stream) {
    let (time_ms, mut bytes_left) = {
        let snapshot = worker.snapshot();
        (snapshot.limits.linger_timeout_ms, snapshot.limits.linger_bytes_max)
    };
    if stream.shutdown().is_err() {
        return;
    }
    let deadline = worker.deadline_in_ms(time_ms);
    while let Ok(Ok(buffer)) = deadline.run(stream.receive()).await {
        if buffer.is_empty() || buffer.len() > bytes_left {
            return;
        }
        bytes_left -= buffer.len();
    }
}
