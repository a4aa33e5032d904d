//! Names to addresses: this worker's replica of the answers, and the questions it asks the control thread.
//!
//! Knows nothing of DNS itself. Freshness, staleness and failure are the control thread's decisions; the replica
//! only keeps what it was told for as long as it was told.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sluice_bridge::{Addresses, DnsAnswer, DnsFailure, DnsQuestion};
use sluice_engine::{Deadline, Engine, Instant};
use sluice_telemetry::{Counter, WorkerMetrics};
use tokio::sync::mpsc;

use crate::limits::{ANSWER_LIFE_MIN, ANSWER_TIME_MAX, NAMES_MAX, QUESTIONS_MAX};

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// The control thread's answer.
    Failure(DnsFailure),
    /// Too many questions are waiting already.
    Busy,
    /// The control thread did not answer in time.
    NoAnswer,
}

impl Unresolved {
    /// For the access log and the answer to the client.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failure(failure) => failure.as_str(),
            Self::Busy => "too many DNS questions are waiting",
            Self::NoAnswer => "no DNS answer in time",
        }
    }
}

/// What a name resolved to: IPv6 first, each family in the order in which it was given.
pub(crate) type Resolved = Rc<[IpAddr]>;

/// One name of the replica.
enum Entry {
    /// Asked at that time; these tasks wait for the answer.
    Asked { waiting: Vec<Waker>, at: Instant },
    /// Answered; good until then.
    Known { outcome: Result<Resolved, DnsFailure>, fresh_until: Instant },
}

/// The worker's replica.
pub(crate) struct Names {
    worker: usize,
    /// The hash is seeded: clients choose the names.
    entries: RefCell<HashMap<Arc<str>, Entry, FixedState>>,
    questions: mpsc::Sender<DnsQuestion>,
}

impl Names {
    pub(crate) fn new(worker: usize, questions: mpsc::Sender<DnsQuestion>, hash_seed: u64) -> Self {
        let entries = RefCell::new(HashMap::with_hasher(FixedState::with_seed(hash_seed)));
        Self { worker, entries, questions }
    }

    /// The addresses of `name`, from the replica or from the control thread.
    pub(crate) async fn resolve<E: Engine>(
        &self,
        engine: &E,
        metrics: &WorkerMetrics,
        name: &Arc<str>,
    ) -> Result<Resolved, Unresolved> {
        let known = self.poll_known(engine, name, Waker::noop()).is_ready();
        metrics.add(if known { Counter::DnsCacheHits } else { Counter::DnsCacheMisses }, 1);
        let deadline = Deadline::new(engine.clone());
        for _ in 0..QUESTIONS_MAX {
            deadline.set(Some(engine.now() + ANSWER_TIME_MAX));
            let answer = deadline.run(poll_fn(|cx| self.poll_known(engine, name, cx.waker()))).await;
            if let Ok(answer) = answer {
                return answer;
            }
        }
        Err(Unresolved::NoAnswer)
    }

    fn poll_known<E: Engine>(
        &self,
        engine: &E,
        name: &Arc<str>,
        waker: &Waker,
    ) -> Poll<Result<Resolved, Unresolved>> {
        let now = engine.now();
        let mut entries = self.entries.borrow_mut();
        match entries.get_mut(name) {
            Some(Entry::Known { outcome, fresh_until }) if *fresh_until > now => {
                return Poll::Ready(outcome.clone().map_err(Unresolved::Failure));
            }
            Some(Entry::Asked { waiting, at }) if now < *at + ANSWER_TIME_MAX => {
                if !waiting.iter().any(|known| known.will_wake(waker)) {
                    waiting.push(waker.clone());
                }
                return Poll::Pending;
            }
            // The question or its answer was lost: it is asked again, and who still waits queues anew.
            Some(Entry::Asked { waiting, .. }) => waiting.drain(..).for_each(Waker::wake),
            Some(Entry::Known { .. }) | None => {}
        }
        if entries.len() >= NAMES_MAX && !make_room(&mut entries, now) {
            return Poll::Ready(Err(Unresolved::Busy));
        }
        let question = DnsQuestion { name: Arc::clone(name), worker: self.worker };
        if self.questions.try_send(question).is_err() {
            return Poll::Ready(Err(Unresolved::Busy));
        }
        entries.insert(Arc::clone(name), Entry::Asked { waiting: vec![waker.clone()], at: now });
        Poll::Pending
    }

    /// Takes the control thread's answer and wakes those who wait for it.
    pub(crate) fn answered(&self, answer: DnsAnswer, now: Instant) {
        let outcome = answer.outcome.map(|Addresses { v4, v6 }| {
            v6.into_iter().map(IpAddr::from).chain(v4.into_iter().map(IpAddr::from)).collect()
        });
        let fresh_until = now + Duration::from_millis(answer.fresh_ms).max(ANSWER_LIFE_MIN);
        let known = Entry::Known { outcome, fresh_until };
        // Woken after the entry is in place and the borrow has ended.
        let before = self.entries.borrow_mut().insert(answer.name, known);
        if let Some(Entry::Asked { waiting, .. }) = before {
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Forgets answers that are no longer good and, where that is not enough, every second one: a client that asks for
/// ever new names must not take resolution from the others. False where all are being waited for.
fn make_room(entries: &mut HashMap<Arc<str>, Entry, FixedState>, now: Instant) -> bool {
    entries.retain(|_, entry| match entry {
        Entry::Asked { at, .. } => now < *at + ANSWER_TIME_MAX,
        Entry::Known { fresh_until, .. } => *fresh_until > now,
    });
    if entries.len() >= NAMES_MAX {
        let mut keep = false;
        entries.retain(|_, entry| {
            keep = !keep;
            keep || matches!(entry, Entry::Asked { .. })
        });
    }
    entries.len() < NAMES_MAX
}
