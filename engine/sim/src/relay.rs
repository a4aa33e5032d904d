//! A tunnel in the simulated engine: it performs the actions of the production machine on two simulated sockets, with
//! splices through pipes in memory. All decisions are the machine's.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_engine::limits::BUFFER_TAILROOM_BYTES;
use sluice_engine::{Buffer, Engine, Instant, RelaySetup, Stream};
use sluice_relay::{Action, Actions, Counters, Input, Machine, Report, Side, Start};

use crate::engine::SimEngine;
use crate::limits::{PIPE_BYTES, RELAY_INPUTS_PER_TURN};
use crate::pipe::poll_splice_out;
use crate::sleep::SimSleep;
use crate::stream::SimStream;

/// What the machine has asked for in one direction and not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Buffer,
    Splice,
}

struct Direction {
    inbound: Asked,
    outbound: Asked,
    held: VecDeque<Buffer>,
    pipe: Option<VecDeque<u8>>,
    /// Bytes that the sink's socket had taken when it was last looked at.
    seen_bytes: u64,
}

/// A tunnel under way; dropping it resets both sides.
pub(crate) struct Relay {
    engine: SimEngine,
    machine: Machine,
    counters: Rc<Counters>,
    /// Downstream, upstream; gone once the tunnel has finished.
    streams: Option<[SimStream; 2]>,
    directions: [Direction; 2],
    start: Option<Start>,
    /// What has happened and not been told.
    inputs: VecDeque<Input>,
    timer: Option<(u64, SimSleep)>,
}

impl Relay {
    pub(crate) fn new(
        engine: SimEngine,
        downstream: SimStream,
        upstream: SimStream,
        setup: RelaySetup,
    ) -> Self {
        let taken = |stream: &SimStream| {
            stream.world.with(|state| {
                let socket = &state.sockets[stream.id];
                assert!(!socket.is_sending(), "contract: a relay begins with no send under way");
                socket.taken_bytes
            })
        };
        let direction = |held: Option<Buffer>, seen_bytes| Direction {
            inbound: Asked::Nothing,
            outbound: Asked::Nothing,
            held: held.into_iter().filter(|buffer| !buffer.is_empty()).collect(),
            pipe: None,
            seen_bytes,
        };
        let directions = [
            direction(setup.from_downstream, taken(&upstream)),
            direction(setup.from_upstream, taken(&downstream)),
        ];
        let start = Start {
            from_downstream_bytes: directions[0].held.front().map_or(0, |buffer| buffer.len()),
            from_upstream_bytes: directions[1].held.front().map_or(0, |buffer| buffer.len()),
            downstream_ended: setup.downstream_ended,
            upstream_ended: setup.upstream_ended,
        };
        Self {
            machine: Machine::new(setup.settings, engine.now().as_millis()),
            engine,
            counters: setup.counters,
            streams: Some([downstream, upstream]),
            directions,
            start: Some(start),
            inputs: VecDeque::new(),
            timer: None,
        }
    }

    fn now_ms(&self) -> u64 {
        self.engine.now().as_millis()
    }

    fn give(&mut self, input: Input) {
        let before = self.splicing();
        let may_go_back = |machine: &Machine, from| machine.is_splicing(from) && !machine.has_ended(from);
        let spliced = Side::BOTH.map(|from| may_go_back(&self.machine, from));
        let actions = self.machine.handle(input, self.now_ms(), &self.counters);
        let after = self.splicing();
        let is_demoted = |from: &Side| {
            spliced[from.index()]
                && self.machine.end().is_none()
                && !self.machine.is_splicing(*from)
                && !self.machine.has_ended(*from)
        };
        let demoted = Side::BOTH.into_iter().filter(is_demoted).count();
        self.engine.world.with(|state| {
            let host = &mut state.hosts[self.engine.host];
            host.splicing = host.splicing + after - before;
            host.splice_promotions += after.saturating_sub(before) as u64;
            host.splice_demotions += demoted as u64;
        });
        self.perform(actions);
    }

    fn splicing(&self) -> usize {
        Side::BOTH.into_iter().filter(|&from| self.machine.is_splicing(from)).count()
    }

