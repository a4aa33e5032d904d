//! Tasks on one thread. Which ready task runs next is for the world to draw; wakers may be called from anywhere.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

pub(crate) type TaskId = u64;
pub(crate) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The task that `block_on` itself polls.
pub(crate) const MAIN_TASK: TaskId = 0;

/// Tasks that were woken and have not run since, in order of waking.
type ReadyList = Arc<Mutex<Vec<TaskId>>>;

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    ready: ReadyList,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

struct Task {
    /// Not there while it is being polled.
    future: Option<TaskFuture>,
    waker: Arc<TaskWaker>,
}

pub(crate) struct Executor {
    ready: ReadyList,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    main: Arc<TaskWaker>,
    next_id: Cell<TaskId>,
}

impl Executor {
    pub(crate) fn new() -> Self {
        let ready = ReadyList::default();
        let main =
            Arc::new(TaskWaker { id: MAIN_TASK, queued: AtomicBool::new(false), ready: Arc::clone(&ready) });
        Self { ready, tasks: RefCell::default(), main, next_id: Cell::new(MAIN_TASK + 1) }
    }

    pub(crate) fn spawn(&self, future: TaskFuture) {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let waker =
            Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        waker.wake_by_ref();
        self.tasks.borrow_mut().insert(id, Task { future: Some(future), waker });
    }

    /// How many tasks are ready.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes the ready task at `index`, in order of waking.
    pub(crate) fn take_ready(&self, index: usize) -> TaskId {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).remove(index)
    }

    pub(crate) fn main_waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.main))
    }

    /// The main task is about to be polled: later wakes queue it again.
    pub(crate) fn main_runs(&self) {
        self.main.queued.store(false, Ordering::Release);
    }

    pub(crate) fn wake_main(&self) {
        self.main.wake_by_ref();
    }

    /// Takes a task out to poll it. `None` if it has ended, or is being polled further up the stack.
    pub(crate) fn begin(&self, id: TaskId) -> Option<(TaskFuture, Waker)> {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks.get_mut(&id)?;
        task.waker.queued.store(false, Ordering::Release);
        let future = task.future.take()?;
        Some((future, Waker::from(Arc::clone(&task.waker))))
    }

    /// Puts a task back that is not done.
    pub(crate) fn put_back(&self, id: TaskId, future: TaskFuture) {
        if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
            task.future = Some(future);
        }
    }

    pub(crate) fn remove(&self, id: TaskId) {
        self.tasks.borrow_mut().remove(&id);
    }

    pub(crate) fn task_count(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// Drops all tasks. What a task does when it is dropped may spawn others: those go too.
    pub(crate) fn clear(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            if tasks.is_empty() {
                return;
            }
            drop(tasks);
        }
    }
}
