//! A model of the engine's side of a tunnel: it turns arbitrary bytes into a trace of legal inputs, and after every
//! input holds the machine against what must always be true. For the fuzzer and the property tests only; it asserts.

use crate::limits::CREDIT_BUFFERS_MAX;
use crate::{Action, Counters, End, Input, Machine, Settings, Side, Start};

/// Rounds in which every tunnel must end once its sides end and its sinks take everything.
const ROUNDS_MAX: usize = 16;

/// What is under way into or out of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    None,
    Buffer,
    Splice,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    inbound: Operation,
    outbound: Operation,
    queue: [usize; CREDIT_BUFFERS_MAX as usize],
    queued: usize,
    has_pipe: bool,
    pipe_bytes: usize,
    ended: bool,
    shut: bool,
    taken_bytes: u64,
    given_bytes: u64,
}

impl Flow {
    const NEW: Self = Self {
        inbound: Operation::None,
        outbound: Operation::None,
        queue: [0; CREDIT_BUFFERS_MAX as usize],
        queued: 0,
        has_pipe: false,
        pipe_bytes: 0,
        ended: false,
        shut: false,
        taken_bytes: 0,
        given_bytes: 0,
    };

    fn push(&mut self, bytes: usize) {
        self.queue[self.queued] = bytes;
        self.queued += 1;
        self.taken_bytes += bytes as u64;
    }

    /// Takes up to `bytes` of the head; tells how many and whether the buffer is done.
    fn take(&mut self, bytes: usize) -> (usize, bool) {
        let bytes = bytes.min(self.queue[0]);
        self.queue[0] -= bytes;
        self.given_bytes += bytes as u64;
        let whole = self.queue[0] == 0;
        if whole {
            self.queue.rotate_left(1);
            self.queued -= 1;
        }
        (bytes, whole)
    }
}

/// Reads a trace out of bytes; when they are used up it gives nothing more.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn or_zero(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }
}

struct Model {
    machine: Machine,
    counters: Counters,
    settings: Settings,
    flows: [Flow; 2],
    failed: [bool; 2],
    timer_fired: bool,
    finished: Option<bool>,
    now_ms: u64,
}

/// Plays the trace that `data` describes.
///
/// # Panics
/// If the machine breaks one of its promises.
pub fn run(data: &[u8]) {
    let mut script = Script(data);
    let shape = script.or_zero();
    let settings = Settings {
        idle_timeout_ms: [0, 50, 400, 10_000][usize::from(shape & 3)],
        half_close_timeout_ms: [0, 30, 500, 5_000][usize::from(shape >> 2 & 3)],
        credit_buffers: shape >> 4 & 3,
        splice_after_full_buffers: [0, 1, 2, 3][usize::from(shape >> 6)],
        splice_small_bytes: 100,
        splice_demote_after: script.or_zero() & 3,
    };
    let start = Start {
        from_downstream_bytes: usize::from(script.or_zero() & 0x1f),
        from_upstream_bytes: usize::from(script.or_zero() & 0x1f),
        downstream_ended: script.or_zero() > 0xe0,
        upstream_ended: script.or_zero() > 0xe0,
    };
    let mut model = Model::new(settings);
    model.start(start);
    while let Some(step) = script.next() {
        model.step(step, script.or_zero());
    }
    model.drain();
}

impl Model {
    fn new(settings: Settings) -> Self {
        Self {
            machine: Machine::new(settings, 0),
            counters: Counters::default(),
            settings,
            flows: [Flow::NEW; 2],
            failed: [false; 2],
            timer_fired: false,
            finished: None,
            now_ms: 0,
        }
    }

    fn start(&mut self, start: Start) {
        let before = [
            (start.from_downstream_bytes, start.downstream_ended),
            (start.from_upstream_bytes, start.upstream_ended),
        ];
        for (flow, (bytes, ended)) in self.flows.iter_mut().zip(before) {
            if bytes > 0 {
                flow.push(bytes);
            }
            flow.ended = ended;
        }
        let actions = self.machine.start(start, &self.counters);
        for action in actions {
            self.perform(action);
        }
        self.check(false);
    }

