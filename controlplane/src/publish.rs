//! From a checked plan to what workers are given: the snapshot, door plans, DNS and telemetry settings. Pure but for the
//! clockless randomness of credential salts; it must not know when or why something is published.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use sluice_bridge as bridge;
use sluice_config as config;
use sluice_config::Plan;
use sluice_telemetry as telemetry;

use crate::descriptors::Budget;

/// What a snapshot needs beyond the plan.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Every address that this process listens on, with the ports it really got.
    pub listeners: Vec<SocketAddr>,
    /// This host's own addresses.
    pub local_addresses: Vec<IpAddr>,
    /// How the limit of open files is divided.
    pub budget: Budget,
}

/// Why a checked plan cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The policy cannot know all of our own sockets and addresses.
    #[error("the guard: {0}")]
    Policy(#[from] sluice_policy::Problem),
    /// The credentials cannot be held.
    #[error("proxy credentials: {0}")]
    Credentials(#[from] bridge::CredentialsError),
}

/// Makes a plan's snapshot; it shares the plan's compiled policy.
///
/// # Errors
/// [`PublishError`].
pub fn snapshot(
    plan: &Plan,
    generation: u64,
    surroundings: &Surroundings,
) -> Result<bridge::Snapshot, PublishError> {
    let policy = plan.policy.with_own_sockets(&surroundings.listeners, &surroundings.local_addresses)?;
    let mut credentials = bridge::CredentialsBuilder::new()?;
    for credential in &plan.credentials {
        let password = credential.password.expose_secret();
        credentials.add(&credential.user, password, Arc::clone(&credential.identity))?;
    }
    Ok(bridge::Snapshot {
        generation,
        policy,
        limits: limits(&plan.limits, &surroundings.budget),
        deny: bridge::Deny { contact: plan.deny.contact.clone() },
        credentials: credentials.build(),
        dns: dns(&plan.dns),
        telemetry: telemetry_settings(plan),
        access_log: match plan.access_log.lines {
            config::AccessLogLines::All => bridge::AccessLog::All,
            config::AccessLogLines::DeniedAndErrors => bridge::AccessLog::DeniedAndErrors,
            config::AccessLogLines::Off => bridge::AccessLog::Off,
        },
    })
}

fn limits(limits: &config::Limits, budget: &Budget) -> bridge::Limits {
    bridge::Limits {
        request_head_timeout_ms: limits.request_head_timeout_ms,
        head_bytes_max: limits.request_head_bytes_max,
        sniff_timeout_ms: limits.sniff_timeout_ms,
        hello_bytes_max: limits.sniff_bytes_max,
        connect_timeout_ms: limits.connect_timeout_ms,
        response_head_timeout_ms: limits.response_head_timeout_ms,
        http_stream_idle_timeout_ms: limits.http_stream_idle_timeout_ms,
        client_keepalive_timeout_ms: limits.downstream_keepalive_timeout_ms,
        upstream_keepalive_timeout_ms: limits.upstream_keepalive_timeout_ms,
        tunnel_idle_timeout_ms: limits.tunnel_idle_timeout_ms,
        half_closed_timeout_ms: limits.half_closed_timeout_ms,
        drain_timeout_ms: limits.drain_timeout_ms,
        connections_max: Some(budget.connections_max),
        control_descriptors: budget.spares,
        ..bridge::Limits::default()
    }
}

/// `[dns]` in the units of the bridge.
pub fn dns(dns: &config::Dns) -> bridge::DnsSettings {
    bridge::DnsSettings {
        servers: dns.servers.clone().unwrap_or_default(),
        ttl_min_ms: u64::from(dns.ttl_min_s) * 1000,
        ttl_max_ms: u64::from(dns.ttl_max_s) * 1000,
        negative_ttl_ms: u64::from(dns.negative_ttl_s) * 1000,
        stale_ms: u64::from(dns.stale_s) * 1000,
        timeout_ms: dns.timeout_ms,
        cache_entries_max: dns.cache_entries,
    }
}

/// `[telemetry]`; fixed for the life of the process.
pub fn telemetry_settings(plan: &Plan) -> telemetry::Settings {
    telemetry::Settings {
        reporter: match plan.telemetry.reporter {
            config::Reporter::Source => telemetry::Reporter::Source,
            config::Reporter::Waypoint => telemetry::Reporter::Waypoint,
            config::Reporter::Gateway => telemetry::Reporter::Gateway,
        },
        cluster_id: Arc::clone(&plan.telemetry.cluster_id),
        host_labels: match plan.telemetry.host_labels {
            config::HostLabels::Bounded => telemetry::HostLabelMode::Bounded,
            config::HostLabels::Istio => telemetry::HostLabelMode::Istio,
        },
        ..telemetry::Settings::default()
    }
}

/// The `source_address`es that this host does not have, each with the services that name it: connections from there
/// will fail.
pub fn missing_sources(plan: &Plan) -> Vec<String> {
    let mut sources: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for service in &plan.policy_input.services {
        if let Some(source) = service.source_address {
            sources.entry(source).or_default().push(format!("{}/{}", service.namespace, service.name));
        }
    }
    let is_missing = |source: IpAddr| {
        let bound = UdpSocket::bind(SocketAddr::new(source, 0));
        bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    };
    sources.retain(|source, _| is_missing(*source));
    let text = |(source, services): (IpAddr, Vec<String>)| {
        let (first, more) = (services.first().map_or("", String::as_str), services.len().saturating_sub(1));
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!(
            "no interface of this host has {source}, the source_address of {first}{more}: connections from it will fail"
        )
    };
    sources.into_iter().take(crate::limits::PROBLEMS_LOGGED_MAX).map(text).collect()
}

/// A door at the address that it really got.
pub fn door(door: &config::Door, address: SocketAddr) -> bridge::DoorPlan {
    let defaults = bridge::DoorPlan::new(
        match door.kind {
            config::DoorKind::HttpProxy => bridge::DoorKind::HttpProxy,
            config::DoorKind::Tls => bridge::DoorKind::Tls,
            config::DoorKind::Tcp => bridge::DoorKind::Tcp,
            config::DoorKind::Http => bridge::DoorKind::Http,
            config::DoorKind::Transparent => bridge::DoorKind::Transparent,
            config::DoorKind::Socks5 => bridge::DoorKind::Socks5,
        },
        address,
    );
    bridge::DoorPlan {
        name: Arc::clone(&door.name),
        auth: match door.auth {
            config::Auth::Off => bridge::Auth::Off,
            config::Auth::Optional => bridge::Auth::Optional,
            config::Auth::Required => bridge::Auth::Required,
        },
        destination_port: door.destination_port,
        service: door.service.clone(),
        deny_tls: match door.deny_tls {
            config::DenyTls::Reset => bridge::DenyTls::Reset,
            config::DenyTls::Alert => bridge::DenyTls::Alert,
        },
        capture: door.capture.map(|capture| match capture {
            config::Capture::Redirect => bridge::Capture::Redirect,
            config::Capture::Tproxy => bridge::Capture::Tproxy,
        }),
        upstream_source: match door.upstream_source {
            config::UpstreamSource::Gateway => bridge::UpstreamSource::Gateway,
            config::UpstreamSource::Client => bridge::UpstreamSource::Client,
        },
        opaque_ports: door.opaque_ports.clone().unwrap_or(defaults.opaque_ports),
        proxy_protocol: door.proxy_protocol.as_ref().map(|expected| bridge::ProxyProtocol {
            trusted: expected.trusted.as_slice().into(),
            use_destination: expected.use_destination,
        }),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        config::load(&config::Source::isolated(None)).expect("defaults are a configuration").plan
    }

    fn budget(plan: &Plan) -> Budget {
        Budget::divide(&plan.limits, 10_000, 1, 1).expect("plenty")
    }

    #[test]
    fn the_default_plan_becomes_a_snapshot() {
        let plan = plan();
        let surroundings =
            Surroundings { listeners: Vec::new(), local_addresses: Vec::new(), budget: budget(&plan) };
        let snapshot = snapshot(&plan, 1, &surroundings).expect("publishes");
        assert_eq!(snapshot.generation, 1);
        assert_eq!(snapshot.limits.connections_max, Some(4500));
        assert_eq!(
            snapshot.limits,
            bridge::Limits { connections_max: Some(4500), ..bridge::Limits::default() },
            "both crates have the same defaults"
        );
        assert_eq!(snapshot.dns, bridge::DnsSettings::default(), "likewise");
    }

    #[test]
    fn our_own_listeners_are_guarded_at_the_ports_they_got() {
        let plan = plan();
        let own: SocketAddr = "127.0.0.1:40000".parse().expect("an address");
        let surroundings =
            Surroundings { listeners: vec![own], local_addresses: Vec::new(), budget: budget(&plan) };
        let snapshot = snapshot(&plan, 1, &surroundings).expect("publishes");
        assert!(snapshot.policy.guard(own, None).is_err());
    }
}
