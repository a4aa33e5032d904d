//! What a flow was seen to carry, held against what its port is declared to carry, now or after a reload. Knows nothing
//! of how it was seen.

use sluice_policy::{Protocol, Spoken};

use crate::route::{Destination, Route};

/// What a flow carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Nothing has been seen: the session will look as the port was declared when the flow was decided.
    #[default]
    Unseen,
    /// HTTP requests, each decided by itself.
    Requests,
    /// TLS, with the server name of its ClientHello.
    Tls(Option<Destination>),
    /// Bytes that nobody asked what they are.
    Opaque,
}

impl Carried {
    /// Whether a port of this declared protocol may carry it; no protocol is declared for what only passes through.
    pub(crate) fn fits(&self, declared: Option<Protocol>) -> bool {
        let spoken = match self {
            Self::Unseen => return true,
            Self::Requests => Spoken::Requests,
            Self::Tls(_) => Spoken::Tls,
            Self::Opaque => Spoken::Opaque,
        };
        declared.is_none_or(|declared| declared.admits(spoken))
    }

    /// Whether the flow would still be let through on the route that a new policy gives it. `inner` decides on the
    /// server name inside.
    pub(crate) fn still_fits<R: AsRef<Route>>(
        &self,
        before: &Route,
        now: &Route,
        inner: impl FnOnce(&Destination) -> R,
    ) -> bool {
        // A door that is bound to a service relays whatever comes.
        if now.wanted.bound.is_some() {
            return true;
        }
        let declared = now.declared_protocol();
        match self {
            Self::Unseen => look(before.declared_protocol()) == look(declared),
            Self::Tls(name) if declared.is_some_and(Protocol::is_tls) => match name {
                Some(name) if now.wanted.host.as_ref() == Some(name) => true,
                Some(name) => {
                    let inner = inner(name);
                    !inner.as_ref().is_denied() && inner.as_ref().same_rule(now)
                }
                None => now.wanted.host.is_none(),
            },
            _ => self.fits(declared),
        }
    }
}

/// How a session looks at what comes: (for a ClientHello, for requests).
fn look(declared: Option<Protocol>) -> (bool, bool) {
    (declared.is_some_and(Protocol::is_tls), declared.is_some_and(Protocol::is_http))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_carries_what_it_is_declared_to() {
        let all = [None, Some(Protocol::Http), Some(Protocol::Tls), Some(Protocol::Tcp)];
        let fits = |carried: Carried| all.map(|declared| carried.fits(declared));
        assert_eq!(fits(Carried::Requests), [true, true, false, true]);
        assert_eq!(fits(Carried::Tls(None)), [true, false, true, true]);
        assert_eq!(fits(Carried::Opaque), [true, false, false, true]);
    }
}
