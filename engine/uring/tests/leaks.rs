//! Nothing is left behind, whatever was in flight: descriptors are counted, so the cases run one after the other in a
//! process of their own.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::future::poll_fn;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_engine::{Abort, Buffer, Engine, Listener, RelaySetup, Stream};
use sluice_engine_uring::{Config, UringEngine};

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn engine() -> UringEngine {
    UringEngine::new(Config::default()).unwrap()
}

fn leave_under_way(stream: &impl Stream) {
    assert!(stream.poll_receive(&mut Context::from_waker(Waker::noop())).is_pending());
}

async fn turns(engine: &UringEngine) {
    engine.sleep_until(engine.now() + Duration::from_millis(3)).await;
}

/// An address that answers no SYN: a listener whose queue is full. Who holds it keeps it so.
fn silent_address() -> (SocketAddr, Vec<TcpStream>, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&ANYWHERE.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queued.push(stream);
        assert!(queued.len() < 64, "the queue never fills");
    }
    (address, queued, socket)
}

/// Everything at once is in flight when the engine ends.
fn an_engine_that_ends_amid_work_leaves_no_descriptor() {
    let before = descriptors();
    {
        let (silent, _queued, _socket) = silent_address();
        let origin = TcpListener::bind(ANYWHERE).unwrap();
        let origin_at = origin.local_addr().unwrap();
        let engine = engine();
        let mut peers = Vec::new();
        engine.block_on(async {
            let listener = engine.listen(ANYWHERE, None).unwrap();
            let at = listener.local_address();
            peers.push(TcpStream::connect(at).unwrap());
            let receiving = listener.accept().await.unwrap();
            leave_under_way(&receiving);
            peers.push(TcpStream::connect(at).unwrap());
            let sending = listener.accept().await.unwrap();
            sending.start_send(Buffer::from(vec![7; 32 * 1024 * 1024]));
            peers.push(TcpStream::connect(at).unwrap());
            let downstream = listener.accept().await.unwrap();
            let upstream = engine.connect(origin_at, None).await.unwrap();
            let relay = engine.relay(downstream, upstream, RelaySetup::default());
            engine.spawn(async move {
                relay.await;
            });
            let connecting = engine.connect(silent, None);
            engine.spawn(async move {
                assert!(connecting.await.is_err());
            });
            engine.spawn(async move {
                let _held = (receiving, sending);
                let _never = listener.accept().await;
                std::future::pending::<()>().await;
            });
            turns(&engine).await;
            // Accepted by the kernel, asked for by nobody.
            peers.push(TcpStream::connect(at).unwrap());
            peers.push(TcpStream::connect(at).unwrap());
            turns(&engine).await;
        });
        drop(engine);
        for mut peer in peers {
            // All of them were ended or reset.
            peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let ended = peer.read_to_end(&mut Vec::new());
            assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
        }
    }
    assert_eq!(descriptors(), before);
}

fn streams_that_outlive_the_loop_are_closed_with_the_engine() {
    let before = descriptors();
    {
        let engine = engine();
        let (listener, stream, mut peer) = engine.block_on(async {
            let listener = engine.listen(ANYWHERE, None).unwrap();
            let peer = TcpStream::connect(listener.local_address()).unwrap();
            let stream = listener.accept().await.unwrap();
            leave_under_way(&stream);
            (listener, stream, peer)
        });
        // The loop can be entered again: what the end cancelled is armed again when it is asked for.
        std::io::Write::write_all(&mut peer, b"again").unwrap();
        engine.block_on(async { assert_eq!(&*stream.receive().await.unwrap(), b"again") });
        leave_under_way(&stream);
        drop((engine, listener));
        drop(stream);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "an orderly end");
    }
    assert_eq!(descriptors(), before);
}

fn an_abandoned_connect_is_closed() {
    let (silent, _queued, _socket) = silent_address();
    let engine = engine();
    let before = descriptors();
    engine.block_on(async {
        for wait in [false, true, false, true] {
            {
                let mut connecting = pin!(engine.connect(silent, None));
                poll_fn(|cx| {
                    assert!(connecting.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
                if wait {
                    turns(&engine).await;
                }
            }
            turns(&engine).await;
            assert_eq!(descriptors(), before);
        }
    });
}

fn a_send_that_a_drop_cuts_short_is_no_orderly_end() {
    let engine = engine();
    engine.block_on(async {
        let listener = engine.listen(ANYWHERE, None).unwrap();
        let mut peer = TcpStream::connect(listener.local_address()).unwrap();
        let stream = listener.accept().await.unwrap();
        stream.start_send(Buffer::from(vec![7; 32 * 1024 * 1024]));
        turns(&engine).await;
        drop(stream);
        turns(&engine).await;
        let error = peer.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// The abort's cancellation finds the send half done: what is left must not be sent after all.
fn an_aborted_send_does_not_go_on() {
    const SENT_BYTES: usize = 64 * 1024 * 1024;
    let engine = engine();
    engine.block_on(async {
        let listener = engine.listen(ANYWHERE, None).unwrap();
        let mut peer = TcpStream::connect(listener.local_address()).unwrap();
        let stream = listener.accept().await.unwrap();
        stream.start_send(Buffer::from(vec![7; SENT_BYTES]));
        turns(&engine).await;
        stream.abort_handle().abort();
        let error = poll_fn(|cx| stream.poll_sent(cx)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        turns(&engine).await;
        // The stream is still there: whoever reads now gets what had been sent, and then nothing more.
        peer.set_nonblocking(true).unwrap();
        let (mut taken, mut chunk, mut quiet) = (0, vec![0; 1 << 20], 0);
        while quiet < 20 {
            match peer.read(&mut chunk) {
                Ok(count) => (taken, quiet) = (taken + count, 0),
                Err(_) => quiet += 1,
            }
            turns(&engine).await;
        }
        assert!(taken < SENT_BYTES / 2, "{taken} bytes were sent");
        drop(stream);
    });
}

fn an_engine_that_never_ran_leaves_nothing() {
    let before = descriptors();
    let engine = engine();
    let listener = engine.listen(ANYWHERE, None).unwrap();
    drop((engine, listener));
    assert_eq!(descriptors(), before);
}

#[test]
fn nothing_is_left_behind() {
    an_engine_that_ends_amid_work_leaves_no_descriptor();
    streams_that_outlive_the_loop_are_closed_with_the_engine();
    an_abandoned_connect_is_closed();
    a_send_that_a_drop_cuts_short_is_no_orderly_end();
    an_aborted_send_does_not_go_on();
    an_engine_that_never_ran_leaves_nothing();
}
