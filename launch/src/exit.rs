//! The exit codes, which scripts and init systems read.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; also when the drain deadline cut flows.
    Ok = 0,
    /// `explain`: the request would be denied.
    Denied = 1,
    /// Usage or configuration (EX_USAGE).
    Usage = 64,
    /// A door cannot be bound, or a demanded engine is missing (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A bug (EX_SOFTWARE).
    Internal = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
