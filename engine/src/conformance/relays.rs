//! Tunnels: half-close, resets, timeouts, what came before, a pool that is too small.

use std::cell::Cell;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use super::peers::{
    accept, address, connect, door, echo, read_all, read_exactly, read_to_reset, reset, write_until_blocked,
};
use super::{Rig, Signal, Tuning, between, in_time, tunnel};
use crate::{Buffer, Engine, Listener, RelaySetup, Stream};
use sluice_relay::{End, Settings, Side};

/// Says all it has and its end, then hears the other out.
fn speak_first(mut stream: TcpStream) -> Vec<u8> {
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    read_all(&mut stream)
}

/// Hears the other out to its end, then answers.
fn speak_last(mut stream: TcpStream) -> Vec<u8> {
    let heard = read_all(&mut stream);
    stream.write_all(b"the answer").unwrap();
    heard
}

pub fn a_half_close_by_the_client_leaves_the_other_direction_open<R: Rig>() {
    let outcome = tunnel::<R, _, _>(Tuning::default(), Settings::default(), speak_first, speak_last);
    assert_eq!((&*outcome.client, &*outcome.origin), (&b"the answer"[..], &b"question"[..]));
    assert_eq!((outcome.report.end, outcome.counted), (End::Closed, (8, 10)));
    assert_eq!(outcome.stats.buffers_in_use, 0);
}

pub fn a_half_close_by_the_origin_leaves_the_other_direction_open<R: Rig>() {
    let outcome = tunnel::<R, _, _>(Tuning::default(), Settings::default(), speak_last, speak_first);
    assert_eq!((&*outcome.client, &*outcome.origin), (&b"question"[..], &b"the answer"[..]));
    assert_eq!((outcome.report.end, outcome.counted), (End::Closed, (10, 8)));
}

/// Exchanges a byte, so that the tunnel is known to stand, then resets.
fn reset_after_a_byte(mut stream: TcpStream) {
    stream.write_all(b"x").unwrap();
    read_exactly(&mut stream, 1);
    reset(stream);
}

fn answer_then_see_the_reset(mut stream: TcpStream) -> usize {
    let heard = read_exactly(&mut stream, 1);
    stream.write_all(&heard).unwrap();
    read_to_reset(stream)
}

pub fn a_reset_by_the_client_reaches_the_origin_as_a_reset<R: Rig>() {
    let (tuning, settings) = (Tuning::default(), Settings::default());
    let outcome = tunnel::<R, _, _>(tuning, settings, reset_after_a_byte, answer_then_see_the_reset);
    assert_eq!((outcome.origin, outcome.report.end), (0, End::Reset(Side::Downstream)));
    assert_eq!((outcome.counted, outcome.stats.buffers_in_use), ((1, 1), 0));
}

pub fn a_reset_by_the_origin_reaches_the_client_as_a_reset<R: Rig>() {
    let (tuning, settings) = (Tuning::default(), Settings::default());
    let outcome = tunnel::<R, _, _>(tuning, settings, answer_then_see_the_reset, reset_after_a_byte);
    assert_eq!((outcome.client, outcome.report.end), (0, End::Reset(Side::Upstream)));
    assert_eq!((outcome.counted, outcome.stats.buffers_in_use), ((1, 1), 0));
}

pub fn what_came_before_the_relay_goes_first<R: Rig>() {
    let (client, origin, report) = between::<R, _, _, _, _>(
        Tuning::default(),
        speak_first,
        speak_last,
        |engine, downstream, upstream| async move {
            let mut sniffed = engine.buffer();
            assert!(sniffed.append(b"sniffed "));
            let setup = RelaySetup {
                from_downstream: Some(sniffed),
                from_upstream: Some(Buffer::from(b"greeting ".to_vec())),
                ..RelaySetup::default()
            };
            let report = engine.relay(downstream, upstream, setup).await;
            assert_eq!(engine.stats().buffers_in_use, 0);
            report
        },
    );
    assert_eq!((&*client, &*origin), (&b"greeting the answer"[..], &b"sniffed question"[..]));
    assert_eq!((report.to_upstream_bytes, report.to_downstream_bytes, report.end), (16, 19, End::Closed));
}

pub fn a_side_that_ended_before_the_relay_is_passed_on<R: Rig>() {
    let (client, origin, report) = between::<R, _, _, _, _>(
        Tuning::default(),
        speak_first,
        speak_last,
        |engine, downstream, upstream| async move {
            let question = downstream.receive().await.unwrap();
            assert!(downstream.receive().await.unwrap().is_empty());
            let setup = RelaySetup {
                from_downstream: Some(question),
                downstream_ended: true,
                ..RelaySetup::default()
            };
            engine.relay(downstream, upstream, setup).await
        },
    );
    assert_eq!((&*client, &*origin, report.end), (&b"the answer"[..], &b"question"[..], End::Closed));
}

pub fn nothing_moves_until_the_idle_timeout<R: Rig>() {
    let settings = Settings { idle_timeout_ms: 100, ..Settings::default() };
    let outcome = tunnel::<R, _, _>(Tuning::default(), settings, read_to_reset, read_to_reset);
    assert_eq!((outcome.report.end, outcome.counted), (End::IdleTimeout, (0, 0)));
}

