//! Bad input and faults: each gets its specific answer, a counter and a log line, and nothing else is disturbed.

use std::process::Stdio;
use std::time::{Duration, Instant};

use sluice_tests::harness::gateway::Start;
use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, allow_any, door, registry_only};

fn gateway_to(origin: &Origin, more: &str) -> Gateway {
    let service =
        Service::new("a", "a.test").port(80, "HTTP", origin.address()).port(9000, "TCP", origin.address());
    Gateway::start(&(registry_only() + &service.toml() + more))
}

#[test]
fn garbage_on_every_door_disturbs_nobody() {
    let origin = Origin::forbidden();
    let good = Origin::http("fine");
    let config = registry_only()
        + &door("tls", "destination_port = 443")
        + &door("tcp", "service = \"default/none\"")
        + &Service::new("none", "none.test").port(9000, "TCP", origin.address()).with("allow = []").toml()
        + &Service::new("a", "a.test").port(443, "TLS", origin.address()).toml()
        + &Service::new("good", "good.test").port(80, "HTTP", good.address()).toml();
    let gateway = Gateway::start(&config);
    let mut steady = gateway.client();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut garbage = |length: usize| -> Vec<u8> {
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        (0..length).map(|_| next()).collect()
    };
    for door in ["http_proxy", "tls", "tcp"] {
        for length in [1, 100, 5_000, 70_000] {
            let mut client = Http::connect(gateway.door(door));
            client.try_send(garbage(length));
            client.stream.shutdown(std::net::Shutdown::Write).ok();
            let (answer, _) = client.rest();
            assert!(door == "http_proxy" || answer.is_empty(), "{door}");
            assert_eq!(steady.get("http://good.test/").text(), "fine");
        }
    }
    origin.untouched();
}

#[test]
fn a_head_of_a_megabyte_is_431() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "");
    let mut client = gateway.client();
    let line = format!("X-Big: {}\r\n", "x".repeat(1 << 20));
    client.try_send(format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{line}\r\n"));
    let response = client.response();
    assert_eq!((response.status, response.reason()), (431, "limit"));
    assert!(!response.text().is_empty());
    let entry = gateway.first_entry();
    assert_eq!(entry["response_code"], 431);
    origin.untouched();
}

#[test]
fn ten_thousand_headers_are_431_and_cost_no_memory() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "[limits]\nrequest_head_bytes_max = 1048576\n");
    let before = gateway.rss_kib();
    for lines in ["X: y\r\n".repeat(10_000), "Host: a.test\r\n".repeat(5_000)] {
        let mut client = gateway.client();
        client.try_send(format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"));
        let status = client.response().status;
        assert!(matches!(status, 431 | 400), "{status}");
    }
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    origin.untouched();
}

#[test]
fn a_client_that_says_nothing_does_not_stay() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "[limits]\nrequest_head_timeout_ms = 300\n");
    // The wait for a next request is longer, and its own; the deadline of the test is shorter than that.
    let mut client = gateway.client();
    client.expect_end(Ending::Closed);
    origin.untouched();
}

#[test]
fn half_a_head_and_silence_is_408() {
    let origin = Origin::forbidden();
    let gateway = gateway_to(&origin, "[limits]\nrequest_head_timeout_ms = 300\n");
    let start = Instant::now();
    let mut client = gateway.client();
    client.send("GET http://a.test/ HTTP/1.1\r\nHost: a.te");
    let response = client.response();
    assert_eq!((response.status, response.reason()), (408, "limit"));
    assert!(start.elapsed() >= Duration::from_millis(250));
    client.expect_end(Ending::Closed);
    // One byte now and then does not prolong it: the limit is for the whole head.
    let mut client = gateway.client();
    for byte in b"GET http://a.test/ HTTP/1.1\r\n" {
        if !client.try_send([*byte]) {
            break;
        }
        let_pass(Duration::from_millis(25));
    }
    assert_eq!(client.response().status, 408);
    gateway.wait_metric("istio_requests_total", &["response_code=\"408\""], 2.0);
    origin.untouched();
}

#[test]
fn an_idle_keep_alive_client_is_let_go() {
    let origin = Origin::http("x");
    let gateway = gateway_to(&origin, "[limits]\ndownstream_keepalive_timeout_ms = 200\n");
    let mut client = gateway.client();
    assert_eq!(client.get("http://a.test/").status, 200);
    client.expect_end(Ending::Closed);
}

#[test]
fn requests_split_and_merged_anywhere_mean_the_same() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let gateway = gateway_to(&origin, "");
    let request = b"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let mut client = gateway.client();
    // Byte by byte.
    for byte in request {
        client.send([*byte]);
    }
    assert_eq!(client.response().text(), "body");
    // At every boundary: the second half of one request and the first half of the next in one write.
    client.send(&request[..1]);
    for cut in 1..request.len() - 1 {
        client.send([&request[cut..], &request[..=cut]].concat());
        assert_eq!(client.response().text(), "body", "cut at {cut}");
    }
    client.send(&request[request.len() - 1..]);
    assert_eq!(client.response().text(), "body");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_full_disk_drops_lines_and_counts_them_and_forwarding_goes_on() {
    let origin = Origin::http("x");
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let gateway = Start::new(&(registry_only() + &service)).stdout(Stdio::from(full)).ready();
    let mut client = gateway.client();
    for _ in 0..20 {
        assert_eq!(client.get("http://a.test/").status, 200);
    }
    gateway.wait_metric("egress_telemetry_dropped_total", &["access_log", "writer"], 20.0);
    // The same for a file.
    let config = registry_only() + &service + "[access_log]\npath = \"/dev/full\"\n";
    let gateway = Gateway::start(&config);
    for _ in 0..20 {
        assert_eq!(gateway.client().get("http://a.test/").status, 200);
    }
    gateway.wait_metric("egress_telemetry_dropped_total", &["access_log", "writer"], 20.0);
}

#[test]
fn a_reader_of_the_log_that_stalls_holds_up_nobody() {
    let gateway = Start::new(&allow_any()).with(|_| {});
    // A pipe that nobody reads.
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    let gateway = gateway.stdout(Stdio::from(writer)).ready();
    let mut client = gateway.client();
    for _ in 0..3_000 {
        assert_eq!(client.get("http://127.0.0.1:1/a-path-that-makes-the-line-longer").status, 502);
    }
    assert_eq!(gateway.admin_get("/healthz").status, 200);
}
