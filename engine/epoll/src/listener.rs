//! Listening sockets. They know nothing of what is done with a connection.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use sluice_engine::Listener;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use crate::engine::Shared;
use crate::limits::LISTEN_BACKLOG;
use crate::stream::EpollStream;

/// The whole filter program: no byte of any packet passes (BPF_RET | BPF_K, 0).
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// A listening socket of the epoll engine.
#[derive(Debug)]
pub struct EpollListener {
    shared: Rc<Shared>,
    socket: tokio::net::TcpListener,
    local: SocketAddr,
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
    Ok(EpollListener { shared: Rc::clone(shared), socket, local })
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

impl Listener for EpollListener {
    type Stream = EpollStream;

    async fn accept(&self) -> io::Result<EpollStream> {
        let (socket, peer) = self.socket.accept().await?;
        // It can fail only on a connection that has died already, and then the first receive says so.
        let _ = socket.set_nodelay(true);
        Ok(EpollStream::new(&self.shared, socket, peer))
    }

    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn stop_arrivals(&self) {
        // Without it connections may still be queued when the listener closes: nothing to tell anybody.
        let _ = SockRef::from(&self.socket).attach_filter(&[DROP_ALL]);
    }
}
