//! Doors behind load balancers: PROXY headers of versions 1 and 2 as HAProxy, nginx and curl write them, in front of
//! each door; and those that are refused before anything goes up.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use sluice_tests::harness::servers::Balancer;
use sluice_tests::harness::tools::tool;
use sluice_tests::harness::{Ending, Gateway, Http, Origin, Service, door};

/// The application behind the load balancer: the workload table knows its address.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 8, 7));

const TRUSTED: &str = "proxy_protocol = { mode = \"required\", trusted = [\"127.0.0.0/8\"] }\n";

const WORKLOAD: &str =
    "[[workload]]\nname = \"payer\"\nnamespace = \"payments\"\naddresses = [\"127.9.8.7\"]\n";

/// Only whom a load balancer vouches for.
const PAYMENTS_ONLY: &str = "allow = [{ namespace = \"payments\" }]\nrequire_proof = \"proxy_protocol\"\n";

fn gateway(origin: &Origin, tls: &Origin) -> Gateway {
    let web = Service::new("web", "a.test").port(80, "HTTP", origin.address()).with(PAYMENTS_ONLY);
    let tls = Service::new("tls", "t.test").port(443, "TLS", tls.address()).with(PAYMENTS_ONLY);
    let toml = format!("mode = \"registry_only\"\n{WORKLOAD}{}{}", web.toml(), tls.toml());
    let doors = [
        door("http_proxy", TRUSTED),
        door("tls", &format!("destination_port = 443\n{TRUSTED}")),
        door("tcp", &format!("service = \"web\"\ndestination_port = 80\n{TRUSTED}")),
    ];
    Gateway::start(&(toml + &doors.concat()))
}

/// A connection from [`CLIENT`]'s address.
fn from_client(to: SocketAddr) -> Http {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(CLIENT, 0).into()).expect("loopback has every 127 address");
    socket.connect(&to.into()).expect("the balancer listens");
    Http::over(TcpStream::from(socket))
}

/// A ClientHello for `t.test`.
fn hello() -> Vec<u8> {
    sluice_tests::harness::hello::client_hello(&[b"t.test"])
}

fn each_door_works_behind(balance: impl Fn(&[SocketAddr]) -> Balancer) {
    let (origin, tls) = (Origin::http("hello"), Origin::echo());
    let gateway = gateway(&origin, &tls);
    let balancer = balance(&[gateway.proxy(), gateway.door("tls"), gateway.door("tcp")]);
    let [proxy, tls_door, tcp] = balancer.fronts.as_slice() else { panic!("three fronts") };

    let mut client = from_client(*proxy);
    let own = client.stream.local_addr().expect("connected").to_string();
    assert_eq!(client.get("http://a.test/").text(), "hello", "{}", balancer.complaints());
    assert_eq!(client.get("http://a.test/again").text(), "hello");
    let entry = gateway.wait_entry(|entry| entry["downstream_remote_address"] == own.as_str());
    assert_eq!(
        (&entry["source_proof"], &entry["source_workload"]),
        (&"proxy_protocol".into(), &"payer".into())
    );

    let mut client = from_client(*tls_door);
    client.send(hello());
    assert_eq!(client.exactly(hello().len()), hello());
    client.finish();
    client.expect_end(Ending::Closed);
    let entry = gateway.wait_entry(|entry| entry["requested_server_name"] == "t.test");
    assert_eq!(entry["bytes_received"], hello().len(), "the header is not payload: {entry}");

    let mut client = from_client(*tcp);
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().text(), "hello");

    // Whom the table does not know is not let in by the balancer's own address.
    assert_eq!(Http::connect(*proxy).get("http://a.test/").status, 403);
}

#[test]
fn haproxy_in_front_of_each_door() {
    each_door_works_behind(|doors| Balancer::haproxy(doors, "send-proxy"));
}

#[test]
fn haproxy_with_version_2_its_fields_and_checksums() {
    each_door_works_behind(|doors| {
        Balancer::haproxy(doors, "send-proxy-v2 proxy-v2-options crc32c,unique-id")
    });
}

#[test]
fn nginx_in_front_of_each_door() {
    each_door_works_behind(Balancer::nginx);
}

#[test]
fn haproxy_checks_the_health_of_a_door() {
    // Its checks say LOCAL: they speak for HAProxy itself and ask for nothing.
    let (origin, tls) = (Origin::http("hello"), Origin::echo());
    let gateway = gateway(&origin, &tls);
    let balancer = Balancer::haproxy(&[gateway.proxy()], "send-proxy-v2 check inter 50ms");
    gateway.wait_metric("egress_connections_accepted_total", &[], 5.0);
    let mut client = from_client(balancer.fronts[0]);
    assert_eq!(client.get("http://a.test/").text(), "hello", "the server counts as healthy");
    assert_eq!(gateway.metric("egress_protocol_errors_total", &[]), 0.0, "{}", gateway.metrics());
    origin.heads().iter().for_each(|head| assert!(head.starts_with("GET / "), "{head}"));
}

#[test]
fn curl_writes_a_header_of_its_own() {
    let (origin, tls) = (Origin::http("hello"), Origin::echo());
    let gateway = gateway(&origin, &tls);
    // To a door that is dialled as if it were the origin, curl's header comes first.
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--haproxy-protocol"]);
    command.args(["--interface", &CLIENT.to_string()]).arg(format!("http://{}/", gateway.door("tcp")));
    let done = tool(&mut command, b"");
    assert_eq!((done.code, done.stdout.as_str()), (0, "hello"), "{}", done.stderr);
    let entry = gateway.first_entry();
    assert_eq!(entry["source_proof"], "proxy_protocol", "{entry}");
}

