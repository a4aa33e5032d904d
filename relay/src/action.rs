//! What the machine asks of an engine, and the short inline list in which it asks.

use crate::input::Side;
use crate::limits::ACTIONS_MAX;

/// What the engine is to do. `from` names the direction by the side its bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Receive from this side into a buffer from the pool; answer `Received`, `Ended` or `Failed`.
    Receive {
        /// The direction.
        from: Side,
    },
    /// Send the oldest held buffer of this direction to the other side, all of it; answer `Sent` (once for each part,
    /// the last one `whole`) or `Failed`.
    Send {
        /// The direction.
        from: Side,
    },
    /// Splice from this side into the direction's pipe, waiting for readiness as needed; answer `SplicedIn`, `Ended`,
    /// `SpliceUnavailable` or `Failed`. The pipe is empty now: an engine may take it only when the side is readable.
    SpliceIn {
        /// The direction.
        from: Side,
    },
    /// Splice from the direction's pipe to the other side, waiting for readiness as needed; answer `SplicedOut` or
    /// `Failed`.
    SpliceOut {
        /// The direction.
        from: Side,
    },
    /// The pipe of this direction is empty and no longer needed.
    ReleasePipe {
        /// The direction.
        from: Side,
    },
    /// End the write side of this side's socket; nothing more will be sent to it. If that fails, answer `Failed`.
    Shutdown {
        /// Whose socket.
        side: Side,
    },
    /// The last action: cancel what is in flight, drop held buffers, close both sockets, with a reset if `reset`
    /// (an orderly close ends whatever write side is still open), and report. A pipe that may still hold bytes is
    /// closed, not pooled: see [`Machine::parked_bytes`](crate::Machine::parked_bytes).
    Finish {
        /// Close with a reset.
        reset: bool,
    },
}

/// The actions that one input causes, in order, without allocation. Iterate over it.
#[derive(Clone, Copy, Debug)]
pub struct Actions {
    list: [Action; ACTIONS_MAX],
    next: u8,
    length: u8,
}

impl Actions {
    pub(crate) const fn new() -> Self {
        Self { list: [Action::Finish { reset: true }; ACTIONS_MAX], next: 0, length: 0 }
    }

    pub(crate) fn push(&mut self, action: Action) {
        // The bound holds by construction (see ACTIONS_MAX); the test of it is tests/model.rs.
        if let Some(slot) = self.list.get_mut(usize::from(self.length)) {
            *slot = action;
            self.length += 1;
        } else {
            debug_assert!(false, "more actions than one input can cause");
        }
    }
}

impl Iterator for Actions {
    type Item = Action;

    fn next(&mut self) -> Option<Action> {
        if self.next >= self.length {
            return None;
        }
        let action = self.list.get(usize::from(self.next)).copied();
        self.next += 1;
        action
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.length.saturating_sub(self.next));
        (left, Some(left))
    }
}

impl ExactSizeIterator for Actions {}
