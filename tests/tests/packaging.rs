//! What the Dockerfile and the systemd units say agrees with the sources, and systemd finds no fault with the units. Whether the
//! image runs is in `product/packaging.rs`.

use std::fs;
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand};
use sluice_tests::harness::container::{Image, instructions, repository};
use sluice_tests::harness::tools;

/// Where everything that installs the configuration puts it.
const CONFIGURATION: &str = "/etc/sluice/sluice.toml";

/// systemd's own measure of a sandbox, times ten: 100 is none at all, the unit had 17 when this was written.
const EXPOSURE_MAX: &str = "20";

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.current_dir(repository()).no_deps().other_options(["--locked".to_owned()]);
    command.exec().expect("cargo metadata")
}

fn file(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The only word after `flag` in `words`.
fn after<'a>(words: &'a [&str], flag: &str) -> &'a str {
    let at = words.iter().position(|word| *word == flag);
    at.and_then(|at| words.get(at + 1)).unwrap_or_else(|| panic!("no {flag} in {words:?}"))
}

fn of(keyword: &str) -> Vec<String> {
    let found = instructions().into_iter().filter(|(name, _)| name == keyword).map(|(_, rest)| rest);
    found.collect()
}

#[test]
fn the_image_is_built_with_our_rust_from_our_package() {
    let metadata = metadata();
    let stages = of("FROM");
    assert_eq!(stages.len(), 2, "{stages:?}");
    let tag = stages[0].split([':', ' ']).nth(1).expect("a tag");
    let (rust, release) = tag.split_once('-').expect("VERSION-RELEASE");
    let package = metadata.packages.iter().find(|package| package.name.as_str() == "sluice-gateway");
    let wanted = package.and_then(|package| package.rust_version.clone()).expect("a rust-version");
    assert_eq!(rust, format!("{}.{}", wanted.major, wanted.minor), "rust-version in Cargo.toml");
    // A binary from a newer release asks for symbols that the older C library has not.
    assert_eq!((release, stages[1].as_str()), ("bookworm", "docker.io/library/debian:12-slim"));

    let build = of("RUN").into_iter().find(|run| run.starts_with("cargo build")).expect("a build");
    let words: Vec<&str> = build.split(' ').collect();
    let (package, binary) = (after(&words, "--package"), after(&words, "--bin"));
    assert!(words.contains(&"--locked") && words.contains(&"--release"), "{build}");
    let built = metadata.packages.iter().find(|known| known.name.as_str() == package).expect("that package");
    assert!(built.targets.iter().any(|target| target.is_bin() && target.name == binary), "{build}");

    let image = Image::read();
    let workdir = of("WORKDIR").remove(0);
    let copied = format!("--from=build {workdir}/target/release/{binary} {}", image.entrypoint[0]);
    assert!(of("COPY").contains(&copied), "{copied:?} in {:?}", of("COPY"));
    assert!(image.user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{}", image.user);
}

#[test]
fn what_the_image_copies_is_there_and_not_ignored() {
    let ignored = file(".dockerignore");
    let patterns: Vec<&str> =
        ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    // Without these, gigabytes and the history are sent, and every commit builds anew.
    for heavy in ["**/target", ".git"] {
        assert!(patterns.contains(&heavy), "{heavy} is sent to the builder");
    }
    // A pattern is a path from the top, or `**/` and a name that may stand anywhere.
    let kept = |path: &str| {
        !patterns.iter().any(|pattern| match pattern.strip_prefix("**/") {
            Some(name) => path.split('/').any(|part| part == name),
            None => path == *pattern || path.starts_with(&format!("{pattern}/")),
        })
    };
    let workdir = of("WORKDIR").remove(0);
    for copy in of("COPY") {
        let Some(rest) = copy.strip_prefix("--from=build ") else { continue };
        let source = rest.split(' ').next().and_then(|path| path.strip_prefix(&format!("{workdir}/")));
        let source = source.unwrap_or_else(|| panic!("{copy}: not below {workdir}"));
        if !source.starts_with("target/") {
            assert!(repository().join(source).is_file(), "{source} does not exist");
            assert!(kept(source), "{source} is not sent to the builder");
        }
    }
    // Cargo reads the manifest of every member, also of those that it does not build.
    let root = repository().canonicalize().expect("the workspace");
    for package in metadata().packages {
        let folder = package.manifest_path.parent().expect("a folder").as_std_path();
        let folder =
            folder.strip_prefix(&root).expect("a member below the root").to_string_lossy().into_owned();
        assert!(kept(&folder), "{folder} is a member and not sent to the builder");
    }
    assert!(kept("Cargo.lock") && kept("Cargo.toml"));
}

fn units() -> Vec<String> {
    let entries = fs::read_dir(repository().join("systemd")).expect("the units");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".service")).collect();
    names.sort();
    assert!(names.contains(&"sluice.service".to_owned()), "{names:?}");
    names
}

