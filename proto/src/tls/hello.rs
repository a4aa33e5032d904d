//! The ClientHello message, once it is whole. Knows nothing of records or reads.

use super::{HelloError, ServerName};
use crate::limits::ALPN_BYTES_MAX;

/// What a ClientHello says about where it wants to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ClientHello {
    /// The outer server name, if there is one.
    pub server_name: Option<ServerName>,
    /// Application protocols offered, in order.
    pub alpn: AlpnList,
    /// Whether an encrypted_client_hello extension is there, real or GREASE: the two cannot be told apart.
    pub ech: bool,
    /// Highest version offered (0x0304 is TLS 1.3), GREASE left out.
    pub version_max: u16,
    /// Wire bytes from the first record's header to the end of the ClientHello.
    pub wire_bytes: usize,
}

/// Offered application protocols in wire form (one length byte before each), bounded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AlpnList {
    bytes: [u8; ALPN_BYTES_MAX],
    length: u8,
    truncated: bool,
}

impl AlpnList {
    pub(super) const EMPTY: Self = Self { bytes: [0; ALPN_BYTES_MAX], length: 0, truncated: false };

    /// The protocols, in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..usize::from(self.length)];
        core::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (name, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            Some(name)
        })
    }

    /// Whether `protocol` is offered (among those kept).
    #[must_use]
    pub fn contains(&self, protocol: &[u8]) -> bool {
        self.iter().any(|name| name == protocol)
    }

    /// Whether the client offered nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether protocols were left out because the list was longer than [`ALPN_BYTES_MAX`].
    #[must_use]
    pub const fn truncated(&self) -> bool {
        self.truncated
    }

    /// Keeps one more protocol if it fits; once one did not, later ones are left out too, to keep the order whole.
    fn push(&mut self, name: &[u8]) {
        let start = usize::from(self.length);
        let end = start + 1 + name.len();
        if self.truncated || end > ALPN_BYTES_MAX {
            self.truncated = true;
            return;
        }
        self.bytes[start] = u8::try_from(name.len()).expect("invariant: end is at most ALPN_BYTES_MAX");
        self.bytes[start + 1..end].copy_from_slice(name);
        self.length = u8::try_from(end).expect("invariant: at most ALPN_BYTES_MAX");
    }
}

/// What the body said, or why it is refused and, where a name is the reason, which.
pub(super) struct Refused<'a> {
    pub(super) error: HelloError,
    pub(super) name: Option<&'a [u8]>,
}

impl From<HelloError> for Refused<'_> {
    fn from(error: HelloError) -> Self {
        Self { error, name: None }
    }
}

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const EXTENSION_ECH: u16 = 0xfe0d;

/// Reads the body of a ClientHello (RFC 8446 §4.1.2), its four-byte handshake header taken off.
pub(super) fn parse_body(body: &[u8], wire_bytes: usize) -> Result<ClientHello, Refused<'_>> {
    let mut reader = Reader { rest: body };
    let legacy_version = reader.u16("version")?;
    reader.take(32, "random")?;
    if reader.vector_u8("session id")?.len() > 32 {
        return Err(HelloError::Malformed("session id longer than 32 bytes").into());
    }
    let suites = reader.vector_u16("cipher suites")?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(HelloError::Malformed("cipher suites").into());
    }
    if reader.vector_u8("compression methods")?.is_empty() {
        return Err(HelloError::Malformed("compression methods").into());
    }
    let mut hello = ClientHello {
        server_name: None,
        alpn: AlpnList::EMPTY,
        ech: false,
        version_max: legacy_version,
        wire_bytes,
    };
    // A hello of TLS 1.2 and before may end here.
    if !reader.rest.is_empty() {
        let extensions = reader.vector_u16("extensions")?;
        if !reader.rest.is_empty() {
            return Err(HelloError::Malformed("bytes after the extensions").into());
        }
        parse_extensions(extensions, &mut hello)?;
    }
    Ok(hello)
}

