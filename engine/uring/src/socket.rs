//! One connected socket between submission and completion: its receive, its send, its end. Sessions reach it through
//! [`crate::stream::Stream`], relays directly. Knows no tasks but by their wakers.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll, Waker};

use io_uring::squeue::Flags;
use io_uring::{cqueue, opcode, types};
use sluice_engine::Buffer;
use sluice_relay::Side;
use socket2::{SockAddr, SockRef};

use crate::buffers::GROUP;
use crate::io::Io;
use crate::limits::RECEIVE_BYTES;
use crate::ops::{Kind, encode};
use crate::slab::Key;

/// `IORING_RECVSEND_POLL_FIRST`: do not try first, wait for data at once.
const POLL_FIRST: u16 = 1;

/// How a socket's receive stands.
#[derive(Debug)]
pub(crate) enum Receive {
    /// None is under way.
    Idle,
    /// The kernel has it.
    Armed,
    /// It found no buffer and waits in [`Io::starved`].
    Starved,
    /// Done and not yet asked for: bytes, or an empty buffer at the end.
    Ready(Buffer),
    /// Failed and not yet asked for.
    Failed(io::Error),
}

/// See the module. The slot lives until the last completion of its operations; so does the memory they use.
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    /// The relay that this socket was moved into, and as which side.
    pub(crate) relay: Option<(Key, Side)>,
    pub(crate) receive: Receive,
    /// What is being sent: the kernel reads from it until the completion.
    pub(crate) send: Option<Buffer>,
    /// How the last send, or the connect, failed.
    pub(crate) send_error: Option<io::Error>,
    /// Where a connect goes to, until it has completed.
    pub(crate) connect: Option<Box<SockAddr>>,
    pub(crate) receive_waker: Option<Waker>,
    pub(crate) send_waker: Option<Waker>,
    /// Operations whose last completion is still to come.
    pub(crate) in_flight: u16,
    /// The kernel said that more is waiting: the next receive tries at once.
    nonempty: bool,
    /// A session waits until there is something to splice from here, or room to splice to.
    pub(crate) awaits_bytes: bool,
    pub(crate) awaits_room: bool,
    pub(crate) reset: bool,
    pub(crate) aborted: bool,
    /// Nobody owns it any more: it is closed once nothing is in flight.
    released: bool,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            relay: None,
            receive: Receive::Idle,
            send: None,
            send_error: None,
            connect: None,
            receive_waker: None,
            send_waker: None,
            in_flight: 0,
            nonempty: false,
            awaits_bytes: false,
            awaits_room: false,
            reset: false,
            aborted: false,
            released: false,
        }
    }
}

