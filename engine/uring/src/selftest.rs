//! The engine's own test at start: a connection over the loopback, accepted, received from, sent to, cancelled. What a
//! kernel claims and what it does have differed before.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::task::{Context, Waker};
use std::time::Duration;

use sluice_engine::{Buffer, Deadline, Engine, Listener, Stream};

use crate::{Config, UringEngine};

/// Everything takes microseconds; a kernel that needs longer is broken. A machine that boots under load may leave this
/// thread waiting for seconds, and is not.
const PATIENCE: Duration = Duration::from_secs(10);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Setup(#[from] crate::Unavailable),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wrong(&'static str),
}

/// Runs the test on a ring of its own.
pub(crate) fn run(config: Config) -> Result<(), Failure> {
    let engine = UringEngine::new(config)?;
    engine.block_on(async {
        let deadline = Deadline::new(engine.clone());
        deadline.set(Some(engine.now() + PATIENCE));
        deadline.run(exchange(&engine)).await.unwrap_or(Err(Failure::Wrong("an operation never completed")))
    })
}

async fn exchange(engine: &UringEngine) -> Result<(), Failure> {
    let listener = engine.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None)?;
    // The peer's few bytes fit its socket's buffers: its blocking calls do not block but for the answer.
    let mut peer = TcpStream::connect(listener.local_address())?;
    let timeout = Some(PATIENCE);
    peer.set_read_timeout(timeout)?;
    let stream = listener.accept().await?;
    // More rounds than buffers in the ring, so that each has been used, returned and used again.
    for round in 0..16_u8 {
        if round % 2 == 0 {
            // Armed before there is anything to receive.
            let _ = stream.poll_receive(&mut Context::from_waker(Waker::noop()));
            engine.yield_now().await;
        }
        peer.write_all(&[round; 100])?;
        let received = stream.receive().await?;
        if *received != [round; 100] {
            return Err(Failure::Wrong("received bytes differ from those sent"));
        }
        stream.send(received).await?;
        let mut answer = [0; 100];
        peer.read_exact(&mut answer)?;
        if answer != [round; 100] {
            return Err(Failure::Wrong("sent bytes differ from those received"));
        }
    }
    let outgoing = engine.connect(listener.local_address(), None).await?;
    let incoming = listener.accept().await?;
    outgoing.send(Buffer::from(b"through".to_vec())).await?;
    if *incoming.receive().await? != *b"through" {
        return Err(Failure::Wrong("bytes differ between two connections of the ring"));
    }
    // A receive under way is cancelled by the drop, and the peer sees an orderly end.
    let _ = stream.poll_receive(&mut Context::from_waker(Waker::noop()));
    engine.yield_now().await;
    drop(stream);
    let soon = engine.now() + Duration::from_millis(1);
    engine.sleep_until(soon).await;
    match peer.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::Wrong("bytes that nobody sent")),
        Err(_) => Err(Failure::Wrong("a cancelled receive kept its socket open")),
    }
}
