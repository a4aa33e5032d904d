//! Counting: sums over workers, histograms as exposed, the cap on series, eviction, a reader beside a writer, and no
//! allocation on the hot path.
#![allow(clippy::unwrap_used)] // tests

mod common;

use common::Exposition;
use sluice_telemetry::{
    Counter, Destination, DestinationId, Family, Gauge, HttpKey, Registry, RequestProtocol, Settings, Source,
    SourceId, TcpKey, Traffic, limits,
    snapshot::{Kind, Value},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

fn plain(code: u16) -> HttpKey {
    HttpKey::new(SourceId::UNKNOWN, DestinationId::UNKNOWN, code)
}

const TCP: TcpKey = TcpKey::new(SourceId::UNKNOWN, DestinationId::UNKNOWN);

#[test]
fn workers_are_summed() {
    let registry = Registry::new(Settings::default());
    for share in 1..=2 {
        // Ended threads keep what they counted.
        let metrics = registry.worker();
        metrics.http_done(metrics.http(&plain(200)), 700, 100 * share, 10_000);
        let tcp = metrics.tcp(&TCP);
        metrics.tcp_opened(tcp);
        metrics.tcp_bytes(tcp, share, 10 * share);
        metrics.tcp_bytes(tcp, share, 10 * share);
        metrics.tcp_closed(tcp);
        metrics.decision("deny", "not_registered", "http");
        metrics.add(Counter::FlowsRevoked, share);
        metrics.shift(Gauge::UpstreamPoolIdle, 5);
        metrics.shift(Gauge::UpstreamPoolIdle, -3);
        let door = metrics.series(Family::ActiveConnections, &["tls-443"]);
        metrics.add_to(door, 2);
        metrics.add_to(door, -1);
    }
    let seen = Exposition::of(&registry);
    let value = |name| seen.value(name, &[]).unwrap();
    assert_eq!(value("istio_requests_total"), 2.0);
    assert_eq!(value("istio_tcp_connections_opened_total"), 2.0);
    assert_eq!(value("istio_tcp_connections_closed_total"), 2.0);
    assert_eq!(value("istio_tcp_received_bytes_total"), 6.0);
    assert_eq!(value("istio_tcp_sent_bytes_total"), 60.0);
    assert_eq!(value("istio_request_bytes_sum"), 300.0);
    assert_eq!(value("egress_flows_revoked_total"), 3.0);
    assert_eq!(value("egress_upstream_pool_idle_connections"), 4.0);
    let decision = [("decision", "deny"), ("reason", "not_registered"), ("protocol", "http")];
    assert_eq!(seen.value("egress_policy_decisions_total", &decision), Some(2.0));
    assert_eq!(seen.value("egress_active_connections", &[("door", "tls-443")]), Some(2.0));
}

#[test]
fn the_exposition_is_typed_cumulative_and_deterministic() {
    let registry = Registry::new(Settings { version: "1.2.3".into(), ..Settings::default() });
    let metrics = registry.worker();
    for (code, duration_us) in [(503, 500), (200, 1_500), (200, 999_999_999_999)] {
        metrics.http_done(metrics.http(&plain(code)), duration_us, 0, 1);
    }
    let text = || {
        let mut text = String::new();
        registry.prometheus(&mut text);
        text
    };
    assert_eq!(text(), text());
    let seen = Exposition::parse(&text());
    for (name, kind) in [
        ("istio_requests_total", "counter"),
        ("istio_request_duration_milliseconds", "histogram"),
        ("istio_build", "gauge"),
        ("egress_connections_max", "gauge"),
    ] {
        assert_eq!(seen.types[name], kind, "{name}");
    }
    assert_eq!(seen.value("istio_build", &[("component", "proxy"), ("tag", "1.2.3")]), Some(1.0));

    let codes: Vec<_> = seen
        .named("istio_requests_total")
        .iter()
        .map(|s| s.label("response_code").unwrap().to_owned())
        .collect();
    assert_eq!(codes, ["200", "503"], "in the order of the labels, not of arrival");
    let buckets: Vec<(String, f64)> = (seen.named("istio_request_duration_milliseconds_bucket").iter())
        .filter(|sample| sample.label("response_code") == Some("200"))
        .map(|sample| (sample.label("le").unwrap().to_owned(), sample.value))
        .collect();
    assert_eq!(buckets.len(), 20);
    assert_eq!(buckets[0], ("0.5".into(), 0.0));
    assert_eq!(buckets[2], ("5".into(), 1.0));
    assert_eq!(buckets[18], ("3600000".into(), 1.0));
    assert_eq!(buckets[19], ("+Inf".into(), 2.0));
    let ok = [("response_code", "200")];
    assert_eq!(seen.value("istio_request_duration_milliseconds_count", &ok), Some(2.0));
    assert_eq!(seen.value("istio_request_duration_milliseconds_sum", &ok), Some(1_000_000_001.499));
    let down = [("response_code", "503"), ("le", "0.5")];
    assert_eq!(seen.value("istio_request_duration_milliseconds_bucket", &down), Some(1.0));
    // 4 metrics of one label set: 1 counter and 3 histograms of 22 lines.
    let of_one = seen.samples.iter().filter(|sample| sample.label("response_code") == Some("503")).count();
    assert_eq!(of_one, 67);
}

#[test]
fn hostile_label_values_come_back_as_they_were() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    let hostile = "a\"} 1\n# TYPE x counter\\n\\";
    let source = metrics.source(&Source { workload: Some(hostile), ..Source::default() });
    let key = HttpKey::new(source, DestinationId::UNKNOWN, 200);
    metrics.http_done(metrics.http(&key), 0, 0, 0);
    let seen = Exposition::of(&registry);
    assert_eq!(seen.named("istio_requests_total")[0].label("source_workload"), Some(hostile));
}

