//! One decoder for every framing, so that a caller streams all bodies alike. Knows nothing of where data goes.

use super::{ChunkError, ChunkedDecoder, Decoded, Framing};

/// Reads a message body off a stream, whatever its framing.
#[derive(Debug)]
pub enum Body {
    /// Nothing to read, or all of it has been read.
    Empty,
    /// So many bytes are still to come; never 0.
    Fixed(u64),
    /// Chunks.
    Chunked(ChunkedDecoder),
    /// All there is until the stream ends.
    UntilClose,
}

impl Body {
    /// The reader for a message with that framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Empty,
            Framing::Length(bytes) => Self::Fixed(bytes),
            Framing::Chunked => Self::Chunked(ChunkedDecoder::new()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the body has been read to its end; one that ends by closing never has.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Chunked(decoder) => decoder.is_complete(),
            Self::Fixed(_) | Self::UntilClose => false,
        }
    }

    /// Bytes still to come of a body whose length was told; 0 for every other.
    #[must_use]
    pub const fn known_left(&self) -> u64 {
        match self {
            Self::Fixed(left) => *left,
            Self::Empty | Self::Chunked(_) | Self::UntilClose => 0,
        }
    }

    /// So many bytes of it went another way: at most [`known_left`](Self::known_left).
    pub fn pass(&mut self, bytes: u64) {
        if let Self::Fixed(left) = self {
            debug_assert!(bytes <= *left, "more than the body has");
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                *self = Self::Empty;
            }
        }
    }

    /// Takes what was received. Bytes from `consumed` on belong to the next message.
    ///
    /// # Errors
    /// When chunks are malformed.
    pub fn feed(&mut self, received: &mut [u8]) -> Result<Decoded, ChunkError> {
        let plain = |bytes: usize, end: bool| Decoded { consumed: bytes, data: 0..bytes, end };
        match self {
            Self::Empty => Ok(plain(0, true)),
            Self::UntilClose => Ok(plain(received.len(), false)),
            Self::Chunked(decoder) => decoder.feed(received),
            Self::Fixed(left) => {
                let taken = usize::try_from(*left).map_or(received.len(), |left| left.min(received.len()));
                *left -= taken as u64;
                let end = *left == 0;
                if end {
                    *self = Self::Empty;
                }
                Ok(plain(taken, end))
            }
        }
    }

    /// Whether a clean end of the stream here is the body's own end; if not, the body was cut short.
    #[must_use]
    pub const fn may_end_here(&self) -> bool {
        matches!(self, Self::UntilClose) || self.is_complete()
    }

    /// Trailer lines of a chunked body, as [`ChunkedDecoder::trailers`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        match self {
            Self::Chunked(decoder) => decoder.trailers(),
            _ => &[],
        }
    }
}
