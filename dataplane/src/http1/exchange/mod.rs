//! One exchange on an upstream connection: the request goes up while the response comes down.
//!
//! Both directions run at once, so that early answers, 100-continue and a client that goes away are seen when they
//! happen. Nothing is collected: one buffer per direction is in hand.

mod bulk;
mod download;
mod upload;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use sluice_engine::{Buffer, Engine, Instant, Stream};
use sluice_proto::http1::{RequestRewrite, write_request_head};
use sluice_telemetry::{Counter, ResponseFlags};

use super::body::compose;
use super::request::Request;
use super::{After, Client, Mode};
use crate::record::Record;
use crate::worker::Worker;

/// How an exchange ended.
pub(super) enum Outcome {
    /// The response went down to its end.
    Done {
        after: After,
        /// The upstream connection may carry another request.
        reusable: bool,
        /// Bytes followed the response that belong to none: they were discarded.
        surplus: bool,
        /// The origin authenticates the connection itself.
        authenticates: bool,
    },
    /// Both sides have switched to the protocol that the client asked for; `early` is what the origin has sent of it.
    Switched { early: Buffer },
    /// The upstream connection ended before any byte of a response.
    Unanswered,
    /// Bytes came on a reused connection ahead of the request: they answer nothing.
    OutOfTurn,
    /// Nothing has been sent down yet: the client gets this answer of ours.
    Failed { status: u16, text: &'static str },
    /// The client is gone, or has half a response that cannot be completed.
    Broken,
}

/// What both directions of an exchange tell each other, and the record in the end.
struct Exchange<'a, E: Engine> {
    client: &'a E::Stream,
    upstream: &'a E::Stream,
    engine: &'a E,
    worker: &'a Worker<E>,
    held: &'a RefCell<Option<Buffer>>,
    ended: &'a Cell<bool>,
    deadline: &'a sluice_engine::Deadline<E>,
    idle_ms: u64,
    response_head_ms: u64,
    head_bytes_max: usize,
    started: Instant,
    /// The upstream connection has carried a request before.
    reused: bool,
    /// The request's head has been taken by the upstream socket.
    asked: Cell<bool>,
    /// The whole request has been taken by the upstream socket.
    uploaded: Cell<bool>,
    /// The response's head has arrived.
    answered: Cell<bool>,
    /// Bytes of an answer may have reached the client.
    downstream_touched: Cell<bool>,
    request_bytes: Cell<u64>,
    response_bytes: Cell<u64>,
    /// Part of a body was spliced.
    spliced: Cell<bool>,
    code: Cell<u16>,
    service_time_ms: Cell<Option<u64>>,
}

/// Why the request did not get up.
enum UploadError {
    /// The client ended or reset before its request was whole.
    ClientGone,
    /// The client's body is malformed.
    Malformed,
    /// The upstream connection does not take any more; its response may still come.
    Upstream,
}

/// Why the response did not get down.
enum DownloadError {
    /// The connection ended before the first byte.
    Unanswered,
    /// Bytes came before the request was sent.
    OutOfTurn,
    /// The connection ended within a head or behind an interim one.
    HeadLost,
    /// What came is no response that we could pass on.
    BadHead,
    /// The response broke off behind its head.
    Truncated,
    /// The response's chunks are malformed.
    BadBody,
    /// The client does not take it.
    ClientGone,
}

/// What a response leaves behind that was not broken off.
enum Downloaded {
    /// It went down to its end.
    Whole { reusable: bool, persistent: bool, surplus: bool, authenticates: bool },
    /// It switched protocols.
    Switched { early: Buffer },
}

/// Sends the request on `upstream` and passes the response on.
pub(super) async fn exchange<E: Engine>(
    client: &mut Client<E>,
    request: &Request<'_>,
    (upstream, reused): (&E::Stream, bool),
    record: &mut Record<E>,
) -> Outcome {
    let engine = client.worker().engine.clone();
    let (idle_ms, response_head_ms, head_bytes_max) = {
        let limits = &client.worker().snapshot().limits;
        (limits.http_stream_idle_timeout_ms, limits.response_head_timeout_ms, limits.head_bytes_max)
    };
    // HTTP/1.0 may have named nobody: then the address was decided on.
    let original = match &client.mode {
        Mode::Inner { outer, .. } if request.head.authority().is_none() => outer.wanted.original,
        _ => None,
    };
    let host = original.map(|original| original.to_string());
    let rewrite = RequestRewrite {
        host: host.as_deref().map(str::as_bytes),
        request_id: Some(request.id.as_bytes()),
        expect_continue: true,
        upgrade: true,
        ..RequestRewrite::default()
    };
    let head = compose(&engine, head_bytes_max, |out| write_request_head(out, request.head, &rewrite));
    let Ok(head) = head else {
        return Outcome::Failed { status: 400, text: "the request names no host" };
    };
    let held = RefCell::new(client.held.take());
    let ended = Cell::new(client.ended);
    let exchange = Exchange::<E> {
        client: &client.stream,
        worker: &client.connection.worker,
        upstream,
        engine: &engine,
        held: &held,
        ended: &ended,
        deadline: &client.deadline,
        idle_ms,
        response_head_ms,
        head_bytes_max,
        started: engine.now(),
        reused,
        asked: Cell::new(false),
        uploaded: Cell::new(false),
        answered: Cell::new(false),
        downstream_touched: Cell::new(false),
        request_bytes: Cell::new(record.request_bytes),
        response_bytes: Cell::new(0),
        spliced: Cell::new(false),
        code: Cell::new(0),
        service_time_ms: Cell::new(None),
    };
    let outcome = exchange.run(request, head, record).await;
    if exchange.spliced.get() {
        client.worker().metrics.add(Counter::ExchangesSpliced, 1);
    }
    record.request_bytes = exchange.request_bytes.get();
    record.response_bytes = exchange.response_bytes.get();
    record.code(exchange.code.get());
    record.entry.upstream_service_time_ms = exchange.service_time_ms.get();
    record.entry.upstream_local_address = Some(upstream.local_address());
    client.held = held.into_inner();
    client.ended = ended.get();
    outcome
}

