//! One thread's writer. Looking a series up is a hash lookup in the thread's own maps (the shared tables are asked, under
//! a lock, only for what is new to the thread); counting is a load and a store. It must not know readers.

use crate::{
    HostLabelMode,
    histogram::{bucket_of_bytes, bucket_of_micros},
    host_labels::{self, Admission, HostTable},
    keys::{
        BLACK_HOLE_CLUSTER, Destination, DestinationId, DestinationKey, DestinationText, HttpKey, Map,
        PASSTHROUGH_CLUSTER, Source, SourceId, SourceText, TcpKey, Traffic,
    },
    limits::{HOST_BYTES_MAX, HTTP_SERIES_MAX, TCP_SERIES_MAX},
    product::{Counter, Family, Gauge, LABELS_MAX},
    registry::{EgressKey, EgressText, Series, Shared, WorkerSlots, http_word, locked, tcp_word},
    series::{OVERFLOW, Place, SeriesKey},
    slots::add,
};
use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Where an HTTP label set is counted. Copy it freely within the flow; it stays valid for ever, as a forgotten series is
/// found again by its key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HttpSeries {
    key: HttpKey,
    place: Place,
}

impl HttpSeries {
    /// What it counts.
    #[must_use]
    pub const fn key(&self) -> &HttpKey {
        &self.key
    }
}

/// Where a TCP label set is counted; as [`HttpSeries`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpSeries {
    key: TcpKey,
    place: Place,
}

/// Where a product counter or gauge with labels is counted; valid as long as the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EgressSeries(Option<u32>);

/// The numbers of one thread. Methods take `&self`, and the type stays on one thread at a time (`Send`, not `Sync`).
pub struct WorkerMetrics {
    shared: Arc<Shared>,
    slots: Arc<WorkerSlots>,
    known: RefCell<Known>,
}

/// What this thread has resolved before.
#[derive(Default)]
struct Known {
    epoch: u64,
    sources: Map<Arc<SourceText>, SourceId>,
    destinations: Map<Arc<DestinationText>, DestinationId>,
    hosts: HostTable,
    http: Map<HttpKey, Place>,
    tcp: Map<TcpKey, Place>,
    egress: Map<Arc<EgressText>, u32>,
}

/// A label of the bounded table, or the reason why there is none.
enum HostLabel<'b> {
    Name(&'b str),
    Unknown,
    Overflow,
}

impl WorkerMetrics {
    pub(crate) fn new(shared: Arc<Shared>, slots: Arc<WorkerSlots>) -> Self {
        Self { shared, slots, known: RefCell::default() }
    }

    /// The id of a proven source; [`SourceId::UNKNOWN`] for one without proof. Once per connection.
    pub fn source(&self, source: &Source<'_>) -> SourceId {
        let source = source.normalised();
        let known = &mut *self.known.borrow_mut();
        if let Some(&id) = known.sources.get(&source) {
            return id;
        }
        let Some((id, text)) = self.shared.source(&source) else {
            self.add(Counter::SeriesOverflow, 1);
            return SourceId::UNKNOWN;
        };
        known.sources.insert(text, id);
        id
    }

    /// The id of a destination for this source: decides which host becomes a label, as `host_labels` says.
    pub fn destination(
        &self,
        source: SourceId,
        traffic: Traffic,
        destination: &Destination<'_>,
    ) -> DestinationId {
        let (name, host) = match *destination {
            Destination::Service { host, namespace } => {
                let key =
                    DestinationKey { service: Some(host), name: Some(host), namespace: Some(namespace) };
                return self.intern(&key, true);
            }
            Destination::Passthrough { host } => (PASSTHROUGH_CLUSTER, host),
            Destination::BlackHole { host } => (BLACK_HOLE_CLUSTER, host),
        };
        let mut buffer = [0; HOST_BYTES_MAX];
        let service = match (self.shared.settings.host_labels, host) {
            (_, None) => None,
            (HostLabelMode::Istio, Some(host)) => {
                let host = host_labels::without_port(host);
                let fits = (1..=HOST_BYTES_MAX).contains(&host.len());
                (traffic == Traffic::Http && fits).then_some(host)
            }
            (HostLabelMode::Bounded, Some(host)) => match self.bounded_label(source, host, &mut buffer) {
                HostLabel::Name(name) => Some(name),
                HostLabel::Unknown => None,
                HostLabel::Overflow => {
                    self.add(Counter::HostLabelOverflow, 1);
                    None
                }
            },
        };
        self.intern(&DestinationKey { service, name: Some(name), namespace: None }, false)
    }

