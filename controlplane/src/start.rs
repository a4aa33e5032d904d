//! Starts and ends the control plane: binds what listens, makes the threads, hands the first snapshot out.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime};

use sluice_bridge::{Command, ControlPort, DnsQuestion, Notice, RecordQueue, Snapshot};
use sluice_config::{Plan, Source};
use sluice_telemetry::Registry;
use tokio::sync::mpsc;

use crate::admin::{self, Scope};
use crate::control::{Control, Ending, Heard, Worker, serve_prometheus};
use crate::counts::{Counts, DnsCounts, renderer};
use crate::descriptors::Budget;
use crate::doors::{self, BindError, Bound};
use crate::heavy::Heavy;
use crate::limits::{DNS_INPUTS_MAX, NOTICES_MAX, ORDERS_MAX, RECORDS_FINISH_AT_ONCE_MS, RECORDS_FINISH_MS};
use crate::publish::{self, PublishError, Surroundings};
use crate::records::Records;
use crate::reload::MakeLogWriter;
use crate::signals::{self, Order};
use crate::status::{Current, Status};
use crate::watch::Watcher;
use crate::{clock, dns, local};

/// Everything that listens, bound before anything runs, so that a failure stops the start cleanly.
#[derive(Debug)]
pub struct Listeners {
    /// By configured address.
    pub doors: Vec<(SocketAddr, Bound)>,
    /// The admin API.
    pub admin: TcpListener,
    /// Metrics and probes for the outside.
    pub prometheus: Option<TcpListener>,
}

impl Listeners {
    /// Binds all that a plan names.
    ///
    /// # Errors
    /// The first [`BindError`]; what was bound before it is released.
    pub fn bind(plan: &Plan, workers: usize) -> Result<Self, BindError> {
        let all: Vec<SocketAddr> = plan.doors.iter().map(|door| door.bind).collect();
        let mut bound = Vec::with_capacity(all.len());
        for door in &plan.doors {
            let what = format!("door {}", door.name);
            let listeners = doors::bind(&what, door.bind, workers, doors::options(door, &all))?;
            bound.push((door.bind, listeners));
        }
        let admin = doors::bind_exclusive("admin", plan.admin.bind)?;
        let prometheus = match &plan.prometheus {
            Some(prometheus) => Some(doors::bind_exclusive("telemetry.prometheus", prometheus.bind)?),
            None => None,
        };
        Ok(Self { doors: bound, admin, prometheus })
    }

    /// Where a configured door really listens.
    pub fn door(&self, configured: SocketAddr) -> Option<SocketAddr> {
        self.doors.iter().find(|(bind, _)| *bind == configured).map(|(_, bound)| bound.address)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        let doors = self.doors.iter().map(|(_, bound)| bound.address);
        let others = [Some(&self.admin), self.prometheus.as_ref()].into_iter().flatten();
        doors.chain(others.filter_map(|listener| listener.local_addr().ok())).collect()
    }
}

/// What the control plane starts with.
pub struct Setup {
    /// The checked configuration.
    pub plan: Plan,
    /// How it was loaded, to load it again.
    pub source: Source,
    /// When it was loaded: files that have changed since are read again.
    pub loaded_at: SystemTime,
    /// Bound for as many workers as there are ports.
    pub listeners: Listeners,
    /// Control's ends of the workers.
    pub ports: Vec<ControlPort>,
    /// Where everything is counted.
    pub registry: Registry,
    /// How access-log lines are written.
    pub make_writer: MakeLogWriter,
    /// How the limit of open files is divided.
    pub budget: Budget,
    /// Which engine runs and why, for metrics.
    pub engine: (&'static str, String),
    /// Where the system names its DNS servers.
    pub resolv_conf: PathBuf,
    /// Cores for what takes long, away from the workers'; none: wherever the system puts it.
    pub slow_cores: Vec<usize>,
    /// Whether the process's signals are orders; tests give orders by [`Running::order`] instead.
    pub signals: bool,
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The plan cannot be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The access log cannot be opened.
    #[error("access_log.path: {0}")]
    AccessLog(io::Error),
    /// The system refuses a thread or a runtime.
    #[error("cannot start the control plane: {0}")]
    System(io::Error),
}

/// A running control plane.
pub struct Running {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<Ending>,
    first: Current,
}

impl Running {
    /// Gives an order as a signal would. Nothing happens once the end has come.
    pub fn order(&self, order: Order) {
        self.orders.blocking_send(order).ok();
    }

