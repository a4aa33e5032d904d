//! Bodies for the HTTP/1 parsers, decoders and writers. Knows nothing of how inputs are made.

use core::num::NonZeroUsize;

use base64::Engine as _;
use sluice_proto::http1::{
    Authority, ChunkError, ChunkedDecoder, Framing, HeadCursor, HeadError, HeadLimits, HeaderList,
    HeaderName, Method, Progress, RequestHead, RequestRewrite, ResponseRewrite, Version, WriteError,
    chunk_size_line, parse_request_head, parse_response_head, write_last_chunk, write_request_head,
    write_response_head,
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 2 * 1024, headers_max: 80 };
/// A rewritten head may be longer than the one received.
const ROOMY: HeadLimits = HeadLimits { head_bytes_max: 8 * 1024, headers_max: 100 };

pub(crate) fn authority(data: &[u8]) {
    let Ok(authority) = Authority::parse(data) else {
        return;
    };
    assert!(!authority.host.is_empty() && authority.port != Some(0));
    let host = std::str::from_utf8(authority.host).expect("hosts are ASCII");
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => assert!(address.parse::<std::net::Ipv6Addr>().is_ok()),
        None => assert!(host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))),
    }
    let again = match authority.port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    assert_eq!(again.as_bytes(), data, "there is one way to write an authority");
}

pub(crate) fn basic(data: &[u8]) {
    let Ok(credentials) = sluice_proto::basic::proxy_authorization(data) else {
        return;
    };
    assert!(!credentials.user().contains(&b':'));
    let text = [credentials.user(), b":", credentials.password()].concat();
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    assert!(data.ends_with(encoded.as_bytes()), "there is one way to encode credentials");
    assert!(data[..data.len() - encoded.len()].trim_ascii_end().eq_ignore_ascii_case(b"Basic"));
}

