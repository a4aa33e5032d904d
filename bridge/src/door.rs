//! Doors: what a listener is (its plan) and the bound socket that control hands over. It must not know how one is served.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use sluice_policy::Cidr;

/// What arrives at a door.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum DoorKind {
    /// Absolute-form HTTP/1.1 and CONNECT.
    HttpProxy,
    /// TLS passed through by SNI.
    Tls,
    /// Any TCP, bound to one service.
    Tcp,
    /// Plain HTTP/1.1 straight to the gateway.
    Http,
    /// Captured traffic that keeps its original destination.
    Transparent,
    /// SOCKS5 CONNECT.
    Socks5,
}

impl DoorKind {
    /// The word of `[[listener]] kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpProxy => "http_proxy",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Transparent => "transparent",
            Self::Socks5 => "socks5",
        }
    }
}

/// How a captured connection tells where it was going.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capture {
    /// Netfilter rewrote the destination (REDIRECT) and remembers the original one.
    Redirect,
    /// The socket's own local address is the original destination (TPROXY).
    Tproxy,
}

/// Whether a door asks for credentials.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Auth {
    /// Credentials are ignored.
    #[default]
    Off,
    /// Credentials are checked when sent; wrong ones are refused.
    Optional,
    /// No credentials, no service.
    Required,
}

/// What a denied TLS client sees.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DenyTls {
    /// A reset.
    #[default]
    Reset,
    /// A fatal `unrecognized_name` alert (RFC 6066 §3), then a reset.
    Alert,
}

/// The PROXY header that a door wants in front of every connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyProtocol {
    /// The peers whose header is believed; nobody else is let in.
    pub trusted: Arc<[Cidr]>,
    /// Whether the header's destination counts as the original destination.
    pub use_destination: bool,
}

impl ProxyProtocol {
    /// Whether a peer's header is believed. IPv4-mapped addresses are unmapped first.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|range| range.contains(peer))
    }
}

/// Whose address a door's upstream connections come from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UpstreamSource {
    /// The gateway's.
    #[default]
    Gateway,
    /// The client's own (`IP_TRANSPARENT`): the network must bring the answers back to the gateway.
    Client,
}

/// FTP, SSH, SMTP, POP3, IMAP, submission, MS SQL, MySQL, PostgreSQL: their servers speak first, or their clients do
/// not say a name.
const OPAQUE_PORTS: [u16; 9] = [21, 22, 25, 110, 143, 587, 1433, 3306, 5432];

/// A door as configured. Its bind address is its identity over reloads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DoorPlan {
    /// Label of metrics and logs.
    pub name: Arc<str>,
    /// What arrives.
    pub kind: DoorKind,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Whether it asks for credentials.
    pub auth: Auth,
    /// `tls`: the port to dial; absent: the door's own.
    pub destination_port: Option<u16>,
    /// `tcp`: the service, (namespace, name).
    pub service: Option<(Arc<str>, Arc<str>)>,
    /// What a denied TLS client sees.
    pub deny_tls: DenyTls,
    /// `transparent`: how it learns the original destination.
    pub capture: Option<Capture>,
    /// The PROXY header in front of each connection; `None`: a header is refused like any other bytes out of place, and is
    /// payload on a `tcp` door.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `transparent`: whose address upstream connections come from, unless the service says.
    pub upstream_source: UpstreamSource,
    /// Ports where a server may speak first: in allow-any a destination without a name is not sniffed there.
    pub opaque_ports: Arc<[u16]>,
}

impl DoorPlan {
    /// A door with everything optional left at its default, named after its kind and address.
    #[must_use]
    pub fn new(kind: DoorKind, bind: SocketAddr) -> Self {
        Self {
            name: format!("{}-{bind}", kind.as_str()).into(),
            kind,
            bind,
            auth: Auth::default(),
            destination_port: None,
            service: None,
            deny_tls: DenyTls::default(),
            capture: None,
            proxy_protocol: None,
            upstream_source: UpstreamSource::default(),
            opaque_ports: Arc::new(OPAQUE_PORTS),
        }
    }
}

/// A door to open: its plan and, except in simulation, this worker's own listening socket.
#[derive(Debug)]
pub struct Door {
    /// What to serve.
    pub plan: Arc<DoorPlan>,
    /// Bound and listening, SO_REUSEPORT set, non-blocking; `None` in simulation.
    pub socket: Option<TcpListener>,
}
