//! What goes on the wire in place of a head received, case by case.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use sluice_proto::http1::{
    Framing, HeadLimits, Method, RequestRewrite, ResponseRewrite, SliceSink, Version, WriteError,
    parse_request_head, parse_response_head, write_request_head, write_response_head,
};

fn upstream(wire: &str, rewrite: &RequestRewrite<'_>) -> Result<String, WriteError> {
    let head =
        parse_request_head(wire.as_bytes(), &HeadLimits::default()).unwrap().complete().expect("whole");
    let mut out = Vec::new();
    write_request_head(&mut out, &head, rewrite)?;
    Ok(String::from_utf8(out).unwrap())
}

/// The head sent upstream for `GET http://allowed.test/p` with these lines.
fn lines_upstream(lines: &str, rewrite: &RequestRewrite<'_>) -> String {
    let wire = format!("GET http://allowed.test/p HTTP/1.1\r\nHost: allowed.test\r\n{lines}\r\n\r\n");
    upstream(&wire, rewrite).unwrap()
}

const PLAIN: &str = "GET /p HTTP/1.1\r\nHost: allowed.test\r\nVia: 1.1 sluice\r\n\r\n";

#[track_caller]
fn stripped(lines: &str) {
    assert_eq!(lines_upstream(lines, &RequestRewrite::default()), PLAIN, "{lines:?}");
}

fn downstream(method: Method, wire: &str, rewrite: &ResponseRewrite<'_>) -> (String, Framing) {
    let head = parse_response_head(wire.as_bytes(), method, &HeadLimits::default())
        .unwrap()
        .complete()
        .expect("whole");
    let mut out = Vec::new();
    let framing = write_response_head(&mut out, &head, rewrite).unwrap();
    (String::from_utf8(out).unwrap(), framing)
}

const KEPT: ResponseRewrite<'static> =
    ResponseRewrite { client: Version::Http11, persistent: true, set: &[] };

#[test]
fn end_to_end_headers_go_on_as_they_are_in_order() {
    let lines = "Accept: */*\r\nX-Twice: 1\r\ncookie: a=b\r\nX-Twice: 2\r\nVia: 1.0 before\r\nAuthorization: Bearer x\r\nUser-Agent: u\r\nX-Empty: ";
    let expected = format!("GET /p HTTP/1.1\r\nHost: allowed.test\r\n{lines}\r\nVia: 1.1 sluice\r\n\r\n");
    assert_eq!(lines_upstream(lines, &RequestRewrite::default()), expected);
}

#[test]
fn host_is_that_of_an_absolute_target() {
    let wire = "GET http://allowed.test:8080/ HTTP/1.1\r\nHost: denied.test\r\n\r\n";
    let sent = upstream(wire, &RequestRewrite::default()).unwrap();
    assert_eq!(sent, "GET / HTTP/1.1\r\nHost: allowed.test:8080\r\nVia: 1.1 sluice\r\n\r\n");
}

