//! A client that writes exactly the bytes it is told to, and reads HTTP answers strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::DEADLINE;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an end of stream.
    Closed,
    /// With a reset.
    Reset,
}

/// One HTTP/1 answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The head as it came.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Trailer lines.
    pub trailers: Vec<String>,
}

impl Response {
    /// The value of a header, names compared without case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a text body")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The `x-sluice-reason` word.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.header("x-sluice-reason").map_or("", |line| line.split(';').next().unwrap_or(""))
    }
}

/// The value of a header in a head.
#[must_use]
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A client connection.
pub struct Http {
    /// The socket.
    pub stream: TcpStream,
    held: Vec<u8>,
}

impl Http {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn connect(to: SocketAddr) -> Self {
        match TcpStream::connect(to) {
            Ok(stream) => Self::over(stream),
            Err(error) => panic!("{to}: {error}"),
        }
    }

    /// Over a connected socket.
    ///
    /// # Panics
    /// When the socket takes no time-outs.
    #[must_use]
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, held: Vec::new() }
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// When the other side has gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the other side takes the bytes");
    }

    /// Writes bytes; whether they were taken.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Asks for a URL through a proxy and reads the answer.
    pub fn get(&mut self, url: &str) -> Response {
        self.request("GET", url, "")
    }

    /// As [`Self::get`] with more header lines, each with its line end.
    pub fn request(&mut self, method: &str, url: &str, more: &str) -> Response {
        let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        self.send(format!("{method} {url} HTTP/1.1\r\nHost: {authority}\r\n{more}\r\n"));
        self.response_to(method)
    }

    /// CONNECTs and reads the answer.
    pub fn connect_to(&mut self, authority: &str) -> Response {
        self.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
        self.response_to("CONNECT")
    }

    /// Reads one answer to a GET.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Reads one answer, 1xx included.
    ///
    /// # Panics
    /// When it is not well formed.
    pub fn response_to(&mut self, method: &str) -> Response {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).expect("a text head");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let Some(status) = status else { panic!("no status in {head:?}") };
        let mut trailers = Vec::new();
        let body = if method == "HEAD"
            || (method == "CONNECT" && status == 200)
            || matches!(status, 100..=199 | 204 | 304)
        {
            Vec::new()
        } else if header(&head, "transfer-encoding").is_some() {
            self.chunks(&mut trailers)
        } else if let Some(length) = header(&head, "content-length") {
            let length = length.parse().expect("a length");
            self.exactly(length)
        } else {
            self.rest().0
        };
        Response { status, head, body, trailers }
    }

    fn chunks(&mut self, trailers: &mut Vec<String>) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let size = line.split(';').next().unwrap_or_default().trim();
            let Ok(size) = usize::from_str_radix(size, 16) else { panic!("chunk size {line:?}") };
            if size == 0 {
                break;
            }
            body.extend(self.exactly(size));
            assert_eq!(self.line(), "", "a chunk's end");
        }
        loop {
            let line = self.line();
            if line.is_empty() {
                return body;
            }
            trailers.push(line);
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::from_utf8(self.until(b"\r\n")).expect("a text line");
        line.truncate(line.len() - 2);
        line
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let mut chunk = vec![0; 64 * 1024];
        let read = self.stream.read(&mut chunk)?;
        self.held.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    /// Everything up to and with `end`.
    ///
    /// # Panics
    /// When the connection ends before.
    pub fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let found = self.held.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                return self.held.drain(..at + end.len()).collect();
            }
            match self.fill() {
                Ok(read) if read > 0 => {}
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&self.held)),
            }
        }
    }

    /// Exactly so many bytes.
    ///
    /// # Panics
    /// When the connection ends before.
    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.held.len() < length {
            match self.fill() {
                Ok(read) if read > 0 => {}
                other => panic!("{other:?} after {} of {length} bytes", self.held.len()),
            }
        }
        self.held.drain(..length).collect()
    }

    /// Everything until the connection ends, and how it ends.
    ///
    /// # Panics
    /// When it does not end.
    pub fn rest(&mut self) -> (Vec<u8>, Ending) {
        let ending = loop {
            match self.fill() {
                Ok(0) => break Ending::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break Ending::Reset,
                Err(error) => {
                    let text = String::from_utf8_lossy(&self.held);
                    panic!("the connection does not end: {error} after {text:?}")
                }
            }
        };
        (std::mem::take(&mut self.held), ending)
    }

    /// Asserts that nothing more comes and the connection ends in this way.
    ///
    /// # Panics
    /// When something comes, or it ends otherwise.
    pub fn expect_end(&mut self, wanted: Ending) {
        let (rest, ending) = self.rest();
        assert_eq!(String::from_utf8_lossy(&rest), "", "nothing more is expected");
        assert_eq!(ending, wanted);
    }

    /// Ends the write side.
    ///
    /// # Panics
    /// When the socket is gone.
    pub fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("a connected socket");
    }

    /// Makes the socket send a reset when it is dropped.
    ///
    /// # Panics
    /// When the socket takes no options.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).expect("linger");
    }
}
