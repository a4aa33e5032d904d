//! What Istio's own validation says of a ServiceEntry, and where its meaning needs an Istio proxy. Sources: the API
//! reference of ServiceEntry and WorkloadEntry. Knows nothing of YAML.

use super::entry::{Assigned, Endpoint, Entry, Port, Resolution, Spotted};
use super::findings::Findings;
use crate::spans::Place;
use crate::structure::shorten;

/// What Istio refuses, and what only a proxy of its own could do.
pub(super) fn check(entry: &Entry, findings: &mut Findings) {
    hosts(entry, findings);
    addresses(entry, findings);
    for (index, port) in entry.ports.iter().enumerate() {
        self::port(index, port, findings);
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        self::endpoint(index, endpoint, entry.resolution, findings);
    }
    // Istio takes such an entry and routes nothing; here it is what a file looks like that is not written to its end.
    if entry.ports.is_empty() {
        let message = "no port is named: nothing could be reached; is the file complete?";
        findings.error(entry.place, "spec.ports", message, "add the ports under spec.ports".to_owned());
    }
    resolution(entry, findings);
}

fn is_wildcard(host: &str) -> bool {
    host.contains('*')
}

fn is_opaque(port: &Spotted<Port>) -> bool {
    let protocol = port.value.protocol.as_deref().unwrap_or_default().to_ascii_lowercase();
    !matches!(protocol.as_str(), "http" | "http2" | "grpc" | "grpc-web" | "https" | "tls" | "udp")
}

fn hosts(entry: &Entry, findings: &mut Findings) {
    if entry.hosts.is_empty() {
        let remedy = "name at least one under spec.hosts".to_owned();
        findings.error(entry.place, "spec.hosts", "the ServiceEntry names no host", remedy);
    }
    for (index, host) in entry.hosts.iter().enumerate().filter(|(_, host)| host.value == "*") {
        let remedy = "for every destination use mode = \"allow_any\", for some sources with a [[scope]]";
        let message = "\"*\" is no host: Istio refuses it too";
        findings.error(host.place, &format!("spec.hosts[{index}]"), message, remedy.to_owned());
    }
    let opaque = entry.ports.iter().enumerate().find(|(_, port)| is_opaque(port));
    if let Some((index, port)) = opaque
        && entry.resolution != Resolution::None
        && entry.hosts.len() > 1
    {
        let message = "several hosts share a port on which nothing tells them apart: Istio refuses it";
        let remedy = "give the port a protocol of HTTP or TLS, or each host a ServiceEntry of its own";
        findings.error(port.place, &format!("spec.ports[{index}]"), message, remedy.to_owned());
    }
}

fn addresses(entry: &Entry, findings: &mut Findings) {
    let ranges_allowed = matches!(entry.resolution, Resolution::None | Resolution::Static);
    for (index, address) in entry.addresses.iter().enumerate() {
        let key = format!("spec.addresses[{index}]");
        if address.value.contains('/') && !ranges_allowed {
            let message = format!(
                "\"{}\" is a range: with resolution {} Istio takes single addresses only",
                shorten(&address.value),
                entry.resolution.as_str()
            );
            findings.error(address.place, &key, message, "use resolution: NONE or STATIC".to_owned());
        }
    }
}

fn port(index: usize, port: &Spotted<Port>, findings: &mut Findings) {
    let within = format!("spec.ports[{index}]");
    let Port { number, name, protocol, .. } = &port.value;
    if number.is_none() {
        let remedy = "add number".to_owned();
        findings.error(port.place, &format!("{within}.number"), "the port has no number", remedy);
    }
    match name {
        None => {
            let remedy = "add name, for example \"https\"".to_owned();
            findings.error(port.place, &format!("{within}.name"), "the port has no name", remedy);
        }
        Some(name) if !is_label(name) => {
            let message =
                format!("\"{}\" is no port name: letters, digits and hyphens, at most 63", shorten(name));
            findings.error(port.place, &format!("{within}.name"), message, None);
        }
        Some(_) => {}
    }
    if let Some(word) = protocol
        && known_protocol(word).is_none()
    {
        let message = format!("unknown protocol \"{}\"", shorten(word));
        let remedy = "use HTTP, HTTPS, HTTP2, GRPC, TLS, TCP, MONGO, MYSQL or REDIS".to_owned();
        findings.error(port.place, &format!("{within}.protocol"), message, remedy);
    }
}

