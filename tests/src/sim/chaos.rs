//! Clients that do whatever their host's random numbers say, and complain where they get something that cannot be.
//!
//! In a world of faults connections break: errors are no complaint. What is: a response of another request, a body that
//! is not whole and looks it, an end in order where there should have been a reset, a status nobody could have meant.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join;
use sluice_engine::{Buffer, Engine, Stream};
use sluice_engine_sim::SimEngine;
use sluice_proto::http1::Method;
use sluice_telemetry::access_log::{Entry, Field};

use super::client::{Client, Response, client_hello};
use super::origin::{Behaviour, Expected, summary};
use super::pattern;
use super::world::{PROXY, TCP, TLS};

/// What clients may take for granted in this run.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The policy denies `denied.test` all the time.
    pub denies: bool,
    /// The worker drains at some time: it may end connections between two requests.
    pub drains: bool,
}

/// The requests of all clients with the status that each of them got.
pub type Asked = Rc<RefCell<HashMap<u64, Option<u16>>>>;

/// One client: how it goes on is drawn by its host.
pub struct Chaos {
    /// The client's host.
    pub engine: SimEngine,
    /// A number of its own.
    pub id: u64,
    /// What holds in this run.
    pub rules: Rules,
    /// Where it notes what it asked for.
    pub asked: Asked,
}

impl Chaos {
    fn draw(&self, bound: u64) -> u64 {
        self.engine.random() % bound
    }

    /// Gives a complaint where the client got something wrong.
    pub async fn run(&self) -> Option<String> {
        if self.id.is_multiple_of(3) { self.tunnel().await } else { self.requests().await }
    }

    async fn pause(&self, micros_max: u64) {
        let pause = Duration::from_micros(self.draw(micros_max));
        self.engine.sleep_until(self.engine.now() + pause).await;
    }

    async fn requests(&self) -> Option<String> {
        self.pause(400_000).await;
        let mut client = Client::connect(&self.engine, PROXY).await.ok()?;
        if self.draw(3) == 0 {
            let authority = ["allowed.test:80", "93.184.216.20:80"][self.draw(2) as usize];
            client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.ok()?;
            if client.response(Method::Connect).await.ok()?.status != 200 {
                return None;
            }
            return self.exchanges(&mut client, Some(authority.starts_with("allowed"))).await;
        }
        self.exchanges(&mut client, None).await
    }