/// What a door says to these bytes: whatever it answers, and how it ends.
fn told(door: SocketAddr, wire: &[u8], end: bool) -> (Vec<u8>, Ending) {
    let mut client = Http::connect(door);
    client.try_send(wire);
    if end {
        client.finish();
    }
    client.rest()
}

fn v2(fields: &[u8]) -> Vec<u8> {
    let block = [127, 9, 8, 7, 127, 0, 0, 1, 0x0f, 0xa0, 0, 80];
    let length = (block.len() as u16 + fields.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &block, fields].concat()
}

#[test]
fn wrong_headers_and_untrusted_peers_send_no_packet_upstream() {
    let (origin, tls) = (Origin::forbidden(), Origin::forbidden());
    let line = b"PROXY TCP4 127.9.8.7 127.0.0.1 4000 80\r\n";
    let request = b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let trusted = gateway(&origin, &tls);
    for name in ["http_proxy", "tls", "tcp"] {
        for wire in [
            request.to_vec(),
            hello(),
            [&b"PROXY TCP4 127.9.8.7 127.0.0.1 4000\r\n"[..], request].concat(),
            [&v2(&[2, 0, 9, b'a'])[..], request].concat(),
            [&v2(&[3, 0, 4, 1, 2, 3, 4])[..], request].concat(),
            [&v2(&[2, 0, 1, b'a', 2, 0, 1, b'a'])[..], request].concat(),
        ] {
            let (answer, ending) = told(trusted.door(name), &wire, false);
            assert_eq!((answer.len(), ending), (0, Ending::Reset), "{name}: {}", wire.escape_ascii());
        }
        let (answer, ending) = told(trusted.door(name), &v2(&[])[..20], true);
        assert_eq!((answer.len(), ending), (0, Ending::Reset), "{name}: truncated");
    }
    let entry = trusted.first_entry();
    assert_eq!(entry["response_code_details"], "proxy_protocol_malformed", "{entry}");
    trusted.wait_metric("egress_policy_decisions_total", &["reason=\"malformed\""], 21.0);
    trusted.wait_metric("egress_protocol_errors_total", &["door=\"tcp\"", "malformed"], 7.0);

    let stranger = Service::new("web", "a.test").port(80, "HTTP", origin.address()).toml();
    let elsewhere = TRUSTED.replace("127.0.0.0/8", "192.0.2.0/24");
    let toml = format!("mode = \"allow_any\"\n{stranger}{}", door("http_proxy", &elsewhere));
    let untrusting = Gateway::start(&toml);
    let (answer, ending) = told(untrusting.proxy(), &[&line[..], request].concat(), false);
    assert_eq!((answer.len(), ending), (0, Ending::Reset));
    let entry = untrusting.first_entry();
    assert_eq!(entry["response_code_details"], "proxy_protocol_untrusted_peer", "{entry}");
    assert_eq!((&entry["policy_decision"], &entry["policy_reason"]), (&"deny".into(), &"auth".into()));
    untrusting.wait_metric("egress_protocol_errors_total", &["untrusted_peer"], 1.0);

    // Where no header is wanted one is refused, and twice is once too often.
    let toml = format!("mode = \"allow_any\"\n{stranger}{}", door("http_proxy", ""));
    let plain = Gateway::start(&toml);
    for (gateway, wire) in [
        (&plain, [&line[..], request].concat()),
        (&plain, [&v2(&[])[..], request].concat()),
        (&trusted, [&line[..], line, request].concat()),
    ] {
        let mut client = Http::connect(gateway.proxy());
        client.send(&wire);
        assert_eq!(client.response().status, 400, "{}", wire.escape_ascii());
    }
    origin.untouched();
    tls.untouched();
}

#[test]
fn a_header_that_stays_away_is_not_waited_for() {
    let (origin, tls) = (Origin::forbidden(), Origin::forbidden());
    let gateway = gateway(&origin, &tls);
    let mut silent = Http::connect(gateway.door("tcp"));
    silent.send("PROXY TCP4 ");
    let begun = std::time::Instant::now();
    let mut rest = Vec::new();
    assert!(silent.stream.read_to_end(&mut rest).is_err(), "a reset");
    let waited = begun.elapsed().as_secs_f32();
    assert!((2.0..20.0).contains(&waited), "{waited} s of 3");
    let entry = gateway.first_entry();
    assert_eq!(entry["policy_reason"], "sniff_timeout", "{entry}");
    origin.untouched();
}

#[test]
fn a_reload_asks_again_for_whom_the_header_spoke() {
    let (origin, tls) = (Origin::http("hello"), Origin::echo());
    let web = Service::new("web", "a.test").port(80, "TCP", origin.address()).with(PAYMENTS_ONLY).toml();
    let head = format!("mode = \"registry_only\"\n{web}{}", door("http_proxy", TRUSTED));
    let gateway = Gateway::start(&(head.clone() + WORKLOAD));
    let mut client = Http::connect(gateway.proxy());
    client.send("PROXY TCP4 127.9.8.7 127.0.0.1 4000 80\r\n");
    assert_eq!(client.connect_to("a.test:80").status, 200);
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.response().text(), "hello");
    gateway.reload(&(head + &WORKLOAD.replace("127.9.8.7", "127.9.8.6")));
    assert_eq!(client.rest().1, Ending::Reset, "its workload has another address now");
    assert_eq!(gateway.first_entry()["policy_reason"], "revoked");
    tls.untouched();
}
