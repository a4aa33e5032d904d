//! What `doctor` says of io_uring. It changes nothing.

use std::fs;

use rustix::process::{Resource, getrlimit};
use sluice_config::EngineChoice;
use sluice_launch::Finding;

use crate::engine::probe;

/// Everything that decides about io_uring.
pub(crate) fn examine(choice: EngineChoice) -> Vec<Finding> {
    vec![works(choice), sysctl(), locked_memory()]
}

fn works(choice: EngineChoice) -> Finding {
    const ABOUT: &str = "io_uring";
    match (probe(), choice) {
        (Ok(()), _) => Finding::ok(ABOUT, "set-up, operations and self-test pass"),
        (Err(why), EngineChoice::Uring) => {
            Finding::fail(ABOUT, format!("{}; engine = \"uring\" demands it", why.reason), why.remedy)
        }
        (Err(why), EngineChoice::Epoll) => {
            Finding::ok(ABOUT, format!("{}; engine = \"epoll\" does without", why.reason))
        }
        (Err(why), EngineChoice::Auto) => {
            Finding::warn(ABOUT, format!("{}; epoll runs instead", why.reason), why.remedy)
        }
    }
}

fn sysctl() -> Finding {
    const ABOUT: &str = "io_uring sysctl";
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match disabled.trim() {
        "" => Finding::ok(ABOUT, "kernel.io_uring_disabled does not exist on this kernel"),
        "0" => Finding::ok(ABOUT, "kernel.io_uring_disabled = 0"),
        "1" => Finding::warn(
            ABOUT,
            "kernel.io_uring_disabled = 1: privileged processes and kernel.io_uring_group only",
            "set it to 0, or put sluice into that group",
        ),
        other => Finding::warn(
            ABOUT,
            format!("kernel.io_uring_disabled = {other}: nobody may use it"),
            "sysctl -w kernel.io_uring_disabled=0",
        ),
    }
}

fn locked_memory() -> Finding {
    match getrlimit(Resource::Memlock).current {
        None => Finding::ok("locked memory", "unlimited"),
        Some(bytes) => Finding::ok(
            "locked memory",
            format!("{} KiB (kernels from 5.12 on do not count rings)", bytes / 1024),
        ),
    }
}
