//! DNS questions and answers as they cross between workers and the control plane. It must not know a resolver.

use crate::limits::ADDRESSES_MAX;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// How names are resolved and for how long answers live (`[dns]`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsSettings {
    /// Upstream servers; empty: the nameservers of resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Floor of an answer's life.
    pub ttl_min_ms: u64,
    /// Ceiling of an answer's life.
    pub ttl_max_ms: u64,
    /// How long "no such name" and failures are believed.
    pub negative_ttl_ms: u64,
    /// How long past its life an answer may serve while DNS is down.
    pub stale_ms: u64,
    /// One question, all retries included.
    pub timeout_ms: u64,
    /// Names kept in a cache.
    pub cache_entries_max: usize,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ttl_min_ms: 1_000,
            ttl_max_ms: 300_000,
            negative_ttl_ms: 5_000,
            stale_ms: 3_600_000,
            timeout_ms: 2_000,
            cache_entries_max: 10_000,
        }
    }
}

/// A worker asks for both address families of one absolute name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsQuestion {
    /// Canonical: lower-case A-labels, no trailing dot.
    pub name: Arc<str>,
    /// Who asks, so that the answer finds its way.
    pub worker: usize,
}

/// What became of a question. It also goes unasked to workers that hold the name, when it was refreshed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DnsAnswer {
    /// The question's name.
    pub name: Arc<str>,
    /// Addresses, or why there are none.
    pub outcome: Result<Addresses, DnsFailure>,
    /// How long the outcome may be used without asking again.
    pub fresh_ms: u64,
    /// How long after that it may be used while a new answer is awaited or DNS is down; 0 for failures.
    pub stale_ms: u64,
}

/// Both families of one name. At least one address, at most [`ADDRESSES_MAX`] of each family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Addresses {
    /// A records, in the answer's order.
    pub v4: Vec<Ipv4Addr>,
    /// AAAA records, in the answer's order.
    pub v6: Vec<Ipv6Addr>,
}

impl Addresses {
    /// Collects an answer's addresses, without duplicates and up to the bound; `None` when there is none.
    pub fn collect(
        v4: impl IntoIterator<Item = Ipv4Addr>,
        v6: impl IntoIterator<Item = Ipv6Addr>,
    ) -> Option<Self> {
        let addresses = Self { v4: bounded(v4), v6: bounded(v6) };
        (!addresses.v4.is_empty() || !addresses.v6.is_empty()).then_some(addresses)
    }
}

fn bounded<A: PartialEq>(addresses: impl IntoIterator<Item = A>) -> Vec<A> {
    let mut kept = Vec::new();
    for address in addresses {
        if kept.len() == ADDRESSES_MAX {
            break;
        }
        if !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum DnsFailure {
    /// NXDOMAIN.
    #[error("no such name")]
    NoName,
    /// The name exists and has neither A nor AAAA.
    #[error("the name has no address")]
    NoData,
    /// No server answered in time.
    #[error("no DNS server answered in time")]
    Timeout,
    /// SERVFAIL, or an answer that could not be read.
    #[error("the DNS server failed")]
    ServerFailure,
    /// REFUSED.
    #[error("the DNS server refused the question")]
    Refused,
}

impl DnsFailure {
    /// One word for labels and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoName => "no_name",
            Self::NoData => "no_data",
            Self::Timeout => "timeout",
            Self::ServerFailure => "server_failure",
            Self::Refused => "refused",
        }
    }

    /// Whether DNS itself answered: then it is the truth for now; otherwise an older answer may serve instead.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        matches!(self, Self::NoName | Self::NoData)
    }
}
