//! The request's way up: its head, its body, and then an eye on the client while the response comes down.

use std::future::pending;

use sluice_engine::{Buffer, Engine, Stream};
use sluice_proto::http1::{Body, Framing};

use super::bulk::{Detector, Side};
use super::{Exchange, UploadError};
use crate::http1::body::Piece;

impl<E: Engine> Exchange<'_, E> {
    /// Sends the request, then watches the client. Ends only when something is wrong.
    pub(super) async fn upload(&self, head: Buffer, framing: Framing) -> UploadError {
        match self.request(head, framing).await {
            Ok(()) => self.watch_client().await,
            Err(error) => error,
        }
    }

    async fn request(&self, head: Buffer, framing: Framing) -> Result<(), UploadError> {
        let mut body = Body::new(framing);
        let mut head = Some(head);
        let mut detector = Detector::default();
        while !body.is_complete() {
            let held = self.held.take();
            let mut buffer = match held {
                Some(buffer) => buffer,
                None => {
                    // The head goes ahead of a body that is still to come.
                    if let Some(head) = head.take() {
                        self.ask(head).await?;
                    }
                    match self.client.receive().await {
                        Ok(buffer) if !buffer.is_empty() => buffer,
                        _ => return Err(UploadError::ClientGone),
                    }
                }
            };
            let received = buffer.len();
            let decoded = body.feed(&mut buffer).map_err(|_| UploadError::Malformed)?;
            self.request_bytes.set(self.request_bytes.get() + decoded.consumed as u64);
            if decoded.consumed < buffer.len() {
                *self.held.borrow_mut() = Some(buffer.split_off(decoded.consumed));
            }
            let chunked = framing == Framing::Chunked;
            let piece = Piece { buffer, decoded, chunked, trailers: body.trailers() };
            piece.send(self.upstream, head.take()).await.map_err(|_| UploadError::Upstream)?;
            self.asked.set(true);
            self.touch();
            if detector.is_bulk(received, body.known_left()) {
                let (from, to) = (self.client, self.upstream);
                let passed = self.splice(from, to, body.known_left(), &self.request_bytes).await;
                body.pass(passed.map_err(|side| match side {
                    Side::Source => UploadError::ClientGone,
                    Side::Sink => UploadError::Upstream,
                })?);
            }
        }
        if let Some(head) = head.take() {
            self.ask(head).await?;
        }
        self.uploaded.set(true);
        self.touch();
        Ok(())
    }

    async fn ask(&self, head: Buffer) -> Result<(), UploadError> {
        self.upstream.send(head).await.map_err(|_| UploadError::Upstream)?;
        self.asked.set(true);
        Ok(())
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
}
