//! The tunnel: two directions, one clock, one end. It must not know sockets, buffers or kernels.

use crate::action::{Action, Actions};
use crate::direction::Direction;
use crate::input::{Input, Side, Start};
use crate::limits::DRAIN_MS;
use crate::report::{Counters, End, Report};
use crate::settings::Settings;

/// One tunnel.
///
/// # How an engine drives it
///
/// [`new`](Self::new), then [`start`](Self::start) once, then [`handle`](Self::handle) for everything that happens.
/// Each gives [`Actions`]; the engine performs them in order and answers as each [`Action`] says. When an action
/// completes at once the engine may answer at once, but only after it has looked at the rest of the list.
/// The engine holds the buffers of a direction in a queue (at most [`Settings::credit_buffers`], the one that the
/// tunnel started with included): a receive appends, a `Sent` with `whole` removes. A receive that was under way when
/// a side failed may still complete, and is treated like any other.
///
/// One timer suffices. The engine arms it for [`deadline_ms`](Self::deadline_ms); when it fires it gives
/// [`Input::Timer`] and, unless the tunnel has finished, arms it again for the new `deadline_ms`. The deadline only
/// ever comes nearer at `Ended` and `Failed`: after those the engine asks again. All other inputs move it away, so
/// a busy tunnel touches no timer.
///
/// After [`Action::Finish`] nothing more is asked for. Completions may straggle in: what a send still took is counted
/// and so is what a pipe still got: [`report`](Self::report) and [`parked_bytes`](Self::parked_bytes) are exact once they
/// are all in. Everything else is ignored.
///
/// # States of one direction
///
/// | state | asks for | leaves it on |
/// |---|---|---|
/// | open, buffers | `Receive` while fewer than `credit_buffers` are held; `Send` while any is held, one at a time | a run of full buffers → promoting; `Ended` → ending |
/// | open, promoting | `Send` while any is held, no `Receive` | nothing held → splice |
/// | open, splice | `SpliceIn`, then `SpliceOut` until the pipe is empty, and again | a run of small splices → buffers (`ReleasePipe`); `SpliceUnavailable` → buffers, and no promotion for a long while; `Ended` → ending |
/// | ending | `Send` or `SpliceOut` of what is held | nothing held → (`ReleasePipe`) `Shutdown` of the sink → shut |
/// | shut | nothing | – |
///
/// # States of the tunnel
///
/// | state | on | then |
/// |---|---|---|
/// | both open, or one direction ending or shut (half-closed) | both directions complete | `Finish{reset: false}`, [`End::Closed`] |
/// | | idle timeout; half-close timeout with a side ended | `Finish{reset: true}`, [`End::IdleTimeout`], [`End::HalfCloseTimeout`] |
/// | | `Failed{side}`, nothing held for the other side | `Finish{reset: true}`, [`End::Reset`] |
/// | | `Failed{side}`, bytes held for the other side | draining: these bytes are still sent, nothing else is |
/// | draining | all sent, or the other side fails, or the half-close timeout after the failure | `Finish{reset: true}`, [`End::Reset`] with the first side that failed |
/// | any | `Abort` | `Finish{reset: true}`, [`End::Aborted`] |
/// | finished | anything | nothing; late sends are counted |
///
/// So an orderly end is passed on only if every byte was; a truncated stream always ends in a reset.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    directions: [Direction; 2],
    /// When a byte last moved or a side ended.
    moved_ms: u64,
    /// The side that failed first, and until when the other one may still take what is held for it.
    failed: Option<(Side, u64)>,
    end: Option<End>,
}

impl Machine {
    /// A tunnel that has not started.
    pub fn new(settings: Settings, now_ms: u64) -> Self {
        Self {
            directions: Side::BOTH.map(|from| Direction::new(from, &settings)),
            settings,
            moved_ms: now_ms,
            failed: None,
            end: None,
        }
    }

    /// Starts the tunnel with what came before it. Call it once, first.
    pub fn start(&mut self, start: Start, counters: &Counters) -> Actions {
        let [downstream, upstream] = &mut self.directions;
        downstream.begin_with(start.from_downstream_bytes, start.downstream_ended);
        upstream.begin_with(start.from_upstream_bytes, start.upstream_ended);
        self.advance(counters)
    }

    /// Takes what happened and says what to do now. `counters` is where live counts go: the same for the whole life
    /// of the tunnel. An input that answers no action is ignored.
    pub fn handle(&mut self, input: Input, now_ms: u64, counters: &Counters) -> Actions {
        if self.end.is_some() {
            self.count_late(input, counters);
            return Actions::new();
        }
        let settings = self.settings;
        let moved = match input {
            Input::Received { from, bytes, full } => self.direction(from).received(bytes, full),
            Input::Sent { from, bytes, whole } => self.direction(from).sent(bytes, whole, counters),
            Input::SplicedIn { from, bytes } => self.direction(from).spliced_in(bytes, &settings),
            Input::SplicedOut { from, bytes } => self.direction(from).spliced_out(bytes, counters),
            Input::SpliceUnavailable { from } => self.direction(from).splice_unavailable(counters),
            Input::Ended { from } => self.direction(from).ended(),
            Input::Failed { side } => return self.fail(side, now_ms, counters),
            Input::Timer => return self.expire(now_ms, counters),
            Input::Abort => return self.finish(End::Aborted, counters),
        };
        if !moved {
            return Actions::new();
        }
        self.moved_ms = self.moved_ms.max(now_ms);
        self.advance(counters)
    }

