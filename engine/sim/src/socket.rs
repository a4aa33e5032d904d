//! One end of a connection: the operations under way on it and how they complete. It knows nothing of hosts beyond
//! their pool, and nothing of futures beyond their wakers.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use sluice_engine::Buffer;
use sluice_engine::limits::{BUFFER_BYTES, BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};

use crate::limits::{NO_BUFFER_NANOS_MAX, SEGMENT_BYTES_MAX};
use crate::network::{HostId, errno};
use crate::state::{Event, State};

pub(crate) type SocketId = usize;

/// What travels.
#[derive(Debug)]
pub(crate) enum Segment {
    Data(Vec<u8>),
    Fin,
    Reset,
}

/// What is under way in one direction of a socket.
#[derive(Debug, Default)]
pub(crate) enum Operation {
    #[default]
    None,
    /// A receive; or a send of what is left in this buffer.
    Transfer(Buffer),
    /// Waits for bytes, or for room.
    Readiness,
}

impl Operation {
    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

pub(crate) struct Socket {
    pub(crate) host: HostId,
    pub(crate) peer: SocketId,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Where the client wanted to go, if it was redirected here.
    pub(crate) original: Option<SocketAddr>,
    /// The kernel's end is open: held by a stream, queued at a listener, or being connected.
    pub(crate) open: bool,
    pub(crate) has_descriptor: bool,
    pub(crate) reset_on_close: bool,
    pub(crate) reset_sent: bool,
    pub(crate) aborted: bool,

    pub(crate) incoming: VecDeque<(u64, Segment)>,
    pub(crate) ready: VecDeque<u8>,
    pub(crate) fin: bool,
    /// The connection was reset.
    pub(crate) error: bool,
    receiving: Operation,
    receive_scheduled: bool,
    received: Option<io::Result<Buffer>>,
    readable: bool,
    /// The end or an error has been handed out.
    receive_over: bool,
    receive_waker: Option<Waker>,
    pub(crate) received_bytes: u64,

    sending: Operation,
    send_scheduled: bool,
    sent: Option<io::Result<()>>,
    writable: bool,
    write_shut: bool,
    send_waker: Option<Waker>,
    /// Bytes sent that the peer has not read, and how many there may be.
    outstanding: usize,
    room: usize,
    pub(crate) taken_bytes: u64,
}

impl Socket {
    pub(crate) fn new(
        host: HostId,
        peer: SocketId,
        local: SocketAddr,
        remote: SocketAddr,
        room: usize,
    ) -> Self {
        Self {
            host,
            peer,
            local,
            remote,
            original: None,
            open: true,
            has_descriptor: false,
            reset_on_close: false,
            reset_sent: false,
            aborted: false,
            incoming: VecDeque::new(),
            ready: VecDeque::new(),
            fin: false,
            error: false,
            receiving: Operation::None,
            receive_scheduled: false,
            received: None,
            readable: false,
            receive_over: false,
            receive_waker: None,
            received_bytes: 0,
            sending: Operation::None,
            send_scheduled: false,
            sent: None,
            writable: false,
            write_shut: false,
            send_waker: None,
            outstanding: 0,
            room,
            taken_bytes: 0,
        }
    }

    /// Something is there to be read: bytes, the end or an error.
    fn has_news(&self) -> bool {
        !self.ready.is_empty() || self.fin || self.error || self.aborted
    }

    fn has_room(&self) -> bool {
        self.outstanding < self.room || self.error || self.aborted || self.write_shut
    }

    /// See [`sluice_engine::Stream::is_stale`].
    pub(crate) fn is_stale(&self) -> bool {
        self.has_news() || self.received.is_some() || self.receive_over
    }

    pub(crate) fn is_sending(&self) -> bool {
        !self.sending.is_none()
    }

