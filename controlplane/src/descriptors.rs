//! Who may hold how many of the process's open files, divided once at start with room for doors that a reload adds, and the few
//! that are held back for control.
//! It must not know what a connection or an answer is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sluice_config::Limits;

use crate::limits::{
    DESCRIPTORS_OF_OUR_OWN, DESCRIPTORS_PER_LISTENER, DESCRIPTORS_PER_LOOKUP, DESCRIPTORS_PER_WORKER,
    DOORS_ADDED_RESERVE, LOOKUPS_MAX, PIPES_PER_WORKER_MAX,
};

/// Descriptors of a connection: the client's socket and the upstream's. Of a pipe: its two ends.
const PAIR: u64 = 2;

/// What each part of the process may hold. The parts together never exceed the limit, so that none can take another's:
/// not clients the admin API's, not a silent DNS server the clients'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The limit of open files that was divided.
    pub descriptors: u64,
    /// Connections of one worker. At least 1.
    pub connections_per_worker: usize,
    /// Connections of all workers together: the configured share of the limit, or what is left for them if that is less.
    pub connections_max: usize,
    /// The configured share could not be given: the limit is small for what this process needs besides.
    pub reduced: bool,
    /// Pipes for splice(2) of one worker; 0 where there is no room: bulk goes through buffers then.
    pub pipes_per_worker: usize,
    /// Names that are being asked for at the same time. At least 1.
    pub lookups_max: usize,
    /// Descriptors held back for control.
    pub spares: usize,
    /// Doors that there is room for at the same time: those of the start, and those that reloads may add.
    pub doors_max: usize,
}

/// The limit of open files is too small for one connection per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {descriptors}, at least {needed} are needed for {workers} workers and {doors} doors: \
     raise it (LimitNOFILE= or --ulimit nofile=; 1048576 is a good value) or name fewer dataplane.cores"
)]
pub struct TooFewDescriptors {
    /// The limit in force.
    pub descriptors: u64,
    /// What would do.
    pub needed: u64,
    /// Workers.
    pub workers: usize,
    /// Doors.
    pub doors: usize,
}

impl Budget {
    /// Divides a limit of open files among `workers` with `doors` each.
    ///
    /// # Errors
    /// [`TooFewDescriptors`].
    pub fn divide(
        limits: &Limits,
        descriptors: u64,
        workers: usize,
        doors: usize,
    ) -> Result<Self, TooFewDescriptors> {
        let workers_u64 = (workers as u64).max(1);
        let per_worker = DESCRIPTORS_PER_WORKER + DESCRIPTORS_PER_LISTENER * doors as u64;
        let spares = u64::from(limits.control_descriptors);
        let own = DESCRIPTORS_OF_OUR_OWN + workers_u64 * per_worker + spares;
        let needed = own + DESCRIPTORS_PER_LOOKUP + PAIR * workers_u64;
        if descriptors < needed {
            return Err(TooFewDescriptors { descriptors, needed, workers, doors });
        }
        // What is left beside one connection per worker is enough for one lookup; more get a quarter of it at most.
        let beside = descriptors - own - PAIR * workers_u64;
        let lookups =
            ((descriptors / 16).min(beside / 4) / DESCRIPTORS_PER_LOOKUP).clamp(1, LOOKUPS_MAX as u64);
        let left = descriptors - own - lookups * DESCRIPTORS_PER_LOOKUP;
        let pipes_all_max = workers_u64 * PIPES_PER_WORKER_MAX as u64;
        let for_pipes = (descriptors / 32).min(PAIR * pipes_all_max);
        let share = descriptors.saturating_mul(u64::from(limits.connections_percent_max)) / 100;
        let door = DESCRIPTORS_PER_LISTENER * workers_u64;
        let for_doors = (descriptors / 16 / door).min(DOORS_ADDED_RESERVE) * door;
        let room = left.saturating_sub(for_pipes + for_doors) / PAIR;
        // Checked above: without any pipe or added door there is room for one connection per worker.
        let per_worker = (share.min(room) / workers_u64).max(1);
        let left = left.saturating_sub(PAIR * per_worker * workers_u64);
        let pipes = (left.saturating_sub(for_doors) / PAIR / workers_u64).min(PIPES_PER_WORKER_MAX as u64);
        let doors_added = left.saturating_sub(PAIR * pipes * workers_u64) / door;
        let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Self {
            descriptors,
            connections_per_worker: size(per_worker),
            connections_max: size(per_worker.saturating_mul(workers_u64)),
            reduced: room < share,
            pipes_per_worker: size(pipes),
            lookups_max: size(lookups),
            spares: size(spares),
            doors_max: doors.saturating_add(size(doors_added)),
        })
    }
}

/// Descriptors that are open on nothing, so that there is one to close when control needs one and the system has none:
/// whatever the cause, a limit lowered from outside or a leak, the admin API answers and a reload can read its files.
#[derive(Debug)]
pub struct Spares {
    held: Mutex<Vec<OwnedFd>>,
    size: usize,
}

