//! Origins: an HTTP/1.1 server whose every byte can be predicted, well-behaved or as hostile as its client asks for,
//! and an echo server.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sluice_engine::{Buffer, Engine, Listener, Stream};
use sluice_engine_sim::SimEngine;
use sluice_proto::http1::{Body, Framing, HeadLimits, Method, Progress, Target, parse_request_head};

use super::pattern;

/// How an origin answers `/<behaviour>/<id>/<length>`. [`Behaviour::name`] is what stands in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// `Content-Length`, whole, and the connection stays.
    Plain,
    /// Chunks and a trailer.
    Chunked,
    /// A whole response and a forged second one behind it.
    Extra,
    /// The same, but the forged one comes a moment later, when the connection is idle.
    LateExtra,
    /// Says `Connection: close` and does.
    Close,
    /// Closes behind the response without a word.
    QuietClose,
    /// Answers, and closes without an answer when the next request has come.
    NextClose,
    /// The same with a reset.
    NextReset,
    /// A body that ends with the connection.
    UntilClose,
    /// Ends before `Content-Length` is reached.
    Short,
    /// Resets before `Content-Length` is reached.
    ShortReset,
    /// Ends without the last chunk.
    ChunksShort,
    /// A chunk size that is none, a moment behind good chunks.
    ChunksBad,
    /// The first chunk size is none, and comes with the head.
    ChunksBadFirst,
    /// A body that ends with the connection, which is reset.
    UntilReset,
    /// Answers before it reads the request's body.
    Early,
    /// Answers and closes without reading the request's body.
    EarlyClose,
    /// Several interim heads before the response.
    Interim,
    /// An interim head, then the end.
    InterimDie,
    /// More interim heads than anybody needs.
    InterimFlood,
    /// Every byte by itself.
    Split,
    /// No HTTP.
    Garbage,
    /// Two `Content-Length`.
    BadHead,
    /// Half a head, then the end.
    HalfHead,
    /// A switch of protocols that nobody asked for.
    Switch,
    /// 204.
    NoContent,
    /// 304 with a `Content-Length`.
    NotModified,
    /// Half a body, then nothing.
    Stall,
    /// Never answers.
    Silent,
    /// Closes without an answer.
    Die,
}

/// What a request to such an origin must come to, where nothing else goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This status and the whole body.
    Whole(u16),
    /// An answer of the gateway's own.
    Answer(u16),
    /// A response that breaks off with a reset, never with a clean end.
    Broken,
}

impl Behaviour {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::Plain,
        Self::Chunked,
        Self::Extra,
        Self::LateExtra,
        Self::Close,
        Self::QuietClose,
        Self::NextClose,
        Self::NextReset,
        Self::UntilClose,
        Self::Short,
        Self::ShortReset,
        Self::ChunksShort,
        Self::ChunksBad,
        Self::ChunksBadFirst,
        Self::UntilReset,
        Self::Early,
        Self::EarlyClose,
        Self::Interim,
        Self::InterimDie,
        Self::InterimFlood,
        Self::Split,
        Self::Garbage,
        Self::BadHead,
        Self::HalfHead,
        Self::Switch,
        Self::NoContent,
        Self::NotModified,
        Self::Stall,
        Self::Silent,
        Self::Die,
    ];

    /// As it stands in a path.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// What a client gets that asks for at least one byte of body.
    pub fn expected(self) -> Expected {
        match self {
            Self::Short
            | Self::ShortReset
            | Self::Stall
            | Self::ChunksShort
            | Self::ChunksBad
            | Self::UntilReset => Expected::Broken,
            Self::ChunksBadFirst | Self::InterimFlood | Self::Garbage | Self::BadHead | Self::Switch => {
                Expected::Answer(502)
            }
            Self::HalfHead | Self::InterimDie | Self::Die => Expected::Answer(503),
            Self::Silent => Expected::Answer(504),
            Self::NoContent => Expected::Whole(204),
            Self::NotModified => Expected::Whole(304),
            _ => Expected::Whole(200),
        }
    }
}

