//! A timer on the virtual clock.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_engine::Instant;

use crate::sim::World;
use crate::state::EventKey;

/// A timer on the virtual clock; dropping it cancels it.
pub struct SimSleep {
    world: Rc<World>,
    at: Instant,
    key: Option<EventKey>,
}

impl SimSleep {
    pub(crate) fn new(world: &Rc<World>, at: Instant) -> Self {
        Self { world: Rc::clone(world), at, key: None }
    }
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { world, at, key } = &mut *self;
        let at = at.as_nanos();
        world.with(|state| {
            if state.now >= at {
                if let Some(key) = key.take() {
                    state.cancel_timer(key);
                }
                return Poll::Ready(());
            }
            *key = Some(state.set_timer(*key, at, cx.waker()));
            Poll::Pending
        })
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.world.with(|state| state.cancel_timer(key));
        }
    }
}
