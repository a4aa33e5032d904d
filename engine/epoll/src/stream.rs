//! A connected socket: receive into pooled buffers when there is something to receive, one send at a time, abort.
//! It must not know what the bytes mean, nor how a tunnel is relayed.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::net::RecvFlags;
use sluice_engine::limits::BUFFER_HEADROOM_BYTES;
use sluice_engine::{Abort, Buffer, Place, Stream};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::engine::{Shared, count};
use crate::limits::RECEIVE_BYTES_MAX;

/// A connected socket of the epoll engine.
#[derive(Debug)]
pub struct EpollStream {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Rc<Shared>,
    /// Borrowed only within one call: tokio's reads and writes want `&mut` although they need none.
    socket: RefCell<TcpStream>,
    /// What is being sent and has not been taken by the kernel yet.
    sending: RefCell<Option<Buffer>>,
    aborted: Cell<bool>,
    reset: Cell<bool>,
    /// The place of a receive that waits for a buffer, not for bytes.
    starved: RefCell<Option<Place>>,
    /// Who waits, so that an abort can end the wait.
    receiver: RefCell<Option<Waker>>,
    sender: RefCell<Option<Waker>>,
    peer: SocketAddr,
    /// Asked for once: records name it for every request.
    local: OnceCell<SocketAddr>,
}

/// Ends a stream of the epoll engine from elsewhere on its thread.
#[derive(Clone, Debug)]
pub struct EpollAbort(Weak<Inner>);

impl EpollStream {
    pub(crate) fn new(shared: &Rc<Shared>, socket: TcpStream, peer: SocketAddr) -> Self {
        Self {
            inner: Rc::new(Inner {
                shared: Rc::clone(shared),
                socket: RefCell::new(socket),
                sending: RefCell::new(None),
                aborted: Cell::new(false),
                reset: Cell::new(false),
                starved: RefCell::new(None),
                receiver: RefCell::new(None),
                sender: RefCell::new(None),
                peer,
                local: OnceCell::new(),
            }),
        }
    }

    /// A receive that is blind to an abort and remembers nobody: the relay looks after both itself.
    pub(crate) fn poll_receive_some(&self, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
        let inner = &*self.inner;
        let mut socket = inner.socket.borrow_mut();
        ready!(socket.poll_read_ready(cx))?;
        let Some(mut store) = inner.shared.pool.take() else {
            let mut starved = inner.starved.borrow_mut();
            let place = starved.get_or_insert_with(|| {
                count(&inner.shared.figures.buffers_exhausted);
                Place::default()
            });
            inner.shared.pool.wait(place, cx.waker());
            return Poll::Pending;
        };
        if let Some(place) = inner.starved.take() {
            place.leave();
        }
        let window = &mut store[BUFFER_HEADROOM_BYTES..BUFFER_HEADROOM_BYTES + RECEIVE_BYTES_MAX];
        let mut window = ReadBuf::new(window);
        let outcome = Pin::new(&mut *socket).poll_read(cx, &mut window);
        let received = window.filled().len();
        if received == 0 {
            inner.shared.pool.give(store);
            return outcome.map_ok(|()| Buffer::end_of_stream());
        }
        let (start, home) = (BUFFER_HEADROOM_BYTES, Rc::clone(&inner.shared.pool));
        Poll::Ready(Ok(Buffer::from_parts(store, start, start + received, Some(home))))
    }

