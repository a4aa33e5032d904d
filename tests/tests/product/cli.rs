//! The commands `check`, `explain` and `doctor`: what they print and how they exit.

use std::process::Output;

use sluice_tests::harness::gateway::{Start, command, run, run_command};
use sluice_tests::harness::registry_only;

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs `check` on this text.
fn check(toml: &str) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sluice.toml");
    std::fs::write(&path, toml).expect("written");
    let output = run(&["check", "--config", &path.to_string_lossy()]);
    (output.status.code().unwrap_or(-1), text(&output))
}

#[test]
fn check_names_file_line_column_key_and_remedy() {
    let (code, said) = check("mode = \"registry_onl\"\n\n[[listner]]\nkind = \"tls\"\n");
    assert_eq!(code, 64);
    for part in ["sluice.toml:1:8", "mode", "\"registry_only\"", "sluice.toml:3:3", "listner", "`listener`"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn every_class_of_mistake_has_its_own_words() {
    let head = "mode = \"registry_only\"\n";
    for (what, toml, parts) in [
        ("empty", String::new(), ["mode", "empty"]),
        ("truncated", format!("{head}[[service]]\nname = \"a\"\nhosts = [\"a.te"), [":4:15", "unclosed"]),
        ("no mode", "[admin]\nbind = \"127.0.0.1:15000\"\n".into(), ["mode", "missing"]),
        (
            "a wrong type",
            format!("{head}[limits]\nconnect_timeout_ms = \"5 s\"\n"),
            [":3:22", "limits.connect_timeout_ms"],
        ),
        ("an unknown key", format!("{head}[dns]\nserver = []\n"), [":3:1", "servers"]),
        (
            "not built yet",
            format!("{head}[[listener]]\nkind = \"hbone\"\nbind = \"127.0.0.1:1080\"\n"),
            [":3:8", "hbone"],
        ),
        ("out of range", format!("{head}[limits]\nconnections_percent_max = 90\n"), [":3:27", "49"]),
        (
            "a port in a host",
            format!("{head}[[service]]\nname = \"a\"\nhosts = [\"a.test:80\"]\n"),
            [":4:10", "port"],
        ),
        ("admin for all", format!("{head}[admin]\nbind = \"0.0.0.0:15000\"\n"), [":3:8", "loopback"]),
        (
            "the same door twice",
            format!("{head}{0}{0}", "[[listener]]\nkind = \"http_proxy\"\nbind = \"127.0.0.1:3128\"\n"),
            ["3128", "listener"],
        ),
    ] {
        let (code, said) = check(&toml);
        assert_eq!(code, 64, "{what}: {said}");
        for part in parts {
            assert!(said.contains(part), "{what}: {part:?} in {said}");
        }
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let (code, said) = check("mode = 1\n[limits]\nconnect_timeout_ms = true\nunknown = 2\n");
    assert_eq!(code, 64);
    for place in [":1:8", ":3:22", ":4:1", "3 errors"] {
        assert!(said.contains(place), "{place} in {said}");
    }
}

#[test]
fn check_accepts_the_examples() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");
    let mut seen = 0;
    for file in std::fs::read_dir(examples).expect("the examples") {
        let path = file.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let output = run(&["check", "--config", &path.to_string_lossy()]);
            assert_eq!(output.status.code(), Some(0), "{}", text(&output));
            assert!(text(&output).contains("valid"), "{}", text(&output));
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen} examples");
}

#[test]
fn check_warns_of_names_that_the_guard_will_refuse() {
    let (code, said) = check(&format!(
        "{}[[service]]\nname = \"a\"\nhosts = [\"a.test\"]\naddresses = [\"10.0.0.1\"]\nexpires = \"2020-01-01T00:00:00Z\"\n",
        "mode = \"registry_only\"\n"
    ));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("warning"), "{said}");
}

#[test]
fn explain_tells_the_trail_and_exits_by_the_verdict() {
    let toml = registry_only()
        + "[[workload]]\nname = \"idgen\"\nservice_account = \"idgen\"\nprincipal = \"spiffe://cluster.local/ns/default/sa/idgen\"\n\
           [[service]]\nname = \"httpbin-ext\"\nhosts = [\"httpbin.org\"]\n\
           allow = [{ principal = \"spiffe://cluster.local/ns/default/sa/idgen\" }]\n";
    let start = Start::new(&toml);
    let path = start.folder().join("sluice.toml");
    let path = path.to_string_lossy();
    let ask = |arguments: &[&str]| {
        let output = run(&[&["explain", "--config", &path], arguments].concat());
        (output.status.code().unwrap_or(-1), text(&output))
    };
    let (code, said) = ask(&["--from", "default/idgen", "--to", "https://httpbin.org"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("allow: registered") && said.contains("default/httpbin-ext"), "{said}");
    assert!(said.contains("sluice.toml:"), "the line that decided: {said}");
    let (code, said) = ask(&["--to", "https://httpbin.org"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("workload_not_allowed"), "{said}");
    let (code, said) = ask(&["--to", "evil.test:443", "--json"]);
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&json["reason"], json["verdict"].as_str().or(json["decision"].as_str())),
        (&"not_registered".into(), Some("deny"))
    );
    // What the gateway would answer with 400 is a denial; what is no question is a mistake.
    let (code, said) = ask(&["--to", "http://127.1/"]);
    assert!(code == 1 && said.starts_with("deny: malformed"), "{code}: {said}");
    assert_eq!(ask(&["--to", "not a host"]).0, 64);
    let (code, said) = ask(&["--from", "no/such", "--to", "a.test:80"]);
    assert!(code == 1 && said.contains("no [[workload]] names"), "{said}");
}

#[test]
fn doctor_looks_at_everything() {
    let output = run_command(command().current_dir("/").arg("doctor"));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["kernel", "io_uring", "seccomp", "open files", "capabilities", "processors"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_without_io_uring"));
    command
        .arg(sluice_tests::harness::gateway::binary())
        .arg("doctor")
        .current_dir("/")
        .env_remove("SLUICE_CONFIG");
    let said = text(&run_command(&mut command));
    assert!(said.contains("epoll runs instead") && said.contains("seccomp"), "{said}");
    // What works nowhere is an error.
    let output = run_command(command.args(["--engine", "uring"]));
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
}

#[test]
fn the_configuration_in_the_readme_is_valid() {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("a README");
    let blocks: Vec<_> =
        readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let (code, said) = check(block);
        assert_eq!(code, 0, "{said}\n{block}");
    }
}
