//! The SOCKS5 door as curl, ncat and PySocks use it, and byte by byte for what they never send.

use std::net::{Ipv6Addr, SocketAddr};
use std::process::Command;

use sluice_tests::harness::gateway::Start;
use sluice_tests::harness::origin::Loopback;
use sluice_tests::harness::servers::{Server, free};
use sluice_tests::harness::tools::{Done, tool};
use sluice_tests::harness::{Dns, Ending, Gateway, Http, Origin, Service, door};

fn registry_only(more_of_door: &str) -> String {
    format!("mode = \"registry_only\"\n{}", door("socks5", more_of_door))
}

/// curl through the door, with more arguments; the name is resolved by the gateway where `scheme` is `socks5h`.
fn curl(scheme: &str, gateway: &Gateway, arguments: &[&str]) -> Done {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--proxy"]);
    command.arg(format!("{scheme}://{}", gateway.door("socks5")));
    tool(command.args(arguments), b"")
}

/// Asks byte by byte; gives the code of the reply.
fn ask(gateway: &Gateway, request: &[u8]) -> (Http, u8) {
    let mut client = Http::connect(gateway.door("socks5"));
    client.send([5, 1, 0]);
    assert_eq!(client.exactly(2), [5, 0]);
    client.send(request);
    let code = client.exactly(10)[1];
    (client, code)
}

fn to_name(name: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, name.len() as u8][..], name.as_bytes(), &port.to_be_bytes()].concat()
}

#[test]
fn curl_reaches_http_and_tls_by_name() {
    let server = Server::nginx("a.test", 100);
    let service = Service::new("a", "a.test").port(80, "HTTP", server.plain).toml();
    let tls = Service::new("t", "t.test").port(443, "TLS", server.tls).toml();
    let gateway = Gateway::start(&(registry_only("") + &service + &tls));
    let done = curl("socks5h", &gateway, &["http://a.test/hello", "http://a.test/hello"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "hello from nginx\nhello from nginx\n"),
        "{}",
        done.stderr
    );
    let entry = gateway.first_entry();
    assert_eq!((&entry["path"], &entry["service"]), (&"/hello".into(), &"default/a".into()), "{entry}");

    let done = curl("socks5h", &gateway, &["--insecure", "https://t.test/hello"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "hello from nginx\n"), "{}", done.stderr);
    let entry = gateway.wait_entry(|entry| entry["requested_server_name"] == "t.test");
    assert_eq!((&entry["authority"], &entry["response_code"]), (&"t.test:443".into(), &0.into()), "{entry}");
    gateway.wait_metric("istio_tcp_connections_closed_total", &["destination_service=\"t.test\""], 1.0);
    gateway.wait_metric("egress_policy_decisions_total", &["protocol=\"socks5\"", "registered"], 1.0);
}

#[test]
fn what_a_client_resolved_for_itself_is_asked_for_its_name() {
    let origin = Origin::http("hello");
    let (elsewhere, own) = (Loopback::new(), Origin::forbidden());
    let service = Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only("") + &service));
    let resolve = format!("a.test:80:{}", elsewhere.ip);
    let done = curl("socks5", &gateway, &["--resolve", &resolve, "http://a.test/"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (0, "hello"),
        "our resolution of its name: {}",
        done.stderr
    );
    // An address that nobody named, inside and out.
    let (mut client, code) =
        ask(&gateway, &[&[5, 1, 0, 1, 127, 0, 0, 1][..], &own.port().to_be_bytes()].concat());
    assert_eq!(code, 0);
    client.send("SSH-2.0-x\r\n");
    assert_eq!(client.rest(), (Vec::new(), Ending::Reset));
    own.untouched();
}

#[test]
fn addresses_of_both_families_are_reached_where_they_are_registered() {
    let v6 = Origin::at((Ipv6Addr::LOCALHOST, 0).into(), |peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nv6");
        }
    });
    let v4 = Origin::http("v4");
    let by_address = |name: &str, to: SocketAddr| {
        let (port, ip) = (to.port(), to.ip());
        format!(
            "[[service]]\nname = \"{name}\"\nports = [{{ number = {port}, protocol = \"HTTP\" }}]\n\
             addresses = [\"{ip}\"]\nresolution = \"NONE\"\n"
        )
    };
    let named = Service::new("n", "n.test").port(9000, "TCP", v6.address()).toml();
    let services = by_address("four", v4.address()) + &by_address("six", v6.address()) + &named;
    let gateway = Gateway::start(&(registry_only("") + &services));
    for (origin, body) in [(&v4, "v4"), (&v6, "v6")] {
        let done = curl("socks5", &gateway, &[&format!("http://{}/", origin.address())]);
        assert_eq!((done.code, done.stdout.as_str()), (0, body), "{}", done.stderr);
    }
    // The reply tells an IPv6 address of ours.
    let done = curl("socks5h", &gateway, &["http://n.test:9000/"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "v6"), "{}", done.stderr);
}