#[test]
fn grpc_keeps_its_status() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    let key = HttpKey { protocol: RequestProtocol::Grpc, grpc_status: Some(14), ..plain(200) };
    metrics.http_done(metrics.http(&key), 0, 0, 0);
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "14")];
    assert_eq!(Exposition::of(&registry).value("istio_requests_total", &labels), Some(1.0));
}

#[test]
fn beyond_the_cap_totals_stay_right_and_the_overflow_is_counted() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    let service = Destination::Service { host: "busy.test", namespace: "default" };
    let service = metrics.destination(SourceId::UNKNOWN, Traffic::Http, &service);
    let total = limits::HTTP_SERIES_MAX + 100;
    for number in 0..total {
        let code = 100 + u16::try_from(number / 200).unwrap();
        let grpc_status = Some((number % 200) as u8);
        let key = HttpKey { grpc_status, ..HttpKey::new(SourceId::UNKNOWN, service, code) };
        metrics.http_done(metrics.http(&key), 1, 1, 1);
    }
    let snapshot = registry.snapshot();
    let requests = snapshot.metric("istio_requests_total").unwrap();
    assert_eq!(requests.points.len(), limits::HTTP_SERIES_MAX);
    let sum: u64 = requests
        .points
        .iter()
        .map(|point| match point.value {
            Value::Counter(value) => value,
            _ => panic!("a counter"),
        })
        .sum();
    assert_eq!(sum, total as u64);
    let overflow = requests.points.iter().find(|p| p.labels.get("response_code") == Some("unknown")).unwrap();
    assert_eq!(overflow.value, Value::Counter(101));
    let counted = &snapshot.metric("egress_series_overflow_total").unwrap().points[0].value;
    assert_eq!(*counted, Value::Counter(101));
}

#[test]
fn an_origin_with_ever_new_status_codes_takes_no_more_than_its_share() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    let wild = Destination::Passthrough { host: Some("wild.test") };
    let wild = metrics.destination(SourceId::UNKNOWN, Traffic::Http, &wild);
    for code in 0..1_000 {
        metrics.http_done(metrics.http(&HttpKey::new(SourceId::UNKNOWN, wild, code)), 1, 1, 1);
    }
    let requests = registry.snapshot().metric("istio_requests_total").unwrap().points.len();
    assert_eq!(requests, limits::HTTP_SERIES_PER_SOURCE_MAX + 1, "its share, and the overflow");
}

#[test]
fn product_series_are_bounded_too() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    for number in 0..limits::EGRESS_SERIES_MAX + 5 {
        metrics.count(Family::ActiveConnections, &[&number.to_string()], 1);
    }
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.metric("egress_active_connections").unwrap().points.len(), limits::EGRESS_SERIES_MAX);
    let overflow = &snapshot.metric("egress_series_overflow_total").unwrap().points[0].value;
    assert_eq!(*overflow, Value::Counter(5));
}

