//! One accepted connection as the worker sees it: what it wants now, where it goes, and how to end it.
//!
//! The table of all of them serves three readers: a new policy (which flows are now denied?), the byte counts of live
//! tunnels, and the admin's list.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use slab::Slab;
use sluice_bridge::{Auth, ConnectionRow, DoorPlan, Path, Phase};
use sluice_engine::{Abort, Buffer, Engine, Instant, Stream};
use sluice_policy::{Proof, Reason};
use sluice_relay::Counters;

use crate::carried::Carried;
use crate::route::{Asker, Route, Wanted};
use crate::worker::Worker;

type AbortOf<E> = <<E as Engine>::Stream as Stream>::Abort;

/// An address of a dual-stack socket as what it is: IPv4-mapped addresses are IPv4.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A client as its session hands it on, from accept until it is known what it carries.
pub(crate) struct Downstream<E: Engine> {
    pub(crate) connection: Admitted<E>,
    pub(crate) stream: E::Stream,
    /// What the client sent ahead: received, and not yet consumed.
    pub(crate) early: Option<Buffer>,
}

/// A connection while it lives.
pub(crate) struct Connection<E: Engine> {
    pub(crate) worker: Rc<Worker<E>>,
    pub(crate) door: Arc<DoorPlan>,
    /// The client's address: as the socket has it, or as a trusted peer's PROXY header says.
    pub(crate) peer: Cell<SocketAddr>,
    /// The address that it connected to: the socket's own, or the original destination.
    pub(crate) local: Cell<SocketAddr>,
    /// What `peer` proves, where the table of workloads knows it.
    address_proof: Cell<Proof>,
    /// Where the client was going, as a PROXY header that may say so has it. What a capture knows of that is `local`.
    pub(crate) announced: Cell<Option<SocketAddr>>,
    pub(crate) opened: Instant,
    /// Who asks; credentials may raise the proof.
    pub(crate) asker: RefCell<Rc<Asker>>,
    /// What is being done for it now; none between two requests.
    pub(crate) route: RefCell<Option<Rc<Route>>>,
    /// What that was seen to carry.
    carried: RefCell<Carried>,
    /// The address that the present flow dialled.
    pub(crate) dialled: Cell<Option<SocketAddr>>,
    pub(crate) phase: Cell<Phase>,
    /// What its present record is of, for the admin's list.
    pub(crate) protocol: Cell<&'static str>,
    /// Set when a new policy denies what is under way.
    pub(crate) revoked: Cell<bool>,
    /// The process itself has dialled it, and capture rules led it here. No answer keeps it open: pooled by whoever dialled
    /// it, it would lead here still when the rules are mended.
    pub(crate) looped: Cell<bool>,
    /// Payload of the tunnel, live.
    pub(crate) counters: Rc<Counters>,
    /// What of it the series have been told: (from downstream, to downstream).
    pub(crate) counted: Cell<(u64, u64)>,
    /// The series of an established tunnel.
    pub(crate) series: Cell<Option<sluice_telemetry::TcpSeries>>,
    downstream: AbortOf<E>,
    upstream: RefCell<Option<AbortOf<E>>>,
    key: Cell<usize>,
    /// Set once what is under way has been cut.
    cut: Cell<bool>,
    /// The session's task while it waits for what an abort of its sockets does not end.
    waiting: RefCell<Option<Waker>>,
}

impl<E: Engine> Connection<E> {
    /// Enters a connection into the worker's table, where it stays until the result is dropped.
    pub(crate) fn admit(worker: &Rc<Worker<E>>, door: &Arc<DoorPlan>, stream: &E::Stream) -> Admitted<E> {
        let peer = unmapped(stream.peer_address());
        let connection = Rc::new(Self {
            worker: Rc::clone(worker),
            door: Arc::clone(door),
            peer: Cell::new(peer),
            local: Cell::new(unmapped(stream.local_address())),
            address_proof: Cell::new(Proof::Address),
            announced: Cell::new(None),
            opened: worker.engine.now(),
            asker: RefCell::new(Rc::new(worker.identify_address(peer, Proof::Address))),
            route: RefCell::new(None),
            carried: RefCell::default(),
            dialled: Cell::new(None),
            phase: Cell::new(Phase::Sniffing),
            protocol: Cell::new(door.kind.as_str()),
            revoked: Cell::new(false),
            looped: Cell::new(false),
            counters: Rc::default(),
            counted: Cell::new((0, 0)),
            series: Cell::new(None),
            downstream: stream.abort_handle(),
            upstream: RefCell::new(None),
            key: Cell::new(usize::MAX),
            cut: Cell::new(false),
            waiting: RefCell::new(None),
        });
        worker.connection_opened(door);
        let key = worker.connections.borrow_mut().insert(Rc::clone(&connection));
        connection.key.set(key);
        Admitted(connection)
    }

