//! A slab whose keys carry a generation, so that a late completion can never be taken for a newer tenant's.

/// How many bits of a generation a key keeps: what fits beside an index and an operation in 64 bits.
const GENERATION_MASK: u32 = 0x00ff_ffff;

/// Names one tenancy of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) index: u32,
    /// Below 2^24.
    pub(crate) generation: u32,
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// See the module.
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Key { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).expect("descriptors run out long before 2^32 slots do");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Key { index, generation: 0 }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(key.index);
        Some(value)
    }

    /// Every key that is alive, for the rare walks over all.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let alive = |(index, slot): (usize, &Slot<T>)| {
            let index = u32::try_from(index).expect("checked on insertion");
            slot.value.as_ref().map(|_| Key { index, generation: slot.generation })
        };
        self.slots.iter().enumerate().filter_map(alive).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_reach_the_slots_next_tenant() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(first.index, second.index, "the slot is used again");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.keys(), [second]);
    }

    #[test]
    fn the_generation_stays_within_its_bits() {
        let mut slab = Slab::new();
        slab.slots.push(Slot { generation: GENERATION_MASK, value: Some('a') });
        slab.remove(Key { index: 0, generation: GENERATION_MASK });
        assert_eq!(slab.insert('b').generation, 0);
    }
}
