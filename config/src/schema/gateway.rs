//! The keys of the gateway itself: mode, doors, DNS, logs, limits. The registry's keys are in `registry`.

use super::Presence::{Default, Optional, Required};
use super::registry::{GUARD, REGISTRY, SCOPE, SERVICE, WORKLOAD};
use super::{Key, Kind, Section};

pub(crate) const MODES: &[(&str, &str)] = &[
    ("allow_any", "what matches no service passes, accounted as `PassthroughCluster`"),
    ("registry_only", "what matches no service is black-holed, accounted as `BlackHoleCluster`"),
];

/// The whole file.
pub(crate) const ROOT: Section = Section {
    about: "",
    keys: &[
        Key {
            name: "mode",
            kind: Kind::Choice(MODES),
            presence: Required,
            about: "What happens to destinations that match no `[[service]]`. Required in every file, so that a truncated file \
                    never opens the gate; with no file at all the gateway runs in `allow_any`. Never read from the environment.",
            example: "\"registry_only\"",
        },
        Key { name: "scope", kind: Kind::Tables(&SCOPE), presence: Optional("none"), about: "", example: "" },
        Key {
            name: "listener",
            kind: Kind::Tables(&LISTENER),
            presence: Default("[{ kind = \"http_proxy\", bind = \"127.0.0.1:3128\" }]"),
            about: "",
            example: "",
        },
        Key {
            name: "workload",
            kind: Kind::Tables(&WORKLOAD),
            presence: Optional("none"),
            about: "",
            example: "",
        },
        Key {
            name: "service",
            kind: Kind::Tables(&SERVICE),
            presence: Optional("none"),
            about: "",
            example: "",
        },
        Key {
            name: "registry",
            kind: Kind::Table(&REGISTRY),
            presence: Optional("empty"),
            about: "",
            example: "",
        },
        Key { name: "guard", kind: Kind::Table(&GUARD), presence: Optional("empty"), about: "", example: "" },
        Key { name: "dns", kind: Kind::Table(&DNS), presence: Optional("defaults"), about: "", example: "" },
        Key {
            name: "deny",
            kind: Kind::Table(&DENY),
            presence: Optional("defaults"),
            about: "",
            example: "",
        },
        Key {
            name: "access_log",
            kind: Kind::Table(&ACCESS_LOG),
            presence: Optional("defaults"),
            about: "",
            example: "",
        },
        Key {
            name: "admin",
            kind: Kind::Table(&ADMIN),
            presence: Optional("defaults"),
            about: "",
            example: "",
        },
        Key {
            name: "telemetry",
            kind: Kind::Table(&TELEMETRY),
            presence: Optional("defaults"),
            about: "",
            example: "",
        },
        Key {
            name: "dataplane",
            kind: Kind::Table(&DATAPLANE),
            presence: Optional("defaults"),
            about: "",
            example: "",
        },
        Key {
            name: "limits",
            kind: Kind::Table(&LIMITS),
            presence: Optional("defaults"),
            about: "",
            example: "",
        },
    ],
};

