//! No way around: applications behind `deploy/nftables/tproxy.sh` (a router) or `redirect.sh` (their own host) try to leave
//! without the gateway, and the outside counts what arrives. What arrives must be what the gateway says that it sent.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluice_tests::harness::captured::{
    FORBIDDEN, Host, OWN_USER, Outside, Routed, UPLINK, at, open, probe, script, script_path, shut,
};
use sluice_tests::harness::cgroup::Cgroup;
use sluice_tests::harness::gateway::{Start, binary, engine, get, sum};
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::tools::tool;
use sluice_tests::harness::wait::until;
use sluice_tests::harness::{Dns, Gateway, Http, Origin};

/// Nothing came but what the gateway counts as connections of its own, and the forbidden origins saw nobody.
fn saw_only(outside: &Outside, gateway: &Gateway, inside: &Netns) {
    assert_eq!(outside.strays(), 0, "packets that the gateway did not send reached the uplink");
    assert_eq!(outside.begun() as f64, metric(gateway, inside, "egress_upstream_connects_total", &[]));
    assert_eq!(outside.forbidden_accepted(), 0, "a forbidden origin was reached");
}

fn on_router(network: &Routed) -> Gateway {
    Start::through(network.router.command(binary()), &config("tproxy", &network.dns)).ready()
}

fn on_host(network: &Host) -> Gateway {
    let start = Start::through(network.program(), &config("redirect", &network.dns));
    open(start.folder());
    start.ready()
}

fn metric(gateway: &Gateway, inside: &Netns, name: &str, parts: &[&str]) -> f64 {
    let admin = gateway.admin();
    sum(&inside.enter(|| get(admin, "/metrics").text()), name, parts)
}

fn config(capture: &str, dns: &Dns) -> String {
    format!(
        r#"
mode = "registry_only"
[[listener]]
kind = "transparent"
name = "captured"
bind = "[::]:15001"
capture = "{capture}"
[[service]]
name = "web"
hosts = ["example.test"]
[limits]
sniff_timeout_ms = 1000
[dataplane]
engine = "{}"
{}"#,
        engine(),
        dns.toml("")
    )
}

/// Ordinary clients, none of which knows of a proxy, with the family that each must use.
fn clients(url: &str) -> Vec<(String, Vec<String>)> {
    let python = "import socket, sys, urllib.request, urllib.error\n\
        look_up = socket.getaddrinfo\n\
        family = socket.AF_INET if sys.argv[1] == '4' else socket.AF_INET6\n\
        socket.getaddrinfo = lambda host, port, *rest, **more: look_up(host, port, family, socket.SOCK_STREAM)\n\
        try: print(urllib.request.urlopen(sys.argv[2], timeout=20).read().decode())\n\
        except urllib.error.HTTPError as error: print(error.code, error.read().decode())\n";
    let node = "require('http').get(process.argv[2], { family: +process.argv[1] }, answer => {\n\
        answer.on('data', part => process.stdout.write(`${answer.statusCode} ${part}`)); })";
    let mut all = Vec::new();
    for family in ["4", "6"] {
        let flag = format!("-{family}");
        for words in [
            &[
                "curl",
                &flag,
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--write-out",
                "%{http_code}",
                url,
            ][..],
            &[
                "wget",
                &flag,
                "--quiet",
                "--content-on-error",
                "--tries=1",
                "--timeout=20",
                "--output-document=-",
                url,
            ],
            &["/usr/bin/python3", "-c", python, family, url],
            &["node", "-e", node, family, url],
        ] {
            let mut words = words.iter().map(|word| (*word).to_owned());
            all.push((words.next().unwrap_or_default(), words.collect()));
        }
    }
    all
}

/// Applications in `application` are captured and decided by name; returns how many requests passed.
fn applications_are_decided(application: &Netns, gateway: &Gateway, outside: &Outside, inside: &Netns) {
    let passed = clients("http://example.test/");
    for (program, arguments) in &passed {
        let done = tool(application.command(program).args(arguments), b"");
        assert!(
            done.stdout.contains("from outside"),
            "{program} {arguments:?}: {} {}",
            done.stdout,
            done.stderr
        );
    }
    for (program, arguments) in clients("http://denied.test/") {
        let done = tool(application.command(&program).args(&arguments), b"");
        assert!(
            done.stdout.contains("not_registered"),
            "{program} {arguments:?}: {} {}",
            done.stdout,
            done.stderr
        );
    }
    let ca = outside.folder.path().join("cert.pem").display().to_string();
    for family in ["-4", "-6"] {
        let mut curl = application.command("curl");
        curl.args([
            family,
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            "--cacert",
            &ca,
            "https://example.test/",
        ]);
        let done = tool(&mut curl, b"");
        assert_eq!(done.code, 0, "{}", done.stderr);
        let mut curl = application.command("curl");
        let done = tool(
            curl.args([family, "--silent", "--insecure", "--max-time", "20", "https://denied.test/"]),
            b"",
        );
        assert_eq!(done.code, 35, "reset within the handshake: {}", done.stderr);
    }
    let requests = |code: &str, host: &str| {
        let labels = [format!("response_code=\"{code}\""), format!("destination_service=\"{host}\"")];
        metric(gateway, inside, "istio_requests_total", &[&labels[0], &labels[1]])
    };
    let wanted = passed.len() as f64;
    until("every request is counted", || {
        (requests("200", "example.test") >= wanted && requests("502", "denied.test") >= wanted).then_some(())
    });
    assert_eq!((requests("200", "example.test"), requests("502", "denied.test")), (wanted, wanted));
    saw_only(outside, gateway, inside);
}

