//! The engine itself: runtime, clock, tasks, and what all sockets of one worker share. It must not know how bytes
//! move; `stream` and `relay` do.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use slab::Slab;
use sluice_engine::limits::POOL_BUFFERS_MAX;
use sluice_engine::{Buffer, Engine, EngineStats, Instant, Kind, Pool, RelaySetup, SourceAddress};
use sluice_relay::Report;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::AbortHandle;

use crate::connect::connect;
use crate::limits::{CLEAN_UP_ROUNDS_MAX, PIPE_BYTES, PIPES_MAX, TURN_BYTES_MAX};
use crate::listener::{EpollListener, listen};
use crate::pipe::PipePool;
use crate::random::Random;
use crate::relay::Relay;
use crate::sleep::EpollSleep;
use crate::splice::EpollPipe;
use crate::stream::EpollStream;

/// What an engine is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Buffers that receives may hold at a time; more receives wait. At least 1.
    pub pool_buffers_max: usize,
    /// Pipes for splice(2), in use and pooled; 0 means that nothing is spliced.
    pub pipes_max: usize,
    /// The capacity that a pipe is asked to have. Bytes.
    pub pipe_bytes: usize,
    /// Bytes that one tunnel moves before other tasks get their turn.
    pub turn_bytes_max: usize,
    /// Never sleep in the kernel: lower latency for a whole core.
    pub busy_poll: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool_buffers_max: POOL_BUFFERS_MAX,
            pipes_max: PIPES_MAX,
            pipe_bytes: PIPE_BYTES,
            turn_bytes_max: TURN_BYTES_MAX,
            busy_poll: false,
        }
    }
}

/// One worker's epoll engine. Cloning gives another handle on it.
#[derive(Clone, Debug)]
pub struct EpollEngine {
    shared: Rc<Shared>,
}

/// What every socket and task of one engine shares.
#[derive(Debug)]
pub(crate) struct Shared {
    runtime: LocalRuntime,
    tasks: RefCell<Slab<AbortHandle>>,
    busy_poll: bool,
    start: std::time::Instant,
    random: Random,
    turns: Arc<AtomicU64>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) pipes: PipePool,
    pub(crate) turn_bytes_max: usize,
    pub(crate) figures: Figures,
}

/// Counted where things happen; read by [`EpollEngine::stats`].
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) buffers_exhausted: Cell<u64>,
    pub(crate) splice_promotions: Cell<u64>,
    pub(crate) splice_demotions: Cell<u64>,
    pub(crate) splicing: Cell<usize>,
    pub(crate) tasks_panicked: Cell<u64>,
}

/// Counts one up.
pub(crate) fn count(cell: &Cell<u64>) {
    cell.set(cell.get().saturating_add(1));
}

impl EpollEngine {
    /// An engine for this thread.
    ///
    /// # Errors
    /// As epoll_create1(2) and eventfd(2).
    pub fn new(config: Config) -> io::Result<Self> {
        let turns = Arc::new(AtomicU64::new(0));
        let parked = Arc::clone(&turns);
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .on_thread_park(move || {
                parked.fetch_add(1, Ordering::Relaxed);
            })
            .build_local(LocalOptions::default())?;
        Ok(Self {
            shared: Rc::new(Shared {
                runtime,
                tasks: RefCell::new(Slab::new()),
                busy_poll: config.busy_poll,
                start: std::time::Instant::now(),
                random: Random::from_system(),
                turns,
                pool: Pool::new(config.pool_buffers_max.max(1)),
                pipes: PipePool::new(config.pipes_max, config.pipe_bytes),
                turn_bytes_max: config.turn_bytes_max,
                figures: Figures::default(),
            }),
        })
    }

