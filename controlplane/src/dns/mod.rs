//! The DNS service: questions of the workers in, answers to the workers out. One lookup per name at a time, one
//! bounded cache. It must not know what the names are wanted for.

mod cache;
mod lookup;

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluice_bridge::{Command, DnsAnswer, DnsFailure, DnsQuestion, DnsSettings};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use cache::{Cache, Held};
use lookup::{Found, Servers};

pub use lookup::nameservers;

use crate::limits::{LOOKUPS_WAITING_MAX, RESOLV_CONF_BYTES_MAX, RESOLV_CONF_CHECK_MS};

/// Where the system names its DNS servers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the service is told.
#[derive(Debug)]
pub enum Input {
    /// A worker asks.
    Question(DnsQuestion),
    /// New settings; what is cached stays.
    Settings(DnsSettings),
}

/// What the service counts, for metrics.
pub trait Observer: Send + 'static {
    /// A lookup at the servers ended after so many milliseconds.
    fn lookup(&self, outcome: Result<(), DnsFailure>, stale: bool, took_ms: u64);
    /// Names held now.
    fn entries(&self, count: usize);
    /// Names that are being asked for or wait for it.
    fn waiting(&self, count: usize);
}

type Looked = (Arc<str>, Instant, Result<Found, DnsFailure>);

/// The service's state; [`Service::run`] is its life.
pub struct Service<O> {
    settings: DnsSettings,
    resolv_conf: PathBuf,
    servers: Option<Servers>,
    addresses: Vec<SocketAddr>,
    checked_at: Instant,
    cache: Cache,
    /// Who waits for each name that is being asked for, or is about to be.
    askers: HashMap<Arc<str>, Vec<usize>>,
    waiting: VecDeque<Arc<str>>,
    lookups: JoinSet<Looked>,
    lookups_max: usize,
    workers: Vec<mpsc::Sender<Command>>,
    observer: O,
    epoch: Instant,
}

impl<O: Observer> Service<O> {
    /// A service that answers to `workers`, by index; it must be made inside the control runtime. `resolv_conf` is
    /// read where the settings name no servers. At most `lookups_max` names are asked for at the same time.
    pub fn new(
        settings: DnsSettings,
        resolv_conf: &Path,
        workers: Vec<mpsc::Sender<Command>>,
        lookups_max: usize,
        observer: O,
    ) -> Self {
        let now = Instant::now();
        let mut service = Self {
            cache: Cache::new(settings.cache_entries_max),
            settings,
            resolv_conf: resolv_conf.to_owned(),
            servers: None,
            addresses: Vec::new(),
            checked_at: now,
            askers: HashMap::new(),
            waiting: VecDeque::new(),
            lookups: JoinSet::new(),
            lookups_max,
            workers,
            observer,
            epoch: now,
        };
        service.choose_servers();
        service
    }