/// The requests that an origin has seen, by their id: heads that came whole.
#[derive(Clone, Default)]
pub struct Ledger(Rc<RefCell<HashMap<u64, (Method, u32)>>>);

impl Ledger {
    fn note(&self, id: u64, method: Method) {
        self.0.borrow_mut().entry(id).or_insert((method, 0)).1 += 1;
    }

    /// How often this request was seen.
    pub fn seen(&self, id: u64) -> u32 {
        self.0.borrow().get(&id).map_or(0, |(_, count)| *count)
    }

    /// A request that was seen more often than its method allows: twice if it is idempotent, else once.
    pub fn repeated(&self) -> Option<(u64, u32)> {
        let seen = self.0.borrow();
        let too_often =
            seen.iter().find(|(_, (method, count))| *count > 1 + u32::from(method.is_idempotent()));
        too_often.map(|(id, (_, count))| (*id, *count))
    }
}

/// Serves HTTP on `address`: `/<tag>/<length>` gives that pattern, chunked when the tag is odd;
/// `/<behaviour>/<id>/<length>` is answered as the [`Behaviour`] says; a request body is answered with its own length
/// and sum.
pub fn serve_http(engine: &SimEngine, address: SocketAddr, ledger: &Ledger) {
    let listener = engine.listen(address, None).expect("a free address");
    let (engine, ledger) = (engine.clone(), ledger.clone());
    engine.clone().spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let connection =
                Connection { engine: engine.clone(), stream, ledger: ledger.clone(), received: Vec::new() };
            engine.spawn(async move {
                // The end of a connection, whoever ended it.
                let _ = connection.serve().await;
            });
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

/// Serves a greeting on `address`, as servers that speak first do, then an echo.
pub fn serve_greeting(engine: &SimEngine, address: SocketAddr) {
    let listener = engine.listen(address, None).expect("a free address");
    let engine = engine.clone();
    engine.clone().spawn(async move {
        while let Ok(stream) = listener.accept().await {
            engine.spawn(async move {
                let mut next = Buffer::from(b"hello\n".to_vec());
                while !next.is_empty() && stream.send(next).await.is_ok() {
                    let Ok(buffer) = stream.receive().await else { return };
                    next = buffer;
                }
            });
        }
    });
}

/// Sends 30,000 bytes of pattern 9 to whoever connects to `address`, then resets.
pub fn serve_reset(engine: &SimEngine, address: SocketAddr) {
    let listener = engine.listen(address, None).expect("a free address");
    let engine = engine.clone();
    engine.clone().spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let engine = engine.clone();
            engine.clone().spawn(async move {
                let _ = stream.send(Buffer::from(pattern(9, 30_000))).await;
                engine.sleep_until(engine.now() + Duration::from_millis(50)).await;
                stream.reset();
            });
        }
    });
}

/// Accepts on `address`, reads, and never ends a connection.
pub fn serve_nothing(engine: &SimEngine, address: SocketAddr) {
    let listener = engine.listen(address, None).expect("a free address");
    let engine = engine.clone();
    engine.clone().spawn(async move {
        while let Ok(stream) = listener.accept().await {
            engine.spawn(async move {
                while stream.receive().await.is_ok_and(|buffer| !buffer.is_empty()) {}
                std::future::pending::<()>().await;
                drop(stream);
            });
        }
    });
}

/// A request as the origin understood it.
struct Request {
    method: Method,
    framing: Framing,
    behaviour: Behaviour,
    id: u64,
    length: usize,
    host: String,
}

/// The connection is over.
struct Over;

struct Connection {
    engine: SimEngine,
    stream: <SimEngine as Engine>::Stream,
    ledger: Ledger,
    received: Vec<u8>,
}

impl Connection {
    async fn serve(mut self) -> Result<(), Over> {
        let mut last_words = None;
        loop {
            let request = self.request().await?;
            self.ledger.note(request.id, request.method);
            match last_words {
                Some(Behaviour::NextReset) => {
                    self.stream.reset();
                    return Err(Over);
                }
                Some(_) => return Err(Over),
                None => {}
            }
            last_words = self.answer(&request).await?;
        }
    }

