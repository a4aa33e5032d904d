//! Everything slow: reload, DNS, admin, log writing. It publishes immutable snapshots to the workers and never touches a
//! flow; it must not know an engine or a session.
//!
//! Threads: `control` waits (DNS, admin, timers, signals), `records` formats and hands lines to a [`LogWriter`], `heavy` and
//! `pages` are niced and do what takes time: the one loads, compiles and frees, the other encodes metrics and admin pages.

pub mod admin;
pub mod backlog;
mod clock;
mod control;
mod counts;
pub mod descriptors;
pub mod dns;
pub mod doors;
pub mod explain;
pub mod heavy;
pub mod limits;
pub mod local;
mod logfile;
pub mod publish;
pub mod records;
mod reload;
mod signals;
mod start;
pub mod status;
mod watch;

pub use control::Ending;
pub use doors::BindError;
pub use logfile::{Append, Appended, FileWriter};
pub use records::{LogWriter, StreamWriter};
pub use reload::MakeLogWriter;
pub use signals::Order;
pub use start::{ControlPanicked, Listeners, Running, Setup, StartError, start};
