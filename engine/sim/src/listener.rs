//! A simulated listening socket and the future of a connect.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use sluice_engine::{Listener, SourceAddress};

use crate::network::{AttemptId, HostId, ListenerId};
use crate::observe::AttemptOutcome;
use crate::sim::World;
use crate::socket::os;
use crate::stream::SimStream;

/// A simulated listening socket. One task accepts from it.
pub struct SimListener {
    world: Rc<World>,
    id: ListenerId,
}

impl SimListener {
    pub(crate) fn new(world: &Rc<World>, id: ListenerId) -> Self {
        Self { world: Rc::clone(world), id }
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn accept(&self) -> impl Future<Output = io::Result<SimStream>> {
        poll_fn(|cx| {
            let accepted = self.world.with(|state| {
                let accepted = state.accept(self.id);
                if accepted.is_none() {
                    state.listeners[self.id].waker = Some(cx.waker().clone());
                }
                accepted
            });
            match accepted {
                None => Poll::Pending,
                Some(Err(error)) => Poll::Ready(Err(os(error))),
                Some(Ok(socket)) => Poll::Ready(Ok(SimStream::new(&self.world, socket))),
            }
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.world.with(|state| state.listeners[self.id].address)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.world.with(|state| state.close_listener(self.id));
    }
}

/// A connect that is under way; given up when dropped.
struct Connecting {
    world: Rc<World>,
    id: AttemptId,
    taken: bool,
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if !self.taken {
            self.world.with(|state| state.abandon_connect(self.id));
        }
    }
}

pub(crate) async fn connect(
    world: Rc<World>,
    host: HostId,
    to: SocketAddr,
    from: Option<SourceAddress>,
) -> io::Result<SimStream> {
    let id = world.with(|state| state.begin_connect(host, to, from.map(SourceAddress::ip))).map_err(os)?;
    let mut connecting = Connecting { world: Rc::clone(&world), id, taken: false };
    let outcome = poll_fn(|cx| {
        world.with(|state| {
            let attempt = &mut state.attempts[id];
            if attempt.seen.outcome == AttemptOutcome::Pending {
                attempt.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(attempt.seen.outcome)
        })
    })
    .await;
    match outcome {
        AttemptOutcome::Failed(error) => Err(os(error)),
        _ => {
            connecting.taken = true;
            let socket = world.with(|state| {
                let socket =
                    state.attempts[id].socket.take().expect("a connect that stands has made its sockets");
                state.sockets[socket].has_descriptor = true;
                socket
            });
            Ok(SimStream::new(&world, socket))
        }
    }
}
