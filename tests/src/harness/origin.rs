//! Origins: TCP servers that count what reaches them and do exactly what a test scripts.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use super::client::header;
use super::wait::DEADLINE;

/// What an origin has seen.
#[derive(Default)]
struct Seen {
    accepted: AtomicU64,
    bytes: AtomicU64,
    heads: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// A server on a loopback address. Its connections are served by threads of their own.
pub struct Origin {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    seen: Arc<Seen>,
}

/// One accepted connection.
pub struct Peer {
    /// The socket.
    pub stream: TcpStream,
    /// How many connections were accepted before this one.
    pub index: u64,
    seen: Arc<Seen>,
    held: Vec<u8>,
}

impl Origin {
    /// On a free port of 127.0.0.1; `serve` runs for each connection on a thread of its own.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start(serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), serve)
    }

    /// As [`Self::start`] on a given address.
    ///
    /// # Panics
    /// When the address cannot be bound.
    #[must_use]
    pub fn at(address: SocketAddr, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = match TcpListener::bind(address) {
            Ok(listener) => Arc::new(listener),
            Err(error) => panic!("{address}: {error}"),
        };
        let address = listener.local_addr().expect("a bound listener");
        let seen = Arc::new(Seen::default());
        let (serve, shared, accepting) = (Arc::new(serve), Arc::clone(&seen), Arc::clone(&listener));
        std::thread::spawn(move || {
            for stream in accepting.incoming() {
                if shared.stop.load(SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                stream.set_read_timeout(Some(2 * DEADLINE)).expect("a timeout");
                stream.set_write_timeout(Some(2 * DEADLINE)).expect("a timeout");
                stream.set_nodelay(true).expect("no delay");
                let index = shared.accepted.fetch_add(1, SeqCst);
                let mut peer = Peer { stream, index, seen: Arc::clone(&shared), held: Vec::new() };
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(&mut peer));
            }
        });
        Self { address, listener, seen }
    }

    /// Answers every request with 200 and `body`, keep-alive; request bodies are read.
    #[must_use]
    pub fn http(body: &'static str) -> Self {
        Self::start(move |peer| {
            while let Some(request) = peer.request() {
                let body = if request.head.starts_with("HEAD") { "" } else { body };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                if !peer.send(format!("{head}{body}")) {
                    return;
                }
            }
        })
    }

    /// Sends back what it gets; half-close is answered with half-close.
    #[must_use]
    pub fn echo() -> Self {
        Self::start(Peer::echo)
    }

    /// Reads everything and sends nothing.
    #[must_use]
    pub fn sink() -> Self {
        Self::start(|peer| while peer.read_some().is_some_and(|bytes| !bytes.is_empty()) {})
    }

    /// Reads from all its connections on one thread, and sends nothing: for thousands of them.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start_counting() -> Self {
        let streams = Arc::new(Mutex::new(Vec::<TcpStream>::new()));
        let shared = Arc::clone(&streams);
        let origin = Self::start(move |peer| {
            let Ok(stream) = peer.stream.try_clone() else { return };
            stream.set_nonblocking(true).expect("a socket");
            shared.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        });
        let seen = Arc::clone(&origin.seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while !seen.stop.load(SeqCst) {
                let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
                streams.retain_mut(|stream| match stream.read(&mut bytes) {
                    Ok(read) => {
                        seen.bytes.fetch_add(read as u64, SeqCst);
                        read > 0
                    }
                    Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
                });
                drop(streams);
                super::wait::let_pass(std::time::Duration::from_millis(20));
            }
        });
        origin
    }

    /// Nothing may reach it: a test asserts [`Self::untouched`] in the end.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::sink()
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.seen.accepted.load(SeqCst)
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(SeqCst)
    }

    /// Request heads read so far.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asserts that no connection was ever made to it. The kernel completes a handshake before anybody accepts, so a
    /// connection of our own goes through the same queue first: what was in it before has then been counted.
    ///
    /// # Panics
    /// When one was.
    pub fn untouched(&self) {
        let before = TcpStream::connect(self.address).expect("the origin listens");
        super::wait::until("the origin's own count", || (self.accepted() >= 1).then_some(()));
        drop(before);
        assert_eq!(self.accepted(), 1, "something reached {}", self.address);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.seen.stop.store(true, SeqCst);
        // Wakes the accepting thread, which then sees the flag. A connection would do as well, but whoever drops an origin
        // of another namespace would make it to a host of the real network.
        rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both).ok();
    }
}