const LISTENER: Section = Section {
    about: "A door. It is identified by its bind address: on reload a door whose address stays keeps its connections. A file \
            without any `[[listener]]` gets the default: `http_proxy` on 127.0.0.1:3128.",
    keys: &[
        Key {
            name: "kind",
            kind: Kind::Choice(&[
                ("http_proxy", "absolute-form HTTP/1.1 requests and CONNECT"),
                ("tls", "TLS straight to the gateway, passed through by SNI"),
                ("tcp", "any TCP, bound to one `service`"),
                (
                    "http",
                    "plain HTTP/1.1 straight to the gateway, as if it were the origin: `Host` says where to",
                ),
                ("transparent", "captured traffic that keeps its original destination"),
                ("socks5", "SOCKS5 CONNECT, to names and addresses"),
                ("mesh", "mutual TLS from the mesh"),
                ("hbone", "HTTP/2 CONNECT over mutual TLS"),
                ("dns", "DNS from workloads"),
            ]),
            presence: Required,
            about: "What arrives here.",
            example: "\"http_proxy\"",
        },
        Key {
            name: "bind",
            kind: Kind::Text("an IP address and a port"),
            presence: Required,
            about: "Where it listens. Unique among doors, `[admin]` and `[telemetry.prometheus]`; IPv6 in brackets. Port 0 (the system chooses) on loopback only, for tests.",
            example: "\"0.0.0.0:3128\"",
        },
        Key {
            name: "name",
            kind: Kind::Text("a name"),
            presence: Optional("the kind and the port, e.g. `http_proxy-3128`"),
            about: "The door's name in logs and at start. Unique.",
            example: "\"proxy\"",
        },
        Key {
            name: "auth",
            kind: Kind::Choice(&[
                ("off", "never asked for; sent ones are dropped"),
                ("optional", "checked when sent (wrong ones: 407, SOCKS status 1), not asked for"),
                ("required", "407 without them; SOCKS: no other method is accepted"),
            ]),
            presence: Optional("`\"off\"`"),
            about: "Proxy credentials on the doors `http_proxy` and `socks5`; `[[workload]] credentials` are the accepted ones.",
            example: "\"required\"",
        },
        Key {
            name: "destination_port",
            kind: PORT,
            presence: Optional(
                "`tls`: the door's own port; `tcp`: the door's own port if the service has it, else its only port",
            ),
            about: "The port that is decided on and dialled, on the doors `tls` and `tcp`.",
            example: "443",
        },
        Key {
            name: "service",
            kind: Kind::Text("a service as \"namespace/name\", or \"name\" in namespace default"),
            presence: Optional("required by a `tcp` door, refused by the others"),
            about: "The one service that a `tcp` door leads to.",
            example: "\"payments/orders-db\"",
        },
        Key {
            name: "deny_tls",
            kind: Kind::Choice(&[
                ("reset", "the connection is reset, as an Istio sidecar does"),
                ("alert", "a fatal `unrecognized_name` alert first"),
            ]),
            presence: Optional("`\"reset\"`"),
            about: "How a denial ends a connection of TLS, on the doors `tls` and `transparent`.",
            example: "\"alert\"",
        },
        Key {
            name: "proxy_protocol",
            kind: Kind::Table(&PROXY_PROTOCOL),
            presence: Optional("off"),
            about: "The PROXY protocol header, version 1 or 2, that a load balancer writes in front of each connection. On a door \
                    without this key such a header is refused like any other bytes out of place; a `tcp` door reads \
                    nothing of what passes, so there it goes upstream as payload.",
            example: "",
        },
        Key {
            name: "capture",
            kind: Kind::Choice(&[
                ("redirect", "nftables `redirect` (or `dnat` to the door): the kernel remembers it"),
                (
                    "tproxy",
                    "nftables `tproxy`: the client's packets keep it. Needs the capability CAP_NET_ADMIN (or CAP_NET_RAW)",
                ),
            ]),
            presence: Optional("required by a `transparent` door, refused by the others"),
            about: "How a `transparent` door learns the original destination. A connection that was made to the door itself is \
                    refused, in `allow_any` too. A change at the same address needs a restart.",
            example: "\"tproxy\"",
        },
        Key {
            name: "opaque_ports",
            kind: Kind::List(&PORT),
            presence: Optional("21, 22, 25, 110, 143, 587, 1433, 3306, 5432"),
            about: "Ports where a server may speak first: what only passes through in `allow_any` is not waited for there on a \
                    `transparent` door. A port that every service which has it declares opaque is never waited for.",
            example: "[22, 3306]",
        },
        Key {
            name: "upstream_source",
            kind: Kind::Choice(&[
                ("gateway", "the gateway's own, as the kernel chooses it"),
                ("client", "the client's own; with capture = \"tproxy\" only"),
            ]),
            presence: Optional("`\"gateway\"`"),
            about: "Whose address the upstream connections of a `transparent` door come from; a service's `source_address` goes \
                    before it. With `client` the network must bring the answers back to the gateway.",
            example: "\"client\"",
        },
    ],
};

