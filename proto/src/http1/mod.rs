//! HTTP/1 as RFC 9112 has it, strictly: message heads, body framing and their re-serialisation. Knows nothing of
//! connections, of policy, or of HTTP/2.

mod body;
mod bytes;
mod chunked;
mod cursor;
mod framing;
mod headers;
mod opening;
mod request;
mod response;
mod target;
mod write;

pub use body::Body;
pub use chunked::{ChunkError, ChunkSizeLine, ChunkedDecoder, Decoded, chunk_size_line, write_last_chunk};
pub use cursor::HeadCursor;
pub use framing::{Framing, downstream_framing};
pub use headers::{ConnectionOptions, Header, HeaderList, HeaderName};
pub use opening::{Opening, opening};
pub use request::{RequestHead, parse_request_head};
pub use response::{ResponseHead, parse_response_head};
pub use target::{Authority, Scheme, Target};
pub use write::{
    RequestRewrite, ResponseRewrite, Sink, SliceSink, WriteError, reason_phrase, write_request_head,
    write_response_head,
};

use crate::limits::{HEAD_BYTES_MAX_DEFAULT, HEADERS_MAX_DEFAULT};

/// What a parser of a message head has got so far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress<T> {
    /// The head is whole.
    Complete(T),
    /// More bytes are needed; nothing so far is wrong.
    Partial,
}

impl<T> Progress<T> {
    /// The head, if it is whole.
    pub fn complete(self) -> Option<T> {
        match self {
            Self::Complete(head) => Some(head),
            Self::Partial => None,
        }
    }
}

/// How large a message head may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeadLimits {
    /// Bytes from the first byte to the empty line, both included.
    pub head_bytes_max: usize,
    /// Header lines.
    pub headers_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_bytes_max: HEAD_BYTES_MAX_DEFAULT, headers_max: HEADERS_MAX_DEFAULT }
    }
}

/// The versions that this crate reads; every other one is an error.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

impl Version {
    /// As on the wire and in access logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// A request method, as far as framing and retries depend on it. The name as sent is [`RequestHead::method_name`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names are RFC 9110's own")]
pub enum Method {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
    /// Any other token.
    Other,
}

impl Method {
    /// Whether a request may be sent a second time when its connection dies unanswered (RFC 9110 §9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Delete | Self::Get | Self::Head | Self::Options | Self::Put | Self::Trace)
    }

    /// Methods are case-sensitive (RFC 9110 §9.1).
    const fn from_name(name: &[u8]) -> Self {
        match name {
            b"CONNECT" => Self::Connect,
            b"DELETE" => Self::Delete,
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }
}

/// A protocol that a connection may be switched to. Everything else asked for in `Upgrade` is dropped, h2c first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upgrade {
    /// RFC 6455.
    WebSocket,
}

/// Why bytes are not an acceptable message head.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Not what RFC 9112 allows, or ambiguous. The text says which rule.
    #[error("{0}")]
    Malformed(&'static str),
    /// Longer than [`HeadLimits::head_bytes_max`], or a name longer than
    /// [`HEADER_NAME_BYTES_MAX`](crate::limits::HEADER_NAME_BYTES_MAX).
    #[error("the message head is too large")]
    TooLarge,
    /// More header lines than [`HeadLimits::headers_max`].
    #[error("too many header lines")]
    TooManyHeaders,
    /// An HTTP version other than 1.0 and 1.1.
    #[error("HTTP version not supported")]
    UnsupportedVersion,
    /// An `Expect` other than `100-continue`.
    #[error("unknown expectation")]
    UnsupportedExpectation,
}

impl HeadError {
    /// The status to answer a request with. For a response head the answer is the gateway's own 502.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::UnsupportedExpectation => 417,
            Self::TooLarge | Self::TooManyHeaders => 431,
            Self::UnsupportedVersion => 505,
        }
    }
}
