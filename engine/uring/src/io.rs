//! Everything that lives between submission and completion: the ring, the sockets, listeners and relays behind its
//! operations, the timers. One turn of the worker ends in [`Io::turn`]. Knows no tasks but by their wakers.
//!
//! No waker is woken or dropped while this state is borrowed: both may run foreign code that comes back here. They are
//! collected in [`Io::wakes`] and [`Io::garbage`], and [`crate::core::Core::with_io`] sees to them afterwards.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use io_uring::{cqueue, opcode, types};
use sluice_engine::{Instant, Pool};
use sluice_relay::Input;

use crate::Config;
use crate::buffers::BufferRing;
use crate::limits::DRAIN_ROUNDS_MAX;
use crate::listener::ListenerSlot;
use crate::ops::{Kind, NO_KEY, decode, encode};
use crate::pipes::Pipes;
use crate::relay::RelaySlot;
use crate::ring::{Completion, Ring};
use crate::slab::{Key, Slab};
use crate::socket::Socket;
use crate::splice::Continuation;
use crate::timer::{Target, Timers};

/// See the module. Field order is drop order: the ring goes before the memory that it knows.
pub(crate) struct Io {
    pub(crate) ring: Ring,
    pub(crate) buffers: BufferRing,
    pub(crate) sockets: Slab<Socket>,
    pub(crate) listeners: Slab<ListenerSlot>,
    pub(crate) relays: Slab<RelaySlot>,
    pub(crate) pipes: Pipes,
    pub(crate) timers: Timers,
    /// Receives that found no buffer, oldest first.
    pub(crate) starved: VecDeque<Key>,
    /// Splices that had their share of this turn.
    pub(crate) continuing: Vec<Continuation>,
    /// The answers that a relay's machine is still to be given; empty between operations.
    pub(crate) answers: VecDeque<Input>,
    pub(crate) wakes: Vec<Waker>,
    pub(crate) garbage: Vec<Waker>,
    pub(crate) now: Instant,
    /// Operations whose last completion is still to come.
    pub(crate) in_flight: usize,
    pub(crate) buffers_exhausted: u64,
    pub(crate) splice_promotions: u64,
    pub(crate) splice_demotions: u64,
    pub(crate) splice_turn_bytes_max: usize,
    /// Directions of relays that are spliced now.
    pub(crate) splicing: usize,
    /// What the read of the eventfd is written to.
    wake_value: Box<u64>,
    wake_fd: i32,
    wake_armed: bool,
    completions: Vec<Completion>,
}

impl Io {
    /// Sets up a ring of the calling thread's own.
    pub(crate) fn new(config: &Config, pool: Rc<Pool>, wake_fd: i32) -> io::Result<Self> {
        let ring = crate::ring::build(config.submission_entries, config.completion_entries)?;
        let buffers = BufferRing::new(config.ring_buffers, pool);
        // SAFETY: both go into `Io`, which drops `ring` before `buffers`.
        let ring = unsafe { Ring::start(ring, &buffers)? };
        Ok(Self {
            ring,
            buffers,
            sockets: Slab::new(),
            listeners: Slab::new(),
            relays: Slab::new(),
            pipes: Pipes::new(config.pipes_max, config.pipe_bytes),
            timers: Timers::default(),
            starved: VecDeque::new(),
            continuing: Vec::new(),
            answers: VecDeque::new(),
            wakes: Vec::new(),
            garbage: Vec::new(),
            now: Instant::default(),
            in_flight: 0,
            buffers_exhausted: 0,
            splice_promotions: 0,
            splice_demotions: 0,
            splice_turn_bytes_max: config.splice_turn_bytes_max,
            splicing: 0,
            wake_value: Box::new(0),
            wake_fd,
            wake_armed: false,
            completions: Vec::new(),
        })
    }

    /// Prepares what the next wait needs: empty buffers for the kernel, receives that lacked one, the eventfd.
    fn prepare(&mut self) {
        self.buffers.refill();
        self.rearm_starved();
        if !self.wake_armed {
            self.wake_armed = true;
            self.in_flight += 1;
            let target = std::ptr::from_mut(self.wake_value.as_mut()).cast();
            let read = opcode::Read::new(types::Fd(self.wake_fd), target, 8).build();
            // SAFETY: the eight bytes are boxed, used for nothing else, and freed only after the ring: `in_flight`
            // keeps the ring's owner from ending before this operation has.
            unsafe { self.ring.push(read.user_data(encode(Kind::Wake, NO_KEY))) };
        }
    }

    /// One submission: hands over what is queued, waits for `wait` at most if given, takes what has completed.
    pub(crate) fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.prepare();
        self.ring.submit(wait)
    }

    /// Deals with all completions that are there.
    pub(crate) fn complete_all(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.reap(&mut completions);
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
    }

    fn complete(&mut self, completion: Completion) {
        let Completion { user_data, result, flags } = completion;
        let Some((kind, key)) = decode(user_data) else {
            debug_assert!(false, "only this engine's own operations complete");
            return;
        };
        debug_assert!(!cqueue::more(flags), "every operation of this engine completes once");
        self.in_flight -= 1;
        match kind {
            Kind::Receive => self.complete_receive(key, result, flags),
            Kind::Send => self.complete_send(key, result),
            Kind::Connect => self.complete_connect(key, result),
            Kind::PollIn | Kind::PollOut => self.complete_poll(key, kind, result),
            Kind::Cancel => self.complete_cancel(key),
            Kind::Accept => self.complete_accept(key, result),
            Kind::CancelAccept => self.complete_cancel_accept(key),
            Kind::Wake => self.wake_armed = false,
            Kind::CancelAll => {}
        }
    }

    /// Fires what is due.
    pub(crate) fn fire_timers(&mut self) {
        while let Some(target) = self.timers.pop_due(self.now) {
            match target {
                Target::Task(waker) => self.wakes.push(waker),
                Target::Relay(key) => self.relay_timer(key),
            }
        }
    }

    /// Waits until nothing is in flight, cancelling all of it. Sockets that still have an owner keep their state: a
    /// receive that was cancelled here is armed again when it is asked for. True if all is quiet.
    pub(crate) fn drain(&mut self) -> bool {
        for _ in 0..DRAIN_ROUNDS_MAX {
            if self.in_flight == 0 {
                return true;
            }
            self.in_flight += 1;
            self.ring.push_cancel_all(encode(Kind::CancelAll, NO_KEY));
            if self.ring.submit(Some(Duration::from_millis(100))).is_err() {
                return false;
            }
            self.complete_all();
        }
        self.in_flight == 0
    }

    /// Gives a waker to be dropped at a safe place.
    pub(crate) fn discard(&mut self, waker: Option<Waker>) {
        self.garbage.extend(waker);
    }

    /// Stores a task's waker in `place` unless one of the same task stands there; the old one is returned, to be
    /// discarded.
    #[must_use]
    pub(crate) fn replace_waker(place: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
        if place.as_ref().is_some_and(|old| old.will_wake(waker)) {
            return None;
        }
        place.replace(waker.clone())
    }
}
