//! What all workers share: names of series and the list of workers. Its locks are taken when a series is new to a worker
//! and when a snapshot is read, never on the hot path. It must not know encodings.

use crate::{DestinationId, SourceId};
use crate::{
    Settings, WorkerMetrics,
    host_labels::HostTable,
    keys::{DestinationKey, DestinationText, HttpKey, Interner, Map, Source, SourceText, TcpKey},
    limits::{
        DESTINATIONS_MAX, EGRESS_CHUNK, EGRESS_SERIES_MAX, HTTP_CHUNK, HTTP_SERIES_MAX,
        HTTP_SERIES_PER_SOURCE_MAX, SOURCES_MAX, TCP_CHUNK, TCP_SERIES_MAX, TCP_SERIES_PER_SOURCE_MAX,
    },
    product::{Counter, Family, Gauge, LABELS_MAX},
    prometheus,
    series::{Place, SeriesKey, SeriesTable, Stamps},
    slots::Slots,
    snapshot::Snapshot,
};
use hashbrown::Equivalent;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

/// The metrics of one process. Cheap to clone; one [`WorkerMetrics`] per writing thread.
#[derive(Clone)]
pub struct Registry(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) names: Mutex<Names>,
    pub(crate) http: Series<HttpKey>,
    pub(crate) tcp: Series<TcpKey>,
    pub(crate) egress: Mutex<EgressTable>,
    pub(crate) workers: Mutex<Vec<Arc<WorkerSlots>>>,
    /// Counts evictions: workers forget what they remember of places when it changes.
    pub(crate) epoch: AtomicU64,
    /// One reader at a time, so that no row changes its meaning while it is read.
    reading: Mutex<()>,
}

/// Label sets of one family of series.
pub(crate) struct Series<K> {
    pub(crate) table: Mutex<SeriesTable<K>>,
    pub(crate) stamps: Stamps,
}

/// Interned sources, destinations and admitted hosts.
pub(crate) struct Names {
    pub(crate) sources: Interner<SourceText>,
    pub(crate) destinations: Interner<DestinationText>,
    pub(crate) hosts: HostTable,
}

/// One worker's numbers.
pub(crate) struct WorkerSlots {
    pub(crate) counters: Box<[AtomicU64]>,
    pub(crate) gauges: Box<[AtomicU64]>,
    pub(crate) http: Slots,
    pub(crate) tcp: Slots,
    pub(crate) egress: Slots,
}

/// Words of a TCP row.
pub(crate) mod tcp_word {
    pub(crate) const OPENED: usize = 0;
    pub(crate) const CLOSED: usize = 1;
    pub(crate) const RECEIVED: usize = 2;
    pub(crate) const SENT: usize = 3;
    pub(crate) const WORDS: usize = 4;
}

/// Words of an HTTP row: three histograms, each its buckets, then its sum. Requests are the durations' count.
pub(crate) mod http_word {
    use crate::histogram::BUCKETS;

    pub(crate) const SUM: usize = BUCKETS;
    pub(crate) const HISTOGRAM: usize = BUCKETS + 1;
    pub(crate) const DURATION: usize = 0;
    pub(crate) const REQUEST: usize = HISTOGRAM;
    pub(crate) const RESPONSE: usize = 2 * HISTOGRAM;
    pub(crate) const WORDS: usize = 3 * HISTOGRAM;
}

impl WorkerSlots {
    fn new() -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            counters: zeros(Counter::ALL.len()),
            gauges: zeros(Gauge::ALL.len()),
            http: Slots::new(HTTP_SERIES_MAX, http_word::WORDS, HTTP_CHUNK),
            tcp: Slots::new(TCP_SERIES_MAX, tcp_word::WORDS, TCP_CHUNK),
            egress: Slots::new(EGRESS_SERIES_MAX, 1, EGRESS_CHUNK),
        }
    }
}

/// Labels of a product series, borrowed.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(crate) struct EgressKey<'a> {
    pub(crate) family: Family,
    pub(crate) labels: [&'a str; LABELS_MAX],
}

/// [`EgressKey`], owned. Field order and types must hash alike.
#[derive(Eq, Hash, PartialEq)]
pub(crate) struct EgressText {
    pub(crate) family: Family,
    pub(crate) labels: [Arc<str>; LABELS_MAX],
}

impl Equivalent<Arc<EgressText>> for EgressKey<'_> {
    fn equivalent(&self, key: &Arc<EgressText>) -> bool {
        self.family == key.family
            && self.labels.iter().zip(&key.labels).all(|(ours, theirs)| **ours == **theirs)
    }
}

/// Product series; they are few and live as long as the process.
#[derive(Default)]
pub(crate) struct EgressTable {
    ids: Map<Arc<EgressText>, u32>,
    pub(crate) texts: Vec<Arc<EgressText>>,
}

