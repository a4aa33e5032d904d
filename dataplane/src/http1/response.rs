//! One exchange on an upstream connection: the request goes up while the response comes down.
//!
//! Both directions run at once, so that early answers, 100-continue and a client that goes away are seen when they
//! happen. Nothing is collected: one buffer per direction is in hand.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;

use sluice_engine::{Buffer, Engine, Instant, Stream};
use sluice_proto::http1::{
    Body, Framing, HeadCursor, Method, Progress, RequestRewrite, ResponseHead, ResponseRewrite, Version,
    downstream_framing, write_request_head, write_response_head,
};
use sluice_telemetry::ResponseFlags;

use super::body::{Piece, compose, last_chunk};
use super::exchange::Request;
use super::{After, Client};
use crate::limits::INTERIM_HEADS_MAX;
use crate::record::Record;
use crate::sniff::Held;

/// How an exchange ended.
pub(super) enum Outcome {
    /// The response went down to its end.
    Done {
        after: After,
        /// The upstream connection may carry another request.
        reusable: bool,
    },
    /// The upstream connection ended before any byte of a response.
    Unanswered,
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
    held: &'a RefCell<Option<Buffer>>,
    ended: &'a Cell<bool>,
    deadline: &'a sluice_engine::Deadline<E>,
    idle_ms: u64,
    response_head_ms: u64,
    head_bytes_max: usize,
    started: Instant,
    /// The whole request has been taken by the upstream socket.
    uploaded: Cell<bool>,
    /// The response's head has arrived.
    answered: Cell<bool>,
    /// Bytes of an answer may have reached the client.
    downstream_touched: Cell<bool>,
    request_bytes: Cell<u64>,
    response_bytes: Cell<u64>,
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
    /// The connection ended within a head or behind an interim one.
    HeadLost,
    /// What came is no response that we could pass on.
    BadHead,
    /// The response broke off behind its head.
    Truncated,
    /// The client does not take it.
    ClientGone,
}

/// What a whole response leaves behind.
struct Downloaded {
    reusable: bool,
    persistent: bool,
}