    /// One input, if `step` names one that is legal now.
    fn step(&mut self, step: u8, amount: u8) {
        let from = Side::BOTH[usize::from(step >> 7)];
        self.now_ms += u64::from(amount & 3);
        let input = match step & 0x0f {
            0..=3 => self.bring(from, usize::from(amount) + 1, amount > 100),
            4..=8 => self.take(from, usize::from(amount) + 1),
            9 if amount > 150 => self.ended(from),
            10 => self.refuse_splice(from),
            11 if amount > 240 => {
                self.failed[from.index()] = true;
                Some(Input::Failed { side: from })
            }
            12 => {
                self.now_ms += u64::from(amount);
                self.timer_fired |= self.machine.deadline_ms().is_some_and(|at_ms| self.now_ms >= at_ms);
                Some(Input::Timer)
            }
            13 if amount > 250 => Some(Input::Abort),
            _ => None,
        };
        if let Some(input) = input {
            self.feed(input);
        }
    }

    fn bring(&mut self, from: Side, bytes: usize, full: bool) -> Option<Input> {
        let flow = &mut self.flows[from.index()];
        let operation = core::mem::replace(&mut flow.inbound, Operation::None);
        match operation {
            Operation::None => None,
            Operation::Buffer => {
                flow.push(bytes);
                Some(Input::Received { from, bytes, full })
            }
            Operation::Splice => {
                flow.pipe_bytes += bytes;
                flow.taken_bytes += bytes as u64;
                Some(Input::SplicedIn { from, bytes })
            }
        }
    }

    fn take(&mut self, from: Side, bytes: usize) -> Option<Input> {
        let flow = &mut self.flows[from.index()];
        match flow.outbound {
            Operation::None => None,
            Operation::Buffer => {
                let (bytes, whole) = flow.take(bytes);
                if whole {
                    flow.outbound = Operation::None;
                }
                Some(Input::Sent { from, bytes, whole })
            }
            Operation::Splice => {
                let bytes = bytes.min(flow.pipe_bytes);
                flow.outbound = Operation::None;
                flow.pipe_bytes -= bytes;
                flow.given_bytes += bytes as u64;
                Some(Input::SplicedOut { from, bytes })
            }
        }
    }

    fn ended(&mut self, from: Side) -> Option<Input> {
        let flow = &mut self.flows[from.index()];
        if flow.inbound == Operation::None {
            return None;
        }
        flow.inbound = Operation::None;
        flow.ended = true;
        Some(Input::Ended { from })
    }

    fn refuse_splice(&mut self, from: Side) -> Option<Input> {
        let flow = &mut self.flows[from.index()];
        if flow.inbound != Operation::Splice {
            return None;
        }
        flow.inbound = Operation::None;
        flow.has_pipe = false;
        Some(Input::SpliceUnavailable { from })
    }