/// A relay that was polled in one task and goes on in another is woken there, by its timer as by its sockets.
pub fn a_relay_that_changes_tasks_keeps_its_timer<R: Rig>() {
    let settings = Settings { idle_timeout_ms: 100, ..Settings::default() };
    let (_, _, report) = between::<R, _, _, _, _>(
        Tuning::default(),
        read_to_reset,
        read_to_reset,
        |engine, downstream, upstream| async move {
            let setup = RelaySetup { settings, ..RelaySetup::default() };
            let mut relay = Box::pin(engine.relay(downstream, upstream, setup));
            std::future::poll_fn(|cx| {
                assert!(relay.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            let (ended, report) = (Signal::default(), Rc::new(Cell::new(None)));
            let (end, reported) = (ended.clone(), Rc::clone(&report));
            engine.spawn(async move {
                reported.set(Some(relay.await));
                end.set();
            });
            ended.seen().await;
            report.get().unwrap()
        },
    );
    assert_eq!(report.end, End::IdleTimeout);
}

pub fn a_half_closed_tunnel_ends_at_its_own_timeout<R: Rig>() {
    let settings = Settings { half_close_timeout_ms: 100, ..Settings::default() };
    let client = |stream: TcpStream| {
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_reset(stream)
    };
    // The origin sees the end and stays silent; its reset comes on top.
    let origin = |mut stream: TcpStream| {
        assert!(read_all(&mut stream).is_empty());
        stream
    };
    let outcome = tunnel::<R, _, _>(Tuning::default(), settings, client, origin);
    assert_eq!(outcome.report.end, End::HalfCloseTimeout);
}

pub fn a_dropped_relay_resets_both_sides<R: Rig>() {
    let seen = Signal::default();
    let set = seen.clone();
    let origin = move |mut stream: TcpStream| {
        read_exactly(&mut stream, 1);
        set.set();
        read_to_reset(stream)
    };
    let client = |mut stream: TcpStream| {
        stream.write_all(b"x").unwrap();
        read_to_reset(stream)
    };
    between::<R, _, _, _, _>(Tuning::default(), client, origin, |engine, downstream, upstream| async move {
        let mut relay = Box::pin(engine.relay(downstream, upstream, RelaySetup::default()));
        let mut seen = Box::pin(seen.seen());
        std::future::poll_fn(|cx| {
            assert!(relay.as_mut().poll(cx).is_pending());
            seen.as_mut().poll(cx)
        })
        .await;
        drop(relay);
        assert_eq!(engine.stats().buffers_in_use, 0);
    });
}

/// One tunnel whose origin does not read takes the whole pool; the others wait, and go on when it lets go.
pub fn a_tiny_pool_serves_many_tunnels<R: Rig>() {
    const TUNNELS: usize = 24;
    const BYTES: usize = 256 * 1024;
    let (at_door, origin_door) = (door(), door());
    let (at, origin_at) = (address(&at_door), address(&origin_door));
    let (blocked, read_on) = (Signal::default(), Signal::default());
    let (block, reading_on) = (blocked.clone(), read_on.clone());
    let greedy_origin_door = door();
    let greedy_at = address(&greedy_origin_door);
    let greedy_origin = thread::spawn(move || {
        let mut stream = accept(&greedy_origin_door);
        reading_on.wait();
        read_all(&mut stream).len()
    });
    let greedy_client = thread::spawn(move || {
        let written = write_until_blocked(&mut connect(at));
        block.set();
        written
    });
    let origins: Vec<_> = (0..TUNNELS)
        .map(|_| {
            let door = origin_door.try_clone().unwrap();
            thread::spawn(move || echo(accept(&door)))
        })
        .collect();
    let client = move |index: usize| {
        let mut stream = connect(at);
        let sent = vec![u8::try_from(index).unwrap(); BYTES];
        let (mut writer, copy) = (stream.try_clone().unwrap(), sent.clone());
        let writing = thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert!(read_all(&mut stream) == sent, "every byte comes back to whom it belongs");
        writing.join().unwrap();
    };
    let clients = R::run(Tuning { buffers_max: 2, pipes_max: 0, ..Tuning::default() }, |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        let (closed, all) = (Rc::new(Cell::new(0)), Signal::default());
        let mut clients = Vec::new();
        for index in 0..=TUNNELS {
            let downstream = in_time(&engine, listener.accept()).await.unwrap();
            let to = if index == 0 { greedy_at } else { origin_at };
            let upstream = in_time(&engine, engine.connect(to, None)).await.unwrap();
            let relay = engine.relay(downstream, upstream, RelaySetup::default());
            let (closed, all) = (Rc::clone(&closed), all.clone());
            engine.spawn(async move {
                relay.await;
                closed.set(closed.get() + 1);
                if closed.get() == TUNNELS + 1 {
                    all.set();
                }
            });
            if index == 0 {
                in_time(&engine, blocked.seen()).await;
                assert_eq!(engine.stats().buffers_in_use, 2, "all there are");
                clients.extend((0..TUNNELS).map(|index| thread::spawn(move || client(index))));
            }
        }
        while engine.stats().buffers_exhausted == 0 {
            engine.sleep_until(engine.now() + Duration::from_millis(1)).await;
        }
        read_on.set();
        in_time(&engine, all.seen()).await;
        assert_eq!(engine.stats().buffers_in_use, 0);
        clients
    });
    for thread in clients.into_iter().chain(origins) {
        thread.join().unwrap();
    }
    assert_eq!(greedy_client.join().unwrap(), greedy_origin.join().unwrap());
}
