//! Pipes between two streams: exact amounts, what lies beyond them, ends, resets, aborts and backpressure.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};

use super::peers::{
    read_all, read_exactly, read_flow, read_to_reset, reset, write_flow, write_until_blocked,
};
use super::{Rig, Signal, StreamOf, Tuning, between};
use crate::{Abort, Engine, Pipe, Stream};

const BULK_BYTES: usize = 24 * 1024 * 1024;

/// Whole blocks, as the peers write them.
const FLOW_BYTES: usize = 5 * 64 * 1024;

/// What a transfer came to.
#[derive(Debug, PartialEq, Eq)]
enum Moved {
    All,
    /// The source ended after so many bytes.
    Ended(usize),
    Source(io::ErrorKind),
    Sink(io::ErrorKind),
}

/// Moves exactly `bytes`, as a session does.
async fn transfer<R: Rig>(
    pipe: &mut <R::Engine as Engine>::Pipe,
    from: &StreamOf<R>,
    to: &StreamOf<R>,
    bytes: usize,
) -> Moved {
    let mut left = bytes;
    while left > 0 {
        match pipe.fill(from, left).await {
            Ok(0) => return Moved::Ended(bytes - left),
            Ok(count) => assert!(count <= left && pipe.held_bytes() == count, "{count} of {left}"),
            Err(error) => return Moved::Source(error.kind()),
        }
        while pipe.held_bytes() > 0 {
            match pipe.drain(to).await {
                Ok(count) => {
                    assert!(count > 0);
                    left -= count;
                }
                Err(error) => return Moved::Sink(error.kind()),
            }
        }
    }
    Moved::All
}

pub fn exactly_what_was_asked_for_passes_and_the_rest_stays<R: Rig>() {
    let client = |mut stream: TcpStream| {
        read_flow(&mut stream, BULK_BYTES, 7);
        read_all(&mut stream)
    };
    let origin = |mut stream: TcpStream| {
        write_flow(&mut stream, BULK_BYTES, 7);
        stream.write_all(b"beyond").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_all(&mut stream);
    };
    let (after, (), rest) = between::<R, _, _, _, _>(
        Tuning::default(),
        client,
        origin,
        |engine, downstream, upstream| async move {
            let mut pipe = engine.pipe();
            assert_eq!(transfer::<R>(&mut pipe, &upstream, &downstream, BULK_BYTES).await, Moved::All);
            let mut rest = Vec::new();
            loop {
                let buffer = upstream.receive().await.unwrap();
                if buffer.is_empty() {
                    return rest;
                }
                rest.extend_from_slice(&buffer);
            }
        },
    );
    assert_eq!((after.as_slice(), rest.as_slice()), (&b""[..], &b"beyond"[..]));
}

pub fn buffers_and_pipes_take_turns<R: Rig>() {
    const ROUNDS: usize = 20;
    let client = |mut stream: TcpStream| {
        for round in 0..ROUNDS {
            assert_eq!(read_exactly(&mut stream, 4), b"head");
            read_flow(&mut stream, FLOW_BYTES, round as u64);
        }
        assert!(read_all(&mut stream).is_empty());
    };
    let origin = |mut stream: TcpStream| {
        for round in 0..ROUNDS {
            assert_eq!(read_exactly(&mut stream, 3), b"ask");
            stream.write_all(b"head").unwrap();
            assert_eq!(read_exactly(&mut stream, 3), b"yes");
            write_flow(&mut stream, FLOW_BYTES, round as u64);
        }
        read_all(&mut stream);
    };
    between::<R, _, _, _, _>(Tuning::default(), client, origin, |engine, downstream, upstream| async move {
        let mut pipe = engine.pipe();
        for _ in 0..ROUNDS {
            upstream.send(b"ask".to_vec().into()).await.unwrap();
            let mut head = Vec::new();
            while head.len() < 4 {
                head.extend_from_slice(&upstream.receive().await.unwrap());
            }
            downstream.send(head.into()).await.unwrap();
            upstream.send(b"yes".to_vec().into()).await.unwrap();
            assert_eq!(transfer::<R>(&mut pipe, &upstream, &downstream, FLOW_BYTES).await, Moved::All);
        }
    });
}

pub fn a_source_that_ends_early_is_told<R: Rig>() {
    let origin = |mut stream: TcpStream| {
        write_flow(&mut stream, FLOW_BYTES, 3);
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_reset(stream);
    };
    // A reset may overtake what the client has not read yet.
    let seen = Signal::default();
    let read = seen.clone();
    let client = move |mut stream: TcpStream| {
        read_flow(&mut stream, FLOW_BYTES, 3);
        read.set();
        read_to_reset(stream);
    };
    let ((), (), moved) = between::<R, _, _, _, _>(
        Tuning::default(),
        client,
        origin,
        |engine, downstream, upstream| async move {
            let moved = transfer::<R>(&mut engine.pipe(), &upstream, &downstream, FLOW_BYTES + 1).await;
            seen.seen().await;
            downstream.reset();
            upstream.reset();
            moved
        },
    );
    assert_eq!(moved, Moved::Ended(FLOW_BYTES));
}

