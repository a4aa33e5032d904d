//! Clients: what an application sends through a door, and a strict reading of what comes back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sluice_engine::{Buffer, Engine, Stream};
use sluice_engine_sim::{SimEngine, SimStream};
use sluice_proto::http1::{Body, HeadLimits, Method, Progress, parse_response_head};

use super::connect_to;
use super::world::PROXY;

/// A response, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The body, decoded.
    pub body: Vec<u8>,
    /// `x-sluice-reason`, where there is one.
    pub reason: Option<String>,
    /// Whether the connection may be used again.
    pub persistent: bool,
    /// The request that the origin answered, by its `x-id`.
    pub id: Option<u64>,
}

/// A client's connection.
pub struct Client {
    /// The stream itself, for what the methods here do not do.
    pub stream: Rc<SimStream>,
    engine: SimEngine,
    outgoing: Rc<RefCell<VecDeque<u8>>>,
    sending: Rc<Cell<bool>>,
    received: Vec<u8>,
}

impl Client {
    /// Connects to a door.
    pub async fn connect(engine: &SimEngine, door: SocketAddr) -> io::Result<Self> {
        let stream = Rc::new(engine.connect(door, None).await?);
        let (outgoing, sending) = (Rc::default(), Rc::default());
        Ok(Self { stream, engine: engine.clone(), outgoing, sending, received: Vec::new() })
    }

    /// Sends bytes as they are; behind those of [`start`](Self::start), where they are still under way.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.outgoing.borrow_mut().extend(bytes);
        if self.sending.replace(true) {
            return Ok(());
        }
        flush(&self.stream, &self.outgoing, &self.sending).await
    }

    /// Sends bytes in a task of their own, as far as the peer takes them.
    pub fn start(&self, bytes: &[u8]) {
        self.outgoing.borrow_mut().extend(bytes);
        if !self.sending.replace(true) {
            let (stream, outgoing) = (Rc::clone(&self.stream), Rc::clone(&self.outgoing));
            let sending = Rc::clone(&self.sending);
            self.engine.spawn(async move {
                // Who reads what comes back sees why it broke off.
                let _ = flush(&stream, &outgoing, &sending).await;
            });
        }
    }

    /// Sends bytes in pieces of at most `piece_bytes`, a pause behind each of them where `pause` is not zero.
    pub async fn send_split(&self, bytes: &[u8], piece_bytes: usize, pause: Duration) -> io::Result<()> {
        for piece in bytes.chunks(piece_bytes) {
            self.send(piece).await?;
            if !pause.is_zero() {
                self.engine.sleep_until(self.engine.now() + pause).await;
            }
        }
        Ok(())
    }

    /// Reads one response; an error where it is not whole: `UnexpectedEof` where the peer ended in order within it,
    /// `NotConnected` where it ended before it.
    pub async fn response(&mut self, method: Method) -> io::Result<Response> {
        let (length, framing, mut response) = loop {
            match parse_response_head(&self.received, method, &HeadLimits::default()) {
                Ok(Progress::Complete(head)) if head.is_interim() => {
                    let length = head.length;
                    self.received.drain(..length);
                    continue;
                }
                Ok(Progress::Complete(head)) => {
                    let reason = head.headers.get("x-sluice-reason");
                    let response = Response {
                        status: head.status,
                        body: Vec::new(),
                        reason: reason.map(|reason| String::from_utf8_lossy(reason).into_owned()),
                        persistent: head.persistent,
                        id: head.headers.get("x-id").and_then(|id| String::from_utf8_lossy(id).parse().ok()),
                    };
                    break (head.length, head.framing, response);
                }
                Ok(Progress::Partial) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
            }
            match self.more().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.received.is_empty() => {
                    return Err(io::ErrorKind::NotConnected.into());
                }
                more => more?,
            }
        };
        self.received.drain(..length);
        let mut body = Body::new(framing);
        while !body.is_complete() {
            if self.received.is_empty() {
                match self.more().await {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && body.may_end_here() => {
                        break;
                    }
                    Err(error) => return Err(error),
                    Ok(()) => {}
                }
            }
            let decoded = body
                .feed(&mut self.received)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            response.body.extend_from_slice(&self.received[decoded.data.clone()]);
            self.received.drain(..decoded.consumed);
        }
        Ok(response)
    }

    /// Everything until the peer ends in order; an error where it resets.
    pub async fn to_end(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(std::mem::take(&mut self.received));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Exactly `count` bytes.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.received.len() < count {
            self.more().await?;
        }
        Ok(self.received.drain(..count).collect())
    }

    async fn more(&mut self) -> io::Result<()> {
        let buffer = self.stream.receive().await?;
        if buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&buffer);
        Ok(())
    }
}

/// A client of the proxy door that has said nothing yet.
pub async fn connect(engine: &SimEngine) -> Client {
    open(engine, PROXY, b"").await
}

/// A client of a door that has sent its first bytes.
pub async fn open(engine: &SimEngine, door: SocketAddr, first: &[u8]) -> Client {
    let client = Client::connect(engine, door).await.expect("the door is open");
    client.send(first).await.expect("a new connection takes it");
    client
}

/// A client whose CONNECT the proxy door has granted.
pub async fn tunnel(engine: &SimEngine, authority: &str) -> Client {
    let mut client = open(engine, PROXY, &connect_to(authority)).await;
    assert_eq!(client.response(Method::Connect).await.expect("an answer").status, 200, "{authority}");
    client
}

/// Sends what is to go out; after an error nothing more.
async fn flush(stream: &SimStream, outgoing: &RefCell<VecDeque<u8>>, sending: &Cell<bool>) -> io::Result<()> {
    loop {
        let piece: Vec<u8> = {
            let mut outgoing = outgoing.borrow_mut();
            let count = outgoing.len().min(10_000);
            outgoing.drain(..count).collect()
        };
        if piece.is_empty() {
            sending.set(false);
            return Ok(());
        }
        stream.send(Buffer::from(piece)).await?;
    }
}

/// A ClientHello for `name`, as small as RFC 8446 lets it be.
pub fn client_hello(name: &str) -> Vec<u8> {
    let name = name.as_bytes();
    let mut server_name = vec![0, 0];
    let list = (name.len() + 3) as u16;
    server_name.extend_from_slice(&(list + 2).to_be_bytes());
    server_name.extend_from_slice(&list.to_be_bytes());
    server_name.push(0);
    server_name.extend_from_slice(&(name.len() as u16).to_be_bytes());
    server_name.extend_from_slice(name);
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(&(server_name.len() as u16).to_be_bytes());
    body.extend_from_slice(&server_name);
    let mut handshake = vec![1, 0];
    handshake.extend_from_slice(&(body.len() as u16).to_be_bytes());
    handshake.extend_from_slice(&body);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(handshake.len() as u16).to_be_bytes());
    record.extend_from_slice(&handshake);
    record
}
