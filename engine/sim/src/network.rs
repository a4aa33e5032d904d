//! Hosts, listeners, connect attempts and the wire between two sockets.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::task::Waker;

use sluice_engine::{Instant, Pool};

use crate::limits::{BACKLOG_MAX, CONNECT_GIVES_UP_MS};
use crate::observe::{Attempt, AttemptOutcome};
use crate::random::Random;
use crate::socket::{Segment, Socket, SocketId};
use crate::state::{Event, State};

pub(crate) type HostId = usize;
pub(crate) type ListenerId = usize;
pub(crate) type AttemptId = usize;

/// OS error numbers, as Linux has them on every architecture that we build for.
pub(crate) mod errno {
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EMFILE: i32 = 24;
    pub(crate) const EPIPE: i32 = 32;
    pub(crate) const EAFNOSUPPORT: i32 = 97;
    pub(crate) const ECONNRESET: i32 = 104;
    pub(crate) const ENOTCONN: i32 = 107;
    pub(crate) const ETIMEDOUT: i32 = 110;
    pub(crate) const ECONNREFUSED: i32 = 111;
}

/// What becomes of the connections of a host that is captured: all of them arrive at one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// As netfilter's REDIRECT: to the listener's own address; where they were going is remembered.
    Redirect(SocketAddr),
    /// As TPROXY: the accepted socket's own address is where they were going.
    Tproxy(SocketAddr),
}

/// The first port given to a client that names none.
const EPHEMERAL_PORT_FIRST: u16 = 32_768;

pub(crate) struct Host {
    pub(crate) address: IpAddr,
    pub(crate) under_test: bool,
    pub(crate) pool: Rc<Pool>,
    /// Receives that found no buffer.
    pub(crate) waiting: Vec<SocketId>,
    pub(crate) returned_seen: u64,
    pub(crate) buffers_exhausted: u64,
    pub(crate) splice_promotions: u64,
    pub(crate) splice_demotions: u64,
    pub(crate) splicing: usize,
    pub(crate) descriptors: usize,
    /// For [`Engine::random`](sluice_engine::Engine::random).
    pub(crate) random: Random,
    pub(crate) capture: Option<Capture>,
    next_port: u16,
}

impl Host {
    pub(crate) fn new(address: IpAddr, under_test: bool, pool: Rc<Pool>, random: Random) -> Self {
        Self {
            address,
            under_test,
            pool,
            waiting: Vec::new(),
            returned_seen: 0,
            buffers_exhausted: 0,
            splice_promotions: 0,
            splice_demotions: 0,
            splicing: 0,
            descriptors: 0,
            random,
            capture: None,
            next_port: EPHEMERAL_PORT_FIRST,
        }
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(EPHEMERAL_PORT_FIRST);
        port
    }

    /// This host's address in the family of `other`.
    fn address_like(&self, other: IpAddr) -> IpAddr {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V6(_)) => {
                let [a, b, c, d] = own.octets();
                let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, high, low))
            }
            (IpAddr::V6(own), IpAddr::V4(_)) => {
                let [.., b, c, d] = own.octets();
                IpAddr::V4(Ipv4Addr::new(10, b, c, d))
            }
            (own, _) => own,
        }
    }
}

pub(crate) struct ListenerState {
    pub(crate) host: HostId,
    pub(crate) address: SocketAddr,
    pub(crate) open: bool,
    pub(crate) backlog: VecDeque<SocketId>,
    pub(crate) waker: Option<Waker>,
}

pub(crate) struct AttemptState {
    pub(crate) host: HostId,
    pub(crate) seen: Attempt,
    /// The client's socket, once the request has been taken.
    pub(crate) socket: Option<SocketId>,
    pub(crate) waker: Option<Waker>,
}

impl State {
    /// Whether `host` may open one more descriptor now.
    pub(crate) fn descriptor_free(&mut self, host: HostId) -> bool {
        let full = self.hosts[host].under_test && self.hosts[host].descriptors >= self.faults.descriptors_max;
        let struck = self.strikes(host, self.faults.descriptors_exhausted_permille);
        !full && !struck
    }

    pub(crate) fn listen(&mut self, host: HostId, mut address: SocketAddr) -> ListenerId {
        if address.port() == 0 {
            address.set_port(self.hosts[host].port());
        }
        self.hosts[host].descriptors += 1;
        self.listeners.push(ListenerState {
            host,
            address,
            open: true,
            backlog: VecDeque::new(),
            waker: None,
        });
        self.listeners.len() - 1
    }