    /// Runs `future`, and beside it every task that is spawned, on this thread until `future` ends. Tasks that are left
    /// then are dropped.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        if self.shared.busy_poll {
            self.spawn(async {
                // Always ready again behind everything else, so that the runtime looks at epoll without waiting.
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        let output = self.shared.runtime.block_on(future);
        self.drop_tasks();
        output
    }

    /// Leftover tasks hold handles on this engine, so it would never be freed with them.
    fn drop_tasks(&self) {
        for _ in 0..CLEAN_UP_ROUNDS_MAX {
            for (_, task) in &*self.shared.tasks.borrow() {
                task.abort();
            }
            if self.shared.tasks.borrow().is_empty() {
                return;
            }
            self.shared.runtime.block_on(tokio::task::yield_now());
        }
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Instant {
        let nanos = self.start.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn sleep_until(&self, at: Instant) -> EpollSleep {
        EpollSleep::new(self.start, at)
    }
}

/// A task that takes itself out of the table when it ends, however it ends. The future is boxed, because an async
/// block around it would hold it twice.
struct Task<F> {
    shared: Rc<Shared>,
    key: usize,
    future: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let future = self.future.as_mut();
        // After a panic the future is only dropped, so that what it left half done is not seen by itself again.
        catch_unwind(AssertUnwindSafe(|| future.poll(cx))).unwrap_or_else(|_panic| {
            count(&self.shared.figures.tasks_panicked);
            Poll::Ready(())
        })
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        self.shared.tasks.borrow_mut().try_remove(self.key);
    }
}

impl Engine for EpollEngine {
    type Listener = EpollListener;
    type Pipe = EpollPipe;
    type Stream = EpollStream;
    type Sleep = EpollSleep;

    fn kind(&self) -> Kind {
        Kind::Epoll
    }

    fn now(&self) -> Instant {
        self.shared.now()
    }

    fn unix_micros(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        self.shared.random.next()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.shared.tasks.borrow_mut();
        let vacant = tasks.vacant_entry();
        let task = Task { shared: Rc::clone(&self.shared), key: vacant.key(), future: Box::pin(task) };
        let handle = self.shared.runtime.spawn_local(task);
        vacant.insert(handle.abort_handle());
    }

    fn sleep_until(&self, at: Instant) -> EpollSleep {
        self.shared.sleep_until(at)
    }

    /// Lets the kernel's events in as well as every other task that is ready.
    fn yield_now(&self) -> impl Future<Output = ()> {
        tokio::task::yield_now()
    }

    fn listen(&self, address: SocketAddr, socket: Option<TcpListener>) -> io::Result<EpollListener> {
        let _within = self.shared.runtime.enter();
        listen(&self.shared, address, socket)
    }

    fn connect(
        &self,
        to: SocketAddr,
        from: Option<SourceAddress>,
    ) -> impl Future<Output = io::Result<EpollStream>> + 'static {
        connect(Rc::clone(&self.shared), to, from)
    }

    fn relay(
        &self,
        downstream: EpollStream,
        upstream: EpollStream,
        setup: RelaySetup,
    ) -> impl Future<Output = Report> + 'static {
        Relay::new(&self.shared, [downstream, upstream], setup)
    }

    fn pipe(&self) -> EpollPipe {
        EpollPipe::new(&self.shared)
    }

    fn buffer(&self) -> Buffer {
        self.shared.pool.buffer()
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            buffers_in_use: self.shared.pool.in_use(),
            buffers_exhausted: self.shared.figures.buffers_exhausted.get(),
            splice_promotions: self.shared.figures.splice_promotions.get(),
            splice_demotions: self.shared.figures.splice_demotions.get(),
            splicing: self.shared.figures.splicing.get(),
            tasks_panicked: self.shared.figures.tasks_panicked.get(),
            completions_lost: 0,
            turns: self.shared.turns.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn busy_polling_sees_timers_and_sockets_and_ends_with_its_future() {
        let engine = EpollEngine::new(Config { busy_poll: true, ..Config::default() }).unwrap();
        for _ in 0..2 {
            engine.block_on(async {
                engine.sleep_until(engine.now() + Duration::from_millis(5)).await;
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                let at = socket.local_addr().unwrap();
                let listener = engine.listen(at, Some(socket)).unwrap();
                engine.connect(at, None).await.unwrap();
                sluice_engine::Listener::accept(&listener).await.unwrap();
            });
            assert!(engine.shared.tasks.borrow().is_empty(), "nothing is left behind");
        }
        assert_eq!(Rc::strong_count(&engine.shared), 1, "and nothing keeps the engine");
    }

    #[test]
    fn tasks_that_are_left_are_dropped() {
        let engine = EpollEngine::new(Config::default()).unwrap();
        let again = engine.clone();
        engine.spawn(async move {
            let _started_by_a_drop = starts_a_task(again);
            std::future::pending::<()>().await;
        });
        engine.block_on(engine.yield_now());
        assert!(engine.shared.tasks.borrow().is_empty());
        assert_eq!(Rc::strong_count(&engine.shared), 1);
    }

    /// Starts a task that never ends when it is dropped.
    fn starts_a_task(engine: EpollEngine) -> impl Drop {
        struct Starts(EpollEngine);
        impl Drop for Starts {
            fn drop(&mut self) {
                self.0.spawn(std::future::pending());
            }
        }
        Starts(engine)
    }
}
