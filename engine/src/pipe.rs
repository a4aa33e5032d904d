//! Bytes from one stream to another that never enter the process. Knows no protocol and no tunnel: who fills and
//! drains decides how much is moved.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::Stream;

/// A pipe of the kernel's between two streams, for bulk whose length is known: a relay would take both streams, and
/// move everything.
///
/// It is filled and drained in turns, by one task, and lets others have theirs by itself: a fill may wait although bytes are
/// there. While it is empty it costs nothing: the kernel's pipe behind it is
/// taken when there is something to move. Bytes that it holds when it is dropped are lost, so both streams are then
/// good for a reset only.
pub trait Pipe: 'static {
    /// The streams of its engine.
    type Stream: Stream;

    /// Moves what `from` has received into the pipe, which must be empty: at least one byte and at most `bytes_max`, or
    /// none at the peer's orderly end. What lies beyond stays with the stream, for a receive. While this waits, nothing
    /// else may receive from the stream.
    ///
    /// The future's errors: [`io::ErrorKind::Unsupported`] when no pipe is to be had, the stream cannot be spliced, or
    /// a receive is under way on it (nothing was moved: the caller goes on with buffers); else splice(2)'s.
    fn poll_fill(
        &mut self,
        from: &Self::Stream,
        bytes_max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;

    /// Moves what the pipe holds to `to`, or the part of it that is taken now: at least one byte. No send may be under
    /// way on the stream.
    ///
    /// The future's errors are splice(2)'s.
    fn poll_drain(&mut self, to: &Self::Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Bytes that it holds.
    fn held_bytes(&self) -> usize;

    /// See [`poll_fill`](Self::poll_fill).
    fn fill(&mut self, from: &Self::Stream, bytes_max: usize) -> impl Future<Output = io::Result<usize>> {
        poll_fn(move |cx| self.poll_fill(from, bytes_max, cx))
    }

    /// See [`poll_drain`](Self::poll_drain).
    fn drain(&mut self, to: &Self::Stream) -> impl Future<Output = io::Result<usize>> {
        poll_fn(move |cx| self.poll_drain(to, cx))
    }
}
