//! A listening socket: a few accepts at a time, the connections that it holds until they are asked for, its end.
//!
//! The accepts are one-shot. A multishot accept empties the kernel's whole queue in one go, up to the backlog, whether
//! anybody has room for the connections or not; so the number of descriptors could not be bounded.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, types};
use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket as NewSocket, Type};

use crate::core::Core;
use crate::io::Io;
use crate::limits::{ACCEPTED_HELD_MAX, LISTEN_BACKLOG};
use crate::ops::{Kind, encode};
use crate::slab::Key;
use crate::stream::Stream;

/// Submissions that closing a listener at once may take: one for the cancellation, one for what comes of it, one to spare.
const CLOSE_ROUNDS_MAX: usize = 3;

/// The filter program: a packet that asks for a new connection does not pass (SYN without ACK, in the byte of flags of the TCP header
/// that the filter is shown), any other does: who has been answered already may come in.
const DROP_NEW: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),   // BPF_LD | BPF_B | BPF_ABS
    SockFilter::new(0x54, 0, 0, 0x12), // BPF_ALU | BPF_AND | BPF_K
    SockFilter::new(0x15, 0, 1, 0x02), // BPF_JMP | BPF_JEQ | BPF_K
    SockFilter::new(0x06, 0, 0, 0),    // BPF_RET | BPF_K: no byte
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// A listener between submission and completion. The slot lives until its accepts have ended.
pub(crate) struct ListenerSlot {
    socket: TcpListener,
    /// Accepts that are with the kernel.
    armed: usize,
    /// Cancellations that are with the kernel: the descriptor stays open for them.
    cancelling: usize,
    released: bool,
    /// Nothing more arrives: what is queued is taken at once, and no further accepts are armed.
    closing: bool,
    accepted: VecDeque<OwnedFd>,
    error: Option<io::Error>,
    waker: Option<Waker>,
}

impl ListenerSlot {
    /// The first connection in the kernel's queue of a listener that is about to close. The accepts that are armed would tell of it
    /// only when the ring is looked at again, and a full worker takes its time until then.
    fn next_queued(&mut self) -> Option<io::Result<OwnedFd>> {
        if !self.closing {
            return None;
        }
        match SockRef::from(&self.socket).accept() {
            Ok((accepted, _)) => Some(accepted.set_nonblocking(true).map(|()| accepted.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Io {
    /// Sees that connections which are held and accepts which are under way make up the bound.
    fn arm_accepts(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        while !listener.closing && listener.armed + listener.accepted.len() < ACCEPTED_HELD_MAX {
            listener.armed += 1;
            self.in_flight += 1;
            let fd = types::Fd(listener.socket.as_raw_fd());
            let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
                .build()
                .user_data(encode(Kind::Accept, key));
            // SAFETY: the entry points to no memory: no address is asked for.
            unsafe { self.ring.push(entry) };
        }
    }

    fn cancel_accepts(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        if listener.armed > 0 {
            listener.cancelling += 1;
            self.in_flight += 1;
            self.ring.push_cancel_fd(listener.socket.as_raw_fd(), encode(Kind::CancelAccept, key));
        }
    }

    pub(crate) fn complete_accept(&mut self, key: Key, result: i32) {
        // SAFETY: a result that is not negative is a new descriptor that nobody else knows of. Whatever becomes of the
        // listener, it is owned, and so closed, from here on.
        let accepted = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let Some(listener) = self.listeners.get_mut(key) else { return };
        listener.armed -= 1;
        if listener.released {
            return self.close_listener_if_quiet(key);
        }
        if let Some(accepted) = accepted {
            listener.accepted.push_back(accepted);
        } else if !matches!(-result, libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ECONNABORTED) {
            listener.error = Some(io::Error::from_raw_os_error(-result));
        }
        let waker = listener.waker.take();
        self.wakes.extend(waker);
    }

    pub(crate) fn complete_cancel_accept(&mut self, key: Key) {
        if let Some(listener) = self.listeners.get_mut(key) {
            listener.cancelling -= 1;
            self.close_listener_if_quiet(key);
        }
    }

    fn poll_accept(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let listener = self.listeners.get_mut(key).expect("a listener owns its slot");
        if let Some(accepted) = listener.accepted.pop_front() {
            self.arm_accepts(key);
            return Poll::Ready(Ok(accepted));
        }
        if let Some(accepted) = listener.next_queued() {
            return Poll::Ready(accepted);
        }
        if let Some(error) = listener.error.take() {
            return Poll::Ready(Err(error));
        }
        let old = Self::replace_waker(&mut listener.waker, cx.waker());
        self.discard(old);
        self.arm_accepts(key);
        Poll::Pending
    }

    fn release_listener(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        listener.released = true;
        listener.accepted.clear();
        let waker = listener.waker.take();
        self.discard(waker);
        self.cancel_accepts(key);
        self.close_listener_if_quiet(key);
        // Whoever drops a listener expects the port to be closed then, not at the end of the turn.
        for _ in 0..CLOSE_ROUNDS_MAX {
            if self.listeners.get(key).is_none() || self.ring.submit(None).is_err() {
                break;
            }
            self.complete_all();
        }
    }

    fn close_listener_if_quiet(&mut self, key: Key) {
        let quiet = |slot: &ListenerSlot| slot.released && slot.armed == 0 && slot.cancelling == 0;
        if self.listeners.get(key).is_some_and(quiet) {
            self.listeners.remove(key);
        }
    }
}

/// See [`sluice_engine::Listener`]. At most one task waits for connections.
pub struct Listener {
    core: Rc<Core>,
    key: Key,
    address: SocketAddr,
}

impl Listener {
    pub(crate) fn new(core: Rc<Core>, address: SocketAddr, socket: Option<TcpListener>) -> io::Result<Self> {
        let socket = match socket {
            Some(socket) => socket,
            None => bind(address)?,
        };
        // Accepted sockets inherit this: no system call for each.
        SockRef::from(&socket).set_tcp_nodelay(true)?;
        // Old kernels end an accept on a non-blocking listener with EAGAIN instead of waiting.
        socket.set_nonblocking(false)?;
        let address = socket.local_addr()?;
        let slot = ListenerSlot {
            socket,
            armed: 0,
            cancelling: 0,
            released: false,
            closing: false,
            accepted: VecDeque::new(),
            error: None,
            waker: None,
        };
        let key = core.with_io(|io| io.listeners.insert(slot));
        Ok(Self { core, key, address })
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = NewSocket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

impl sluice_engine::Listener for Listener {
    type Stream = Stream;

    async fn accept(&self) -> io::Result<Stream> {
        loop {
            let accepted = poll_fn(|cx| self.core.with_io(|io| io.poll_accept(self.key, cx))).await?;
            // A connection whose peer cannot be named any more is dead already.
            if let Ok(Some(peer)) = SockRef::from(&accepted).peer_addr().map(|peer| peer.as_socket()) {
                return Ok(Stream::new(Rc::clone(&self.core), accepted, peer));
            }
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }

    fn stop_arrivals(&self) {
        self.core.with_io(|io| {
            if let Some(listener) = io.listeners.get_mut(self.key) {
                // Without it connections may still be queued when the listener closes: nothing to tell anybody.
                let _ = SockRef::from(&listener.socket).attach_filter(&DROP_NEW);
                // The accepts that are with the kernel go on waiting: they have looked at this when they were armed. Were it to
                // fail, they alone would empty the queue.
                listener.closing = listener.socket.set_nonblocking(true).is_ok();
            }
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.core.with_io(|io| io.release_listener(self.key));
    }
}
