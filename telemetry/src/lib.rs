//! Counters, histograms, series and their encoders; access-log records and their formats.
//!
//! A leaf: it knows no component of the gateway, only names, labels and numbers. Each worker thread writes its own
//! slots through [`WorkerMetrics`] (plain load and store, no lock, no allocation once a series exists); one reader sums
//! all workers in [`Registry::snapshot`] and encodes the result.

pub mod access_log;
mod flags;
pub mod histogram;
mod host_labels;
mod keys;
mod labels;
pub mod limits;
mod product;
pub mod prometheus;
mod registry;
mod series;
mod settings;
mod slots;
pub mod snapshot;
mod worker;

pub use flags::ResponseFlags;
pub use keys::{
    BLACK_HOLE_CLUSTER, Destination, DestinationId, HttpKey, PASSTHROUGH_CLUSTER, RequestProtocol, Source,
    SourceId, TcpKey, Traffic,
};
pub use labels::{Label, LabelValue, Labels};
pub use product::{Counter, Family, Gauge};
pub use registry::Registry;
pub use settings::{GatewayIdentity, HostLabelMode, Reporter, Settings};
pub use snapshot::Snapshot;
pub use worker::{EgressSeries, HttpSeries, TcpSeries, WorkerMetrics};
