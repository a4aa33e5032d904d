//! One ServiceEntry read field by field: each is honoured, or named in an error or warning. What Istio itself refuses is in
//! `rules`; what every service must obey is checked later, for this one as for any other.

use sluice_policy::{Cidr, CidrError};

use super::findings::{Findings, path};
use super::rules;
use super::table::{EndpointTable, Imported, PortTable, Table};
use super::yaml::{Key, Node, Value};
use crate::spans::Place;
use crate::structure::shorten;

/// A ServiceEntry as it is written.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) place: Place,
    name: Option<String>,
    namespace: Option<String>,
    pub(super) hosts: Vec<Spotted<String>>,
    pub(super) addresses: Vec<Spotted<String>>,
    pub(super) ports: Vec<Spotted<Port>>,
    location: Option<&'static str>,
    pub(super) resolution: Resolution,
    pub(super) resolution_place: Option<Place>,
    pub(super) endpoints: Vec<Spotted<Endpoint>>,
    /// Of the status: what Istio has assigned.
    pub(super) assigned: Vec<Assigned>,
    places: Vec<(Box<str>, Place)>,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Spotted<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Port {
    pub(super) number: Option<i64>,
    pub(super) name: Option<String>,
    /// Absent or in Istio's spelling.
    pub(super) protocol: Option<String>,
    target_port: Option<i64>,
    /// Where its values stand, by the key of the table.
    places: Vec<(&'static str, Place)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Endpoint {
    pub(super) address: Option<Spotted<String>>,
    pub(super) table: EndpointTable,
}

/// A virtual address that Istio has assigned, to the host if it names one.
#[derive(Clone, Debug)]
pub(super) struct Assigned {
    pub(super) place: Place,
    pub(super) value: String,
    pub(super) host: Option<String>,
}

/// Istio's words; the absent one is `NONE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

impl Resolution {
    const ALL: [Self; 5] = [Self::None, Self::Static, Self::Dns, Self::DnsRoundRobin, Self::DynamicDns];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Static => "STATIC",
            Self::Dns => "DNS",
            Self::DnsRoundRobin => "DNS_ROUND_ROBIN",
            Self::DynamicDns => "DYNAMIC_DNS",
        }
    }

    /// The gateway's word: it resolves the name that was asked for, which is what `DYNAMIC_DNS` says of a wildcard.
    fn of_service(self) -> &'static str {
        if self == Self::DynamicDns { Self::Dns.as_str() } else { self.as_str() }
    }
}

const METADATA: &[&str] = &["name", "namespace"];
/// What Kubernetes and its tools write into metadata.
const BOOKKEEPING: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
const SPEC: &[&str] = &[
    "hosts",
    "addresses",
    "ports",
    "location",
    "resolution",
    "endpoints",
    "workloadSelector",
    "exportTo",
    "subjectAltNames",
];
const PORT: &[&str] = &["number", "name", "protocol", "targetPort"];
const ENDPOINT: &[&str] = &["address", "ports", "labels", "network", "locality", "weight", "serviceAccount"];

/// The service that a ServiceEntry means; none if it has errors, or means nothing.
pub(super) fn translate(fields: &[(Key, Node)], place: Place, findings: &mut Findings) -> Option<Imported> {
    let errors = findings.errors.len();
    let mut entry = Entry { place, ..Entry::default() };
    let mut spec = false;
    for (key, node) in fields {
        match &*key.text {
            "metadata" => entry.metadata(node, findings),
            "spec" => {
                spec = true;
                entry.spec(node, findings);
            }
            "status" => entry.status(node, findings),
            _ => {}
        }
    }
    let named_wrongly = findings.errors[errors..].iter().any(|error| error.key == "metadata.name");
    if entry.name.is_none() && !named_wrongly {
        findings.error(
            place,
            "metadata.name",
            "the ServiceEntry has no name",
            "add metadata.name".to_owned(),
        );
    }
    if !spec {
        findings.error(place, "spec", "the ServiceEntry has no spec", "is the file complete?".to_owned());
    }
    if findings.errors.len() == errors {
        rules::check(&entry, findings);
    }
    if findings.errors.len() > errors {
        return None;
    }
    rules::means_something(&entry, findings).then(|| entry.into_service(findings))?
}

