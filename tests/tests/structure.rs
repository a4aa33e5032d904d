//! The shape of the house: which crate may know which, what stays pure, how files look. It reads the sources and
//! `cargo metadata`; it knows nothing of what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Who may import whom, in normal dependencies (ARCHITECTURE.md). Test-only dependencies may go where they like,
/// as long as nobody imports a binary.
const ARROWS: &[(&str, &[&str])] = &[
    ("policy", &[]),
    ("proto", &[]),
    ("relay", &[]),
    ("engine", &["relay"]),
    ("engine-uring", &["engine", "relay"]),
    ("engine-epoll", &["engine", "relay"]),
    ("engine-sim", &["engine", "relay"]),
    ("telemetry", &[]),
    ("bridge", &["policy", "telemetry"]),
    ("config", &["policy"]),
    ("dataplane", &["bridge", "engine", "policy", "proto", "relay", "telemetry"]),
    ("controlplane", &["bridge", "config", "policy", "telemetry"]),
    ("logfile", &["controlplane"]),
    (
        "launch",
        &["bridge", "config", "controlplane", "dataplane", "engine", "engine-epoll", "policy", "telemetry"],
    ),
    ("sidecar", &["config", "controlplane", "engine", "launch"]),
];

/// Crates at the top, which may import anything below.
const ROOTS: &[&str] = &["gateway", "tests", "bench", "fuzz"];

/// Programs: imported by nobody.
const PROGRAMS: &[&str] = &["gateway", "sidecar"];

/// What a pure crate may depend on: data structures and derive macros, nothing that reaches the system.
const PURE: &[(&str, &[&str])] = &[
    ("policy", &["foldhash", "hashbrown", "ipnet", "memchr", "thiserror"]),
    ("proto", &["base64", "crc", "memchr", "thiserror"]),
    ("relay", &[]),
];

/// Packages that Cargo.lock holds in more than one version, each with the reason why it must.
const DUPLICATES: &[(&str, &str)] = &[
    ("io-uring", "tokio-uring 0.5 pins 0.6; the engine needs 0.7"),
    ("socket2", "tokio-uring 0.5 pins 0.4; everything else is on 0.6"),
    ("bitflags", "the io-uring 0.6 of tokio-uring is on 1"),
    ("getrandom", "ring 0.17 is on 0.2; hash seeds and temporary files use 0.4"),
    ("syn", "derive macros are moving from 2 to 3; only build time"),
    ("windows-sys", "of ring and tokio for another system; never compiled here"),
];

const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace")
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .current_dir(root())
        .other_options(["--locked".to_owned()])
        .exec()
        .expect("cargo metadata")
}

fn short(name: &str) -> &str {
    name.strip_prefix("sluice-").unwrap_or(name)
}

fn ours(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

fn normal_dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Normal)
        .map(|dependency| dependency.name.as_str())
}

#[test]
fn the_arrows_go_one_way() {
    let metadata = metadata();
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for package in ours(&metadata) {
        let name = short(&package.name);
        if ROOTS.contains(&name) {
            continue;
        }
        let Some(allowed) = arrows.get(name) else {
            panic!("{name} is in no arrow: decide who it may import")
        };
        for imported in normal_dependencies(package).filter_map(|other| other.strip_prefix("sluice-")) {
            assert!(allowed.contains(&imported), "{name} must not import {imported}");
        }
    }
    for (name, _) in ARROWS {
        assert!(ours(&metadata).iter().any(|package| short(&package.name) == *name), "{name} does not exist");
    }
}

#[test]
fn nobody_imports_a_root() {
    for package in ours(&metadata()) {
        for dependency in &package.dependencies {
            let imported = short(&dependency.name);
            // Fuzz bodies also run in other crates' tests.
            let for_tests = dependency.kind == DependencyKind::Development && imported == "fuzz";
            assert!(
                !dependency.name.starts_with("sluice-")
                    || !(ROOTS.contains(&imported) || PROGRAMS.contains(&imported))
                    || for_tests,
                "{} imports {imported}",
                package.name
            );
        }
    }
}

#[test]
fn pure_crates_are_no_std_and_depend_on_data_structures_only() {
    let metadata = metadata();
    for (name, allowed) in PURE {
        let package = ours(&metadata).into_iter().find(|package| short(&package.name) == *name);
        let package = package.expect("a pure crate exists");
        for dependency in normal_dependencies(package) {
            assert!(allowed.contains(&dependency), "{name} is pure and must not depend on {dependency}");
        }
        let library = fs::read_to_string(root().join(name).join("src/lib.rs")).expect("lib.rs");
        assert!(library.contains("#![no_std]"), "{name} is not no_std");
        for (path, text) in sources_in(&root().join(name).join("src")) {
            let uses_std = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains("std::") && !code.contains("no_std")
            });
            let tests_only = text.contains("#[cfg(test)]") || text.contains("extern crate std");
            assert!(!uses_std || tests_only, "{} names std", path.display());
        }
    }
}

