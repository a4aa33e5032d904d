//! Tunnels in the simulator: the production relay machine under every fault.
#![allow(clippy::unwrap_used, reason = "in a test a failure is to panic in place")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_engine::limits::BUFFER_BYTES;
use sluice_engine::{Abort, Buffer, Engine, Listener, RelaySetup, Stream};
use sluice_engine_sim::{Faults, Sim, SimEngine, SimStream, for_each_seed};
use sluice_relay::{Counters, End, Report, Settings, Side};

const DOOR: &str = "10.0.0.1:3128";
const ORIGIN: &str = "192.0.2.10:443";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The four sockets of a tunnel that is about to begin.
struct Tunnel {
    client: SimStream,
    downstream: SimStream,
    upstream: SimStream,
    origin: SimStream,
}

/// Connects a client to the engine and the engine to an origin. Connects are spared by faults.
async fn tunnel(sim: &Sim) -> Tunnel {
    let door = sim.engine().listen(address(DOOR), None).unwrap();
    let outside = sim.outside(ip("192.0.2.10"));
    let origins = outside.listen(address(ORIGIN), None).unwrap();
    let client = sim.outside(ip("198.51.100.7")).connect(address(DOOR), None).await.unwrap();
    let downstream = door.accept().await.unwrap();
    let upstream = sim.engine().connect(address(ORIGIN), None).await.unwrap();
    let origin = origins.accept().await.unwrap();
    Tunnel { client, downstream, upstream, origin }
}

/// What one outside end saw of a tunnel.
#[derive(Default)]
struct Seen {
    received: RefCell<Vec<u8>>,
    error: Cell<Option<ErrorKind>>,
    ended: Cell<bool>,
}

/// An outside end: sends `payload` in pieces and ends its side; receives until the end.
fn outside_end(sim: &Sim, engine: &SimEngine, stream: SimStream, payload: Vec<u8>) -> Rc<Seen> {
    let seen = Rc::new(Seen::default());
    let stream = Rc::new(stream);
    let piece_bytes = 1 + sim.draw(60_000) as usize;
    let sender = Rc::clone(&stream);
    engine.spawn(async move {
        for piece in payload.chunks(piece_bytes) {
            if sender.send(Buffer::from(piece.to_vec())).await.is_err() {
                return;
            }
        }
        // A connection that has been reset meanwhile has no write side to end.
        drop(sender.shutdown());
    });
    let told = Rc::clone(&seen);
    engine.spawn(async move {
        loop {
            match stream.receive().await {
                Ok(buffer) if buffer.is_empty() => return told.ended.set(true),
                Ok(buffer) => told.received.borrow_mut().extend_from_slice(&buffer),
                Err(error) => return told.error.set(Some(error.kind())),
            }
        }
    });
    seen
}

fn payload(sim: &Sim, first: u8) -> Vec<u8> {
    let length = match sim.draw(4) {
        0 => 0,
        1 => sim.draw(100),
        2 => sim.draw(20_000),
        _ => sim.draw(400_000),
    };
    (0..length).map(|at| first.wrapping_add((at % 251) as u8)).collect()
}

fn settings(sim: &Sim) -> Settings {
    Settings {
        idle_timeout_ms: 3_600_000,
        half_close_timeout_ms: 600_000,
        credit_buffers: 1 + sim.draw(2) as u8,
        splice_after_full_buffers: sim.draw(3) as u8,
        splice_small_bytes: 1_000,
        splice_demote_after: sim.draw(4) as u8,
    }
}

/// The taken and delivered bytes of both legs, as the network counted them: client→door, door→client, engine→origin,
/// origin→engine.
fn check_counts(sim: &Sim, before: (u64, u64), report: Report) {
    let connections = sim.connections();
    let [front, back] = &connections[..] else { panic!("two connections") };
    assert_eq!(report.to_downstream_bytes, front.server_sent_bytes - before.0, "what downstream took");
    assert_eq!(report.to_upstream_bytes, back.client_sent_bytes - before.1, "what upstream took");
    assert!(report.to_upstream_bytes <= front.server_received_bytes, "nothing is made up");
    assert!(report.to_downstream_bytes <= back.client_received_bytes, "nothing is made up");
}