/// UDP is refused at once, by a word that QUIC clients take for a reason to fall back; nothing answered anything.
fn refused_at_once(results: &Value, words: &[&str]) {
    for family in ["udp4", "udp6"] {
        let tries = (0..3).map(|n| &results[format!("{family} 443 #{n}")]);
        let quickest = tries.map(|result| {
            let word = result[0].as_str().unwrap_or_default();
            assert!(words.contains(&word), "{family}: {results}");
            result[1].as_f64().unwrap_or(f64::MAX)
        });
        let quickest = quickest.fold(f64::MAX, f64::min);
        assert!(quickest < 100.0, "{family}: {quickest} ms");
    }
    let all = results.as_object().expect("an object");
    assert!(all.len() > 40, "{results}");
    assert!(all.values().all(|result| result[0] != "data"), "an origin answered: {results}");
}

#[test]
fn behind_the_router_applications_are_captured_decided_and_counted() {
    let network = Routed::new();
    network.up();
    let gateway = on_router(&network);
    applications_are_decided(&network.application, &gateway, &network.outside, &network.router);
    // Both addresses of the client's packets were kept.
    for (source, destination) in [("10.71.0.2:", "198.51.100.10:80"), ("[fd71::2]:", "[2001:db8:2::10]:80")] {
        let entry = gateway.wait_entry(|entry| entry["downstream_local_address"] == destination);
        assert!(
            entry["downstream_remote_address"].as_str().unwrap_or_default().starts_with(source),
            "{entry}"
        );
    }
    // Rules loaded anew take no connection away.
    network.application.enter(|| {
        let mut client = Http::connect(at(FORBIDDEN[0], 80));
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n");
            assert_eq!(client.response().status, 200);
            network.up();
        }
    });
    saw_only(&network.outside, &gateway, &network.router);
}

#[test]
fn behind_the_router_connections_in_the_clients_name_come_back() {
    let network = Routed::new();
    network.up();
    let config = config("tproxy", &network.dns)
        .replace("capture = \"tproxy\"", "capture = \"tproxy\"\nupstream_source = \"client\"");
    let _gateway = Start::through(network.router.command(binary()), &config).ready();
    let before = network.outside.strays();
    for family in ["-4", "-6"] {
        let mut curl = network.application.command("curl");
        let done = tool(curl.args([family, "--silent", "--max-time", "20", "http://example.test/"]), b"");
        assert_eq!(done.stdout, "from outside\n", "{family}");
    }
    // To the watch they are not the gateway's.
    assert!(network.outside.begun() == 0 && network.outside.strays() > before);
}

#[test]
fn behind_a_router_without_ipv6_the_rest_is_captured_and_ipv6_goes_nowhere() {
    let network = Routed::new();
    network.router.run("sysctl", &["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"]);
    let up = ["up", "--clients", "clients", "--input", "udp/53"];
    for _ in 0..2 {
        let done = script(&network.router, "tproxy.sh", &up);
        assert!(done.code == 0 && done.stderr.contains("IPv6 is switched off"), "{}", done.stderr);
    }
    assert_eq!(script(&network.router, "tproxy.sh", &["status"]).code, 0);
    let _gateway = on_router(&network);
    let fetch = || {
        let mut curl = network.application.command("curl");
        tool(curl.args(["-4", "--silent", "--max-time", "20", "http://example.test/"]), b"").stdout
    };
    assert_eq!(fetch(), "from outside\n");
    assert_eq!((network.outside.begun(), network.outside.strays()), (1, 0));
    // Somebody switches it on at the interfaces of the traffic: nothing delivers it to the door, and nothing else does.
    for interface in ["clients", "uplink"] {
        let key = format!("net.ipv6.conf.{interface}.disable_ipv6=0");
        network.router.run("sysctl", &["-q", "-w", &key]);
    }
    for (address, interface) in [("fd71::1/64", "clients"), ("2001:db8:1::1/64", "uplink")] {
        network.router.add_address(address, interface);
    }
    network.router.default_route(sluice_tests::harness::captured::ip("2001:db8:1::2"));
    network.forwarding(true);
    let before = network.outside.strays();
    let six = at(FORBIDDEN[1], 80);
    let limit = Duration::from_millis(500);
    assert!(network.application.enter(|| TcpStream::connect_timeout(&six, limit)).is_err());
    let results = probe(&network.application, "eth0", false);
    let all = results.as_object().expect("an object");
    assert!(all.values().all(|result| result[0] != "data"), "an origin answered: {results}");
    assert_eq!((network.outside.strays(), network.outside.forbidden_accepted()), (before, 0), "{results}");
    assert_eq!(fetch(), "from outside\n");
    // The rules are what holds it: without them it passes.
    assert_eq!(script(&network.router, "tproxy.sh", &["down"]).code, 0);
    assert!(network.application.enter(|| TcpStream::connect_timeout(&six, limit)).is_ok());
}

