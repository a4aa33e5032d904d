//! The PROXY protocol header, versions 1 and 2, that a load balancer writes in front of a connection ("The PROXY
//! protocol", HAProxy Technologies). Strict: a header that is not understood to its last byte is an error. Knows
//! nothing of who may send one.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::str::{self, FromStr};

use crc::{CRC_32_ISCSI, Crc};

use crate::limits::{PROXY_HEADER_BYTES_MAX, PROXY_LINE_BYTES_MAX, PROXY_UNIQUE_ID_BYTES_MAX};

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_BYTES: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

const TLV_CRC32C: u8 = 0x03;
const TLV_NOOP: u8 = 0x04;
const TLV_UNIQUE_ID: u8 = 0x05;
const TLV_SSL: u8 = 0x20;
/// In front of the nested TLVs of [`TLV_SSL`]: a byte of flags and the result of the verification.
const SSL_FIXED_BYTES: usize = 5;

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A whole header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProxyHeader {
    /// Who is forwarded. `None` where the peer speaks for itself (version 2 `LOCAL`, version 1 `UNKNOWN`: health
    /// checks): then the connection's own addresses count.
    pub forwarded: Option<Forwarded>,
    /// Bytes of the header; what follows belongs to the next protocol.
    pub wire_bytes: usize,
}

/// The connection that the peer forwards, v4-mapped addresses unmapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forwarded {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// Why bytes do not begin with an acceptable header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Another protocol: neither `PROXY ` nor the signature of version 2.
    #[error("no PROXY protocol header")]
    Absent,
    /// Version 2: the checksum is wrong.
    #[error("the checksum of the PROXY header is wrong")]
    Checksum,
    /// Version 2: another version, or neither LOCAL nor PROXY.
    #[error("unknown PROXY version and command {0:#04x}")]
    Command(u8),
    /// Version 2: a family and transport other than TCP over IPv4 or IPv6.
    #[error("PROXY family and transport {0:#04x} are not TCP over IPv4 or IPv6")]
    Family(u8),
    /// Version 1: a line out of shape.
    #[error("malformed PROXY line: {0}")]
    Line(&'static str),
    /// Version 2: no room for the addresses of the family.
    #[error("the PROXY header is too short for its addresses")]
    TooShort,
    /// Version 1: beyond [`PROXY_LINE_BYTES_MAX`]; version 2: beyond [`PROXY_HEADER_BYTES_MAX`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// Version 2: the fields behind the addresses are out of shape.
    #[error("malformed PROXY field: {0}")]
    Tlv(&'static str),
}

/// Reads the header at the head of a stream of which `bytes` have arrived. `None`: more are needed, nothing so far is
/// wrong.
///
/// Once it gives a header or an error for some bytes it gives the same for these with more behind them.
///
/// # Errors
/// As soon as the bytes so far cannot become an acceptable header: see [`ProxyError`].
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if begins(bytes, LINE_START) {
        line(bytes)
    } else if begins(bytes, SIGNATURE) {
        binary(bytes)
    } else {
        Err(ProxyError::Absent)
    }
}

/// Whether one is the beginning of the other.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(one, other)| one == other)
}

fn line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let within = &bytes[..bytes.len().min(PROXY_LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if within.len() == PROXY_LINE_BYTES_MAX { Err(ProxyError::TooLong) } else { Ok(None) };
    };
    let words = within[..end].strip_suffix(b"\r").ok_or(ProxyError::Line("a bare line feed"))?;
    let words = words.strip_prefix(LINE_START).ok_or(ProxyError::Line("no protocol"))?;
    let words = str::from_utf8(words).map_err(|_| ProxyError::Line("not ASCII"))?;
    let (protocol, addresses) = words.split_once(' ').unwrap_or((words, ""));
    let forwarded = match protocol {
        "TCP4" => Some(line_addresses::<Ipv4Addr>(addresses)?),
        "TCP6" => Some(line_addresses::<Ipv6Addr>(addresses)?),
        // What follows is to be ignored, up to the end of the line.
        "UNKNOWN" => None,
        _ => return Err(ProxyError::Line("unknown protocol")),
    };
    Ok(Some(ProxyHeader { forwarded, wire_bytes: end + 1 }))
}

fn line_addresses<A: FromStr + Into<IpAddr>>(text: &str) -> Result<Forwarded, ProxyError> {
    let mut words = text.split(' ');
    let mut next = || words.next().ok_or(ProxyError::Line("too few words"));
    let (source, destination, source_port, destination_port) = (next()?, next()?, next()?, next()?);
    if words.next().is_some() {
        return Err(ProxyError::Line("too many words"));
    }
    let address = |text: &str| text.parse::<A>().map_err(|_| ProxyError::Line("address"));
    Ok(Forwarded {
        source: end_point(address(source)?.into(), line_port(source_port)?),
        destination: end_point(address(destination)?.into(), line_port(destination_port)?),
    })
}

