//! What is accepted and probably not meant.

use sluice_config::{Source, load};
use sluice_policy::UnixSeconds;

use crate::common::accepted;

fn warnings(text: &str) -> Vec<String> {
    accepted(text).warnings.iter().map(ToString::to_string).collect()
}

fn only(text: &str, part: &str) {
    let found = warnings(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(part), "{found:#?}");
}

const SERVICE: &str = "mode = \"registry_only\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\"]\n";

#[test]
fn slips_that_still_run() {
    only(&SERVICE.replace("[\"a.example\"]", "[\"a.example\", \"A.example.\"]"), "named twice");
    only(&format!("{SERVICE}require_proof = \"certificate\"\n"), "no door of this version can prove");
    only("mode = \"registry_only\"\n[[workload]]\nname = \"w\"\n", "nothing identifies this workload");
    only("mode = \"registry_only\"\n[guard]\nallow = [\"0.0.0.0/0\"]\n", "as good as off");
    only(
        "mode = \"registry_only\"\n[[listener]]\nkind = \"http_proxy\"\nbind = \"127.0.0.1:1\"\nauth = \"optional\"\n",
        "no workload has credentials",
    );
}

#[test]
fn expired_rules_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sluice.toml");
    std::fs::write(&path, format!("{SERVICE}expires = \"2027-01-31T00:00:00Z\"\n")).unwrap();
    let at = |now: i64| {
        let source = Source { now: UnixSeconds(now), ..Source::isolated(Some(path.clone())) };
        load(&source).unwrap().warnings.len()
    };
    assert_eq!(at(1_801_353_599), 0);
    assert_eq!(at(1_801_353_600), 1);
}

#[test]
fn addresses_without_names_are_dialled_as_asked_for() {
    let plan =
        accepted("mode = \"registry_only\"\n[[service]]\nname = \"a\"\naddresses = [\"198.51.100.0/24\"]\n")
            .plan;
    assert_eq!(plan.policy_input.services[0].resolution, sluice_policy::Resolution::None);
}
