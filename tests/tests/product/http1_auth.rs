//! Authentication of connections (NTLM, Negotiate): an authenticated upstream connection serves one client.

use sluice_tests::harness::{Gateway, Origin, Service, registry_only, tools, until};

/// An NTLM challenge as RFC-less as the protocol itself ([MS-NLMP] 2.2.1.2): no target, no flags but those that every
/// client understands.
fn challenge() -> String {
    let mut message = b"NTLMSSP\0\x02\0\0\0".to_vec();
    message.extend([0, 0, 0, 0, 48, 0, 0, 0]); // no target name
    message.extend(0x0000_0201_u32.to_le_bytes()); // Unicode, NTLM
    message.extend(*b"8 random"); // the server's challenge
    message.extend([0; 8]);
    message.extend([0, 0, 0, 0, 48, 0, 0, 0]); // no target information
    base64(&message)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word =
            group.iter().chain(&[0, 0]).take(3).fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        for digit in 0..4 {
            let six = word >> (18 - 6 * digit) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[six]) } else { '=' });
        }
    }
    text
}

/// An origin that authenticates connections: after the three steps of NTLM whatever comes on one is taken for that user's.
fn origin() -> Origin {
    let challenge = challenge();
    Origin::start(move |peer| {
        let mut user = false;
        while let Some(request) = peer.request() {
            let token = request.head.lines().find_map(|line| line.strip_prefix("Authorization: NTLM "));
            let step = token.map_or(0, |token| if token.starts_with("TlRMTVNTUAAD") { 3 } else { 1 });
            user |= step == 3;
            let index = peer.index;
            let response = match step {
                _ if user => format!("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nuser {index}"),
                1 => format!(
                    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM {challenge}\r\nContent-Length: 0\r\n\r\n"
                ),
                _ => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n\
                      Content-Length: 0\r\n\r\n"
                    .to_owned(),
            };
            if !peer.send(response) {
                return;
            }
        }
    })
}

fn gateway_to(origin: &Origin) -> Gateway {
    Gateway::start(
        &(registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()),
    )
}

#[test]
fn curl_authenticates_its_connection_by_ntlm() {
    let origin = origin();
    let gateway = gateway_to(&origin);
    // A connection that everybody may have lies in the pool.
    assert_eq!(gateway.client().get("http://a.test/").status, 401);
    let urls = ["http://a.test/1", "http://a.test/2", "http://a.test/3"];
    let done =
        tools::curl(gateway.proxy(), &[&["--ntlm", "-u", "ann:secret", "-w", "\n"], &urls[..]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    let answers: Vec<_> = done.stdout.lines().collect();
    assert_eq!(answers.len(), 3, "{done:?}");
    assert!(
        answers[0].starts_with("user ") && answers.iter().all(|answer| *answer == answers[0]),
        "{done:?}"
    );
    let gone = gateway.metric("egress_upstream_pool_idle_connections", &[]);
    assert_eq!(gateway.client().get("http://a.test/").status, 401, "nobody inherits it (idle: {gone})");
}

#[test]
fn who_comes_after_an_authenticated_client_is_nobody() {
    let origin = origin();
    let gateway = gateway_to(&origin);
    let mut first = gateway.client();
    let third = "Authorization: NTLM TlRMTVNTUAADAAAA\r\n";
    assert_eq!(first.get("http://a.test/").status, 401);
    assert_eq!(
        first.request("GET", "http://a.test/", "Authorization: NTLM TlRMTVNTUAABAAAA\r\n").status,
        401
    );
    let own = first.request("GET", "http://a.test/", third).text();
    for _ in 0..3 {
        let mut other = gateway.client();
        assert_eq!(other.get("http://a.test/").status, 401);
        assert_eq!(first.get("http://a.test/").text(), own, "its own connection, still");
        assert_eq!(other.get("http://a.test/").status, 401);
    }
    assert_eq!(origin.accepted(), 4, "each that was challenged has its own");
    drop(first);
    gateway.wait_metric("egress_upstream_pool_idle_connections", &[], 0.0);
    until("connections that end with their clients", || {
        (gateway.metric("egress_active_connections", &[]) == 0.0).then_some(())
    });
    assert_eq!(gateway.client().get("http://a.test/").status, 401);
}
