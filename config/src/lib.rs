//! TOML, environment and flags to a checked [`Plan`]: strict schema, every error at once with its place and remedy.
//!
//! The way of a configuration: `source` (layers) → `schema` (structure, one description for checking and for the
//! reference) → `check` (meaning) → `plan` (runtime types). This crate opens no socket and starts nothing.

pub mod limits;

mod check;
mod diff;
mod docs;
mod effective;
mod entry_files;
mod hosts_file;
mod import;
mod istio;
mod layers;
mod load;
mod plan;
mod problem;
mod read;
mod schema;
mod secret;
mod source;
mod spans;
mod structure;
mod suggest;
mod unavailable;

pub use diff::{Diff, diff};
pub use docs::reference_markdown;
pub use entry_files::FilePattern;
pub use import::{Import, ImportSource, import_istio};
pub use load::{Loaded, load};
pub use plan::{
    AccessLog, AccessLogFormat, AccessLogLines, Admin, Auth, Capture, Credential, Dataplane, Deny, DenyTls,
    Dns, Door, DoorKind, EngineChoice, HostLabels, Limits, Plan, Prometheus, ProxyProtocol, Reporter,
    Telemetry, UpstreamSource,
};
pub use problem::{Problem, Report};
pub use secret::Secret;
pub use source::{DEFAULT_PATH, Override, Source};
