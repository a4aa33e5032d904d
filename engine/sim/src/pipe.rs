//! A pipe in memory between two simulated sockets: what relays and sessions splice through.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::engine::SimEngine;
use crate::limits::{PIPE_BYTES, SEGMENT_BYTES_MAX};
use crate::network::HostId;
use crate::sim::World;
use crate::stream::SimStream;

/// Moves what `sink` takes out of `pipe`.
pub(crate) fn poll_splice_out(
    sink: &SimStream,
    pipe: &mut VecDeque<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    sink.world.with(|state| {
        while state.poll_writable(sink.id, cx).is_ready() {
            let head: Vec<u8> = pipe.iter().take(SEGMENT_BYTES_MAX).copied().collect();
            match state.write_now(sink.id, &head) {
                // The room went before the write came: wait again.
                Ok(0) => {}
                Ok(count) => {
                    pipe.drain(..count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    })
}

/// See [`sluice_engine::Pipe`].
pub struct SimPipe {
    world: Rc<World>,
    host: HostId,
    bytes: VecDeque<u8>,
    /// Something has been moved through it: the fault of having none has passed.
    used: bool,
}

impl SimPipe {
    pub(crate) fn new(engine: &SimEngine) -> Self {
        Self { world: Rc::clone(&engine.world), host: engine.host, bytes: VecDeque::new(), used: false }
    }
}

impl sluice_engine::Pipe for SimPipe {
    type Stream = SimStream;

    fn poll_fill(
        &mut self,
        from: &SimStream,
        bytes_max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        assert!(self.bytes.is_empty(), "contract: a pipe is filled when it is empty");
        let refused = self.world.with(|state| {
            let none = !self.used && state.strikes(self.host, state.faults.splice_unavailable_permille);
            none || !state.may_splice(from.id)
        });
        if refused {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        self.used = true;
        self.world.with(|state| {
            ready!(state.poll_readable(from.id, cx));
            let read = state.read_now(from.id, bytes_max.min(PIPE_BYTES))?;
            let bytes = read.len();
            self.bytes.extend(read);
            Poll::Ready(Ok(bytes))
        })
    }

    fn poll_drain(&mut self, to: &SimStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        poll_splice_out(to, &mut self.bytes, cx)
    }

    fn held_bytes(&self) -> usize {
        self.bytes.len()
    }
}
