//! HTTP/1.1 through the proxy door, request by request.

use std::time::Duration;

use sluice_tests::harness::{Ending, Gateway, Origin, Service, registry_only, servers::Server, tools, until};

fn gateway_to(origin: &Origin) -> Gateway {
    Gateway::start(
        &(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()),
    )
}

#[test]
fn curl_reaches_nginx_and_haproxy() {
    for server in [Server::nginx("a.test", 0), Server::haproxy("a.test")] {
        let service = Service::new("a", "a.test").port(80, "HTTP", server.plain).toml();
        let gateway = Gateway::start(&(registry_only() + &service));
        let done = tools::curl(gateway.proxy(), &["http://a.test/hello", "http://A.test./hello"]);
        assert!(
            done.code == 0 && (done.stdout.contains("nginx") || done.stdout.contains("haproxy")),
            "{done:?}"
        );
        let entry = gateway.first_entry();
        assert_eq!(entry["upstream_host"], server.plain.to_string());
        assert_eq!(entry["policy_reason"], "registered");
        assert_eq!(entry["service"], "default/a");
        assert_eq!(entry["upstream_cluster"], "outbound|80||a.test");
        gateway.wait_metric(
            "istio_requests_total",
            &[
                "destination_service=\"a.test\"",
                "response_code=\"200\"",
                "destination_service_namespace=\"default\"",
            ],
            2.0,
        );
    }
}

#[test]
fn connections_are_kept_and_pooled_on_both_sides() {
    let origin = Origin::http("x");
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    for _ in 0..10 {
        assert_eq!(client.get("http://a.test/").status, 200);
    }
    assert_eq!(origin.accepted(), 1, "one upstream connection for all");
    assert_eq!(gateway.client().get("http://a.test/").status, 200);
    assert_eq!(origin.accepted(), 1, "another client gets it too");
    gateway.wait_metric("egress_upstream_pool_hits_total", &[], 10.0);
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let origin = Origin::http("x");
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    client.send("GET http://a.test/ HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "x"));
    client.expect_end(Ending::Closed);
}

#[test]
fn a_reused_connection_that_closes_is_retried_once_if_that_is_safe() {
    // The first request of each connection is answered, the second one finds it closed.
    let origin = Origin::start(|peer| {
        if peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            let _ = peer.request();
        }
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    assert_eq!(client.get("http://a.test/1").status, 200);
    assert_eq!(client.get("http://a.test/2").status, 200, "sent once more");
    assert_eq!(origin.heads().iter().filter(|head| head.contains("/2 ")).count(), 2);
    gateway.wait_metric("egress_upstream_pool_retries_total", &[], 1.0);
    // A POST is not idempotent: it is not repeated.
    let response = client.request("POST", "http://a.test/3", "Content-Length: 0\r\n");
    assert_eq!(response.status, 503);
    assert_eq!(origin.heads().iter().filter(|head| head.contains("/3 ")).count(), 1);
    let entry = gateway.wait_entry(|entry| entry["path"] == "/3");
    assert_eq!(entry["response_flags"], "UC");
}

#[test]
fn what_is_hop_by_hop_stays_here_and_via_is_added() {
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send(
                "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\
                 X-Keep: 2\r\nContent-Length: 0\r\n\r\n",
            );
        }
    });
    let gateway = gateway_to(&origin);
    let more = "Connection: keep-alive, X-Drop\r\nX-Drop: 1\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
                Upgrade: h2c\r\nHTTP2-Settings: AAA\r\nX-Keep: 2\r\n\
                X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Client-Cert: URI=spiffe://td/ns/admin/sa/x\r\nForwarded: for=x\r\n\
                X-Envoy-Original-Path: /x\r\n";
    let response = gateway.client().request("GET", "http://a.test/p?q=1", more);
    assert_eq!(response.status, 200);
    assert_eq!((response.header("x-keep"), response.header("x-hop")), (Some("2"), None));
    assert_eq!(response.header("keep-alive"), None);
    assert!(response.header("via").is_some_and(|via| via.contains("sluice")), "{}", response.head);
    let head = origin.heads()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /p?q=1 http/1.1\r\n"), "{head}");
    assert_eq!(head.matches("host:").count(), 1, "{head}");
    assert!(
        head.contains("host: a.test\r\n") && head.contains("x-keep: 2\r\n") && head.contains("via: "),
        "{head}"
    );
    for gone in [
        "x-drop",
        "proxy-connection",
        "upgrade",
        "http2-settings",
        "x-forwarded",
        "forwarded",
        "x-envoy",
        "spiffe",
    ] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
}

