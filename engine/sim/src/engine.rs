//! One simulated host's handle on the world, as the sessions see it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;

use sluice_engine::{Buffer, Engine, EngineStats, Instant, Kind, RelaySetup, SourceAddress};
use sluice_relay::Report;

use crate::listener::{self, SimListener};
use crate::network::HostId;
use crate::pipe::SimPipe;
use crate::relay::Relay;
use crate::sim::World;
use crate::sleep::SimSleep;
use crate::stream::SimStream;

/// Where the wall clock stands when a run begins: 2025-01-01T00:00:00Z. Microseconds since the Unix epoch.
const UNIX_MICROS_AT_START: u64 = 1_735_689_600_000_000;

/// One simulated host's handle on the world.
#[derive(Clone)]
pub struct SimEngine {
    pub(crate) world: Rc<World>,
    pub(crate) host: HostId,
}

impl SimEngine {
    /// This host's address, from which it connects unless told otherwise.
    pub fn address(&self) -> IpAddr {
        self.world.with(|state| state.hosts[self.host].address)
    }
}

impl Engine for SimEngine {
    type Listener = SimListener;
    type Pipe = SimPipe;
    type Stream = SimStream;
    type Sleep = SimSleep;

    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn now(&self) -> Instant {
        self.world.with(|state| Instant::from_nanos(state.now))
    }

    fn unix_micros(&self) -> u64 {
        UNIX_MICROS_AT_START + self.now().as_nanos() / 1_000
    }

    fn random(&self) -> u64 {
        self.world.with(|state| state.hosts[self.host].random.next())
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.executor.spawn(Box::pin(task));
    }

    fn sleep_until(&self, at: Instant) -> SimSleep {
        SimSleep::new(&self.world, at)
    }

    /// Always succeeds; several listeners on one address share its connections (SO_REUSEPORT). A real `socket` is of
    /// no use here and is dropped.
    fn listen(&self, address: SocketAddr, _socket: Option<TcpListener>) -> io::Result<SimListener> {
        let id = self.world.with(|state| state.listen(self.host, address));
        Ok(SimListener::new(&self.world, id))
    }

    fn connect(
        &self,
        to: SocketAddr,
        from: Option<SourceAddress>,
    ) -> impl Future<Output = io::Result<SimStream>> + 'static {
        listener::connect(Rc::clone(&self.world), self.host, to, from)
    }

    fn relay(
        &self,
        downstream: SimStream,
        upstream: SimStream,
        setup: RelaySetup,
    ) -> impl Future<Output = Report> + 'static {
        Relay::new(self.clone(), downstream, upstream, setup)
    }

    fn pipe(&self) -> SimPipe {
        SimPipe::new(self)
    }

    fn buffer(&self) -> Buffer {
        self.world.with(|state| state.pool(self.host)).buffer()
    }

    fn stats(&self) -> EngineStats {
        let tasks_panicked = self.world.panics();
        self.world.with(|state| {
            let host = &state.hosts[self.host];
            EngineStats {
                buffers_in_use: host.pool.in_use(),
                buffers_exhausted: host.buffers_exhausted,
                splice_promotions: host.splice_promotions,
                splice_demotions: host.splice_demotions,
                splicing: host.splicing,
                completions_lost: 0,
                tasks_panicked,
                turns: state.steps,
            }
        })
    }
}
