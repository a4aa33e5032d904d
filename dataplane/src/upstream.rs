//! Upstream connections that are idle between two requests, per worker.
//!
//! An idle connection keeps a receive under way: the next response's receive is thereby armed already, and an origin
//! that closes or speaks out of turn is noticed without a system call. Knows nothing of HTTP but that a connection
//! which comes here is between two messages.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sluice_engine::{Engine, Instant, SourceAddress, Stream};

use crate::limits::{PINNED_PER_CLIENT_MAX, POOLED_PER_DESTINATION_MAX, POOLED_UPSTREAMS_MAX};
use crate::route::Route;

/// What makes two upstream connections interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The canonical name that was decided on; an address in text where there was no name.
    pub(crate) name: Arc<str>,
    /// The exact address that was dialled, port included.
    pub(crate) dialled: SocketAddr,
    /// The source address that was asked for.
    pub(crate) source: Option<SourceAddress>,
}

/// An idle connection.
struct Idle<E: Engine> {
    stream: E::Stream,
    since: Instant,
    /// The route of its last request: what a new policy is asked about it.
    route: Rc<Route>,
}

/// An idle connection that serves its owner alone.
struct Pinned<E: Engine> {
    key: Key,
    idle: Idle<E>,
}

/// A client connection that upstream connections are pinned to. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(u64);

/// All idle upstream connections of a worker.
pub(crate) struct Pool<E: Engine> {
    /// The hash is seeded: clients choose the names.
    idle: RefCell<HashMap<Key, Vec<Idle<E>>, FixedState>>,
    /// Those that serve one client connection alone.
    pinned: RefCell<HashMap<Owner, Vec<Pinned<E>>, FixedState>>,
    owners: Cell<u64>,
    /// Of both kinds.
    count: Cell<usize>,
    /// Connections that were closed because the origin spoke out of turn, and not yet counted.
    unsolicited: Cell<u64>,
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
        Self {
            idle: RefCell::new(idle),
            pinned: RefCell::default(),
            owners: Cell::new(0),
            count: Cell::new(0),
            unsolicited: Cell::new(0),
        }
    }

    /// The connection to this destination that was used last, if one is idle and alive.
    pub(crate) fn take(&self, key: &Key) -> Option<E::Stream> {
        let mut idle = self.idle.borrow_mut();
        let bucket = idle.get_mut(key)?;
        while let Some(entry) = bucket.pop() {
            self.count.set(self.count.get() - 1);
            if self.is_quiet(&entry.stream) {
                return Some(entry.stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request; drops it (closes it) when it is not quiet or there are `room` already.
    pub(crate) fn put(&self, key: &Key, stream: E::Stream, route: Rc<Route>, now: Instant, room: usize) {
        if self.count.get() >= room || !self.is_quiet(&stream) {
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

    /// An owner that nobody has been before.
    pub(crate) fn new_owner(&self) -> Owner {
        self.owners.set(self.owners.get() + 1);
        Owner(self.owners.get())
    }

    /// The connection to this name that is pinned to `owner`, if one is idle and alive; and where it leads.
    pub(crate) fn take_pinned(
        &self,
        owner: Owner,
        name: &str,
        source: Option<SourceAddress>,
    ) -> Option<(E::Stream, SocketAddr)> {
        let mut pinned = self.pinned.borrow_mut();
        let own = pinned.get_mut(&owner)?;
        while let Some(at) = own.iter().rposition(|own| *own.key.name == *name && own.key.source == source) {
            let Pinned { key, idle } = own.swap_remove(at);
            self.count.set(self.count.get() - 1);
            if self.is_quiet(&idle.stream) {
                return Some((idle.stream, key.dialled));
            }
        }
        None
    }

    /// Keeps a connection for `owner` alone, as [`put`](Self::put) does for all.
    pub(crate) fn put_pinned(
        &self,
        owner: Owner,
        key: &Key,
        stream: E::Stream,
        route: Rc<Route>,
        now: Instant,
        room: usize,
    ) {
        if self.count.get() >= room || !self.is_quiet(&stream) {
            return;
        }
        let mut pinned = self.pinned.borrow_mut();
        let own = pinned.entry(owner).or_default();
        if own.len() < PINNED_PER_CLIENT_MAX {
            own.push(Pinned { key: key.clone(), idle: Idle { stream, since: now, route } });
            self.count.set(self.count.get() + 1);
        }
    }

    /// Closes all that are pinned to `owner`.
    pub(crate) fn forget(&self, owner: Owner) {
        let gone = self.pinned.borrow_mut().remove(&owner);
        self.count.set(self.count.get() - gone.as_ref().map_or(0, Vec::len));
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
        self.pinned.borrow_mut().retain(|_, own| {
            let goes = own.len().min(surplus);
            surplus -= goes;
            closed.extend(own.drain(..goes).map(|pinned| pinned.idle));
            !own.is_empty()
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
                    || !self.is_quiet(&entry.stream)
            };
            closed.extend(bucket.extract_if(.., goes));
            !bucket.is_empty()
        });
        drop(idle);
        // What is pinned lives as long as its client, which has an idle timeout of its own.
        self.pinned.borrow_mut().retain(|_, own| {
            let goes = |Pinned { key, idle }: &mut Pinned<E>| {
                !keep(&idle.route, key.dialled) || !self.is_quiet(&idle.stream)
            };
            closed.extend(own.extract_if(.., goes).map(|pinned| pinned.idle));
            !own.is_empty()
        });
        self.count.set(self.count.get() - closed.len());
        closed.len()
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        self.count.set(0);
        self.idle.take();
        self.pinned.take();
    }

    /// Idle connections now.
    pub(crate) fn len(&self) -> usize {
        self.count.get()
    }

    /// Connections closed since the last call because bytes came on them that answer no request.
    pub(crate) fn take_unsolicited(&self) -> u64 {
        self.unsolicited.take()
    }

    /// Whether nothing has arrived on a stream that nothing is expected from. Leaves a receive under way.
    fn is_quiet(&self, stream: &E::Stream) -> bool {
        match stream.poll_receive(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            Poll::Ready(received) => {
                let spoke = received.is_ok_and(|buffer| !buffer.is_empty());
                self.unsolicited.set(self.unsolicited.get() + u64::from(spoke));
                false
            }
        }
    }
}
