//! Bodies of a known length in bulk: spliced from one connection to the other for as long as they come in large
//! pieces. By a tunnel's numbers, and knowing no message.

use std::cell::Cell;

use sluice_engine::limits::{BUFFER_BYTES, BUFFER_HEADROOM_BYTES, BUFFER_TAILROOM_BYTES};
use sluice_engine::{Engine, Pipe};
use sluice_relay::Settings;

use super::Exchange;
use crate::limits::BULK_BODY_BYTES_MIN;

/// The most that one receive gives.
pub(super) const RECEIVE_BYTES_MAX: usize = BUFFER_BYTES - BUFFER_HEADROOM_BYTES - BUFFER_TAILROOM_BYTES;

/// How many full buffers one that is not full takes back.
const SET_BACK: u8 = 2;

/// Tells bulk from other bodies: by far more full buffers than others. Not by a run without a break, as each time that
/// a socket's queue is read empty its remainder makes a short buffer, and such a run may never come.
#[derive(Default)]
pub(super) struct Detector {
    full_buffers: u8,
}

impl Detector {
    /// A buffer was received, and so many bytes are left of a known length. True if the rest is worth a splice.
    pub(super) fn is_bulk(&mut self, received_bytes: usize, left_bytes: u64) -> bool {
        let full = received_bytes >= RECEIVE_BYTES_MAX;
        self.full_buffers = if full {
            self.full_buffers.saturating_add(1)
        } else {
            self.full_buffers.saturating_sub(SET_BACK)
        };
        let bulk = self.full_buffers >= Settings::default().splice_after_full_buffers
            && left_bytes >= BULK_BODY_BYTES_MIN;
        if bulk {
            self.full_buffers = 0;
        }
        bulk
    }
}

/// Which side a splice failed at; an end before its time is the source's failure.
pub(super) enum Side {
    Source,
    Sink,
}

impl<E: Engine> Exchange<'_, E> {
    /// Splices at most `left_bytes`, never more; what the sink took is added to `count`. Gives how many it were: fewer
    /// where the rest comes in small pieces, or there is no pipe, so that buffers are to go on.
    pub(super) async fn splice(
        &self,
        from: &E::Stream,
        to: &E::Stream,
        left_bytes: u64,
        count: &Cell<u64>,
    ) -> Result<u64, Side> {
        let settings = Settings::default();
        let mut pipe = self.engine.pipe();
        let (mut passed, mut small) = (0, 0);
        while passed < left_bytes && small < settings.splice_demote_after {
            let bytes_max = usize::try_from(left_bytes - passed).unwrap_or(usize::MAX);
            let filled = match pipe.fill(from, bytes_max).await {
                Ok(0) => return Err(Side::Source),
                Ok(filled) => filled,
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => break,
                Err(_) => return Err(Side::Source),
            };
            self.spliced.set(self.spliced.get() || passed == 0);
            small = if filled < settings.splice_small_bytes { small + 1 } else { 0 };
            while pipe.held_bytes() > 0 {
                let drained = pipe.drain(to).await.map_err(|_| Side::Sink)? as u64;
                passed += drained;
                count.set(count.get() + drained);
                self.touch();
            }
        }
        Ok(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mostly_full_buffers_with_enough_behind_them_are_bulk() {
        let needed = Settings::default().splice_after_full_buffers;
        let mut detector = Detector::default();
        for _ in 1..needed {
            assert!(!detector.is_bulk(RECEIVE_BYTES_MAX, u64::MAX));
        }
        assert!(!detector.is_bulk(RECEIVE_BYTES_MAX - 1, u64::MAX), "a smaller one sets it back");
        for _ in 0..SET_BACK {
            assert!(!detector.is_bulk(RECEIVE_BYTES_MAX, u64::MAX));
        }
        assert!(detector.is_bulk(RECEIVE_BYTES_MAX, u64::MAX));
        assert!(!detector.is_bulk(RECEIVE_BYTES_MAX, u64::MAX), "and begins anew");
        for _ in 0..2 * needed {
            assert!(!detector.is_bulk(RECEIVE_BYTES_MAX, BULK_BODY_BYTES_MIN - 1));
        }
        // A queue that is read empty again and again, as it was seen: five full buffers and what is left.
        let mut detector = Detector::default();
        assert!(
            (0..60).any(|n| detector.is_bulk(if n % 6 == 5 { 13_552 } else { RECEIVE_BYTES_MAX }, u64::MAX))
        );
        let mut detector = Detector::default();
        assert!(
            !(0..600).any(|n| detector.is_bulk(if n % 3 == 0 { RECEIVE_BYTES_MAX } else { 900 }, u64::MAX))
        );
    }
}
