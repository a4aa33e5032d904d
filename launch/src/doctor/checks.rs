//! The checks themselves; each looks at one thing.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use rustix::thread::CapabilitySet;
use sluice_config::{EngineChoice, Loaded, Plan, Problem, Source};
use sluice_controlplane::descriptors::Budget;
use sluice_controlplane::dns;

use super::Finding;
use crate::cores;
use crate::product::Product;

/// A gateway that holds fewer descriptors than this is a toy.
const DESCRIPTORS_MIN: u64 = 4096;
/// What the finding about the configuration is called.
pub(super) const CONFIGURATION: &str = "configuration";
/// How long a DNS server may take.
const DNS_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn all(product: &Product, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let plan = configuration(source, &mut findings);
    findings.push(kernel());
    let choice = plan.as_ref().map_or(EngineChoice::Auto, |plan| plan.dataplane.engine);
    findings.extend((product.examine)(choice));
    findings.push(seccomp());
    findings.push(descriptors(product, plan.as_ref()));
    findings.push(capabilities(plan.as_ref()));
    findings.push(processors(product, plan.as_ref()));
    findings.extend(dns_servers(plan.as_ref()));
    findings
}

fn configuration(source: &Source, findings: &mut Vec<Finding>) -> Option<Plan> {
    const ABOUT: &str = CONFIGURATION;
    match sluice_config::load(source).and_then(Loaded::startable) {
        Ok(loaded) => {
            let found = match &loaded.plan.file {
                Some(file) => format!("{}: valid, {}", file.display(), loaded.plan.mode.as_str()),
                None => "no file: defaults, environment and flags".to_owned(),
            };
            findings.push(match loaded.warnings.len() {
                0 => Finding::ok(ABOUT, found),
                count => Finding::warn(ABOUT, format!("{found}, {count} warnings"), "run `sluice check`"),
            });
            Some(loaded.plan)
        }
        Err(report) => {
            let first = report.errors.first().map(Problem::one_line).unwrap_or_default();
            let found = match report.errors.len() {
                0 | 1 => first,
                count => format!("{count} errors, the first: {first}"),
            };
            findings.push(Finding::fail(ABOUT, found, "run `sluice check` and mend what it lists"));
            None
        }
    }
}

fn kernel() -> Finding {
    let uname = rustix::system::uname();
    Finding::ok(
        "kernel",
        format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
    )
}

fn seccomp() -> Finding {
    const ABOUT: &str = "seccomp";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match mode {
        Some("0") => Finding::ok(ABOUT, "no filter"),
        Some("2") => {
            Finding::ok(ABOUT, "a filter is active; the line about io_uring says whether it blocks that")
        }
        Some("1") => Finding::fail(ABOUT, "strict mode", "start sluice without it"),
        _ => Finding::ok(ABOUT, "not known"),
    }
}

fn descriptors(product: &Product, plan: Option<&Plan>) -> Finding {
    const ABOUT: &str = "open files";
    const REMEDY: &str = "raise LimitNOFILE= (systemd) or --ulimit nofile= (containers) to 1048576";
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let found = format!("soft {soft}, hard {hard}; sluice raises soft to hard");
    let Some(plan) = plan else {
        return if hard < DESCRIPTORS_MIN {
            Finding::warn(ABOUT, found, REMEDY)
        } else {
            Finding::ok(ABOUT, found)
        };
    };
    match Budget::divide(&plan.limits, hard, workers(product, plan), plan.doors.len()) {
        Err(refused) => Finding::fail(ABOUT, format!("{found}, and does not start: {refused}"), REMEDY),
        Ok(budget) => {
            let found = format!("{found} and carries {} connections", budget.connections_max);
            if hard < DESCRIPTORS_MIN || budget.reduced {
                return Finding::warn(ABOUT, found, REMEDY);
            }
            Finding::ok(ABOUT, found)
        }
    }
}

/// How many workers would run; one where that cannot be told, which has a finding of its own.
fn workers(product: &Product, plan: &Plan) -> usize {
    let Ok(allowed) = cores::allowed() else { return 1 };
    let configured = plan.dataplane.cores.as_deref();
    cores::for_workers(product.workers, configured, &allowed, cores::quota())
        .map_or(1, |(cores, _)| cores.len())
}

