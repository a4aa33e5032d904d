//! One line of the admin's connection list. It must not know how a session keeps its facts.

use sluice_policy::{Reason, Verdict};
use std::{net::SocketAddr, sync::Arc};

/// A live connection as `/connections` shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectionRow {
    /// Unique within the worker.
    pub id: u64,
    /// Which worker carries it.
    pub worker: usize,
    /// The door's name.
    pub door: Arc<str>,
    /// The client.
    pub source: SocketAddr,
    /// The source workload, where known.
    pub workload: Option<Arc<str>>,
    /// The source's namespace, where known.
    pub namespace: Option<Arc<str>>,
    /// `http`, `connect`, `tls`, `tcp`.
    pub protocol: &'static str,
    /// The destination's name, or address literal, where known yet.
    pub host: Option<Arc<str>>,
    /// The destination's port.
    pub port: u16,
    /// The address dialled.
    pub upstream: Option<SocketAddr>,
    /// The registered service, `namespace/name`.
    pub service: Option<Arc<str>>,
    /// The policy's verdict, once decided.
    pub decision: Option<Verdict>,
    /// Its reason, once decided.
    pub reason: Option<Reason>,
    /// Payload bytes from downstream.
    pub received_bytes: u64,
    /// Payload bytes to downstream.
    pub sent_bytes: u64,
    /// Since accept.
    pub age_ms: u64,
    /// Where in its life it is.
    pub phase: Phase,
    /// How bytes move; `None` unless relaying.
    pub path: Option<Path>,
}

/// Where in its life a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Finding out what is wanted.
    Sniffing,
    /// Waiting for DNS.
    Resolving,
    /// Connecting upstream.
    Dialing,
    /// An HTTP exchange is under way.
    Http,
    /// An HTTP client is between two requests.
    Idle,
    /// A tunnel.
    Relaying,
    /// Answered, discarding what still arrives.
    Lingering,
}

impl Phase {
    /// One word for the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sniffing => "sniffing",
            Self::Resolving => "resolving",
            Self::Dialing => "dialing",
            Self::Http => "http",
            Self::Idle => "idle",
            Self::Relaying => "relaying",
            Self::Lingering => "lingering",
        }
    }
}

/// How a tunnel's bytes move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Path {
    /// Through pooled buffers, both directions.
    Buffers,
    /// At least one direction by splice.
    Splice,
}

impl Path {
    /// One word for the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buffers => "buffers",
            Self::Splice => "splice",
        }
    }
}
