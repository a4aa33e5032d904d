//! Connecting: one socket, one operation, abandoned without a trace when its future is dropped.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use io_uring::{opcode, types};
use sluice_engine::SourceAddress;
use socket2::{Domain, Protocol, SockAddr, Socket as NewSocket, Type};

use crate::core::Core;
use crate::io::Io;
use crate::ops::{Kind, encode};
use crate::slab::Key;
use crate::socket::Socket;
use crate::stream::{Handle, Stream};

/// See [`sluice_engine::Engine::connect`].
pub(crate) async fn connect(
    core: Rc<Core>,
    to: SocketAddr,
    from: Option<SourceAddress>,
) -> io::Result<Stream> {
    let socket = prepare(to, from)?;
    let key = core.with_io(|io| {
        let key = io.sockets.insert(Socket::new(socket.into()));
        io.push_connect(key, to);
        key
    });
    let handle = Handle::new(core, key);
    poll_fn(|cx| handle.core().with_io(|io| io.poll_connected(key, cx))).await?;
    Ok(Stream::from_handle(handle, to))
}

/// A socket that is ready to connect.
fn prepare(to: SocketAddr, from: Option<SourceAddress>) -> io::Result<NewSocket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = NewSocket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        // The port is chosen at connect, when the kernel knows the whole tuple: one source address then serves more
        // than 28,000 connections.
        bind_address_no_port(&socket)?;
        match from {
            SourceAddress::Own(_) => {}
            SourceAddress::Foreign(_) if to.is_ipv4() => socket.set_ip_transparent_v4(true)?,
            SourceAddress::Foreign(_) => socket.set_ip_transparent_v6(true)?,
        }
        socket.bind(&SockAddr::from(SocketAddr::new(from.ip(), 0)))?;
    }
    Ok(socket)
}

/// `IP_BIND_ADDRESS_NO_PORT`, which serves IPv6 sockets as well.
fn bind_address_no_port(socket: &NewSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).expect("four bytes");
    // SAFETY: the option takes an int, which is on this stack for the duration of the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Io {
    fn push_connect(&mut self, key: Key, to: SocketAddr) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let address = socket.connect.insert(Box::new(SockAddr::from(to)));
        let fd = types::Fd(socket.fd.as_raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len())
            .build()
            .user_data(encode(Kind::Connect, key));
        socket.in_flight += 1;
        self.in_flight += 1;
        // SAFETY: the address is boxed and stays in the slot, unmoved, until `complete_connect` takes it.
        unsafe { self.ring.push(entry) };
    }

    pub(crate) fn complete_connect(&mut self, key: Key, result: i32) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.in_flight -= 1;
        socket.connect = None;
        socket.send_error = (result < 0).then(|| io::Error::from_raw_os_error(-result));
        let waker = socket.send_waker.take();
        self.wakes.extend(waker);
        self.close_if_quiet(key);
    }

    fn poll_connected(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.sockets.get_mut(key).expect("a connect owns its slot");
        if let Some(error) = socket.send_error.take() {
            return Poll::Ready(Err(error));
        }
        if socket.connect.is_none() {
            return Poll::Ready(Ok(()));
        }
        let old = Self::replace_waker(&mut socket.send_waker, cx.waker());
        self.discard(old);
        Poll::Pending
    }
}
