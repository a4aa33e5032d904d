//! Header lines: reading one, naming the ones this crate treats specially, keeping them all. Knows nothing of start
//! lines.

use alloc::vec::Vec;
use core::fmt;

use super::bytes::{Class, list, trim_end, value_run};
use super::{HeadError, HeadLimits, Version};
use crate::limits::{CONNECTION_OPTIONS_MAX, HEADER_NAME_BYTES_MAX, HEADERS_INLINE};

/// Headers that framing, forwarding or identity depend upon. All others are [`Other`](Self::Other).
///
/// Names that are stripped because somebody could forge an identity with them are recognised with `_` for `-` too, and
/// so are those of the framing: many an application cannot tell the two apart (CGI, RFC 3875 §4.1.18). PHP reads `.` so,
/// old servers whatever is no letter and no digit; all of it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the headers' own")]
pub enum HeaderName {
    Authorization,
    Baggage,
    Connection,
    ContentLength,
    Expect,
    Forwarded,
    /// `Content_Length`, `Transfer_Encoding` and the like: framing for some readers, nothing for others. No head has it.
    FramingLookalike,
    Host,
    Http2Settings,
    KeepAlive,
    MaxForwards,
    Other,
    /// `Proxy` and `Proxy-*` but for the next.
    Proxy,
    ProxyAuthorization,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserAgent,
    Via,
    WwwAuthenticate,
    /// `x-envoy-*`
    XEnvoy,
    /// `x-forwarded-*`, the client certificate's among them.
    XForwarded,
    XRequestId,
    /// `x-sluice-*`: ours; an origin must not forge a denial.
    XSluice,
}

impl HeaderName {
    pub(super) fn classify(name: &[u8]) -> Self {
        let is = |known: &[u8], id: Self| if name.eq_ignore_ascii_case(known) { id } else { Self::Other };
        // First letter and length leave at most one candidate, and for most headers none.
        match (name.first().map_or(0, |byte| byte | 0x20), name.len()) {
            (b'a', 13) => is(b"authorization", Self::Authorization),
            (b'b', 7) => is(b"baggage", Self::Baggage),
            (b'c', 10) => is(b"connection", Self::Connection),
            (b'c', 14) => framing(name, b"content-length", Self::ContentLength),
            (b'e', 6) => is(b"expect", Self::Expect),
            (b'f', 9) => is(b"forwarded", Self::Forwarded),
            (b'h', 4) => is(b"host", Self::Host),
            (b'h', 14) => is(b"http2-settings", Self::Http2Settings),
            (b'k', 10) => is(b"keep-alive", Self::KeepAlive),
            (b'm', 12) => is(b"max-forwards", Self::MaxForwards),
            (b'p', 5) => is(b"proxy", Self::Proxy),
            (b'p', 19) if name.eq_ignore_ascii_case(b"proxy-authorization") => Self::ProxyAuthorization,
            (b'p', 6..) if starts_with_folded(name, b"proxy-") => Self::Proxy,
            (b't', 2) => is(b"te", Self::Te),
            (b't', 7) => is(b"trailer", Self::Trailer),
            (b't', 17) => framing(name, b"transfer-encoding", Self::TransferEncoding),
            (b'u', 7) => is(b"upgrade", Self::Upgrade),
            (b'u', 10) => is(b"user-agent", Self::UserAgent),
            (b'v', 3) => is(b"via", Self::Via),
            (b'w', 16) => is(b"www-authenticate", Self::WwwAuthenticate),
            (b'x', 12) if name.eq_ignore_ascii_case(b"x-request-id") => Self::XRequestId,
            (b'x', 8..) if starts_with_folded(name, b"x-envoy-") => Self::XEnvoy,
            (b'x', 9..) if starts_with_folded(name, b"x-sluice-") => Self::XSluice,
            (b'x', 11..) if starts_with_folded(name, b"x-forwarded") => Self::XForwarded,
            _ => Self::Other,
        }
    }
}

/// What a name as long as `known` is: that name, its lookalike, or another.
fn framing(name: &[u8], known: &[u8], id: HeaderName) -> HeaderName {
    if name.eq_ignore_ascii_case(known) {
        id
    } else if starts_with_folded(name, known) {
        HeaderName::FramingLookalike
    } else {
        HeaderName::Other
    }
}

/// Whether `name` begins with `prefix` (lower-case, hyphens), case and what stands for `-` aside.
fn starts_with_folded(name: &[u8], prefix: &[u8]) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.len() >= prefix.len() && name.iter().zip(prefix).all(|(byte, wanted)| fold(*byte) == *wanted)
}

/// One header line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header<'b> {
    /// Which of the special ones it is.
    pub id: HeaderName,
    /// As sent: a token.
    pub name: &'b [u8],
    /// As sent without the white space around it; may hold bytes above 0x7f, never a control character but HTAB.
    pub value: &'b [u8],
}

