//! The gateway's own counters and gauges, all named `egress_*`: a fixed list. It must not know who counts.
//!
//! Three kinds. A [`Counter`] or [`Gauge`] has no labels and costs one add. A [`Family`] has labels, whose values are few
//! and ours (words, door names), never text off the wire.

macro_rules! metrics {
    ($(#[$doc:meta])* $list:ident: $($(#[$help:meta])* $name:ident = $metric:literal, $text:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $list { $(#[doc = $text] $name),* }

        impl $list {
            /// Every one, in the order of exposition.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The metric's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $metric),* }
            }

            /// The metric's help text.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

metrics! {
    /// Counters without labels.
    Counter:
    HostLabelOverflow = "egress_host_label_overflow_total",
        "Flows whose host was labelled unknown because the table of host labels was full.";
    SeriesOverflow = "egress_series_overflow_total",
        "Flows counted on the all-unknown series because the cap on series was reached.";
    ConnectionLimitReached = "egress_connection_limit_reached_total",
        "Times that doors stopped accepting because the connection limit was reached.";
    ConnectionsAccepted = "egress_connections_accepted_total", "Connections accepted on all doors.";
    FlowsRevoked = "egress_flows_revoked_total", "Live flows cut because a new policy denies them.";
    FlowsCutAtDrain = "egress_flows_cut_at_drain_total", "Flows cut because the drain deadline passed.";
    RelaySplicePromotions = "egress_relay_splice_promotions_total",
        "Times that one direction of a tunnel went from buffers to splice.";
    RelaySpliceDemotions = "egress_relay_splice_demotions_total",
        "Times that one direction of a tunnel went from splice back to buffers.";
    ExchangesSpliced = "egress_http_exchanges_spliced_total",
        "Requests of which one body at least was spliced in part.";
    UpstreamPoolHits = "egress_upstream_pool_hits_total", "Requests sent on a pooled upstream connection.";
    UpstreamPoolMisses = "egress_upstream_pool_misses_total", "Requests that needed a new upstream connection.";
    UpstreamPoolEvictions = "egress_upstream_pool_evictions_total",
        "Idle upstream connections closed: timed out, over the bound, or their host denied.";
    UpstreamPoolRetries = "egress_upstream_pool_retries_total",
        "Requests sent once more because a reused connection closed before any response byte.";
    UpstreamUnsolicited = "egress_upstream_unsolicited_total",
        "Upstream connections closed because bytes came on them that answer no request.";
    DnsCacheHits = "egress_dns_cache_hits_total", "Names resolved from the worker's own replica.";
    DnsCacheMisses = "egress_dns_cache_misses_total", "Names a worker had to ask for.";
    DnsStaleAnswers = "egress_dns_stale_answers_total", "Answers used past their life because DNS was down or slow.";
    AccessLogLines = "egress_access_log_lines_total", "Access-log lines written.";
}

metrics! {
    /// Gauges without labels. Workers are summed; a value of the whole gateway is set by one writer only.
    Gauge:
    ConfigGeneration = "egress_config_generation", "Publications of a configuration since start.";
    ConfigReloadTimestampSeconds = "egress_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was loaded, Unix seconds.";
    ConnectionsMax = "egress_connections_max", "The connection limit in force.";
    DnsCacheEntries = "egress_dns_cache_entries", "Names in the control plane's DNS cache.";
    SplicedDirections = "egress_relay_spliced_directions", "Directions of live tunnels that run by splice.";
    UpstreamPoolIdle = "egress_upstream_pool_idle_connections", "Idle upstream connections in pools.";
    Workers = "egress_workers", "Worker threads.";
}

metrics! {
    /// Counters and gauges with labels.
    Family:
    PolicyDecisions = "egress_policy_decisions_total", "Policy decisions.";
    ShadowDecisions = "egress_shadow_decisions_total", "What registry-only would have decided.";
    TelemetryDropped = "egress_telemetry_dropped_total", "Telemetry dropped instead of delaying traffic.";
    ExportFailures = "egress_export_failures_total", "Exports that failed.";
    AcceptErrors = "egress_accept_errors_total", "Errors of accept.";
    ProtocolErrors = "egress_protocol_errors_total", "Downstream input that was refused as malformed, too large or too slow.";
    ConfigReloads = "egress_config_reload_total", "Attempts to load a configuration.";
    DnsQueries = "egress_dns_queries_total", "Questions sent to upstream DNS servers, by outcome.";
    GuardRefusals = "egress_guard_refusals_total", "Addresses that the guard refused to dial.";
    UpstreamConnects = "egress_upstream_connects_total",
        "Connections dialled, by result; several for one request where addresses were tried beside each other.";
    ActiveConnections = "egress_active_connections", "Live downstream connections.";
    EngineInfo = "egress_engine_info", "Which I/O engine runs and why; always 1.";
    QueueLength = "egress_queue_length", "Entries waiting in a queue.";
    RegistryEntries = "egress_registry_entries", "What the registry in force holds.";
    PolicyMode = "egress_policy_mode_info", "1 for the global mode in force, 0 for the other.";
}

/// Labels that a family has at most.
pub(crate) const LABELS_MAX: usize = 3;

impl Family {
    /// The label names, in order.
    #[must_use]
    pub const fn labels(self) -> &'static [&'static str] {
        match self {
            Self::PolicyDecisions => &["decision", "reason", "protocol"],
            Self::ShadowDecisions => &["decision", "reason"],
            Self::TelemetryDropped | Self::ExportFailures => &["signal", "reason"],
            Self::AcceptErrors => &["errno"],
            Self::ProtocolErrors => &["door", "error"],
            Self::ConfigReloads | Self::UpstreamConnects => &["result"],
            Self::DnsQueries => &["outcome"],
            Self::GuardRefusals => &["class"],
            Self::ActiveConnections => &["door"],
            Self::EngineInfo => &["engine", "reason"],
            Self::QueueLength => &["queue"],
            Self::RegistryEntries => &["kind"],
            Self::PolicyMode => &["mode"],
        }
    }

    /// Whether it only ever grows; otherwise it is a gauge.
    #[must_use]
    pub fn is_counter(self) -> bool {
        self.name().ends_with("_total")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_valid_and_unique() {
        let names: Vec<&str> = (Counter::ALL.iter().map(|c| c.name()))
            .chain(Gauge::ALL.iter().map(|g| g.name()))
            .chain(Family::ALL.iter().map(|f| f.name()))
            .collect();
        for (at, name) in names.iter().enumerate() {
            assert!(name.starts_with("egress_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(!names[..at].contains(name), "{name} twice");
        }
        assert!(Counter::ALL.iter().all(|c| c.name().ends_with("_total")));
        assert!(Gauge::ALL.iter().all(|g| !g.name().ends_with("_total")));
        assert!(Family::ALL.iter().all(|f| (1..=LABELS_MAX).contains(&f.labels().len())));
    }
}