fn sources_in(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn every_file_says_what_it_is_and_is_short_enough() {
    let files = sources_in(&root());
    assert!(files.len() > 100, "the sources are not where they were");
    for (path, text) in files {
        assert!(text.starts_with("//!"), "{} does not open with //!", path.display());
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn unsafe_lives_in_one_folder() {
    let unsafe_home = root().join("engine/uring");
    for (path, text) in sources_in(&root()) {
        if path.starts_with(&unsafe_home) {
            continue;
        }
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let found = code
            .clone()
            .any(|line| ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| line.contains(word)));
        let is_this_list = path.ends_with("tests/structure.rs");
        // Counting allocations needs an allocator, and an allocator is unsafe; only tests and benches have one.
        assert!(!found || is_this_list, "unsafe in {}", path.display());
    }
    for package in ours(&metadata()) {
        let manifest = fs::read_to_string(&package.manifest_path).expect("a manifest");
        let own_lints = short(&package.name) == "engine-uring";
        assert!(
            own_lints || manifest.contains("[lints]\nworkspace = true"),
            "{} has lints of its own",
            package.name
        );
    }
}

#[test]
fn every_dependency_has_one_version() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(value) = line.strip_prefix("name = ") {
            name = value.trim_matches('"');
        } else if let Some(value) = line.strip_prefix("version = ") {
            versions.entry(name).or_default().insert(value.trim_matches('"'));
        }
    }
    let expected: BTreeMap<_, _> = DUPLICATES.iter().copied().collect();
    let several: Vec<_> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    for (name, versions) in &several {
        assert!(
            expected.contains_key(*name),
            "{name} is there in versions {versions:?}: unify them, or give a reason"
        );
    }
    for (name, reason) in DUPLICATES {
        assert!(
            several.iter().any(|(known, _)| *known == name),
            "{name} is unique again: remove it ({reason})"
        );
    }
}

#[test]
fn versions_are_named_in_the_root_only() {
    for package in ours(&metadata()) {
        let manifest = fs::read_to_string(&package.manifest_path).expect("a manifest");
        let dependencies = manifest.split("\n[").filter(|table| table.contains("dependencies]"));
        for line in dependencies.flat_map(str::lines).filter(|line| line.contains('=')) {
            assert!(line.contains("workspace = true"), "{}: {line}", package.name);
        }
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            assert!(manifest.contains(&format!("{key}.workspace = true")), "{}: {key}", package.name);
        }
    }
}

#[test]
fn no_secret_and_no_foreign_path_is_in_the_documents() {
    for file in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "Dockerfile", "test"] {
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(!text.contains("/home/") && !text.contains("BEGIN PRIVATE"), "{file}");
    }
}

/// Links between the documents lead somewhere.
#[test]
fn documents_link_to_what_exists() {
    let mut documents: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    for folder in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder");
        documents.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    for document in documents {
        let text =
            fs::read_to_string(&document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let target = document.parent().expect("a folder").join(path);
            assert!(target.exists(), "{} links to {link}", document.display());
        }
    }
}

/// Whoever vouches for the gateway goes by the tests that docs/security.md names: each of them exists.
#[test]
fn every_test_that_the_security_document_names_exists() {
    let text = fs::read_to_string(root().join("docs/security.md")).expect("the document");
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let mut known = 0;
    // Every second piece stands between backticks.
    for name in text.split('`').skip(1).step_by(2) {
        let Some((module, test)) = name.split_once("::").filter(|(one, two)| is_name(one) && is_name(two))
        else {
            continue;
        };
        if (module, test) == ("module", "test") {
            continue;
        }
        let folder = if module.starts_with("sim_") { "tests/tests" } else { "tests/tests/product" };
        let path = root().join(folder).join(format!("{module}.rs"));
        let source =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {}: {error}", path.display()));
        assert!(source.contains(&format!("#[test]\nfn {test}() {{")), "{name} is no test");
        known += 1;
    }
    assert!(known >= 50, "the document names {known} tests");
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attempt")) {
        assert!(line.contains("::"), "a class without a test: {line}");
    }
}
