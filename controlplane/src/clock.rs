//! The wall clock, for expiry only. Everything else is monotonic.

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_policy::UnixSeconds;

/// Now; the epoch for a clock that is set before it.
pub(crate) fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
