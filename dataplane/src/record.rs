//! What is known of a request or a tunnel when it is over: the only source of its log line and its metrics.
//!
//! A record is written when it is dropped. No path out of a session, a panic included, escapes the log.

use std::rc::Rc;
use std::sync::Arc;

use sluice_bridge::source_labels;
use sluice_engine::{Engine, Instant};
use sluice_policy::{Decision, Proof, Reason, Verdict};
use sluice_telemetry::access_log::{Entry, Field};
use sluice_telemetry::{
    BLACK_HOLE_CLUSTER, Destination as Label, Family, HttpKey, HttpSeries, PASSTHROUGH_CLUSTER,
    ResponseFlags, SourceId, TcpKey, TcpSeries, Traffic,
};

use crate::connection::Connection;
use crate::route::Route;

/// How a flow is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As a request, with a code.
    Http,
    /// As a connection.
    Tcp,
}

/// One flow's record in the making.
pub(crate) struct Record<E: Engine> {
    connection: Rc<Connection<E>>,
    /// The line to be. Fields that the session knows better than this module are set through it.
    pub(crate) entry: Box<Entry>,
    started: Instant,
    kind: Kind,
    /// `http`, `connect`, `socks5`, `tls`, `tcp`, `proxy_protocol`: the protocol label of a decision.
    protocol: &'static str,
    route: Option<Rc<Route>>,
    /// The decision as it is written down: the policy's, or ours where the policy was never asked or overruled.
    verdict: Verdict,
    reason: Option<Reason>,
    /// Whether the decision has been counted: once, when nothing can overrule it any more.
    settled: bool,
    /// Bytes of the request and the response as they were on the wire downstream.
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    established: bool,
    /// The requests inside tell the story instead.
    superseded: bool,
}

impl<E: Engine> Record<E> {
    /// Starts the record of a request on an HTTP connection.
    pub(crate) fn request(connection: &Rc<Connection<E>>) -> Self {
        Self::new(connection, Kind::Http, "http", 256)
    }

    /// Starts the record of a connection that is to become a tunnel.
    pub(crate) fn tunnel(connection: &Rc<Connection<E>>, protocol: &'static str) -> Self {
        Self::new(connection, Kind::Tcp, protocol, 64)
    }

    fn new(connection: &Rc<Connection<E>>, kind: Kind, protocol: &'static str, text_bytes: usize) -> Self {
        let engine = &connection.worker.engine;
        let mut entry = Box::new(Entry::with_capacity(text_bytes));
        entry.start_unix_ms = i64::try_from(engine.unix_micros() / 1000).unwrap_or(i64::MAX);
        entry.downstream_local_address = Some(connection.local.get());
        entry.downstream_remote_address = Some(connection.peer.get());
        connection.protocol.set(protocol);
        Self {
            connection: Rc::clone(connection),
            entry,
            started: engine.now(),
            kind,
            protocol,
            route: None,
            verdict: Verdict::Deny,
            reason: None,
            settled: false,
            request_bytes: 0,
            response_bytes: 0,
            established: false,
            superseded: false,
        }
    }

    /// From now on this is an established tunnel (CONNECT answered with 2xx): counted as a connection.
    pub(crate) fn become_tunnel(&mut self) {
        self.kind = Kind::Tcp;
    }

    /// Ends the record without a trace: the tunnel carries requests, each of which is decided, counted and logged by
    /// itself.
    pub(crate) fn supersede(mut self) {
        self.superseded = true;
    }

    /// What was decided. The guard or the bytes inside may still overrule it: it is counted by [`Self::settle`].
    pub(crate) fn decided(&mut self, route: &Rc<Route>) {
        self.verdict = route.decision.verdict;
        self.reason = Some(route.decision.reason);
        self.route = Some(Rc::clone(route));
    }

    /// Denied by us for `reason`, whatever the policy said before.
    pub(crate) fn denied(&mut self, reason: Reason) {
        // What a cut connection fails at says nothing about its client.
        if self.connection.is_cut() && reason != Reason::Revoked {
            return;
        }
        self.verdict = Verdict::Deny;
        if self.reason.replace(reason) != Some(reason) {
            // A flow that was let through and is denied later was decided twice.
            if self.settled {
                let metrics = &self.connection.worker.metrics;
                metrics.decision(self.verdict.as_str(), reason.as_str(), self.protocol);
            }
            // What is no HTTP; heads are counted where they are read.
            let unreadable =
                matches!(reason, Reason::Malformed | Reason::ProtocolMismatch | Reason::SniffTimeout);
            if self.kind == Kind::Tcp && unreadable {
                let labels = [&*self.connection.door.name, reason.as_str()];
                self.connection.worker.metrics.count(Family::ProtocolErrors, &labels, 1);
            }
        }
    }

