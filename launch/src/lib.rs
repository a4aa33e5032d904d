//! What every binary of the product does, from the command line to the exit code: the commands, the order of a start, the
//! log, the report. It must not know io_uring or which binary it is part of: what differs is a [`Product`].

mod check;
mod cli;
mod cores;
mod descriptors;
mod doctor;
mod exit;
mod import;
mod log;
mod product;
mod report;
mod run;
mod worker;

use std::process::ExitCode;

use crate::cli::Command;
use crate::exit::Exit;

pub use doctor::Finding;
pub use product::{Chosen, Product, Unavailable, WorkersDefault};
pub use worker::{Worker, run_on, run_on_epoll};

/// The whole life of a process: reads its command line, runs one command and says how it ended.
pub fn main(product: &'static Product) -> ExitCode {
    let command = match cli::parse(product, std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help and version are answers, not errors.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            error.print().ok();
            return exit.into();
        }
    };
    let exit = match command {
        Command::Run(layers) => match log::start() {
            Ok(log) => {
                log_panics();
                run::run(product, &layers.source(), &log)
            }
            Err(error) => {
                eprintln!("cannot start the log: {error}");
                Exit::Internal
            }
        },
        Command::Check(layers) => check::check(&layers.source()),
        Command::Explain(question) => check::explain(question),
        Command::Doctor(layers) => doctor::run(product, &layers.source()),
        Command::Import(import) => import::run(import),
    };
    exit.into()
}

/// A panic is a bug: where it happened belongs into the log, whichever thread it ends.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = thread.name(), place, %backtrace, "panic: {what}");
    }));
}
