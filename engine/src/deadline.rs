//! A deadline that is cheap to move: setting it later is one store, no timer is touched.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use crate::{Engine, Instant};

/// What a future under a deadline gives when the time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for Elapsed {}

/// One session's deadline. A keep-alive connection moves it at every request; the timer behind it is renewed only
/// when it fires early.
pub struct Deadline<E: Engine> {
    engine: E,
    at: Cell<Option<Instant>>,
    timer: RefCell<Option<(Instant, E::Sleep)>>,
}

impl<E: Engine> Deadline<E> {
    /// A deadline that never passes until it is set.
    pub fn new(engine: E) -> Self {
        Self { engine, at: Cell::new(None), timer: RefCell::new(None) }
    }

    /// Sets or moves the deadline; `None` takes it away.
    pub fn set(&self, at: Option<Instant>) {
        self.at.set(at);
    }

    /// Ready once the deadline has passed. Only one task may wait.
    pub fn poll_elapsed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at.get() else { return Poll::Pending };
        let mut timer = self.timer.borrow_mut();
        loop {
            // A timer that fires too early is renewed below; one that would fire too late is replaced.
            if let Some((fires, sleep)) = timer.as_mut()
                && *fires <= at
            {
                match Pin::new(sleep).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(()) if self.engine.now() >= at => {
                        *timer = None;
                        return Poll::Ready(());
                    }
                    Poll::Ready(()) => {}
                }
            }
            *timer = Some((at, self.engine.sleep_until(at)));
        }
    }

    /// Runs `future` unless the deadline passes first. The future is polled before the clock is looked at, so what
    /// is ready in time is never lost.
    pub async fn run<F: Future>(&self, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.poll_elapsed(cx).map(|()| Err(Elapsed))
        })
        .await
    }
}
