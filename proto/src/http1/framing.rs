//! Where a body ends (RFC 9112 §6): the rules, applied to what a head said. Knows nothing of the bytes of a body.

use super::{HeadError, Method, Version};

/// Why a head with such a name is refused rather than cleaned: whoever sends it means somebody to read it.
pub(super) const LOOKALIKE: HeadError = HeadError::Malformed("name that some read as a framing header's");

/// How the end of a message body is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// There is no body, whatever the headers say.
    None,
    /// That many bytes.
    Length(u64),
    /// Chunks up to the last one, then trailers.
    Chunked,
    /// Everything until the connection closes; responses only.
    UntilClose,
}

/// The framing headers of one head, collected line by line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FramingFields {
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
}

impl FramingFields {
    /// One `Content-Length` line. A second one is refused even if it says the same: nobody honest sends it.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let length = decimal(value).ok_or(HeadError::Malformed("Content-Length is no plain number"))?;
        match self.content_length.replace(length) {
            None => Ok(()),
            Some(_) => Err(HeadError::Malformed("Content-Length twice")),
        }
    }

    /// One `Transfer-Encoding` line. `chunked` alone is the only coding that a recipient must know and the only one
    /// whose end both neighbours agree upon.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::Malformed("Transfer-Encoding other than chunked"));
        }
        if core::mem::replace(&mut self.chunked, true) {
            return Err(HeadError::Malformed("Transfer-Encoding twice"));
        }
        Ok(())
    }

    /// Whether these headers promise at least one byte of body.
    pub(super) const fn announces_body(&self) -> bool {
        self.chunked || matches!(self.content_length, Some(1..))
    }

    fn check(&self, version: Version) -> Result<(), HeadError> {
        if self.chunked && self.content_length.is_some() {
            return Err(HeadError::Malformed("Content-Length beside Transfer-Encoding"));
        }
        if self.chunked && version == Version::Http10 {
            return Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(())
    }

    pub(super) fn request(&self, method: Method, version: Version) -> Result<Framing, HeadError> {
        self.check(version)?;
        let framing = match self.content_length {
            _ if self.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::None,
        };
        // What follows a CONNECT head is the tunnel's; a body there would be read differently by different hops.
        match (method, framing) {
            (Method::Connect, Framing::None | Framing::Length(0)) => Ok(Framing::None),
            (Method::Connect, _) => Err(HeadError::Malformed("CONNECT with a body")),
            _ => Ok(framing),
        }
    }

    pub(super) fn response(
        &self,
        method: Method,
        status: u16,
        version: Version,
    ) -> Result<Framing, HeadError> {
        self.check(version)?;
        let tunnel = method == Method::Connect && (200..300).contains(&status);
        if matches!(status, 100..=199 | 204 | 304) || method == Method::Head || tunnel {
            return Ok(Framing::None);
        }
        Ok(match self.content_length {
            _ if self.chunked => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }
}

/// How to frame a response body towards a client of `client`'s version: chunked is unknown to HTTP/1.0, and a body
/// that ends by closing is chunked for HTTP/1.1, so that its connection survives and a cut is told from an end.
#[must_use]
pub const fn downstream_framing(upstream: Framing, client: Version) -> Framing {
    match (upstream, client) {
        (Framing::Chunked, Version::Http10) => Framing::UntilClose,
        (Framing::UntilClose, Version::Http11) => Framing::Chunked,
        (same, _) => same,
    }
}

/// `1*DIGIT` within 64 bits: no sign, no separator, no space.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number.checked_mul(10)?.checked_add(u64::from(digit))).flatten()
    })
}
