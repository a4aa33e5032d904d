//! A worker's thread. It must not know which engine the worker runs on.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use sluice_bridge::WorkerPort;
use sluice_dataplane::{OwnDials, WorkerConfig, run_worker};
use sluice_engine::{Engine, Kind};
use sluice_engine_epoll::EpollEngine;
use sluice_telemetry::WorkerMetrics;

use crate::cores;
use crate::product::Product;

/// What one worker starts with.
pub struct Worker {
    pub(crate) port: WorkerPort,
    pub(crate) metrics: WorkerMetrics,
    /// Where it is kept; `None`: wherever the system puts it.
    pub(crate) core: Option<usize>,
    pub(crate) connections_max: usize,
    pub(crate) own_dials: Arc<OwnDials>,
    /// Pipes for splice(2) at most; the engine may keep fewer.
    pub pipes_max: usize,
    /// It never sleeps: lower latency for a whole core.
    pub busy_poll: bool,
}

/// Starts a worker's thread. When it ends, for whatever reason, its port closes and the control plane sees that.
///
/// # Errors
/// As the system's when it cannot start a thread.
pub(crate) fn start(product: &'static Product, worker: Worker, kind: Kind) -> io::Result<JoinHandle<()>> {
    let name = format!("worker-{}", worker.port.index);
    Builder::new().name(name).spawn(move || {
        let index = worker.port.index;
        if let Some(core) = worker.core
            && let Err(error) = cores::pin(core)
        {
            tracing::warn!(worker = index, core, %error, "not pinned to its core");
        }
        // The panic hook has logged the panic; the thread ends and the control plane acts on it.
        match catch_unwind(AssertUnwindSafe(|| (product.run)(worker, kind))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(worker = index, error, "a worker cannot run"),
            Err(_) => tracing::error!(worker = index, "a worker panicked"),
        }
    })
}

/// The worker itself, on an engine of this thread.
pub async fn run_on<E: Engine>(engine: E, worker: Worker) {
    let Worker { port, metrics, connections_max, own_dials, .. } = worker;
    run_worker(engine, port, metrics, WorkerConfig { connections_max, own_dials }).await;
}

/// Runs a worker on epoll, which every binary has.
///
/// # Errors
/// In words, when the engine cannot be made.
pub fn run_on_epoll(worker: Worker) -> Result<(), String> {
    let mut settings = sluice_engine_epoll::Config { busy_poll: worker.busy_poll, ..Default::default() };
    settings.pipes_max = settings.pipes_max.min(worker.pipes_max);
    let engine = EpollEngine::new(settings).map_err(|error| error.to_string())?;
    engine.block_on(run_on(engine.clone(), worker));
    Ok(())
}