/// A label as in RFC 1123.
fn is_label(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    name.len() <= 63
        && edge(name.as_bytes().first())
        && edge(name.as_bytes().last())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The one that is read although Istio has no such word.
const OWN_PROTOCOL: &str = "POSTGRES";

/// The gateway's word for one of Istio's, whose case does not matter; an empty one for UDP, which is no TCP port.
fn known_protocol(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "http" => "HTTP",
        "https" => "HTTPS",
        "http2" => "HTTP2",
        "grpc" | "grpc-web" => "GRPC",
        "tls" => "TLS",
        "tcp" => "TCP",
        "mongo" => "MONGO",
        "mysql" => "MYSQL",
        "postgres" => OWN_PROTOCOL,
        "redis" => "REDIS",
        "udp" => "",
        _ => return None,
    })
}

/// The protocol of a port, none if the port is left out.
pub(super) fn protocol(port: &Port, place: Place, findings: &mut Findings) -> Option<&'static str> {
    let Some(word) = &port.protocol else {
        let message = "without a protocol Istio looks at the bytes; here port 80 is HTTP, 443 is TLS and every other is TCP";
        findings.warn(place, "spec.ports[].protocol", message, "name the protocol".to_owned());
        return Some(match port.number {
            Some(80) => "HTTP",
            Some(443) => "TLS",
            _ => "TCP",
        });
    };
    match known_protocol(word)? {
        "" => {
            let message = "UDP is not carried: the port is left out";
            findings.warn(place, "spec.ports[].protocol", message, None);
            None
        }
        known => {
            if known == OWN_PROTOCOL {
                let message = "POSTGRES is a word of this gateway: Istio refuses it";
                let remedy = "where Istio reads the entry too, write TCP: it is carried the same".to_owned();
                findings.warn(place, "spec.ports[].protocol", message, remedy);
            }
            Some(known)
        }
    }
}

fn endpoint(index: usize, endpoint: &Spotted<Endpoint>, resolution: Resolution, findings: &mut Findings) {
    let key = format!("spec.endpoints[{index}].address");
    let Some(address) = &endpoint.value.address else {
        let remedy = "add address; a network alone cannot be dialled".to_owned();
        return findings.error(endpoint.place, &key, "the endpoint has no address", remedy);
    };
    let text = &address.value;
    if text.starts_with("unix:") {
        let message = format!("\"{}\" is a Unix socket, which the gateway does not dial", shorten(text));
        return findings.error(address.place, &key, message, "use an IP address".to_owned());
    }
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    if resolution == Resolution::Static && !is_address {
        let message = format!("\"{}\" is not an IP address, and STATIC resolves no names", shorten(text));
        findings.error(address.place, &key, message, "use an IP address, or resolution: DNS".to_owned());
    }
}

fn resolution(entry: &Entry, findings: &mut Findings) {
    let place = entry.resolution_place.unwrap_or(entry.place);
    let key = "spec.resolution";
    let mut refuse = |message: &str, remedy: &str| findings.error(place, key, message, remedy.to_owned());
    match entry.resolution {
        Resolution::None if !entry.endpoints.is_empty() => {
            refuse(
                "with NONE (also when it is not set) the original destination is dialled, and endpoints never are",
                "use resolution: STATIC for addresses, DNS for names",
            );
        }
        Resolution::Static if entry.endpoints.is_empty() => {
            refuse("STATIC without endpoints: there is nothing to dial", "add spec.endpoints");
        }
        Resolution::DnsRoundRobin if entry.endpoints.len() > 1 => {
            refuse("DNS_ROUND_ROBIN takes one endpoint at most", "use resolution: DNS, or one endpoint");
        }
        Resolution::Dns | Resolution::DnsRoundRobin
            if entry.endpoints.is_empty() && entry.hosts.iter().any(|host| is_wildcard(&host.value)) =>
        {
            let word = entry.resolution.as_str();
            refuse(
                &format!("{word} has no name to resolve for a wildcard host: Istio refuses it"),
                "use resolution: DYNAMIC_DNS or NONE: the gateway resolves the name that is asked for",
            );
        }
        Resolution::DynamicDns => dynamic(entry, findings),
        _ => {}
    }
}

