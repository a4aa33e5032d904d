//! What an engine tells the machine. Knows nothing of sockets: a side is a name, bytes are a number.

/// One end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client that connected to us.
    Downstream,
    /// The destination that we connected to.
    Upstream,
}

impl Side {
    /// Both sides, downstream first.
    pub const BOTH: [Self; 2] = [Self::Downstream, Self::Upstream];

    /// The side across.
    pub const fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }

    /// A place in an array of two.
    pub const fn index(self) -> usize {
        match self {
            Self::Downstream => 0,
            Self::Upstream => 1,
        }
    }
}

/// What a tunnel starts with. A session that sniffed or spoke before it handed over has received bytes already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Bytes in the one buffer already received from downstream; 0 if there is none.
    pub from_downstream_bytes: usize,
    /// Bytes in the one buffer already received from upstream; 0 if there is none.
    pub from_upstream_bytes: usize,
    /// Downstream has already ended its write side.
    pub downstream_ended: bool,
    /// Upstream has already ended its write side.
    pub upstream_ended: bool,
}

/// What happened. `from` names the side that the bytes of a direction come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A receive gave `bytes` (at least 1) in one buffer; `full` if the buffer had no more room.
    Received {
        /// The direction.
        from: Side,
        /// How many bytes.
        bytes: usize,
        /// The buffer had no more room.
        full: bool,
    },
    /// A receive or a splice found the orderly end of this side.
    Ended {
        /// The direction.
        from: Side,
    },
    /// The buffer at the head of this direction was written; `bytes` of it, all that was left if `whole`. (A short
    /// send is continued by the engine: it reports each part for the counts.)
    Sent {
        /// The direction.
        from: Side,
        /// How many bytes were taken now.
        bytes: usize,
        /// Nothing of the buffer is left.
        whole: bool,
    },
    /// A splice from this side into its pipe moved `bytes` (at least 1).
    SplicedIn {
        /// The direction.
        from: Side,
        /// How many bytes.
        bytes: usize,
    },
    /// A splice from the pipe of this direction to the other side's socket moved `bytes` (at least 1).
    SplicedOut {
        /// The direction.
        from: Side,
        /// How many bytes.
        bytes: usize,
    },
    /// No pipe is to be had, or this socket cannot be spliced; nothing was moved, and the engine holds no pipe for
    /// the direction any more. The direction goes back to buffers.
    SpliceUnavailable {
        /// The direction.
        from: Side,
    },
    /// An operation on this side's socket failed: it was reset, or worse.
    Failed {
        /// Whose socket.
        side: Side,
    },
    /// The time given by [`Machine::deadline_ms`](crate::Machine::deadline_ms) has come, or may have.
    Timer,
    /// The flow was revoked, or the process ends.
    Abort,
}