    fn bounded_label<'b>(
        &self,
        source: SourceId,
        host: &str,
        buffer: &'b mut [u8; HOST_BYTES_MAX],
    ) -> HostLabel<'b> {
        let Some(name) = host_labels::canonical(host_labels::without_port(host), buffer) else {
            return HostLabel::Unknown;
        };
        let copy = &mut self.known.borrow_mut().hosts;
        let mut admission = copy.lookup(source, name);
        if admission == Admission::Open {
            let truth = &mut locked(&self.shared.names).hosts;
            admission = truth.admit(source, name);
            copy.refresh(truth, source);
        }
        match admission {
            Admission::Admitted => HostLabel::Name(name),
            Admission::Refused | Admission::Open => HostLabel::Overflow,
        }
    }

    fn intern(&self, key: &DestinationKey<'_>, registered: bool) -> DestinationId {
        let known = &mut *self.known.borrow_mut();
        if let Some(&id) = known.destinations.get(key) {
            return id;
        }
        if let Some((id, text)) = self.shared.destination(key, registered) {
            known.destinations.insert(text, id);
            return id;
        }
        self.add(Counter::HostLabelOverflow, 1);
        let nameless = DestinationKey { service: None, ..*key };
        if let Some(&id) = known.destinations.get(&nameless) {
            return id;
        }
        // The two cluster names always fit: room is kept beyond what names off the wire may take.
        let Some((id, text)) = self.shared.destination(&nameless, true) else {
            return DestinationId::UNKNOWN;
        };
        known.destinations.insert(text, id);
        id
    }

    /// Where to count HTTP requests with these labels.
    pub fn http(&self, key: &HttpKey) -> HttpSeries {
        let known = &mut *self.known.borrow_mut();
        known.forget_evicted(self.shared.epoch());
        let place = self.resolve(&self.shared.http, &mut known.http, *key, HTTP_SERIES_MAX);
        self.slots.http.row(place.index, place.stamp);
        HttpSeries { key: *key, place }
    }

    /// Where to count TCP connections with these labels.
    pub fn tcp(&self, key: &TcpKey) -> TcpSeries {
        let known = &mut *self.known.borrow_mut();
        known.forget_evicted(self.shared.epoch());
        let place = self.resolve(&self.shared.tcp, &mut known.tcp, *key, TCP_SERIES_MAX);
        self.slots.tcp.row(place.index, place.stamp);
        TcpSeries { key: *key, place }
    }

    fn resolve<K: SeriesKey>(
        &self,
        series: &Series<K>,
        known: &mut Map<K, Place>,
        key: K,
        max: usize,
    ) -> Place {
        let place = match known.get(&key) {
            Some(&place) => place,
            None => {
                let place = series.resolve(key).unwrap_or(OVERFLOW);
                // Label sets that found no row are remembered too, until an eviction makes room; but not without bound.
                if known.len() >= 2 * max {
                    known.clear();
                }
                known.insert(key, place);
                place
            }
        };
        if place == OVERFLOW {
            self.add(Counter::SeriesOverflow, 1);
        }
        place
    }

    /// Counts a finished request: its duration (microseconds, exposed as milliseconds) and the wire bytes of the
    /// downstream leg.
    pub fn http_done(&self, series: HttpSeries, duration_us: u64, request_bytes: u64, response_bytes: u64) {
        let row = self.http_row(series);
        let observe = |at: usize, bucket: usize, value: u64| {
            add(&row[at + bucket], 1);
            add(&row[at + http_word::SUM], value);
        };
        observe(http_word::DURATION, bucket_of_micros(duration_us), duration_us);
        observe(http_word::REQUEST, bucket_of_bytes(request_bytes), request_bytes);
        observe(http_word::RESPONSE, bucket_of_bytes(response_bytes), response_bytes);
    }

    /// Counts a connection that is open, or black-holed.
    pub fn tcp_opened(&self, series: TcpSeries) {
        add(&self.tcp_row(series)[tcp_word::OPENED], 1);
    }

    /// Counts a connection that is closed.
    pub fn tcp_closed(&self, series: TcpSeries) {
        add(&self.tcp_row(series)[tcp_word::CLOSED], 1);
    }

    /// Counts payload bytes moved since the last call: received from downstream, sent to downstream.
    pub fn tcp_bytes(&self, series: TcpSeries, received: u64, sent: u64) {
        let row = self.tcp_row(series);
        add(&row[tcp_word::RECEIVED], received);
        add(&row[tcp_word::SENT], sent);
    }

    fn http_row(&self, series: HttpSeries) -> &[AtomicU64] {
        let Place { index, stamp } = match series.place {
            place if self.shared.http.stamps.is_current(place) => place,
            _ => self.http(&series.key).place,
        };
        self.slots.http.row(index, stamp)
    }

    fn tcp_row(&self, series: TcpSeries) -> &[AtomicU64] {
        let Place { index, stamp } = match series.place {
            place if self.shared.tcp.stamps.is_current(place) => place,
            _ => self.tcp(&series.key).place,
        };
        self.slots.tcp.row(index, stamp)
    }

    /// Counts a policy decision, in the policy's own words.
    pub fn decision(&self, decision: &'static str, reason: &'static str, protocol: &'static str) {
        self.count(Family::PolicyDecisions, &[decision, reason, protocol], 1);
    }

    /// Counts what registry-only would have decided.
    pub fn shadow_decision(&self, decision: &'static str, reason: &'static str) {
        self.count(Family::ShadowDecisions, &[decision, reason], 1);
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, amount: u64) {
        add(&self.slots.counters[counter as usize], amount);
    }

    /// Changes this thread's share of a gauge.
    pub fn shift(&self, gauge: Gauge, by: i64) {
        add(&self.slots.gauges[gauge as usize], by.cast_unsigned());
    }

    /// Sets this thread's share of a gauge.
    pub fn set(&self, gauge: Gauge, value: i64) {
        self.slots.gauges[gauge as usize].store(value.cast_unsigned(), Relaxed);
    }

    /// Where to count on one label set of a family; keep it where it is counted often. Values are as many as
    /// [`Family::labels`]; missing ones are empty, surplus ones are ignored.
    pub fn series(&self, family: Family, values: &[&str]) -> EgressSeries {
        let mut labels = [""; LABELS_MAX];
        for (label, value) in labels.iter_mut().zip(values).take(family.labels().len()) {
            *label = value;
        }
        let key = EgressKey { family, labels };
        let known = &mut self.known.borrow_mut().egress;
        if let Some(&id) = known.get(&key) {
            return EgressSeries(Some(id));
        }
        let Some((id, text)) = locked(&self.shared.egress).resolve(&key) else {
            self.add(Counter::SeriesOverflow, 1);
            return EgressSeries(None);
        };
        known.insert(text, id);
        self.slots.egress.row(id, OVERFLOW.stamp);
        EgressSeries(Some(id))
    }

    /// Adds to a labelled counter.
    pub fn count(&self, family: Family, values: &[&str], amount: u64) {
        self.add_to(self.series(family, values), amount.cast_signed());
    }

    /// Changes a labelled counter or gauge.
    pub fn add_to(&self, series: EgressSeries, by: i64) {
        if let Some(id) = series.0 {
            add(&self.slots.egress.row(id, OVERFLOW.stamp)[0], by.cast_unsigned());
        }
    }

    /// Sets this thread's share of a labelled gauge.
    pub fn set_to(&self, series: EgressSeries, value: i64) {
        if let Some(id) = series.0 {
            self.slots.egress.row(id, OVERFLOW.stamp)[0].store(value.cast_unsigned(), Relaxed);
        }
    }
}

impl Known {
    fn forget_evicted(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.http.clear();
            self.tcp.clear();
        }
    }
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerMetrics").finish_non_exhaustive()
    }
}
