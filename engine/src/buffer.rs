//! Owned buffers with room at both ends, and the worker's pool of them. Knows nothing of sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::Waker;

use crate::limits::{BUFFER_BYTES, BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};

/// Bytes that belong to whoever holds the value. A pooled buffer goes back to its pool when it is dropped.
///
/// The live bytes are a window into a larger store: [`advance`](Self::advance) drops bytes from the front,
/// [`prepend`](Self::prepend) writes into the headroom before them.
pub struct Buffer {
    store: Vec<u8>,
    start: usize,
    end: usize,
    home: Option<Rc<Pool>>,
}

impl Buffer {
    /// A buffer over `store` whose live bytes are `start..end`; it goes home to `home` when dropped. For engines.
    ///
    /// # Panics
    /// If the window lies outside the store.
    pub fn from_parts(store: Vec<u8>, start: usize, end: usize, home: Option<Rc<Pool>>) -> Self {
        assert!(start <= end && end <= store.len(), "a buffer's window lies within its store");
        Self { store, start, end, home }
    }

    /// An empty buffer that belongs to no pool, with headroom, for what a pooled one is too small for.
    pub fn with_capacity(bytes: usize) -> Self {
        let size = bytes + BUFFER_HEADROOM_BYTES + BUFFER_TAILROOM_BYTES;
        Self { store: vec![0; size], start: BUFFER_HEADROOM_BYTES, end: BUFFER_HEADROOM_BYTES, home: None }
    }

    /// An empty buffer of no size: the sign of an orderly end.
    pub const fn end_of_stream() -> Self {
        Self { store: Vec::new(), start: 0, end: 0, home: None }
    }

    /// Drops `count` bytes from the front; all of them if there are fewer.
    pub fn advance(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Keeps only the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.end = self.end.min(self.start + length);
    }

    /// Forgets all bytes and restores the headroom.
    pub fn clear(&mut self) {
        self.start = BUFFER_HEADROOM_BYTES.min(self.store.len());
        self.end = self.start;
    }

    /// How many bytes can still be appended.
    pub fn spare(&self) -> usize {
        self.store.len() - self.end
    }

    /// Appends all of `bytes`, or nothing if there is no room.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.spare() {
            return false;
        }
        self.store[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        true
    }

    /// Writes all of `bytes` in front of the live bytes, or nothing if there is no room.
    #[must_use]
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.start {
            return false;
        }
        let start = self.start - bytes.len();
        self.store[start..self.start].copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Splits off the bytes after the first `at` into another buffer, by copy.
    pub fn split_off(&mut self, at: usize) -> Self {
        let at = at.min(self.len());
        let mut rest = Self::with_capacity(self.len() - at);
        let fits = rest.append(&self[at..]);
        debug_assert!(fits, "made to fit");
        self.truncate(at);
        rest
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(store: Vec<u8>) -> Self {
        let end = store.len();
        Self { store, start: 0, end, home: None }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.store[self.start..self.end]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.start..self.end]
    }
}

impl fmt::Debug for Buffer {
    /// The length only: payload never reaches a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give(std::mem::take(&mut self.store));
        }
    }
}

/// A receive's place in the queue for a store.
#[derive(Clone, Debug, Default)]
pub struct Place(Rc<RefCell<Option<Waker>>>);

impl Place {
    /// Leaves the queue. False if it was not in it (any more): it may have been woken for a store.
    pub fn leave(&self) -> bool {
        self.0.take().is_some()
    }
}

/// One worker's stock of buffers, used last in, first out, so that the same few stay in the processor's cache.
#[derive(Debug)]
pub struct Pool {
    free: RefCell<Vec<Vec<u8>>>,
    out: Cell<usize>,
    buffers_max: usize,
    returned: Cell<u64>,
    waiting: RefCell<VecDeque<Place>>,
}

impl Pool {
    /// A pool that hands out at most `buffers_max` stores to receives.
    pub fn new(buffers_max: usize) -> Rc<Self> {
        Rc::new(Self {
            free: RefCell::new(Vec::new()),
            out: Cell::new(0),
            buffers_max,
            returned: Cell::new(0),
            waiting: RefCell::new(VecDeque::new()),
        })
    }

    /// A store of [`BUFFER_BYTES`], or none when the pool's bound is reached. For receives, which can wait.
    pub fn take(&self) -> Option<Vec<u8>> {
        if self.is_exhausted() {
            return None;
        }
        Some(self.take_beyond_bound())
    }

    /// Whether [`take`](Self::take) would give none.
    pub fn is_exhausted(&self) -> bool {
        self.out.get() >= self.buffers_max
    }

