//! One tunnel as a pure state machine: credit, half-close, reset, promotion to splice, revocation, exact byte counts.
//!
//! It does no I/O and reads no clock. An engine performs its [`Action`]s and tells it what came of them as
//! [`Input`]s; time comes in as an argument, in milliseconds on any monotonic scale.
#![no_std]

use core::cell::Cell;

/// One end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client that connected to us.
    Downstream,
    /// The destination that we connected to.
    Upstream,
}

/// How a relay is to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A tunnel in which nothing moves for this long is reset. Milliseconds; 0 means never.
    pub idle_timeout_ms: u64,
    /// A tunnel of which one direction has ended and the other moves nothing for this long is reset. Milliseconds.
    pub half_close_timeout_ms: u64,
    /// Buffers that one direction may hold at a time, received and not yet sent: 1 or 2.
    pub credit_buffers: u8,
    /// After this many full buffers in a row a direction is promoted to splice. 0 means never.
    pub splice_after_full_buffers: u8,
    /// A splice that moves fewer bytes than this counts as small. Bytes.
    pub splice_small_bytes: usize,
    /// After this many small splices in a row a direction goes back to buffers.
    pub splice_demote_after: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_timeout_ms: 3_600_000,
            half_close_timeout_ms: 60_000,
            credit_buffers: 2,
            splice_after_full_buffers: 16,
            splice_small_bytes: 16 * 1024,
            splice_demote_after: 8,
        }
    }
}

/// What happened. `from` names the side that the bytes of a direction come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A receive gave `bytes` (at least 1) in one buffer; `full` if the buffer had no more room.
    Received { from: Side, bytes: usize, full: bool },
    /// A receive found the orderly end of this side.
    Ended { from: Side },
    /// The buffer at the head of this direction was written; `bytes` of it, all of it if `whole`. (A short send is
    /// continued by the engine: it reports each part for the counts.)
    Sent { from: Side, bytes: usize, whole: bool },
    /// A splice from this side into its pipe moved `bytes` (at least 1).
    SplicedIn { from: Side, bytes: usize },
    /// A splice from the pipe of this direction to the other side's socket moved `bytes` (at least 1).
    SplicedOut { from: Side, bytes: usize },
    /// No pipe is to be had: the direction stays with buffers.
    SpliceUnavailable { from: Side },
    /// An operation on this side's socket failed: it was reset, or worse.
    Failed { side: Side },
    /// The time given by [`Machine::deadline_ms`] has come, or may have.
    Timer,
    /// The flow was revoked, or the process ends.
    Abort,
}

/// What the engine is to do. `from` names the direction by the side its bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Receive from this side into a buffer from the pool; answer `Received`, `Ended` or `Failed`.
    Receive { from: Side },
    /// Send the oldest held buffer of this direction to the other side; answer `Sent` or `Failed`.
    Send { from: Side },
    /// Splice from this side into the direction's pipe, waiting for readiness as needed; answer `SplicedIn`, `Ended`,
    /// `SpliceUnavailable` or `Failed`.
    SpliceIn { from: Side },
    /// Splice from the direction's pipe to the other side, waiting for readiness as needed; answer `SplicedOut` or `Failed`.
    SpliceOut { from: Side },
    /// The pipe of this direction is empty and no longer needed.
    ReleasePipe { from: Side },
    /// End the write side of this side's socket; nothing more will be sent to it.
    Shutdown { side: Side },
    /// The last action: cancel what is in flight; close both sockets, with a reset if `reset`; report.
    Finish { reset: bool },
}

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
