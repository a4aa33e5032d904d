//! What reading costs: no allocation on the hot paths, memory only for bytes that came, work linear in them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::hint::black_box;

use sluice_proto::basic;
use sluice_proto::http1::{
    ChunkedDecoder, HeadCursor, HeadLimits, Method, RequestRewrite, ResponseRewrite, SliceSink, Version,
    parse_request_head, parse_response_head, write_request_head, write_response_head,
};
use sluice_proto::tls::HelloParser;
use support::Hello;

#[track_caller]
fn allocates_nothing(call: impl FnOnce()) {
    let counted = allocation_counter::measure(call);
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

#[test]
fn a_hello_whole_in_one_record_and_read_is_not_copied() {
    let wire = Hello::browser(b"allowed.test").record();
    allocates_nothing(|| {
        let mut parser = HelloParser::new(64 * 1024);
        black_box(parser.feed(black_box(&wire)).unwrap().unwrap());
    });
}

#[test]
fn a_hello_that_announces_much_is_given_memory_for_what_came() {
    let counted = allocation_counter::measure(|| {
        let mut parser = HelloParser::new(64 * 1024);
        assert_eq!(parser.feed(b"\x16\x03\x01\x40\x00\x01\x00\xf0\x00 and no more"), Ok(None));
        black_box(&parser);
    });
    assert!(counted.bytes_max < 1_024, "{counted:?}");
}

#[test]
fn heads_of_up_to_24_headers_are_read_and_written_without_allocating() {
    let lines: String = (0..23).map(|number| format!("x-{number}: value\r\n")).collect();
    let request = format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n{lines}\r\n");
    let limits = HeadLimits::default();
    let mut room = [0; 4_096];
    allocates_nothing(|| {
        let head = parse_request_head(request.as_bytes(), &limits).unwrap().complete().unwrap();
        write_request_head(&mut SliceSink::new(&mut room), &head, &RequestRewrite::default()).unwrap();
        let head =
            parse_response_head(response.as_bytes(), Method::Get, &limits).unwrap().complete().unwrap();
        let rewrite = ResponseRewrite { client: Version::Http11, persistent: true, set: &[] };
        write_response_head(&mut SliceSink::new(&mut room), &head, &rewrite).unwrap();
    });
}

#[test]
fn chunks_and_credentials_are_read_without_allocating() {
    let mut body = *b"5\r\nhello\r\n1;a=b\r\n,\r\n6\r\n world\r\n";
    allocates_nothing(|| {
        black_box(ChunkedDecoder::new().feed(&mut body).unwrap());
        black_box(basic::proxy_authorization(b"Basic aWRnZW46czNjcmV0").unwrap());
    });
}

/// A head read byte by byte is parsed a logarithmic number of times: each parse that allocates (more than 24 headers)
/// is counted by its allocations.
#[test]
fn a_head_read_byte_by_byte_is_parsed_a_few_times_only() {
    let lines: String = (0..500).map(|number| format!("x-{number}: value\r\n")).collect();
    let wire = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n");
    let limits = HeadLimits::default();
    let once = allocation_counter::measure(|| {
        black_box(parse_request_head(wire.as_bytes(), &limits).unwrap().complete().unwrap());
    });
    assert!(once.count_total > 0);
    let mut cursor = HeadCursor::default();
    let all = allocation_counter::measure(|| {
        for end in 1..=wire.len() {
            black_box(cursor.request(&wire.as_bytes()[..end], &limits).unwrap());
        }
    });
    assert!(all.count_total < 8 * once.count_total, "{all:?} against {once:?}");
}
