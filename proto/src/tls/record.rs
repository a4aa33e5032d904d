//! Puts a ClientHello together from however many reads and records it arrives in. Knows nothing of what it says.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::hello::{self, Refused};
use super::{ClientHello, HelloError};

const RECORD_HEADER_BYTES: usize = 5;
const HANDSHAKE_HEADER_BYTES: usize = 4;
const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446 §5.1: a plaintext record carries at most 2^14 bytes.
const RECORD_BYTES_MAX: usize = 1 << 14;

/// Finds the ClientHello at the head of a byte stream.
///
/// Feed it each read's new bytes in order until it answers `Some` or an error; after that it answers nothing more
/// (`Ok(None)`). It keeps only handshake bytes, copied once, and none at all when the hello lies whole in one record
/// in the first feed: the caller keeps the wire bytes, because it relays them unmodified.
#[derive(Debug)]
pub struct HelloParser {
    bytes_max: usize,
    /// Wire bytes taken so far.
    wire_bytes: usize,
    header: [u8; RECORD_HEADER_BYTES],
    header_bytes: usize,
    /// Payload bytes of the current record still to come.
    record_left: usize,
    /// Handshake bytes collected: message header and body.
    message: Vec<u8>,
    rejected_name: Option<Box<[u8]>>,
    done: bool,
}

