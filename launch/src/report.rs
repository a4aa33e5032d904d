//! The report at start: what runs, where and within which limits. It only words what others have found out.

use std::fmt::Write;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use sluice_config::Plan;
use sluice_controlplane::Listeners;
use sluice_controlplane::status::Current;

use crate::cores;
use crate::product::Chosen;

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
    pub(crate) product: &'static str,
    pub(crate) first: &'a Current,
    pub(crate) chosen: &'a Chosen,
    pub(crate) cores: &'a [Option<usize>],
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
    let Facts {
        product,
        first: Current { plan, snapshot },
        chosen,
        cores,
        cores_why,
        addresses,
        descriptors,
    } = facts;
    writeln!(out, "{product} {}", env!("CARGO_PKG_VERSION"))?;
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
    line("workers", format!("{} ({cores_why})", cores::describe(cores)))?;
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
        [
            some(counts.services, "service"),
            some(counts.hosts, "host"),
            some(counts.addresses, "address range"),
            some(counts.workloads, "workload"),
        ]
        .join(", "),
    )?;
    let limits = &snapshot.limits;
    let connections = limits.connections_max.unwrap_or(0);
    line("limits", format!("{descriptors} open files, {connections} connections"))?;
    line(
        "",
        format!(
            "request head {} in {}, TLS hello {} in {}",
            bytes(limits.head_bytes_max),
            time(limits.request_head_timeout_ms),
            bytes(limits.hello_bytes_max),
            time(limits.sniff_timeout_ms)
        ),
    )?;
    line(
        "",
        format!(
            "connect {}, response head {}, drain {}",
            time(limits.connect_timeout_ms),
            time(limits.response_head_timeout_ms),
            time(limits.drain_timeout_ms)
        ),
    )?;
    line(
        "",
        format!(
            "idle: tunnel {}, half-closed {}, HTTP exchange {}, client {}, upstream {}",
            time(limits.tunnel_idle_timeout_ms),
            time(limits.half_closed_timeout_ms),
            time(limits.http_stream_idle_timeout_ms),
            time(limits.client_keepalive_timeout_ms),
            time(limits.upstream_keepalive_timeout_ms)
        ),
    )
}

/// `1 host`, `2 hosts`.
fn some(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Milliseconds for people: `500 ms`, `10 s`, `1 h`.
fn time(ms: u64) -> String {
    match ms {
        3_600_000.. if ms.is_multiple_of(3_600_000) => format!("{} h", ms / 3_600_000),
        _ if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        _ => format!("{ms} ms"),
    }
}

/// Bytes for people: `1000 B`, `32 KiB`.
fn bytes(count: usize) -> String {
    if count.is_multiple_of(1024) { format!("{} KiB", count / 1024) } else { format!("{count} B") }
}

fn engine(chosen: &Chosen) -> String {
    let kind = chosen.kind.as_str();
    match &chosen.fallback {
        Some(why) => format!("{kind}: {}; {}", why.reason, why.remedy),
        None => format!("{kind} ({})", chosen.reason.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!((some(1, "host"), some(0, "host")), ("1 host".to_owned(), "0 hosts".to_owned()));
        let times = [0, 500, 1500, 60_000, 3_600_000, 5_400_000].map(time);
        assert_eq!(times, ["0 s", "500 ms", "1500 ms", "60 s", "1 h", "5400 s"]);
        assert_eq!((bytes(1000), bytes(32 * 1024)), ("1000 B".to_owned(), "32 KiB".to_owned()));
    }
}
