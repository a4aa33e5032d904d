//! Times the parsers of `proto` and counts their allocations: `cargo run --release -p sluice-bench --bin micro_proto`.
//! Knows nothing of the network. Exits with 1 when something that must not allocate does, or (with `--check`, for
//! optimised builds) when a bound on time is broken.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sluice_proto::http1::{
    ChunkedDecoder, HeadCursor, HeadLimits, Method, Progress, RequestRewrite, SliceSink, chunk_size_line,
    parse_request_head, parse_response_head, write_request_head,
};
use sluice_proto::tls::HelloParser;

/// One measured call. Bounds are generous towards a shared machine; absent ones are for information.
struct Case<'a> {
    name: &'a str,
    allocations_max: u64,
    nanoseconds_max: Option<f64>,
    call: &'a mut dyn FnMut(),
}

const ROUNDS: usize = 300;
const ROUND: Duration = Duration::from_micros(500);

fn main() -> ExitCode {
    let check_time = std::env::args().any(|argument| argument == "--check");
    println!("{:<46} {:>12} {:>15}", "call", "ns/op", "allocations/op");
    let mut failed = false;
    let mut measure = |name, allocations_max, nanoseconds_max, call: &mut dyn FnMut()| {
        failed |= !Case { name, allocations_max, nanoseconds_max, call }.run(check_time);
    };

    let limits = HeadLimits::default();
    assert!(matches!(parse_request_head(BROWSER_GET, &limits), Ok(Progress::Complete(_))));
    measure("request head, browser GET, 9 headers", 0, Some(400.0), &mut || {
        black_box(parse_request_head(black_box(BROWSER_GET), &limits).is_ok());
    });
    measure("request head, the same through a cursor", 0, Some(420.0), &mut || {
        black_box(HeadCursor::default().request(black_box(BROWSER_GET), &limits).is_ok());
    });
    measure("request head, curl through a proxy", 0, Some(300.0), &mut || {
        black_box(parse_request_head(black_box(CURL_PROXY_GET), &limits).is_ok());
    });
    measure("CONNECT head", 0, Some(300.0), &mut || {
        black_box(parse_request_head(black_box(CONNECT), &limits).is_ok());
    });
    measure("response head, 8 headers", 0, Some(400.0), &mut || {
        black_box(parse_response_head(black_box(RESPONSE), Method::Get, &limits).is_ok());
    });
    let mut room = [0; 2_048];
    let head = parse_request_head(BROWSER_GET, &limits).ok().and_then(Progress::complete);
    let head = head.expect("invariant: it was parsed above");
    let rewrite = RequestRewrite { request_id: Some(b"0123456789abcdef"), ..RequestRewrite::default() };
    measure("request head written anew", 0, None, &mut || {
        let mut sink = SliceSink::new(&mut room);
        black_box(write_request_head(&mut sink, black_box(&head), &rewrite).is_ok());
    });
    let slow_head = [&BROWSER_GET[..BROWSER_GET.len() - 2], &[b'h'; 30_000]].concat();
    measure("request head, 30 KB in one-byte reads (all)", 64, None, &mut || {
        let mut cursor = HeadCursor::default();
        for end in 1..=slow_head.len() {
            let _ = black_box(cursor.request(&slow_head[..end], &limits).is_ok());
        }
    });

    let small = hello(517);
    let post_quantum = hello(1_800);
    let padded = hello(20 * 1_024);
    measure("ClientHello, 517 bytes", 0, Some(400.0), &mut || feed(&small, small.len()));
    measure("ClientHello, post-quantum, one read", 0, Some(400.0), &mut || {
        feed(&post_quantum, post_quantum.len());
    });
    measure("ClientHello, post-quantum, two reads", 8, None, &mut || feed(&post_quantum, 1_400));
    measure("ClientHello, 20 KiB, one-byte reads (all)", 32, None, &mut || feed(&padded, 1));

    let received = chunked_body();
    let mut buffer = received.clone();
    measure("chunked, 64 KiB in 16 chunks, decoded in place", 0, None, &mut || {
        buffer.copy_from_slice(&received);
        black_box(ChunkedDecoder::new().feed(black_box(&mut buffer)).is_ok());
    });
    measure("the same buffer copied only", 0, None, &mut || {
        buffer.copy_from_slice(black_box(&received));
        black_box(&mut buffer);
    });
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Case<'_> {
    /// Prints one line; whether every bound holds. The time is that of the best round: others on the machine only ever add.
    fn run(&mut self, check_time: bool) -> bool {
        (self.call)(); // warm
        let allocations = allocation_counter::measure(|| (self.call)()).count_total;
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| self.round()).collect();
        rounds.sort_unstable_by(f64::total_cmp);
        let nanoseconds = rounds[0];
        println!("{:<46} {nanoseconds:>12.1} {allocations:>15}", self.name);
        let slow = check_time && self.nanoseconds_max.is_some_and(|bound| nanoseconds > bound);
        if slow || allocations > self.allocations_max {
            let bound = self.nanoseconds_max.map_or(String::new(), |bound| format!(", {bound} ns"));
            println!("  ^ over its bound of {} allocations{bound}", self.allocations_max);
            return false;
        }
        true
    }

    fn round(&mut self) -> f64 {
        let start = Instant::now();
        let mut calls = 0u32;
        loop {
            for _ in 0..16 {
                (self.call)();
            }
            calls += 16;
            let elapsed = start.elapsed();
            if elapsed >= ROUND {
                return elapsed.as_secs_f64() * 1e9 / f64::from(calls);
            }
        }
    }
}