pub(super) const PORT: Kind = Kind::Integer { min: 1, max: 65_535, unit: "" };

const PROXY_PROTOCOL: Section = Section {
    about: "The header's source is the client from then on: in the log, and in the workload table, with the proof \
            `proxy_protocol`. Version 1 and 2 are understood, TCP over IPv4 and IPv6; the fields of version 2 are checked to \
            their last byte, a CRC-32C where there is one. `LOCAL` and `UNKNOWN` (health checks) leave the connection its own \
            addresses. A connection from an untrusted peer, with no header, or with one that is malformed or late \
            (`limits.sniff_timeout_ms`) is reset. So is one of version 1 with more than 107 bytes, one of version 2 with more than \
            4096 bytes in all, and one that has the same type of field (TLV) twice, padding (PP2_TYPE_NOOP) excepted. Exactly one \
            header is read; the bytes behind it are the door's.",
    keys: &[
        Key {
            name: "mode",
            kind: Kind::Choice(&[("required", "a connection without it is reset")]),
            presence: Required,
            about: "Whether the header is expected.",
            example: "\"required\"",
        },
        Key {
            name: "trusted",
            kind: Kind::List(&Kind::Text("a CIDR")),
            presence: Required,
            about: "Peers that may send it; all others are reset before a byte is read.",
            example: "[\"10.0.0.0/24\"]",
        },
        Key {
            name: "use_destination",
            kind: Kind::Bool,
            presence: Optional("`false`"),
            about: "Whether its destination counts as the original destination, on the door `tls` (a ClientHello without a name \
                    is then decided by that address; the port is dialled where `destination_port` is absent), on the doors \
                    `tcp` and `http` (its address only: the port is the door's, or Host's) and on the door `transparent` (in place \
                    of the captured one). On the others the client names the destination itself.",
            example: "true",
        },
    ],
};

const DNS: Section = Section {
    about: "How names are resolved: always by the gateway itself, absolute, without search list.",
    keys: &[
        Key {
            name: "servers",
            kind: Kind::List(&Kind::Text("an IP address, with a port unless it is 53")),
            presence: Optional("the nameservers of resolv.conf"),
            about: "Servers to ask. Queries to them are exempt from the guard.",
            example: "[\"10.0.0.2:53\"]",
        },
        seconds("ttl_min_s", 0, 86_400, "1", "An answer is used at least this long."),
        seconds(
            "ttl_max_s",
            1,
            604_800,
            "300",
            "An answer is used at most this long. Not below `ttl_min_s`.",
        ),
        seconds(
            "negative_ttl_s",
            0,
            86_400,
            "5",
            "\"No such name\" and \"no such data\" are believed this long.",
        ),
        seconds(
            "stale_s",
            0,
            604_800,
            "3600",
            "How long past its end an answer still serves while no server answers.",
        ),
        millis("timeout_ms", 50, 60_000, "2000", "One question in total."),
        Key {
            name: "cache_entries",
            kind: Kind::Integer { min: 16, max: 10_000_000, unit: "names" },
            presence: Default("10000"),
            about: "Names held at most.",
            example: "10000",
        },
    ],
};

const DENY: Section = Section {
    about: "What a denial tells the person who meets it.",
    keys: &[Key {
        name: "contact",
        kind: Kind::Text("a short text in one line"),
        presence: Optional("no contact is named"),
        about: "Whom to ask; part of the body of every HTTP denial. At most 256 bytes.",
        example: "\"ask #platform\"",
    }],
};

