//! What a request gets that goes no further: denials, and answers to what cannot be served. Knows nothing of responses
//! that an origin has begun.

use sluice_engine::Engine;
use sluice_policy::Reason;
use sluice_proto::http1::{Method, Version};
use sluice_telemetry::ResponseFlags;
use sluice_telemetry::access_log::Field;

use super::answer::{self, Answer};
use super::request::{Request, Unacceptable};
use super::{After, Client, Mode};
use crate::reach::{self, Obstacle};
use crate::record::Record;
use crate::route::Route;

impl Request<'_> {
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
        answer.send(client, record).await
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
        answer.send(client, record).await
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
        let tunnel = self.head.method == Method::Connect;
        let remedy = answer::remedy(client.worker(), route, tunnel)
            .or_else(|| reach::guard_remedy(client.worker(), route));
        let answer = Answer {
            status,
            text: "this destination is denied by the egress policy",
            reason: Some(reason),
            route: Some(route),
            remedy: would_allow.or(remedy.as_deref()),
            ..self.draft(client)
        };
        answer.send(client, record).await
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
        self.answer(client, record, (503, &text), true).await
    }

    /// An answer of ours that is no denial. The connection stays if `persistent` says so and nothing else forbids it.
    pub(super) async fn answer<E: Engine>(
        &self,
        client: &Client<E>,
        record: &mut Record<E>,
        (status, text): (u16, &str),
        persistent: bool,
    ) -> After {
        let draft = self.draft(client);
        let persistent = persistent && draft.persistent;
        Answer { status, text, persistent, ..draft }.send(client, record).await
    }

    /// The answer to an OPTIONS or TRACE that was to come no further than here (RFC 9110 §7.6.2). A TRACE is not
    /// reflected: what a client sends may hold secrets, and a script that made it could read them.
    pub(super) async fn last_hop<E: Engine>(&self, client: &Client<E>, record: &mut Record<E>) -> After {
        record.details("direct_response");
        let status = if self.head.method == Method::Trace { 405 } else { 200 };
        let allow = "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
        let text = "Max-Forwards ends this request at the gateway";
        let answer = Answer { status, text, header: Some(("Allow", allow)), ..self.draft(client) };
        answer.send(client, record).await
    }

    /// What all answers to this request have in common. A body that we will not read ends the connection; so does a
    /// CONNECT, after which nothing may be interpreted.
    fn draft<E: Engine>(&self, client: &Client<E>) -> Answer<'_> {
        let tunnel = self.head.method == Method::Connect;
        Answer {
            request_id: Some(self.id),
            persistent: self.head.persistent
                // Persistence would have to be said anew to such a client; it asks again on a new connection instead.
                && self.head.version == Version::Http11
                && self.has_no_body()
                && !tunnel
                && !client.ended
                && !client.connection.looped.get()
                && !client.worker().is_draining(),
            head_only: self.head.method == Method::Head,
            ..Answer::default()
        }
    }
}