fn capabilities(plan: Option<&Plan>) -> Finding {
    const ABOUT: &str = "capabilities";
    let Ok(sets) = rustix::thread::capabilities(None) else {
        return Finding::warn(ABOUT, "cannot be read", "run doctor as the user that sluice runs as");
    };
    let has = |set: CapabilitySet| if sets.effective.contains(set) { "yes" } else { "no" };
    let unprivileged =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let tproxy = plan.and_then(|plan| plan.doors.iter().find(|door| door.is_tproxy()));
    let found = format!(
        "NET_BIND_SERVICE {} (needed for ports below {}), NET_ADMIN {} ({})",
        has(CapabilitySet::NET_BIND_SERVICE),
        unprivileged.trim(),
        has(CapabilitySet::NET_ADMIN),
        match tproxy {
            Some(door) => format!("the door {} needs it: tproxy", door.name),
            None => "no configured door needs it".to_owned(),
        }
    );
    let may_capture = sets.effective.intersects(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
    if tproxy.is_some() && !may_capture {
        let remedy = "AmbientCapabilities=CAP_NET_ADMIN (systemd) or --cap-add NET_ADMIN (containers)";
        return Finding::fail(ABOUT, found, remedy);
    }
    Finding::ok(ABOUT, found)
}

fn processors(product: &Product, plan: Option<&Plan>) -> Finding {
    const ABOUT: &str = "processors";
    let Ok(allowed) = cores::allowed() else {
        return Finding::warn(ABOUT, "the affinity mask cannot be read", "set dataplane.cores");
    };
    let configured = plan.and_then(|plan| plan.dataplane.cores.as_deref());
    match cores::for_workers(product.workers, configured, &allowed, cores::quota()) {
        Ok((workers, why)) => Finding::ok(ABOUT, format!("workers: {} ({why})", cores::describe(&workers))),
        Err(why) => {
            Finding::fail(ABOUT, why, "name cores that this process may run on, or leave the key out")
        }
    }
}

fn dns_servers(plan: Option<&Plan>) -> Vec<Finding> {
    let configured = plan.and_then(|plan| plan.dns.servers.clone());
    let servers = configured.unwrap_or_else(|| dns::system_servers(Path::new(dns::RESOLV_CONF)));
    servers.into_iter().map(dns_server).collect()
}

fn dns_server(server: SocketAddr) -> Finding {
    const ABOUT: &str = "DNS server";
    match ask(server) {
        Ok(()) => Finding::ok(ABOUT, format!("{server} answers")),
        Err(error) => Finding::warn(
            ABOUT,
            format!("{server} does not answer: {error}"),
            "check [dns] servers (absent: /etc/resolv.conf) and that UDP port 53 to it is open",
        ),
    }
}

/// Asks for the root's name servers: any server that answers at all is alive.
fn ask(server: SocketAddr) -> std::io::Result<()> {
    const ROOT_NS: [u8; 17] = [0x51, 0x1c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(DNS_TIMEOUT))?;
    socket.connect(server)?;
    socket.send(&ROOT_NS)?;
    let mut answer = [0; 512];
    let end = Instant::now() + DNS_TIMEOUT;
    // The kernel does not restart a receive that has a timeout; one was seen interrupted, with the io_uring self-test before it.
    let length = loop {
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == ErrorKind::Interrupted && Instant::now() < end => {}
            received => break received?,
        }
    };
    let is_answer = length >= 12 && answer[..2] == ROOT_NS[..2] && answer[2] & 0x80 != 0;
    if is_answer { Ok(()) } else { Err(std::io::Error::other("what it sent is no DNS answer")) }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn a_dns_server_is_told_from_silence() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = server.local_addr().expect("bound");
        let answering = std::thread::spawn(move || {
            let mut question = [0; 512];
            let (length, peer) = server.recv_from(&mut question).expect("a question");
            question[2] |= 0x80;
            server.send_to(&question[..length], peer).expect("sends");
        });
        assert_eq!(dns_server(address).grade, Grade::Ok);
        answering.join().expect("one question");
        let closed = dns_server(address);
        assert_eq!(closed.grade, Grade::Warn);
        assert!(closed.remedy.is_some());
    }
}
