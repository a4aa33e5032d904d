//! Single connections: receive, send, abort, reset, staleness, addresses, the pool's bound.

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::pin::pin;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use super::peers::{accept, address, connect, door, read_all, read_exactly, read_to_reset};
use super::{Rig, Signal, Tuning, in_time, with_client};
use crate::limits::{BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};
use crate::{Abort, Buffer, Deadline, Engine, Listener, SourceAddress, Stream};

async fn receive_to_end<S: Stream>(stream: &S) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let buffer = stream.receive().await.unwrap();
        if buffer.is_empty() {
            return all;
        }
        all.extend_from_slice(&buffer);
    }
}

pub fn a_receive_that_is_dropped_loses_nothing<R: Rig>() {
    let client = |mut stream: TcpStream| {
        for byte in 0..100_u8 {
            stream.write_all(&[byte]).unwrap();
            // Paces the bytes against the deadlines on the other end; nothing waits for it.
            thread::sleep(Duration::from_millis(1));
        }
        stream.shutdown(Shutdown::Write).unwrap();
        read_all(&mut stream);
    };
    let ((), (received, dropped)) =
        with_client::<R, _, _, _>(Tuning::default(), client, |engine, stream| async move {
            let deadline = Deadline::new(engine.clone());
            let (mut received, mut dropped) = (Vec::new(), 0);
            loop {
                deadline.set(Some(engine.now() + Duration::from_micros(300)));
                match deadline.run(stream.receive()).await {
                    Ok(buffer) if buffer.as_ref().unwrap().is_empty() => return (received, dropped),
                    Ok(buffer) => received.extend_from_slice(&buffer.unwrap()),
                    Err(_) => dropped += 1,
                }
            }
        });
    assert_eq!(received, (0..100).collect::<Vec<u8>>());
    assert!(dropped > 0, "some receive was to be dropped");
}

pub fn received_buffers_have_room_at_both_ends<R: Rig>() {
    let client = |mut stream: TcpStream| {
        stream.write_all(&[b'x'; 256 * 1024]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_all(&mut stream);
    };
    with_client::<R, _, _, _>(Tuning::default(), client, |engine, stream| async move {
        loop {
            let mut buffer = stream.receive().await.unwrap();
            if buffer.is_empty() {
                break;
            }
            assert!(
                buffer.prepend(&[0; BUFFER_HEADROOM_BYTES]) && buffer.append(&[0; BUFFER_TAILROOM_BYTES])
            );
        }
        assert_eq!(engine.stats().buffers_in_use, 0);
    });
}

pub fn a_long_send_to_a_slow_reader_is_continued<R: Rig>() {
    const BYTES: usize = 8 * 1024 * 1024;
    let client = |mut stream: TcpStream| {
        let mut all = Vec::new();
        let mut chunk = [0; 10_000];
        loop {
            match stream.read(&mut chunk).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&chunk[..count]),
            }
        }
    };
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let expected = bytes.clone();
    let (heard, ()) = with_client::<R, _, _, _>(Tuning::default(), client, |_, stream| async move {
        std::future::poll_fn(|cx| stream.poll_sent(cx)).await.expect("nothing is being sent: done");
        stream.send(Buffer::from(bytes)).await.unwrap();
        stream.send(Buffer::from(b"the end".to_vec())).await.unwrap();
    });
    assert!(heard[..BYTES] == expected && &heard[BYTES..] == b"the end");
}

/// Clients' streams on an engine with one buffer.
fn starved<R: Rig, F: Future<Output = ()>>(body: impl FnOnce(R::Engine, [super::StreamOf<R>; 3]) -> F) {
    let at_door = door();
    let at = address(&at_door);
    let clients = [(); 3].map(|()| {
        let mut stream = connect(at);
        thread::spawn(move || {
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // An orderly end, or a reset where the bytes were never received.
            let _ = stream.read_to_end(&mut Vec::new());
        })
    });
    R::run(Tuning { buffers_max: 1, pipes_max: 0, ..Tuning::default() }, |engine| async move {
        let listener = engine.listen(at, Some(at_door)).unwrap();
        let one = in_time(&engine, listener.accept()).await.unwrap();
        let other = in_time(&engine, listener.accept()).await.unwrap();
        let third = in_time(&engine, listener.accept()).await.unwrap();
        in_time(&engine.clone(), body(engine, [one, other, third])).await;
    });
    for client in clients {
        client.join().unwrap();
    }
}

