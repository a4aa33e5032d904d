//! One worker's numbers: rows of plain atomics in blocks that appear when first used. It must not know what a row means.
//!
//! Single writer: the worker adds with a relaxed load and store, never a read-modify-write. A reader on another thread sees
//! each number whole, and a row as a whole through its stamp: word 0 of a row names the series it holds; it is stored
//! (release) after the row has been cleared for that series, and checked (acquire) before the row is read.

use std::sync::{
    OnceLock,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Rows of `width` words, allocated by blocks of `chunk` rows.
pub(crate) struct Slots {
    blocks: Box<[OnceLock<Box<[AtomicU64]>>]>,
    width: usize,
    chunk: usize,
}

impl Slots {
    /// Room for `rows` rows of `words` words each, stamp not counted; nothing is allocated for them yet.
    pub(crate) fn new(rows: usize, words: usize, chunk: usize) -> Self {
        Self { blocks: (0..rows.div_ceil(chunk)).map(|_| OnceLock::new()).collect(), width: words + 1, chunk }
    }

    /// The words of row `index` for the series with this stamp, cleared first if the row held another. Writer only.
    /// Allocates only when its block is used for the first time.
    pub(crate) fn row(&self, index: u32, stamp: u32) -> &[AtomicU64] {
        let index = index as usize;
        let block = self.blocks[index / self.chunk]
            .get_or_init(|| (0..self.width * self.chunk).map(|_| AtomicU64::new(0)).collect());
        let (head, words) = self.split(block, index);
        if head.load(Relaxed) != u64::from(stamp) {
            // Readers skip the row while it holds neither stamp.
            head.store(0, Release);
            words.iter().for_each(|word| word.store(0, Relaxed));
            head.store(u64::from(stamp), Release);
        }
        words
    }

    /// The words of row `index` if it holds the series with this stamp. For readers.
    pub(crate) fn read(&self, index: u32, stamp: u32) -> Option<&[AtomicU64]> {
        let index = index as usize;
        let block = self.blocks.get(index / self.chunk)?.get()?;
        let (head, words) = self.split(block, index);
        (head.load(Acquire) == u64::from(stamp)).then_some(words)
    }

    fn split<'b>(&self, block: &'b [AtomicU64], index: usize) -> (&'b AtomicU64, &'b [AtomicU64]) {
        let start = index % self.chunk * self.width;
        let row = &block[start..start + self.width];
        (&row[0], &row[1..])
    }
}

/// Adds to a word of ours: plain load and store, as there is one writer. Wraps, as counters do.
#[inline]
pub(crate) fn add(word: &AtomicU64, amount: u64) {
    word.store(word.load(Relaxed).wrapping_add(amount), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_cleared_for_its_next_series() {
        let slots = Slots::new(10, 2, 4);
        assert!(slots.read(9, 1).is_none());
        add(&slots.row(9, 1)[1], 7);
        assert_eq!(slots.read(9, 1).unwrap()[1].load(Relaxed), 7);
        assert_eq!(slots.row(8, 1)[1].load(Relaxed), 0, "neighbours do not overlap");
        assert_eq!(slots.row(9, 2)[1].load(Relaxed), 0);
        assert!(slots.read(9, 1).is_none(), "the old series is gone");
    }
}
