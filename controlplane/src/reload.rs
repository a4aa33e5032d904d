//! Prepares a new configuration: read, checked, its doors bound, compiled, so that putting it in force cannot fail any more.
//! It changes nothing that runs.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice_bridge::Snapshot;
use sluice_config::{AccessLog, Diff, Plan, Problem, Report, Source};

use crate::descriptors::{Budget, Spares};
use crate::doors::{self, BindError, Bound};
use crate::heavy::{Heavy, JobLost};
use crate::limits::{DOOR_CLOSING_WAIT_MS, DOOR_CLOSING_WAITS, RELOAD_DESCRIPTORS};
use crate::local;
use crate::publish::{self, PublishError, Surroundings};
use crate::records::LogWriter;

/// Makes the writer of access-log lines; injected, so that this crate knows no file format or engine.
pub type MakeLogWriter = Arc<dyn Fn(&AccessLog) -> io::Result<Box<dyn LogWriter>> + Send + Sync>;

/// What is in force, as far as preparing needs it.
#[derive(Clone)]
pub(crate) struct Basis {
    /// The configuration in force.
    pub(crate) plan: Arc<Plan>,
    /// How it was loaded.
    pub(crate) source: Source,
    /// The generation that the new snapshot will have.
    pub(crate) generation: u64,
    /// Where each door really listens, by the address it was configured with.
    pub(crate) doors: HashMap<SocketAddr, SocketAddr>,
    /// Where the admin API listens.
    pub(crate) admin: SocketAddr,
    /// Where metrics are served from outside.
    pub(crate) prometheus: Option<SocketAddr>,
    /// Listeners per door.
    pub(crate) workers: usize,
    /// How the limit of open files is divided.
    pub(crate) budget: Budget,
    /// Descriptors to read files with when there are no others.
    pub(crate) spares: Arc<Spares>,
}

/// A new configuration, ready to be put in force.
pub(crate) struct Prepared {
    /// The configuration; what needs a restart is as before.
    pub(crate) plan: Plan,
    /// Compiled.
    pub(crate) snapshot: Snapshot,
    /// What changed.
    pub(crate) diff: Diff,
    /// What is allowed and probably not meant.
    pub(crate) warnings: Vec<Problem>,
    /// Listeners of the new doors, by configured address.
    pub(crate) bound: Vec<(SocketAddr, Bound)>,
    /// Where each door will listen, by configured address.
    pub(crate) doors: HashMap<SocketAddr, SocketAddr>,
    /// The new metrics listener, if `[telemetry.prometheus]` changed to one.
    pub(crate) prometheus: Option<TcpListener>,
    /// The new writer, if `[access_log]` changed.
    pub(crate) log_writer: Option<Box<dyn LogWriter>>,
}

/// Why the last good configuration stays in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// It cannot be read or is wrong.
    #[error(transparent)]
    Config(#[from] Report),
    /// A new door cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket that is bound already would have to become another one.
    #[error(
        "the door at {0} is captured with tproxy, or no longer: that needs a restart, or another address"
    )]
    Capture(SocketAddr),
    /// Connections, lookups and pipes were given the other descriptors at start.
    #[error(
        "listener[{index}]: the door {name} at {address} is one too many for the limit of {descriptors} open files, which was \
         divided at start with room for {doors_max} doors at a time, those that this reload removes included: restart to divide \
         it anew, or raise it (LimitNOFILE= or --ulimit nofile=; 1048576 is a good value)"
    )]
    TooManyDoors {
        /// Its place among the doors of the configuration, from 0.
        index: usize,
        /// The first door without room.
        name: Arc<str>,
        /// Where it would listen.
        address: SocketAddr,
        /// The limit that was divided.
        descriptors: u64,
        /// Doors that there is room for.
        doors_max: usize,
    },
    /// It cannot be compiled.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The new access log cannot be opened.
    #[error("access_log.path: {0}")]
    AccessLog(io::Error),
    /// The heavy thread failed.
    #[error(transparent)]
    Lost(#[from] JobLost),
}