impl HelloParser {
    /// A parser that refuses a hello whose end lies beyond `bytes_max` wire bytes (record headers counted). Bounds
    /// below the two headers count as these.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        const SMALLEST: usize = RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES;
        Self {
            bytes_max: if bytes_max < SMALLEST { SMALLEST } else { bytes_max },
            wire_bytes: 0,
            header: [0; RECORD_HEADER_BYTES],
            header_bytes: 0,
            record_left: 0,
            message: Vec::new(),
            rejected_name: None,
            done: false,
        }
    }

    /// Takes the next bytes of the stream. `Some` once the hello is whole; bytes after it are not looked at.
    ///
    /// # Errors
    /// As soon as the bytes so far cannot become an acceptable ClientHello. The result does not depend on how the
    /// stream is cut into feeds.
    pub fn feed(&mut self, new: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        if self.done {
            return Ok(None);
        }
        let result = self.advance(new);
        if !matches!(result, Ok(None)) {
            self.done = true;
            self.message = Vec::new();
        }
        result
    }

    /// The server name that was the reason for an error, as sent: for the record of the denial. It may hold any bytes.
    #[must_use]
    pub fn rejected_name(&self) -> Option<&[u8]> {
        self.rejected_name.as_deref()
    }

    fn advance(&mut self, mut new: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        while let Some(&byte) = new.first() {
            if self.record_left == 0 {
                self.take_header_byte(byte)?;
                new = &new[1..];
                continue;
            }
            let (fragment, rest) = new.split_at(new.len().min(self.record_left));
            if let Some(hello) = self.take_fragment(fragment)? {
                return Ok(Some(hello));
            }
            new = rest;
        }
        Ok(None)
    }

    fn take_header_byte(&mut self, byte: u8) -> Result<(), HelloError> {
        self.count_wire(1)?;
        self.header[self.header_bytes] = byte;
        self.header_bytes += 1;
        let first = self.header[0];
        let first_record = self.wire_bytes <= RECORD_HEADER_BYTES;
        if first != RECORD_HANDSHAKE {
            if !first_record {
                return Err(HelloError::Malformed("another record type inside the ClientHello"));
            }
            return self.judge_foreign(first);
        }
        match self.header_bytes {
            2 if byte != 3 => Err(HelloError::Malformed("record version")),
            RECORD_HEADER_BYTES => {
                let length = usize::from(u16::from_be_bytes([self.header[3], byte]));
                if length == 0 || length > RECORD_BYTES_MAX {
                    return Err(HelloError::Malformed("record length"));
                }
                self.record_left = length;
                self.header_bytes = 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A stream that does not begin with a handshake record: SSLv2 (length with its top bit set, message type 1,
    /// version 0.2 or 3.x) or another protocol.
    fn judge_foreign(&self, first_byte: u8) -> Result<(), HelloError> {
        let possible = match self.header_bytes {
            1 => first_byte & 0x80 != 0,
            3 => self.header[2] == 1,
            4 => matches!(self.header[3], 0 | 3),
            _ => true,
        };
        match (possible, self.header_bytes) {
            (false, _) => Err(HelloError::NotTls { first_byte }),
            (true, 4) => Err(HelloError::SslV2),
            (true, _) => Ok(()),
        }
    }

    /// Takes payload bytes of the current record, never more than are left in it.
    fn take_fragment(&mut self, fragment: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        if self.message.is_empty() && fragment.len() >= HANDSHAKE_HEADER_BYTES {
            let message_bytes = self.message_bytes(fragment)?;
            if fragment.len() >= message_bytes {
                // Whole in one piece: nothing is copied.
                return self.finish_direct(fragment, message_bytes);
            }
        }
        let mut fragment = fragment;
        // The header decides how much is still wanted, so it is completed first.
        let header_missing = HANDSHAKE_HEADER_BYTES.saturating_sub(self.message.len());
        if header_missing > 0 {
            let (header, rest) = fragment.split_at(header_missing.min(fragment.len()));
            self.collect(header)?;
            if self.message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                return Err(HelloError::Malformed("handshake message is no ClientHello"));
            }
            if self.message.len() < HANDSHAKE_HEADER_BYTES {
                return Ok(None);
            }
            let message_bytes = self.message_bytes(&self.message)?;
            // Reserved as it arrives, not as it is announced: a liar gets no more memory than it has sent.
            self.message.reserve(message_bytes.min(2 * rest.len() + 512));
            fragment = rest;
        }
        let missing = self.message_bytes(&self.message)? - self.message.len();
        let (wanted, _) = fragment.split_at(missing.min(fragment.len()));
        self.collect(wanted)?;
        if wanted.len() < missing {
            return Ok(None);
        }
        let message = core::mem::take(&mut self.message);
        self.finish(&message).map(Some)
    }

    fn collect(&mut self, bytes: &[u8]) -> Result<(), HelloError> {
        self.count_wire(bytes.len())?;
        self.record_left -= bytes.len();
        self.message.extend_from_slice(bytes);
        Ok(())
    }

    fn finish_direct(
        &mut self,
        fragment: &[u8],
        message_bytes: usize,
    ) -> Result<Option<ClientHello>, HelloError> {
        self.count_wire(message_bytes)?;
        self.record_left -= message_bytes;
        self.finish(&fragment[..message_bytes]).map(Some)
    }

    fn finish(&mut self, message: &[u8]) -> Result<ClientHello, HelloError> {
        // No client has anything to say after its hello before the server's, in the same record least of all.
        if self.record_left != 0 {
            return Err(HelloError::Malformed("bytes after the ClientHello in its record"));
        }
        hello::parse_body(&message[HANDSHAKE_HEADER_BYTES..], self.wire_bytes).map_err(
            |Refused { error, name }| {
                self.rejected_name = name.map(Box::from);
                error
            },
        )
    }

    /// The length of the whole handshake message, from its first four bytes.
    fn message_bytes(&self, start: &[u8]) -> Result<usize, HelloError> {
        if start[0] != CLIENT_HELLO {
            return Err(HelloError::Malformed("handshake message is no ClientHello"));
        }
        let body = usize::from(start[1]) << 16 | usize::from(start[2]) << 8 | usize::from(start[3]);
        let message = HANDSHAKE_HEADER_BYTES + body;
        if message + RECORD_HEADER_BYTES > self.bytes_max {
            return Err(HelloError::TooLong { bytes_max: self.bytes_max });
        }
        Ok(message)
    }

    fn count_wire(&mut self, bytes: usize) -> Result<(), HelloError> {
        self.wire_bytes += bytes;
        if self.wire_bytes > self.bytes_max {
            return Err(HelloError::TooLong { bytes_max: self.bytes_max });
        }
        Ok(())
    }
}
