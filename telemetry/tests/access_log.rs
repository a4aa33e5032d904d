//! The two access-log formats: Istio's columns and keys, and values that try to break out of them.
#![allow(clippy::unwrap_used)] // tests

use proptest::prelude::*;
use sluice_telemetry::{
    ResponseFlags,
    access_log::{Entry, Field, json, text},
    limits::LOG_FIELD_BYTES_MAX,
};
use std::sync::Arc;

fn line(format: fn(&Entry, &mut Vec<u8>), entry: &Entry) -> String {
    let mut out = Vec::new();
    format(entry, &mut out);
    String::from_utf8(out).unwrap()
}

fn request() -> Entry {
    let mut entry = Entry::with_capacity(256);
    entry.start_unix_ms = 1_795_186_800_123;
    entry.response_code = 200;
    entry.bytes_received = 12;
    entry.bytes_sent = 3456;
    entry.duration_ms = 78;
    entry.upstream_service_time_ms = Some(70);
    entry.upstream_host = Some("192.0.2.10:80".parse().unwrap());
    entry.upstream_local_address = Some("[2001:db8::1]:40000".parse().unwrap());
    entry.downstream_local_address = Some("10.0.0.1:3128".parse().unwrap());
    entry.downstream_remote_address = Some("10.1.2.3:5555".parse().unwrap());
    entry.set_text(Field::Method, "GET");
    entry.set_text(Field::Path, "/uuid?a=b");
    entry.set_static(Field::Protocol, "HTTP/1.1");
    entry.set_static(Field::ResponseCodeDetails, "via_upstream");
    entry.set_text(Field::UserAgent, "curl/8 (x)");
    entry.set_text(Field::RequestId, "0f-1");
    entry.set_text(Field::Authority, "httpbin.org");
    entry.set_shared(Field::UpstreamCluster, &Arc::from("outbound|80||httpbin.org"));
    entry.set_static(Field::RouteName, "default");
    entry.set_static(Field::SourceWorkload, "idgen");
    entry.set_static(Field::SourceNamespace, "default");
    entry.set_static(Field::PolicyDecision, "allow");
    entry.set_static(Field::PolicyReason, "registered");
    entry.set_static(Field::ShadowDecision, "allow");
    entry.set_static(Field::ShadowReason, "registered");
    entry.set_static(Field::Service, "default/httpbin-ext");
    entry.set_static(Field::Proof, "address");
    entry
}

#[test]
fn an_http_request_in_istios_text() {
    assert_eq!(
        line(text, &request()),
        "[2026-11-20T15:00:00.123Z] \"GET /uuid?a=b HTTP/1.1\" 200 - via_upstream - \"-\" 12 3456 78 70 \"-\" \
         \"curl/8 (x)\" \"0f-1\" \"httpbin.org\" \"192.0.2.10:80\" outbound|80||httpbin.org [2001:db8::1]:40000 \
         10.0.0.1:3128 10.1.2.3:5555 - default source_principal=- source_workload=idgen source_namespace=default \
         policy_decision=allow policy_reason=registered shadow_decision=allow shadow_reason=registered \
         service=default/httpbin-ext source_proof=address\n"
    );
}

#[test]
fn a_black_holed_tls_flow_in_istios_text() {
    let mut entry = Entry::default();
    entry.response_flags = ResponseFlags::UH;
    entry.set_static(Field::UpstreamCluster, "BlackHoleCluster");
    entry.set_bytes(Field::RequestedServerName, b"a\n{\"x\":1}");
    entry.set_static(Field::PolicyDecision, "deny");
    let printed = line(text, &entry);
    assert!(printed.starts_with(
        "[1970-01-01T00:00:00.000Z] \"- - -\" 0 UH - - \"-\" 0 0 0 - \"-\" \"-\" \"-\" \"-\" \"-\" BlackHoleCluster - - - \
         a\\x0a{\\\"x\\\":1} - source_principal=-"
    ));
    assert_eq!(printed.matches('\n').count(), 1);
    assert!(entry.is_denied_or_error() && !request().is_denied_or_error());
}

const KEYS: [&str; 33] = [
    "start_time",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "upstream_transport_failure_reason",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "route_name",
    "source_principal",
    "source_workload",
    "source_namespace",
    "policy_decision",
    "policy_reason",
    "shadow_decision",
    "shadow_reason",
    "service",
    "source_proof",
];

