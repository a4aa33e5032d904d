//! Upstream connections that are idle between two requests, per worker.
//!
//! An idle connection keeps a receive under way: the next response's receive is thereby armed already, and an origin
//! that closes or speaks out of turn is noticed without a system call. Knows nothing of HTTP but that a connection
//! which comes here is between two messages.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sluice_engine::{Engine, Instant, Stream};

use crate::limits::{POOLED_PER_DESTINATION_MAX, POOLED_UPSTREAMS_MAX};
use crate::route::Route;

/// What makes two upstream connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The canonical name that was decided on; an address in text where there was no name.
    pub(crate) name: Arc<str>,
    /// The exact address that was dialled, port included.
    pub(crate) dialled: SocketAddr,
    /// The source address that was asked for.
    pub(crate) source: Option<IpAddr>,
}

/// An idle connection.
struct Idle<E: Engine> {
    stream: E::Stream,
    since: Instant,
    /// The route of its last request: what a new policy is asked about it.
    route: Rc<Route>,
}

/// All idle upstream connections of a worker.
pub(crate) struct Pool<E: Engine> {
    /// The hash is seeded: clients choose the names.
    idle: RefCell<HashMap<Key, Vec<Idle<E>>, FixedState>>,
    count: Cell<usize>,
}

/// Descriptors that one connection in the worker's table may take: its own and its upstream's.
const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// Idle connections that a worker of at most `connections_max` may keep beside its `connections` and the `busy`
/// upstreams of those: what is idle lives on descriptors that nobody needs now, so that clients which ask for ever new
/// names cannot starve the others of them.
pub(crate) fn room_for_idle(connections: usize, busy: usize, connections_max: usize) -> usize {
    let all = connections_max.saturating_mul(DESCRIPTORS_PER_CONNECTION);
    // An eighth stays free of idle ones: doors, logs and name resolution need descriptors, too.
    (all - all / 8).saturating_sub(connections + busy).min(POOLED_UPSTREAMS_MAX)
}

impl<E: Engine> Pool<E> {
    pub(crate) fn new(hash_seed: u64) -> Self {
        let idle = HashMap::with_hasher(FixedState::with_seed(hash_seed));
        Self { idle: RefCell::new(idle), count: Cell::new(0) }
    }

    /// The connection to this destination that was used last, if one is idle and alive.
    pub(crate) fn take(&self, key: &Key) -> Option<E::Stream> {
        let mut idle = self.idle.borrow_mut();
        let bucket = idle.get_mut(key)?;
        while let Some(entry) = bucket.pop() {
            self.count.set(self.count.get() - 1);
            if is_quiet(&entry.stream) {
                return Some(entry.stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request; drops it (closes it) when it is not quiet or there are `room` already.
    pub(crate) fn put(&self, key: &Key, stream: E::Stream, route: Rc<Route>, now: Instant, room: usize) {
        if self.count.get() >= room || !is_quiet(&stream) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let entry = Idle { stream, since: now, route };
        let Some(bucket) = idle.get_mut(key) else {
            idle.insert(key.clone(), vec![entry]);
            self.count.set(self.count.get() + 1);
            return;
        };
        if bucket.len() < POOLED_PER_DESTINATION_MAX {
            bucket.push(entry);
            self.count.set(self.count.get() + 1);
        }
    }

    /// Closes any of them until there are no more than `room`, and an eighth of those besides, so that a worker that
    /// fills up does not come here for every connection.
    pub(crate) fn shrink(&self, room: usize) {
        if self.count.get() <= room {
            return;
        }
        let mut surplus = self.count.get() - (room - room / 8);
        self.count.set(self.count.get() - surplus);
        let mut closed = Vec::with_capacity(surplus);
        self.idle.borrow_mut().retain(|_, bucket| {
            let goes = bucket.len().min(surplus);
            surplus -= goes;
            closed.extend(bucket.drain(..goes));
            !bucket.is_empty()
        });
        debug_assert_eq!(surplus, 0, "the count is that of all buckets");
    }

    /// Closes what has been idle for too long, has been closed by the origin, or is refused by `keep`. Gives how many.
    pub(crate) fn sweep(
        &self,
        now: Instant,
        idle_max: Duration,
        keep: impl Fn(&Route, SocketAddr) -> bool,
    ) -> usize {
        let mut closed = Vec::new();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|key, bucket| {
            let goes = |entry: &mut Idle<E>| {
                now.since(entry.since) >= idle_max
                    || !keep(&entry.route, key.dialled)
                    || !is_quiet(&entry.stream)
            };
            closed.extend(bucket.extract_if(.., goes));
            !bucket.is_empty()
        });
        drop(idle);
        self.count.set(self.count.get() - closed.len());
        closed.len()
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        self.count.set(0);
        self.idle.take();
    }

    /// Idle connections now.
    pub(crate) fn len(&self) -> usize {
        self.count.get()
    }
}

/// Whether nothing has arrived on a stream that nothing is expected from. Leaves a receive under way.
fn is_quiet<S: Stream>(stream: &S) -> bool {
    stream.poll_receive(&mut Context::from_waker(Waker::noop())).is_pending()
}