pub fn an_empty_pool_makes_a_receive_wait<R: Rig>() {
    starved::<R, _>(|engine, [one, other, third]| async move {
        let held = one.receive().await.unwrap();
        assert_eq!((&*held, engine.stats().buffers_in_use), (&b"hello"[..], 1));
        let deadline = Deadline::new(engine.clone());
        deadline.set(Some(engine.now() + Duration::from_millis(50)));
        deadline.run(other.receive()).await.expect_err("no buffer is to be had");
        assert!(engine.stats().buffers_exhausted >= 1);
        let freed = Signal::default();
        let free = freed.clone();
        let engine_too = engine.clone();
        engine.spawn(async move {
            engine_too.yield_now().await;
            drop(held);
            free.set();
        });
        assert_eq!(&*other.receive().await.unwrap(), b"hello");
        freed.seen().await;
        for stream in [one, other] {
            assert!(stream.receive().await.unwrap().is_empty());
        }
        assert_eq!(&*third.receive().await.unwrap(), b"hello");
    });
}

pub fn a_waiting_receive_that_is_given_up_leaves_its_turn_to_the_next<R: Rig>() {
    starved::<R, _>(|engine, [one, other, third]| async move {
        // An engine may have its only buffer with the kernel already, so it is a receive that takes it.
        let held = third.receive().await.unwrap();
        let deadline = Deadline::new(engine.clone());
        deadline.set(Some(engine.now() + Duration::from_millis(20)));
        deadline.run(one.receive()).await.expect_err("no buffer is to be had");
        let received = Signal::default();
        let receive = received.clone();
        engine.spawn(async move {
            assert_eq!(&*other.receive().await.unwrap(), b"hello");
            receive.set();
        });
        engine.yield_now().await;
        drop(one);
        drop(held);
        received.seen().await;
    });
}

pub fn an_abort_ends_present_and_later_operations<R: Rig>() {
    let client = |mut stream: TcpStream| {
        assert_eq!(read_exactly(&mut stream, 1), b"x");
        read_to_reset(stream)
    };
    with_client::<R, _, _, _>(Tuning::default(), client, |engine, stream| async move {
        stream.send(Buffer::from(b"x".to_vec())).await.unwrap();
        let abort = stream.abort_handle();
        let aborting = engine.clone();
        engine.spawn(async move {
            aborting.yield_now().await;
            abort.abort();
        });
        let aborted = |error: io::Error| error.kind() == io::ErrorKind::ConnectionAborted;
        assert!(aborted(stream.receive().await.expect_err("aborted while it waits")));
        assert!(aborted(stream.receive().await.expect_err("aborted before")));
        assert!(aborted(stream.send(Buffer::from(b"y".to_vec())).await.expect_err("aborted before")));
        assert!(stream.is_stale());
        let (late, gone) = (stream.abort_handle(), stream.abort_handle());
        late.abort();
        drop(stream);
        gone.abort();
    });
}

pub fn a_drop_is_polite_unless_a_reset_was_asked_for<R: Rig>() {
    let polite = |mut stream: TcpStream| read_all(&mut stream);
    let (heard, ()) = with_client::<R, _, _, _>(Tuning::default(), polite, |_, stream| async move {
        stream.send(Buffer::from(b"bye".to_vec())).await.unwrap();
    });
    assert_eq!(heard, b"bye");
    let (_, ()) = with_client::<R, _, _, _>(Tuning::default(), read_to_reset, |_, stream| async move {
        stream.reset();
    });
}

pub fn a_shutdown_lets_what_was_sent_arrive<R: Rig>() {
    let client = |mut stream: TcpStream| {
        let heard = read_all(&mut stream);
        stream.write_all(b"and you").unwrap();
        heard
    };
    let (heard, answer) = with_client::<R, _, _, _>(Tuning::default(), client, |_, stream| async move {
        stream.send(Buffer::from(vec![b'x'; 1 << 20])).await.unwrap();
        stream.shutdown().unwrap();
        receive_to_end(&stream).await
    });
    assert_eq!((heard.len(), &*answer), (1 << 20, &b"and you"[..]));
}