impl Entry {
    fn at(&mut self, path: String, place: Place) {
        self.places.push((path.into(), place));
    }

    fn metadata(&mut self, node: &Node, findings: &mut Findings) {
        for (key, node) in findings.mapping(node, "metadata") {
            let at = path("metadata", &key.text);
            match &*key.text {
                "name" => {
                    self.name = findings.text(node, &at).map(str::to_owned);
                    self.at("name".to_owned(), node.place);
                }
                "namespace" => {
                    self.namespace = findings.text(node, &at).map(str::to_owned);
                    self.at("namespace".to_owned(), node.place);
                }
                name if BOOKKEEPING.contains(&name) => {
                    findings.warn(key.place, &at, "has no meaning here and is ignored", None);
                }
                _ => findings.unknown(key, "metadata", &[METADATA, BOOKKEEPING].concat()),
            }
        }
    }

    fn spec(&mut self, node: &Node, findings: &mut Findings) {
        for (key, node) in findings.mapping(node, "spec") {
            let at = path("spec", &key.text);
            match &*key.text {
                "hosts" => self.hosts = texts(node, &at, findings),
                "addresses" => self.addresses = texts(node, &at, findings),
                "ports" => self.ports(node, findings),
                "location" => self.location = location(node, &at, findings),
                "resolution" => {
                    self.resolution_place = Some(node.place);
                    self.at("resolution".to_owned(), node.place);
                    self.resolution = resolution(node, &at, findings);
                }
                "endpoints" => self.endpoints(node, findings),
                "workloadSelector" => selector(key, node, findings),
                "exportTo" => export_to(node, findings),
                "subjectAltNames" => {
                    if !findings.list(node, &at).is_empty() {
                        let message = "the server's certificate is not looked at: TLS is passed through, so these names are \
                                       left to the client";
                        findings.warn(key.place, &at, message, None);
                    }
                }
                _ => findings.unknown(key, "spec", SPEC),
            }
            self.at(key.text.to_string(), node.place);
        }
    }

    fn ports(&mut self, node: &Node, findings: &mut Findings) {
        for (index, item) in findings.list(node, "spec.ports").iter().enumerate() {
            let within = format!("spec.ports[{index}]");
            let mut port = Port::default();
            for (key, node) in findings.mapping(item, &within) {
                let at = path(&within, &key.text);
                match &*key.text {
                    "number" => {
                        port.number = findings.number(node, &at);
                        port.places.push(("number", node.place));
                    }
                    "name" => port.name = findings.text(node, &at).map(str::to_owned),
                    "protocol" => port.protocol = findings.text(node, &at).map(str::to_owned),
                    // Zero is how a client writes "not set".
                    "targetPort" => {
                        port.target_port = findings.number(node, &at).filter(|port| *port != 0);
                        port.places.push(("target_port", node.place));
                    }
                    _ => findings.unknown(key, &within, PORT),
                }
            }
            self.ports.push(Spotted { place: item.place, value: port });
        }
    }

    fn endpoints(&mut self, node: &Node, findings: &mut Findings) {
        for (index, item) in findings.list(node, "spec.endpoints").iter().enumerate() {
            let within = format!("spec.endpoints[{index}]");
            let mut endpoint = Endpoint::default();
            for (key, node) in findings.mapping(item, &within) {
                let at = path(&within, &key.text);
                match &*key.text {
                    "address" => {
                        endpoint.address = findings
                            .text(node, &at)
                            .map(|text| Spotted { place: node.place, value: text.to_owned() });
                    }
                    "ports" => {
                        for (name, node) in findings.mapping(node, &at) {
                            let number = findings.number(node, &path(&at, &name.text));
                            endpoint.table.ports.extend(number.map(|number| (name.text.to_string(), number)));
                            let path = crate::spans::join(&format!("endpoints[{index}].ports"), &name.text);
                            self.at(path, node.place);
                        }
                    }
                    "weight" => {
                        endpoint.table.weight = findings.number(node, &at).filter(|weight| *weight != 0);
                        self.at(format!("endpoints[{index}].weight"), node.place);
                    }
                    "labels" | "network" | "locality" | "serviceAccount" => {
                        not_honoured(key, node, findings);
                    }
                    _ => findings.unknown(key, &within, ENDPOINT),
                }
            }
            self.endpoints.push(Spotted { place: item.place, value: endpoint });
        }
    }

