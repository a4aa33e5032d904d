//! Which label set has which row: the table that all workers share. It must not know values.

use crate::{SourceId, keys::Map};
use std::{
    hash::Hash,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Release},
    },
};

/// Row 0 takes what finds no row of its own when the table is full.
pub(crate) const OVERFLOW: Place = Place { index: 0, stamp: 1 };

/// A row and which of its successive series is meant.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) stamp: u32,
}

/// The stamp of each row, readable without a lock: an id whose stamp is old belongs to a forgotten series.
pub(crate) struct Stamps(Box<[AtomicU32]>);

impl Stamps {
    pub(crate) fn new(rows: usize) -> Self {
        Self((0..rows).map(|_| AtomicU32::new(1)).collect())
    }

    #[inline]
    pub(crate) fn is_current(&self, place: Place) -> bool {
        self.0[place.index as usize].load(Acquire) == place.stamp
    }
}

/// What tells two series of one family apart.
pub(crate) trait SeriesKey: Copy + Eq + Hash {
    /// Whose quota the series counts against: `None` for registered destinations, which are as many as they are.
    fn charged_to(&self) -> Option<SourceId>;
}

/// Label sets and their rows, at most as many as there are stamps (row 0 reserved).
pub(crate) struct SeriesTable<K> {
    places: Map<K, u32>,
    rows: Vec<Row<K>>,
    free: Vec<u32>,
    rows_max: usize,
    charged: Map<SourceId, usize>,
    per_source_max: usize,
}

struct Row<K> {
    /// `None`: free.
    key: Option<K>,
    stamp: u32,
    activity: u64,
    changed_ms: u64,
}

impl<K: SeriesKey> SeriesTable<K> {
    /// At most `rows_max` rows, the reserved one included, and `per_source_max` charged to one source. `overflow` labels
    /// the reserved row; it cannot be looked up.
    pub(crate) fn new(rows_max: usize, per_source_max: usize, overflow: K) -> Self {
        let reserved = Row { key: Some(overflow), stamp: OVERFLOW.stamp, activity: 0, changed_ms: 0 };
        Self {
            places: Map::default(),
            rows: vec![reserved],
            free: Vec::new(),
            rows_max,
            charged: Map::default(),
            per_source_max,
        }
    }

    /// The row of a label set, a new one if need be; `None` when the table or the source's quota is full.
    pub(crate) fn resolve(&mut self, key: K) -> Option<Place> {
        if let Some(&index) = self.places.get(&key) {
            return Some(Place { index, stamp: self.rows[index as usize].stamp });
        }
        let charged_to = key.charged_to();
        let charged = charged_to.and_then(|source| self.charged.get(&source)).copied().unwrap_or(0);
        if charged >= self.per_source_max {
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.rows.len() < self.rows_max => {
                self.rows.push(Row { key: None, stamp: 1, activity: 0, changed_ms: 0 });
                u32::try_from(self.rows.len() - 1).expect("invariant: rows_max is far below u32::MAX")
            }
            None => return None,
        };
        if let Some(source) = charged_to {
            self.charged.insert(source, charged + 1);
        }
        let row = &mut self.rows[index as usize];
        row.key = Some(key);
        row.activity = 0;
        row.changed_ms = 0;
        self.places.insert(key, index);
        Some(Place { index, stamp: row.stamp })
    }

    /// Every series that has a row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, &K)> {
        self.rows.iter().enumerate().filter_map(|(index, row)| {
            let key = row.key.as_ref()?;
            Some((Place { index: index as u32, stamp: row.stamp }, key))
        })
    }

    /// Forgets series whose activity (any number that changes when they are counted on) has not changed for `idle_ms`.
    /// Answers whether any was forgotten.
    pub(crate) fn evict(
        &mut self,
        stamps: &Stamps,
        now_ms: u64,
        idle_ms: u64,
        activity: impl Fn(Place) -> u64,
    ) -> bool {
        let mut evicted = false;
        for (index, row) in self.rows.iter_mut().enumerate().skip(1) {
            let Some(key) = row.key else { continue };
            let place = Place { index: index as u32, stamp: row.stamp };
            let seen = activity(place);
            if seen != row.activity || row.changed_ms == 0 {
                (row.activity, row.changed_ms) = (seen, now_ms.max(1));
            } else if now_ms.saturating_sub(row.changed_ms) >= idle_ms {
                self.places.remove(&key);
                row.key = None;
                // 0 means "no series" in a worker's row, so it is skipped.
                row.stamp = row.stamp.checked_add(1).unwrap_or(1);
                stamps.0[index].store(row.stamp, Release);
                self.free.push(place.index);
                if let Some(charged) = key.charged_to().and_then(|source| self.charged.get_mut(&source)) {
                    *charged -= 1;
                }
                evicted = true;
            }
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl SeriesKey for char {
        fn charged_to(&self) -> Option<SourceId> {
            self.is_uppercase().then_some(SourceId::UNKNOWN)
        }
    }

    #[test]
    fn a_source_is_charged_for_what_is_not_registered() {
        let stamps = Stamps::new(10);
        let mut table = SeriesTable::new(10, 2, 'o');
        assert!(table.resolve('A').is_some() && table.resolve('B').is_some());
        assert_eq!(table.resolve('C'), None);
        assert!(table.resolve('B').is_some(), "what it has it keeps");
        assert!("abcd".chars().all(|key| table.resolve(key).is_some()), "registered ones are not charged");
        table.evict(&stamps, 1, 1, |_| 0);
        assert!(table.evict(&stamps, 2, 1, |_| 0));
        assert!("CD".chars().all(|key| table.resolve(key).is_some()));
        assert_eq!(table.resolve('E'), None);
    }

    #[test]
    fn the_table_is_bounded_and_idle_rows_are_used_again() {
        let stamps = Stamps::new(3);
        let mut table = SeriesTable::new(3, 3, 'o');
        let a = table.resolve('a').unwrap();
        let b = table.resolve('b').unwrap();
        assert_eq!(table.resolve('a'), Some(a));
        assert!(a.index != b.index && a.index != 0 && b.index != 0);
        assert_eq!(table.resolve('c'), None);

        let busy = |place: Place| if place == b { 1 } else { 0 };
        assert!(!table.evict(&stamps, 1_000, 500, busy), "first seen now");
        assert!(!table.evict(&stamps, 1_499, 500, busy));
        assert!(table.evict(&stamps, 1_500, 500, |place| if place == b { 2 } else { 0 }));
        assert!(!stamps.is_current(a) && stamps.is_current(b));
        let c = table.resolve('c').unwrap();
        assert!(c.index == a.index && c.stamp != a.stamp && stamps.is_current(c));
        assert_eq!(table.iter().map(|(_, key)| *key).collect::<String>(), "ocb");
    }
}
