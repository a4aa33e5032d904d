//! Tunnels: half-close and reset, bulk by splice, exact counts, fairness, idle ones in thousands.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use sluice_tests::harness::servers::pattern;
use sluice_tests::harness::wait::let_pass;
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, registry_only, until};

fn gateway_to(origin: &Origin, more: &str) -> Gateway {
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
    Gateway::start(&(registry_only() + &service + more))
}

fn tunnel(gateway: &Gateway) -> Http {
    let mut client = gateway.client();
    assert_eq!(client.connect_to("a.test:9000").status, 200);
    client
}

#[test]
fn half_close_is_kept_in_both_directions() {
    // The origin answers only after the end of what it reads.
    let origin = Origin::start(|peer| {
        let mut all = Vec::new();
        while let Some(bytes) = peer.read_some() {
            if bytes.is_empty() {
                break;
            }
            all.extend(bytes);
        }
        all.reverse();
        peer.send(all);
    });
    let gateway = gateway_to(&origin, "");
    let mut client = tunnel(&gateway);
    client.send("abc");
    client.finish();
    assert_eq!(client.rest(), (b"cba".to_vec(), Ending::Closed));

    // The origin ends first and goes on reading.
    let origin = Origin::start(|peer| {
        peer.send("bye");
        peer.stream.shutdown(Shutdown::Write).ok();
        while peer.read_some().is_some_and(|bytes| !bytes.is_empty()) {}
    });
    let gateway = gateway_to(&origin, "");
    let mut client = tunnel(&gateway);
    assert_eq!(client.rest(), (b"bye".to_vec(), Ending::Closed));
    client.send("still read");
    until("what came after the origin's end", || (origin.bytes() == 10).then_some(()));
    client.finish();
    let entry = gateway.first_entry();
    assert_eq!((&entry["bytes_received"], &entry["bytes_sent"]), (&10.into(), &3.into()));
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let origin = Origin::start(|peer| {
        peer.read_some();
        peer.reset();
    });
    let gateway = gateway_to(&origin, "");
    let mut client = tunnel(&gateway);
    client.send("x");
    assert_eq!(client.rest().1, Ending::Reset);

    let (told, tell) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::start(move |peer| {
        peer.read_some();
        let end = peer.read_some();
        told.lock().expect("one").send(end).ok();
    });
    let gateway = gateway_to(&origin, "");
    let mut client = tunnel(&gateway);
    client.send("x");
    until("the byte at the origin", || (origin.bytes() == 1).then_some(()));
    client.reset();
    let end = tell.recv_timeout(Duration::from_secs(30)).expect("the origin sees an end");
    assert_eq!(end, None, "a reset is an error, not an end of stream");
}

#[test]
fn bulk_passes_whole_by_splice_and_is_counted_to_the_byte() {
    const BIG: usize = 64 << 20;
    let origin = Origin::start(|peer| {
        let wanted = peer.exactly(BIG).unwrap_or_default();
        assert!(wanted == pattern(BIG), "the upload differs");
        peer.send(wanted);
        peer.stream.shutdown(Shutdown::Write).ok();
        peer.read_some();
    });
    let gateway = gateway_to(&origin, "");
    let mut client = tunnel(&gateway);
    let sent = pattern(BIG);
    client.send(&sent);
    let got = client.exactly(BIG);
    assert!(got == sent, "the download differs");
    client.finish();
    client.expect_end(Ending::Closed);
    let entry = gateway.first_entry();
    assert_eq!((&entry["bytes_received"], &entry["bytes_sent"]), (&BIG.into(), &BIG.into()), "{entry}");
    let labels = ["destination_service=\"a.test\""];
    gateway.wait_metric("istio_tcp_received_bytes_total", &labels, BIG as f64);
    gateway.wait_metric("istio_tcp_sent_bytes_total", &labels, BIG as f64);
    assert!((gateway.metric("istio_tcp_sent_bytes_total", &labels) - BIG as f64).abs() < 0.5);
    // The relay adapts: on a busy machine one of the two may have stayed with buffers.
    gateway.wait_metric("egress_relay_splice_promotions_total", &[], 1.0);
}

#[test]
fn a_bulk_flow_turns_small_again_and_both_parts_arrive() {
    const BIG: usize = 16 << 20;
    let origin = Origin::echo();
    let gateway = gateway_to(&origin, "");
    let client = tunnel(&gateway);
    let sent = pattern(BIG);
    let mut writer = client.stream.try_clone().expect("a second handle");
    let copy = sent.clone();
    let upload = std::thread::spawn(move || writer.write_all(&copy));
    let mut client = client;
    assert!(client.exactly(BIG) == sent);
    upload.join().expect("no panic").expect("all was taken");
    for n in 0..200u32 {
        client.send(n.to_be_bytes());
        assert_eq!(client.exactly(4), n.to_be_bytes());
    }
    gateway.wait_metric("egress_relay_splice_promotions_total", &[], 1.0);
    gateway.wait_metric("egress_relay_splice_demotions_total", &[], 1.0);
    until("no direction by splice", || {
        gateway.connections().iter().all(|row| row["path"] == "buffers").then_some(())
    });
}

