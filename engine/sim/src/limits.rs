//! The bounds of the simulator, in one place.

/// Steps of one run, unless told otherwise. A busy run of one product test takes some ten thousand.
pub const STEPS_MAX: u64 = 2_000_000;

/// Virtual time of one run, unless told otherwise: a day. Milliseconds.
pub const VIRTUAL_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Connections that a listener queues before it ignores more.
pub const BACKLOG_MAX: usize = 1024;

/// How long a connect to a silent address lasts until the kernel gives up. Milliseconds; Linux's six SYN retries.
pub const CONNECT_GIVES_UP_MS: u64 = 127_000;

/// Bytes of a pipe, as Linux makes them.
pub const PIPE_BYTES: usize = 64 * 1024;

/// Bytes that one send step puts on the wire at most.
pub const SEGMENT_BYTES_MAX: usize = 64 * 1024;

/// Due events among which the next is drawn; bounds the cost of a step.
pub const DRAW_MAX: usize = 64;

/// Inputs that a relay handles before it lets others run.
pub const RELAY_INPUTS_PER_TURN: usize = 32;

/// Virtual time that a step takes at most. Nanoseconds.
pub const STEP_NANOS_MAX: u64 = 2_000;

/// How long a completion is delayed at most once its cause is there. Nanoseconds.
pub const COMPLETION_NANOS_MAX: u64 = 20_000;

/// How long a receive that got no buffer by fault waits at most. Nanoseconds.
pub const NO_BUFFER_NANOS_MAX: u64 = 1_000_000;
