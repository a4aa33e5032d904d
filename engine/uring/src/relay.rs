//! Tunnels: the production [`Machine`] driven straight from completions, with no future and no allocation per
//! operation. A tunnel's whole state is one slot here and two sockets; an idle one has two receives with the kernel and
//! holds no buffer.

use std::future::Future;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use sluice_engine::{Buffer, Instant, RelaySetup};
use sluice_relay::{Action, Counters, Input, Machine, Report, Side, Start};
use socket2::SockRef;

use crate::core::Core;
use crate::io::Io;
use crate::limits::RECEIVE_BYTES;
use crate::pipes::Pipe;
use crate::slab::Key;
use crate::socket::Receive;
use crate::timer::{Target, TimerKey};

/// What one direction holds beside the buffer that its sink is sending.
#[derive(Default)]
pub(crate) struct Path {
    /// Received while another buffer is being sent. Credit is two buffers at most, so one place is enough.
    queued: Option<Buffer>,
    pub(crate) pipe: Option<Pipe>,
    /// It has had a pipe since it was promoted.
    pub(crate) spliced: bool,
    /// Bytes spliced since the direction last gave way to others.
    pub(crate) burst_bytes: usize,
}

/// One tunnel.
pub(crate) struct RelaySlot {
    machine: Machine,
    counters: Rc<Counters>,
    pub(crate) sockets: [Key; 2],
    pub(crate) paths: [Path; 2],
    /// When the timer below fires.
    timer: Option<(u64, TimerKey)>,
    waker: Option<Waker>,
    /// Bytes of sends that completed after the machine had finished, by the side that took them.
    late_bytes: [u64; 2],
    /// Sockets that are not closed yet.
    open: u8,
    /// The future that reports is gone.
    orphaned: bool,
}