    fn perform(&mut self, actions: Actions) {
        for action in actions {
            match action {
                Action::Receive { from } => self.directions[from.index()].inbound = Asked::Buffer,
                Action::Send { from } => self.send(from),
                Action::SpliceIn { from } => self.directions[from.index()].inbound = Asked::Splice,
                Action::SpliceOut { from } => self.directions[from.index()].outbound = Asked::Splice,
                Action::ReleasePipe { from } => {
                    let pipe = self.directions[from.index()].pipe.take();
                    assert!(pipe.is_none_or(|pipe| pipe.is_empty()), "a pipe is released empty");
                }
                Action::Shutdown { side } => {
                    if let Some(streams) = &self.streams
                        && let Err(error) = streams[side.index()].shutdown()
                    {
                        self.inputs.push_back(failure(side, &error));
                    }
                }
                Action::Finish { reset } => self.finish(reset),
            }
        }
    }

    fn send(&mut self, from: Side) {
        let direction = &mut self.directions[from.index()];
        let buffer = direction.held.pop_front().expect("the machine sends only what is held");
        direction.outbound = Asked::Buffer;
        if let Some(streams) = &self.streams {
            streams[from.other().index()].start_send(buffer);
        }
    }

    /// Closes both sides and settles the counts.
    fn finish(&mut self, reset: bool) {
        self.timer = None;
        while let Some(late) = self.inputs.pop_front() {
            self.count_late(late);
        }
        for from in Side::BOTH {
            let bytes = self.newly_taken(from);
            if bytes > 0 {
                self.count_late(Input::Sent { from, bytes, whole: false });
            }
            let direction = &mut self.directions[from.index()];
            let parked = direction.pipe.take().map_or(0, |pipe| pipe.len() as u64);
            assert_eq!(parked, self.machine.parked_bytes(from), "the machine knows what its pipes hold");
            direction.held.clear();
        }
        if let Some(streams) = self.streams.take()
            && reset
        {
            streams.iter().for_each(Stream::reset);
        }
    }

    fn count_late(&mut self, input: Input) {
        let actions = self.machine.handle(input, self.now_ms(), &self.counters);
        assert_eq!(actions.len(), 0, "a finished machine asks for nothing");
    }

    /// Bytes of a send that the sink's socket has taken since this was last asked.
    fn newly_taken(&mut self, from: Side) -> usize {
        let Some(streams) = &self.streams else { return 0 };
        let sink = &streams[from.other().index()];
        let taken = self.engine.world.with(|state| state.sockets[sink.id].taken_bytes);
        let seen = std::mem::replace(&mut self.directions[from.index()].seen_bytes, taken);
        usize::try_from(taken - seen).expect("one buffer at most")
    }

    /// Looks at everything that is under way, one direction first by lot.
    fn poll_operations(&mut self, cx: &mut Context<'_>) {
        let Some(streams) = &self.streams else { return };
        let ids = [streams[0].id, streams[1].id];
        let (aborted, first) = self
            .engine
            .world
            .with(|state| (ids.iter().any(|&id| state.sockets[id].aborted), state.random.index(2)));
        if aborted {
            self.inputs.push_back(Input::Abort);
            return;
        }
        for from in [Side::BOTH[first], Side::BOTH[1 - first]] {
            self.poll_inbound(from, cx);
            self.poll_outbound(from, cx);
        }
        self.poll_timer(cx);
    }