fn with_users(auth: &str) -> (Origin, Gateway) {
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address());
    let service = service.with("allow = [{ workload = \"idgen\" }]\nrequire_proof = \"credentials\"");
    let workload =
        "[[workload]]\nname = \"idgen\"\ncredentials = [{ user = \"idgen\", password_file = \"secret\" }]\n";
    let toml = registry_only(&format!("auth = \"{auth}\"")) + workload + &service.toml();
    let start = Start::new(&toml);
    std::fs::write(start.folder().join("secret"), "s3cret\n").expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(start.folder().join("secret"), mode).expect("permissions");
    (origin, start.ready())
}

fn ncat(gateway: &Gateway, credentials: Option<&str>, input: &[u8]) -> Done {
    let mut command = Command::new("timeout");
    command.args(["60", "ncat", "--proxy-type", "socks5", "--proxy-dns", "remote"]);
    command.arg("--proxy").arg(gateway.door("socks5").to_string());
    command.args(credentials.into_iter().flat_map(|both| ["--proxy-auth", both]));
    tool(command.args(["a.test", "9000"]), input)
}

#[test]
fn credentials_name_the_workload() {
    let (_origin, gateway) = with_users("required");
    let done = ncat(&gateway, Some("idgen:s3cret"), b"hello");
    assert_eq!((done.code, done.stdout.as_str()), (0, "hello"), "{}", done.stderr);
    let entry = gateway.first_entry();
    assert_eq!(
        (&entry["source_proof"], &entry["source_workload"]),
        (&"credentials".into(), &"idgen".into()),
        "{entry}"
    );
    assert_eq!(
        (&entry["bytes_received"], &entry["bytes_sent"]),
        (&5.into(), &5.into()),
        "payload only: {entry}"
    );
}

#[test]
fn without_the_right_credentials_nothing_goes_up() {
    let (origin, gateway) = with_users("required");
    for user in ["idgen:mistaken7", "nobody:s3cret"] {
        let done = curl("socks5h", &gateway, &["--proxy-user", user, "http://a.test:9000/"]);
        assert_eq!(done.code, 97, "{}", done.stderr);
        assert!(done.stderr.contains("rejected by the SOCKS5 server"), "{}", done.stderr);
        assert_ne!(ncat(&gateway, Some(user), b"hello").code, 0);
    }
    let done = curl("socks5h", &gateway, &["http://a.test:9000/"]);
    assert_eq!(done.code, 97, "{}", done.stderr);
    let entry = gateway.first_entry();
    assert_eq!((&entry["policy_decision"], &entry["policy_reason"]), (&"deny".into(), &"auth".into()));
    gateway.wait_metric("egress_policy_decisions_total", &["reason=\"auth\"", "socks5"], 5.0);
    let log = gateway.log_lines().join("\n") + &gateway.stderr();
    assert!(!log.contains("s3cret") && !log.contains("mistaken7"), "no password in any log");
    origin.untouched();

    // Not asked for: whoever shows none is let in without proof, and denied by the rule.
    let (origin, gateway) = with_users("optional");
    assert_eq!(ask(&gateway, &to_name("a.test", 9000)).1, 2);
    let entry = gateway.first_entry();
    assert_eq!(entry["policy_reason"], "workload_not_allowed", "{entry}");
    origin.untouched();
}

