//! The one canonical form of a host: how configuration, Host, :authority, CONNECT, SNI and logs write a name.
//! It must not know where a name came from; IDNA is the configuration's work, on the wire a name is ASCII.

use alloc::{boxed::Box, string::String};
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str,
};

use crate::limits::{LABEL_BYTES_MAX, NAME_BYTES_MAX};

/// A canonical host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host<'a> {
    /// Lower-case A-labels without a trailing dot, 1–253 bytes, never something that could be read as an
    /// address.
    Name(&'a str),
    /// An address literal as it was written: not yet unwrapped (see [`crate::unwrap_address`]).
    Address(IpAddr),
}

impl fmt::Display for Host<'_> {
    /// The form of an authority: IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Why bytes are no host. Unparsed means denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HostError {
    /// An address where a name is wanted (a host pattern).
    #[error("is an address: list it under `addresses`")]
    Address,
    /// Not an IPv6 address between brackets, or brackets around something else.
    #[error("brackets may hold an IPv6 address and nothing else")]
    Brackets,
    /// A byte that no name holds.
    #[error("holds the byte {0:#04x}, which no host name holds")]
    Byte(u8),
    /// Nothing at all.
    #[error("is empty")]
    Empty,
    /// Two dots in a row, or one at the start.
    #[error("has an empty label")]
    EmptyLabel,
    /// A label above 63 bytes.
    #[error("has a label above 63 bytes")]
    LabelTooLong,
    /// A name above 253 bytes.
    #[error("is longer than 253 bytes")]
    NameTooLong,
    /// Bytes above 0x7f: on the wire only A-labels (`xn--`) are names.
    #[error("is not ASCII: write it in A-labels (xn--…)")]
    NonAscii,
    /// The last label is a number, yet the whole is no canonical dotted quad (`127.1`, `0x7f.1`,
    /// `0177.0.0.1`).
    #[error("ends in a number, yet is no IPv4 address of four plain decimal numbers")]
    NumericLabel,
    /// A port (or an IPv6 address without brackets) in a host.
    #[error("holds a colon: a host has no port, and IPv6 stands in brackets")]
    Port,
    /// `*` anywhere but as the whole first label of a pattern, or nothing after it.
    #[error("may hold `*` only as its first label, before a suffix: `*.example.com`")]
    Wildcard,
    /// An IPv6 address with a zone id.
    #[error("has a zone id, which means nothing to another host")]
    ZoneId,
}

/// Room for one canonical name, so that [`parse_host`] allocates nothing.
#[derive(Clone)]
pub struct HostBuf {
    bytes: [u8; NAME_BYTES_MAX],
}

impl HostBuf {
    /// An empty one.
    pub const fn new() -> Self {
        Self { bytes: [0; NAME_BYTES_MAX] }
    }
}

impl Default for HostBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HostBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostBuf")
    }
}

/// The canonical form of the host in `wire` (no port, no userinfo).
///
/// Strips one trailing dot, lowers case, takes IPv6 in brackets (RFC 3986 §3.2.2) and IPv4 as a plain dotted
/// quad; what a lenient resolver would read as an address (`0x7f.1`, `2130706433`, `127.1`) is an error,
/// never a name. `_` is legal.
pub fn parse_host<'b>(wire: &[u8], buf: &'b mut HostBuf) -> Result<Host<'b>, HostError> {
    if let Some(inner) = wire.strip_prefix(b"[") {
        return parse_bracketed(inner).map(|address| Host::Address(IpAddr::V6(address)));
    }
    let name = canonical_name(wire, buf)?;
    if !ends_in_number(name) {
        return Ok(Host::Name(name));
    }
    // The parser of `core` takes four plain decimal numbers without leading zeros, and nothing else. A dotted
    // quad with a dot at its end would be an address to one reader and a name to another: refused.
    match name.parse::<Ipv4Addr>() {
        Ok(address) if name.len() == wire.len() => Ok(Host::Address(IpAddr::V4(address))),
        _ => Err(HostError::NumericLabel),
    }
}

