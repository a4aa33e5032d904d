//! The bounds of this crate, in one place. It must not know why a caller would choose other numbers.

/// Headers kept without allocating; more spill to the heap. What a browser sends, and no more: a list is moved with all
/// its room.
pub const HEADERS_INLINE: usize = 24;
/// Default for [`crate::http1::HeadLimits::headers_max`].
pub const HEADERS_MAX_DEFAULT: usize = 1_000;
/// Default for [`crate::http1::HeadLimits::head_bytes_max`].
pub const HEAD_BYTES_MAX_DEFAULT: usize = 32 * 1024;
/// Longest field name. Longer ones are an answer of 431; offsets rely on it fitting 16 bits.
pub const HEADER_NAME_BYTES_MAX: usize = 1024;
/// Most options in all `Connection` lines of one head; each costs a pass over the header names.
pub const CONNECTION_OPTIONS_MAX: usize = 64;

/// What [`crate::http1::opening`] reads of a first line at most before it takes it for a request.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;

/// Longest chunk extension of one chunk.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 1024;
/// Extension bytes a whole chunked body may spend beyond the number of data bytes it has carried: a body
/// of one-byte chunks must not cost more to frame than to send.
pub const CHUNK_EXTENSION_BYTES_FREE: u64 = 16 * 1024;
/// Hexadecimal digits of a chunk size, leading zeros included.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 16;
/// Longest line of [`crate::http1::chunk_size_line`]: 16 digits and CRLF.
pub const CHUNK_SIZE_LINE_BYTES_MAX: usize = CHUNK_SIZE_DIGITS_MAX + 2;
/// Bytes of a whole trailer section, kept and dropped fields alike.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Fields of a trailer section.
pub const TRAILERS_MAX: usize = 100;

/// Longest `user:password` in Basic credentials, decoded.
pub const CREDENTIALS_BYTES_MAX: usize = 512;

/// Default for the bound of [`crate::tls::HelloParser::new`]: wire bytes up to the end of the ClientHello.
pub const HELLO_BYTES_MAX_DEFAULT: usize = 64 * 1024;
/// Longest server name kept: the longest DNS name in text, trailing dot included, is 254.
pub const SERVER_NAME_BYTES_MAX: usize = 255;
/// Bytes of the ALPN list kept, in wire form; what does not fit sets [`crate::tls::AlpnList::truncated`].
pub const ALPN_BYTES_MAX: usize = 128;

/// Longest PROXY header of version 1, its CRLF included: the specification's own bound.
pub const PROXY_LINE_BYTES_MAX: usize = 107;
/// Longest PROXY header of version 2, fixed part included. The format would allow 64 KiB.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 * 1024;
/// Longest unique id in a PROXY header of version 2: the specification's own bound.
pub const PROXY_UNIQUE_ID_BYTES_MAX: usize = 128;