pub fn a_reset_of_either_side_ends_a_transfer<R: Rig>() {
    let sent = Signal::default();
    let set = sent.clone();
    let client = move |stream: TcpStream| {
        sent.wait();
        reset(stream);
    };
    let origin = move |mut stream: TcpStream| {
        write_until_blocked(&mut stream);
        set.set();
        read_to_reset(stream);
    };
    let ((), (), moved) = between::<R, _, _, _, _>(
        Tuning::default(),
        client,
        origin,
        |engine, downstream, upstream| async move {
            let moved = transfer::<R>(&mut engine.pipe(), &upstream, &downstream, usize::MAX).await;
            upstream.reset();
            moved
        },
    );
    assert!(matches!(moved, Moved::Sink(_)), "{moved:?}");
    let client = |stream: TcpStream| {
        read_to_reset(stream);
    };
    let origin = |mut stream: TcpStream| {
        read_exactly(&mut stream, 1);
        reset(stream);
    };
    let ((), (), moved) = between::<R, _, _, _, _>(
        Tuning::default(),
        client,
        origin,
        |engine, downstream, upstream| async move {
            upstream.send(b"?".to_vec().into()).await.unwrap();
            let moved = transfer::<R>(&mut engine.pipe(), &upstream, &downstream, 10).await;
            downstream.reset();
            moved
        },
    );
    assert_eq!(moved, Moved::Source(io::ErrorKind::ConnectionReset));
}

/// An abort of one of the streams while the transfer waits: for bytes that do not come, or for room that does not.
fn abort_while_waiting<R: Rig>(sends: bool, upstream_side: bool) -> Moved {
    let blocked = Signal::default();
    let set = blocked.clone();
    let origin = move |mut stream: TcpStream| {
        if sends {
            write_until_blocked(&mut stream);
        }
        set.set();
        read_to_reset(stream);
    };
    // Reads nothing until the end.
    let client = |stream: TcpStream| stream;
    let (stream, (), moved) = between::<R, _, _, _, _>(
        Tuning::default(),
        client,
        origin,
        |engine, downstream, upstream| async move {
            let abort = if upstream_side { upstream.abort_handle() } else { downstream.abort_handle() };
            engine.spawn(async move {
                blocked.seen().await;
                abort.abort();
            });
            let moved = transfer::<R>(&mut engine.pipe(), &upstream, &downstream, usize::MAX).await;
            downstream.reset();
            upstream.reset();
            moved
        },
    );
    drop(stream);
    moved
}

pub fn an_abort_ends_a_transfer_that_waits<R: Rig>() {
    let aborted = io::ErrorKind::ConnectionAborted;
    assert_eq!(abort_while_waiting::<R>(false, true), Moved::Source(aborted));
    assert_eq!(abort_while_waiting::<R>(true, false), Moved::Sink(aborted));
}

pub fn without_a_pipe_nothing_is_moved_and_buffers_go_on<R: Rig>() {
    let tuning = Tuning { pipes_max: 0, ..Tuning::default() };
    let origin = |mut stream: TcpStream| {
        stream.write_all(b"bytes").unwrap();
        read_all(&mut stream);
    };
    let client = |mut stream: TcpStream| read_all(&mut stream);
    let (got, (), moved) =
        between::<R, _, _, _, _>(tuning, client, origin, |engine, downstream, upstream| async move {
            let moved = transfer::<R>(&mut engine.pipe(), &upstream, &downstream, 5).await;
            let mut left: usize = 5;
            while left > 0 {
                let buffer = upstream.receive().await.unwrap();
                left -= buffer.len();
                downstream.send(buffer).await.unwrap();
            }
            moved
        });
    assert_eq!((moved, got.as_slice()), (Moved::Source(io::ErrorKind::Unsupported), &b"bytes"[..]));
}

pub fn a_receive_under_way_keeps_its_bytes<R: Rig>() {
    let go = Signal::default();
    let wait = go.clone();
    let origin = move |mut stream: TcpStream| {
        wait.wait();
        stream.write_all(b"bytes").unwrap();
        read_all(&mut stream);
    };
    let client = |mut stream: TcpStream| {
        read_all(&mut stream);
    };
    between::<R, _, _, _, _>(Tuning::default(), client, origin, |engine, _downstream, upstream| async move {
        let mut pipe = engine.pipe();
        // Begun and given up: it stays with the stream, and whoever splices must not overtake it.
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(upstream.poll_receive(cx).is_pending()));
        assert!(early.await);
        engine.yield_now().await;
        go.set();
        let filled = pipe.fill(&upstream, 5).await;
        let through_buffers = filled.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::Unsupported);
        if through_buffers {
            assert_eq!(&*upstream.receive().await.unwrap(), b"bytes");
        } else {
            // An engine whose receives take nothing ahead of time may splice at once.
            assert_eq!(filled.unwrap(), 5);
        }
    });
}
