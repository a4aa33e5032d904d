//! What the control plane publishes: one immutable compiled value. It must not know files, TOML or sockets.

use crate::{Credentials, DnsSettings, TelemetrySettings};
use std::sync::Arc;

/// Everything a worker decides by, swapped by pointer. A worker never drops the last reference: it hands an old
/// snapshot back through `Retired::retire`.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up by one with every publication, from 1.
    pub generation: u64,
    /// Who may reach what.
    pub policy: sluice_policy::Snapshot,
    /// The numbers in force.
    pub limits: Limits,
    /// What denials say.
    pub deny: Deny,
    /// Proxy users.
    pub credentials: Credentials,
    /// How names are resolved and for how long answers live.
    pub dns: DnsSettings,
    /// Metrics as chosen at start; a reload cannot change it.
    pub telemetry: TelemetrySettings,
    /// Which flows get an access-log line.
    pub access_log: AccessLog,
}

/// Which flows get an access-log line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AccessLog {
    /// Every request and connection.
    #[default]
    All,
    /// Only denials and errors.
    DeniedAndErrors,
    /// None.
    Off,
}

/// What a denial tells the person behind the client.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Deny {
    /// Whom to ask, from `[deny] contact`.
    pub contact: Option<Arc<str>>,
}

/// One field per number that bounds a flow; durations in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// A request head, from its first byte (for the first request: from accept) to its last.
    pub request_head_timeout_ms: u64,
    /// A request or response head.
    pub head_bytes_max: usize,
    /// Sniffing what a client wants, TLS hello included.
    pub sniff_timeout_ms: u64,
    /// A TLS ClientHello, over all its records.
    pub hello_bytes_max: usize,
    /// The TLS handshake on a mesh door.
    pub mesh_handshake_timeout_ms: u64,
    /// Connecting to one upstream address.
    pub connect_timeout_ms: u64,
    /// When the second address family is tried beside the first (RFC 8305 §5).
    pub connect_stagger_ms: u64,
    /// From a request sent to its response head.
    pub response_head_timeout_ms: u64,
    /// An HTTP exchange in which no byte moves.
    pub http_stream_idle_timeout_ms: u64,
    /// A client connection between two requests.
    pub client_keepalive_timeout_ms: u64,
    /// A pooled upstream connection.
    pub upstream_keepalive_timeout_ms: u64,
    /// A tunnel in which no byte moves.
    pub tunnel_idle_timeout_ms: u64,
    /// A tunnel of which one direction has ended.
    pub half_closed_timeout_ms: u64,
    /// From SIGTERM until flows are cut.
    pub drain_timeout_ms: u64,
    /// After an answer that ends a connection: how long what still arrives is discarded …
    pub linger_timeout_ms: u64,
    /// … and how much of it.
    pub linger_bytes_max: usize,
    /// Connections of all workers together; `None`: 45 % of the descriptor limit, worked out at start.
    pub connections_max: Option<usize>,
    /// Descriptors kept back for control.
    pub control_descriptors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_head_timeout_ms: 10_000,
            head_bytes_max: 32 * 1024,
            sniff_timeout_ms: 3_000,
            hello_bytes_max: 64 * 1024,
            mesh_handshake_timeout_ms: 5_000,
            connect_timeout_ms: 5_000,
            connect_stagger_ms: 250,
            response_head_timeout_ms: 60_000,
            http_stream_idle_timeout_ms: 300_000,
            client_keepalive_timeout_ms: 60_000,
            upstream_keepalive_timeout_ms: 30_000,
            tunnel_idle_timeout_ms: 3_600_000,
            half_closed_timeout_ms: 60_000,
            drain_timeout_ms: 25_000,
            linger_timeout_ms: 1_000,
            linger_bytes_max: 64 * 1024,
            connections_max: None,
            control_descriptors: 16,
        }
    }
}
