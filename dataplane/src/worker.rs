//! One worker: everything that its thread shares between connections, and the loop over control's commands.
//!
//! Nothing here is shared with another worker. The published snapshot is swapped by pointer; the old one is handed
//! back to control, which frees it.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use slab::Slab;
use sluice_bridge::{Command, Door, DoorKind, DoorPlan, Notice, Records, Retired, Snapshot, WorkerPort};
use sluice_engine::{Deadline, Engine, Instant, Stream};
use sluice_policy::{Proof, UnixSeconds};
use sluice_telemetry::{Counter, Family, Gauge, WorkerMetrics, access_log};
use tokio::sync::mpsc;

use crate::carried::Carried;
use crate::connection::{Connection, Table};
use crate::door::OpenDoor;
use crate::limits::{
    BYTE_COUNT_INTERVAL, POOL_SWEEP_INTERVAL, RECHECK_SLICE, REST_NOTICE_INTERVAL, STOP_TIME_MAX,
};
use crate::own_dials::OwnDials;
use crate::resolve::Names;
use crate::route::{Asker, Route, Wanted};
use crate::upstream::{Pool, room_for_idle};

/// What a worker is told at its start and never again.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Connections that this worker carries at most; at that number its doors rest.
    pub connections_max: usize,
    /// What the process has dialled of late: one for all its workers.
    pub own_dials: Arc<OwnDials>,
}

/// What the sessions of one thread share.
pub(crate) struct Worker<E: Engine> {
    pub(crate) engine: E,
    pub(crate) index: usize,
    pub(crate) names: Names,
    pub(crate) pool: Pool<E>,
    pub(crate) connections: Table<E>,
    /// Upstream connections that a flow is using.
    pub(crate) upstreams_busy: Cell<usize>,
    pub(crate) metrics: WorkerMetrics,
    snapshot: RefCell<Arc<Snapshot>>,
    records: RefCell<Records>,
    notices: mpsc::Sender<Notice>,
    config: WorkerConfig,
    draining: Cell<bool>,
    /// Doors that are open or still emptying their queue.
    doors_served: Cell<usize>,
    stopped: Cell<bool>,
    /// A door of captured traffic has been opened: what is dialled may come back through it.
    captures: Cell<bool>,
    /// What of the engine's counts of promotions and demotions the metrics have been told.
    splices_told: Cell<(u64, u64)>,
    /// Doors that rest because the worker is full.
    resting: RefCell<Vec<Waker>>,
    /// The log has heard that the worker is full, and not yet that it is no longer.
    full_is_told: Cell<bool>,
    /// When the log was last told that the worker is full.
    full_told: Cell<Option<Instant>>,
    /// When the log was last told that accept fails.
    pub(crate) accept_fails_told: Cell<Option<Instant>>,
    /// When the log was last told of a connection that nobody captured.
    pub(crate) uncaptured_told: Cell<Option<Instant>>,
}

impl<E: Engine> Worker<E> {
    /// Remembers a connection that was dialled, if it may come back.
    pub(crate) fn note_own_dial(&self, upstream: &E::Stream, dialled: SocketAddr) {
        if self.captures.get() {
            self.config.own_dials.note(upstream.local_address(), dialled, self.unix_seconds());
        }
    }

    /// Whether upstream connections have been dialled from this address.
    pub(crate) fn dials_from(&self, address: IpAddr) -> bool {
        self.config.own_dials.is_source(address)
    }

    /// Whether a captured connection is one that the process itself has dialled.
    pub(crate) fn is_own_dial(&self, peer: SocketAddr, original: SocketAddr) -> bool {
        self.config.own_dials.is_own(peer, original, self.unix_seconds())
    }

