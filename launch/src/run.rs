//! The command `run`: everything put together, in the order in which it can fail.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use sluice_bridge::limits::Bounds;
use sluice_config::{AccessLog, EngineChoice, Loaded, Plan, Source};
use sluice_controlplane::descriptors::Budget;
use sluice_controlplane::{
    Ending, Listeners, LogWriter, MakeLogWriter, Setup, StartError, StreamWriter, dns, publish,
};
use sluice_dataplane::OwnDials;
use sluice_telemetry::Registry;

use crate::exit::Exit;
use crate::log::Log;
use crate::product::{Chosen, Product};
use crate::worker::{self, Worker};
use crate::{check, cores, descriptors, report};

/// Runs until a signal ends it.
pub(crate) fn run(product: &'static Product, source: &Source, log: &Log) -> Exit {
    let exit = start_and_wait(product, source).unwrap_or_else(|failure| {
        tracing::error!("{}", failure.what);
        failure.exit
    });
    log.flush();
    exit
}

/// Why it does not start.
struct Failure {
    exit: Exit,
    what: String,
}

fn failure(exit: Exit, what: impl ToString) -> Failure {
    Failure { exit, what: what.to_string() }
}

fn start_and_wait(product: &'static Product, source: &Source) -> Result<Exit, Failure> {
    outlive_early_signals();
    let starting = end_on_early_signals();
    let loaded_at = SystemTime::now();
    let loaded = sluice_config::load(source).and_then(Loaded::startable).map_err(|refused| {
        check::print_report(&refused);
        failure(Exit::Usage, "the configuration is refused")
    })?;
    check::print_warnings(&loaded.warnings);
    let plan = loaded.plan;
    let descriptors = descriptors::raise();
    let chosen = choose_engine(product, plan.dataplane.engine)?;
    let allowed = cores::allowed().map_err(|error| failure(Exit::Internal, error))?;
    let configured = plan.dataplane.cores.as_deref();
    let (cores, cores_why) = cores::for_workers(product.workers, configured, &allowed, cores::quota())
        .map_err(|refused| failure(Exit::Usage, refused))?;
    let budget = divide(&plan, descriptors, cores.len())?;
    let listeners =
        Listeners::bind(&plan, cores.len()).map_err(|refused| failure(Exit::Unavailable, refused))?;
    let addresses = report::Addresses::of(&plan, &listeners);

    let busy_poll = plan.dataplane.busy_poll;
    let connections_max = budget.connections_per_worker;
    let pipes_max = budget.pipes_per_worker;
    let registry = Registry::new(publish::telemetry_settings(&plan));
    let (worker_ports, ports): (Vec<_>, Vec<_>) =
        (0..cores.len()).map(|index| sluice_bridge::pair(index, &Bounds::default())).unzip();
    let setup = Setup {
        plan,
        source: source.clone(),
        loaded_at,
        listeners,
        ports,
        registry: registry.clone(),
        make_writer: log_writer(product),
        budget,
        engine: (chosen.kind.as_str(), chosen.reason.to_owned()),
        resolv_conf: PathBuf::from(dns::RESOLV_CONF),
        slow_cores: cores::without_workers(&cores, &allowed),
        signals: true,
    };
    let running = sluice_controlplane::start(setup).map_err(|error| match error {
        StartError::AccessLog(_) => failure(Exit::Usage, error),
        other => failure(Exit::Internal, other),
    })?;
    starting.store(false, SeqCst);
    report::print(&report::Facts {
        product: product.name,
        first: running.first(),
        chosen: &chosen,
        cores: &cores,
        cores_why: &cores_why,
        addresses: &addresses,
        descriptors,
    });
    let own_dials = Arc::<OwnDials>::default();
    for (port, core) in worker_ports.into_iter().zip(cores) {
        let (metrics, own_dials) = (registry.worker(), Arc::clone(&own_dials));
        let worker = Worker { port, metrics, core, connections_max, own_dials, pipes_max, busy_poll };
        // Not joined: the control plane sees their end, and whatever still hangs ends with the process.
        worker::start(product, worker, chosen.kind).map_err(|error| failure(Exit::Internal, error))?;
    }
    match running.wait() {
        Ok(Ending::Drained { .. } | Ending::AtOnce) => Ok(Exit::Ok),
        Ok(Ending::WorkerFailed { worker }) => {
            Err(failure(Exit::Internal, format!("worker {worker} has ended")))
        }
        Err(error) => Err(failure(Exit::Internal, error)),
    }
}

/// How many of the open files are whose. A small limit is told: it makes connections few.
fn divide(plan: &Plan, descriptors: u64, workers: usize) -> Result<Budget, Failure> {
    let budget = Budget::divide(&plan.limits, descriptors, workers, plan.doors.len())
        .map_err(|refused| failure(Exit::Unavailable, refused))?;
    if budget.reduced {
        tracing::warn!(
            open_files = descriptors,
            connections_max = budget.connections_max,
            remedy = "raise LimitNOFILE= (systemd) or --ulimit nofile= (containers) to 1048576",
            "the limit of open files is small: fewer connections than limits.connections_percent_max says"
        );
    }
    Ok(budget)
}

/// Until the control plane listens, an order to reload or to open logs anew would kill the process, and a large registry
/// takes seconds to load. Nothing is lost with it: files that change meanwhile are read again, logs are not open yet.
fn outlive_early_signals() {
    for signal in [SIGHUP, SIGUSR1] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::default()) {
            tracing::warn!(signal, %error, "a signal during the start would end the process");
        }
    }
}

/// Process 1 of a container ignores a signal that it does not handle: without this an order to end would be lost while a large
/// registry loads, and the supervisor would wait for its deadline and kill. Nothing has been served yet, so there is nothing to
/// drain. While the returned flag is true they end the process with [`Exit::Ok`]; once it is false they are the control plane's.
fn end_on_early_signals() -> Arc<AtomicBool> {
    let starting = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        let ends =
            signal_hook::flag::register_conditional_shutdown(signal, Exit::Ok as i32, starting.clone());
        if let Err(error) = ends {
            tracing::warn!(signal, %error, "this signal may be lost during the start");
        }
    }
    starting
}

fn choose_engine(product: &Product, choice: EngineChoice) -> Result<Chosen, Failure> {
    let chosen = (product.choose)(choice).map_err(|refused| failure(Exit::Unavailable, refused))?;
    if let Some(why) = &chosen.fallback {
        let engine = chosen.kind.as_str();
        tracing::warn!(
            engine,
            reason = why.reason,
            remedy = why.remedy,
            "io_uring is not available: falling back"
        );
    }
    Ok(chosen)
}

/// Lines to the configured file through its own writer, else to standard output.
fn log_writer(product: &'static Product) -> MakeLogWriter {
    Arc::new(move |access_log: &AccessLog| -> io::Result<Box<dyn LogWriter>> {
        Ok(match &access_log.path {
            Some(path) => (product.open_log)(path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
            None => Box::new(StreamWriter::stdout()?),
        })
    })
}
