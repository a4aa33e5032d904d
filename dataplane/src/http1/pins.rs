//! Upstream connections that belong to one client connection, because the origin has authenticated the connection
//! itself (NTLM, Negotiate): whoever else got one of them would be taken for that client.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use sluice_engine::{Engine, SourceAddress};

use super::Client;
use crate::route::{Asker, Route};
use crate::upstream::{Key, Owner};
use crate::worker::Worker;

/// The pins of a client connection. Dropping them closes what is pinned.
pub(super) struct Pins<E: Engine> {
    worker: Rc<Worker<E>>,
    holder: RefCell<Option<Holder>>,
}

/// In whose name upstream connections are pinned.
struct Holder {
    owner: Owner,
    /// The proxy user. One client connection may speak for several; their pins are not each other's.
    user: Option<Rc<[u8]>>,
}

impl<E: Engine> Pins<E> {
    pub(super) fn new(worker: Rc<Worker<E>>) -> Self {
        Self { worker, holder: RefCell::new(None) }
    }

    /// The idle pinned connection to that name, if there is one. Pins of another user end here.
    pub(super) fn take(
        &self,
        asker: &Asker,
        name: &str,
        source: Option<SourceAddress>,
    ) -> Option<(E::Stream, SocketAddr)> {
        let owner = self.owner(asker)?;
        self.worker.pool.take_pinned(owner, name, source)
    }

    /// Keeps an upstream connection for this client alone.
    pub(super) fn put(&self, key: &Key, stream: E::Stream, route: Rc<Route>) {
        let owner = self.owner(&route.asker).unwrap_or_else(|| {
            let owner = self.worker.pool.new_owner();
            *self.holder.borrow_mut() = Some(Holder { owner, user: route.asker.user.clone() });
            owner
        });
        let room = self.worker.room_for_idle() + 1;
        self.worker.pool.put_pinned(owner, key, stream, route, self.worker.engine.now(), room);
    }

    fn owner(&self, asker: &Asker) -> Option<Owner> {
        let same = self.holder.borrow().as_ref().map(|holder| (holder.owner, holder.user == asker.user))?;
        match same {
            (owner, true) => Some(owner),
            (_, false) => {
                self.end();
                None
            }
        }
    }

    fn end(&self) {
        if let Some(holder) = self.holder.take() {
            self.worker.pool.forget(holder.owner);
        }
    }
}

impl<E: Engine> Drop for Pins<E> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<E: Engine> Client<E> {
    /// Keeps an upstream connection that is between two requests: for this client alone if it is `pinned`, else for
    /// whoever asks next.
    pub(super) fn keep_upstream(&self, key: &Key, stream: E::Stream, route: Rc<Route>, pinned: bool) {
        if pinned {
            return self.pins.put(key, stream, route);
        }
        let worker = self.worker();
        // What it leaves free as a busy one it takes as an idle one.
        let (now, room) = (worker.engine.now(), worker.room_for_idle() + 1);
        worker.pool.put(key, stream, route, now, room);
    }
}
