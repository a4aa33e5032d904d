//! Executes its arguments in a process that may not create an io_uring, as container runtimes' default seccomp profiles
//! have it. Knows nothing of what it starts.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// The number of io_uring_setup(2), the same on every architecture that has it.
const IO_URING_SETUP: i64 = 425;
/// EPERM, what Docker's and containerd's profiles answer.
const EPERM: u32 = 1;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: without_io_uring PROGRAM [ARGUMENT]...")?;
    let filter = SeccompFilter::new(
        BTreeMap::from([(IO_URING_SETUP, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(EPERM),
        std::env::consts::ARCH.try_into()?,
    )?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    // Returns only if it fails.
    Err(Command::new(program).args(arguments).exec().into())
}
