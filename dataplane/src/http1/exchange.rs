//! One request: whose, where to, allowed? Then an upstream connection, pooled or new, and the exchange on it.

use std::rc::Rc;

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Engine, Stream};
use sluice_policy::{HostBuf, Reason, parse_host};
use sluice_proto::http1::{Framing, Method, RequestHead, Scheme, Target};
use sluice_telemetry::access_log::Field;
use sluice_telemetry::{Counter, ResponseFlags};

use super::answer::{self, Answer};
use super::identity::{identify, request_id};
use super::response::{self, Outcome};
use super::{After, Client, Mode, connect, reparse};
use crate::inside::Inside;
use crate::reach::{self, Obstacle};
use crate::record::Record;
use crate::route::{Asker, Route, Wanted};
use crate::upstream::Key;

/// Serves the request whose head stands at the front of `bytes`. `None` when the connection became a tunnel.
pub(super) async fn serve_request<E: Engine>(
    mut client: Client<E>,
    bytes: Buffer,
) -> Option<(Client<E>, After)> {
    let Some(head) = reparse(&client, &bytes) else {
        // The limits shrank between two looks at the same bytes.
        return Some((client, After::Close));
    };
    if bytes.len() > head.length {
        let mut rest = Buffer::with_capacity(bytes.len() - head.length);
        let fits = rest.append(&bytes[head.length..]);
        debug_assert!(fits, "made to fit");
        client.held = Some(rest);
    }
    let mut record = Record::request(&client.connection);
    let id = request_id(&client.worker().engine, &head);
    note_request(&mut record, &head, &id);
    let request = Request { head: &head, id: &id };
    if head.method == Method::Connect {
        return connect::serve(client, &request, record).await;
    }
    let after = request.forward(&mut client, &mut record).await;
    Some((client, after))
}

/// A request under way.
pub(super) struct Request<'b> {
    pub(super) head: &'b RequestHead<'b>,
    pub(super) id: &'b str,
}

/// Why a request is answered by us, before anything was decided.
pub(super) struct Unacceptable {
    pub(super) status: u16,
    pub(super) reason: Reason,
    pub(super) text: &'static str,
}

