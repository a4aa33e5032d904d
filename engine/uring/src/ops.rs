//! The operations that this engine submits, and how a completion finds its way back: the 64 bits of user data
//! carry the kind of operation, the slot and the slot's generation.

use io_uring::opcode;

use crate::slab::Key;

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Receive,
    Send,
    Connect,
    /// Waits until a socket can be read, for splice.
    PollIn,
    /// Waits until a socket can be written, for splice.
    PollOut,
    /// Cancels whatever a socket has in flight.
    Cancel,
    Accept,
    /// Cancels a listener's accept.
    CancelAccept,
    /// The read of the eventfd through which other threads end the worker's wait.
    Wake,
    /// Cancels everything, at the end.
    CancelAll,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Receive,
        Self::Send,
        Self::Connect,
        Self::PollIn,
        Self::PollOut,
        Self::Cancel,
        Self::Accept,
        Self::CancelAccept,
        Self::Wake,
        Self::CancelAll,
    ];
}

/// Every opcode that is ever submitted, with the name used in reports. The ring is restricted to these.
pub(crate) const OPCODES: [(u8, &str); 7] = [
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::AsyncCancel2::CODE, "ASYNC_CANCEL"),
    (opcode::Read::CODE, "READ"),
];

/// No slot is behind these operations.
pub(crate) const NO_KEY: Key = Key { index: 0, generation: 0 };

/// Packs an operation into user data.
pub(crate) fn encode(kind: Kind, key: Key) -> u64 {
    (kind as u64) << 56 | u64::from(key.generation) << 32 | u64::from(key.index)
}

/// Unpacks user data; none if this engine did not make it.
pub(crate) fn decode(user_data: u64) -> Option<(Kind, Key)> {
    let kind = *Kind::ALL.get(usize::try_from(user_data >> 56).ok()?)?;
    let index = user_data as u32;
    let generation = (user_data >> 32) as u32 & 0x00ff_ffff;
    Some((kind, Key { index, generation }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_round_trips() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "the table is in order");
            let key = Key { index: u32::MAX, generation: 0x00ff_ffff };
            assert_eq!(decode(encode(kind, key)), Some((kind, key)));
        }
        assert_eq!(decode(u64::MAX), None);
    }
}