fn relay_random_payloads(seed: u64, faults: Faults) -> (Report, u64) {
    let sim = Sim::new(seed, Faults { pool_buffers_max: faults.pool_buffers_max, ..Faults::none() });
    let ends = [sim.outside(ip("198.51.100.7")), sim.outside(ip("192.0.2.10"))];
    let sizes = Faults {
        socket_buffer_bytes_min: faults.socket_buffer_bytes_min,
        socket_buffer_bytes_max: faults.socket_buffer_bytes_max,
        pool_buffers_max: faults.pool_buffers_max,
        ..Faults::none()
    };
    sim.set_faults(sizes);
    let (asked, answered) = (payload(&sim, 1), payload(&sim, 101));
    let settings = settings(&sim);
    let counters = Rc::new(Counters::default());
    let (report, seen) = sim.block_on(async {
        let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
        sim.set_faults(faults);
        let seen = [
            outside_end(&sim, &ends[0], client, asked.clone()),
            outside_end(&sim, &ends[1], origin, answered.clone()),
        ];
        let setup = RelaySetup { settings, counters: Rc::clone(&counters), ..RelaySetup::default() };
        (sim.engine().relay(downstream, upstream, setup).await, seen)
    });
    sim.run_until_idle();

    check_counts(&sim, (0, 0), report);
    assert_eq!(counters.to_upstream_bytes.get(), report.to_upstream_bytes);
    assert_eq!(counters.to_downstream_bytes.get(), report.to_downstream_bytes);
    assert_eq!((counters.splicing.get(), sim.engine().stats().splicing), (0, 0));
    let (to_client, to_origin) = (seen[0].received.borrow(), seen[1].received.borrow());
    assert!(asked.starts_with(&to_origin), "what arrives is a prefix of what was sent");
    assert!(answered.starts_with(&to_client), "what arrives is a prefix of what was sent");
    if report.end == End::Closed {
        assert_eq!(report.to_upstream_bytes, asked.len() as u64, "closed means that all was passed on");
        assert_eq!(report.to_downstream_bytes, answered.len() as u64, "closed means that all was passed on");
    } else {
        assert!(matches!(report.end, End::Reset(_)), "{:?}", report.end);
    }
    for (seen, sent, expected) in [(&seen[0], &to_client, &answered), (&seen[1], &to_origin, &asked)] {
        assert!(!seen.ended.get() || ***sent == **expected, "a clean end is never put on a truncated stream");
        assert!(seen.ended.get() || seen.error.get().is_some(), "every end hears how it ended");
    }
    sim.assert_nothing_open();
    (report, sim.trace_hash())
}

#[test]
fn random_payloads_under_all_faults() {
    let (closed, reset) = (Cell::new(0), Cell::new(0));
    for_each_seed(300, |seed| {
        let (report, _) = relay_random_payloads(seed, Faults::all());
        let count = if report.end == End::Closed { &closed } else { &reset };
        count.set(count.get() + 1);
    });
    let repeated_one = closed.get() + reset.get() == 1;
    assert!(
        repeated_one || closed.get() > 50 && reset.get() > 20,
        "{closed:?} closed, {reset:?} reset: both happen"
    );
}

#[test]
fn without_resets_every_tunnel_closes() {
    for_each_seed(100, |seed| {
        let (report, _) = relay_random_payloads(seed, Faults { reset_permille: 0, ..Faults::all() });
        assert_eq!(report.end, End::Closed);
    });
}

