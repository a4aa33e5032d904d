//! The bounded queues between the control plane and one worker, and what travels on them. It must not know what either
//! side does with it.
//!
//! Nothing that changes behaviour is ever dropped: commands, questions, notices and retired snapshots wait for room.
//! Records are telemetry: a full queue drops the newest and counts it.

use crate::{ConnectionRow, DnsAnswer, DnsQuestion, Door, Snapshot, limits::Bounds};
use sluice_telemetry::access_log::Entry;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::{mpsc, oneshot};

/// From control to a worker.
#[derive(Debug)]
pub enum Command {
    /// Put this in force, decide every flow again, and hand the old one back.
    Snapshot(Arc<Snapshot>),
    /// Serve one more door, or replace the plan of the door at the same address (then without a socket).
    OpenDoor(Door),
    /// Accept what is queued, then close the door at this address.
    CloseDoor(SocketAddr),
    /// An answer, asked for or refreshed.
    Answer(DnsAnswer),
    /// Send the list of live connections.
    List(oneshot::Sender<Vec<ConnectionRow>>),
    /// Close the doors, end flows as they finish, cut what is left after this long; then [`Notice::Drained`].
    Drain {
        /// Milliseconds from now.
        deadline_ms: u64,
    },
    /// Cut everything and return.
    Stop,
}

/// From a worker to control.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// A door is served.
    DoorOpened(SocketAddr),
    /// A door is closed.
    DoorClosed(SocketAddr),
    /// A snapshot is in force and every flow has been decided again.
    Adopted {
        /// [`Snapshot::generation`].
        generation: u64,
        /// Flows cut because the new policy denies them.
        revoked: u64,
    },
    /// Doors stopped (or resumed, when false) accepting at the connection limit.
    AtConnectionLimit(bool),
    /// A door cannot accept for this error number (most often EMFILE) and rests. Sent once until it succeeds.
    AcceptFails {
        /// The door's address as configured.
        door: SocketAddr,
        /// The error's number; 0 where it has none.
        errno: i32,
    },
    /// A connection was made to a transparent door itself: nothing had redirected it. Sent from time to time only.
    NotCaptured {
        /// The door's address as configured.
        door: SocketAddr,
        /// Who made it.
        peer: SocketAddr,
    },
    /// A connection that the gateway had dialled came back through a transparent door. Sent from time to time only.
    CapturesItself {
        /// The door's address as configured.
        door: SocketAddr,
        /// Where it had been going.
        original: SocketAddr,
    },
    /// The drain is over.
    Drained {
        /// Flows cut at the deadline.
        cut: u64,
    },
}

/// A worker's ends.
#[derive(Debug)]
pub struct WorkerPort {
    /// Which worker this is, from 0.
    pub index: usize,
    /// Commands, in order. `None` from `recv` means that control is gone: stop.
    pub commands: mpsc::Receiver<Command>,
    /// Questions to the resolver; `send` waits for room.
    pub questions: mpsc::Sender<DnsQuestion>,
    /// Notices to control.
    pub notices: mpsc::Sender<Notice>,
    /// Access-log records.
    pub records: Records,
    /// The way back for old snapshots.
    pub retired: Retired,
}

/// Control's ends of one worker.
#[derive(Debug)]
pub struct ControlPort {
    /// Which worker this is, from 0.
    pub index: usize,
    /// Commands, in order; `send` waits for room.
    pub commands: mpsc::Sender<Command>,
    /// The worker's questions.
    pub questions: mpsc::Receiver<DnsQuestion>,
    /// The worker's notices.
    pub notices: mpsc::Receiver<Notice>,
    /// Old snapshots, to be freed on the heavy thread.
    pub retired: mpsc::Receiver<Arc<Snapshot>>,
    /// Records, to be formatted on the records thread.
    pub records: RecordQueue,
}

/// Makes both ends for worker `index`.
#[must_use]
pub fn pair(index: usize, bounds: &Bounds) -> (WorkerPort, ControlPort) {
    let (commands, commands_end) = mpsc::channel(bounds.commands);
    let (questions, questions_end) = mpsc::channel(bounds.questions);
    let (notices, notices_end) = mpsc::channel(bounds.notices);
    let (retired, retired_end) = mpsc::channel(bounds.retired);
    let (producer, consumer) = rtrb::RingBuffer::new(bounds.records);
    let dropped = Arc::new(AtomicU64::new(0));
    let worker = WorkerPort {
        index,
        commands: commands_end,
        questions,
        notices,
        records: Records { producer, dropped: Arc::clone(&dropped) },
        retired: Retired { queue: retired, waiting: VecDeque::new() },
    };
    let control = ControlPort {
        index,
        commands,
        questions: questions_end,
        notices: notices_end,
        retired: retired_end,
        records: RecordQueue { consumer, dropped },
    };
    (worker, control)
}

/// The way back for old snapshots: what had no room waits here. Bounded by the snapshots that control has published and
/// not yet taken back.
#[derive(Debug)]
pub struct Retired {
    queue: mpsc::Sender<Arc<Snapshot>>,
    waiting: VecDeque<Arc<Snapshot>>,
}

impl Retired {
    /// Hands an old snapshot back, so that it is never freed here: freeing a large registry takes milliseconds. Never
    /// waits: without room it is kept and goes with the next one, or with [`Self::flush`].
    pub fn retire(&mut self, old: Arc<Snapshot>) {
        self.waiting.push_back(old);
        self.flush();
    }

    /// Tries again to hand back what had no room; true when nothing is left.
    pub fn flush(&mut self) -> bool {
        while let Some(old) = self.waiting.pop_front() {
            match self.queue.try_send(old) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(old)) => {
                    self.waiting.push_front(old);
                    return false;
                }
                // Control is gone, the process is ending: freeing here delays nobody.
                Err(mpsc::error::TrySendError::Closed(old)) => drop(old),
            }
        }
        true
    }
}

/// Where a worker puts its records.
#[derive(Debug)]
pub struct Records {
    producer: rtrb::Producer<Box<Entry>>,
    dropped: Arc<AtomicU64>,
}

impl Records {
    /// Hands a record over. When the queue is full (or its reader gone) the record is dropped and counted, and the
    /// answer is false. Never waits and makes no system call.
    pub fn push(&mut self, record: Box<Entry>) -> bool {
        let taken = !self.producer.is_abandoned() && self.producer.push(record).is_ok();
        if !taken {
            // Single writer: a plain load and store.
            self.dropped.store(self.dropped.load(Relaxed) + 1, Relaxed);
        }
        taken
    }

    /// Records dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Records waiting to be read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producer.buffer().capacity() - self.producer.slots()
    }

    /// Whether no record is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the records thread takes one worker's records from. It polls: a wake-up per record would cost the worker a
/// system call.
#[derive(Debug)]
pub struct RecordQueue {
    consumer: rtrb::Consumer<Box<Entry>>,
    dropped: Arc<AtomicU64>,
}

impl RecordQueue {
    /// The oldest record, if any.
    pub fn pop(&mut self) -> Option<Box<Entry>> {
        self.consumer.pop().ok()
    }

    /// Records waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.consumer.slots()
    }

    /// Whether no record is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that the worker had to drop so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Whether the worker has ended: nothing will come after what is waiting.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.consumer.is_abandoned() && self.is_empty()
    }
}
