//! The bounds of the relay, in one place.

/// Actions that one input can cause at most: a send and a receive for each direction, at the start.
pub const ACTIONS_MAX: usize = 4;

/// Buffers that one direction may hold at most, whatever the settings say.
pub const CREDIT_BUFFERS_MAX: u8 = 2;

/// Full buffers that one which is not full takes back from the count that promotes a direction to splice.
pub const SHORT_BUFFER_TAKES_BACK: u16 = 2;

/// Full buffers after which a direction that was refused a pipe asks again: 1,024 × 16 KiB = 16 MiB.
pub const SPLICE_RETRY_FULL_BUFFERS: u16 = 1024;

/// How long bytes held for the living side are still offered to it after the other side failed, where the settings
/// name no half-close timeout. Milliseconds.
pub const DRAIN_MS: u64 = 60_000;
