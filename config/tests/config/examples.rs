//! The examples and the reference in docs/ are what this crate accepts and generates.

use std::path::Path;

use sluice_config::{DoorKind, Source, load, reference_markdown};
use sluice_policy::{Mode, UnixSeconds};

fn example(name: &str) -> sluice_config::Loaded {
    let source = Source {
        now: UnixSeconds(1_800_000_000),
        ..Source::isolated(Some(crate::common::examples().join(name)))
    };
    load(&source).unwrap_or_else(|report| panic!("{name}: {report}"))
}

/// Only what a checkout cannot help: git keeps no permissions tighter than these.
fn unexpected_warnings(loaded: &sluice_config::Loaded) -> Vec<String> {
    let texts = loaded.warnings.iter().map(ToString::to_string);
    texts.filter(|text| !text.contains("can be read by every user")).collect()
}

#[test]
fn every_example_loads_without_warnings() {
    let mut count = 0;
    for entry in std::fs::read_dir(crate::common::examples()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".toml") {
            assert_eq!(unexpected_warnings(&example(&name)), Vec::<String>::new(), "{name}");
            count += 1;
        }
    }
    assert!(count >= 3, "found {count} examples");
}

#[test]
fn allow_any_means_what_it_says() {
    let plan = example("allow-any.toml").plan;
    assert_eq!(plan.mode, Mode::AllowAny);
    assert_eq!(
        plan.doors.iter().map(|door| door.kind).collect::<Vec<_>>(),
        [DoorKind::HttpProxy, DoorKind::Tls]
    );
    assert_eq!(plan.prometheus.unwrap().bind.to_string(), "0.0.0.0:15090");
    assert!(plan.policy_input.services[1].deny[0].is_empty());
}

#[test]
fn behind_a_load_balancer_means_what_it_says() {
    let plan = example("behind-a-load-balancer.toml").plan;
    let expected: Vec<Option<bool>> = plan
        .doors
        .iter()
        .map(|door| door.proxy_protocol.as_ref().map(|expected| expected.use_destination))
        .collect();
    assert_eq!(expected, [Some(false), Some(true), None]);
    assert_eq!(plan.doors[2].kind, DoorKind::Socks5);
    assert_eq!(plan.doors[2].auth, sluice_config::Auth::Required);
    assert_eq!(&*plan.credentials[0].user, "batch");
}

#[test]
fn registry_only_means_what_it_says() {
    let plan = example("registry-only.toml").plan;
    assert_eq!(plan.mode, Mode::RegistryOnly);
    assert_eq!(plan.policy_input.scopes[0].mode, Mode::AllowAny);
    assert_eq!(plan.policy_input.workloads.len(), 3);
    assert_eq!(&*plan.credentials[0].user, "checkout");
    assert_eq!(plan.credentials[0].password.expose_secret(), b"replace-me");
    assert_eq!(plan.credentials[0].identity.namespace.as_deref(), Some("payments"));
    assert_eq!(plan.credentials[0].identity.cluster.as_deref(), Some("Kubernetes"));
    let mut hosts: Vec<&str> = plan.policy.hosts().collect();
    hosts.sort_unstable();
    let expected = [
        "*.partner-two.example",
        "*.processor.example",
        "api.partner-one.example",
        "httpbin.org",
        "xn--bcher-kva.example",
    ];
    assert_eq!(hosts, expected);
    assert_eq!(plan.limits.connect_timeout_ms, 3000);
    assert_eq!(plan.dns.ttl_max_s, 120);
    let own: Vec<String> = plan.policy_input.guard.own_listeners.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["0.0.0.0:3128", "0.0.0.0:8443", "127.0.0.1:15000", "0.0.0.0:15090"]);
}

#[test]
fn databases_have_doors_of_their_own() {
    let plan = example("databases.toml").plan;
    let doors: Vec<_> = plan.doors.iter().map(|door| (&*door.name, door.destination_port)).collect();
    let expected = [
        ("orders-db", Some(5432)),
        ("catalogue-db", Some(3306)),
        ("proxy", None),
        ("socks", None),
        ("captured", None),
    ];
    assert_eq!(doors, expected);
    assert_eq!(plan.policy_input.services[1].endpoints[1].ports[0].1, 3307);
    // None of their ports is ever waited on.
    let ports: Vec<_> = plan.policy_input.services.iter().flat_map(|service| &service.ports).collect();
    assert_eq!(ports.len(), 5);
    assert!(ports.iter().all(|port| port.protocol.is_opaque()), "{ports:?}");
}

#[test]
fn service_entries_stand_beside_services() {
    let plan = example("service-entries.toml").plan;
    let names: Vec<String> = plan
        .policy_input
        .services
        .iter()
        .map(|service| format!("{}/{}", service.namespace, service.name))
        .collect();
    assert_eq!(names, ["shop/payments-api", "shop/public-apis", "shop/storage", "shop/orders-db"]);
    assert_eq!(plan.doors[1].destination_port, Some(5432));
    assert_eq!(plan.policy_input.services[3].endpoints[1].ports[0].1, 6432);
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let generated = reference_markdown();
    if std::env::var_os("SLUICE_UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "docs/configuration.md is not what the schema says: SLUICE_UPDATE_DOCS=1 cargo test -p sluice-config"
    );
}

/// A file in which every table and nearly every key stands.
const WHOLE: &str = r#"
mode = "registry_only"

[[scope]]
source = { namespace = "sandbox" }
mode = "allow_any"

[[listener]]
kind = "http_proxy"
bind = "0.0.0.0:3128"

[[workload]]
name = "idgen"
namespace = "default"
service_account = "idgen"
principal = "spiffe://cluster.local/ns/default/sa/idgen"
addresses = ["10.1.2.0/24"]

[[service]]
name = "httpbin-ext"
hosts = ["httpbin.org"]
ports = [{ number = 80 }, { number = 443 }, { number = 8080 }]
allow = [{ principal = "spiffe://cluster.local/ns/default/sa/idgen" }]

[telemetry]
reporter = "source"
cluster_id = "Kubernetes"
host_labels = "bounded"

[telemetry.prometheus]
bind = "0.0.0.0:15090"

[dns]
servers = ["10.0.0.2:53"]

[guard]
allow = ["10.20.0.0/16"]

[access_log]
format = "json"
path = "/var/log/sluice/access.log"

[admin]
bind = "127.0.0.1:15000"

[dataplane]
engine = "auto"
cores = [1, 2, 3]
busy_poll = false

[limits]
[deny]
contact = "ask #platform"
"#;

#[test]
fn every_table_may_stand_in_one_file() {
    let loaded = crate::common::accepted(WHOLE);
    assert_eq!(loaded.warnings, []);
    let protocols: Vec<&str> =
        loaded.plan.policy_input.services[0].ports.iter().map(|port| port.protocol.as_str()).collect();
    assert_eq!(protocols, ["HTTP", "TLS", "TCP"]);
}
