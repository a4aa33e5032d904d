//! Request targets and authorities (RFC 9112 §3.2). Knows nothing of what a host means or whether it may be reached.

use core::net::Ipv6Addr;

use super::bytes::Class;
use super::{HeadError, Method};

/// The four forms of a request target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target<'b> {
    /// `/path?query`: a request to an origin.
    Origin(&'b [u8]),
    /// `http://authority/path?query`: a request to a proxy.
    Absolute {
        /// The scheme; others than these two are an error.
        scheme: Scheme,
        /// Where to.
        authority: Authority<'b>,
        /// Path and query as sent: empty, or beginning with `/` or `?`.
        path: &'b [u8],
    },
    /// `host:port`: CONNECT, and nothing else.
    Authority(Authority<'b>),
    /// `*`: OPTIONS for the server as a whole.
    Asterisk,
}

/// Schemes of an absolute-form target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`: a proxy is asked for such by CONNECT, so callers refuse it with 400.
    Https,
}

/// `host[:port]`, well-formed: the host is letters, digits, `-`, `_`, `.`, or an IPv6 address in brackets.
///
/// Whether dots and digits make a name or an address is for the canonical form of names to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Authority<'b> {
    /// As sent, not empty, brackets kept.
    pub host: &'b [u8],
    /// 1 to 65535.
    pub port: Option<u16>,
}

impl<'b> Authority<'b> {
    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// [`HeadError::Malformed`] for userinfo, an empty host, brackets around anything but an IPv6 address, a zone,
    /// bytes no host has, and a port that is not 1 to 65535 in plain digits.
    pub fn parse(wire: &'b [u8]) -> Result<Self, HeadError> {
        let host_bytes = match wire.first() {
            Some(b'[') => bracketed(wire)?,
            _ => Class::RegName.run(wire),
        };
        let (host, rest) = wire.split_at(host_bytes);
        let port = match rest {
            [] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ if rest.contains(&b'@') => return Err(HeadError::Malformed("userinfo in an authority")),
            _ => return Err(HeadError::Malformed("bytes in a host that no host name has")),
        };
        if host.is_empty() {
            return Err(HeadError::Malformed("empty host"));
        }
        Ok(Self { host, port })
    }
}

/// The length of an IPv6 address in brackets at the front of `wire`.
fn bracketed(wire: &[u8]) -> Result<usize, HeadError> {
    let close = wire.iter().position(|byte| *byte == b']').ok_or(HeadError::Malformed("unclosed bracket"))?;
    let address = core::str::from_utf8(&wire[1..close]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
    match address {
        Some(_) => Ok(close + 1),
        None => Err(HeadError::Malformed("brackets around something other than an IPv6 address")),
    }
}

fn port(digits: &[u8]) -> Result<u16, HeadError> {
    const BAD: HeadError = HeadError::Malformed("port is not 1 to 65535 in plain digits");
    if digits.is_empty() || digits.len() > 5 || digits[0] == b'0' {
        return Err(BAD);
    }
    let number = super::framing::decimal(digits).ok_or(BAD)?;
    u16::try_from(number).map_err(|_| BAD)
}

impl<'b> Target<'b> {
    /// Reads the target of a request with that method; the form depends on both. Only bytes of
    /// [`Class::Target`] are in it.
    pub(super) fn parse(method: Method, wire: &'b [u8]) -> Result<Self, HeadError> {
        debug_assert!(Class::Target.has_all(wire), "the request line was scanned for them");
        if method == Method::Connect {
            let authority = Authority::parse(wire)?;
            return match authority.port {
                Some(_) => Ok(Self::Authority(authority)),
                None => Err(HeadError::Malformed("CONNECT without a port")),
            };
        }
        match wire {
            [b'/', ..] => Ok(Self::Origin(wire)),
            b"*" if method == Method::Options => Ok(Self::Asterisk),
            _ => Self::absolute(wire),
        }
    }

    fn absolute(wire: &'b [u8]) -> Result<Self, HeadError> {
        let (scheme, rest) = if let Some(rest) = after_scheme(wire, b"http://") {
            (Scheme::Http, rest)
        } else if let Some(rest) = after_scheme(wire, b"https://") {
            (Scheme::Https, rest)
        } else {
            return Err(HeadError::Malformed("request target of no known form"));
        };
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        Ok(Self::Absolute { scheme, authority: Authority::parse(authority)?, path })
    }

    /// The authority in the target itself.
    #[must_use]
    pub const fn authority(&self) -> Option<Authority<'b>> {
        match self {
            Self::Absolute { authority, .. } | Self::Authority(authority) => Some(*authority),
            Self::Origin(_) | Self::Asterisk => None,
        }
    }
}

fn after_scheme<'b>(wire: &'b [u8], scheme: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = wire.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}