    fn status(&mut self, node: &Node, findings: &mut Findings) {
        for (key, node) in findings.mapping(node, "status") {
            if &*key.text != "addresses" {
                let message = "tells what a cluster found, and is ignored";
                findings.warn(key.place, &path("status", &key.text), message, None);
                continue;
            }
            for (index, item) in findings.list(node, "status.addresses").iter().enumerate() {
                let within = format!("status.addresses[{index}]");
                let (mut value, mut host) = (None, None);
                for (key, node) in findings.mapping(item, &within) {
                    let at = path(&within, &key.text);
                    match &*key.text {
                        "value" => {
                            value = findings.text(node, &at).map(|text| (text.to_owned(), node.place));
                        }
                        "host" => host = findings.text(node, &at).map(str::to_owned),
                        _ => findings.unknown(key, &within, &["value", "host"]),
                    }
                }
                self.assigned.extend(value.map(|(value, place)| Assigned {
                    place,
                    value,
                    host: host.clone(),
                }));
            }
        }
    }

    /// The table that it means, after every rule.
    fn into_service(mut self, findings: &mut Findings) -> Option<Imported> {
        let file = std::sync::Arc::clone(&findings.file);
        let mut addresses = Vec::new();
        for (index, address) in std::mem::take(&mut self.addresses).into_iter().enumerate() {
            self.at(format!("addresses[{index}]"), address.place);
            addresses.push(network(address, findings));
        }
        let spec_addresses = addresses.len();
        for assigned in rules::dialable(&self, findings) {
            self.at(format!("addresses[{}]", addresses.len()), assigned.place);
            addresses.push(assigned.value);
        }
        for (index, host) in self.hosts.iter().enumerate() {
            self.places.push((format!("hosts[{index}]").into(), host.place));
        }
        let ports = self.port_tables(findings);
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            self.places.push((format!("endpoints[{index}]").into(), endpoint.place));
            if let Some(address) = &endpoint.value.address {
                self.places.push((format!("endpoints[{index}].address").into(), address.place));
            }
        }
        let endpoint = |endpoint: Spotted<Endpoint>| {
            let Endpoint { address, table } = endpoint.value;
            EndpointTable { address: address.map(|address| address.value).unwrap_or_default(), ..table }
        };
        let table = Table {
            name: self.name?,
            namespace: self.namespace.unwrap_or_else(|| "default".to_owned()),
            hosts: self.hosts.into_iter().map(|host| host.value).collect(),
            addresses,
            location: self.location,
            resolution: self.resolution.of_service(),
            ports,
            endpoints: self.endpoints.into_iter().map(endpoint).collect(),
        };
        Some(Imported { table, file, place: self.place, places: self.places, spec_addresses })
    }

    fn port_tables(&mut self, findings: &mut Findings) -> Vec<PortTable> {
        let mut tables = Vec::new();
        for Spotted { place, value: port } in std::mem::take(&mut self.ports) {
            let Some(protocol) = rules::protocol(&port, place, findings) else { continue };
            let within = format!("ports[{}]", tables.len());
            for (key, place) in &port.places {
                self.at(format!("{within}.{key}"), *place);
            }
            self.at(within, place);
            let (Some(number), Some(name)) = (port.number, port.name) else { continue };
            tables.push(PortTable { number, name, protocol, target_port: port.target_port });
        }
        tables
    }
}

fn texts(node: &Node, key: &str, findings: &mut Findings) -> Vec<Spotted<String>> {
    let mut found = Vec::new();
    for (index, item) in findings.list(node, key).iter().enumerate() {
        let at = format!("{key}[{index}]");
        let errors = findings.errors.len();
        match findings.text(item, &at) {
            Some(text) => found.push(Spotted { place: item.place, value: text.to_owned() }),
            None if findings.errors.len() == errors => {
                findings.error(item.place, &at, "the value is empty", None);
            }
            None => {}
        }
    }
    found
}