    /// The policy and numbers in force. Not to be held over an await.
    pub(crate) fn snapshot(&self) -> Ref<'_, Snapshot> {
        Ref::map(self.snapshot.borrow(), |snapshot| &**snapshot)
    }

    /// A deadline so many milliseconds from now.
    pub(crate) fn deadline_in_ms(&self, milliseconds: u64) -> Deadline<E> {
        let deadline = Deadline::new(self.engine.clone());
        deadline.set(Some(self.engine.now() + Duration::from_millis(milliseconds)));
        deadline
    }

    /// Wall-clock seconds, for expiry.
    pub(crate) fn unix_seconds(&self) -> UnixSeconds {
        UnixSeconds(i64::try_from(self.engine.unix_micros() / 1_000_000).unwrap_or(i64::MAX))
    }

    /// Who a client is by its address alone; `proof` is what an address that the table of workloads knows is worth.
    pub(crate) fn identify_address(&self, peer: SocketAddr, proof: Proof) -> Asker {
        let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let snapshot = self.snapshot();
        let identity = snapshot.policy.workload_by_address(address.ip()).cloned();
        let proof = if identity.is_some() { proof } else { Proof::None };
        Asker { proof, identity, user: None, address }
    }

    /// Asks the policy in force.
    pub(crate) fn decide(&self, asker: &Rc<Asker>, wanted: Wanted) -> Rc<Route> {
        Rc::new(Route::decide(&self.snapshot(), Rc::clone(asker), wanted, self.unix_seconds()))
    }

    /// Hands a finished record to the records thread; a full queue drops it and counts.
    pub(crate) fn log(&self, entry: Box<access_log::Entry>) {
        use sluice_bridge::AccessLog;
        let wanted = match self.snapshot().access_log {
            AccessLog::All => true,
            AccessLog::DeniedAndErrors => entry.is_denied_or_error(),
            AccessLog::Off => false,
        };
        if wanted {
            self.records.borrow_mut().push(entry);
        }
    }

    /// Whether the process is about to end: answers close their connections.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Waits while the worker is full.
    pub(crate) async fn room(&self) {
        if self.connections.borrow().len() < self.config.connections_max {
            return;
        }
        self.metrics.add(Counter::ConnectionLimitReached, 1);
        if !self.full_is_told.get() && self.may_tell_of_rest(&self.full_told) {
            self.full_is_told.set(true);
            self.notify(Notice::AtConnectionLimit(true));
        }
        poll_fn(|cx| {
            if self.connections.borrow().len() < self.config.connections_max {
                return Poll::Ready(());
            }
            self.resting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether the log may hear again that doors rest: at a limit they do with every connection that comes and goes.
    pub(crate) fn may_tell_of_rest(&self, told: &Cell<Option<Instant>>) -> bool {
        let now = self.engine.now();
        let due = told.get().is_none_or(|before| now.since(before) >= REST_NOTICE_INTERVAL);
        if due {
            told.set(Some(now));
        }
        due
    }

    /// Tells control. A notice that finds no room is a log line less, nothing else.
    pub(crate) fn notify(&self, notice: Notice) {
        let _ = self.notices.try_send(notice);
    }

    /// Idle upstream connections that there is room for now.
    pub(crate) fn room_for_idle(&self) -> usize {
        let connections = self.connections.borrow().len();
        room_for_idle(connections, self.upstreams_busy.get(), self.config.connections_max)
    }

    /// One descriptor more is about to be taken: idle upstream connections give way.
    pub(crate) fn make_room(&self) {
        self.pool.shrink(self.room_for_idle().saturating_sub(1));
    }

    /// A connection has entered the table.
    pub(crate) fn connection_opened(&self, door: &DoorPlan) {
        self.make_room();
        self.metrics.add(Counter::ConnectionsAccepted, 1);
        let active = self.metrics.series(Family::ActiveConnections, &[&door.name]);
        self.metrics.add_to(active, 1);
    }

    /// A connection has left the table.
    pub(crate) fn connection_closed(&self, door: &DoorPlan) {
        let active = self.metrics.series(Family::ActiveConnections, &[&door.name]);
        self.metrics.add_to(active, -1);

        // Said by whoever leaves, not by the door that rests: a door may close meanwhile.
        if self.connections.borrow().len() < self.config.connections_max && self.full_is_told.take() {
            self.notify(Notice::AtConnectionLimit(false));
        }
        if !self.resting.borrow().is_empty() {
            self.resting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Puts a snapshot in force and gives the old one.
    fn adopt(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        self.snapshot.replace(snapshot)
    }

    /// Resets everything that is under way.
    fn cut_all(&self) {
        for (_, connection) in self.connections.borrow().iter() {
            connection.cut(false);
        }
    }

    /// Decides every flow under way again; cuts those that the policy in force denies. Gives how many. Others run in
    /// between, so that a large table stalls nobody.
    async fn recheck(&self) -> u64 {
        let generation = self.snapshot().generation;
        let mut revoked = 0;
        let mut next = 0;
        while self.snapshot().generation == generation {
            let slice_end = std::time::Instant::now() + RECHECK_SLICE;
            loop {
                let Some((key, connection)) = self.next_connection(next) else { return revoked };
                next = key + 1;
                if !connection.is_cut() && self.is_now_denied(&connection) {
                    connection.cut(true);
                    self.metrics.add(Counter::FlowsRevoked, 1);
                    revoked += 1;
                }
                if std::time::Instant::now() >= slice_end {
                    break;
                }
            }
            self.engine.yield_now().await;
        }
        revoked
    }

    fn next_connection(&self, from: usize) -> Option<(usize, Rc<Connection<E>>)> {
        let connections = self.connections.borrow();
        let bound = connections.capacity();
        (from..bound).find_map(|key| connections.get(key).map(|found| (key, Rc::clone(found))))
    }

    /// Decides a flow again, guard included; a flow that stays gets the new route.
    fn is_now_denied(&self, connection: &Connection<E>) -> bool {
        connection.renewed_asker();
        // What nothing is under way on stays; its next request is decided by itself.
        let Some(before) = connection.route.borrow().clone() else { return false };
        let Ok(route) = connection.decide_again(&before) else { return true };
        // The name is allowed, but another protocol may be declared at its port.
        if !connection.still_fits(&before, &route) {
            return true;
        }
        let refused = |address| self.snapshot().policy.guard(address, route.decision.service).is_err();
        if connection.dialled.get().is_some_and(refused) {
            return true;
        }
        connection.begin(&route);
        false
    }

    /// Whether an idle upstream may stay for its last user.
    fn may_stay(&self, route: &Route, dialled: SocketAddr) -> bool {
        let route = Route::decide(
            &self.snapshot(),
            Rc::clone(&route.asker),
            route.wanted.clone(),
            self.unix_seconds(),
        );
        // Only HTTP is pooled, and unencrypted.
        let fits = Carried::Requests.fits(route.declared_protocol());
        fits && !route.is_denied() && self.snapshot().policy.guard(dialled, route.decision.service).is_ok()
    }

    /// Closes idle upstream connections that are too old or closed by the origin.
    fn sweep_pool(&self) {
        let idle_max = Duration::from_millis(self.snapshot().limits.upstream_keepalive_timeout_ms);
        let closed = self.pool.sweep(self.engine.now(), idle_max, |_, _| true);
        self.metrics.add(Counter::UpstreamPoolEvictions, closed as u64);
        self.metrics.add(Counter::UpstreamUnsolicited, self.pool.take_unsolicited());
    }

    /// Adds what live tunnels moved to their series, so that long flows are seen before they end.
    async fn count_live_bytes(&self) {
        let mut next = 0;
        while let Some((key, connection)) = self.next_connection(next) {
            next = key + 1;
            connection.count_bytes();
            if key % 256 == 255 {
                self.engine.yield_now().await;
            }
        }
    }

    fn set_gauges(&self) {
        let stats = self.engine.stats();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.set(Gauge::UpstreamPoolIdle, gauge(self.pool.len()));
        self.metrics.set(Gauge::SplicedDirections, gauge(stats.splicing));
        let (promotions, demotions) =
            self.splices_told.replace((stats.splice_promotions, stats.splice_demotions));
        self.metrics.add(Counter::RelaySplicePromotions, stats.splice_promotions - promotions);
        self.metrics.add(Counter::RelaySpliceDemotions, stats.splice_demotions - demotions);
    }
}

/// Serves doors until control says stop or is gone.
pub async fn run_worker<E: Engine>(
    engine: E,
    mut port: WorkerPort,
    metrics: WorkerMetrics,
    config: WorkerConfig,
) {
    let Some(snapshot) = first_snapshot(&mut port).await else { return };
    let WorkerPort { index, commands, questions, notices, records, retired } = port;
    let worker = Rc::new(Worker {
        index,
        names: Names::new(index, questions, engine.random()),
        pool: Pool::new(engine.random()),
        connections: RefCell::new(Slab::new()),
        upstreams_busy: Cell::new(0),
        metrics,
        snapshot: RefCell::new(snapshot),
        records: RefCell::new(records),
        notices: notices.clone(),
        config,
        draining: Cell::new(false),
        doors_served: Cell::new(0),
        captures: Cell::new(false),
        stopped: Cell::new(false),
        splices_told: Cell::new((0, 0)),
        resting: RefCell::new(Vec::new()),
        full_is_told: Cell::new(false),
        full_told: Cell::new(None),
        accept_fails_told: Cell::new(None),
        uncaptured_told: Cell::new(None),
        engine,
    });
    worker.engine.spawn(housekeeping(Rc::clone(&worker)));
    Commander { worker, doors: HashMap::new(), retired, notices }.obey(commands).await;
}

/// Nothing is served before there is a policy.
async fn first_snapshot(port: &mut WorkerPort) -> Option<Arc<Snapshot>> {
    loop {
        match port.commands.recv().await? {
            Command::Snapshot(snapshot) => {
                let generation = snapshot.generation;
                let _ = port.notices.try_send(Notice::Adopted { generation, revoked: 0 });
                return Some(snapshot);
            }
            Command::Stop => return None,
            // Control publishes before it opens doors; a door that comes first is not served.
            Command::OpenDoor(door) => {
                let _ = port.notices.try_send(Notice::DoorClosed(door.plan.bind));
            }
            _ => {}
        }
    }
}

/// The slow, regular work of a worker.
async fn housekeeping<E: Engine>(worker: Rc<Worker<E>>) {
    let mut bytes_at = worker.engine.now() + BYTE_COUNT_INTERVAL;
    while !worker.stopped.get() {
        worker.engine.sleep_until(worker.engine.now() + POOL_SWEEP_INTERVAL).await;
        worker.sweep_pool();
        worker.set_gauges();
        if worker.engine.now() >= bytes_at {
            worker.count_live_bytes().await;
            bytes_at = worker.engine.now() + BYTE_COUNT_INTERVAL;
        }
    }
}

/// Carries out control's commands.
struct Commander<E: Engine> {
    worker: Rc<Worker<E>>,
    doors: HashMap<SocketAddr, Rc<OpenDoor>>,
    retired: Retired,
    notices: mpsc::Sender<Notice>,
}

impl<E: Engine> Commander<E> {
    async fn obey(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Snapshot(snapshot) => self.adopt(snapshot),
                Command::OpenDoor(door) => self.open(door),
                Command::CloseDoor(address) => self.close(address),
                Command::Answer(answer) => self.worker.names.answered(answer, self.worker.engine.now()),
                Command::List(reply) => {
                    let now = self.worker.engine.now();
                    let connections = self.worker.connections.borrow();
                    // Whoever asked may have given up.
                    let _ = reply.send(connections.iter().map(|(_, each)| each.row(now)).collect());
                }
                Command::Drain { deadline_ms } => self.drain(deadline_ms),
                Command::Stop => break,
            }
        }
        self.worker.stopped.set(true);
        self.doors.drain().for_each(|(_, door)| door.close());
        self.worker.cut_all();
        self.worker.pool.clear();
        // Sessions see the cut and write their records.
        let until = self.worker.engine.now() + STOP_TIME_MAX;
        wait_for_end(&self.worker, until, |worker| worker.connections.borrow().is_empty()).await;
    }

    fn adopt(&mut self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.retired.retire(self.worker.adopt(snapshot));
        let worker = Rc::clone(&self.worker);
        let notices = self.notices.clone();
        self.worker.engine.spawn(async move {
            let revoked = worker.recheck().await;
            let keep = |route: &Route, dialled| worker.may_stay(route, dialled);
            let closed = worker.pool.sweep(worker.engine.now(), Duration::MAX, keep);
            worker.metrics.add(Counter::UpstreamPoolEvictions, closed as u64);
            // The only reader is control; when it is gone nobody waits for this.
            let _ = notices.send(Notice::Adopted { generation, revoked }).await;
        });
    }

    fn open(&mut self, Door { plan, socket }: Door) {
        let address = plan.bind;
        if plan.kind == DoorKind::Transparent {
            self.worker.captures.set(true);
        }
        if let Some(open) = self.doors.get(&address)
            && socket.is_none()
        {
            open.replan(plan);
            return;
        }
        match self.worker.engine.listen(address, socket) {
            Ok(listener) => {
                let door = Rc::new(OpenDoor::new(plan));
                if let Some(before) = self.doors.insert(address, Rc::clone(&door)) {
                    before.close();
                }
                let worker = Rc::clone(&self.worker);
                let notices = self.notices.clone();
                let _ = notices.try_send(Notice::DoorOpened(address));
                worker.doors_served.update(|doors| doors + 1);
                self.worker.engine.spawn(async move {
                    door.serve(&worker, listener).await;
                    worker.doors_served.update(|doors| doors - 1);
                    let _ = notices.send(Notice::DoorClosed(address)).await;
                });
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                self.worker.notify(Notice::AcceptFails { door: address, errno });
                let _ = self.notices.try_send(Notice::DoorClosed(address));
            }
        }
    }

    fn close(&mut self, address: SocketAddr) {
        if let Some(door) = self.doors.remove(&address) {
            door.close();
        }
    }

    fn drain(&mut self, deadline_ms: u64) {
        self.worker.draining.set(true);
        self.doors.drain().for_each(|(_, door)| door.close());
        for (_, connection) in self.worker.connections.borrow().iter() {
            connection.wake();
        }
        let worker = Rc::clone(&self.worker);
        let notices = self.notices.clone();
        self.worker.engine.spawn(async move {
            let until = worker.engine.now() + Duration::from_millis(deadline_ms);
            // Before the last door has closed an empty table is not the end: somebody may be queued.
            let ended =
                |worker: &Worker<E>| worker.doors_served.get() == 0 && worker.connections.borrow().is_empty();
            let cut = wait_for_end(&worker, until, ended).await;
            worker.metrics.add(Counter::FlowsCutAtDrain, cut);
            worker.cut_all();
            let _ = notices.send(Notice::Drained { cut }).await;
        });
    }
}

/// Waits until it has ended or the time has come; gives how many connections are left.
async fn wait_for_end<E: Engine>(
    worker: &Worker<E>,
    until: Instant,
    ended: impl Fn(&Worker<E>) -> bool,
) -> u64 {
    while !ended(worker) && worker.engine.now() < until {
        worker.engine.sleep_until(worker.engine.now() + Duration::from_millis(10)).await;
    }
    worker.connections.borrow().len() as u64
}
