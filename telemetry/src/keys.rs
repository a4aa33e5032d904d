//! Who, whither and how it ended: what tells two istio_* series apart, as small copyable keys. It must not know
//! numbers.

use crate::{ResponseFlags, series::SeriesKey};
use hashbrown::{Equivalent, HashMap};
use std::{hash::Hash, sync::Arc};

/// An interned source workload.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceId(pub(crate) u32);

impl SourceId {
    /// A source without proof: every label `unknown`.
    pub const UNKNOWN: Self = Self(0);
}

/// An interned destination.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DestinationId {
    pub(crate) index: u32,
    pub(crate) registered: bool,
}

impl DestinationId {
    /// No destination known at all: every label `unknown`.
    pub const UNKNOWN: Self = Self { index: 0, registered: false };
}

/// What is proven about a source workload. Absent is `unknown`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Source<'a> {
    /// Workload name.
    pub workload: Option<&'a str>,
    /// Namespace.
    pub namespace: Option<&'a str>,
    /// SPIFFE id.
    pub principal: Option<&'a str>,
    /// Service account: the canonical service when nothing better is known, or Kiali would drop the series.
    pub service_account: Option<&'a str>,
    /// `app` label.
    pub app: Option<&'a str>,
    /// `version` label.
    pub version: Option<&'a str>,
    /// Cluster id; absent: the configured one.
    pub cluster: Option<&'a str>,
}

impl Source<'_> {
    /// Without empty texts: an empty label is no better than an unknown one.
    pub(crate) fn normalised(self) -> Self {
        let known = |text: &&str| !text.is_empty();
        Self {
            workload: self.workload.filter(known),
            namespace: self.namespace.filter(known),
            principal: self.principal.filter(known),
            service_account: self.service_account.filter(known),
            app: self.app.filter(known),
            version: self.version.filter(known),
            cluster: self.cluster.filter(known),
        }
    }
}

/// [`Source`], owned. Field order and types must hash alike.
#[derive(Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct SourceText {
    pub(crate) workload: Option<Arc<str>>,
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) principal: Option<Arc<str>>,
    pub(crate) service_account: Option<Arc<str>>,
    pub(crate) app: Option<Arc<str>>,
    pub(crate) version: Option<Arc<str>>,
    pub(crate) cluster: Option<Arc<str>>,
}

impl From<&Source<'_>> for SourceText {
    fn from(source: &Source<'_>) -> Self {
        let own = |text: Option<&str>| text.map(Arc::from);
        Self {
            workload: own(source.workload),
            namespace: own(source.namespace),
            principal: own(source.principal),
            service_account: own(source.service_account),
            app: own(source.app),
            version: own(source.version),
            cluster: own(source.cluster),
        }
    }
}

impl Equivalent<Arc<SourceText>> for Source<'_> {
    fn equivalent(&self, key: &Arc<SourceText>) -> bool {
        self.workload == key.workload.as_deref()
            && self.namespace == key.namespace.as_deref()
            && self.principal == key.principal.as_deref()
            && self.service_account == key.service_account.as_deref()
            && self.app == key.app.as_deref()
            && self.version == key.version.as_deref()
            && self.cluster == key.cluster.as_deref()
    }
}

/// What a flow goes to, as the policy sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Destination<'a> {
    /// A registered service.
    Service {
        /// Its host as registered, a wildcard's `*.` kept.
        host: &'a str,
        /// The service's namespace.
        namespace: &'a str,
    },
    /// Not registered, let through.
    Passthrough {
        /// The destination's name, where one is known: Host, CONNECT or SOCKS target, SNI. A port is ignored.
        host: Option<&'a str>,
    },
    /// Not registered, black-holed.
    BlackHole {
        /// As in [`Self::Passthrough`].
        host: Option<&'a str>,
    },
}

/// What carries the flow; Istio's own labels treat them apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Traffic {
    /// HTTP requests, refused CONNECTs among them.
    Http,
    /// Tunnels, TLS and raw TCP.
    Tcp,
}

/// `destination_service`, `_service_name` and `_service_namespace`; `None` is `unknown`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct DestinationKey<'a> {
    pub(crate) service: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
}

