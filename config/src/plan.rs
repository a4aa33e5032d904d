//! The checked plan: what the parts of the gateway are built from. Plain values in runtime types; knows no TOML.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use sluice_policy::{Cidr, Identity, Mode, PolicyInput, Snapshot, UnknownWord};

use crate::effective::Effective;
use crate::entry_files::FilePattern;
use crate::secret::Secret;

/// A whole configuration after every check.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file it was read from; `None`: defaults, environment and flags only.
    pub file: Option<PathBuf>,
    /// Every file whose change may change the plan: the file itself and those that it names (`hosts_file`,
    /// `password_file`, `service_entries`).
    pub files: Vec<PathBuf>,
    /// Where a file may appear or vanish and so change the plan.
    pub file_patterns: Vec<FilePattern>,
    /// What happens to destinations that match no service.
    pub mode: Mode,
    /// Every door, in the order of the file; binds are unique.
    pub doors: Vec<Door>,
    /// Proxy credentials, each bound to a workload; users are unique.
    pub credentials: Vec<Credential>,
    /// How names are resolved.
    pub dns: Dns,
    /// Where access-log lines go and how they look.
    pub access_log: AccessLog,
    /// The admin API's address; always loopback.
    pub admin: Admin,
    /// Where probes and scrapes from outside are answered; `None`: off.
    pub prometheus: Option<Prometheus>,
    /// Engine and cores.
    pub dataplane: Dataplane,
    /// Time and size bounds of the data plane.
    pub limits: Limits,
    /// What a denial adds for the person who reads it.
    pub deny: Deny,
    /// How metrics are labelled.
    pub telemetry: Telemetry,
    /// What the policy was compiled from, less the names of every `hosts_file`: those stand in the policy alone.
    pub policy_input: PolicyInput,
    /// The compiled policy; its guard knows our own sockets as they are configured.
    pub policy: Snapshot,
    /// Differs where the names of some `hosts_file` do; not a proof that they are the same.
    pub(crate) host_lists_digest: u64,
    pub(crate) effective: Effective,
}

/// One listener, identified by its bind address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The configured name, else `kind-port`; unique.
    pub name: Arc<str>,
    /// What arrives here.
    pub kind: DoorKind,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Whether proxy credentials are asked for (`http_proxy`, `socks5`).
    pub auth: Auth,
    /// The port that is decided on and dialled (`tls`: else the door's own; `tcp`: always filled in from the service).
    pub destination_port: Option<u16>,
    /// The one service of a `tcp` door: namespace and name; it exists.
    pub service: Option<(Arc<str>, Arc<str>)>,
    /// How a TLS denial ends the connection (`tls`).
    pub deny_tls: DenyTls,
    /// How the original destination is learnt (`transparent`: always there).
    pub capture: Option<Capture>,
    /// Ports that are never sniffed where they only pass through (`transparent`); `None`: the default list.
    pub opaque_ports: Option<Arc<[u16]>>,
    /// The PROXY header that is wanted in front of each connection; `None`: none is accepted.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whose address upstream connections come from, unless the service says (`transparent`).
    pub upstream_source: UpstreamSource,
}

impl Door {
    /// Whether its sockets must take connections that are addressed to others.
    pub fn is_tproxy(&self) -> bool {
        self.capture == Some(Capture::Tproxy)
    }
}

/// `[[listener]] proxy_protocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// The peers whose header is believed; never empty.
    pub trusted: Vec<Cidr>,
    /// Whether the header's destination counts as the original destination.
    pub use_destination: bool,
}

/// The kinds of door that this version opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DoorKind {
    /// Absolute-form HTTP/1.1 requests and CONNECT.
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

/// How a `transparent` door learns the original destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capture {
    /// nftables `redirect`: the kernel remembers it.
    Redirect,
    /// nftables `tproxy`: it is the accepted socket's own address.
    Tproxy,
}

/// Whose address the upstream connections of a `transparent` door come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UpstreamSource {
    /// The gateway's.
    #[default]
    Gateway,
    /// The client's own.
    Client,
}

/// Whether a door asks for proxy credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Auth {
    /// Never; credentials that are sent all the same are dropped.
    #[default]
    Off,
    /// Checked when sent.
    Optional,
    /// Refused without them (407).
    Required,
}

/// How a TLS denial ends the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DenyTls {
    /// A reset, as an Istio sidecar does.
    #[default]
    Reset,
    /// A fatal `unrecognized_name` first.
    Alert,
}

/// A user name and password that name a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The user of `Proxy-Authorization: Basic`.
    pub user: Arc<str>,
    /// Read from its file; trailing line ends removed.
    pub password: Secret,
    /// Who it proves.
    pub identity: Arc<Identity>,
}

/// `[dns]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Servers to ask; `None`: the nameservers of resolv.conf.
    pub servers: Option<Vec<SocketAddr>>,
    /// Answers live at least this long, in seconds.
    pub ttl_min_s: u32,
    /// Answers live at most this long, in seconds.
    pub ttl_max_s: u32,
    /// "No such name" and "no such data" live this long, in seconds.
    pub negative_ttl_s: u32,
    /// How long past its end an answer may serve while the servers fail, in seconds.
    pub stale_s: u32,
    /// One question's time in total, in milliseconds.
    pub timeout_ms: u64,
    /// Names held at most.
    pub cache_entries: usize,
}