    /// Counts the decision as it stands: one flow, one decision.
    fn settle(&mut self) {
        let Some(reason) = self.reason else { return };
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let worker = &self.connection.worker;
        worker.metrics.decision(self.verdict.as_str(), reason.as_str(), self.protocol);
        let Some(route) = &self.route else { return };
        let shadow = route.decision.shadow;
        worker.metrics.shadow_decision(shadow.verdict.as_str(), shadow.reason.as_str());
        // An address that was refused where it was named; what a name resolves to is counted where it is dialled.
        if reason == Reason::Guard && route.is_denied() {
            crate::reach::count_refusal(worker, route);
        }
    }

    /// A denied flow that has no HTTP answer: marked as Istio marks it.
    pub(crate) fn black_holed(&mut self) {
        self.flag(ResponseFlags::UH);
        if matches!(self.reason, Some(Reason::WorkloadDenied | Reason::WorkloadNotAllowed)) {
            self.details("rbac_access_denied");
        }
    }

    /// From now on this is a request of the protocol `connect`.
    pub(crate) fn become_connect(&mut self) {
        self.protocol = "connect";
        self.connection.protocol.set("connect");
    }

    /// From now on this is a flow of the protocol `tls`, unless the client named its own (`connect`, `socks5`).
    pub(crate) fn become_tls(&mut self) {
        if self.protocol == "tcp" {
            self.protocol = "tls";
            self.connection.protocol.set("tls");
        }
    }

    /// The host and port that the client named, as it wrote them.
    pub(crate) fn note_authority(&mut self, host: &[u8], port: Option<u16>) {
        match port {
            None => self.entry.set_bytes(Field::Authority, host),
            Some(port) => {
                let mut text = Vec::with_capacity(host.len() + 6);
                text.extend_from_slice(host);
                text.push(b':');
                text.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
                self.entry.set_bytes(Field::Authority, &text);
            }
        }
    }

    /// The response code that was sent to the client.
    pub(crate) fn code(&mut self, code: u16) {
        self.entry.response_code = code;
    }

    /// Adds response flags.
    pub(crate) fn flag(&mut self, flags: ResponseFlags) {
        self.entry.response_flags = self.entry.response_flags | flags;
    }

    /// Envoy's word for who made the response and why.
    pub(crate) fn details(&mut self, details: &'static str) {
        self.entry.set_static(Field::ResponseCodeDetails, details);
    }

    /// The tunnel carries payload now: it is counted as opened, and its bytes as they move.
    pub(crate) fn established(&mut self) {
        self.established = true;
        self.settle();
        let series = self.tcp_series();
        self.connection.worker.metrics.tcp_opened(series);
        self.connection.series.set(Some(series));
    }

