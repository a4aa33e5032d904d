//! The end of a connection that we answer and close: what was sent must not be lost to a reset.

use sluice_engine::{Deadline, Engine, Stream};

use crate::worker::Worker;

/// Ends the write side, then discards (never interprets) what still arrives, within bounds, and closes. Without this,
/// closing with unread bytes would reset the connection and the peer might never see the answer (RFC 9112 §9.6).
pub(crate) async fn linger<E: Engine>(worker: &Worker<E>, stream: E::Stream) {
    let (time, mut bytes_left) = {
        let snapshot = worker.snapshot();
        (
            std::time::Duration::from_millis(snapshot.limits.linger_timeout_ms),
            snapshot.limits.linger_bytes_max,
        )
    };
    if stream.shutdown().is_err() {
        return;
    }
    let deadline = Deadline::new(worker.engine.clone());
    deadline.set(Some(worker.engine.now() + time));
    while let Ok(Ok(buffer)) = deadline.run(stream.receive()).await {
        if buffer.is_empty() || buffer.len() > bytes_left {
            return;
        }
        bytes_left -= buffer.len();
    }
}