/// What ended the race of both directions.
enum Event {
    Down(Result<Downloaded, DownloadError>),
    Up(UploadError),
}

impl<E: Engine> Exchange<'_, E> {
    async fn run(&self, request: &Request<'_>, head: Buffer, record: &mut Record<E>) -> Outcome {
        self.touch();
        let event = {
            let mut upload = pin!(self.upload(head, request.head.framing));
            let mut download = pin!(self.download(request));
            let mut uploading = true;
            let race = poll_fn(|cx| {
                // The upload first: an answer to a whole request must find it whole.
                let mut failed = None;
                if uploading && let Poll::Ready(error) = upload.as_mut().poll(cx) {
                    uploading = false;
                    // An origin may answer and close without reading the body: its answer counts.
                    failed = Some(error).filter(|error| !matches!(error, UploadError::Upstream));
                }
                if let Poll::Ready(result) = download.as_mut().poll(cx) {
                    return Poll::Ready(Event::Down(result));
                }
                failed.map_or(Poll::Pending, |error| Poll::Ready(Event::Up(error)))
            });
            self.deadline.run(race).await
        };
        match event {
            Ok(Event::Down(Ok(Downloaded::Whole { reusable, persistent, surplus, authenticates }))) => {
                let whole = self.uploaded.get();
                let after = if persistent && whole { After::KeepAlive } else { After::Close };
                record.details("via_upstream");
                Outcome::Done { after, reusable: reusable && whole, surplus, authenticates }
            }
            Ok(Event::Down(Ok(Downloaded::Switched { early }))) => {
                record.details("via_upstream");
                Outcome::Switched { early }
            }
            Ok(Event::Down(Err(error))) => self.failed_down(&error, record),
            Ok(Event::Up(UploadError::Malformed)) => {
                record.flag(ResponseFlags::DPE);
                record.details("http1.codec_error");
                self.fail(400, "the request body is malformed")
            }
            Ok(Event::Up(_)) => {
                record.flag(ResponseFlags::DC);
                record.details("downstream_remote_disconnect");
                Outcome::Broken
            }
            Err(_) if !self.answered.get() && self.uploaded.get() => {
                record.flag(ResponseFlags::UT);
                record.details("response_timeout");
                self.fail(504, "the destination did not answer in time")
            }
            Err(_) => {
                record.flag(ResponseFlags::SI);
                record.details("stream_idle_timeout");
                self.fail(408, "nothing moved for too long")
            }
        }
    }

    fn failed_down(&self, error: &DownloadError, record: &mut Record<E>) -> Outcome {
        match error {
            DownloadError::Unanswered => Outcome::Unanswered,
            DownloadError::OutOfTurn => Outcome::OutOfTurn,
            DownloadError::HeadLost => {
                record.flag(ResponseFlags::UC);
                record.details("upstream_reset_before_response_started{connection_termination}");
                self.fail(503, "the destination closed the connection before it answered")
            }
            DownloadError::BadHead => {
                record.flag(ResponseFlags::UPE);
                record.details("upstream_reset_before_response_started{protocol_error}");
                self.fail(502, "the destination's answer is not acceptable HTTP/1.1")
            }
            DownloadError::BadBody => {
                record.flag(ResponseFlags::UPE);
                record.details("upstream_reset_after_response_started{protocol_error}");
                self.fail(502, "the destination's answer is not acceptable HTTP/1.1")
            }
            DownloadError::Truncated => {
                record.flag(ResponseFlags::UC);
                record.details("upstream_reset_after_response_started{connection_termination}");
                Outcome::Broken
            }
            DownloadError::ClientGone => {
                record.flag(ResponseFlags::DC);
                record.details("downstream_remote_disconnect");
                Outcome::Broken
            }
        }
    }

    /// An answer of ours if the client has none yet; otherwise what it has stays incomplete.
    fn fail(&self, status: u16, text: &'static str) -> Outcome {
        if self.downstream_touched.get() {
            return Outcome::Broken;
        }
        Outcome::Failed { status, text }
    }

    /// Something moved: the idle timeout starts anew.
    fn touch(&self) {
        let ms =
            if self.uploaded.get() && !self.answered.get() { self.response_head_ms } else { self.idle_ms };
        self.deadline.set(Some(self.engine.now() + std::time::Duration::from_millis(ms)));
    }
}
