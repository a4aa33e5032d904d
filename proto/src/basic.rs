//! Basic credentials in `Proxy-Authorization` (RFC 7617). Knows nothing of who they belong to.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::limits::CREDENTIALS_BYTES_MAX;

/// A user and a password as sent, inline. Printing it shows neither.
#[derive(Clone, Eq, PartialEq)]
pub struct Credentials {
    bytes: [u8; CREDENTIALS_BYTES_MAX],
    user_bytes: usize,
    bytes_used: usize,
}

impl Credentials {
    /// Everything before the first colon.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        &self.bytes[..self.user_bytes]
    }

    /// Everything after the first colon.
    #[must_use]
    pub fn password(&self) -> &[u8] {
        &self.bytes[self.user_bytes + 1..self.bytes_used]
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

/// Why a `Proxy-Authorization` value gives no credentials. All of them are an answer of 407.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BasicError {
    /// Another scheme than Basic.
    #[error("authentication scheme is not Basic")]
    Scheme,
    /// Not base64 in its canonical, padded form.
    #[error("credentials are not base64")]
    Base64,
    /// More than [`CREDENTIALS_BYTES_MAX`].
    #[error("credentials too long")]
    TooLong,
    /// No colon, or a control character.
    #[error("credentials are not user:password")]
    Shape,
}

/// Reads the value of a `Proxy-Authorization` header.
///
/// # Errors
/// See [`BasicError`].
pub fn proxy_authorization(value: &[u8]) -> Result<Credentials, BasicError> {
    let (scheme, rest) = value.split_at_checked(5).ok_or(BasicError::Scheme)?;
    if !scheme.eq_ignore_ascii_case(b"Basic") || rest.first() != Some(&b' ') {
        return Err(BasicError::Scheme);
    }
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let encoded = &rest[spaces..];
    // Base64 decoders estimate by whole groups of three, so two bytes of slack keep the bound ours.
    let mut decoded = [0; CREDENTIALS_BYTES_MAX + 2];
    if encoded.len() > CREDENTIALS_BYTES_MAX.div_ceil(3) * 4 {
        return Err(BasicError::TooLong);
    }
    let bytes_used = STANDARD.decode_slice(encoded, &mut decoded).map_err(|_| BasicError::Base64)?;
    if bytes_used > CREDENTIALS_BYTES_MAX {
        return Err(BasicError::TooLong);
    }
    if decoded[..bytes_used].iter().any(u8::is_ascii_control) {
        return Err(BasicError::Shape);
    }
    let user_bytes = decoded[..bytes_used].iter().position(|byte| *byte == b':').ok_or(BasicError::Shape)?;
    let mut bytes = [0; CREDENTIALS_BYTES_MAX];
    bytes[..bytes_used].copy_from_slice(&decoded[..bytes_used]);
    Ok(Credentials { bytes, user_bytes, bytes_used })
}
