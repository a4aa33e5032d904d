//! Origins that break the rules of HTTP/1.1, one after the other, while another client goes on being served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, registry_only, servers, until};

const FORGED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
const HONEST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest";

/// An origin that answers `/n` with the n-th of `answers` and everything else honestly.
fn hostile(answers: Vec<Vec<u8>>) -> Origin {
    Origin::start(move |peer| {
        while let Some(request) = peer.request() {
            let path = request.head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let chosen = path.parse::<usize>().ok().and_then(|n| answers.get(n));
            if !peer.send(chosen.map_or(HONEST.as_bytes(), Vec::as_slice)) {
                return;
            }
        }
    })
}

fn gateway_to(origin: &Origin) -> Gateway {
    Gateway::start(
        &(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()),
    )
}

/// Whoever else asks that origin, on a connection of long standing or on a new one, gets what is meant for them.
fn others_are_served(gateway: &Gateway, steady: &mut Http, context: &str) {
    for client in [steady, &mut gateway.client()] {
        for _ in 0..2 {
            assert_eq!(client.get("http://a.test/other").text(), "honest", "{context}");
        }
    }
}

#[test]
fn an_answer_that_breaks_the_rules_is_a_502_and_fools_nobody_else() {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n0\r\n\r\n{FORGED}").into_bytes();
    let chunked =
        |chunks: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes();
    let answers = vec![
        head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        head("Content-Length: 5\r\nContent-Length: 5\r\n"),
        head("Content-Length: 5, 5\r\n"),
        head("Content-Length: +5\r\n"),
        head("Transfer-Encoding: gzip, chunked\r\n"),
        head("Transfer-Encoding : chunked\r\n"),
        head("Content-Length: 5\r\nContent_Length: 6\r\n"),
        head("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n"),
        head("X: a\r\n folded\r\n"),
        head("X: a\rb\r\n"),
        head("X: a\0b\r\n"),
        chunked("0x5\r\nhello\r\n0\r\n\r\n"),
        chunked("5 \r\nhello\r\n0\r\n\r\n"),
        chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"),
        chunked("fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        format!("HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\nhello{FORGED}").into_bytes(),
        ("HTTP/1.1 102 Processing\r\n\r\n".repeat(100) + FORGED).into_bytes(),
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec(),
    ];
    let count = answers.len();
    let origin = hostile(answers);
    let gateway = gateway_to(&origin);
    let mut steady = gateway.client();
    for n in 0..count {
        others_are_served(&gateway, &mut steady, &format!("before {n}"));
        let mut client = gateway.client();
        client.send(format!("GET http://a.test/{n} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let mut response = client.response();
        while response.status < 200 {
            response = client.response();
        }
        assert_eq!(response.status, 502, "{n}");
        client.expect_end(Ending::Closed);
        others_are_served(&gateway, &mut steady, &format!("after {n}"));
    }
    until("all of them in the log", || {
        let bad = gateway.log_entries().iter().filter(|entry| entry["response_flags"] == "UPE").count();
        (bad == count).then_some(())
    });
}

#[test]
fn what_an_origin_sends_beyond_its_answer_reaches_nobody() {
    let long = servers::pattern(4 << 20);
    let with = |response: &str, surplus: &str| format!("HTTP/1.1 {response}{surplus}").into_bytes();
    let long_head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", long.len());
    let answers = vec![
        with("200 OK\r\nContent-Length: 2\r\n\r\nok", FORGED),
        with("204 No Content\r\n\r\n", FORGED),
        with("204 No Content\r\nContent-Length: 6\r\n\r\n", "forged"),
        with("304 Not Modified\r\nContent-Length: 6\r\n\r\n", "forged"),
        with("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", FORGED),
        [long_head.as_bytes(), &long, FORGED.as_bytes()].concat(),
    ];
    let count = answers.len();
    let origin = hostile(answers);
    let gateway = gateway_to(&origin);
    let mut steady = gateway.client();
    for n in 0..count {
        let mut client = gateway.client();
        let response = client.get(&format!("http://a.test/{n}"));
        assert!(response.status < 400 && response.body != b"forged", "{n}: {}", response.head);
        assert!(n + 1 < count || response.body == long, "the long body differs");
        others_are_served(&gateway, &mut steady, &format!("after {n}"));
        assert_eq!(client.get("http://a.test/other").text(), "honest", "{n}: the client goes on");
    }
    // The body of an answer to HEAD is one that must not be there.
    let response = gateway.client().request("HEAD", "http://a.test/other", "");
    assert_eq!((response.status, response.header("content-length")), (200, Some("6")));
    others_are_served(&gateway, &mut steady, "after HEAD");
    assert!(gateway.log_entries().iter().all(|entry| entry["response_flags"] == "-"));
    until("what was dropped is counted", || {
        (gateway.metric("egress_upstream_unsolicited_total", &[]) >= 5.0).then_some(())
    });
}

#[test]
fn a_long_body_is_cut_by_a_revocation() {
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n");
        let block = servers::pattern(64 << 10);
        while peer.send(&block) {
            counted.fetch_add(block.len() as u64, SeqCst);
        }
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    client.send("GET http://a.test/long HTTP/1.1\r\nHost: a.test\r\n\r\n");
    // What is spliced comes in a run of full buffers. Whoever reads late makes one, however fast the machine is: all
    // that lies between the origin and its client is full by then.
    let mut before = 0;
    until("an origin that is held back", || {
        let_pass(Duration::from_millis(200));
        let now = sent.load(SeqCst);
        (std::mem::replace(&mut before, now) == now && now > 0).then_some(())
    });
    assert!(client.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200"));
    client.exactly(32 << 20);
    gateway.reload(&registry_only());
    assert_eq!(client.rest().1, Ending::Reset);
    let entry = gateway.wait_entry(|entry| entry["path"] == "/long");
    assert_eq!(
        (&entry["policy_reason"], &entry["response_flags"]),
        (&"revoked".into(), &"LR".into()),
        "{entry}"
    );
    assert!(entry["bytes_sent"].as_u64() >= Some(32 << 20), "{entry}");
    gateway.wait_metric("egress_http_exchanges_spliced_total", &[], 1.0);
}
