//! One tunnel as one small task: performs what the production relay machine asks for, with readiness.
//!
//! What is to be done next is decided by [`Machine`] alone; this file must not know timeouts, credit or promotion.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::pipe::splice;
use sluice_engine::{Buffer, Instant, RelaySetup, Stream};
use sluice_relay::{Action, Actions, Counters, Input, Machine, Report, Side, Start};
use tokio::io::Interest;

use crate::engine::{Shared, count};
use crate::limits::RECEIVE_BYTES_MAX;
use crate::pipe::Pipe;
use crate::sleep::EpollSleep;
use crate::splice::{FLAGS, cannot_splice};
use crate::stream::EpollStream;

/// A running tunnel; the future gives its report. Dropped before that, it resets both sides. Boxed, so that a session
/// that waits for it grows by a pointer.
pub(crate) struct Relay(Box<Tunnel>);

struct Tunnel {
    shared: Rc<Shared>,
    /// By [`Side::index`]. Gone when the tunnel has finished.
    streams: Option<[EpollStream; 2]>,
    machine: Machine,
    counters: Rc<Counters>,
    /// By the index of the side that the bytes come from.
    ways: [Way; 2],
    timer: Option<Timer>,
}

/// One direction: what it holds, and what the machine waits for.
#[derive(Default)]
struct Way {
    /// Received and not yet sent, oldest first. The machine never asks for more than two.
    held: [Option<Buffer>; 2],
    pipe: Option<Pipe>,
    /// Counted among the directions that are in splice now.
    spliced: bool,
    /// Asked for and not yet answered: a receive or splice in, and a send or splice out.
    inbound: Option<Path>,
    outbound: Option<Path>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Buffers,
    Pipe,
}

/// Armed for the deadline that the machine had once; renewed only when it fires, or when a nearer one is wanted.
struct Timer {
    at_ms: u64,
    sleep: EpollSleep,
}

impl Relay {
    pub(crate) fn new(shared: &Rc<Shared>, streams: [EpollStream; 2], setup: RelaySetup) -> Self {
        Self(Box::new(Tunnel::new(Rc::clone(shared), streams, setup)))
    }
}

impl Tunnel {
    fn new(shared: Rc<Shared>, streams: [EpollStream; 2], setup: RelaySetup) -> Self {
        let machine = Machine::new(setup.settings, shared.now().as_millis());
        let start = Start {
            from_downstream_bytes: setup.from_downstream.as_deref().map_or(0, <[u8]>::len),
            from_upstream_bytes: setup.from_upstream.as_deref().map_or(0, <[u8]>::len),
            downstream_ended: setup.downstream_ended,
            upstream_ended: setup.upstream_ended,
        };
        let first = [setup.from_downstream, setup.from_upstream];
        let ways = first
            .map(|first| Way { held: [first.filter(|buffer| !buffer.is_empty()), None], ..Way::default() });
        let streams = Some(streams);
        let mut tunnel = Self { shared, streams, machine, counters: setup.counters, ways, timer: None };
        let actions = tunnel.machine.start(start, &tunnel.counters);
        tunnel.note(actions);
        tunnel
    }

    /// Notes what is to be done; what needs no readiness is done at once.
    fn note(&mut self, actions: Actions) {
        for action in actions {
            match action {
                Action::Receive { from } => self.ways[from.index()].inbound = Some(Path::Buffers),
                Action::SpliceIn { from } => self.ways[from.index()].inbound = Some(Path::Pipe),
                Action::Send { from } => self.ways[from.index()].outbound = Some(Path::Buffers),
                Action::SpliceOut { from } => self.ways[from.index()].outbound = Some(Path::Pipe),
                Action::ReleasePipe { from } => self.release_pipe(from),
                Action::Shutdown { side } => self.shut_down(side),
                Action::Finish { reset } => self.finish(reset),
            }
        }
    }

    fn answer(&mut self, input: Input, now: Instant) {
        let actions = self.machine.handle(input, now.as_millis(), &self.counters);
        self.note(actions);
    }

    fn shut_down(&mut self, side: Side) {
        let ended = self.streams.as_ref().map(|streams| streams[side.index()].shutdown());
        if matches!(ended, Some(Err(_))) {
            self.answer(Input::Failed { side }, self.shared.now());
        }
    }

