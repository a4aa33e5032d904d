//! Pieces of configuration, as the TOML that a user would write.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// `mode = "registry_only"` and one `http_proxy` door on a free port.
#[must_use]
pub fn registry_only() -> String {
    format!("mode = \"registry_only\"\n{}", door("http_proxy", ""))
}

/// `mode = "allow_any"` and one `http_proxy` door on a free port.
#[must_use]
pub fn allow_any() -> String {
    format!("mode = \"allow_any\"\n{}", door("http_proxy", ""))
}

/// A door of `kind` on a free port, named after its kind, with `more` lines. A door is known by the address in its
/// configuration, so each kind has a loopback address of its own.
#[must_use]
pub fn door(kind: &str, more: &str) -> String {
    let bind = match kind {
        "tls" => "127.0.0.2:0",
        "tcp" => "127.0.0.3:0",
        "socks5" => "127.0.0.6:0",
        _ => "127.0.0.1:0",
    };
    format!("[[listener]]\nkind = \"{kind}\"\nname = \"{kind}\"\nbind = \"{bind}\"\n{more}\n")
}

/// A `[[service]]` whose ports lead to addresses of the test.
pub struct Service {
    name: String,
    hosts: Vec<String>,
    ports: String,
    address: Option<SocketAddr>,
    more: String,
}

impl Service {
    /// A service in namespace default with one host.
    #[must_use]
    pub fn new(name: &str, host: &str) -> Self {
        let (hosts, ports) = (vec![host.to_owned()], String::new());
        Self { name: name.to_owned(), hosts, ports, address: None, more: String::new() }
    }

    /// One more host.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.hosts.push(host.to_owned());
        self
    }

    /// Port `number` spoken as `protocol`, leading to `to` (`STATIC`).
    #[must_use]
    pub fn port(mut self, number: u16, protocol: &str, to: SocketAddr) -> Self {
        self.address = Some(to);
        self.resolved_port(number, protocol, to.port())
    }

    /// Port `number` spoken as `protocol`; the name is resolved and dialled at `target`.
    #[must_use]
    pub fn resolved_port(mut self, number: u16, protocol: &str, target: u16) -> Self {
        // Writing to a String does not fail.
        let _ = write!(
            self.ports,
            "{{ number = {number}, protocol = \"{protocol}\", target_port = {target} }}, "
        );
        self
    }

    /// More lines.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.more.push_str(line);
        self.more.push('\n');
        self
    }

    /// The TOML.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut out = format!(
            "[[service]]\nname = \"{}\"\nhosts = {:?}\nports = [{}]\n",
            self.name, self.hosts, self.ports
        );
        if let Some(address) = self.address {
            let ip = address.ip();
            // Writing to a String does not fail.
            let _ = write!(out, "resolution = \"STATIC\"\nendpoints = [{{ address = \"{ip}\" }}]\n");
        }
        out + &self.more
    }
}