fn feed(wire: &[u8], piece_bytes: usize) {
    let mut parser = HelloParser::new(64 * 1_024);
    for piece in wire.chunks(piece_bytes) {
        if let Ok(Some(hello)) = parser.feed(black_box(piece)) {
            black_box(&hello);
            return;
        }
    }
    unreachable!("the ClientHello is whole");
}

/// A ClientHello of about `bytes`, filled up by one extension that nobody reads.
fn hello(bytes: usize) -> Vec<u8> {
    let extensions = [
        extension(0, b"\0\x0f\0\0\x0callowed.test"),
        extension(23, b""),
        extension(10, b"\0\x06\x11\xec\0\x1d\0\x17"),
        extension(16, b"\0\x0c\x02h2\x08http/1.1"),
        extension(43, b"\x04\x03\x04\x03\x03"),
        extension(51, &vec![0x5a; bytes.saturating_sub(200)]),
    ]
    .concat();
    let body =
        [&[3, 3][..], &[7; 32], &[32], &[9; 32], &[0, 4, 0x13, 1, 0x13, 2], &[1, 0], &sized(&extensions)];
    let body = body.concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    message.chunks(16_384).flat_map(|part| [&[22, 3, 1][..], &sized(part)].concat()).collect()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(data)].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("invariant: hellos here are far below 64 KiB");
    [&length.to_be_bytes()[..], bytes].concat()
}

fn chunked_body() -> Vec<u8> {
    let data = NonZeroUsize::new(4_096).expect("invariant: not zero");
    let chunk = [chunk_size_line(data).as_bytes(), &[b'd'; 4_096], b"\r\n"].concat();
    chunk.repeat(16)
}

const BROWSER_GET: &[u8] = b"GET /articles/2026/egress?page=2&sort=newest HTTP/1.1\r\n\
    Host: www.allowed.test\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=3f2a1c9e77d04b5f; theme=dark; consent=necessary\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Priority: u=0, i\r\n\r\n";

const CURL_PROXY_GET: &[u8] =
    b"GET http://httpbin.org/uuid HTTP/1.1\r\nHost: httpbin.org\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\nProxy-Connection: Keep-Alive\r\n\r\n";

const CONNECT: &[u8] =
    b"CONNECT httpbin.org:443 HTTP/1.1\r\nHost: httpbin.org:443\r\nUser-Agent: curl/8.5.0\r\n\
    Proxy-Connection: Keep-Alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.0\r\nDate: Fri, 20 Nov 2026 16:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\nContent-Length: 5120\r\nConnection: keep-alive\r\n\
    Cache-Control: public, max-age=600\r\nETag: \"673df0c2-1400\"\r\nStrict-Transport-Security: max-age=31536000\r\n\r\n";
