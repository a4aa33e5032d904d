//! Chooses the engine and runs the workers' threads on it. The one place that names both engines.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use sluice_bridge::WorkerPort;
use sluice_config::{Dataplane, EngineChoice};
use sluice_dataplane::{WorkerConfig, run_worker};
use sluice_engine::Kind;
use sluice_engine_epoll::EpollEngine;
use sluice_engine_uring::{Unavailable, UringEngine};
use sluice_telemetry::WorkerMetrics;

use crate::cores;

/// Which engine runs, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// uring or epoll.
    pub(crate) kind: Kind,
    /// One of a few words, for the metric.
    pub(crate) reason: &'static str,
    /// Where it is not what was hoped for: why, and what to do.
    pub(crate) fallback: Option<Unavailable>,
}

/// The engine for a configured choice.
///
/// # Errors
/// Where `uring` is demanded and cannot run.
pub(crate) fn choose(
    choice: EngineChoice,
    probe: impl FnOnce() -> Result<(), Unavailable>,
) -> Result<Chosen, Unavailable> {
    let chosen = |kind, reason, fallback| Ok(Chosen { kind, reason, fallback });
    match choice {
        EngineChoice::Epoll => chosen(Kind::Epoll, "configured", None),
        EngineChoice::Uring => probe().and_then(|()| chosen(Kind::Uring, "configured", None)),
        EngineChoice::Auto => match probe() {
            Ok(()) => chosen(Kind::Uring, "probe_passed", None),
            Err(unavailable) => chosen(Kind::Epoll, "uring_unavailable", Some(unavailable)),
        },
    }
}

/// What one worker starts with.
pub(crate) struct Worker {
    pub(crate) port: WorkerPort,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) core: usize,
    pub(crate) connections_max: usize,
}

/// Starts a worker's thread. When it ends, for whatever reason, its port closes and the control plane sees that.
///
/// # Errors
/// As the system's when it cannot start a thread.
pub(crate) fn start(worker: Worker, kind: Kind, dataplane: &Dataplane) -> io::Result<JoinHandle<()>> {
    let busy_poll = dataplane.busy_poll;
    let name = format!("worker-{}", worker.port.index);
    Builder::new().name(name).spawn(move || {
        let index = worker.port.index;
        if let Err(error) = cores::pin(worker.core) {
            tracing::warn!(worker = index, core = worker.core, %error, "not pinned to its core");
        }
        // The panic hook has logged the panic; the thread ends and the control plane acts on it.
        match catch_unwind(AssertUnwindSafe(|| run(worker, kind, busy_poll))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(worker = index, error, "a worker cannot run"),
            Err(_) => tracing::error!(worker = index, "a worker panicked"),
        }
    })
}

fn run(worker: Worker, kind: Kind, busy_poll: bool) -> Result<(), String> {
    let Worker { port, metrics, connections_max, .. } = worker;
    let config = WorkerConfig { connections_max };
    if kind == Kind::Uring {
        let settings = sluice_engine_uring::Config { busy_poll, ..sluice_engine_uring::Config::default() };
        let engine = UringEngine::new(settings).map_err(|error| error.to_string())?;
        engine.block_on(run_worker(engine.clone(), port, metrics, config));
    } else {
        let settings = sluice_engine_epoll::Config { busy_poll, ..sluice_engine_epoll::Config::default() };
        let engine = EpollEngine::new(settings).map_err(|error| error.to_string())?;
        engine.block_on(run_worker(engine.clone(), port, metrics, config));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<(), Unavailable> {
        Err(Unavailable { reason: "seccomp".into(), remedy: "allow it".into() })
    }

    #[test]
    fn auto_falls_back_and_says_why() {
        let chosen = choose(EngineChoice::Auto, refused).expect("falls back");
        assert_eq!((chosen.kind, chosen.reason), (Kind::Epoll, "uring_unavailable"));
        assert_eq!(chosen.fallback, refused().err());
        assert_eq!(choose(EngineChoice::Auto, || Ok(())).map(|chosen| chosen.kind), Ok(Kind::Uring));
    }

    #[test]
    fn a_demanded_engine_is_not_replaced() {
        assert!(choose(EngineChoice::Uring, refused).is_err());
        let chosen = choose(EngineChoice::Epoll, || panic!("not probed")).expect("needs nothing");
        assert_eq!(chosen.kind, Kind::Epoll);
    }
}
