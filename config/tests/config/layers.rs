//! Defaults, file, environment, flags: who wins, what is refused, and how it shows afterwards.

use sluice_config::{Auth, DoorKind, EngineChoice, Override, Source, load};
use sluice_policy::Mode;

use crate::common::{accepted, flag, load_with_environment};

const MINIMAL: &str = "mode = \"registry_only\"\n";

#[test]
fn without_a_file_the_defaults_run() {
    let loaded = load(&Source::isolated(None)).unwrap();
    let plan = loaded.plan;
    assert_eq!(loaded.warnings, []);
    assert_eq!(plan.file, None);
    assert_eq!(plan.mode, Mode::AllowAny);
    assert_eq!(plan.doors.len(), 1);
    assert_eq!(plan.doors[0].kind, DoorKind::HttpProxy);
    assert_eq!(plan.doors[0].bind.to_string(), "127.0.0.1:3128");
    assert_eq!(&*plan.doors[0].name, "http_proxy-3128");
    assert_eq!(plan.doors[0].auth, Auth::Off);
    assert_eq!(plan.admin.bind.to_string(), "127.0.0.1:15000");
    assert_eq!(plan.prometheus, None);
    assert_eq!(plan.dns.servers, None);
    assert_eq!(
        (plan.dns.ttl_min_s, plan.dns.ttl_max_s, plan.dns.negative_ttl_s, plan.dns.stale_s),
        (1, 300, 5, 3600)
    );
    assert_eq!((plan.dns.timeout_ms, plan.dns.cache_entries), (2000, 10_000));
    assert_eq!(plan.dataplane.engine, EngineChoice::Auto);
    assert_eq!(plan.dataplane.cores, None);
}

#[test]
fn default_limits_are_the_designs() {
    let limits = accepted(MINIMAL).plan.limits;
    assert_eq!((limits.request_head_timeout_ms, limits.request_head_bytes_max), (10_000, 32 * 1024));
    assert_eq!((limits.sniff_timeout_ms, limits.sniff_bytes_max), (3_000, 64 * 1024));
    assert_eq!((limits.connect_timeout_ms, limits.response_head_timeout_ms), (5_000, 60_000));
    assert_eq!(limits.http_stream_idle_timeout_ms, 300_000);
    assert_eq!(
        (limits.downstream_keepalive_timeout_ms, limits.upstream_keepalive_timeout_ms),
        (60_000, 30_000)
    );
    assert_eq!((limits.tunnel_idle_timeout_ms, limits.half_closed_timeout_ms), (3_600_000, 60_000));
    assert_eq!(
        (limits.drain_timeout_ms, limits.connections_percent_max, limits.control_descriptors),
        (25_000, 45, 16)
    );
}

#[test]
fn a_file_with_only_a_mode_keeps_the_other_defaults() {
    let plan = accepted(MINIMAL).plan;
    assert_eq!(plan.mode, Mode::RegistryOnly);
    assert_eq!(plan.doors[0].bind.to_string(), "127.0.0.1:3128");
}