/// `DYNAMIC_DNS` is for wildcard hosts whose name is seen in each request.
fn dynamic(entry: &Entry, findings: &mut Findings) {
    for (index, host) in entry.hosts.iter().enumerate().filter(|(_, host)| !is_wildcard(&host.value)) {
        let message = format!("\"{}\" is no wildcard, which DYNAMIC_DNS is for", shorten(&host.value));
        findings.error(
            host.place,
            &format!("spec.hosts[{index}]"),
            message,
            "use resolution: DNS".to_owned(),
        );
    }
    for (index, address) in entry.addresses.iter().enumerate() {
        let message = "DYNAMIC_DNS goes by names and takes no addresses";
        findings.error(
            address.place,
            &format!("spec.addresses[{index}]"),
            message,
            "use resolution: NONE".to_owned(),
        );
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let message = "DYNAMIC_DNS resolves what is asked for and takes no endpoints";
        let remedy = "use resolution: DNS or STATIC".to_owned();
        findings.error(endpoint.place, &format!("spec.endpoints[{index}]"), message, remedy);
    }
    for (index, port) in entry.ports.iter().enumerate() {
        let word = port.value.protocol.as_deref().unwrap_or_default().to_ascii_lowercase();
        if !matches!(word.as_str(), "http" | "tls" | "grpc" | "http2") {
            let message = "DYNAMIC_DNS needs a protocol that names the host: HTTP, HTTP2, GRPC or TLS";
            findings.error(port.place, &format!("spec.ports[{index}].protocol"), message, None);
        }
    }
}

/// Whether anything can match it: what has only ports that are not carried registers nothing.
pub(super) fn means_something(entry: &Entry, findings: &mut Findings) -> bool {
    let carried = |port: &&Spotted<Port>| port.value.protocol.as_deref().and_then(known_protocol) != Some("");
    if !entry.ports.iter().any(|port| carried(&port)) {
        let message = "every port is UDP: the ServiceEntry registers nothing";
        findings.warn(entry.place, "spec.ports", message, None);
        return false;
    }
    if let Some(port) = entry.ports.iter().find(|port| is_opaque(port))
        && entry.addresses.is_empty()
        && entry.assigned.is_empty()
    {
        let message = "a TCP port without addresses: Istio takes every connection to that port for this service; here a \
                       client has to name the host (CONNECT, SOCKS, TLS), or come through a tcp door";
        let remedy = "name the addresses that clients dial under spec.addresses".to_owned();
        findings.warn(port.place, "spec.ports[]", message, remedy);
    }
    true
}

/// The assigned addresses that lead somewhere: a virtual address is never dialled, it stands for what the service resolves
/// to, which is its first host where there are no endpoints.
pub(super) fn dialable(entry: &Entry, findings: &mut Findings) -> Vec<Assigned> {
    let first = entry.hosts.first().map(|host| host.value.as_str()).unwrap_or_default();
    let mut kept = Vec::new();
    for assigned in &entry.assigned {
        let other = assigned.host.as_deref().is_some_and(|host| !host.eq_ignore_ascii_case(first));
        let wrong = match entry.resolution {
            Resolution::Static => None,
            _ if !entry.endpoints.is_empty() => None,
            Resolution::None => Some("with NONE the address itself would be dialled, which is virtual"),
            _ if is_wildcard(first) => Some("behind a wildcard host there is no name to resolve for it"),
            _ if other => {
                Some("it stands for another host than the first: give each host a ServiceEntry of its own")
            }
            _ => None,
        };
        match wrong {
            Some(wrong) => {
                let message = format!("this virtual address is left out: {wrong}");
                findings.warn(assigned.place, "status.addresses[]", message, None);
            }
            None if kept.iter().any(|known: &Assigned| known.value == assigned.value) => {}
            None if entry.addresses.iter().any(|known| known.value == assigned.value) => {}
            None => kept.push(assigned.clone()),
        }
    }
    kept
}
