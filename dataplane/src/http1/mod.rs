//! HTTP/1.1 on a client connection: one request after the other, each decided by itself.
//!
//! Heads are parsed and written anew; nothing is relayed raw. A request that cannot be read unambiguously is answered
//! and its connection closed: whatever follows it is discarded, never interpreted.

mod answer;
mod body;
mod connect;
mod exchange;
mod identity;
mod pins;
mod refusal;
mod request;

use std::rc::Rc;
use std::time::Duration;

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Deadline, Engine, Stream};
use sluice_policy::Reason;
use sluice_proto::http1::{HeadCursor, HeadError, HeadLimits};
use sluice_telemetry::Family;
use sluice_telemetry::access_log::Field;

use crate::connection::{Admitted, Downstream};
use crate::linger::linger;
use crate::record::Record;
use crate::route::Route;
use crate::sniff::Held;

/// What kind of requests a connection carries.
#[derive(Clone)]
pub(crate) enum Mode {
    /// Requests to a proxy: absolute-form and CONNECT.
    Proxy,
    /// Requests straight to the gateway as if it were the origin: Host says where to.
    Direct,
    /// Requests inside a tunnel: origin-form. With a rule, every authority must stay inside that rule.
    Inner {
        /// The route that the tunnel was decided by; `original` alone where nothing was named.
        outer: Rc<Route>,
        /// Whether the tunnel's own name binds the requests in it.
        bound: bool,
    },
}

/// A client connection that carries HTTP/1 requests.
pub(crate) struct Client<E: Engine> {
    pub(crate) connection: Admitted<E>,
    pub(crate) stream: E::Stream,
    pub(crate) mode: Mode,
    /// Bytes received and not yet consumed.
    held: Option<Buffer>,
    /// Whether a request has been read already.
    served: bool,
    /// The client has ended its write side: no request follows what is held.
    ended: bool,
    deadline: Deadline<E>,
    /// The route of the request before: most clients ask the same host again.
    memo: Option<Rc<Route>>,
    /// Upstream connections that serve nobody else.
    pins: pins::Pins<E>,
}

/// What becomes of the client connection after a request.
enum After {
    /// The next request may come.
    KeepAlive,
    /// The answer has been sent and nothing follows: discard what still arrives, close.
    Close,
    /// The client must see that what it got is not whole.
    Reset,
}

/// Serves a client that speaks to us as its proxy.
pub(crate) async fn serve_proxy<E: Engine>(client: Downstream<E>) {
    serve(Client::new(client, Mode::Proxy)).await;
}

/// Serves a client that takes us for the origin.
pub(crate) async fn serve_direct<E: Engine>(client: Downstream<E>) {
    serve(Client::new(client, Mode::Direct)).await;
}

/// Serves requests until the connection ends, or becomes a tunnel.
pub(crate) async fn serve<E: Engine>(mut client: Client<E>) {
    loop {
        let Some(head) = client.next_head().await else { return };
        let after = match head {
            // Boxed: between two requests a connection holds none of this, and most connections are between two.
            Ok(buffer) => match Box::pin(request::serve(client, buffer)).await {
                Some((returned, after)) => {
                    client = returned;
                    after
                }
                None => return,
            },
            Err(refusal) => client.refuse(refusal).await,
        };
        match after {
            After::KeepAlive => {}
            After::Close => {
                if client.ended {
                    return;
                }
                client.connection.phase.set(Phase::Lingering);
                return linger(&client.connection.worker, client.stream).await;
            }
            After::Reset => return client.stream.reset(),
        }
    }
}

/// Why no request could be read.
enum Refusal {
    /// The head is not acceptable.
    Head(HeadError),
    /// The client speaks HTTP/2 and knows beforehand, so it thinks, that we do.
    Http2,
    /// The head took too long.
    TooSlow,
}

/// What such a client begins with, to the byte (RFC 9113 §3.4). Whoever says anything else gets an answer in HTTP/1.1.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What it understands: our SETTINGS, empty, and GOAWAY with HTTP_1_1_REQUIRED (RFC 9113 §6.5, §6.8 and §7).
const HTTP2_GOAWAY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0d";

impl<E: Engine> Client<E> {
    pub(crate) fn new(downstream: Downstream<E>, mode: Mode) -> Self {
        let Downstream { connection, stream, early } = downstream;
        let deadline = Deadline::new(connection.worker.engine.clone());
        let pins = pins::Pins::new(Rc::clone(&connection.worker));
        Self {
            connection,
            stream,
            mode,
            held: early,
            served: false,
            ended: false,
            deadline,
            memo: None,
            pins,
        }
    }

    /// What is left when no further request is to be read from here.
    fn into_downstream(self) -> Downstream<E> {
        Downstream { connection: self.connection, stream: self.stream, early: self.held }
    }

    pub(crate) fn worker(&self) -> &Rc<crate::worker::Worker<E>> {
        &self.connection.worker
    }

    fn after_ms(&self, milliseconds: u64) -> Option<sluice_engine::Instant> {
        Some(self.worker().engine.now() + Duration::from_millis(milliseconds))
    }

