//! From keys to the 25 labels of Istio's contract. It must not know numbers or encodings.

use crate::{
    Reporter, Settings,
    keys::{DestinationId, DestinationText, HttpKey, RequestProtocol, SourceId, SourceText, TcpKey},
    registry::Names,
};
use std::{cmp::Ordering, sync::Arc};

const UNKNOWN: &str = "unknown";
const LATEST: &str = "latest";

/// One label.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    /// Its name, valid for Prometheus.
    pub name: &'static str,
    /// Its value: any UTF-8; encoders escape it.
    pub value: LabelValue,
}

/// A label's value, copied from nobody.
#[derive(Clone, Debug)]
pub enum LabelValue {
    /// A word of ours.
    Static(&'static str),
    /// An interned text.
    Shared(Arc<str>),
}

impl LabelValue {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Static(word) => word,
            Self::Shared(text) => text,
        }
    }
}

impl PartialEq for LabelValue {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for LabelValue {}

impl From<&'static str> for LabelValue {
    fn from(word: &'static str) -> Self {
        Self::Static(word)
    }
}

impl From<Arc<str>> for LabelValue {
    fn from(text: Arc<str>) -> Self {
        Self::Shared(text)
    }
}

/// The labels of one series, in the contract's order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Labels(pub Vec<Label>);

impl Labels {
    /// A label's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|label| label.name == name).map(|label| label.value.as_str())
    }

    fn values(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|label| label.value.as_str())
    }
}

/// By values: within one metric the names are the same.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.values().cmp(other.values())
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Turns ids into names, for one snapshot.
pub(crate) struct Naming<'s> {
    settings: &'s Settings,
    sources: Vec<Arc<SourceText>>,
    destinations: Vec<Arc<DestinationText>>,
    gateway: SourceText,
}

impl<'s> Naming<'s> {
    pub(crate) fn new(settings: &'s Settings, names: &Names) -> Self {
        let gateway = SourceText {
            workload: settings.gateway.workload.clone(),
            namespace: settings.gateway.namespace.clone(),
            principal: settings.gateway.principal.clone(),
            ..SourceText::default()
        };
        Self {
            settings,
            sources: names.sources.texts().to_vec(),
            destinations: names.destinations.texts().to_vec(),
            gateway,
        }
    }

    /// All 25 labels. The overflow series has no status of its own.
    pub(crate) fn http(&self, key: &HttpKey, overflow: bool) -> Labels {
        let code = if overflow { UNKNOWN.into() } else { decimal(key.response_code) };
        let grpc_status = key.grpc_status.map_or(LabelValue::Static(""), |status| decimal(status.into()));
        let protocol = match key.protocol {
            RequestProtocol::Http => "http",
            RequestProtocol::Grpc => "grpc",
        };
        let mut labels = self.ends(key.source, key.destination);
        labels.extend([
            Label { name: "request_protocol", value: protocol.into() },
            Label { name: "response_code", value: code },
            Label { name: "grpc_response_status", value: grpc_status },
            self.flags(key.flags),
            self.security(key.mutual_tls),
        ]);
        Labels(labels)
    }

    /// The labels without those that Istio gives to HTTP only.
    pub(crate) fn tcp(&self, key: &TcpKey) -> Labels {
        let mut labels = self.ends(key.source, key.destination);
        labels.extend([
            Label { name: "request_protocol", value: "tcp".into() },
            self.flags(key.flags),
            self.security(key.mutual_tls),
        ]);
        Labels(labels)
    }

    /// The first twenty labels: who reports, the source, the destination.
    fn ends(&self, source: SourceId, destination: DestinationId) -> Vec<Label> {
        let reporter = self.settings.reporter;
        let source = match reporter {
            Reporter::Gateway => &self.gateway,
            Reporter::Source | Reporter::Waypoint => &self.sources[source.0 as usize],
        };
        let destination = &self.destinations[destination.index as usize];
        let text = |text: &Option<Arc<str>>| text.clone().map_or(UNKNOWN.into(), LabelValue::from);
        let cluster = source.cluster.as_ref().unwrap_or(&self.settings.cluster_id);
        let service = source.app.as_ref().or(source.workload.as_ref()).or(source.service_account.as_ref());
        let (reporter, destination_revision) = match reporter {
            Reporter::Source | Reporter::Gateway => ("source", LATEST),
            Reporter::Waypoint => ("waypoint", UNKNOWN),
        };
        let pairs: [(&'static str, LabelValue); 20] = [
            ("reporter", reporter.into()),
            ("source_workload", text(&source.workload)),
            ("source_app", text(&source.app)),
            ("source_version", text(&source.version)),
            ("source_cluster", Arc::clone(cluster).into()),
            ("source_canonical_service", service.cloned().map_or(UNKNOWN.into(), LabelValue::from)),
            ("source_canonical_revision", source.version.clone().map_or(LATEST.into(), LabelValue::from)),
            ("source_workload_namespace", text(&source.namespace)),
            ("source_principal", text(&source.principal)),
            ("destination_workload", UNKNOWN.into()),
            ("destination_workload_namespace", UNKNOWN.into()),
            ("destination_app", UNKNOWN.into()),
            ("destination_version", UNKNOWN.into()),
            ("destination_canonical_service", UNKNOWN.into()),
            ("destination_cluster", UNKNOWN.into()),
            ("destination_canonical_revision", destination_revision.into()),
            ("destination_principal", UNKNOWN.into()),
            ("destination_service", text(&destination.service)),
            ("destination_service_name", text(&destination.name)),
            ("destination_service_namespace", text(&destination.namespace)),
        ];
        pairs.into_iter().map(|(name, value)| Label { name, value }).collect()
    }

    fn flags(&self, flags: crate::ResponseFlags) -> Label {
        let value = if flags.is_empty() { "-".into() } else { LabelValue::Shared(flags.to_string().into()) };
        Label { name: "response_flags", value }
    }

    fn security(&self, mutual_tls: bool) -> Label {
        let value = match (self.settings.reporter, mutual_tls) {
            (Reporter::Source | Reporter::Gateway, _) => UNKNOWN,
            (Reporter::Waypoint, true) => "mutual_tls",
            (Reporter::Waypoint, false) => "none",
        };
        Label { name: "connection_security_policy", value: value.into() }
    }
}

fn decimal(number: u16) -> LabelValue {
    LabelValue::Shared(itoa::Buffer::new().format(number).into())
}