#[test]
fn a_bulk_flow_does_not_starve_small_ones() {
    let bulk = Origin::start(|peer| {
        let block = vec![7; 1 << 20];
        while peer.send(&block) {}
    });
    let small = Origin::echo();
    let config = registry_only()
        + &Service::new("bulk", "bulk.test").port(9000, "TCP", bulk.address()).toml()
        + &Service::new("small", "small.test").port(9000, "TCP", small.address()).toml();
    let gateway = Gateway::start(&config);
    let mut greedy = gateway.client();
    assert_eq!(greedy.connect_to("bulk.test:9000").status, 200);
    let (stop, mut stream) = (greedy.stream.try_clone().expect("a handle"), greedy.stream);
    let reader = std::thread::spawn(move || {
        let mut total = 0_u64;
        let mut block = vec![0; 1 << 20];
        while let Ok(read) = stream.read(&mut block) {
            if read == 0 {
                break;
            }
            total += read as u64;
        }
        total
    });
    gateway.wait_metric("egress_relay_splice_promotions_total", &[], 1.0);
    let mut client = gateway.client();
    assert_eq!(client.connect_to("small.test:9000").status, 200);
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let start = Instant::now();
        client.send("ping");
        assert_eq!(client.exactly(4), b"ping");
        slowest = slowest.max(start.elapsed());
    }
    // The bound is for a loaded machine; a starved flow would wait for the whole bulk.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    stop.shutdown(Shutdown::Both).ok();
    assert!(reader.join().expect("no panic") > 1 << 20);
}

#[test]
fn an_idle_tunnel_ends_at_its_limit() {
    let origin = Origin::echo();
    let gateway =
        gateway_to(&origin, "[limits]\ntunnel_idle_timeout_ms = 400\nhalf_closed_timeout_ms = 200\n");
    let mut client = tunnel(&gateway);
    let mut start = Instant::now();
    for _ in 0..3 {
        // Taken before bytes move, so that a busy machine cannot make the wait look short.
        start = Instant::now();
        client.send("x");
        assert_eq!(client.exactly(1), b"x");
        let_pass(Duration::from_millis(100));
    }
    let _ = client.rest();
    assert!(start.elapsed() >= Duration::from_millis(390), "{:?}", start.elapsed());
    // The origin ends; a client that does neither is cut.
    let origin = Origin::start(|peer| {
        peer.stream.shutdown(Shutdown::Write).ok();
        while peer.read_some().is_some_and(|bytes| !bytes.is_empty()) {}
    });
    let gateway = gateway_to(&origin, "[limits]\nhalf_closed_timeout_ms = 200\n");
    let mut client = tunnel(&gateway);
    let _ = client.rest();
    let _ = gateway.wait_entry(|entry| entry["duration"].as_u64() >= Some(150));
}

#[test]
fn five_thousand_idle_tunnels_cost_little() {
    const TUNNELS: usize = 5_000;
    let origin = Origin::start_counting();
    let gateway = gateway_to(&origin, "");
    let raise = rustix::process::Resource::Nofile;
    let limit = rustix::process::getrlimit(raise);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(raise, raised).expect("the soft limit may be raised");
    let open = || {
        let mut client = tunnel(&gateway);
        client.send("x");
        client
    };
    // What the first ones cost is the gateway's own: pools, rings, tables.
    let mut tunnels: Vec<Http> = (0..100).map(|_| open()).collect();
    until("the first bytes", || (origin.bytes() == 100).then_some(()));
    let before = gateway.rss_kib();
    tunnels.extend((100..TUNNELS).map(|_| open()));
    until("all bytes", || (origin.bytes() == TUNNELS as u64).then_some(()));
    let grown = gateway.rss_kib().saturating_sub(before);
    println!(
        "{} idle tunnels: {grown} KiB more, {} bytes each",
        TUNNELS - 100,
        grown * 1024 / (TUNNELS as u64 - 100)
    );
    assert!(grown < 60 * 1024, "{grown} KiB for idle tunnels: they hold buffers");
    let active = gateway.metric("egress_active_connections", &["http_proxy"]);
    assert!((active - TUNNELS as f64).abs() < 0.5, "{active}");
    // One of them still works, and admin answers.
    let last = tunnels.last_mut().expect("tunnels");
    last.send("y");
    until("one more byte", || (origin.bytes() == TUNNELS as u64 + 1).then_some(()));
    drop(tunnels);
    until("their ends", || {
        (gateway.metric("egress_active_connections", &["http_proxy"]) < 1.0).then_some(())
    });
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let origin = Origin::echo();
    let gateway = gateway_to(&origin, "");
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", gateway.id())).map_or(0, Iterator::count);
    drop(tunnel(&gateway));
    until("the first end", || (gateway.log_lines().len() == 1).then_some(()));
    let before = descriptors();
    for n in 0..100 {
        let mut client = tunnel(&gateway);
        match n % 4 {
            0 => drop(client),
            1 => client.reset(),
            2 => {
                client.send("x");
                client.reset();
            }
            _ => {
                client.send("x");
                client.finish();
                assert_eq!(client.rest().0, b"x");
            }
        }
        if n % 5 == 0 {
            drop(TcpStream::connect(gateway.proxy()));
        }
    }
    until("all ends", || (gateway.log_lines().len() >= 101).then_some(()));
    until("all descriptors", || (descriptors() <= before + 2).then_some(()));
}