/// Prepares whatever the source gives now.
///
/// # Errors
/// [`ReloadError`]; whatever was bound or opened is closed again.
pub(crate) async fn prepare(
    basis: Basis,
    heavy: Heavy,
    make_writer: MakeLogWriter,
) -> Result<Prepared, ReloadError> {
    let source = Source { now: crate::clock::now(), ..basis.source.clone() };
    let (old, spares) = (Arc::clone(&basis.plan), Arc::clone(&basis.spares));
    let load = move || {
        let loaded = spares.lend(RELOAD_DESCRIPTORS, || sluice_config::load(&source))?;
        let diff = sluice_config::diff(&old, &loaded.plan);
        Ok::<_, Report>((loaded, diff))
    };
    let (loaded, mut diff) = heavy.run(load).await??;
    let (mut plan, warnings) = (loaded.plan, loaded.warnings);
    // Read at start only: kept as they are, so that the next reload still says that a restart is due.
    plan.dataplane = basis.plan.dataplane.clone();
    plan.admin = basis.plan.admin.clone();
    plan.telemetry = basis.plan.telemetry.clone();
    let percent = basis.plan.limits.connections_percent_max;
    if std::mem::replace(&mut plan.limits.connections_percent_max, percent) != percent {
        diff.needs_restart.push("limits.connections_percent_max");
    }
    let spares = basis.plan.limits.control_descriptors;
    if std::mem::replace(&mut plan.limits.control_descriptors, spares) != spares {
        diff.needs_restart.push("limits.control_descriptors");
    }
    if diff.telemetry && !diff.needs_restart.iter().any(|key| key.starts_with("telemetry.")) {
        diff.needs_restart.push("telemetry");
    }

    let all: Vec<SocketAddr> = plan.doors.iter().map(|door| door.bind).collect();
    let mut doors = basis.doors.clone();
    doors.retain(|configured, _| all.contains(configured));
    let mut bound = Vec::new();
    for door in &plan.doors {
        let before = basis.plan.doors.iter().find(|before| before.bind == door.bind);
        if before.is_some_and(|before| before.is_tproxy() != door.is_tproxy()) {
            return Err(ReloadError::Capture(door.bind));
        }
    }
    room_for_doors(&basis, &plan, &diff)?;
    for door in &diff.doors_added {
        let what = format!("door {}", door.name);
        let listeners = bind_patiently(&what, door.bind, basis.workers, doors::options(door, &all)).await?;
        doors.insert(door.bind, listeners.address);
        bound.push((door.bind, listeners));
    }
    let prometheus = match &plan.prometheus {
        Some(prometheus) if diff.prometheus => {
            Some(doors::bind_exclusive("telemetry.prometheus", prometheus.bind)?)
        }
        _ => None,
    };
    let prometheus_address = match &prometheus {
        Some(listener) => listener.local_addr().ok(),
        None if diff.prometheus => None,
        None => basis.prometheus,
    };
    let log_writer = match diff.access_log {
        true => Some(make_writer(&plan.access_log).map_err(ReloadError::AccessLog)?),
        false => None,
    };
    let mut listeners: Vec<SocketAddr> = doors.values().copied().collect();
    listeners.push(basis.admin);
    listeners.extend(prometheus_address);
    for problem in publish::missing_sources(&plan) {
        tracing::warn!("{problem}");
    }
    let (generation, budget) = (basis.generation, basis.budget);
    let (plan, snapshot) = heavy
        .run(move || {
            let surroundings = Surroundings { listeners, local_addresses: local::addresses(), budget };
            let snapshot = publish::snapshot(&plan, generation, &surroundings);
            (plan, snapshot)
        })
        .await?;
    Ok(Prepared { plan, snapshot: snapshot?, diff, warnings, bound, doors, prometheus, log_writer })
}

/// Whether the descriptors suffice for the added doors beside those in force, which close only after the new ones are open.
fn room_for_doors(basis: &Basis, plan: &Plan, diff: &Diff) -> Result<(), ReloadError> {
    let Budget { descriptors, doors_max, .. } = basis.budget;
    let Some(door) = diff.doors_added.get(doors_max.saturating_sub(basis.doors.len())) else { return Ok(()) };
    let index = plan.doors.iter().position(|each| each.bind == door.bind).unwrap_or_default();
    let (name, address) = (Arc::clone(&door.name), door.bind);
    Err(ReloadError::TooManyDoors { index, name, address, descriptors, doors_max })
}

/// A door that an earlier reload removed may still be closing at the same address: worth a short wait.
async fn bind_patiently(
    what: &str,
    address: SocketAddr,
    workers: usize,
    options: doors::Options,
) -> Result<Bound, BindError> {
    for _ in 0..DOOR_CLOSING_WAITS {
        match doors::bind(what, address, workers, options) {
            Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => {
                tokio::time::sleep(Duration::from_millis(DOOR_CLOSING_WAIT_MS)).await;
            }
            result => return result,
        }
    }
    doors::bind(what, address, workers, options)
}

/// Writes the reason to the log, one line per problem.
pub(crate) fn log_refusal(error: &ReloadError, file: Option<&Path>) {
    let file = file.map(|file| file.display().to_string()).unwrap_or_default();
    match error {
        ReloadError::Config(report) => {
            for problem in report.errors.iter().take(crate::limits::PROBLEMS_LOGGED_MAX) {
                tracing::error!("configuration: {}", problem.one_line());
            }
            let errors = report.errors.len();
            tracing::error!(file, errors, "reload refused, the last good configuration stays in force");
        }
        other => {
            tracing::error!(file, error = %other, "reload refused, the last good configuration stays in force");
        }
    }
}

/// Writes warnings to the log.
pub(crate) fn log_warnings(warnings: &[Problem]) {
    for problem in warnings.iter().take(crate::limits::PROBLEMS_LOGGED_MAX) {
        tracing::warn!("configuration: {}", problem.one_line());
    }
}
