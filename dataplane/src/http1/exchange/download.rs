//! The response's way down: interim heads, the final head, its body, or the switch to another protocol.

use sluice_engine::{Buffer, Engine, Stream};
use sluice_proto::http1::{
    Body, Framing, HeadCursor, Method, ResponseHead, ResponseRewrite, Version, downstream_framing,
    write_response_head,
};

use super::bulk::{Detector, RECEIVE_BYTES_MAX, Side};
use super::{DownloadError, Downloaded, Exchange};
use crate::http1::body::{Piece, compose, last_chunk, rest_behind};
use crate::http1::request::Request;
use crate::limits::INTERIM_HEADS_MAX;
use crate::sniff::Held;

/// What came behind a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// Bytes that belong to no response.
    Surplus,
    /// Such bytes, or the end of the connection.
    Doubt,
}

impl<E: Engine> Exchange<'_, E> {
    /// Reads the response and sends it down.
    pub(super) async fn download(&self, request: &Request<'_>) -> Result<Downloaded, DownloadError> {
        let client_version = request.head.version;
        let mut held: Option<Buffer> = None;
        for earlier in 0..INTERIM_HEADS_MAX {
            let bytes = self.response_head(&mut held, request.head.method, earlier > 0).await?;
            let head = self.parse(&bytes, request.head.method).ok_or(DownloadError::BadHead)?;
            if head.status == 101 {
                return self.switch(request, &bytes, &head).await;
            }
            if !head.is_interim() {
                return self.final_response(request, &bytes, &head).await;
            }
            if client_version == Version::Http11 {
                let rewrite = ResponseRewrite { client: client_version, persistent: true, set: &[] };
                let interim = self.compose_head(&head, &rewrite)?;
                self.send_down(interim).await?;
                // Between two heads there is room for an answer of ours.
                self.downstream_touched.set(false);
            }
            held = Some(rest_behind(&bytes, head.length)).filter(|rest| !rest.is_empty());
        }
        Err(DownloadError::BadHead)
    }

    /// Waits for the end of a head; what came with it stays behind it.
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
                    // An origin cannot answer what it has not been asked.
                    Ok(buffer) if !buffer.is_empty() && self.reused && !self.asked.get() => {
                        return Err(DownloadError::OutOfTurn);
                    }
                    Ok(buffer) if !buffer.is_empty() => buffer,
                    _ if whole.bytes().is_empty() && !behind_interim => {
                        return Err(DownloadError::Unanswered);
                    }
                    _ => return Err(DownloadError::HeadLost),
                },
            };
            whole.push(buffer);
            // It is parsed once, by the caller.
            if cursor.has_end(whole.bytes()) {
                return Ok(whole.into_buffer());
            }
            if cursor.response(whole.bytes(), method, &limits).is_err() {
                return Err(DownloadError::BadHead);
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
        bytes: &[u8],
        head: &ResponseHead<'_>,
    ) -> Result<Downloaded, DownloadError> {
        self.note_answer(head.status);
        let client = request.head.version;
        // An answer that comes before its request is whole ends the connection: what is left of the request would
        // have to be read first.
        let wants_more = request.head.persistent && !self.ended.get();
        let persistent = wants_more && self.uploaded.get() && !self.worker.is_draining();
        let rewrite = ResponseRewrite { client, persistent, set: &[] };
        let out = self.compose_head(head, &rewrite)?;
        let framing = downstream_framing(head.framing, client);
        let rest = rest_behind(bytes, head.length);
        let behind = self.response_body(head.framing, framing, out, rest).await?;
        Ok(Downloaded::Whole {
            reusable: head.persistent && behind == Behind::Nothing && head.framing != Framing::UntilClose,
            persistent: persistent && framing != Framing::UntilClose,
            surplus: behind == Behind::Surplus,
            authenticates: head.authenticates_connection,
        })
    }

    /// A switch of protocols, if it is the very one that was asked for: from here on both connections belong to the
    /// other protocol, whatever of it has come already included.
    async fn switch(
        &self,
        request: &Request<'_>,
        bytes: &[u8],
        head: &ResponseHead<'_>,
    ) -> Result<Downloaded, DownloadError> {
        let asked = request.head.upgrade.is_some() && head.upgrade == request.head.upgrade;
        if !asked || !self.uploaded.get() {
            return Err(DownloadError::BadHead);
        }
        self.note_answer(head.status);
        let rewrite = ResponseRewrite { client: request.head.version, persistent: true, set: &[] };
        let out = self.compose_head(head, &rewrite)?;
        self.send_down(out).await?;
        Ok(Downloaded::Switched { early: rest_behind(bytes, head.length) })
    }

    fn note_answer(&self, status: u16) {
        self.answered.set(true);
        self.code.set(status);
        let waited = self.engine.now().since(self.started).as_millis();
        self.service_time_ms.set(u64::try_from(waited).ok());
        self.touch();
    }

    /// Passes the body on. Gives what came behind it.
    async fn response_body(
        &self,
        from: Framing,
        to: Framing,
        head: Buffer,
        first: Buffer,
    ) -> Result<Behind, DownloadError> {
        let chunked = to == Framing::Chunked;
        let mut body = Body::new(from);
        let mut head = Some(head);
        let mut next = Some(first);
        if body.is_complete() {
            self.send_down(head.take().unwrap_or_else(Buffer::end_of_stream)).await?;
            let surplus = next.is_some_and(|rest| !rest.is_empty());
            return Ok(if surplus { Behind::Surplus } else { Behind::Nothing });
        }
        let mut detector = Detector::default();
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
                            return Ok(Behind::Nothing);
                        }
                        Ok(buffer) if !buffer.is_empty() => buffer,
                        _ => return Err(DownloadError::Truncated),
                    }
                }
            };
            let received = buffer.len();
            let decoded = body.feed(&mut buffer).map_err(|_| DownloadError::BadBody)?;
            let (end, clean) = (decoded.end, decoded.consumed == received);
            let piece = Piece { buffer, decoded, chunked, trailers: body.trailers() };
            self.downstream_touched.set(true);
            let sent = piece.send(self.client, head.take()).await;
            let sent = sent.map_err(|_| DownloadError::ClientGone)?;
            self.response_bytes.set(self.response_bytes.get() + sent);
            self.touch();
            if end {
                return Ok(match clean {
                    false => Behind::Surplus,
                    // A full buffer may have left something in the kernel.
                    true if received >= RECEIVE_BYTES_MAX => self.behind_bulk(),
                    true => Behind::Nothing,
                });
            }
            if detector.is_bulk(received, body.known_left()) {
                let (from, to) = (self.upstream, self.client);
                let passed = self.splice(from, to, body.known_left(), &self.response_bytes).await;
                body.pass(passed.map_err(|side| match side {
                    Side::Source => DownloadError::Truncated,
                    Side::Sink => DownloadError::ClientGone,
                })?);
                if body.is_complete() {
                    return Ok(self.behind_bulk());
                }
            }
        }
    }

    fn behind_bulk(&self) -> Behind {
        if self.upstream.is_stale() { Behind::Doubt } else { Behind::Nothing }
    }

    async fn send_down(&self, buffer: Buffer) -> Result<(), DownloadError> {
        self.downstream_touched.set(true);
        self.response_bytes.set(self.response_bytes.get() + buffer.len() as u64);
        self.client.send(buffer).await.map_err(|_| DownloadError::ClientGone)
    }
}
