//! `[[service]]`: the registry's entries, one by one. What only the compiled whole can show is turned into words here too.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use sluice_policy::{
    CompileError, EndpointAddress, EndpointInput, HostList, HostPattern, Location, Origin, PortInput, Proof,
    Protocol, Resolution, ServiceInput, Snapshot, UnixSeconds, WarningKind,
};

use super::{Check, Node, hosts, push};
use crate::hosts_file;
use crate::limits::{PROBLEMS_MAX, WARNINGS_MAX};
use crate::plan::Door;
use crate::problem::Problem;
use crate::structure::shorten;

/// A service with its place in the file.
pub(crate) struct Entry {
    pub(crate) input: ServiceInput,
    pub(crate) path: String,
}

impl Check<'_> {
    pub(crate) fn services(&self, root: &Node<'_>) -> Vec<Entry> {
        let mut names: HashMap<(Arc<str>, Arc<str>), (String, Origin)> = HashMap::new();
        let mut entries = Vec::new();
        for node in root.items("service") {
            let Some(input) = self.service(&node) else { continue };
            let key = (Arc::clone(&input.namespace), Arc::clone(&input.name));
            let (first, origin) =
                names.entry(key).or_insert_with(|| (node.path.clone(), input.origin.clone()));
            if *first != node.path {
                // An entry's index among all services is nothing that a person could look up.
                let first = match self.layers.is_imported(&node.path) {
                    true => format!("at {origin}"),
                    false => format!("as `{first}`"),
                };
                let message = format!("service {}/{} is already there {first}", input.namespace, input.name);
                self.error(
                    &node,
                    message,
                    "choose another name or namespace, or join the two entries".to_owned(),
                );
            }
            entries.push(Entry { input, path: node.path });
        }
        entries
    }

    /// A service that only a `tcp` door can reach needs one.
    pub(crate) fn unreachable(&self, root: &Node<'_>, services: &[Entry], doors: &[Door]) {
        let nodes: HashMap<String, Node<'_>> =
            root.items("service").into_iter().map(|node| (node.path.clone(), node)).collect();
        for Entry { input, path } in services {
            let Some(node) = nodes.get(path) else { continue };
            let named =
                ["hosts", "hosts_file", "addresses"].into_iter().any(|key| self.names_something(node, key));
            let full = (Arc::clone(&input.namespace), Arc::clone(&input.name));
            if !named && !doors.iter().any(|door| door.service.as_ref() == Some(&full)) {
                let remedy =
                    "add `hosts` or `addresses`, or a [[listener]] of kind tcp that leads to it".to_owned();
                self.warn(node, "nothing can reach this service", remedy);
            }
        }
    }

    fn service(&self, node: &Node<'_>) -> Option<ServiceInput> {
        for key in ["name", "namespace"] {
            if let Some((text, at)) = node.text(key)
                && text.contains('/')
            {
                self.error(
                    &at,
                    format!("\"{}\" contains a slash, which separates namespace and name", shorten(text)),
                    None,
                );
            }
        }
        let origin = self.origin(node);
        let ports = self.ports(node);
        let endpoints = self.endpoints(node, &ports);
        let (hosts, host_list) = self.hosts(node);
        let addresses = self.ranges(node, "addresses");
        let resolution = self.resolution(node, !endpoints.is_empty());
        let service = ServiceInput {
            hosts,
            host_list,
            addresses,
            ports,
            location: node.word::<Location>("location").unwrap_or_default(),
            resolution,
            endpoints,
            allow: node
                .get("allow")
                .map(|_| node.items("allow").iter().map(|item| self.selector(item)).collect()),
            deny: node.items("deny").iter().map(|item| self.selector(item)).collect(),
            require_proof: self.require_proof(node),
            source_address: self.source_address(node),
            region: self.common_text(node, "region"),
            owner: self.common_text(node, "owner"),
            ticket: self.common_text(node, "ticket"),
            expires: self.expires(node),
            ..ServiceInput::new(self.common_text(node, "namespace")?, node.shared_text("name")?, origin)
        };
        Some(service)
    }

    /// Where connections to it come from: one address that a host may have.
    fn source_address(&self, node: &Node<'_>) -> Option<IpAddr> {
        let (text, at) = node.text("source_address")?;
        let address = text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        // An address of IPv6 that is link-local is one only together with an interface, which nothing here names.
        let usable = address.filter(|address| match address {
            _ if address.is_unspecified() || address.is_multicast() => false,
            IpAddr::V4(address) => !address.is_broadcast(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        });
        if usable.is_none() {
            let remedy = "for example source_address = \"192.0.2.1\"".to_owned();
            self.error(&at, format!("\"{}\" is no address that a host may have", shorten(text)), remedy);
        }
        usable
    }

    /// The names of `hosts` and those of `hosts_file`.
    fn hosts(&self, node: &Node<'_>) -> (Vec<HostPattern>, HostList) {
        let (mut patterns, mut list) = (Vec::new(), HostList::default());
        let mut seen = HashSet::new();
        for item in node.items("hosts") {
            match item.as_text().map(hosts::pattern) {
                None => {}
                Some(Err(bad)) => self.error(&item, bad.message, bad.suggestion),
                Some(Ok(pattern)) => {
                    if seen.insert(pattern.clone()) {
                        patterns.push(pattern);
                    } else {
                        self.warn(&item, format!("{pattern} is named twice"), "remove one".to_owned());
                    }
                }
            }
        }
        if let Some((text, at)) = node.text("hosts_file") {
            let mut report = |problem| push(&self.errors, PROBLEMS_MAX, problem);
            match hosts_file::load(&self.file(text), &at.path, &mut report) {
                Ok(more) => list = more,
                Err(unreadable) => self.error(&at, unreadable.message, unreadable.suggestion),
            }
        }
        let names_none = !["hosts", "hosts_file", "addresses", "endpoints"]
            .into_iter()
            .any(|key| self.names_something(node, key));
        if names_none {
            let remedy = "add `hosts`, `hosts_file` or `addresses`".to_owned();
            self.error(node, "the service names no destination and can never match", remedy);
        }
        (patterns, list)
    }

    /// Whether the key is there and not an empty list.
    fn names_something(&self, node: &Node<'_>, key: &str) -> bool {
        node.get(key).is_some_and(|list| !list.value.as_array().is_some_and(<[_]>::is_empty))
    }

    fn ports(&self, node: &Node<'_>) -> Vec<PortInput> {
        let items = node.items("ports");
        if let Some(list) = node.get("ports").filter(|_| items.is_empty()) {
            let remedy = "name a port, or leave the key out for 80 HTTP and 443 TLS".to_owned();
            self.error(&list, "the list of ports is empty: the service could never match", remedy);
        }
        let mut ports: Vec<PortInput> = Vec::new();
        for item in items {
            let Some(number) = item.number::<u16>("number") else { continue };
            let protocol = item.word("protocol").unwrap_or(match number {
                80 => Protocol::Http,
                443 => Protocol::Tls,
                _ => Protocol::Tcp,
            });
            let name = self.common_text(&item, "name");
            if ports.iter().any(|port| port.number == number) {
                self.error(&item, format!("port {number} is named twice"), "one entry per port".to_owned());
            }
            if let Some(name) =
                name.as_ref().filter(|name| ports.iter().any(|port| port.name.as_ref() == Some(name)))
            {
                self.error(
                    &item,
                    format!("two ports are named \"{}\"", shorten(name)),
                    "choose another name".to_owned(),
                );
            }
            ports.push(PortInput { number, name, protocol, target_port: item.number("target_port") });
        }
        ports
    }

    fn endpoints(&self, node: &Node<'_>, ports: &[PortInput]) -> Vec<EndpointInput> {
        let resolution = node.word::<Resolution>("resolution").unwrap_or_default();
        let mut endpoints = Vec::new();
        for item in node.items("endpoints") {
            let Some((text, at)) = item.text("address") else { continue };
            let Some(address) = self.endpoint_address(text, &at) else { continue };
            if resolution == Resolution::Static && matches!(address, EndpointAddress::Name(_)) {
                let remedy = "use an address, or resolution = \"DNS\"".to_owned();
                self.error(&at, format!("\"{}\" is a name: STATIC dials addresses", shorten(text)), remedy);
            }
            endpoints.push(EndpointInput {
                address,
                ports: self.endpoint_ports(&item, ports),
                locality: item.shared_text("locality"),
                weight: item.number("weight").unwrap_or(1),
            });
        }
        endpoints
    }

    fn endpoint_address(&self, text: &str, at: &Node<'_>) -> Option<EndpointAddress> {
        if let Ok(address) = text.parse::<IpAddr>().or_else(|_| text.trim_matches(['[', ']']).parse()) {
            return Some(EndpointAddress::Literal(address));
        }
        if text.parse::<SocketAddr>().is_ok() {
            let remedy = "leave the port out; a different port goes under `ports`".to_owned();
            self.error(at, format!("\"{}\" has a port", shorten(text)), remedy);
            return None;
        }
        match hosts::pattern(text) {
            Ok(pattern) if pattern.suffix().is_none() => Some(EndpointAddress::Name(pattern.as_str().into())),
            Ok(_) => {
                self.error(at, format!("\"{}\" is a wildcard and cannot be dialled", shorten(text)), None);
                None
            }
            Err(bad) => {
                self.error(at, bad.message, bad.suggestion);
                None
            }
        }
    }

    fn endpoint_ports(&self, item: &Node<'_>, ports: &[PortInput]) -> Vec<(Arc<str>, u16)> {
        let Some(node) = item.get("ports") else { return Vec::new() };
        let Some(entries) = node.value.as_dict() else { return Vec::new() };
        let known: Vec<&str> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
        let mut chosen = Vec::new();
        for name in entries.keys() {
            let Some(at) = node.get(name) else { continue };
            if !known.contains(&name.as_str()) {
                let remedy = match known.is_empty() {
                    true => "give the service's port a `name`".to_owned(),
                    false => format!("the service's ports are {}", known.join(", ")),
                };
                self.error(&at, format!("the service has no port named \"{}\"", shorten(name)), remedy);
            }
            chosen.extend(at.as_number().map(|number| (Arc::from(name.as_str()), number)));
        }
        chosen
    }

    /// The resolution in force: with nothing but addresses there is no name to resolve, so the original destination it is.
    fn resolution(&self, node: &Node<'_>, has_endpoints: bool) -> Resolution {
        let Some(at) = node.get("resolution") else { return Resolution::default() };
        let resolution = node.word("resolution").unwrap_or_default();
        let endpoints =
            has_endpoints || node.get("endpoints").is_some_and(|list| list.value.as_array() != Some(&[]));
        let has_names = self.names_something(node, "hosts") || self.names_something(node, "hosts_file");
        match resolution {
            Resolution::Static if !endpoints => {
                self.error(
                    &at,
                    "STATIC needs `endpoints`",
                    "for example endpoints = [{ address = \"192.0.2.10\" }]".to_owned(),
                );
            }
            Resolution::None if endpoints => {
                self.error(
                    &at,
                    "NONE dials the original destination and has no `endpoints`",
                    "use STATIC or DNS".to_owned(),
                );
            }
            Resolution::Dns | Resolution::DnsRoundRobin if !endpoints && !has_names => {
                if self.is_written(&at) {
                    let remedy = "use resolution = \"NONE\"".to_owned();
                    self.error(
                        &at,
                        format!("with {resolution} and addresses only there is no name to resolve"),
                        remedy,
                    );
                }
                return Resolution::None;
            }
            _ => {}
        }
        resolution
    }

    fn require_proof(&self, node: &Node<'_>) -> Option<Proof> {
        let proof = node.word::<Proof>("require_proof")?;
        if proof == Proof::Certificate
            && let Some(at) = node.get("require_proof")
        {
            let remedy = "use \"credentials\" until a mesh door is there".to_owned();
            self.warn(&at, "no door of this version can prove a certificate: every source is denied", remedy);
        }
        Some(proof)
    }

    fn expires(&self, node: &Node<'_>) -> Option<UnixSeconds> {
        let (text, at) = node.text("expires")?;
        match text.parse::<Timestamp>() {
            Ok(time) => {
                let expires = UnixSeconds(time.as_second());
                if expires <= self.now {
                    self.warn(
                        &at,
                        "the rule has expired: what it allows is denied",
                        "renew or remove it".to_owned(),
                    );
                }
                Some(expires)
            }
            Err(_) => {
                let with_zone = [format!("{text}Z"), format!("{text}T00:00:00Z")];
                let remedy = with_zone.iter().find(|text| text.parse::<Timestamp>().is_ok());
                let remedy = remedy.map_or("for example \"2027-01-31T00:00:00Z\"".to_owned(), |text| {
                    format!("write \"{text}\"")
                });
                self.error(&at, format!("\"{}\" is not a time as RFC 3339", shorten(text)), remedy);
                None
            }
        }
    }
}