    /// A store even beyond the bound: for what must be composed to end a connection. Bounded by the number of
    /// connections, each of which composes one at a time.
    pub fn take_beyond_bound(&self) -> Vec<u8> {
        self.out.set(self.out.get() + 1);
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES])
    }

    /// Takes a store back.
    pub fn give(&self, store: Vec<u8>) {
        debug_assert_eq!(store.len(), BUFFER_BYTES, "only the pool's own stores come home");
        self.out.set(self.out.get().saturating_sub(1));
        self.returned.set(self.returned.get() + 1);
        let mut free = self.free.borrow_mut();
        if free.len() < self.buffers_max {
            free.push(store);
        }
        drop(free);
        self.wake_waiting();
    }

    /// Has `waker` woken when a store may be had. For receives that found none; a woken receive that still finds
    /// none waits again. First come, first woken; who waits already keeps its place.
    pub fn wait(&self, place: &Place, waker: &Waker) {
        let mut kept = place.0.borrow_mut();
        match kept.as_ref() {
            Some(earlier) if earlier.will_wake(waker) => {}
            Some(_) => *kept = Some(waker.clone()),
            None => {
                *kept = Some(waker.clone());
                self.waiting.borrow_mut().push_back(place.clone());
            }
        }
    }

    /// Wakes as many waiting receives as there are stores to be had. Called by itself when a store comes home, and by
    /// an engine when a receive that was woken is given up without having taken one.
    pub fn wake_waiting(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        // Somebody woken may not come for its store. While stores are out, the next one home wakes others in its
        // place; when the last is home nobody else would, so all are woken.
        let out = self.out.get();
        let stores = if out == 0 { usize::MAX } else { self.buffers_max.saturating_sub(out) };
        for _ in 0..stores {
            let waker = loop {
                let Some(place) = self.waiting.borrow_mut().pop_front() else { return };
                let Some(waker) = place.0.take() else { continue };
                break waker;
            };
            waker.wake();
        }
    }

    /// An empty buffer with headroom, for composing.
    pub fn buffer(self: &Rc<Self>) -> Buffer {
        let store = self.take_beyond_bound();
        Buffer::from_parts(store, BUFFER_HEADROOM_BYTES, BUFFER_HEADROOM_BYTES, Some(Rc::clone(self)))
    }

    /// Stores that are out now.
    pub fn in_use(&self) -> usize {
        self.out.get()
    }

    /// How many stores have ever come home: tells a waiting receive that it may try again.
    pub fn returned(&self) -> u64 {
        self.returned.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_goes_home_and_is_used_again() {
        let pool = Pool::new(1);
        let store = pool.take().unwrap();
        let address = store.as_ptr();
        assert!(pool.take().is_none(), "the bound holds");
        drop(Buffer::from_parts(store, 0, 0, Some(Rc::clone(&pool))));
        assert_eq!(pool.in_use(), 0);
        let store = pool.take().unwrap();
        assert_eq!(store.as_ptr(), address, "last in, first out");
    }

    #[test]
    fn a_store_that_comes_home_wakes_the_first_who_waits() {
        #[derive(Default)]
        struct Woken(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let wakers: Vec<_> = (0..4).map(|_| std::sync::Arc::new(Woken::default())).collect();
        let woken = || {
            wakers.iter().map(|woken| woken.0.load(std::sync::atomic::Ordering::Relaxed)).collect::<Vec<_>>()
        };
        let pool = Pool::new(3);
        let (one, other, last) = (pool.take().unwrap(), pool.take().unwrap(), pool.take().unwrap());
        let places = [(); 4].map(|()| Place::default());
        for (place, waker) in places.iter().zip(&wakers) {
            let waker = std::sync::Arc::clone(waker).into();
            pool.wait(place, &waker);
            pool.wait(place, &waker);
        }
        pool.give(one);
        assert_eq!(woken(), [1, 0, 0, 0], "one store, one wake");
        let one = pool.take().unwrap();
        assert!(places[1].leave() && !places[0].leave());
        pool.give(other);
        assert_eq!(woken(), [1, 0, 1, 0], "who has left is passed over");
        pool.give(one);
        pool.give(last);
        assert_eq!(woken(), [1, 0, 1, 1], "all stores are home: nobody may be left waiting");
    }

    #[test]
    fn bytes_can_be_written_before_and_behind() {
        let pool = Pool::new(1);
        let mut buffer = pool.buffer();
        assert!(buffer.append(b"data"));
        assert!(buffer.prepend(b"4\r\n"));
        assert!(buffer.append(b"\r\n"));
        assert_eq!(&*buffer, b"4\r\ndata\r\n");
        buffer.advance(3);
        buffer.truncate(4);
        assert_eq!(&*buffer, b"data");
        assert!(!buffer.append(&vec![0; BUFFER_BYTES]), "no room: nothing is written");
        assert_eq!(&*buffer, b"data");
        assert_eq!(&*buffer.split_off(1), b"ata");
        assert_eq!(&*buffer, b"d");
    }
}
