//! Istio's destination labels for egress, row by row, in both modes of host labels; and the bound on host labels.
#![allow(clippy::unwrap_used)] // tests

mod common;

use common::Exposition;
use sluice_telemetry::{
    Destination, GatewayIdentity, HostLabelMode, HttpKey, Registry, Reporter, ResponseFlags, Settings,
    Source, SourceId, TcpKey, Traffic, WorkerMetrics,
};

const UNKNOWN: &str = "unknown";

fn registry(host_labels: HostLabelMode) -> Registry {
    Registry::new(Settings { host_labels, ..Settings::default() })
}

fn idgen(metrics: &WorkerMetrics) -> SourceId {
    metrics.source(&Source {
        workload: Some("idgen"),
        namespace: Some("default"),
        principal: Some("spiffe://cluster.local/ns/default/sa/idgen"),
        service_account: Some("idgen"),
        ..Source::default()
    })
}

/// One row of the table: (case, traffic, destination, service in `istio` mode, service in `bounded` mode, service name,
/// service namespace, code, flags).
type Row = (
    &'static str,
    Traffic,
    Destination<'static>,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    u16,
    ResponseFlags,
);

fn rows() -> Vec<Row> {
    let named = Some("HttpBin.org:8000");
    let http = Traffic::Http;
    let tcp = Traffic::Tcp;
    let wild = Destination::Service { host: "*.x.test", namespace: "egress" };
    let none = ResponseFlags::NONE;
    let passthrough = |host| Destination::Passthrough { host };
    let black_hole = |host| Destination::BlackHole { host };
    vec![
        (
            "passthrough HTTP",
            http,
            passthrough(named),
            "HttpBin.org",
            "httpbin.org",
            "PassthroughCluster",
            UNKNOWN,
            200,
            none,
        ),
        (
            "passthrough HTTP, connect failed",
            http,
            passthrough(Some("down.test")),
            "down.test",
            "down.test",
            "PassthroughCluster",
            UNKNOWN,
            503,
            ResponseFlags::UF,
        ),
        (
            "passthrough TLS",
            tcp,
            passthrough(Some("sni.test")),
            UNKNOWN,
            "sni.test",
            "PassthroughCluster",
            UNKNOWN,
            0,
            none,
        ),
        ("passthrough TCP", tcp, passthrough(None), UNKNOWN, UNKNOWN, "PassthroughCluster", UNKNOWN, 0, none),
        (
            "black hole HTTP",
            http,
            black_hole(Some("evil.test")),
            "evil.test",
            "evil.test",
            "BlackHoleCluster",
            UNKNOWN,
            502,
            none,
        ),
        (
            "black hole HTTP by address",
            http,
            black_hole(Some("192.0.2.1:80")),
            "192.0.2.1",
            UNKNOWN,
            "BlackHoleCluster",
            UNKNOWN,
            502,
            none,
        ),
        (
            "black hole TLS",
            tcp,
            black_hole(Some("evil.test")),
            UNKNOWN,
            "evil.test",
            "BlackHoleCluster",
            UNKNOWN,
            0,
            ResponseFlags::UH,
        ),
        ("service HTTP", http, wild, "*.x.test", "*.x.test", "*.x.test", "egress", 200, none),
        ("service TLS", tcp, wild, "*.x.test", "*.x.test", "*.x.test", "egress", 0, none),
    ]
}

fn check(mode: HostLabelMode) {
    for (case, traffic, destination, istio, bounded, name, namespace, code, flags) in rows() {
        let service = if mode == HostLabelMode::Istio { istio } else { bounded };
        let registry = registry(mode);
        let metrics = registry.worker();
        let source = idgen(&metrics);
        let destination = metrics.destination(source, traffic, &destination);
        let code_text = code.to_string();
        let (metric, status): (_, &[(&str, &str)]) = match traffic {
            Traffic::Http => {
                let key = HttpKey { flags, ..HttpKey::new(source, destination, code) };
                metrics.http_done(metrics.http(&key), 1_000, 10, 20);
                ("istio_requests_total", &[("response_code", &code_text), ("grpc_response_status", "")])
            }
            Traffic::Tcp => {
                let series = metrics.tcp(&TcpKey { flags, ..TcpKey::new(source, destination) });
                metrics.tcp_opened(series);
                metrics.tcp_closed(series);
                ("istio_tcp_connections_opened_total", &[])
            }
        };
        let protocol = if traffic == Traffic::Http { "http" } else { "tcp" };
        let flags = flags.to_string();
        let mut expected = vec![
            ("reporter", "source"),
            ("source_workload", "idgen"),
            ("source_app", UNKNOWN),
            ("source_version", UNKNOWN),
            ("source_cluster", "Kubernetes"),
            ("source_canonical_service", "idgen"),
            ("source_canonical_revision", "latest"),
            ("source_workload_namespace", "default"),
            ("source_principal", "spiffe://cluster.local/ns/default/sa/idgen"),
            ("destination_workload", UNKNOWN),
            ("destination_workload_namespace", UNKNOWN),
            ("destination_app", UNKNOWN),
            ("destination_version", UNKNOWN),
            ("destination_canonical_service", UNKNOWN),
            ("destination_cluster", UNKNOWN),
            ("destination_canonical_revision", "latest"),
            ("destination_principal", UNKNOWN),
            ("destination_service", service),
            ("destination_service_name", name),
            ("destination_service_namespace", namespace),
            ("request_protocol", protocol),
        ];
        expected.extend(status);
        expected.extend([("response_flags", flags.as_str()), ("connection_security_policy", UNKNOWN)]);
        let exposition = Exposition::of(&registry);
        let samples = exposition.named(metric);
        assert_eq!(samples.len(), 1, "{case}");
        let labels: Vec<(&str, &str)> =
            samples[0].labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(labels, expected, "{case}");
        assert_eq!(samples[0].value, 1.0, "{case}");
    }
}

