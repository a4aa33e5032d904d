//! Moving bulk without copying: splice(2) from a socket into a pipe and out to another socket, called from the worker
//! itself, with readiness from the ring. (The ring's own splice is always sent to a kernel thread.)

use std::os::fd::AsRawFd;
use std::task::Waker;

use io_uring::{opcode, types};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use sluice_relay::{Input, Side};

use crate::io::Io;
use crate::ops::{Kind, encode};
use crate::slab::Key;

/// What had its share of this turn and goes on in the next.
#[derive(Clone, Debug)]
pub(crate) enum Continuation {
    /// A direction of a relay.
    Relay { relay: Key, from: Side },
    /// A session that splices.
    Task(Waker),
}

pub(crate) const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

impl Io {
    /// Fills the direction's pipe from its source, or waits until the source can be read. While it waits it holds no
    /// pipe. The answer, if there is one at once, is what is returned.
    pub(crate) fn splice_in(&mut self, key: Key, from: Side) -> Option<Input> {
        let relay = self.relays.get_mut(key)?;
        let source = relay.sockets[from.index()];
        let path = &mut relay.paths[from.index()];
        if path.burst_bytes >= self.splice_turn_bytes_max {
            self.continuing.push(Continuation::Relay { relay: key, from });
            return None;
        }
        let Some(mut pipe) = path.pipe.take().or_else(|| self.pipes.take()) else {
            self.splice_demotions += u64::from(std::mem::take(&mut path.spliced));
            return Some(Input::SpliceUnavailable { from });
        };
        self.splice_promotions += u64::from(!path.spliced);
        path.spliced = true;
        let socket = self.sockets.get(source)?;
        let moved = retry(|| splice(&socket.fd, None, &pipe.writer, None, pipe.capacity, FLAGS));
        if let Ok(bytes) = moved {
            pipe.parked += bytes;
            path.burst_bytes += bytes;
        }
        if pipe.parked > 0 {
            path.pipe = Some(pipe);
        } else {
            self.pipes.give(pipe);
        }
        match moved {
            Ok(0) => Some(Input::Ended { from }),
            Ok(bytes) => Some(Input::SplicedIn { from, bytes }),
            Err(Errno::AGAIN) => {
                self.push_poll(source, Kind::PollIn);
                None
            }
            Err(Errno::INVAL | Errno::NOMEM) => {
                self.splice_demotions += u64::from(std::mem::take(&mut path.spliced));
                Some(Input::SpliceUnavailable { from })
            }
            Err(_) => Some(Input::Failed { side: from }),
        }
    }

    /// Empties the direction's pipe into its sink, or waits until the sink can be written.
    pub(crate) fn splice_out(&mut self, key: Key, from: Side) -> Option<Input> {
        let relay = self.relays.get_mut(key)?;
        let sink = relay.sockets[from.other().index()];
        let pipe = relay.paths[from.index()].pipe.as_mut()?;
        let socket = self.sockets.get(sink)?;
        match retry(|| splice(&pipe.reader, None, &socket.fd, None, pipe.parked, FLAGS)) {
            Ok(bytes) if bytes > 0 => {
                pipe.parked = pipe.parked.saturating_sub(bytes);
                Some(Input::SplicedOut { from, bytes })
            }
            Err(Errno::AGAIN) => {
                self.push_poll(sink, Kind::PollOut);
                None
            }
            _ => Some(Input::Failed { side: from.other() }),
        }
    }

    pub(crate) fn push_poll(&mut self, key: Key, kind: Kind) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let events = if kind == Kind::PollIn { libc::POLLIN | libc::POLLRDHUP } else { libc::POLLOUT };
        let events = u32::from(events.cast_unsigned());
        socket.in_flight += 1;
        self.in_flight += 1;
        let entry = opcode::PollAdd::new(types::Fd(socket.fd.as_raw_fd()), events).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(entry.user_data(encode(kind, key))) };
    }

    pub(crate) fn complete_poll(&mut self, key: Key, kind: Kind, result: i32) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.in_flight -= 1;
        if self.readiness_came(key, kind) {
            return self.close_if_quiet(key);
        }
        self.close_if_quiet(key);
        let Some((relay, side)) = self.sockets.get(key).and_then(|socket| socket.relay) else { return };
        if result == -libc::ECANCELED {
            return;
        }
        if kind == Kind::PollIn {
            self.continue_splice(relay, side);
        } else {
            self.resume(relay, |io| io.splice_out(relay, side.other()));
        }
    }

    fn continue_splice(&mut self, relay: Key, from: Side) {
        let Some(slot) = self.relays.get_mut(relay) else { return };
        slot.paths[from.index()].burst_bytes = 0;
        self.resume(relay, |io| io.splice_in(relay, from));
    }

    /// Goes on with what had its share of the last turn.
    pub(crate) fn continue_splices(&mut self) {
        for continuation in std::mem::take(&mut self.continuing) {
            match continuation {
                Continuation::Relay { relay, from } => self.continue_splice(relay, from),
                Continuation::Task(waker) => self.wakes.push(waker),
            }
        }
    }
}

pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