    /// What is in force at start, for the report.
    pub fn first(&self) -> &Current {
        &self.first
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When the control thread has panicked.
    pub fn wait(self) -> Result<Ending, ControlPanicked> {
        drop(self.first);
        self.thread.join().map_err(|_| ControlPanicked)
    }
}

/// The control thread panicked: a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control thread panicked")]
pub struct ControlPanicked;

/// The queues of all workers, one kind beside the other.
struct Ends {
    commands: Vec<mpsc::Sender<Command>>,
    questions: Vec<mpsc::Receiver<DnsQuestion>>,
    notices: Vec<mpsc::Receiver<Notice>>,
    retired: Vec<mpsc::Receiver<Arc<Snapshot>>>,
    records: Vec<RecordQueue>,
}

impl Ends {
    fn of(ports: Vec<ControlPort>) -> Self {
        let mut ends = Self {
            commands: Vec::new(),
            questions: Vec::new(),
            notices: Vec::new(),
            retired: Vec::new(),
            records: Vec::new(),
        };
        for port in ports {
            ends.commands.push(port.commands);
            ends.questions.push(port.questions);
            ends.notices.push(port.notices);
            ends.retired.push(port.retired);
            ends.records.push(port.records);
        }
        ends
    }
}

/// Compiles the plan, makes the threads and gives the workers the first snapshot and their doors.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub fn start(setup: Setup) -> Result<Running, StartError> {
    let Setup {
        plan,
        source,
        loaded_at,
        listeners,
        ports,
        registry,
        make_writer,
        budget,
        engine,
        resolv_conf,
        slow_cores,
        signals,
    } = setup;
    let surroundings =
        Surroundings { listeners: listeners.addresses(), local_addresses: local::addresses(), budget };
    let snapshot = Arc::new(publish::snapshot(&plan, 1, &surroundings)?);
    let writer = make_writer(&plan.access_log).map_err(StartError::AccessLog)?;
    let mut ends = Ends::of(ports);
    let records = Records::start(std::mem::take(&mut ends.records), plan.access_log.format, writer)
        .map_err(StartError::System)?;
    let (heavy, _) = Heavy::start(&slow_cores).map_err(StartError::System)?;
    let counts = Counts::new(&registry, ends.commands.len(), engine.0, &engine.1);
    counts.published(&snapshot);
    for problem in publish::missing_sources(&plan) {
        tracing::warn!("{problem}");
    }
    let first = Current { plan: Arc::new(plan), snapshot };
    let metrics = renderer(registry.clone(), records.stats(), heavy.clone(), ends.commands.clone());
    let status = Arc::new(Status::new(first.clone(), ends.commands.clone(), heavy, metrics, budget.spares));
    let (orders, order_queue) = mpsc::channel(ORDERS_MAX);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::System)?;
    if signals {
        let _inside = runtime.enter();
        signals::listen(orders.clone()).map_err(StartError::System)?;
    }
    let parts =
        Parts { status, source, loaded_at, budget, records, make_writer, counts, registry, resolv_conf };
    let thread = Builder::new()
        .name("control".into())
        .spawn(move || {
            let (ending, records) = runtime.block_on(run(parts, ends, listeners, order_queue));
            // Queues of the workers close here: workers that still run stop, and their last records arrive.
            drop(runtime);
            let finish_ms = match ending {
                Ending::AtOnce => RECORDS_FINISH_AT_ONCE_MS,
                _ => RECORDS_FINISH_MS,
            };
            records.finish(Duration::from_millis(finish_ms));
            ending
        })
        .map_err(StartError::System)?;
    Ok(Running { orders, thread, first })
}

