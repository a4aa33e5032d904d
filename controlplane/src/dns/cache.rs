//! The bounded cache of answers: what is fresh, what may serve while the servers fail, what goes first when it is
//! full. Pure: time comes in as milliseconds on a monotonic clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sluice_bridge::{Addresses, DnsFailure, DnsSettings};

use super::lookup::Found;
use crate::limits::{DNS_FAILURE_TTL_MS, PARTIAL_TTL_MAX_MS};

/// What a worker is told: the outcome and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) outcome: Result<Arc<Addresses>, DnsFailure>,
    /// Until when nobody need ask again.
    pub(super) fresh_until_ms: u64,
    /// Until when the addresses may serve if asking fails; not before `fresh_until_ms`.
    pub(super) stale_until_ms: u64,
}

struct Entry {
    held: Held,
    used: u64,
    /// The servers failed when they were last asked for it.
    failing: bool,
}

/// Answers by name; the least recently used goes first when it is full.
pub(super) struct Cache {
    entries: HashMap<Arc<str>, Entry>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    entries_max: usize,
}

impl Cache {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, entries_max: entries_max.max(1) }
    }

    /// Changes the bound; what is over it goes.
    pub(super) fn set_bound(&mut self, entries_max: usize) {
        self.entries_max = entries_max.max(1);
        self.shrink();
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is held and need not be asked again.
    pub(super) fn fresh(&mut self, name: &str, now_ms: u64) -> Option<Held> {
        let entry = self.entries.get_mut(name)?;
        if entry.held.fresh_until_ms <= now_ms {
            return None;
        }
        self.uses += 1;
        if let Some(name) = self.by_use.remove(&entry.used) {
            self.by_use.insert(self.uses, name);
        }
        entry.used = self.uses;
        Some(entry.held.clone())
    }

    /// Old addresses to serve at once, while the servers that failed last time are asked again: nobody should wait for
    /// their time-out over and over.
    pub(super) fn stale_while_failing(&self, name: &str, now_ms: u64) -> Option<Held> {
        self.entries.get(name).filter(|entry| entry.failing)?;
        self.stale(name, now_ms)
    }

    /// Takes in what the servers said and returns what to tell: the addresses, "there is none", the old addresses
    /// while the servers fail, or the failure.
    pub(super) fn settle(
        &mut self,
        name: Arc<str>,
        result: Result<Found, DnsFailure>,
        settings: &DnsSettings,
        now_ms: u64,
    ) -> Held {
        let failing = result.as_ref().is_err_and(|failure| !failure.is_answer());
        let held = match result {
            Ok(found) => {
                let mut ttl_ms = u64::from(found.ttl_s) * 1000;
                if found.partial {
                    ttl_ms = ttl_ms.min(PARTIAL_TTL_MAX_MS);
                }
                let fresh_until_ms = now_ms + ttl_ms.min(settings.ttl_max_ms).max(settings.ttl_min_ms);
                Held {
                    outcome: Ok(Arc::new(found.addresses)),
                    fresh_until_ms,
                    stale_until_ms: fresh_until_ms + settings.stale_ms,
                }
            }
            Err(absent @ (DnsFailure::NoName | DnsFailure::NoData)) => {
                let until_ms = now_ms + settings.negative_ttl_ms;
                Held { outcome: Err(absent), fresh_until_ms: until_ms, stale_until_ms: until_ms }
            }
            Err(failure) => self.stale(&name, now_ms).unwrap_or_else(|| {
                let until_ms = now_ms + DNS_FAILURE_TTL_MS;
                Held { outcome: Err(failure), fresh_until_ms: until_ms, stale_until_ms: until_ms }
            }),
        };
        self.put(name, held.clone(), failing);
        held
    }

    /// Old addresses that may still serve; fresh only until the servers are asked again.
    fn stale(&self, name: &str, now_ms: u64) -> Option<Held> {
        let held = &self.entries.get(name)?.held;
        let usable = held.outcome.is_ok() && held.stale_until_ms > now_ms;
        usable.then(|| Held {
            fresh_until_ms: (now_ms + DNS_FAILURE_TTL_MS).min(held.stale_until_ms),
            ..held.clone()
        })
    }

    fn put(&mut self, name: Arc<str>, held: Held, failing: bool) {
        self.uses += 1;
        if let Some(old) = self.entries.insert(Arc::clone(&name), Entry { held, used: self.uses, failing }) {
            self.by_use.remove(&old.used);
        }
        self.by_use.insert(self.uses, name);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.entries.len() > self.entries_max {
            let Some((_, name)) = self.by_use.pop_first() else { return };
            self.entries.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> DnsSettings {
        DnsSettings {
            ttl_min_ms: 1000,
            ttl_max_ms: 300_000,
            negative_ttl_ms: 5000,
            stale_ms: 3_600_000,
            ..DnsSettings::default()
        }
    }

    fn found(ttl_s: u32) -> Result<Found, DnsFailure> {
        let addresses = Addresses::collect([[192, 0, 2, 1].into()], []).expect("one address");
        Ok(Found { addresses, ttl_s, partial: false })
    }

    #[test]
    fn ttl_has_a_floor_and_a_ceiling() {
        let mut cache = Cache::new(10);
        assert_eq!(cache.settle("a".into(), found(0), &settings(), 0).fresh_until_ms, 1000);
        assert_eq!(cache.settle("a".into(), found(60), &settings(), 0).fresh_until_ms, 60_000);
        assert_eq!(cache.settle("a".into(), found(u32::MAX), &settings(), 0).fresh_until_ms, 300_000);
        assert!(cache.fresh("a", 299_999).is_some());
        assert!(cache.fresh("a", 300_000).is_none());
    }

    #[test]
    fn absence_is_held_and_ends_what_was_known() {
        let mut cache = Cache::new(10);
        cache.settle("a".into(), found(1), &settings(), 0);
        let held = cache.settle("a".into(), Err(DnsFailure::NoName), &settings(), 2000);
        assert_eq!((held.outcome, held.fresh_until_ms), (Err(DnsFailure::NoName), 7000));
        let held = cache.settle("a".into(), Err(DnsFailure::Timeout), &settings(), 8000);
        assert_eq!(held.outcome, Err(DnsFailure::Timeout), "an absent name has no old addresses to serve");
    }

    #[test]
    fn old_addresses_serve_while_the_servers_fail_and_no_longer_than_allowed() {
        let mut cache = Cache::new(10);
        cache.settle("a".into(), found(1), &settings(), 0);
        assert!(cache.stale_while_failing("a", 4999).is_none(), "the servers have not failed yet");
        let held = cache.settle("a".into(), Err(DnsFailure::Timeout), &settings(), 5000);
        assert!(held.outcome.is_ok());
        assert_eq!(held.fresh_until_ms, 5000 + DNS_FAILURE_TTL_MS);
        assert_eq!(held.stale_until_ms, 3_601_000, "serving does not prolong");
        assert!(cache.stale_while_failing("a", 10_000).is_some(), "at once from now on");
        let held = cache.settle("a".into(), Err(DnsFailure::ServerFailure), &settings(), 3_601_000);
        assert_eq!(held.outcome, Err(DnsFailure::ServerFailure));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::new(2);
        cache.settle("a".into(), found(60), &settings(), 0);
        cache.settle("b".into(), found(60), &settings(), 0);
        assert!(cache.fresh("a", 1).is_some());
        cache.settle("c".into(), found(60), &settings(), 1);
        assert!(
            cache.fresh("b", 2).is_none() && cache.fresh("a", 2).is_some() && cache.fresh("c", 2).is_some()
        );
        assert_eq!((cache.len(), cache.by_use.len()), (2, 2));
        cache.set_bound(1);
        assert_eq!((cache.len(), cache.by_use.len()), (1, 1));
    }
}
