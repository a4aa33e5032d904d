//! A timer on the worker's clock. Knows nothing of what waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sluice_engine::Instant;

/// Ready once its instant has come; dropping it cancels it.
#[derive(Debug)]
pub struct EpollSleep(Pin<Box<tokio::time::Sleep>>);

impl EpollSleep {
    /// `start` is the origin of the worker's clock.
    pub(crate) fn new(start: std::time::Instant, at: Instant) -> Self {
        // Farther away than the clock can say is as good as a century.
        let century = Duration::from_hours(24 * 36_500);
        let offset = Duration::from_nanos(at.as_nanos()).min(century);
        Self(Box::pin(tokio::time::sleep_until((start + offset).into())))
    }
}

impl Future for EpollSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
