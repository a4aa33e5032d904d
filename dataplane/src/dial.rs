//! From addresses to one connection: the guard on every address, both families, one connect deadline.
//!
//! The address that the guard approved is the very address that is given to connect: nothing resolves in between.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use sluice_engine::{Deadline, Engine};

use crate::limits::ADDRESSES_TRIED_MAX;

/// Why no upstream connection came about.
#[derive(Debug)]
pub(crate) enum DialError {
    /// The last attempt's error.
    Connect(io::Error),
    /// No address connected in time.
    Timeout,
}

impl DialError {
    /// For the access log and the answer to the client.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Connect(error) => error.kind().to_string(),
            Self::Timeout => "connect timeout".to_owned(),
        }
    }
}

/// How long a dial may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// All attempts together.
    pub(crate) timeout: Duration,
    /// The head start of the first address family (RFC 8305 §5).
    pub(crate) stagger: Duration,
}

/// Connects to the first of `candidates` that answers. The family of the first candidate starts; the other starts
/// [`Times::stagger`] later or when the first has failed (RFC 8305). Every candidate has passed the guard.
pub(crate) async fn dial<E: Engine>(
    engine: &E,
    candidates: &[SocketAddr],
    source: Option<IpAddr>,
    times: Times,
) -> Result<(E::Stream, SocketAddr), DialError> {
    let deadline = Deadline::new(engine.clone());
    deadline.set(Some(engine.now() + times.timeout));
    match deadline.run(race_families(engine, candidates, source, times.stagger)).await {
        Ok(connected) => connected.map_err(DialError::Connect),
        Err(_) => Err(DialError::Timeout),
    }
}

async fn race_families<E: Engine>(
    engine: &E,
    candidates: &[SocketAddr],
    source: Option<IpAddr>,
    stagger: Duration,
) -> io::Result<(E::Stream, SocketAddr)> {
    let Some(first) = candidates.first() else {
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to connect to"));
    };
    let same = |address: &&SocketAddr| address.is_ipv4() == first.is_ipv4();
    let mut leading = pin!(try_each(engine, candidates.iter().filter(same), source));
    if candidates.iter().all(|address| same(&address)) {
        return leading.await;
    }
    let pause = pin!(engine.sleep_until(engine.now() + stagger));
    match select(leading.as_mut(), pause).await {
        Either::Left((Ok(connected), _)) => return Ok(connected),
        Either::Left((Err(_), _)) => {
            return try_each(engine, candidates.iter().filter(|address| !same(address)), source).await;
        }
        Either::Right(_) => {}
    }
    let trailing = pin!(try_each(engine, candidates.iter().filter(|address| !same(address)), source));
    first_success(leading, trailing).await
}

/// The first of the two that succeeds; the second's error when both fail.
async fn first_success<T>(
    one: impl Future<Output = io::Result<T>> + Unpin,
    other: impl Future<Output = io::Result<T>> + Unpin,
) -> io::Result<T> {
    match select(one, other).await {
        Either::Left((Ok(value), _)) | Either::Right((Ok(value), _)) => Ok(value),
        Either::Left((Err(_), rest)) => rest.await,
        Either::Right((Err(_), rest)) => rest.await,
    }
}

/// Tries addresses of one family one after the other.
async fn try_each<'a, E: Engine>(
    engine: &E,
    addresses: impl Iterator<Item = &'a SocketAddr>,
    source: Option<IpAddr>,
) -> io::Result<(E::Stream, SocketAddr)> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.take(ADDRESSES_TRIED_MAX) {
        match engine.connect(*address, source).await {
            Ok(stream) => return Ok((stream, *address)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