/// The first byte says how the rest is cut into reads.
pub(crate) fn request_head(data: &[u8]) {
    let Some((&piece_bytes, wire)) = data.split_first() else {
        return;
    };
    let whole = parse_request_head(wire, &LIMITS);
    agree(&whole, wire, piece_bytes, |cursor, bytes| cursor.request(bytes, &LIMITS));
    let Ok(Progress::Complete(head)) = whole else {
        return;
    };
    assert!(head.length <= wire.len() && head.length <= LIMITS.head_bytes_max);
    assert_ne!(head.framing, Framing::UntilClose);
    let mut written = Vec::new();
    match write_request_head(&mut written, &head, &RequestRewrite::default()) {
        Ok(()) => {}
        Err(WriteError::NoHost) => {
            assert!(head.authority().is_none());
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let again = parse_request_head(&written, &ROOMY).map(Progress::complete);
    let again = again.expect("what we write is well-formed").expect("and whole");
    assert_eq!(again.length, written.len());
    assert_eq!((again.method_name, again.framing), (head.method_name, head.framing));
    assert_eq!(again.authority(), head.authority());
    nothing_forged(&again);
}

/// None of what identifies, routes or belongs to one hop goes on.
fn nothing_forged(sent: &RequestHead<'_>) {
    use HeaderName::{
        Baggage, Connection, Forwarded, Http2Settings, KeepAlive, Proxy, ProxyAuthorization, Te, Upgrade,
        XEnvoy, XForwarded,
    };
    for id in [
        Baggage,
        Connection,
        Forwarded,
        Http2Settings,
        KeepAlive,
        Proxy,
        ProxyAuthorization,
        Te,
        Upgrade,
        XEnvoy,
        XForwarded,
    ] {
        assert_eq!(sent.headers.find(id), None, "{id:?} went upstream");
    }
    assert_eq!(count(&sent.headers, HeaderName::Host), 1);
    assert!(count(&sent.headers, HeaderName::ContentLength) <= 1);
}

fn count(headers: &HeaderList<'_>, id: HeaderName) -> usize {
    headers.all(id).count()
}

/// The first byte says how the rest is cut into reads, what was asked, and by whom.
pub(crate) fn response_head(data: &[u8]) {
    let Some((&choice, wire)) = data.split_first() else {
        return;
    };
    let method = [Method::Get, Method::Head, Method::Post, Method::Connect][usize::from(choice % 4)];
    let client = if choice & 4 == 0 { Version::Http11 } else { Version::Http10 };
    let whole = parse_response_head(wire, method, &LIMITS);
    agree(&whole, wire, choice / 8, |cursor, bytes| cursor.response(bytes, method, &LIMITS));
    let Ok(Progress::Complete(head)) = whole else {
        return;
    };
    assert!(head.length <= wire.len() && (100..1_000).contains(&head.status));
    let mut written = Vec::new();
    let rewrite = ResponseRewrite { client, persistent: choice & 8 != 0, set: &[] };
    let framing = write_response_head(&mut written, &head, &rewrite).expect("nothing was given to set");
    let again = parse_response_head(&written, method, &ROOMY).map(Progress::complete);
    let again = again.expect("what we write is well-formed").expect("and whole");
    assert_eq!(again.length, written.len());
    assert_eq!((again.status, again.reason, again.framing), (head.status, head.reason, framing));
    assert_eq!(again.upgrade, head.upgrade);
    assert_eq!(count(&again.headers, HeaderName::XEnvoy), 0);
}

/// What a cursor finds out piece by piece must be what the whole says; only errors may come later.
fn agree<'b, T: Eq + core::fmt::Debug>(
    whole: &Result<Progress<T>, HeadError>,
    wire: &'b [u8],
    piece_bytes: u8,
    mut step: impl FnMut(&mut HeadCursor, &'b [u8]) -> Result<Progress<T>, HeadError>,
) {
    let mut cursor = HeadCursor::default();
    let step_bytes = usize::from(piece_bytes).max(1);
    let mut received = 0;
    while received < wire.len() {
        received = wire.len().min(received + step_bytes);
        let outcome = step(&mut cursor, &wire[..received]);
        if outcome != Ok(Progress::Partial) {
            assert_eq!(&outcome, whole);
            return;
        }
    }
    assert!(!matches!(whole, Ok(Progress::Complete(_))), "a whole head was held back");
}

#[derive(Debug, Eq, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    trailers: Vec<u8>,
    consumed: usize,
    end: bool,
}

/// The first byte says how the rest is cut into reads.
pub(crate) fn chunked(data: &[u8]) {
    let Some((&piece_bytes, wire)) = data.split_first() else {
        return;
    };
    let whole = decode(wire, wire.len());
    assert_eq!(decode(wire, usize::from(piece_bytes)), whole, "cuts change nothing");
    let Ok(decoded) = whole else {
        return;
    };
    assert!(decoded.data.len() <= decoded.consumed && decoded.consumed <= wire.len());
    if !decoded.end {
        return;
    }
    let mut written = Vec::new();
    if let Some(bytes) = NonZeroUsize::new(decoded.data.len()) {
        written.extend_from_slice(chunk_size_line(bytes).as_bytes());
        written.extend_from_slice(&decoded.data);
        written.extend_from_slice(b"\r\n");
    }
    write_last_chunk(&mut written, &decoded.trailers).expect("a Vec has room");
    let again = decode(&written, written.len()).expect("what we write is well-formed");
    assert_eq!(again, Decoded { consumed: written.len(), ..decoded });
}

fn decode(wire: &[u8], piece_bytes: usize) -> Result<Decoded, ChunkError> {
    let mut decoder = ChunkedDecoder::new();
    let mut all = Decoded { data: Vec::new(), trailers: Vec::new(), consumed: 0, end: false };
    for piece in wire.chunks(piece_bytes.max(1)) {
        let mut buffer = piece.to_vec();
        let decoded = decoder.feed(&mut buffer)?;
        assert_eq!(buffer[decoded.consumed..], piece[decoded.consumed..], "the next message is left alone");
        all.consumed += decoded.consumed;
        all.end = decoded.end;
        all.data.extend_from_slice(&buffer[decoded.data]);
        if decoded.end {
            break;
        }
    }
    all.trailers = decoder.trailers().to_vec();
    Ok(all)
}
