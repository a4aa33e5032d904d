//! What holds for every input: cuts do not matter, what is written can be read back, nothing panics, and the chunked
//! decoder agrees with a naive one that shares no code with it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use sluice_proto::http1::{
    Authority, Body, ChunkedDecoder, Framing, HeadCursor, HeadError, HeadLimits, Method, Progress,
    RequestHead, RequestRewrite, ResponseRewrite, Version, parse_request_head, parse_response_head,
    write_request_head, write_response_head,
};
use sluice_proto::tls::{ClientHello, HelloError, HelloParser};
use sluice_proto::{basic, limits};
use support::Hello;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 4 * 1024, headers_max: 100 };

fn feed_hello(wire: &[u8], cuts: &[usize]) -> Result<Option<ClientHello>, HelloError> {
    let mut parser = HelloParser::new(limits::HELLO_BYTES_MAX_DEFAULT);
    for piece in pieces(wire, cuts) {
        match parser.feed(piece) {
            Ok(None) => {}
            done => return done,
        }
    }
    Ok(None)
}

/// `wire` cut at each of `cuts` (taken modulo its length).
fn pieces<'a>(wire: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
    ends.push(wire.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.iter().map(|end| &wire[core::mem::replace(&mut start, *end)..*end]).collect()
}

/// Heads that are nearly right: fragments that a strict parser must tell apart, strung together.
fn near_head() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&'static [u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"POST http://a.test:80/x HTTP/1.1\r\n",
        b"CONNECT a.test:443 HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 304\r\n",
        b"Host: a.test\r\n",
        b"Host: [::1]:80\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content_Length: 5\r\n",
        b"Connection: close, x\r\n",
        b"X: y\r\n",
        b"Upgrade: websocket\r\n",
        b"Connection: upgrade\r\n",
        b"Expect: 100-continue\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"\0",
        b"a",
        b"\x0b",
        b"\xff",
        b"\t",
    ];
    vec(prop::sample::select(fragments), 0..12).prop_map(|parts| parts.concat())
}

/// Chunked bodies that are nearly right.
fn near_chunks() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<&'static [u8]> = vec![
        b"5\r\nhello\r\n",
        b"1\r\na\r\n",
        b"a;x=y\r\n0123456789\r\n",
        b"0\r\n",
        b"00;l\r\n",
        b"X-Sum: 1\r\n",
        b"Host: a\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b";",
        b" ",
        b"0x2",
        b"2",
        b"f",
        b"\0",
    ];
    vec(prop::sample::select(fragments), 0..12).prop_map(|parts| parts.concat())
}

fn token() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,20}"
}

const FRAMING_NAMES: [&str; 2] = ["content-length", "transfer-encoding"];

/// Names of framing, in any case, with anything or nothing where the hyphen stands, and now and then a letter more.
fn framing_like_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[Cc][Oo]ntent[!#$%&'*+.^_`|~a-z0-9-]{0,2}[Ll]eng[Tt]hs?",
        "[Tt]rans[Ff]er[!#$%&'*+.^_`|~a-z0-9-]{0,2}[Ee]ncod[Ii]ngs?",
    ]
}

/// A header that goes on unchanged, so that it must be found again after a rewrite.
fn plain_header() -> impl Strategy<Value = (String, String)> {
    (token().prop_map(|name| format!("q-{name}")), "([!-~]([ -~\t]{0,40}[!-~])?)?")
}