#[test]
fn bodies_are_streamed_chunked_with_trailers_both_ways() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let trailer = request.trailers.first().cloned().unwrap_or_default();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n");
            for piece in request.body.chunks(3) {
                peer.send(format!("{:x};ext=1\r\n", piece.len()));
                peer.send(piece);
                peer.send("\r\n");
            }
            peer.send(format!("0\r\nX-Sum: {}\r\n{trailer}\r\n\r\n", request.body.len()));
        }
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    for _ in 0..2 {
        client.send("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send("5\r\nhello\r\n");
        client.send("1;x=y\r\n \r\n");
        client.send("5\r\nworld\r\n0\r\nX-Mine: t\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "hello world"));
        assert!(response.trailers.contains(&"X-Sum: 11".to_owned()), "{:?}", response.trailers);
        assert!(response.trailers.contains(&"X-Mine: t".to_owned()), "{:?}", response.trailers);
    }
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn the_first_part_of_a_body_passes_before_the_last_is_there() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        wait.lock().expect("one").recv_timeout(Duration::from_secs(60)).expect("the test has seen it");
        peer.send("last.");
        peer.request();
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    client.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert!(client.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200"));
    assert_eq!(client.exactly(5), b"first");
    release.send(()).expect("the origin waits");
    assert_eq!(client.exactly(5), b"last.");
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let head = &request.head;
            peer.send(if head.starts_with("HEAD") {
                "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
            } else if head.contains("/204") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else {
                "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 77\r\n\r\n"
            });
        }
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    let head = client.request("HEAD", "http://a.test/", "");
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    assert_eq!(client.get("http://a.test/204").status, 204);
    assert_eq!(client.get("http://a.test/304").header("etag"), Some("\"x\""));
    assert_eq!(client.request("HEAD", "http://unknown.test/", "").status, 502);
    assert_eq!(client.get("http://a.test/204").status, 204, "nothing of those was left in the connection");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn expect_100_continue_is_passed_on() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if head.contains("/refuse") {
                peer.send(
                    "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                );
                return;
            }
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            let body = peer.exactly(5).unwrap_or_default();
            assert_eq!(body, b"hello");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    let head =
        "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(head);
    assert_eq!(client.response().status, 100);
    client.send("hello");
    assert_eq!(client.response().status, 200);
    client.send(head.replace("/ HTTP", "/refuse HTTP"));
    assert_eq!(client.response().status, 417);
    // Whether the body still comes is not known: the connection cannot be used on.
    client.expect_end(Ending::Closed);
}

#[test]
fn an_answer_before_the_end_of_the_request_is_passed_on() {
    let origin = Origin::start(|peer| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
        // Reads on for a while, as RFC 9112 §9.6 asks of a server that closes early.
        while peer.read_some().is_some_and(|bytes| !bytes.is_empty()) {}
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    client.send("POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\nabc");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (413, "big"));
    client.expect_end(Ending::Closed);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let gateway = gateway_to(&origin);
    let mut client = gateway.client();
    let hosts = ["a.test", "denied.test", "a.test", "a.test"];
    let requests = hosts
        .iter()
        .enumerate()
        .map(|(n, host)| format!("GET http://{host}/{n} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.send(requests.collect::<String>());
    for (n, host) in hosts.iter().enumerate() {
        let response = client.response();
        if *host == "a.test" {
            assert_eq!((response.status, response.text()), (200, format!("/{n}")));
        } else {
            assert_eq!(response.status, 502);
        }
    }
    client.finish();
    client.expect_end(Ending::Closed);
}

#[test]
fn a_body_until_close_ends_with_the_connection() {
    let origin = Origin::start(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    });
    let gateway = gateway_to(&origin);
    let response = gateway.client().get("http://a.test/");
    assert_eq!((response.status, response.text().as_str()), (200, "until the end"));
}

#[test]
fn an_origin_that_dies_mid_body_is_not_taken_for_a_whole_answer() {
    let origin = Origin::start(|peer| {
        let head = peer.request().map(|request| request.head).unwrap_or_default();
        peer.send(if head.contains("/chunked") {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello"
        });
        if head.contains("/reset") {
            peer.reset();
        }
    });
    let gateway = gateway_to(&origin);
    for path in ["/length", "/chunked", "/reset"] {
        let mut client = gateway.client();
        client.send(format!("GET http://a.test{path} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        assert!(client.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 200"));
        let (rest, ending) = client.rest();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "no forged end");
        assert_eq!(ending, Ending::Reset, "{path}");
        let entry = gateway.wait_entry(|entry| entry["path"] == path);
        assert_eq!(entry["response_flags"], "UC", "{entry}");
    }
}

#[test]
fn origins_that_do_not_answer_are_503_and_504() {
    let closes = Origin::start(|peer| {
        peer.request();
    });
    let silent = Origin::sink();
    let garbage = Origin::start(|peer| {
        peer.request();
        peer.send("SSH-2.0-OpenSSH_9.2\r\n\r\n");
    });
    let refused = sluice_tests::harness::servers::free();
    let config = registry_only()
        + &Service::new("closes", "closes.test").port(80, "HTTP", closes.address()).toml()
        + &Service::new("silent", "silent.test").port(80, "HTTP", silent.address()).toml()
        + &Service::new("garbage", "garbage.test").port(80, "HTTP", garbage.address()).toml()
        + &Service::new("refused", "refused.test").port(80, "HTTP", refused).toml()
        + "[limits]\nresponse_head_timeout_ms = 2000\n";
    let gateway = Gateway::start(&config);
    for (host, status, flags) in
        [("closes", 503, "UC"), ("silent", 504, "UT"), ("refused", 503, "UF"), ("garbage", 502, "UPE")]
    {
        let response = gateway.client().get(&format!("http://{host}.test/"));
        assert_eq!(response.status, status, "{host}");
        let entry = gateway.wait_entry(|entry| entry["authority"] == format!("{host}.test"));
        assert_eq!(
            (&entry["response_code"], &entry["response_flags"]),
            (&status.into(), &flags.into()),
            "{entry}"
        );
    }
    let response = gateway.client().connect_to("refused.test:80");
    assert_eq!(response.status, 503);
}

#[test]
fn big_bodies_pass_whole_and_are_counted_to_the_byte() {
    const BIG: usize = 40 << 20;
    let server = Server::nginx("a.test", BIG);
    let service = Service::new("a", "a.test").port(80, "HTTP", server.plain).toml();
    let gateway = Gateway::start(&(registry_only() + &service));
    let folder = tempfile::tempdir().expect("a folder");
    let got = folder.path().join("got");
    let done = tools::curl(
        gateway.proxy(),
        &["-o", &got.to_string_lossy(), "-w", "%{size_header} %{size_download}", "http://a.test/big"],
    );
    assert_eq!(done.code, 0, "{done:?}");
    let same = std::fs::read(&got).expect("downloaded")
        == std::fs::read(server.folder().join("big")).expect("a file");
    assert!(same, "the download differs");
    let sizes: Vec<u64> = done.stdout.split(' ').filter_map(|word| word.parse().ok()).collect();
    let entry = gateway.wait_entry(|entry| entry["path"] == "/big");
    assert_eq!(entry["bytes_sent"], sizes.iter().sum::<u64>(), "{entry} {done:?}");
    let big = server.folder().join("big");
    let done =
        tools::curl(gateway.proxy(), &["-T", &big.to_string_lossy(), "-H", "Expect:", "http://a.test/put/x"]);
    assert_eq!(done.code, 0, "{done:?}");
    let same = std::fs::read(server.folder().join("put/x")).expect("uploaded")
        == std::fs::read(&big).expect("a file");
    assert!(same, "the upload differs");
    let entry = gateway.wait_entry(|entry| entry["method"] == "PUT");
    let received = entry["bytes_received"].as_u64().unwrap_or(0);
    assert!(received > BIG as u64 && received < BIG as u64 + 1000, "{entry}");
    gateway.wait_metric("egress_http_exchanges_spliced_total", &[], 2.0);
    assert!(gateway.rss_kib() < 200 * 1024, "bodies are not buffered: {} KiB", gateway.rss_kib());
}

#[test]
fn a_client_that_never_reads_holds_up_nobody() {
    let origin = Origin::start(|peer| {
        let path = peer.request().map(|request| request.head).unwrap_or_default();
        if path.contains("/endless") {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let block = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while peer.send(&block) {}
        } else {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    let gateway = gateway_to(&origin);
    let mut lazy = gateway.client();
    lazy.send("GET http://a.test/endless HTTP/1.1\r\nHost: a.test\r\n\r\n");
    until("the request at the origin", || (origin.accepted() == 1).then_some(()));
    for _ in 0..20 {
        assert_eq!(gateway.client().get("http://a.test/quick").text(), "ok");
    }
    assert!(gateway.rss_kib() < 200 * 1024, "{} KiB", gateway.rss_kib());
    drop(lazy);
    let entry = gateway.wait_entry(|entry| entry["path"] == "/endless");
    assert_eq!(entry["response_flags"], "DC", "{entry}");
}
