//! SOCKS version 5 from the server's side: greeting, user and password, request, replies (RFC 1928, RFC 1929). Knows
//! nothing of who the users are or of what may be reached.
//!
//! A client may send everything in one piece. Each function reads one message at the head of what has arrived and says
//! how many bytes it had; what follows is kept by the caller. `None`: more bytes are needed, nothing so far is wrong.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

const VERSION: u8 = 5;
/// The version of the sub-negotiation of RFC 1929.
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// Version, command, reserved, address type.
const REQUEST_FIXED_BYTES: usize = 4;
const PORT_BYTES: usize = 2;

/// Bytes of the longest message of a client: user and password of 255 bytes each, with version and lengths.
pub const MESSAGE_BYTES_MAX: usize = 3 + 2 * 255;

/// A way to authenticate that we know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// None is asked for.
    NoAuthentication,
    /// User and password (RFC 1929).
    Password,
}

/// What a client offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Greeting {
    /// It would go without authentication.
    pub no_authentication: bool,
    /// It has a user and a password to show.
    pub password: bool,
    /// Bytes of the message.
    pub wire_bytes: usize,
}

/// User and password as sent. Printing it shows neither.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Credentials<'b> {
    /// 1 to 255 bytes.
    pub user: &'b [u8],
    /// 1 to 255 bytes.
    pub password: &'b [u8],
    /// Bytes of the message.
    pub wire_bytes: usize,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

/// Where a client wants to be connected to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Address<'b> {
    /// An address literal.
    Ip(IpAddr),
    /// 1 to 255 bytes, any: whether they are a name is for the caller to find out.
    Name(&'b [u8]),
}

/// A request to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectRequest<'b> {
    /// Where to.
    pub address: Address<'b>,
    /// 1 to 65535.
    pub port: u16,
    /// Bytes of the message.
    pub wire_bytes: usize,
}

/// Why a message is not acceptable.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SocksError {
    /// The type of the address is none that exists: a reply of [`Reply::AddressTypeNotSupported`].
    #[error("unknown SOCKS address type {0}")]
    AddressType(u8),
    /// BIND, UDP ASSOCIATE, or none that exists: a reply of [`Reply::CommandNotSupported`].
    #[error("SOCKS command {0} is not served, only CONNECT")]
    Command(u8),
    /// A user or a password of no bytes: a refusal like a wrong one.
    #[error("an empty SOCKS user or password")]
    EmptyCredentials,
    /// Out of shape: there is nobody to answer.
    #[error("malformed SOCKS message: {0}")]
    Malformed(&'static str),
    /// Another version, or another protocol.
    #[error("not SOCKS 5: the first byte is {0:#04x}")]
    Version(u8),
}

/// What a server says to a request (RFC 1928 §6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Reply {
    /// The connection stands.
    Succeeded = 0,
    /// Something went wrong here.
    GeneralFailure = 1,
    /// The rules do not allow it.
    NotAllowed = 2,
    /// No route to the network.
    NetworkUnreachable = 3,
    /// No route to the host, or no address for its name.
    HostUnreachable = 4,
    /// The destination refused.
    Refused = 5,
    /// The destination did not answer in time.
    TtlExpired = 6,
    /// Only CONNECT is served.
    CommandNotSupported = 7,
    /// No such type of address.
    AddressTypeNotSupported = 8,
}

/// The longest reply: with an IPv6 address.
const REPLY_BYTES_MAX: usize = REQUEST_FIXED_BYTES + 16 + PORT_BYTES;

/// A message of ours.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Message {
    bytes: [u8; REPLY_BYTES_MAX],
    bytes_used: usize,
}

impl Message {
    fn new(parts: &[&[u8]]) -> Self {
        let mut message = Self { bytes: [0; REPLY_BYTES_MAX], bytes_used: 0 };
        for part in parts {
            let end = message.bytes_used + part.len();
            message.bytes[message.bytes_used..end].copy_from_slice(part);
            message.bytes_used = end;
        }
        message
    }

    /// Its wire form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.bytes_used]
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:02x?})", self.as_bytes())
    }
}

/// Reads the first message of a client.
///
/// # Errors
/// Another version; no method at all, which RFC 1928 §3 does not know.
pub fn greeting(bytes: &[u8]) -> Result<Option<Greeting>, SocksError> {
    version(bytes, VERSION)?;
    let Some(&count) = bytes.get(1) else { return Ok(None) };
    if count == 0 {
        return Err(SocksError::Malformed("a greeting without methods"));
    }
    let wire_bytes = 2 + usize::from(count);
    let Some(methods) = bytes.get(2..wire_bytes) else { return Ok(None) };
    Ok(Some(Greeting { no_authentication: methods.contains(&0), password: methods.contains(&2), wire_bytes }))
}

