//! Istio's default text line, our fields last as `key=value`. It must not know where the line goes.

use super::{
    Entry, Field,
    escape::{self, Place},
    write_utc_milliseconds,
};
use std::{io::Write as _, net::SocketAddr};

/// Our own fields in order, with the key that precedes each.
const OWN: [(&[u8], Field); 9] = [
    (b" source_principal=", Field::SourcePrincipal),
    (b" source_workload=", Field::SourceWorkload),
    (b" source_namespace=", Field::SourceNamespace),
    (b" policy_decision=", Field::PolicyDecision),
    (b" policy_reason=", Field::PolicyReason),
    (b" shadow_decision=", Field::ShadowDecision),
    (b" shadow_reason=", Field::ShadowReason),
    (b" service=", Field::Service),
    (b" source_proof=", Field::Proof),
];

/// Appends one line with its newline: Istio's default `accessLogFormat`, then our fields. What is absent is `-`.
/// Allocates nothing beyond the growth of `out`.
pub fn text(entry: &Entry, out: &mut Vec<u8>) {
    out.push(b'[');
    write_utc_milliseconds(out, entry.start_unix_ms);
    out.extend_from_slice(b"] \"");
    field(out, entry, Field::Method, Place::Bare);
    out.push(b' ');
    field(out, entry, Field::Path, Place::Bare);
    out.push(b' ');
    field(out, entry, Field::Protocol, Place::Bare);
    out.extend_from_slice(b"\" ");
    number(out, u64::from(entry.response_code));
    out.push(b' ');
    flags(out, entry);
    bare(out, entry, Field::ResponseCodeDetails);
    bare(out, entry, Field::ConnectionTerminationDetails);
    quoted(out, entry, Field::UpstreamTransportFailureReason);
    for count in [entry.bytes_received, entry.bytes_sent, entry.duration_ms] {
        out.push(b' ');
        number(out, count);
    }
    out.push(b' ');
    match entry.upstream_service_time_ms {
        Some(milliseconds) => number(out, milliseconds),
        None => out.push(b'-'),
    }
    quoted(out, entry, Field::XForwardedFor);
    quoted(out, entry, Field::UserAgent);
    quoted(out, entry, Field::RequestId);
    quoted(out, entry, Field::Authority);
    out.extend_from_slice(b" \"");
    address(out, entry.upstream_host);
    out.push(b'"');
    bare(out, entry, Field::UpstreamCluster);
    for end in [entry.upstream_local_address, entry.downstream_local_address, entry.downstream_remote_address]
    {
        out.push(b' ');
        address(out, end);
    }
    bare(out, entry, Field::RequestedServerName);
    bare(out, entry, Field::RouteName);
    for (key, own) in OWN {
        out.extend_from_slice(key);
        field(out, entry, own, Place::Bare);
    }
    out.push(b'\n');
}

fn bare(out: &mut Vec<u8>, entry: &Entry, which: Field) {
    out.push(b' ');
    field(out, entry, which, Place::Bare);
}

fn quoted(out: &mut Vec<u8>, entry: &Entry, which: Field) {
    out.extend_from_slice(b" \"");
    field(out, entry, which, Place::Quoted);
    out.push(b'"');
}

fn field(out: &mut Vec<u8>, entry: &Entry, which: Field, place: Place) {
    match entry.get(which) {
        None | Some(b"") => out.push(b'-'),
        Some(value) => escape::text(out, value, place),
    }
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(super) fn flags(out: &mut Vec<u8>, entry: &Entry) {
    if entry.response_flags.is_empty() {
        out.push(b'-');
    }
    for (nth, word) in entry.response_flags.words().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        out.extend_from_slice(word.as_bytes());
    }
}

fn address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address {
        Some(address) => socket_address(out, address),
        None => out.push(b'-'),
    }
}

/// `1.2.3.4:80` or `[::1]:80`. IPv4 by hand: `core::fmt` costs as much as the rest of the line.
pub(super) fn socket_address(out: &mut Vec<u8>, address: SocketAddr) {
    if let SocketAddr::V4(v4) = address {
        for (nth, octet) in v4.ip().octets().into_iter().enumerate() {
            if nth > 0 {
                out.push(b'.');
            }
            out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
        }
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(v4.port()).as_bytes());
    } else {
        write!(out, "{address}").expect("invariant: writing to a Vec cannot fail");
    }
}