    fn poll_inbound(&mut self, from: Side, cx: &mut Context<'_>) {
        let Some(streams) = &self.streams else { return };
        let source = &streams[from.index()];
        let direction = &mut self.directions[from.index()];
        let input = match direction.inbound {
            Asked::Nothing => return,
            Asked::Buffer => match source.poll_receive(cx) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => failure(from, &error),
                Poll::Ready(Ok(buffer)) if buffer.is_empty() => Input::Ended { from },
                Poll::Ready(Ok(buffer)) => {
                    let (bytes, full) = (buffer.len(), buffer.spare() <= BUFFER_TAILROOM_BYTES);
                    direction.held.push_back(buffer);
                    Input::Received { from, bytes, full }
                }
            },
            Asked::Splice => match poll_splice_in(source, &mut direction.pipe, from, cx) {
                Poll::Pending => return,
                Poll::Ready(input) => input,
            },
        };
        direction.inbound = Asked::Nothing;
        self.inputs.push_back(input);
    }

    fn poll_outbound(&mut self, from: Side, cx: &mut Context<'_>) {
        let Some(streams) = &self.streams else { return };
        let sink = &streams[from.other().index()];
        match self.directions[from.index()].outbound {
            Asked::Nothing => {}
            Asked::Buffer => {
                let sent = sink.poll_sent(cx);
                let bytes = self.newly_taken(from);
                if !matches!(sent, Poll::Ready(Ok(()))) && bytes > 0 {
                    self.inputs.push_back(Input::Sent { from, bytes, whole: false });
                }
                match sent {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => self.inputs.push_back(Input::Sent { from, bytes, whole: true }),
                    Poll::Ready(Err(error)) => self.inputs.push_back(failure(from.other(), &error)),
                }
                self.directions[from.index()].outbound = Asked::Nothing;
            }
            Asked::Splice => {
                let direction = &mut self.directions[from.index()];
                let pipe = direction.pipe.as_mut().expect("a splice out follows a splice in");
                let Poll::Ready(result) = poll_splice_out(sink, pipe, cx) else { return };
                direction.outbound = Asked::Nothing;
                self.newly_taken(from);
                self.inputs.push_back(match result {
                    Ok(bytes) => Input::SplicedOut { from, bytes },
                    Err(error) => failure(from.other(), &error),
                });
            }
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        // What has not been told yet moves the deadline: ask again then.
        if !self.inputs.is_empty() {
            return;
        }
        while let Some(deadline_ms) = self.machine.deadline_ms() {
            let sleep = match &mut self.timer {
                // One that fires early is renewed then; one that would fire late is replaced.
                Some((at_ms, sleep)) if *at_ms <= deadline_ms => sleep,
                timer => {
                    let at = Instant::from_nanos(deadline_ms.saturating_mul(1_000_000));
                    &mut timer.insert((deadline_ms, self.engine.sleep_until(at))).1
                }
            };
            if Pin::new(sleep).poll(cx).is_pending() {
                return;
            }
            self.timer = None;
            if self.now_ms() >= deadline_ms {
                self.inputs.push_back(Input::Timer);
                return;
            }
        }
    }
}

/// An error of an operation, as the machine is to hear of it.
fn failure(side: Side, error: &io::Error) -> Input {
    match error.kind() {
        io::ErrorKind::ConnectionAborted => Input::Abort,
        _ => Input::Failed { side },
    }
}

fn poll_splice_in(
    source: &SimStream,
    pipe: &mut Option<VecDeque<u8>>,
    from: Side,
    cx: &mut Context<'_>,
) -> Poll<Input> {
    source.world.with(|state| {
        if state.poll_readable(source.id, cx).is_pending() {
            return Poll::Pending;
        }
        let host = state.sockets[source.id].host;
        if pipe.is_none() && state.strikes(host, state.faults.splice_unavailable_permille) {
            return Poll::Ready(Input::SpliceUnavailable { from });
        }
        Poll::Ready(match state.read_now(source.id, PIPE_BYTES) {
            Err(error) => failure(from, &error),
            Ok(bytes) if bytes.is_empty() => Input::Ended { from },
            Ok(read) => {
                let bytes = read.len();
                pipe.get_or_insert_default().extend(read);
                Input::SplicedIn { from, bytes }
            }
        })
    })
}

impl Future for Relay {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let relay = &mut *self;
        if let Some(start) = relay.start.take() {
            let actions = relay.machine.start(start, &relay.counters);
            relay.perform(actions);
        }
        for _ in 0..RELAY_INPUTS_PER_TURN {
            if relay.machine.end().is_some() {
                return Poll::Ready(relay.machine.report());
            }
            if relay.inputs.is_empty() {
                relay.poll_operations(cx);
            }
            let Some(input) = relay.inputs.pop_front() else { return Poll::Pending };
            relay.give(input);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.machine.end().is_none() {
            self.give(Input::Abort);
        }
    }
}