    /// A trusted peer has told whom it forwards: that address is the client's from now on. `original` is where the
    /// client was going, where the peer may say that too.
    pub(crate) fn forwarded(&self, source: SocketAddr, original: Option<SocketAddr>) {
        self.peer.set(source);
        self.address_proof.set(Proof::ProxyProtocol);
        *self.asker.borrow_mut() = Rc::new(self.worker.identify_address(source, Proof::ProxyProtocol));
        self.announced.set(original);
        if let Some(original) = original {
            self.local.set(original);
        }
    }

    /// Whether a load balancer has opened it on its own behalf: the door wants a PROXY header, and the one that came
    /// forwards nobody (`LOCAL`, `UNKNOWN`).
    pub(crate) fn speaks_for_its_peer(&self) -> bool {
        self.door.proxy_protocol.is_some() && self.address_proof.get() != Proof::ProxyProtocol
    }

    /// From now on this is what the connection does; a revocation cuts `upstream` as well.
    pub(crate) fn begin(&self, route: &Rc<Route>) {
        *self.route.borrow_mut() = Some(Rc::clone(route));
    }

    /// What the present flow was seen to carry.
    pub(crate) fn carries(&self, carried: Carried) {
        *self.carried.borrow_mut() = carried;
    }

    /// Whether what the present flow carries was read before anything was dialled for it.
    pub(crate) fn has_spoken(&self) -> bool {
        matches!(*self.carried.borrow(), Carried::Requests | Carried::Tls(_))
    }

    /// Whether what the present flow carries may go on where a new policy leads it.
    pub(crate) fn still_fits(&self, before: &Route, now: &Rc<Route>) -> bool {
        self.carried.borrow().still_fits(before, now, |name| {
            let inner = Wanted { host: Some(name.clone()), ..now.wanted.clone() };
            self.worker.decide(&now.asker, inner)
        })
    }

    /// The upstream connection of the present flow.
    pub(crate) fn attach(&self, upstream: &E::Stream, dialled: SocketAddr) {
        self.dialled.set(Some(dialled));
        if self.upstream.replace(Some(upstream.abort_handle())).is_none() {
            self.count_busy(1);
        }
    }

    /// Nothing is under way any more.
    pub(crate) fn rest(&self) {
        *self.route.borrow_mut() = None;
        self.carries(Carried::Unseen);
        if self.upstream.take().is_some() {
            self.count_busy(-1);
        }
        self.dialled.set(None);
    }

    fn count_busy(&self, change: isize) {
        let busy = &self.worker.upstreams_busy;
        busy.set(busy.get().saturating_add_signed(change));
    }

    /// Cuts what is under way: both sockets are reset. `revoked` tells the record why.
    pub(crate) fn cut(&self, revoked: bool) {
        self.revoked.set(self.revoked.get() || revoked);
        self.cut.set(true);
        self.downstream.abort();
        if let Some(upstream) = self.upstream.borrow().as_ref() {
            upstream.abort();
        }
        self.wake();
    }

