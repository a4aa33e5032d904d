//! Captured traffic: applications that know of no proxy, a router that redirects them (nftables `redirect`, `tproxy`), and
//! an uplink on which the kernel counts what leaves.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use sluice_tests::harness::gateway::{Start, binary, engine, get, run_command, sum};
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::origin::Peer;
use sluice_tests::harness::process::Process;
use sluice_tests::harness::tools::{self, Done, tool};
use sluice_tests::harness::wait::until;
use sluice_tests::harness::{Dns, Ending, Gateway, Http, Origin};

/// Two applications behind a router, each captured in its own way, and the world behind the router's uplink.
struct Network {
    redirected: Netns,
    tproxied: Netns,
    router: Netns,
    outside: Netns,
}

/// The addresses of the outside: 10 is what names lead to, 20 what nobody may reach, 30 a database.
const ADDRESSES: [&str; 6] = [
    "198.51.100.10/32",
    "198.51.100.20/32",
    "198.51.100.30/32",
    "2001:db8:2::10/128",
    "2001:db8:2::20/128",
    "2001:db8:2::30/128",
];

const RULES: &str = r#"
table inet capture {
  chain redirected {
    type nat hook prerouting priority dstnat;
    iifname "red" meta l4proto tcp redirect to :15001
  }
  chain tproxied {
    type filter hook prerouting priority mangle;
    iifname "tp" meta nfproto ipv4 meta l4proto tcp tproxy ip to :15002 meta mark set 1 accept
    iifname "tp" meta nfproto ipv6 meta l4proto tcp tproxy ip6 to :15002 meta mark set 1 accept
    iifname "uplink" meta l4proto tcp socket transparent 1 meta mark set 1 accept
  }
  counter strayed { }
  chain watch {
    type filter hook postrouting priority 0;
    oifname "uplink" ip daddr { 198.51.100.20, 203.0.113.0/24 } counter name strayed
    oifname "uplink" ip6 daddr { 2001:db8:2::20, 2001:db8:9::/64 } counter name strayed
  }
}
"#;

impl Network {
    fn new() -> Self {
        let network = Self {
            redirected: Netns::new(),
            tproxied: Netns::new(),
            router: Netns::new(),
            outside: Netns::new(),
        };
        let Self { redirected, tproxied, router, outside } = &network;
        let clients = [(redirected, "red", 71), (tproxied, "tp", 72)];
        for (client, interface, net) in clients {
            let (v4, v6) = (format!("10.{net}.0"), format!("fd{net}:"));
            let own = [format!("{v4}.1/24"), format!("{v6}:1/64")];
            let theirs = [format!("{v4}.2/24"), format!("{v6}:2/64")];
            let (own, theirs) = (own.each_ref().map(String::as_str), theirs.each_ref().map(String::as_str));
            router.cable((interface, &own), client, ("out", &theirs));
            client.default_route(ip(&format!("{v4}.1")));
            client.default_route(ip(&format!("{v6}:1")));
        }
        router.cable(
            ("uplink", &["192.0.2.1/24", "2001:db8:1::1/64"]),
            outside,
            ("in", &["192.0.2.2/24", "2001:db8:1::2/64"]),
        );
        for (netns, other) in [(router, 2), (outside, 1)] {
            netns.default_route(ip(&format!("192.0.2.{other}")));
            netns.default_route(ip(&format!("2001:db8:1::{other}")));
        }
        for address in ADDRESSES {
            outside.add_address(address, "lo");
        }
        router.run("nft", &[RULES]);
        for family in ["-4", "-6"] {
            router.run("ip", &[family, "rule", "add", "fwmark", "1", "lookup", "100"]);
            router.run("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", "100"]);
        }
        network
    }

    fn clients(&self) -> [&Netns; 2] {
        [&self.redirected, &self.tproxied]
    }

    /// Packets that left for an address that no name leads to.
    fn strayed(&self) -> u64 {
        let listed = self.router.run("nft", &["list", "counter", "inet", "capture", "strayed"]);
        let after = listed.split("packets ").nth(1).expect("a counter");
        after.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    }

    fn origin(&self, address: &str, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
        let address: SocketAddr = address.parse().expect("an address");
        self.outside.enter(|| Origin::at(address, serve))
    }

    fn dns(&self) -> Dns {
        let dns = self.router.enter(Dns::start);
        dns.set("allowed.test", ip("198.51.100.10"), 60);
        dns.set("six.test", ip("2001:db8:2::10"), 60);
        dns.set("denied.test", ip("198.51.100.20"), 60);
        dns
    }

    fn gateway(&self, config: &str) -> Gateway {
        Start::through(self.router.command(binary()), config).ready()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Answers each request with `body` and the address that it came from.
fn named(body: &'static str) -> impl Fn(&mut Peer) + Send + Sync + 'static {
    move |peer| {
        let from = peer.stream.peer_addr().expect("a connected socket").ip();
        while let Some(_request) = peer.request() {
            let text = format!("{body} {from}\n");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            if !peer.send(format!("{head}{text}")) {
                return;
            }
        }
    }
}

fn doors(mode: &str, tproxy: &str) -> String {
    format!(
        r#"
mode = "{mode}"
[[listener]]
kind = "transparent"
name = "redirect"
bind = "[::]:15001"
capture = "redirect"
[[listener]]
kind = "transparent"
name = "tproxy"
bind = "[::]:15002"
capture = "tproxy"
{tproxy}
[[service]]
name = "web"
hosts = ["allowed.test", "six.test"]
[[service]]
name = "db"
addresses = ["198.51.100.30", "2001:db8:2::30"]
ports = [{{ number = 3306, protocol = "MYSQL" }}]
resolution = "NONE"
[limits]
sniff_timeout_ms = 1500
[dataplane]
engine = "{}"
"#,
        engine()
    )
}

/// curl in a namespace, which resolved `name` to `address` by itself.
fn curl(netns: &Netns, url: &str, name: &str, address: &str, more: &[&str]) -> Done {
    let mut command = netns.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--globoff",
        "--max-time",
        "30",
        "--write-out",
        "%{http_code}",
    ]);
    for port in [80, 443] {
        command.arg("--resolve").arg(format!("{name}:{port}:{address}"));
    }
    tool(command.args(more).arg(url), b"")
}

