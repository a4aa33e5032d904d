//! The list of live connections, gathered from every worker within a time bound.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_bridge::{Command, ConnectionRow};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::limits::{CONNECTIONS_LIST_MAX, CONNECTIONS_LIST_TIMEOUT_MS};
use crate::status::Status;

/// Asks every worker; those that do not answer in time are named instead of waited for.
pub(super) async fn list(status: &Arc<Status>) -> Value {
    let deadline = Instant::now() + Duration::from_millis(CONNECTIONS_LIST_TIMEOUT_MS);
    let asked: Vec<_> =
        status.workers.iter().map(|commands| tokio::spawn(ask(commands.clone(), deadline))).collect();
    let mut rows = Vec::new();
    let mut silent = Vec::new();
    for (worker, answer) in asked.into_iter().enumerate() {
        match answer.await {
            Ok(Some(list)) => rows.extend(list),
            _ => silent.push(worker),
        }
    }
    let encode = move || {
        let total = rows.len();
        let shown: Vec<Value> = rows.iter().take(CONNECTIONS_LIST_MAX).map(row).collect();
        json!({
            "total": total,
            "truncated": total > shown.len(),
            "workers_without_answer": silent,
            "connections": shown,
        })
    };
    status.heavy.run(encode).await.unwrap_or(Value::Null)
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
        "port": row.port,
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