    /// Answers one request; gives how the next one is met, where it is not answered.
    async fn answer(&mut self, request: &Request) -> Result<Option<Behaviour>, Over> {
        use Behaviour as B;
        match request.behaviour {
            B::Die => return Err(Over),
            B::Silent => loop {
                self.more().await?;
            },
            B::Early | B::EarlyClose => {
                let payload = pattern(request.id, request.length);
                self.send(&fixed(request, 200, &payload)).await?;
                if request.behaviour == B::EarlyClose {
                    return Err(Over);
                }
                self.body(request.framing).await?;
                return Ok(None);
            }
            _ => {}
        }
        let body = self.body(request.framing).await?;
        let payload = if body.is_empty() { pattern(request.id, request.length) } else { summary(&body) };
        match request.behaviour {
            B::Chunked => self.send(&chunked(request, &payload, true)).await?,
            B::Extra => self.send(&[fixed(request, 200, &payload), forged()].concat()).await?,
            B::Close => {
                let response = fixed(request, 200, &payload);
                let response = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", &response[17..]].concat();
                self.send(&response).await?;
                return Err(Over);
            }
            B::UntilClose | B::UntilReset => {
                let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", own_lines(request));
                self.send(&[head.as_bytes(), &payload].concat()).await?;
                return self.end(request.behaviour == B::UntilReset).await;
            }
            B::Short | B::ShortReset => {
                let response = fixed(request, 200, &payload);
                self.send(&response[..response.len() - 1]).await?;
                return self.end(request.behaviour == B::ShortReset).await;
            }
            B::Stall => {
                let response = fixed(request, 200, &payload);
                self.send(&response[..response.len() - payload.len().div_ceil(2)]).await?;
                loop {
                    self.more().await?;
                }
            }
            B::ChunksShort => {
                self.send(&chunked(request, &payload, false)).await?;
                return Err(Over);
            }
            B::ChunksBad => {
                self.send(&chunked(request, &payload, false)).await?;
                self.engine.sleep_until(self.engine.now() + Duration::from_millis(5)).await;
                self.send(b"0x2\r\nab\r\n0\r\n\r\n").await?;
            }
            B::ChunksBadFirst => {
                let bad = b"0x2\r\nab\r\n0\r\n\r\n".to_vec();
                self.send(&[chunked(request, &[], false), bad].concat()).await?;
            }
            B::Interim | B::InterimDie | B::InterimFlood => {
                let count = if request.behaviour == B::InterimFlood { 40 } else { 3 };
                for status in [100, 103, 102].into_iter().cycle().take(count) {
                    self.send(format!("HTTP/1.1 {status} Wait\r\nx-hint: a\r\n\r\n").as_bytes()).await?;
                }
                if request.behaviour == B::InterimDie {
                    return Err(Over);
                }
                self.send(&fixed(request, 200, &payload)).await?;
            }
            B::Split => {
                for byte in fixed(request, 200, &payload) {
                    self.send(&[byte]).await?;
                }
            }
            B::Garbage => self.send(b"SSH-2.0-OpenSSH_9.9\r\n").await?,
            B::BadHead => {
                self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab").await?;
            }
            B::HalfHead => {
                self.send(b"HTTP/1.1 200 OK\r\nConte").await?;
                return Err(Over);
            }
            B::Switch => self.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n").await?,
            B::NoContent => {
                let head = format!("HTTP/1.1 204 No Content\r\n{}\r\n", own_lines(request));
                self.send(head.as_bytes()).await?;
            }
            B::NotModified => {
                let head =
                    format!("HTTP/1.1 304 Not Modified\r\n{}Content-Length: 7\r\n\r\n", own_lines(request));
                self.send(head.as_bytes()).await?;
            }
            _ => self.send(&fixed(request, 200, &payload)).await?,
        }
        match request.behaviour {
            B::QuietClose => Err(Over),
            B::LateExtra => {
                self.engine.sleep_until(self.engine.now() + Duration::from_millis(2)).await;
                self.send(&forged()).await.map(|()| None)
            }
            B::NextClose | B::NextReset => Ok(Some(request.behaviour)),
            _ => Ok(None),
        }
    }

