//! One direction of a tunnel: what its source still gives, what is held, what is under way, buffers or pipe.
//!
//! It knows nothing of the other direction, of time or of how the tunnel ends: [`Machine`](crate::Machine) does.

use crate::action::{Action, Actions};
use crate::input::Side;
use crate::limits::{CREDIT_BUFFERS_MAX, SHORT_BUFFER_TAKES_BACK, SPLICE_RETRY_FULL_BUFFERS};
use crate::report::Counters;
use crate::settings::Settings;

/// What the source still gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// More may come.
    Open,
    /// It ended in order: the sink is shut down once all is sent.
    Ended,
    /// It failed: what is held is still sent, then the tunnel is reset.
    Failed,
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// Through pooled buffers.
    Buffers,
    /// Through buffers until nothing is held; then through a pipe.
    Promoting,
    /// Through a pipe.
    Splice,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Direction {
    from: Side,
    source: Source,
    path: Path,
    /// A receive or a splice into the pipe is under way.
    inbound: bool,
    /// A send or a splice out of the pipe is under way.
    outbound: bool,
    /// Everything was sent and the sink's write side ended.
    shut: bool,
    held_buffers: u8,
    small_splices: u8,
    full_buffers: u16,
    /// The run of full buffers that promotes; 0 means never.
    full_buffers_needed: u16,
    held_bytes: u64,
    sent_bytes: u64,
}