impl Request<'_> {
    async fn forward<E: Engine>(&self, client: &mut Client<E>, record: &mut Record<E>) -> After {
        let Ok(asker) = identify(client, self.head) else {
            return self.unauthenticated(client, record).await;
        };
        let wanted = match self.wanted(client) {
            Ok(wanted) => wanted,
            Err(unacceptable) => return self.refuse(client, record, &unacceptable).await,
        };
        let mut route = client.route(&asker, wanted);
        record.decided(&route);
        if let Err(reason) = admissible(client, &route) {
            return self.deny(client, record, &route, reason, None).await;
        }
        if self.head.max_forwards() == Some(0) {
            return self.last_hop(client, record).await;
        }
        let mut fresh = false;
        loop {
            let reached = match self.acquire(client, &route, fresh).await {
                Ok(reached) => reached,
                Err(obstacle) => return self.obstructed(client, record, &route, obstacle).await,
            };
            route = reached.route;
            let outcome = response::exchange(client, self, &reached.stream, record).await;
            match outcome {
                // RFC 9110 §9.2.2: the origin may have closed an idle connection just when we used it.
                Outcome::Unanswered
                    if reached.reused
                        && !fresh
                        && self.may_be_sent_again()
                        && !client.connection.is_cut() =>
                {
                    client.worker().metrics.add(Counter::UpstreamPoolRetries, 1);
                    fresh = true;
                }
                Outcome::Unanswered if client.connection.is_cut() => {
                    record.flag(ResponseFlags::LR);
                    record.details("local_reset");
                    return After::Reset;
                }
                Outcome::Unanswered => {
                    record.flag(ResponseFlags::UC);
                    record.details("upstream_reset_before_response_started{connection_termination}");
                    let text = "the destination closed the connection before it answered";
                    return self.answer(client, record, 503, text).await;
                }
                Outcome::Failed { status, text } => {
                    reached.stream.reset();
                    return self.answer_and_close(client, record, status, text).await;
                }
                Outcome::Done { after, reusable } => {
                    if reusable {
                        let worker = client.worker();
                        // What it leaves free as a busy one it takes as an idle one.
                        let (now, room) = (worker.engine.now(), worker.room_for_idle() + 1);
                        worker.pool.put(&reached.key, reached.stream, route, now, room);
                    }
                    return after;
                }
                Outcome::Broken => {
                    reached.stream.reset();
                    return After::Reset;
                }
            }
        }
    }

    /// The answer to an OPTIONS or TRACE that was to come no further than here (RFC 9110 §7.6.2). A TRACE is not
    /// reflected: what a client sends may hold secrets, and a script that made it could read them.
    async fn last_hop<E: Engine>(&self, client: &Client<E>, record: &mut Record<E>) -> After {
        record.details("direct_response");
        let status = if self.head.method == Method::Trace { 405 } else { 200 };
        let allow = "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
        let text = "Max-Forwards ends this request at the gateway";
        self.send(
            client,
            record,
            Answer { status, text, header: Some(("Allow", allow)), ..self.draft(client) },
        )
        .await
    }

    fn may_be_sent_again(&self) -> bool {
        self.head.method.is_idempotent() && self.has_no_body()
    }

    fn has_no_body(&self) -> bool {
        matches!(self.head.framing, Framing::None | Framing::Length(0))
    }

    /// What the request wants, by the form that its connection's mode prescribes.
    fn wanted<E: Engine>(&self, client: &Client<E>) -> Result<Wanted, Unacceptable> {
        let malformed = |text| Unacceptable { status: 400, reason: Reason::Malformed, text };
        let (authority, default_port) = match (&client.mode, self.head.target) {
            (Mode::Proxy, Target::Absolute { scheme: Scheme::Http, authority, .. }) => {
                // One request, one destination: a Host that names another one is a contradiction.
                if self.head.host.is_some_and(|host| !same_authority(host, authority)) {
                    return Err(malformed("the Host header contradicts the request target"));
                }
                (authority, 80)
            }
            (Mode::Proxy, Target::Absolute { scheme: Scheme::Https, .. }) => {
                return Err(malformed("https:// to a proxy: use CONNECT"));
            }
            (Mode::Proxy, _) => {
                return Err(malformed(
                    "this is a proxy: the request target must be absolute (http://host/path)",
                ));
            }
            (Mode::Inner { .. }, Target::Absolute { scheme: Scheme::Https, .. }) => {
                return Err(malformed("https:// in a tunnel of plain HTTP"));
            }
            (Mode::Inner { outer, .. }, Target::Origin(_) | Target::Asterisk | Target::Absolute { .. }) => {
                let authority = self.head.authority().ok_or_else(|| malformed("no Host"))?;
                if self.head.host.is_some_and(|host| !same_authority(host, authority)) {
                    return Err(malformed("the Host header contradicts the request target"));
                }
                (authority, outer.wanted.port)
            }
            (Mode::Inner { .. }, Target::Authority(_)) => {
                return Err(Unacceptable {
                    status: 405,
                    reason: Reason::Malformed,
                    text: "CONNECT inside a tunnel",
                });
            }
        };
        let mut scratch = HostBuf::new();
        let host = parse_host(authority.host, &mut scratch)
            .map_err(|_| malformed("the host is neither a name nor an address"))?;
        let port = authority.port.unwrap_or(default_port);
        if matches!(client.mode, Mode::Inner { bound: true, .. }) && port != default_port {
            return Err(Unacceptable {
                status: 421,
                reason: Reason::NameMismatch,
                text: "the authority's port is not the tunnel's",
            });
        }
        Ok(match &client.mode {
            Mode::Proxy => Wanted::named(host, port),
            Mode::Inner { outer, .. } => Wanted {
                original: outer.wanted.original,
                port: outer.wanted.port,
                ..Wanted::named(host, port)
            },
        })
    }

    /// An upstream connection for the request: an idle one to an address that the name has now, else a new one.
    async fn acquire<E: Engine>(
        &self,
        client: &Client<E>,
        route: &Rc<Route>,
        fresh: bool,
    ) -> Result<Acquired<E>, Obstacle> {
        let connection = &client.connection;
        connection.begin(route);
        connection.carries(Inside::Requests);
        let (route, candidates) = reach::addresses(connection, route).await?;
        connection.phase.set(Phase::Http);
        let key = |dialled| Key {
            name: route.pool_name(),
            dialled,
            source: route.service.as_ref().and_then(|service| service.source_address),
        };
        if !fresh {
            for dialled in &candidates {
                let key = key(*dialled);
                if let Some(stream) = client.worker().pool.take(&key) {
                    connection.attach(&stream, *dialled);
                    client.worker().metrics.add(Counter::UpstreamPoolHits, 1);
                    return Ok(Acquired { stream, key, route, reused: true });
                }
            }
        }
        client.worker().metrics.add(Counter::UpstreamPoolMisses, 1);
        let reached = reach::dial_guarded(connection, &route, &candidates).await?;
        connection.phase.set(Phase::Http);
        Ok(Acquired { stream: reached.stream, key: key(reached.dialled), route, reused: false })
    }

    /// 407: the client must say who it is.
    pub(super) async fn unauthenticated<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
    ) -> After {
        record.denied(Reason::Auth);
        record.details("proxy_authentication_required");
        let answer = Answer {
            status: 407,
            text: "proxy credentials are missing or wrong",
            reason: Some(Reason::Auth),
            header: Some(("Proxy-Authenticate", "Basic realm=\"sluice\", charset=\"UTF-8\"")),
            ..self.draft(client)
        };
        self.send(client, record, answer).await
    }

    /// A request that names no acceptable destination.
    pub(super) async fn refuse<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
        why: &Unacceptable,
    ) -> After {
        record.denied(why.reason);
        record.details("http1.codec_error");
        let answer = Answer {
            status: why.status,
            text: why.text,
            reason: Some(why.reason),
            persistent: false,
            ..self.draft(client)
        };
        self.send(client, record, answer).await
    }

    /// A denial, as the table of the design has it.
    pub(super) async fn deny<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
        route: &Route,
        reason: Reason,
        would_allow: Option<&str>,
    ) -> After {
        record.denied(reason);
        let (status, details) = match reason {
            Reason::WorkloadNotAllowed | Reason::WorkloadDenied => (403, "rbac_access_denied"),
            Reason::NameMismatch if matches!(client.mode, Mode::Inner { bound: true, .. }) => {
                (421, "direct_response")
            }
            Reason::Guard => (502, "egress_guard"),
            _ => (502, "direct_response"),
        };
        record.details(details);
        let remedy = answer::remedy(route).or_else(|| reach::guard_remedy(client.worker(), route));
        let answer = Answer {
            status,
            text: "this destination is denied by the egress policy",
            reason: Some(reason),
            route: Some(route),
            remedy: would_allow.or(remedy.as_deref()),
            ..self.draft(client)
        };
        self.send(client, record, answer).await
    }

    /// The destination is allowed and cannot be reached.
    pub(super) async fn obstructed<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
        route: &Route,
        obstacle: Obstacle,
    ) -> After {
        let text = match obstacle {
            Obstacle::Cut => {
                record.flag(ResponseFlags::LR);
                record.details("local_reset");
                return After::Reset;
            }
            Obstacle::Denied(reason, would_allow) => {
                return self.deny(client, record, route, reason, would_allow.as_deref()).await;
            }
            Obstacle::Dns(unresolved) => {
                record.flag(ResponseFlags::DF);
                record.details("dns_resolution_failure");
                let why = unresolved.as_str();
                record.entry.set_static(Field::UpstreamTransportFailureReason, why);
                let name = route.wanted.host_text().unwrap_or_else(|| "of the service".into());
                format!("the name {name} could not be resolved: {why}")
            }
            Obstacle::Dial(error) => {
                record.flag(ResponseFlags::UF);
                record.details("upstream_reset_before_response_started{connection_failure}");
                let why = error.to_text();
                record.entry.set_text(Field::UpstreamTransportFailureReason, &why);
                format!("the destination could not be connected to: {why}")
            }
        };
        self.answer(client, record, 503, &text).await
    }

    /// An answer of ours that is no denial.
    async fn answer<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
        status: u16,
        text: &str,
    ) -> After {
        self.send(client, record, Answer { status, text, ..self.draft(client) }).await
    }

    async fn answer_and_close<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
        status: u16,
        text: &str,
    ) -> After {
        self.send(client, record, Answer { status, text, persistent: false, ..self.draft(client) }).await
    }

    /// What all answers to this request have in common. A body that we will not read ends the connection; so does a
    /// CONNECT, after which nothing may be interpreted.
    fn draft<E: Engine>(&self, client: &Client<E>) -> Answer<'_> {
        let tunnel = self.head.method == Method::Connect;
        Answer {
            request_id: Some(self.id),
            persistent: self.head.persistent
                && self.has_no_body()
                && !tunnel
                && !client.ended
                && !client.worker().is_draining(),
            head_only: self.head.method == Method::Head,
            ..Answer::default()
        }
    }

    async fn send<E: Engine>(&self, client: &Client<E>, record: &mut Record<E>, answer: Answer<'_>) -> After {
        answer.send(client, record).await
    }
}

