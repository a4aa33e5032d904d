//! Awkward moments: what is dropped, cut or handed over while something is under way, and descriptors that are soon
//! another's.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use sluice_relay::{End, Settings, Side};

use super::peers::{address, connect, door, read_all, read_exactly, read_flow, reset, write_flow};
use super::{Rig, Signal, Tuning, between, in_time, tunnel, with_client};
use crate::{Buffer, Engine, Listener, RelaySetup, Stream};

/// Starts a receive and leaves it under way; whether it is.
fn leave_under_way(stream: &impl Stream) -> bool {
    stream.poll_receive(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn message(number: u32) -> Vec<u8> {
    let length = 4 + number as usize * 37 % 700;
    number.to_le_bytes().iter().copied().cycle().take(length).collect()
}

pub fn sends_keep_their_order_under_load<R: Rig>() {
    const MESSAGES: u32 = 4000;
    let client = |mut stream: TcpStream| {
        let (mut all, mut chunk) = (Vec::new(), [0; 2000]);
        loop {
            // Slow now and then, so that sends run into a full socket.
            if all.len() % 7 == 0 {
                thread::sleep(Duration::from_micros(300));
            }
            match stream.read(&mut chunk).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&chunk[..count]),
            }
        }
    };
    let (heard, ()) = with_client::<R, _, _, _>(Tuning::default(), client, |_, stream| async move {
        for number in 0..MESSAGES {
            stream.send(Buffer::from(message(number))).await.unwrap();
        }
    });
    assert!(heard == (0..MESSAGES).flat_map(message).collect::<Vec<_>>(), "every byte in its place");
}

pub fn a_drop_with_a_receive_under_way_is_an_orderly_end<R: Rig>() {
    let client = |mut stream: TcpStream| read_all(&mut stream);
    let (heard, ()) = with_client::<R, _, _, _>(Tuning::default(), client, |engine, stream| async move {
        assert!(leave_under_way(&stream));
        engine.sleep_until(engine.now() + Duration::from_millis(5)).await;
        drop(stream);
    });
    assert_eq!(heard, b"");
}

/// Streams come and go quickly, half of them with a receive under way: a descriptor's next owner must never get, or lose,
/// what its last one asked for.
pub fn a_reused_descriptor_gets_no_other_connections_bytes<R: Rig>() {
    const ROUNDS: u32 = 400;
    let at_door = door();
    let at = address(&at_door);
    let clients = thread::spawn(move || {
        for number in 0..ROUNDS {
            let mut stream = connect(at);
            stream.write_all(&number.to_le_bytes()).unwrap();
            assert_eq!(read_exactly(&mut stream, 4), number.to_le_bytes());
        }
    });
    R::run(Tuning::default(), |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        for number in 0..ROUNDS {
            let stream = in_time(&engine, listener.accept()).await.unwrap();
            let heard = in_time(&engine, stream.receive()).await.unwrap();
            assert_eq!(*heard, number.to_le_bytes());
            stream.send(heard).await.unwrap();
            if number % 2 == 0 {
                let _ = leave_under_way(&stream);
            }
        }
    });
    clients.join().unwrap();
}

pub fn a_relay_takes_over_a_receive_under_way<R: Rig>() {
    for bytes_are_there in [false, true] {
        let (early, late) = (Signal::default(), Signal::default());
        let (send_early, send_late) = (early.clone(), late.clone());
        let client = move |mut stream: TcpStream| {
            send_early.wait();
            stream.write_all(b"early ").unwrap();
            send_late.wait();
            stream.write_all(b"late").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_all(&mut stream)
        };
        let origin = |mut stream: TcpStream| read_all(&mut stream);
        let (_, heard, report) = between::<R, _, _, _, _>(
            Tuning::default(),
            client,
            origin,
            |engine, downstream, upstream| async move {
                assert!(leave_under_way(&downstream) && leave_under_way(&upstream));
                early.set();
                if bytes_are_there {
                    engine.sleep_until(engine.now() + Duration::from_millis(20)).await;
                }
                late.set();
                engine.relay(downstream, upstream, RelaySetup::default()).await
            },
        );
        assert_eq!(heard, b"early late");
        assert_eq!((report.to_upstream_bytes, report.end), (10, End::Closed));
    }
}

