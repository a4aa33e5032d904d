//! Networks of captured applications: behind a router (`deploy/nftables/tproxy.sh`) or on their own host (`redirect.sh`),
//! and an outside that counts whatever arrives from there.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::dns::{Dns, Reply};
use super::gateway::binary;
use super::netns::Netns;
use super::origin::Origin;
use super::process::Process;
use super::tools::{self, Done, tool};
use super::wait::until;

/// The registered origin, on the outside.
pub const REGISTERED: [&str; 2] = ["198.51.100.10", "2001:db8:2::10"];
/// An origin that nobody may reach, on the outside.
pub const FORBIDDEN: [&str; 2] = ["198.51.100.20", "2001:db8:2::20"];
/// The gateway's end of the uplink.
pub const UPLINK: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
/// The outside's end of the uplink.
pub const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];

/// What arrives on the uplink, before anything reassembles or tracks it: connections that the gateway begins, and strays. A
/// TCP packet that belongs to no connection whose beginning was counted is a stray too.
const WATCH: &str = r#"
table inet watch {
  counter begun { }
  counter names { }
  counter strays { }
  chain arriving {
    type filter hook prerouting priority -500;
    iifname != "in" accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report } ip6 daddr { fe80::/10, ff02::/16, 2001:db8:1::/64 } accept
    ip frag-off & 0x3fff != 0 counter name strays accept
    ip saddr 192.0.2.1 tcp flags & (syn | ack) == syn counter name begun accept
    ip6 saddr 2001:db8:1::1 tcp flags & (syn | ack) == syn counter name begun accept
    ip saddr 192.0.2.1 meta l4proto tcp accept
    ip6 saddr 2001:db8:1::1 meta l4proto tcp accept
    ip saddr 192.0.2.1 ip daddr 192.0.2.2 udp dport 53 counter name names accept
    counter name strays
  }
  chain tracked {
    type filter hook prerouting priority -150;
    iifname "in" meta l4proto tcp tcp flags & (syn | ack) != syn ct state { new, invalid } counter name strays
  }
}
"#;

