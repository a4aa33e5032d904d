//! The worker's timers: one ordered map, whose earliest entry bounds the ring's wait. Knows no clock.

use std::collections::BTreeMap;
use std::task::Waker;

use sluice_engine::Instant;

use crate::slab::Key;

/// Names one timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey {
    at: Instant,
    /// Tells timers of one instant apart.
    number: u64,
}

/// Who is told when a timer fires.
pub(crate) enum Target {
    Task(Waker),
    Relay(Key),
}

/// See the module.
#[derive(Default)]
pub(crate) struct Timers {
    entries: BTreeMap<TimerKey, Target>,
    number: u64,
}

impl Timers {
    pub(crate) fn insert(&mut self, at: Instant, target: Target) -> TimerKey {
        self.number += 1;
        let key = TimerKey { at, number: self.number };
        self.entries.insert(key, target);
        key
    }

    pub(crate) fn get(&self, key: TimerKey) -> Option<&Target> {
        self.entries.get(&key)
    }

    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<Target> {
        self.entries.remove(&key)
    }

    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|(key, _)| key.at)
    }

    /// Takes one timer whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Target> {
        let first = self.entries.first_entry()?;
        (first.key().at <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_due_in_order_and_can_be_taken_back() {
        let at = |nanos| Instant::from_nanos(nanos);
        let relay = |index| Target::Relay(Key { index, generation: 0 });
        let mut timers = Timers::default();
        timers.insert(at(30), relay(3));
        let gone = timers.insert(at(10), relay(1));
        timers.insert(at(20), relay(2));
        assert_eq!(timers.earliest(), Some(at(10)));
        assert!(timers.remove(gone).is_some());
        assert!(timers.get(gone).is_none());
        assert_eq!(timers.earliest(), Some(at(20)));
        assert!(timers.pop_due(at(19)).is_none());
        let due: Vec<u32> = std::iter::from_fn(|| timers.pop_due(at(30)))
            .map(|target| match target {
                Target::Relay(key) => key.index,
                Target::Task(_) => unreachable!("none was inserted"),
            })
            .collect();
        assert_eq!(due, [2, 3]);
        assert_eq!(timers.earliest(), None);
    }
}