impl Direction {
    pub(crate) fn new(from: Side, settings: &Settings) -> Self {
        Self {
            from,
            source: Source::Open,
            path: Path::Buffers,
            inbound: false,
            outbound: false,
            shut: false,
            held_buffers: 0,
            small_splices: 0,
            full_buffers: 0,
            full_buffers_needed: u16::from(settings.splice_after_full_buffers),
            held_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Bytes and an end that came before the relay began.
    pub(crate) fn begin_with(&mut self, bytes: usize, ended: bool) {
        if bytes > 0 {
            self.held_buffers = 1;
            self.held_bytes = bytes as u64;
        }
        if ended {
            self.source = Source::Ended;
        }
    }

    pub(crate) fn received(&mut self, bytes: usize, full: bool) -> bool {
        if !self.inbound || self.path == Path::Splice || bytes == 0 {
            return false;
        }
        self.inbound = false;
        self.held_buffers = self.held_buffers.saturating_add(1);
        self.held_bytes = self.held_bytes.saturating_add(bytes as u64);
        // Not a run without a break: each time that a socket's queue is read empty its remainder makes a short buffer.
        self.full_buffers = if full {
            self.full_buffers.saturating_add(1)
        } else {
            self.full_buffers.saturating_sub(SHORT_BUFFER_TAKES_BACK)
        };
        if self.full_buffers_needed > 0 && self.full_buffers >= self.full_buffers_needed {
            self.path = Path::Promoting;
        }
        true
    }

    pub(crate) fn spliced_in(&mut self, bytes: usize, settings: &Settings) -> bool {
        if !self.inbound || self.path != Path::Splice || bytes == 0 {
            return false;
        }
        self.inbound = false;
        self.held_bytes = self.held_bytes.saturating_add(bytes as u64);
        let small = bytes < settings.splice_small_bytes;
        self.small_splices = if small { self.small_splices.saturating_add(1) } else { 0 };
        true
    }

    pub(crate) fn splice_unavailable(&mut self, counters: &Counters) -> bool {
        if !self.inbound || self.path != Path::Splice {
            return false;
        }
        self.inbound = false;
        self.full_buffers_needed = SPLICE_RETRY_FULL_BUFFERS;
        self.leave_splice(counters);
        true
    }

    pub(crate) fn ended(&mut self) -> bool {
        if !self.inbound || self.source != Source::Open {
            return false;
        }
        self.inbound = false;
        self.source = Source::Ended;
        true
    }

    /// The socket that this direction reads from failed. A receive that is under way may still bring its bytes.
    pub(crate) fn source_failed(&mut self) {
        self.source = Source::Failed;
    }

    pub(crate) fn sent(&mut self, bytes: usize, whole: bool, counters: &Counters) -> bool {
        if !self.outbound || self.path == Path::Splice {
            return false;
        }
        self.count(bytes, counters);
        if whole {
            self.outbound = false;
            self.held_buffers = self.held_buffers.saturating_sub(1);
            if self.held_buffers == 0 {
                self.held_bytes = 0;
            }
        }
        true
    }

    pub(crate) fn spliced_out(&mut self, bytes: usize, counters: &Counters) -> bool {
        if !self.outbound || self.path != Path::Splice {
            return false;
        }
        self.outbound = false;
        self.count(bytes, counters);
        true
    }

    fn count(&mut self, bytes: usize, counters: &Counters) {
        let bytes = bytes as u64;
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
        counters.add(self.from, bytes);
    }

    fn leave_splice(&mut self, counters: &Counters) {
        self.path = Path::Buffers;
        self.full_buffers = 0;
        self.small_splices = 0;
        counters.splice_ends();
    }

    /// Asks for whatever can go on now.
    pub(crate) fn advance(&mut self, settings: &Settings, counters: &Counters, actions: &mut Actions) {
        if self.path == Path::Splice {
            self.advance_splice(settings, counters, actions);
        }
        if self.path != Path::Splice {
            self.advance_buffers(settings, counters, actions);
        }
    }

    /// The two splices alternate, so the pipe is empty whenever more is asked for.
    fn advance_splice(&mut self, settings: &Settings, counters: &Counters, actions: &mut Actions) {
        let from = self.from;
        if self.held_bytes > 0 {
            if !self.outbound {
                self.outbound = true;
                actions.push(Action::SpliceOut { from });
            }
            return;
        }
        if self.inbound {
            return;
        }
        let small = settings.splice_demote_after > 0 && self.small_splices >= settings.splice_demote_after;
        if self.source != Source::Open || small {
            actions.push(Action::ReleasePipe { from });
            self.leave_splice(counters);
            return;
        }
        self.inbound = true;
        actions.push(Action::SpliceIn { from });
    }

    fn advance_buffers(&mut self, settings: &Settings, counters: &Counters, actions: &mut Actions) {
        let from = self.from;
        if self.held_buffers > 0 && !self.outbound {
            self.outbound = true;
            actions.push(Action::Send { from });
        }
        if self.source != Source::Open || self.inbound {
            return;
        }
        if self.path == Path::Promoting {
            if self.held_buffers == 0 {
                self.path = Path::Splice;
                self.inbound = true;
                counters.splice_begins();
                actions.push(Action::SpliceIn { from });
            }
        } else if self.held_buffers < settings.credit_buffers.clamp(1, CREDIT_BUFFERS_MAX) {
            self.inbound = true;
            actions.push(Action::Receive { from });
        }
    }

    /// The tunnel is over. A send that is under way may still tell what was taken.
    pub(crate) fn finish(&self, counters: &Counters) {
        if self.path == Path::Splice {
            counters.splice_ends();
        }
    }

    /// The source ended in order and every byte of it was sent.
    pub(crate) fn is_complete(&self) -> bool {
        self.source == Source::Ended && !self.holds()
    }

    /// Something received has not been sent.
    pub(crate) fn holds(&self) -> bool {
        self.held_buffers > 0 || self.held_bytes > 0
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.source == Source::Ended
    }

    /// Asks once for the end of the sink's write side, when the direction is complete.
    pub(crate) fn shut_down(&mut self, actions: &mut Actions) {
        if self.is_complete() && !self.shut {
            self.shut = true;
            actions.push(Action::Shutdown { side: self.from.other() });
        }
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(crate) fn held_buffers(&self) -> u8 {
        self.held_buffers
    }

    pub(crate) fn is_splicing(&self) -> bool {
        self.path == Path::Splice
    }
}
