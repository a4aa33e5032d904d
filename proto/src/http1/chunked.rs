//! The chunked coding (RFC 9112 §7.1), decoded in place and written anew. Knows nothing of buffers' owners or of heads.

use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::ops::Range;

use super::bytes::is_value;
use super::headers::parse_line;
use super::{HeaderName, Sink, WriteError};
use crate::limits::{
    CHUNK_EXTENSION_BYTES_FREE, CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, CHUNK_SIZE_LINE_BYTES_MAX,
    TRAILER_BYTES_MAX, TRAILERS_MAX,
};

/// Why a chunked body is refused: 400 for a request, an abort for a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// The size is not 1 to 16 hexadecimal digits right before `;` or CRLF.
    #[error("malformed chunk size")]
    Size,
    /// An empty extension, or a control character (CR and LF included) in one.
    #[error("malformed chunk extension")]
    Extension,
    /// One extension, or all together, beyond the bounds.
    #[error("chunk extensions too long")]
    ExtensionTooLong,
    /// Chunk data not followed by CRLF, or a line not ended by it.
    #[error("chunk without CRLF at its end")]
    LineEnd,
    /// A trailer that is no header line.
    #[error("malformed trailer")]
    Trailer,
    /// Trailers beyond the bounds.
    #[error("trailers too large")]
    TrailersTooLarge,
}

/// What became of one received buffer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decoded {
    /// Bytes taken off the front; fewer than given only where the body ends.
    pub consumed: usize,
    /// Where in the buffer the body data now lies, in one piece. It never reaches beyond `consumed`.
    pub data: Range<usize>,
    /// Whether the body is complete.
    pub end: bool,
}

impl Decoded {
    /// Moves the data to the front of the buffer that was fed, for callers that send from there; returns its length.
    pub fn compact(&self, buffer: &mut [u8]) -> usize {
        if self.data.start > 0 {
            buffer.copy_within(self.data.clone(), 0);
        }
        self.data.len()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Size { digits: usize },
    Extension { bytes: usize },
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    Done,
}

/// Decodes a chunked body as it is received, buffer by buffer.
///
/// Each buffer's data is drawn together in place, so that the caller re-emits one chunk per buffer without copying it
/// anywhere. Chunk sizes and extensions are dropped; trailers are kept, bounded and cleaned, for re-emission. After an
/// error the decoder must not be used any more.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// The size being read, then the data bytes still to come.
    left: u64,
    extension_bytes: u64,
    data_bytes: u64,
    trailer_bytes: usize,
    trailer_count: usize,
    /// The trailer line being received.
    line: Vec<u8>,
    trailers: Vec<u8>,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            extension_bytes: 0,
            data_bytes: 0,
            trailer_bytes: 0,
            trailer_count: 0,
            line: Vec::new(),
            trailers: Vec::new(),
        }
    }

    /// Whether the last chunk and its trailers have been read.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The trailers kept so far, each as `name: value CRLF`: what [`write_last_chunk`] takes.
    ///
    /// Fields that must not come after a body (framing, routing, authentication, content format: RFC 9110 §6.5.1)
    /// and all that a head would be stripped of are not among them.
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Takes what was received. Bytes from `consumed` on belong to the next message and are left where they are.
    ///
    /// # Errors
    /// At the first byte that strict chunked coding does not allow.
    pub fn feed(&mut self, received: &mut [u8]) -> Result<Decoded, ChunkError> {
        let mut at = 0;
        let mut data = 0..0;
        while self.state != State::Done {
            let Some(&byte) = received.get(at) else {
                return Ok(Decoded { consumed: at, data, end: false });
            };
            if self.state == State::Data {
                let here = received.len() - at;
                let taken = usize::try_from(self.left).map_or(here, |left| left.min(here));
                draw_together(received, &mut data, at, taken);
                at += taken;
                self.take_data(taken as u64);
            } else {
                self.step(byte)?;
                at += 1;
            }
        }
        Ok(Decoded { consumed: at, data, end: true })
    }

    fn take_data(&mut self, bytes: u64) {
        self.left -= bytes;
        self.data_bytes = self.data_bytes.saturating_add(bytes);
        if self.left == 0 {
            self.state = State::DataCr;
        }
    }

    /// Takes one byte that is not data.
    fn step(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.state = match (self.state, byte) {
            (State::Size { digits: 1.. }, b'\r') => State::SizeLf,
            (State::Size { digits: 1.. }, b';') => State::Extension { bytes: 0 },
            (State::Size { digits }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(ChunkError::Size)?;
                if digits == CHUNK_SIZE_DIGITS_MAX {
                    return Err(ChunkError::Size);
                }
                self.left = self.left << 4 | u64::from(digit);
                State::Size { digits: digits + 1 }
            }
            (State::Extension { bytes: 1.. }, b'\r') => State::SizeLf,
            (State::Extension { bytes }, _) if is_value(byte) => {
                self.extension_bytes += 1;
                let total_max = CHUNK_EXTENSION_BYTES_FREE.saturating_add(self.data_bytes);
                if bytes == CHUNK_EXTENSION_BYTES_MAX || self.extension_bytes > total_max {
                    return Err(ChunkError::ExtensionTooLong);
                }
                State::Extension { bytes: bytes + 1 }
            }
            (State::Extension { .. }, _) => return Err(ChunkError::Extension),
            (State::SizeLf, b'\n') if self.left == 0 => State::Trailer,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0 },
            (State::Trailer, _) => return self.step_trailer(byte),
            _ => return Err(ChunkError::LineEnd),
        };
        Ok(())
    }

    fn step_trailer(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(ChunkError::TrailersTooLarge);
        }
        match (self.line.as_slice(), byte) {
            ([], b'\r') => {
                self.line.push(byte);
                Ok(())
            }
            ([b'\r'], b'\n') => {
                self.line = Vec::new();
                self.state = State::Done;
                Ok(())
            }
            ([b'\r'], _) => Err(ChunkError::Trailer),
            (_, b'\n') => {
                self.line.push(byte);
                self.end_trailer_line()
            }
            _ => {
                self.line.push(byte);
                Ok(())
            }
        }
    }

    fn end_trailer_line(&mut self) -> Result<(), ChunkError> {
        let header = parse_line(&self.line).map_err(|_| ChunkError::Trailer)?;
        self.trailer_count += 1;
        if self.trailer_count > TRAILERS_MAX {
            return Err(ChunkError::TrailersTooLarge);
        }
        if header.id == HeaderName::Other && !is_forbidden_trailer(header.name) {
            for part in [header.name, b": ", header.value, b"\r\n"] {
                self.trailers.extend_from_slice(part);
            }
        }
        self.line.clear();
        Ok(())
    }
}

