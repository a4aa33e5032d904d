//! Counters, histograms, series and their encoders; access-log records and their formats.
//!
//! A leaf: it knows no component of the gateway, only names, labels and numbers. Each worker thread writes its own
//! slots through [`WorkerMetrics`] (plain load and store, no lock, no allocation once a series exists); one reader sums
//! all workers in [`Registry::snapshot`] and encodes the result.

pub mod access_log;
mod flags;
pub mod limits;
mod settings;

pub use flags::ResponseFlags;
pub use settings::{GatewayIdentity, HostLabelMode, Reporter, Settings};
