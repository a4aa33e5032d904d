//! Request heads. Knows nothing of who sends them or where they may go.

use super::bytes::{Class, list};
use super::framing::{FramingFields, LOOKALIKE};
use super::headers::{Stop, Window, authenticates_connection};
use super::{
    Authority, ConnectionOptions, Framing, HeadError, HeadLimits, Header, HeaderList, HeaderName, Method,
    Progress, Target, Upgrade, Version,
};

/// A whole and well-formed request head.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RequestHead<'b> {
    /// The method, as far as we know it.
    pub method: Method,
    /// The method as sent.
    pub method_name: &'b [u8],
    /// The request target.
    pub target: Target<'b>,
    /// The client's version.
    pub version: Version,
    /// All header lines as sent.
    pub headers: HeaderList<'b>,
    /// Bytes of the head, its empty line included.
    pub length: usize,
    /// Where the body ends; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// What the client asks of this connection.
    pub connection: ConnectionOptions,
    /// Whether the client would send another request on this connection.
    pub persistent: bool,
    /// Whether the client waits for a 100 before it sends its body.
    pub expect_continue: bool,
    /// The one `Host`; absent only in HTTP/1.0. Where the target has an authority of its own, that one counts.
    pub host: Option<Authority<'b>>,
    /// A switch of protocols that may be passed on.
    pub upgrade: Option<Upgrade>,
    /// Whether its credentials are of a kind that authenticates the connection: NTLM, Negotiate.
    pub authenticates_connection: bool,
}

impl<'b> RequestHead<'b> {
    /// Where the request wants to go: the target's authority, else that of `Host`.
    #[must_use]
    pub fn authority(&self) -> Option<Authority<'b>> {
        self.target.authority().or(self.host)
    }

    /// `Max-Forwards` of OPTIONS and TRACE (RFC 9110 §7.6.2): at 0 the request must be answered, not forwarded.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u64> {
        match self.method {
            Method::Options | Method::Trace => {
                super::framing::decimal(self.headers.find(HeaderName::MaxForwards)?)
            }
            _ => None,
        }
    }
}

/// Reads a request head from the front of `bytes`, whatever follows it.
///
/// It starts over on every call; callers that read in small pieces use [`HeadCursor`](super::HeadCursor), which keeps
/// the total work linear.
///
/// # Errors
/// As soon as the bytes cannot become an acceptable head; [`HeadError::status`] is the answer to give. Nothing after
/// the head may be interpreted then.
pub fn parse_request_head<'b>(
    bytes: &'b [u8],
    limits: &HeadLimits,
) -> Result<Progress<RequestHead<'b>>, HeadError> {
    let mut window = Window::new(bytes, limits);
    // The list is large: it is filled where it is and moved once.
    let mut headers = HeaderList::new(window.bytes);
    match parse(&mut window, &mut headers, limits) {
        Ok(parts) => Ok(Progress::Complete(RequestHead {
            method: Method::from_name(parts.method_name),
            method_name: parts.method_name,
            target: parts.target,
            version: parts.version,
            headers,
            length: window.at,
            framing: parts.framing,
            connection: parts.facts.connection,
            persistent: parts.facts.connection.persistent(parts.version),
            expect_continue: parts.facts.expect_continue,
            host: parts.facts.host,
            upgrade: parts.upgrade,
            authenticates_connection: parts.facts.authenticates_connection,
        })),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::OutOfBytes) if window.is_full() => Err(HeadError::TooLarge),
        Err(Stop::OutOfBytes) => Ok(Progress::Partial),
    }
}

/// What a request head is made of, but for its list of headers.
struct Parts<'b> {
    method_name: &'b [u8],
    target: Target<'b>,
    version: Version,
    framing: Framing,
    facts: Facts<'b>,
    upgrade: Option<Upgrade>,
}

