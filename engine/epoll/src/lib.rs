//! The epoll engine, on tokio's current-thread runtime: the fallback where io_uring is blocked, and the sidecar's.
//!
//! It keeps the contract of `sluice_engine` with readiness instead of completions: a future that is dropped has
//! moved no byte, so there is nothing to cancel. It knows no policy and no protocol, and has no unsafe code: splice(2)
//! and pipes come from rustix, socket options from socket2.
//!
//! tokio registers sockets edge-triggered and remembers readiness. It may be forgotten only when the kernel said
//! that there is no more: on `EAGAIN`, or on a read or write that stopped short of its buffer. Every operation here goes
//! through tokio's own methods or `try_io`, which keep that rule.
//!
//! `SIGPIPE` must be ignored, as Rust's runtime does at start: a splice into a socket that its peer has closed would
//! raise it (there is no flag like `MSG_NOSIGNAL` for splice).

mod connect;
mod engine;
pub mod limits;
mod listener;
mod pipe;
mod random;
mod relay;
mod sleep;
mod splice;
mod stream;

pub use engine::{Config, EpollEngine};
pub use listener::EpollListener;
pub use sleep::EpollSleep;
pub use splice::EpollPipe;
pub use stream::{EpollAbort, EpollStream};
