//! One request: whose, where to, allowed? Then an upstream connection, pooled or new, and the exchange on it.

use std::net::SocketAddr;
use std::rc::Rc;

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Engine, Stream};
use sluice_policy::{HostBuf, Reason, parse_host};
use sluice_proto::http1::{
    Authority, Framing, HeaderName, Method, Progress, RequestHead, Scheme, Target, parse_request_head,
};
use sluice_telemetry::access_log::Field;
use sluice_telemetry::{Counter, ResponseFlags};

use super::body::rest_behind;
use super::exchange::{self, Outcome};
use super::identity::{identify, request_id};
use super::{After, Client, Mode, Refusal, connect};
use crate::carried::Carried;
use crate::reach::{self, Obstacle};
use crate::record::Record;
use crate::route::{Asker, Route, Wanted};
use crate::tunnel;
use crate::upstream::Key;

/// Serves the request whose head, whole or unacceptable, stands at the front of `bytes`. `None` when the connection became
/// a tunnel, or is gone.
pub(super) async fn serve<E: Engine>(mut client: Client<E>, bytes: Buffer) -> Option<(Client<E>, After)> {
    let head = match parse_request_head(&bytes, &client.head_limits()) {
        Ok(Progress::Complete(head)) => head,
        // Its end was seen: it does not lack bytes.
        Ok(Progress::Partial) => return Some((client, After::Close)),
        Err(error) => {
            let after = client.refuse(Refusal::Head(error)).await;
            return Some((client, after));
        }
    };
    if bytes.len() > head.length {
        client.held = Some(rest_behind(&bytes, head.length));
    }
    let mut record = Record::request(&client.connection);
    let id = request_id(&client.worker().engine, &head);
    note_request(&mut record, &head, &id);
    let request = Request { head: &head, id: &id };
    if head.method == Method::Connect {
        return connect::serve(client, &request, record).await;
    }
    match request.forward(&mut client, &mut record).await {
        Forwarded::After(after) => Some((client, after)),
        Forwarded::Switched(upstream, early) => {
            switch(client, record, upstream, early);
            None
        }
    }
}

/// What became of a request.
enum Forwarded<E: Engine> {
    /// It was answered.
    After(After),
    /// Its connections belong to another protocol now; the origin has sent these bytes of it.
    Switched(E::Stream, Buffer),
}