pub fn a_stale_connection_is_known_as_such<R: Rig>() {
    let (speak, close) = (Signal::default(), Signal::default());
    let (speaking, closing) = (speak.clone(), close.clone());
    let client = move |mut stream: TcpStream| {
        speaking.wait();
        stream.write_all(b"unasked").unwrap();
        closing.wait();
    };
    with_client::<R, _, _, _>(Tuning::default(), client, |engine, stream| async move {
        assert!(!stream.is_stale());
        speak.set();
        while !stream.is_stale() {
            engine.sleep_until(engine.now() + Duration::from_millis(1)).await;
        }
        assert_eq!(&*stream.receive().await.unwrap(), b"unasked");
        assert!(!stream.is_stale());
        close.set();
        while !stream.is_stale() {
            engine.sleep_until(engine.now() + Duration::from_millis(1)).await;
        }
        assert!(stream.receive().await.unwrap().is_empty());
    });
}

pub fn a_refused_connection_says_so<R: Rig>() {
    let at = address(&door());
    let error = R::run(Tuning::default(), |engine| async move { engine.connect(at, None).await.err() });
    assert_eq!(error.unwrap().kind(), io::ErrorKind::ConnectionRefused);
}

pub fn a_connection_comes_from_the_source_address<R: Rig>() {
    let origin_door = door();
    let at = address(&origin_door);
    let origin = thread::spawn(move || {
        let mut stream = accept(&origin_door);
        read_all(&mut stream);
        stream.peer_addr().unwrap()
    });
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let local = R::run(Tuning::default(), |engine| async move {
        let stream = in_time(&engine, engine.connect(at, Some(SourceAddress::Own(source)))).await.unwrap();
        assert_eq!(stream.peer_address(), at);
        stream.local_address()
    });
    assert_eq!((origin.join().unwrap(), local.ip()), (local, source));
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let error = R::run(Tuning::default(), |engine| async move {
        engine.connect(at, Some(SourceAddress::Own(elsewhere))).await.err()
    });
    assert_eq!(error.unwrap().kind(), io::ErrorKind::AddrNotAvailable);
}

pub fn a_connection_that_was_not_redirected_names_nobody_else<R: Rig>() {
    const ENOENT: i32 = 2;
    const ENOPROTOOPT: i32 = 92;
    let client = |mut stream: TcpStream| {
        read_all(&mut stream);
    };
    with_client::<R, _, _, _>(Tuning::default(), client, |_, stream| async move {
        match stream.original_destination() {
            Ok(original) => assert_eq!(original, stream.local_address(), "tracked, and not redirected"),
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(ENOENT | ENOPROTOOPT)), "{error}");
            }
        }
    });
}

pub fn two_listeners_share_an_address<R: Rig>() {
    R::run(Tuning::default(), |engine| async move {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let one = engine.listen(any, None).unwrap();
        let at = one.local_address();
        assert_ne!(at.port(), 0);
        let other = engine.listen(at, None).expect("as every worker does");
        assert_eq!(other.local_address(), at);
        drop(other);
        let client = thread::spawn(move || read_all(&mut connect(at)));
        drop(in_time(&engine, one.accept()).await.unwrap());
        client.join().unwrap();
        drop(one);
        assert!(TcpStream::connect(at).is_err(), "a dropped listener is closed");
    });
}

pub fn addresses_are_told<R: Rig>() {
    let client = |mut stream: TcpStream| {
        let addresses = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        read_all(&mut stream);
        addresses
    };
    let (addresses, told) = with_client::<R, _, _, _>(Tuning::default(), client, |_, stream| async move {
        (stream.peer_address(), stream.local_address())
    });
    assert_eq!(told, addresses);
}

/// A listener that is about to close: whoever was let in is served, and nobody else is let in only to be reset.
pub fn what_is_queued_is_accepted_and_nothing_more_arrives<R: Rig>() {
    const QUEUED: usize = 20;
    let door = door();
    let at = address(&door);
    let mut queued: Vec<_> = (0..QUEUED).map(|_| connect(at)).collect();
    let late = R::run(Tuning::default(), |engine| async move {
        let listener = engine.listen(at, Some(door)).unwrap();
        listener.stop_arrivals();
        let late = thread::spawn(move || TcpStream::connect_timeout(&at, Duration::from_millis(300)));
        for nth in 0..QUEUED {
            // Without a turn of the engine: who is told to wait may believe that nothing is left.
            let mut accept = pin!(listener.accept());
            let next = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await;
            let Poll::Ready(stream) = next else { panic!("{nth} of {QUEUED} had been accepted") };
            let stream = stream.unwrap();
            in_time(&engine, stream.send(Buffer::from(b"served".to_vec()))).await.unwrap();
        }
        late.join().unwrap()
    });
    for peer in &mut queued {
        assert_eq!(read_all(peer), b"served");
    }
    assert_eq!(late.map(|_| ()).map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
}
