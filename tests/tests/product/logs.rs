//! The access log: golden lines in both formats, where they go, and that nobody can forge one.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use sluice_tests::harness::gateway::{Start, binary};
use sluice_tests::harness::{Gateway, Origin, Service, registry_only, until};

/// Starts a program for which io_uring is blocked.
const WITHOUT_IO_URING: &str = env!("CARGO_BIN_EXE_without_io_uring");

/// The keys of a JSON line in order: Istio's, then ours.
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

fn config(origin: &Origin, access_log: &str) -> String {
    let workload = "[[workload]]\nname = \"idgen\"\naddresses = [\"127.0.0.1\"]\n\
                    principal = \"spiffe://cluster.local/ns/default/sa/idgen\"\nservice_account = \"idgen\"\n";
    registry_only()
        + workload
        + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()
        + access_log
}

const MORE: &str = "User-Agent: \"golden\"\r\nX-Request-Id: id-1\r\n";

/// Replaces what differs from run to run, after checking that it is there.
fn mask(line: &str, words: &[(String, &str)]) -> String {
    let mut line = line.to_owned();
    for (word, name) in words {
        assert!(line.contains(word.as_str()), "{word} in {line}");
        line = line.replace(word.as_str(), name);
    }
    line
}

#[test]
fn a_text_line_is_istios_with_our_fields_last() {
    let origin = Origin::http("hello");
    let gateway = Gateway::start(&config(&origin, "[access_log]\nformat = \"text\"\n"));
    let mut client = gateway.client();
    let own = client.stream.local_addr().expect("connected").to_string();
    let response = client.request("GET", "http://a.test/p?q=1", MORE);
    assert_eq!(response.status, 200);
    let sent = response.head.len() + response.body.len();
    let line = until("a line", || gateway.log_lines().first().cloned());
    // [%START_TIME%] "…" code flags details termination "failure" received sent duration service-time …
    let (start, rest) = line.split_once("] ").expect("a time");
    assert!(start.starts_with("[20") && start.ends_with('Z') && start.len() == 25, "{start}");
    let words = [
        (origin.address().to_string(), "UPSTREAM"),
        (gateway.proxy().to_string(), "DOOR"),
        (own, "CLIENT"),
        (format!(" {sent} "), " SENT "),
    ];
    let line = mask(rest, &words);
    let (before, after) = line.split_once(" SENT ").expect("the count");
    assert!(before.starts_with("\"GET /p?q=1 HTTP/1.1\" 200 - via_upstream - \"-\" "), "{before}");
    let received: usize = before.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a count");
    assert_eq!(received, format!("GET http://a.test/p?q=1 HTTP/1.1\r\nHost: a.test\r\n{MORE}\r\n").len());
    let (times, after) = after.split_once(" \"").expect("times");
    assert!(times.split(' ').all(|time| time.parse::<u64>().is_ok()), "{times}");
    assert!(
        after.starts_with("-\" \"\\\"golden\\\"\" \"id-1\" \"a.test\" \"UPSTREAM\" outbound|80||a.test "),
        "{after}"
    );
    let tail = " DOOR CLIENT - default/a source_principal=spiffe://cluster.local/ns/default/sa/idgen source_workload=idgen \
                source_namespace=default policy_decision=allow policy_reason=registered shadow_decision=allow \
                shadow_reason=registered service=default/a source_proof=address";
    assert!(after.ends_with(tail), "{after}\n{tail}");
}

#[test]
fn a_json_line_has_istios_keys_and_ours_last() {
    let origin = Origin::http("hello");
    let gateway = Gateway::start(&config(&origin, ""));
    let mut client = gateway.client();
    assert_eq!(client.request("GET", "http://a.test/p?q=1", MORE).status, 200);
    assert_eq!(client.request("GET", "http://b.test/", MORE).status, 502);
    let lines = until("two lines", || (gateway.log_lines().len() == 2).then(|| gateway.log_lines()));
    for line in &lines {
        let mut at = 0;
        for key in KEYS {
            let found = line[at..].find(&format!("\"{key}\":"));
            at += found.unwrap_or_else(|| panic!("{key} is missing or out of order in {line}"));
        }
    }
    let entries = gateway.log_entries();
    assert!(entries.iter().all(|entry| entry.as_object().is_some_and(|keys| keys.len() == KEYS.len())));
    for (key, value) in [
        ("method", json!("GET")),
        ("path", json!("/")),
        ("protocol", json!("HTTP/1.1")),
        ("response_code", json!(502)),
        ("response_flags", json!("-")),
        ("response_code_details", json!("direct_response")),
        ("connection_termination_details", Value::Null),
        ("x_forwarded_for", Value::Null),
        ("user_agent", json!("\"golden\"")),
        ("request_id", json!("id-1")),
        ("authority", json!("b.test")),
        ("upstream_host", Value::Null),
        ("upstream_cluster", json!("BlackHoleCluster")),
        ("downstream_local_address", json!(gateway.proxy().to_string())),
        ("route_name", json!("block_all")),
        ("source_workload", json!("idgen")),
        ("policy_decision", json!("deny")),
        ("shadow_decision", json!("deny")),
        ("service", Value::Null),
        ("source_proof", json!("address")),
    ] {
        assert_eq!(entries[1][key], value, "{key}");
    }
}