/// Appends `taken` bytes at `at` to the run of data found so far.
fn draw_together(received: &mut [u8], data: &mut Range<usize>, at: usize, taken: usize) {
    if data.start == data.end {
        *data = at..at + taken;
        return;
    }
    received.copy_within(at..at + taken, data.end);
    data.end += taken;
}

/// Ordinary headers that must not come after the body: a recipient that merged them would act on them too late.
fn is_forbidden_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 20] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "pragma",
        "range",
        "set-cookie",
        "vary",
        "www-authenticate",
    ];
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

/// A chunk's size line, ready to be sent before its data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkSizeLine {
    bytes: [u8; CHUNK_SIZE_LINE_BYTES_MAX],
    start: usize,
}

impl ChunkSizeLine {
    /// Hexadecimal digits and CRLF.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// The size line of a chunk of `data_bytes`, to be followed by that much data, in hand already, and CRLF. A chunk is
/// never empty: that would be the last one.
#[must_use]
pub fn chunk_size_line(data_bytes: NonZeroUsize) -> ChunkSizeLine {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0; CHUNK_SIZE_LINE_BYTES_MAX];
    let mut start = CHUNK_SIZE_LINE_BYTES_MAX - 2;
    bytes[start..].copy_from_slice(b"\r\n");
    let mut left = data_bytes.get();
    while left > 0 {
        start -= 1;
        bytes[start] = DIGITS[left & 15];
        left >>= 4;
    }
    ChunkSizeLine { bytes, start }
}

/// Writes the last chunk and the trailer section: `trailers` are whole lines, as [`ChunkedDecoder::trailers`] has them.
///
/// # Errors
/// When the sink has no room.
pub fn write_last_chunk(out: &mut impl Sink, trailers: &[u8]) -> Result<(), WriteError> {
    out.put(b"0\r\n")?;
    out.put(trailers)?;
    out.put(b"\r\n")
}
