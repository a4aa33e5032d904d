//! Gateway and sidecar are one product: for the same configuration the same answers, in every word that a client, an
//! operator or a dashboard reads.

use std::process::{Command, Output};

use serde_json::Value;
use sluice_tests::harness::gateway::{Start, binary, run_command, sidecar_binary};
use sluice_tests::harness::{Gateway, Origin, Service, registry_only, until};

const HEAD: &str = "mode = \"registry_only\"\n";
const POLICY: &str = r#"
[[scope]]
source = { namespace = "sandbox" }
mode = "allow_any"
[[workload]]
name = "idgen"
addresses = ["10.1.2.0/24"]
[[workload]]
name = "toy"
namespace = "sandbox"
addresses = ["10.1.3.0/24"]
[[service]]
name = "one"
hosts = ["one.test", "*.more.test"]
allow = [{ workload = "idgen" }]
[[service]]
name = "old"
hosts = ["old.test"]
expires = "2020-01-01T00:00:00Z"
[[service]]
name = "off"
hosts = ["off.test"]
deny = [{ namespace = "default" }]
"#;

/// What both binaries print and how they exit, without what names the binary.
fn both(arguments: &[&str]) -> [(Option<i32>, String, String); 2] {
    [binary(), sidecar_binary()].map(|path| {
        let Output { status, stdout, stderr } = run_command(Command::new(path).args(arguments));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace("sluice-sidecar", "sluice");
        (status.code(), text(stdout), text(stderr))
    })
}

#[test]
fn explain_and_check_answer_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let good = write("sluice.toml", HEAD.to_owned() + POLICY);
    let sources = ["default/idgen", "sandbox/toy", "10.1.2.3", "10.9.9.9", "spiffe://t/ns/default/sa/x"];
    let targets = [
        "https://one.test",
        "http://a.more.test",
        "one.test:25",
        "old.test:80",
        "https://off.test",
        "no.test:1",
    ];
    let mut reasons = Vec::new();
    for from in sources {
        for to in targets {
            let [gateway, sidecar] =
                both(&["explain", "--config", &good, "--from", from, "--to", to, "--json"]);
            assert_eq!(gateway, sidecar, "{from} {to}");
            let answer: Value = serde_json::from_str(&gateway.1).expect("JSON");
            reasons.push(answer["reason"].to_string());
        }
    }
    reasons.sort();
    reasons.dedup();
    assert!(reasons.len() >= 6, "the questions are too much alike: {reasons:?}");

    let bad = write("bad.toml", "mode = \"registry_onyl\"\n[lmits]\n".to_owned());
    for arguments in
        [&["check", "--config", &good][..], &["check", "--config", &bad], &["explode"], &["--version"]]
    {
        let [gateway, sidecar] = both(arguments);
        assert_eq!(gateway, sidecar, "{arguments:?}");
    }
}

fn sidecar(config: &str) -> Gateway {
    Start::through(Command::new(sidecar_binary()), config)
        // The file names the engine that this run of the suite is about, which may be io_uring.
        .with(|command| {
            command.args(["--engine", "epoll"]);
        })
        .ready()
}

/// What a request looks like in log and metrics, without what differs from flow to flow.
fn traces(gateway: &Gateway, requests: usize) -> (Vec<Value>, Vec<String>) {
    let entries = until("every line", || {
        let entries = gateway.log_entries();
        (entries.len() == requests).then_some(entries)
    });
    let stable = |mut entry: Value| {
        let passing = [
            "start_time",
            "duration",
            "upstream_service_time",
            "upstream_local_address",
            "downstream_local_address",
            "downstream_remote_address",
        ];
        for key in passing {
            entry.as_object_mut().expect("an object").remove(key);
        }
        entry
    };
    let metrics = gateway.metrics();
    let counted = metrics.lines().filter(|line| {
        line.starts_with("istio_requests_total{") || line.starts_with("egress_policy_decisions_total{")
    });
    let mut counted: Vec<String> = counted.map(str::to_owned).collect();
    counted.sort();
    (entries.into_iter().map(stable).collect(), counted)
}

#[test]
fn clients_logs_and_metrics_see_no_difference() {
    let origin = Origin::http("hello");
    let service = Service::new("web", "web.test").port(80, "HTTP", origin.address()).toml();
    let other = Service::new("other", "other.test")
        .port(80, "HTTP", origin.address())
        .with("allow = [{ workload = \"somebody\" }]")
        .toml();
    let config = registry_only() + &service + &other + "[deny]\ncontact = \"ask #platform\"\n";
    let (gateway, sidecar) = (Gateway::start(&config), sidecar(&config));
    let requests = [
        ("GET", "http://web.test/", ""),
        ("POST", "http://web.test/x?y", "content-length: 0\r\n"),
        ("GET", "http://denied.test/", ""),
        ("GET", "http://other.test/", ""),
        ("GET", "http://web.test:8080/", ""),
        ("GET", "http://a..test/", ""),
        ("GET", "http://169.254.169.254/", ""),
        ("CONNECT", "denied.test:443", ""),
        ("GET", "/origin-form", "host: web.test\r\n"),
    ];
    for (method, target, more) in requests {
        let ask = |gateway: &Gateway| {
            let mut client = gateway.client();
            let host = target.split('/').nth(2).filter(|host| !host.is_empty()).unwrap_or(target);
            let host = if target.starts_with('/') { String::new() } else { format!("host: {host}\r\n") };
            client.send(format!("{method} {target} HTTP/1.1\r\n{host}x-request-id: r-1\r\n{more}\r\n"));
            let response = client.response();
            (response.head.clone(), response.text())
        };
        assert_eq!(ask(&gateway), ask(&sidecar), "{method} {target}");
    }
    assert_eq!(traces(&gateway, requests.len()), traces(&sidecar, requests.len()));
    assert!(sidecar.metrics().contains("egress_engine_info{engine=\"epoll\""), "{}", sidecar.metrics());
    assert_eq!((gateway.stop(), sidecar.stop()), (0, 0));
}
