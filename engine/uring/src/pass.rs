//! Bulk between two streams of a session, through a pipe of the worker's: splice(2) called from the task itself, with
//! readiness from the ring. Knows nothing of relays.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::pipe::splice;

use crate::core::Core;
use crate::io::Io;
use crate::ops::Kind;
use crate::pipes;
use crate::slab::Key;
use crate::socket::{Receive, aborted};
use crate::splice::{Continuation, FLAGS, retry};
use crate::stream::Stream;

/// See [`sluice_engine::Pipe`].
pub struct Pipe {
    core: Rc<Core>,
    pipe: Option<pipes::Pipe>,
    /// Bytes spliced in that turn of the worker.
    burst_bytes: usize,
    turn: u64,
}

impl Pipe {
    pub(crate) fn new(core: Rc<Core>) -> Self {
        Self { core, pipe: None, burst_bytes: 0, turn: 0 }
    }
}

impl sluice_engine::Pipe for Pipe {
    type Stream = Stream;

    fn poll_fill(
        &mut self,
        from: &Stream,
        bytes_max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held_bytes(), 0, "a pipe is filled when it is empty");
        debug_assert!(Rc::ptr_eq(from.core(), &self.core), "a pipe's streams are its engine's own");
        if self.core.turns.get() != self.turn {
            (self.turn, self.burst_bytes) = (self.core.turns.get(), 0);
        }
        let filled = self.core.with_io(|io| {
            if self.burst_bytes >= io.splice_turn_bytes_max {
                // A task that is ready again at once would run before anybody's I/O is looked at.
                io.continuing.push(Continuation::Task(cx.waker().clone()));
                return Poll::Pending;
            }
            io.poll_fill(from.key(), &mut self.pipe, bytes_max, cx)
        });
        self.burst_bytes += self.held_bytes();
        filled
    }

    fn poll_drain(&mut self, to: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Some(pipe) if pipe.parked > 0 => self.core.with_io(|io| io.poll_drain(to.key(), pipe, cx)),
            _ => Poll::Ready(Ok(0)),
        }
    }

    fn held_bytes(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.parked)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let pipe = self.pipe.take();
        self.core.with_io(|io| pipe.into_iter().for_each(|pipe| io.pipes.give(pipe)));
    }
}

impl Io {
    fn poll_fill(
        &mut self,
        key: Key,
        place: &mut Option<pipes::Pipe>,
        bytes_max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let unsupported = || Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        let socket = self.sockets.get_mut(key).expect("a stream owns its slot");
        if socket.aborted {
            return Poll::Ready(Err(aborted()));
        }
        if socket.awaits_bytes {
            return self.await_readiness(key, Kind::PollIn, cx);
        }
        if !matches!(socket.receive, Receive::Idle) {
            return unsupported();
        }
        let Some(mut pipe) = place.take().or_else(|| self.pipes.take()) else { return unsupported() };
        let bytes_max = bytes_max.min(pipe.capacity);
        match retry(|| splice(&socket.fd, None, &pipe.writer, None, bytes_max, FLAGS)) {
            Ok(bytes) if bytes > 0 => {
                pipe.parked += bytes;
                *place = Some(pipe);
                Poll::Ready(Ok(bytes))
            }
            outcome => {
                self.pipes.give(pipe);
                match outcome {
                    Err(Errno::AGAIN) => self.await_readiness(key, Kind::PollIn, cx),
                    Err(Errno::INVAL | Errno::NOMEM) => unsupported(),
                    outcome => Poll::Ready(outcome.map_err(io::Error::from)),
                }
            }
        }
    }

    fn poll_drain(
        &mut self,
        key: Key,
        pipe: &mut pipes::Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let socket = self.sockets.get_mut(key).expect("a stream owns its slot");
        debug_assert!(socket.send.is_none(), "no send is under way");
        if socket.aborted {
            return Poll::Ready(Err(aborted()));
        }
        if socket.awaits_room {
            return self.await_readiness(key, Kind::PollOut, cx);
        }
        match retry(|| splice(&pipe.reader, None, &socket.fd, None, pipe.parked, FLAGS)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => {
                pipe.parked = pipe.parked.saturating_sub(bytes);
                Poll::Ready(Ok(bytes))
            }
            Err(Errno::AGAIN) => self.await_readiness(key, Kind::PollOut, cx),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    /// Has the task woken when the socket can be read, or written.
    fn await_readiness<T>(&mut self, key: Key, kind: Kind, cx: &mut Context<'_>) -> Poll<T> {
        let socket = self.sockets.get_mut(key).expect("a stream owns its slot");
        let (waits, waker) = match kind {
            Kind::PollIn => (&mut socket.awaits_bytes, &mut socket.receive_waker),
            _ => (&mut socket.awaits_room, &mut socket.send_waker),
        };
        let waited = std::mem::replace(waits, true);
        let old = Self::replace_waker(waker, cx.waker());
        self.discard(old);
        if !waited {
            self.push_poll(key, kind);
        }
        Poll::Pending
    }

    /// A wait for readiness is over. True if it was a session's, not a relay's.
    pub(crate) fn readiness_came(&mut self, key: Key, kind: Kind) -> bool {
        let Some(socket) = self.sockets.get_mut(key) else { return false };
        let (waits, waker) = match kind {
            Kind::PollIn => (&mut socket.awaits_bytes, &mut socket.receive_waker),
            _ => (&mut socket.awaits_room, &mut socket.send_waker),
        };
        if !std::mem::take(waits) {
            return false;
        }
        let waker = waker.take();
        self.wakes.extend(waker);
        true
    }
}