pub fn a_reset_in_the_middle_of_a_splice_harms_no_later_flow<R: Rig>() {
    const FLOW_BYTES: usize = 4 * 1024 * 1024;
    let settings = Settings { splice_after_full_buffers: 2, ..Settings::default() };
    let (at_door, origin_door) = (door(), door());
    let (at, origin_at) = (address(&at_door), address(&origin_door));
    let clients = thread::spawn(move || {
        for round in 0..6 {
            let mut stream = connect(at);
            if round % 2 == 0 {
                let garbage = vec![0xee; 256 * 1024];
                while stream.write_all(&garbage).is_ok() {}
            } else {
                write_flow(&mut stream, FLOW_BYTES, round);
            }
        }
    });
    let origins = thread::spawn(move || {
        for round in 0..6 {
            let mut stream = super::peers::accept(&origin_door);
            if round % 2 == 0 {
                read_exactly(&mut stream, FLOW_BYTES);
                reset(stream);
            } else {
                // What was parked in a pipe a moment ago must not turn up here.
                read_flow(&mut stream, FLOW_BYTES, round);
                assert!(read_all(&mut stream).is_empty());
            }
        }
    });
    // One pipe: the flows get each other's, if anything.
    R::run(Tuning { pipes_max: 1, ..Tuning::default() }, |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        for round in 0..6 {
            let downstream = in_time(&engine, listener.accept()).await.unwrap();
            let upstream = in_time(&engine, engine.connect(origin_at, None)).await.unwrap();
            let setup = RelaySetup { settings, ..RelaySetup::default() };
            let report = in_time(&engine, engine.relay(downstream, upstream, setup)).await;
            let expected = if round % 2 == 0 { End::Reset(Side::Upstream) } else { End::Closed };
            assert_eq!(report.end, expected);
        }
        // A pipe may still be on its way back from the flow before; then a flow goes through buffers.
        let promotions = engine.stats().splice_promotions;
        assert!(promotions >= 3, "it was splice that was cut: {promotions} promotions");
    });
    clients.join().unwrap();
    origins.join().unwrap();
}

pub fn messages_of_odd_sizes_pass_while_paths_change<R: Rig>() {
    const SIZES: [usize; 8] = [1, 17_000, 3, 100_001, 65_536, 16_384, 16_336, 2_000_003];
    const ROUNDS: usize = 64;
    // One full buffer promotes and one small splice demotes.
    let settings = Settings { splice_after_full_buffers: 1, splice_demote_after: 1, ..Settings::default() };
    let bytes = |round: usize| -> Vec<u8> {
        let size = SIZES[round % SIZES.len()];
        (0..size).map(|at| (at * 31 + at / 251 + round) as u8).collect()
    };
    let client = move |mut stream: TcpStream| {
        for round in 0..ROUNDS {
            stream.write_all(&bytes(round)).unwrap();
            assert_eq!(read_exactly(&mut stream, 1), [round as u8]);
        }
    };
    let origin = move |mut stream: TcpStream| {
        for round in 0..ROUNDS {
            let expected = bytes(round);
            assert!(read_exactly(&mut stream, expected.len()) == expected, "round {round}");
            stream.write_all(&[round as u8]).unwrap();
        }
        assert!(read_all(&mut stream).is_empty());
    };
    let outcome = tunnel::<R, _, _>(Tuning::default(), settings, client, origin);
    let total: usize = (0..ROUNDS).map(|round| SIZES[round % SIZES.len()]).sum();
    assert_eq!((outcome.report.end, outcome.counted), (End::Closed, (total as u64, ROUNDS as u64)));
    assert!(outcome.stats.splice_promotions > 5, "the path changed");
}

pub fn wakes_from_many_threads_all_arrive<R: Rig>() {
    R::run(Tuning::default(), |engine| async move {
        let (done, all) = (Rc::new(Cell::new(0)), Signal::default());
        for _ in 0..8 {
            let (done, all) = (Rc::clone(&done), all.clone());
            engine.spawn(async move {
                for _ in 0..50 {
                    let signal = Signal::default();
                    let theirs = signal.clone();
                    let thread = thread::spawn(move || theirs.set());
                    signal.seen().await;
                    thread.join().unwrap();
                }
                done.set(done.get() + 1);
                if done.get() == 8 {
                    all.set();
                }
            });
        }
        in_time(&engine, all.seen()).await;
    });
}

pub fn a_dropped_listener_closes_what_it_had_accepted<R: Rig>() {
    let at_door = door();
    let at = address(&at_door);
    let clients: Vec<_> = (0..10)
        .map(|_| {
            thread::spawn(move || {
                // Refused, reset or ended, whichever it comes to: but not left hanging.
                if let Ok(mut stream) = TcpStream::connect(at) {
                    stream.set_read_timeout(Some(super::CASE_MAX)).unwrap();
                    match stream.read(&mut [0]) {
                        Ok(count) => assert_eq!(count, 0),
                        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
                    }
                }
            })
        })
        .collect();
    R::run(Tuning::default(), |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        let first = in_time(&engine, listener.accept()).await.unwrap();
        engine.sleep_until(engine.now() + Duration::from_millis(5)).await;
        drop(listener);
        first.reset();
        drop(first);
        engine.sleep_until(engine.now() + Duration::from_millis(50)).await;
        for client in clients {
            client.join().unwrap();
        }
    });
}