#[test]
fn no_value_can_forge_a_line() {
    let origin = Origin::http("x");
    for format in ["text", "json"] {
        let gateway = Gateway::start(&config(&origin, &format!("[access_log]\nformat = \"{format}\"\n")));
        let mut client = gateway.client();
        let more = "User-Agent: x\" 200 - \"\t{\"a\":1} \\ \u{e9}\r\nX-Request-Id: a b\"c\r\n";
        let response = client.request("GET", "http://a.test/a'b%0aforged", more);
        assert_eq!(response.status, 200);
        let line = until("a line", || gateway.log_lines().first().cloned());
        assert_eq!(gateway.log_lines().len(), 1);
        if format == "json" {
            let entry: Value = serde_json::from_str(&line).expect("one JSON object");
            assert_eq!(entry["path"], "/a'b%0aforged");
            assert!(
                entry["user_agent"].as_str().is_some_and(|agent| agent.starts_with("x\" 200 - \"")),
                "{entry}"
            );
        } else {
            assert!(!line.contains("x\" 200"), "{line}");
        }
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[test]
fn a_file_is_appended_to_and_reopened_on_sigusr1() {
    let origin = Origin::http("x");
    let folder = tempfile::tempdir().expect("a folder");
    let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    std::fs::write(&path, "what was there before\n").expect("written");
    let log = format!("[access_log]\nformat = \"json\"\npath = \"{}\"\n", path.display());
    let gateway = Gateway::start(&config(&origin, &log));
    let mut client = gateway.client();
    client.get("http://a.test/1");
    let start = std::time::Instant::now();
    until("the first line", || (lines(&path) == 2).then_some(()));
    println!("visible after {:?}", start.elapsed());
    std::fs::rename(&path, &old).expect("renamed");
    client.get("http://a.test/2");
    until("a line in the renamed file", || (lines(&old) == 3).then_some(()));
    gateway.signal(Signal::USR1);
    until("a new file", || path.exists().then_some(()));
    client.get("http://a.test/3");
    until("a line in the new file", || (lines(&path) == 1).then_some(()));
    assert_eq!(lines(&old), 3);
    assert!(gateway.log_lines().is_empty(), "standard output is not used then");
    drop(client);
    assert_eq!(gateway.stop(), 0);
    assert_eq!(lines(&path), 1);
}

/// How long after the end of a lone response on an idle gateway its line is to be seen: the middle one of five, because
/// one may wait for the machine.
fn line_delay(gateway: &Gateway, lines: impl Fn() -> usize) -> Duration {
    let mut delays: Vec<Duration> = (1..=5)
        .map(|count| {
            let mut client = gateway.client();
            assert_eq!(client.get("http://a.test/").status, 200);
            let start = Instant::now();
            until("the line", || (lines() >= count).then_some(()));
            start.elapsed()
        })
        .collect();
    delays.sort();
    println!("lines seen after {delays:?}");
    delays[2]
}

#[test]
fn a_line_is_seen_within_a_second_of_its_response() {
    let origin = Origin::http("x");
    let second = Duration::from_secs(1);
    for format in ["text", "json"] {
        let format = format!("[access_log]\nformat = \"{format}\"\n");
        let gateway = Gateway::start(&config(&origin, &format));
        let delay = line_delay(&gateway, || gateway.log_lines().len());
        assert!(delay < second, "on standard output, {format}: {delay:?}");
        // Through tokio-uring where the system allows it, and by plain calls where it does not.
        for blocked in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("access.log");
            let mut command = Command::new(if blocked { Path::new(WITHOUT_IO_URING) } else { binary() });
            if blocked {
                command.arg(binary());
            }
            let log = format!("{format}path = \"{}\"\n[dataplane]\nengine = \"auto\"\n", path.display());
            let gateway = Start::through(command, &config(&origin, &log)).ready();
            if blocked {
                gateway.wait_log("written by plain file calls");
            }
            let delay = line_delay(&gateway, || lines(&path));
            assert!(delay < second, "in a file, {format}, io_uring blocked: {blocked}: {delay:?}");
        }
    }
}

#[test]
fn what_is_logged_at_the_end_is_not_lost() {
    let origin = Origin::http("x");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let gateway =
        Start::new(&config(&origin, &format!("[access_log]\npath = \"{}\"\n", path.display()))).ready();
    let mut client = gateway.client();
    for _ in 0..50 {
        client.get("http://a.test/");
    }
    gateway.signal(Signal::TERM);
    let _ = client.rest();
    assert_eq!(gateway.stop(), 0);
    assert_eq!(lines(&path), 50);
}

#[test]
fn a_log_of_denials_and_errors_leaves_out_the_rest() {
    let origin = Origin::http("x");
    let log = "[access_log]\nformat = \"json\"\nlines = \"denied_and_errors\"\n";
    let gateway = Gateway::start(&config(&origin, log));
    let mut client = gateway.client();
    assert_eq!(client.get("http://a.test/fine").status, 200);
    assert_eq!(client.get("http://b.test/denied").status, 502);
    assert_eq!(gateway.first_entry()["path"], "/denied");
    gateway.wait_metric("istio_requests_total", &["response_code=\"200\""], 1.0);
}
