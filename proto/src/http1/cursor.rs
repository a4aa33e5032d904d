//! Keeps the work of reading a head linear in its bytes, however small the pieces it arrives in. Knows nothing of what
//! a head says.

use super::{
    HeadError, HeadLimits, Method, Progress, RequestHead, ResponseHead, parse_request_head,
    parse_response_head,
};

/// A line's end and an empty line behind it.
const EMPTY_LINE: &[u8] = b"\r\n\r\n";

/// Remembers how far a growing buffer has been searched for the end of its head.
///
/// The head is parsed when its end is there (or a line end that is an error), and before that only when the buffer has
/// doubled: garbage is still answered early, and one-byte reads cost no more than a constant number of passes. One
/// cursor is for one head: take a new one (`default`) for the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadCursor {
    searched: usize,
    parsed: usize,
    searched_for_end: usize,
}

impl HeadCursor {
    /// Whether the empty line that ends a head is there, in a buffer that has only grown since the last call: parsing
    /// gives the head then, or an error, but never [`Progress::Partial`]. For callers that parse where the bytes have
    /// come to rest, and only there.
    pub fn has_end(&mut self, bytes: &[u8]) -> bool {
        // The empty line may have begun before what is new: up to three of its bytes are old.
        let from = self.searched_for_end.saturating_sub(3).min(bytes.len());
        self.searched_for_end = bytes.len();
        bytes.ends_with(EMPTY_LINE) || memchr::memmem::find(&bytes[from..], EMPTY_LINE).is_some()
    }

    /// [`parse_request_head`] of a buffer that has only grown since the last call.
    ///
    /// # Errors
    /// The same as those of the plain function.
    pub fn request<'b>(
        &mut self,
        bytes: &'b [u8],
        limits: &HeadLimits,
    ) -> Result<Progress<RequestHead<'b>>, HeadError> {
        if self.is_due(bytes, limits) { parse_request_head(bytes, limits) } else { Ok(Progress::Partial) }
    }

    /// [`parse_response_head`] of a buffer that has only grown since the last call.
    ///
    /// # Errors
    /// The same as those of the plain function.
    pub fn response<'b>(
        &mut self,
        bytes: &'b [u8],
        request_method: Method,
        limits: &HeadLimits,
    ) -> Result<Progress<ResponseHead<'b>>, HeadError> {
        if self.is_due(bytes, limits) {
            parse_response_head(bytes, request_method, limits)
        } else {
            Ok(Progress::Partial)
        }
    }

    fn is_due(&mut self, bytes: &[u8], limits: &HeadLimits) -> bool {
        // The first look is always due: most heads are whole, and then the parser itself finds the end.
        let doubled = bytes.len() >= 2 * self.parsed;
        let due =
            doubled || bytes.len() >= limits.head_bytes_max || has_remarkable_line_end(bytes, self.searched);
        self.searched = bytes.len();
        if due {
            self.parsed = bytes.len();
        }
        due
    }
}

/// Whether a line end from `from` on is that of an empty line, or is none that RFC 9112 knows.
fn has_remarkable_line_end(bytes: &[u8], from: usize) -> bool {
    let fresh = &bytes[from.min(bytes.len())..];
    memchr::memchr_iter(b'\n', fresh).any(|at| match bytes[..bytes.len() - fresh.len() + at] {
        [.., before, b'\r'] => matches!(before, b'\n' | b'\r'),
        _ => true,
    })
}
