//! The files that `registry.service_entries` means, and how their services stand beside those of the file.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use sluice_config::{ImportSource, Loaded, Report, import_istio};

use crate::common::{load_in, load_with_environment};

fn entry(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: {name}\nspec:\n  hosts: [{host}]\n  \
         ports: [{{number: 443, name: tls, protocol: TLS}}]\n  resolution: DNS\n"
    )
}

fn load(folder: &Path, list: &str) -> Result<Loaded, Report> {
    load_in(folder, &format!("mode = \"registry_only\"\n[registry]\nservice_entries = [{list}]\n"))
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.plan.policy_input.services.iter().map(|service| &*service.name).collect()
}

#[test]
fn patterns_mean_the_files_that_match() {
    let folder = tempfile::tempdir().unwrap();
    let entries = folder.path().join("entries");
    fs::create_dir_all(entries.join("folder.yaml")).unwrap();
    for (file, name) in [("b.yaml", "b"), ("a.yaml", "a"), ("c.yml", "c"), ("single", "s")] {
        fs::write(entries.join(file), entry(name, &format!("{name}.example"))).unwrap();
    }
    fs::write(entries.join(".b.yaml.swp"), "not yaml: [").unwrap();
    let loaded =
        load(folder.path(), "\"entries/*.yaml\", \"entries/[c-z].yml\", \"entries/single\"").unwrap();
    assert_eq!(names(&loaded), ["a", "b", "c", "s"], "in the order of the files");
    assert_eq!(loaded.warnings, []);
    let files = &loaded.plan.files;
    for file in ["sluice.toml", "entries/a.yaml", "entries/single"] {
        assert!(files.contains(&folder.path().join(file)), "{file}: {files:?}");
    }
    let patterns = &loaded.plan.file_patterns;
    assert_eq!((patterns.len(), patterns[0].folder()), (2, &*entries));
    for (name, matches) in [("new.yaml", true), ("new.yml", false), (".x.yaml", false), ("..data", false)] {
        assert_eq!(patterns[0].matches(OsStr::new(name)), matches, "{name}");
    }
    // A file that two patterns mean is read once.
    assert_eq!(names(&load(folder.path(), "\"entries/*.yaml\", \"entries/a.*\"").unwrap()), ["a", "b"]);
}

#[test]
fn what_cannot_be_read_refuses_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("entries")).unwrap();
    for (list, said) in [
        ("\"missing.yaml\"", "no such file"),
        ("\"missing/*.yaml\"", "create the folder"),
        ("\"*/a.yaml\"", "only the file's name may be a pattern"),
        ("\"entries/[.yaml\"", "invalid range"),
        ("7", "expected"),
    ] {
        let report = load(folder.path(), list).unwrap_err();
        assert!(report.to_string().contains(said), "{list}: {report}");
    }
    let loaded = load(folder.path(), "\"entries/*.yaml\"").unwrap();
    assert!(loaded.warnings[0].message.contains("matches no file"), "{:?}", loaded.warnings);
    std::os::unix::fs::symlink("nowhere", folder.path().join("entries/link.yaml")).unwrap();
    let report = load(folder.path(), "\"entries/*.yaml\"").unwrap_err();
    assert!(report.errors[0].file.ends_with("entries/link.yaml"), "{report}");
    fs::remove_file(folder.path().join("entries/link.yaml")).unwrap();
    fs::write(folder.path().join("entries/latin.yaml"), b"a: b\nc: \xe9\n").unwrap();
    let error = load(folder.path(), "\"entries/*.yaml\"").unwrap_err().errors.remove(0);
    assert_eq!((error.line, error.column), (2, 4), "{error}");
}

#[test]
fn the_environment_may_name_the_files() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), entry("a", "a.example")).unwrap();
    let pattern = folder.path().join("*.yaml").display().to_string();
    let loaded = load_with_environment(
        Some("mode = \"registry_only\"\n"),
        &[("SLUICE__REGISTRY__SERVICE_ENTRIES", &pattern)],
    );
    assert_eq!(names(&loaded.unwrap()), ["a"]);
}

