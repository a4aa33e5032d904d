//! The worker: executor, I/O state and clock together, and the loop that turns them. Everything that an engine hands
//! out holds this.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sluice_engine::{Instant, Pool};

use crate::Config;
use crate::executor::Executor;
use crate::io::Io;
use crate::limits::{SLEEP_MS_MAX, TASKS_PER_TURN};

/// See the module.
pub(crate) struct Core {
    pub(crate) executor: Executor,
    /// Dropped by hand: if the kernel cannot be made to let go of its memory, that is leaked, never freed.
    io: RefCell<std::mem::ManuallyDrop<Io>>,
    pub(crate) pool: Rc<Pool>,
    now: Cell<Instant>,
    started: std::time::Instant,
    random: Cell<u64>,
    busy_poll: bool,
    pub(crate) turns: Cell<u64>,
}

impl Core {
    pub(crate) fn new(config: &Config) -> io::Result<Rc<Self>> {
        ignore_sigpipe();
        let executor = Executor::new()?;
        let pool = Pool::new(config.pool_buffers_max);
        let io = Io::new(config, Rc::clone(&pool), executor.remote().event_fd())?;
        Ok(Rc::new(Self {
            executor,
            io: RefCell::new(std::mem::ManuallyDrop::new(io)),
            pool,
            now: Cell::new(Instant::default()),
            started: std::time::Instant::now(),
            // The standard library's hasher keys are drawn from the system's randomness.
            random: Cell::new(RandomState::new().hash_one(0)),
            busy_poll: config.busy_poll,
            turns: Cell::new(0),
        }))
    }

    /// Works on the I/O state; then, with the state free again, wakes and drops the wakers that came of it.
    pub(crate) fn with_io<T>(&self, work: impl FnOnce(&mut Io) -> T) -> T {
        let mut io = self.io.borrow_mut();
        let result = work(&mut io);
        if io.wakes.is_empty() && io.garbage.is_empty() {
            return result;
        }
        let mut wakes = std::mem::take(&mut io.wakes);
        let mut garbage = std::mem::take(&mut io.garbage);
        drop(io);
        wakes.drain(..).for_each(Waker::wake);
        garbage.clear();
        // The storage goes back, so that the next time allocates nothing.
        let mut io = self.io.borrow_mut();
        if io.wakes.is_empty() {
            io.wakes = wakes;
        }
        if io.garbage.is_empty() {
            io.garbage = garbage;
        }
        result
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    fn refresh_clock(&self) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.now.set(Instant::from_nanos(nanos));
    }

    /// SplitMix64: a full-period sequence from a random start.
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Runs `future` and every task on this thread until `future` is done; drops the tasks that are left, and waits
    /// until nothing is in flight.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.executor.enter();
        let _entered = Entered(self);
        let mut future = pin!(future);
        let main = self.executor.main_waker();
        let waker = Waker::from(std::sync::Arc::clone(&main));
        let mut cx = Context::from_waker(&waker);
        self.refresh_clock();
        self.with_io(|io| io.now = self.now.get());
        loop {
            if main.take()
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return output;
            }
            let more = self.executor.run_ready(TASKS_PER_TURN);
            self.turn(!more && !main.is_woken());
        }
    }

    /// One submission and what comes of it.
    fn turn(&self, idle: bool) {
        let remote = self.executor.remote();
        let wait = self.wait(idle).filter(|_| remote.prepare_sleep());
        let turned = self.with_io(|io| io.turn(wait));
        remote.awake();
        // It fails only if the ring itself is gone or misused: nothing could go on.
        turned.expect("a ring that was set up takes submissions");
        self.refresh_clock();
        self.turns.set(self.turns.get() + 1);
        self.with_io(|io| {
            io.now = self.now.get();
            io.complete_all();
            io.continue_splices();
            io.fire_timers();
        });
    }

    /// How long the worker may sleep; none if there is work.
    fn wait(&self, idle: bool) -> Option<Duration> {
        if !idle || self.busy_poll {
            return None;
        }
        let longest = Duration::from_millis(SLEEP_MS_MAX);
        let io = self.io.borrow();
        if !io.continuing.is_empty() {
            return None;
        }
        let Some(earliest) = io.timers.earliest() else { return Some(longest) };
        let wait = earliest.since(self.now.get());
        (!wait.is_zero()).then_some(wait.min(longest))
    }
}

/// Splicing into a socket that the peer has closed raises SIGPIPE, and there is no flag against it. Rust's runtime
/// ignores the signal in every Rust binary; a host that does not is put right here.
fn ignore_sigpipe() {
    // SAFETY: ignoring a signal runs no code in it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The worker is on this thread.
struct Entered<'a>(&'a Core);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.executor.leave();
        self.0.with_io(Io::drain);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let io = self.io.get_mut();
        // What an owner dropped outside of `block_on` may still be in flight.
        if io.drain() {
            // SAFETY: this is the end of `Core`: `io` is neither used nor dropped again.
            unsafe { std::mem::ManuallyDrop::drop(io) };
        }
    }
}
