//! Bulk: promotion to splice and back, exact counts, backpressure, aborts in both modes, a turn for small messages.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::peers::{
    accept, address, connect, door, echo, read_all, read_exactly, read_flow, read_to_reset, reset,
    write_flow, write_until_blocked,
};
use super::{Outcome, Rig, SMALL_TURN_BYTES, Signal, Tuning, between, in_time, tunnel};
use crate::{Abort, Engine, EngineStats, Listener, RelaySetup, Stream};
use sluice_relay::{End, Report, Settings, Side};

const BULK_BYTES: usize = 64 * 1024 * 1024;

/// Writes one flow and reads another at the same time, both to their ends.
fn exchange(seeds: (u64, u64)) -> impl FnOnce(TcpStream) + Send + 'static {
    move |mut stream| {
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || {
            write_flow(&mut writer, BULK_BYTES, seeds.0);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        read_flow(&mut stream, BULK_BYTES, seeds.1);
        assert!(read_all(&mut stream).is_empty(), "nothing comes after the flow");
        writing.join().unwrap();
    }
}

fn exchange_bulk<R: Rig>(tuning: Tuning, settings: Settings) -> Outcome<(), ()> {
    let outcome = tunnel::<R, _, _>(tuning, settings, exchange((1, 1 << 32)), exchange((1 << 32, 1)));
    assert_eq!(outcome.report.end, End::Closed);
    assert_eq!(outcome.counted, (BULK_BYTES as u64, BULK_BYTES as u64));
    assert_eq!((outcome.stats.buffers_in_use, outcome.stats.splicing), (0, 0));
    outcome
}

pub fn bulk_is_promoted_and_exact_in_both_directions<R: Rig>() {
    // Never demoted, so that the promotions can be counted.
    let settings = Settings { splice_after_full_buffers: 4, splice_demote_after: 0, ..Settings::default() };
    let outcome = exchange_bulk::<R>(Tuning::default(), settings);
    assert_eq!(outcome.stats.splice_promotions, 2, "one for each direction");
    assert_eq!(outcome.stats.splice_demotions, 0, "to end is not to go back");
}

pub fn bulk_without_splice_is_exact<R: Rig>() {
    let settings = Settings { splice_after_full_buffers: 0, ..Settings::default() };
    assert_eq!(exchange_bulk::<R>(Tuning::default(), settings).stats.splice_promotions, 0);
}

pub fn without_a_pipe_bulk_stays_with_buffers<R: Rig>() {
    let tuning = Tuning { pipes_max: 0, ..Tuning::default() };
    assert_eq!(exchange_bulk::<R>(tuning, Settings::default()).stats.splice_promotions, 0);
}

pub fn small_messages_after_bulk_go_back_to_buffers<R: Rig>() {
    const FLOW_BYTES: usize = 8 * 1024 * 1024;
    const MESSAGES: usize = 64;
    let settings = Settings { splice_after_full_buffers: 4, splice_demote_after: 8, ..Settings::default() };
    let (seen, checked) = (Signal::default(), Signal::default());
    let (set, checked_here) = (seen.clone(), checked.clone());
    let client = move |mut stream: TcpStream| {
        write_flow(&mut stream, FLOW_BYTES, 1);
        assert_eq!(read_exactly(&mut stream, 1), b"!", "all of it has arrived");
        for _ in 0..MESSAGES {
            stream.write_all(b"ping").unwrap();
            assert_eq!(read_exactly(&mut stream, 4), b"ping");
        }
        set.set();
        checked_here.wait();
    };
    let origin = |mut stream: TcpStream| {
        read_flow(&mut stream, FLOW_BYTES, 1);
        stream.write_all(b"!").unwrap();
        echo(stream);
    };
    let ((), (), stats) = between::<R, _, _, _, _>(
        Tuning::default(),
        client,
        origin,
        |engine, downstream, upstream| async move {
            let setup = RelaySetup { settings, ..RelaySetup::default() };
            let counters = std::rc::Rc::clone(&setup.counters);
            let relay = engine.relay(downstream, upstream, setup);
            let ended = Signal::default();
            let end = ended.clone();
            engine.spawn(async move {
                relay.await;
                end.set();
            });
            seen.seen().await;
            assert_eq!(counters.splicing.get(), 0);
            let stats = engine.stats();
            checked.set();
            ended.seen().await;
            stats
        },
    );
    assert!(stats.splice_promotions >= 1, "the flow was bulk once");
    assert_eq!(stats.splice_demotions, stats.splice_promotions, "each promotion was taken back");
    assert_eq!((stats.splicing, stats.buffers_in_use), (0, 0), "now it is small, and silent");
}

