//! Outgoing connections: exactly one attempt to exactly one address. Which address is not decided here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::engine::Shared;
use crate::stream::EpollStream;

/// Dropping the future closes the socket and with it abandons the attempt.
pub(crate) async fn connect(
    shared: Rc<Shared>,
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<EpollStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into()).connect(to).await?;
    Ok(EpollStream::new(&shared, socket, to))
}