    /// Both sockets are closed here; with them go whatever buffers and pipes are still held.
    fn finish(&mut self, reset: bool) {
        for from in Side::BOTH {
            self.leave_splice(from);
            self.ways[from.index()] = Way::default();
        }
        self.timer = None;
        for stream in self.streams.take().into_iter().flatten() {
            if reset {
                stream.reset();
            }
        }
    }

    /// A direction that has ended needs its pipe no longer; one that is open has become small.
    fn release_pipe(&mut self, from: Side) {
        if !self.machine.has_ended(from) {
            self.demote(from);
        }
        self.leave_splice(from);
    }

    fn demote(&self, from: Side) {
        if self.ways[from.index()].spliced {
            count(&self.shared.figures.splice_demotions);
        }
    }

    /// The pipe goes back, and the direction no longer counts as one in splice.
    fn leave_splice(&mut self, from: Side) {
        let way = &mut self.ways[from.index()];
        if let Some(pipe) = way.pipe.take() {
            self.shared.pipes.give(pipe);
        }
        if std::mem::take(&mut way.spliced) {
            let splicing = &self.shared.figures.splicing;
            splicing.set(splicing.get().saturating_sub(1));
        }
    }

    /// Does what can be done in one direction without waiting, one operation each way. How many bytes moved; none if
    /// nothing could be done.
    fn advance(&mut self, from: Side, now: Instant, cx: &mut Context<'_>) -> Option<usize> {
        let mut moved = None;
        for inbound in [true, false] {
            let way = &self.ways[from.index()];
            let path = if inbound { way.inbound } else { way.outbound };
            let outcome = match (path, inbound) {
                (None, _) => continue,
                (Some(Path::Buffers), true) => self.receive(from, cx),
                (Some(Path::Buffers), false) => self.send(from, cx),
                (Some(Path::Pipe), true) => self.splice_in(from, cx),
                (Some(Path::Pipe), false) => self.splice_out(from, cx),
            };
            let Poll::Ready(input) = outcome else { continue };
            moved = Some(moved.unwrap_or(0) + bytes_of(input));
            let way = &mut self.ways[from.index()];
            match input {
                Input::Sent { whole: false, .. } => {}
                _ if inbound => way.inbound = None,
                _ => way.outbound = None,
            }
            self.answer(input, now);
        }
        moved
    }

    fn receive(&mut self, from: Side, cx: &mut Context<'_>) -> Poll<Input> {
        let Some(streams) = &self.streams else { return Poll::Pending };
        streams[from.index()].poll_receive_some(cx).map(|received| match received {
            Ok(buffer) if buffer.is_empty() => Input::Ended { from },
            Ok(buffer) => {
                let bytes = buffer.len();
                let [first, second] = &mut self.ways[from.index()].held;
                debug_assert!(second.is_none(), "the machine keeps to its credit");
                *(if first.is_none() { first } else { second }) = Some(buffer);
                Input::Received { from, bytes, full: bytes == RECEIVE_BYTES_MAX }
            }
            Err(_) => Input::Failed { side: from },
        })
    }

    fn send(&mut self, from: Side, cx: &mut Context<'_>) -> Poll<Input> {
        let Some(streams) = &self.streams else { return Poll::Pending };
        let [first, second] = &mut self.ways[from.index()].held;
        let Some(buffer) = first else { return Poll::Pending };
        let Ok(bytes) = ready!(streams[from.other().index()].poll_send_some(cx, buffer)) else {
            return Poll::Ready(Input::Failed { side: from.other() });
        };
        buffer.advance(bytes);
        let whole = buffer.is_empty();
        if whole {
            *first = second.take();
        }
        Poll::Ready(Input::Sent { from, bytes, whole })
    }

