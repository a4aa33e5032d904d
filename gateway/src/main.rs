//! The `sluice` binary: reads the command line and runs one command. The composition of the parts is in `run`.

mod check;
mod cli;
mod cores;
mod descriptors;
mod doctor;
mod engine;
mod exit;
mod log;
mod report;
mod run;

use std::process::ExitCode;

use crate::cli::Command;
use crate::exit::Exit;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
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
                run::run(&layers.source(), &log)
            }
            Err(error) => {
                eprintln!("cannot start the log: {error}");
                Exit::Internal
            }
        },
        Command::Check(layers) => check::check(&layers.source()),
        Command::Explain(question) => check::explain(question),
        Command::Doctor(layers) => doctor::run(&layers.source()),
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
