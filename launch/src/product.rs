//! What one binary has that another has not: its name, its engines, its log files. It must not know how they are used.

use std::io;
use std::path::Path;

use sluice_config::EngineChoice;
use sluice_controlplane::LogWriter;
use sluice_engine::Kind;

use crate::doctor::Finding;
use crate::worker::Worker;

/// One binary.
#[derive(Debug)]
pub struct Product {
    /// What it is called on the command line and in its report.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// How many workers run where `dataplane.cores` names none.
    pub workers: WorkersDefault,
    /// The engine for a configured choice, or why that one cannot be had.
    pub choose: fn(EngineChoice) -> Result<Chosen, Unavailable>,
    /// What `doctor` says of the engines that this binary has.
    pub examine: fn(EngineChoice) -> Vec<Finding>,
    /// Runs a worker on the calling thread until it is told to stop.
    pub run: fn(Worker, Kind) -> Result<(), String>,
    /// Opens an access-log file.
    pub open_log: fn(&Path) -> io::Result<Box<dyn LogWriter>>,
}

/// How many workers run where the configuration does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkersDefault {
    /// One per core but one, each kept on its core: the machine is ours.
    PerCore,
    /// One, wherever the system puts it: the machine is somebody else's.
    One,
}

/// Which engine runs, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// uring or epoll.
    pub kind: Kind,
    /// One of a few words, for the metric.
    pub reason: &'static str,
    /// Where it is not what was hoped for: why, and what to do.
    pub fallback: Option<Unavailable>,
}

/// Why an engine cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What was refused or found missing.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "dataplane.engine: {}; {}", self.reason, self.remedy)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A binary with epoll only.
    pub(crate) static EPOLL: Product = Product {
        name: "sluice",
        about: "For tests.",
        workers: WorkersDefault::One,
        choose: |_| Ok(Chosen { kind: Kind::Epoll, reason: "configured", fallback: None }),
        examine: |_| Vec::new(),
        run: |worker, _| crate::run_on_epoll(worker),
        open_log: |_| Err(io::ErrorKind::Unsupported.into()),
    };
}
