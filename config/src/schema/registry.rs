//! The keys of the registry: who asks, what may be reached. The gateway's own keys are in `gateway`.

use super::Presence::{Default, Optional, Required};
use super::gateway::{MODES, PORT};
use super::{Key, Kind, Section};

const fn text(name: &'static str, what: &'static str, about: &'static str, example: &'static str) -> Key {
    Key { name, kind: Kind::Text(what), presence: Optional("none"), about, example }
}

/// Of a workload and of a service.
const NAMESPACE: Key = Key {
    name: "namespace",
    kind: Kind::Text("a name"),
    presence: Default("\"default\""),
    about: "Its namespace.",
    example: "\"default\"",
};

pub(super) const SCOPE: Section = Section {
    about: "A stricter or looser mode for some sources; the most specific scope wins over the global mode.",
    keys: &[
        Key {
            name: "source",
            kind: Kind::Table(&SELECTOR),
            presence: Required,
            about: "Which sources; at least one field.",
            example: "{ namespace = \"sandbox\" }",
        },
        Key {
            name: "mode",
            kind: Kind::Choice(MODES),
            presence: Required,
            about: "The mode for these sources.",
            example: "\"allow_any\"",
        },
    ],
};

/// A selector of sources.
pub(super) const SELECTOR: Section = Section {
    about: "A selector of sources: its fields are ANDed, several selectors ORed, `*` matches any run of characters, `{}` every \
            source. A source without any proof matches only `{}`.",
    keys: &[
        text("principal", "a pattern", "The SPIFFE id.", "\"spiffe://cluster.local/ns/*/sa/idgen\""),
        text("namespace", "a pattern", "The namespace.", "\"payments\""),
        text("service_account", "a pattern", "The service account.", "\"idgen\""),
        text("workload", "a pattern", "The workload's name.", "\"idgen-*\""),
        text("app", "a pattern", "The app label.", "\"idgen\""),
    ],
};

pub(super) const WORKLOAD: Section = Section {
    about: "Who is asking, where no certificate says it: by source address (the longest prefix wins) or by proxy credentials.",
    keys: &[
        Key {
            name: "name",
            kind: Kind::Text("a name"),
            presence: Required,
            about: "The workload's name; unique in its namespace.",
            example: "\"idgen\"",
        },
        NAMESPACE,
        text("service_account", "a name", "Its service account.", "\"idgen\""),
        text("principal", "a SPIFFE id", "Its SPIFFE id.", "\"spiffe://cluster.local/ns/default/sa/idgen\""),
        Key {
            name: "addresses",
            kind: Kind::List(&Kind::Text("an IP address or a CIDR")),
            presence: Optional("not known by address"),
            about: "The addresses it comes from. The same prefix in two workloads is an error.",
            example: "[\"10.1.2.0/24\"]",
        },
        text("app", "a label", "Its app label.", "\"idgen\""),
        text("version", "a label", "Its version label.", "\"v2\""),
        Key {
            name: "cluster",
            kind: Kind::Text("a cluster name"),
            presence: Optional("`[telemetry] cluster_id`"),
            about: "Its cluster.",
            example: "\"Kubernetes\"",
        },
        text("region", "a region", "Its region, to tell whether traffic stays in it.", "\"eu-west-1\""),
        Key {
            name: "credentials",
            kind: Kind::Tables(&CREDENTIALS),
            presence: Optional("none"),
            about: "Proxy credentials that prove to be this workload.",
            example: "[{ user = \"idgen\", password_file = \"/etc/sluice/secrets/idgen\" }]",
        },
    ],
};

const CREDENTIALS: Section = Section {
    about: "",
    keys: &[
        Key {
            name: "user",
            kind: Kind::Text("a user name without a colon"),
            presence: Required,
            about: "Unique over all workloads; at most 255 bytes.",
            example: "\"idgen\"",
        },
        Key {
            name: "password_file",
            kind: Kind::Text("a path, relative to the configuration file's folder"),
            presence: Required,
            about: "The file that holds the password and nothing else (trailing line ends are dropped). Not empty, at most 4096 \
                    bytes, and better not readable by every user.",
            example: "\"/etc/sluice/secrets/idgen\"",
        },
    ],
};