    pub(crate) fn close_listener(&mut self, id: ListenerId) {
        let listener = &mut self.listeners[id];
        listener.open = false;
        let host = listener.host;
        let queued = std::mem::take(&mut listener.backlog);
        self.hosts[host].descriptors -= 1;
        for socket in queued {
            self.sockets[socket].reset_on_close = true;
            self.close(socket);
        }
    }

    /// Takes the oldest queued connection. `None`: nothing is queued. `Err`: no descriptor; it stays queued.
    pub(crate) fn accept(&mut self, id: ListenerId) -> Option<Result<SocketId, i32>> {
        let host = self.listeners[id].host;
        self.listeners[id].backlog.front()?;
        if !self.descriptor_free(host) {
            return Some(Err(errno::EMFILE));
        }
        let socket = self.listeners[id].backlog.pop_front()?;
        self.hosts[host].descriptors += 1;
        self.sockets[socket].has_descriptor = true;
        Some(Ok(socket))
    }

    /// Begins a connect attempt.
    pub(crate) fn begin_connect(
        &mut self,
        host: HostId,
        to: SocketAddr,
        from: Option<IpAddr>,
    ) -> Result<AttemptId, i32> {
        if !self.descriptor_free(host) {
            return Err(errno::EMFILE);
        }
        let address = from.unwrap_or_else(|| self.hosts[host].address_like(to.ip()));
        if address.is_ipv4() != to.is_ipv4() {
            return Err(errno::EAFNOSUPPORT);
        }
        self.hosts[host].descriptors += 1;
        let from = SocketAddr::new(address, self.hosts[host].port());
        let seen = Attempt {
            by_engine: self.hosts[host].under_test,
            to,
            from,
            at: Instant::from_nanos(self.now),
            outcome: AttemptOutcome::Pending,
        };
        self.attempts.push(AttemptState { host, seen, socket: None, waker: None });
        let id = self.attempts.len() - 1;
        let at = self.now + self.latency();
        self.schedule(at, Event::Request(id));
        Ok(id)
    }

    pub(crate) fn request_arrives(&mut self, id: AttemptId) {
        let (host, to) = (self.attempts[id].host, self.attempts[id].seen.to);
        let answer_at = self.now + self.latency();
        if self.strikes(host, self.faults.connect_silent_permille) {
            return;
        }
        let capture = self.hosts[host].capture;
        let at = match capture {
            Some(Capture::Redirect(door) | Capture::Tproxy(door)) => door,
            None => to,
        };
        let Some(listener) = self.listener_for(at) else {
            self.schedule(answer_at, Event::Answer(id, errno::ECONNREFUSED));
            return;
        };
        if self.strikes(host, self.faults.connect_refused_permille) {
            self.schedule(answer_at, Event::Answer(id, errno::ECONNREFUSED));
            return;
        }
        let ignored = self.listeners[listener].backlog.len() >= BACKLOG_MAX;
        if ignored || self.strikes(host, self.faults.connect_timeout_permille) {
            let at = self.attempts[id].seen.at.as_nanos() + CONNECT_GIVES_UP_MS * 1_000_000;
            self.schedule(at, Event::GiveUp(id));
            return;
        }
        if self.attempts[id].seen.outcome == AttemptOutcome::Abandoned {
            return;
        }
        let client = self.open_pair(host, self.attempts[id].seen.from, self.listeners[listener].host, to);
        self.attempts[id].socket = Some(client);
        let server = self.sockets[client].peer;
        if let Some(Capture::Redirect(door)) = capture {
            let socket = &mut self.sockets[server];
            (socket.local, socket.original) = (door, Some(to));
        }
        self.listeners[listener].backlog.push_back(server);
        let waker = self.listeners[listener].waker.take();
        self.wake(waker);
        self.schedule(answer_at, Event::Answer(id, 0));
    }

    pub(crate) fn answer_arrives(&mut self, id: AttemptId, error: i32) {
        if self.attempts[id].seen.outcome != AttemptOutcome::Pending {
            return;
        }
        self.attempts[id].seen.outcome = match error {
            0 => AttemptOutcome::Connected,
            error => AttemptOutcome::Failed(error),
        };
        let waker = self.attempts[id].waker.take();
        self.wake(waker);
    }