#[test]
fn behind_the_router_nothing_else_leaves() {
    let network = Routed::new();
    let Routed { application, router, outside, .. } = &network;
    network.up();
    let gateway = on_router(&network);
    let before = router.counter("sluice_tproxy", "captured");
    for forwarding in [true, false] {
        network.forwarding(forwarding);
        let results = probe(application, "eth0", true);
        refused_at_once(&results, &["ECONNREFUSED"]);
        saw_only(outside, &gateway, router);
    }
    assert!(router.counter("sluice_tproxy", "captured") > before);
    assert!(
        router.counter("sluice_tproxy", "dropped") > 20 && router.counter("sluice_tproxy", "spoofed") >= 4
    );
    // A connection to the door itself is refused there; the gateway's other ports are not even answered.
    let own_listener =
        || metric(&gateway, router, "egress_guard_refusals_total", &["class=\"own_listener\""]);
    let before = own_listener();
    for door in ["10.71.0.1", "fd71::1", UPLINK[0], UPLINK[1]] {
        assert!(application.enter(|| is_reset(at(door, 15001))), "{door}");
    }
    assert_eq!(own_listener() - before, 4.0);
    let silent =
        application.enter(|| TcpStream::connect_timeout(&at(UPLINK[0], 22), Duration::from_millis(300)));
    assert!(silent.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut));
    // The uplink does count: without the rules the same attempts arrive there.
    network.forwarding(true);
    assert_eq!(script(router, "tproxy.sh", &["down"]).code, 0);
    let results = probe(application, "eth0", true);
    assert!(outside.forbidden_accepted() > 0, "{results}");
    assert!(outside.strays() > 40, "{} of {results}", outside.strays());
}

/// Connects and gets a reset.
fn is_reset(to: SocketAddr) -> bool {
    let mut client = Http::connect(to);
    let ended = std::io::Read::read(&mut client.stream, &mut [0; 16]);
    ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

/// Kills the gateway, then starts it again: shut in between, open after. `start` starts one.
fn stays_shut_without(application: &Netns, outside: &Outside, interface: &str, start: impl Fn() -> Gateway) {
    let fetch = || {
        let mut curl = application.command("curl");
        tool(curl.args(["--silent", "--max-time", "20", "http://example.test/"]), b"").stdout
    };
    shut(application, outside, interface);
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        let mut gateway = start();
        assert_eq!(fetch(), "from outside\n");
        gateway.signal(signal);
        gateway.process().wait();
        shut(application, outside, interface);
    }
    let _gateway = start();
    assert_eq!(fetch(), "from outside\n");
    assert!(outside.web.iter().map(Origin::accepted).sum::<u64>() >= 3);
}

#[test]
fn behind_the_router_all_is_shut_while_the_gateway_is_gone() {
    let network = Routed::new();
    network.up();
    stays_shut_without(&network.application, &network.outside, "eth0", || on_router(&network));
    assert!(network.router.counter("sluice_tproxy", "unserved") > 0);
}

#[test]
fn on_a_host_applications_are_captured_decided_and_counted() {
    let network = Host::new();
    network.up();
    let gateway = on_host(&network);
    applications_are_decided(&network.host, &gateway, &network.outside, &network.host);
    for destination in ["198.51.100.10:80", "[2001:db8:2::10]:80"] {
        let _kept = gateway.wait_entry(|entry| entry["downstream_local_address"] == destination);
    }
    // Answers to those who connect to the host are not held up.
    let _server = network.host.enter(|| Origin::at(at(UPLINK[0], 8080), |peer| peer.echo()));
    network.outside.netns.enter(|| {
        let mut client = Http::connect(at(UPLINK[0], 8080));
        client.send("inbound");
        assert_eq!(client.exactly(7), b"inbound");
    });
}