pub(super) const SERVICE: Section = Section {
    about: "An entry of the registry: what may be reached, and by whom; the meaning of Istio's ServiceEntry. It needs `hosts`, \
            `hosts_file` or `addresses`.",
    keys: SERVICE_KEYS,
};

const SERVICE_KEYS: &[Key] = &[
    Key {
        name: "name",
        kind: Kind::Text("a name"),
        presence: Required,
        about: "Unique in its namespace.",
        example: "\"httpbin-ext\"",
    },
    NAMESPACE,
    Key {
        name: "hosts",
        kind: Kind::List(&Kind::Text("a host name or \"*.\" and a suffix")),
        presence: Optional("none"),
        about: "Names, without scheme and port. `*.suffix` is one label or more and never the suffix itself. Non-ASCII names become \
                A-labels.",
        example: "[\"httpbin.org\", \"*.example.org\"]",
    },
    text(
        "hosts_file",
        "a path, relative to the configuration file's folder",
        "More hosts, one per line; `#` starts a comment. Its errors name its own lines.",
        "\"/etc/sluice/hosts/partners.txt\"",
    ),
    Key {
        name: "addresses",
        kind: Kind::List(&Kind::Text("an IP address or a CIDR")),
        presence: Optional("none"),
        about: "Compared with the destination address that a client asked for, never with what a name resolves to. Virtual \
                addresses too.",
        example: "[\"198.51.100.0/24\"]",
    },
    Key {
        name: "ports",
        kind: Kind::Tables(&SERVICE_PORT),
        presence: Optional("80 HTTP and 443 TLS"),
        about: "The ports that may be reached.",
        example: "[{ number = 80, protocol = \"HTTP\" }]",
    },
    Key {
        name: "location",
        kind: Kind::Choice(&[("MESH_EXTERNAL", "outside the mesh"), ("MESH_INTERNAL", "part of the mesh")]),
        presence: Default("\"MESH_EXTERNAL\""),
        about: "Where it lives, as in a ServiceEntry.",
        example: "\"MESH_EXTERNAL\"",
    },
    Key {
        name: "resolution",
        kind: Kind::Choice(&[
            ("DNS", "the name that was asked for is resolved (with `endpoints`: their names)"),
            ("DNS_ROUND_ROBIN", "as DNS, answers taken in turn"),
            ("STATIC", "`endpoints` are dialled"),
            ("NONE", "the original destination is dialled where it is named or among the name's answers"),
        ]),
        presence: Default("\"DNS\""),
        about: "How the dialled address is found.",
        example: "\"DNS\"",
    },
    Key {
        name: "endpoints",
        kind: Kind::Tables(&ENDPOINT),
        presence: Optional("none; required by `STATIC`"),
        about: "What is dialled instead of the name. A literal address here is named for the guard, for this service only.",
        example: "[{ address = \"192.0.2.10\" }]",
    },
    Key {
        name: "allow",
        kind: Kind::Tables(&SELECTOR),
        presence: Optional("every source; `[]`: none"),
        about: "The sources that may reach it.",
        example: "[{ namespace = \"payments\" }]",
    },
    Key {
        name: "deny",
        kind: Kind::Tables(&SELECTOR),
        presence: Optional("none"),
        about: "The sources that may not, whatever `allow` says. `[{}]`: nobody, in both modes.",
        example: "[{ namespace = \"sandbox\" }]",
    },
    Key {
        name: "require_proof",
        kind: Kind::Choice(&[
            ("address", "any proof"),
            ("proxy_protocol", "a trusted peer's word, or better"),
            ("credentials", "proxy credentials, or better"),
            ("certificate", "a verified mesh certificate; no door of this version can give it"),
        ]),
        presence: Optional("any proof"),
        about: "The least proof of identity that `allow` accepts.",
        example: "\"credentials\"",
    },
    text(
        "source_address",
        "an IP address",
        "The address of this host that upstream connections come from: unicast, and not link-local in IPv6. Only addresses of the \
         same family are dialled.",
        "\"192.0.2.1\"",
    ),
    Key {
        name: "tls",
        kind: Kind::Table(&ORIGINATION),
        presence: Optional("off"),
        about: "TLS spoken by the gateway towards the service.",
        example: "",
    },
    text("region", "a region", "Where it is, to tell whether traffic stays in its region.", "\"eu-west-1\""),
    text("owner", "a text", "Who answers for this rule.", "\"team-payments\""),
    text("ticket", "a text", "Why this rule exists.", "\"SEC-123\""),
    text(
        "expires",
        "a time as RFC 3339",
        "From then on the rule is denied as `expired`.",
        "\"2027-01-31T00:00:00Z\"",
    ),
];

