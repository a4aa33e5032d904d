//! The bounded hand-over of formatted lines to a writer's own thread: drop and count, never wait. Knows no file.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whole lines, each with its line end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The text.
    pub bytes: Vec<u8>,
    /// How many lines it is.
    pub lines: u64,
}

/// What a writer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Lines that the system took.
    pub written: u64,
    /// Lines that were lost: a full backlog, a full disk, an error.
    pub dropped: u64,
}

/// What the writer's thread takes out.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Lines to write.
    Batch(Batch),
    /// Open the file anew: it may have been renamed away.
    Reopen,
    /// Nothing more will come.
    End,
}

#[derive(Debug, Default)]
struct Queue {
    /// In order; at most one reopening waits at the end.
    items: VecDeque<Taken>,
    bytes: usize,
    closed: bool,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    bytes_max: usize,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Shared {
    /// A panic while the lock is held cannot leave the queue half-changed: every change is one step.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The giving end.
#[derive(Debug)]
pub struct Backlog(Arc<Shared>);

/// The writer's end.
#[derive(Debug)]
pub struct BacklogEnd(Arc<Shared>);

/// Both ends of a backlog of at most so many bytes.
pub fn backlog(bytes_max: usize) -> (Backlog, BacklogEnd) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        changed: Condvar::new(),
        bytes_max,
        written: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    });
    (Backlog(Arc::clone(&shared)), BacklogEnd(shared))
}

impl Backlog {
    /// Hands lines over, or drops and counts them where there is no room. Never waits for the writer.
    pub fn push(&self, batch: Batch) {
        let mut queue = self.0.lock();
        if queue.ended || queue.bytes + batch.bytes.len() > self.0.bytes_max {
            self.0.dropped.fetch_add(batch.lines, Relaxed);
            return;
        }
        queue.bytes += batch.bytes.len();
        queue.items.push_back(Taken::Batch(batch));
        self.0.changed.notify_all();
    }

    /// Asks for the file to be opened anew; lines handed over before go to the old one, later ones to the new.
    pub fn reopen(&self) {
        let mut queue = self.0.lock();
        if queue.items.back() != Some(&Taken::Reopen) {
            queue.items.push_back(Taken::Reopen);
        }
        self.0.changed.notify_all();
    }

    /// What became of the lines so far.
    pub fn stats(&self) -> LogStats {
        LogStats { written: self.0.written.load(Relaxed), dropped: self.0.dropped.load(Relaxed) }
    }

    /// Says that nothing more will come and waits until the writer has taken everything, so long at most.
    pub fn finish(&self, wait_max: Duration) {
        let deadline = Instant::now() + wait_max;
        let mut queue = self.0.lock();
        queue.closed = true;
        self.0.changed.notify_all();
        while !queue.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl BacklogEnd {
    /// Waits for something to do.
    pub fn take(&self) -> Taken {
        let mut queue = self.0.lock();
        loop {
            if let Some(item) = queue.items.pop_front() {
                if let Taken::Batch(batch) = &item {
                    queue.bytes -= batch.bytes.len();
                }
                return item;
            }
            if queue.closed {
                return Taken::End;
            }
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Counts lines that the system took.
    pub fn written(&self, lines: u64) {
        self.0.written.fetch_add(lines, Relaxed);
    }

    /// Counts lines that are lost.
    pub fn dropped(&self, lines: u64) {
        self.0.dropped.fetch_add(lines, Relaxed);
    }
}

impl Drop for BacklogEnd {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.ended = true;
        let lines = |item| if let Taken::Batch(batch) = item { batch.lines } else { 0 };
        let lost: u64 = queue.items.drain(..).map(lines).sum();
        self.0.dropped.fetch_add(lost, Relaxed);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &str) -> Batch {
        Batch { bytes: text.as_bytes().to_vec(), lines: 1 }
    }

    #[test]
    fn a_full_backlog_drops_and_counts() {
        let (give, take) = backlog(6);
        give.push(batch("one\n"));
        give.push(batch("two\n"));
        assert_eq!(give.stats(), LogStats { written: 0, dropped: 1 });
        assert_eq!(take.take(), Taken::Batch(batch("one\n")));
        give.push(batch("three\n"));
        assert_eq!(give.stats().dropped, 1);
    }

    #[test]
    fn reopening_keeps_its_place_among_the_lines() {
        let (give, take) = backlog(100);
        give.push(batch("one\n"));
        give.reopen();
        give.reopen();
        give.push(batch("two\n"));
        assert_eq!(take.take(), Taken::Batch(batch("one\n")));
        assert_eq!(take.take(), Taken::Reopen);
        assert_eq!(take.take(), Taken::Batch(batch("two\n")));
        drop(give);
        assert_eq!(take.take(), Taken::End);
    }

    #[test]
    fn finishing_waits_for_the_writer_and_not_for_ever() {
        let (give, take) = backlog(100);
        give.push(batch("one\n"));
        give.finish(Duration::from_millis(10));
        let writer = std::thread::spawn(move || {
            while take.take() != Taken::End {
                take.written(1);
            }
        });
        give.finish(Duration::from_secs(10));
        assert_eq!(give.stats(), LogStats { written: 1, dropped: 0 });
        writer.join().expect("the writer ends");
    }
}
