//! From a request to its answer. Knows no socket.

use std::net::IpAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;

use super::{Scope, connections};
use crate::clock;
use crate::explain::{Question, explain};
use crate::status::{Phase, Status};

pub(super) type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = "\
sluice admin: GET and HEAD only

/healthz          200 while the process answers
/readyz           200 while traffic is served, 503 while starting or draining
/metrics          Prometheus text format
/config           the configuration in force, secrets left out
/connections      live connections of every worker
/policy/explain   ?from=namespace/name&to=https://example.org  the decision and the trail that led to it
                  from: namespace/name, a SPIFFE id or an IP address; to: a URL or host:port;
                  original=ip:port; format=json
";

pub(super) async fn respond<B>(request: &Request<B>, scope: Scope, status: &Arc<Status>) -> Answer {
    if scope == Scope::Admin
        && let Err((code, why)) = check_host(request)
    {
        return text(code, why);
    }
    // Some probes ask by HEAD; the answer's body is left out by the server.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match (request.uri().path(), scope) {
        ("/healthz", _) => text(StatusCode::OK, "ok\n"),
        ("/readyz", _) => ready(status),
        ("/metrics", _) => metrics(status).await,
        ("/", Scope::Admin) => text(StatusCode::OK, INDEX),
        ("/config", Scope::Admin) => {
            let plan = status.current().plan;
            written(status, JSON, move || plan.effective_text() + "\n").await
        }
        ("/connections", Scope::Admin) => {
            let listed = connections::list(status).await;
            written(status, JSON, move || pretty(&listed.to_json())).await
        }
        ("/policy/explain", Scope::Admin) => explained(request, status),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn ready(status: &Status) -> Answer {
    let phase = status.phase();
    let code = if phase == Phase::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(code, format!("{phase}\n"))
}

async fn metrics(status: &Status) -> Answer {
    let render = Arc::clone(&status.metrics);
    let write = move || {
        let mut out = String::new();
        render(&mut out);
        out
    };
    written(status, METRICS, write).await
}

/// An answer whose body is written off this thread.
async fn written(
    status: &Status,
    kind: &'static str,
    write: impl FnOnce() -> String + Send + 'static,
) -> Answer {
    match status.heavy.write(write).await {
        Ok(body) => with(StatusCode::OK, kind, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn explained<B>(request: &Request<B>, status: &Status) -> Answer {
    let pairs = match query(request.uri().query().unwrap_or_default()) {
        Ok(pairs) => pairs,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let get = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let Some(to) = get("to") else {
        return text(StatusCode::BAD_REQUEST, "missing: to=URL or to=host:port (see /)\n");
    };
    let current = status.current();
    let question = Question { from: get("from"), to, original: get("original") };
    match explain(&current.snapshot.policy, &current.plan, &question, clock::now()) {
        Ok(answer) if get("format") == Some("json") || wants_json(request) => {
            with(StatusCode::OK, JSON, pretty(&answer.to_json()))
        }
        Ok(answer) => text(StatusCode::OK, answer.to_string()),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn wants_json<B>(request: &Request<B>) -> bool {
    let accept = request.headers().get(hyper::header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains(JSON))
}

/// A name in Host means that a browser was led here by that name (DNS rebinding).
fn check_host<B>(request: &Request<B>) -> Result<(), (StatusCode, &'static str)> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err((StatusCode::BAD_REQUEST, "exactly one Host header\n"));
    };
    let target = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    let all = [host.to_str().ok(), target.or(Some("localhost"))];
    if all.iter().all(|authority| authority.is_some_and(is_local_form)) {
        return Ok(());
    }
    Err((StatusCode::FORBIDDEN, "the Host must be an IP address or localhost\n"))
}

fn is_local_form(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port),
            None => return false,
        },
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let plain_port =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    plain_port && (host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok())
}

/// The pairs of a query string, percent-decoded; `+` stays itself, as RFC 3986 has it.
fn query(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "the query is not valid percent-encoded UTF-8\n";
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(WRONG);
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).map_err(|_| WRONG)?);
    }
    String::from_utf8(out).map_err(|_| WRONG)
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Answer {
    with(code, TEXT, body)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn with(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_pass_as_host() {
        for host in
            ["127.0.0.1", "127.0.0.1:15000", "localhost", "LocalHost:1", "[::1]:15000", "[::1]", "10.0.0.1"]
        {
            assert!(is_local_form(host), "{host}");
        }
        for host in [
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "",
            "[::1",
            "::1",
            "127.0.0.1:x",
            "a@127.0.0.1",
        ] {
            assert!(!is_local_form(host), "{host}");
        }
    }

    #[test]
    fn queries_are_decoded_strictly() {
        let pairs = query("from=default%2Fidgen&to=https://a.test/&&x").expect("valid");
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("from", "default/idgen"), ("to", "https://a.test/"), ("x", "")]);
        assert!(query("a=%").is_err() && query("a=%g0").is_err() && query("a=%ff").is_err());
    }
}
