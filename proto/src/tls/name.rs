//! The server name of a ClientHello, inline and checked for its alphabet. Knows nothing of which names are allowed
//! nor of their canonical form.

use core::fmt;
use core::net::Ipv6Addr;

use super::HelloError;
use crate::limits::SERVER_NAME_BYTES_MAX;

/// A host name as the client sent it: 1 to 255 bytes of letters, digits, hyphen, underscore and dot, case kept.
#[derive(Clone, Copy, Eq)]
pub struct ServerName {
    bytes: [u8; SERVER_NAME_BYTES_MAX],
    length: u8,
}

impl ServerName {
    /// Checks the alphabet and that the name is no address. Labels are left to whoever looks the name up.
    pub(super) fn parse(wire: &[u8]) -> Result<Self, HelloError> {
        if wire.is_empty() {
            return Err(HelloError::Malformed("empty server name"));
        }
        let ldh = wire.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !ldh || wire.len() > SERVER_NAME_BYTES_MAX {
            return Err(if is_ipv6(wire) { HelloError::IpServerName } else { HelloError::InvalidServerName });
        }
        if ends_in_number(wire) {
            return Err(HelloError::IpServerName);
        }
        let mut bytes = [0; SERVER_NAME_BYTES_MAX];
        bytes[..wire.len()].copy_from_slice(wire);
        let length =
            u8::try_from(wire.len()).expect("invariant: at most SERVER_NAME_BYTES_MAX, which is 255");
        Ok(Self { bytes, length })
    }

    /// The name as sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The name as sent; its alphabet is ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).expect("invariant: the alphabet checked on parsing is ASCII")
    }
}

impl PartialEq for ServerName {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

fn is_ipv6(wire: &[u8]) -> bool {
    let bare = wire.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).unwrap_or(wire);
    core::str::from_utf8(bare).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// Whether the last label is a number: such a name is an IPv4 address to somebody's resolver (`127.1`, `0x7f000001`).
fn ends_in_number(wire: &[u8]) -> bool {
    let name = wire.strip_suffix(b".").unwrap_or(wire);
    let last = name.rsplit(|b| *b == b'.').next().unwrap_or(name);
    match last {
        [] => false,
        [b'0', b'x' | b'X', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}
