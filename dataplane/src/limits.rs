//! The bounds of the data plane that no configuration key moves, in one place.

use std::time::Duration;

/// Addresses that one dial tries.
pub(crate) const ADDRESSES_TRIED_MAX: usize = 8;

/// Idle upstream connections that one worker keeps.
pub(crate) const POOLED_UPSTREAMS_MAX: usize = 4096;

/// Idle upstream connections that one worker keeps to one destination.
pub(crate) const POOLED_PER_DESTINATION_MAX: usize = 256;

/// Idle upstream connections that are kept for one client connection alone.
pub(crate) const PINNED_PER_CLIENT_MAX: usize = 8;

/// Names that a worker's DNS replica holds.
pub(crate) const NAMES_MAX: usize = 16 * 1024;

/// After this long without an answer from the control thread a question counts as lost and is asked again; to ask
/// twice costs nothing there, as questions for one name are one.
pub(crate) const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Questions that one lookup waits for before it has failed.
pub(crate) const QUESTIONS_MAX: usize = 3;

/// An answer serves at least this long, so that those who waited for it see it even where its own life is nothing.
pub(crate) const ANSWER_LIFE_MIN: Duration = Duration::from_millis(100);

/// How long a door rests after the process ran out of descriptors.
pub(crate) const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The longest such rest.
pub(crate) const ACCEPT_BACKOFF_MAX: Duration = Duration::from_millis(500);

/// How often a worker tells the log that its doors rest: they may do so many times a second.
pub(crate) const REST_NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a door that closes, its queue empty, waits for clients whose handshake had begun: a long round trip.
pub(crate) const ACCEPT_QUEUE_WAIT: Duration = Duration::from_millis(100);

/// How long a door that closes goes on accepting: where other workers serve the same address, its queue may never end.
pub(crate) const ACCEPT_QUEUE_TIME_MAX: Duration = Duration::from_millis(500);

/// How long a recheck of all flows may keep the worker before others run.
pub(crate) const RECHECK_SLICE: Duration = Duration::from_micros(500);

/// How long sessions have to write their records after a stop cut them.
pub(crate) const STOP_TIME_MAX: Duration = Duration::from_millis(200);

/// How often byte counts of live tunnels are added to their series.
pub(crate) const BYTE_COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// How often idle upstream connections are looked through.
pub(crate) const POOL_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long a captured connection of our own host waits, before it is led on, for word of whether we have dialled it.
pub(crate) const OWN_DIAL_SETTLES: Duration = Duration::from_millis(5);

/// How long a connection that was dialled is known for one of our own when it comes back through a capture rule: it does
/// so at once, but may have waited for its first bytes and for DNS before it leads on. Seconds.
pub(crate) const OWN_DIAL_REMEMBERED_S: u32 = 60;

/// What must be left of a body of known length for the rest of it to be spliced.
pub(crate) const BULK_BODY_BYTES_MIN: u64 = 64 * 1024;

/// Heads that one response may have, the final one included: 15 between 100 and 199 pass.
pub(crate) const INTERIM_HEADS_MAX: usize = 16;

/// Names that are tried for a service that a denial suggests.
pub(crate) const SUGGESTED_NAMES_MAX: u32 = 100;
