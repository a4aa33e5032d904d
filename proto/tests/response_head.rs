//! What the response-head parser promises, case by case.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use sluice_proto::http1::{
    Framing, HeadCursor, HeadError, HeadLimits, Method, Progress, ResponseHead, Upgrade, Version,
    downstream_framing, parse_response_head,
};

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 32 * 1024, headers_max: 1_000 };

fn answer_to(method: Method, wire: &str) -> ResponseHead<'_> {
    match parse_response_head(wire.as_bytes(), method, &LIMITS) {
        Ok(Progress::Complete(head)) => head,
        other => panic!("{wire:?}: {other:?}"),
    }
}

fn head(wire: &str) -> ResponseHead<'_> {
    answer_to(Method::Get, wire)
}

#[track_caller]
fn refused(wire: &str) -> HeadError {
    let error = parse_response_head(wire.as_bytes(), Method::Get, &LIMITS).expect_err(wire);
    let mut cursor = HeadCursor::default();
    let by_byte =
        (1..=wire.len()).find_map(|end| cursor.response(&wire.as_bytes()[..end], Method::Get, &LIMITS).err());
    assert_eq!(by_byte, Some(error), "{wire:?} byte by byte");
    error
}

#[test]
fn an_ordinary_answer_gives_all_its_facts() {
    let wire = "HTTP/1.1 200 All right\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\nhello";
    let head = head(wire);
    assert_eq!((head.status, head.reason, head.version), (200, &b"All right"[..], Version::Http11));
    assert_eq!((head.framing, head.content_length), (Framing::Length(5), Some(5)));
    assert_eq!(head.length, wire.len() - 5);
    assert!(head.persistent && !head.is_interim());
    assert_eq!(head.headers.get("etag"), Some(&b"\"x\""[..]));
}

#[test]
fn names_that_some_read_as_framing_are_refused() {
    for line in ["Content_Length: 0", "content.length: 0", "Transfer_Encoding: chunked"] {
        for honest in ["", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"] {
            let wire = format!("HTTP/1.1 200 OK\r\n{honest}{line}\r\n\r\n");
            assert!(matches!(refused(&wire), HeadError::Malformed(_)));
        }
    }
    assert_eq!(
        head("HTTP/1.1 200 OK\r\nContent_Type: x\r\n\r\n").headers.get("content_type"),
        Some(&b"x"[..])
    );
}

#[test]
fn a_reason_may_be_empty_and_its_space_missing() {
    assert_eq!(head("HTTP/1.1 204 \r\n\r\n").reason, b"");
    assert_eq!(head("HTTP/1.1 204\r\n\r\n").reason, b"");
    assert_eq!(head("HTTP/1.1 999 \u{e9}\t!\r\n\r\n").status, 999);
}

#[test]
fn bodies_end_as_method_status_and_headers_say() {
    let length = "Content-Length: 5\r\n";
    let framing = |method, status: u16, lines: &str| {
        answer_to(method, &format!("HTTP/1.1 {status} x\r\n{lines}\r\n")).framing
    };
    assert_eq!(framing(Method::Get, 200, ""), Framing::UntilClose);
    assert_eq!(framing(Method::Get, 200, length), Framing::Length(5));
    assert_eq!(framing(Method::Get, 200, "transfer-encoding: chunked\r\n"), Framing::Chunked);
    assert_eq!(framing(Method::Head, 200, length), Framing::None);
    assert_eq!(framing(Method::Head, 404, "Transfer-Encoding: chunked\r\n"), Framing::None);
    for status in [100, 101, 103, 199, 204, 304] {
        assert_eq!(framing(Method::Get, status, ""), Framing::None, "{status}");
        assert_eq!(framing(Method::Get, status, "Content-Length: 0\r\n"), Framing::None, "{status}");
    }
    for status in [204, 304] {
        assert_eq!(framing(Method::Get, status, length), Framing::None, "{status}");
    }
    assert_eq!(framing(Method::Connect, 200, length), Framing::None);
    assert_eq!(framing(Method::Connect, 407, length), Framing::Length(5));
}

#[test]
fn interim_answers_are_told_apart_from_a_switch() {
    assert!(head("HTTP/1.1 100 Continue\r\n\r\n").is_interim());
    assert!(head("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").is_interim());
    let switch = head("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(
        (switch.is_interim(), switch.upgrade, switch.persistent),
        (false, Some(Upgrade::WebSocket), false)
    );
    assert_eq!(head("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n").upgrade, None);
    assert_eq!(head("HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n").upgrade, None);
    for other in [
        "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n",
        "HTTP/1.0 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        assert_eq!(head(other).upgrade, None, "{other:?}");
    }
}

#[test]
fn an_answer_that_has_no_body_must_not_announce_one() {
    for status in [100, 101, 103, 199] {
        for line in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
            refused(&format!("HTTP/1.1 {status} x\r\n{line}\r\n\r\n"));
        }
    }
    let persistent = |wire: &str| head(wire).persistent;
    assert!(
        persistent("HTTP/1.1 204 x\r\n\r\n") && persistent("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n")
    );
    assert!(!persistent("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n"));
    assert!(!persistent("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n"));
    // The size that a GET would have got.
    assert!(persistent("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n"));
}

#[test]
fn a_connection_lives_on_only_if_both_version_and_options_say_so() {
    let persistent = |version: &str, lines: &str| {
        head(&format!("{version} 200 x\r\nContent-Length: 0\r\n{lines}\r\n")).persistent
    };
    assert!(persistent("HTTP/1.1", ""));
    assert!(!persistent("HTTP/1.1", "Connection: close\r\n"));
    assert!(!persistent("HTTP/1.0", ""));
    assert!(persistent("HTTP/1.0", "Connection: keep-alive\r\n"));
    assert!(!head("HTTP/1.1 200 x\r\nConnection: keep-alive\r\n\r\n").persistent, "ends by closing");
}

#[test]
fn ambiguous_framing_is_refused() {
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        "X: a\r\n b",
        "X: a\nb",
        ": x",
    ] {
        refused(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n"));
    }
    refused("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn status_lines_out_of_shape_are_refused() {
    for line in [
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1200 OK",
        "HTTP/1.1 200OK",
        "200 OK",
        "<html>",
        "HTTP/1.1 200 O\0K",
        "\r\nHTTP/1.1 200 OK",
        "SSH-2.0-x",
        "HTTP/1.1 -20 OK",
    ] {
        refused(&format!("{line}\r\n\r\n"));
    }
    assert_eq!(refused("HTTP/2.0 200 OK\r\n\r\n"), HeadError::UnsupportedVersion);
}

#[test]
fn every_strict_prefix_is_partial() {
    let wire = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
    for end in 0..wire.len() {
        let parsed = parse_response_head(&wire.as_bytes()[..end], Method::Get, &LIMITS);
        assert_eq!(parsed, Ok(Progress::Partial), "{end}");
    }
}

#[test]
fn a_head_over_the_limits_is_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    assert_eq!(refused(&long), HeadError::TooLarge);
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:\r\n".repeat(1_001));
    assert_eq!(refused(&many), HeadError::TooManyHeaders);
}

#[test]
fn framing_is_translated_between_versions() {
    use Framing::{Chunked, Length, None, UntilClose};
    for (upstream, to_1_0, to_1_1) in [
        (None, None, None),
        (Length(5), Length(5), Length(5)),
        (Chunked, UntilClose, Chunked),
        (UntilClose, UntilClose, Chunked),
    ] {
        assert_eq!(downstream_framing(upstream, Version::Http10), to_1_0);
        assert_eq!(downstream_framing(upstream, Version::Http11), to_1_1);
    }
}