    /// The pipe is empty now, so that `EAGAIN` can only mean the socket. It is taken when there is something to
    /// splice and given back when there is not: a silent tunnel holds none.
    fn splice_in(&mut self, from: Side, cx: &mut Context<'_>) -> Poll<Input> {
        let Some(streams) = &self.streams else { return Poll::Pending };
        let source = &streams[from.index()];
        if source.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        let way = &mut self.ways[from.index()];
        let Some(mut pipe) = way.pipe.take().or_else(|| self.shared.pipes.take()) else {
            self.demote(from);
            self.leave_splice(from);
            return Poll::Ready(Input::SpliceUnavailable { from });
        };
        let outcome = source.poll_with_descriptor(cx, Interest::READABLE, |socket| {
            let moved = splice(socket, None, &pipe.write_end, None, pipe.capacity, FLAGS)?;
            Ok(moved)
        });
        match outcome {
            Poll::Ready(Ok(bytes)) if bytes > 0 => {
                pipe.parked = bytes;
                way.pipe = Some(pipe);
                if !std::mem::replace(&mut way.spliced, true) {
                    count(&self.shared.figures.splice_promotions);
                    let splicing = &self.shared.figures.splicing;
                    splicing.set(splicing.get() + 1);
                }
                return Poll::Ready(Input::SplicedIn { from, bytes });
            }
            _ => self.shared.pipes.give(pipe),
        }
        outcome.map(|moved| match moved {
            Ok(_) => Input::Ended { from },
            Err(error) if cannot_splice(&error) => {
                self.demote(from);
                self.leave_splice(from);
                Input::SpliceUnavailable { from }
            }
            Err(_) => Input::Failed { side: from },
        })
    }

    fn splice_out(&mut self, from: Side, cx: &mut Context<'_>) -> Poll<Input> {
        let Some(streams) = &self.streams else { return Poll::Pending };
        let Some(pipe) = &mut self.ways[from.index()].pipe else { return Poll::Pending };
        let sink = &streams[from.other().index()];
        let outcome = sink.poll_with_descriptor(cx, Interest::WRITABLE, |socket| {
            let moved = splice(&pipe.read_end, None, socket, None, pipe.parked, FLAGS)?;
            Ok(moved)
        });
        outcome.map(|moved| match moved {
            Ok(bytes) if bytes > 0 => {
                pipe.parked = pipe.parked.saturating_sub(bytes);
                Input::SplicedOut { from, bytes }
            }
            Ok(_) | Err(_) => Input::Failed { side: from.other() },
        })
    }

    /// Gives the machine its timer. The clock is looked at first, so that a busy tunnel leaves the timer alone.
    fn poll_timer(&mut self, now: Instant, cx: &mut Context<'_>) {
        loop {
            let Some(deadline_ms) = self.machine.deadline_ms() else { return };
            if now.as_millis() >= deadline_ms {
                self.answer(Input::Timer, now);
                continue;
            }
            if self
                .timer
                .as_ref()
                .is_some_and(|timer| now.as_millis() < timer.at_ms && timer.at_ms <= deadline_ms)
            {
                return;
            }
            let at = Instant::from_nanos(deadline_ms.saturating_mul(1_000_000));
            let timer = self.timer.insert(Timer { at_ms: deadline_ms, sleep: self.shared.sleep_until(at) });
            if Pin::new(&mut timer.sleep).poll(cx).is_ready() {
                // Fired although our clock says otherwise: look again in the next turn.
                self.timer = None;
                cx.waker().wake_by_ref();
            }
            return;
        }
    }
}

fn bytes_of(input: Input) -> usize {
    match input {
        Input::Received { bytes, .. } | Input::SplicedIn { bytes, .. } => bytes,
        _ => 0,
    }
}

impl Tunnel {
    /// One turn: whatever can be done without waiting, up to a bound.
    fn poll(&mut self, cx: &mut Context<'_>) {
        let now = self.shared.now();
        if let Some(streams) = &self.streams {
            let waker_is_new =
                streams.iter().fold(false, |new, stream| stream.wake_on_abort(cx.waker()) | new);
            if waker_is_new {
                self.timer = None;
            }
            if streams.iter().any(EpollStream::is_aborted) {
                self.answer(Input::Abort, now);
            }
        }
        let mut moved = 0;
        while self.machine.end().is_none() {
            let turn = Side::BOTH.map(|from| self.advance(from, now, cx));
            if turn == [None, None] {
                self.poll_timer(now, cx);
                return;
            }
            moved += turn.into_iter().flatten().sum::<usize>();
            if moved >= self.shared.turn_bytes_max {
                // Back to the end of the queue, behind the events that the kernel has by now. Only the registration
                // of our waker is wanted, which the first poll does.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return;
            }
        }
    }
}

impl Future for Relay {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let tunnel = &mut *self.0;
        tunnel.poll(cx);
        if tunnel.machine.end().is_some() { Poll::Ready(tunnel.machine.report()) } else { Poll::Pending }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.finish(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_small() {
        assert!(size_of::<Tunnel>() <= 640, "{} bytes", size_of::<Tunnel>());
        assert_eq!(size_of::<Relay>(), size_of::<usize>());
    }
}
