//! All numbers at one moment, summed over workers: what every encoder reads, so that they cannot disagree. It must not
//! know encodings.

use crate::{
    Counter, Family, Gauge, Settings,
    histogram::BUCKETS,
    keys::{HttpKey, TcpKey},
    labels::{Label, Labels, Naming},
    registry::{Shared, WorkerSlots, http_word, locked, tcp_word},
    series::{OVERFLOW, Place},
    slots::Slots,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// Every metric, in a fixed order; points in the order of their label values.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All metrics that have at least one point.
    pub metrics: Vec<Metric>,
}

/// One metric and its points.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Prometheus name.
    pub name: &'static str,
    /// OpenTelemetry instrument name: what Prometheus' OTLP translation turns into [`Self::name`].
    pub instrument: &'static str,
    /// OpenTelemetry unit.
    pub unit: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Type.
    pub kind: Kind,
    /// Label sets and values.
    pub points: Vec<Point>,
}

/// A metric's type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Monotonic, cumulative since start.
    Counter,
    /// A value that comes and goes.
    Gauge,
    /// Istio's buckets, cumulative since start.
    Histogram,
}

/// One label set's value.
#[derive(Clone, Debug)]
pub struct Point {
    /// Shared by the metrics of one series.
    pub labels: Arc<Labels>,
    /// Its value.
    pub value: Value,
}

/// A value, by [`Kind`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// For [`Kind::Counter`].
    Counter(u64),
    /// For [`Kind::Gauge`].
    Gauge(i64),
    /// For [`Kind::Histogram`].
    Histogram(Box<Histogram>),
}

/// A histogram's value; bounds are [`crate::histogram::BOUNDS`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Observations in each bucket, not cumulated.
    pub buckets: [u64; BUCKETS],
    /// Sum of the observations, in the metric's unit.
    pub sum: f64,
}

impl Histogram {
    /// All observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Snapshot {
    /// A metric by its Prometheus name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    pub(crate) fn collect(shared: &Shared) -> Self {
        let workers = locked(&shared.workers).clone();
        // Series first, names after: whatever a series refers to has its name by then.
        let http_rows = shared.http.rows();
        let tcp_rows = shared.tcp.rows();
        let naming = Naming::new(&shared.settings, &locked(&shared.names));
        let mut metrics = Vec::from(http(&http_rows, &workers, &naming));
        metrics.extend(tcp(&tcp_rows, &workers, &naming));
        metrics.push(build(&shared.settings));
        metrics.extend(plain(&workers));
        metrics.extend(labelled(shared, &workers));
        metrics.retain(|metric| !metric.points.is_empty());
        for metric in &mut metrics {
            metric.points.sort_by(|a, b| a.labels.cmp(&b.labels));
        }
        Self { metrics }
    }
}

fn metric(name: &'static str, instrument: &'static str, unit: &'static str, help: &'static str) -> Metric {
    let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
    Metric { name, instrument, unit, help, kind, points: Vec::new() }
}

fn http(rows: &[(Place, HttpKey)], workers: &[Arc<WorkerSlots>], naming: &Naming) -> [Metric; 4] {
    let mut requests =
        metric("istio_requests_total", "istio.requests", "{request}", "HTTP requests, counted at their end.");
    let mut histograms = [
        metric(
            "istio_request_duration_milliseconds",
            "istio.request.duration",
            "ms",
            "Duration of HTTP requests, from the request's start to the answer's end.",
        ),
        metric(
            "istio_request_bytes",
            "istio.request",
            "By",
            "Bytes of HTTP requests as received from downstream.",
        ),
        metric("istio_response_bytes", "istio.response", "By", "Bytes of HTTP responses as sent downstream."),
    ];
    histograms.iter_mut().for_each(|histogram| histogram.kind = Kind::Histogram);

    for &(place, key) in rows {
        let words: [u64; http_word::WORDS] = sum(workers, |worker| &worker.http, place.index, place.stamp);
        let duration = histogram(&words[http_word::DURATION..], 1000.0);
        if duration.count() == 0 {
            continue;
        }
        let labels = Arc::new(naming.http(&key, place == OVERFLOW));
        requests.points.push(point(&labels, Value::Counter(duration.count())));
        let values = [
            duration,
            histogram(&words[http_word::REQUEST..], 1.0),
            histogram(&words[http_word::RESPONSE..], 1.0),
        ];
        for (metric, value) in histograms.iter_mut().zip(values) {
            metric.points.push(point(&labels, Value::Histogram(Box::new(value))));
        }
    }
    let [duration, request, response] = histograms;
    [requests, duration, request, response]
}

