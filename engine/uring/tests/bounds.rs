//! Bounds of this engine: what a listener accepts unasked, rings much too small for the work, the loop that never sleeps.
//! Descriptors are counted, so the cases run one after the other.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use sluice_engine::{Buffer, Engine, Listener, Stream};
use sluice_engine_uring::limits::ACCEPTED_HELD_MAX;
use sluice_engine_uring::{Config, UringEngine};

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

async fn pause(engine: &UringEngine) {
    engine.sleep_until(engine.now() + Duration::from_millis(5)).await;
}

/// At its cap of connections a session layer stops asking: nothing may be accepted on its behalf beyond the bound.
fn a_listener_accepts_no_more_ahead_than_its_bound() {
    let engine = UringEngine::new(Config::default()).unwrap();
    engine.block_on(async {
        let listener = engine.listen(ANYWHERE, None).unwrap();
        let at = listener.local_address();
        let first = TcpStream::connect(at).unwrap();
        let asked = listener.accept().await.unwrap();
        let before = descriptors();
        let peers: Vec<_> = (0..100).map(|_| TcpStream::connect(at).unwrap()).collect();
        for _ in 0..20 {
            pause(&engine).await;
            assert!(descriptors() - before <= peers.len() + ACCEPTED_HELD_MAX);
        }
        // All the others were waiting in the kernel's queue.
        for _ in 0..peers.len() {
            drop(listener.accept().await.unwrap());
        }
        drop((first, asked));
    });
}

/// More operations than both queues hold, many times over.
fn rings_that_are_too_small_lose_nothing() {
    const STREAMS: usize = 200;
    let config = Config {
        submission_entries: 4,
        completion_entries: 8,
        ring_buffers: 4,
        pool_buffers_max: 4,
        ..Config::default()
    };
    let engine = UringEngine::new(config).unwrap();
    engine.block_on(async {
        let listener = engine.listen(ANYWHERE, None).unwrap();
        let at = listener.local_address();
        let connected =
            thread::spawn(move || (0..STREAMS).map(|_| TcpStream::connect(at).unwrap()).collect::<Vec<_>>());
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(Rc::new(listener.accept().await.unwrap()));
        }
        for stream in &streams {
            let polled = stream.poll_receive(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
        let mut peers = connected.join().unwrap();
        let clients = thread::spawn(move || {
            for round in 0..5_u8 {
                for peer in &mut peers {
                    peer.write_all(&[round; 10]).unwrap();
                }
                for peer in &mut peers {
                    let mut answer = [0; 10];
                    peer.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, [round; 10]);
                }
            }
        });
        let served = Rc::new(Cell::new(0));
        for stream in streams {
            let served = Rc::clone(&served);
            engine.spawn(async move {
                let mut left = 50_usize;
                while left > 0 {
                    let received = stream.receive().await.unwrap();
                    left -= received.len();
                    stream.send(Buffer::from(received.to_vec())).await.unwrap();
                }
                served.set(served.get() + 1);
            });
        }
        for _ in 0..2000 {
            if clients.is_finished() && served.get() == STREAMS {
                break;
            }
            pause(&engine).await;
        }
        assert_eq!(served.get(), STREAMS, "some are still waiting");
        clients.join().unwrap();
        let stats = engine.stats();
        assert_eq!((stats.completions_lost, stats.buffers_in_use, stats.tasks_panicked), (0, 0, 0));
        assert!(stats.buffers_exhausted > 0, "the buffers were too few, too");
    });
}

fn the_loop_that_never_sleeps_works_the_same() {
    let engine = UringEngine::new(Config { busy_poll: true, ..Config::default() }).unwrap();
    engine.block_on(async {
        let listener = engine.listen(ANYWHERE, None).unwrap();
        let mut peer = TcpStream::connect(listener.local_address()).unwrap();
        let stream = listener.accept().await.unwrap();
        let turns = engine.stats().turns;
        pause(&engine).await;
        assert!(engine.stats().turns > turns + 10, "it spins");
        peer.write_all(b"ping").unwrap();
        assert_eq!(&*stream.receive().await.unwrap(), b"ping");
    });
}

fn an_idle_worker_sleeps() {
    let engine = UringEngine::new(Config::default()).unwrap();
    engine.block_on(async {
        let turns = engine.stats().turns;
        engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
        assert!(engine.stats().turns - turns < 10, "one wait, not a spin");
    });
}

#[test]
fn bounds_hold() {
    a_listener_accepts_no_more_ahead_than_its_bound();
    rings_that_are_too_small_lose_nothing();
    the_loop_that_never_sleeps_works_the_same();
    an_idle_worker_sleeps();
}
