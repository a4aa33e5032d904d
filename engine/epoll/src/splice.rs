//! Bulk between two streams of a session, through a pipe of the worker's. Knows nothing of relays.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;

use crate::engine::Shared;
use crate::pipe::Pipe;
use crate::stream::EpollStream;

pub(crate) const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// See [`sluice_engine::Pipe`].
pub struct EpollPipe {
    shared: Rc<Shared>,
    pipe: Option<Pipe>,
    /// Bytes spliced since others last had their turn.
    burst_bytes: usize,
}

impl EpollPipe {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        Self { shared: Rc::clone(shared), pipe: None, burst_bytes: 0 }
    }

    fn give_back(&mut self) {
        self.pipe.take().into_iter().for_each(|pipe| self.shared.pipes.give(pipe));
    }
}

impl sluice_engine::Pipe for EpollPipe {
    type Stream = EpollStream;

    fn poll_fill(
        &mut self,
        from: &EpollStream,
        bytes_max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.held_bytes(), 0, "a pipe is filled when it is empty");
        if self.burst_bytes >= self.shared.turn_bytes_max {
            self.burst_bytes = 0;
            // Behind the events that the kernel has by now. Only the registration of our waker is wanted, which the
            // first poll does.
            let _ = pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        ready!(from.poll_session_ready(cx, Interest::READABLE))?;
        let Some(pipe) = self.pipe.take().or_else(|| self.shared.pipes.take()) else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let bytes_max = bytes_max.min(pipe.capacity);
        let pipe = self.pipe.insert(pipe);
        let moved = from.poll_with_descriptor(cx, Interest::READABLE, |socket| {
            Ok(splice(socket, None, &pipe.write_end, None, bytes_max, FLAGS)?)
        });
        match moved {
            Poll::Ready(Ok(bytes)) if bytes > 0 => {
                pipe.parked = bytes;
                self.burst_bytes += bytes;
                return Poll::Ready(Ok(bytes));
            }
            Poll::Ready(Err(error)) if cannot_splice(&error) => {
                self.give_back();
                return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
            }
            _ => self.give_back(),
        }
        moved
    }

    fn poll_drain(&mut self, to: &EpollStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(to.poll_session_ready(cx, Interest::WRITABLE))?;
        let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.parked > 0) else {
            return Poll::Ready(Ok(0));
        };
        let moved = ready!(to.poll_with_descriptor(cx, Interest::WRITABLE, |socket| {
            Ok(splice(&pipe.read_end, None, socket, None, pipe.parked, FLAGS)?)
        }))?;
        if moved == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        pipe.parked = pipe.parked.saturating_sub(moved);
        Poll::Ready(Ok(moved))
    }

    fn held_bytes(&self) -> usize {
        self.pipe.as_ref().map_or(0, |pipe| pipe.parked)
    }
}

impl Drop for EpollPipe {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Whether an error means that this socket or this system does not splice.
pub(crate) fn cannot_splice(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOMEM | Errno::NOSYS | Errno::PERM))
}
