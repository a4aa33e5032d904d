//! What a test may see of the world: connect attempts, connections and their byte counts, what is open.

use std::net::SocketAddr;

use sluice_engine::Instant;

/// What became of a connect attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// No answer yet.
    Pending,
    /// It stands.
    Connected,
    /// It failed with this OS error.
    Failed(i32),
    /// The caller gave it up.
    Abandoned,
}

/// One call of connect: what a packet capture would show as a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Made by the machine under test (and not by an outside host).
    pub by_engine: bool,
    /// Where to.
    pub to: SocketAddr,
    /// From which address.
    pub from: SocketAddr,
    /// When.
    pub at: Instant,
    /// What became of it.
    pub outcome: AttemptOutcome,
}

/// One connection, from its client to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The connecting side is the machine under test.
    pub from_engine: bool,
    /// The accepting side is the machine under test.
    pub to_engine: bool,
    /// The connecting side's address.
    pub client: SocketAddr,
    /// The accepting side's address.
    pub server: SocketAddr,
    /// Bytes that the client's socket took.
    pub client_sent_bytes: u64,
    /// Bytes that the server's socket took.
    pub server_sent_bytes: u64,
    /// Bytes that the client's task received.
    pub client_received_bytes: u64,
    /// Bytes that the server's task received.
    pub server_received_bytes: u64,
    /// The client's end is still open.
    pub client_open: bool,
    /// The server's end is still open.
    pub server_open: bool,
}

/// What is open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenCounts {
    /// Streams of the machine under test.
    pub engine_streams: usize,
    /// Listeners of the machine under test.
    pub engine_listeners: usize,
    /// Streams of outside hosts.
    pub outside_streams: usize,
    /// Listeners of outside hosts.
    pub outside_listeners: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Pool buffers that are out, on all hosts.
    pub buffers: usize,
}