    fn destination(&self) -> Label<'_> {
        let host = self.route.as_ref().and_then(|route| match &route.wanted.host {
            Some(crate::route::Destination::Name(name)) => Some(&**name),
            _ => None,
        });
        match (&self.route, self.verdict) {
            (Some(route), Verdict::Allow) => match &route.service {
                Some(service) => Label::Service { host: &service.host, namespace: &service.namespace },
                None => Label::Passthrough { host },
            },
            (_, Verdict::Passthrough) => Label::Passthrough { host },
            (Some(route), Verdict::Deny) => match (&route.service, self.reason) {
                // A registered destination that this workload may not reach keeps its own name.
                (Some(service), Some(Reason::WorkloadDenied | Reason::WorkloadNotAllowed)) => {
                    Label::Service { host: &service.host, namespace: &service.namespace }
                }
                _ => Label::BlackHole { host },
            },
            (None, _) => Label::BlackHole { host: None },
        }
    }

    fn source(&self) -> SourceId {
        let asker = self.connection.asker.borrow();
        let Some(identity) = asker.proven() else { return SourceId::UNKNOWN };
        self.connection.worker.metrics.source(&source_labels(identity))
    }

    fn tcp_series(&self) -> TcpSeries {
        let metrics = &self.connection.worker.metrics;
        let source = self.source();
        let destination = metrics.destination(source, Traffic::Tcp, &self.destination());
        metrics.tcp(&TcpKey { flags: self.entry.response_flags, ..TcpKey::new(source, destination) })
    }

    fn http_series(&self) -> HttpSeries {
        let (code, flags) = (self.entry.response_code, self.entry.response_flags);
        // The cached series is that of the route's own decision; a record that was overruled looks its own up.
        let cached = self.route.as_ref().filter(|route| Some(route.decision.reason) == self.reason);
        if let Some(series) = cached.and_then(|route| route.http_series.get())
            && (series.key().response_code, series.key().flags) == (code, flags)
        {
            return series;
        }
        let metrics = &self.connection.worker.metrics;
        let source = self.source();
        let destination = metrics.destination(source, Traffic::Http, &self.destination());
        let series = metrics.http(&HttpKey { flags, ..HttpKey::new(source, destination, code) });
        if let Some(route) = cached {
            route.http_series.set(Some(series));
        }
        series
    }

    /// Counts the flow, if anything was decided about it.
    fn count(&self, duration_micros: u64) {
        if self.reason.is_none() {
            return;
        }
        let metrics = &self.connection.worker.metrics;
        match self.kind {
            Kind::Http => {
                let (request_bytes, response_bytes) = self.http_bytes();
                metrics.http_done(self.http_series(), duration_micros, request_bytes, response_bytes);
            }
            Kind::Tcp => {
                if self.established {
                    self.connection.count_bytes();
                    self.connection.series.set(None);
                }
                let series = self.tcp_series();
                if !self.established {
                    metrics.tcp_opened(series);
                }
                metrics.tcp_closed(series);
            }
        }
    }

    /// Bytes of a request and its response, those that followed a switch of protocols included.
    fn http_bytes(&self) -> (u64, u64) {
        let counters = &self.connection.counters;
        (
            self.request_bytes + counters.to_upstream_bytes.get(),
            self.response_bytes + counters.to_downstream_bytes.get(),
        )
    }

    fn fill(&mut self, duration_micros: u64) {
        let http_bytes = self.http_bytes();
        let entry = &mut self.entry;
        entry.duration_ms = duration_micros / 1000;
        match self.kind {
            Kind::Http => (entry.bytes_received, entry.bytes_sent) = http_bytes,
            Kind::Tcp => {
                entry.bytes_received = self.connection.counters.to_upstream_bytes.get();
                entry.bytes_sent = self.connection.counters.to_downstream_bytes.get();
            }
        }
        entry.upstream_host = self.connection.dialled.get();
        let asker = self.connection.asker.borrow();
        entry.set_static(Field::Proof, asker.proof.as_str());
        if let Some(identity) = asker.proven() {
            let mut shared = |field, value: &Option<Arc<str>>| {
                if let Some(value) = value {
                    entry.set_shared(field, value);
                }
            };
            shared(Field::SourcePrincipal, &identity.principal);
            shared(Field::SourceWorkload, &identity.workload);
            shared(Field::SourceNamespace, &identity.namespace);
        }
        debug_assert!(asker.proof != Proof::None || asker.proven().is_none());
        let Some(reason) = self.reason else { return };
        entry.set_static(Field::PolicyDecision, self.verdict.as_str());
        entry.set_static(Field::PolicyReason, reason.as_str());
        let Some(route) = &self.route else {
            entry.set_static(Field::UpstreamCluster, BLACK_HOLE_CLUSTER);
            return;
        };
        let Decision { shadow, .. } = route.decision;
        entry.set_static(Field::ShadowDecision, shadow.verdict.as_str());
        entry.set_static(Field::ShadowReason, shadow.reason.as_str());
        if self.kind == Kind::Tcp
            && entry.get(Field::Authority).is_none()
            && let Some(host) = route.wanted.host_text()
        {
            entry.set_shared(Field::Authority, &host);
        }
        if let Some(service) = &route.service {
            entry.set_shared(Field::Service, &service.label);
        }
        match (self.verdict, &route.service) {
            (Verdict::Passthrough, _) => {
                entry.set_static(Field::UpstreamCluster, PASSTHROUGH_CLUSTER);
                entry.set_static(Field::RouteName, "allow_any");
            }
            (Verdict::Allow, Some(service)) => {
                entry.set_shared(Field::UpstreamCluster, &service.cluster);
                entry.set_shared(Field::RouteName, &service.label);
            }
            (Verdict::Allow, None) | (Verdict::Deny, _) => {
                entry.set_static(Field::UpstreamCluster, BLACK_HOLE_CLUSTER);
                entry.set_static(Field::RouteName, "block_all");
            }
        }
    }
}

impl<E: Engine> Drop for Record<E> {
    fn drop(&mut self) {
        if self.superseded {
            return self.connection.rest();
        }
        let revoked = self.connection.revoked.get();
        if self.connection.is_cut() {
            // What the cut broke is not the fault of either side.
            self.entry.response_flags = ResponseFlags::LR;
            self.details("local_reset");
        }
        if revoked {
            self.entry.set_static(Field::ConnectionTerminationDetails, "revoked");
        }
        let elapsed = self.connection.worker.engine.now().since(self.started);
        let duration_micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.settle();
        // Counted where it went while it was allowed: what was opened there is closed there.
        self.count(duration_micros);
        if revoked {
            self.denied(Reason::Revoked);
        }
        self.fill(duration_micros);
        let entry = std::mem::take(&mut self.entry);
        self.connection.worker.log(entry);
        self.connection.rest();
    }
}
