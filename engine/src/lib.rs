//! One thread's I/O behind one trait: accept, connect, receive, send, relay, sleep, spawn.
//!
//! Sessions are written once against [`Engine`] and run unchanged on io_uring, on epoll and in the simulator.
//! This crate knows no policy, no protocol and no operating-system ring; it holds what the three engines
//! share: owned buffers and their pool, the worker's clock, deadlines.
//!
//! # The contract that every engine keeps
//!
//! - **One thread.** An engine and everything that it hands out stay on the thread that made it. Wakers alone may
//!   be called from elsewhere: a wake from another thread ends the engine's wait.
//! - **The stream owns its operations.** Dropping a future of [`Stream::receive`] loses nothing: a receive that is
//!   under way stays with the stream and the next call gets its bytes. So a deadline around a receive is safe.
//! - **One receive and one send in flight per stream.** Kernels may reorder more than one (io_uring does).
//! - **Idle streams hold no buffer.** A receive takes its buffer from the worker's pool when bytes are there.
//! - **Dropping a stream closes it**, politely (FIN) unless [`Stream::reset`] or an [`Abort`] asked for a reset.
//!   Whatever is in flight is cancelled and waited for before the descriptor is closed.

mod buffer;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deadline;
mod instant;
pub mod limits;
mod pipe;

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::task::{Context, Poll};

pub use buffer::{Buffer, Place, Pool};
pub use deadline::{Deadline, Elapsed};
pub use instant::Instant;
pub use pipe::Pipe;
use sluice_relay as relay;

/// Which engine runs, as metrics and the start-up report name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// io_uring.
    Uring,
    /// epoll, through tokio's current-thread runtime.
    Epoll,
    /// The seeded simulator.
    Sim,
}

impl Kind {
    /// The word used in configuration, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            Self::Sim => "sim",
        }
    }
}

/// One worker thread's I/O. Cloning gives another handle on the same engine.
pub trait Engine: Clone + 'static {
    /// A listening socket.
    type Listener: Listener<Stream = Self::Stream>;
    /// A connected socket.
    type Stream: Stream;
    /// Moves bulk between two streams without copying it.
    type Pipe: Pipe<Stream = Self::Stream>;
    /// A timer; dropping it cancels it.
    type Sleep: Future<Output = ()> + Unpin + 'static;

    /// Which engine this is.
    fn kind(&self) -> Kind;

    /// Monotonic time. Cheap: may be as old as the current turn of the loop (at most a few milliseconds).
    fn now(&self) -> Instant;

    /// Wall-clock time in microseconds since the Unix epoch, for records and for expiry only.
    fn unix_micros(&self) -> u64;

    /// A random number for request ids and jitter; seeded in the simulator. Not for secrets.
    fn random(&self) -> u64;

    /// Runs a task on this thread until it ends. A task that panics is dropped; the thread goes on.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Waits until `at`.
    fn sleep_until(&self, at: Instant) -> Self::Sleep;

    /// Lets every other task that is ready run first.
    fn yield_now(&self) -> impl Future<Output = ()> {
        let mut yielded = false;
        poll_fn(move |cx| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Listens on `address`. `socket` is an already bound and listening socket (the control plane binds doors
    /// before they are published); without one the engine binds the address itself.
    ///
    /// # Errors
    /// As bind(2) and listen(2).
    fn listen(&self, address: SocketAddr, socket: Option<TcpListener>) -> io::Result<Self::Listener>;

    /// Connects to exactly `to`; `from` fixes the source address, of the same family. TCP_NODELAY is set. Dropping the future abandons
    /// the attempt and closes its socket.
    ///
    /// The future's errors are connect(2)'s; `EMFILE`/`ENFILE` come as they are.
    fn connect(
        &self,
        to: SocketAddr,
        from: Option<SourceAddress>,
    ) -> impl Future<Output = io::Result<Self::Stream>> + 'static;

    /// Moves an established opaque tunnel into the engine's own relay loop, where it costs little while idle,
    /// and reports when both directions have ended. Both sockets are closed by then: cleanly, or with a reset
    /// where the report says so. Dropping the future aborts the tunnel (reset on both sides).
    fn relay(
        &self,
        downstream: Self::Stream,
        upstream: Self::Stream,
        setup: RelaySetup,
    ) -> impl Future<Output = relay::Report> + 'static;

    /// A pipe between two streams, empty.
    fn pipe(&self) -> Self::Pipe;

    /// An empty buffer from this worker's pool, to compose what is to be sent.
    fn buffer(&self) -> Buffer;

    /// Figures about the engine itself, for metrics.
    fn stats(&self) -> EngineStats;
}

/// Where an outgoing connection comes from. The port is the kernel's choice, made when it knows both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceAddress {
    /// One of this host's own addresses.
    Own(IpAddr),
    /// Any address, another host's as well (`IP_TRANSPARENT`). Needs CAP_NET_ADMIN or CAP_NET_RAW, and a network that
    /// brings the answers back here.
    Foreign(IpAddr),
}

impl SourceAddress {
    /// The address itself.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::Own(address) | Self::Foreign(address) => address,
        }
    }
}