fn parse_bracketed(inner: &[u8]) -> Result<Ipv6Addr, HostError> {
    let address = inner.strip_suffix(b"]").ok_or(HostError::Brackets)?;
    if address.contains(&b'%') {
        return Err(HostError::ZoneId);
    }
    str::from_utf8(address).ok().and_then(|text| text.parse().ok()).ok_or(HostError::Brackets)
}

/// Checks and copies a name, lower-cased and without its trailing dot.
fn canonical_name<'b>(wire: &[u8], buf: &'b mut HostBuf) -> Result<&'b str, HostError> {
    let name = wire.strip_suffix(b".").unwrap_or(wire);
    if wire.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(HostError::NameTooLong);
    }
    let mut label_bytes = 0;
    for (out, &byte) in buf.bytes.iter_mut().zip(name) {
        let canonical = CANONICAL[usize::from(byte)];
        label_bytes += 1;
        if canonical == b'.' {
            if label_bytes == 1 {
                return Err(HostError::EmptyLabel);
            }
            label_bytes = 0;
        } else if canonical == 0 {
            return Err(unfit(byte));
        } else if label_bytes > LABEL_BYTES_MAX {
            return Err(HostError::LabelTooLong);
        }
        *out = canonical;
    }
    if label_bytes == 0 {
        return Err(HostError::EmptyLabel);
    }
    Ok(str::from_utf8(&buf.bytes[..name.len()])
        .expect("invariant: only ASCII letters, digits, '-', '_' and '.' were copied"))
}

/// The canonical form of each byte that may stand in a name; 0 for the others.
const CANONICAL: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// Why a byte may not stand in a name.
fn unfit(byte: u8) -> HostError {
    match byte {
        b':' => HostError::Port,
        b'*' => HostError::Wildcard,
        b'%' => HostError::ZoneId,
        0x80.. => HostError::NonAscii,
        _ => HostError::Byte(byte),
    }
}

/// Whether a reader that takes numbers for addresses (WHATWG URL "ends in a number", `inet_aton`) would take
/// `name` for one.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name).as_bytes();
    match last {
        [b'0', b'x', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// A name of the registry: exact, or `*.suffix` for one label or more before the suffix, never the suffix
/// itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    text: Box<str>,
}

impl HostPattern {
    /// Reads a pattern in ASCII (the configuration has turned IDNA into A-labels already).
    ///
    /// # Errors
    /// An address, a port, a `*` elsewhere than as the first label, and whatever [`parse_host`] refuses.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let mut buf = HostBuf::new();
        let (wildcard, name) = canonical_pattern(text, &mut buf)?;
        let mut canonical = String::with_capacity(name.len() + 2);
        if wildcard {
            canonical.push_str("*.");
        }
        canonical.push_str(name);
        Ok(Self { text: canonical.into_boxed_str() })
    }

    /// The canonical text, with `*.` if it is a wildcard.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The suffix after `*.`, if this is a wildcard.
    pub fn suffix(&self) -> Option<&str> {
        self.text.strip_prefix("*.")
    }

    /// Whether a canonical name falls under this pattern alone (the registry looks patterns up by hash
    /// instead).
    pub fn matches(&self, name: &str) -> bool {
        match self.suffix() {
            None => *self.text == *name,
            Some(suffix) => name
                .strip_suffix(suffix)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty()),
        }
    }
}

/// Whether a pattern is a wildcard, and its canonical name without the `*.`.
pub(crate) fn canonical_pattern<'b>(text: &str, buf: &'b mut HostBuf) -> Result<(bool, &'b str), HostError> {
    let (wildcard, name) = match text.strip_prefix("*.") {
        Some(suffix) => (true, suffix),
        None => (false, text),
    };
    let Host::Name(name) = parse_host(name.as_bytes(), buf)? else {
        return Err(HostError::Address);
    };
    // At least one byte and a dot must fit before the suffix.
    if wildcard && name.len() + 2 > NAME_BYTES_MAX {
        return Err(HostError::NameTooLong);
    }
    Ok((wildcard, name))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostPattern({})", self.text)
    }
}