/// The values of a key in a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_unit_starts_what_is_installed_and_waits_for_the_drain() {
    let unit = file("systemd/sluice.service");
    let program = &Image::read().entrypoint[0];
    let starts = values(&unit, "ExecStart");
    assert_eq!(starts, [format!("{program} run --config {CONFIGURATION}")]);
    let own = ["ExecStartPre", "ExecReload"].into_iter().flat_map(|key| values(&unit, key));
    for line in own.filter(|line| line.contains("sluice")) {
        assert_eq!(line, format!("{program} check --config {CONFIGURATION}"));
    }
    let documented = file("docs/configuration.md");
    let section = documented.split("### `limits.drain_timeout_ms`").nth(1).expect("the key's section");
    let default = section.split("drain_timeout_ms = ").nth(1).expect("its example is its default");
    let drain_ms: u64 = default.split('`').next().and_then(|text| text.parse().ok()).expect("milliseconds");
    let stop_s: u64 = values(&unit, "TimeoutStopSec")[0].parse().expect("seconds");
    assert!(stop_s * 1000 > drain_ms, "systemd kills after {stop_s} s what may drain for {drain_ms} ms");
}

fn systemd_analyze(arguments: &[&str]) -> tools::Done {
    // Bounded: `verify` asks nobody, but it is not ours.
    let mut command = Command::new("timeout");
    tools::tool(command.args(["60", "systemd-analyze"]).args(arguments), b"")
}

#[test]
fn systemd_knows_every_line_of_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in units() {
        let unit = file(&format!("systemd/{name}"));
        // The check wants the program to exist; any will do.
        let program = format!("/usr/local/bin/{}", name.trim_end_matches(".service"));
        let path = folder.path().join(&name);
        let verify = |unit: &str| {
            fs::write(&path, unit.replace(&program, "/bin/true")).expect("written");
            // What else is wrong with the machine's units is not ours.
            systemd_analyze(&["verify", "--man=no", "--recursive-errors=no", &path.to_string_lossy()])
        };
        let done = verify(&unit);
        let complaints: Vec<&str> = done.stderr.lines().filter(|line| line.contains(&name)).collect();
        assert!(done.code == 0 && complaints.is_empty(), "{done:?}");
        // It does look: a misspelt line is one that systemd ignores, and the sandbox has a hole.
        let misspelt = verify(&unit.replace("ProtectClock=", "ProtectClok="));
        assert!(misspelt.stderr.contains("ProtectClok"), "{misspelt:?}");
    }
}

#[test]
fn the_sandbox_of_the_units_stays_tight() {
    for name in units() {
        let path = repository().join("systemd").join(&name);
        let path = path.to_string_lossy();
        let limits =
            ["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE_MAX}"), &path];
        let done = systemd_analyze(&limits);
        assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
        assert!(done.stdout.contains("Overall exposure level"), "{done:?}");
    }
}
