//! Switches of protocols: WebSocket through every form of request, with a real library at both ends.

use std::process::Command;
use std::time::Duration;

use sluice_tests::harness::process::Process;
use sluice_tests::harness::{
    Ending, Gateway, Http, Origin, Service, door, registry_only, servers, tools, until,
};

const SERVER: &str = r#"
import asyncio, websockets

async def echo(socket):
    async for message in socket:
        await socket.send(message)

async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()

asyncio.run(main())
"#;

/// Says the same over a websocket whatever it is reached by: a proxy's absolute-form, a tunnel, or a plain connection.
const CLIENT: &str = r#"
import socket, sys
from websockets.client import ClientConnection
from websockets.frames import Opcode
from websockets.uri import parse_uri

form, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
wire = socket.create_connection((host, port), 60)
if form == "connect":
    wire.sendall(b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += wire.recv(1)
    assert head.startswith(b"HTTP/1.1 200"), head
connection = ClientConnection(parse_uri("ws://a.test/chat"), max_size=None)
request = connection.connect()
if form == "absolute":
    request.path = "http://a.test/chat"
connection.send_request(request)

def flush():
    for data in connection.data_to_send():
        wire.sendall(data) if data else wire.shutdown(socket.SHUT_WR)

events = []
def event():
    while not events:
        flush()
        data = wire.recv(65536)
        connection.receive_data(data) if data else connection.receive_eof()
        events.extend(connection.events_received())
        assert data or events, "the connection ended"
    return events.pop(0)

response = event()
assert response.status_code == 101, response
big = bytes(range(256)) * 12000
connection.send_text("hälló".encode())
assert event().data == "hälló".encode()
connection.send_ping(b"there?")
pong = event()
assert (pong.opcode, pong.data) == (Opcode.PONG, b"there?"), pong
connection.send_binary(big[:1000], fin=False)
connection.send_continuation(big[1000:], fin=True)
got = b""
while len(got) < len(big):
    got += event().data
assert got == big
connection.send_close(1000, "done")
assert event().opcode == Opcode.CLOSE
flush()
print("whole")
"#;

/// The interpreter that has the distribution's libraries.
const PYTHON: &str = "/usr/bin/python3";

fn websocket_server() -> (Process, std::net::SocketAddr) {
    let process = Process::spawn(Command::new(PYTHON).args(["-c", SERVER]));
    let line = process.stdout.wait_for("port ");
    let port: u16 = line.trim_start_matches("port ").parse().expect("a port");
    (process, ([127, 0, 0, 1], port).into())
}

fn gateway_to(origin: &Origin, more: &str) -> Gateway {
    Gateway::start(
        &(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml() + more),
    )
}

const ASK: &str = "GET http://a.test/chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Asks for the switch and reads the answer to it; gives the length of that answer.
fn switch(client: &mut Http) -> usize {
    client.send(ASK);
    let head = String::from_utf8(client.until(b"\r\n\r\n")).expect("a text head");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    head.len()
}

#[test]
fn a_websocket_library_at_both_ends_speaks_through_every_form() {
    let (_server, address) = websocket_server();
    let service = Service::new("a", "a.test").port(80, "HTTP", address).toml();
    let gateway =
        Gateway::start(&(registry_only() + &door("http", "").replace("127.0.0.1", "127.0.0.4") + &service));
    for (form, to) in
        [("absolute", gateway.proxy()), ("connect", gateway.proxy()), ("plain", gateway.door("http"))]
    {
        let arguments = ["-c", CLIENT, form, &to.ip().to_string(), &to.port().to_string()];
        let done = tools::tool(Command::new(PYTHON).args(arguments), b"");
        assert_eq!((done.code, done.stdout.trim()), (0, "whole"), "{form}: {done:?}");
    }
    until("every request in the log", || (gateway.log_entries().len() == 3).then_some(()));
    for entry in gateway.log_entries() {
        assert_eq!(
            (&entry["response_code"], &entry["response_flags"]),
            (&101.into(), &"-".into()),
            "{entry}"
        );
        assert_eq!((&entry["method"], &entry["path"]), (&"GET".into(), &"/chat".into()), "{entry}");
        for way in ["bytes_received", "bytes_sent"] {
            assert!(entry[way].as_u64() > Some(256 * 12000), "{entry}");
        }
    }
    gateway.wait_metric("istio_requests_total", &["response_code=\"101\""], 3.0);
}

#[test]
fn a_switched_connection_is_a_tunnel_whose_bytes_are_counted_exactly() {
    const BIG: usize = 24 << 20;
    let origin = Origin::start(|peer| {
        if peer.head().is_some_and(|head| head.contains("/chat")) {
            peer.send(SWITCH);
            peer.echo();
        }
    });
    let gateway = gateway_to(&origin, "");
    let mut client = gateway.client();
    let answer = switch(&mut client);
    let payload = servers::pattern(BIG);
    let mut writer = Http::over(client.stream.try_clone().expect("a socket"));
    let sent = payload.clone();
    let sender = std::thread::spawn(move || {
        writer.send(sent);
        writer.finish();
    });
    assert!(client.exactly(BIG) == payload, "what came back differs");
    sender.join().expect("it was all taken");
    client.expect_end(Ending::Closed);
    let entry = gateway.first_entry();
    assert_eq!((&entry["response_code"], &entry["response_flags"]), (&101.into(), &"-".into()), "{entry}");
    assert_eq!(entry["bytes_received"], ASK.len() + BIG, "{entry}");
    assert_eq!(entry["bytes_sent"], answer + BIG, "{entry}");
    until("a count of bulk that is spliced", || {
        (gateway.metric("egress_relay_splice_promotions_total", &[]) > 0.0).then_some(())
    });
    // Neither connection serves anybody else.
    assert_eq!(origin.accepted(), 1);
    let mut next = gateway.client();
    next.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n");
    until("a connection of its own", || (origin.accepted() == 2).then_some(()));
}

#[test]
fn early_data_waits_for_the_switch_and_follows_it() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |peer| {
        peer.head();
        wait.lock().expect("one").recv_timeout(Duration::from_secs(60)).expect("the test has looked");
        peer.send(format!("{SWITCH}hello"));
        peer.echo();
    });
    let gateway = gateway_to(&origin, "");
    let mut client = gateway.client();
    client.send(format!("{ASK}early"));
    until("the request at the origin", || (origin.heads().len() == 1).then_some(()));
    let asked = origin.heads()[0].len() as u64;
    assert_eq!(origin.bytes(), asked, "nothing of the other protocol before the answer");
    release.send(()).expect("the origin waits");
    assert!(client.until(b"\r\n\r\n").starts_with(b"HTTP/1.1 101"));
    assert_eq!(client.exactly(10), b"helloearly");
    assert_eq!(origin.bytes(), asked + 5);
}

