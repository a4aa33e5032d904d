//! The world as a test holds it: make hosts, run futures, look at what happened.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use sluice_engine::limits::POOL_BUFFERS_MAX;
use sluice_engine::{Engine, Instant, Pool};

use crate::engine::SimEngine;
use crate::executor::{Executor, MAIN_TASK, TaskFuture, TaskId};
use crate::faults::{Bounds, Faults};
use crate::network::{Capture, Host, HostId};
use crate::observe::{Attempt, Connection, OpenCounts};
use crate::random::Random;
use crate::state::{Choice, State};

/// The environment variable that makes [`seeds`] give one seed only.
const SEED_VARIABLE: &str = "SLUICE_SIM_SEED";

/// The machine under test has this address.
const ENGINE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Everything that one run consists of.
pub(crate) struct World {
    state: RefCell<State>,
    pub(crate) executor: Executor,
    tolerate_panics: Cell<bool>,
    panics: Cell<u64>,
}

impl World {
    /// Does something to the state, then wakes whom that concerns.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.borrow_mut();
        let result = act(&mut state);
        let wakes = state.take_wakes();
        drop(state);
        for waker in wakes {
            waker.wake();
        }
        result
    }

    pub(crate) fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// One step: a task or an event. `Some(MAIN_TASK)` if the main task is to run; `None` if nothing can happen.
    fn step(&self, timers: bool) -> Option<TaskId> {
        let ready = self.executor.ready_count();
        match self.with(|state| state.choose(ready, timers)) {
            Choice::Idle => None,
            Choice::Event => Some(TaskId::MAX),
            Choice::Task(index) => {
                let id = self.executor.take_ready(index);
                self.with(|state| state.note(id));
                if id != MAIN_TASK {
                    self.run(id);
                }
                Some(id)
            }
        }
    }

    fn run(&self, id: TaskId) {
        let Some((mut future, waker)) = self.executor.begin(id) else { return };
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => self.executor.put_back(id, future),
            Ok(Poll::Ready(())) => self.end(id, future),
            Err(panic) => {
                self.end(id, future);
                self.panics.set(self.panics.get() + 1);
                if !self.tolerate_panics.get() {
                    resume_unwind(panic);
                }
            }
        }
    }

    fn end(&self, id: TaskId, future: TaskFuture) {
        self.executor.remove(id);
        drop(future);
    }
}

/// One simulated world. When it is dropped, all its tasks are; when that happens in a panic, it prints its seed.
pub struct Sim {
    world: Rc<World>,
    engine: HostId,
}