/// Hands both connections over as a tunnel. Neither ever carries a request again.
fn switch<E: Engine>(client: Client<E>, record: Record<E>, upstream: E::Stream, early: Buffer) {
    let Client { connection, stream, held, ended, .. } = client;
    // What the client sent ahead of the answer was held until now; an end comes behind all that was sent.
    let from_downstream = held.or_else(|| ended.then(Buffer::end_of_stream));
    let from_upstream = Some(early).filter(|early| !early.is_empty());
    tunnel::relay(connection, record, stream, upstream, from_downstream, from_upstream);
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
    async fn forward<E: Engine>(&self, client: &mut Client<E>, record: &mut Record<E>) -> Forwarded<E> {
        let Ok(asker) = identify(client, self.head) else {
            return Forwarded::After(self.unauthenticated(client, record).await);
        };
        let wanted = match self.wanted(client) {
            Ok(wanted) => wanted,
            Err(unacceptable) => return Forwarded::After(self.refuse(client, record, &unacceptable).await),
        };
        let mut route = client.route(&asker, wanted);
        record.decided(&route);
        if let Err(reason) = admissible(client, &route) {
            let remedy = (reason == Reason::ProtocolMismatch).then(|| other_protocol(&route)).flatten();
            return Forwarded::After(self.deny(client, record, &route, reason, remedy.as_deref()).await);
        }
        if self.head.max_forwards() == Some(0) {
            return Forwarded::After(self.last_hop(client, record).await);
        }
        let mut fresh = false;
        loop {
            let acquired = match self.acquire(client, &route, fresh).await {
                Ok(acquired) => acquired,
                Err(obstacle) => {
                    return Forwarded::After(self.obstructed(client, record, &route, obstacle).await);
                }
            };
            route = Rc::clone(&acquired.route);
            let outcome = exchange::exchange(client, self, (&acquired.stream, acquired.reused), record).await;
            let again = acquired.reused && !fresh && self.may_be_sent_again() && !client.connection.is_cut();
            if matches!(outcome, Outcome::OutOfTurn) {
                client.worker().metrics.add(Counter::UpstreamUnsolicited, 1);
            }
            match outcome {
                // RFC 9110 §9.2.2: the origin may have closed an idle connection just when we used it.
                Outcome::Unanswered | Outcome::OutOfTurn if again => {
                    client.worker().metrics.add(Counter::UpstreamPoolRetries, 1);
                    fresh = true;
                }
                outcome => return self.conclude(client, record, acquired, outcome).await,
            }
        }
    }

    /// What follows from how an exchange ended, for both of its connections.
    async fn conclude<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
        acquired: Acquired<E>,
        outcome: Outcome,
    ) -> Forwarded<E> {
        Forwarded::After(match outcome {
            Outcome::Switched { early } => return Forwarded::Switched(acquired.stream, early),
            Outcome::Unanswered if client.connection.is_cut() => {
                record.flag(ResponseFlags::LR);
                record.details("local_reset");
                After::Reset
            }
            Outcome::Unanswered => {
                record.flag(ResponseFlags::UC);
                record.details("upstream_reset_before_response_started{connection_termination}");
                let text = "the destination closed the connection before it answered";
                self.answer(client, record, (503, text), true).await
            }
            Outcome::OutOfTurn => {
                acquired.stream.reset();
                record.flag(ResponseFlags::UPE);
                record.details("upstream_reset_before_response_started{protocol_error}");
                self.answer(client, record, (502, "the destination spoke out of turn"), false).await
            }
            Outcome::Failed { status, text } => {
                acquired.stream.reset();
                self.answer(client, record, (status, text), false).await
            }
            Outcome::Done { after, reusable, surplus, authenticates } => {
                client.worker().metrics.add(Counter::UpstreamUnsolicited, u64::from(surplus));
                let Acquired { stream, key, route, pinned, .. } = acquired;
                if reusable {
                    let pinned = pinned || authenticates || self.head.authenticates_connection;
                    client.keep_upstream(&key, stream, route, pinned);
                }
                after
            }
            Outcome::Broken => {
                acquired.stream.reset();
                After::Reset
            }
        })
    }

    fn may_be_sent_again(&self) -> bool {
        self.head.method.is_idempotent() && self.has_no_body()
    }

    pub(super) fn has_no_body(&self) -> bool {
        matches!(self.head.framing, Framing::None | Framing::Length(0))
    }

    /// What the request wants.
    fn wanted<E: Engine>(&self, client: &Client<E>) -> Result<Wanted, Unacceptable> {
        // HTTP/1.0 may name no host; where there is an original destination its address decides.
        if let Mode::Inner { outer, bound: false } = &client.mode
            && matches!(self.head.target, Target::Origin(_) | Target::Asterisk)
            && self.head.host.is_none()
        {
            return Ok(outer.wanted.clone());
        }
        let authority = self.authority(&client.mode)?;
        let mut scratch = HostBuf::new();
        let host = parse_host(authority.host, &mut scratch)
            .map_err(|_| malformed("the host is neither a name nor an address"))?;
        Ok(match &client.mode {
            Mode::Proxy => Wanted::named(host, authority.port.unwrap_or(80)),
            Mode::Direct => {
                let named = Wanted::named(host, authority.port.unwrap_or(80));
                // Its port is Host's: only the address is the original destination's.
                let forwarded = client.connection.announced.get();
                let forwarded = forwarded.map(|original| SocketAddr::new(original.ip(), named.port));
                Wanted { original: named.original.or(forwarded), ..named }
            }
            Mode::Inner { outer, bound } => {
                let port = outer.wanted.port;
                if *bound && authority.port.is_some_and(|named| named != port) {
                    return Err(Unacceptable {
                        status: 421,
                        reason: Reason::NameMismatch,
                        text: "the authority's port is not the tunnel's",
                    });
                }
                Wanted { original: outer.wanted.original, ..Wanted::named(host, port) }
            }
        })
    }

    /// The authority that the request names, in the form that its connection's mode prescribes.
    fn authority(&self, mode: &Mode) -> Result<Authority<'_>, Unacceptable> {
        let authority = match (mode, self.head.target) {
            (Mode::Direct | Mode::Inner { .. }, Target::Authority(_)) => {
                return Err(Unacceptable {
                    status: 405,
                    reason: Reason::Malformed,
                    text: "CONNECT where no proxy is spoken to",
                });
            }
            (_, Target::Absolute { scheme: Scheme::Https, .. }) => {
                return Err(malformed(match mode {
                    Mode::Proxy => "https:// to a proxy: use CONNECT",
                    Mode::Inner { .. } => "https:// in a tunnel of plain HTTP",
                    Mode::Direct => "https:// to a door of plain HTTP",
                }));
            }
            (_, Target::Absolute { authority, .. }) => authority,
            (Mode::Proxy, _) => {
                return Err(malformed(
                    "this is a proxy: the request target must be absolute (http://host/path)",
                ));
            }
            (Mode::Direct | Mode::Inner { .. }, Target::Origin(_) | Target::Asterisk) => {
                self.head.host.ok_or_else(|| malformed("no Host"))?
            }
        };
        // One request, one destination: a Host that names another one is a contradiction.
        if self.head.host.is_some_and(|host| !same_authority(host, authority)) {
            return Err(malformed("the Host header contradicts the request target"));
        }
        Ok(authority)
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
        connection.carries(Carried::Requests);
        let (route, candidates) = reach::addresses(connection, route).await?;
        connection.phase.set(Phase::Http);
        let source = reach::source(connection, &route);
        let key = |dialled| Key { name: route.pool_name(), dialled, source };
        if !fresh {
            while let Some((stream, dialled)) = client.pins.take(&route.asker, &route.pool_name(), source) {
                // The name may have other addresses by now: what counts is that this one may still be reached.
                let approved = candidates.addresses.contains(&dialled)
                    || reach::guard(client.worker(), &route, vec![dialled]).is_ok();
                if approved {
                    connection.attach(&stream, dialled);
                    client.worker().metrics.add(Counter::UpstreamPoolHits, 1);
                    return Ok(Acquired { stream, key: key(dialled), route, reused: true, pinned: true });
                }
            }
            for dialled in candidates.kept() {
                let key = key(*dialled);
                if let Some(stream) = client.worker().pool.take(&key) {
                    connection.attach(&stream, *dialled);
                    client.worker().metrics.add(Counter::UpstreamPoolHits, 1);
                    return Ok(Acquired { stream, key, route, reused: true, pinned: false });
                }
            }
        }
        client.worker().metrics.add(Counter::UpstreamPoolMisses, 1);
        let reached = reach::dial_guarded(connection, &route, &candidates.addresses).await?;
        connection.phase.set(Phase::Http);
        let key = key(reached.dialled);
        Ok(Acquired { stream: reached.stream, key, route, reused: false, pinned: false })
    }
}

