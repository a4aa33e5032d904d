//! ClientHellos byte by byte, for what no real client would send.

/// A ClientHello in one record, with these server names (none: no extension).
#[must_use]
pub fn client_hello(names: &[&[u8]]) -> Vec<u8> {
    record(&handshake(names, &[]))
}

/// As [`client_hello`] with a padding extension of `padding` bytes; records hold at most `record_bytes` each.
#[must_use]
pub fn padded_hello(name: &[u8], padding: usize, record_bytes: usize) -> Vec<u8> {
    let message = handshake(&[name], &extension(21, &vec![0; padding]));
    message.chunks(record_bytes).flat_map(record).collect()
}

/// As [`client_hello`] with one more extension of `kind`.
#[must_use]
pub fn hello_with(name: &[u8], kind: u16, body: &[u8]) -> Vec<u8> {
    record(&handshake(&[name], &extension(kind, body)))
}

fn handshake(names: &[&[u8]], more: &[u8]) -> Vec<u8> {
    let mut extensions = Vec::new();
    if !names.is_empty() {
        let entries: Vec<u8> = names.iter().flat_map(|name| [vec![0], sized(name)].concat()).collect();
        extensions.extend(extension(0, &sized(&entries)));
    }
    extensions.extend(extension(43, &[2, 3, 4]));
    extensions.extend_from_slice(more);
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.push(0); // session id
    body.extend(sized(&[0x13, 0x01]));
    body.extend([1, 0]); // no compression
    body.extend(sized(&extensions));
    let length = (body.len() as u32).to_be_bytes();
    [&[1], &length[1..], &body].concat()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &*sized(fragment)].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(body)].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}
