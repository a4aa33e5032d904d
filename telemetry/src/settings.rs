//! What the operator chooses about metrics. It must not know where the choices are read from.

use std::sync::Arc;

/// Who the istio_* series claim to be reported by (`[telemetry] reporter`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reporter {
    /// `reporter="source"`, `source_*` name the client: what Kiali and the Grafana dashboards show best.
    #[default]
    Source,
    /// `reporter="waypoint"`, `source_*` name the client: Istio's own form in ambient mode.
    Waypoint,
    /// `reporter="source"`, `source_*` name this gateway, as an Istio egress gateway does; loses the client.
    Gateway,
}

/// Which unregistered host names become labels (`[telemetry] host_labels`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HostLabelMode {
    /// Names of every protocol, as far as a bounded table admits them; the rest is `unknown` and counted.
    #[default]
    Bounded,
    /// Istio's sidecar: the Host of any HTTP request, never an SNI. Bounded by the cap on series only.
    Istio,
}

/// Fixed for a process's life: changing them would rename series that already have counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// See [`Reporter`].
    pub reporter: Reporter,
    /// `source_cluster` where the source's own is not known (Istio's default is `Kubernetes`). Kiali drops series
    /// whose cluster is present but unknown.
    pub cluster_id: Arc<str>,
    /// See [`HostLabelMode`].
    pub host_labels: HostLabelMode,
    /// Who this gateway is, for [`Reporter::Gateway`].
    pub gateway: GatewayIdentity,
    /// `tag` of `istio_build`: our version.
    pub version: Arc<str>,
    /// Series unchanged for this long are forgotten, milliseconds.
    pub series_idle_ms: u64,
}

/// The gateway's own workload labels.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GatewayIdentity {
    /// Workload name.
    pub workload: Option<Arc<str>>,
    /// Namespace.
    pub namespace: Option<Arc<str>>,
    /// SPIFFE id.
    pub principal: Option<Arc<str>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reporter: Reporter::default(),
            cluster_id: "Kubernetes".into(),
            host_labels: HostLabelMode::default(),
            gateway: GatewayIdentity::default(),
            version: env!("CARGO_PKG_VERSION").into(),
            series_idle_ms: crate::limits::SERIES_IDLE_MS,
        }
    }
}
