//! What a reload changes. Compares two checked plans; knows nothing of how a change is carried out.

use std::collections::HashMap;
use std::net::SocketAddr;

use sluice_policy::PolicyInput;

use crate::plan::{Door, Plan};

/// The difference between two plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Doors at addresses that had none.
    pub doors_added: Vec<Door>,
    /// Addresses that lose their door.
    pub doors_removed: Vec<SocketAddr>,
    /// Doors whose address stays and whose settings change in place (the new settings).
    pub doors_changed: Vec<Door>,
    /// Mode, scopes, workloads, registry or guard differ (the names of a `hosts_file` are compared by a digest).
    pub policy: bool,
    /// Proxy credentials differ.
    pub credentials: bool,
    /// `[limits]` differ.
    pub limits: bool,
    /// `[dns]` differs.
    pub dns: bool,
    /// `[access_log]` differs.
    pub access_log: bool,
    /// `[telemetry]` differs.
    pub telemetry: bool,
    /// `[telemetry.prometheus]` differs.
    pub prometheus: bool,
    /// `[deny]` differs.
    pub deny: bool,
    /// Keys whose change takes effect only after a restart, e.g. `dataplane.engine`.
    pub needs_restart: Vec<&'static str>,
}

impl Diff {
    /// Whether the two plans are the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares the plan in force with the one that shall follow it. A door is known by its bind address.
pub fn diff(old: &Plan, new: &Plan) -> Diff {
    let before: HashMap<SocketAddr, &Door> = old.doors.iter().map(|door| (door.bind, door)).collect();
    let after: HashMap<SocketAddr, &Door> = new.doors.iter().map(|door| (door.bind, door)).collect();
    let changed = |door: &&Door| before.get(&door.bind).is_some_and(|was| was != door);
    Diff {
        doors_added: new.doors.iter().filter(|door| !before.contains_key(&door.bind)).cloned().collect(),
        doors_removed: old
            .doors
            .iter()
            .map(|door| door.bind)
            .filter(|bind| !after.contains_key(bind))
            .collect(),
        doors_changed: new.doors.iter().filter(changed).cloned().collect(),
        policy: policy_differs(&old.policy_input, &new.policy_input)
            || old.host_lists_digest != new.host_lists_digest,
        credentials: old.credentials != new.credentials,
        limits: old.limits != new.limits,
        dns: old.dns != new.dns,
        access_log: old.access_log != new.access_log,
        telemetry: old.telemetry != new.telemetry,
        prometheus: old.prometheus != new.prometheus,
        deny: old.deny != new.deny,
        needs_restart: needs_restart(old, new),
    }
}

fn needs_restart(old: &Plan, new: &Plan) -> Vec<&'static str> {
    let (was, is) = (&old.dataplane, &new.dataplane);
    let keys = [
        ("dataplane.engine", was.engine != is.engine),
        ("dataplane.cores", was.cores != is.cores),
        ("dataplane.busy_poll", was.busy_poll != is.busy_poll),
        ("admin.bind", old.admin != new.admin),
        ("telemetry.reporter", old.telemetry.reporter != new.telemetry.reporter),
        ("telemetry.cluster_id", old.telemetry.cluster_id != new.telemetry.cluster_id),
        ("telemetry.host_labels", old.telemetry.host_labels != new.telemetry.host_labels),
    ];
    keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// Everything but the hash seed, which decides nothing.
fn policy_differs(old: &PolicyInput, new: &PolicyInput) -> bool {
    old.mode != new.mode
        || old.scopes != new.scopes
        || old.workloads != new.workloads
        || old.services != new.services
        || old.guard != new.guard
}