fn line_port(text: &str) -> Result<u16, ProxyError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(ProxyError::Line("port"))
}

fn end_point(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

fn binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some(&command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    if !matches!(command, LOCAL | PROXY) {
        return Err(ProxyError::Command(command));
    }
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let addresses_bytes = match (command, family) {
        (LOCAL, _) => 0,
        (_, TCP_OVER_IPV4) => 12,
        (_, TCP_OVER_IPV6) => 36,
        (_, family) => return Err(ProxyError::Family(family)),
    };
    let Some(&[high, low]) = bytes.get(FIXED_BYTES - 2..FIXED_BYTES) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let wire_bytes = FIXED_BYTES + length;
    if wire_bytes > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    if length < addresses_bytes {
        return Err(ProxyError::TooShort);
    }
    let Some(header) = bytes.get(..wire_bytes) else { return Ok(None) };
    if command == LOCAL {
        // Its addresses and fields are to be discarded whatever they are.
        return Ok(Some(ProxyHeader { forwarded: None, wire_bytes }));
    }
    let (addresses, fields) = header[FIXED_BYTES..].split_at(addresses_bytes);
    let checksum = check_fields(fields)?;
    if let Some(at) = checksum {
        check_sum(header, FIXED_BYTES + addresses_bytes + at)?;
    }
    Ok(Some(ProxyHeader { forwarded: Some(binary_addresses(addresses)), wire_bytes }))
}

/// Both addresses, then both ports; the length tells the family.
fn binary_addresses(block: &[u8]) -> Forwarded {
    let (addresses, ports) = block.split_at(block.len() - 4);
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let address = |bytes: &[u8]| match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(octets), _) => IpAddr::from(octets),
        (_, Ok(octets)) => IpAddr::from(octets),
        _ => unreachable!("invariant: the caller gives 12 or 36 bytes"),
    };
    Forwarded {
        source: end_point(address(source), u16::from_be_bytes([ports[0], ports[1]])),
        destination: end_point(address(destination), u16::from_be_bytes([ports[2], ports[3]])),
    }
}

/// The fields of a header or of another field, each a type and a value. An error ends it.
fn each_field<'b>(
    mut bytes: &'b [u8],
    mut visit: impl FnMut(u8, &'b [u8], usize) -> Result<(), ProxyError>,
) -> Result<(), ProxyError> {
    // A type that says something twice says two things. Only padding may be repeated.
    let mut seen = [0_u64; 4];
    let whole = bytes.len();
    while let Some((&kind, rest)) = bytes.split_first() {
        let (length, rest) = rest.split_first_chunk().ok_or(ProxyError::Tlv("cut within its length"))?;
        let length = usize::from(u16::from_be_bytes(*length));
        let at = whole - rest.len();
        let (value, rest) = rest.split_at_checked(length).ok_or(ProxyError::Tlv("longer than the header"))?;
        let (word, bit) = (usize::from(kind >> 6), 1 << (kind & 63));
        if kind != TLV_NOOP && seen[word] & bit != 0 {
            return Err(ProxyError::Tlv("the same type twice"));
        }
        seen[word] |= bit;
        visit(kind, value, at)?;
        bytes = rest;
    }
    Ok(())
}

/// Walks the fields behind the addresses; gives where the value of the checksum begins, if there is one.
fn check_fields(fields: &[u8]) -> Result<Option<usize>, ProxyError> {
    let mut checksum = None;
    each_field(fields, |kind, value, at| {
        match kind {
            TLV_CRC32C if value.len() == 4 => checksum = Some(at),
            TLV_CRC32C => return Err(ProxyError::Tlv("a checksum has 4 bytes")),
            TLV_UNIQUE_ID if value.len() > PROXY_UNIQUE_ID_BYTES_MAX => {
                return Err(ProxyError::Tlv("a unique id has at most 128 bytes"));
            }
            TLV_SSL => {
                let nested = value.get(SSL_FIXED_BYTES..).ok_or(ProxyError::Tlv("the SSL field is cut"))?;
                each_field(nested, |_, _, _| Ok(()))?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(checksum)
}

/// The checksum covers the whole header, its own four bytes taken for zeros.
fn check_sum(header: &[u8], at: usize) -> Result<(), ProxyError> {
    let (before, rest) = header.split_at(at);
    let (sent, after) = rest.split_at(4);
    let mut digest = CRC32C.digest();
    digest.update(before);
    digest.update(&[0; 4]);
    digest.update(after);
    if digest.finalize().to_be_bytes() == *sent { Ok(()) } else { Err(ProxyError::Checksum) }
}
