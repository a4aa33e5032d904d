//! The world's clock, its event queue and the draw of what happens next. It knows nothing of the futures that wait.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Waker;

use sluice_engine::Pool;

use crate::faults::{Bounds, Faults};
use crate::limits::{COMPLETION_NANOS_MAX, DRAW_MAX, STEP_NANOS_MAX};
use crate::network::{AttemptId, AttemptState, Host, HostId, ListenerState};
use crate::random::{Random, mix};
use crate::socket::{Socket, SocketId};

/// When an event is due, and which of those due at that time it is.
pub(crate) type EventKey = (u64, u64);

/// What the world itself does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Segments reach this socket.
    Arrive(SocketId),
    /// The receive that is under way on this socket goes on.
    Receive(SocketId),
    /// The send that is under way on this socket goes on.
    Send(SocketId),
    /// A connection request reaches its destination.
    Request(AttemptId),
    /// The answer to it comes back: an OS error, or 0.
    Answer(AttemptId, i32),
    /// The kernel gives a silent connect up.
    GiveUp(AttemptId),
    /// A timer fires.
    Timer,
}

impl Event {
    /// Something that only time brings: a quiet world may still hold these.
    fn is_timer(self) -> bool {
        matches!(self, Self::GiveUp(_) | Self::Timer)
    }

    fn fingerprint(self) -> u64 {
        let (kind, id) = match self {
            Self::Arrive(id) => (1, id),
            Self::Receive(id) => (2, id),
            Self::Send(id) => (3, id),
            Self::Request(id) => (4, id),
            Self::Answer(id, _) => (5, id),
            Self::GiveUp(id) => (6, id),
            Self::Timer => (7, 0),
        };
        kind << 56 | id as u64
    }
}

/// What happens next.
pub(crate) enum Choice {
    /// The ready task at this index runs.
    Task(usize),
    /// This event was handled.
    Event,
    /// Nothing can happen any more.
    Idle,
}

pub(crate) struct State {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) bounds: Bounds,
    /// Nanoseconds.
    pub(crate) now: u64,
    pub(crate) steps: u64,
    pub(crate) trace: u64,
    order: u64,
    events: BTreeMap<EventKey, Event>,
    timer_events: usize,
    timers: BTreeMap<EventKey, Waker>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) listeners: Vec<ListenerState>,
    pub(crate) attempts: Vec<AttemptState>,
    /// Client's and server's socket of each connection.
    pub(crate) connections: Vec<(SocketId, SocketId)>,
    wakes: Vec<Waker>,
}

impl State {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            seed,
            random: Random::new(seed),
            faults,
            bounds: Bounds::default(),
            now: 0,
            steps: 0,
            trace: mix(seed),
            order: 0,
            events: BTreeMap::new(),
            timer_events: 0,
            timers: BTreeMap::new(),
            hosts: Vec::new(),
            sockets: Vec::new(),
            listeners: Vec::new(),
            attempts: Vec::new(),
            connections: Vec::new(),
            wakes: Vec::new(),
        }
    }

    /// Puts something into the trace, so that two runs can be compared.
    pub(crate) fn note(&mut self, what: u64) {
        self.trace = mix(self.trace ^ what).wrapping_add(self.now);
    }

    /// Wakes this waker once the state is no longer borrowed.
    pub(crate) fn wake(&mut self, waker: Option<Waker>) {
        self.wakes.extend(waker);
    }

    pub(crate) fn take_wakes(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakes)
    }

    pub(crate) fn schedule(&mut self, at: u64, event: Event) -> EventKey {
        self.order += 1;
        let key = (at.max(self.now), self.order);
        self.timer_events += usize::from(event.is_timer());
        self.events.insert(key, event);
        key
    }

    /// Schedules a completion: soon, and not in the order of the causes.
    pub(crate) fn schedule_soon(&mut self, event: Event) {
        let at = self.now + self.random.below(COMPLETION_NANOS_MAX);
        self.schedule(at, event);
    }

    fn unschedule(&mut self, key: EventKey) -> Option<Event> {
        let event = self.events.remove(&key)?;
        self.timer_events -= usize::from(event.is_timer());
        Some(event)
    }

    /// Sets a timer or renews its waker; gives its key.
    pub(crate) fn set_timer(&mut self, key: Option<EventKey>, at: u64, waker: &Waker) -> EventKey {
        let key = key.unwrap_or_else(|| self.schedule(at, Event::Timer));
        self.timers.insert(key, waker.clone());
        key
    }

    pub(crate) fn cancel_timer(&mut self, key: EventKey) {
        self.unschedule(key);
        self.timers.remove(&key);
    }

    /// Draws the next thing to happen among `ready` tasks and the due events; lets time pass if there is none.
    /// With `timers` false, time does not pass for the sake of timers alone.
    pub(crate) fn choose(&mut self, ready: usize, timers: bool) -> Choice {
        self.check_bounds();
        self.serve_waiting_receives();
        if ready == 0 {
            let Some((&(at, _), _)) = self.events.first_key_value() else { return Choice::Idle };
            if !timers && self.events.len() == self.timer_events {
                return Choice::Idle;
            }
            self.now = self.now.max(at);
        }
        let due: Vec<EventKey> =
            self.events.range(..=(self.now, u64::MAX)).take(DRAW_MAX).map(|(&key, _)| key).collect();
        let drawn = self.random.index(ready + due.len());
        self.steps += 1;
        self.now += self.random.below(STEP_NANOS_MAX);
        if drawn < ready {
            return Choice::Task(drawn);
        }
        let key = due[drawn - ready];
        if let Some(event) = self.unschedule(key) {
            self.note(event.fingerprint());
            self.dispatch(key, event);
        }
        Choice::Event
    }

    fn dispatch(&mut self, key: EventKey, event: Event) {
        match event {
            Event::Arrive(id) => self.arrive(id),
            Event::Receive(id) => self.receive_step(id),
            Event::Send(id) => self.send_step(id),
            Event::Request(id) => self.request_arrives(id),
            Event::Answer(id, error) => self.answer_arrives(id, error),
            Event::GiveUp(id) => self.give_up(id),
            Event::Timer => {
                let waker = self.timers.remove(&key);
                self.wake(waker);
            }
        }
    }

    fn check_bounds(&self) {
        let Self { seed, steps, now, bounds, .. } = self;
        let in_time = *now / 1_000_000 <= bounds.virtual_ms_max;
        assert!(
            *steps < bounds.steps_max && in_time,
            "simulation of seed {seed} did not end within {} steps and {} ms: it is at step {steps}, {} ms",
            bounds.steps_max,
            bounds.virtual_ms_max,
            now / 1_000_000
        );
    }

    /// Receives that wait for a buffer go on when one has come home.
    fn serve_waiting_receives(&mut self) {
        for host in 0..self.hosts.len() {
            let state = &mut self.hosts[host];
            let returned = state.pool.returned();
            if state.waiting.is_empty() || returned == state.returned_seen {
                continue;
            }
            state.returned_seen = returned;
            for id in std::mem::take(&mut state.waiting) {
                self.schedule_soon(Event::Receive(id));
            }
        }
    }

    pub(crate) fn pool(&self, host: HostId) -> Rc<Pool> {
        Rc::clone(&self.hosts[host].pool)
    }

    /// True this often in a thousand, for faults that strike the machine under test only.
    pub(crate) fn strikes(&mut self, host: HostId, permille: u16) -> bool {
        self.hosts[host].under_test && self.random.chance(permille)
    }
}
