//! What is known of a tunnel while it lives and when it has ended.

use core::cell::Cell;

use crate::input::Side;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides ended in order and every byte was passed on.
    Closed,
    /// This side reset its connection (or it failed); the other side was reset as well.
    Reset(Side),
    /// Nothing moved for the idle timeout.
    IdleTimeout,
    /// One side had ended and the other moved nothing for the half-close timeout.
    HalfCloseTimeout,
    /// Revoked, drained or dropped by us.
    Aborted,
}

/// What is known of a tunnel when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Bytes of ours that the upstream socket took during the relay.
    pub to_upstream_bytes: u64,
    /// Bytes of ours that the downstream socket took during the relay.
    pub to_downstream_bytes: u64,
    /// How it ended.
    pub end: End,
}

/// Live byte counts of a tunnel, shared between the engine and whoever watches.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of ours that the upstream socket took.
    pub to_upstream_bytes: Cell<u64>,
    /// Bytes of ours that the downstream socket took.
    pub to_downstream_bytes: Cell<u64>,
    /// Directions that are being spliced now.
    pub splicing: Cell<u8>,
}

impl Counters {
    /// Adds bytes that the socket across from `from` took.
    pub(crate) fn add(&self, from: Side, bytes: u64) {
        let count = match from {
            Side::Downstream => &self.to_upstream_bytes,
            Side::Upstream => &self.to_downstream_bytes,
        };
        count.set(count.get().saturating_add(bytes));
    }

    pub(crate) fn splice_begins(&self) {
        self.splicing.set(self.splicing.get().saturating_add(1));
    }

    pub(crate) fn splice_ends(&self) {
        self.splicing.set(self.splicing.get().saturating_sub(1));
    }
}