/// Sends the request on `upstream` and passes the response on.
pub(super) async fn exchange<E: Engine>(
    client: &mut Client<E>,
    request: &Request<'_>,
    upstream: &E::Stream,
    record: &mut Record<E>,
) -> Outcome {
    let engine = client.worker().engine.clone();
    let draining = client.worker().is_draining();
    let (idle_ms, response_head_ms, head_bytes_max) = {
        let limits = &client.worker().snapshot().limits;
        (limits.http_stream_idle_timeout_ms, limits.response_head_timeout_ms, limits.head_bytes_max)
    };
    let rewrite = RequestRewrite {
        request_id: Some(request.id.as_bytes()),
        expect_continue: true,
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
        upstream,
        engine: &engine,
        held: &held,
        ended: &ended,
        deadline: &client.deadline,
        idle_ms,
        response_head_ms,
        head_bytes_max,
        started: engine.now(),
        uploaded: Cell::new(false),
        answered: Cell::new(false),
        downstream_touched: Cell::new(false),
        request_bytes: Cell::new(record.request_bytes),
        response_bytes: Cell::new(0),
        code: Cell::new(0),
        service_time_ms: Cell::new(None),
    };
    let outcome = exchange.run(request, head, draining, record).await;
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
    async fn run(
        &self,
        request: &Request<'_>,
        head: Buffer,
        draining: bool,
        record: &mut Record<E>,
    ) -> Outcome {
        self.touch();
        let event = {
            let mut upload = pin!(self.upload(head, request.head.framing));
            let mut download = pin!(self.download(request, draining));
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
            Ok(Event::Down(Ok(done))) => {
                let persistent = done.persistent && self.uploaded.get();
                let after = if persistent { After::KeepAlive } else { After::Close };
                record.details("via_upstream");
                Outcome::Done { after, reusable: done.reusable && self.uploaded.get() }
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

    /// Sends the request, then watches the client. Ends only when something is wrong.
    async fn upload(&self, head: Buffer, framing: Framing) -> UploadError {
        let mut body = Body::new(framing);
        let mut head = Some(head);
        while !body.is_complete() {
            let held = self.held.take();
            let mut buffer = match held {
                Some(buffer) => buffer,
                None => {
                    // The head goes ahead of a body that is still to come.
                    if let Some(head) = head.take()
                        && self.upstream.send(head).await.is_err()
                    {
                        return UploadError::Upstream;
                    }
                    match self.client.receive().await {
                        Ok(buffer) if !buffer.is_empty() => buffer,
                        _ => return UploadError::ClientGone,
                    }
                }
            };
            let Ok(decoded) = body.feed(&mut buffer) else { return UploadError::Malformed };
            self.request_bytes.set(self.request_bytes.get() + decoded.consumed as u64);
            if decoded.consumed < buffer.len() {
                *self.held.borrow_mut() = Some(buffer.split_off(decoded.consumed));
            }
            let chunked = framing == Framing::Chunked;
            let piece = Piece { buffer, decoded, chunked, trailers: body.trailers() };
            if piece.send(self.upstream, head.take()).await.is_err() {
                return UploadError::Upstream;
            }
            self.touch();
        }
        if let Some(head) = head.take()
            && self.upstream.send(head).await.is_err()
        {
            return UploadError::Upstream;
        }
        self.uploaded.set(true);
        self.touch();
        self.watch_client().await
    }

    /// Keeps a receive under way on the client: the start of its next request, or the news that it is gone.
    async fn watch_client(&self) -> UploadError {
        while self.held.borrow().is_none() && !self.ended.get() {
            match self.client.receive().await {
                // Half-close: the client still wants its answer.
                Ok(buffer) if buffer.is_empty() => self.ended.set(true),
                Ok(buffer) => *self.held.borrow_mut() = Some(buffer),
                Err(_) => return UploadError::ClientGone,
            }
        }
        pending().await
    }

    /// Reads the response and sends it down.
    async fn download(&self, request: &Request<'_>, draining: bool) -> Result<Downloaded, DownloadError> {
        let client_version = request.head.version;
        let mut held: Option<Buffer> = None;
        for earlier in 0..INTERIM_HEADS_MAX {
            let bytes = self.response_head(&mut held, request.head.method, earlier > 0).await?;
            let head = self.parse(&bytes, request.head.method).ok_or(DownloadError::BadHead)?;
            let rest = bytes.len() - head.length;
            if !head.is_interim() {
                // An upgrade was never asked for, so there is none to switch to.
                if head.status == 101 {
                    return Err(DownloadError::BadHead);
                }
                return self.final_response(request, draining, &bytes, &head).await;
            }
            if client_version == Version::Http11 {
                let rewrite = ResponseRewrite { client: client_version, persistent: true, set: &[] };
                let interim = self.compose_head(&head, &rewrite)?;
                self.send_down(interim).await?;
                // Between two heads there is room for an answer of ours.
                self.downstream_touched.set(false);
            }
            if rest > 0 {
                let mut after = Buffer::with_capacity(rest);
                let fits = after.append(&bytes[head.length..]);
                debug_assert!(fits, "made to fit");
                held = Some(after);
            }
        }
        Err(DownloadError::BadHead)
    }

    /// Waits for a whole head; what came with it stays behind it.
    async fn response_head(
        &self,
        held: &mut Option<Buffer>,
        method: Method,
        behind_interim: bool,
    ) -> Result<Buffer, DownloadError> {
        let limits = self.head_limits();
        let mut cursor = HeadCursor::default();
        let mut whole = Held::default();
        loop {
            let buffer = match held.take() {
                Some(buffer) => buffer,
                None => match self.upstream.receive().await {
                    Ok(buffer) if !buffer.is_empty() => buffer,
                    _ if whole.bytes().is_empty() && !behind_interim => {
                        return Err(DownloadError::Unanswered);
                    }
                    _ => return Err(DownloadError::HeadLost),
                },
            };
            whole.push(buffer);
            match cursor.response(whole.bytes(), method, &limits) {
                Ok(Progress::Complete(_)) => return Ok(whole.into_buffer()),
                Ok(Progress::Partial) => {}
                Err(_) => return Err(DownloadError::BadHead),
            }
        }
    }

    fn head_limits(&self) -> sluice_proto::http1::HeadLimits {
        sluice_proto::http1::HeadLimits { head_bytes_max: self.head_bytes_max, ..Default::default() }
    }

    fn parse<'b>(&self, bytes: &'b [u8], method: Method) -> Option<ResponseHead<'b>> {
        sluice_proto::http1::parse_response_head(bytes, method, &self.head_limits()).ok()?.complete()
    }

    fn compose_head(
        &self,
        head: &ResponseHead<'_>,
        rewrite: &ResponseRewrite<'_>,
    ) -> Result<Buffer, DownloadError> {
        compose(self.engine, self.head_bytes_max, |out| write_response_head(out, head, rewrite).map(|_| ()))
            .map_err(|_| DownloadError::BadHead)
    }

    async fn final_response(
        &self,
        request: &Request<'_>,
        draining: bool,
        bytes: &[u8],
        head: &ResponseHead<'_>,
    ) -> Result<Downloaded, DownloadError> {
        self.answered.set(true);
        self.code.set(head.status);
        let waited = self.engine.now().since(self.started).as_millis();
        self.service_time_ms.set(u64::try_from(waited).ok());
        self.touch();
        let client = request.head.version;
        // An answer that comes before its request is whole ends the connection: what is left of the request would
        // have to be read first.
        let wants_more = request.head.persistent && !self.ended.get();
        let persistent = wants_more && self.uploaded.get() && !draining;
        let rewrite = ResponseRewrite { client, persistent, set: &[] };
        let out = self.compose_head(head, &rewrite)?;
        let framing = downstream_framing(head.framing, client);
        let mut rest = Buffer::with_capacity(bytes.len() - head.length);
        let fits = rest.append(&bytes[head.length..]);
        debug_assert!(fits, "made to fit");
        let clean = self.response_body(head.framing, framing, out, rest).await?;
        Ok(Downloaded {
            reusable: head.persistent && clean && head.framing != Framing::UntilClose,
            persistent: persistent && framing != Framing::UntilClose,
        })
    }

    /// Passes the body on. Gives whether nothing followed it that does not belong to it.
    async fn response_body(
        &self,
        from: Framing,
        to: Framing,
        head: Buffer,
        first: Buffer,
    ) -> Result<bool, DownloadError> {
        let chunked = to == Framing::Chunked;
        let mut body = Body::new(from);
        let mut head = Some(head);
        let mut next = Some(first);
        if body.is_complete() {
            self.send_down(head.take().unwrap_or_else(Buffer::end_of_stream)).await?;
            return Ok(next.is_none_or(|rest| rest.is_empty()));
        }
        loop {
            let mut buffer = match next.take().filter(|buffer| !buffer.is_empty()) {
                Some(buffer) => buffer,
                None => {
                    if let Some(head) = head.take() {
                        self.send_down(head).await?;
                    }
                    match self.upstream.receive().await {
                        Ok(buffer) if buffer.is_empty() && body.may_end_here() => {
                            if chunked {
                                self.send_down(Buffer::from(last_chunk(&[]))).await?;
                            }
                            return Ok(true);
                        }
                        Ok(buffer) if !buffer.is_empty() => buffer,
                        _ => return Err(DownloadError::Truncated),
                    }
                }
            };
            let received = buffer.len();
            let decoded = body.feed(&mut buffer).map_err(|_| DownloadError::Truncated)?;
            let (end, clean) = (decoded.end, decoded.consumed == received);
            let piece = Piece { buffer, decoded, chunked, trailers: body.trailers() };
            self.downstream_touched.set(true);
            let sent = piece.send(self.client, head.take()).await;
            let sent = sent.map_err(|_| DownloadError::ClientGone)?;
            self.response_bytes.set(self.response_bytes.get() + sent);
            self.touch();
            if end {
                return Ok(clean);
            }
        }
    }

    async fn send_down(&self, buffer: Buffer) -> Result<(), DownloadError> {
        self.downstream_touched.set(true);
        self.response_bytes.set(self.response_bytes.get() + buffer.len() as u64);
        self.client.send(buffer).await.map_err(|_| DownloadError::ClientGone)
    }
}