fn authority() -> impl Strategy<Value = String> {
    let host =
        prop_oneof!["[a-zA-Z0-9_-]{1,10}(\\.[a-zA-Z0-9_-]{1,10}){0,3}\\.?", Just("[2001:db8::1]".to_owned())];
    (host, prop::option::of(1..=u16::MAX)).prop_map(|(host, port)| match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_do_not_change_a_hello(
        name in "[a-z_-]{1,20}(\\.[a-z]{1,10}){0,3}",
        padding in 0usize..3_000,
        payload_bytes in 1usize..2_000,
        cuts in vec(any::<usize>(), 0..8),
        flip in prop::option::of((any::<usize>(), any::<u8>())),
    ) {
        let mut wire = Hello::browser(name.as_bytes()).extension(21, vec![0; padding]).records(payload_bytes);
        if let Some((at, with)) = flip {
            let length = wire.len();
            wire[at % length.min(200)] ^= with;
        }
        prop_assert_eq!(feed_hello(&wire, &cuts), feed_hello(&wire, &[]));
    }

    #[test]
    fn any_bytes_as_a_hello(wire in vec(any::<u8>(), 0..400), cuts in vec(any::<usize>(), 0..4)) {
        prop_assert_eq!(feed_hello(&wire, &cuts), feed_hello(&wire, &[]));
        let inside = [&[22, 3, 1, 1, 0x90][..], &wire].concat();
        prop_assert_eq!(feed_hello(&inside, &cuts), feed_hello(&inside, &[]));
    }

    #[test]
    fn cuts_do_not_change_a_request_head(wire in near_head(), cuts in vec(any::<usize>(), 0..8)) {
        let whole = parse_request_head(&wire, &LIMITS);
        let mut cursor = HeadCursor::default();
        let mut received = 0;
        let mut outcome = Ok(Progress::Partial);
        for piece in pieces(&wire, &cuts) {
            received += piece.len();
            outcome = cursor.request(&wire[..received], &LIMITS);
            if outcome != Ok(Progress::Partial) {
                break;
            }
        }
        // The cursor may put off an error that is not at a line end, never change the outcome.
        if outcome == Ok(Progress::Partial) {
            prop_assert!(!matches!(whole, Ok(Progress::Complete(_))));
        } else {
            prop_assert_eq!(outcome, whole);
        }
    }

    #[test]
    fn where_a_head_has_its_end_parsing_lacks_no_bytes(wire in near_head(), cuts in vec(any::<usize>(), 0..8)) {
        let mut cursor = HeadCursor::default();
        let mut received = 0;
        for piece in pieces(&wire, &cuts) {
            received += piece.len();
            let bytes = &wire[..received];
            let ended = cursor.has_end(bytes);
            let request = parse_request_head(bytes, &LIMITS);
            let response = parse_response_head(bytes, Method::Get, &LIMITS);
            prop_assert!(!ended || request != Ok(Progress::Partial));
            prop_assert!(!ended || response != Ok(Progress::Partial));
            prop_assert!(ended || !matches!(request, Ok(Progress::Complete(_))));
            prop_assert!(ended || !matches!(response, Ok(Progress::Complete(_))));
            if ended {
                break;
            }
        }
    }

    #[test]
    fn an_error_never_goes_away_with_more_bytes(wire in near_head()) {
        let mut first: Option<HeadError> = None;
        for end in 0..=wire.len() {
            let now = parse_request_head(&wire[..end], &LIMITS);
            let _ = parse_response_head(&wire[..end], Method::Get, &LIMITS);
            match first {
                Some(error) => prop_assert_eq!(now, Err(error)),
                None => first = now.err(),
            }
        }
    }

    #[test]
    fn any_bytes_as_heads(wire in vec(any::<u8>(), 0..300)) {
        let _ = parse_request_head(&wire, &LIMITS);
        let _ = parse_response_head(&wire, Method::Head, &LIMITS);
        let _ = Authority::parse(&wire);
        let _ = basic::proxy_authorization(&wire);
        let _ = basic::proxy_authorization(&[b"Basic ", &wire[..]].concat());
    }

    /// Whoever reads a head that was let through as CGI does, all punctuation as `-`, sees the framing that we saw.
    #[test]
    fn a_reader_that_cannot_tell_punctuation_apart_sees_the_same_framing(
        name in framing_like_name(),
        value in prop::sample::select(vec!["5", "chunked"]),
        honest in prop::sample::select(vec!["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"]),
    ) {
        let lines = format!("Host: a.test\r\n{honest}{name}: {value}\r\n\r\n");
        let request = format!("POST / HTTP/1.1\r\n{lines}");
        let response = format!("HTTP/1.1 200 OK\r\n{lines}");
        let folded: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let exact = FRAMING_NAMES.iter().any(|known| known.eq_ignore_ascii_case(&name));
        let lookalike = !exact && FRAMING_NAMES.iter().any(|known| known.eq_ignore_ascii_case(&folded));
        let request = parse_request_head(request.as_bytes(), &LIMITS);
        let response = parse_response_head(response.as_bytes(), Method::Get, &LIMITS);
        if lookalike {
            prop_assert!(request.is_err() && response.is_err(), "{}", lines);
        } else if !exact {
            prop_assert!(request.is_ok() && response.is_ok(), "{}", lines);
        }
    }

    #[test]
    fn a_request_written_is_the_request_read(
        method in prop_oneof![Just("GET".to_owned()), Just("POST".to_owned()), token()],
        authority in authority(),
        path in "/[!-\"$-~]{0,40}",
        headers in vec(plain_header(), 0..80),
        framing in prop_oneof![
            Just(Framing::None), any::<u64>().prop_map(Framing::Length), Just(Framing::Chunked)],
    ) {
        prop_assume!(method != "CONNECT");
        let framing_line = match framing {
            Framing::Length(bytes) => format!("Content-Length: {bytes}\r\n"),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => String::new(),
        };
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        let wire = format!(
            "{method} http://{authority}{path} HTTP/1.1\r\nHost: other.test\r\n{lines}{framing_line}\r\n"
        );
        let limits = HeadLimits::default();
        let read = parse_request_head(wire.as_bytes(), &limits).unwrap().complete().unwrap();
        let mut written = Vec::new();
        write_request_head(&mut written, &read, &RequestRewrite::default()).unwrap();
        let again = parse_request_head(&written, &limits).unwrap().complete().unwrap();

        let expected_host = Authority::parse(authority.as_bytes()).unwrap();
        prop_assert_eq!(again.method_name, method.as_bytes());
        prop_assert_eq!(again.authority(), Some(expected_host));
        prop_assert_eq!(again.target, sluice_proto::http1::Target::Origin(path.as_bytes()));
        prop_assert_eq!(again.framing, framing);
        prop_assert_eq!(again.length, written.len());
        let carried = |head: &RequestHead<'_>| -> Vec<(Vec<u8>, Vec<u8>)> {
            let plain = head.headers.iter().filter(|header| header.name.starts_with(b"q-"));
            plain.map(|header| (header.name.to_vec(), header.value.to_vec())).collect()
        };
        prop_assert_eq!(carried(&again), carried(&read));
        prop_assert_eq!(carried(&again).len(), headers.len());

        // Written once more it changes by its Via line only.
        let mut third = Vec::new();
        write_request_head(&mut third, &again, &RequestRewrite::default()).unwrap();
        prop_assert_eq!(third.len(), written.len() + "Via: 1.1 sluice\r\n".len());
    }

    #[test]
    fn a_response_written_is_the_response_read(
        status in 200u16..=999,
        reason in "[ -~\t]{0,20}",
        headers in vec(plain_header(), 0..80),
        framing in prop_oneof![
            Just(Framing::UntilClose), any::<u64>().prop_map(Framing::Length), Just(Framing::Chunked)],
        client in prop_oneof![Just(Version::Http10), Just(Version::Http11)],
    ) {
        let framing_line = match framing {
            Framing::Length(bytes) => format!("Content-Length: {bytes}\r\n"),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => String::new(),
        };
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let wire = format!("HTTP/1.1 {status} {reason}\r\n{framing_line}{lines}\r\n");
        let limits = HeadLimits::default();
        let read = parse_response_head(wire.as_bytes(), Method::Get, &limits).unwrap().complete().unwrap();
        let mut written = Vec::new();
        let rewrite = ResponseRewrite { client, persistent: true, set: &[] };
        let sent = write_response_head(&mut written, &read, &rewrite).unwrap();
        let again = parse_response_head(&written, Method::Get, &limits).unwrap().complete().unwrap();
        prop_assert_eq!((again.status, again.reason), (status, read.reason));
        prop_assert_eq!(again.framing, sent);
        prop_assert_eq!(again.persistent, sent != Framing::UntilClose);
        prop_assert_eq!(again.headers.iter().filter(|header| header.name.starts_with(b"q-")).count(), headers.len());
    }

    #[test]
    fn the_chunked_decoder_agrees_with_a_naive_one(wire in near_chunks(), cuts in vec(any::<usize>(), 0..8)) {
        prop_assert_eq!(streaming(&wire, &cuts), naive(&wire));
    }

    #[test]
    fn any_bytes_as_chunks(wire in vec(any::<u8>(), 0..200), cuts in vec(any::<usize>(), 0..4)) {
        prop_assert_eq!(streaming(&wire, &cuts), naive(&wire));
    }

    #[test]
    fn chunked_data_comes_through_whole(chunks in vec(vec(any::<u8>(), 1..300), 0..20), cuts in vec(any::<usize>(), 0..20)) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend(format!("{:X};ext\r\n", chunk.len()).bytes());
            wire.extend(chunk);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\nx: y\r\n\r\n");
        let read = streaming(&wire, &cuts);
        prop_assert_eq!(read, Read::End { data: chunks.concat(), consumed: wire.len() });
    }

    #[test]
    fn a_body_of_any_length_takes_no_byte_more(length in 0u64..500, wire in vec(any::<u8>(), 0..600), cuts in vec(any::<usize>(), 0..8)) {
        let mut body = Body::new(Framing::Length(length));
        let mut taken = Vec::new();
        for piece in pieces(&wire, &cuts) {
            let mut buffer = piece.to_vec();
            let decoded = body.feed(&mut buffer).unwrap();
            taken.extend_from_slice(&buffer[decoded.data]);
        }
        let expected = wire.len().min(usize::try_from(length).unwrap());
        prop_assert_eq!(&taken[..], &wire[..expected]);
        prop_assert_eq!(body.is_complete(), wire.len() as u64 >= length);
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Read {
    End { data: Vec<u8>, consumed: usize },
    Unfinished { data: Vec<u8> },
    Error,
}

fn streaming(wire: &[u8], cuts: &[usize]) -> Read {
    let mut decoder = ChunkedDecoder::new();
    let (mut data, mut consumed) = (Vec::new(), 0);
    for piece in pieces(wire, cuts) {
        let mut buffer = piece.to_vec();
        let Ok(decoded) = decoder.feed(&mut buffer) else {
            return Read::Error;
        };
        data.extend_from_slice(&buffer[decoded.data]);
        consumed += decoded.consumed;
        if decoded.end {
            return Read::End { data, consumed };
        }
    }
    Read::Unfinished { data }
}

/// Reads the whole text at once with string splitting, for inputs far below every bound.
fn naive(wire: &[u8]) -> Read {
    let mut data = Vec::new();
    let mut rest = wire;
    loop {
        let Some((line, after)) = naive_line(rest) else {
            return if naive_size_prefix(rest) { Read::Unfinished { data } } else { Read::Error };
        };
        let Some(size) = naive_size(line) else {
            return Read::Error;
        };
        rest = after;
        if size == 0 {
            return naive_trailers(rest, wire.len(), data);
        }
        let taken = rest.len().min(usize::try_from(size).unwrap_or(usize::MAX));
        data.extend_from_slice(&rest[..taken]);
        match &rest[taken..] {
            [b'\r', b'\n', after @ ..] => rest = after,
            [] | [b'\r'] => return Read::Unfinished { data },
            _ => return Read::Error,
        }
    }
}

fn naive_line(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..at], &rest[at + 2..]))
}

