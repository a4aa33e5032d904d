//! The bounds of every engine, in one place.

/// Bytes of a pooled buffer, headroom and tailroom included.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Bytes kept free before received data, so that a chunk-size line can be written in front of it in place.
pub const BUFFER_HEADROOM_BYTES: usize = 32;

/// Bytes kept free behind received data, for the end of a chunk and the last chunk.
pub const BUFFER_TAILROOM_BYTES: usize = 16;

/// Buffers that one worker's pool keeps for receives; more wait. 4,096 × 16 KiB = 64 MiB.
pub const POOL_BUFFERS_MAX: usize = 4096;
