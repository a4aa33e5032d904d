//! What HTTP/1.1 allows and few do: answers beside or before the request's body, long chains of interim answers, long
//! bodies without a length, and options that name what a message cannot do without.

use std::net::TcpStream;

use sluice_tests::harness::bodies::{Reader, Writer};
use sluice_tests::harness::{Gateway, Origin, Service, registry_only, until};

const MIB: u64 = 1 << 20;

fn gateway_to(origin: &Origin) -> Gateway {
    Gateway::start(
        &(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()),
    )
}

fn both(stream: &TcpStream) -> (Reader<TcpStream>, Writer<TcpStream>) {
    let clone = || stream.try_clone().expect("a descriptor");
    (Reader::new(clone()), Writer::new(clone()))
}

fn chunks(to: &mut Writer<TcpStream>, mib: u64) -> std::io::Result<()> {
    for _ in 0..mib * 16 {
        to.chunk(MIB / 16, "")?;
    }
    Ok(())
}

const POST: &str = "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Origins that answer while they read: both directions move at once, and neither waits for the other's end.
#[test]
fn an_answer_beside_its_request_passes_whole_and_so_does_the_request() {
    let origin = Origin::start(|peer| {
        let (mut reader, mut writer) = both(&peer.stream);
        while reader.head().is_some() {
            let answer = std::thread::scope(|scope| {
                writer.head(CHUNKED).expect("a head is taken");
                let answer = scope.spawn(|| chunks(&mut writer, 64));
                assert_eq!(reader.chunked().expect("the request's body").data, 64 * MIB);
                answer.join()
            });
            // An answer that ended before its request would end the request too.
            answer.expect("no panic").and_then(|()| writer.end("", &[])).expect("the answer is taken");
        }
    });
    let gateway = gateway_to(&origin);
    let client = gateway.client();
    let (mut reader, mut writer) = both(&client.stream);
    std::thread::scope(|scope| {
        writer.head(POST).expect("the head is taken");
        assert!(reader.head().is_some_and(|head| head.starts_with("HTTP/1.1 200 ")), "before the body");
        let request = scope.spawn(|| chunks(&mut writer, 64).and_then(|()| writer.end("", &[])));
        assert_eq!(reader.chunked().expect("the response's body").data, 64 * MIB);
        request.join().expect("no panic").expect("the request is taken");
    });
}

/// A client that writes on before it reads gets the early answer all the same, whether its origin reads on too, or has
/// closed upon bytes that it has not read, which resets the connection behind its answer.
#[test]
fn an_early_refusal_reaches_a_client_that_writes_on() {
    let origin = Origin::start(|peer| {
        let (mut reader, mut writer) = both(&peer.stream);
        let reads_on = reader.head().is_some_and(|head| head.contains("/reads-on"));
        writer.head("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").expect("taken");
        if reads_on {
            reader.chunked().ok();
        }
    });
    let gateway = gateway_to(&origin);
    for path in ["/reads-on", "/closes"].repeat(10) {
        let client = gateway.client();
        let (mut reader, mut writer) = both(&client.stream);
        writer.head(&POST.replace("/ HTTP", &format!("{path} HTTP"))).expect("the head is taken");
        // The gateway may have had enough of it before it has taken all.
        let written = chunks(&mut writer, 8);
        let head = reader.head();
        let refused = head.as_ref().is_some_and(|head| head.starts_with("HTTP/1.1 413 "));
        assert!(refused, "{path}: {head:?} after {written:?}");
        assert_eq!(reader.text(3).as_deref(), Some("big"), "{path}");
    }
    let entries =
        until("all of them in the log", || Some(gateway.log_entries()).filter(|all| all.len() == 20));
    assert!(entries.iter().all(|entry| entry["response_code"] == 413), "{entries:?}");
}

#[test]
fn fifteen_interim_answers_pass_in_order_and_a_longer_chain_is_no_answer() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let count = if head.contains("/15") { 15 } else { 16 };
            for n in 0..count {
                peer.send(format!("HTTP/1.1 103 Early Hints\r\nX-N: {n}\r\n\r\n"));
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast");
        }
    });
    let gateway = gateway_to(&origin);
    for (path, interim, status) in [("15", 15, 200), ("16", 16, 502), ("15", 15, 200)] {
        let mut client = gateway.client();
        client.send(format!("GET http://a.test/{path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        for n in 0..interim {
            let response = client.response();
            assert_eq!(
                (response.status, response.header("x-n")),
                (103, Some(n.to_string().as_str())),
                "{path}"
            );
        }
        assert_eq!(client.response().status, status, "{path}");
    }
}

/// As long as it likes, and exact; its end is an end, and the client's connection lives on.
#[test]
fn a_long_body_without_a_length_passes_whole() {
    const LENGTH: u64 = 100 * MIB + 1;
    let origin = Origin::start(|peer| {
        let (mut reader, mut writer) = both(&peer.stream);
        let head = reader.head().expect("a request");
        let version = if head.contains("/old") { "1.0" } else { "1.1" };
        writer.head(&format!("HTTP/{version} 200 OK\r\n\r\n")).expect("a head is taken");
        writer.data(LENGTH).and_then(|_| writer.flush()).expect("the body is taken");
    });
    let gateway = gateway_to(&origin);
    let client = gateway.client();
    let (mut reader, mut writer) = both(&client.stream);
    for path in ["old", "new"] {
        writer.head(&format!("GET http://a.test/{path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).expect("taken");
        let head = reader.head().expect("an answer on the same connection");
        let heard = reader.chunked().expect("the response's body");
        assert_eq!(heard.data, LENGTH, "{path}");
        let entry = gateway.wait_entry(|entry| entry["path"] == format!("/{path}"));
        assert_eq!(entry["bytes_sent"], head.len() as u64 + heard.wire, "{entry}");
    }
    // For HTTP/1.0 it ends as it came.
    writer.head("GET http://a.test/to-old HTTP/1.0\r\n\r\n").expect("taken");
    assert!(reader.head().is_some_and(|head| !head.contains("ransfer-")));
    assert_eq!(reader.fixed(LENGTH).expect("the response's body").data, LENGTH);
    assert_eq!(reader.head(), None, "the end");
}

/// `Connection` may name headers that go no further. A message's own frame, its host and what is added here are not
/// up to it.
#[test]
fn options_cannot_take_the_frame_or_the_host_away() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let length = request.body.len();
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nConnection: Content-Length, Transfer-Encoding, Via, X-Hop\r\nX-Hop: 1\r\n\
                 Content-Length: {length}\r\n\r\n"
            ));
            peer.send(request.body);
        }
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    let options = "Connection: Host, Content-Length, Transfer-Encoding, Via, X-Request-Id, Connection, X-Hop\r\nX-Hop: 1\r\n";
    for framing in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        client.send(format!("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{options}{framing}"));
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{}", response.head);
        assert!(response.header("via").is_some() && response.header("x-hop").is_none(), "{}", response.head);
        let head = origin.heads().pop().expect("a request").to_ascii_lowercase();
        for kept in ["host: a.test\r\n", "via: ", "x-request-id: ", &framing.to_ascii_lowercase()[..12]] {
            assert_eq!(head.matches(kept).count(), 1, "{kept} in {head}");
        }
        assert!(!head.contains("x-hop"), "{head}");
    }
    assert_eq!(origin.accepted(), 1);
}
