//! Narrows a ring, before it is enabled, to what this engine needs. Whoever gets hold of the ring later, by a bug or
//! an attack, can neither open files nor register anything. Knows nothing of what the operations are for.

use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, squeue};

use crate::ops::OPCODES;

/// Allows [`OPCODES`], buffer selection, and nothing else. No registration is allowed afterwards.
pub(crate) fn restrict(ring: &IoUring) -> io::Result<()> {
    let mut rules: Vec<Restriction> = OPCODES.iter().map(|(code, _)| Restriction::sqe_op(*code)).collect();
    rules.push(Restriction::sqe_flags_allowed(squeue::Flags::BUFFER_SELECT.bits()));
    ring.submitter().register_restrictions(&mut rules)
}