    /// A few requests, one after the other or ahead of their answers. `tunnel` tells whether they stand in a tunnel, and
    /// whether that one is bound to `allowed.test`.
    async fn exchanges(&self, client: &mut Client, tunnel: Option<bool>) -> Option<String> {
        for turn in 0..4 {
            let ahead = if self.draw(4) == 0 { 2 } else { 1 };
            let questions: Vec<_> =
                (0..ahead).map(|nth| self.question(self.id * 100 + turn * 10 + nth, tunnel)).collect();
            let bytes: Vec<u8> = questions.iter().flat_map(|question| question.bytes.clone()).collect();
            match self.draw(16) {
                0 => return self.misbehave(client, &bytes).await,
                1 => client.send_split(&bytes[..bytes.len().min(150)], 1, Duration::ZERO).await.ok()?,
                2 => client
                    .send_split(&bytes[..bytes.len().min(150)], 40, Duration::from_millis(3))
                    .await
                    .ok()?,
                _ => client.start(&bytes[..bytes.len().min(150)]),
            }
            client.start(&bytes[bytes.len().min(150)..]);
            let last = self.draw(8) == 0;
            for question in questions {
                let answer = client.response(Method::Get).await;
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(error) => return self.judge_error(&question, error.kind()),
                };
                self.asked.borrow_mut().insert(question.id, Some(answer.status));
                if let Some(complaint) = self.judge(&question, &answer) {
                    return Some(complaint);
                }
                if !answer.persistent {
                    return None;
                }
            }
            if last {
                client.stream.shutdown().ok()?;
                return match client.to_end().await {
                    Ok(rest) if !rest.is_empty() => {
                        Some(format!("client {}: {} bytes too many", self.id, rest.len()))
                    }
                    _ => None,
                };
            }
        }
        None
    }

    /// Leaves, stops or falls silent within a request.
    async fn misbehave(&self, client: &mut Client, bytes: &[u8]) -> Option<String> {
        let part = &bytes[..1 + self.draw(bytes.len() as u64) as usize];
        match self.draw(4) {
            0 => {
                client.start(part);
                self.pause(50_000).await;
                client.stream.reset();
            }
            1 => {
                client.send(part).await.ok()?;
                client.stream.shutdown().ok()?;
                let _ = client.to_end().await;
            }
            2 => {
                client.start(b"\x00\xff garbage \r\n\r\n");
                return match client.response(Method::Get).await {
                    Ok(answer) if answer.status != 400 => Some(format!("garbage got {}", answer.status)),
                    _ => None,
                };
            }
            // Not read at all.
            _ => {
                client.start(bytes);
                self.pause(3_000_000).await;
            }
        }
        None
    }

    fn question(&self, id: u64, tunnel: Option<bool>) -> Question {
        let what = match self.draw(2) {
            0 => match Behaviour::ALL[self.draw(Behaviour::ALL.len() as u64) as usize] {
                // Forged bytes that arrive behind the next request are its answer to anybody (RFC 9112 §9.3.2 has no
                // other rule than order); where they can be told, a test of its own does.
                Behaviour::Extra | Behaviour::LateExtra => Behaviour::Split,
                what => what,
            },
            _ => [Behaviour::Plain, Behaviour::Chunked, Behaviour::UntilClose][self.draw(3) as usize],
        };
        let method = ["GET", "GET", "POST", "PUT", "DELETE"][self.draw(5) as usize];
        let length = 1 + self.draw(if self.draw(4) == 0 { 30_000 } else { 600 }) as usize;
        let denied = self.draw(5) == 0;
        let host = if denied { "denied.test" } else { "allowed.test" };
        // In a tunnel the version may vary as well: a body to 1.0 ends with the connection.
        let version = if self.draw(8) == 0 { "1.0" } else { "1.1" };
        let form = if tunnel.is_some() { String::new() } else { format!("http://{host}") };
        let mut head =
            format!("{method} {form}/{}/{id}/{length} HTTP/{version}\r\nHost: {host}\r\n", what.name());
        let mut expected = pattern(id, length);
        let mut bytes = Vec::new();
        if matches!(method, "POST" | "PUT") {
            let body = pattern(id + 7, length);
            if self.draw(2) == 0 && version == "1.1" {
                head.push_str("Transfer-Encoding: chunked\r\n");
                for piece in body.chunks(1 + self.draw(4000) as usize) {
                    bytes.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            } else {
                head.push_str(&format!("Content-Length: {length}\r\n"));
                bytes.extend_from_slice(&body);
            }
            if !matches!(what, Behaviour::Early | Behaviour::EarlyClose) {
                expected = summary(&body);
            }
        }
        head.push_str("\r\n");
        self.asked.borrow_mut().insert(id, None);
        let must_fail = denied && (self.rules.denies || tunnel == Some(true));
        Question { id, what, must_fail, expected, bytes: [head.into_bytes(), bytes].concat() }
    }

    fn judge(&self, question: &Question, answer: &Response) -> Option<String> {
        let say = |what: &str| {
            Some(format!("request {} ({:?}): {what}: {}", question.id, question.what, answer.status))
        };
        match (answer.id, answer.status) {
            (Some(id), _) if id != question.id => say("the response of another request"),
            (Some(_), _) if question.must_fail => say("reached a denied host"),
            (Some(_), 200) if question.what.expected() == Expected::Broken => say("half a body looks whole"),
            (Some(_), 200) if answer.body != question.expected => say("a body that is not its own"),
            (Some(_), 200 | 204 | 304) => None,
            (None, 408 | 502 | 503 | 504) => None,
            (None, 421) if question.must_fail => None,
            _ => say("nobody meant this status"),
        }
    }

    fn judge_error(&self, question: &Question, kind: ErrorKind) -> Option<String> {
        let say = |what: &str| Some(format!("request {} ({:?}): {what}", question.id, question.what));
        match kind {
            ErrorKind::UnexpectedEof => say("a response that breaks off with an end in order"),
            ErrorKind::NotConnected if !self.rules.drains => say("an end in order instead of an answer"),
            ErrorKind::InvalidData => say("no HTTP"),
            _ => None,
        }
    }

    /// A tunnel through any door: what comes back is what was sent.
    async fn tunnel(&self) -> Option<String> {
        self.pause(400_000).await;
        let door = [PROXY, TLS, TCP][self.draw(3) as usize];
        let mut client = Client::connect(&self.engine, door).await.ok()?;
        let mut sent = pattern(self.id, 1 + self.draw(20_000) as usize);
        match door {
            PROXY => {
                client.send(b"CONNECT allowed.test:9000 HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
                if client.response(Method::Connect).await.ok()?.status != 200 {
                    return None;
                }
            }
            TLS => sent = [client_hello("allowed.test"), sent].concat(),
            _ => {}
        }
        let sending = async {
            for piece in sent.chunks(3000) {
                client.stream.send(Buffer::from(piece.to_vec())).await.ok()?;
            }
            client.stream.shutdown().ok()
        };
        let receiving = async {
            let mut all = Vec::new();
            loop {
                match client.stream.receive().await {
                    Ok(buffer) if buffer.is_empty() => return (all, true),
                    Ok(buffer) => all.extend_from_slice(&buffer),
                    Err(_) => return (all, false),
                }
            }
        };
        let (_, (bytes, clean)) = join(sending, receiving).await;
        if !sent.starts_with(&bytes) {
            return Some(format!("client {}: the tunnel changed bytes", self.id));
        }
        // A door that closed at once never had an upstream: nothing came back, and a clean end would be a lie.
        (clean && bytes.len() != sent.len())
            .then(|| format!("client {}: a clean end after {} of {} bytes", self.id, bytes.len(), sent.len()))
    }
}

/// A request and what is known of its answer.
struct Question {
    id: u64,
    what: Behaviour,
    must_fail: bool,
    expected: Vec<u8>,
    bytes: Vec<u8>,
}

/// Compares the access log with what the clients know: every answer has its line, and no request has two.
pub fn judge_records(asked: &Asked, records: &[Entry]) -> Option<String> {
    let mut codes: HashMap<u64, Vec<u16>> = HashMap::new();
    for record in records {
        let path = String::from_utf8_lossy(record.get(Field::Path).unwrap_or_default());
        let id = path.split('/').nth(2).and_then(|id| id.parse().ok());
        if let Some(id) = id {
            codes.entry(id).or_default().push(record.response_code);
        }
    }
    for (id, status) in asked.borrow().iter() {
        let codes = codes.get(id).map_or(&[][..], |codes| codes);
        let fits = match status {
            Some(status) => codes == [*status] || (*status == 408 && codes.is_empty()),
            None => codes.len() <= 1,
        };
        if !fits {
            return Some(format!("request {id} was answered with {status:?} and logged as {codes:?}"));
        }
    }
    None
}
