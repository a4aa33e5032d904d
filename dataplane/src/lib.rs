//! Sessions from accept to close, generic over the engine.
//!
//! [`run_worker`] is one worker thread's whole life. It knows sockets only through [`sluice_engine::Engine`] and the
//! control plane only through [`sluice_bridge`]; so the same sessions run on io_uring, on epoll and in the simulator.

mod carried;
mod connection;
mod dial;
mod door;
mod http1;
mod inside;
mod limits;
mod linger;
mod own_dials;
mod proxy_protocol;
mod reach;
mod record;
mod refusal;
mod resolve;
mod route;
mod session;
mod sniff;
mod socks5;
mod transparent;
mod tunnel;
mod unnamed;
mod upstream;
mod worker;

pub use own_dials::OwnDials;
pub use worker::{WorkerConfig, run_worker};