#[test]
fn counts_stay_exact_when_most_tunnels_are_reset() {
    for_each_seed(300, |seed| {
        relay_random_payloads(seed, Faults { reset_permille: 60, latency_us_max: 100, ..Faults::all() });
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        assert_eq!(relay_random_payloads(seed, Faults::all()), relay_random_payloads(seed, Faults::all()));
    }
    assert_ne!(relay_random_payloads(1, Faults::all()).1, relay_random_payloads(2, Faults::all()).1);
}

#[test]
fn bulk_is_spliced_and_an_idle_tunnel_holds_no_buffer() {
    let sim = Sim::new(1, Faults::none());
    let settings = Settings { splice_after_full_buffers: 2, splice_demote_after: 3, ..Settings::default() };
    let end = sim.block_on(async {
        let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
        let counters = Rc::new(Counters::default());
        let setup = RelaySetup { settings, counters: Rc::clone(&counters), ..RelaySetup::default() };
        let relay = sim.engine().relay(downstream, upstream, setup);
        let end = Rc::new(Cell::new(None));
        let told = Rc::clone(&end);
        sim.engine().spawn(async move { told.set(Some(relay.await.end)) });
        let origin = Rc::new(origin);
        let sender = Rc::clone(&origin);
        sim.engine().spawn(async move { sender.send(Buffer::from(vec![5; 4_000_000])).await.unwrap() });
        let mut count = 0;
        while count < 4_000_000 {
            count += client.receive().await.unwrap().len();
        }
        assert_eq!(sim.engine().stats().splice_promotions, 1);
        assert_eq!((counters.splicing.get(), sim.engine().stats().splicing), (1, 1));
        assert_eq!(sim.open().buffers, 0, "an idle tunnel holds no buffer");
        for _ in 0..4 {
            origin.send(Buffer::from(vec![1; 10])).await.unwrap();
            client.receive().await.unwrap();
        }
        assert_eq!(counters.splicing.get(), 0, "small messages bring it back to buffers");
        drop(client);
        drop(origin);
        end
    });
    sim.run_until_idle();
    assert_eq!(end.get(), Some(End::Closed));
    sim.assert_nothing_open();
}

#[test]
fn a_reader_that_never_reads_bounds_what_is_received() {
    for_each_seed(50, |seed| {
        let sim = Sim::new(seed, Faults::none());
        let settings = settings(&sim);
        let end = sim.block_on(async {
            let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
            let relay =
                sim.engine().relay(downstream, upstream, RelaySetup { settings, ..RelaySetup::default() });
            let end = Rc::new(Cell::new(None));
            let told = Rc::clone(&end);
            sim.engine().spawn(async move { told.set(Some(relay.await.end)) });
            let greedy = Rc::new(client);
            let sender = Rc::clone(&greedy);
            let engine = sim.engine();
            engine.spawn(async move { drop(sender.send(Buffer::from(vec![0; 8_000_000])).await) });
            engine.sleep_until(sim.now() + Duration::from_secs(60)).await;
            let [front, back] = sim.connections()[..] else { panic!("two connections") };
            let held = front.server_received_bytes - back.client_sent_bytes;
            let held_max = (usize::from(settings.credit_buffers) * BUFFER_BYTES).max(64 * 1024) as u64;
            assert!(held <= held_max, "{held} bytes are held");
            assert!(front.server_received_bytes < 1_000_000, "{} received", front.server_received_bytes);
            drop((greedy, origin));
            end
        });
        sim.run_until_idle();
        assert_eq!(
            end.get(),
            Some(End::Reset(Side::Upstream)),
            "an origin that leaves with bytes unread resets"
        );
        sim.assert_nothing_open();
    });
}

#[test]
fn a_half_close_is_kept_and_held_bytes_go_first() {
    for_each_seed(100, |seed| {
        let sim = Sim::new(seed, Faults { short_write_permille: 300, ..Faults::none() });
        let settings = settings(&sim);
        let report = sim.block_on(async {
            let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
            client.shutdown().unwrap();
            assert!(downstream.receive().await.unwrap().is_empty());
            let setup = RelaySetup {
                settings,
                from_downstream: Some(Buffer::from(b"question".to_vec())),
                from_upstream: Some(Buffer::from(b"greeting ".to_vec())),
                downstream_ended: true,
                ..RelaySetup::default()
            };
            let relay = sim.engine().relay(downstream, upstream, setup);
            sim.engine().spawn(async move {
                let mut question = Vec::new();
                loop {
                    let part = origin.receive().await.unwrap();
                    if part.is_empty() {
                        break;
                    }
                    question.extend_from_slice(&part);
                }
                assert_eq!(question, b"question");
                origin.send(Buffer::from(b"answer".to_vec())).await.unwrap();
            });
            sim.engine().spawn(async move {
                let mut answer = Vec::new();
                loop {
                    let part = client.receive().await.unwrap();
                    if part.is_empty() {
                        break;
                    }
                    answer.extend_from_slice(&part);
                }
                assert_eq!(answer, b"greeting answer");
            });
            relay.await
        });
        sim.run_until_idle();
        assert_eq!(report, Report { to_upstream_bytes: 8, to_downstream_bytes: 15, end: End::Closed });
        sim.assert_nothing_open();
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset_after_what_came_before_it() {
    for_each_seed(100, |seed| {
        let sim = Sim::new(seed, Faults::none());
        let settings = settings(&sim);
        let (report, client) = sim.block_on(async {
            let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
            let relay =
                sim.engine().relay(downstream, upstream, RelaySetup { settings, ..RelaySetup::default() });
            origin.send(Buffer::from(vec![3; 1_000])).await.unwrap();
            origin.reset();
            drop(origin);
            (relay.await, client)
        });
        assert_eq!(report.end, End::Reset(Side::Upstream));
        assert_eq!(report.to_downstream_bytes, 1_000, "what came before the reset is not lost");
        sim.block_on(async {
            let mut count = 0;
            let error = loop {
                match client.receive().await {
                    Ok(buffer) if buffer.is_empty() => panic!("no clean end after a reset"),
                    Ok(buffer) => count += buffer.len(),
                    Err(error) => break error,
                }
            };
            assert_eq!((count, error.kind()), (1_000, ErrorKind::ConnectionReset));
        });
    });
}

#[test]
fn an_abort_of_either_side_ends_a_tunnel_in_one_step_with_resets() {
    for_each_seed(100, |seed| {
        let sim = Sim::new(seed, Faults { short_write_permille: 500, ..Faults::none() });
        let settings = settings(&sim);
        sim.block_on(async {
            let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
            let abort = if seed % 2 == 0 { downstream.abort_handle() } else { upstream.abort_handle() };
            let mut relay = pin!(sim.engine().relay(
                downstream,
                upstream,
                RelaySetup { settings, ..RelaySetup::default() }
            ));
            let client = Rc::new(client);
            let sender = Rc::clone(&client);
            sim.engine().spawn(async move { drop(sender.send(Buffer::from(vec![0; 500_000])).await) });
            let mut cx = Context::from_waker(Waker::noop());
            let until = sim.now() + Duration::from_millis(sim.draw(20));
            while sim.now() < until {
                assert!(relay.as_mut().poll(&mut cx).is_pending(), "nobody reads: it goes on");
                sim.engine().sleep_until(sim.now() + Duration::from_micros(sim.draw(1_000))).await;
            }
            abort.abort();
            let Poll::Ready(report) = relay.as_mut().poll(&mut cx) else { panic!("an abort is one step") };
            assert_eq!(report.end, End::Aborted);
            check_counts(&sim, (0, 0), report);
            let open = sim.open();
            assert_eq!((open.engine_streams, open.buffers), (0, 0));
            let hears = |stream: Rc<SimStream>| async move {
                loop {
                    match stream.receive().await {
                        Ok(buffer) => assert!(!buffer.is_empty(), "no clean end"),
                        Err(error) => return error.kind(),
                    }
                }
            };
            assert_eq!(hears(client).await, ErrorKind::ConnectionReset);
            assert_eq!(hears(Rc::new(origin)).await, ErrorKind::ConnectionReset);
        });
    });
}

#[test]
fn an_abort_wakes_an_idle_tunnel() {
    let sim = Sim::new(3, Faults::none());
    let end = sim.block_on(async {
        let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
        let abort = upstream.abort_handle();
        let (engine, relay) = (sim.engine(), sim.engine().relay(downstream, upstream, RelaySetup::default()));
        engine.spawn({
            let engine = engine.clone();
            async move {
                engine.sleep_until(engine.now() + Duration::from_secs(10)).await;
                abort.abort();
            }
        });
        let before = sim.now();
        let report = relay.await;
        assert!((sim.now() - before).as_millis() == 10_000);
        drop((client, origin));
        report.end
    });
    assert_eq!(end, End::Aborted);
}

#[test]
fn a_dropped_relay_resets_both_sides() {
    let sim = Sim::new(4, Faults::none());
    let (client, origin) = sim.block_on(async {
        let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
        drop(sim.engine().relay(downstream, upstream, RelaySetup::default()));
        (client, origin)
    });
    sim.block_on(async {
        assert_eq!(client.receive().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(origin.receive().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn idle_and_half_closed_tunnels_time_out() {
    for (ended, expected, seconds) in [(false, End::IdleTimeout, 3_600), (true, End::HalfCloseTimeout, 60)] {
        let sim = Sim::new(5, Faults::none());
        let (report, lasted) = sim.block_on(async {
            let Tunnel { client, downstream, upstream, origin } = tunnel(&sim).await;
            client.send(Buffer::from(vec![1])).await.unwrap();
            if ended {
                client.shutdown().unwrap();
            }
            let before = sim.now();
            let report = sim.engine().relay(downstream, upstream, RelaySetup::default()).await;
            let lasted = sim.now() - before;
            assert_eq!(&*origin.receive().await.unwrap(), [1]);
            (report, lasted)
        });
        assert_eq!((report.end, report.to_upstream_bytes), (expected, 1));
        assert!(lasted.as_secs().abs_diff(seconds) <= 1, "{lasted:?}");
    }
}