    fn send_error(&self) -> Option<io::Error> {
        if self.aborted {
            Some(aborted())
        } else if self.error {
            Some(os(errno::ECONNRESET))
        } else if self.write_shut {
            Some(os(errno::EPIPE))
        } else {
            None
        }
    }
}

pub(crate) fn os(error: i32) -> io::Error {
    io::Error::from_raw_os_error(error)
}

pub(crate) fn aborted() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl State {
    // Receiving.

    pub(crate) fn poll_receive(&mut self, id: SocketId, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
        let socket = &mut self.sockets[id];
        if socket.aborted {
            return Poll::Ready(Err(aborted()));
        }
        if let Some(result) = socket.received.take() {
            socket.receive_over = result.as_ref().map_or(true, |buffer| buffer.is_empty());
            return Poll::Ready(result);
        }
        if socket.receiving.is_none() {
            assert!(!socket.receive_over, "contract: no receive after the end or an error");
            socket.receiving = Operation::Transfer(Buffer::end_of_stream());
        }
        socket.receive_waker = Some(cx.waker().clone());
        self.poke_receive(id);
        Poll::Pending
    }

    /// Whether no receive is under way, nor done and not yet asked for.
    pub(crate) fn may_splice(&self, id: SocketId) -> bool {
        let socket = &self.sockets[id];
        !matches!(socket.receiving, Operation::Transfer(_)) && socket.received.is_none()
    }

    /// Waits until something is there to be read. For splices.
    pub(crate) fn poll_readable(&mut self, id: SocketId, cx: &mut Context<'_>) -> Poll<()> {
        let socket = &mut self.sockets[id];
        if std::mem::take(&mut socket.readable) || socket.aborted {
            return Poll::Ready(());
        }
        if socket.receiving.is_none() {
            socket.receiving = Operation::Readiness;
        }
        socket.receive_waker = Some(cx.waker().clone());
        self.poke_receive(id);
        Poll::Pending
    }

    /// Takes up to `bytes_max` of what is there; none at the end.
    pub(crate) fn read_now(&mut self, id: SocketId, bytes_max: usize) -> io::Result<Vec<u8>> {
        let socket = &self.sockets[id];
        if socket.aborted {
            return Err(aborted());
        }
        if socket.ready.is_empty() {
            return if socket.error { Err(os(errno::ECONNRESET)) } else { Ok(Vec::new()) };
        }
        Ok(self.take_ready(id, bytes_max))
    }

    /// Lets the receive that is under way go on, if there is a reason.
    pub(crate) fn poke_receive(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        if !socket.receiving.is_none() && !socket.receive_scheduled && socket.has_news() {
            socket.receive_scheduled = true;
            self.schedule_soon(Event::Receive(id));
        }
    }

    pub(crate) fn receive_step(&mut self, id: SocketId) {
        self.sockets[id].receive_scheduled = false;
        if !self.sockets[id].open || self.sockets[id].receiving.is_none() {
            return;
        }
        self.maybe_reset(id);
        let socket = &mut self.sockets[id];
        if matches!(socket.receiving, Operation::Readiness) {
            if socket.has_news() {
                socket.receiving = Operation::None;
                socket.readable = true;
                let waker = socket.receive_waker.take();
                self.wake(waker);
            }
            return;
        }
        let result = if socket.aborted {
            Err(aborted())
        } else if !socket.ready.is_empty() {
            match self.fill_buffer(id) {
                Some(buffer) => Ok(buffer),
                None => return,
            }
        } else if socket.error {
            Err(os(errno::ECONNRESET))
        } else if socket.fin {
            Ok(Buffer::end_of_stream())
        } else {
            return;
        };
        let socket = &mut self.sockets[id];
        socket.receiving = Operation::None;
        socket.received = Some(result);
        let waker = socket.receive_waker.take();
        self.wake(waker);
    }

    /// Takes what is there into a buffer of the pool; without one, waits until one comes home.
    fn fill_buffer(&mut self, id: SocketId) -> Option<Buffer> {
        let host = self.sockets[id].host;
        if self.strikes(host, self.faults.no_buffers_permille) {
            self.hosts[host].buffers_exhausted += 1;
            self.sockets[id].receive_scheduled = true;
            let at = self.now + self.random.below(NO_BUFFER_NANOS_MAX);
            self.schedule(at, Event::Receive(id));
            return None;
        }
        let pool = self.pool(host);
        let Some(mut store) = pool.take() else {
            self.sockets[id].receive_scheduled = true;
            let state = &mut self.hosts[host];
            state.buffers_exhausted += 1;
            state.returned_seen = pool.returned();
            state.waiting.push(id);
            return None;
        };
        let bytes = self.take_ready(id, BUFFER_BYTES - BUFFER_HEADROOM_BYTES - BUFFER_TAILROOM_BYTES);
        let end = BUFFER_HEADROOM_BYTES + bytes.len();
        store[BUFFER_HEADROOM_BYTES..end].copy_from_slice(&bytes);
        Some(Buffer::from_parts(store, BUFFER_HEADROOM_BYTES, end, Some(pool)))
    }

    /// Takes up to `bytes_max` ready bytes (fewer by fault) and gives the peer room for as many.
    fn take_ready(&mut self, id: SocketId, bytes_max: usize) -> Vec<u8> {
        let mut count = self.sockets[id].ready.len().min(bytes_max);
        if count > 1 && self.random.chance(self.faults.short_read_permille) {
            count = 1 + self.random.index(count - 1);
        }
        let socket = &mut self.sockets[id];
        let bytes: Vec<u8> = socket.ready.drain(..count).collect();
        socket.received_bytes += count as u64;
        let peer = socket.peer;
        let sender = &mut self.sockets[peer];
        sender.outstanding = sender.outstanding.saturating_sub(count);
        self.note(count as u64);
        self.poke_send(peer);
        bytes
    }

    // Sending.

    pub(crate) fn start_send(&mut self, id: SocketId, buffer: Buffer) {
        let socket = &mut self.sockets[id];
        assert!(socket.sending.is_none(), "contract: one send at a time");
        if matches!(socket.sent, Some(Err(_))) {
            return;
        }
        if buffer.is_empty() {
            socket.sent = Some(Ok(()));
            return;
        }
        socket.sent = None;
        socket.sending = Operation::Transfer(buffer);
        self.poke_send(id);
    }

    pub(crate) fn poll_sent(&mut self, id: SocketId, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = &mut self.sockets[id];
        if socket.aborted {
            socket.sending = Operation::None;
            return Poll::Ready(Err(aborted()));
        }
        if let Some(result) = socket.sent.take() {
            return Poll::Ready(result);
        }
        if socket.sending.is_none() {
            return Poll::Ready(Ok(()));
        }
        socket.send_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until there is room. For splices.
    pub(crate) fn poll_writable(&mut self, id: SocketId, cx: &mut Context<'_>) -> Poll<()> {
        let socket = &mut self.sockets[id];
        if std::mem::take(&mut socket.writable) || socket.aborted {
            return Poll::Ready(());
        }
        if socket.sending.is_none() {
            socket.sending = Operation::Readiness;
        }
        socket.send_waker = Some(cx.waker().clone());
        self.poke_send(id);
        Poll::Pending
    }

    /// Sends what there is room for (less by fault); tells how much was taken, which may be nothing.
    pub(crate) fn write_now(&mut self, id: SocketId, bytes: &[u8]) -> io::Result<usize> {
        let socket = &self.sockets[id];
        if let Some(error) = socket.send_error() {
            return Err(error);
        }
        let mut count =
            bytes.len().min(socket.room.saturating_sub(socket.outstanding)).min(SEGMENT_BYTES_MAX);
        if count > 1 && self.random.chance(self.faults.short_write_permille) {
            count = 1 + self.random.index(count - 1);
        }
        if count > 0 {
            let socket = &mut self.sockets[id];
            socket.outstanding += count;
            socket.taken_bytes += count as u64;
            self.note(count as u64);
            self.transmit(id, Segment::Data(bytes[..count].to_vec()));
        }
        Ok(count)
    }

    /// Lets the send that is under way go on, if there is a reason.
    pub(crate) fn poke_send(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        if !socket.sending.is_none() && !socket.send_scheduled && socket.has_room() {
            socket.send_scheduled = true;
            self.schedule_soon(Event::Send(id));
        }
    }

    pub(crate) fn send_step(&mut self, id: SocketId) {
        self.sockets[id].send_scheduled = false;
        if !self.sockets[id].open || self.sockets[id].sending.is_none() {
            return;
        }
        self.maybe_reset(id);
        match std::mem::take(&mut self.sockets[id].sending) {
            Operation::None => return,
            Operation::Readiness => {
                if !self.sockets[id].has_room() {
                    self.sockets[id].sending = Operation::Readiness;
                    return;
                }
                self.sockets[id].writable = true;
            }
            Operation::Transfer(mut buffer) => match self.write_now(id, &buffer) {
                Ok(count) => {
                    buffer.advance(count);
                    if !buffer.is_empty() {
                        self.sockets[id].sending = Operation::Transfer(buffer);
                        self.poke_send(id);
                        return;
                    }
                    self.sockets[id].sent = Some(Ok(()));
                }
                Err(error) => self.sockets[id].sent = Some(Err(error)),
            },
        }
        let waker = self.sockets[id].send_waker.take();
        self.wake(waker);
    }

    // Ending.

    pub(crate) fn shut_down(&mut self, id: SocketId) -> io::Result<()> {
        let socket = &mut self.sockets[id];
        if socket.aborted {
            return Err(aborted());
        }
        if socket.error {
            return Err(os(errno::ENOTCONN));
        }
        if !socket.write_shut {
            socket.write_shut = true;
            self.transmit(id, Segment::Fin);
            self.poke_send(id);
        }
        Ok(())
    }

    /// Fails every operation, present and later.
    pub(crate) fn abort(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        if !socket.open || socket.aborted {
            return;
        }
        socket.aborted = true;
        socket.reset_on_close = true;
        let wakers = [socket.receive_waker.take(), socket.send_waker.take()];
        for waker in wakers {
            self.wake(waker);
        }
    }

    /// The last handle is gone. As in a kernel, unread bytes turn the orderly end into a reset.
    pub(crate) fn close(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id];
        if !std::mem::take(&mut socket.open) {
            return;
        }
        let reset = socket.reset_on_close || !socket.ready.is_empty();
        let (host, over) = (socket.host, socket.error);
        let fin = !socket.write_shut;
        socket.receiving = Operation::None;
        socket.sending = Operation::None;
        socket.received = None;
        socket.ready = VecDeque::new();
        socket.receive_waker = None;
        socket.send_waker = None;
        if std::mem::take(&mut socket.has_descriptor) {
            self.hosts[host].descriptors -= 1;
        }
        if over {
            return;
        }
        if reset {
            self.transmit_reset(id);
        } else if fin {
            self.transmit(id, Segment::Fin);
        }
    }

    /// An outside host's socket breaks now and then, for both ends.
    fn maybe_reset(&mut self, id: SocketId) {
        let host = self.sockets[id].host;
        if self.hosts[host].under_test
            || self.sockets[id].error
            || !self.random.chance(self.faults.reset_permille)
        {
            return;
        }
        self.sockets[id].error = true;
        self.sockets[id].ready.clear();
        self.transmit_reset(id);
        self.poke_receive(id);
        self.poke_send(id);
    }
}
