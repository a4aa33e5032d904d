//! The TLS ClientHello: read in passing, never answered except by one alert. Knows nothing of keys or certificates.

mod hello;
mod name;
mod record;

pub use hello::{AlpnList, ClientHello};
pub use name::ServerName;
pub use record::HelloParser;

/// Why a byte stream does not begin with a ClientHello that we can judge.
///
/// Every variant but [`NotTls`](Self::NotTls) is a denial on a door that wants TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The first bytes are neither a TLS handshake record nor an SSLv2 hello: some other protocol.
    #[error("not TLS: the first byte is {first_byte:#04x}")]
    NotTls {
        /// The byte in place of the handshake record type (22).
        first_byte: u8,
    },
    /// An SSLv2-compatible hello: obsolete, and it cannot carry a server name.
    #[error("an SSLv2 hello")]
    SslV2,
    /// TLS by its first byte, but not a well-formed ClientHello.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
    /// More than one server_name extension.
    #[error("more than one server_name extension")]
    DuplicateServerName,
    /// One server_name extension with several host names.
    #[error("several names in one server_name extension")]
    SeveralServerNames,
    /// The server name is an IP address, which RFC 6066 forbids.
    #[error("the server name is an IP address")]
    IpServerName,
    /// The server name has bytes other than letters, digits, hyphen, underscore and dot.
    #[error("the server name has characters no host name has")]
    InvalidServerName,
    /// The ClientHello needs, or has taken, more wire bytes than the caller's bound.
    #[error("ClientHello longer than {bytes_max} bytes")]
    TooLong {
        /// The bound given to [`HelloParser::new`].
        bytes_max: usize,
    },
}

/// The TLS record of a fatal `unrecognized_name` alert (RFC 8446 §6, code 112): says to a client that its
/// server name is the reason for the close that follows.
#[must_use]
pub const fn unrecognized_name_alert() -> &'static [u8] {
    &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70]
}