/// An upstream connection for one request.
struct Acquired<E: Engine> {
    stream: E::Stream,
    key: Key,
    /// The route as the policy in force saw it when the address was approved.
    route: Rc<Route>,
    reused: bool,
    /// It has been authenticated for this client, and serves nobody else.
    pinned: bool,
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
    if !Carried::Requests.fits(route.declared_protocol()) {
        return Err(Reason::ProtocolMismatch);
    }
    Ok(())
}

/// What would let plain requests through to a port where TLS is declared.
fn other_protocol(route: &Route) -> Option<String> {
    let service = route.service.as_ref()?;
    Some(format!(
        "port {} of service {} is declared {} and this is plain HTTP: ask for https://, or set protocol = \"HTTP\" at that port",
        route.wanted.port, service.label, service.protocol
    ))
}

fn malformed(text: &'static str) -> Unacceptable {
    Unacceptable { status: 400, reason: Reason::Malformed, text }
}

fn same_authority(one: Authority<'_>, other: Authority<'_>) -> bool {
    let mut scratches = (HostBuf::new(), HostBuf::new());
    match (parse_host(one.host, &mut scratches.0), parse_host(other.host, &mut scratches.1)) {
        (Ok(host), Ok(other_host)) => {
            host == other_host && one.port.unwrap_or(80) == other.port.unwrap_or(80)
        }
        _ => false,
    }
}

fn note_request<E: Engine>(record: &mut Record<E>, head: &RequestHead<'_>, id: &str) {
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
