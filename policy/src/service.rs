//! A compiled service: what the data plane reads once a decision names it. It must not know how it was found.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::{fmt, net::IpAddr};

use crate::{MatchId, Origin, PortInput, Proof, Selector, UnixSeconds};

/// A service of one snapshot. Ids rise by namespace, then name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub(crate) u32);

impl ServiceId {
    /// Position among the services of its snapshot, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A port of one service: the position in [`Service::ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(crate) u16);

impl PortId {
    /// Position in [`Service::ports`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A word of the configuration that names nothing known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} \"{word}\": {known}")]
pub struct UnknownWord {
    /// What the word should have named.
    pub what: &'static str,
    /// The word itself.
    pub word: String,
    /// The words that are known.
    pub known: &'static str,
}

/// Declares an enum of configuration words: `as_str`, `Display` and `FromStr` from one table.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that the configuration, logs and metrics use.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::UnknownWord;

            /// Exactly one of the words of [`Self::as_str`].
            fn from_str(word: &str) -> Result<Self, $crate::UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::UnknownWord {
                        what: $what,
                        word: word.into(),
                        known: concat!("known are" $(, " ", $word)+),
                    }),
                }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What is spoken on a port, in Istio's words.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    Protocol, "protocol", {
        /// HTTP/1.1, or h2 with prior knowledge.
        Http = "HTTP",
        /// HTTP inside TLS that is passed through.
        Https = "HTTPS",
        /// TLS that is passed through.
        Tls = "TLS",
        /// HTTP/2.
        Http2 = "HTTP2",
        /// gRPC.
        Grpc = "GRPC",
        /// Opaque bytes.
        Tcp = "TCP",
        /// MongoDB, opaque.
        Mongo = "MONGO",
        /// MySQL, opaque and server-first.
        Mysql = "MYSQL",
        /// PostgreSQL, opaque.
        Postgres = "POSTGRES",
        /// Redis, opaque.
        Redis = "REDIS",
    }
}

impl Protocol {
    /// The first bytes must be a ClientHello whose SNI fits the rule.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Inner bytes are proxied per request.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Never sniffed: a server may speak first.
    pub const fn is_opaque(self) -> bool {
        !self.is_tls() && !self.is_http()
    }

    /// Whether a port that is declared to carry this may carry what is spoken. Plain requests to a port where TLS is
    /// declared would leave unencrypted; what is declared opaque takes anything.
    pub const fn admits(self, spoken: Spoken) -> bool {
        match spoken {
            Spoken::Requests => !self.is_tls(),
            Spoken::Tls => !self.is_http(),
            Spoken::Opaque => self.is_opaque(),
        }
    }
}

/// What is spoken on a flow, told apart as far as a declared protocol can be held against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Plain HTTP.
    Requests,
    /// TLS, whatever is inside.
    Tls,
    /// Neither of them.
    Opaque,
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "plain HTTP",
            Self::Tls => "TLS",
            Self::Opaque => "neither HTTP nor TLS",
        })
    }
}

words! {
    /// How a service's addresses are found, in Istio's words.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    Resolution, "resolution", {
        /// Our own resolution of the name (or of the endpoints' names).
        #[default]
        Dns = "DNS",
        /// The same, another address for each connection.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// The endpoints as they are written.
        Static = "STATIC",
        /// The original destination, under the conditions of the design.
        None = "NONE",
    }
}

words! {
    /// Where a service stands, in Istio's words.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    Location, "location", {
        /// Outside the mesh.
        #[default]
        MeshExternal = "MESH_EXTERNAL",
        /// Inside the mesh.
        MeshInternal = "MESH_INTERNAL",
    }
}

/// A port of a compiled service.
pub type Port = PortInput;

/// An endpoint of a compiled service.
pub type Endpoint = crate::EndpointInput;

/// A compiled service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name, unique within its namespace.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Ports by rising number, never empty; [`PortId`] is a position here.
    pub ports: Arc<[Port]>,
    /// Inside or outside the mesh.
    pub location: Location,
    /// How its addresses are found.
    pub resolution: Resolution,
    /// Where it is dialled instead of at its own name.
    pub endpoints: Box<[Endpoint]>,
    /// The least proof of identity that is let through.
    pub require_proof: Option<Proof>,
    /// Local address to dial from.
    pub source_address: Option<IpAddr>,
    /// Region for telemetry.
    pub region: Option<Arc<str>>,
    /// Who answers for this rule.
    pub owner: Option<Arc<str>>,
    /// Why this rule exists.
    pub ticket: Option<Arc<str>>,
    /// From this second on the rule no longer counts.
    pub expires: Option<UnixSeconds>,
    /// Where it stands.
    pub origin: Origin,
    /// Equal lists are shared among services.
    pub(crate) allow: Option<Arc<[Selector]>>,
    /// `None` if nobody is denied.
    pub(crate) deny: Option<Arc<[Selector]>>,
    pub(crate) first_host: Option<MatchId>,
}

impl Service {
    /// Who may: absent means every source, empty means nobody.
    pub fn allow(&self) -> Option<&[Selector]> {
        self.allow.as_deref()
    }

    /// Who may not; wins over `allow`.
    pub fn deny(&self) -> &[Selector] {
        self.deny.as_deref().unwrap_or_default()
    }

    /// Whether it no longer counts.
    pub fn is_expired(&self, now: UnixSeconds) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// The port that a decision names.
    ///
    /// `None` only for an id of another service.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())
    }

    /// The port to dial for one of this service's ports: the endpoint's own for it, else `target_port`, else
    /// the number.
    pub fn dial_port(&self, port: &Port, endpoint: Option<&Endpoint>) -> u16 {
        let own = endpoint.zip(port.name.as_ref()).and_then(|(endpoint, name)| {
            endpoint.ports.iter().find(|(wanted, _)| wanted == name).map(|(_, number)| *number)
        });
        own.or(port.target_port).unwrap_or(port.number)
    }

    /// The port with this number.
    pub fn port_by_number(&self, number: u16) -> Option<(PortId, &Port)> {
        let index = self.ports.binary_search_by_key(&number, |port| port.number).ok()?;
        // Invariant: `compile` refuses more ports than fit in 16 bits.
        Some((PortId(u16::try_from(index).ok()?), &self.ports[index]))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
