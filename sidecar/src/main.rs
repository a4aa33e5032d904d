//! The `sluice-sidecar` binary: the same policy, sessions and control plane as the gateway, beside one workload. It links no
//! io_uring, so that it runs under every container runtime's own seccomp profile. What it does is in `sluice_launch`.

use std::process::ExitCode;

use sluice_config::EngineChoice;
use sluice_controlplane::FileWriter;
use sluice_engine::Kind;
use sluice_launch::{Chosen, Finding, Product, Unavailable, WorkersDefault, run_on_epoll};

static SIDECAR: Product = Product {
    name: "sluice-sidecar",
    about: "The egress gateway beside one workload: the same decisions, on epoll only",
    workers: WorkersDefault::One,
    choose,
    examine,
    run: |worker, _| run_on_epoll(worker),
    open_log: |path| Ok(Box::new(FileWriter::open(path)?)),
};

fn main() -> ExitCode {
    sluice_launch::main(&SIDECAR)
}

fn choose(choice: EngineChoice) -> Result<Chosen, Unavailable> {
    let reason = match choice {
        EngineChoice::Auto => "only_engine",
        EngineChoice::Epoll => "configured",
        EngineChoice::Uring => return Err(no_uring()),
    };
    Ok(Chosen { kind: Kind::Epoll, reason, fallback: None })
}

fn no_uring() -> Unavailable {
    Unavailable {
        reason: "\"uring\" is demanded, and the sidecar is built without io_uring".to_owned(),
        remedy: "leave the key out, or run the gateway (sluice)".to_owned(),
    }
}

fn examine(choice: EngineChoice) -> Vec<Finding> {
    const ABOUT: &str = "engine";
    vec![match choose(choice) {
        Ok(_) => Finding::ok(ABOUT, "epoll, which needs nothing that could be missing"),
        Err(why) => Finding::fail(ABOUT, why.reason, why.remedy),
    }]
}