    /// Sends some of `bytes`; blind to an abort like [`poll_receive_some`](Self::poll_receive_some).
    pub(crate) fn poll_send_some(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = self.inner.socket.borrow_mut();
        match ready!(Pin::new(&mut *socket).poll_write(cx, bytes))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            sent => Poll::Ready(Ok(sent)),
        }
    }

    /// Whether a receive, or a splice from here, may find something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.socket.borrow().poll_read_ready(cx)
    }

    /// Runs `operation` whenever the socket is ready for `interest`, until it does not say `EAGAIN`. That must mean
    /// the socket, for then its readiness is forgotten until the kernel reports it anew.
    pub(crate) fn poll_with_descriptor<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        operation: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let socket = self.inner.socket.borrow();
        loop {
            if interest.is_readable() {
                ready!(socket.poll_read_ready(cx))?;
            } else {
                ready!(socket.poll_write_ready(cx))?;
            }
            match socket.try_io(interest, || operation(socket.as_fd())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Whether an operation of a session may go on; an abort ends its wait.
    pub(crate) fn poll_session_ready(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        let inner = &*self.inner;
        if inner.aborted.get() {
            return aborted();
        }
        let waker = if interest.is_readable() { &inner.receiver } else { &inner.sender };
        remember(waker, cx.waker());
        let socket = inner.socket.borrow();
        if interest.is_readable() { socket.poll_read_ready(cx) } else { socket.poll_write_ready(cx) }
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.inner.aborted.get()
    }

    /// Has an abort wake `waker`. True if that is news: it was another one before.
    pub(crate) fn wake_on_abort(&self, waker: &Waker) -> bool {
        remember(&self.inner.receiver, waker)
    }
}

/// Keeps `waker`, without a clone if it is kept already.
fn remember(slot: &RefCell<Option<Waker>>, waker: &Waker) -> bool {
    let mut slot = slot.borrow_mut();
    if slot.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
        return false;
    }
    *slot = Some(waker.clone());
    true
}

fn aborted<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
}

impl Stream for EpollStream {
    type Abort = EpollAbort;

    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
        if self.inner.aborted.get() {
            return aborted();
        }
        let outcome = self.poll_receive_some(cx);
        if outcome.is_pending() {
            remember(&self.inner.receiver, cx.waker());
        } else {
            // An idle pooled stream must not keep the memory of the task that used it last.
            self.inner.receiver.take();
        }
        outcome
    }

    fn start_send(&self, buffer: Buffer) {
        let earlier = self.inner.sending.replace(Some(buffer));
        debug_assert!(earlier.is_none(), "one send in flight per stream");
    }

    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &*self.inner;
        if inner.aborted.get() {
            inner.sending.take();
            return aborted();
        }
        let mut sending = inner.sending.borrow_mut();
        while let Some(buffer) = sending.as_mut().filter(|buffer| !buffer.is_empty()) {
            match self.poll_send_some(cx, buffer) {
                Poll::Pending => {
                    remember(&inner.sender, cx.waker());
                    return Poll::Pending;
                }
                Poll::Ready(Ok(sent)) => buffer.advance(sent),
                Poll::Ready(Err(error)) => {
                    *sending = None;
                    return Poll::Ready(Err(error));
                }
            }
        }
        *sending = None;
        inner.sender.take();
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) -> io::Result<()> {
        if self.inner.aborted.get() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        SockRef::from(&*self.inner.socket.borrow()).shutdown(std::net::Shutdown::Write)
    }

    fn reset(&self) {
        self.inner.reset.set(true);
    }

    fn abort_handle(&self) -> EpollAbort {
        EpollAbort(Rc::downgrade(&self.inner))
    }

    fn peer_address(&self) -> SocketAddr {
        self.inner.peer
    }

    fn local_address(&self) -> SocketAddr {
        let unknown = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        *self.inner.local.get_or_init(|| self.inner.socket.borrow().local_addr().unwrap_or(unknown))
    }

    fn original_destination(&self) -> io::Result<SocketAddr> {
        let socket = self.inner.socket.borrow();
        let socket = SockRef::from(&*socket);
        let is_v4 = self.local_address().ip().to_canonical().is_ipv4();
        let original = if is_v4 { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
        original.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn is_stale(&self) -> bool {
        let mut byte = [0_u8; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&*self.inner.socket.borrow(), &mut byte, flags);
        self.inner.aborted.get() || !matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }
}

impl Abort for EpollAbort {
    fn abort(&self) {
        let Some(inner) = self.0.upgrade() else { return };
        inner.aborted.set(true);
        inner.reset.set(true);
        for waiting in [inner.receiver.take(), inner.sender.take()].into_iter().flatten() {
            waiting.wake();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.reset.get() {
            // With no time to linger, close(2) discards what is unsent and resets. There is nobody to tell of an error.
            let _ = SockRef::from(&*self.socket.borrow()).set_linger(Some(Duration::ZERO));
        }
        if self.starved.take().is_some_and(|place| !place.leave()) {
            // Woken for a buffer that it does not take any more: the next in the queue is to have it.
            self.shared.pool.wake_waiting();
        }
    }
}