fn location(node: &Node, key: &str, findings: &mut Findings) -> Option<&'static str> {
    match findings.text(node, key)? {
        // The default, which needs not be written.
        "MESH_EXTERNAL" => None,
        "MESH_INTERNAL" => Some("MESH_INTERNAL"),
        other => {
            let message = format!("unknown location \"{}\"", shorten(other));
            findings.error(node.place, key, message, "use MESH_EXTERNAL or MESH_INTERNAL".to_owned());
            None
        }
    }
}

fn resolution(node: &Node, key: &str, findings: &mut Findings) -> Resolution {
    let Some(word) = findings.text(node, key) else { return Resolution::default() };
    if let Some(resolution) = Resolution::ALL.into_iter().find(|known| known.as_str() == word) {
        return resolution;
    }
    let known = Resolution::ALL.map(Resolution::as_str).join(", ");
    let message = format!("unknown resolution \"{}\"", shorten(word));
    findings.error(node.place, key, message, format!("known are {known}"));
    Resolution::default()
}

fn selector(key: &Key, node: &Node, findings: &mut Findings) {
    if !matches!(node.value, Value::Null) {
        let remedy = "list the addresses under spec.endpoints with resolution: STATIC".to_owned();
        let message = "selects workloads of a cluster, which the gateway does not see";
        findings.error(key.place, "spec.workloadSelector", message, remedy);
    }
}

/// Only what is exported to everybody means the same outside a cluster.
fn export_to(node: &Node, findings: &mut Findings) {
    let everybody = |item: &Node| matches!(&item.value, Value::Scalar { text, .. } if &**text == "*");
    if let Value::Sequence(items) = &node.value
        && items.len() > 1
        && items.iter().any(everybody)
    {
        let message = "\"*\" cannot stand with others: it is everybody, and Istio refuses such a list";
        let remedy = "remove exportTo, or set it to [\"*\"], to open it to every source; else take \"*\" out"
            .to_owned();
        return findings.error(node.place, "spec.exportTo", message, remedy);
    }
    for (index, item) in findings.list(node, "spec.exportTo").iter().enumerate() {
        let key = format!("spec.exportTo[{index}]");
        match findings.text(item, &key) {
            Some("*") | None => {}
            Some(other) => {
                let message = format!(
                    "\"{}\" would let fewer namespaces use the service than the gateway would",
                    shorten(other)
                );
                let remedy = "remove exportTo, or set it to [\"*\"], to open it to every source; to narrow it, do so in a \
                              copy, import that as TOML (`sluice import istio`) and name the sources under `allow`";
                findings.error(item.place, &key, message, remedy.to_owned());
            }
        }
    }
}

/// Fields of an endpoint that the gateway has no use for.
fn not_honoured(key: &Key, node: &Node, findings: &mut Findings) {
    let message = match &*key.text {
        "locality" => "endpoints are chosen by weight, not by where they are",
        "network" => "every endpoint is dialled directly, whatever its network",
        "serviceAccount" => "certificates of endpoints are not looked at",
        _ => "has no meaning here and is ignored",
    };
    let is_set = match &node.value {
        Value::Null => false,
        Value::Scalar { text, .. } => !text.is_empty(),
        Value::Sequence(items) => !items.is_empty(),
        Value::Mapping(entries) => !entries.is_empty(),
    };
    if is_set {
        findings.warn(key.place, &path("spec.endpoints[]", &key.text), message, None);
    }
}

/// A range with bits after its prefix is its network, for Istio; what is no range is told later.
fn network(address: Spotted<String>, findings: &mut Findings) -> String {
    match address.value.parse::<Cidr>() {
        Err(CidrError::HostBits { network }) => {
            let message = "has bits set after the prefix: the whole network is meant";
            let remedy = format!("write \"{network}\"");
            findings.warn(address.place, "spec.addresses[]", message, remedy);
            network.to_string()
        }
        _ => address.value,
    }
}
