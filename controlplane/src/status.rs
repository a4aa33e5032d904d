//! What the control plane shows of itself: the state that the admin API reads and the control task writes. Knows no HTTP.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use sluice_bridge::{Command, Snapshot};
use sluice_config::Plan;
use tokio::sync::mpsc;

use crate::descriptors::Spares;
use crate::heavy::Heavy;

/// Writes the metrics in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// Where the gateway is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Workers have not all put the first snapshot in force.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what runs; nothing new is accepted.
    Draining,
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        })
    }
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Current {
    /// The configuration.
    pub plan: Arc<Plan>,
    /// What was made of it and given to the workers.
    pub snapshot: Arc<Snapshot>,
}

/// Shared between the control task and the admin connections.
pub struct Status {
    phase: RwLock<Phase>,
    current: RwLock<Current>,
    /// The workers' command queues, by index.
    pub workers: Vec<mpsc::Sender<Command>>,
    /// Where what takes time is done.
    pub heavy: Heavy,
    /// Descriptors for when there are no others.
    pub spares: Arc<Spares>,
    /// How metrics are written.
    pub metrics: RenderMetrics,
}

impl Status {
    /// The state at start; `spares` descriptors are held back from now on.
    pub fn new(
        current: Current,
        workers: Vec<mpsc::Sender<Command>>,
        heavy: Heavy,
        metrics: RenderMetrics,
        spares: usize,
    ) -> Self {
        let (phase, current) = (RwLock::new(Phase::Starting), RwLock::new(current));
        Self { phase, current, workers, heavy, spares: Arc::new(Spares::hold(spares)), metrics }
    }

    /// Where the gateway is in its life.
    pub fn phase(&self) -> Phase {
        *self.phase.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on; draining is final.
    pub fn set_phase(&self, phase: Phase) {
        let mut now = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        if *now != Phase::Draining {
            *now = phase;
        }
    }

    /// What is in force.
    pub fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts something new in force and returns the old.
    pub fn replace(&self, new: Current) -> Current {
        std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), new)
    }
}