#[test]
fn json_has_istios_keys_in_order_then_ours() {
    let printed = line(json, &request());
    let places: Vec<usize> = KEYS.iter().map(|key| printed.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted());
    let value: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(value.as_object().unwrap().len(), KEYS.len());
    assert_eq!(value["start_time"], "2026-11-20T15:00:00.123Z");
    assert_eq!(value["response_code"], 200);
    assert_eq!(value["response_flags"], "-");
    assert_eq!(value["upstream_host"], "192.0.2.10:80");
    assert_eq!(value["upstream_local_address"], "[2001:db8::1]:40000");
    assert_eq!(value["upstream_service_time"], 70);
    assert!(value["requested_server_name"].is_null());
    assert_eq!(value["source_proof"], "address");
}

#[test]
fn formatting_allocates_nothing_once_the_buffer_is_large_enough() {
    let entry = request();
    let mut out = Vec::with_capacity(4096);
    let allocations = allocation_counter::measure(|| {
        text(&entry, &mut out);
        json(&entry, &mut out);
    });
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn an_entry_costs_one_allocation_for_its_text() {
    let shared: Arc<str> = "shared".into();
    let allocations = allocation_counter::measure(|| {
        let mut entry = Entry::with_capacity(128);
        entry.set_text(Field::Path, "/a");
        entry.set_text(Field::Authority, "a.test");
        entry.set_shared(Field::Service, &shared);
    });
    assert_eq!(allocations.count_total, 1);
}

#[test]
fn a_field_is_bounded() {
    let mut entry = Entry::default();
    entry.set_bytes(Field::Path, &[b'a'; LOG_FIELD_BYTES_MAX + 1]);
    let path = entry.get(Field::Path).unwrap();
    assert!(path.len() == LOG_FIELD_BYTES_MAX && path.ends_with(b"a..."));
    entry.set_bytes(Field::Path, &[b'a'; LOG_FIELD_BYTES_MAX]);
    assert!(!entry.get(Field::Path).unwrap().ends_with(b"..."));
}

/// Splits a text line as a careful reader would: at spaces outside quotes, a backslash escaping what follows.
fn columns(line: &str) -> Vec<String> {
    let (mut columns, mut quoted, mut chars) = (vec![String::new()], false, line.chars());
    while let Some(c) = chars.next() {
        let column = columns.last_mut().unwrap();
        match c {
            '\\' => column.extend([c, chars.next().unwrap()]),
            '"' => quoted = !quoted,
            ' ' if !quoted => columns.push(String::new()),
            _ => column.push(c),
        }
    }
    assert!(!quoted, "an open quote: {line}");
    columns
}

const TEXTS: [(Field, &str); 5] = [
    (Field::Path, "path"),
    (Field::UserAgent, "user_agent"),
    (Field::Authority, "authority"),
    (Field::RequestedServerName, "requested_server_name"),
    (Field::SourcePrincipal, "source_principal"),
];

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        any::<char>().prop_map(|c| c.to_string().into_bytes()),
        prop::sample::select(vec![
            "\n",
            "\r\n",
            "\"",
            "\\",
            " ",
            "\u{2028}",
            "\u{85}",
            "\",\"method\":\"",
            "\\x0a",
            "\u{0}"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_value_leaves_its_place(values in prop::array::uniform5(hostile()), code in any::<u16>(), sent in any::<u64>()) {
        let mut entry = request();
        entry.response_code = code;
        entry.bytes_sent = sent;
        for ((field, _), value) in TEXTS.iter().zip(&values) {
            entry.set_bytes(*field, value);
        }

        let printed = line(text, &entry);
        prop_assert!(printed.ends_with('\n'));
        let one_line = &printed[..printed.len() - 1];
        prop_assert!(one_line.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{one_line:?}");
        prop_assert_eq!(columns(one_line).len(), columns(line(text, &request()).trim_end()).len());

        let printed = line(json, &entry);
        let separators = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
        prop_assert_eq!(printed.matches(separators).count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&printed).unwrap();
        prop_assert_eq!(parsed.as_object().unwrap().len(), KEYS.len());
        for ((_, key), value) in TEXTS.iter().zip(&values) {
            let expected = String::from_utf8_lossy(value);
            prop_assert_eq!(parsed[key].as_str().unwrap(), &*expected);
        }
        prop_assert_eq!(parsed["response_code"].as_u64(), Some(code.into()));
        prop_assert_eq!(parsed["bytes_sent"].as_u64(), Some(sent));
    }

    #[test]
    fn an_arena_keeps_fields_apart(values in prop::collection::vec((0..5usize, hostile()), 0..20)) {
        let mut entry = Entry::default();
        let mut expected: [Option<&[u8]>; 5] = [None; 5];
        for (at, value) in &values {
            entry.set_bytes(TEXTS[*at].0, value);
            expected[*at] = Some(value);
        }
        for ((field, _), expected) in TEXTS.iter().zip(expected) {
            prop_assert_eq!(entry.get(*field), expected);
        }
    }
}