/// An upstream connection for one request.
struct Acquired<E: Engine> {
    stream: E::Stream,
    key: Key,
    /// The route as the policy in force saw it when the address was approved.
    route: Rc<Route>,
    reused: bool,
}

impl<E: Engine> Client<E> {
    /// The decision on this request: the one before, where nothing has changed.
    pub(super) fn route(&mut self, asker: &Rc<Asker>, wanted: Wanted) -> Rc<Route> {
        let generation = self.worker().snapshot().generation;
        if let Some(route) = &self.memo
            && route.generation == generation
            && Rc::ptr_eq(&route.asker, asker)
            && route.wanted == wanted
        {
            return Rc::clone(route);
        }
        let route = self.worker().decide(asker, wanted);
        self.memo = Some(Rc::clone(&route));
        route
    }
}

/// What the policy's decision does not see: what is spoken here, and the rule of the tunnel around it.
fn admissible<E: Engine>(client: &Client<E>, route: &Route) -> Result<(), Reason> {
    if let Mode::Inner { outer, bound: true } = &client.mode
        && (route.is_denied() || !route.same_rule(outer))
    {
        return Err(Reason::NameMismatch);
    }
    if route.is_denied() {
        return Err(route.reason());
    }
    // Plain HTTP to a port where TLS is declared would leave the gateway unencrypted.
    if !Inside::Requests.fits(route.declared_protocol()) {
        return Err(Reason::ProtocolMismatch);
    }
    Ok(())
}

