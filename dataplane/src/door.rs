//! A door: accepts until it is told to close, rests while the worker is full or the process is out of descriptors.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use sluice_bridge::{DoorPlan, Notice};
use sluice_engine::{Deadline, Engine, Listener};
use sluice_telemetry::Family;

use crate::limits::{ACCEPT_BACKOFF_MAX, ACCEPT_BACKOFF_MIN, ACCEPT_QUEUE_TIME_MAX, ACCEPT_QUEUE_WAIT};
use crate::session;
use crate::worker::Worker;

/// A door that is served.
pub(crate) struct OpenDoor {
    plan: RefCell<Arc<DoorPlan>>,
    closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl OpenDoor {
    pub(crate) fn new(plan: Arc<DoorPlan>) -> Self {
        Self { plan: RefCell::new(plan), closing: Cell::new(false), waker: RefCell::new(None) }
    }

    /// Connections accepted from now on follow this plan.
    pub(crate) fn replan(&self, plan: Arc<DoorPlan>) {
        *self.plan.borrow_mut() = plan;
    }

    /// Accepts what is queued, then ends.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Accepts connections and starts a session for each.
    pub(crate) async fn serve<E: Engine>(&self, worker: &Rc<Worker<E>>, listener: E::Listener) {
        let mut backoff = ACCEPT_BACKOFF_MIN;
        loop {
            if self.unless_closing(worker.room()).await.is_none() {
                break;
            }
            let Some(accepted) = self.unless_closing(listener.accept()).await else { break };
            match accepted {
                Ok(stream) => {
                    backoff = ACCEPT_BACKOFF_MIN;
                    session::start(worker, &self.plan.borrow(), stream);
                }
                Err(error) => {
                    if backoff == ACCEPT_BACKOFF_MIN && worker.may_tell_of_rest(&worker.accept_fails_told) {
                        let (door, errno) = (self.plan.borrow().bind, error.raw_os_error().unwrap_or(0));
                        worker.notify(Notice::AcceptFails { door, errno });
                    }
                    backoff = rest(worker, &error, backoff).await;
                }
            }
        }
        // What is queued is served; what comes while that is done must not queue again, or it is reset in the end.
        listener.stop_arrivals();
        let deadline = Deadline::new(worker.engine.clone());
        let until = worker.engine.now() + ACCEPT_QUEUE_TIME_MAX;
        while worker.engine.now() < until {
            deadline.set(Some(worker.engine.now() + ACCEPT_QUEUE_WAIT));
            // At the connection limit there is no room: what is queued beyond it is reset when the listener closes.
            let next = async {
                worker.room().await;
                listener.accept().await
            };
            match deadline.run(next).await {
                Ok(Ok(stream)) => session::start(worker, &self.plan.borrow(), stream),
                Ok(Err(_)) | Err(_) => break,
            }
        }
    }

    async fn unless_closing<T>(&self, accept: impl Future<Output = T>) -> Option<T> {
        let mut accept = pin!(accept);
        poll_fn(|cx| {
            if self.closing.get() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(accepted) = accept.as_mut().poll(cx) {
                return Poll::Ready(Some(accepted));
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Waits after a failed accept, longer each time; gives how long to wait the next time.
async fn rest<E: Engine>(worker: &Worker<E>, error: &io::Error, backoff: Duration) -> Duration {
    let errno = error.raw_os_error().map_or_else(|| error.kind().to_string(), errno_name);
    worker.metrics.count(Family::AcceptErrors, &[&errno], 1);
    worker.engine.sleep_until(worker.engine.now() + backoff).await;
    (backoff * 2).min(ACCEPT_BACKOFF_MAX)
}

/// The names of the errors that an operator looks for; other numbers as they are.
fn errno_name(errno: i32) -> String {
    match errno {
        23 => "ENFILE".to_owned(),
        24 => "EMFILE".to_owned(),
        103 => "ECONNABORTED".to_owned(),
        105 => "ENOBUFS".to_owned(),
        12 => "ENOMEM".to_owned(),
        other => other.to_string(),
    }
}
