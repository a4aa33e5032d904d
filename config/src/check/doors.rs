//! `[[listener]]`: what each kind of door needs, refuses and refers to; and that no two things listen at one address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::services::Entry;
use super::{Check, Node};
use crate::plan::{Admin, Auth, Capture, DenyTls, Door, DoorKind, Prometheus, ProxyProtocol, UpstreamSource};
use crate::structure::shorten;
use crate::suggest;

/// The keys that belong to some kinds only.
const OWN_KEYS: &[(&str, &[DoorKind])] = &[
    ("auth", &[DoorKind::HttpProxy, DoorKind::Socks5]),
    ("destination_port", &[DoorKind::Tls, DoorKind::Tcp]),
    ("service", &[DoorKind::Tcp]),
    ("deny_tls", &[DoorKind::Tls, DoorKind::Transparent]),
    ("capture", &[DoorKind::Transparent]),
    ("opaque_ports", &[DoorKind::Transparent]),
    ("upstream_source", &[DoorKind::Transparent]),
];

/// The doors where an original destination has a meaning.
const ORIGINAL_DESTINATION: &[DoorKind] =
    &[DoorKind::Tls, DoorKind::Tcp, DoorKind::Http, DoorKind::Transparent];

impl Check<'_> {
    pub(crate) fn doors(&self, root: &Node<'_>, services: &[Entry]) -> Vec<Door> {
        let items = root.items("listener");
        // Written, not read: a password file that is missing is an error of its own.
        let credentials = root.items("workload").into_iter().find_map(|workload| workload.get("credentials"));
        if let Some(list) =
            root.get("listener").filter(|list| items.is_empty() && list.value.as_array().is_some())
        {
            let remedy =
                "add a [[listener]], or leave the key out for http_proxy on 127.0.0.1:3128".to_owned();
            self.error(&list, "no door is left: the gateway would accept nothing", remedy);
        }
        let mut doors: Vec<Door> = Vec::new();
        let mut names: HashMap<Arc<str>, String> = HashMap::new();
        let mut unnumbered: HashMap<SocketAddr, String> = HashMap::new();
        for node in &items {
            let Some(door) = self.door(node, services, credentials.is_some()) else { continue };
            let first = names.entry(Arc::clone(&door.name)).or_insert_with(|| node.path.clone());
            if *first != node.path {
                let at = node.get("name").unwrap_or_else(|| node.clone());
                self.error(
                    &at,
                    format!("`{first}` is named \"{}\" too", door.name),
                    "choose another `name`".to_owned(),
                );
            }
            if door.bind.port() == 0 {
                let first = unnumbered.entry(door.bind).or_insert_with(|| node.path.clone());
                if *first != node.path {
                    let remedy = "a door is known by its address: use another one, as 127.0.0.2:0".to_owned();
                    self.error(node, format!("{} is taken by `{first}`", door.bind), remedy);
                }
            }
            doors.push(door);
        }
        if let Some(node) =
            credentials.filter(|_| !doors.is_empty() && doors.iter().all(|door| door.auth == Auth::Off))
        {
            let remedy = "set auth = \"required\" or \"optional\" on an http_proxy or socks5 door".to_owned();
            self.warn(&node, "no door asks for credentials", remedy);
        }
        doors
    }

    fn door(&self, node: &Node<'_>, services: &[Entry], credentials: bool) -> Option<Door> {
        let bind = node.get("bind").and_then(|at| self.bind(&at));
        let kind = node.word::<DoorKind>("kind")?;
        for (key, kinds) in OWN_KEYS {
            if let Some(at) = node.get(key).filter(|_| !kinds.contains(&kind)) {
                let owners: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                let message = format!("`{key}` has no meaning on a door of kind {}", kind.as_str());
                self.error(&at, message, format!("it belongs to {}", owners.join(" and ")));
            }
        }
        let auth = node.word::<Auth>("auth").unwrap_or_default();
        if let Some(at) = node.get("auth").filter(|_| !credentials) {
            let remedy = "add credentials = [{ user, password_file }] to a [[workload]]".to_owned();
            match auth {
                Auth::Required => self.error(&at, "nobody could pass: no workload has credentials", remedy),
                Auth::Optional => self.warn(&at, "no workload has credentials", remedy),
                Auth::Off => {}
            }
        }
        let mut destination_port = node.number::<u16>("destination_port");
        let mut service = None;
        if kind == DoorKind::Tcp
            && let Some(entry) = self.door_service(node, services)
        {
            service = Some((Arc::clone(&entry.input.namespace), Arc::clone(&entry.input.name)));
            destination_port = self.door_port(node, bind, destination_port, entry);
        }
        let bind = bind?;
        if kind == DoorKind::Tls && bind.port() == 0 && destination_port.is_none() {
            self.error(
                node,
                "a tls door on port 0 has no port to dial",
                "add destination_port = 443".to_owned(),
            );
        }
        let name = node.shared_text("name").unwrap_or_else(|| default_name(kind, bind));
        let deny_tls = node.word::<DenyTls>("deny_tls").unwrap_or_default();
        let capture = node.word::<Capture>("capture");
        if kind == DoorKind::Transparent && node.get("capture").is_none() {
            let remedy =
                "add capture = \"redirect\" or capture = \"tproxy\", as the nftables rules do it".to_owned();
            self.error(node, "a transparent door needs `capture`", remedy);
        }
        let upstream_source = node.word::<UpstreamSource>("upstream_source").unwrap_or_default();
        if let Some(at) = node.get("upstream_source")
            && upstream_source == UpstreamSource::Client
            && capture == Some(Capture::Redirect)
        {
            let remedy = "capture with tproxy, or remove `upstream_source`".to_owned();
            self.error(&at, "the client's address is kept upstream with capture = \"tproxy\" only", remedy);
        }
        let opaque_ports = node
            .get("opaque_ports")
            .map(|_| node.items("opaque_ports").iter().filter_map(Node::as_number).collect());
        let proxy_protocol = node.get("proxy_protocol").and_then(|at| self.proxy_protocol(&at, kind));
        Some(Door {
            name,
            kind,
            bind,
            auth,
            destination_port,
            service,
            deny_tls,
            capture,
            opaque_ports,
            proxy_protocol,
            upstream_source,
        })
    }

    /// Who may write a PROXY header in front of a connection, and what it may tell.
    fn proxy_protocol(&self, node: &Node<'_>, kind: DoorKind) -> Option<ProxyProtocol> {
        let list = node.get("trusted")?;
        let trusted = self.ranges(node, "trusted");
        if list.value.as_array().is_some_and(<[_]>::is_empty) {
            let remedy = "name the load balancers, for example trusted = [\"10.0.0.0/24\"]".to_owned();
            self.error(&list, "nobody could connect: no peer is trusted", remedy);
        }
        for item in node.items("trusted") {
            let everybody = item.as_text().is_some_and(|text| text.ends_with("/0"));
            if everybody {
                let remedy = "name the load balancers only".to_owned();
                self.warn(&item, "anybody may claim to be any source address", remedy);
            }
        }
        let destination = node.get("use_destination");
        let use_destination = destination.as_ref().and_then(|at| at.value.to_bool()).unwrap_or_default();
        if let Some(at) = destination.filter(|_| use_destination && !ORIGINAL_DESTINATION.contains(&kind)) {
            let owners: Vec<&str> = ORIGINAL_DESTINATION.iter().map(|kind| kind.as_str()).collect();
            let message =
                format!("on a door of kind {} the client names the destination itself", kind.as_str());
            self.error(&at, message, format!("it belongs to {}", owners.join(", ")));
        }
        Some(ProxyProtocol { trusted, use_destination })
    }

    /// The service that a `tcp` door names.
    fn door_service<'s>(&self, node: &Node<'_>, services: &'s [Entry]) -> Option<&'s Entry> {
        if node.get("service").is_none() {
            let remedy = "for example service = \"default/orders-db\"".to_owned();
            self.error(node, "a door of kind tcp needs `service`: it leads to that one", remedy);
        }
        let (text, at) = node.text("service")?;
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        let found =
            services.iter().find(|entry| *entry.input.namespace == *namespace && *entry.input.name == *name);
        let Some(entry) = found else {
            let known: Vec<String> = services
                .iter()
                .map(|entry| format!("{}/{}", entry.input.namespace, entry.input.name))
                .collect();
            let near = known.iter().find(|full| full.ends_with(&format!("/{name}"))).map(String::as_str);
            let near = near.or_else(|| {
                suggest::nearest(&format!("{namespace}/{name}"), known.iter().map(String::as_str))
            });
            let remedy = near.map_or("add a [[service]] of that name".to_owned(), |near| {
                format!("did you mean \"{near}\"?")
            });
            self.error(&at, format!("there is no service {}/{}", shorten(namespace), shorten(name)), remedy);
            return None;
        };
        let dialable =
            !entry.input.endpoints.is_empty() || entry.input.patterns().any(|host| !host.starts_with("*."));
        if !dialable {
            let remedy = format!("give `{}` an exact host or `endpoints`", entry.path);
            self.error(
                &at,
                format!("{namespace}/{name} has nothing that can be dialled without a destination"),
                remedy,
            );
        }
        Some(entry)
    }

    /// The service's port that a `tcp` door leads to.
    fn door_port(
        &self,
        node: &Node<'_>,
        bind: Option<SocketAddr>,
        destination_port: Option<u16>,
        entry: &Entry,
    ) -> Option<u16> {
        let mut ports: Vec<u16> = entry.input.ports.iter().map(|port| port.number).collect();
        if ports.is_empty() {
            ports = vec![80, 443]; // the policy's default
        }
        let list = || ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let full = format!("{}/{}", entry.input.namespace, entry.input.name);
        if let Some(port) = destination_port {
            if !ports.contains(&port)
                && let Some(at) = node.get("destination_port")
            {
                self.error(&at, format!("{full} has no port {port}"), format!("its ports are {}", list()));
            }
            return Some(port);
        }
        let own = bind.map(|bind| bind.port()).filter(|port| ports.contains(port));
        let port = own.or_else(|| ports.first().copied().filter(|_| ports.len() == 1));
        if port.is_none() && bind.is_some() {
            let remedy = format!("add destination_port: one of {}", list());
            self.error(node, format!("{full} has several ports, and none of them is the door's own"), remedy);
        }
        port
    }

    /// No two listeners may share an address.
    pub(crate) fn binds(
        &self,
        root: &Node<'_>,
        doors: &[Door],
        admin: Option<&Admin>,
        prometheus: Option<&Prometheus>,
    ) {
        let mut taken: Vec<(SocketAddr, String)> = Vec::new();
        let mut take = |bind: SocketAddr, at: &Node<'_>| {
            if let Some((other, path)) = taken.iter().find(|(other, _)| overlap(*other, bind)) {
                let how =
                    if *other == bind { "is taken".to_owned() } else { format!("overlaps {other}, taken") };
                self.error(at, format!("{bind} {how} by `{path}`"), "choose another port".to_owned());
            } else {
                taken.push((bind, at.path.clone()));
            }
        };
        let admin_at = root.get("admin").and_then(|admin| admin.get("bind"));
        let prometheus_at =
            root.get("telemetry").and_then(|node| node.get("prometheus")).and_then(|node| node.get("bind"));
        if let (Some(admin), Some(at)) = (admin, admin_at) {
            take(admin.bind, &at);
        }
        if let (Some(prometheus), Some(at)) = (prometheus, prometheus_at) {
            take(prometheus.bind, &at);
        }
        // Doors that were refused are not in `doors`: each is found by its address.
        for node in root.items("listener") {
            let bind = node.text("bind").and_then(|(text, _)| text.parse::<SocketAddr>().ok());
            if let (Some(bind), Some(at)) = (bind, node.get("bind"))
                && doors.iter().any(|door| door.bind == bind)
            {
                take(bind, &at);
            }
        }
    }
}

/// Whether a bind to one excludes the other: equal, or the same port of the same family with one of them unspecified.
fn overlap(left: SocketAddr, right: SocketAddr) -> bool {
    left.port() == right.port()
        && left.port() != 0
        && left.is_ipv4() == right.is_ipv4()
        && (left.ip() == right.ip() || left.ip().is_unspecified() || right.ip().is_unspecified())
}

fn default_name(kind: DoorKind, bind: SocketAddr) -> Arc<str> {
    if bind.port() != 0 && (bind.ip().is_unspecified() || bind.ip().is_loopback()) {
        return format!("{}-{}", kind.as_str(), bind.port()).into();
    }
    format!("{}-{bind}", kind.as_str()).into()
}
