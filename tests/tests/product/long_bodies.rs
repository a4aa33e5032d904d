//! Bodies longer than memory, than 32 bits, or in more pieces than anybody sends: exact to the byte on both sides, in
//! the counters too, and not held by the gateway.

use std::io::Result;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_tests::harness::bodies::{Reader, Tally, Writer};
use sluice_tests::harness::client::header;
use sluice_tests::harness::gateway::status_number;
use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{DEADLINE, Gateway, Origin, Service, registry_only, until};

const MIB: u64 = 1 << 20;
/// The size of such a chunk has nine digits; who keeps 32 bits of it sees a short one.
const BEYOND_32_BITS: u64 = (4 << 30) + 12_345;
/// One of those at a time: there are other tests on this machine.
static BEYOND: Mutex<()> = Mutex::new(());
/// What a body may cost the gateway at its peak beyond what a short one has cost.
const GROWTH_KIB_MAX: u64 = 4 * 1024;

/// How a body is written; both sides send the same one.
type Body = fn(&mut Writer<TcpStream>) -> Result<Tally>;

fn short(to: &mut Writer<TcpStream>) -> Result<Tally> {
    to.chunk(MIB, "")?;
    to.end("", &[])
}

/// What an origin heard of one request, and what it then sent.
struct Served {
    heard: Tally,
    sent: Tally,
}

/// Answers `/short` with [`short`] and all else with `body`, once the whole request has been read and compared.
fn origin(body: Body) -> (Origin, Receiver<Served>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let origin = Origin::start(move |peer| {
        let stream = || peer.stream.try_clone().expect("a descriptor");
        let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
        while let Some(head) = reader.head() {
            let heard = reader.chunked().expect("the request's body");
            let body = if head.contains(" /short ") { short } else { body };
            writer.head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("a head is taken");
            let sent = body(&mut writer).expect("the body is taken");
            tell.lock().expect("one at a time").send(Served { heard, sent }).expect("the test listens");
        }
    });
    (origin, told)
}

fn gateway_to(origin: &Origin) -> Gateway {
    Gateway::start(
        &(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()),
    )
}

/// One side of an exchange as the client saw it.
struct Asked {
    sent: Tally,
    sent_bytes: u64,
    response: String,
    heard: Tally,
}

