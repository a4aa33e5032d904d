//! Message bodies on their way through: taken off one connection as they come, framed for the other, never collected.

use std::io;
use std::num::NonZeroUsize;

use sluice_engine::{Buffer, Engine, Stream};
use sluice_proto::http1::{Decoded, Sink, WriteError, chunk_size_line, write_last_chunk};

/// Lets heads be written straight into a buffer.
pub(super) struct BufferSink<'a>(pub(super) &'a mut Buffer);

impl Sink for BufferSink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if self.0.append(bytes) { Ok(()) } else { Err(WriteError::NoRoom) }
    }
}

/// Writes with `write` into a pooled buffer, or into a larger one where that is too small.
pub(super) fn compose<E: Engine>(
    engine: &E,
    bytes_max: usize,
    write: impl Fn(&mut BufferSink<'_>) -> Result<(), WriteError>,
) -> Result<Buffer, WriteError> {
    let mut buffer = engine.buffer();
    match write(&mut BufferSink(&mut buffer)) {
        Err(WriteError::NoRoom) => {
            // Rewriting adds a few short lines of ours to what was received.
            let mut buffer = Buffer::with_capacity(bytes_max + 4096);
            write(&mut BufferSink(&mut buffer))?;
            Ok(buffer)
        }
        written => written.map(|()| buffer),
    }
}

/// What one received buffer holds of a body: its data in place, framed for the other side when it is sent.
pub(super) struct Piece<'a> {
    pub(super) buffer: Buffer,
    pub(super) decoded: Decoded,
    /// Whether the receiving side gets chunks.
    pub(super) chunked: bool,
    /// Trailers to send behind the last chunk.
    pub(super) trailers: &'a [u8],
}

impl Piece<'_> {
    /// Sends the piece, behind `head` where there is one: in a single send when it fits.
    pub(super) async fn send(self, stream: &impl Stream, head: Option<Buffer>) -> io::Result<u64> {
        let Self { mut buffer, decoded, chunked, trailers } = self;
        buffer.truncate(decoded.data.end);
        buffer.advance(decoded.data.start);
        let mut before = None;
        let mut behind = None;
        if chunked {
            if let Some(length) = NonZeroUsize::new(buffer.len()) {
                let line = chunk_size_line(length);
                if !buffer.prepend(line.as_bytes()) {
                    before = Some(Buffer::from(line.as_bytes().to_vec()));
                }
                append_or(&mut buffer, &mut behind, b"\r\n");
            }
            if decoded.end {
                append_or(&mut buffer, &mut behind, &last_chunk(trailers));
            }
        }
        let mut sent = 0;
        let mut head = head;
        if let Some(joined) = head.as_mut()
            && before.is_none()
            && joined.append(&buffer)
        {
            buffer = Buffer::end_of_stream();
        }
        for part in [head, before, Some(buffer), behind].into_iter().flatten() {
            if !part.is_empty() {
                sent += part.len() as u64;
                stream.send(part).await?;
            }
        }
        Ok(sent)
    }
}

/// What came behind the first `length` bytes.
pub(super) fn rest_behind(bytes: &[u8], length: usize) -> Buffer {
    let rest = &bytes[length..];
    let mut buffer = Buffer::with_capacity(rest.len());
    let fits = buffer.append(rest);
    debug_assert!(fits, "made to fit");
    buffer
}

/// The end of a chunked body whose end was only seen when its connection closed.
pub(super) fn last_chunk(trailers: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + trailers.len());
    // A vector takes whatever it is given.
    let _ = write_last_chunk(&mut bytes, trailers);
    bytes
}

fn append_or(buffer: &mut Buffer, behind: &mut Option<Buffer>, bytes: &[u8]) {
    if behind.is_none() && buffer.append(bytes) {
        return;
    }
    let mut rest = behind.take().map_or_else(Vec::new, |rest| rest.to_vec());
    rest.extend_from_slice(bytes);
    *behind = Some(Buffer::from(rest));
}