    fn feed(&mut self, input: Input) {
        let end = self.machine.end();
        let actions = self.machine.handle(input, self.now_ms, &self.counters);
        if end.is_some() {
            assert_eq!(actions.len(), 0, "{input:?} after the end causes nothing");
            assert_eq!(self.machine.end(), end, "{input:?} after the end does not change it");
        }
        for action in actions {
            assert!(self.finished.is_none(), "Finish is the last action");
            self.perform(action);
        }
        self.check(end.is_some());
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Receive { from } => {
                let credit = usize::from(self.settings.credit_buffers.clamp(1, CREDIT_BUFFERS_MAX));
                let sink_failed = self.failed[from.other().index()];
                let flow = &mut self.flows[from.index()];
                assert_eq!(flow.inbound, Operation::None, "one receive at a time");
                assert!(flow.queued < credit, "a receive needs credit");
                assert!(!flow.ended && !sink_failed && !flow.has_pipe, "a receive has a purpose");
                flow.inbound = Operation::Buffer;
            }
            Action::Send { from } => {
                let sink_failed = self.failed[from.other().index()];
                let flow = &mut self.flows[from.index()];
                assert_eq!(flow.outbound, Operation::None, "one send at a time");
                assert!(flow.queued > 0 && !flow.shut && !sink_failed, "a send needs bytes and a sink");
                flow.outbound = Operation::Buffer;
            }
            Action::SpliceIn { from } => {
                let flow = &mut self.flows[from.index()];
                assert_eq!(flow.inbound, Operation::None, "one splice at a time");
                assert!(
                    flow.queued == 0 && flow.pipe_bytes == 0 && !flow.ended,
                    "nothing is held before a splice"
                );
                flow.inbound = Operation::Splice;
                flow.has_pipe = true;
            }
            Action::SpliceOut { from } => {
                let flow = &mut self.flows[from.index()];
                assert_eq!(flow.outbound, Operation::None, "one splice at a time");
                assert!(flow.pipe_bytes > 0 && !flow.shut, "a splice out needs bytes");
                flow.outbound = Operation::Splice;
            }
            Action::ReleasePipe { from } => {
                let flow = &mut self.flows[from.index()];
                assert!(flow.has_pipe && flow.pipe_bytes == 0, "a pipe goes back empty");
                flow.has_pipe = false;
            }
            Action::Shutdown { side } => {
                assert!(!self.failed.contains(&true), "no clean end after a failure");
                let flow = &mut self.flows[side.other().index()];
                assert!(flow.ended && !flow.shut && !flow.has_pipe, "an end is passed on once");
                assert_eq!(flow.taken_bytes, flow.given_bytes, "an end is passed on after all bytes");
                flow.shut = true;
            }
            Action::Finish { reset } => self.finish(reset),
        }
    }

    fn finish(&mut self, reset: bool) {
        self.finished = Some(reset);
        let end = self.machine.end().expect("a finished machine knows its end");
        assert_eq!(reset, end != End::Closed, "a clean end for a whole stream, a reset for any other");
        match end {
            End::Closed => {
                for flow in &self.flows {
                    assert!(flow.ended, "closed means that both ended");
                    assert_eq!(flow.taken_bytes, flow.given_bytes, "closed means that all was passed on");
                }
            }
            End::Reset(side) => {
                assert!(self.failed[side.index()], "only a side that failed is blamed");
                let flow = &self.flows[side.index()];
                let spared = self.failed[side.other().index()] || self.timer_fired;
                assert!(
                    spared || flow.taken_bytes == flow.given_bytes,
                    "what was held is sent before the reset"
                );
            }
            End::IdleTimeout | End::HalfCloseTimeout => assert!(self.timer_fired, "a timeout takes time"),
            End::Aborted => {}
        }
    }

    fn check(&self, late: bool) {
        let report = self.machine.report();
        let given = self.flows.map(|flow| flow.given_bytes);
        assert_eq!([report.to_upstream_bytes, report.to_downstream_bytes], given, "counts are exact");
        let live = [self.counters.to_upstream_bytes.get(), self.counters.to_downstream_bytes.get()];
        assert_eq!(live, given, "live counts are exact");
        let splicing = Side::BOTH.iter().filter(|&&from| self.machine.is_splicing(from)).count();
        assert_eq!(usize::from(self.counters.splicing.get()), splicing, "the splice gauge is exact");
        for from in Side::BOTH {
            let flow = &self.flows[from.index()];
            assert!(flow.given_bytes <= flow.taken_bytes, "nothing is made up");
            if !late {
                assert_eq!(
                    self.machine.parked_bytes(from),
                    flow.pipe_bytes as u64,
                    "what is parked is known"
                );
                assert_eq!(
                    self.machine.held_bytes(from),
                    flow.taken_bytes - flow.given_bytes,
                    "so is what is held"
                );
            }
        }
        assert!(self.finished.is_none() || self.machine.deadline_ms().is_none(), "no timer after the end");
        assert_eq!(self.finished.is_some(), self.machine.end().is_some(), "an end and Finish come together");
    }

    /// Both sides end and take everything: the tunnel must come to its end.
    fn drain(&mut self) {
        for _ in 0..ROUNDS_MAX {
            for from in Side::BOTH {
                if let Some(input) = self.ended(from) {
                    self.feed(input);
                }
                if let Some(input) = self.take(from, usize::MAX) {
                    self.feed(input);
                }
            }
            if self.finished.is_some() {
                return;
            }
        }
        panic!("a tunnel whose sides have ended and take everything must end");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_trace_breaks_a_promise(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::run(&data);
        }
    }
}