/// A client that writes until it is held back by an origin that reads only the first bytes; then the abort.
fn abort_when_blocked<R: Rig>(settings: Settings, origin_reads_bytes: usize) -> (Report, EngineStats) {
    let blocked = Signal::default();
    let (set, aborted) = (blocked.clone(), Signal::default());
    let client = move |mut stream: TcpStream| {
        let written = write_until_blocked(&mut stream);
        set.set();
        read_to_reset(stream);
        written
    };
    let aborted_here = aborted.clone();
    let origin = move |mut stream: TcpStream| {
        read_exactly(&mut stream, origin_reads_bytes);
        aborted_here.wait();
        origin_reads_bytes + read_to_reset(stream)
    };
    let (written, read, (report, during, after)) = between::<R, _, _, _, _>(
        Tuning::default(),
        client,
        origin,
        |engine, downstream, upstream| async move {
            let abort = downstream.abort_handle();
            let setup = RelaySetup { settings, ..RelaySetup::default() };
            let mut relay = Box::pin(engine.relay(downstream, upstream, setup));
            let mut seen = Box::pin(blocked.seen());
            std::future::poll_fn(|cx| {
                assert!(relay.as_mut().poll(cx).is_pending(), "it can only be aborted");
                seen.as_mut().poll(cx)
            })
            .await;
            let during = engine.stats();
            abort.abort();
            let report = relay.await;
            aborted.set();
            abort.abort();
            (report, during, engine.stats())
        },
    );
    assert_eq!(report.end, End::Aborted);
    assert!(read <= written && report.to_upstream_bytes as usize <= written);
    assert!(report.to_upstream_bytes as usize >= read, "the origin read nothing that was not counted");
    assert_eq!((after.buffers_in_use, after.splicing), (0, 0));
    (report, during)
}

pub fn a_reader_that_never_reads_holds_the_sender_back<R: Rig>() {
    let settings = Settings { splice_after_full_buffers: 0, credit_buffers: 1, ..Settings::default() };
    let (_, during) = abort_when_blocked::<R>(settings, 0);
    assert_eq!(during.buffers_in_use, 1, "the credit, and no more");
}

pub fn an_abort_ends_a_blocked_tunnel_in_buffers<R: Rig>() {
    let settings = Settings { splice_after_full_buffers: 0, ..Settings::default() };
    let (_, during) = abort_when_blocked::<R>(settings, 0);
    assert!((1..=2).contains(&during.buffers_in_use), "the credit, and no more: {during:?}");
}

pub fn an_abort_ends_a_blocked_tunnel_in_splice<R: Rig>() {
    let settings = Settings { splice_after_full_buffers: 2, splice_demote_after: 0, ..Settings::default() };
    let (report, during) = abort_when_blocked::<R>(settings, 16 * 1024 * 1024);
    assert_eq!((during.splicing, during.buffers_in_use), (1, 0));
    assert!(report.to_upstream_bytes >= 16 * 1024 * 1024);
}

pub fn an_origin_that_resets_mid_bulk_resets_the_client<R: Rig>() {
    let settings = Settings { splice_after_full_buffers: 2, ..Settings::default() };
    let client = |mut stream: TcpStream| {
        // The reset hits a write or, at the latest, the read.
        let chunk = vec![b'x'; 64 * 1024];
        let written = (0..16_384).try_for_each(|_| stream.write_all(&chunk));
        assert!(written.is_err(), "the reset never came");
    };
    let origin = |mut stream: TcpStream| {
        read_exactly(&mut stream, 8 * 1024 * 1024);
        reset(stream);
    };
    let outcome = tunnel::<R, _, _>(Tuning::default(), settings, client, origin);
    assert_eq!(outcome.report.end, End::Reset(Side::Upstream));
    assert_eq!((outcome.stats.splicing, outcome.stats.buffers_in_use), (0, 0));
}