impl Io {
    fn start_relay(&mut self, sockets: [Key; 2], setup: RelaySetup) -> Key {
        let RelaySetup { settings, counters, from_downstream, from_upstream, .. } = setup;
        let length = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, |buffer| buffer.len());
        let start = Start {
            from_downstream_bytes: length(&from_downstream),
            from_upstream_bytes: length(&from_upstream),
            downstream_ended: setup.downstream_ended,
            upstream_ended: setup.upstream_ended,
        };
        let path = |queued: Option<Buffer>| Path {
            queued: queued.filter(|buffer| !buffer.is_empty()),
            ..Path::default()
        };
        let key = self.relays.insert(RelaySlot {
            machine: Machine::new(settings, self.now.as_millis()),
            counters,
            sockets,
            paths: [path(from_downstream), path(from_upstream)],
            timer: None,
            waker: None,
            late_bytes: [0; 2],
            open: 2,
            orphaned: false,
        });
        let mut broken = false;
        for side in Side::BOTH {
            if let Some(socket) = self.sockets.get_mut(sockets[side.index()]) {
                socket.relay = Some((key, side));
                debug_assert!(socket.send.is_none(), "a stream is moved into a relay when its send is done");
                broken |= socket.aborted || socket.send.is_some();
            }
        }
        if broken {
            self.drive(key, Input::Abort);
            return key;
        }
        let Some(slot) = self.relays.get_mut(key) else { return key };
        let actions = slot.machine.start(start, &slot.counters);
        let answers = actions.map(|action| self.perform(key, action)).collect::<Vec<_>>();
        answers.into_iter().flatten().for_each(|answer| self.drive(key, answer));
        self.renew_relay_timer(key);
        key
    }

    /// Tells the machine what happened and does what it asks for, and so on with every answer that is there at once.
    /// Bounded: what a flow may splice in one go is, and everything else waits for a completion.
    fn drive(&mut self, key: Key, input: Input) {
        let now_ms = self.now.as_millis();
        let mut answers = std::mem::take(&mut self.answers);
        answers.push_back(input);
        let mut deadline_nearer = false;
        while let Some(input) = answers.pop_front() {
            let Some(slot) = self.relays.get_mut(key) else { continue };
            self.splicing -= usize::from(slot.counters.splicing.get());
            let actions = slot.machine.handle(input, now_ms, &slot.counters);
            self.splicing += usize::from(slot.counters.splicing.get());
            deadline_nearer |= matches!(input, Input::Ended { .. } | Input::Failed { .. });
            for action in actions {
                answers.extend(self.perform(key, action));
            }
        }
        self.answers = answers;
        if deadline_nearer {
            self.renew_relay_timer(key);
        }
    }

    /// Drives the machine with the answer of an action that had been put off, if it is there now.
    pub(crate) fn resume(&mut self, key: Key, action: impl FnOnce(&mut Self) -> Option<Input>) {
        if let Some(answer) = action(self) {
            self.drive(key, answer);
        }
    }

    fn perform(&mut self, key: Key, action: Action) -> Option<Input> {
        match action {
            Action::Receive { from } => self.relay_receive(key, from),
            Action::Send { from } => {
                let slot = self.relays.get_mut(key)?;
                let buffer = slot.paths[from.index()].queued.take()?;
                let sink = slot.sockets[from.other().index()];
                self.start_send(sink, buffer);
                None
            }
            Action::SpliceIn { from } => self.splice_in(key, from),
            Action::SpliceOut { from } => self.splice_out(key, from),
            Action::ReleasePipe { from } => {
                let slot = self.relays.get_mut(key)?;
                let has_ended = slot.machine.has_ended(from);
                let path = &mut slot.paths[from.index()];
                // A direction that has ended needs its pipe no longer; one that is open has become small.
                let was_spliced = std::mem::take(&mut path.spliced);
                self.splice_demotions += u64::from(was_spliced && !has_ended);
                let pipe = path.pipe.take();
                pipe.into_iter().for_each(|pipe| self.pipes.give(pipe));
                None
            }
            Action::Shutdown { side } => {
                let socket = self.sockets.get(self.relays.get(key)?.sockets[side.index()])?;
                let shut = SockRef::from(&socket.fd).shutdown(Shutdown::Write);
                shut.is_err().then_some(Input::Failed { side })
            }
            Action::Finish { reset } => {
                self.finish_relay(key, reset);
                None
            }
        }
    }

    fn relay_receive(&mut self, key: Key, from: Side) -> Option<Input> {
        let slot = self.relays.get_mut(key)?;
        let source = slot.sockets[from.index()];
        let socket = self.sockets.get_mut(source)?;
        match std::mem::replace(&mut socket.receive, Receive::Idle) {
            Receive::Idle => {
                self.arm_receive(source);
                None
            }
            // Armed by a session before the stream was moved here: it goes on.
            state @ (Receive::Armed | Receive::Starved) => {
                socket.receive = state;
                None
            }
            Receive::Failed(_) => Some(Input::Failed { side: from }),
            Receive::Ready(buffer) if buffer.is_empty() => Some(Input::Ended { from }),
            Receive::Ready(buffer) => {
                let bytes = buffer.len();
                let place = &mut slot.paths[from.index()].queued;
                debug_assert!(place.is_none(), "credit is two buffers at most");
                *place = Some(buffer);
                Some(Input::Received { from, bytes, full: bytes >= RECEIVE_BYTES })
            }
        }
    }

    /// A receive of one of the tunnel's sockets has completed.
    pub(crate) fn relay_received(&mut self, key: Key, from: Side) {
        let completed = |io: &Self| {
            let socket = io.sockets.get(io.relays.get(key)?.sockets[from.index()])?;
            Some(matches!(socket.receive, Receive::Ready(_) | Receive::Failed(_)))
        };
        if completed(self) == Some(true) {
            self.resume(key, |io| io.relay_receive(key, from));
        }
    }

    /// A send of one of the tunnel's sockets has completed, wholly or in part.
    pub(crate) fn relay_sent(&mut self, key: Key, to: Side, bytes: usize, failed: bool, done: bool) {
        let from = to.other();
        if bytes > 0 {
            self.drive(key, Input::Sent { from, bytes, whole: done && !failed });
        }
        if failed {
            self.drive(key, Input::Failed { side: to });
        }
    }

    /// A send that was under way when the tunnel finished: its bytes count as well.
    pub(crate) fn relay_sent_late(&mut self, key: Key, to: Side, bytes: usize) {
        let Some(slot) = self.relays.get_mut(key) else { return };
        let count = match to {
            Side::Downstream => &slot.counters.to_downstream_bytes,
            Side::Upstream => &slot.counters.to_upstream_bytes,
        };
        count.set(count.get().saturating_add(bytes as u64));
        slot.late_bytes[to.index()] += bytes as u64;
    }

    pub(crate) fn abort_relay(&mut self, key: Key) {
        self.drive(key, Input::Abort);
    }

    fn finish_relay(&mut self, key: Key, reset: bool) {
        let Some(slot) = self.relays.get_mut(key) else { return };
        if let Some((_, timer)) = slot.timer.take() {
            self.timers.remove(timer);
        }
        let sockets = slot.sockets;
        for path in &mut slot.paths {
            path.queued = None;
            path.pipe.take().into_iter().for_each(|pipe| self.pipes.give(pipe));
        }
        for socket in sockets {
            if let Some(socket) = self.sockets.get_mut(socket) {
                socket.reset |= reset;
            }
            self.release_socket(socket);
        }
    }

    /// One of the tunnel's sockets is closed; the second one ends it.
    pub(crate) fn relay_socket_closed(&mut self, key: Key) {
        let Some(slot) = self.relays.get_mut(key) else { return };
        slot.open -= 1;
        if slot.open > 0 {
            return;
        }
        let waker = slot.waker.take();
        if slot.orphaned {
            self.relays.remove(key);
        }
        self.wakes.extend(waker);
    }

    pub(crate) fn relay_timer(&mut self, key: Key) {
        if let Some(slot) = self.relays.get_mut(key) {
            slot.timer = None;
            self.drive(key, Input::Timer);
            self.renew_relay_timer(key);
        }
    }

    /// Sees that the timer fires no later than the machine's deadline. One that fires too early does no harm: it is
    /// renewed then, so that a busy tunnel never touches its timer.
    fn renew_relay_timer(&mut self, key: Key) {
        let Some(slot) = self.relays.get_mut(key) else { return };
        let Some(deadline_ms) = slot.machine.deadline_ms() else { return };
        if let Some((at_ms, timer)) = slot.timer {
            if at_ms <= deadline_ms {
                return;
            }
            self.timers.remove(timer);
        }
        let at = Instant::from_nanos(deadline_ms.saturating_mul(1_000_000));
        slot.timer = Some((deadline_ms, self.timers.insert(at, Target::Relay(key))));
    }

    fn poll_relay(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<Report> {
        let slot = self.relays.get_mut(key).expect("its future owns the slot until it has reported");
        if slot.open == 0 {
            let report = slot.machine.report();
            let [late_downstream, late_upstream] = slot.late_bytes;
            self.relays.remove(key);
            return Poll::Ready(Report {
                to_upstream_bytes: report.to_upstream_bytes + late_upstream,
                to_downstream_bytes: report.to_downstream_bytes + late_downstream,
                end: report.end,
            });
        }
        let old = Self::replace_waker(&mut slot.waker, cx.waker());
        self.discard(old);
        Poll::Pending
    }

    fn orphan_relay(&mut self, key: Key) {
        let Some(slot) = self.relays.get_mut(key) else { return };
        slot.orphaned = true;
        let waker = slot.waker.take();
        if slot.open == 0 {
            self.relays.remove(key);
        }
        self.discard(waker);
        self.drive(key, Input::Abort);
    }
}

/// Waits for a tunnel's end; dropping it aborts the tunnel.
pub(crate) struct Relay {
    core: Rc<Core>,
    key: Key,
    reported: bool,
}

impl Relay {
    pub(crate) fn start(core: Rc<Core>, downstream: Key, upstream: Key, setup: RelaySetup) -> Self {
        let key = core.with_io(|io| io.start_relay([downstream, upstream], setup));
        Self { core, key, reported: false }
    }
}

impl Future for Relay {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let key = self.key;
        let report = self.core.with_io(|io| io.poll_relay(key, cx));
        self.reported = report.is_ready();
        report
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.reported {
            self.core.with_io(|io| io.orphan_relay(self.key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;

    #[test]
    fn an_idle_tunnel_takes_a_few_hundred_bytes_of_user_memory() {
        let bytes = size_of::<RelaySlot>() + 2 * size_of::<Socket>();
        assert!(bytes <= 768, "{bytes} bytes: {} and twice {}", size_of::<RelaySlot>(), size_of::<Socket>());
    }
}
