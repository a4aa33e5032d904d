//! The settings that stand alone: DNS, guard, logs, admin, telemetry, data plane, limits. Knows no policy.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_policy::GuardInput;

use super::{Check, Node, push};
use crate::limits::{CONTACT_BYTES_MAX, PROBLEMS_MAX};
use crate::plan::{AccessLog, Admin, Dataplane, Deny, Dns, Limits, Prometheus, Telemetry};
use crate::spans::Part;
use crate::structure::shorten;

impl Check<'_> {
    pub(crate) fn cluster_id(&self, root: &Node<'_>) -> Arc<str> {
        let id = root.get("telemetry").and_then(|telemetry| telemetry.shared_text("cluster_id"));
        id.unwrap_or_else(|| "unknown".into())
    }

    pub(crate) fn dns(&self, root: &Node<'_>) -> Option<Dns> {
        let node = root.get("dns")?;
        let servers = node.get("servers").map(|list| {
            let servers: Vec<SocketAddr> =
                node.items("servers").iter().filter_map(|item| self.server(item)).collect();
            if list.value.as_array().is_some_and(<[_]>::is_empty) {
                let remedy = "name a server, or leave the key out to use resolv.conf".to_owned();
                self.error(&list, "the list of servers is empty", remedy);
            }
            servers
        });
        let (ttl_min_s, ttl_max_s) = (node.number("ttl_min_s"), node.number("ttl_max_s"));
        if let (Some(min), Some(max), Some(at)) = (ttl_min_s, ttl_max_s, node.get("ttl_min_s"))
            && min > max
        {
            let blame = node
                .get("ttl_max_s")
                .filter(|other| !self.is_written(&at) && self.is_written(other))
                .unwrap_or(at);
            self.error(&blame, format!("ttl_min_s ({min}) is above ttl_max_s ({max})"), None);
        }
        Some(Dns {
            servers,
            ttl_min_s: ttl_min_s?,
            ttl_max_s: ttl_max_s?,
            negative_ttl_s: node.number("negative_ttl_s")?,
            stale_s: node.number("stale_s")?,
            timeout_ms: node.number("timeout_ms")?,
            cache_entries: node.number("cache_entries")?,
        })
    }

    /// Everything but the own listeners, which only the whole knows.
    pub(crate) fn guard(&self, root: &Node<'_>) -> GuardInput {
        let Some(node) = root.get("guard") else { return GuardInput::default() };
        let allow = node.items("allow").into_iter().filter_map(|item| {
            let range = self.range(&item)?;
            if range.prefix_bits() == 0 {
                let remedy = "name the ranges that are needed".to_owned();
                let message = format!("{range} allows every private address: the guard is as good as off");
                self.warn(&item, message, remedy);
            }
            Some(range)
        });
        let allow = allow.collect();
        let nat64 = node.items("nat64").into_iter().filter_map(|item| {
            let range = self.range(&item)?;
            if range.network().is_ipv4() || !matches!(range.prefix_bits(), 32 | 40 | 48 | 56 | 64 | 96) {
                let remedy = "an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits (RFC 6052)".to_owned();
                self.error(&item, format!("{range} cannot be a NAT64 prefix"), remedy);
                return None;
            }
            Some(range)
        });
        GuardInput { nat64: nat64.collect(), allow, ..GuardInput::default() }
    }

    pub(crate) fn access_log(&self, root: &Node<'_>) -> Option<AccessLog> {
        let node = root.get("access_log")?;
        let path = node.text("path").and_then(|(text, at)| {
            let absolute = Path::new(text).is_absolute();
            if !absolute || text.ends_with('/') {
                self.error(
                    &at,
                    "the path must be absolute and name a file",
                    "for example /var/log/sluice/access.log".to_owned(),
                );
            }
            if absolute && let Some((message, remedy)) = unusable(Path::new(text)) {
                let problem =
                    self.layers.problem(&at.path, Part::Value, Some(at.value), message, Some(remedy));
                push(&self.start_errors, PROBLEMS_MAX, problem);
            }
            absolute.then(|| PathBuf::from(text))
        });
        Some(AccessLog { format: node.word("format")?, lines: node.word("lines")?, path })
    }

    pub(crate) fn admin(&self, root: &Node<'_>) -> Option<Admin> {
        let at = root.get("admin")?.get("bind")?;
        let bind = self.bind(&at)?;
        if !bind.ip().to_canonical().is_loopback() {
            let remedy = format!(
                "write \"127.0.0.1:{}\"; for probes and scrapes from outside use [telemetry.prometheus] bind",
                bind.port()
            );
            self.error(&at, format!("the admin API must listen on loopback, {} is not", bind.ip()), remedy);
        }
        Some(Admin { bind })
    }

    pub(crate) fn prometheus(&self, root: &Node<'_>) -> Option<Prometheus> {
        let at = root.get("telemetry")?.get("prometheus")?.get("bind")?;
        Some(Prometheus { bind: self.bind(&at)? })
    }

    pub(crate) fn deny(&self, root: &Node<'_>) -> Deny {
        let contact = root.get("deny").and_then(|deny| deny.text("contact"));
        if let Some((text, at)) = &contact
            && text.len() > CONTACT_BYTES_MAX
        {
            self.error(
                at,
                format!("the text has {} bytes, at most {CONTACT_BYTES_MAX} fit", text.len()),
                None,
            );
        }
        Deny { contact: contact.map(|(text, _)| text.into()) }
    }

    pub(crate) fn telemetry(&self, root: &Node<'_>, cluster_id: Arc<str>) -> Option<Telemetry> {
        let node = root.get("telemetry")?;
        Some(Telemetry {
            reporter: node.word("reporter")?,
            cluster_id,
            host_labels: node.word("host_labels")?,
        })
    }

    pub(crate) fn dataplane(&self, root: &Node<'_>) -> Option<Dataplane> {
        let node = root.get("dataplane")?;
        let cores = node.get("cores").map(|list| {
            let items = node.items("cores");
            let cores: Vec<usize> = items.iter().filter_map(Node::as_number).collect();
            if list.value.as_array().is_some_and(<[_]>::is_empty) {
                let remedy = "name a core, or leave the key out to use all but one".to_owned();
                self.error(&list, "the list of cores is empty: nothing would forward", remedy);
            }
            for (index, core) in cores.iter().enumerate() {
                if cores[..index].contains(core) {
                    self.error(
                        &items[index],
                        format!("core {core} is named twice"),
                        "one worker per core".to_owned(),
                    );
                }
            }
            cores
        });
        Some(Dataplane {
            engine: node.word("engine")?,
            cores,
            busy_poll: node.get("busy_poll")?.value.to_bool()?,
        })
    }

    pub(crate) fn limits(&self, root: &Node<'_>) -> Option<Limits> {
        let node = root.get("limits")?;
        Some(Limits {
            request_head_timeout_ms: node.number("request_head_timeout_ms")?,
            request_head_bytes_max: node.number("request_head_bytes_max")?,
            sniff_timeout_ms: node.number("sniff_timeout_ms")?,
            sniff_bytes_max: node.number("sniff_bytes_max")?,
            connect_timeout_ms: node.number("connect_timeout_ms")?,
            response_head_timeout_ms: node.number("response_head_timeout_ms")?,
            http_stream_idle_timeout_ms: node.number("http_stream_idle_timeout_ms")?,
            downstream_keepalive_timeout_ms: node.number("downstream_keepalive_timeout_ms")?,
            upstream_keepalive_timeout_ms: node.number("upstream_keepalive_timeout_ms")?,
            tunnel_idle_timeout_ms: node.number("tunnel_idle_timeout_ms")?,
            half_closed_timeout_ms: node.number("half_closed_timeout_ms")?,
            drain_timeout_ms: node.number("drain_timeout_ms")?,
            connections_percent_max: node.number("connections_percent_max")?,
            control_descriptors: node.number("control_descriptors")?,
        })
    }
}

/// Why no log file can be made at this path, and what to do. What only the user that the gateway runs as can tell, a
/// permission, is left to the start.
fn unusable(path: &Path) -> Option<(String, String)> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let shown = |path: &Path| shorten(&path.to_string_lossy());
    let folder = path.parent()?;
    let (found, remedy) = match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => ("is no folder", "name a file in a folder that exists"),
        Err(error) if error.kind() == NotADirectory => {
            ("is no folder", "name a file in a folder that exists")
        }
        Err(error) if error.kind() == NotFound => {
            ("does not exist", "make it, owned by the user that sluice runs as, or name another")
        }
        _ if path.is_dir() => {
            let remedy = format!("name a file in it, for example {}", shown(&path.join("access.log")));
            return Some((format!("{} is a folder", shown(path)), remedy));
        }
        _ => return None,
    };
    Some((format!("the folder {} {found}", shown(folder)), remedy.to_owned()))
}
