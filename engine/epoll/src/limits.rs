//! The bounds of this engine, in one place. What all engines share stands in `sluice_engine::limits`.

use sluice_engine::limits::{BUFFER_BYTES, BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};

/// Bytes that one receive takes at most.
pub const RECEIVE_BYTES_MAX: usize = BUFFER_BYTES - BUFFER_HEADROOM_BYTES - BUFFER_TAILROOM_BYTES;

/// Connections that wait in the kernel for a listener that this engine opens; `net.core.somaxconn` may lower it.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Pipes that one worker has at most, in use and pooled. More make the kernel hand out one-page pipes to
/// unprivileged users: 64 pipes of 1 MiB are what the default `fs.pipe-user-pages-soft` of 16,384 pages grants.
pub const PIPES_MAX: usize = 64;

/// The capacity that a pipe is asked to have; what the kernel grants may be less.
pub const PIPE_BYTES: usize = 1024 * 1024;

/// A pipe that the kernel grants less than this is not worth a splice: the direction stays with buffers.
pub const PIPE_BYTES_MIN: usize = 64 * 1024;

/// Bytes that one tunnel moves before other tasks get their turn.
pub const TURN_BYTES_MAX: usize = 512 * 1024;

/// How often leftover tasks are dropped anew when the engine ends, because dropping a task may start another.
pub const CLEAN_UP_ROUNDS_MAX: usize = 16;
