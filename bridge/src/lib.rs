//! The contract between the control plane and the workers: the published snapshot, doors, commands, DNS questions and
//! answers, records, and the bounded queues that carry them.
//!
//! Runtime-agnostic: of tokio only the `sync` primitives, which any executor can await. It must not know how a worker
//! forwards or how the control plane finds its answers.

mod credentials;
mod dns;
mod door;
mod labels;
pub mod limits;
mod port;
mod row;
mod snapshot;

pub use credentials::{Credentials, CredentialsBuilder, CredentialsError};
pub use dns::{Addresses, DnsAnswer, DnsFailure, DnsQuestion, DnsSettings};
pub use door::{Auth, Capture, DenyTls, Door, DoorKind, DoorPlan, ProxyProtocol, UpstreamSource};
pub use labels::source_labels;
pub use port::{Command, ControlPort, Notice, RecordQueue, Records, Retired, WorkerPort, pair};
pub use row::{ConnectionRow, Path, Phase};
pub use sluice_telemetry::Settings as TelemetrySettings;
pub use snapshot::{AccessLog, Deny, Limits, Snapshot};