/// Where a header lies in the head: offsets, so that a list is small and empty entries cost nothing.
#[derive(Clone, Copy)]
struct Slot {
    name: u32,
    value: u32,
    value_bytes: u32,
    name_bytes: u16,
    id: HeaderName,
}

const EMPTY_SLOT: Slot = Slot { name: 0, value: 0, value_bytes: 0, name_bytes: 0, id: HeaderName::Other };

/// The headers of one head in the order sent; the first [`HEADERS_INLINE`] without allocating.
#[derive(Clone)]
pub struct HeaderList<'b> {
    bytes: &'b [u8],
    inline: [Slot; HEADERS_INLINE],
    inline_used: usize,
    spill: Vec<Slot>,
}

impl<'b> HeaderList<'b> {
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, inline: [EMPTY_SLOT; HEADERS_INLINE], inline_used: 0, spill: Vec::new() }
    }

    fn push(&mut self, slot: Slot) {
        match self.inline.get_mut(self.inline_used) {
            Some(free) => {
                *free = slot;
                self.inline_used += 1;
            }
            None => self.spill.push(slot),
        }
    }

    /// How many header lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inline_used + self.spill.len()
    }

    /// Whether there is no header line.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.inline_used == 0
    }

    /// All lines in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = Header<'b>> + use<'b, '_> {
        self.inline[..self.inline_used].iter().chain(&self.spill).map(|slot| self.header(slot))
    }

    /// The values of all lines with that special name.
    pub fn all(&self, id: HeaderName) -> impl Iterator<Item = &'b [u8]> + use<'b, '_> {
        let slots = self.inline[..self.inline_used].iter().chain(&self.spill);
        slots.filter(move |slot| slot.id == id).map(|slot| self.header(slot).value)
    }

    /// The value of the first line with that special name.
    #[must_use]
    pub fn find(&self, id: HeaderName) -> Option<&'b [u8]> {
        self.all(id).next()
    }

    /// The value of the first line with that name, in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.iter()
            .find(|header| header.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|header| header.value)
    }

    fn header(&self, slot: &Slot) -> Header<'b> {
        let part = |start: u32, bytes: usize| &self.bytes[start as usize..][..bytes];
        Header {
            id: slot.id,
            name: part(slot.name, usize::from(slot.name_bytes)),
            value: part(slot.value, slot.value_bytes as usize),
        }
    }
}

impl fmt::Debug for HeaderList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for HeaderList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for HeaderList<'_> {}

/// What the `Connection` lines of a head ask for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectionOptions {
    /// `close`
    pub close: bool,
    /// `keep-alive`
    pub keep_alive: bool,
    /// `upgrade`
    pub upgrade: bool,
    /// Whether other options are listed: names of headers that go no further than this hop.
    pub listed: bool,
    count: u8,
}

impl ConnectionOptions {
    /// One `Connection` line.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for option in list(value) {
            if !Class::Token.has_all(option) {
                return Err(HeadError::Malformed("Connection option is no token"));
            }
            if usize::from(self.count) == CONNECTION_OPTIONS_MAX {
                return Err(HeadError::Malformed("too many Connection options"));
            }
            self.count += 1;
            let is = |known: &[u8]| option.eq_ignore_ascii_case(known);
            match option.len() {
                5 if is(b"close") => self.close = true,
                10 if is(b"keep-alive") => self.keep_alive = true,
                7 if is(b"upgrade") => self.upgrade = true,
                _ => self.listed = true,
            }
        }
        Ok(())
    }

    /// Whether the sender means to use the connection for another message (RFC 9112 §9.3).
    pub(super) const fn persistent(self, version: Version) -> bool {
        match version {
            _ if self.close => false,
            Version::Http11 => true,
            Version::Http10 => self.keep_alive,
        }
    }
}

/// Why reading stopped before the end of a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    OutOfBytes,
    Error(HeadError),
}

impl From<HeadError> for Stop {
    fn from(error: HeadError) -> Self {
        Self::Error(error)
    }
}

/// A position in the bytes of one head, cut at the limit.
pub(super) struct Window<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) at: usize,
    head_bytes_max: usize,
}

impl<'b> Window<'b> {
    pub(super) fn new(bytes: &'b [u8], limits: &HeadLimits) -> Self {
        // Offsets are kept in 32 bits.
        let head_bytes_max = limits.head_bytes_max.min(u32::MAX as usize);
        Self { bytes: &bytes[..bytes.len().min(head_bytes_max)], at: 0, head_bytes_max }
    }

