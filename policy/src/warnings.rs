//! What `check` should say of a policy that compiles and yet may not mean what was meant. It must not resolve names.

use alloc::{string::String, vec::Vec};
use core::fmt;

use crate::{Origin, Snapshot};

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WarningKind {
    /// A literal address that the guard refuses although the service names it.
    GuardRefuses,
    /// Services that share a host or range and a port with different `allow` or `deny`.
    Merged,
    /// A service that no destination can match.
    Unreachable,
    /// A static service without endpoints: nothing to dial.
    NothingToDial,
}

/// A warning, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What may be wrong.
    pub kind: WarningKind,
    /// The same in words, with what to do.
    pub text: String,
    /// The places that it concerns.
    pub origins: Vec<Origin>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)?;
        for (index, origin) in self.origins.iter().enumerate() {
            write!(f, "{}{origin}", if index == 0 { ": " } else { " and " })?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Everything about this policy that may not mean what was meant.
    pub fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }
}
