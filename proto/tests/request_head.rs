//! What the request-head parser promises, case by case; the malformed ones stand by the names of their classes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use sluice_proto::http1::{
    Authority, Framing, HeadCursor, HeadError, HeadLimits, HeaderName, Method, Progress, RequestHead, Scheme,
    Target, Upgrade, Version, parse_request_head,
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 32 * 1024, headers_max: 1_000 };

fn parse(wire: &[u8]) -> Result<Progress<RequestHead<'_>>, HeadError> {
    parse_request_head(wire, &LIMITS)
}

fn head(wire: &str) -> RequestHead<'_> {
    match parse(wire.as_bytes()) {
        Ok(Progress::Complete(head)) => head,
        other => panic!("{wire:?}: {other:?}"),
    }
}

/// Asserts an answer of 400 however the bytes are cut into reads, and that nothing is held back until the end of the
/// head once the wrong byte is there and the head is whole.
#[track_caller]
fn refused(wire: impl AsRef<[u8]>) {
    refused_with(400, wire.as_ref());
}

#[track_caller]
fn refused_with(status: u16, wire: &[u8]) {
    let shown = String::from_utf8_lossy(wire);
    let error = parse(wire).expect_err(&shown);
    assert_eq!(error.status(), status, "{shown:?}: {error}");
    let mut cursor = HeadCursor::default();
    let by_byte = (1..=wire.len()).find_map(|end| cursor.request(&wire[..end], &LIMITS).err());
    assert_eq!(by_byte, Some(error), "{shown:?} byte by byte");
}

/// A request with these lines after a valid request line and Host.
#[track_caller]
fn refused_lines(lines: &str) {
    refused(format!("POST / HTTP/1.1\r\nHost: allowed.test\r\n{lines}\r\n\r\n"));
}

fn authority(host: &str, port: Option<u16>) -> Authority<'_> {
    Authority { host: host.as_bytes(), port }
}

// --- what is accepted

#[test]
fn an_origin_form_get_gives_all_its_facts() {
    let wire =
        "GET /a?b=c HTTP/1.1\r\nHost: allowed.test:8080\r\nuser-agent:  curl/8 \t\r\nX-Empty:\r\n\r\nrest";
    let head = head(wire);
    assert_eq!((head.method, head.method_name), (Method::Get, &b"GET"[..]));
    assert_eq!(head.target, Target::Origin(b"/a?b=c"));
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.host, Some(authority("allowed.test", Some(8080))));
    assert_eq!(head.authority(), head.host);
    assert_eq!(head.framing, Framing::None);
    assert_eq!(head.length, wire.len() - "rest".len());
    assert!(head.persistent && !head.expect_continue && head.upgrade.is_none());
    assert_eq!(head.headers.len(), 3);
    assert_eq!(head.headers.find(HeaderName::UserAgent), Some(&b"curl/8"[..]));
    assert_eq!(head.headers.get("x-empty"), Some(&b""[..]));
    assert_eq!(head.headers.get("absent"), None);
}

#[test]
fn absolute_form_names_its_own_host() {
    for (target, expected_authority, expected_path) in [
        ("http://allowed.test/uuid?x", authority("allowed.test", None), "/uuid?x"),
        ("HTTP://AlLoWeD.TeSt.:8080", authority("AlLoWeD.TeSt.", Some(8080)), ""),
        ("http://_db.allowed.test?q=/", authority("_db.allowed.test", None), "?q=/"),
        ("http://[2001:db8::1]:80/", authority("[2001:db8::1]", Some(80)), "/"),
        ("http://192.0.2.1/@:?", authority("192.0.2.1", None), "/@:?"),
    ] {
        let wire = format!("GET {target} HTTP/1.1\r\nHost: denied.test\r\n\r\n");
        let head = head(&wire);
        let path = expected_path.as_bytes();
        assert_eq!(
            head.target,
            Target::Absolute { scheme: Scheme::Http, authority: expected_authority, path }
        );
        assert_eq!(head.authority(), Some(expected_authority));
        assert_eq!(head.host, Some(authority("denied.test", None)));
    }
}