/// A request as an origin read it.
pub struct Request {
    /// The head as it came.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Trailer lines.
    pub trailers: Vec<String>,
}

impl Peer {
    /// Writes; whether the other side took it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Reads what comes; empty at the end, `None` on an error.
    pub fn read_some(&mut self) -> Option<Vec<u8>> {
        if !self.held.is_empty() {
            return Some(std::mem::take(&mut self.held));
        }
        let mut chunk = vec![0; 64 * 1024];
        let read = self.stream.read(&mut chunk).ok()?;
        self.seen.bytes.fetch_add(read as u64, SeqCst);
        chunk.truncate(read);
        Some(chunk)
    }

    /// Everything up to and with `end`.
    pub fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let mut all = std::mem::take(&mut self.held);
        loop {
            if let Some(at) = all.windows(end.len()).position(|window| window == end) {
                self.held = all.split_off(at + end.len());
                return Some(all);
            }
            let more = self.read_some()?;
            if more.is_empty() {
                return None;
            }
            all.extend(more);
        }
    }

    /// Exactly so many bytes.
    pub fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut all = std::mem::take(&mut self.held);
        while all.len() < length {
            let more = self.read_some()?;
            if more.is_empty() {
                return None;
            }
            all.extend(more);
        }
        self.held = all.split_off(length);
        Some(all)
    }

    /// Reads a head and notes it.
    pub fn head(&mut self) -> Option<String> {
        let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n")?).into_owned();
        self.seen.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        Some(head)
    }

    /// Reads a whole request.
    pub fn request(&mut self) -> Option<Request> {
        let head = self.head()?;
        let mut request = Request { head, body: Vec::new(), trailers: Vec::new() };
        if header(&request.head, "transfer-encoding").is_some() {
            self.chunks(&mut request)?;
        } else if let Some(length) = header(&request.head, "content-length") {
            request.body = self.exactly(length.parse().ok()?)?;
        }
        Some(request)
    }

    fn chunks(&mut self, request: &mut Request) -> Option<()> {
        loop {
            let line = String::from_utf8(self.until(b"\r\n")?).ok()?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            request.body.extend(self.exactly(size)?);
            self.exactly(2)?;
        }
        loop {
            let line = String::from_utf8(self.until(b"\r\n")?).ok()?;
            if line == "\r\n" {
                return Some(());
            }
            request.trailers.push(line.trim_end().to_owned());
        }
    }

    /// Sends back what comes until the end; then ends too.
    pub fn echo(&mut self) {
        while let Some(bytes) = self.read_some() {
            if bytes.is_empty() || !self.send(bytes) {
                break;
            }
        }
        self.stream.shutdown(std::net::Shutdown::Write).ok();
    }

    /// Resets the connection.
    pub fn reset(&mut self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).ok();
    }
}

/// An address of the loopback network that nobody else uses: its port 1 is held for as long as the value lives.
pub struct Loopback {
    /// The address.
    pub ip: IpAddr,
    _held: TcpListener,
}

impl Loopback {
    /// A fresh one.
    ///
    /// # Panics
    /// When a thousand are taken.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        for _ in 0..1000 {
            let n = u64::from(std::process::id()).wrapping_mul(251).wrapping_add(NEXT.fetch_add(1, SeqCst));
            let [.., b, c, d] = n.to_be_bytes();
            let ip = Ipv4Addr::new(127, b.max(2), c, d.clamp(1, 254));
            if let Ok(held) = TcpListener::bind((ip, 1)) {
                return Self { ip: ip.into(), _held: held };
            }
        }
        panic!("no loopback address is free");
    }
}

impl Default for Loopback {
    fn default() -> Self {
        Self::new()
    }
}