    pub(crate) fn give_up(&mut self, id: AttemptId) {
        self.answer_arrives(id, errno::ETIMEDOUT);
    }

    /// The caller's future is gone before it took the outcome.
    pub(crate) fn abandon_connect(&mut self, id: AttemptId) {
        let attempt = &mut self.attempts[id];
        attempt.waker = None;
        if attempt.seen.outcome == AttemptOutcome::Pending {
            attempt.seen.outcome = AttemptOutcome::Abandoned;
        }
        let (host, socket) = (attempt.host, attempt.socket.take());
        self.hosts[host].descriptors -= 1;
        if let Some(socket) = socket {
            self.close(socket);
        }
    }

    /// The exact address before the unspecified one; among several listeners on one address, any (SO_REUSEPORT).
    fn listener_for(&mut self, to: SocketAddr) -> Option<ListenerId> {
        let any = match to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        for address in [to, SocketAddr::new(any, to.port())] {
            let candidates: Vec<ListenerId> = (0..self.listeners.len())
                .filter(|&id| self.listeners[id].open && self.listeners[id].address == address)
                .collect();
            if !candidates.is_empty() {
                return Some(candidates[self.random.index(candidates.len())]);
            }
        }
        None
    }

    /// Makes both sockets of a connection; gives the client's.
    fn open_pair(&mut self, client: HostId, from: SocketAddr, server: HostId, to: SocketAddr) -> SocketId {
        let id = self.sockets.len();
        let (low, high) = (self.faults.socket_buffer_bytes_min, self.faults.socket_buffer_bytes_max);
        for (host, peer, local, remote) in [(client, id + 1, from, to), (server, id, to, from)] {
            let room = self.random.between(low as u64, high as u64) as usize;
            self.sockets.push(Socket::new(host, peer, local, remote, room.max(1)));
        }
        self.connections.push((id, id + 1));
        id
    }

    /// One latency of the wire. Nanoseconds.
    pub(crate) fn latency(&mut self) -> u64 {
        self.random.between(self.faults.latency_us_min, self.faults.latency_us_max) * 1_000
    }

    /// Puts a segment on the wire to the peer of `from`; in the queue it stays behind all earlier ones.
    pub(crate) fn transmit(&mut self, from: SocketId, segment: Segment) {
        let at = self.now + self.latency();
        let peer = self.sockets[from].peer;
        let socket = &mut self.sockets[peer];
        socket.incoming.push_back((at, segment));
        self.schedule(at, Event::Arrive(peer));
    }

    /// Resets the connection from this end. A kernel that does so forgets what it has not sent yet: bytes on the way
    /// may be lost, the last ones first.
    pub(crate) fn transmit_reset(&mut self, from: SocketId) {
        self.sockets[from].reset_sent = true;
        let peer = self.sockets[from].peer;
        if self.random.chance(self.faults.reset_discards_permille) {
            let kept = self.random.index(self.sockets[peer].incoming.len() + 1);
            self.sockets[peer].incoming.truncate(kept);
        }
        self.transmit(from, Segment::Reset);
    }

    /// Everything that has reached this socket by now is there.
    pub(crate) fn arrive(&mut self, id: SocketId) {
        while let Some(&(at, _)) = self.sockets[id].incoming.front()
            && at <= self.now
        {
            let Some((_, segment)) = self.sockets[id].incoming.pop_front() else { return };
            if !self.sockets[id].open {
                self.arrive_closed(id, &segment);
                continue;
            }
            // What reaches a socket after its connection was reset is not its any more.
            if self.sockets[id].error {
                continue;
            }
            let discard = self.random.chance(self.faults.reset_discards_permille);
            let socket = &mut self.sockets[id];
            match segment {
                Segment::Data(bytes) => socket.ready.extend(bytes),
                Segment::Fin => socket.fin = true,
                Segment::Reset => {
                    socket.error = true;
                    if discard {
                        socket.ready.clear();
                    }
                }
            }
        }
        self.poke_receive(id);
        self.poke_send(id);
    }

    /// A closed socket answers data with a reset, once.
    fn arrive_closed(&mut self, id: SocketId, segment: &Segment) {
        if matches!(segment, Segment::Data(_)) && !self.sockets[id].reset_sent {
            self.transmit_reset(id);
        }
    }
}