impl Spares {
    /// Holds so many, or as many as the system gives; the others are made up for by [`refill`](Self::refill).
    pub fn hold(size: usize) -> Self {
        let spares = Self { held: Mutex::new(Vec::with_capacity(size)), size };
        spares.refill();
        spares
    }

    /// Closes one, if more than `keep` are held. Whoever asks must use the freed descriptor at once: it is everybody's.
    pub fn release_one(&self, keep: usize) -> bool {
        let mut held = self.lock();
        held.len() > keep && held.pop().is_some()
    }

    /// Does something that opens up to `count` descriptors for a short time, and holds as many back again afterwards.
    pub fn lend<R>(&self, count: usize, work: impl FnOnce() -> R) -> R {
        let lent: Vec<OwnedFd> = {
            let mut held = self.lock();
            let left = held.len().saturating_sub(count);
            held.drain(left..).collect()
        };
        drop(lent);
        let result = work();
        self.refill();
        result
    }

    /// Holds what was given away again, as far as the system has any.
    pub fn refill(&self) {
        let mut held = self.lock();
        while held.len() < self.size {
            let Ok(more) = spare(held.last()) else { return };
            held.push(more);
        }
    }

    /// Held now.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One more: a copy of one that is held, or the end of a pipe. Neither needs a file system.
fn spare(held: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    match held {
        Some(held) => held.try_clone(),
        None => Ok(io::pipe()?.0.into()),
    }
}

/// Whether the process, or the system, has no descriptor left.
pub fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        sluice_config::load(&sluice_config::Source::isolated(None)).expect("defaults").plan.limits
    }

    #[test]
    fn the_parts_never_exceed_the_limit() {
        let limits = limits();
        for descriptors in [64, 96, 128, 256, 512, 1024, 4096, 20_000, 65_536, 1 << 20, u64::from(u32::MAX)] {
            for workers in [1_usize, 2, 8, 63] {
                for doors in [1_usize, 4] {
                    let budget = match Budget::divide(&limits, descriptors, workers, doors) {
                        Ok(budget) => budget,
                        Err(refused) => {
                            assert!(refused.needed > descriptors);
                            let enough = Budget::divide(&limits, refused.needed, workers, doors);
                            assert!(enough.is_ok(), "what is asked for is enough: {refused}");
                            continue;
                        }
                    };
                    let (workers, doors) = (workers as u64, doors as u64);
                    let used = DESCRIPTORS_OF_OUR_OWN
                        + budget.spares as u64
                        + workers
                            * (DESCRIPTORS_PER_WORKER + DESCRIPTORS_PER_LISTENER * budget.doors_max as u64)
                        + DESCRIPTORS_PER_LOOKUP * budget.lookups_max as u64
                        + 2 * workers * (budget.connections_per_worker + budget.pipes_per_worker) as u64;
                    assert!(used <= descriptors, "{used} of {descriptors}: {budget:?}");
                    assert!(budget.connections_per_worker >= 1 && budget.lookups_max >= 1);
                    assert!(budget.doors_max as u64 >= doors);
                    assert!(budget.connections_max as u64 <= descriptors * 45 / 100, "{budget:?}");
                }
            }
        }
    }

    #[test]
    fn known_limits_give_known_numbers() {
        let limits = limits();
        let connections = |descriptors| {
            Budget::divide(&limits, descriptors, 1, 1).map(|budget| (budget.connections_max, budget.reduced))
        };
        assert_eq!(connections(64), Ok((1, true)));
        assert_eq!(connections(128), Ok((31, true)));
        assert_eq!(connections(256), Ok((85, true)));
        assert_eq!(connections(1024), Ok((419, true)));
        assert_eq!(connections(1 << 20), Ok((471_859, false)));
        let doors = |descriptors| Budget::divide(&limits, descriptors, 1, 1).map(|budget| budget.doors_max);
        assert_eq!(doors(128), Ok(1), "none may be added");
        assert_eq!(doors(256), Ok(2));
        assert_eq!(doors(1024), Ok(5));
        let small = Budget::divide(&limits, 32, 1, 1).expect_err("not for one connection");
        assert!(small.to_string().contains("LimitNOFILE="), "{small}");
        let large = Budget::divide(&limits, 1 << 20, 8, 4).expect("plenty");
        assert_eq!((large.pipes_per_worker, large.lookups_max), (PIPES_PER_WORKER_MAX, LOOKUPS_MAX));
    }

    #[test]
    fn spares_are_lent_and_held_again() {
        let spares = Spares::hold(4);
        assert_eq!(spares.count(), 4);
        assert!(spares.release_one(2) && spares.release_one(2));
        assert!(!spares.release_one(2), "those that are kept for others stay");
        spares.refill();
        assert_eq!(spares.lend(3, || spares.count()), 1);
        assert_eq!(spares.lend(9, || spares.count()), 0);
        assert_eq!(spares.count(), 4);
    }
}