fn parse<'b>(
    window: &mut Window<'b>,
    headers: &mut HeaderList<'b>,
    limits: &HeadLimits,
) -> Result<Parts<'b>, Stop> {
    // One empty line before a request is forgiven (RFC 9112 §2.2): old clients end a body with it.
    if window.peek()? == b'\r' {
        window.line_end()?;
    }
    let method_name = window.take_run(Class::Token)?;
    if method_name.is_empty() || window.peek()? != b' ' {
        return Err(HeadError::Malformed("request line does not begin with a method").into());
    }
    window.at += 1;
    let method = Method::from_name(method_name);
    let target = window.take_run(Class::Target)?;
    if window.peek()? != b' ' {
        return Err(HeadError::Malformed("request line without a target or a version").into());
    }
    let target = Target::parse(method, target)?;
    window.at += 1;
    let version = version(window)?;
    window.line_end()?;

    let mut facts = Facts::default();
    window.headers(headers, limits.headers_max, |header| facts.add(header, version))?;
    let framing = facts.framing.request(method, version)?;
    if facts.host.is_none() && version == Version::Http11 {
        return Err(HeadError::Malformed("no Host").into());
    }
    let switches = facts.websocket
        && facts.connection.upgrade
        && (method, version, framing) == (Method::Get, Version::Http11, Framing::None);
    let upgrade = switches.then_some(Upgrade::WebSocket);
    Ok(Parts { method_name, target, version, framing, facts, upgrade })
}

/// Takes `HTTP/x.y`; what has that shape but is neither 1.0 nor 1.1 is named as such.
pub(super) fn version(window: &mut Window<'_>) -> Result<Version, Stop> {
    const NAME: &[u8; 5] = b"HTTP/";
    let rest = window.rest();
    let matching = rest.iter().zip(NAME).take_while(|(byte, wanted)| byte == wanted).count();
    if matching < NAME.len() {
        return Err(if matching == rest.len() {
            Stop::OutOfBytes
        } else {
            HeadError::Malformed("no HTTP version where one belongs").into()
        });
    }
    let Some(number) = rest[NAME.len()..].first_chunk::<3>() else {
        return Err(Stop::OutOfBytes);
    };
    window.at += NAME.len() + number.len();
    match number {
        b"1.0" => Ok(Version::Http10),
        b"1.1" => Ok(Version::Http11),
        [b'0'..=b'9', b'.', b'0'..=b'9'] => Err(HeadError::UnsupportedVersion.into()),
        _ => Err(HeadError::Malformed("no HTTP version where one belongs").into()),
    }
}

/// What the header lines say about the message itself.
#[derive(Default)]
struct Facts<'b> {
    framing: FramingFields,
    connection: ConnectionOptions,
    host: Option<Authority<'b>>,
    expect_continue: bool,
    websocket: bool,
    credentials: bool,
    authenticates_connection: bool,
}

impl<'b> Facts<'b> {
    #[inline]
    fn add(&mut self, header: &Header<'b>, version: Version) -> Result<(), HeadError> {
        match header.id {
            HeaderName::Host => {
                let earlier = self.host.replace(Authority::parse(header.value)?);
                refuse(earlier.is_some(), "Host twice")?;
            }
            HeaderName::ContentLength => self.framing.content_length(header.value)?,
            HeaderName::TransferEncoding => self.framing.transfer_encoding(header.value)?,
            HeaderName::FramingLookalike => return Err(LOOKALIKE),
            HeaderName::Connection => self.connection.add(header.value)?,
            HeaderName::Upgrade => {
                self.websocket |= list(header.value).any(|token| token.eq_ignore_ascii_case(b"websocket"));
            }
            // An expectation in HTTP/1.0 means nothing (RFC 9110 §10.1.1).
            HeaderName::Expect if version == Version::Http10 => {}
            HeaderName::Expect if header.value.eq_ignore_ascii_case(b"100-continue") => {
                self.expect_continue = true;
            }
            HeaderName::Expect => return Err(HeadError::UnsupportedExpectation),
            HeaderName::Authorization => {
                self.authenticates_connection |= authenticates_connection(header.value);
            }
            HeaderName::ProxyAuthorization => {
                refuse(core::mem::replace(&mut self.credentials, true), "Proxy-Authorization twice")?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn refuse(repeated: bool, what: &'static str) -> Result<(), HeadError> {
    if repeated { Err(HeadError::Malformed(what)) } else { Ok(()) }
}
