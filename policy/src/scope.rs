//! Which mode holds for which source. It must not know destinations: a mode only counts where no service
//! matched.

use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::{Identity, Origin, Selector, service::words};

words! {
    /// What becomes of a destination that matches no service.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    Mode, "mode", {
        /// It is black-holed.
        RegistryOnly = "registry_only",
        /// It passes and is accounted as passthrough.
        AllowAny = "allow_any",
    }
}

/// One `[[scope]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeInput {
    /// The sources that it covers.
    pub source: Selector,
    /// Their mode.
    pub mode: Mode,
    /// Where it stands.
    pub origin: Origin,
}

/// A compiled scope.
pub type Scope = ScopeInput;

/// A scope of one snapshot, from the most specific on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub(crate) u16);

/// The scopes, the most specific first; the stricter first where two say as much; then in the order of the
/// file.
#[derive(Debug)]
pub(crate) struct Scopes {
    pub(crate) global: Mode,
    sorted: Vec<Scope>,
}

impl Scopes {
    /// The caller has checked `scopes.len()` against the limit.
    pub(crate) fn new(global: Mode, mut scopes: Vec<ScopeInput>) -> Self {
        // The sort is stable, so the order of the file decides last.
        scopes.sort_by_key(|scope| (Reverse(scope.source.specificity()), scope.mode));
        Self { global, sorted: scopes }
    }

    /// The mode of a (proven) identity, with the scope that says so.
    pub(crate) fn mode_of(&self, identity: Option<&Identity>) -> (Mode, Option<ScopeId>) {
        for (index, scope) in (0..).zip(&self.sorted) {
            if scope.source.matches(identity) {
                return (scope.mode, Some(ScopeId(index)));
            }
        }
        (self.global, None)
    }

    pub(crate) fn get(&self, id: ScopeId) -> Option<&Scope> {
        self.sorted.get(usize::from(id.0))
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }
}
