//! The simulated network keeps the engines' contract and behaves as TCP does.
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
use sluice_engine::{Abort, Buffer, Engine, Kind, Listener, SourceAddress, Stream};
use sluice_engine_sim::{AttemptOutcome, Bounds, Faults, Sim, SimStream, for_each_seed};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const ORIGIN: &str = "192.0.2.10:80";

/// A connection of the engine to an outside host: the engine's end, the host's end.
async fn pair(sim: &Sim) -> (SimStream, SimStream) {
    let listener = sim.outside(ip("192.0.2.10")).listen(address(ORIGIN), None).unwrap();
    let connecting = sim.engine().connect(address(ORIGIN), None);
    (connecting.await.unwrap(), listener.accept().await.unwrap())
}

async fn read_to_end(stream: &SimStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    loop {
        match stream.receive().await {
            Ok(buffer) if buffer.is_empty() => return (bytes, None),
            Ok(buffer) => bytes.extend_from_slice(&buffer),
            Err(error) => return (bytes, Some(error.kind())),
        }
    }
}

fn payload(sim: &Sim, length: usize) -> Vec<u8> {
    let first = sim.draw(256) as usize;
    (0..length).map(|at| ((first + at * 7 + at / 251) & 0xff) as u8).collect()
}

#[test]
fn a_client_and_a_server_talk() {
    for_each_seed(50, |seed| {
        let sim = Sim::new(seed, Faults::none());
        let engine = sim.engine();
        assert_eq!(engine.kind(), Kind::Sim);
        let listener = engine.listen(address("0.0.0.0:0"), None).unwrap();
        let door = SocketAddr::new(ip("10.0.0.1"), listener.local_address().port());
        let client = sim.outside(ip("198.51.100.7"));
        let asked = payload(&sim, 100_000);
        let expected = asked.clone();
        client.spawn({
            let client = client.clone();
            async move {
                let stream =
                    client.connect(door, Some(SourceAddress::Own(ip("198.51.100.9")))).await.unwrap();
                assert_eq!(stream.peer_address(), door);
                stream.send(Buffer::from(asked)).await.unwrap();
                stream.shutdown().unwrap();
                assert_eq!(read_to_end(&stream).await, (b"thanks".to_vec(), None));
            }
        });
        sim.block_on(async {
            let stream = listener.accept().await.unwrap();
            assert_eq!(stream.peer_address().ip(), ip("198.51.100.9"));
            assert_eq!(stream.local_address(), door);
            assert_eq!(read_to_end(&stream).await, (expected, None));
            stream.send(Buffer::from(b"thanks".to_vec())).await.unwrap();
            stream.shutdown().unwrap();
        });
        drop(listener);
        sim.run_until_idle();
        let [connection] = sim.connections()[..] else { panic!("one connection") };
        assert_eq!((connection.client_sent_bytes, connection.server_received_bytes), (100_000, 100_000));
        assert_eq!((connection.server_sent_bytes, connection.client_received_bytes), (6, 6));
        assert!(connection.to_engine && !connection.from_engine);
        sim.assert_nothing_open();
    });
}

