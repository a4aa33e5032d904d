//! What the control plane itself counts, in the names of the metrics contract. It must not know how they are shown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sluice_bridge::{Command, DnsFailure, Snapshot};
use sluice_telemetry::{Counter, EgressSeries, Family, Gauge, Registry, WorkerMetrics};

use tokio::sync::mpsc;

use crate::dns::Observer;
use crate::heavy::Heavy;
use crate::records::RecordStats;
use crate::status::RenderMetrics;

/// Counts of the control task.
pub(crate) struct Counts(WorkerMetrics);

impl Counts {
    /// Its own slots in the registry.
    pub(crate) fn new(registry: &Registry, workers: usize, engine: &str, reason: &str) -> Self {
        let metrics = registry.worker();
        metrics.set(Gauge::Workers, i64::try_from(workers).unwrap_or(i64::MAX));
        metrics.set_to(metrics.series(Family::EngineInfo, &[engine, reason]), 1);
        for result in ["success", "failure"] {
            metrics.count(Family::ConfigReloads, &[result], 0);
        }
        Self(metrics)
    }

    /// A configuration was read, for better or worse.
    pub(crate) fn reload(&self, success: bool) {
        self.0.count(Family::ConfigReloads, &[if success { "success" } else { "failure" }], 1);
    }

    /// A snapshot went out.
    pub(crate) fn published(&self, snapshot: &Snapshot) {
        let metrics = &self.0;
        let clamp = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.set(Gauge::ConfigGeneration, snapshot.generation.cast_signed());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics.set(Gauge::ConfigReloadTimestampSeconds, since.as_secs().cast_signed());
        metrics.set(Gauge::ConnectionsMax, snapshot.limits.connections_max.map_or(0, clamp));
        let counts = snapshot.policy.counts();
        for (kind, count) in [
            ("services", counts.services),
            ("hosts", counts.hosts),
            ("addresses", counts.addresses),
            ("workloads", counts.workloads),
            ("scopes", counts.scopes),
        ] {
            metrics.set_to(metrics.series(Family::RegistryEntries, &[kind]), clamp(count));
        }
        let mode = snapshot.policy.mode();
        for known in [sluice_policy::Mode::AllowAny, sluice_policy::Mode::RegistryOnly] {
            let series = metrics.series(Family::PolicyMode, &[known.as_str()]);
            metrics.set_to(series, i64::from(known == mode));
        }
    }
}

/// Counts of the DNS service.
pub(crate) struct DnsCounts {
    metrics: WorkerMetrics,
    waiting: EgressSeries,
}

impl DnsCounts {
    /// Its own slots in the registry.
    pub(crate) fn new(registry: &Registry) -> Self {
        let metrics = registry.worker();
        for outcome in ["ok", "no_name", "no_data", "timeout", "server_failure", "refused"] {
            metrics.count(Family::DnsQueries, &[outcome], 0);
        }
        let waiting = metrics.series(Family::QueueLength, &["dns_lookups"]);
        Self { metrics, waiting }
    }
}

impl Observer for DnsCounts {
    fn lookup(&self, outcome: Result<(), DnsFailure>, stale: bool, took_ms: u64) {
        let word = outcome.map_or_else(DnsFailure::as_str, |()| "ok");
        self.metrics.count(Family::DnsQueries, &[word], 1);
        self.metrics.add(Counter::DnsStaleAnswers, u64::from(stale));
        if let Err(failure) = outcome
            && !failure.is_answer()
        {
            tracing::warn!(%failure, stale, took_ms, "the DNS servers failed for a name; `stale` says whether older addresses are used");
        }
    }

    fn entries(&self, count: usize) {
        self.metrics.set(Gauge::DnsCacheEntries, i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn waiting(&self, count: usize) {
        self.metrics.set_to(self.waiting, i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// How metrics are written, with what the records thread counted brought in first.
pub(crate) fn renderer(
    registry: Registry,
    records: Arc<RecordStats>,
    heavy: Heavy,
    workers: Vec<mpsc::Sender<Command>>,
) -> RenderMetrics {
    let carried = Mutex::new(Carried { metrics: registry.worker(), records, heavy, workers, seen: [0; 3] });
    let started = Instant::now();
    Arc::new(move |out: &mut String| {
        carried.lock().unwrap_or_else(PoisonError::into_inner).carry();
        registry.evict_idle(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        registry.prometheus(out);
    })
}

struct Carried {
    metrics: WorkerMetrics,
    records: Arc<RecordStats>,
    heavy: Heavy,
    workers: Vec<mpsc::Sender<Command>>,
    seen: [u64; 3],
}

impl Carried {
    fn carry(&mut self) {
        let records = &self.records;
        let now = [records.written(), records.dropped_by_writer(), records.dropped_by_queue()];
        let grown = |at: usize| now[at].saturating_sub(self.seen[at]);
        self.metrics.add(Counter::AccessLogLines, grown(0));
        self.metrics.count(Family::TelemetryDropped, &["access_log", "writer"], grown(1));
        self.metrics.count(Family::TelemetryDropped, &["access_log", "queue_full"], grown(2));
        self.seen = now;
        let commands: usize = self.workers.iter().map(|queue| queue.max_capacity() - queue.capacity()).sum();
        let lengths = [
            ("access_log_records", i64::try_from(records.waiting()).unwrap_or(i64::MAX)),
            ("heavy_jobs", i64::try_from(self.heavy.waiting()).unwrap_or(i64::MAX)),
            ("worker_commands", i64::try_from(commands).unwrap_or(i64::MAX)),
        ];
        for (queue, length) in lengths {
            self.metrics.set_to(self.metrics.series(Family::QueueLength, &[queue]), length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_records_thread_counts_is_shown_once() {
        let registry = Registry::new(sluice_telemetry::Settings::default());
        let counts = Counts::new(&registry, 2, "epoll", "configured");
        counts.reload(false);
        let (heavy, _) = Heavy::start(&[]).expect("a thread");
        let (worker, _commands) = mpsc::channel(4);
        worker.try_send(Command::Stop).expect("room");
        let render = renderer(registry, Arc::default(), heavy, vec![worker]);
        let mut text = String::new();
        render(&mut text);
        assert!(text.contains("egress_config_reload_total{result=\"failure\"} 1"), "{text}");
        assert!(text.contains("egress_engine_info{engine=\"epoll\",reason=\"configured\"} 1"), "{text}");
        assert!(text.contains("egress_workers 2"), "{text}");
        assert!(text.contains("egress_queue_length{queue=\"worker_commands\"} 1"), "{text}");
    }
}
