//! Defaults and queues as their users on both sides rely on them.
#![allow(clippy::unwrap_used)] // tests

use sluice_bridge::{
    AccessLog, Addresses, Command, Credentials, Deny, DnsAnswer, DnsFailure, DnsQuestion, DnsSettings,
    DoorKind, DoorPlan, Limits, Notice, Snapshot, TelemetrySettings, limits, limits::Bounds, pair,
};
use sluice_policy::{Mode, PolicyInput};
use sluice_telemetry::access_log::{Entry, Field};
use std::sync::Arc;

#[test]
fn defaults_are_the_documented_ones() {
    let limits = Limits::default();
    assert_eq!((limits.request_head_timeout_ms, limits.head_bytes_max), (10_000, 32_768));
    assert_eq!((limits.sniff_timeout_ms, limits.hello_bytes_max), (3_000, 65_536));
    assert_eq!((limits.mesh_handshake_timeout_ms, limits.connect_timeout_ms), (5_000, 5_000));
    assert_eq!((limits.response_head_timeout_ms, limits.http_stream_idle_timeout_ms), (60_000, 300_000));
    assert_eq!((limits.client_keepalive_timeout_ms, limits.upstream_keepalive_timeout_ms), (60_000, 30_000));
    assert_eq!((limits.tunnel_idle_timeout_ms, limits.half_closed_timeout_ms), (3_600_000, 60_000));
    assert_eq!((limits.drain_timeout_ms, limits.control_descriptors), (25_000, 16));
    assert_eq!((limits.linger_timeout_ms, limits.linger_bytes_max), (1_000, 65_536));
    let dns = DnsSettings::default();
    assert_eq!((dns.ttl_min_ms, dns.ttl_max_ms, dns.negative_ttl_ms), (1_000, 300_000, 5_000));
    assert_eq!((dns.stale_ms, dns.timeout_ms, dns.cache_entries_max), (3_600_000, 2_000, 10_000));
    let plan = DoorPlan::new(DoorKind::HttpProxy, "127.0.0.1:3128".parse().unwrap());
    assert_eq!(&*plan.name, "http_proxy-127.0.0.1:3128");
}

#[test]
fn addresses_are_bounded_and_never_empty() {
    assert_eq!(Addresses::collect([], []), None);
    let v4 = (0..100u8).map(|last| [192, 0, 2, last].into());
    assert_eq!(Addresses::collect(v4, []).unwrap().v4.len(), limits::ADDRESSES_MAX);
    let twice = Addresses::collect([], [[0u8; 16].into(), [0u8; 16].into()]).unwrap();
    assert_eq!(twice.v6.len(), 1);
}

#[test]
fn what_crosses_threads_may() {
    fn send<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    send::<sluice_bridge::WorkerPort>();
    send::<sluice_bridge::ControlPort>();
    send::<sluice_telemetry::WorkerMetrics>();
    shared::<Snapshot>();
    shared::<sluice_telemetry::Registry>();
}

#[test]
fn questions_and_answers_cross() {
    let (mut worker, mut control) = pair(3, &Bounds::default());
    let name: Arc<str> = "db.test".into();
    worker.questions.blocking_send(DnsQuestion { name: Arc::clone(&name), worker: worker.index }).unwrap();
    assert_eq!(control.questions.blocking_recv().unwrap().worker, 3);
    let answer = DnsAnswer { name, outcome: Err(DnsFailure::NoName), fresh_ms: 5_000, stale_ms: 0 };
    control.commands.blocking_send(Command::Answer(answer.clone())).unwrap();
    assert!(matches!(worker.commands.blocking_recv(), Some(Command::Answer(got)) if got == answer));
    worker.notices.try_send(Notice::Drained { cut: 1 }).unwrap();
    assert_eq!(control.notices.blocking_recv(), Some(Notice::Drained { cut: 1 }));
    drop(control);
    assert!(worker.commands.blocking_recv().is_none(), "control is gone");
}

fn snapshot(generation: u64) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        generation,
        policy: sluice_policy::compile(PolicyInput::new(Mode::AllowAny)).unwrap(),
        limits: Limits::default(),
        deny: Deny::default(),
        credentials: Credentials::none().unwrap(),
        dns: DnsSettings::default(),
        telemetry: TelemetrySettings::default(),
        access_log: AccessLog::default(),
    })
}

#[test]
fn old_snapshots_go_back_in_order_and_are_never_freed_by_the_worker() {
    let (mut worker, mut control) = pair(0, &Bounds { retired: 1, ..Bounds::default() });
    let old: Vec<_> = (1..=3).map(snapshot).collect();
    let watched: Vec<_> = old.iter().map(Arc::downgrade).collect();
    old.into_iter().for_each(|old| worker.retired.retire(old));
    assert!(!worker.retired.flush(), "one is under way, two wait");
    assert!(watched.iter().all(|old| old.strong_count() == 1));
    for generation in 1..=3 {
        assert_eq!(control.retired.blocking_recv().unwrap().generation, generation);
        worker.retired.flush();
    }
    assert!(worker.retired.flush());
    drop(control);
    worker.retired.retire(snapshot(4));
    assert!(worker.retired.flush(), "nobody to hand it to");
}

#[test]
fn a_full_record_queue_drops_the_newest_and_counts_it() {
    let (mut worker, mut control) = pair(0, &Bounds { records: 2, ..Bounds::default() });
    let record = |path: &str| {
        let mut entry = Box::new(Entry::default());
        entry.set_text(Field::Path, path);
        entry
    };
    assert!(worker.records.push(record("/1")) && worker.records.push(record("/2")));
    assert!(!worker.records.push(record("/3")));
    assert_eq!((worker.records.len(), worker.records.dropped(), control.records.dropped()), (2, 1, 1));
    assert_eq!(control.records.pop().unwrap().get(Field::Path), Some(&b"/1"[..]));
    assert!(worker.records.push(record("/4")));
    drop(worker);
    assert!(!control.records.is_finished());
    assert_eq!(control.records.pop().unwrap().get(Field::Path), Some(&b"/2"[..]));
    assert_eq!(control.records.pop().unwrap().get(Field::Path), Some(&b"/4"[..]));
    assert!(control.records.pop().is_none() && control.records.is_finished());
}

#[test]
fn records_without_a_reader_are_dropped_and_counted() {
    let (mut worker, control) = pair(0, &Bounds::default());
    drop(control);
    assert!(!worker.records.push(Box::default()));
    assert_eq!(worker.records.dropped(), 1);
}

#[test]
fn records_cross_threads_and_none_is_lost_uncounted() {
    const RECORDS: u64 = 20_000;
    let (mut worker, mut control) = pair(0, &Bounds { records: 64, ..Bounds::default() });
    let writer = std::thread::spawn(move || {
        let mut taken = 0u64;
        for number in 0..RECORDS {
            let mut entry = Box::new(Entry::default());
            entry.bytes_sent = number;
            taken += u64::from(worker.records.push(entry));
        }
        taken
    });
    let (mut seen, mut last) = (0, None);
    while !control.records.is_finished() {
        let Some(record) = control.records.pop() else {
            std::thread::yield_now();
            continue;
        };
        assert!(last < Some(record.bytes_sent), "in order");
        last = Some(record.bytes_sent);
        seen += 1;
    }
    assert_eq!(writer.join().unwrap(), seen);
    assert_eq!(seen + control.records.dropped(), RECORDS);
}