#[test]
fn an_unread_byte_turns_a_close_into_a_reset() {
    let sim = Sim::new(1, Faults::none());
    sim.block_on(async {
        let (ours, theirs) = pair(&sim).await;
        ours.send(Buffer::from(vec![1; 10])).await.unwrap();
        sim.engine().sleep_until(sim.now() + Duration::from_secs(1)).await;
        drop(theirs);
        assert_eq!(read_to_end(&ours).await.1, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn bytes_for_a_closed_socket_are_answered_with_a_reset() {
    let sim = Sim::new(2, Faults::none());
    sim.block_on(async {
        let (ours, theirs) = pair(&sim).await;
        drop(theirs);
        assert!(ours.receive().await.unwrap().is_empty(), "the close itself was orderly");
        ours.send(Buffer::from(vec![1; 10])).await.unwrap();
        sim.engine().sleep_until(sim.now() + Duration::from_secs(1)).await;
        assert_eq!(
            ours.send(Buffer::from(vec![1; 10])).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        assert!(ours.shutdown().is_err());
    });
}

#[test]
fn a_reset_stream_resets_when_it_is_dropped_and_a_half_close_leaves_the_other_way_open() {
    let sim = Sim::new(3, Faults::none());
    sim.block_on(async {
        let (ours, theirs) = pair(&sim).await;
        ours.shutdown().unwrap();
        assert!(theirs.receive().await.unwrap().is_empty());
        theirs.send(Buffer::from(b"late".to_vec())).await.unwrap();
        assert_eq!(&*ours.receive().await.unwrap(), b"late");
        theirs.reset();
        drop(theirs);
        assert_eq!(ours.receive().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_abort_fails_what_is_under_way_and_everything_after() {
    let sim = Sim::new(4, Faults::none());
    sim.block_on(async {
        let (ours, theirs) = pair(&sim).await;
        let abort = ours.abort_handle();
        sim.engine().spawn(async move { abort.clone().abort() });
        assert_eq!(ours.receive().await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(ours.receive().await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(ours.send(Buffer::from(vec![1])).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        let abort = ours.abort_handle();
        drop(ours);
        abort.abort();
        assert_eq!(theirs.receive().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_receive_that_is_dropped_loses_nothing() {
    for_each_seed(50, |seed| {
        let sim = Sim::new(seed, Faults::none());
        sim.block_on(async {
            let (ours, theirs) = pair(&sim).await;
            for round in 0..20_u8 {
                let mut cx = Context::from_waker(Waker::noop());
                assert!(pin!(ours.receive()).poll(&mut cx).is_pending());
                theirs.send(Buffer::from(vec![round])).await.unwrap();
                assert_eq!(&*ours.receive().await.unwrap(), [round]);
            }
        });
    });
}

#[test]
fn an_idle_upstream_is_stale_once_its_peer_speaks_or_leaves() {
    let sim = Sim::new(5, Faults::none());
    sim.block_on(async {
        let (ours, theirs) = pair(&sim).await;
        let second = Duration::from_secs(1);
        sim.engine().sleep_until(sim.now() + second).await;
        assert!(!ours.is_stale());
        drop(theirs);
        sim.engine().sleep_until(sim.now() + second).await;
        assert!(ours.is_stale());
    });
}

#[test]
fn connects_fail_as_they_do_outside() {
    let sim = Sim::new(6, Faults::none());
    let origin = sim.outside(ip("192.0.2.10"));
    let engine = sim.engine();
    sim.block_on(async {
        let refused = engine.connect(address("192.0.2.10:81"), None).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let _listener = origin.listen(address("[::]:80"), None).unwrap();
        let stream = engine.connect(address("[2001:db8::1]:80"), None).await.unwrap();
        assert!(stream.local_address().is_ipv6());

        sim.set_faults(Faults { connect_timeout_permille: 1000, ..Faults::none() });
        let before = sim.now();
        let late = engine.connect(address("[2001:db8::1]:80"), None).await.err().unwrap();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        assert!(sim.now() - before >= Duration::from_secs(120), "a kernel is patient");

        sim.set_faults(Faults { descriptors_exhausted_permille: 1000, ..Faults::none() });
        let exhausted = engine.connect(address("[2001:db8::1]:80"), None).await.err().unwrap();
        assert_eq!(exhausted.raw_os_error(), Some(24));

        sim.set_faults(Faults { connect_silent_permille: 1000, ..Faults::none() });
        let deadline = sluice_engine::Deadline::new(engine.clone());
        deadline.set(Some(sim.now() + Duration::from_secs(5)));
        let silent = deadline.run(engine.connect(address("[2001:db8::1]:80"), None)).await;
        assert!(silent.is_err());
    });
    let outcomes: Vec<_> = sim.engine_attempts().iter().map(|attempt| attempt.outcome).collect();
    let expected = [
        AttemptOutcome::Failed(111),
        AttemptOutcome::Connected,
        AttemptOutcome::Failed(110),
        AttemptOutcome::Abandoned,
    ];
    assert_eq!(outcomes, expected, "an attempt without a descriptor never was on the wire");
    sim.run_until_idle();
    sim.assert_nothing_open();
}

#[test]
fn an_abandoned_connect_leaves_nothing_open() {
    for_each_seed(200, |seed| {
        let sim = Sim::new(seed, Faults::none());
        let listener = sim.outside(ip("192.0.2.10")).listen(address(ORIGIN), None).unwrap();
        let patience = Duration::from_micros(sim.draw(500));
        sim.block_on(async {
            let deadline = sluice_engine::Deadline::new(sim.engine());
            deadline.set(Some(sim.now() + patience));
            drop(deadline.run(sim.engine().connect(address(ORIGIN), None)).await);
        });
        drop(listener);
        sim.run_until_idle();
        sim.assert_nothing_open();
    });
}

#[test]
fn an_accept_without_descriptors_leaves_the_connection_queued() {
    let faults = Faults { descriptors_max: 2, ..Faults::none() };
    let sim = Sim::new(7, faults);
    let listener = sim.engine().listen(address("10.0.0.1:1"), None).unwrap();
    let client = sim.outside(ip("198.51.100.7"));
    sim.block_on(async {
        let _first = client.connect(address("10.0.0.1:1"), None).await.unwrap();
        let _second = client.connect(address("10.0.0.1:1"), None).await.unwrap();
        let one = listener.accept().await.unwrap();
        let error = listener.accept().await.err().unwrap();
        assert_eq!(error.raw_os_error(), Some(24));
        drop(one);
        listener.accept().await.unwrap();
    });
}

#[test]
fn receives_wait_for_a_buffer_and_go_on_when_one_comes_home() {
    let faults = Faults { pool_buffers_max: 1, ..Faults::none() };
    let sim = Sim::new(8, faults);
    sim.block_on(async {
        let (ours, theirs) = pair(&sim).await;
        theirs.send(Buffer::from(vec![7; 2 * BUFFER_BYTES])).await.unwrap();
        let first = ours.receive().await.unwrap();
        assert_eq!(sim.engine().stats().buffers_in_use, 1);
        let held = Rc::new(RefCell::new(Some(first)));
        let released = Rc::new(Cell::new(false));
        sim.engine().spawn({
            let (engine, held, released) = (sim.engine(), Rc::clone(&held), Rc::clone(&released));
            async move {
                engine.sleep_until(engine.now() + Duration::from_secs(9)).await;
                released.set(true);
                held.take();
            }
        });
        let second = ours.receive().await.unwrap();
        assert!(released.get() && !second.is_empty());
        assert!(sim.engine().stats().buffers_exhausted > 0);
    });
}

#[test]
fn time_jumps_and_timers_fire_in_order() {
    let sim = Sim::new(9, Faults::none());
    let fired = Rc::new(RefCell::new(Vec::new()));
    for seconds in [3_600, 1, 60] {
        let (engine, fired) = (sim.engine(), Rc::clone(&fired));
        sim.engine().spawn(async move {
            engine.sleep_until(engine.now() + Duration::from_secs(seconds)).await;
            fired.borrow_mut().push(seconds);
        });
    }
    sim.run_until_idle();
    assert!(fired.borrow().is_empty(), "a quiet world does not wait for timers");
    sim.run_for(Duration::from_secs(61));
    assert_eq!(*fired.borrow(), [1, 60]);
    sim.run_for(Duration::from_secs(3_600));
    assert_eq!(*fired.borrow(), [1, 60, 3_600]);
}

#[test]
fn a_command_queue_wakes_a_task() {
    let sim = Sim::new(10, Faults::none());
    let (commands, mut port) = tokio::sync::mpsc::channel::<u32>(4);
    let (answers, mut answered) = tokio::sync::mpsc::channel::<u32>(4);
    sim.engine().spawn(async move {
        while let Some(command) = port.recv().await {
            answers.send(command + 1).await.unwrap();
        }
    });
    sim.run_until_idle();
    sim.block_on(async {
        for command in 0..20 {
            commands.send(command).await.unwrap();
            assert_eq!(answered.recv().await, Some(command + 1));
        }
    });
    drop(commands);
    sim.run_until_idle();
    sim.assert_nothing_open();
}

#[test]
fn the_order_of_tasks_is_drawn_from_the_seed() {
    let order = |seed| {
        let sim = Sim::new(seed, Faults::none());
        let seen = Rc::new(RefCell::new(Vec::new()));
        for task in 0..8 {
            let seen = Rc::clone(&seen);
            sim.engine().spawn(async move { seen.borrow_mut().push(task) });
        }
        sim.run_until_idle();
        seen.take()
    };
    assert_eq!(order(1), order(1));
    let first = order(0);
    assert!((1..20).any(|seed| order(seed) != first), "other seeds give other orders");
}

#[test]
fn a_yield_lets_the_others_run() {
    let sim = Sim::new(11, Faults::none());
    let done = Rc::new(Cell::new(false));
    let seen = Rc::clone(&done);
    sim.engine().spawn(async move { seen.set(true) });
    sim.block_on(async {
        for _ in 0..1_000 {
            if done.get() {
                return;
            }
            sim.engine().yield_now().await;
        }
        panic!("the other task never ran");
    });
}

#[test]
fn a_panicking_task_fails_the_test_unless_that_is_wanted() {
    let sim = Sim::new(12, Faults::none());
    sim.tolerate_panics();
    sim.engine().spawn(async { panic!("a session's bug") });
    sim.run_until_idle();
    assert_eq!(sim.panics(), 1);
    sim.assert_nothing_open();
}

#[test]
#[should_panic(expected = "simulation of seed 13 did not end within 1000 steps")]
fn a_run_without_end_is_stopped() {
    let sim = Sim::new(13, Faults::none());
    sim.set_bounds(Bounds { steps_max: 1_000, ..Bounds::default() });
    sim.block_on(async {
        loop {
            sim.engine().yield_now().await;
        }
    });
}

#[test]
#[should_panic(expected = "simulation of seed 14: nothing can happen any more")]
fn a_run_that_waits_for_nothing_is_stopped() {
    let sim = Sim::new(14, Faults::none());
    sim.block_on(std::future::poll_fn(|_| Poll::<()>::Pending));
}

#[test]
#[should_panic(expected = "contract: one send at a time")]
fn two_sends_at_once_break_the_contract() {
    let sim = Sim::new(15, Faults::none());
    sim.block_on(async {
        let (ours, _theirs) = pair(&sim).await;
        ours.start_send(Buffer::from(vec![1]));
        ours.start_send(Buffer::from(vec![2]));
    });
}