/// What the compiler of the policy found, as a problem at its first place.
pub(crate) fn compile_problem(error: &CompileError) -> Problem {
    at_first(&error.origins, error.problem.to_string(), None)
}

/// The first place in the problem's own fields, the others in its words.
fn at_first(origins: &[Origin], message: String, suggestion: Option<String>) -> Problem {
    let (file, line) =
        origins.first().map_or(("policy".into(), 0), |origin| (Arc::clone(&origin.file), origin.line));
    let others: Vec<String> = origins.iter().skip(1).map(Origin::to_string).collect();
    let message =
        if others.is_empty() { message } else { format!("{message} (see also {})", others.join(", ")) };
    Problem { file, line, column: u32::from(line > 0), key: String::new(), message, suggestion }
}

impl Check<'_> {
    /// What compiles and may not be meant: shadowed hosts, literals that the guard refuses. What the file's own checks
    /// say with a column is left out.
    pub(crate) fn policy_warnings(&self, snapshot: &Snapshot) {
        let said = [WarningKind::Expired, WarningKind::NothingToDial, WarningKind::Unreachable];
        let warnings = snapshot.warnings(self.now).into_iter();
        for warning in warnings.filter(|warning| !said.contains(&warning.kind)) {
            push(&self.warnings, WARNINGS_MAX, at_first(&warning.origins, warning.text, None));
        }
    }
}
