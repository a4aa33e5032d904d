//! From addresses to one connection: staggered attempts, one connect deadline (RFC 8305).
//!
//! The address that the guard approved is the very address that is given to connect: nothing resolves in between.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use sluice_engine::{Deadline, Engine, SourceAddress};

use crate::limits::ADDRESSES_TRIED_MAX;

/// Why no upstream connection came about.
#[derive(Debug)]
pub(crate) enum DialError {
    /// The last attempt's error.
    Connect(io::Error),
    /// No address is of the family of the source address that is asked for.
    OtherFamily(IpAddr),
    /// The source address cannot be had.
    Source(IpAddr, io::Error),
    /// No address connected in time.
    Timeout,
}

impl DialError {
    /// For the metric: one of a few words.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused",
            Self::Connect(_) => "error",
            Self::OtherFamily(_) | Self::Source(..) => "source_address",
            Self::Timeout => "timeout",
        }
    }

    /// For the access log and the answer to the client.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Connect(error) => error.to_string(),
            Self::OtherFamily(source) => {
                format!(
                    "no address can be reached from the source address {source}: it is of the other family"
                )
            }
            Self::Source(source, error) if error.kind() == io::ErrorKind::PermissionDenied => {
                format!(
                    "cannot connect from {source}: that needs the capability CAP_NET_ADMIN or CAP_NET_RAW"
                )
            }
            Self::Source(source, error) => {
                format!("cannot connect from {source}: {error}; is it an address of this host?")
            }
            Self::Timeout => "connect timeout".to_owned(),
        }
    }
}

/// How long a dial may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// All attempts together.
    pub(crate) timeout: Duration,
    /// The head start of each attempt before the next address is tried beside it (RFC 8305 §5).
    pub(crate) stagger: Duration,
}

/// Connects to the first of `candidates` that answers, the families in turn: the next address is tried when the one
/// before has failed or has not connected within [`Times::stagger`]. Every candidate has passed the guard. Attempts
/// that lose are given up.
///
/// `count` is told how each attempt ended, those included that were given up: as many as there were connections begun.
pub(crate) async fn dial<E: Engine>(
    engine: &E,
    candidates: &[SocketAddr],
    source: Option<SourceAddress>,
    times: Times,
    count: &impl Fn(&'static str),
) -> Result<(E::Stream, SocketAddr), DialError> {
    let given_up = Cell::new("abandoned");
    let deadline = Deadline::new(engine.clone());
    deadline.set(Some(engine.now() + times.timeout));
    let given = &given_up;
    let attempt = |address: SocketAddr| async move {
        let mut ended = Ended { result: None, given_up: given, count };
        let connected = engine.connect(address, source).await.map_err(|error| failure(error, source));
        ended.result = Some(connected.as_ref().map_or_else(DialError::as_str, |_| "ok"));
        connected.map(|stream| (stream, address))
    };
    let pause = || engine.sleep_until(engine.now() + times.stagger);
    let mut racing = pin!(race(candidates, attempt, pause));
    match deadline.run(racing.as_mut()).await {
        Ok(connected) => connected,
        Err(_) => {
            given_up.set("timeout");
            Err(DialError::Timeout)
        }
    }
}

/// Counts an attempt when it is over, whichever way it ended.
struct Ended<'a, C: Fn(&'static str)> {
    result: Option<&'static str>,
    /// What is said of an attempt that did not end by itself.
    given_up: &'a Cell<&'static str>,
    count: &'a C,
}

impl<C: Fn(&'static str)> Drop for Ended<'_, C> {
    fn drop(&mut self) {
        (self.count)(self.result.unwrap_or(self.given_up.get()));
    }
}

/// Tells a source address that cannot be had from a destination that cannot be reached.
fn failure(error: io::Error, source: Option<SourceAddress>) -> DialError {
    match (source, error.kind()) {
        (Some(source), io::ErrorKind::AddrNotAvailable) => DialError::Source(source.ip(), error),
        (Some(SourceAddress::Foreign(source)), io::ErrorKind::PermissionDenied) => {
            DialError::Source(source, error)
        }
        _ => DialError::Connect(error),
    }
}

async fn race<S, A, P>(
    candidates: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> A,
    pause: impl Fn() -> P,
) -> Result<(S, SocketAddr), DialError>
where
    A: Future<Output = Result<(S, SocketAddr), DialError>>,
    P: Future,
{
    if let [only] = candidates {
        return attempt(*only).await;
    }
    let mut waiting = families_in_turn(candidates).into_iter();
    let mut attempts = FuturesUnordered::new();
    let none = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to connect to");
    let mut last = DialError::Connect(none);
    loop {
        match waiting.next() {
            Some(address) => attempts.push(attempt(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let pause = pin!(pause());
        let finished = match select(attempts.next(), pause).await {
            Either::Left((finished, _)) => finished,
            // With nobody left to start, what is under way has until the deadline.
            Either::Right(_) if waiting.len() == 0 => attempts.next().await,
            Either::Right(_) => continue,
        };
        match finished {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => last = error,
            None => return Err(last),
        }
    }
}

/// The addresses to try, at most [`ADDRESSES_TRIED_MAX`]: both families in turn, that of the first leading.
fn families_in_turn(candidates: &[SocketAddr]) -> Vec<SocketAddr> {
    let leads_v4 = candidates.first().is_some_and(SocketAddr::is_ipv4);
    let of = |v4: bool| candidates.iter().filter(move |address| address.is_ipv4() == v4).copied();
    let (mut leading, mut trailing) = (of(leads_v4), of(!leads_v4));
    let mut order = Vec::with_capacity(candidates.len().min(ADDRESSES_TRIED_MAX));
    loop {
        let pair = [leading.next(), trailing.next()];
        if pair == [None, None] || order.len() >= ADDRESSES_TRIED_MAX {
            order.truncate(ADDRESSES_TRIED_MAX);
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_number_is_bounded() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c) = (address("[2001:db8::1]:80"), address("[2001:db8::2]:80"), address("192.0.2.1:80"));
        assert_eq!(families_in_turn(&[a, b, c]), [a, c, b]);
        assert_eq!(families_in_turn(&[c, a, b]), [c, a, b]);
        assert_eq!(families_in_turn(&[]), []);
        assert_eq!(families_in_turn(&[c; 20]).len(), ADDRESSES_TRIED_MAX);
    }
}
