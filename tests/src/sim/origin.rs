//! Origins: an HTTP/1.1 server whose every byte can be predicted, and an echo server.

use std::net::SocketAddr;

use sluice_engine::{Buffer, Engine, Listener, Stream};
use sluice_engine_sim::SimEngine;
use sluice_proto::http1::{Body, Framing, HeadLimits, Progress, Target, parse_request_head};

use super::pattern;

/// Serves HTTP on `address`: `/<tag>/<length>` gives that pattern, chunked when the tag is odd; a request body is
/// answered with its own length and sum.
pub fn serve_http(engine: &SimEngine, address: SocketAddr) {
    let listener = engine.listen(address, None).expect("a free address");
    let engine = engine.clone();
    engine.clone().spawn(async move {
        while let Ok(stream) = listener.accept().await {
            engine.spawn(http_connection(stream));
        }
    });
}

/// Serves an echo on `address`.
pub fn serve_echo(engine: &SimEngine, address: SocketAddr) {
    let listener = engine.listen(address, None).expect("a free address");
    let engine = engine.clone();
    engine.clone().spawn(async move {
        while let Ok(stream) = listener.accept().await {
            engine.spawn(async move {
                while let Ok(buffer) = stream.receive().await {
                    if buffer.is_empty() {
                        let _ = stream.shutdown();
                        return;
                    }
                    if stream.send(buffer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

async fn http_connection<S: Stream>(stream: S) {
    let mut received = Vec::new();
    loop {
        let (head_bytes, framing, path, host) = loop {
            if let Ok(Progress::Complete(head)) = parse_request_head(&received, &HeadLimits::default()) {
                let Target::Origin(path) = head.target else { return };
                let host = head.host.map(|host| host.host.to_vec());
                break (head.length, head.framing, path.to_vec(), host);
            }
            match stream.receive().await {
                Ok(buffer) if !buffer.is_empty() => received.extend_from_slice(&buffer),
                _ => return,
            }
        };
        received.drain(..head_bytes);
        let Some(body) = read_body(&stream, &mut received, framing).await else { return };
        let response = respond(&path, host.as_deref(), &body);
        for piece in response.chunks(10_000) {
            if stream.send(Buffer::from(piece.to_vec())).await.is_err() {
                return;
            }
        }
    }
}

async fn read_body<S: Stream>(stream: &S, received: &mut Vec<u8>, framing: Framing) -> Option<Vec<u8>> {
    let mut body = Body::new(framing);
    let mut data = Vec::new();
    while !body.is_complete() {
        if received.is_empty() {
            match stream.receive().await {
                Ok(buffer) if !buffer.is_empty() => received.extend_from_slice(&buffer),
                _ => return None,
            }
        }
        let decoded = body.feed(received).ok()?;
        data.extend_from_slice(&received[decoded.data.clone()]);
        received.drain(..decoded.consumed);
    }
    Some(data)
}

fn respond(path: &[u8], host: Option<&[u8]>, body: &[u8]) -> Vec<u8> {
    let path = String::from_utf8_lossy(path);
    let mut parts = path.split('/').skip(1);
    let tag: u64 = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let length: usize = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let payload = if body.is_empty() { pattern(tag, length) } else { summary(body) };
    let host = String::from_utf8_lossy(host.unwrap_or_default());
    let mut response = format!("HTTP/1.1 200 OK\r\nx-host: {host}\r\n").into_bytes();
    if tag % 2 == 1 {
        response.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in payload.chunks(1 + (tag as usize % 5000)) {
            response.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            response.extend_from_slice(piece);
            response.extend_from_slice(b"\r\n");
        }
        response.extend_from_slice(b"0\r\nx-end: yes\r\n\r\n");
    } else {
        response.extend_from_slice(format!("Content-Length: {}\r\n\r\n", payload.len()).as_bytes());
        response.extend_from_slice(&payload);
    }
    response
}

/// What the origin says of a request body.
pub fn summary(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} {sum}", body.len()).into_bytes()
}