/// One tunnel moves bulk for as long as another one exchanges small messages.
pub fn bulk_leaves_small_messages_their_turn<R: Rig>() {
    const ROUND_TRIPS: usize = 200;
    let (at_door, origin_door) = (door(), door());
    let (at, origin_at) = (address(&at_door), address(&origin_door));
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let bulk = thread::spawn(move || {
        let mut stream = connect(at);
        let mut chunk = vec![0_u8; 256 * 1024];
        chunk[0] = b'b';
        let mut written = 0_u64;
        while !stopping.load(Ordering::Relaxed) {
            stream.write_all(&chunk).unwrap();
            written += chunk.len() as u64;
        }
        written
    });
    let origins: Vec<_> = (0..2)
        .map(|_| {
            let door = origin_door.try_clone().unwrap();
            thread::spawn(move || {
                let mut stream = accept(&door);
                let first = read_exactly(&mut stream, 1);
                if first == b"s" {
                    stream.write_all(&first).unwrap();
                    echo(stream);
                } else {
                    std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
                }
            })
        })
        .collect();
    let small = thread::spawn(move || {
        let mut stream = connect(at);
        for _ in 0..ROUND_TRIPS {
            stream.write_all(b"small").unwrap();
            assert_eq!(read_exactly(&mut stream, 5), b"small");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let moved = R::run(Tuning::default(), |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        let mut ended = Vec::new();
        for _ in 0..2 {
            let downstream = in_time(&engine, listener.accept()).await.unwrap();
            let upstream = in_time(&engine, engine.connect(origin_at, None)).await.unwrap();
            let relay = engine.relay(downstream, upstream, RelaySetup::default());
            let (signal, total) = (Signal::default(), std::rc::Rc::new(std::cell::Cell::new(0)));
            ended.push((signal.clone(), std::rc::Rc::clone(&total)));
            engine.spawn(async move {
                total.set(relay.await.to_upstream_bytes);
                signal.set();
            });
        }
        let mut moved = 0;
        for (signal, total) in ended {
            in_time(&engine, signal.seen()).await;
            moved += total.get();
        }
        moved
    });
    small.join().unwrap();
    assert_eq!(moved, bulk.join().unwrap() + (ROUND_TRIPS * 5) as u64);
    for origin in origins {
        origin.join().unwrap();
    }
}

/// Bulk that waits in the sockets when the tunnel begins, so that it never has to wait for bytes: another task sees how
/// many it moves between two turns of its own.
pub fn a_turn_moves_so_much_and_no_more<R: Rig>() {
    const READ_BYTES: usize = 4 * 1024 * 1024;
    let settings = Settings { splice_after_full_buffers: 2, splice_demote_after: 0, ..Settings::default() };
    let tuning = Tuning { small_turns: true, ..Tuning::default() };
    let blocked = Signal::default();
    let set = blocked.clone();
    let client = move |mut stream: TcpStream| {
        write_until_blocked(&mut stream);
        set.set();
        // The rest, as fast as it goes: there is always more.
        let chunk = vec![b'x'; 256 * 1024];
        while stream.write_all(&chunk).is_ok() {}
    };
    let origin = |mut stream: TcpStream| {
        let mut left = READ_BYTES;
        let mut chunk = vec![0; 1024 * 1024];
        while left > 0 {
            left = left.saturating_sub(std::io::Read::read(&mut stream, &mut chunk).unwrap());
        }
        reset(stream);
    };
    let ((), (), (largest, moved)) =
        between::<R, _, _, _, _>(tuning, client, origin, |engine, downstream, upstream| async move {
            in_time(&engine, blocked.seen()).await;
            let setup = RelaySetup { settings, ..RelaySetup::default() };
            let counters = std::rc::Rc::clone(&setup.counters);
            let relay = engine.relay(downstream, upstream, setup);
            let over = std::rc::Rc::new(std::cell::Cell::new(false));
            let end = std::rc::Rc::clone(&over);
            engine.spawn(async move {
                relay.await;
                end.set(true);
            });
            let (mut largest, mut before) = (0, 0);
            let watch = async {
                while !over.get() {
                    engine.yield_now().await;
                    let now = counters.to_upstream_bytes.get();
                    largest = largest.max(now - before);
                    before = now;
                }
            };
            in_time(&engine, watch).await;
            (largest, before)
        });
    assert!(moved as usize >= READ_BYTES / 2, "it was bulk: {moved}");
    // What goes beyond: one splice more in each of two turns.
    assert!(largest as usize <= 4 * SMALL_TURN_BYTES, "{largest} bytes between two turns of another task");
}
