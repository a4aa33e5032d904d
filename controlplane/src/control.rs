//! The control task: one loop over signals, file changes, workers' notices and timers, the only writer of what is in
//! force. Slow work is prepared elsewhere; here it is only put in force. It must not know HTTP or DNS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sluice_bridge::{Command, Door, Notice};
use sluice_config::{Plan, Source};
use sluice_policy::UnixSeconds;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::admin::{self, Scope};
use crate::clock;
use crate::counts::Counts;
use crate::descriptors::Budget;
use crate::dns;
use crate::doors::Bound;
use crate::heavy::JobLost;
use crate::limits::{EXPIRY_CHECK_MS, WORKER_GRACE_MS};
use crate::publish;
use crate::records::Records;
use crate::reload::{self, Basis, MakeLogWriter, Prepared, ReloadError};
use crate::signals::Order;
use crate::status::{Current, Phase, Status};
use crate::watch::{self, Watcher};

/// How the control task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Drained after a signal; so many flows were cut at the deadline.
    Drained {
        /// Flows cut.
        cut: u64,
    },
    /// A second signal asked for the end at once.
    AtOnce,
    /// A worker ended although nobody asked it to, or takes no commands any more.
    WorkerFailed {
        /// Which one.
        worker: usize,
    },
}

/// A worker's notice; `None`: the worker has ended.
pub(crate) type Heard = (usize, Option<Notice>);

type Preparing = JoinHandle<Result<Prepared, ReloadError>>;

/// The task's state.
pub(crate) struct Control {
    pub(crate) status: Arc<Status>,
    pub(crate) source: Source,
    pub(crate) doors: HashMap<SocketAddr, SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) prometheus: Option<(SocketAddr, JoinHandle<()>)>,
    pub(crate) budget: Budget,
    pub(crate) workers: Vec<Worker>,
    pub(crate) dns: mpsc::Sender<dns::Input>,
    pub(crate) records: Records,
    pub(crate) make_writer: MakeLogWriter,
    pub(crate) counts: Counts,
    pub(crate) watcher: Option<Watcher>,
    pub(crate) preparing: Option<Preparing>,
    /// Something changed while a new configuration was being prepared.
    pub(crate) again: bool,
    /// When the next rule expires.
    pub(crate) expiry_due: Option<UnixSeconds>,
    /// Set by the first order to terminate: when to stop waiting for the workers.
    pub(crate) drain_until: Option<Instant>,
    pub(crate) cut: u64,
}

/// What the control task knows of a worker.
pub(crate) struct Worker {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) adopted: u64,
    pub(crate) drained: bool,
    pub(crate) ended: bool,
}

/// A worker that takes no commands: it is stuck or gone.
struct Stuck(usize);

