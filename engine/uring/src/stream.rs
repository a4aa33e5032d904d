//! What a session holds of a connected socket. All work is done by the slot behind it ([`crate::socket`]).

use std::cell::OnceCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_engine::Buffer;
use socket2::SockRef;

use crate::core::Core;
use crate::slab::Key;
use crate::socket::{Receive, Socket};

/// Owns a socket's slot: dropping it closes the socket.
pub(crate) struct Handle {
    core: Rc<Core>,
    key: Key,
    owned: bool,
}

impl Handle {
    pub(crate) fn new(core: Rc<Core>, key: Key) -> Self {
        Self { core, key, owned: true }
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    /// Hands the slot over to a relay.
    pub(crate) fn into_key(mut self) -> Key {
        self.owned = false;
        self.key
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.owned {
            self.core.with_io(|io| io.release_socket(self.key));
        }
    }
}

/// See [`sluice_engine::Stream`]. A stream that is dropped while a send is under way is reset: what was cut short must
/// not look like an orderly end.
pub struct Stream {
    handle: Handle,
    peer: SocketAddr,
    local: OnceCell<SocketAddr>,
}

impl Stream {
    pub(crate) fn new(core: Rc<Core>, fd: OwnedFd, peer: SocketAddr) -> Self {
        let key = core.with_io(|io| io.sockets.insert(Socket::new(fd)));
        Self::from_handle(Handle::new(core, key), peer)
    }

    pub(crate) fn from_handle(handle: Handle, peer: SocketAddr) -> Self {
        Self { handle, peer, local: OnceCell::new() }
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        self.handle.core()
    }

    pub(crate) fn key(&self) -> Key {
        self.handle.key
    }

    pub(crate) fn into_key(self) -> Key {
        self.handle.into_key()
    }

    /// Looks at the socket itself. Calls nothing that could come back here.
    fn with_socket<T>(&self, look: impl FnOnce(&mut Socket) -> T) -> T {
        self.handle
            .core
            .with_io(|io| look(io.sockets.get_mut(self.handle.key).expect("a stream owns its slot")))
    }
}

impl sluice_engine::Stream for Stream {
    type Abort = Abort;

    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
        self.handle.core.with_io(|io| io.poll_receive(self.handle.key, cx))
    }

    fn start_send(&self, buffer: Buffer) {
        self.handle.core.with_io(|io| io.start_send(self.handle.key, buffer));
    }

    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.core.with_io(|io| io.poll_sent(self.handle.key, cx))
    }

    fn shutdown(&self) -> io::Result<()> {
        // The plain system call: the ring's operation is always sent to a kernel thread.
        self.with_socket(|socket| SockRef::from(&socket.fd).shutdown(Shutdown::Write))
    }

    fn reset(&self) {
        self.with_socket(|socket| socket.reset = true);
    }

    fn abort_handle(&self) -> Abort {
        Abort { core: Rc::clone(&self.handle.core), key: self.handle.key }
    }

    fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    fn local_address(&self) -> SocketAddr {
        *self.local.get_or_init(|| {
            let local = self.with_socket(|socket| SockRef::from(&socket.fd).local_addr());
            // It cannot fail on a socket that was connected; nothing is decided on it.
            let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            local.ok().and_then(|local| local.as_socket()).unwrap_or(unknown)
        })
    }

    fn original_destination(&self) -> io::Result<SocketAddr> {
        let is_v4 = self.local_address().ip().to_canonical().is_ipv4();
        let original = self.with_socket(|socket| {
            let socket = SockRef::from(&socket.fd);
            if is_v4 { socket.original_dst_v4() } else { socket.original_dst_v6() }
        })?;
        original.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn is_stale(&self) -> bool {
        self.with_socket(|socket| {
            if socket.aborted || !matches!(socket.receive, Receive::Idle | Receive::Armed | Receive::Starved)
            {
                return true;
            }
            let mut byte = [MaybeUninit::uninit()];
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            let peeked = SockRef::from(&socket.fd).recv_with_flags(&mut byte, flags);
            !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        })
    }
}

/// See [`sluice_engine::Abort`].
#[derive(Clone)]
pub struct Abort {
    core: Rc<Core>,
    key: Key,
}

impl sluice_engine::Abort for Abort {
    fn abort(&self) {
        self.core.with_io(|io| io.abort_socket(self.key));
    }
}