#[test]
fn applications_that_know_of_no_proxy_are_decided_by_name() {
    let network = Network::new();
    let dns = network.dns();
    let _four = network.origin("198.51.100.10:80", named("four"));
    let _six = network.origin("[2001:db8:2::10]:80", named("six"));
    let forbidden = ["198.51.100.20:80", "198.51.100.20:443"].map(|at| network.origin(at, |_| {}));
    let folder = tempfile::tempdir().expect("a folder");
    tools::certificate(folder.path(), "allowed.test");
    let mut server = network.outside.command("openssl");
    server.args(["s_server", "-accept", "198.51.100.10:443", "-www", "-cert", "cert.pem", "-key", "key.pem"]);
    let mut tls = Process::spawn(server.current_dir(folder.path()));
    until("openssl listens", || {
        assert!(tls.ended().is_none(), "{}", tls.stderr.all().join("\n"));
        network.outside.enter(|| std::net::TcpStream::connect("198.51.100.10:443").is_ok()).then_some(())
    });
    let gateway = network.gateway(&(doors("registry_only", "") + &dns.toml("")));
    let ca = folder.path().join("cert.pem").display().to_string();
    for netns in network.clients() {
        for wrong in ["203.0.113.7", "[2001:db8:9::7]"] {
            let done = curl(netns, "http://allowed.test/", "allowed.test", wrong, &[]);
            assert_eq!(done.stdout, "four 192.0.2.1\n200", "{}", done.stderr);
            let done = curl(netns, "http://six.test/", "six.test", wrong, &[]);
            assert_eq!(done.stdout, "six 2001:db8:1::1\n200", "{}", done.stderr);
            let done = curl(netns, "https://allowed.test/", "allowed.test", wrong, &["--cacert", &ca]);
            assert!(done.stdout.ends_with("200"), "{} {}", done.stdout, done.stderr);
            let done = curl(netns, "http://denied.test/", "denied.test", wrong, &["--include"]);
            assert!(
                done.stdout.contains("x-sluice-reason: not_registered"),
                "{} {}",
                done.stdout,
                done.stderr
            );
            assert!(done.stdout.ends_with("502"), "{}", done.stdout);
            let done = curl(netns, "https://denied.test/", "denied.test", wrong, &["--insecure"]);
            assert_eq!(
                (done.code, &*done.stdout),
                (35, "000"),
                "reset within the handshake: {}",
                done.stderr
            );
        }
        // One connection, each request decided by itself.
        netns.enter(|| {
            let mut client = Http::connect("198.51.100.20:80".parse().expect("an address"));
            for (host, status) in [("allowed.test", 200), ("denied.test", 502), ("six.test", 200)] {
                client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
                assert_eq!(client.response().status, status, "{host}");
            }
        });
    }
    assert_eq!(network.strayed(), 0, "packets went where the clients' went");
    network.outside.enter(|| forbidden.iter().for_each(Origin::untouched));
    let entry = gateway.wait_entry(|entry| entry["downstream_local_address"] == "203.0.113.7:443");
    let remote = entry["downstream_remote_address"].as_str().unwrap_or_default();
    assert!(remote.starts_with("10.71.0.2:") || remote.starts_with("10.72.0.2:"), "{entry}");
    let _six = gateway.wait_entry(|entry| entry["downstream_local_address"] == "[2001:db8:9::7]:80");
    // The counter does count.
    network.router.enter(|| drop(std::net::TcpStream::connect("198.51.100.20:80")));
    assert!(network.strayed() > 0);
}