#[test]
fn targets_become_origin_form() {
    for (line, expected) in [
        ("GET http://a.test", "GET / "),
        ("GET http://a.test?q", "GET /?q "),
        ("GET http://a.test/x?q", "GET /x?q "),
        ("OPTIONS http://a.test", "OPTIONS * "),
        ("OPTIONS *", "OPTIONS * "),
        ("PURGE /x", "PURGE /x "),
    ] {
        let sent = upstream(&format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n"), &RequestRewrite::default())
            .unwrap();
        assert!(sent.starts_with(expected), "{line}: {sent}");
    }
}

#[test]
fn http_1_0_is_sent_on_as_1_1_and_said_so_in_via() {
    let sent = upstream("GET http://a.test/ HTTP/1.0\r\n\r\n", &RequestRewrite::default()).unwrap();
    assert_eq!(sent, "GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 sluice\r\n\r\n");
    assert_eq!(upstream("GET / HTTP/1.0\r\n\r\n", &RequestRewrite::default()), Err(WriteError::NoHost));
}

#[test]
fn hop_by_hop_headers_are_removed() {
    stripped("Connection: keep-alive\r\nKeep-Alive: timeout=5");
    stripped("TE: trailers\r\nConnection: TE");
    stripped("Trailer: x-sum");
    stripped("Upgrade: foo/2\r\nConnection: upgrade");
}

#[test]
fn headers_that_connection_lists_are_removed() {
    stripped("X-Hop: 1\r\nConnection: close, x-hop, x-other\r\nx-HOP: 2\r\nX-Other: 3");
    stripped("x-late: 1\r\nConnection: a\r\nConnection: x-late");
}

#[test]
fn framing_and_host_cannot_be_listed_away() {
    let wire = "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: content-length, host\r\n\r\n";
    let sent = upstream(wire, &RequestRewrite::default()).unwrap();
    assert_eq!(sent, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nVia: 1.1 sluice\r\n\r\n");
}

#[test]
fn forged_identity_is_stripped() {
    stripped("X-Forwarded-Client-Cert: URI=spiffe://td/ns/admin/sa/x");
    stripped(
        "x-forwarded-for: 10.0.0.1\r\nX-FORWARDED-PROTO: https\r\nX-Forwarded-Host: a\r\nX_Forwarded_For: 1",
    );
    stripped("x-envoy-peer-metadata: CiA\r\nx-envoy-external-address: 1.2.3.4\r\nX-Envoy_Original-Path: /");
    stripped("Forwarded: for=10.0.0.1");
    stripped(
        "Proxy-Authorization: Basic YTpi\r\nProxy-Connection: keep-alive\r\nProxy-X: y\r\nProxy: http://evil.test",
    );
    stripped("x-sluice-reason: forged");
    stripped("baggage: k8s.namespace.name=payments");
}

#[test]
fn baggage_stays_where_the_caller_says_so() {
    let rewrite = RequestRewrite { keep_baggage: true, ..RequestRewrite::default() };
    assert!(lines_upstream("baggage: a=b", &rewrite).contains("\r\nbaggage: a=b\r\n"));
}

#[test]
fn h2c_and_its_settings_are_dropped() {
    let rewrite = RequestRewrite { upgrade: true, ..RequestRewrite::default() };
    let lines = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
    assert_eq!(lines_upstream(lines, &rewrite), PLAIN);
    stripped("HTTP2-Settings: AA");
}

#[test]
fn a_websocket_switch_goes_on_only_if_the_caller_lets_it() {
    let lines = "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\nSec-WebSocket-Key: x";
    let rewrite = RequestRewrite { upgrade: true, ..RequestRewrite::default() };
    let sent = lines_upstream(lines, &rewrite);
    assert!(sent.ends_with("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "{sent}");
    assert!(!sent.contains("h2c"));
    let held = lines_upstream(lines, &RequestRewrite::default());
    assert!(!held.contains("pgrade"), "{held}");
}

#[test]
fn request_bodies_are_framed_anew() {
    for (line, expected) in [
        ("content-length: 005", "Content-Length: 5"),
        ("Content-Length: 0", "Content-Length: 0"),
        ("transfer-encoding: CHUNKED", "Transfer-Encoding: chunked"),
    ] {
        let sent = lines_upstream(line, &RequestRewrite::default());
        assert_eq!(sent, PLAIN.replace("Via", &format!("{expected}\r\nVia")));
    }
    let sent = lines_upstream("Transfer-Encoding: chunked\r\nTrailer: x-sum", &RequestRewrite::default());
    assert!(sent.contains("\r\nTrailer: x-sum\r\n"));
}

#[test]
fn request_id_is_set_or_kept() {
    let set = RequestRewrite { request_id: Some(b"ours"), ..RequestRewrite::default() };
    let sent = lines_upstream("X-Request-Id: theirs", &set);
    assert!(sent.contains("\r\nx-request-id: ours\r\n") && !sent.contains("theirs"));
    assert!(
        lines_upstream("X-Request-Id: theirs", &RequestRewrite::default()).contains("X-Request-Id: theirs")
    );
}

#[test]
fn headers_set_replace_those_received() {
    let rewrite =
        RequestRewrite { set: &[("traceparent", b"00-new")], close: true, ..RequestRewrite::default() };
    let sent = lines_upstream("TraceParent: 00-old", &rewrite);
    assert_eq!(
        sent,
        PLAIN.replace("Via: 1.1 sluice", "traceparent: 00-new\r\nVia: 1.1 sluice\r\nConnection: close")
    );
}

#[test]
fn a_line_end_in_a_value_to_set_is_refused() {
    for rewrite in [
        RequestRewrite { request_id: Some(b"a\r\nX: y"), ..RequestRewrite::default() },
        RequestRewrite { host: Some(b"a\nb"), ..RequestRewrite::default() },
        RequestRewrite { set: &[("a b", b"x")], ..RequestRewrite::default() },
        RequestRewrite { set: &[("", b"x")], ..RequestRewrite::default() },
    ] {
        let sent = upstream("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", &rewrite);
        assert_eq!(sent, Err(WriteError::BadHeader), "{rewrite:?}");
    }
}

#[test]
fn expect_goes_on_if_the_caller_says_so() {
    let wait = RequestRewrite { expect_continue: true, ..RequestRewrite::default() };
    assert!(lines_upstream("Expect: 100-continue", &wait).contains("\r\nExpect: 100-continue\r\n"));
    stripped("Expect: 100-continue");
}

#[test]
fn max_forwards_is_lowered_for_options_and_trace_only() {
    for (method, expected) in [("OPTIONS", "2"), ("TRACE", "2"), ("GET", "3")] {
        let wire = format!("{method} / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 3\r\n\r\n");
        let sent = upstream(&wire, &RequestRewrite::default()).unwrap();
        assert!(sent.contains(&format!("\r\nMax-Forwards: {expected}\r\n")), "{sent}");
    }
}

#[test]
fn a_slice_takes_a_head_that_fits_and_no_other() {
    let head = parse_request_head(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", &HeadLimits::default());
    let head = head.unwrap().complete().unwrap();
    let mut whole = Vec::new();
    write_request_head(&mut whole, &head, &RequestRewrite::default()).unwrap();
    let mut room = vec![0; whole.len()];
    let mut sink = SliceSink::new(&mut room);
    write_request_head(&mut sink, &head, &RequestRewrite::default()).unwrap();
    assert_eq!(sink.used(), whole.len());
    assert_eq!(room, whole);
    room.pop();
    let full = write_request_head(&mut SliceSink::new(&mut room), &head, &RequestRewrite::default());
    assert_eq!(full, Err(WriteError::NoRoom));
}

// --- responses

#[test]
fn an_answer_is_written_anew() {
    let wire = "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nX-Hop: 1\r\nConnection: close, x-hop\r\nKeep-Alive: 5\r\nETag: e\r\n\r\n";
    let (sent, framing) = downstream(Method::Get, wire, &KEPT);
    assert_eq!(sent, "HTTP/1.1 200 Fine\r\nETag: e\r\nContent-Length: 5\r\nVia: 1.1 sluice\r\n\r\n");
    assert_eq!(framing, Framing::Length(5));
}

#[test]
fn an_origin_cannot_forge_what_we_or_a_sidecar_would_say() {
    let wire = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-sluice-reason: x\r\nx-envoy-peer-metadata: x\r\nProxy-Authenticate: x\r\n\r\n";
    let (sent, _) = downstream(Method::Get, wire, &KEPT);
    assert_eq!(sent, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVia: 1.1 sluice\r\n\r\n");
}

#[test]
fn persistence_is_said_as_the_client_understands_it() {
    let wire = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let connection = |client, persistent| {
        let (sent, _) = downstream(Method::Get, wire, &ResponseRewrite { client, persistent, set: &[] });
        sent.split("\r\n").find_map(|line| line.strip_prefix("Connection: ").map(str::to_owned))
    };
    assert_eq!(connection(Version::Http11, true), None);
    assert_eq!(connection(Version::Http11, false).as_deref(), Some("close"));
    assert_eq!(connection(Version::Http10, true).as_deref(), Some("keep-alive"));
    assert_eq!(connection(Version::Http10, false).as_deref(), Some("close"));
}

#[test]
fn a_body_that_ends_by_closing_is_chunked_for_1_1_and_closed_for_1_0() {
    let wire = "HTTP/1.0 200 OK\r\n\r\n";
    let (sent, framing) = downstream(Method::Get, wire, &KEPT);
    assert_eq!(sent, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVia: 1.0 sluice\r\n\r\n");
    assert_eq!(framing, Framing::Chunked);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n";
    let old = ResponseRewrite { client: Version::Http10, ..KEPT };
    let (sent, framing) = downstream(Method::Get, chunked, &old);
    assert_eq!(sent, "HTTP/1.1 200 OK\r\nVia: 1.1 sluice\r\nConnection: close\r\n\r\n");
    assert_eq!(framing, Framing::UntilClose);
}

#[test]
fn the_size_of_a_body_not_sent_is_told_where_it_may_be() {
    let wire = |status: u16| format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n");
    let told = |method, status| downstream(method, &wire(status), &KEPT).0.contains("Content-Length: 5");
    assert!(told(Method::Head, 200) && told(Method::Get, 304));
    assert!(!told(Method::Get, 204) && !told(Method::Head, 204));
}

#[test]
fn interim_answers_and_switches_go_on() {
    let (sent, _) = downstream(Method::Post, "HTTP/1.1 100 Continue\r\n\r\n", &KEPT);
    assert_eq!(sent, "HTTP/1.1 100 Continue\r\nVia: 1.1 sluice\r\n\r\n");
    let wire =
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let (sent, framing) = downstream(Method::Get, wire, &KEPT);
    assert!(sent.ends_with("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "{sent}");
    assert_eq!(framing, Framing::None);
}

#[test]
fn headers_set_on_an_answer_replace_those_received() {
    let wire = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: theirs\r\n\r\n";
    let (sent, _) =
        downstream(Method::Get, wire, &ResponseRewrite { set: &[("x-request-id", b"ours")], ..KEPT });
    assert!(sent.contains("x-request-id: ours") && !sent.contains("theirs"));
}
