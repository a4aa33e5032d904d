//! Seeds: inputs close to what each target accepts, from which mutation starts. Knows nothing of the parsers.

/// The seeds of a target; none for a name it does not know.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "authority" => texts(&[
            "allowed.test:443",
            "_db.a-b.test",
            "[2001:db8::1]:80",
            "192.0.2.1:65535",
            "u@denied.test:443",
            "a:0",
        ]),
        "basic" => texts(&["Basic aWRnZW46czNjcmV0", "basic YTo=", "Basic dTpwOnE=", "Bearer x"]),
        "canary" => texts(&["vuzz", "fu"]),
        "chunked" => texts(&[
            "\x035\r\nhello\r\n1;a=b\r\n,\r\n6\r\n world\r\n0\r\n\r\nGET /next",
            "\x07a\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nHost: a.test\r\n\r\n",
            "\x40ffffffffffffffff\r\nabc",
        ]),
        "client_hello" => vec![
            [vec![1], hello("allowed.test", 16_384)].concat(),
            [vec![7], hello("a_b.test.", 40)].concat(),
            [vec![255], hello("198.51.100.20", 1)].concat(),
            b"\x04\x80\x2e\x01\x03\x01\x00\x15".to_vec(),
        ],
        // Choices: mode, hash seed, services, scopes, guard, identity, questions.
        "decide" => vec![
            vec![0, 7, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 2],
            (0..=255).collect(),
            (0..300).map(|index: u32| (index * 7 % 251) as u8).collect(),
            (0..300).map(|index: u32| (index * index % 241) as u8).collect(),
        ],
        "host" => texts(&[
            "AlLoWeD.TeSt.",
            "_dmarc.r3---sn.xn--llowed-2fg.test",
            "198.51.100.20",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "0x7f.1",
            "2130706433",
        ]),
        "istio" => texts(&[SERVICE_ENTRY, ALIASES]),
        "proxy_protocol" => [
            &b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 443\r\nGET"[..],
            b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 65535\r\n",
            b"PROXY UNKNOWN x\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x1d\xc0\0\x02\x01\xc6\x33\x64\x02\x0f\xa0\x01\xbb\
              \x01\0\x02h2\x20\0\x09\x01\0\0\0\0\x21\0\x01x",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x01\xc6\x33\x64\x02\x0f\xa0\x01\xbb\x03\0\x04\0\0\0\0",
        ]
        .map(<[u8]>::to_vec)
        .to_vec(),
        "relay_trace" => crate::relay_trace::seeds(),
        "request_head" => texts(REQUESTS),
        "response_head" => texts(RESPONSES),
        "socks5" => [
            &b"\0\x05\x02\0\x02\x05\x01"[..],
            b"\x01\x01\x05idgen\x06s3cret\x05",
            b"\x02\x05\x01\0\x01\xc0\0\x02\x01\0\x50",
            b"\x02\x05\x01\0\x03\x0callowed.test\x01\xbbGET",
            b"\x02\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50",
        ]
        .map(<[u8]>::to_vec)
        .to_vec(),
        _ => Vec::new(),
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const SERVICE_ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: b}
spec:
  hosts: [a.test, '*.b.test']
  addresses: [192.0.2.0/24]
  ports:
  - {number: 443, name: tls, protocol: TLS, targetPort: 8443}
  - {number: 80, name: http, protocol: HTTP}
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: 192.0.2.1, weight: 2, locality: r/z, ports: {tls: 1}}
status:
  addresses: [{value: 240.240.0.1, host: a.test}]
";

const ALIASES: &str = "apiVersion: v1
kind: List
items:
- &one {apiVersion: networking.istio.io/v1beta1, kind: ServiceEntry, metadata: {name: a}, spec: &spec {hosts: &h [a.test],
    resolution: DNS, ports: [{number: 1, name: p, protocol: !!str TCP}], exportTo: ['*'], subjectAltNames: *h}}
- {kind: ServiceEntry, apiVersion: networking.istio.io/v1alpha3, metadata: {name: \"b\"}, spec: *spec}
--- # empty
...
";

const REQUESTS: &[&str] = &[
    "\x05GET / HTTP/1.1\r\nHost: allowed.test\r\nUser-Agent: u\r\nAccept: */*\r\n\r\n",
    "\x01GET http://allowed.test:8080/x?y HTTP/1.1\r\nHost: other.test\r\nX-Forwarded-For: 1\r\nbaggage: a=b\r\n\r\n",
    "\x09POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\nhello",
    "\x02PUT / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nExpect: 100-continue\r\n\r\n",
    "\x43CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    "\x03GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AA\r\n\r\n",
    "\x30OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
    "\x10GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
];

const RESPONSES: &[&str] = &[
    "\x01HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\nhello",
    "\x02HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nx-envoy-upstream: 1\r\n\r\n",
    "\x03HTTP/1.0 200 OK\r\nServer: s\r\n\r\n",
    "\x04HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "\x05HTTP/1.1 304 \r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n",
    "\x06HTTP/1.1 100\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
];

/// A ClientHello with GREASE, ALPN, versions, ECH and that server name, in records of at most `payload_bytes`.
#[must_use]
pub fn hello(server_name: &str, payload_bytes: usize) -> Vec<u8> {
    let name = [&[0][..], &with_length(server_name.as_bytes())].concat();
    let extensions = [
        extension(0x0a0a, &[]),
        extension(0, &with_length(&name)),
        extension(16, b"\0\x0c\x02h2\x08http/1.1"),
        extension(43, &[6, 0x0a, 0x0a, 3, 4, 3, 3]),
        extension(0xfe0d, &[0; 8]),
    ]
    .concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0], &with_length(&extensions)].concat();
    let message = [&[1, 0][..], &with_length(&body)].concat();
    message
        .chunks(payload_bytes.max(1))
        .flat_map(|part| [&[22, 3, 1][..], &with_length(part)].concat())
        .collect()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_length(data)].concat()
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("invariant: seeds are far shorter than 64 KiB");
    [&length.to_be_bytes()[..], bytes].concat()
}