fn histogram(words: &[u64], divisor: f64) -> Histogram {
    let mut histogram = Histogram { sum: words[http_word::SUM] as f64 / divisor, ..Histogram::default() };
    histogram.buckets.copy_from_slice(&words[..BUCKETS]);
    histogram
}

fn tcp(rows: &[(Place, TcpKey)], workers: &[Arc<WorkerSlots>], naming: &Naming) -> [Metric; 4] {
    // In the order of the words of a row.
    let mut metrics = [
        metric(
            "istio_tcp_connections_opened_total",
            "istio.tcp.connections_opened",
            "{connection}",
            "TCP connections opened.",
        ),
        metric(
            "istio_tcp_connections_closed_total",
            "istio.tcp.connections_closed",
            "{connection}",
            "TCP connections closed.",
        ),
        metric(
            "istio_tcp_received_bytes_total",
            "istio.tcp.received",
            "By",
            "Payload bytes received from downstream.",
        ),
        metric("istio_tcp_sent_bytes_total", "istio.tcp.sent", "By", "Payload bytes sent to downstream."),
    ];
    for &(place, key) in rows {
        let words: [u64; tcp_word::WORDS] = sum(workers, |worker| &worker.tcp, place.index, place.stamp);
        if words == [0; tcp_word::WORDS] {
            continue;
        }
        let labels = Arc::new(naming.tcp(&key));
        for (metric, value) in metrics.iter_mut().zip(words) {
            metric.points.push(point(&labels, Value::Counter(value)));
        }
    }
    metrics
}

fn build(settings: &Settings) -> Metric {
    let mut build = metric("istio_build", "istio.build", "1", "The version of this proxy.");
    let labels = vec![
        Label { name: "component", value: "proxy".into() },
        Label { name: "tag", value: settings.version.clone().into() },
    ];
    build.points.push(point(&Arc::new(Labels(labels)), Value::Gauge(1)));
    build
}

fn plain(workers: &[Arc<WorkerSlots>]) -> impl Iterator<Item = Metric> {
    let none = Arc::new(Labels(Vec::new()));
    let total = move |word: &dyn Fn(&WorkerSlots) -> u64| {
        workers.iter().fold(0, |sum: u64, worker| sum.wrapping_add(word(worker)))
    };
    let counters = Counter::ALL.iter().map({
        let none = Arc::clone(&none);
        move |&counter| {
            let mut metric = metric(counter.name(), counter.name(), "1", counter.help());
            let value = total(&|worker| worker.counters[counter as usize].load(Relaxed));
            metric.points.push(point(&none, Value::Counter(value)));
            metric
        }
    });
    let gauges = Gauge::ALL.iter().map(move |&gauge| {
        let mut metric = metric(gauge.name(), gauge.name(), "1", gauge.help());
        let value = total(&|worker| worker.gauges[gauge as usize].load(Relaxed));
        metric.points.push(point(&none, Value::Gauge(value.cast_signed())));
        metric
    });
    counters.chain(gauges)
}

fn labelled(shared: &Shared, workers: &[Arc<WorkerSlots>]) -> Vec<Metric> {
    let texts = locked(&shared.egress).texts.clone();
    let mut metrics: Vec<Metric> =
        Family::ALL.iter().map(|family| metric(family.name(), family.name(), "1", family.help())).collect();
    for (id, text) in texts.iter().enumerate() {
        let id = u32::try_from(id).expect("invariant: EGRESS_SERIES_MAX is far below u32::MAX");
        let [value] = sum(workers, |worker| &worker.egress, id, OVERFLOW.stamp);
        let value =
            if text.family.is_counter() { Value::Counter(value) } else { Value::Gauge(value.cast_signed()) };
        let names = text.family.labels().iter().zip(&text.labels);
        let labels = names.map(|(&name, value)| Label { name, value: Arc::clone(value).into() }).collect();
        metrics[text.family as usize].points.push(point(&Arc::new(Labels(labels)), value));
    }
    metrics
}

/// One row of every worker, added up word by word.
fn sum<const WORDS: usize>(
    workers: &[Arc<WorkerSlots>],
    slots: impl Fn(&WorkerSlots) -> &Slots,
    index: u32,
    stamp: u32,
) -> [u64; WORDS] {
    let mut sums = [0u64; WORDS];
    for row in workers.iter().filter_map(|worker| slots(worker).read(index, stamp)) {
        for (sum, word) in sums.iter_mut().zip(row) {
            *sum = sum.wrapping_add(word.load(Relaxed));
        }
    }
    sums
}

fn point(labels: &Arc<Labels>, value: Value) -> Point {
    Point { labels: Arc::clone(labels), value }
}
