//! The io_uring engine: the gateway's fast path, and the one crate of the product with `unsafe` code.
//!
//! One worker thread owns one ring. The ring is created disabled, restricted to the few operations that a proxy needs
//! and only then enabled. The worker's turn is: take completions, run the tasks that they woke, expire timers, submit
//! everything and wait in one system call.
//!
//! Memory that the kernel works on is owned by a slot of the engine until the operation's last completion, whatever
//! happens to the future that asked for it; a completion finds its slot by index and generation, so that a late one
//! can never be taken for another connection's. The public interface is safe.

mod buffers;
mod connect;
mod core;
mod executor;
mod io;
mod kernel;
pub mod limits;
mod listener;
mod ops;
mod pass;
mod pipes;
mod probe;
mod relay;
mod restrict;
mod ring;
mod selftest;
mod slab;
mod sleep;
mod socket;
mod splice;
mod stream;
mod timer;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use listener::Listener;
pub use pass::Pipe;
pub use probe::{Probe, Unavailable, probe};
pub use sleep::Sleep;
use sluice_engine::{Buffer, Engine, EngineStats, Instant, Kind, RelaySetup, SourceAddress};
use sluice_relay::Report;
pub use stream::{Abort, Stream};

use crate::core::Core;

/// What a worker's engine is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Entries of the submission queue; the kernel rounds up to a power of two.
    pub submission_entries: u32,
    /// Entries of the completion queue.
    pub completion_entries: u32,
    /// Buffers that the pool gives to receives at most, those that wait in the kernel's ring included.
    pub pool_buffers_max: usize,
    /// Empty buffers that wait in the kernel's ring, at most. A power of two.
    pub ring_buffers: u16,
    /// Pipes for splicing at most.
    pub pipes_max: usize,
    /// Bytes that a pipe is asked to hold.
    pub pipe_bytes: usize,
    /// Bytes that one direction of a relay may splice in one turn; one splice more may be as large as a pipe.
    pub splice_turn_bytes_max: usize,
    /// Never sleep: a whole core for the lowest latency.
    pub busy_poll: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            submission_entries: limits::SUBMISSION_ENTRIES,
            completion_entries: limits::COMPLETION_ENTRIES,
            pool_buffers_max: sluice_engine::limits::POOL_BUFFERS_MAX,
            ring_buffers: limits::RING_BUFFERS,
            pipes_max: limits::PIPES_MAX,
            pipe_bytes: limits::PIPE_BYTES,
            splice_turn_bytes_max: limits::SPLICE_TURN_BYTES_MAX,
            busy_poll: false,
        }
    }
}

/// One worker's engine. It belongs to the thread that made it.
#[derive(Clone)]
pub struct UringEngine {
    core: Rc<Core>,
}

impl UringEngine {
    /// Sets up a ring for the calling thread.
    ///
    /// # Errors
    /// Why it cannot be had, and the remedy. [`probe`] finds out more.
    pub fn new(config: Config) -> Result<Self, Unavailable> {
        let core = Core::new(&config).map_err(|error| probe::explain(&error))?;
        Ok(Self { core })
    }

    /// Runs `future` and everything that it spawns on this thread, until `future` is done. Tasks that are left then are
    /// dropped, and it returns when nothing is in flight any more.
    ///
    /// # Panics
    /// If it is called within another engine's `block_on`, and with `future`.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.core.block_on(future)
    }
}

impl Engine for UringEngine {
    type Listener = Listener;
    type Pipe = Pipe;
    type Sleep = Sleep;
    type Stream = Stream;

    fn kind(&self) -> Kind {
        Kind::Uring
    }

    fn now(&self) -> Instant {
        self.core.now()
    }

    fn unix_micros(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        self.core.random()
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.core.executor.spawn(task);
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(Rc::clone(&self.core), at)
    }

    fn listen(&self, address: SocketAddr, socket: Option<TcpListener>) -> std::io::Result<Listener> {
        Listener::new(Rc::clone(&self.core), address, socket)
    }

    fn connect(
        &self,
        to: SocketAddr,
        from: Option<SourceAddress>,
    ) -> impl Future<Output = std::io::Result<Stream>> + 'static {
        connect::connect(Rc::clone(&self.core), to, from)
    }

    fn relay(
        &self,
        downstream: Stream,
        upstream: Stream,
        setup: RelaySetup,
    ) -> impl Future<Output = Report> + 'static {
        let ours = |stream: &Stream| Rc::ptr_eq(stream.core(), &self.core);
        assert!(ours(&downstream) && ours(&upstream), "a relay's streams are its engine's own");
        relay::Relay::start(Rc::clone(&self.core), downstream.into_key(), upstream.into_key(), setup)
    }

    fn pipe(&self) -> Pipe {
        Pipe::new(Rc::clone(&self.core))
    }

    fn buffer(&self) -> Buffer {
        self.core.pool.buffer()
    }

    fn stats(&self) -> EngineStats {
        let in_use = self.core.pool.in_use();
        self.core.with_io(|io| EngineStats {
            buffers_in_use: in_use.saturating_sub(io.buffers.published()),
            buffers_exhausted: io.buffers_exhausted,
            splice_promotions: io.splice_promotions,
            splice_demotions: io.splice_demotions,
            splicing: io.splicing,
            tasks_panicked: self.core.executor.panics(),
            completions_lost: io.ring.completions_lost(),
            turns: self.core.turns.get(),
        })
    }
}
