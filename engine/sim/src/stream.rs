//! A simulated connected socket, and the handle that ends it from elsewhere. It only passes calls to the world.

use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use sluice_engine::{Abort, Buffer, Stream};

use crate::network::errno;
use crate::sim::World;
use crate::socket::{SocketId, os};

/// A simulated connected socket.
pub struct SimStream {
    pub(crate) world: Rc<World>,
    pub(crate) id: SocketId,
}

impl SimStream {
    pub(crate) fn new(world: &Rc<World>, id: SocketId) -> Self {
        Self { world: Rc::clone(world), id }
    }
}

impl Stream for SimStream {
    type Abort = SimAbort;

    fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Buffer>> {
        self.world.with(|state| state.poll_receive(self.id, cx))
    }

    fn start_send(&self, buffer: Buffer) {
        self.world.with(|state| state.start_send(self.id, buffer));
    }

    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.world.with(|state| state.poll_sent(self.id, cx))
    }

    fn shutdown(&self) -> io::Result<()> {
        self.world.with(|state| state.shut_down(self.id))
    }

    fn reset(&self) {
        self.world.with(|state| state.sockets[self.id].reset_on_close = true);
    }

    fn abort_handle(&self) -> SimAbort {
        SimAbort { world: Rc::downgrade(&self.world), id: self.id }
    }

    fn peer_address(&self) -> SocketAddr {
        self.world.with(|state| state.sockets[self.id].remote)
    }

    fn local_address(&self) -> SocketAddr {
        self.world.with(|state| state.sockets[self.id].local)
    }

    fn original_destination(&self) -> io::Result<SocketAddr> {
        let original = self.world.with(|state| state.sockets[self.id].original);
        original.ok_or_else(|| os(errno::ENOENT))
    }

    fn is_stale(&self) -> bool {
        self.world.with(|state| state.sockets[self.id].is_stale())
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.world.with(|state| state.close(self.id));
    }
}

/// Ends a simulated stream from elsewhere.
#[derive(Clone)]
pub struct SimAbort {
    world: Weak<World>,
    id: SocketId,
}

impl Abort for SimAbort {
    fn abort(&self) {
        if let Some(world) = self.world.upgrade() {
            world.with(|state| state.abort(self.id));
        }
    }
}