/// A listening socket. Dropping it closes it.
pub trait Listener: 'static {
    /// What is accepted.
    type Stream: Stream;

    /// Waits for the next connection. TCP_NODELAY is set on it.
    ///
    /// The future's errors are accept(2)'s. `EMFILE` and `ENFILE` are for the caller to back off from; the
    /// connection stays queued in the kernel.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>>;

    /// The address that the listener is bound to.
    fn local_address(&self) -> SocketAddr;

    /// From now on no further connection gets into the queue, so that it can be emptied before the listener is dropped,
    /// which resets what is in it: [`accept`](Self::accept) gives what is queued as soon as it is polled, so that one that waits has
    /// found the queue empty. Clients that come now get no answer until then, and ask again a second later; those whose handshake
    /// has begun may end it. Where the system cannot do that, or there is no such queue (the simulator), connections go on to arrive.
    fn stop_arrivals(&self) {}
}

/// A connected socket. All methods take `&self`: one task may receive while another part of it sends.
pub trait Stream: 'static {
    /// A handle that ends this stream from elsewhere on the same thread.
    type Abort: Abort;

    /// Receives what is there: a buffer of at least one byte, or an empty one at the peer's orderly end (half-close).
    /// At most one receive may be under way. After an empty buffer or an error the stream must not be received
    /// from again.
    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>>;

    /// Starts sending the whole buffer. Must not be called before an earlier send has completed.
    fn start_send(&self, buffer: Buffer);

    /// Waits until what [`start_send`](Self::start_send) was given has been taken by the kernel, all of it. `Ok` at
    /// once if nothing is being sent.
    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the write side (half-close); what was sent before still arrives.
    ///
    /// # Errors
    /// As shutdown(2): a stream that the peer has reset.
    fn shutdown(&self) -> io::Result<()>;

    /// From now on, dropping this stream sends a reset instead of an orderly end.
    fn reset(&self);

    /// A handle through which a revocation ends this stream: see [`Abort::abort`].
    fn abort_handle(&self) -> Self::Abort;

    /// The peer's address.
    fn peer_address(&self) -> SocketAddr;

    /// Our own address of this connection.
    fn local_address(&self) -> SocketAddr;

    /// Where a connection that netfilter redirected to us was going (`SO_ORIGINAL_DST`, for IPv6
    /// `IP6T_SO_ORIGINAL_DST`): the local address itself where connections are tracked and this one was not redirected.
    ///
    /// # Errors
    /// As getsockopt(2): `ENOENT` where netfilter does not track the connection, `ENOPROTOOPT` where it tracks none.
    fn original_destination(&self) -> io::Result<SocketAddr>;

    /// Whether the peer is known to have closed or sent something although nothing is expected: asked of an idle
    /// pooled upstream before it is used again. Non-blocking.
    fn is_stale(&self) -> bool;

    /// See [`poll_receive`](Self::poll_receive).
    fn receive(&self) -> impl Future<Output = io::Result<Buffer>> {
        poll_fn(|cx| self.poll_receive(cx))
    }

    /// Sends the whole buffer.
    ///
    /// The future's errors are send(2)'s.
    fn send(&self, buffer: Buffer) -> impl Future<Output = io::Result<()>> {
        let mut buffer = Some(buffer);
        poll_fn(move |cx| {
            if let Some(buffer) = buffer.take() {
                self.start_send(buffer);
            }
            self.poll_sent(cx)
        })
    }
}

/// Ends a stream from elsewhere on its thread.
pub trait Abort: Clone + 'static {
    /// Every operation on the stream, present or later, fails with [`io::ErrorKind::ConnectionAborted`]; the peer gets
    /// a reset when the stream is dropped. A relay that the stream has been moved into ends as
    /// [`relay::End::Aborted`] with a reset on both sides. Nothing happens if the stream is gone.
    fn abort(&self);
}

/// What a relay starts with.
#[derive(Debug, Default)]
pub struct RelaySetup {
    /// Timeouts, credit and the rules of promotion to splice.
    pub settings: relay::Settings,
    /// Live byte counts, shared with whoever watches the flow; added to, never reset.
    pub counters: Rc<relay::Counters>,
    /// Bytes already received from downstream: they go upstream first.
    pub from_downstream: Option<Buffer>,
    /// Bytes already received from upstream: they go downstream first.
    pub from_upstream: Option<Buffer>,
    /// Downstream has already ended its write side.
    pub downstream_ended: bool,
    /// Upstream has already ended its write side.
    pub upstream_ended: bool,
}

/// Figures about an engine since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Pool buffers that are in use now.
    pub buffers_in_use: usize,
    /// Times a receive had to wait because the pool was empty.
    pub buffers_exhausted: u64,
    /// Directions of relays that were promoted to splice.
    pub splice_promotions: u64,
    /// Directions of relays that went from splice back to buffers while they were open.
    pub splice_demotions: u64,
    /// Directions of relays that are in splice now.
    pub splicing: usize,
    /// Tasks that panicked and were dropped.
    pub tasks_panicked: u64,
    /// Completions that the kernel could not queue (io_uring): a bug if not 0.
    pub completions_lost: u64,
    /// Turns of the loop.
    pub turns: u64,
}
