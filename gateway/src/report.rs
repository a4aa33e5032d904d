//! The report at start: what runs, where and within which limits. It only words what others have found out.

use std::fmt::Write;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use sluice_config::Plan;
use sluice_controlplane::Listeners;
use sluice_controlplane::status::Current;

use crate::cores::ranges;
use crate::engine::Chosen;

/// Where everything really listens.
pub(crate) struct Addresses {
    doors: Vec<(Arc<str>, &'static str, SocketAddr)>,
    admin: Option<SocketAddr>,
    prometheus: Option<SocketAddr>,
}

impl Addresses {
    pub(crate) fn of(plan: &Plan, listeners: &Listeners) -> Self {
        let doors = plan.doors.iter().map(|door| {
            let address = listeners.door(door.bind).unwrap_or(door.bind);
            (Arc::clone(&door.name), door.kind.as_str(), address)
        });
        Self {
            doors: doors.collect(),
            admin: listeners.admin.local_addr().ok(),
            prometheus: listeners.prometheus.as_ref().and_then(|listener| listener.local_addr().ok()),
        }
    }
}

/// What the report tells.
pub(crate) struct Facts<'a> {
    pub(crate) first: &'a Current,
    pub(crate) chosen: &'a Chosen,
    pub(crate) cores: &'a [usize],
    pub(crate) cores_why: &'a str,
    pub(crate) addresses: &'a Addresses,
    pub(crate) descriptors: u64,
}

/// Prints it to standard error; standard output belongs to the access log.
pub(crate) fn print(facts: &Facts<'_>) {
    let mut text = String::new();
    // Writing to a String does not fail.
    write(facts, &mut text).ok();
    io::stderr().write_all(text.as_bytes()).ok();
}

fn write(facts: &Facts<'_>, out: &mut String) -> std::fmt::Result {
    let Facts { first: Current { plan, snapshot }, chosen, cores, cores_why, addresses, descriptors } = facts;
    writeln!(out, "sluice {}", env!("CARGO_PKG_VERSION"))?;
    let mut line = |key: &str, value: String| writeln!(out, "  {key:<12} {value}");
    match &plan.file {
        Some(file) => line("config", file.display().to_string())?,
        None => line("config", "none: defaults, environment and flags".to_owned())?,
    }
    line("mode", snapshot.policy.mode().as_str().to_owned())?;
    for scope in &plan.policy_input.scopes {
        line("scope", format!("{} for {}", scope.mode.as_str(), scope.source))?;
    }
    line("engine", engine(chosen))?;
    line("workers", format!("{} on core {} ({cores_why})", cores.len(), ranges(cores)))?;
    for (name, kind, address) in &addresses.doors {
        line("door", format!("{kind} on {address} ({name})"))?;
    }
    if let Some(admin) = addresses.admin {
        line("admin", format!("http://{admin}/"))?;
    }
    if let Some(prometheus) = addresses.prometheus {
        line("prometheus", format!("http://{prometheus}/metrics"))?;
    }
    let counts = snapshot.policy.counts();
    line(
        "registry",
        format!(
            "{} services, {} hosts, {} address ranges, {} workloads",
            counts.services, counts.hosts, counts.addresses, counts.workloads
        ),
    )?;
    let connections = snapshot.limits.connections_max.unwrap_or(0);
    line("limits", format!("{descriptors} open files, {connections} connections"))
}

fn engine(chosen: &Chosen) -> String {
    let kind = chosen.kind.as_str();
    match &chosen.fallback {
        Some(why) => format!("{kind}: {}; {}", why.reason, why.remedy),
        None => format!("{kind} ({})", chosen.reason.replace('_', " ")),
    }
}
