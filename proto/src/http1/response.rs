//! Response heads. Knows nothing of the origin that sent them.

use super::bytes::list;
use super::framing::{FramingFields, LOOKALIKE};
use super::headers::{Stop, Window, authenticates_connection};
use super::request::version;
use super::{
    ConnectionOptions, Framing, HeadError, HeadLimits, Header, HeaderList, HeaderName, Method, Progress,
    Upgrade, Version,
};

/// A whole and well-formed response head.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ResponseHead<'b> {
    /// The origin's version.
    pub version: Version,
    /// 100 to 999. Below 200 it is interim (but 101): another head follows.
    pub status: u16,
    /// The reason phrase as sent, often empty.
    pub reason: &'b [u8],
    /// All header lines as sent.
    pub headers: HeaderList<'b>,
    /// Bytes of the head, its empty line included.
    pub length: usize,
    /// Where the body ends, given the method that it answers.
    pub framing: Framing,
    /// `Content-Length` as sent; the size of a body that is not sent when it answers HEAD.
    pub content_length: Option<u64>,
    /// What the origin says of this connection.
    pub connection: ConnectionOptions,
    /// Whether the connection can carry another request once the body has been read.
    pub persistent: bool,
    /// The protocol switched to, in a 101.
    pub upgrade: Option<Upgrade>,
    /// Whether it asks for credentials that authenticate the connection: NTLM, Negotiate.
    pub authenticates_connection: bool,
}

impl ResponseHead<'_> {
    /// Whether another head follows for the same request.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// Reads a response head from the front of `bytes`, in answer to a request with that method.
///
/// Like [`parse_request_head`](super::parse_request_head) it starts over on every call.
///
/// # Errors
/// As soon as the bytes cannot become an acceptable head: the answer is the gateway's own, and the connection is not
/// used again.
pub fn parse_response_head<'b>(
    bytes: &'b [u8],
    request_method: Method,
    limits: &HeadLimits,
) -> Result<Progress<ResponseHead<'b>>, HeadError> {
    let mut window = Window::new(bytes, limits);
    // The list is large: it is filled where it is and moved once.
    let mut headers = HeaderList::new(window.bytes);
    match parse(&mut window, &mut headers, request_method, limits) {
        Ok(Parts { version, status, reason, framing, facts, dubious }) => {
            let switches = status == 101
                && version == Version::Http11
                && facts.connection.upgrade
                && facts.websocket == Some(true);
            let ends_by_closing = framing == Framing::UntilClose || status == 101;
            Ok(Progress::Complete(ResponseHead {
                version,
                status,
                reason,
                headers,
                length: window.at,
                framing,
                content_length: facts.framing.content_length,
                connection: facts.connection,
                persistent: facts.connection.persistent(version) && !ends_by_closing && !dubious,
                upgrade: switches.then_some(Upgrade::WebSocket),
                authenticates_connection: facts.authenticates_connection,
            }))
        }
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::OutOfBytes) if window.is_full() => Err(HeadError::TooLarge),
        Err(Stop::OutOfBytes) => Ok(Progress::Partial),
    }
}

/// What a response head is made of, but for its list of headers.
struct Parts<'b> {
    version: Version,
    status: u16,
    reason: &'b [u8],
    framing: Framing,
    facts: Facts,
    dubious: bool,
}

fn parse<'b>(
    window: &mut Window<'b>,
    headers: &mut HeaderList<'b>,
    request_method: Method,
    limits: &HeadLimits,
) -> Result<Parts<'b>, Stop> {
    let version = version(window)?;
    let (status, reason) = status(window)?;
    let mut facts = Facts::default();
    window.headers(headers, limits.headers_max, |header| facts.add(header))?;
    let framing = facts.framing.response(request_method, status, version)?;
    let announces_body = facts.framing.announces_body();
    if matches!(status, 100..=199) && announces_body {
        return Err(HeadError::Malformed("an interim answer with a body").into());
    }
    // What a 204 announces all the same may still come, and would be read as the answer to the next request.
    let dubious = status == 204 && announces_body;
    Ok(Parts { version, status, reason, framing, facts, dubious })
}

/// Takes ` 200 reason CRLF`. Some origins leave the space before an empty reason away: nothing is ambiguous there.
fn status<'b>(window: &mut Window<'b>) -> Result<(u16, &'b [u8]), Stop> {
    const BAD: Stop = Stop::Error(HeadError::Malformed("status line"));
    if window.peek()? != b' ' {
        return Err(BAD);
    }
    window.at += 1;
    let digits = window.rest().iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    if window.rest().len() == digits && digits < 4 {
        return Err(Stop::OutOfBytes);
    }
    let (digits, _) = window.rest().split_at(digits);
    if digits.len() != 3 || digits[0] == b'0' {
        return Err(BAD);
    }
    window.at += digits.len();
    let status = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    let line = window.take_line()?;
    match line {
        [] => Ok((status, line)),
        [b' ', reason @ ..] => Ok((status, reason)),
        _ => Err(BAD),
    }
}

/// What the header lines say about the message itself.
#[derive(Default)]
struct Facts {
    framing: FramingFields,
    connection: ConnectionOptions,
    /// Whether `Upgrade` names the websocket and nothing else; `None` without such a line.
    websocket: Option<bool>,
    authenticates_connection: bool,
}

impl Facts {
    fn add(&mut self, header: &Header<'_>) -> Result<(), HeadError> {
        match header.id {
            HeaderName::ContentLength => self.framing.content_length(header.value),
            HeaderName::TransferEncoding => self.framing.transfer_encoding(header.value),
            HeaderName::FramingLookalike => Err(LOOKALIKE),
            HeaderName::Connection => self.connection.add(header.value),
            HeaderName::Upgrade => {
                for token in list(header.value) {
                    let is_websocket = token.eq_ignore_ascii_case(b"websocket");
                    self.websocket = Some(self.websocket.unwrap_or(true) && is_websocket);
                }
                Ok(())
            }
            HeaderName::WwwAuthenticate => {
                self.authenticates_connection |= authenticates_connection(header.value);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