#[test]
fn every_refusal_has_its_reply_and_no_packet_goes_up() {
    let origin = Origin::forbidden();
    let gone = free();
    let service = Service::new("a", "a.test").port(9000, "TCP", origin.address()).toml();
    let closed = Service::new("c", "c.test").port(9000, "TCP", gone).toml();
    let gateway = Gateway::start(&(registry_only("") + &service + &closed));

    let done = curl("socks5h", &gateway, &["http://denied.test/"]);
    assert!(done.code == 97 && done.stderr.contains("(2)"), "{}", done.stderr);
    let entry = gateway.first_entry();
    assert_eq!((&entry["policy_reason"], &entry["response_flags"]), (&"not_registered".into(), &"UH".into()));
    assert_eq!(entry["authority"], "denied.test:80", "{entry}");
    gateway.wait_metric("istio_tcp_connections_opened_total", &["BlackHoleCluster"], 1.0);
    let done = curl("socks5h", &gateway, &["http://c.test:9000/"]);
    assert!(done.code == 97 && done.stderr.contains("(5)"), "{}", done.stderr);

    let address = |command: u8, kind: u8, ip: [u8; 4]| {
        [&[5, command, 0, kind][..], &ip, &origin.port().to_be_bytes()].concat()
    };
    for (request, code) in [
        (to_name("a.test", 9001), 2),
        (address(1, 1, [169, 254, 169, 254]), 2),
        (address(2, 1, [127, 0, 0, 1]), 7),
        (address(3, 1, [127, 0, 0, 1]), 7),
        (address(1, 9, [127, 0, 0, 1]), 8),
    ] {
        let (mut client, found) = ask(&gateway, &request);
        assert_eq!(found, code, "{}", request.escape_ascii());
        client.expect_end(Ending::Closed);
    }
    for request in [
        to_name("a..test", 80),
        to_name("0x7f.1", 80),
        to_name("a.test", 0),
        b"\x05\x01\x00\x03\x00".to_vec(),
    ] {
        let mut client = Http::connect(gateway.door("socks5"));
        client.send([&[5, 1, 0][..], &request].concat());
        assert_eq!(client.rest().0, [5, 0], "closed without a reply: {}", request.escape_ascii());
    }
    // Another protocol, and a header that no door here wants.
    for wire in [
        &b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..],
        b"PROXY UNKNOWN\r\n",
        b"\x04\x01\x23\x28\x7f\0\0\x01\0",
    ] {
        let mut client = Http::connect(gateway.door("socks5"));
        client.send(wire);
        assert_eq!(client.rest().0, b"", "{}", wire.escape_ascii());
    }
    gateway.wait_metric("egress_protocol_errors_total", &["door=\"socks5\"", "malformed"], 9.0);
    origin.untouched();
}

#[test]
fn the_gateway_resolves_names_for_its_clients() {
    let dns = Dns::start();
    let origin = Origin::echo();
    let service = Service::new("a", "a.test").host("gone.test").host("meta.test");
    let service = service.resolved_port(9000, "TCP", origin.port()).toml();
    dns.set("a.test", origin.address().ip(), 60);
    dns.set("meta.test", [169, 254, 169, 254].into(), 60);
    let guard = "[guard]\nallow = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::start(&(registry_only("") + &service + guard + &dns.toml("")));
    let (mut client, code) = ask(&gateway, &to_name("a.test", 9000));
    assert_eq!(code, 0);
    client.send("hello");
    assert_eq!(client.exactly(5), b"hello");
    let (mut client, code) = ask(&gateway, &to_name("gone.test", 9000));
    assert_eq!(code, 4, "no such name");
    client.expect_end(Ending::Closed);
    let entry = gateway.wait_entry(|entry| entry["authority"] == "gone.test:9000");
    assert_eq!(entry["response_flags"], "DF", "{entry}");
    assert_eq!(ask(&gateway, &to_name("meta.test", 9000)).1, 2, "its address is never dialled");
    let entry = gateway.wait_entry(|entry| entry["authority"] == "meta.test:9000");
    assert_eq!(entry["policy_reason"], "guard", "{entry}");
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_server_first_protocol_greets_at_once_and_half_close_is_kept() {
    let origin = Origin::start(|peer| {
        peer.send("220 ready\r\n");
        peer.echo();
    });
    let service = Service::new("a", "a.test").port(25, "TCP", origin.address()).toml();
    let gateway = Gateway::start(&(registry_only("") + &service));
    let (mut client, code) = ask(&gateway, &to_name("a.test", 25));
    assert_eq!(code, 0);
    assert_eq!(client.exactly(11), b"220 ready\r\n");
    client.send("QUIT");
    client.finish();
    assert_eq!(client.rest(), (b"QUIT".to_vec(), Ending::Closed));
}

/// PySocks asks for each of `destinations`; gives what became of it.
fn pysocks(gateway: &Gateway, credentials: &[&str], destinations: &[String]) -> Vec<String> {
    let door = gateway.door("socks5");
    let mut python = Command::new("timeout");
    python.args(["120", "/usr/bin/python3"]);
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/harness/socks5_client.py"));
    python.arg(door.ip().to_string()).arg(door.port().to_string()).args(credentials);
    let done = tool(&mut python, destinations.join("\n").as_bytes());
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).expect("a list of strings")
}

