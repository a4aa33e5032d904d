//! Heads written anew from what was understood of them: nothing that was not parsed goes on. Knows nothing of sockets,
//! nor of why a caller rewrites.

use alloc::vec::Vec;

use super::bytes::{Class, list, value_run};
use super::framing::downstream_framing;
use super::{
    Framing, Header, HeaderList, HeaderName, Method, RequestHead, ResponseHead, Target, Upgrade, Version,
};

/// What heads are written to.
pub trait Sink {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`] where the sink is bounded and full.
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// A sink over a slice, for buffers that somebody else owns.
#[derive(Debug)]
pub struct SliceSink<'a> {
    slice: &'a mut [u8],
    used: usize,
}

impl<'a> SliceSink<'a> {
    /// Writes from the start of `slice`.
    pub const fn new(slice: &'a mut [u8]) -> Self {
        Self { slice, used: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }
}

impl Sink for SliceSink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let room = self.slice[self.used..].get_mut(..bytes.len()).ok_or(WriteError::NoRoom)?;
        room.copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(())
    }
}

/// Why a head was not written; what the sink then holds is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The sink is full.
    #[error("the head does not fit its buffer")]
    NoRoom,
    /// A request of HTTP/1.0 that names no host anywhere.
    #[error("a request without a host")]
    NoHost,
    /// A header given by the caller has bytes that would end it early.
    #[error("header to add is malformed")]
    BadHeader,
}

/// How a request changes on its way upstream, beyond what always changes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestRewrite<'a> {
    /// `Host` to send; absent: the authority of the target, else the `Host` received.
    pub host: Option<&'a [u8]>,
    /// `x-request-id` to send in place of the client's; absent: the client's goes on.
    pub request_id: Option<&'a [u8]>,
    /// Headers to set: the client's of the same name go no further.
    pub set: &'a [(&'a str, &'a [u8])],
    /// Whether `baggage` may leave the mesh; by default it does not.
    pub keep_baggage: bool,
    /// Whether `Expect: 100-continue` goes on.
    pub expect_continue: bool,
    /// Whether the switch that the client asks for ([`RequestHead::upgrade`]) is asked of the origin.
    pub upgrade: bool,
    /// Whether to tell the origin that no request follows on its connection.
    pub close: bool,
}

/// How a response changes on its way downstream, beyond what always changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseRewrite<'a> {
    /// The client's version: decides on chunks and on how persistence is said.
    pub client: Version,
    /// Whether the client's connection stays open; a body that ends by closing overrules it.
    pub persistent: bool,
    /// Headers to set: the origin's of the same name go no further.
    pub set: &'a [(&'a str, &'a [u8])],
}

/// Writes the head to send upstream, always as HTTP/1.1.
///
/// Dropped: hop-by-hop headers and those that `Connection` lists, `Proxy` and `Proxy-*`, `X-Forwarded-*`, `x-envoy-*`,
/// `x-sluice-*`, `Forwarded`, `TE`, `Upgrade` but to a websocket that the caller lets through, `HTTP2-Settings`, and
/// `baggage`. Written anew: the request target (origin-form), `Host`, framing, `Connection`, `Via`. `Max-Forwards`
/// of OPTIONS and TRACE is lowered by one.
///
/// # Errors
/// See [`WriteError`].
pub fn write_request_head(
    out: &mut impl Sink,
    head: &RequestHead<'_>,
    rewrite: &RequestRewrite<'_>,
) -> Result<(), WriteError> {
    out.put(head.method_name)?;
    out.put(b" ")?;
    put_target(out, head)?;
    out.put(b" HTTP/1.1\r\nHost: ")?;
    match (rewrite.host, head.authority()) {
        (Some(host), _) => put_value(out, host)?,
        (None, Some(authority)) => put_authority(out, authority)?,
        (None, None) => return Err(WriteError::NoHost),
    }
    out.put(b"\r\n")?;
    for header in head.headers.iter() {
        if header.id == HeaderName::MaxForwards
            && let Some(hops) = head.max_forwards()
        {
            put_number_line(out, b"Max-Forwards: ", hops.saturating_sub(1))?;
        } else if request_keeps(head, rewrite, &header) {
            put_header(out, header.name, header.value)?;
        }
    }
    match head.framing {
        Framing::Length(bytes) => put_number_line(out, b"Content-Length: ", bytes)?,
        Framing::Chunked => out.put(b"Transfer-Encoding: chunked\r\n")?,
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(id) = rewrite.request_id {
        put_set(out, "x-request-id", id)?;
    }
    put_all(out, rewrite.set)?;
    put_via(out, head.version)?;
    match head.upgrade.filter(|_| rewrite.upgrade) {
        Some(Upgrade::WebSocket) => out.put(UPGRADE_LINES)?,
        None if rewrite.close => out.put(b"Connection: close\r\n")?,
        None => {}
    }
    out.put(b"\r\n")
}

fn request_keeps(head: &RequestHead<'_>, rewrite: &RequestRewrite<'_>, header: &Header<'_>) -> bool {
    let kind = match header.id {
        HeaderName::Baggage => rewrite.keep_baggage,
        HeaderName::Expect => rewrite.expect_continue && head.expect_continue,
        HeaderName::Trailer => head.framing == Framing::Chunked,
        HeaderName::XRequestId => rewrite.request_id.is_none(),
        HeaderName::Authorization
        | HeaderName::MaxForwards
        | HeaderName::Other
        | HeaderName::UserAgent
        | HeaderName::Via
        | HeaderName::WwwAuthenticate => true,
        _ => false,
    };
    kind && !is_set(rewrite.set, header.name)
        && !(head.connection.listed && is_listed(&head.headers, header.name))
}

/// Writes the head to send downstream, always as HTTP/1.1, and says how its body must be framed.
///
/// Dropped: hop-by-hop headers and those that `Connection` lists, `Proxy` and `Proxy-*`, `x-envoy-*` (a sidecar would
/// believe an origin's), `x-sluice-*`. Written anew: framing, `Connection`, `Via`.
///
/// # Errors
/// See [`WriteError`].
pub fn write_response_head(
    out: &mut impl Sink,
    head: &ResponseHead<'_>,
    rewrite: &ResponseRewrite<'_>,
) -> Result<Framing, WriteError> {
    let framing = downstream_framing(head.framing, rewrite.client);
    let hundreds = [b'0' + (head.status / 100 % 10) as u8, b'0' + (head.status / 10 % 10) as u8];
    out.put(b"HTTP/1.1 ")?;
    out.put(&hundreds)?;
    out.put(&[b'0' + (head.status % 10) as u8, b' '])?;
    out.put(head.reason)?;
    out.put(b"\r\n")?;
    for header in head.headers.iter() {
        let kind = match header.id {
            HeaderName::Trailer => framing == Framing::Chunked,
            HeaderName::Connection
            | HeaderName::ContentLength
            | HeaderName::Http2Settings
            | HeaderName::KeepAlive
            | HeaderName::Proxy
            | HeaderName::ProxyAuthorization
            | HeaderName::Te
            | HeaderName::TransferEncoding
            | HeaderName::Upgrade
            | HeaderName::XEnvoy
            | HeaderName::XSluice => false,
            _ => true,
        };
        let listed = head.connection.listed && is_listed(&head.headers, header.name);
        if kind && !listed && !is_set(rewrite.set, header.name) {
            put_header(out, header.name, header.value)?;
        }
    }
    match framing {
        Framing::Length(bytes) => put_number_line(out, b"Content-Length: ", bytes)?,
        Framing::Chunked => out.put(b"Transfer-Encoding: chunked\r\n")?,
        // The size that a GET would have had is worth telling; 1xx and 204 must not tell any.
        Framing::None if head.status >= 200 && head.status != 204 => {
            if let Some(bytes) = head.content_length {
                put_number_line(out, b"Content-Length: ", bytes)?;
            }
        }
        Framing::None | Framing::UntilClose => {}
    }
    put_all(out, rewrite.set)?;
    put_via(out, head.version)?;
    let persistent = rewrite.persistent && framing != Framing::UntilClose;
    match (head.upgrade, rewrite.client) {
        (Some(Upgrade::WebSocket), _) => out.put(UPGRADE_LINES)?,
        _ if head.is_interim() => {}
        _ if !persistent => out.put(b"Connection: close\r\n")?,
        (_, Version::Http10) => out.put(b"Connection: keep-alive\r\n")?,
        (_, Version::Http11) => {}
    }
    out.put(b"\r\n")?;
    Ok(framing)
}

const UPGRADE_LINES: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";

/// The target as an origin wants it (RFC 9112 §3.2.1, §3.2.4).
fn put_target(out: &mut impl Sink, head: &RequestHead<'_>) -> Result<(), WriteError> {
    match head.target {
        Target::Asterisk => out.put(b"*"),
        Target::Authority(authority) => put_authority(out, authority),
        Target::Absolute { path: [], .. } if head.method == Method::Options => out.put(b"*"),
        Target::Absolute { path, .. } => {
            if path.first() != Some(&b'/') {
                out.put(b"/")?;
            }
            out.put(path)
        }
        Target::Origin(path) => out.put(path),
    }
}

fn put_authority(out: &mut impl Sink, authority: super::Authority<'_>) -> Result<(), WriteError> {
    out.put(authority.host)?;
    match authority.port {
        Some(port) => {
            out.put(b":")?;
            put_number(out, u64::from(port))
        }
        None => Ok(()),
    }
}

fn put_header(out: &mut impl Sink, name: &[u8], value: &[u8]) -> Result<(), WriteError> {
    out.put(name)?;
    out.put(b": ")?;
    out.put(value)?;
    out.put(b"\r\n")
}

/// A value from the caller: checked, because a line end in it would be a header of somebody's choosing.
fn put_value(out: &mut impl Sink, value: &[u8]) -> Result<(), WriteError> {
    if value_run(value) != value.len() {
        return Err(WriteError::BadHeader);
    }
    out.put(value)
}

fn put_set(out: &mut impl Sink, name: &str, value: &[u8]) -> Result<(), WriteError> {
    if name.is_empty() || !Class::Token.has_all(name.as_bytes()) {
        return Err(WriteError::BadHeader);
    }
    out.put(name.as_bytes())?;
    out.put(b": ")?;
    put_value(out, value)?;
    out.put(b"\r\n")
}

fn put_all(out: &mut impl Sink, set: &[(&str, &[u8])]) -> Result<(), WriteError> {
    set.iter().try_for_each(|(name, value)| put_set(out, name, value))
}

fn put_via(out: &mut impl Sink, received: Version) -> Result<(), WriteError> {
    out.put(match received {
        Version::Http10 => b"Via: 1.0 sluice\r\n",
        Version::Http11 => b"Via: 1.1 sluice\r\n",
    })
}

fn put_number_line(out: &mut impl Sink, start: &[u8], number: u64) -> Result<(), WriteError> {
    out.put(start)?;
    put_number(out, number)?;
    out.put(b"\r\n")
}

fn put_number(out: &mut impl Sink, number: u64) -> Result<(), WriteError> {
    let mut digits = [0; 20]; // u64::MAX has 20
    let mut start = digits.len();
    let mut left = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            return out.put(&digits[start..]);
        }
    }
}

fn is_set(set: &[(&str, &[u8])], name: &[u8]) -> bool {
    set.iter().any(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether a `Connection` line names that header. Framing and `Host` are written anew, so they cannot be listed away.
fn is_listed(headers: &HeaderList<'_>, name: &[u8]) -> bool {
    let mut options = headers.all(HeaderName::Connection).flat_map(list);
    options.any(|option| option.eq_ignore_ascii_case(name))
}

/// The usual reason phrase of a status that a gateway answers with; empty for others.
#[must_use]
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