#[test]
fn what_is_not_switched_goes_on_as_http() {
    let origin = Origin::start(|peer| {
        while let Some(request) = peer.request() {
            let asks = request.head.to_ascii_lowercase().contains("upgrade: websocket");
            peer.send(if asks {
                "HTTP/1.1 426 Upgrade Required\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            });
        }
    });
    let gateway = gateway_to(&origin, "");
    let mut client = gateway.client();
    client.send(ASK);
    let response = client.response();
    assert_eq!((response.status, response.text().as_str(), response.header("upgrade")), (426, "no", None));
    for more in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
        "Upgrade: websocket\r\n",
    ] {
        assert_eq!(client.request("GET", "http://a.test/", more).text(), "ok");
    }
    assert_eq!(origin.accepted(), 1);
    for head in &origin.heads()[1..] {
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
    }
}

#[test]
fn a_switch_that_nobody_asked_for_is_no_answer() {
    let other = SWITCH.replace("websocket", "h2c");
    let origin = Origin::start(move |peer| {
        let head = peer.head().unwrap_or_default();
        peer.send(if head.contains("/chat") { &other } else { SWITCH });
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged");
        while peer.read_some().is_some_and(|bytes| !bytes.is_empty()) {}
    });
    let honest = Origin::http("fine");
    let more = Service::new("b", "b.test").port(80, "HTTP", honest.address()).toml();
    let gateway = gateway_to(&origin, &more);
    let mut steady = gateway.client();
    for ask in [ASK, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"] {
        assert_eq!(steady.get("http://b.test/").text(), "fine");
        let mut client = gateway.client();
        client.send(format!("{ask}GET http://b.test/smuggled HTTP/1.1\r\nHost: b.test\r\n\r\n"));
        assert_eq!(client.response().status, 502);
        client.expect_end(Ending::Closed);
        assert_eq!(steady.get("http://b.test/").text(), "fine");
    }
    assert!(!honest.heads().concat().contains("smuggled"));
    until("both in the log", || {
        let entries = gateway.log_entries();
        let bad = entries.iter().filter(|entry| entry["response_flags"] == "UPE").count();
        (bad == 2).then_some(())
    });
}

#[test]
fn a_revocation_and_silence_end_it() {
    let serve = || {
        Origin::start(|peer| {
            peer.head();
            peer.send(SWITCH);
            peer.echo();
        })
    };
    let origin = serve();
    let gateway = gateway_to(&origin, "");
    let mut client = gateway.client();
    switch(&mut client);
    client.send("x");
    assert_eq!(client.exactly(1), b"x");
    gateway.reload(&registry_only());
    client.expect_end(Ending::Reset);
    let entry = gateway.first_entry();
    assert_eq!(
        (&entry["policy_reason"], &entry["response_flags"]),
        (&"revoked".into(), &"LR".into()),
        "{entry}"
    );

    let origin = serve();
    let gateway = gateway_to(&origin, "[limits]\ntunnel_idle_timeout_ms = 400\n");
    let mut client = gateway.client();
    switch(&mut client);
    client.expect_end(Ending::Reset);
    let entry = gateway.first_entry();
    assert_eq!((&entry["response_code"], &entry["response_flags"]), (&101.into(), &"SI".into()), "{entry}");
}
