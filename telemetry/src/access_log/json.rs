//! Istio's default JSON keys in Istio's order, ours last. It must not know where the line goes.

use super::{
    Entry, Field, escape,
    text::{flags, number, socket_address},
    write_utc_milliseconds,
};
use std::net::SocketAddr;

/// Appends one JSON object and a newline: the keys of Istio's default JSON encoding in order, then ours. Numbers are
/// numbers; what is absent is `null`, except `response_flags`, which is `"-"` as Envoy has it. Allocates nothing beyond
/// the growth of `out`.
pub fn json(entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"start_time\":\"");
    write_utc_milliseconds(out, entry.start_unix_ms);
    out.push(b'"');
    string(out, b",\"method\":", entry.get(Field::Method));
    string(out, b",\"path\":", entry.get(Field::Path));
    string(out, b",\"protocol\":", entry.get(Field::Protocol));
    count(out, b",\"response_code\":", Some(u64::from(entry.response_code)));
    out.extend_from_slice(b",\"response_flags\":\"");
    flags(out, entry);
    out.push(b'"');
    string(out, b",\"response_code_details\":", entry.get(Field::ResponseCodeDetails));
    string(out, b",\"connection_termination_details\":", entry.get(Field::ConnectionTerminationDetails));
    string(out, b",\"upstream_transport_failure_reason\":", entry.get(Field::UpstreamTransportFailureReason));
    count(out, b",\"bytes_received\":", Some(entry.bytes_received));
    count(out, b",\"bytes_sent\":", Some(entry.bytes_sent));
    count(out, b",\"duration\":", Some(entry.duration_ms));
    count(out, b",\"upstream_service_time\":", entry.upstream_service_time_ms);
    string(out, b",\"x_forwarded_for\":", entry.get(Field::XForwardedFor));
    string(out, b",\"user_agent\":", entry.get(Field::UserAgent));
    string(out, b",\"request_id\":", entry.get(Field::RequestId));
    string(out, b",\"authority\":", entry.get(Field::Authority));
    address(out, b",\"upstream_host\":", entry.upstream_host);
    string(out, b",\"upstream_cluster\":", entry.get(Field::UpstreamCluster));
    address(out, b",\"upstream_local_address\":", entry.upstream_local_address);
    address(out, b",\"downstream_local_address\":", entry.downstream_local_address);
    address(out, b",\"downstream_remote_address\":", entry.downstream_remote_address);
    string(out, b",\"requested_server_name\":", entry.get(Field::RequestedServerName));
    string(out, b",\"route_name\":", entry.get(Field::RouteName));
    string(out, b",\"source_principal\":", entry.get(Field::SourcePrincipal));
    string(out, b",\"source_workload\":", entry.get(Field::SourceWorkload));
    string(out, b",\"source_namespace\":", entry.get(Field::SourceNamespace));
    string(out, b",\"policy_decision\":", entry.get(Field::PolicyDecision));
    string(out, b",\"policy_reason\":", entry.get(Field::PolicyReason));
    string(out, b",\"shadow_decision\":", entry.get(Field::ShadowDecision));
    string(out, b",\"shadow_reason\":", entry.get(Field::ShadowReason));
    string(out, b",\"service\":", entry.get(Field::Service));
    string(out, b",\"source_proof\":", entry.get(Field::Proof));
    out.extend_from_slice(b"}\n");
}

fn string(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => escape::json(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn count(out: &mut Vec<u8>, key: &[u8], value: Option<u64>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => number(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn address(out: &mut Vec<u8>, key: &[u8], value: Option<SocketAddr>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => {
            out.push(b'"');
            socket_address(out, value);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}
