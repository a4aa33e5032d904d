//! Outgoing connections: exactly one attempt to exactly one address. Which address is not decided here.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use sluice_engine::SourceAddress;
use socket2::{Domain, Protocol, Socket, Type};

use crate::engine::Shared;
use crate::stream::EpollStream;

/// Dropping the future closes the socket and with it abandons the attempt.
pub(crate) async fn connect(
    shared: Rc<Shared>,
    to: SocketAddr,
    from: Option<SourceAddress>,
) -> io::Result<EpollStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        // The port is chosen at connect, when the kernel knows the whole tuple: one source address then serves more
        // than 28,000 connections. The option serves IPv6 sockets as well.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        match from {
            SourceAddress::Own(_) => {}
            SourceAddress::Foreign(_) if to.is_ipv4() => socket.set_ip_transparent_v4(true)?,
            SourceAddress::Foreign(_) => socket.set_ip_transparent_v6(true)?,
        }
        socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    }
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into()).connect(to).await?;
    Ok(EpollStream::new(&shared, socket, to))
}