    fn head_limits(&self) -> HeadLimits {
        let head_bytes_max = self.worker().snapshot().limits.head_bytes_max;
        HeadLimits { head_bytes_max, ..HeadLimits::default() }
    }

    /// Waits for the end of a request head; gives all bytes until there and whatever came behind. `None` when the
    /// connection ended: between requests, or within a head, which is recorded.
    async fn next_head(&mut self) -> Option<Result<Buffer, Refusal>> {
        let mut first = self.begin().await?;
        // Old clients end a body with an empty line (RFC 9112 §2.2). With it alone nothing has begun.
        if *first == *b"\r\n" {
            first = self.begin().await?;
        }
        let limits = self.head_limits();
        let head_ms = self.worker().snapshot().limits.request_head_timeout_ms;
        self.deadline.set(self.after_ms(head_ms));
        let mut cursor = HeadCursor::default();
        let mut held = Held::default();
        let mut next = first;
        loop {
            held.push(next);
            if held.bytes().starts_with(HTTP2_PREFACE) {
                return Some(Err(Refusal::Http2));
            }
            // A beginning of the preface is no whole head yet, and what is to be said of it is not known.
            if !HTTP2_PREFACE.starts_with(held.bytes()) {
                // It is parsed once, by who serves it.
                if cursor.has_end(held.bytes()) {
                    return Some(Ok(held.into_buffer()));
                }
                if let Err(error) = cursor.request(held.bytes(), &limits) {
                    return Some(Err(Refusal::Head(error)));
                }
            }
            next = match self.deadline.run(self.stream.receive()).await {
                Ok(Ok(buffer)) if !buffer.is_empty() => buffer,
                // Half a request and then the end: there is nobody to answer.
                Ok(_) => {
                    self.note_unread(Reason::Malformed, "incomplete_request");
                    return None;
                }
                Err(_) => return Some(Err(Refusal::TooSlow)),
            };
        }
    }

    /// What a request begins with: held already, or waited for.
    async fn begin(&mut self) -> Option<Buffer> {
        let Some(held) = self.held.take() else { return self.first_bytes().await };
        self.connection.phase.set(Phase::Http);
        self.served = true;
        Some(held)
    }

    /// Waits for a request to begin, holding no buffer. `None` when the client ends, fails, or is idle for too long.
    async fn first_bytes(&mut self) -> Option<Buffer> {
        if self.ended {
            return None;
        }
        let connection = Rc::clone(&self.connection);
        connection.phase.set(Phase::Idle);
        let wait_ms = {
            let limits = &self.worker().snapshot().limits;
            // Who connects wants something soon; who has been served may take a rest.
            if self.served { limits.client_keepalive_timeout_ms } else { limits.request_head_timeout_ms }
        };
        self.deadline.set(self.after_ms(wait_ms));
        let mut received = self.deadline.run(connection.unless_draining(self.stream.receive())).await;
        if matches!(received, Ok(None)) {
            // A request may be on its way already: the client had no reason to hold it back. Its answer says that none may follow.
            let last_ms = self.worker().snapshot().limits.linger_timeout_ms;
            self.deadline.set(self.after_ms(last_ms));
            received = self.deadline.run(self.stream.receive()).await.map(Some);
        }
        connection.phase.set(Phase::Http);
        self.served = true;
        match received {
            Ok(Some(Ok(buffer))) if !buffer.is_empty() => Some(buffer),
            _ => None,
        }
    }

    /// Records bytes that never became a request.
    fn note_unread(&self, reason: Reason, details: &'static str) {
        let mut record = Record::request(&self.connection);
        record.denied(reason);
        record.details(details);
    }

    /// Answers bytes that are no acceptable request.
    async fn refuse(&mut self, refusal: Refusal) -> After {
        let mut record = Record::request(&self.connection);
        let (status, reason, text) = match &refusal {
            Refusal::Head(error) if error.status() == 431 => (431, Reason::Limit, error.to_string()),
            Refusal::Head(error) => (error.status(), Reason::Malformed, error.to_string()),
            Refusal::Http2 => {
                (505, Reason::ProtocolMismatch, "HTTP/2 with prior knowledge is not spoken here".to_owned())
            }
            Refusal::TooSlow => (408, Reason::Limit, "the request head took too long".to_owned()),
        };
        let error = match status {
            408 => "too_slow",
            505 if matches!(refusal, Refusal::Http2) => "http2",
            431 => "too_large",
            _ => "malformed",
        };
        let labels = [&*self.connection.door.name, error];
        self.worker().metrics.count(Family::ProtocolErrors, &labels, 1);
        record.denied(reason);
        record.details("http1.codec_error");
        record.entry.set_text(Field::ConnectionTerminationDetails, &text);
        if matches!(refusal, Refusal::Http2) {
            return answer::send_raw(self, &mut record, status, HTTP2_GOAWAY).await;
        }
        let id = identity::fresh_id(&self.worker().engine);
        record.entry.set_text(Field::RequestId, &id);
        let answer = answer::Answer {
            status,
            text: &text,
            reason: Some(reason),
            request_id: Some(&id),
            ..answer::Answer::default()
        };
        answer.send(self, &mut record).await
    }
}
