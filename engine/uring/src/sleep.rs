//! A timer as a future.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_engine::Instant;

use crate::core::Core;
use crate::timer::{Target, TimerKey};

/// Waits until an instant; dropping it takes the timer back.
pub struct Sleep {
    core: Rc<Core>,
    at: Instant,
    timer: Option<TimerKey>,
}

impl Sleep {
    pub(crate) fn new(core: Rc<Core>, at: Instant) -> Self {
        Self { core, at, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.core.now() >= self.at {
            return Poll::Ready(());
        }
        let (at, timer) = (self.at, self.timer);
        self.timer = self.core.with_io(|io| {
            let known = timer.filter(
                |timer| matches!(io.timers.get(*timer), Some(Target::Task(old)) if old.will_wake(cx.waker())),
            );
            if known.is_some() {
                return known;
            }
            if let Some(Target::Task(old)) = timer.and_then(|timer| io.timers.remove(timer)) {
                io.discard(Some(old));
            }
            Some(io.timers.insert(at, Target::Task(cx.waker().clone())))
        });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.core.with_io(|io| {
                if let Some(Target::Task(old)) = io.timers.remove(timer) {
                    io.discard(Some(old));
                }
            });
        }
    }
}