#[test]
fn idle_series_are_forgotten_and_found_again() {
    let registry = Registry::new(Settings { series_idle_ms: 1_000, ..Settings::default() });
    let (one, two) = (registry.worker(), registry.worker());
    let idle = one.http(&plain(404));
    let tcp = one.tcp(&TCP);
    one.http_done(idle, 1, 1, 1);
    one.tcp_opened(tcp);
    let busy = two.http(&plain(200));
    for now_ms in [5_000, 5_500, 6_000] {
        two.http_done(busy, 1, 1, 1);
        registry.evict_idle(now_ms);
    }
    let seen = Exposition::of(&registry);
    assert_eq!(seen.named("istio_requests_total").len(), 1);
    assert_eq!(seen.value("istio_requests_total", &[("response_code", "200")]), Some(3.0));
    assert!(seen.named("istio_tcp_connections_opened_total").is_empty());

    // Another label set takes the row over; the old ids, still held, do not count on it.
    two.http_done(two.http(&plain(418)), 1, 1, 1);
    one.http_done(idle, 1, 1, 1);
    one.tcp_closed(tcp);
    let seen = Exposition::of(&registry);
    for code in ["404", "418"] {
        assert_eq!(seen.value("istio_requests_total", &[("response_code", code)]), Some(1.0), "{code}");
    }
    assert_eq!(seen.value("istio_tcp_connections_opened_total", &[]), Some(0.0));
    assert_eq!(seen.value("istio_tcp_connections_closed_total", &[]), Some(1.0));
}

#[test]
fn a_reader_beside_a_writer_sees_only_growth_and_in_the_end_everything() {
    const REQUESTS: u64 = 200_000;
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    let done = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            for number in 0..REQUESTS {
                metrics.http_done(metrics.http(&plain(200 + (number % 7) as u16)), number, 1, 1);
            }
            done.store(true, Relaxed);
        }
    });
    let total = |registry: &Registry| -> u64 {
        let snapshot = registry.snapshot();
        let points = snapshot.metric("istio_requests_total").map_or(&[][..], |metric| &metric.points);
        points.iter().map(|point| if let Value::Counter(value) = point.value { value } else { 0 }).sum()
    };
    let mut last = 0;
    while !done.load(Relaxed) {
        let now = total(&registry);
        assert!((last..=REQUESTS).contains(&now), "{last} then {now}");
        last = now;
    }
    writer.join().unwrap();
    assert_eq!(total(&registry), REQUESTS);
}

#[test]
fn the_hot_path_does_not_allocate() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    let identity = Source { workload: Some("idgen"), namespace: Some("default"), ..Source::default() };
    let one_flow = |metrics: &sluice_telemetry::WorkerMetrics| {
        let source = metrics.source(&identity);
        let known =
            metrics.destination(source, Traffic::Http, &Destination::Passthrough { host: Some("A.test") });
        let service = Destination::Service { host: "db.test", namespace: "default" };
        let service = metrics.destination(source, Traffic::Tcp, &service);
        metrics.http_done(metrics.http(&HttpKey::new(source, known, 200)), 1_234, 5, 6);
        let tcp = metrics.tcp(&TcpKey::new(source, service));
        metrics.tcp_opened(tcp);
        metrics.tcp_bytes(tcp, 1, 2);
        metrics.tcp_closed(tcp);
        metrics.decision("allow", "registered", "http");
        metrics.shadow_decision("deny", "not_registered");
        metrics.add(Counter::ConnectionsAccepted, 1);
    };
    one_flow(&metrics);
    let allocations = allocation_counter::measure(|| (0..100).for_each(|_| one_flow(&metrics)));
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn a_flood_of_names_does_not_allocate() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    let names: Vec<String> = (0..1_000).map(|number| format!("flood{number}.test")).collect();
    let ask = |host: &String| {
        metrics.destination(SourceId::UNKNOWN, Traffic::Tcp, &Destination::BlackHole { host: Some(host) })
    };
    names[..20].iter().for_each(|host| _ = ask(host));
    let allocations = allocation_counter::measure(|| names.iter().for_each(|host| _ = ask(host)));
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn the_snapshot_carries_what_otlp_needs() {
    let registry = Registry::new(Settings::default());
    let metrics = registry.worker();
    metrics.http_done(metrics.http(&plain(200)), 2_000, 3, 4);
    let snapshot = registry.snapshot();
    let duration = snapshot.metric("istio_request_duration_milliseconds").unwrap();
    assert_eq!(
        (duration.instrument, duration.unit, duration.kind),
        ("istio.request.duration", "ms", Kind::Histogram)
    );
    let Value::Histogram(value) = &duration.points[0].value else { panic!("a histogram") };
    assert_eq!((value.count(), value.sum), (1, 2.0));
    let requests = snapshot.metric("istio_requests_total").unwrap();
    assert_eq!((requests.instrument, requests.unit), ("istio.requests", "{request}"));
    assert!(Arc::ptr_eq(&requests.points[0].labels, &duration.points[0].labels));
}
