//! The `sluice` binary: the gateway as a [`Product`], with io_uring beside epoll. What it does is in `sluice_launch`.

mod doctor;
mod engine;

use std::process::ExitCode;

use sluice_launch::{Product, WorkersDefault};
use sluice_logfile::open;

static GATEWAY: Product = Product {
    name: "sluice",
    about: "A dedicated egress gateway: decides per destination and per source workload, forwards or black-holes, and \
            tells the whole story",
    workers: WorkersDefault::PerCore,
    choose: |choice| engine::choose(choice, engine::probe),
    examine: doctor::examine,
    run: engine::run,
    open_log: |path| Ok(Box::new(open(path)?)),
};

fn main() -> ExitCode {
    sluice_launch::main(&GATEWAY)
}
