//! The bounds of this engine, in one place.

use sluice_engine::limits::{BUFFER_BYTES, BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};

/// Entries of the submission queue. When it is full it is submitted early; nothing is refused.
pub const SUBMISSION_ENTRIES: u32 = 1024;

/// Entries of the completion queue: 256 KiB. What does not fit is kept by the kernel and counted.
pub const COMPLETION_ENTRIES: u32 = 16 * 1024;

/// Buffers that wait in the kernel's ring for data, at most. A power of two; 256 × 16 KiB = 4 MiB.
pub const RING_BUFFERS: u16 = 256;

/// Buffers that wait there even when nothing happens, if the ring is as large.
pub const RING_BUFFERS_MIN: u16 = 8;

/// The most that one receive can give, in bytes.
pub const RECEIVE_BYTES: usize = BUFFER_BYTES - BUFFER_HEADROOM_BYTES - BUFFER_TAILROOM_BYTES;

/// Tasks that are run before the ring is looked at again.
pub const TASKS_PER_TURN: usize = 1024;

/// Connections that a listener accepts ahead: held because nobody has asked for them yet, or about to be. Exact.
pub const ACCEPTED_HELD_MAX: usize = 8;

/// The backlog of listeners that the engine binds itself.
pub const LISTEN_BACKLOG: i32 = 4096;

/// The longest sleep of the worker, in milliseconds: a guard against a clock or a wake that went wrong.
pub const SLEEP_MS_MAX: u64 = 10_000;

/// Pipes for splicing that one worker keeps, in use and spare together. Each may take 256 pages of kernel memory while
/// bytes are in it. A user without privilege may hold 16,384 pages of pipes, which is 64 such; beyond that the kernel
/// grants less, and with less than [`PIPE_BYTES_MIN`] a direction stays with buffers.
pub const PIPES_MAX: usize = 128;

/// Bytes that a pipe is asked to hold; the kernel may allow fewer.
pub const PIPE_BYTES: usize = 1024 * 1024;

/// The smallest pipe that is worth splicing through; with less the direction stays with buffers.
pub const PIPE_BYTES_MIN: usize = 64 * 1024;

/// Bytes that one direction of a relay may splice in one turn; the rest waits for the next, so that others get theirs.
pub const SPLICE_TURN_BYTES_MAX: usize = 1024 * 1024;

/// Rounds of waiting for cancelled operations when the engine ends, 100 ms each at most.
pub const DRAIN_ROUNDS_MAX: usize = 100;
