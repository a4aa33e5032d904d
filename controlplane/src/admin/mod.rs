//! The admin API: an HTTP/1.1 server that only answers questions. GET and HEAD only, bounded in size, time and number; it must not
//! be able to change anything.

mod connections;
mod route;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::descriptors::is_exhausted;
use crate::limits::{
    ADMIN_CONNECTION_LIFE_MS, ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_BYTES_MAX, ADMIN_HEAD_TIMEOUT_MS,
    ADMIN_HEADERS_MAX, RELOAD_DESCRIPTORS,
};
use crate::status::Status;

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything, to this host only: a Host that is neither an address nor localhost is refused, so that no web
    /// page can reach it through a name of its own.
    Admin,
    /// Metrics and probes, to anybody.
    Public,
}

/// Serves until it is dropped; for the control runtime.
///
/// # Errors
/// When the runtime does not take the socket.
pub async fn serve(listener: TcpListener, scope: Scope, status: Arc<Status>) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_exhausted(&error) && status.spares.release_one(RELOAD_DESCRIPTORS) => continue,
            Err(error) => {
                // Out of descriptors, or a client that went away: the next try must not spin.
                tracing::debug!(%error, "admin accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let status = Arc::clone(&status);
        tokio::spawn(async move {
            let shown = Arc::clone(&status);
            let service = service_fn(move |request| answer(request, scope, Arc::clone(&shown)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_millis(ADMIN_HEAD_TIMEOUT_MS))
                .max_headers(ADMIN_HEADERS_MAX)
                .max_buf_size(ADMIN_HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // Whatever goes wrong here is the client's own affair.
            tokio::time::timeout(Duration::from_millis(ADMIN_CONNECTION_LIFE_MS), connection).await.ok();
            drop(place);
            status.spares.refill();
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    scope: Scope,
    status: Arc<Status>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(route::respond(&request, scope, &status).await)
}

#[cfg(test)]
mod tests;
