//! What goes wrong and how often. Plain numbers.

use sluice_engine::limits::POOL_BUFFERS_MAX;

use crate::limits::{STEPS_MAX, VIRTUAL_MS_MAX};

/// How often things go wrong, and how wide the world is. Ratios are per thousand. "The engine" is the machine under
/// test, [`Sim::engine`](crate::Sim::engine).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A receive or splice brings fewer bytes than are there.
    pub short_read_permille: u16,
    /// A send step takes fewer bytes than there is room for.
    pub short_write_permille: u16,
    /// A step of an outside host's socket resets its connection instead.
    pub reset_permille: u16,
    /// A connect of the engine is refused although somebody listens.
    pub connect_refused_permille: u16,
    /// A connect of the engine fails with `ETIMEDOUT` after the kernel's patience.
    pub connect_timeout_permille: u16,
    /// A connect of the engine never gets an answer.
    pub connect_silent_permille: u16,
    /// An accept or connect of the engine fails with `EMFILE`.
    pub descriptors_exhausted_permille: u16,
    /// A receive of the engine finds no buffer and waits.
    pub no_buffers_permille: u16,
    /// A direction that wants to splice gets no pipe.
    pub splice_unavailable_permille: u16,
    /// A reset takes bytes with it: at its sender those that are still on the way, at its receiver those that had
    /// arrived and were not yet read.
    pub reset_discards_permille: u16,
    /// Latency of one direction of a connection, drawn for each segment. Microseconds.
    pub latency_us_min: u64,
    /// See `latency_us_min`.
    pub latency_us_max: u64,
    /// Bytes that one direction of a connection holds, sent and not yet read, drawn for each direction.
    pub socket_buffer_bytes_min: usize,
    /// See `socket_buffer_bytes_min`.
    pub socket_buffer_bytes_max: usize,
    /// Buffers in the engine's pool.
    pub pool_buffers_max: usize,
    /// Descriptors (streams and listeners) that the engine may have open; more fail with `EMFILE`.
    pub descriptors_max: usize,
}

impl Faults {
    /// A world in which all goes well; order and latency still vary.
    pub const fn none() -> Self {
        Self {
            short_read_permille: 0,
            short_write_permille: 0,
            reset_permille: 0,
            connect_refused_permille: 0,
            connect_timeout_permille: 0,
            connect_silent_permille: 0,
            descriptors_exhausted_permille: 0,
            no_buffers_permille: 0,
            splice_unavailable_permille: 0,
            reset_discards_permille: 0,
            latency_us_min: 20,
            latency_us_max: 200,
            socket_buffer_bytes_min: 64 * 1024,
            socket_buffer_bytes_max: 256 * 1024,
            pool_buffers_max: POOL_BUFFERS_MAX,
            descriptors_max: usize::MAX,
        }
    }

    /// Everything goes wrong now and then.
    pub const fn all() -> Self {
        Self {
            short_read_permille: 250,
            short_write_permille: 250,
            reset_permille: 2,
            connect_refused_permille: 30,
            connect_timeout_permille: 20,
            connect_silent_permille: 10,
            descriptors_exhausted_permille: 30,
            no_buffers_permille: 50,
            splice_unavailable_permille: 100,
            reset_discards_permille: 500,
            latency_us_min: 0,
            latency_us_max: 20_000,
            socket_buffer_bytes_min: 1,
            socket_buffer_bytes_max: 128 * 1024,
            pool_buffers_max: 8,
            descriptors_max: usize::MAX,
        }
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

/// When a run has gone on for too long: it then panics with its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Steps: a task polled or an event handled.
    pub steps_max: u64,
    /// Virtual time. Milliseconds.
    pub virtual_ms_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { steps_max: STEPS_MAX, virtual_ms_max: VIRTUAL_MS_MAX }
    }
}