pub(crate) fn aborted() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl Io {
    /// Sees that a receive is under way.
    pub(crate) fn arm_receive(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        debug_assert!(matches!(socket.receive, Receive::Idle | Receive::Starved), "one receive at a time");
        socket.receive = Receive::Armed;
        socket.in_flight += 1;
        self.in_flight += 1;
        let length = u32::try_from(RECEIVE_BYTES).expect("a buffer is far below 4 GiB");
        let entry = opcode::Recv::new(types::Fd(socket.fd.as_raw_fd()), std::ptr::null_mut(), length)
            .buf_group(GROUP)
            .ioprio(if socket.nonempty { 0 } else { POLL_FIRST })
            .build()
            .flags(Flags::BUFFER_SELECT)
            .user_data(encode(Kind::Receive, key));
        // SAFETY: the only memory is that of the buffer ring, which outlives the ring.
        unsafe { self.ring.push(entry) };
    }

    pub(crate) fn complete_receive(&mut self, key: Key, result: i32, flags: u32) {
        let length = usize::try_from(result).unwrap_or(0);
        // A buffer that was picked belongs to us again, whatever became of the socket.
        let buffer = cqueue::buffer_select(flags).and_then(|id| self.buffers.take(id, length));
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.in_flight -= 1;
        socket.nonempty = cqueue::sock_nonempty(flags);
        socket.receive = match (-result, buffer) {
            (..0, Some(buffer)) => Receive::Ready(buffer),
            (0, _) => Receive::Ready(Buffer::end_of_stream()),
            (libc::ENOBUFS, _) => Receive::Starved,
            (libc::ECANCELED | libc::EINTR | libc::EAGAIN, _) => Receive::Idle,
            (error, _) => Receive::Failed(io::Error::from_raw_os_error(error)),
        };
        if socket.released {
            return self.close_if_quiet(key);
        }
        if matches!(-result, libc::EINTR | libc::EAGAIN) {
            return self.arm_receive(key);
        }
        if matches!(socket.receive, Receive::Starved) {
            self.buffers_exhausted += u64::from(self.buffers.ran_out());
            self.starved.push_back(key);
        } else if let Some((relay, side)) = socket.relay {
            self.relay_received(relay, side);
        } else {
            let waker = socket.receive_waker.take();
            self.wakes.extend(waker);
        }
    }

    /// Arms receives again that found no buffer, as many as there are buffers now.
    pub(crate) fn rearm_starved(&mut self) {
        let count = self.starved.len().min(self.buffers.published());
        for _ in 0..count {
            let Some(key) = self.starved.pop_front() else { break };
            let waits = |socket: &crate::socket::Socket| {
                matches!(socket.receive, Receive::Starved) && !socket.released && !socket.aborted
            };
            if self.sockets.get(key).is_some_and(waits) {
                self.arm_receive(key);
            }
        }
    }

    pub(crate) fn poll_receive(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
        let socket = self.sockets.get_mut(key).expect("a stream owns its slot");
        if socket.aborted {
            return Poll::Ready(Err(aborted()));
        }
        match std::mem::replace(&mut socket.receive, Receive::Idle) {
            Receive::Ready(buffer) => return Poll::Ready(Ok(buffer)),
            Receive::Failed(error) => return Poll::Ready(Err(error)),
            Receive::Idle => {
                let old = Self::replace_waker(&mut socket.receive_waker, cx.waker());
                self.discard(old);
                self.arm_receive(key);
            }
            state @ (Receive::Armed | Receive::Starved) => {
                socket.receive = state;
                let old = Self::replace_waker(&mut socket.receive_waker, cx.waker());
                self.discard(old);
            }
        }
        Poll::Pending
    }

    /// Starts sending all of `buffer`.
    ///
    /// # Panics
    /// If a send is in flight: the kernel could reorder the two.
    pub(crate) fn start_send(&mut self, key: Key, buffer: Buffer) {
        let socket = self.sockets.get_mut(key).expect("whoever sends owns the slot");
        assert!(socket.send.is_none(), "one send at a time");
        if socket.aborted {
            socket.send_error = Some(aborted());
        } else if !buffer.is_empty() {
            socket.send = Some(buffer);
            self.push_send(key);
        }
    }

    fn push_send(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let Some(buffer) = socket.send.as_ref() else { return };
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fd(socket.fd.as_raw_fd()), buffer.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(encode(Kind::Send, key));
        socket.in_flight += 1;
        self.in_flight += 1;
        // SAFETY: the bytes lie on the heap in a buffer that stays in the socket's slot, untouched, until this operation
        // has completed: `complete_send` alone takes it out, and the slot goes only when nothing is in flight.
        unsafe { self.ring.push(entry) };
    }

    pub(crate) fn complete_send(&mut self, key: Key, result: i32) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.in_flight -= 1;
        let sent = usize::try_from(result).unwrap_or(0);
        let left = socket.send.as_mut().map_or(0, |buffer| {
            buffer.advance(sent);
            buffer.len()
        });
        if left == 0 {
            socket.send = None;
        }
        let interrupted = matches!(-result, libc::EINTR | libc::EAGAIN);
        let error = match result {
            ..0 if interrupted => None,
            ..0 => Some(io::Error::from_raw_os_error(-result)),
            0 => Some(io::ErrorKind::WriteZero.into()),
            // Cut short by the abort's cancellation: the rest is not to be sent.
            _ if socket.aborted => Some(aborted()),
            _ => None,
        };
        if socket.released {
            if let Some((relay, side)) = socket.relay {
                self.relay_sent_late(relay, side, sent);
            }
            return self.close_if_quiet(key);
        }
        let done = left == 0 || error.is_some();
        if let Some((relay, side)) = socket.relay {
            if done {
                socket.send = None;
            } else {
                self.push_send(key);
            }
            return self.relay_sent(relay, side, sent, error.is_some(), done);
        }
        if done {
            socket.send = None;
            socket.send_error = error;
            let waker = socket.send_waker.take();
            self.wakes.extend(waker);
        } else {
            self.push_send(key);
        }
    }

    pub(crate) fn poll_sent(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.sockets.get_mut(key).expect("a stream owns its slot");
        if let Some(error) = socket.send_error.take() {
            return Poll::Ready(Err(error));
        }
        if socket.aborted {
            return Poll::Ready(Err(aborted()));
        }
        if socket.send.is_none() {
            return Poll::Ready(Ok(()));
        }
        let old = Self::replace_waker(&mut socket.send_waker, cx.waker());
        self.discard(old);
        Poll::Pending
    }

    /// Ends a socket from elsewhere; nothing happens if it is gone.
    pub(crate) fn abort_socket(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.released || socket.aborted {
            return;
        }
        socket.aborted = true;
        socket.reset = true;
        if let Some((relay, _)) = socket.relay {
            return self.abort_relay(relay);
        }
        let wakers = [socket.receive_waker.take(), socket.send_waker.take()];
        self.wakes.extend(wakers.into_iter().flatten());
        self.cancel_operations(key);
    }

    fn cancel_operations(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.in_flight == 0 {
            return;
        }
        // The cancellation counts as an operation: the descriptor must not be closed, and its number not be another's,
        // while the cancellation is still on its way.
        socket.in_flight += 1;
        self.in_flight += 1;
        self.ring.push_cancel_fd(socket.fd.as_raw_fd(), encode(Kind::Cancel, key));
    }

    pub(crate) fn complete_cancel(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.in_flight -= 1;
            self.close_if_quiet(key);
        }
    }

    /// Its owner is gone: cancels what is in flight, and closes as soon as nothing is.
    pub(crate) fn release_socket(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.released {
            return;
        }
        socket.released = true;
        let wakers = [socket.receive_waker.take(), socket.send_waker.take()];
        self.garbage.extend(wakers.into_iter().flatten());
        self.cancel_operations(key);
        self.close_if_quiet(key);
    }

    pub(crate) fn close_if_quiet(&mut self, key: Key) {
        if !self.sockets.get(key).is_some_and(|socket| socket.released && socket.in_flight == 0) {
            return;
        }
        let Some(socket) = self.sockets.remove(key) else { return };
        // What the peer has not been given in full must not look like an orderly end.
        if socket.reset || socket.send.is_some() {
            // If it cannot be set the socket is in no state to send anything.
            let _ = SockRef::from(&socket.fd).set_linger(Some(std::time::Duration::ZERO));
        }
        let relay = socket.relay;
        drop(socket);
        if let Some((relay, _)) = relay {
            self.relay_socket_closed(relay);
        }
    }
}
