//! HTTP/1.0 and HTTP/1.1 between real clients and real origins: nginx, Python's and Node's own.

use std::net::SocketAddr;
use std::process::Command;

use sluice_tests::harness::process::Process;
use sluice_tests::harness::{Ending, Gateway, Origin, Service, registry_only, servers::Server, tools};

/// The interpreter that the distribution has.
const PYTHON: &str = "/usr/bin/python3";

fn gateway_to(address: SocketAddr) -> Gateway {
    Gateway::start(&(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", address).toml()))
}

/// Starts a server that prints `port N`.
fn server(command: &mut Command) -> (Process, SocketAddr) {
    let process = Process::spawn(command);
    let line = process.stdout.wait_for("port ");
    let port: u16 = line.trim_start_matches("port ").parse().expect("a port");
    (process, ([127, 0, 0, 1], port).into())
}

/// Runs a script with the proxy's address as its arguments; it prints `whole` if all is well.
fn script(program: &str, flag: &str, text: &str, gateway: &Gateway) {
    let proxy = gateway.proxy();
    let arguments = [flag, text, &proxy.ip().to_string(), &proxy.port().to_string()];
    let done = tools::tool(Command::new(program).args(arguments), b"");
    assert_eq!((done.code, done.stdout.trim()), (0, "whole"), "{done:?}");
}

#[test]
fn curl_speaks_http_1_0_to_nginx() {
    let server = Server::nginx("a.test", 3 << 20);
    let gateway = gateway_to(server.plain);
    let (big, size) = ("http://a.test/big", (3 << 20).to_string());
    for (more, version) in [("--http1.0", "1.0"), ("--http1.1", "1.1")] {
        let done = tools::curl(gateway.proxy(), &[more, "-o", "/dev/null", "-w", "%{size_download}", big]);
        assert_eq!((done.code, done.stdout.as_str()), (0, size.as_str()), "{done:?}");
        // Compressed, nginx knows no length: chunks, or, as it is told here, an end by closing.
        for path in ["chunked", "until-close"] {
            let url = format!("http://a.test/{path}");
            let done = tools::curl(
                gateway.proxy(),
                &[more, "--compressed", "-o", "/dev/null", "-w", "%{size_download} %{header_json}", &url],
            );
            assert_eq!(done.code, 0, "{done:?}");
            let chunked = done.stdout.to_ascii_lowercase().contains("transfer-encoding");
            assert_eq!(chunked, version == "1.1", "{path} to HTTP/{version}: {done:?}");
        }
    }
    for entry in gateway.log_entries() {
        assert_eq!(
            (&entry["response_code"], &entry["response_flags"]),
            (&200.into(), &"-".into()),
            "{entry}"
        );
    }
}

#[test]
fn a_client_of_http_1_0_keeps_its_connection_if_it_asks_to() {
    let origin = Origin::http("x");
    let gateway = gateway_to(origin.address());
    let mut client = gateway.client();
    for _ in 0..3 {
        client.send("GET http://a.test/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!((response.text().as_str(), response.header("connection")), ("x", Some("keep-alive")));
    }
    client.send("GET http://a.test/ HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "x");
    client.expect_end(Ending::Closed);
    // An answer of ours ends it: that we would keep it open would have to be said, and is not.
    let mut client = gateway.client();
    client.send("GET http://denied.test/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.response().status, 502);
    client.expect_end(Ending::Closed);
    // Chunks are unknown to it: what has no length ends with its connection.
    let origin = Origin::start(|peer| {
        while peer.request().is_some() {
            peer.send("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            peer.send("5;x=y\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n");
        }
    });
    let gateway = gateway_to(origin.address());
    let mut client = gateway.client();
    client.send("GET http://a.test/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = String::from_utf8(client.until(b"\r\n\r\n")).expect("a text head");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("Connection: close"), "{head}");
    let (rest, ending) = client.rest();
    assert_eq!((rest.as_slice(), ending), (&b"hello"[..], Ending::Closed));
}

const OLD_ORIGIN: &str = r#"
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def do_GET(self):
        self.send_response(200)
        if self.path == "/length":
            self.send_header("Content-Length", "5")
        if self.path == "/kept":
            self.send_header("Content-Length", "5")
            self.send_header("Connection", "keep-alive")
            self.close_connection = False
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"hello")
    do_HEAD = do_GET
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body[::-1])
    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_port, flush=True)
server.serve_forever()
"#;

const PYTHON_CLIENT: &str = r#"
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=60)
def ask(method, path, body=None, headers={}, **more):
    connection.request(method, "http://a.test" + path, body, headers, **more)
    response = connection.getresponse()
    return response.status, response.read(), response
for _ in range(3):
    for path in ("/length", "/none", "/kept"):
        assert ask("GET", path)[:2] == (200, b"hello"), path
        status, body, response = ask("HEAD", path)
        assert (status, body) == (200, b""), path
    assert ask("POST", "/", b"abc" * 50000)[1] == b"cba" * 50000
assert connection.sock is not None, "one connection for all"
print("whole")
"#;

#[test]
fn an_origin_of_http_1_0_is_served_to_pythons_client() {
    let (_server, address) = server(Command::new(PYTHON).args(["-c", OLD_ORIGIN]));
    let gateway = gateway_to(address);
    script(PYTHON, "-c", PYTHON_CLIENT, &gateway);
    let mut client = gateway.client();
    let response = client.get("http://a.test/none");
    assert_eq!((response.text().as_str(), response.header("transfer-encoding")), ("hello", Some("chunked")));
    for entry in gateway.log_entries() {
        assert_eq!(
            (&entry["response_code"], &entry["response_flags"]),
            (&200.into(), &"-".into()),
            "{entry}"
        );
    }
}

const NODE_ORIGIN: &str = r#"
const http = require('http');
const server = http.createServer((request, response) => {
    let size = 0, sum = request.headers['x-sum'] || '';
    request.on('data', (data) => { size += data.length; });
    request.on('end', () => {
        response.writeEarlyHints({ link: '</style.css>; rel=preload' });
        if (request.method === 'HEAD') {
            response.end();
            return;
        }
        response.writeHead(200, { 'Trailer': 'X-Size', 'X-Method': request.method });
        response.write('first ');
        response.addTrailers({ 'X-Size': String(size), 'X-Echo': request.trailers['x-mine'] || 'none' });
        response.end('last');
    });
});
server.on('checkContinue', (request, response) => {
    if (request.url === '/refuse') {
        response.writeHead(417, { 'Content-Length': '0' });
        response.end();
        return;
    }
    response.writeContinue();
    server.emit('request', request, response);
});
server.listen(0, '127.0.0.1', () => console.log('port ' + server.address().port));
"#;

const NODE_CLIENT: &str = r#"
const http = require('http'), assert = require('assert');
const [host, port] = process.argv.slice(1);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
function ask(method, path, headers, body, trailers) {
    return new Promise((resolve, reject) => {
        const seen = { hints: 0, continued: false, text: '' };
        const request = http.request({ host, port, agent, method, path: 'http://a.test' + path,
            headers: { Host: 'a.test', ...headers } });
        request.on('information', (info) => { if (info.statusCode === 103) seen.hints += 1; });
        request.on('continue', () => { seen.continued = true; request.end(body); });
        request.on('error', reject);
        request.on('response', (response) => {
            response.on('data', (data) => { seen.text += data; });
            response.on('end', () => resolve({ ...seen, status: response.statusCode, trailers: response.trailers,
                reused: request.reusedSocket }));
        });
        if (trailers) request.addTrailers(trailers);
        if (headers.Expect) request.flushHeaders(); else request.end(body);
    });
}
(async () => {
    let got = await ask('GET', '/', {});
    assert.deepStrictEqual([got.status, got.text, got.hints], [200, 'first last', 1]);
    assert.strictEqual(got.trailers['x-size'], '0');
    got = await ask('POST', '/', { 'Transfer-Encoding': 'chunked', Trailer: 'X-Mine' }, 'x'.repeat(300000), { 'X-Mine': 'yes' });
    assert.deepStrictEqual([got.trailers['x-size'], got.trailers['x-echo'], got.reused], ['300000', 'yes', true]);
    got = await ask('PUT', '/', { Expect: '100-continue', 'Content-Length': 5 }, 'hello');
    assert.deepStrictEqual([got.continued, got.trailers['x-size'], got.reused], [true, '5', true]);
    got = await ask('HEAD', '/', {});
    assert.deepStrictEqual([got.status, got.text, got.reused], [200, '', true]);
    got = await ask('PUT', '/refuse', { Expect: '100-continue', 'Content-Length': 5 }, 'hello');
    assert.deepStrictEqual([got.status, got.continued], [417, false]);
    got = await ask('GET', '/', {});
    assert.strictEqual(got.text, 'first last');
    console.log('whole');
    process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
"#;

#[test]
fn node_at_both_ends_sees_hints_trailers_and_expectations() {
    let (_server, address) = server(Command::new("node").args(["-e", NODE_ORIGIN]));
    let gateway = gateway_to(address);
    script("node", "-e", NODE_CLIENT, &gateway);
}

#[test]
fn bytes_beyond_ascii_in_values_go_on_as_they_are() {
    let origin = Origin::start(|peer| {
        while peer.head().is_some_and(|head| head.contains("X-Name: J\u{fffd}rg")) {
            peer.send(b"HTTP/1.1 200 Sch\xf6n\r\nX-Name: J\xf6rg\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let gateway = gateway_to(origin.address());
    let mut client = gateway.client();
    for _ in 0..2 {
        client.send(b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX-Name: J\xf6rg\r\n\r\n");
        let head = client.until(b"\r\n\r\n");
        let has = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
        assert!(has(b" 200 Sch\xf6n\r\n") && has(b"X-Name: J\xf6rg\r\n"), "{head:?}");
    }
    assert_eq!(origin.accepted(), 1);
}