fn ask(reader: &mut Reader<TcpStream>, writer: &mut Writer<TcpStream>, path: &str, body: Body) -> Asked {
    let head =
        format!("POST http://a.test{path} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    writer.head(&head).expect("the head is taken");
    let sent = body(writer).expect("the body is taken");
    let response = reader.head().expect("an answer");
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let heard = reader.chunked().expect("the response's body");
    Asked { sent_bytes: head.len() as u64 + sent.wire, sent, response, heard }
}

/// Sends `body` through the gateway, up and down again, between two short ones on the same connections.
fn exchange(body: Body) -> (Asked, Served) {
    let (origin, told) = origin(body);
    let gateway = gateway_to(&origin);
    let client = gateway.client();
    let stream = || client.stream.try_clone().expect("a descriptor");
    let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
    let peak = || status_number(gateway.id(), "VmHWM:");

    ask(&mut reader, &mut writer, "/short", short);
    told.recv_timeout(DEADLINE).expect("a short one");
    let before = peak();
    let asked = ask(&mut reader, &mut writer, "/body", body);
    let served = told.recv_timeout(DEADLINE).expect("the long one");
    let grown = peak() - before;
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB more for {} bytes", asked.heard.data);
    ask(&mut reader, &mut writer, "/short", short);
    assert_eq!(origin.accepted(), 1, "neither connection was spoilt");

    for (sent, heard) in [(&asked.sent, &served.heard), (&served.sent, &asked.heard)] {
        assert_eq!(heard.data, sent.data);
        assert_eq!(heard.extended, 0, "extensions end here");
    }
    let entry = gateway.wait_entry(|entry| entry["path"] == "/body");
    let received = asked.response.len() as u64 + asked.heard.wire;
    assert_eq!(entry["bytes_received"], asked.sent_bytes, "{entry}");
    assert_eq!(entry["bytes_sent"], received, "{entry}");
    let all = until("three records", || Some(gateway.log_entries()).filter(|entries| entries.len() == 3));
    for (metric, key) in
        [("istio_request_bytes_sum", "bytes_received"), ("istio_response_bytes_sum", "bytes_sent")]
    {
        let logged: u64 = all.iter().filter_map(|entry| entry[key].as_u64()).sum();
        gateway.wait_metric(metric, &[], logged as f64);
        assert_eq!(gateway.metric(metric, &[]) as u64, logged, "{metric}");
    }
    (asked, served)
}

#[test]
fn a_chunk_beyond_32_bits_passes_both_ways() {
    let _alone = BEYOND.lock().unwrap_or_else(PoisonError::into_inner);
    let (asked, served) = exchange(|to| {
        to.chunk(BEYOND_32_BITS, "")?;
        to.end("", &[])
    });
    for sent in [&asked.sent, &served.sent] {
        assert_eq!((sent.longest, sent.data), (BEYOND_32_BITS, BEYOND_32_BITS));
    }
}

/// A quarter of a million size lines of three bytes, cut wherever a write happens to end.
#[test]
fn chunks_of_one_byte_by_the_hundred_thousand() {
    const CHUNKS: u64 = 250_000;
    let (asked, served) = exchange(|to| {
        for n in 0..CHUNKS {
            to.chunk(1, if n % 1000 == 0 { ";a" } else { "" })?;
            // Now and then a write ends within a size line, and waits there.
            if n % 10_000 == 0 {
                to.flush()?;
            }
        }
        to.end("", &["X-Last: yes"])
    });
    for (sent, heard) in [(&asked.sent, &served.heard), (&served.sent, &asked.heard)] {
        assert_eq!((sent.chunks, sent.data), (CHUNKS, CHUNKS));
        assert_eq!(heard.trailers, ["X-Last: yes"]);
        assert!(heard.chunks < CHUNKS / 10, "one chunk for what came at once: {}", heard.chunks);
    }
}

/// Extensions as long as they may be on chunks of every size, quoted semicolons and bytes above 0x7f in them, in all as
/// long as the data but for what is free; then trailers, as many bytes as may be, some of them out of place.
#[test]
fn extensions_and_trailers_on_a_long_body() {
    let (asked, served) = exchange(|to| {
        let longest = format!(";name=\"a;b\u{e9}\";{}", "x".repeat(1_000));
        for n in 0..3_000_u64 {
            to.chunk(1 + n * 7_919 % 40_000, if n % 3 == 0 { &longest } else { ";a=1;b" })?;
        }
        for _ in 0..3_000 {
            to.chunk(6, ";ab=12")?;
        }
        let sum = format!("X-Sum: {}", "s".repeat(4_000));
        to.end(
            ";last",
            &[
                "X-First: 1",
                "Content-Length: 5",
                &sum,
                "Host: b.test",
                "Content_Length: 5",
                "X-First: \u{e9}",
            ],
        )
    });
    for (sent, heard) in [(&asked.sent, &served.heard), (&served.sent, &asked.heard)] {
        assert!(sent.extended > 6_000 && sent.data > 50 * MIB, "{sent:?}");
        let kept = ["X-First: 1", &sent.trailers[2], "X-First: \u{e9}"];
        assert_eq!(heard.trailers, kept);
    }
}

/// The same length without chunks: what is left of it does not fit 32 bits either, nor does what the kernel moves.
#[test]
fn a_content_length_beyond_32_bits_passes_both_ways() {
    let _alone = BEYOND.lock().unwrap_or_else(PoisonError::into_inner);
    let origin = Origin::start(|peer| {
        let stream = || peer.stream.try_clone().expect("a descriptor");
        let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
        while let Some(head) = reader.head() {
            let length = header(&head, "content-length").and_then(|length| length.parse().ok());
            let length = length.expect("a length");
            reader.fixed(length).expect("the request's body");
            writer.head(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).expect("taken");
            writer.data(length).and_then(|_| writer.flush()).expect("the body is taken");
        }
    });
    let gateway = gateway_to(&origin);
    let client = gateway.client();
    let stream = || client.stream.try_clone().expect("a descriptor");
    let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
    let mut before = 0;
    for length in [MIB, BEYOND_32_BITS, 2] {
        let head = format!(
            "POST http://a.test/{length} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
        );
        writer.head(&head).expect("the head is taken");
        writer.data(length).and_then(|_| writer.flush()).expect("the body is taken");
        let response = reader.head().expect("an answer");
        reader.fixed(length).expect("the response's body");
        let entry = gateway.wait_entry(|entry| entry["path"] == format!("/{length}"));
        assert_eq!(entry["bytes_received"], head.len() as u64 + length, "{entry}");
        assert_eq!(entry["bytes_sent"], response.len() as u64 + length, "{entry}");
        let peak = status_number(gateway.id(), "VmHWM:");
        let grown = peak - std::mem::replace(&mut before, peak);
        assert!(length == MIB || grown < GROWTH_KIB_MAX, "{grown} KiB more for {length} bytes");
    }
    assert_eq!(origin.accepted(), 1, "neither connection was spoilt");
    gateway.wait_metric("egress_http_exchanges_spliced_total", &[], 1.0);
}

/// Who does not read holds the other side back, through the kernel's buffers, and nothing piles up in between.
#[test]
fn chunks_that_nobody_takes_wait_where_they_come_from() {
    const CHUNK: u64 = 10_000;
    const CHUNKS: u64 = 20_000;
    fn push(to: &mut Writer<TcpStream>, sent: &AtomicU64) -> Result<Tally> {
        for _ in 0..CHUNKS {
            to.chunk(CHUNK, ";ext")?;
            sent.fetch_add(CHUNK, SeqCst);
        }
        to.end("", &[])
    }
    fn held_back(sent: &AtomicU64) {
        let mut before = 0;
        until("a sender that is held back", || {
            let_pass(Duration::from_millis(300));
            let now = sent.load(SeqCst);
            (std::mem::replace(&mut before, now) == now && now > 0).then_some(())
        });
        assert!(before < CHUNK * CHUNKS / 2, "{before} bytes lie in between");
    }
    let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counts = (Arc::clone(&up), Arc::clone(&down));
    let origin = Origin::start(move |peer| {
        let stream = || peer.stream.try_clone().expect("a descriptor");
        let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
        reader.head().expect("a request");
        held_back(&counts.0);
        assert_eq!(reader.chunked().expect("the request's body").data, CHUNK * CHUNKS);
        writer.head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("a head is taken");
        push(&mut writer, &counts.1).expect("the body is taken");
    });
    let gateway = gateway_to(&origin);
    let client = gateway.client();
    let stream = || client.stream.try_clone().expect("a descriptor");
    let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
    let before = gateway.rss_kib();
    writer
        .head("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("the head is taken");
    push(&mut writer, &up).expect("the body is taken");
    held_back(&down);
    assert!(reader.head().is_some_and(|head| head.starts_with("HTTP/1.1 200 ")));
    assert_eq!(reader.chunked().expect("the response's body").data, CHUNK * CHUNKS);
    let grown = status_number(gateway.id(), "VmHWM:").saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "{grown} KiB more");
}

/// A body that breaks off or breaks the rules far behind its head is never made whole: neither side sees its end.
#[test]
fn a_long_body_that_goes_wrong_has_no_end() {
    fn wrong(to: &mut Writer<TcpStream>, how: &str) -> Result<()> {
        for _ in 0..200 {
            to.chunk(40_000, ";a")?;
        }
        to.framing(how)?;
        to.flush()
    }
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(1_025));
    let late = format!("0\r\nX: {}\r\n\r\n", "x".repeat(9_000));
    let many = format!("0\r\n{}\r\n", "X: y\r\n".repeat(101));
    let ways = [
        "00000000000000001\r\nx\r\n0\r\n\r\n",
        "1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "1;\r\nx\r\n0\r\n\r\n",
        "0\r\nContent Length: 5\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        &long,
        &late,
        &many,
        "5\r\nhe",
    ];
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let answers = ways.map(str::to_owned);
    let origin = Origin::start(move |peer| {
        let stream = || peer.stream.try_clone().expect("a descriptor");
        let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
        let head = reader.head().expect("a request");
        if head.starts_with("POST") {
            let ended = reader.chunked().is_ok();
            tell.lock().expect("one at a time").send(ended).expect("the test listens");
        } else {
            let n: usize = head[5..].split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            writer.head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("a head is taken");
            // The gateway may end it before it has taken all.
            wrong(&mut writer, &answers[n]).ok();
        }
    });
    let gateway = gateway_to(&origin);
    for (n, how) in ways.iter().enumerate() {
        let client = gateway.client();
        let mut writer = Writer::new(client.stream.try_clone().expect("a descriptor"));
        let head =
            format!("POST http://a.test/{n} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        writer.head(&head).expect("the head is taken");
        wrong(&mut writer, how).ok();
        client.finish();
        assert!(!told.recv_timeout(DEADLINE).expect("the origin has heard"), "{how:?} upstream");

        let client = gateway.client();
        let stream = || client.stream.try_clone().expect("a descriptor");
        let (mut reader, mut writer) = (Reader::new(stream()), Writer::new(stream()));
        writer.head(&format!("GET http://a.test/{n} HTTP/1.1\r\nHost: a.test\r\n\r\n")).expect("taken");
        assert!(reader.head().is_some_and(|head| head.starts_with("HTTP/1.1 200 ")));
        assert!(reader.chunked().is_err(), "{how:?} downstream");
    }
}