fn naive_size(line: &[u8]) -> Option<u64> {
    let (digits, extension) = match line.iter().position(|byte| *byte == b';') {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    };
    let fine = |text: &[u8]| !text.is_empty() && text.iter().all(|byte| naive_text(*byte));
    if !extension.is_none_or(fine) || digits.len() > 16 || digits.first() == Some(&b'+') {
        return None;
    }
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether an unfinished line could still become a size line.
fn naive_size_prefix(rest: &[u8]) -> bool {
    let line = rest.strip_suffix(b"\r").unwrap_or(rest);
    let ended = line.len() < rest.len();
    line.is_empty() && !ended
        || naive_size(line).is_some()
        || !ended && line.ends_with(b";") && naive_size(&line[..line.len() - 1]).is_some()
}

fn naive_trailers(mut rest: &[u8], wire_bytes: usize, data: Vec<u8>) -> Read {
    loop {
        // The decoder judges a trailer line at its LF, an empty one at its second byte.
        match rest {
            [b'\r', b'\n', after @ ..] => return Read::End { data, consumed: wire_bytes - after.len() },
            [b'\r', _, ..] => return Read::Error,
            _ => {}
        }
        let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
            return Read::Unfinished { data };
        };
        let Some(line) = rest[..at].strip_suffix(b"\r") else {
            return Read::Error;
        };
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Read::Error;
        };
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().all(token) || !value.iter().all(|byte| naive_text(*byte)) {
            return Read::Error;
        }
        rest = &rest[at + 1..];
    }
}

fn naive_text(byte: u8) -> bool {
    !byte.is_ascii_control() || byte == b'\t'
}