#[test]
fn later_layers_win() {
    let text = "mode = \"registry_only\"\n[limits]\nconnect_timeout_ms = 100\nsniff_timeout_ms = 200\ndrain_timeout_ms = 300\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    let environment =
        [("SLUICE__LIMITS__SNIFF_TIMEOUT_MS", "201"), ("SLUICE__LIMITS__DRAIN_TIMEOUT_MS", "301")];
    let source = Source {
        environment: environment.map(|(key, value)| (key.into(), value.into())).to_vec(),
        overrides: vec![
            flag("--drain", "limits.drain_timeout_ms", "302"),
            flag("--mode", "mode", "allow_any"),
        ],
        ..Source::isolated(Some(path))
    };
    let plan = load(&source).unwrap().plan;
    let limits = &plan.limits;
    assert_eq!(
        (limits.connect_timeout_ms, limits.sniff_timeout_ms, limits.drain_timeout_ms),
        (100, 201, 302)
    );
    assert_eq!(plan.mode, Mode::AllowAny);
    let json = plan.effective_json();
    let from = |key: &str| json["from"][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(from("limits.connect_timeout_ms"), "file");
    assert_eq!(from("limits.sniff_timeout_ms"), "environment");
    assert_eq!(from("limits.drain_timeout_ms"), "flag");
    assert_eq!(from("limits.request_head_timeout_ms"), "default");
    assert_eq!(json["values"]["limits"]["drain_timeout_ms"], 302);
}

#[test]
fn a_flag_may_replace_the_doors() {
    let tables = "[{ kind = \"http_proxy\", bind = \"127.0.0.1:8080\" }]";
    let source = Source { overrides: vec![flag("--bind", "listener", tables)], ..Source::isolated(None) };
    let plan = load(&source).unwrap().plan;
    assert_eq!(plan.doors.iter().map(|door| door.bind.port()).collect::<Vec<_>>(), [8080]);
    let source = Source { overrides: vec![flag("--bind", "listener", "x")], ..Source::isolated(None) };
    assert!(load(&source).is_err());
}

/// Lists of tables take their own way past the merging library: each must come back whole, from the layer that wins.
#[test]
fn lists_of_tables_come_from_the_last_layer_that_has_them() {
    let text = "mode = \"registry_only\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\"]\nports = [{ number = 1 }]\n\
        [[service]]\nname = \"b\"\nhosts = [\"b.example\"]\n[[listener]]\nkind = \"tls\"\nbind = \"127.0.0.1:2\"\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    let doors = flag("--door", "listener", "[{ kind = \"http_proxy\", bind = \"127.0.0.1:1\" }]");
    let source = Source { overrides: vec![doors], ..Source::isolated(Some(path)) };
    let plan = load(&source).unwrap().plan;
    assert_eq!(plan.doors.iter().map(|door| door.bind.port()).collect::<Vec<_>>(), [1]);
    let shown = plan.effective_json();
    assert_eq!(shown["from"]["listener"], "flag");
    assert_eq!((&shown["from"]["service"], &shown["from"]["mode"]), (&"file".into(), &"file".into()));
    assert_eq!(shown["values"]["service"][0]["ports"][0]["number"], 1);
    assert_eq!(shown["values"]["service"][1]["namespace"], "default");
    // An empty list in the file is a list all the same, and a mistake inside a flag's list is the flag's.
    let empty =
        crate::common::load_text("mode = \"allow_any\"\nservice = []\n").unwrap().plan.effective_json();
    assert_eq!(
        (&empty["from"]["service"], &empty["values"]["service"]),
        (&"file".into(), &serde_json::json!([]))
    );
    let wrong = flag("--door", "listener", "[{ kind = \"tls\", bind = \"127.0.0.1:1\", colour = 1 }]");
    let errors = load(&Source { overrides: vec![wrong], ..source }).unwrap_err().errors;
    assert_eq!((&*errors[0].file, errors[0].line), ("command line --door", 0), "{errors:#?}");
}

#[test]
fn environment_values_have_the_type_of_their_key() {
    let plan = load_with_environment(
        Some(MINIMAL),
        &[
            ("SLUICE__DATAPLANE__CORES", "1, 2,3"),
            ("SLUICE__DATAPLANE__BUSY_POLL", "false"),
            ("SLUICE__DATAPLANE__ENGINE", "epoll"),
            ("SLUICE__DNS__SERVERS", "10.0.0.2, 10.0.0.3:5353, ::1"),
            ("SLUICE__GUARD__ALLOW", "[\"10.20.0.0/16\"]"),
            ("SLUICE__DENY__CONTACT", "42"),
            ("SLUICE__TELEMETRY__PROMETHEUS__BIND", "0.0.0.0:15090"),
        ],
    )
    .unwrap()
    .plan;
    assert_eq!(plan.dataplane.cores.as_deref(), Some(&[1, 2, 3][..]));
    assert_eq!(plan.dataplane.engine, EngineChoice::Epoll);
    let servers: Vec<String> = plan.dns.servers.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.2:53", "10.0.0.3:5353", "[::1]:53"]);
    assert_eq!(plan.policy_input.guard.allow[0].to_string(), "10.20.0.0/16");
    assert_eq!(plan.deny.contact.as_deref(), Some("42"));
    assert!(plan.prometheus.is_some());
}

#[test]
fn other_variables_are_ignored() {
    let injected = [
        ("SLUICE_PORT", "tcp://10.0.0.1:80"),
        ("SLUICE_SERVICE_HOST", "x"),
        ("PATH", "/bin"),
        ("SLUICE_MODE", "x"),
    ];
    load_with_environment(Some(MINIMAL), &injected).unwrap();
}

#[test]
fn wrong_variables_are_refused_by_name() {
    for (name, value, message, suggestion) in [
        ("SLUICE__MODE", "allow_any", "never read from the environment", "`mode`"),
        ("SLUICE__LIMITS__CONECT_TIMEOUT_MS", "1", "no such key", "SLUICE__LIMITS__CONNECT_TIMEOUT_MS"),
        ("SLUICE__LIMITS", "1", "tables cannot be set", "`limits`"),
        ("SLUICE__LISTENER__BIND", "127.0.0.1:1", "tables cannot be set", "`listener`"),
        ("SLUICE__", "1", "no such key", ""),
        ("SLUICE__LIMITS__CONNECT_TIMEOUT_MS", "5s", "expected a whole number", "milliseconds"),
        ("SLUICE__LIMITS__CONNECT_TIMEOUT_MS", "", "expected a whole number", ""),
        ("SLUICE__DATAPLANE__ENGINE", "dpdk", "unknown value", "\"auto\""),
        ("SLUICE__DATAPLANE__BUSY_POLL", "true", "not available in this version", "false"),
        ("SLUICE__ADMIN__BIND", "0.0.0.0:1", "loopback", "127.0.0.1:1"),
        ("SLUICE__DNS__SERVERS", "[", "expected a list", ""),
    ] {
        for file in [None, Some(MINIMAL)] {
            let errors = load_with_environment(file, &[(name, value)]).unwrap_err().errors;
            assert_eq!(errors.len(), 1, "{errors:#?}");
            let problem = &errors[0];
            assert_eq!(
                (&*problem.file, problem.line),
                (format!("environment variable {name}").as_str(), 0),
                "{problem}"
            );
            assert!(problem.message.contains(message), "{problem}");
            assert!(problem.suggestion.as_deref().unwrap_or_default().contains(suggestion), "{problem}");
        }
    }
}

#[test]
fn variables_that_are_not_utf8_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let value = std::ffi::OsString::from_vec(vec![0xff]);
    let source =
        Source { environment: vec![("SLUICE__DENY__CONTACT".into(), value)], ..Source::isolated(None) };
    assert!(load(&source).unwrap_err().errors[0].message.contains("not UTF-8"));
}

#[test]
fn wrong_flags_are_refused_by_name() {
    let source =
        Source { overrides: vec![flag("--engine", "dataplane.engine", "dpdk")], ..Source::isolated(None) };
    let errors = load(&source).unwrap_err().errors;
    assert_eq!(&*errors[0].file, "command line --engine");
    let source = Source { overrides: vec![flag("--set", "nothing.here", "1")], ..Source::isolated(None) };
    assert_eq!(&*load(&source).unwrap_err().errors[0].file, "command line --set");
    for (key, remedy) in [
        ("connect_timeout_ms", "did you mean `limits.connect_timeout_ms`?"),
        ("limit.connect_timeout_ms", "did you mean `limits.connect_timeout_ms`?"),
        ("zzz", "known: mode, "),
        ("deny.zzz", "known in `deny`: contact"),
        ("telemetry.prometheus.zzz", "known in `telemetry.prometheus`: bind"),
        ("service.zzz", "write `service` in the configuration file"),
    ] {
        let source = Source { overrides: vec![flag("--set", key, "1")], ..Source::isolated(None) };
        let said = load(&source).unwrap_err().errors[0].suggestion.clone().unwrap_or_default();
        assert!(said.starts_with(remedy), "{key}: {said}");
    }
}

#[test]
fn a_flag_or_variable_cannot_stand_in_for_the_files_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.toml");
    std::fs::write(&path, "[limits]\nconnect_timeout_ms = 100\n").unwrap();
    let source =
        Source { overrides: vec![flag("--mode", "mode", "allow_any")], ..Source::isolated(Some(path)) };
    assert!(load(&source).unwrap_err().errors[0].message.contains("`mode` is missing"));
}

#[test]
fn a_wrong_key_outside_the_file_is_answered_in_the_words_of_its_place() {
    let environment =
        |name: &str| Source { environment: vec![(name.into(), "1".into())], ..Source::isolated(None) };
    let flag = |key: &str, value: &str| Source {
        overrides: vec![Override { flag: "--set".into(), key: key.into(), value: value.into() }],
        ..Source::isolated(None)
    };
    let said = |source: &Source| load(source).unwrap_err().to_string();
    let near = said(&environment("SLUICE__LIMITS__CONECT_TIMEOUT_MS"));
    assert!(near.contains("did you mean `SLUICE__LIMITS__CONNECT_TIMEOUT_MS`"), "{near}");
    let near = said(&flag("limits.conect_timeout_ms", "1"));
    assert!(near.contains("did you mean `limits.connect_timeout_ms`"), "{near}");
    let far = said(&environment("SLUICE__LIMITS__NOPE"));
    assert!(!far.contains("did you mean"), "a right section alone makes no likeness: {far}");
    let list = said(&flag("dataplane.cores", "0-1"));
    assert!(list.contains("command line --set"), "{list}");
}
