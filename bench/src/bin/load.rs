//! A client that makes a fixed number of HTTP/1.1 requests over keep-alive connections and prints what came of them as
//! one line of JSON. Any answer but a whole 200 ends it with an error, so that a failing proxy is never measured.
//!
//! `load --to 127.0.0.1:7000 --target / --host origin.test --connections 64 --requests 60000`. A `target` in
//! absolute form speaks to a forward proxy. With `--rate 2000` so many requests are due each second, and what waits for
//! a free connection counts as waiting; without it every connection asks again as soon as it has its answer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sluice_bench::Arguments;
use sluice_engine::{Buffer, Engine, Stream};
use sluice_engine_epoll::{Config, EpollEngine};

/// A response head that is longer is none of ours.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What all connections share.
struct Load {
    to: SocketAddr,
    request: Vec<u8>,
    left: Cell<usize>,
    requests: usize,
    /// Between two requests, whichever connection makes them; zero: none is waited for.
    interval: Duration,
    start: Instant,
    body_bytes: Cell<u64>,
    latencies_us: RefCell<Vec<u32>>,
}

fn main() -> Result<()> {
    let arguments = Arguments::from_environment()?;
    let (target, host): (String, String) = (arguments.get("target")?, arguments.get("host")?);
    let (connections, requests): (usize, usize) = (arguments.get("connections")?, arguments.get("requests")?);
    let rate: f64 = arguments.get_or("rate", 0.0)?;
    let start = Instant::now();
    let load = Rc::new(Load {
        to: arguments.get("to")?,
        request: format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n")
            .into_bytes(),
        left: Cell::new(requests),
        requests,
        interval: if rate > 0.0 { Duration::from_secs_f64(1.0 / rate) } else { Duration::ZERO },
        start,
        body_bytes: Cell::new(0),
        latencies_us: RefCell::new(Vec::with_capacity(requests)),
    });
    let engine = EpollEngine::new(Config::default())?;
    engine.block_on(run(&engine, &load, connections))?;
    let elapsed_s = start.elapsed().as_secs_f64();
    let mut latencies_us = load.latencies_us.take();
    ensure!(latencies_us.len() == requests, "{} of {requests} requests were answered", latencies_us.len());
    latencies_us.sort_unstable();
    let quantile = |per_mille: usize| latencies_us.get((requests - 1) * per_mille / 1000).copied();
    println!(
        "{}",
        serde_json::json!({
            "requests": requests,
            "body_bytes": load.body_bytes.get(),
            "elapsed_s": elapsed_s,
            "p50_us": quantile(500),
            "p99_us": quantile(990),
            "p999_us": quantile(999),
            "max_us": quantile(1000),
        })
    );
    Ok(())
}

/// Ends when every connection has ended, or with the first error.
async fn run(engine: &EpollEngine, load: &Rc<Load>, connections: usize) -> Result<()> {
    let outcomes = Rc::new(RefCell::new((Vec::new(), None::<Waker>)));
    for _ in 0..connections {
        let (engine_too, load, outcomes) = (engine.clone(), Rc::clone(load), Rc::clone(&outcomes));
        engine.spawn(async move {
            let outcome = converse(&engine_too, &load).await;
            let (ended, waiting) = &mut *outcomes.borrow_mut();
            ended.push(outcome);
            if let Some(waiting) = waiting.take() {
                waiting.wake();
            }
        });
    }
    let mut left = connections;
    poll_fn(|cx| {
        let (ended, waiting) = &mut *outcomes.borrow_mut();
        left -= ended.len();
        *waiting = Some(cx.waker().clone());
        match ended.drain(..).find(Result::is_err) {
            Some(error) => Poll::Ready(error),
            None if left == 0 => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await
}

/// One connection, for as long as there are requests left.
async fn converse(engine: &EpollEngine, load: &Load) -> Result<()> {
    let stream = engine.connect(load.to, None).await.context("connect")?;
    let mut head = Vec::new();
    while let Some(left) = load.left.get().checked_sub(1) {
        load.left.set(left);
        let start = due(engine, load, load.requests - left - 1).await;
        stream.send(Buffer::from(load.request.clone())).await.context("send")?;
        let body_bytes = receive_response(&stream, &mut head).await?;
        let elapsed_us = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
        load.latencies_us.borrow_mut().push(elapsed_us);
        load.body_bytes.set(load.body_bytes.get() + body_bytes);
    }
    Ok(())
}

/// Waits until a request is due, and gives the time from which its latency counts: now, or when it was due if all
/// connections were busy then.
async fn due(engine: &EpollEngine, load: &Load, index: usize) -> Instant {
    if load.interval.is_zero() {
        return Instant::now();
    }
    let due = load.start + load.interval.mul_f64(index as f64);
    match due.checked_duration_since(Instant::now()) {
        Some(early) => {
            engine.sleep_until(engine.now() + early).await;
            Instant::now()
        }
        None => due,
    }
}

/// One whole response; the length of its body.
async fn receive_response(stream: &impl Stream, head: &mut Vec<u8>) -> Result<u64> {
    head.clear();
    let (length, mut received) = loop {
        let buffer = stream.receive().await.context("receive a head")?;
        ensure!(!buffer.is_empty(), "closed before a response");
        head.extend_from_slice(&buffer);
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break (content_length(&head[..end])?, (head.len() - end - 4) as u64);
        }
        ensure!(head.len() <= HEAD_BYTES_MAX, "an endless head");
    };
    while received < length {
        let buffer = stream.receive().await.context("receive a body")?;
        ensure!(!buffer.is_empty(), "closed after {received} of {length} bytes");
        received += buffer.len() as u64;
    }
    ensure!(received == length, "{received} bytes in a body of {length}");
    Ok(length)
}

fn content_length(head: &[u8]) -> Result<u64> {
    let head = std::str::from_utf8(head).context("a head that is no text")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "not a 200: {}", head.lines().next().unwrap_or_default());
    for line in head.lines() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return value.trim().parse().context("a content length");
        }
    }
    bail!("a response without a length")
}
