//! How a relay is to behave. Plain numbers; where they come from is not known here.

/// How a relay is to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A tunnel in which nothing moves for this long is reset. Milliseconds; 0 means never.
    pub idle_timeout_ms: u64,
    /// A tunnel of which one direction has ended and the other moves nothing for this long is reset. Milliseconds;
    /// 0 means never.
    pub half_close_timeout_ms: u64,
    /// Buffers that one direction may hold at a time, received and not yet sent: 1 or 2.
    pub credit_buffers: u8,
    /// After this many full buffers a direction is promoted to splice; each that is not full takes two back. 0 means never.
    pub splice_after_full_buffers: u8,
    /// A splice that moves fewer bytes than this counts as small. Bytes.
    pub splice_small_bytes: usize,
    /// After this many small splices in a row a direction goes back to buffers. 0 means never.
    pub splice_demote_after: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle_timeout_ms: 3_600_000,
            half_close_timeout_ms: 60_000,
            credit_buffers: 2,
            splice_after_full_buffers: 16,
            splice_small_bytes: 16 * 1024,
            splice_demote_after: 8,
        }
    }
}
