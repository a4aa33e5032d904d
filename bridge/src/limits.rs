//! Bounds of the queues between control and one worker, and of what this crate keeps.

/// Capacity of each queue between the control plane and one worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Commands to the worker, DNS answers among them; control waits for room, nothing is dropped.
    pub commands: usize,
    /// DNS questions from the worker; the asking session waits for room.
    pub questions: usize,
    /// Notices from the worker.
    pub notices: usize,
    /// Old snapshots that the worker hands back.
    pub retired: usize,
    /// Access-log records; a full queue drops the newest and counts it.
    pub records: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { commands: 1024, questions: 1024, notices: 64, retired: 16, records: 8192 }
    }
}

/// A user's name in proxy credentials, bytes (RFC 1929 allows one length byte; HTTP Basic is held to the same).
pub const USER_BYTES_MAX: usize = 255;
/// A password in proxy credentials, bytes.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Addresses of one family kept of one DNS answer.
pub const ADDRESSES_MAX: usize = 32;