impl Sim {
    /// A world that unfolds as `seed` says, with these faults.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let world = Rc::new(World {
            state: RefCell::new(State::new(seed, faults)),
            executor: Executor::new(),
            tolerate_panics: Cell::new(false),
            panics: Cell::new(0),
        });
        let engine = add_host(&world, ENGINE_ADDRESS, true, faults.pool_buffers_max);
        Self { world, engine }
    }

    /// The machine under test, at 10.0.0.1: faults that strike a machine strike this one.
    pub fn engine(&self) -> SimEngine {
        SimEngine { world: Rc::clone(&self.world), host: self.engine }
    }

    /// A new host for clients or origins. It can listen on any address; `address` is where it connects from.
    pub fn outside(&self, address: IpAddr) -> SimEngine {
        let host = add_host(&self.world, address, false, POOL_BUFFERS_MAX);
        SimEngine { world: Rc::clone(&self.world), host }
    }

    /// From now on every connection that `host` makes is captured.
    pub fn capture(&self, host: &SimEngine, how: Capture) {
        self.world.with(|state| state.hosts[host.host].capture = Some(how));
    }

    /// Runs the world until `future` is done.
    ///
    /// # Panics
    /// If a bound is passed, if nothing can happen any more although the future is not done, or if a task panics.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let waker = self.world.executor.main_waker();
        let mut cx = Context::from_waker(&waker);
        self.world.executor.wake_main();
        loop {
            match self.world.step(true) {
                Some(MAIN_TASK) => {
                    self.world.executor.main_runs();
                    if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                        return output;
                    }
                }
                Some(_) => {}
                None => panic!("simulation of seed {}: nothing can happen any more", self.seed()),
            }
        }
    }

    /// Runs until nothing happens but by the passing of time.
    pub fn run_until_idle(&self) {
        while let Some(id) = self.world.step(false) {
            if id == MAIN_TASK {
                self.world.executor.main_runs();
            }
        }
    }

    /// Runs for this long on the virtual clock.
    pub fn run_for(&self, time: Duration) {
        let engine = self.engine();
        self.block_on(engine.sleep_until(engine.now() + time));
    }

    /// The seed of this world.
    pub fn seed(&self) -> u64 {
        self.world.with(|state| state.seed)
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.world.with(|state| Instant::from_nanos(state.now))
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.world.with(|state| state.steps)
    }

    /// A fingerprint of everything that has happened: equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.world.with(|state| state.trace)
    }

    /// A number below `bound` from the world's own sequence, for tests that want to vary with the seed.
    pub fn draw(&self, bound: u64) -> u64 {
        self.world.with(|state| state.random.below(bound))
    }

    /// Changes what goes wrong from now on. Sizes apply to new connections, the pool's to nothing.
    pub fn set_faults(&self, faults: Faults) {
        self.world.with(|state| state.faults = faults);
    }

    /// Changes when a run has gone on for too long.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.world.with(|state| state.bounds = bounds);
    }

    /// From now on a task that panics is dropped and counted, as on the production engines, and the run goes on.
    pub fn tolerate_panics(&self) {
        self.world.tolerate_panics.set(true);
    }

    /// Tasks that have panicked.
    pub fn panics(&self) -> u64 {
        self.world.panics()
    }

    /// Every connect attempt so far, in order.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.world.with(|state| state.attempts.iter().map(|attempt| attempt.seen).collect())
    }

    /// The connect attempts of the machine under test: "no packet upstream" means that this is empty.
    pub fn engine_attempts(&self) -> Vec<Attempt> {
        self.attempts().into_iter().filter(|attempt| attempt.by_engine).collect()
    }

    /// Every connection so far, in order.
    pub fn connections(&self) -> Vec<Connection> {
        self.world.with(|state| {
            let row = |&(client, server): &(usize, usize)| {
                let (client, server) = (&state.sockets[client], &state.sockets[server]);
                Connection {
                    from_engine: state.hosts[client.host].under_test,
                    to_engine: state.hosts[server.host].under_test,
                    client: client.local,
                    server: server.local,
                    client_sent_bytes: client.taken_bytes,
                    server_sent_bytes: server.taken_bytes,
                    client_received_bytes: client.received_bytes,
                    server_received_bytes: server.received_bytes,
                    client_open: client.open,
                    server_open: server.open,
                }
            };
            state.connections.iter().map(row).collect()
        })
    }

    /// What is open now.
    pub fn open(&self) -> OpenCounts {
        let tasks = self.world.executor.task_count();
        self.world.with(|state| {
            let mut open = OpenCounts { tasks, ..OpenCounts::default() };
            for socket in state.sockets.iter().filter(|socket| socket.open) {
                match state.hosts[socket.host].under_test {
                    true => open.engine_streams += 1,
                    false => open.outside_streams += 1,
                }
            }
            for listener in state.listeners.iter().filter(|listener| listener.open) {
                match state.hosts[listener.host].under_test {
                    true => open.engine_listeners += 1,
                    false => open.outside_listeners += 1,
                }
            }
            open.buffers = state.hosts.iter().map(|host| host.pool.in_use()).sum();
            open
        })
    }

    /// Checks that no stream, listener, task, buffer or descriptor is left.
    ///
    /// # Panics
    /// If anything is, with what and the seed.
    pub fn assert_nothing_open(&self) {
        let open = self.open();
        assert_eq!(open, OpenCounts::default(), "simulation of seed {}: something is left open", self.seed());
        let descriptors: usize =
            self.world.with(|state| state.hosts.iter().map(|host| host.descriptors).sum());
        assert_eq!(descriptors, 0, "simulation of seed {}: descriptors leak", self.seed());
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation failed; to repeat it: {SEED_VARIABLE}={}", self.seed());
        }
        self.world.executor.clear();
    }
}

fn add_host(world: &World, address: IpAddr, under_test: bool, buffers_max: usize) -> HostId {
    world.with(|state| {
        let random = Random::new(state.random.next());
        state.hosts.push(Host::new(address, under_test, Pool::new(buffers_max), random));
        state.hosts.len() - 1
    })
}

/// The seeds of a test: `0..count`, or only the one that `SLUICE_SIM_SEED` names.
///
/// # Panics
/// If the variable is set and is no number.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => {
            let seed: u64 =
                text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE} is a number, not {text:?}"));
            seed..seed.saturating_add(1)
        }
        Err(_) => 0..count,
    }
}

/// Runs a test for each of [`seeds`]; one that panics is named before the panic goes on.
pub fn for_each_seed(count: u64, test: impl Fn(u64)) {
    for seed in seeds(count) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} failed; to repeat it: {SEED_VARIABLE}={seed}");
            resume_unwind(panic);
        }
    }
}
