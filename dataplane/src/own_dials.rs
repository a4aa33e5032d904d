//! The connections that the process has dialled of late, so that one of them that comes back through a capture rule is
//! known for what it is. A rule that takes the gateway's own traffic would otherwise lead every connection round and
//! round, and each turn dial once more until nothing is left to dial with.
//!
//! Shared by all workers without a lock: a slot per local port, written by whoever dialled last from that port. It must
//! not know doors or policy; a lost entry costs one more turn of a loop, no more.

use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::fast::FixedState;
use sluice_policy::UnixSeconds;

use crate::connection::unmapped;
use crate::limits::OWN_DIAL_REMEMBERED_S;

/// Slots: one for each port.
const SLOTS: usize = 1 << 16;

/// Slots for the addresses that are dialled from: few, and two that share a slot take turns.
const SOURCES: usize = 256;

/// What the process has dialled of late.
#[derive(Debug, Default)]
pub struct OwnDials {
    /// Made when the first is noted, 512 KiB: a gateway that captures nothing has none. A slot holds when it was
    /// written (the lower half, seconds) and a hash of the two addresses (the upper half); 0 where nothing was.
    slots: OnceLock<Box<[AtomicU64]>>,
    /// Hashes of the addresses that were dialled from.
    sources: OnceLock<Box<[AtomicU64]>>,
}

impl OwnDials {
    /// Notes a connection from `local` to `remote`.
    pub(crate) fn note(&self, local: SocketAddr, remote: SocketAddr, now: UnixSeconds) {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let source = hash(unmapped(local).ip());
        self.sources.get_or_init(|| zeros(SOURCES))[slot_of(source)].store(source, Relaxed);
        let slots = self.slots.get_or_init(|| zeros(SLOTS));
        slots[usize::from(local.port())].store(entry(local, remote, now), Relaxed);
    }

    /// Whether connections have been dialled from this address: then one from it may be one of them, not noted yet.
    pub(crate) fn is_source(&self, address: IpAddr) -> bool {
        let source = hash(address.to_canonical());
        self.sources.get().is_some_and(|sources| sources[slot_of(source)].load(Relaxed) == source)
    }

    /// Whether a connection from `peer` to `original` is one that was dialled here not long ago.
    pub(crate) fn is_own(&self, peer: SocketAddr, original: SocketAddr, now: UnixSeconds) -> bool {
        let Some(slots) = self.slots.get() else { return false };
        let found = slots[usize::from(peer.port())].load(Relaxed);
        let asked = entry(peer, original, now);
        let age_s = (asked as u32).wrapping_sub(found as u32);
        // The clock may have been set back a little meanwhile.
        let recent = age_s <= OWN_DIAL_REMEMBERED_S || age_s.wrapping_neg() <= OWN_DIAL_REMEMBERED_S;
        found != 0 && found >> 32 == asked >> 32 && recent
    }
}

fn hash(what: impl Hash) -> u64 {
    FixedState::default().hash_one(what)
}

fn slot_of(source: u64) -> usize {
    // The modulus is small: nothing is lost.
    (source % SOURCES as u64) as usize
}

fn entry(local: SocketAddr, remote: SocketAddr, now: UnixSeconds) -> u64 {
    let hash = hash((unmapped(local), unmapped(remote)));
    (hash & !u64::from(u32::MAX)) | (now.0 as u64 & u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dialled_of_late_is_known_again() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (ours, origin) = (address("10.0.0.1:40000"), address("198.51.100.10:443"));
        let at = UnixSeconds(1_700_000_000);
        let later = |seconds| UnixSeconds(at.0 + seconds);
        let dials = OwnDials::default();
        assert!(!dials.is_own(ours, origin, at) && !dials.is_source(ours.ip()), "nothing was noted");
        dials.note(ours, origin, at);
        assert!(dials.is_own(ours, origin, at));
        assert!(dials.is_source(ours.ip()) && !dials.is_source(origin.ip()));
        assert!(dials.is_own(address("[::ffff:10.0.0.1]:40000"), origin, later(5)));
        assert!(!dials.is_own(address("10.0.0.2:40000"), origin, at), "another host, the same port");
        assert!(!dials.is_own(ours, address("198.51.100.11:443"), at), "to somebody else");
        assert!(!dials.is_own(address("10.0.0.1:40001"), origin, at));
        let remembered = i64::from(OWN_DIAL_REMEMBERED_S);
        assert!(dials.is_own(ours, origin, later(remembered)));
        assert!(!dials.is_own(ours, origin, later(remembered + 1)), "ports are used again");
        dials.note(ours, address("198.51.100.11:443"), at);
        assert!(!dials.is_own(ours, origin, at), "the slot is another's now");
    }
}