#[test]
fn on_a_host_nothing_else_leaves() {
    let network = Host::new();
    let Host { host, outside, .. } = &network;
    network.up();
    let gateway = on_host(&network);
    let results = probe(host, "uplink", false);
    // The application's own kernel refuses: sendto() may say so itself.
    refused_at_once(&results, &["ECONNREFUSED", "EPERM"]);
    saw_only(outside, &gateway, host);
    assert_eq!(outside.netns.counter("watch", "names"), 0, "the probes ask another server");
    assert!(
        host.counter("sluice_redirect", "redirected") > 0 && host.counter("sluice_redirect", "dropped") > 10
    );
    let own_listener = || metric(&gateway, host, "egress_guard_refusals_total", &["class=\"own_listener\""]);
    let before = own_listener();
    for door in ["127.0.0.1", "::1", UPLINK[0]] {
        assert!(host.enter(|| is_reset(at(door, 15001))), "{door}");
    }
    assert_eq!(own_listener() - before, 3.0);
    assert_eq!(script(host, "redirect.sh", &["down"]).code, 0);
    let results = probe(host, "uplink", false);
    assert!(outside.forbidden_accepted() > 0, "{results}");
    assert!(outside.strays() > 30, "{} of {results}", outside.strays());
}

#[test]
fn on_a_host_all_is_shut_while_the_gateway_is_gone() {
    let network = Host::new();
    network.up();
    stays_shut_without(&network.host, &network.outside, "uplink", || on_host(&network));
}

/// Captures on a host where the gateway's traffic is not known by its user. `command` runs the script.
fn up_by(mut command: Command, settings: &[&str]) {
    let done = tool(command.args(["up", "--own-users", ""]).args(settings), b"");
    assert_eq!(done.code, 0, "{}", done.stderr);
}

/// The gateway is root, like the applications, and known by `setting` alone: with `own` it is told from them; with `other`
/// it is captured as they are, and cut. `command` makes the command of a program that may be the script.
fn is_known_by(
    network: &Host,
    program: Command,
    command: impl Fn(String) -> Command,
    [setting, own, other]: [&str; 3],
) -> Gateway {
    let Host { host, outside, .. } = network;
    let fetch = || {
        let mut curl = host.command("curl");
        tool(curl.args(["--silent", "--max-time", "20", "http://example.test/"]), b"").stdout
    };
    let up = |value: &str| up_by(command(script_path("redirect.sh")), &[setting, value]);
    up(own);
    let gateway = Start::through(program, &config("redirect", &network.dns)).ready();
    applications_are_decided(host, &gateway, outside, host);
    let [sent, redirected] = ["own", "redirected"].map(|name| host.counter("sluice_redirect", name));
    assert!(sent > 0, "the gateway's packets are known");
    // One for each connection of an application, and none for the gateway's.
    let accepted = metric(&gateway, host, "egress_connections_accepted_total", &[]);
    assert_eq!(redirected as f64, accepted);
    assert!(!gateway.stderr().contains("a loop was refused"), "{}", gateway.stderr());
    up(other);
    let begun = outside.begun();
    assert!(!fetch().contains("from outside"));
    assert_eq!(outside.begun(), begun, "nothing of it leaves");
    let _warning = gateway.wait_log("a loop was refused");
    up(own);
    assert_eq!(fetch(), "from outside\n");
    gateway
}

#[test]
fn on_a_host_the_gateway_is_known_by_a_mark() {
    const MARK: &str = "0x51";
    let network = Host::new();
    // The operator marks what is the gateway's, here by a group of its own, before the rules look at it.
    let marking = format!(
        "table inet marking {{ chain out {{ type filter hook output priority mangle; \
         meta skgid {OWN_USER} meta mark set {MARK}; }}; }}"
    );
    network.host.run("nft", &[&marking]);
    let mut program = network.host.command("setpriv");
    program.args(["--regid", OWN_USER, "--clear-groups"]).arg(binary());
    let script = |path: String| network.host.command(path);
    let _gateway = is_known_by(&network, program, script, ["--own-mark", MARK, "0x52"]);
}

#[test]
fn on_a_host_the_gateway_is_known_by_its_control_group() {
    let network = Host::new();
    let group = Cgroup::new(&network.host);
    let script = |path: String| group.beside(path);
    let [own, other] = [group.path("own"), group.path("own/inner")];
    let program = group.command("own", binary());
    let _gateway = is_known_by(&network, program, script, ["--own-cgroup", &own, &other]);
    // Whoever is in the group, or in one below it, counts as the gateway; in the one above, nobody.
    let url = format!("http://{}/", FORBIDDEN[0]);
    for (below, reached) in [("", 0), ("own", 1), ("own/inner", 2)] {
        let mut curl = group.command(below, "curl");
        let done = tool(curl.args(["--silent", "--max-time", "20", &url]), b"");
        assert_eq!(network.outside.forbidden_accepted(), reached, "{below:?}: {}", done.stdout);
    }
}
