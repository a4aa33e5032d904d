//! Addresses and ranges as configuration texts: parsed by the policy's own parsers, with a remedy for each slip.

use std::net::{IpAddr, SocketAddr};

use sluice_policy::{Cidr, CidrError};

use super::{Check, Node};
use crate::structure::shorten;

impl Check<'_> {
    /// Where something listens: an address and a port; port 0 on loopback only.
    pub(crate) fn bind(&self, node: &Node<'_>) -> Option<SocketAddr> {
        let text = node.as_text()?;
        match text.parse::<SocketAddr>() {
            Ok(bind) if bind.port() == 0 && bind.ip().to_canonical().is_loopback() => {
                self.warn(
                    node,
                    "port 0: the system chooses a port at each start, which is good for tests only",
                    port_remedy(),
                );
                Some(bind)
            }
            Ok(bind) if bind.port() == 0 => {
                let remedy = "choose a port from 1 to 65535; port 0, which the system replaces by a free one, may \
                              stand with a loopback address only";
                self.error(node, "port 0 cannot be found by anybody outside", remedy.to_owned());
                None
            }
            Ok(SocketAddr::V6(bind)) if bind.scope_id() != 0 => {
                self.error(node, "an address with a zone cannot be bound to", None);
                None
            }
            Ok(bind) => Some(bind),
            Err(_) => {
                let (message, suggestion) = bind_remedy(text);
                self.error(node, message, suggestion);
                None
            }
        }
    }

    /// A DNS server: port 53 where none is written.
    pub(crate) fn server(&self, node: &Node<'_>) -> Option<SocketAddr> {
        let text = node.as_text()?;
        let bare = text.parse::<IpAddr>().or_else(|_| text.trim_matches(['[', ']']).parse()).ok();
        if let Some(address) = bare {
            return Some(SocketAddr::new(address, 53));
        }
        match text.parse::<SocketAddr>() {
            Ok(server) if server.port() == 0 => {
                self.error(node, "port 0 cannot be asked", port_remedy());
                None
            }
            Ok(SocketAddr::V6(server)) if server.scope_id() != 0 => {
                self.error(node, "an address with a zone cannot be asked", None);
                None
            }
            Ok(server) => Some(server),
            Err(_) => {
                let message = format!("\"{}\" is not an IP address, with or without a port", shorten(text));
                self.error(
                    node,
                    message,
                    "for example \"10.0.0.2:53\"; IPv6 as \"[2001:db8::2]:53\"".to_owned(),
                );
                None
            }
        }
    }

    /// Every range of a list that parses; the others are reported.
    pub(crate) fn ranges(&self, node: &Node<'_>, key: &str) -> Vec<Cidr> {
        node.items(key).iter().filter_map(|item| self.range(item)).collect()
    }

    /// One address or range.
    pub(crate) fn range(&self, node: &Node<'_>) -> Option<Cidr> {
        let text = node.as_text()?;
        let error = match text.parse::<Cidr>() {
            Ok(range) => return Some(range),
            Err(error) => error,
        };
        let suggestion = match error {
            CidrError::HostBits { network } => Some(format!("write \"{network}\"")),
            CidrError::Address => address_remedy(text),
            CidrError::Prefix { .. } => None,
        };
        let message = match error {
            CidrError::HostBits { .. } => "has bits set after the prefix".to_owned(),
            other => other.to_string(),
        };
        self.error(node, format!("\"{}\" {message}", shorten(text)), suggestion);
        None
    }
}

fn port_remedy() -> Option<String> {
    Some("choose a port from 1 to 65535".to_owned())
}

/// What is wrong with an address-and-port text, and the text that was probably meant.
fn bind_remedy(text: &str) -> (String, Option<String>) {
    let shown = shorten(text);
    if text.parse::<IpAddr>().is_ok() {
        return (
            format!("\"{shown}\" has no port"),
            Some("write \"ADDRESS:PORT\", IPv6 as \"[ADDRESS]:PORT\"".to_owned()),
        );
    }
    if let Ok(port) = text.trim_start_matches(':').parse::<u16>() {
        return (
            format!("\"{shown}\" has no address"),
            Some(format!("write \"127.0.0.1:{port}\", \"0.0.0.0:{port}\" or \"[::]:{port}\"")),
        );
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return (
            format!("\"{shown}\" is not an IP address and a port"),
            Some("for example \"127.0.0.1:3128\"".to_owned()),
        );
    };
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() && port.parse::<u16>().is_err() {
        return (format!("\"{}\" is not a port", shorten(port)), port_remedy());
    }
    match host {
        "localhost" => (
            format!("\"{shown}\" names a host"),
            Some(format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")),
        ),
        "*" | "" => (
            format!("\"{shown}\" has no address"),
            Some(format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\"")),
        ),
        _ => (
            format!("\"{shown}\" is not an IP address and a port"),
            Some("write an address, not a name; IPv6 in brackets: \"[::1]:3128\"".to_owned()),
        ),
    }
}

fn address_remedy(text: &str) -> Option<String> {
    if text.parse::<SocketAddr>().is_ok() {
        return Some("leave the port out".to_owned());
    }
    text.chars()
        .any(char::is_alphabetic)
        .then(|| "a name belongs into `hosts`".to_owned())
        .filter(|_| !text.contains(':'))
}