/// The answer to a greeting; `None`: no method is acceptable, the client has to go.
#[must_use]
pub fn method_selection(method: Option<Method>) -> Message {
    let method = match method {
        Some(Method::NoAuthentication) => 0,
        Some(Method::Password) => 2,
        None => 0xff,
    };
    Message::new(&[&[VERSION, method]])
}

/// Reads user and password.
///
/// # Errors
/// Another version; an empty user or password.
pub fn credentials(bytes: &[u8]) -> Result<Option<Credentials<'_>>, SocksError> {
    if bytes.first().is_some_and(|version| *version != PASSWORD_VERSION) {
        return Err(SocksError::Malformed("the version of the password negotiation"));
    }
    let Some(user) = counted(bytes, 1)? else { return Ok(None) };
    let Some(password) = counted(bytes, 2 + user.len())? else { return Ok(None) };
    Ok(Some(Credentials { user, password, wire_bytes: 3 + user.len() + password.len() }))
}

/// As many bytes as the byte before them says, at least one.
fn counted(bytes: &[u8], at: usize) -> Result<Option<&[u8]>, SocksError> {
    match bytes.get(at) {
        None => Ok(None),
        Some(0) => Err(SocksError::EmptyCredentials),
        Some(&length) => Ok(bytes.get(at + 1..at + 1 + usize::from(length))),
    }
}

/// The answer to user and password.
#[must_use]
pub fn credentials_answer(accepted: bool) -> Message {
    Message::new(&[&[PASSWORD_VERSION, u8::from(!accepted)]])
}

/// Reads a request.
///
/// # Errors
/// Another version, another command than CONNECT, a reserved byte that is not 0, an unknown type of address, an empty
/// name, port 0.
pub fn request(bytes: &[u8]) -> Result<Option<ConnectRequest<'_>>, SocksError> {
    version(bytes, VERSION)?;
    match bytes.get(1) {
        None => return Ok(None),
        Some(&CONNECT) => {}
        Some(&command) => return Err(SocksError::Command(command)),
    }
    if bytes.get(2).is_some_and(|reserved| *reserved != 0) {
        return Err(SocksError::Malformed("the reserved byte is not 0"));
    }
    let Some(&kind) = bytes.get(REQUEST_FIXED_BYTES - 1) else { return Ok(None) };
    let rest = &bytes[REQUEST_FIXED_BYTES..];
    let (address, rest) = match kind {
        IPV4 => {
            let Some((octets, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
            (Address::Ip(IpAddr::from(*octets)), rest)
        }
        IPV6 => {
            let Some((octets, rest)) = rest.split_first_chunk::<16>() else { return Ok(None) };
            (Address::Ip(IpAddr::from(*octets)), rest)
        }
        NAME => {
            let Some((&length, rest)) = rest.split_first() else { return Ok(None) };
            if length == 0 {
                return Err(SocksError::Malformed("an empty name"));
            }
            let Some((name, rest)) = rest.split_at_checked(usize::from(length)) else { return Ok(None) };
            (Address::Name(name), rest)
        }
        kind => return Err(SocksError::AddressType(kind)),
    };
    let Some((port, rest)) = rest.split_first_chunk::<PORT_BYTES>() else { return Ok(None) };
    let port = u16::from_be_bytes(*port);
    if port == 0 {
        return Err(SocksError::Malformed("port 0"));
    }
    Ok(Some(ConnectRequest { address, port, wire_bytes: bytes.len() - rest.len() }))
}

/// The answer to a request. `bound` is our address towards the destination where there is one.
#[must_use]
pub fn reply(reply: Reply, bound: Option<SocketAddr>) -> Message {
    let head = [VERSION, reply as u8, 0];
    let port = bound.map_or(0, |bound| bound.port()).to_be_bytes();
    match bound.map(|bound| bound.ip().to_canonical()) {
        Some(IpAddr::V6(address)) => Message::new(&[&head, &[IPV6], &address.octets(), &port]),
        Some(IpAddr::V4(address)) => Message::new(&[&head, &[IPV4], &address.octets(), &port]),
        None => Message::new(&[&head, &[IPV4], &[0; 4], &port]),
    }
}

fn version(bytes: &[u8], wanted: u8) -> Result<(), SocksError> {
    match bytes.first() {
        Some(&found) if found != wanted => Err(SocksError::Version(found)),
        _ => Ok(()),
    }
}