#[test]
fn destination_table_with_bounded_host_labels() {
    check(HostLabelMode::Bounded);
}

#[test]
fn destination_table_with_istios_host_labels() {
    check(HostLabelMode::Istio);
}

#[test]
fn http_series_have_all_25_labels() {
    let registry = registry(HostLabelMode::Bounded);
    let metrics = registry.worker();
    let key = HttpKey::new(SourceId::UNKNOWN, sluice_telemetry::DestinationId::UNKNOWN, 200);
    metrics.http_done(metrics.http(&key), 0, 0, 0);
    assert_eq!(Exposition::of(&registry).named("istio_requests_total")[0].labels.len(), 25);
}

#[test]
fn a_source_known_by_its_certificate_only_keeps_a_canonical_service() {
    // Kiali drops a series whose namespace is known and whose workload and canonical service are not.
    let registry = registry(HostLabelMode::Bounded);
    let metrics = registry.worker();
    let source = metrics.source(&Source {
        namespace: Some("payments"),
        principal: Some("spiffe://td/ns/payments/sa/api"),
        service_account: Some("api"),
        workload: Some(""),
        ..Source::default()
    });
    let destination = metrics.destination(source, Traffic::Http, &Destination::Passthrough { host: None });
    metrics.http_done(metrics.http(&HttpKey::new(source, destination, 200)), 0, 0, 0);
    let exposition = Exposition::of(&registry);
    let sample = exposition.named("istio_requests_total")[0];
    assert_eq!(sample.label("source_workload"), Some(UNKNOWN));
    assert_eq!(sample.label("source_canonical_service"), Some("api"));
    assert_eq!(sample.label("source_cluster"), Some("Kubernetes"));
}

#[test]
fn the_reporter_changes_what_it_should_and_nothing_else() {
    let labels = |reporter| {
        let gateway = GatewayIdentity {
            workload: Some("sluice".into()),
            namespace: Some("istio-egress".into()),
            principal: Some("spiffe://td/ns/istio-egress/sa/sluice".into()),
        };
        let registry = Registry::new(Settings { reporter, gateway, ..Settings::default() });
        let metrics = registry.worker();
        let source = idgen(&metrics);
        let destination = metrics.destination(
            source,
            Traffic::Tcp,
            &Destination::Service { host: "db.test", namespace: "default" },
        );
        let key = TcpKey { mutual_tls: true, ..TcpKey::new(source, destination) };
        metrics.tcp_opened(metrics.tcp(&key));
        Exposition::of(&registry).named("istio_tcp_connections_opened_total")[0].labels.clone()
    };
    let source = labels(Reporter::Source);
    let differing = |other: Vec<(String, String)>| -> Vec<(String, String)> {
        other.into_iter().zip(&source).filter(|(a, b)| a != *b).map(|(a, _)| a).collect()
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        differing(labels(Reporter::Waypoint)),
        [
            pair("reporter", "waypoint"),
            pair("destination_canonical_revision", "unknown"),
            pair("connection_security_policy", "mutual_tls"),
        ]
    );
    assert_eq!(
        differing(labels(Reporter::Gateway)),
        [
            pair("source_workload", "sluice"),
            pair("source_canonical_service", "sluice"),
            pair("source_workload_namespace", "istio-egress"),
            pair("source_principal", "spiffe://td/ns/istio-egress/sa/sluice"),
        ]
    );
}

#[test]
fn sources_without_proof_share_one_quota_and_the_rest_is_counted() {
    let registry = registry(HostLabelMode::Bounded);
    let (one, two) = (registry.worker(), registry.worker());
    for number in 0..40 {
        let host = format!("h{number}.test");
        let metrics = if number % 2 == 0 { &one } else { &two };
        let destination = Destination::BlackHole { host: Some(&host) };
        let id = metrics.destination(SourceId::UNKNOWN, Traffic::Http, &destination);
        metrics.http_done(metrics.http(&HttpKey::new(SourceId::UNKNOWN, id, 502)), 0, 0, 0);
    }
    let source = idgen(&one);
    let proven = one.destination(source, Traffic::Tcp, &Destination::BlackHole { host: Some("h39.test") });
    one.tcp_opened(one.tcp(&TcpKey::new(source, proven)));

    let exposition = Exposition::of(&registry);
    let requests = exposition.named("istio_requests_total");
    assert_eq!(requests.len(), 17, "16 names and unknown");
    assert_eq!(exposition.value("istio_requests_total", &[("destination_service", UNKNOWN)]), Some(24.0));
    assert_eq!(exposition.value("egress_host_label_overflow_total", &[]), Some(24.0));
    let opened = exposition.named("istio_tcp_connections_opened_total");
    assert_eq!(opened[0].label("destination_service"), Some("h39.test"), "a proven source has its own quota");
}
