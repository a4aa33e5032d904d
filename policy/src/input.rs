//! What is compiled: plain data that the configuration fills. It must not know TOML or YAML, only where each
//! item stood.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::{fmt, net::IpAddr};

use crate::{
    Cidr, GuardInput, HostList, HostPattern, Location, Mode, Protocol, Resolution, ScopeInput, Selector,
    UnixSeconds, WorkloadInput, identity::Proof,
};

/// Where an item of the configuration stands, for errors and for `explain`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Path of the file as the user named it.
    pub file: Arc<str>,
    /// Line, from 1; 0 where no line is known.
    pub line: u32,
}

impl Origin {
    /// An origin at `line` (from 1) of `file`.
    pub fn new(file: impl Into<Arc<str>>, line: u32) -> Self {
        Self { file: file.into(), line }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// Everything that makes one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInput {
    /// The mode of sources that no scope covers.
    pub mode: Mode,
    /// Modes for some sources, in the order of the file.
    pub scopes: Vec<ScopeInput>,
    /// Who is asking, where no certificate says it.
    pub workloads: Vec<WorkloadInput>,
    /// The registry.
    pub services: Vec<ServiceInput>,
    /// What may be dialled.
    pub guard: GuardInput,
    /// Seed of the hash tables: any number, best a random one per process.
    pub hash_seed: u64,
}

impl PolicyInput {
    /// A policy of `mode` with nothing in it.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            scopes: Vec::new(),
            workloads: Vec::new(),
            services: Vec::new(),
            guard: GuardInput::default(),
            hash_seed: 0,
        }
    }
}

/// One `[[service]]` or Istio ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceInput {
    /// Name, unique within its namespace.
    pub name: Arc<str>,
    /// Namespace; the configuration's default is "default".
    pub namespace: Arc<str>,
    /// Names, exact or `*.suffix`.
    pub hosts: Vec<HostPattern>,
    /// More of the same; where there are many they belong here.
    pub host_list: HostList,
    /// Ranges compared with the original destination, virtual addresses included.
    pub addresses: Vec<Cidr>,
    /// Ports; empty means 80 HTTP and 443 TLS.
    pub ports: Vec<PortInput>,
    /// Inside or outside the mesh.
    pub location: Location,
    /// How its addresses are found.
    pub resolution: Resolution,
    /// Where it is dialled instead of at its own name.
    pub endpoints: Vec<EndpointInput>,
    /// Who may: absent means every source, empty means nobody.
    pub allow: Option<Vec<Selector>>,
    /// Who may not; wins over `allow`.
    pub deny: Vec<Selector>,
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
}

impl ServiceInput {
    /// A service with the defaults of the configuration: ports 80 and 443, DNS, every source.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>, origin: Origin) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            hosts: Vec::new(),
            host_list: HostList::default(),
            addresses: Vec::new(),
            ports: Vec::new(),
            location: Location::default(),
            resolution: Resolution::default(),
            endpoints: Vec::new(),
            allow: None,
            deny: Vec::new(),
            require_proof: None,
            source_address: None,
            region: None,
            owner: None,
            ticket: None,
            expires: None,
            origin,
        }
    }

    /// Every name as its pattern's canonical text, those of `hosts` first.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(HostPattern::as_str).chain(self.host_list.iter())
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortInput {
    /// 1–65535; 0 is refused by [`crate::compile`].
    pub number: u16,
    /// Name, if it has one; endpoints refer to it.
    pub name: Option<Arc<str>>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Port to dial instead of `number`.
    pub target_port: Option<u16>,
}

impl PortInput {
    /// A port without a name that is dialled as it is.
    pub fn new(number: u16, protocol: Protocol) -> Self {
        Self { number, name: None, protocol, target_port: None }
    }
}

/// One endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointInput {
    /// Literal address or name.
    pub address: EndpointAddress,
    /// Port to dial by name of the service's port.
    pub ports: Vec<(Arc<str>, u16)>,
    /// Region/zone/subzone.
    pub locality: Option<Arc<str>>,
    /// Share of the flows, relative to the other endpoints; 0 counts as 1 (Istio: unset).
    pub weight: u32,
}

/// What an endpoint is dialled by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// An address: named for the guard, for this service only.
    Literal(IpAddr),
    /// A canonical name that is resolved; its addresses are guarded.
    Name(Arc<str>),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// `namespace/name`, as services are written everywhere.
pub(crate) fn qualified(namespace: &str, name: &str) -> String {
    alloc::format!("{namespace}/{name}")
}
