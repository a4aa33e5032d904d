//! The ring of empty buffers that the kernel picks from when bytes arrive, fed from the worker's pool. So a connection
//! that waits for data holds no buffer. Knows no sockets.
//!
//! The kernel takes buffers in turn, first in, first out, so every one that lies in the ring is touched before the first
//! is touched again. As many as are needed lie there, and few more: then the same few stay in the processor's cache
//! (with 256 instead of 8 a bulk flow through buffers cost a fifth more). What is needed follows the load: it
//! rises at once and falls slowly.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use sluice_engine::limits::BUFFER_HEADROOM_BYTES;
use sluice_engine::{Buffer, Pool};

use crate::limits::{RECEIVE_BYTES, RING_BUFFERS_MIN};

/// The only buffer group.
pub(crate) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4096;

/// The ring's shared memory and the stores whose addresses stand in it.
///
/// Stores that are published belong to the kernel until a completion names them. The memory must outlive the ring
/// that it is registered with; [`crate::io::Io`] keeps the order.
pub(crate) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    mask: u16,
    tail: u16,
    /// By buffer id: the store that the kernel may fill.
    stores: Vec<Option<Vec<u8>>>,
    /// Buffer ids without a store.
    vacant: Vec<u16>,
    /// How many stores are to lie in the ring now.
    wanted: usize,
    /// Stores that were taken since the last refill.
    taken: usize,
    pool: Rc<Pool>,
}

impl BufferRing {
    /// `count` must be a power of two.
    pub(crate) fn new(count: u16, pool: Rc<Pool>) -> Self {
        assert!(count.is_power_of_two() && count <= 1 << 15, "the kernel takes powers of two up to 32,768");
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("a page-aligned size below 2^20");
        // SAFETY: the layout's size is not zero, as `count` is a power of two.
        let Some(entries) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self {
            entries: entries.cast(),
            layout,
            mask: count - 1,
            tail: 0,
            stores: (0..count).map(|_| None).collect(),
            vacant: (0..count).rev().collect(),
            wanted: usize::from(RING_BUFFERS_MIN),
            taken: 0,
            pool,
        }
    }

    /// Makes the ring known to the kernel.
    ///
    /// # Safety
    /// `self` must be dropped after `ring`.
    pub(crate) unsafe fn register(&self, ring: &IoUring) -> io::Result<()> {
        // SAFETY: the memory is page-aligned, holds `mask + 1` entries and, by this function's contract, outlives the ring.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                self.entries.as_ptr() as u64,
                self.mask + 1,
                GROUP,
                0,
            )
        }
    }

    /// Gives the kernel as many empty stores as the load of the last turns makes likely to be needed; fewer if the pool's
    /// bound is reached.
    pub(crate) fn refill(&mut self) {
        let likely = 2 * self.taken + usize::from(RING_BUFFERS_MIN);
        self.taken = 0;
        self.wanted = likely.max(self.wanted.saturating_sub(1 + self.wanted / 64));
        let before = self.tail;
        while self.published() < self.wanted
            && let Some(id) = self.vacant.last().copied()
            && let Some(store) = self.pool.take()
        {
            self.vacant.pop();
            self.publish(id, store);
        }
        if self.tail == before {
            return;
        }
        // SAFETY: the memory is valid and zeroed or written since `new`; the tail lies in the first entry's reserved
        // field, is 16 bits wide and aligned, and the kernel only reads it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn publish(&mut self, id: u16, mut store: Vec<u8>) {
        // Received data gets room before and behind it.
        let address = store[BUFFER_HEADROOM_BYTES..].as_mut_ptr();
        self.stores[usize::from(id)] = Some(store);
        // SAFETY: the index is masked to the number of entries. The kernel does not look at entries beyond the tail,
        // and it has consumed what stood here before: at most `mask + 1` ids are ever published.
        let entry = unsafe { &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask)) };
        entry.set_addr(address as u64);
        entry.set_len(u32::try_from(RECEIVE_BYTES).expect("a buffer is far below 4 GiB"));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Takes the buffer that a completion names, with `length` received bytes in it.
    pub(crate) fn take(&mut self, id: u16, length: usize) -> Option<Buffer> {
        let store = self.stores.get_mut(usize::from(id))?.take()?;
        self.vacant.push(id);
        self.taken += 1;
        let end = BUFFER_HEADROOM_BYTES + length.min(RECEIVE_BYTES);
        Some(Buffer::from_parts(store, BUFFER_HEADROOM_BYTES, end, Some(Rc::clone(&self.pool))))
    }

    /// A receive found no buffer: more are wanted at once. True if the pool has none to give.
    pub(crate) fn ran_out(&mut self) -> bool {
        self.wanted = (2 * self.wanted).min(self.stores.len());
        self.pool.is_exhausted()
    }

    /// Buffers that the kernel can still pick, or has picked without our knowing yet.
    pub(crate) fn published(&self) -> usize {
        self.stores.len() - self.vacant.len()
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        for store in self.stores.iter_mut().filter_map(Option::take) {
            self.pool.give(store);
        }
        // SAFETY: allocated in `new` with this very layout; the ring that knew it is gone.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
