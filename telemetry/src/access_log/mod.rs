//! One access-log record and its two formats. It must not know where lines are written nor who fills the fields.
//!
//! An [`Entry`] is filled by a worker and formatted elsewhere: its variable text lies in one arena, what is shared
//! already (`Arc<str>`, `&'static str`) is only pointed to. The formats are Istio's defaults with our fields last
//! (Istio `telemetry_logging.go`), hardened: no value of a field can end a line, close a quote or forge a key.

mod escape;
mod json;
mod text;
mod time;

pub use json::json;
pub use text::text;
pub use time::write_utc_milliseconds;

use crate::{ResponseFlags, limits::LOG_FIELD_BYTES_MAX};
use std::{net::SocketAddr, sync::Arc};

/// A text field of an [`Entry`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Field {
    /// `%REQ(:METHOD)%`
    Method,
    /// `%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%`
    Path,
    /// `%PROTOCOL%`: `HTTP/1.1`, `HTTP/2`; absent for opaque flows.
    Protocol,
    /// `%RESPONSE_CODE_DETAILS%`
    ResponseCodeDetails,
    /// `%CONNECTION_TERMINATION_DETAILS%`
    ConnectionTerminationDetails,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`
    UpstreamTransportFailureReason,
    /// `%REQ(X-FORWARDED-FOR)%`
    XForwardedFor,
    /// `%REQ(USER-AGENT)%`
    UserAgent,
    /// `%REQ(X-REQUEST-ID)%`
    RequestId,
    /// `%REQ(:AUTHORITY)%`
    Authority,
    /// `%UPSTREAM_CLUSTER_RAW%`: `PassthroughCluster`, `BlackHoleCluster` or `outbound|port||host`.
    UpstreamCluster,
    /// `%REQUESTED_SERVER_NAME%`: the SNI.
    RequestedServerName,
    /// `%ROUTE_NAME%`
    RouteName,
    /// The source's SPIFFE id.
    SourcePrincipal,
    /// The source's workload name.
    SourceWorkload,
    /// The source's namespace.
    SourceNamespace,
    /// `allow`, `passthrough` or `deny`.
    PolicyDecision,
    /// Why, in the policy's own words.
    PolicyReason,
    /// What registry-only would have decided.
    ShadowDecision,
    /// Why registry-only would have decided that.
    ShadowReason,
    /// The registered service, `namespace/name`.
    Service,
    /// How the source proved who it is: `certificate`, `credentials`, `proxy_protocol`, `address`, `none`.
    Proof,
}

const FIELDS: usize = Field::Proof as usize + 1;

#[derive(Clone, Debug, Default)]
enum Text {
    #[default]
    Absent,
    Static(&'static str),
    Shared(Arc<str>),
    Arena {
        start: u32,
        length: u32,
    },
}

/// One line to be. Numbers are public; text goes through the setters, which bound it.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// When the request or connection began, milliseconds since the Unix epoch (`%START_TIME%`).
    pub start_unix_ms: i64,
    /// `%RESPONSE_CODE%`; 0: no response was sent.
    pub response_code: u16,
    /// `%RESPONSE_FLAGS%`
    pub response_flags: ResponseFlags,
    /// `%BYTES_RECEIVED%`: from downstream, payload.
    pub bytes_received: u64,
    /// `%BYTES_SENT%`: to downstream, payload.
    pub bytes_sent: u64,
    /// `%DURATION%`, milliseconds.
    pub duration_ms: u64,
    /// `%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%`: milliseconds until the upstream's response head.
    pub upstream_service_time_ms: Option<u64>,
    /// `%UPSTREAM_HOST%`: the address dialled.
    pub upstream_host: Option<SocketAddr>,
    /// `%UPSTREAM_LOCAL_ADDRESS%`
    pub upstream_local_address: Option<SocketAddr>,
    /// `%DOWNSTREAM_LOCAL_ADDRESS%`
    pub downstream_local_address: Option<SocketAddr>,
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`
    pub downstream_remote_address: Option<SocketAddr>,
    texts: [Text; FIELDS],
    arena: Vec<u8>,
}

impl Entry {
    /// An empty entry whose arena holds `text_bytes` before it has to grow.
    #[must_use]
    pub fn with_capacity(text_bytes: usize) -> Self {
        Self { arena: Vec::with_capacity(text_bytes), ..Self::default() }
    }

    /// Sets a field from bytes off the wire, whatever they are; escaping is the formatter's work. More than
    /// [`LOG_FIELD_BYTES_MAX`] bytes are cut and end in `...`.
    pub fn set_bytes(&mut self, field: Field, value: &[u8]) {
        let start = self.arena.len();
        if value.len() > LOG_FIELD_BYTES_MAX {
            self.arena.extend_from_slice(&value[..LOG_FIELD_BYTES_MAX - 3]);
            self.arena.extend_from_slice(b"...");
        } else {
            self.arena.extend_from_slice(value);
        }
        let end = self.arena.len();
        self.texts[field as usize] = match (u32::try_from(start), u32::try_from(end - start)) {
            (Ok(start), Ok(length)) => Text::Arena { start, length },
            // An arena of 4 GiB: only by setting a field half a million times. Such an entry loses the field.
            _ => Text::Absent,
        };
    }

    /// [`Self::set_bytes`] for text.
    pub fn set_text(&mut self, field: Field, value: &str) {
        self.set_bytes(field, value.as_bytes());
    }

    /// Sets a field to a word of ours.
    pub fn set_static(&mut self, field: Field, value: &'static str) {
        self.texts[field as usize] = Text::Static(value);
    }

    /// Sets a field to text that is shared already; nothing is copied.
    pub fn set_shared(&mut self, field: Field, value: &Arc<str>) {
        self.texts[field as usize] = Text::Shared(Arc::clone(value));
    }

    /// The bytes of a field as set; `None` when it is absent.
    #[must_use]
    pub fn get(&self, field: Field) -> Option<&[u8]> {
        match &self.texts[field as usize] {
            Text::Absent => None,
            Text::Static(word) => Some(word.as_bytes()),
            Text::Shared(text) => Some(text.as_bytes()),
            Text::Arena { start, length } => {
                let start = *start as usize;
                Some(&self.arena[start..start + *length as usize])
            }
        }
    }

    /// Whether a "denied and errors only" log wants this line: denied, a status of 400 or above, or any flag.
    #[must_use]
    pub fn is_denied_or_error(&self) -> bool {
        self.response_code >= 400
            || !self.response_flags.is_empty()
            || self.get(Field::PolicyDecision) == Some(b"deny")
    }
}