    /// Serves until the last sender of `inputs` is gone.
    pub async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(Input::Question(question)) => self.ask(question),
                    Some(Input::Settings(settings)) => self.set(settings),
                    None => return,
                },
                Some(looked) = self.lookups.join_next() => match looked {
                    Ok(looked) => self.settle(looked),
                    Err(error) => tracing::error!(%error, "a DNS lookup broke off"),
                },
            }
            self.observer.waiting(self.lookups.len() + self.waiting.len());
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn ask(&mut self, question: DnsQuestion) {
        let now_ms = self.now_ms();
        if let Some(held) = self.cache.fresh(&question.name, now_ms) {
            self.answer(question.worker, &question.name, &held, now_ms);
            return;
        }
        let stale = self.cache.stale_while_failing(&question.name, now_ms);
        if let Some(held) = &stale {
            self.answer(question.worker, &question.name, held, now_ms);
        }
        let asker = stale.is_none().then_some(question.worker);
        if let Some(askers) = self.askers.get_mut(&question.name) {
            askers.extend(asker.filter(|asker| !askers.contains(asker)));
        } else if self.lookups.len() < self.lookups_max {
            self.askers.insert(Arc::clone(&question.name), asker.into_iter().collect());
            self.look_up(question.name);
        } else if self.waiting.len() < LOOKUPS_WAITING_MAX {
            self.askers.insert(Arc::clone(&question.name), asker.into_iter().collect());
            self.waiting.push_back(question.name);
        } else if let Some(asker) = asker {
            let outcome = Err(DnsFailure::ServerFailure);
            let held = Held { outcome, fresh_until_ms: now_ms, stale_until_ms: now_ms };
            self.answer(asker, &question.name, &held, now_ms);
        }
    }

    fn look_up(&mut self, name: Arc<str>) {
        let check = Duration::from_millis(RESOLV_CONF_CHECK_MS);
        if self.settings.servers.is_empty() && self.checked_at.elapsed() >= check {
            self.choose_servers();
        }
        let started = Instant::now();
        let servers = self.servers.clone();
        self.lookups.spawn(async move {
            let result = match servers {
                Some(servers) => servers.resolve(&name).await,
                None => Err(DnsFailure::ServerFailure),
            };
            (name, started, result)
        });
    }

    fn settle(&mut self, (name, started, result): Looked) {
        let now_ms = self.now_ms();
        let outcome = result.as_ref().map(|_| ()).map_err(|failure| *failure);
        let held = self.cache.settle(Arc::clone(&name), result, &self.settings, now_ms);
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.observer.lookup(outcome, outcome.is_err() && held.outcome.is_ok(), took_ms);
        self.observer.entries(self.cache.len());
        for worker in self.askers.remove(&name).unwrap_or_default() {
            self.answer(worker, &name, &held, now_ms);
        }
        if let Some(next) = self.waiting.pop_front() {
            self.look_up(next);
        }
    }

    /// Puts the answer into the worker's queue. Answers are never dropped: where the queue is full a task waits for
    /// room, so that one stalled worker does not hold up the others.
    fn answer(&self, worker: usize, name: &Arc<str>, held: &Held, now_ms: u64) {
        let Some(queue) = self.workers.get(worker) else { return };
        let answer = Command::Answer(DnsAnswer {
            name: Arc::clone(name),
            outcome: held.outcome.as_ref().map(|addresses| (**addresses).clone()).map_err(|failure| *failure),
            fresh_ms: held.fresh_until_ms.saturating_sub(now_ms),
            stale_ms: held.stale_until_ms.saturating_sub(held.fresh_until_ms.max(now_ms)),
        });
        if let Err(mpsc::error::TrySendError::Full(answer)) = queue.try_send(answer) {
            let queue = queue.clone();
            tokio::spawn(async move { queue.send(answer).await.ok() });
        }
    }

    fn set(&mut self, settings: DnsSettings) {
        self.cache.set_bound(settings.cache_entries_max);
        let same =
            settings.servers == self.settings.servers && settings.timeout_ms == self.settings.timeout_ms;
        self.settings = settings;
        if !same {
            self.addresses.clear();
            self.choose_servers();
        }
    }

    fn choose_servers(&mut self) {
        self.checked_at = Instant::now();
        let addresses = if self.settings.servers.is_empty() {
            system_servers(&self.resolv_conf)
        } else {
            self.settings.servers.clone()
        };
        if addresses == self.addresses {
            return;
        }
        match Servers::new(&addresses, Duration::from_millis(self.settings.timeout_ms)) {
            Ok(servers) => {
                tracing::info!(servers = ?addresses, "DNS servers");
                self.servers = Some(servers);
                self.addresses = addresses;
            }
            Err(error) => tracing::error!(%error, servers = ?addresses, "DNS servers cannot be used"),
        }
    }
}

/// The servers that the system names; this host where it names none, as the system's own resolver does.
pub fn system_servers(resolv_conf: &Path) -> Vec<SocketAddr> {
    let mut text = String::new();
    let read = std::fs::File::open(resolv_conf)
        .and_then(|file| file.take(RESOLV_CONF_BYTES_MAX).read_to_string(&mut text));
    if let Err(error) = read {
        tracing::warn!(file = %resolv_conf.display(), %error, "cannot read the system's DNS servers");
    }
    let servers = nameservers(&text);
    if servers.is_empty() { vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53)] } else { servers }
}

#[cfg(test)]
mod tests;