fn parse_extensions<'a>(extensions: &'a [u8], hello: &mut ClientHello) -> Result<(), Refused<'a>> {
    let mut reader = Reader { rest: extensions };
    let mut seen: u64 = 0; // the extensions that we read, all but one of them numbered below 64
    while !reader.rest.is_empty() {
        let kind = reader.u16("extension type")?;
        let data = reader.vector_u16("extension")?;
        if kind < 64 {
            let bit = 1u64 << kind;
            if seen & bit != 0 {
                return Err(match kind {
                    EXTENSION_SERVER_NAME => HelloError::DuplicateServerName,
                    _ => HelloError::Malformed("an extension twice"),
                }
                .into());
            }
            seen |= bit;
        }
        match kind {
            EXTENSION_SERVER_NAME => hello.server_name = Some(parse_server_name(data)?),
            EXTENSION_ALPN => hello.alpn = parse_alpn(data)?,
            EXTENSION_SUPPORTED_VERSIONS => {
                hello.version_max = parse_versions(data)?.unwrap_or(hello.version_max);
            }
            EXTENSION_ECH if hello.ech => return Err(HelloError::Malformed("an extension twice").into()),
            EXTENSION_ECH => hello.ech = true,
            _ => {} // unknown and GREASE extensions are the server's business
        }
    }
    Ok(())
}

/// RFC 6066 §3: a list that holds exactly one host_name (type 0). Other types were never defined.
fn parse_server_name(data: &[u8]) -> Result<ServerName, Refused<'_>> {
    let mut reader = Reader { rest: data };
    let mut list = Reader { rest: reader.vector_u16("server name list")? };
    if !reader.rest.is_empty() {
        return Err(HelloError::Malformed("bytes after the server name list").into());
    }
    if list.u8("server name list")? != 0 {
        return Err(HelloError::Malformed("server name type").into());
    }
    let wire = list.vector_u16("server name")?;
    if !list.rest.is_empty() {
        let error = match list.u8("server name list")? {
            0 => HelloError::SeveralServerNames,
            _ => HelloError::Malformed("server name type"),
        };
        return Err(Refused { error, name: Some(wire) });
    }
    ServerName::parse(wire).map_err(|error| Refused { error, name: Some(wire) })
}

/// RFC 7301 §3.1.
fn parse_alpn(data: &[u8]) -> Result<AlpnList, HelloError> {
    let mut reader = Reader { rest: data };
    let mut list = Reader { rest: reader.vector_u16("ALPN list")? };
    if !reader.rest.is_empty() || list.rest.is_empty() {
        return Err(HelloError::Malformed("ALPN list"));
    }
    let mut alpn = AlpnList::EMPTY;
    while !list.rest.is_empty() {
        let name = list.vector_u8("ALPN protocol")?;
        if name.is_empty() {
            return Err(HelloError::Malformed("empty ALPN protocol"));
        }
        alpn.push(name);
    }
    Ok(alpn)
}

/// RFC 8446 §4.2.1: the highest version of the 3.x family; GREASE and drafts are of other families.
fn parse_versions(data: &[u8]) -> Result<Option<u16>, HelloError> {
    let mut reader = Reader { rest: data };
    let list = reader.vector_u8("supported versions")?;
    if !reader.rest.is_empty() || list.is_empty() || list.len() % 2 != 0 {
        return Err(HelloError::Malformed("supported versions"));
    }
    let versions = list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    Ok(versions.filter(|version| version >> 8 == 3).max())
}

/// Takes fields off the front of a slice; what is missing is named in the error.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(HelloError::Malformed(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, HelloError> {
        Ok(self.take(1, what)?[0])
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, HelloError> {
        let pair = self.take(2, what)?;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    }

    fn vector_u8(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.u8(what)?;
        self.take(usize::from(length), what)
    }

    fn vector_u16(&mut self, what: &'static str) -> Result<&'a [u8], HelloError> {
        let length = self.u16(what)?;
        self.take(usize::from(length), what)
    }
}