#[test]
fn without_a_name_the_address_decides_and_a_door_is_no_destination() {
    let network = Network::new();
    let dns = network.dns();
    let greet = |peer: &mut Peer| {
        peer.send("greeting");
        peer.echo();
    };
    let _databases = ["198.51.100.30:3306", "[2001:db8:2::30]:3306"].map(|at| network.origin(at, greet));
    let forbidden = ["198.51.100.20:443", "198.51.100.20:22"].map(|at| network.origin(at, |_| {}));
    let config = |mode: &str| doors(mode, "") + &dns.toml("");
    let gateway = network.gateway(&config("registry_only"));
    for netns in network.clients() {
        netns.enter(|| {
            for database in ["198.51.100.30:3306", "[2001:db8:2::30]:3306"] {
                let before = Instant::now();
                let mut client = Http::connect(database.parse().expect("an address"));
                assert_eq!(client.exactly(8), b"greeting");
                assert!(
                    before.elapsed() < Duration::from_millis(1400),
                    "nobody waits for the client to speak"
                );
                client.send("query");
                assert_eq!(client.exactly(5), b"query");
            }
            for (to, bytes) in [
                ("198.51.100.20:443", &b""[..]),
                ("198.51.100.20:22", b"SSH-2.0-test\r\n"),
                ("198.51.100.20:3306", b""),
                ("[2001:db8:2::20]:443", b""),
            ] {
                let mut client = Http::connect(to.parse().expect("an address"));
                client.send(bytes);
                assert!(is_cut(&mut client), "{to}");
            }
        });
        let mut nameless = netns.command("timeout");
        let arguments = ["20", "openssl", "s_client", "-connect", "198.51.100.20:443", "-noservername"];
        assert_ne!(tool(nameless.args(arguments), b"").code, 0);
    }
    assert_eq!(network.strayed(), 0, "a silent or nameless client never passes by default");
    network.outside.enter(|| forbidden.iter().for_each(Origin::untouched));
    let admin = gateway.admin();
    let own_listener = || {
        let metrics = network.router.enter(|| get(admin, "/metrics").text());
        sum(&metrics, "egress_guard_refusals_total", &["class=\"own_listener\""])
    };
    assert_eq!(own_listener(), 0.0);
    for mode in ["registry_only", "allow_any"] {
        network.router.enter(|| gateway.reload(&config(mode)));
        let before = own_listener();
        network.redirected.enter(|| refused("10.71.0.1:15001"));
        network.redirected.enter(|| refused("[fd71::1]:15001"));
        network.redirected.enter(|| refused("10.71.0.1:15002"));
        network.tproxied.enter(|| refused("10.72.0.1:15002"));
        network.tproxied.enter(|| refused("[fd72::1]:15001"));
        network.router.enter(|| ["127.0.0.1:15001", "[::1]:15001", "127.0.0.1:15002"].map(refused));
        assert_eq!(own_listener() - before, 8.0, "{mode}");
    }
    let _warning = gateway.wait_log("not captured");
    let swapped = config("allow_any").replace("capture = \"redirect\"", "capture = \"tproxy\"");
    network.router.enter(|| gateway.reload_refused(&swapped));
    let _reason = gateway.wait_log("needs a restart, or another address");
}