    /// Whether a head that is not whole by the end of the window can still become so.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes.len() >= self.head_bytes_max
    }

    pub(super) fn rest(&self) -> &'b [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::OutOfBytes)
    }

    /// Takes the bytes of one class; there must be another byte after them, else the run may go on.
    pub(super) fn take_run(&mut self, class: Class) -> Result<&'b [u8], Stop> {
        let (run, after) = self.rest().split_at(class.run(self.rest()));
        self.at += run.len();
        if after.is_empty() { Err(Stop::OutOfBytes) } else { Ok(run) }
    }

    /// Takes field-value bytes up to CRLF, and the CRLF.
    #[inline]
    pub(super) fn take_line(&mut self) -> Result<&'b [u8], Stop> {
        let rest = self.rest();
        let run = value_run(rest);
        self.at += run;
        self.line_end()?;
        Ok(&rest[..run])
    }

    /// Takes exactly CRLF.
    #[inline]
    pub(super) fn line_end(&mut self) -> Result<(), Stop> {
        match self.rest() {
            [b'\r', b'\n', ..] => {
                self.at += 2;
                Ok(())
            }
            [] | [b'\r'] => Err(Stop::OutOfBytes),
            [b'\n', ..] => Err(HeadError::Malformed("bare LF").into()),
            [b'\r', ..] => Err(HeadError::Malformed("bare CR").into()),
            _ => Err(HeadError::Malformed("control character").into()),
        }
    }

    /// Takes one header line, or the empty line that ends the head (`None`).
    #[inline(always)] // a call per header costs more than the work
    fn header_line(&mut self) -> Result<Option<(Slot, Header<'b>)>, Stop> {
        let line = self.rest();
        let name_bytes = Class::Token.run(line);
        let Some((name, [b':', after @ ..])) = line.split_at_checked(name_bytes) else {
            return self.no_header_line(name_bytes).map(|()| None);
        };
        if name_bytes == 0 || name_bytes > HEADER_NAME_BYTES_MAX {
            return self.no_header_line(name_bytes).map(|()| None);
        }
        let spaces = after.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let (value, end) = after.split_at(spaces).1.split_at(value_run(after.split_at(spaces).1));
        let [b'\r', b'\n', ..] = end else {
            self.at += line.len() - end.len();
            return self.line_end().map(|()| None);
        };
        let value_start = self.at + name_bytes + 1 + spaces;
        let start = core::mem::replace(&mut self.at, value_start + value.len() + 2);
        let value = trim_end(value);
        let id = HeaderName::classify(name);
        let slot = Slot {
            name: offset(start),
            value: offset(value_start),
            value_bytes: offset(value.len()),
            name_bytes: name_bytes as u16, // at most HEADER_NAME_BYTES_MAX
            id,
        };
        Ok(Some((slot, Header { id, name, value })))
    }

    /// Takes the empty line that ends a head, or says why a line that does not begin with a name and a colon is wrong.
    #[cold]
    fn no_header_line(&mut self, name_bytes: usize) -> Result<(), Stop> {
        let malformed = |what| Err(HeadError::Malformed(what).into());
        if name_bytes > HEADER_NAME_BYTES_MAX {
            return Err(HeadError::TooLarge.into());
        }
        match self.rest().get(name_bytes) {
            None => Err(Stop::OutOfBytes),
            Some(b'\r') if name_bytes == 0 => self.line_end(),
            Some(b':') => malformed("header without a name"),
            Some(b'\n') => malformed("bare LF"),
            Some(b' ' | b'\t') if name_bytes == 0 => malformed("folded header line"),
            Some(b' ' | b'\t') => malformed("white space before the colon of a header"),
            Some(_) => malformed("byte in a header name that none has"),
        }
    }

    /// Takes all header lines into `headers`, and the empty line after them; `each` sees every header as it comes.
    pub(super) fn headers(
        &mut self,
        headers: &mut HeaderList<'b>,
        headers_max: usize,
        mut each: impl FnMut(&Header<'b>) -> Result<(), HeadError>,
    ) -> Result<(), Stop> {
        while let Some((slot, header)) = self.header_line()? {
            if headers.len() == headers_max {
                return Err(HeadError::TooManyHeaders.into());
            }
            each(&header)?;
            headers.push(slot);
        }
        Ok(())
    }
}

fn offset(at: usize) -> u32 {
    at as u32 // a window is at most u32::MAX bytes long
}

/// Reads one whole line `name: value CRLF`, as a trailer section has them.
pub(super) fn parse_line(line: &[u8]) -> Result<Header<'_>, HeadError> {
    let limits = HeadLimits { head_bytes_max: line.len() + 1, headers_max: 1 };
    let mut window = Window::new(line, &limits);
    match window.header_line() {
        Ok(Some((_, header))) if window.rest().is_empty() => Ok(header),
        Err(Stop::Error(error)) => Err(error),
        _ => Err(HeadError::Malformed("trailer line")),
    }
}

/// Whether credentials or challenges name a scheme that authenticates the connection they come on, not the request
/// (NTLM, and Negotiate, which may be NTLM inside; RFC 4559 §6). A comma in a quoted string may make it see one too
/// many; what follows from it is a connection less in the pool.
pub(super) fn authenticates_connection(value: &[u8]) -> bool {
    list(value).any(|element| {
        let scheme = element.split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}