const SERVICE_PORT: Section = Section {
    about: "",
    keys: &[
        Key {
            name: "number",
            kind: PORT,
            presence: Required,
            about: "The port that clients ask for; unique in the service.",
            example: "443",
        },
        Key {
            name: "protocol",
            kind: Kind::Choice(&[
                ("HTTP", "HTTP/1.1 or HTTP/2, proxied per request"),
                ("HTTPS", "TLS; the inner SNI must fit the rule"),
                ("TLS", "TLS; the inner SNI must fit the rule"),
                ("HTTP2", "HTTP/2, proxied per request"),
                ("GRPC", "gRPC, proxied per request"),
                ("TCP", "opaque"),
                ("MONGO", "opaque"),
                ("MYSQL", "opaque, the server speaks first"),
                ("POSTGRES", "opaque"),
                ("REDIS", "opaque"),
            ]),
            presence: Optional("HTTP for port 80, TLS for port 443, TCP for every other"),
            about: "What is spoken on it.",
            example: "\"TLS\"",
        },
        text(
            "name",
            "a name",
            "The port's name, which `endpoints` refer to; unique in the service.",
            "\"https\"",
        ),
        Key {
            name: "target_port",
            kind: PORT,
            presence: Optional("`number`"),
            about: "The port that is dialled.",
            example: "8443",
        },
    ],
};

const ENDPOINT: Section = Section {
    about: "",
    keys: &[
        Key {
            name: "address",
            kind: Kind::Text("an IP address or a host name"),
            presence: Required,
            about: "What is dialled; a name only with resolution DNS or DNS_ROUND_ROBIN.",
            example: "\"192.0.2.10\"",
        },
        Key {
            name: "ports",
            kind: Kind::Map(&PORT),
            presence: Optional("the service's target ports"),
            about: "Ports of this endpoint that differ, by the name of the service's port.",
            example: "{ https = 8443 }",
        },
        text("locality", "region/zone/subzone", "Where it is.", "\"eu-west-1/a\""),
        Key {
            name: "weight",
            kind: Kind::Integer { min: 1, max: 4_294_967_295, unit: "" },
            presence: Default("1"),
            about: "Its share among the endpoints.",
            example: "1",
        },
    ],
};

const ORIGINATION: Section = Section { about: "", keys: &[] };

pub(super) const REGISTRY: Section = Section {
    about: "Registry entries from elsewhere.",
    keys: &[Key {
        name: "service_entries",
        kind: Kind::List(&Kind::Text("a path, relative to the configuration file's folder")),
        presence: Optional("none"),
        about: "Files of Istio ServiceEntry resources (YAML or JSON), which mean the same as `[[service]]` tables: \
                [istio.md](istio.md). The file's name may be a pattern (`*`, `?`, `[…]`); files that \
                appear, change or vanish later are followed.",
        example: "[\"/etc/sluice/serviceentries/*.yaml\"]",
    }],
};

pub(super) const GUARD: Section = Section {
    about: "Addresses that names may resolve to although they are private. The guard is in force in both modes; the gateway's own \
            listeners can never be allowed.",
    keys: &[
        Key {
            name: "allow",
            kind: Kind::List(&Kind::Text("an IP address or a CIDR")),
            presence: Optional("none"),
            about: "Private ranges that are allowed for every service. Link-local, metadata, multicast and 0/8 count only when named by \
                    a range within them.",
            example: "[\"10.20.0.0/16\"]",
        },
        Key {
            name: "nat64",
            kind: Kind::List(&Kind::Text("an IPv6 /96 prefix")),
            presence: Optional("only 64:ff9b::/96"),
            about: "NAT64 prefixes of this network: the IPv4 address in them is what the guard checks.",
            example: "[\"2001:db8:64::/96\"]",
        },
    ],
};