#[test]
fn the_same_name_twice_is_an_error_with_both_places() {
    let folder = tempfile::tempdir().unwrap();
    let toml = "mode = \"registry_only\"\n[[service]]\nname = \"a\"\nhosts = [\"t.example\"]\n[registry]\nservice_entries = [\"*.yaml\"]\n";
    fs::write(folder.path().join("a.yaml"), entry("a", "a.example")).unwrap();
    let error = load_in(folder.path(), toml).unwrap_err().errors.remove(0);
    assert!(error.file.ends_with("a.yaml") && error.line == 1, "{error}");
    assert!(
        error.message.contains("default/a is already there at") && error.message.contains("sluice.toml:2"),
        "{error}"
    );
    fs::write(folder.path().join("b.yaml"), entry("a", "b.example")).unwrap();
    let error = load(folder.path(), "\"*.yaml\"").unwrap_err().errors.remove(0);
    assert!(error.file.ends_with("b.yaml") && error.message.contains("a.yaml:1"), "{error}");
}

#[test]
fn services_of_both_kinds_stand_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = entry("db", "db.example").replace("TLS", "POSTGRES").replace("443", "5432");
    let tcp = tcp.replace("  resolution", "  addresses: [192.0.2.53]\n  resolution");
    fs::write(folder.path().join("db.yaml"), tcp).unwrap();
    let toml = "mode = \"registry_only\"\n[registry]\nservice_entries = [\"*.yaml\"]\n\
        [[service]]\nname = \"own\"\nhosts = [\"db.example\"]\nports = [{ number = 5432 }]\nallow = []\n\
        [[listener]]\nkind = \"tcp\"\nbind = \"127.0.0.1:5432\"\nservice = \"default/db\"\n";
    let loaded = load_in(folder.path(), toml).unwrap();
    assert_eq!(loaded.plan.doors[0].service, Some(("default".into(), "db".into())));
    assert_eq!(loaded.plan.doors[0].destination_port, Some(5432));
    let said: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert!(
        said.iter().any(|text| text.contains("db.example port 5432 is in default/db and in default/own")),
        "{said:#?}"
    );
    let json = loaded.plan.effective_json();
    assert_eq!(json["service_entries"][0]["service"], "default/db");
    let from = json["service_entries"][0]["from"].as_str().unwrap();
    assert!(from.ends_with("db.yaml:1"), "{from}");
    assert_eq!(json["values"]["service"][1]["hosts"][0], "db.example");
    assert_eq!(json["values"]["service"].as_array().map(Vec::len), Some(2));
}

#[test]
fn imports_are_well_formed_and_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("odd\nname.yaml");
    fs::write(&file, entry("a", "'*.Example.org'").replace("DNS", "DYNAMIC_DNS")).unwrap();
    let text = ImportSource::Text { name: "standard input".to_owned(), text: entry("b", "b.example") };
    let import = import_istio(&[ImportSource::File(file), text]).unwrap();
    assert_eq!((import.services, import.warnings.len()), (2, 0));
    let expected = "\n[[service]]\nname = \"a\"\nnamespace = \"default\"\nhosts = [\"*.Example.org\"]\nresolution = \"DNS\"\n\n\
        [[service.ports]]\nnumber = 443\nname = \"tls\"\nprotocol = \"TLS\"\n\n[[service]]\n";
    assert!(import.toml.starts_with("# 2 services imported from Istio ServiceEntry"), "{}", import.toml);
    assert!(import.toml.contains(expected), "{}", import.toml);
    let loaded = load_in(folder.path(), &format!("mode = \"registry_only\"\n{}", import.toml)).unwrap();
    assert_eq!(names(&loaded), ["a", "b"]);
}

#[test]
fn an_import_of_nothing_adds_nothing() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x}\n";
    let text = ImportSource::Text { name: "rules".to_owned(), text: rule.to_owned() };
    let import = import_istio(&[text]).unwrap();
    assert_eq!((import.services, import.warnings.len()), (0, 1));
    assert!(import.toml.lines().all(|line| line.is_empty() || line.starts_with('#')), "{}", import.toml);
}

#[test]
fn many_entries_load() {
    const ENTRIES: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..ENTRIES)
        .map(|index| entry(&format!("e{index}"), &format!("h{index}.example")) + "---\n")
        .collect();
    fs::write(folder.path().join("all.yaml"), text).unwrap();
    let started = Instant::now();
    let loaded = load(folder.path(), "\"*.yaml\"").unwrap();
    assert_eq!(loaded.plan.policy_input.services.len(), ENTRIES);
    let last = &loaded.plan.policy_input.services[ENTRIES - 1];
    assert_eq!(
        (last.hosts[0].as_str(), last.origin.line as usize),
        ("h19999.example", 9 * (ENTRIES - 1) + 1)
    );
    // Far more than it takes, far less than if it grew with the square of the entries.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}
