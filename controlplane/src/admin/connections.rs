//! The list of live connections, gathered from every worker within a time bound.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_bridge::{Command, ConnectionRow};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::limits::{CONNECTIONS_LIST_MAX, CONNECTIONS_LIST_TIMEOUT_MS};
use crate::status::Status;

/// What the workers listed.
pub(super) struct Listed {
    rows: Vec<ConnectionRow>,
    /// Workers that did not answer in time.
    silent: Vec<usize>,
}

/// Asks every worker; those that do not answer in time are named instead of waited for.
pub(super) async fn list(status: &Status) -> Listed {
    let deadline = Instant::now() + Duration::from_millis(CONNECTIONS_LIST_TIMEOUT_MS);
    let asked: Vec<_> =
        status.workers.iter().map(|commands| tokio::spawn(ask(commands.clone(), deadline))).collect();
    let mut listed = Listed { rows: Vec::new(), silent: Vec::new() };
    for (worker, answer) in asked.into_iter().enumerate() {
        match answer.await {
            Ok(Some(rows)) => listed.rows.extend(rows),
            _ => listed.silent.push(worker),
        }
    }
    listed
}

impl Listed {
    pub(super) fn to_json(&self) -> Value {
        let shown: Vec<Value> = self.rows.iter().take(CONNECTIONS_LIST_MAX).map(row).collect();
        json!({
            "total": self.rows.len(),
            "truncated": self.rows.len() > shown.len(),
            "workers_without_answer": self.silent,
            "connections": shown,
        })
    }
}

async fn ask(commands: mpsc::Sender<Command>, deadline: Instant) -> Option<Vec<ConnectionRow>> {
    let (reply, rows) = oneshot::channel();
    timeout_at(deadline, commands.send(Command::List(reply))).await.ok()?.ok()?;
    timeout_at(deadline, rows).await.ok()?.ok()
}

fn row(row: &ConnectionRow) -> Value {
    json!({
        "id": row.id,
        "worker": row.worker,
        "door": &*row.door,
        "source": row.source.to_string(),
        "workload": row.workload.as_deref(),
        "namespace": row.namespace.as_deref(),
        "protocol": row.protocol,
        "host": row.host.as_deref(),
        "port": (row.port != 0).then_some(row.port),
        "upstream": row.upstream.map(|address| address.to_string()),
        "service": row.service.as_deref(),
        "decision": row.decision.map(sluice_policy::Verdict::as_str),
        "reason": row.reason.map(sluice_policy::Reason::as_str),
        "received_bytes": row.received_bytes,
        "sent_bytes": row.sent_bytes,
        "age_ms": row.age_ms,
        "phase": row.phase.as_str(),
        "path": row.path.map(sluice_bridge::Path::as_str),
    })
}