/// The path of a script of `deploy/nftables`.
#[must_use]
pub fn script_path(name: &str) -> String {
    format!("{}/../deploy/nftables/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script of `deploy/nftables` in a namespace.
#[must_use]
pub fn script(netns: &Netns, name: &str, arguments: &[&str]) -> Done {
    tool(netns.command(script_path(name)).args(arguments), b"")
}

/// An address.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An address and a port.
///
/// # Panics
/// When the address is none.
#[must_use]
pub fn at(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

/// What is behind the uplink: origins over HTTP and TLS, on both families, and a counter.
pub struct Outside {
    /// Where it is.
    pub netns: Netns,
    /// The registered origin on port 80, for each family.
    pub web: Vec<Origin>,
    forbidden: Vec<Origin>,
    _tls: Vec<Process>,
    /// The certificate of the registered origin, `cert.pem`.
    pub folder: tempfile::TempDir,
}

impl Outside {
    /// At the end of a cable from the interface `uplink` of `gateway`.
    ///
    /// # Panics
    /// Without root, or when a server does not start.
    #[must_use]
    pub fn behind(gateway: &Netns) -> Self {
        let netns = Netns::new();
        gateway.cable(
            ("uplink", &["192.0.2.1/24", "2001:db8:1::1/64"]),
            &netns,
            ("in", &["192.0.2.2/24", "2001:db8:1::2/64"]),
        );
        for family in 0..2 {
            gateway.default_route(ip(OUTSIDE[family]));
            // Whatever leaks would come back.
            netns.default_route(ip(UPLINK[family]));
        }
        for address in [REGISTERED, FORBIDDEN].concat() {
            netns.add_address(&format!("{address}/{}", if address.contains(':') { 128 } else { 32 }), "lo");
        }
        let folder = tempfile::tempdir().expect("a folder");
        tools::certificate(folder.path(), "example.test");
        let servers = REGISTERED.map(|address| {
            let mut server = netns.command("openssl");
            server.args(["s_server", "-www", "-cert", "cert.pem", "-key", "key.pem", "-accept"]);
            server.arg(at(address, 443).to_string()).current_dir(folder.path());
            let mut process = Process::spawn(&mut server);
            until("openssl listens", || {
                assert!(process.ended().is_none(), "{}", process.stderr.all().join("\n"));
                netns.enter(|| TcpStream::connect(at(address, 443)).is_ok()).then_some(())
            });
            process
        });
        let (web, forbidden) = netns.enter(|| {
            let web = REGISTERED.map(|address| {
                Origin::at(at(address, 80), |peer| {
                    while peer.request().is_some() {
                        if !peer.send("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nfrom outside\n") {
                            return;
                        }
                    }
                })
            });
            let ports = [80, 443, 22, 53, 8443];
            let silent = ports.iter().flat_map(|port| FORBIDDEN.map(|address| at(address, *port)));
            (web.into(), silent.map(|address| Origin::at(address, |_| {})).collect())
        });
        netns.run("nft", &[WATCH]);
        Self { netns, web, forbidden, _tls: servers.into(), folder }
    }

    /// Packets that came and that no gateway sends.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.netns.counter("watch", "strays")
    }

    /// Connections that began from the gateway's addresses.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.netns.counter("watch", "begun")
    }

    /// Connections that the forbidden origins accepted.
    #[must_use]
    pub fn forbidden_accepted(&self) -> u64 {
        self.forbidden.iter().map(Origin::accepted).sum()
    }

    /// A DNS server, in the namespace that the calling thread is in.
    fn names(&self, address: SocketAddr) -> Dns {
        let dns = Dns::at(address);
        for (name, [four, six]) in [("example.test", REGISTERED), ("denied.test", FORBIDDEN)] {
            dns.reply(name, Reply::Addresses(vec![ip(four), ip(six)], 60));
        }
        dns
    }
}

/// An application, a router with the gateway on it, and the outside.
pub struct Routed {
    /// Where the application is.
    pub application: Netns,
    /// Where the gateway is.
    pub router: Netns,
    /// What is behind the uplink.
    pub outside: Outside,
    /// The router's own.
    pub dns: Dns,
}

impl Default for Routed {
    fn default() -> Self {
        Self::new()
    }
}

impl Routed {
    /// Without rules, and forwarding.
    ///
    /// # Panics
    /// Without root, or when a server does not start.
    #[must_use]
    pub fn new() -> Self {
        let (application, router) = (Netns::new(), Netns::new());
        router.cable(
            ("clients", &["10.71.0.1/24", "fd71::1/64"]),
            &application,
            ("eth0", &["10.71.0.2/24", "fd71::2/64"]),
        );
        application.default_route(ip("10.71.0.1"));
        application.default_route(ip("fd71::1"));
        application.resolver(ip("10.71.0.1"));
        let outside = Outside::behind(&router);
        let dns = router.enter(|| outside.names(at("10.71.0.1", 53)));
        let network = Self { application, router, outside, dns };
        network.forwarding(true);
        // Errors are limited to one per second and client otherwise, after the first six.
        for key in ["net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"] {
            network.router.run("sysctl", &["-q", "-w", &format!("{key}=0")]);
        }
        network
    }

    /// Whether the router would forward, were it not for the rules.
    pub fn forwarding(&self, on: bool) {
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            self.router.run("sysctl", &["-q", "-w", &format!("{key}={}", u8::from(on))]);
        }
    }

    /// Captures.
    ///
    /// # Panics
    /// When the script fails.
    pub fn up(&self) {
        let done = script(&self.router, "tproxy.sh", &["up", "--clients", "clients", "--input", "udp/53"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
}

/// One host with applications and, as a user of its own, the gateway; its resolver is on the outside.
pub struct Host {
    /// Where both are.
    pub host: Netns,
    /// What is behind the uplink.
    pub outside: Outside,
    /// On the outside.
    pub dns: Dns,
    folder: tempfile::TempDir,
}

/// Whom the gateway runs as there. Applications are root, which is captured like everybody.
pub const OWN_USER: &str = "61337";

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Without rules.
    ///
    /// # Panics
    /// Without root, or when a server does not start.
    #[must_use]
    pub fn new() -> Self {
        let host = Netns::new();
        let outside = Outside::behind(&host);
        host.resolver(ip(OUTSIDE[0]));
        let dns = outside.netns.enter(|| outside.names(at(OUTSIDE[0], 53)));
        // Another user need not be able to read where it was built.
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(binary(), folder.path().join("sluice")).expect("copied");
        open(folder.path());
        Self { host, outside, dns, folder }
    }

    /// Captures.
    ///
    /// # Panics
    /// When the script fails.
    pub fn up(&self) {
        let done = script(&self.host, "redirect.sh", &["up", "--own-users", OWN_USER]);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }

    /// The program as [`OWN_USER`], without any capability.
    #[must_use]
    pub fn program(&self) -> Command {
        let mut command = self.host.command("setpriv");
        command.args(["--reuid", OWN_USER, "--regid", OWN_USER, "--clear-groups", "--bounding-set=-all"]);
        command.arg(self.folder.path().join("sluice"));
        command
    }
}

/// Lets every user read a folder.
///
/// # Panics
/// When it is not ours.
pub fn open(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// Tries every way around the gateway (`probes.py`) from `application`; gives what became of each: a word and milliseconds.
///
/// # Panics
/// When the probes cannot be made.
#[must_use]
pub fn probe(application: &Netns, interface: &str, frames: bool) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/harness/probes.py");
    let mut python = application.command("/usr/bin/python3");
    python.arg(path).args(FORBIDDEN).arg(interface);
    if frames {
        python.env("FRAMES", "yes");
    }
    let done = tool(&mut python, b"");
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).expect("JSON")
}

/// While the gateway is not there, applications are refused at once and nothing leaves.
///
/// # Panics
/// When something leaves, or somebody waits.
pub fn shut(application: &Netns, outside: &Outside, interface: &str) {
    let (begun, strays) = (outside.begun(), outside.strays());
    for address in [REGISTERED, FORBIDDEN].concat() {
        let before = Instant::now();
        let refused =
            application.enter(|| TcpStream::connect_timeout(&at(address, 80), Duration::from_secs(10)));
        assert!(
            refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused),
            "{address}"
        );
        assert!(before.elapsed() < Duration::from_secs(5));
    }
    let results = probe(application, interface, false);
    assert!(results.as_object().expect("an object").values().all(|result| result[0] != "data"), "{results}");
    assert_eq!((outside.begun(), outside.strays()), (begun, strays), "{results}");
}
