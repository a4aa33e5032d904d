//! Whether bytes that nobody has announced are the beginning of an HTTP/1 request. It must err on one side only: what a
//! lenient server would take for a request is one, so that it is judged as a request, however strictly.

use super::bytes::Class;
use crate::limits::REQUEST_LINE_BYTES_MAX;

/// What bytes are the beginning of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opening {
    /// A request, acceptable or not.
    Request,
    /// Something else.
    Other,
    /// Too few bytes to tell.
    Unclear,
}

/// Looks at the first bytes of a connection. A request line is a method of any token characters (RFC 9110 §9.1), then
/// space, and `HTTP/` before the line ends; empty lines may come ahead of it (RFC 9112 §2.2).
#[must_use]
pub fn opening(bytes: &[u8]) -> Opening {
    let ahead = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[ahead..];
    let method = Class::Token.run(bytes);
    match bytes.get(method) {
        None if bytes.len() < REQUEST_LINE_BYTES_MAX => return Opening::Unclear,
        // No other protocol that begins with a word has one so long.
        None => return Opening::Request,
        Some(b' ' | b'\t') if method > 0 => {}
        Some(_) => return Opening::Other,
    }
    let end = memchr::memchr(b'\n', bytes);
    let line = &bytes[..end.unwrap_or(bytes.len())];
    if line.windows(5).any(|part| part.eq_ignore_ascii_case(b"HTTP/")) {
        return Opening::Request;
    }
    match end {
        Some(_) => Opening::Other,
        None if bytes.len() < REQUEST_LINE_BYTES_MAX => Opening::Unclear,
        None => Opening::Request,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn requests_are_told_from_other_protocols() {
        for request in [
            "GET / HTTP/1.1\r\n",
            "PROPFIND /x HTTP/1.1\r\n",
            "M-SEARCH /1 HTTP/1.1\r\nHost: b.test\r\n\r\n",
            "get / HTTP/1.1\r\n",
            "M / HTTP/1.0\r\n",
            "BASELINE-CONTROL-AND-MORE / HTTP/1.1",
            "\r\n\r\nGET / HTTP/1.1\r\n",
            "GET\t/ http/1.1\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "GET / HTTP/",
        ] {
            assert_eq!(opening(request.as_bytes()), Opening::Request, "{request:?}");
        }
        for other in [
            "\x16\x03\x01",
            "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
            "SSH-2.0-Go\r\n",
            "EHLO mail.test\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "GET key\r\n",
            "{\"jsonrpc\":",
            " GET / HTTP/1.1\r\n",
            "GET /\r\nHTTP/1.1",
            "\0\0\0\x08\x04",
        ] {
            assert_eq!(opening(other.as_bytes()), Opening::Other, "{other:?}");
        }
        for unclear in
            ["", "\r\n", "G", "GET", "SSH-2.0-OpenSSH_9.2p1", "GET ", "GET /a/long/target", "GET / HTT"]
        {
            assert_eq!(opening(unclear.as_bytes()), Opening::Unclear, "{unclear:?}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_waited_for() {
        let long = vec![b'A'; REQUEST_LINE_BYTES_MAX];
        assert_eq!(opening(&long), Opening::Request);
        let mut target = b"GET /".to_vec();
        target.extend_from_slice(&long);
        assert_eq!(opening(&target), Opening::Request);
    }
}