impl Control {
    /// Runs until the end.
    pub(crate) async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        mut notices: mpsc::Receiver<Heard>,
    ) -> (Ending, Records) {
        let ending = self.turn(&mut orders, &mut notices).await;
        (ending, self.records)
    }

    async fn turn(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        notices: &mut mpsc::Receiver<Heard>,
    ) -> Ending {
        loop {
            let draining = self.drain_until.is_some();
            let until = self.drain_until.unwrap_or_else(|| self.expiry_check());
            let step = tokio::select! {
                Some(order) = orders.recv() => self.obey(order).await,
                Some((worker, notice)) = notices.recv() => self.hear(worker, notice),
                changed = file_change(&mut self.watcher) => { self.files_changed(changed); Ok(None) }
                prepared = finished(&mut self.preparing) => self.put_in_force(prepared).await,
                () = sleep_until(until) => if draining { Ok(Some(self.drained())) } else { self.check_expiry().await },
            };
            match step {
                Ok(None) => {}
                Ok(Some(ending)) => return ending,
                Err(Stuck(worker)) => {
                    tracing::error!(worker, "a worker takes no commands");
                    return Ending::WorkerFailed { worker };
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<Option<Ending>, Stuck> {
        match order {
            Order::ReopenLogs => self.records.reopen(),
            Order::Reload => self.reload("signal"),
            Order::Terminate if self.drain_until.is_some() => {
                tracing::warn!("second signal: ending at once");
                return Ok(Some(Ending::AtOnce));
            }
            Order::Terminate => {
                let deadline_ms = self.status.current().plan.limits.drain_timeout_ms;
                tracing::info!(deadline_ms, "draining");
                self.status.set_phase(Phase::Draining);
                self.drain_until =
                    Some(Instant::now() + Duration::from_millis(deadline_ms + WORKER_GRACE_MS));
                self.tell_all(|| Command::Drain { deadline_ms }).await?;
            }
        }
        Ok(None)
    }

    fn hear(&mut self, index: usize, notice: Option<Notice>) -> Result<Option<Ending>, Stuck> {
        let Some(worker) = self.workers.get_mut(index) else { return Ok(None) };
        match notice {
            Some(Notice::Adopted { generation, revoked }) => {
                worker.adopted = generation;
                if revoked > 0 {
                    tracing::info!(
                        worker = index,
                        generation,
                        revoked,
                        "flows cut that the new policy denies"
                    );
                }
                if self.workers.iter().all(|worker| worker.adopted > 0)
                    && self.status.phase() == Phase::Starting
                {
                    self.status.set_phase(Phase::Ready);
                    tracing::info!("ready");
                }
            }
            Some(Notice::AtConnectionLimit(true)) => {
                tracing::warn!(
                    worker = index,
                    connections_max = self.status.current().snapshot.limits.connections_max,
                    "connection limit reached: doors stop accepting, new connections wait in the kernel's queue; \
                     the limit is a share of the open files (limits.connections_percent_max)"
                );
            }
            Some(Notice::AtConnectionLimit(false)) => {
                tracing::info!(worker = index, "below the connection limit: doors accept again");
            }
            Some(Notice::AcceptFails { door, errno }) => {
                let error = std::io::Error::from_raw_os_error(errno);
                let remedy = accept_remedy(errno);
                tracing::warn!(worker = index, %door, %error, remedy, "cannot accept: the door rests and tries again");
            }
            Some(Notice::NotCaptured { door, peer }) => {
                let remedy = "look for nftables rules that send the gateway's own traffic to this door, or for a client that \
                              takes it for a proxy";
                tracing::warn!(%door, %peer, remedy, "refused: made to the transparent door itself, not captured");
            }
            Some(Notice::CapturesItself { door, original }) => {
                let remedy =
                    "let the capture rules pass what the gateway sends: by its user, its mark or its cgroup";
                tracing::warn!(%door, %original, remedy, "a loop was refused: the gateway's own connection was captured");
            }
            Some(Notice::DoorOpened(address)) => tracing::debug!(worker = index, %address, "door opened"),
            Some(Notice::DoorClosed(address)) => tracing::debug!(worker = index, %address, "door closed"),
            Some(Notice::Drained { cut }) => {
                worker.drained = true;
                self.cut += cut;
            }
            None => worker.ended = true,
        }
        if self.drain_until.is_none() {
            let ended = self.workers.iter().position(|worker| worker.ended);
            return Ok(ended.map(|worker| Ending::WorkerFailed { worker }));
        }
        let over = self.workers.iter().all(|worker| worker.drained || worker.ended);
        Ok(over.then(|| self.drained()))
    }

    fn drained(&mut self) -> Ending {
        for (index, worker) in self.workers.iter().enumerate() {
            if !worker.drained && !worker.ended {
                tracing::warn!(worker = index, "no end of the drain was reported");
            }
        }
        match self.cut {
            0 => tracing::info!("drained"),
            cut => tracing::warn!(cut, "drained; flows were cut at the deadline"),
        }
        Ending::Drained { cut: self.cut }
    }

    fn files_changed(&mut self, changed: std::io::Result<()>) {
        match changed {
            Ok(()) => self.reload("file change"),
            Err(error) => {
                tracing::error!(%error, "file changes are not noticed any more; SIGHUP still works");
                self.watcher = None;
            }
        }
    }

    fn reload(&mut self, cause: &str) {
        if self.drain_until.is_some() {
            return;
        }
        if self.preparing.is_some() {
            self.again = true;
            return;
        }
        tracing::info!(cause, "reloading");
        let current = self.status.current();
        let basis = Basis {
            plan: current.plan,
            source: self.source.clone(),
            generation: current.snapshot.generation + 1,
            doors: self.doors.clone(),
            admin: self.admin,
            prometheus: self.prometheus.as_ref().map(|(address, _)| *address),
            workers: self.workers.len(),
            budget: self.budget,
            spares: Arc::clone(&self.status.spares),
        };
        let (heavy, make_writer) = (self.status.heavy.clone(), Arc::clone(&self.make_writer));
        self.preparing = Some(tokio::spawn(reload::prepare(basis, heavy, make_writer)));
    }

    async fn put_in_force(
        &mut self,
        prepared: Result<Prepared, ReloadError>,
    ) -> Result<Option<Ending>, Stuck> {
        self.preparing = None;
        if self.drain_until.is_some() {
            return Ok(None);
        }
        match prepared {
            Ok(prepared) => {
                self.counts.reload(true);
                self.publish(prepared).await?;
            }
            Err(error) => {
                self.counts.reload(false);
                reload::log_refusal(&error, self.status.current().plan.file.as_deref());
            }
        }
        // Also after a refusal: the directories may be new ones.
        self.watch();
        if std::mem::take(&mut self.again) {
            self.reload("another change meanwhile");
        }
        Ok(None)
    }

    async fn publish(&mut self, prepared: Prepared) -> Result<(), Stuck> {
        let Prepared { plan, snapshot, diff, warnings, bound, doors, prometheus, log_writer } = prepared;
        reload::log_warnings(&warnings);
        for key in &diff.needs_restart {
            tracing::warn!(key, "changed; it takes effect after a restart");
        }
        let (plan, snapshot) = (Arc::new(plan), Arc::new(snapshot));
        self.tell_all(|| Command::Snapshot(Arc::clone(&snapshot))).await?;
        for (configured, listeners) in bound {
            self.open(&plan, configured, listeners).await?;
        }
        for door in &diff.doors_changed {
            if let Some(address) = doors.get(&door.bind).copied() {
                let plan = Arc::new(publish::door(door, address));
                self.tell_all(|| Command::OpenDoor(Door { plan: Arc::clone(&plan), socket: None })).await?;
            }
        }
        for configured in &diff.doors_removed {
            if let Some(address) = self.doors.get(configured).copied() {
                self.tell_all(|| Command::CloseDoor(address)).await?;
            }
        }
        if diff.dns {
            self.dns.send(dns::Input::Settings(snapshot.dns.clone())).await.ok();
        }
        if let Some(writer) = log_writer {
            self.records.replace(writer, plan.access_log.format);
        }
        if diff.prometheus {
            self.replace_prometheus(prometheus);
        }
        self.doors = doors;
        self.counts.published(&snapshot);
        let counts = snapshot.policy.counts();
        tracing::info!(
            generation = snapshot.generation,
            mode = snapshot.policy.mode().as_str(),
            services = counts.services,
            hosts = counts.hosts,
            doors = self.doors.len(),
            "configuration in force"
        );
        self.expiry_due = snapshot.policy.next_expiry(clock::now());
        let old = self.status.replace(Current { plan, snapshot });
        self.status.heavy.free(old).await;
        Ok(())
    }

    /// The first snapshot and the first doors. A worker that is stuck this early is found when it reports nothing.
    pub(crate) async fn publish_first(&mut self, current: &Current, bound: Vec<(SocketAddr, Bound)>) {
        self.tell_all(|| Command::Snapshot(Arc::clone(&current.snapshot))).await.ok();
        for (configured, listeners) in bound {
            self.open(&current.plan, configured, listeners).await.ok();
        }
    }

    /// Gives each worker its own listener of one door.
    async fn open(&mut self, plan: &Plan, configured: SocketAddr, bound: Bound) -> Result<(), Stuck> {
        let Some(door) = plan.doors.iter().find(|door| door.bind == configured) else { return Ok(()) };
        let plan = Arc::new(publish::door(door, bound.address));
        for (worker, listener) in bound.listeners.into_iter().enumerate() {
            let door = Door { plan: Arc::clone(&plan), socket: Some(listener) };
            self.tell(worker, Command::OpenDoor(door)).await?;
        }
        Ok(())
    }

    fn replace_prometheus(&mut self, listener: Option<std::net::TcpListener>) {
        if let Some((_, old)) = self.prometheus.take() {
            old.abort();
        }
        self.prometheus = listener.and_then(|listener| serve_prometheus(listener, &self.status));
    }

    /// Watches the files of the first configuration, and makes up for what changed since it was loaded.
    pub(crate) fn watch_first(&mut self, loaded_at: SystemTime) {
        self.watch();
        let plan = self.status.current().plan;
        // A folder changes when files appear or vanish in it.
        let folders = plan.file_patterns.iter().map(|pattern| pattern.folder().to_path_buf());
        let watched: Vec<PathBuf> = plan.files.iter().cloned().chain(folders).collect();
        if watch::changed_since(&watched, loaded_at) {
            self.reload("a change during the start");
        }
    }

    fn watch(&mut self) {
        let plan = self.status.current().plan;
        if let Some(watcher) = &mut self.watcher {
            watcher.set(&plan.files, &plan.file_patterns);
        }
    }

    /// When to compare the wall clock with the next expiry.
    fn expiry_check(&self) -> Instant {
        let mut wait = Duration::from_millis(EXPIRY_CHECK_MS);
        if let Some(due) = self.expiry_due {
            let seconds = due.0.saturating_sub(clock::now().0);
            wait = wait.min(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        }
        Instant::now() + wait
    }

    /// A rule that expires counts as a change: the same snapshot again makes the workers decide every flow anew.
    async fn check_expiry(&mut self) -> Result<Option<Ending>, Stuck> {
        self.status.spares.refill();
        let now = clock::now();
        if self.expiry_due.is_some_and(|due| due <= now) {
            let snapshot = self.status.current().snapshot;
            tracing::info!(generation = snapshot.generation, "a rule has expired: flows are decided again");
            self.expiry_due = snapshot.policy.next_expiry(now);
            self.tell_all(|| Command::Snapshot(Arc::clone(&snapshot))).await?;
        }
        Ok(None)
    }

    async fn tell_all(&mut self, command: impl Fn() -> Command) -> Result<(), Stuck> {
        for worker in 0..self.workers.len() {
            self.tell(worker, command()).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, worker: usize, command: Command) -> Result<(), Stuck> {
        let grace = Duration::from_millis(WORKER_GRACE_MS);
        match tokio::time::timeout(grace, self.workers[worker].commands.send(command)).await {
            // A worker that is gone reports its end through its notices.
            Ok(_) => Ok(()),
            Err(_) => Err(Stuck(worker)),
        }
    }
}

/// What helps against a failing accept(2).
fn accept_remedy(errno: i32) -> &'static str {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    match errno {
        EMFILE => "raise the limit of open files (LimitNOFILE= or --ulimit nofile=) and restart",
        ENFILE => "raise the sysctl fs.file-max",
        ENOMEM | ENOBUFS => "give the system more memory",
        _ => "none is needed if it does not come again",
    }
}

/// Waits for a change of a watched file; for ever without a watcher.
async fn file_change(watcher: &mut Option<Watcher>) -> std::io::Result<()> {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits for the configuration that is being prepared; for ever if none is.
async fn finished(preparing: &mut Option<Preparing>) -> Result<Prepared, ReloadError> {
    match preparing {
        Some(task) => task.await.unwrap_or(Err(ReloadError::Lost(JobLost))),
        None => std::future::pending().await,
    }
}

/// Serves metrics and probes to the outside; for the control runtime.
pub(crate) fn serve_prometheus(
    listener: std::net::TcpListener,
    status: &Arc<Status>,
) -> Option<(SocketAddr, JoinHandle<()>)> {
    let address = listener.local_addr().ok()?;
    let serving = admin::serve(listener, Scope::Public, Arc::clone(status));
    let task = tokio::spawn(async move {
        let Err(error) = serving.await;
        tracing::error!(%error, "telemetry.prometheus cannot be served");
    });
    Some((address, task))
}
