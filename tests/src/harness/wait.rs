//! Waiting for conditions. The only place that sleeps.

use std::time::{Duration, Instant};

/// How long anything may take that ought to happen soon: generous, because a loaded machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `look` finds something.
///
/// # Panics
/// After [`DEADLINE`], with `what` was waited for.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    match within(DEADLINE, &mut look) {
        Some(found) => found,
        None => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Waits until `look` finds something, `limit` at most.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Lets time pass where the passing of time is what is tested, never to wait for an event.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}
