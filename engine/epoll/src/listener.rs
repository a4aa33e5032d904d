//! Listening sockets. They know nothing of what is done with a connection.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use sluice_engine::Listener;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use crate::engine::Shared;
use crate::limits::LISTEN_BACKLOG;
use crate::stream::EpollStream;

/// The filter program: a packet that asks for a new connection does not pass (SYN without ACK, in the byte of flags of the TCP header
/// that the filter is shown), any other does: who has been answered already may come in.
const DROP_NEW: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),   // BPF_LD | BPF_B | BPF_ABS
    SockFilter::new(0x54, 0, 0, 0x12), // BPF_ALU | BPF_AND | BPF_K
    SockFilter::new(0x15, 0, 1, 0x02), // BPF_JMP | BPF_JEQ | BPF_K
    SockFilter::new(0x06, 0, 0, 0),    // BPF_RET | BPF_K: no byte
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

/// A listening socket of the epoll engine.
#[derive(Debug)]
pub struct EpollListener {
    shared: Rc<Shared>,
    socket: tokio::net::TcpListener,
    local: SocketAddr,
    /// Nothing more arrives: what is queued is taken without waiting to be told of it.
    closing: Cell<bool>,
}

/// Takes over `socket`, or binds `address` itself. Within the runtime's context.
pub(crate) fn listen(
    shared: &Rc<Shared>,
    address: SocketAddr,
    socket: Option<std::net::TcpListener>,
) -> io::Result<EpollListener> {
    let socket = match socket {
        Some(socket) => socket,
        None => bind(address)?,
    };
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    Ok(EpollListener { shared: Rc::clone(shared), socket, local, closing: Cell::new(false) })
}

/// SO_REUSEPORT, because every worker listens on every door.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

impl EpollListener {
    /// The first connection in the kernel's queue, if there is one now.
    fn next_queued(&self) -> io::Result<Option<(tokio::net::TcpStream, SocketAddr)>> {
        let (socket, peer) = match SockRef::from(&self.socket).accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpStream::from_std(socket.into())?;
        Ok(peer.as_socket().map(|peer| (socket, peer)))
    }
}

impl Listener for EpollListener {
    type Stream = EpollStream;

    async fn accept(&self) -> io::Result<EpollStream> {
        let queued = if self.closing.get() { self.next_queued()? } else { None };
        let (socket, peer) = match queued {
            Some(next) => next,
            None => self.socket.accept().await?,
        };
        // It can fail only on a connection that has died already, and then the first receive says so.
        let _ = socket.set_nodelay(true);
        Ok(EpollStream::new(&self.shared, socket, peer))
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn stop_arrivals(&self) {
        // Without it connections may still be queued when the listener closes: nothing to tell anybody.
        let _ = SockRef::from(&self.socket).attach_filter(&DROP_NEW);
        self.closing.set(true);
    }
}