const ACCESS_LOG: Section = Section {
    about: "One line per request or connection.",
    keys: &[
        Key {
            name: "format",
            kind: Kind::Choice(&[
                ("text", "Istio's default text format, the gateway's own fields last"),
                ("json", "one JSON object per line"),
            ]),
            presence: Default("\"text\""),
            about: "The form of a line.",
            example: "\"json\"",
        },
        Key {
            name: "lines",
            kind: Kind::Choice(&[
                ("all", "every request and connection"),
                ("denied_and_errors", "what was denied, and what failed"),
                ("off", "none"),
            ]),
            presence: Default("\"all\""),
            about: "Which requests and connections get a line. Metrics count all of them in any case.",
            example: "\"denied_and_errors\"",
        },
        Key {
            name: "path",
            kind: Kind::Text("an absolute path"),
            presence: Optional("standard output; the gateway's own log goes to standard error"),
            about: "The file that lines are appended to; reopened on SIGUSR1.",
            example: "\"/var/log/sluice/access.log\"",
        },
    ],
};

const ADMIN: Section = Section {
    about: "The admin API: GET and HEAD only, loopback only. A change needs a restart.",
    keys: &[Key {
        name: "bind",
        kind: Kind::Text("a loopback address and a port"),
        presence: Default("\"127.0.0.1:15000\""),
        about: "Where it listens. Must be loopback: it shows everything but secrets.",
        example: "\"127.0.0.1:15000\"",
    }],
};

const TELEMETRY: Section = Section {
    about: "How metrics are labelled. A change of a key of this table needs a restart: a series keeps its labels.",
    keys: &[
        Key {
            name: "reporter",
            kind: Kind::Choice(&[
                ("source", "as the client's sidecar would report: seen by every Istio dashboard"),
                (
                    "waypoint",
                    "as an ambient waypoint reports: where the clients' sidecars already count each request",
                ),
                ("gateway", "as an Istio egress gateway reports: the source labels are the gateway's"),
            ]),
            presence: Default("\"source\""),
            about: "The `reporter` label of the Istio metrics.",
            example: "\"source\"",
        },
        Key {
            name: "cluster_id",
            kind: Kind::Text("a cluster name"),
            presence: Default("\"Kubernetes\""),
            about: "The `source_cluster` label of workloads that name no cluster of their own. Must be the mesh's real cluster id, \
                    else Kiali drops the series.",
            example: "\"Kubernetes\"",
        },
        Key {
            name: "host_labels",
            kind: Kind::Choice(&[
                ("bounded", "a bounded table admits unregistered names, the rest is `unknown`"),
                ("istio", "every unregistered name becomes a label, as Istio does it"),
            ]),
            presence: Default("\"bounded\""),
            about: "How destination names that are not in the registry are labelled.",
            example: "\"bounded\"",
        },
        Key {
            name: "prometheus",
            kind: Kind::Table(&PROMETHEUS),
            presence: Optional("off"),
            about: "",
            example: "",
        },
        Key { name: "otlp", kind: Kind::Table(&OTLP), presence: Optional("off"), about: "", example: "" },
    ],
};

const PROMETHEUS: Section = Section {
    about: "Probes and scrapes from outside: only /metrics, /healthz and /readyz. Off unless the table is there.",
    keys: &[Key {
        name: "bind",
        kind: Kind::Text("an IP address and a port"),
        presence: Required,
        about: "Where it listens; need not be loopback.",
        example: "\"0.0.0.0:15090\"",
    }],
};

const OTLP: Section = Section {
    about: "Export over OTLP.",
    keys: &[Key {
        name: "endpoint",
        kind: Kind::Text("a URL"),
        presence: Required,
        about: "The collector.",
        example: "\"http://127.0.0.1:4317\"",
    }],
};