impl EgressTable {
    pub(crate) fn resolve(&mut self, key: &EgressKey<'_>) -> Option<(u32, Arc<EgressText>)> {
        if let Some((text, &id)) = self.ids.get_key_value(key) {
            return Some((id, Arc::clone(text)));
        }
        if self.texts.len() >= EGRESS_SERIES_MAX {
            return None;
        }
        let id = self.texts.len() as u32; // bounded above
        let text = Arc::new(EgressText { family: key.family, labels: key.labels.map(Arc::from) });
        self.texts.push(Arc::clone(&text));
        self.ids.insert(Arc::clone(&text), id);
        Some((id, text))
    }
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let names =
            Names { sources: Interner::new(), destinations: Interner::new(), hosts: HostTable::default() };
        let http_overflow = HttpKey::new(SourceId::UNKNOWN, DestinationId::UNKNOWN, 0);
        let tcp_overflow = TcpKey::new(SourceId::UNKNOWN, DestinationId::UNKNOWN);
        Self(Arc::new(Shared {
            settings,
            names: Mutex::new(names),
            http: Series::new(HTTP_SERIES_MAX, HTTP_SERIES_PER_SOURCE_MAX, http_overflow),
            tcp: Series::new(TCP_SERIES_MAX, TCP_SERIES_PER_SOURCE_MAX, tcp_overflow),
            egress: Mutex::default(),
            workers: Mutex::default(),
            epoch: AtomicU64::new(0),
            reading: Mutex::new(()),
        }))
    }

    /// Slots for one more writing thread: a worker, or any other thread that counts. What it counted stays when it ends.
    #[must_use]
    pub fn worker(&self) -> WorkerMetrics {
        let slots = Arc::new(WorkerSlots::new());
        locked(&self.0.workers).push(Arc::clone(&slots));
        WorkerMetrics::new(Arc::clone(&self.0), slots)
    }

    /// The choices it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// All numbers of all workers, summed. For one slow thread; takes milliseconds with thousands of series.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let _reading = locked(&self.0.reading);
        Snapshot::collect(&self.0)
    }

    /// Appends the Prometheus text exposition (format 0.0.4) of a fresh snapshot.
    pub fn prometheus(&self, out: &mut String) {
        prometheus::encode(&self.snapshot(), out);
    }

    /// Forgets istio_* series that nothing was counted on for [`Settings::series_idle_ms`]. To be called now and then
    /// (each minute) with a monotonic time; ids that callers still hold find a new series by themselves.
    pub fn evict_idle(&self, now_ms: u64) {
        let _reading = locked(&self.0.reading);
        let workers = locked(&self.0.workers).clone();
        let idle_ms = self.0.settings.series_idle_ms;
        let http = self.0.http.evict(now_ms, idle_ms, |place| sum_all(&workers, |w| &w.http, place));
        let tcp = self.0.tcp.evict(now_ms, idle_ms, |place| sum_all(&workers, |w| &w.tcp, place));
        if http || tcp {
            self.0.epoch.fetch_add(1, Release);
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// Any number that changes whenever a series is counted on: each of its words only grows.
fn sum_all(workers: &[Arc<WorkerSlots>], slots: impl Fn(&WorkerSlots) -> &Slots, place: Place) -> u64 {
    let rows = workers.iter().filter_map(|worker| slots(worker).read(place.index, place.stamp));
    rows.flatten().fold(0, |sum, word| sum.wrapping_add(word.load(Relaxed)))
}

impl<K: SeriesKey> Series<K> {
    fn new(rows_max: usize, per_source_max: usize, overflow: K) -> Self {
        Self {
            table: Mutex::new(SeriesTable::new(rows_max, per_source_max, overflow)),
            stamps: Stamps::new(rows_max),
        }
    }

    pub(crate) fn resolve(&self, key: K) -> Option<Place> {
        locked(&self.table).resolve(key)
    }

    /// Every series and its key, at one moment.
    pub(crate) fn rows(&self) -> Vec<(Place, K)> {
        locked(&self.table).iter().map(|(place, key)| (place, *key)).collect()
    }

    fn evict(&self, now_ms: u64, idle_ms: u64, activity: impl Fn(Place) -> u64) -> bool {
        locked(&self.table).evict(&self.stamps, now_ms, idle_ms, activity)
    }
}

impl Shared {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    pub(crate) fn source(&self, source: &Source<'_>) -> Option<(SourceId, Arc<SourceText>)> {
        let (id, text) = locked(&self.names).sources.intern(source, SOURCES_MAX)?;
        Some((SourceId(id), text))
    }

    /// Names off the wire may fill half of the table, so that registered ones always find room.
    pub(crate) fn destination(
        &self,
        key: &DestinationKey<'_>,
        registered: bool,
    ) -> Option<(DestinationId, Arc<DestinationText>)> {
        let max = if registered { DESTINATIONS_MAX } else { DESTINATIONS_MAX / 2 };
        let (id, text) = locked(&self.names).destinations.intern(key, max)?;
        Some((DestinationId { index: id, registered: key.namespace.is_some() }, text))
    }
}

/// A panic while counting must not silence metrics for ever: the tables are valid between any two of their steps.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