fn refused(door: &str) {
    let mut client = Http::connect(door.parse().expect("an address"));
    assert!(is_cut(&mut client), "{door}");
}

/// Whether nothing comes but a reset.
fn is_cut(client: &mut Http) -> bool {
    let ended = client.stream.read(&mut [0; 16]);
    ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn tproxy_may_keep_the_clients_address_upstream() {
    let network = Network::new();
    let dns = network.dns();
    let _four = network.origin("198.51.100.10:80", named("four"));
    let _six = network.origin("[2001:db8:2::10]:80", named("six"));
    let config = doors("registry_only", "upstream_source = \"client\"") + &dns.toml("");
    let _gateway = network.gateway(&config);
    for (netns, name, address, wanted) in [
        (&network.tproxied, "allowed.test", "203.0.113.7", "four 10.72.0.2\n200"),
        (&network.tproxied, "six.test", "[2001:db8:9::7]", "six fd72::2\n200"),
        (&network.redirected, "allowed.test", "203.0.113.7", "four 192.0.2.1\n200"),
    ] {
        let done = curl(netns, &format!("http://{name}/"), name, address, &[]);
        assert_eq!(done.stdout, wanted, "{}", done.stderr);
    }
    // An IPv4 client has no address to reach an IPv6 origin from.
    let done = curl(&network.tproxied, "http://six.test/", "six.test", "203.0.113.7", &[]);
    assert!(
        done.stdout.contains("source address 10.72.0.2") && done.stdout.ends_with("503"),
        "{}",
        done.stdout
    );
}

#[test]
fn without_the_capability_a_tproxy_door_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sluice.toml");
    let config = "mode = \"allow_any\"\n[[listener]]\nkind = \"transparent\"\nbind = \"127.0.0.1:0\"\ncapture = \"tproxy\"\n\
                  [admin]\nbind = \"127.0.0.1:0\"\n";
    std::fs::write(&path, config).expect("written");
    let unprivileged = |command: &str| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"]);
        setpriv.arg(binary()).arg(command).arg("--config").arg(&path);
        run_command(&mut setpriv)
    };
    let run = unprivileged("run");
    assert_eq!(run.status.code(), Some(69));
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(error.contains("CAP_NET_ADMIN") && error.contains("transparent"), "{error}");
    let doctor = unprivileged("doctor");
    let report = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!(doctor.status.code(), Some(69), "{report}");
    let line = report.lines().find(|line| line.contains("capabilities")).expect("a line");
    assert!(line.starts_with("fail") && line.contains("tproxy"), "{line}");
    assert_eq!(unprivileged("check").status.code(), Some(0), "the file itself is right");
}

#[test]
fn rules_that_capture_the_gateway_itself_make_no_loop() {
    let network = Network::new();
    let dns = network.dns();
    let gateway = network.gateway(&(doors("allow_any", "") + &dns.toml("")));
    let rules = r#"
table inet mistake {
  chain out {
    type nat hook output priority -100;
    ip daddr 198.51.100.0/24 meta l4proto tcp redirect to :15001
  }
}
"#;
    network.router.run("nft", &[rules]);
    for netns in network.clients() {
        let done = curl(netns, "http://allowed.test/", "allowed.test", "203.0.113.7", &["--include"]);
        assert!(done.stdout.contains("\nreason: guard"), "{} {}", done.stdout, done.stderr);
        assert!(done.stdout.ends_with("502"), "{}", done.stdout);
        let done = curl(netns, "https://allowed.test/", "allowed.test", "203.0.113.7", &["--insecure"]);
        assert_eq!((done.code, &*done.stdout), (35, "000"), "{}", done.stderr);
        // Nothing is waited for at this port: the first word that could stop it would never come.
        netns.enter(|| {
            Http::connect("198.51.100.30:3306".parse().expect("an address")).expect_end(Ending::Reset);
        });
    }
    let turns = sum(&network.router.enter(|| gateway.metrics()), "egress_upstream_connects_total", &[]);
    assert!(turns < 60.0, "{turns} connections for six clients");
    assert!(gateway.stderr().contains("a loop was refused"), "{}", gateway.stderr());
    assert_eq!(network.strayed(), 0);
}