const DATAPLANE: Section = Section {
    about: "Engine and cores. A change needs a restart.",
    keys: &[
        Key {
            name: "engine",
            kind: Kind::Choice(&[
                ("auto", "io_uring where its self-test passes, else epoll with a log line that says why"),
                ("uring", "io_uring, or the gateway does not start"),
                ("epoll", "epoll"),
            ]),
            presence: Default("\"auto\""),
            about: "How the workers do their I/O.",
            example: "\"auto\"",
        },
        Key {
            name: "cores",
            kind: Kind::List(&Kind::Integer { min: 0, max: 4095, unit: "" }),
            presence: Optional("the affinity mask within the cgroup quota, minus one, at least one"),
            about: "The cores that get a worker each, pinned.",
            example: "[1, 2, 3]",
        },
        Key {
            name: "busy_poll",
            kind: Kind::Bool,
            presence: Default("false"),
            about: "Workers never sleep: lower latency for a whole core each.",
            example: "false",
        },
    ],
};

const LIMITS: Section = Section {
    about: "Bounds in time and size. All timers are monotonic.",
    keys: &[
        millis("request_head_timeout_ms", 100, 600_000, "10000", "A request head in total; then 408."),
        bytes("request_head_bytes_max", 1_024, 1_048_576, "32768", "A request head; beyond it 431."),
        millis(
            "sniff_timeout_ms",
            50,
            60_000,
            "3000",
            "The first bytes that tell what is wanted (a TLS hello) in total.",
        ),
        bytes(
            "sniff_bytes_max",
            1_024,
            1_048_576,
            "65536",
            "The bytes held while waiting for them; a TLS hello in full.",
        ),
        millis("mesh_handshake_timeout_ms", 100, 60_000, "5000", "A handshake on a mesh door."),
        millis("connect_timeout_ms", 10, 600_000, "5000", "One connection to an upstream."),
        millis(
            "response_head_timeout_ms",
            100,
            3_600_000,
            "60000",
            "From the end of a request to its response head; then 504.",
        ),
        millis("http_stream_idle_timeout_ms", 100, 86_400_000, "300000", "An HTTP body that does not move."),
        millis(
            "downstream_keepalive_timeout_ms",
            0,
            86_400_000,
            "60000",
            "A client's connection between two requests.",
        ),
        millis("upstream_keepalive_timeout_ms", 0, 86_400_000, "30000", "A pooled upstream connection."),
        millis(
            "tunnel_idle_timeout_ms",
            100,
            604_800_000,
            "3600000",
            "A tunnel in which neither direction moves.",
        ),
        millis(
            "half_closed_timeout_ms",
            100,
            86_400_000,
            "60000",
            "A tunnel of which one side has ended and the other does not move.",
        ),
        millis("drain_timeout_ms", 0, 3_600_000, "25000", "From SIGTERM until what still runs is cut."),
        Key {
            name: "connections_percent_max",
            kind: Kind::Integer { min: 1, max: 49, unit: "percent" },
            presence: Default("45"),
            about: "Connections at most, as a share of the descriptor limit (a connection needs two); fewer where the limit is small, so that everything else has its own. At the cap doors stop accepting.",
            example: "45",
        },
        Key {
            name: "control_descriptors",
            kind: Kind::Integer { min: 8, max: 1024, unit: "descriptors" },
            presence: Default("16"),
            about: "Descriptors held back for the admin API and for reloads, whatever clients do.",
            example: "16",
        },
    ],
};

const fn millis(name: &'static str, min: i64, max: i64, default: &'static str, about: &'static str) -> Key {
    number("milliseconds", name, min, max, default, about)
}

const fn seconds(name: &'static str, min: i64, max: i64, default: &'static str, about: &'static str) -> Key {
    number("seconds", name, min, max, default, about)
}

const fn bytes(name: &'static str, min: i64, max: i64, default: &'static str, about: &'static str) -> Key {
    number("bytes", name, min, max, default, about)
}

/// A number whose example is its default.
const fn number(
    unit: &'static str,
    name: &'static str,
    min: i64,
    max: i64,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { name, kind: Kind::Integer { min, max, unit }, presence: Default(default), about, example: default }
}