fn same_authority(
    one: sluice_proto::http1::Authority<'_>,
    other: sluice_proto::http1::Authority<'_>,
) -> bool {
    let mut scratches = (HostBuf::new(), HostBuf::new());
    match (parse_host(one.host, &mut scratches.0), parse_host(other.host, &mut scratches.1)) {
        (Ok(host), Ok(other_host)) => {
            host == other_host && one.port.unwrap_or(80) == other.port.unwrap_or(80)
        }
        _ => false,
    }
}

fn note_request<E: Engine>(record: &mut Record<E>, head: &RequestHead<'_>, id: &str) {
    use sluice_proto::http1::HeaderName;
    let entry = &mut *record.entry;
    entry.set_bytes(Field::Method, head.method_name);
    entry.set_static(Field::Protocol, head.version.as_str());
    entry.set_text(Field::RequestId, id);
    match head.target {
        Target::Origin(path) | Target::Absolute { path, .. } => {
            entry.set_bytes(Field::Path, if path.is_empty() { b"/" } else { path });
        }
        Target::Authority(_) => {}
        Target::Asterisk => entry.set_static(Field::Path, "*"),
    }
    if let Some(agent) = head.headers.find(HeaderName::UserAgent) {
        entry.set_bytes(Field::UserAgent, agent);
    }
    if let Some(forwarded) = head.headers.get("x-forwarded-for") {
        entry.set_bytes(Field::XForwardedFor, forwarded);
    }
    if let Some(authority) = head.authority() {
        record.note_authority(authority.host, authority.port);
    }
    record.request_bytes = head.length as u64;
}
