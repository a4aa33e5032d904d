//! Tasks of one thread: a ready queue without locks for wakes from this thread, a locked one with an eventfd for wakes
//! from others. Knows no I/O but the descriptor that ends the worker's wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use async_task::Runnable;
use rustix::event::{EventfdFlags, eventfd};

use crate::slab::{Key, Slab};

/// Rounds of dropping what is left; a task that is dropped may wake or spawn others.
const SHUTDOWN_ROUNDS_MAX: usize = 1000;

thread_local! {
    static HERE: Here = const { Here { worker: Cell::new(0), ready: RefCell::new(VecDeque::new()) } };
}

/// The worker that runs on this thread, by the address of its [`Remote`], and its ready tasks.
struct Here {
    worker: Cell<usize>,
    ready: RefCell<VecDeque<Runnable>>,
}

/// The part of an executor that other threads reach.
pub(crate) struct Remote {
    queue: Mutex<VecDeque<Runnable>>,
    /// Something came from another thread since the worker last looked.
    pending: AtomicBool,
    /// The worker waits, or is about to.
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Remote {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Runnable>> {
        // The queue is whole at every step: a panic of another thread while it held the lock has broken nothing.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_here(&self) -> bool {
        HERE.try_with(|here| here.worker.get() == std::ptr::from_ref(self) as usize).unwrap_or(false)
    }

    fn schedule(&self, runnable: Runnable) {
        if self.is_here() {
            HERE.with(|here| here.ready.borrow_mut().push_back(runnable));
        } else {
            self.queue().push_back(runnable);
            self.notify();
        }
    }

    /// Ends the worker's wait, if it waits: nobody pays for the system call otherwise.
    fn notify(&self) {
        self.pending.store(true, Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // It can only fail if the counter is near 2^64, and then the worker is being woken anyway.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Announces that the worker is about to wait; false if there is something to do after all.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            self.sleeping.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// The descriptor to read while the worker waits.
    pub(crate) fn event_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// Wakes the future that `block_on` was called with.
pub(crate) struct MainWaker {
    remote: Arc<Remote>,
    woken: AtomicBool,
}

impl MainWaker {
    pub(crate) fn take(&self) -> bool {
        self.woken.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        if !self.remote.is_here() {
            self.remote.notify();
        }
    }
}

/// See the module.
pub(crate) struct Executor {
    remote: Arc<Remote>,
    /// A waker of every task that has not ended, so that all can be dropped at the end.
    tasks: Rc<RefCell<Slab<Waker>>>,
    panics: Cell<u64>,
}

impl Executor {
    pub(crate) fn new() -> io::Result<Self> {
        let remote = Remote {
            queue: Mutex::new(VecDeque::new()),
            pending: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC)?,
        };
        Ok(Self { remote: Arc::new(remote), tasks: Rc::new(RefCell::new(Slab::new())), panics: Cell::new(0) })
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(crate) fn main_waker(&self) -> Arc<MainWaker> {
        Arc::new(MainWaker { remote: Arc::clone(&self.remote), woken: AtomicBool::new(true) })
    }

    /// Tasks that panicked so far.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// Makes this the thread's worker.
    ///
    /// # Panics
    /// If another one runs on this thread.
    pub(crate) fn enter(&self) {
        HERE.with(|here| {
            assert_eq!(here.worker.get(), 0, "one engine at a time runs on a thread");
            here.worker.set(Arc::as_ptr(&self.remote) as usize);
        });
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let key = self.tasks.borrow_mut().insert(Waker::noop().clone());
        let entry = TaskEntry { tasks: Rc::clone(&self.tasks), key };
        let remote = Arc::clone(&self.remote);
        let (runnable, task) = async_task::spawn_local(
            async move {
                let _entry = entry;
                future.await;
            },
            move |runnable| remote.schedule(runnable),
        );
        if let Some(waker) = self.tasks.borrow_mut().get_mut(key) {
            *waker = runnable.waker();
        }
        task.detach();
        runnable.schedule();
    }

    /// Runs at most `tasks_max` tasks that are ready; true if more are.
    pub(crate) fn run_ready(&self, tasks_max: usize) -> bool {
        self.collect_remote();
        for _ in 0..tasks_max {
            let Some(runnable) = Self::next_ready() else { return false };
            if catch_unwind(AssertUnwindSafe(|| runnable.run())).is_err() {
                self.panics.set(self.panics.get() + 1);
            }
        }
        HERE.with(|here| !here.ready.borrow().is_empty())
    }

    fn next_ready() -> Option<Runnable> {
        HERE.with(|here| here.ready.borrow_mut().pop_front())
    }

    fn collect_remote(&self) {
        if self.remote.pending.swap(false, Ordering::SeqCst) {
            let mut queue = self.remote.queue();
            HERE.with(|here| here.ready.borrow_mut().extend(queue.drain(..)));
        }
    }

    /// Drops every task and leaves the thread.
    pub(crate) fn leave(&self) {
        for _ in 0..SHUTDOWN_ROUNDS_MAX {
            let keys = self.tasks.borrow().keys();
            for key in keys {
                let waker = self.tasks.borrow().get(key).cloned();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            self.remote.pending.store(true, Ordering::SeqCst);
            self.collect_remote();
            while let Some(runnable) = Self::next_ready() {
                // Dropping what was to run drops its future.
                if catch_unwind(AssertUnwindSafe(|| drop(runnable))).is_err() {
                    self.panics.set(self.panics.get() + 1);
                }
            }
            if self.tasks.borrow().len() == 0 {
                break;
            }
        }
        HERE.with(|here| here.worker.set(0));
    }
}

/// Takes the task out of the table when its future is dropped, however that comes about.
struct TaskEntry {
    tasks: Rc<RefCell<Slab<Waker>>>,
    key: Key,
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        let waker = self.tasks.borrow_mut().remove(self.key);
        drop(waker);
    }
}
