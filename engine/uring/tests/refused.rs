//! Where the system forbids io_uring the probe says so and says what to do. The filter stays with the thread, so the test
//! has a process of its own.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use sluice_engine_uring::{Config, UringEngine, probe};

fn forbid(errno: libc::c_int) {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}

#[test]
fn a_seccomp_profile_is_named_with_its_remedy() {
    for (errno, cause) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "no io_uring")] {
        // A filter binds its thread for good.
        let refused = std::thread::spawn(move || {
            forbid(errno);
            (probe().unwrap_err(), UringEngine::new(Config::default()).err().unwrap())
        });
        let (probed, made) = refused.join().unwrap();
        assert!(probed.reason.contains(cause), "{probed}");
        assert!(probed.remedy.contains("io_uring_enter") && probed.remedy.contains("epoll"), "{probed}");
        assert_eq!(probed, made);
    }
}