/// [`DestinationKey`], owned. Field order and types must hash alike.
#[derive(Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct DestinationText {
    pub(crate) service: Option<Arc<str>>,
    pub(crate) name: Option<Arc<str>>,
    pub(crate) namespace: Option<Arc<str>>,
}

impl From<&DestinationKey<'_>> for DestinationText {
    fn from(key: &DestinationKey<'_>) -> Self {
        Self {
            service: key.service.map(Arc::from),
            name: key.name.map(Arc::from),
            namespace: key.namespace.map(Arc::from),
        }
    }
}

impl Equivalent<Arc<DestinationText>> for DestinationKey<'_> {
    fn equivalent(&self, key: &Arc<DestinationText>) -> bool {
        self.service == key.service.as_deref()
            && self.name == key.name.as_deref()
            && self.namespace == key.namespace.as_deref()
    }
}

/// `request_protocol` of HTTP series.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum RequestProtocol {
    /// `http`
    #[default]
    Http,
    /// `grpc`
    Grpc,
}

/// One HTTP label set: istio_requests_total and the three histograms.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct HttpKey {
    /// Who asked.
    pub source: SourceId,
    /// For what.
    pub destination: DestinationId,
    /// `http` or `grpc`.
    pub protocol: RequestProtocol,
    /// The status sent downstream; 0: none.
    pub response_code: u16,
    /// gRPC's own status; `None` for plain HTTP.
    pub grpc_status: Option<u8>,
    /// Envoy's flags.
    pub flags: ResponseFlags,
    /// Whether the source came over mutual TLS; shows only with `reporter="waypoint"`.
    pub mutual_tls: bool,
}

impl SeriesKey for HttpKey {
    fn charged_to(&self) -> Option<SourceId> {
        (!self.destination.registered).then_some(self.source)
    }
}

impl HttpKey {
    /// A plain-HTTP key without flags.
    #[must_use]
    pub const fn new(source: SourceId, destination: DestinationId, response_code: u16) -> Self {
        Self {
            source,
            destination,
            protocol: RequestProtocol::Http,
            response_code,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            mutual_tls: false,
        }
    }
}

/// One TCP label set.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TcpKey {
    /// Who asked.
    pub source: SourceId,
    /// For what.
    pub destination: DestinationId,
    /// Envoy's flags.
    pub flags: ResponseFlags,
    /// Whether the source came over mutual TLS; shows only with `reporter="waypoint"`.
    pub mutual_tls: bool,
}

impl SeriesKey for TcpKey {
    fn charged_to(&self) -> Option<SourceId> {
        (!self.destination.registered).then_some(self.source)
    }
}

impl TcpKey {
    /// A key without flags.
    #[must_use]
    pub const fn new(source: SourceId, destination: DestinationId) -> Self {
        Self { source, destination, flags: ResponseFlags::NONE, mutual_tls: false }
    }
}

pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Texts and their ids, id 0 reserved for "nothing known". Only grows, to its bound.
pub(crate) struct Interner<T> {
    ids: Map<Arc<T>, u32>,
    texts: Vec<Arc<T>>,
}

impl<T: Default + Eq + Hash> Interner<T> {
    pub(crate) fn new() -> Self {
        let nothing = Arc::new(T::default());
        Self { ids: Map::from_iter([(Arc::clone(&nothing), 0)]), texts: vec![nothing] }
    }

    /// The id of `key`, a new one if need be; `None` when there are `max` already.
    pub(crate) fn intern<K>(&mut self, key: &K, max: usize) -> Option<(u32, Arc<T>)>
    where
        K: Equivalent<Arc<T>> + Hash,
        T: for<'k> From<&'k K>,
    {
        if let Some((text, &id)) = self.ids.get_key_value(key) {
            return Some((id, Arc::clone(text)));
        }
        if self.texts.len() >= max {
            return None;
        }
        let id = u32::try_from(self.texts.len()).expect("invariant: every bound is far below u32::MAX");
        let text = Arc::new(T::from(key));
        self.texts.push(Arc::clone(&text));
        self.ids.insert(Arc::clone(&text), id);
        Some((id, text))
    }

    pub(crate) fn texts(&self) -> &[Arc<T>] {
        &self.texts
    }
}

/// Istio's name for what is let through without being registered.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// Istio's name for what is black-holed.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