    /// When [`Input::Timer`] is due, on the scale of `now_ms`; `None` if never.
    pub fn deadline_ms(&self) -> Option<u64> {
        if self.end.is_some() {
            return None;
        }
        if let Some((_, until_ms)) = self.failed {
            return Some(until_ms);
        }
        match (self.idle_deadline_ms(), self.half_close_deadline_ms()) {
            (Some(idle), Some(half_close)) => Some(idle.min(half_close)),
            (idle, half_close) => idle.or(half_close),
        }
    }

    /// What is known so far; an unfinished tunnel reports [`End::Aborted`], as if it were dropped now.
    pub fn report(&self) -> Report {
        let [downstream, upstream] = &self.directions;
        Report {
            to_upstream_bytes: downstream.sent_bytes(),
            to_downstream_bytes: upstream.sent_bytes(),
            end: self.end.unwrap_or(End::Aborted),
        }
    }

    /// How it ended, once [`Action::Finish`] was given.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Bytes received from this side and not yet sent, in buffers or in the pipe.
    pub fn held_bytes(&self, from: Side) -> u64 {
        self.direction_ref(from).held_bytes()
    }

    /// Bytes in the pipe of this direction. A pipe goes back to its pool only if this is 0.
    pub fn parked_bytes(&self, from: Side) -> u64 {
        let direction = self.direction_ref(from);
        if direction.held_buffers() == 0 { direction.held_bytes() } else { 0 }
    }

    /// Whether this side has ended its write side in order.
    pub fn has_ended(&self, from: Side) -> bool {
        self.direction_ref(from).has_ended()
    }

    /// Whether this direction travels through a pipe now.
    pub fn is_splicing(&self, from: Side) -> bool {
        self.end.is_none() && self.direction_ref(from).is_splicing()
    }

    fn count_late(&mut self, input: Input, counters: &Counters) {
        match input {
            Input::Sent { from, bytes, whole } => self.direction(from).sent(bytes, whole, counters),
            Input::SplicedOut { from, bytes } => self.direction(from).spliced_out(bytes, counters),
            Input::SplicedIn { from, bytes } => {
                let settings = self.settings;
                self.direction(from).spliced_in(bytes, &settings)
            }
            _ => false,
        };
    }

    fn direction(&mut self, from: Side) -> &mut Direction {
        let [downstream, upstream] = &mut self.directions;
        match from {
            Side::Downstream => downstream,
            Side::Upstream => upstream,
        }
    }

    fn direction_ref(&self, from: Side) -> &Direction {
        let [downstream, upstream] = &self.directions;
        match from {
            Side::Downstream => downstream,
            Side::Upstream => upstream,
        }
    }

    fn advance(&mut self, counters: &Counters) -> Actions {
        let settings = self.settings;
        let mut actions = Actions::new();
        if let Some((side, _)) = self.failed {
            // The direction towards the failed side is given up: what it holds is lost.
            if !self.direction_ref(side).holds() {
                return self.finish(End::Reset(side), counters);
            }
            self.direction(side).advance(&settings, counters, &mut actions);
            return actions;
        }
        if self.directions.iter().all(Direction::is_complete) {
            return self.finish(End::Closed, counters);
        }
        for direction in &mut self.directions {
            direction.advance(&settings, counters, &mut actions);
            direction.shut_down(&mut actions);
        }
        actions
    }

    fn fail(&mut self, side: Side, now_ms: u64, counters: &Counters) -> Actions {
        match self.failed {
            Some((first, _)) if first == side => return Actions::new(),
            Some((first, _)) => return self.finish(End::Reset(first), counters),
            None => {}
        }
        let wait_ms = match self.settings.half_close_timeout_ms {
            0 => DRAIN_MS,
            wait_ms => wait_ms,
        };
        self.failed = Some((side, now_ms.saturating_add(wait_ms)));
        self.direction(side).source_failed();
        self.advance(counters)
    }

    fn expire(&mut self, now_ms: u64, counters: &Counters) -> Actions {
        if self.deadline_ms().is_none_or(|deadline_ms| now_ms < deadline_ms) {
            return Actions::new();
        }
        let half_closed = self.half_close_deadline_ms().is_some_and(|deadline_ms| {
            now_ms >= deadline_ms && self.idle_deadline_ms().is_none_or(|idle_ms| deadline_ms <= idle_ms)
        });
        let end = match self.failed {
            Some((side, _)) => End::Reset(side),
            None if half_closed => End::HalfCloseTimeout,
            None => End::IdleTimeout,
        };
        self.finish(end, counters)
    }

    fn finish(&mut self, end: End, counters: &Counters) -> Actions {
        self.end = Some(end);
        for direction in &self.directions {
            direction.finish(counters);
        }
        let mut actions = Actions::new();
        actions.push(Action::Finish { reset: end != End::Closed });
        actions
    }

    fn idle_deadline_ms(&self) -> Option<u64> {
        let timeout_ms = self.settings.idle_timeout_ms;
        (timeout_ms > 0).then(|| self.moved_ms.saturating_add(timeout_ms))
    }

    fn half_close_deadline_ms(&self) -> Option<u64> {
        let timeout_ms = self.settings.half_close_timeout_ms;
        let half_closed = self.directions.iter().any(Direction::has_ended);
        (timeout_ms > 0 && half_closed).then(|| self.moved_ms.saturating_add(timeout_ms))
    }
}