/// `[access_log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Istio's text or JSON.
    pub format: AccessLogFormat,
    /// What gets a line.
    pub lines: AccessLogLines,
    /// `None`: standard output.
    pub path: Option<PathBuf>,
}

/// The form of an access-log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Istio's default text format, our fields last.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What gets an access-log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogLines {
    /// Every request and connection.
    #[default]
    All,
    /// Denials and errors.
    DeniedAndErrors,
    /// Nothing.
    Off,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Loopback.
    pub bind: SocketAddr,
}

/// `[telemetry.prometheus]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    /// Any address.
    pub bind: SocketAddr,
}

/// `[dataplane]`: a change needs a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Which engine runs the workers.
    pub engine: EngineChoice,
    /// Cores for workers, unique; `None`: the affinity mask within the quota, minus one.
    pub cores: Option<Vec<usize>>,
    /// Workers never sleep.
    pub busy_poll: bool,
}

/// `[dataplane] engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where its self-test passes, else epoll.
    #[default]
    Auto,
    /// io_uring or no start.
    Uring,
    /// epoll.
    Epoll,
}

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The `reporter` label.
    pub reporter: Reporter,
    /// The `source_cluster` label of workloads that name no cluster of their own.
    pub cluster_id: Arc<str>,
    /// How destination names that are not in the registry are labelled.
    pub host_labels: HostLabels,
}

/// `[telemetry] reporter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reporter {
    /// As a client's sidecar reports.
    #[default]
    Source,
    /// As a waypoint reports.
    Waypoint,
    /// As an Istio gateway reports.
    Gateway,
}

/// `[telemetry] host_labels`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostLabels {
    /// A bounded table admits unregistered names.
    #[default]
    Bounded,
    /// As Istio labels them, unbounded.
    Istio,
}

/// `[deny]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deny {
    /// Whom to ask; part of every denial's text.
    pub contact: Option<Arc<str>>,
}

/// `[limits]`: times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request head, from its first wait to its last byte.
    pub request_head_timeout_ms: u64,
    /// A request head.
    pub request_head_bytes_max: usize,
    /// The first bytes that tell what is wanted (SNI), in total.
    pub sniff_timeout_ms: u64,
    /// The bytes held while sniffing.
    pub sniff_bytes_max: usize,
    /// One connection attempt to an upstream.
    pub connect_timeout_ms: u64,
    /// From the end of a request to the response head.
    pub response_head_timeout_ms: u64,
    /// An HTTP request or response body that does not move.
    pub http_stream_idle_timeout_ms: u64,
    /// A downstream connection between two requests.
    pub downstream_keepalive_timeout_ms: u64,
    /// A pooled upstream connection.
    pub upstream_keepalive_timeout_ms: u64,
    /// A tunnel in which neither direction moves.
    pub tunnel_idle_timeout_ms: u64,
    /// A tunnel after one side has ended.
    pub half_closed_timeout_ms: u64,
    /// From SIGTERM to the end of what still runs.
    pub drain_timeout_ms: u64,
    /// Connections at most, as a share of the descriptor limit.
    pub connections_percent_max: u32,
    /// Descriptors kept for the control plane.
    pub control_descriptors: u32,
}

impl Plan {
    /// The configuration in force as JSON, for the admin API: every key with its value and where the value came from;
    /// no secret is in it, only the paths of the files that hold them.
    pub fn effective_json(&self) -> serde_json::Value {
        self.effective.to_json()
    }

    /// The same as text, indented.
    pub fn effective_text(&self) -> String {
        self.effective.to_text()
    }
}

/// The configuration's words for an enum: `as_str`, `Display` and `FromStr` from one table.
macro_rules! words {
    ($type:ident, $what:literal: $($word:literal => $variant:ident),+) => {
        impl $type {
            /// The word of the configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                out.pad(self.as_str())
            }
        }

        impl core::str::FromStr for $type {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { what: $what, word: word.into(), known: concat!("known are" $(, " ", $word)+) }),
                }
            }
        }
    };
}

words!(DoorKind, "kind of door": "http_proxy" => HttpProxy, "tls" => Tls, "tcp" => Tcp, "http" => Http,
    "transparent" => Transparent, "socks5" => Socks5);
words!(UpstreamSource, "upstream_source": "gateway" => Gateway, "client" => Client);
words!(Capture, "capture": "redirect" => Redirect, "tproxy" => Tproxy);
words!(Auth, "auth": "off" => Off, "optional" => Optional, "required" => Required);
words!(DenyTls, "deny_tls": "reset" => Reset, "alert" => Alert);
words!(AccessLogFormat, "format": "text" => Text, "json" => Json);
words!(AccessLogLines, "lines": "all" => All, "denied_and_errors" => DeniedAndErrors, "off" => Off);
words!(EngineChoice, "engine": "auto" => Auto, "uring" => Uring, "epoll" => Epoll);
words!(HostLabels, "host_labels": "bounded" => Bounded, "istio" => Istio);
words!(Reporter, "reporter": "source" => Source, "waypoint" => Waypoint, "gateway" => Gateway);