    /// Whether what is under way has been cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Runs `future`, which is no operation on the connection's own sockets, unless the connection is cut meanwhile.
    pub(crate) async fn unless_cut<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.is_cut() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.wake_me(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Runs `future` unless the worker drains meanwhile.
    pub(crate) async fn unless_draining<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if self.worker.is_draining() {
                return Poll::Ready(None);
            }
            self.wake_me(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Whose credentials these are; from now on that one asks. `None`: they are wrong, and nothing changes.
    pub(crate) fn authenticate(&self, user: &[u8], password: &[u8]) -> Option<Rc<Asker>> {
        let snapshot = self.worker.snapshot();
        let identity = snapshot.credentials.verify(user, password)?;
        let known = Rc::clone(&self.asker.borrow());
        if known.user.as_deref() == Some(user) && known.identity.as_ref() == Some(identity) {
            return Some(known);
        }
        let asker = Rc::new(Asker {
            proof: Proof::Credentials,
            identity: Some(Arc::clone(identity)),
            user: Some(user.into()),
            address: known.address,
        });
        *self.asker.borrow_mut() = Rc::clone(&asker);
        Some(asker)
    }

    /// Who asks by address alone, as the policy in force has it.
    pub(crate) fn asker_by_address(&self) -> Rc<Asker> {
        let known = Rc::clone(&self.asker.borrow());
        let fresh = self.worker.identify_address(self.peer.get(), self.address_proof.get());
        if known.proof == fresh.proof && known.identity == fresh.identity {
            return known;
        }
        let fresh = Rc::new(fresh);
        *self.asker.borrow_mut() = Rc::clone(&fresh);
        fresh
    }

    /// Who asks, as the policy in force has it: the table of workloads or the users may have changed. A password is
    /// not asked for again; a user who is gone, or proves somebody else now, is.
    pub(crate) fn renewed_asker(&self) -> Rc<Asker> {
        let known = Rc::clone(&self.asker.borrow());
        let Some(user) = known.user.as_deref() else { return self.asker_by_address() };
        let identity = self.worker.snapshot().credentials.identity_of(user).cloned();
        if identity.is_none() {
            return self.asker_by_address();
        }
        if identity == known.identity {
            return known;
        }
        let fresh = Rc::new(Asker { identity, ..Asker::clone(&known) });
        *self.asker.borrow_mut() = Rc::clone(&fresh);
        fresh
    }

    /// Whether the door lets nobody in without credentials and those that were shown count no longer.
    pub(crate) fn lacks_credentials(&self) -> bool {
        self.door.auth == Auth::Required && self.asker.borrow().proof < Proof::Credentials
    }

    /// Decides what was decided before again, under the policy in force and for whoever asks under it.
    ///
    /// # Errors
    /// The reason of the denial.
    pub(crate) fn decide_again(&self, before: &Route) -> Result<Rc<Route>, Reason> {
        let asker = self.renewed_asker();
        if before.asker.proof == Proof::Credentials && self.lacks_credentials() {
            return Err(Reason::Auth);
        }
        let route = self.worker.decide(&asker, before.wanted.clone());
        if route.is_denied() { Err(route.reason()) } else { Ok(route) }
    }

    /// Adds what the tunnel moved since the last time to its series.
    pub(crate) fn count_bytes(&self) {
        let Some(series) = self.series.get() else { return };
        let now = (self.counters.to_upstream_bytes.get(), self.counters.to_downstream_bytes.get());
        let before = self.counted.replace(now);
        self.worker.metrics.tcp_bytes(series, now.0 - before.0, now.1 - before.1);
    }

    /// The session waits: a cut or a drain wakes it.
    fn wake_me(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *waiting = Some(waker.clone());
        }
    }

    /// Wakes the session where it waits between two requests, for a name or for a connect.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// For the admin's list.
    pub(crate) fn row(&self, now: Instant) -> ConnectionRow {
        let route = self.route.borrow();
        let asker = self.asker.borrow();
        let identity = asker.proven();
        let relaying = self.phase.get() == Phase::Relaying;
        let splicing = self.counters.splicing.get() > 0;
        ConnectionRow {
            id: self.key.get() as u64,
            worker: self.worker.index,
            door: Arc::clone(&self.door.name),
            source: self.peer.get(),
            workload: identity.and_then(|identity| identity.workload.clone()),
            namespace: identity.and_then(|identity| identity.namespace.clone()),
            protocol: self.protocol.get(),
            host: route.as_ref().and_then(|route| route.wanted.host_text()),
            port: route.as_ref().map_or(0, |route| route.wanted.port),
            upstream: self.dialled.get(),
            service: route
                .as_ref()
                .and_then(|route| route.service.as_ref())
                .map(|service| Arc::clone(&service.label)),
            decision: route.as_ref().map(|route| route.decision.verdict),
            reason: route.as_ref().map(|route| route.decision.reason),
            received_bytes: self.counters.to_upstream_bytes.get(),
            sent_bytes: self.counters.to_downstream_bytes.get(),
            age_ms: now.since(self.opened).as_millis() as u64,
            phase: self.phase.get(),
            path: relaying.then_some(if splicing { Path::Splice } else { Path::Buffers }),
        }
    }
}

/// A connection in the table; dropping this takes it out.
pub(crate) struct Admitted<E: Engine>(Rc<Connection<E>>);

impl<E: Engine> std::ops::Deref for Admitted<E> {
    type Target = Rc<Connection<E>>;

    fn deref(&self) -> &Rc<Connection<E>> {
        &self.0
    }
}

impl<E: Engine> Drop for Admitted<E> {
    fn drop(&mut self) {
        self.0.worker.connections.borrow_mut().try_remove(self.0.key.get());
        self.0.worker.connection_closed(&self.0.door);
    }
}

/// All connections of a worker.
pub(crate) type Table<E> = RefCell<Slab<Rc<Connection<E>>>>;