#[test]
fn python_reaches_names_and_addresses_and_is_told_why_not() {
    const NOT_ALLOWED: &str = "SOCKS5Error: 0x02: Connection not allowed by ruleset";
    let (v4, v6) = (Origin::echo(), Origin::at((Ipv6Addr::LOCALHOST, 0).into(), |peer| peer.echo()));
    let (forbidden, web, gone) = (Origin::forbidden(), Origin::http("from the web"), free());
    let by_address = |name: &str, to: SocketAddr| {
        format!(
            "[[service]]\nname = \"{name}\"\nports = [{{ number = {}, protocol = \"TCP\" }}]\n\
             addresses = [\"{}\"]\nresolution = \"NONE\"\n",
            to.port(),
            to.ip()
        )
    };
    let dns = Dns::start();
    dns.set("a.test", v4.address().ip(), 60);
    dns.set("denied.test", forbidden.address().ip(), 60);
    let services =
        Service::new("a", "a.test").host("absent.test").resolved_port(9000, "TCP", v4.port()).toml()
            + &Service::new("web", "web.test").port(80, "HTTP", web.address()).toml()
            + &Service::new("gone", "gone.test").port(9000, "TCP", gone).toml()
            + &by_address("four", v4.address())
            + &by_address("six", v6.address());
    let guard = "[guard]\nallow = [\"127.0.0.0/8\"]\n";
    let gateway = Gateway::start(&(registry_only("") + &services + guard + &dns.toml("")));
    let cases = [
        ("a.test 9000".to_owned(), "echo"),
        (format!("127.0.0.1 {}", v4.port()), "echo"),
        (format!("::1 {}", v6.port()), "echo"),
        ("url http://web.test/".to_owned(), "from the web"),
        ("denied.test 9000".to_owned(), NOT_ALLOWED),
        ("a.test 9001".to_owned(), NOT_ALLOWED),
        (format!("169.254.169.254 {}", forbidden.port()), NOT_ALLOWED),
        ("absent.test 9000".to_owned(), "SOCKS5Error: 0x04: Host unreachable"),
        ("gone.test 9000".to_owned(), "SOCKS5Error: 0x05: Connection refused"),
    ];
    let results = pysocks(&gateway, &[], &cases.each_ref().map(|(destination, _)| destination.clone()));
    for ((destination, wanted), found) in cases.iter().zip(&results) {
        assert_eq!(found, wanted, "{destination}");
    }
    assert_eq!(results.len(), cases.len());
    // By name and by address the same origin; the bytes are those of the payload, both ways.
    assert_eq!((v4.accepted(), v6.accepted(), web.accepted()), (2, 1, 1));
    let counted = |service: &str| gateway.wait_entry(|entry| entry["service"] == service);
    for service in ["default/a", "default/four", "default/six"] {
        let entry = counted(service);
        assert_eq!(
            (&entry["bytes_received"], &entry["bytes_sent"]),
            (&180_000.into(), &180_000.into()),
            "{entry}"
        );
    }
    assert_eq!(counted("default/web")["response_code"], 200);
    // Whoever is denied is not even asked for.
    assert_eq!(dns.asked("denied.test"), 0);
    forbidden.untouched();
}

#[test]
fn python_shows_a_user_and_a_password() {
    let (origin, gateway) = with_users("required");
    let destination = ["a.test 9000".to_owned()];
    assert_eq!(pysocks(&gateway, &["idgen", "s3cret"], &destination), ["echo"]);
    let entry = gateway.first_entry();
    assert_eq!(
        (&entry["source_proof"], &entry["source_workload"]),
        (&"credentials".into(), &"idgen".into()),
        "{entry}"
    );
    assert_eq!(origin.accepted(), 1);
    for (credentials, wanted) in [
        (&["idgen", "mistaken7"][..], "SOCKS5AuthError: SOCKS5 authentication failed"),
        (&[], "SOCKS5AuthError: All offered SOCKS5 authentication methods were rejected"),
    ] {
        assert_eq!(pysocks(&gateway, credentials, &destination), [wanted]);
    }
    gateway.wait_metric("egress_policy_decisions_total", &["reason=\"auth\"", "socks5"], 2.0);
    assert_eq!(origin.accepted(), 1, "without the right credentials nothing goes up");
}