#[test]
fn absolute_form_https_is_told_apart_for_the_caller_to_refuse() {
    let head = head("GET https://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    assert!(matches!(head.target, Target::Absolute { scheme: Scheme::Https, .. }));
}

#[test]
fn connect_is_authority_form() {
    for (target, host, port) in [("allowed.test:443", "allowed.test", 443), ("[::1]:65535", "[::1]", 65535)] {
        let wire = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let head = head(&wire);
        assert_eq!(head.target, Target::Authority(authority(host, Some(port))));
        assert_eq!(head.framing, Framing::None);
    }
}

#[test]
fn options_may_ask_for_the_server_as_a_whole() {
    assert_eq!(head("OPTIONS * HTTP/1.1\r\nHost: allowed.test\r\n\r\n").target, Target::Asterisk);
    refused("GET * HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
}

#[test]
fn http_1_0_needs_no_host_and_closes_unless_asked() {
    let plain = head("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((plain.version, plain.host, plain.persistent), (Version::Http10, None, false));
    assert!(head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").persistent);
    assert!(!head("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n").persistent);
}

#[test]
fn connection_options_are_collected_over_lines() {
    let head = head("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: , CLOSE ,\r\nconnection: x-hop\r\n\r\n");
    assert!(head.connection.close && head.connection.listed && !head.connection.keep_alive);
    assert!(!head.persistent);
}

#[test]
fn bodies_are_framed_by_length_or_chunks() {
    let framing = |line: &str| head(&format!("POST / HTTP/1.1\r\nHost: a.test\r\n{line}\r\n\r\n")).framing;
    assert_eq!(framing("Content-Length: 0"), Framing::Length(0));
    assert_eq!(framing("content-length: 18446744073709551615"), Framing::Length(u64::MAX));
    assert_eq!(framing("Transfer-Encoding: Chunked"), Framing::Chunked);
    assert_eq!(framing("X: y"), Framing::None);
}

#[test]
fn expect_continue_is_told_and_others_are_417() {
    let wire = |version, value| format!("PUT / {version}\r\nHost: a.test\r\nExpect: {value}\r\n\r\n");
    assert!(head(&wire("HTTP/1.1", "100-Continue")).expect_continue);
    assert!(!head(&wire("HTTP/1.0", "100-continue")).expect_continue);
    refused_with(417, wire("HTTP/1.1", "200-ok").as_bytes());
}

#[test]
fn one_empty_line_before_a_request_is_forgiven_and_counted() {
    let wire = "\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(head(wire).length, wire.len());
    refused("\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn an_unknown_method_is_kept_as_sent() {
    let wire = "PROPFIND / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let head = head(wire);
    assert_eq!((head.method, head.method_name), (Method::Other, &b"PROPFIND"[..]));
    assert!(!head.method.is_idempotent() && Method::Put.is_idempotent() && !Method::Post.is_idempotent());
}

#[test]
fn obs_text_and_tabs_are_legal_in_values() {
    let wire = b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\tb\xff\xc3\xa9\r\n\r\n";
    let Ok(Progress::Complete(head)) = parse(wire) else { panic!() };
    assert_eq!(head.headers.get("x"), Some(&b"a\tb\xff\xc3\xa9"[..]));
}

#[test]
fn more_headers_than_the_inline_room_are_kept_in_order() {
    let lines: String = (0..200).map(|number| format!("x-{number}: {number}\r\n")).collect();
    let wire = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    let head = head(&wire);
    assert_eq!(head.headers.len(), 201);
    let last = head.headers.iter().last().unwrap();
    assert_eq!((last.name, last.value), (&b"x-199"[..], &b"199"[..]));
    assert_eq!(head.headers.get("X-150"), Some(&b"150"[..]));
}

#[test]
fn every_strict_prefix_is_partial_and_every_cut_gives_the_same() {
    let wire = "POST http://a.test:81/x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    let whole = parse(wire.as_bytes()).unwrap();
    let length = head(wire).length;
    let mut cursor = HeadCursor::default();
    for end in 0..wire.len() {
        let bytes = &wire.as_bytes()[..end];
        let expected = if end < length { Progress::Partial } else { whole.clone() };
        assert_eq!(parse(bytes), Ok(expected), "{end}");
        if end < length {
            assert_eq!(cursor.request(bytes, &LIMITS), Ok(Progress::Partial));
        }
    }
    assert_eq!(cursor.request(wire.as_bytes(), &LIMITS), Ok(whole));
}

// --- absolute-form vs Host: the request target counts, the Host must still be sound

#[test]
fn absolute_form_with_an_unsound_host_is_refused() {
    for host in ["Host:", "Host: a.test\r\nHost: a.test", "Host: u@a.test", "X: y"] {
        refused(format!("GET http://allowed.test/ HTTP/1.1\r\n{host}\r\n\r\n"));
    }
}

#[test]
fn targets_of_no_form_are_refused() {
    for target in [
        "",
        "allowed.test",
        "allowed.test:80",
        "ftp://allowed.test/",
        "http:/allowed.test",
        "http://",
        "http:///x",
        "http://allowed.test:/",
        "http://allowed.test:80x/",
        "http://al\\lowed.test/",
        "/#fragment",
        "/a\x7f",
        "http://a.test\\@denied.test/",
        "http://a.test%2f/",
    ] {
        refused(format!("GET {target} HTTP/1.1\r\nHost: allowed.test\r\n\r\n"));
    }
}

// --- dup/missing/empty Host

#[test]
fn missing_host_is_refused() {
    refused("GET / HTTP/1.1\r\nX: y\r\n\r\n");
    refused("GET / HTTP/1.1\r\n\r\n");
    refused("CONNECT allowed.test:443 HTTP/1.1\r\n\r\n");
}

#[test]
fn empty_host_is_refused() {
    refused("GET / HTTP/1.1\r\nHost:\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: \t \r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: :80\r\n\r\n");
}

#[test]
fn duplicate_host_is_refused() {
    refused("GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: denied.test\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: allowed.test\r\nhOST: allowed.test\r\n\r\n");
    refused("GET / HTTP/1.0\r\nHost: allowed.test\r\nHost: allowed.test\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: allowed.test, denied.test\r\n\r\n");
}

#[test]
fn hosts_that_are_no_host_are_refused() {
    for host in [
        "\u{0430}llowed.test",
        "allowed\u{3002}test",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a%41",
        "a\\b",
        "a;b",
        "\"a\"",
    ] {
        refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    refused(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n");
}

// --- brackets, userinfo, ports

#[test]
fn connect_brackets_are_for_ipv6_only() {
    for target in
        ["[denied.test]:443", "[1.2.3.4]:443", "[::1:443", "::1:443", "[]:443", "[::1]x:443", "[::1]"]
    {
        refused(format!("CONNECT {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        refused(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", target.replace("[::1]", "[::g]")));
    }
}

#[test]
fn zone_ids_are_refused() {
    refused("CONNECT [fe80::1%25lo]:80 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    refused("CONNECT [fe80::1%lo]:80 HTTP/1.1\r\nHost: a.test\r\n\r\n");
}

#[test]
fn userinfo_is_refused() {
    for target in ["u@denied.test:443", "denied.test:443@allowed.test:443", "u:p@denied.test:443"] {
        refused(format!("CONNECT {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        refused(format!("GET http://{target}/ HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        refused(format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    }
}

#[test]
fn ports_are_plain_digits_from_1_to_65535() {
    for port in [
        "+443",
        "65979",
        "65536",
        "0",
        "-1",
        "0443",
        "4 43",
        "0x1bb",
        "443a",
        "99999999999999999999",
        "\u{ff14}",
    ] {
        refused(format!("CONNECT allowed.test:{port} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        refused(format!("GET / HTTP/1.1\r\nHost: allowed.test:{port}\r\n\r\n"));
    }
}

// --- CONNECT port

#[test]
fn connect_without_a_port_is_refused() {
    refused("CONNECT allowed.test HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    refused("CONNECT allowed.test: HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    refused("CONNECT http://allowed.test:443/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
    refused("CONNECT /path HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
}

#[test]
fn connect_with_a_body_is_refused() {
    for line in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        refused(format!("CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test\r\n{line}\r\n\r\n"));
    }
}

// --- HTTP/1 framing

#[test]
fn content_length_beside_transfer_encoding_is_refused() {
    refused_lines("Content-Length: 5\r\nTransfer-Encoding: chunked");
    refused_lines("Transfer-Encoding: chunked\r\nContent-Length: 5");
}

#[test]
fn transfer_encodings_other_than_chunked_are_refused() {
    for value in [
        "chunked, identity",
        "xchunked",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "chunked;q=1",
        "",
        "\"chunked\"",
    ] {
        refused_lines(&format!("Transfer-Encoding: {value}"));
    }
    refused_lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked");
    refused_lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity");
}

#[test]
fn space_before_the_colon_is_refused() {
    refused_lines("Transfer-Encoding : chunked");
    refused_lines("Transfer-Encoding\t: chunked");
    refused_lines(" Transfer-Encoding: chunked");
}

#[test]
fn a_control_character_in_a_value_is_refused() {
    for byte in (0..0x20u8).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n')) {
        refused_lines(&format!("Transfer-Encoding: {}chunked", char::from(byte)));
        refused_lines(&format!("X: a{}", char::from(byte)));
    }
}

#[test]
fn a_folded_line_is_refused() {
    refused_lines("X: a\r\n b");
    refused_lines("X: a\r\n\tb");
    refused("GET / HTTP/1.1\r\n Host: allowed.test\r\n\r\n");
}

#[test]
fn bare_lf_is_refused() {
    refused("GET / HTTP/1.1\nHost: allowed.test\r\n\r\n");
    refused_lines("X: a\nY: b");
    refused("GET / HTTP/1.1\r\nHost: allowed.test\r\n\n");
    refused("\nGET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
}

#[test]
fn bare_cr_is_refused() {
    refused_lines("X: a\rY: b");
    refused("GET / HTTP/1.1\rHost: allowed.test\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\r\n");
    refused_lines("X: a\r\r");
}

#[test]
fn content_lengths_that_are_no_plain_number_are_refused() {
    for value in
        ["5,6", "5, 5", "+5", "-5", "0x5", "5_0", "5 0", "5.", "", "\"5\"", "5;", "18446744073709551616"]
    {
        refused_lines(&format!("Content-Length: {value}"));
    }
}

#[test]
fn content_length_twice_is_refused() {
    refused_lines("Content-Length: 5\r\nContent-Length: 6");
    refused_lines("Content-Length: 5\r\nContent-Length: 5");
}

/// CGI and its kin read `_` for `-`; some read any punctuation so.
#[test]
fn names_that_some_read_as_framing_are_refused() {
    for line in [
        "Content_Length: 5",
        "content_length: 0",
        "CONTENT_LENGTH:",
        "Content.Length: 5",
        "Content~Length: 5",
        "Transfer_Encoding: chunked",
        "tRANSFER_eNCODING: identity",
        "Transfer.Encoding: chunked",
        "Content_Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer_Encoding: chunked",
        "Connection: Content_Length\r\nContent_Length: 5",
    ] {
        refused_lines(line);
    }
}

#[test]
fn other_underscores_are_names_like_any_other() {
    for name in [
        "X_Y",
        "_",
        "Content_Type",
        "Content_Lengths",
        "Content-Length_",
        "Content_Lengt_",
        "ContentxLength",
        "Content0Length",
        "Contentlength_",
        "X_Content_Length",
        "Transfer_Encodings",
        "Transfer_Codings__",
    ] {
        let wire = format!("GET / HTTP/1.1\r\nHost: allowed.test\r\n{name}: 5\r\n\r\n");
        let head = head(&wire);
        assert_eq!((head.framing, head.headers.get(name)), (Framing::None, Some(&b"5"[..])), "{name}");
        assert_eq!(head.headers.iter().last().map(|header| header.id), Some(HeaderName::Other), "{name}");
    }
}

#[test]
fn nul_is_refused_everywhere() {
    for wire in [
        "G\0T / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.1\0\r\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHo\0st: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0.test\r\n\r\n",
    ] {
        refused(wire);
    }
}

#[test]
fn a_header_without_a_name_is_refused() {
    refused_lines(": x");
    refused_lines(":");
    refused_lines("no colon");
    refused_lines("na(me: x");
    refused_lines("n\u{e4}me: x");
}

#[test]
fn transfer_encoding_in_http_1_0_is_refused() {
    refused("POST / HTTP/1.0\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn request_lines_out_of_shape_are_refused() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /",
        "GET / HTTX/1.1",
        "GET / HTTP/1.1x",
        "GET / http/1.1",
        "GET / HTTP/11",
        "GET",
        "(GET) / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\u{e4} HTTP/1.1",
    ] {
        refused(format!("{line}\r\nHost: allowed.test\r\n\r\n"));
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2"] {
        refused_with(505, format!("GET / {version}\r\nHost: a.test\r\n\r\n").as_bytes());
    }
    refused("\x16\x03\x01");
}

#[test]
fn garbage_is_refused_before_a_head_could_be_whole() {
    assert!(parse(b"SSH-2.0-x\r\n").is_err());
    assert!(parse(b"\x16\x03\x01\x02\x00").is_err());
    assert!(parse(b"\0").is_err());
}

// --- h2c, WebSocket

#[test]
fn only_a_proper_websocket_switch_is_told() {
    let upgrade = |request_line: &str, lines: &str| {
        head(&format!("{request_line}\r\nHost: a.test\r\n{lines}\r\n\r\n")).upgrade
    };
    let get = "GET / HTTP/1.1";
    assert_eq!(upgrade(get, "Connection: Upgrade\r\nUpgrade: WebSocket"), Some(Upgrade::WebSocket));
    assert_eq!(upgrade(get, "Connection: x, upgrade\r\nUpgrade: h2c, websocket"), Some(Upgrade::WebSocket));
    assert_eq!(
        upgrade(get, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA"),
        None
    );
    assert_eq!(upgrade(get, "Upgrade: websocket"), None);
    assert_eq!(upgrade(get, "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3"), None);
    assert_eq!(upgrade("POST / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket"), None);
    assert_eq!(upgrade("GET / HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket"), None);
}

// --- forged identity (see also tests/rewrite.rs)

#[test]
fn credentials_twice_are_refused() {
    refused_lines("Proxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpi");
}

// --- limits

#[test]
fn a_head_over_the_limit_is_431() {
    let filler = "a".repeat(40 * 1024);
    refused_with(431, format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {filler}\r\n\r\n").as_bytes());
    refused_with(431, format!("GET /{filler} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes());
    refused_with(431, filler.as_bytes());
    refused_with(
        431,
        format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}: x\r\n\r\n", "n".repeat(1_025)).as_bytes(),
    );
}

#[test]
fn the_byte_limit_is_exact() {
    let wire = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let limits = |head_bytes_max| HeadLimits { head_bytes_max, ..LIMITS };
    assert!(matches!(parse_request_head(wire.as_bytes(), &limits(wire.len())), Ok(Progress::Complete(_))));
    let short = parse_request_head(wire.as_bytes(), &limits(wire.len() - 1));
    assert_eq!(short, Err(HeadError::TooLarge));
}

#[test]
fn ten_thousand_headers_are_431_by_count_and_by_size() {
    let wire = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "a:\r\n".repeat(10_000));
    assert_eq!(parse(wire.as_bytes()), Err(HeadError::TooManyHeaders));
    let many = HeadLimits { headers_max: 20_000, ..LIMITS };
    assert_eq!(parse_request_head(wire.as_bytes(), &many), Err(HeadError::TooLarge));
    let roomy = HeadLimits { head_bytes_max: 1 << 20, headers_max: 10_001 };
    assert!(matches!(parse_request_head(wire.as_bytes(), &roomy), Ok(Progress::Complete(_))));
}

#[test]
fn a_head_of_one_mib_is_431_after_the_limit_only() {
    let wire = vec![b'a'; 1 << 20];
    assert_eq!(parse(&wire), Err(HeadError::TooLarge));
    assert_eq!(parse(&wire[..LIMITS.head_bytes_max - 1]), Ok(Progress::Partial));
}

#[test]
fn too_many_connection_options_are_refused() {
    refused_lines(&format!("Connection: {}", "a,".repeat(65)));
}

#[test]
fn the_end_of_a_head_is_seen_wherever_it_is_cut() {
    let wire = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\na body\r\n";
    let end = wire.len() - b"a body\r\n".len();
    for cut in 1..end {
        let mut cursor = HeadCursor::default();
        assert!(!cursor.has_end(&wire[..cut]), "{cut}");
        // The rest comes at once, body and all.
        assert!(cursor.has_end(wire), "{cut}");
    }
    assert!(!HeadCursor::default().has_end(b"\r\nGET / HTTP/1.1\r\n"));
}