/// What the control thread takes over.
struct Parts {
    status: Arc<Status>,
    source: Source,
    loaded_at: SystemTime,
    budget: Budget,
    records: Records,
    make_writer: MakeLogWriter,
    counts: Counts,
    registry: Registry,
    resolv_conf: PathBuf,
}

async fn run(
    parts: Parts,
    ends: Ends,
    listeners: Listeners,
    orders: mpsc::Receiver<Order>,
) -> (Ending, Records) {
    let current = parts.status.current();
    let (notices, notice_queue) = mpsc::channel(NOTICES_MAX);
    let (dns, dns_inputs) = mpsc::channel(DNS_INPUTS_MAX);
    let dns_counts = DnsCounts::new(&parts.registry);
    let settings = current.snapshot.dns.clone();
    let lookups_max = parts.budget.lookups_max;
    let service =
        dns::Service::new(settings, &parts.resolv_conf, ends.commands.clone(), lookups_max, dns_counts);
    tokio::spawn(service.run(dns_inputs));
    let workers = ends
        .commands
        .iter()
        .map(|commands| Worker { commands: commands.clone(), adopted: 0, drained: false, ended: false })
        .collect();
    pump(ends.questions, ends.notices, ends.retired, &dns, &notices, &parts.status);
    let Listeners { doors: bound, admin, prometheus } = listeners;
    let admin_address = admin.local_addr().unwrap_or(current.plan.admin.bind);
    let admin_status = Arc::clone(&parts.status);
    tokio::spawn(async move {
        let Err(error) = admin::serve(admin, Scope::Admin, admin_status).await;
        tracing::error!(%error, "the admin API cannot be served");
    });
    let watcher =
        Watcher::new().map_err(|error| tracing::warn!(%error, "file changes will not be noticed")).ok();
    let doors: HashMap<_, _> = bound.iter().map(|(configured, bound)| (*configured, bound.address)).collect();
    let mut control = Control {
        prometheus: prometheus.and_then(|listener| serve_prometheus(listener, &parts.status)),
        status: parts.status,
        source: parts.source,
        doors,
        admin: admin_address,
        budget: parts.budget,
        workers,
        dns,
        records: parts.records,
        make_writer: parts.make_writer,
        counts: parts.counts,
        watcher,
        preparing: None,
        again: false,
        expiry_due: current.snapshot.policy.next_expiry(clock::now()),
        drain_until: None,
        cut: 0,
    };
    control.watch_first(parts.loaded_at);
    control.publish_first(&current, bound).await;
    drop(current);
    control.run(orders, notice_queue).await
}

/// One small task per worker and queue: questions to the DNS service, notices to the control task, old snapshots to
/// where freeing them delays nobody.
fn pump(
    questions: Vec<mpsc::Receiver<DnsQuestion>>,
    notices: Vec<mpsc::Receiver<Notice>>,
    retired: Vec<mpsc::Receiver<Arc<Snapshot>>>,
    dns: &mpsc::Sender<dns::Input>,
    heard: &mpsc::Sender<Heard>,
    status: &Arc<Status>,
) {
    for mut questions in questions {
        let dns = dns.clone();
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                if dns.send(dns::Input::Question(question)).await.is_err() {
                    return;
                }
            }
        });
    }
    for (worker, mut notices) in notices.into_iter().enumerate() {
        let heard = heard.clone();
        tokio::spawn(async move {
            while let Some(notice) = notices.recv().await {
                heard.send((worker, Some(notice))).await.ok();
            }
            heard.send((worker, None)).await.ok();
        });
    }
    for mut retired in retired {
        let heavy = status.heavy.clone();
        tokio::spawn(async move {
            while let Some(old) = retired.recv().await {
                heavy.free(old).await;
            }
        });
    }
}
