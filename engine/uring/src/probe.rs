//! Whether this engine can run here, and if not: why, and what to do about it. Used before the engine is chosen and by
//! the `doctor` command. It tries the real thing: a ring as the engine would set it up, then a connection through it.

use std::fs;
use std::io;

use io_uring::register::Probe as OpProbe;

use crate::limits::{COMPLETION_ENTRIES, SUBMISSION_ENTRIES};
use crate::ops::OPCODES;
use crate::{Config, kernel};

/// What was found out about a system on which the engine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The kernel's release, as uname(2) gives it.
    pub kernel: String,
}

/// Why the engine cannot run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("io_uring is not available: {reason}; {remedy}")]
pub struct Unavailable {
    /// What was refused or found missing.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Unavailable {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

const KERNEL_REMEDY: &str = "use Linux 6.1 or newer, or set engine = \"epoll\"";

/// Finds out whether the engine can run here. Takes a few milliseconds and leaves nothing behind.
///
/// # Errors
/// The reason why not, and the remedy.
pub fn probe() -> Result<Probe, Unavailable> {
    let kernel = kernel::release();
    if let Some(defect) = kernel::known_defect(&kernel) {
        return Err(Unavailable::new(
            format!("kernel {kernel} {defect}"),
            "update the kernel, or set engine = \"epoll\"",
        ));
    }
    check_operations()?;
    crate::selftest::run(Config { ring_buffers: 4, pool_buffers_max: 4, ..Config::default() })
        .map_err(|failure| Unavailable::new(format!("the self-test failed: {failure}"), KERNEL_REMEDY))?;
    Ok(Probe { kernel })
}

/// Sets up a ring and asks which operations the kernel knows.
fn check_operations() -> Result<(), Unavailable> {
    let ring = crate::ring::build(SUBMISSION_ENTRIES, COMPLETION_ENTRIES).map_err(|error| explain(&error))?;
    let mut known = OpProbe::new();
    ring.submitter().register_probe(&mut known).map_err(|error| explain(&error))?;
    let missing: Vec<&str> =
        OPCODES.iter().filter(|(code, _)| !known.is_supported(*code)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Unavailable::new(format!("the kernel lacks {}", missing.join(", ")), KERNEL_REMEDY))
}

/// Turns the error of a set-up into what an operator can act on.
pub(crate) fn explain(error: &io::Error) -> Unavailable {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    explain_with(error, disabled.trim())
}

fn explain_with(error: &io::Error, disabled: &str) -> Unavailable {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), "2") => Unavailable::new(
            "the sysctl kernel.io_uring_disabled is 2: switched off for everybody",
            "set kernel.io_uring_disabled to 0, or to 1 with kernel.io_uring_group, or set engine = \"epoll\"",
        ),
        (Some(libc::EPERM), "1") => Unavailable::new(
            "the sysctl kernel.io_uring_disabled is 1: switched off for processes without privilege",
            "set it to 0, or put this process into the group kernel.io_uring_group, or set engine = \"epoll\"",
        ),
        (Some(libc::EPERM | libc::EACCES), _) => Unavailable::new(
            "io_uring_setup(2) was refused, most likely by a seccomp profile (container runtimes do so by default)",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile, or set engine = \"epoll\"",
        ),
        (Some(libc::ENOSYS), _) => Unavailable::new(
            "the kernel has no io_uring, or a seccomp profile hides it",
            "use Linux 6.1 or newer with CONFIG_IO_URING and allow io_uring_setup, io_uring_enter and io_uring_register, \
             or set engine = \"epoll\"",
        ),
        (Some(libc::ENOMEM), _) => Unavailable::new(
            "the kernel refused memory for the ring",
            "raise the locked-memory limit (ulimit -l, LimitMEMLOCK=) or the cgroup's memory limit",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => Unavailable::new(
            "no file descriptor is left",
            "raise the limit of open files (ulimit -n, LimitNOFILE=)",
        ),
        (Some(libc::EINVAL), _) => Unavailable::new(
            "the kernel is too old for a ring with SINGLE_ISSUER, DEFER_TASKRUN and provided buffers",
            KERNEL_REMEDY,
        ),
        _ => Unavailable::new(format!("io_uring_setup(2) failed: {error}"), "set engine = \"epoll\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_its_cause_and_remedy() {
        for (errno, disabled, cause, remedy) in [
            (libc::EPERM, "2", "io_uring_disabled is 2", "kernel.io_uring_disabled to 0"),
            (libc::EPERM, "1", "io_uring_disabled is 1", "io_uring_group"),
            (libc::EPERM, "0", "seccomp", "io_uring_enter"),
            (libc::EPERM, "", "seccomp", "io_uring_enter"),
            (libc::ENOSYS, "0", "no io_uring", "6.1"),
            (libc::ENOMEM, "0", "memory", "ulimit -l"),
            (libc::EMFILE, "0", "descriptor", "ulimit -n"),
            (libc::EINVAL, "0", "too old", "6.1"),
            (libc::EIO, "0", "failed", "epoll"),
        ] {
            let unavailable = explain_with(&io::Error::from_raw_os_error(errno), disabled);
            assert!(unavailable.reason.contains(cause), "{unavailable}");
            assert!(unavailable.remedy.contains(remedy), "{unavailable}");
        }
    }

    #[test]
    fn this_system_passes() {
        let probe = probe().expect("the tests of this crate need io_uring");
        assert!(!probe.kernel.is_empty());
    }
}