    async fn end(&self, reset: bool) -> Result<Option<Behaviour>, Over> {
        if reset {
            // What was sent is on its way before the reset is.
            self.engine.sleep_until(self.engine.now() + Duration::from_millis(5)).await;
            self.stream.reset();
        }
        Err(Over)
    }

    async fn request(&mut self) -> Result<Request, Over> {
        loop {
            if let Ok(Progress::Complete(head)) = parse_request_head(&self.received, &HeadLimits::default()) {
                let Target::Origin(path) = head.target else { return Err(Over) };
                let path = String::from_utf8_lossy(path).into_owned();
                let mut parts = path.split('/').skip(1);
                let first = parts.next().unwrap_or_default();
                let number = |part: Option<&str>| part.and_then(|part| part.parse().ok()).unwrap_or(0);
                let (behaviour, id) = match Behaviour::parse(first) {
                    Some(behaviour) => (behaviour, number(parts.next())),
                    None if number(Some(first)) % 2 == 1 => (Behaviour::Chunked, number(Some(first))),
                    None => (Behaviour::Plain, number(Some(first))),
                };
                let host = head.host.map(|host| String::from_utf8_lossy(host.host).into_owned());
                let request = Request {
                    method: head.method,
                    framing: head.framing,
                    behaviour,
                    id,
                    length: number(parts.next()) as usize,
                    host: host.unwrap_or_default(),
                };
                let length = head.length;
                self.received.drain(..length);
                return Ok(request);
            }
            self.more().await?;
        }
    }

    async fn body(&mut self, framing: Framing) -> Result<Vec<u8>, Over> {
        let mut body = Body::new(framing);
        let mut data = Vec::new();
        while !body.is_complete() {
            if self.received.is_empty() {
                self.more().await?;
            }
            let decoded = body.feed(&mut self.received).map_err(|_| Over)?;
            data.extend_from_slice(&self.received[decoded.data.clone()]);
            self.received.drain(..decoded.consumed);
        }
        Ok(data)
    }

    async fn more(&mut self) -> Result<(), Over> {
        match self.stream.receive().await {
            Ok(buffer) if !buffer.is_empty() => {
                self.received.extend_from_slice(&buffer);
                Ok(())
            }
            _ => Err(Over),
        }
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), Over> {
        for piece in bytes.chunks(10_000) {
            self.stream.send(Buffer::from(piece.to_vec())).await.map_err(|_| Over)?;
        }
        Ok(())
    }
}

/// A response that nobody asked for: whoever reads it as the answer to a request has been fooled.
fn forged() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\nx-id: 666\r\nContent-Length: 6\r\n\r\nforged".to_vec()
}

fn own_lines(request: &Request) -> String {
    format!("x-host: {}\r\nx-id: {}\r\n", request.host, request.id)
}

fn fixed(request: &Request, status: u16, payload: &[u8]) -> Vec<u8> {
    let lines = own_lines(request);
    let length = payload.len();
    let mut response =
        format!("HTTP/1.1 {status} OK\r\n{lines}Content-Length: {length}\r\n\r\n").into_bytes();
    if request.method != Method::Head {
        response.extend_from_slice(payload);
    }
    response
}

fn chunked(request: &Request, payload: &[u8], whole: bool) -> Vec<u8> {
    let lines = own_lines(request);
    let mut response = format!("HTTP/1.1 200 OK\r\n{lines}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    if request.method == Method::Head {
        return response;
    }
    for piece in payload.chunks(1 + (request.id as usize % 5000)) {
        response.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        response.extend_from_slice(piece);
        response.extend_from_slice(b"\r\n");
    }
    if whole {
        response.extend_from_slice(b"0\r\nx-end: yes\r\n\r\n");
    }
    response
}

/// What the origin says of a request body.
pub fn summary(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} {sum}", body.len()).into_bytes()
}
