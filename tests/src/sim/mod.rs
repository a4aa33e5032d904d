//! A simulated world around the production worker: its control plane, clients and origins, all under one seed.

pub mod chaos;
pub mod client;
pub mod origin;
pub mod script;
pub mod world;

/// A request to a proxy for an origin of [`origin`].
pub fn request(method: &str, host: &str, what: origin::Behaviour, id: u64, length: usize) -> Vec<u8> {
    let what = what.name();
    format!("{method} http://{host}/{what}/{id}/{length} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A GET to a proxy for `length` bytes of an origin of [`origin`].
pub fn get(host: &str, what: origin::Behaviour, length: usize) -> Vec<u8> {
    request("GET", host, what, 10, length)
}

/// A CONNECT to a proxy.
pub fn connect_to(authority: &str) -> Vec<u8> {
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes()
}

/// A request with a body of a known length.
pub fn request_with_body(method: &str, host: &str, what: origin::Behaviour, id: u64, body: &[u8]) -> Vec<u8> {
    let (what, length) = (what.name(), body.len());
    let head = format!(
        "{method} http://{host}/{what}/{id}/{length} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The payload that both ends can compute: `length` bytes that depend on `tag`.
pub fn pattern(tag: u64, length: usize) -> Vec<u8> {
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state & 0xff) as u8
        })
        .collect()
}
