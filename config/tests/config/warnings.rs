//! What is accepted and probably not meant.

use sluice_config::{Source, load};
use sluice_policy::UnixSeconds;

use crate::common::{accepted, load_text};

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
fn a_warning_names_the_entry_that_it_is_about() {
    let text = "mode = \"registry_only\"\n[guard]\nallow = [\"10.0.0.0/33\", \"0.0.0.0/0\"]\n";
    let warnings = load_text(text).unwrap_err().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    let place = (warnings[0].key.as_str(), warnings[0].line, warnings[0].column);
    assert_eq!(place, ("guard.allow[1]", 3, 25), "{}", warnings[0]);
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

#[test]
fn services_that_overlap_are_named_with_both_places() {
    let text = format!(
        "{SERVICE}[[service]]\nname = \"b\"\nhosts = [\"a.example\"]\nallow = [{{ namespace = \"x\" }}]\n"
    );
    let found = warnings(&text);
    assert!(!found.is_empty() && found[0].contains("a.example port 80 (and 1 more)"), "{found:#?}");
    assert!(found[0].contains("sluice.toml:2:1") && found[0].contains("sluice.toml:5"), "{found:#?}");
}

#[test]
fn addresses_that_the_guard_refuses_all_the_same_are_named() {
    let service = |rest: &str| format!("mode = \"registry_only\"\n[[service]]\nname = \"a\"\n{rest}\n");
    only(&service("addresses = [\"169.0.0.0/8\"]"), "169.254.0.0/16");
    let own = warnings(&service(
        "hosts = [\"a.example\"]\nports = [{ number = 15000 }]\nendpoints = [{ address = \"127.0.0.1\" }]",
    ));
    assert!(own.iter().all(|text| text.contains("127.0.0.1:15000")) && !own.is_empty(), "{own:#?}");
    assert_eq!(warnings(&service("addresses = [\"10.1.2.3\"]")), Vec::<String>::new());
}

#[test]
fn a_service_without_hosts_needs_a_door() {
    let service = "[[service]]\nname = \"db\"\nresolution = \"STATIC\"\nports = [{ number = 5432 }]\nendpoints = [{ address = \"192.0.2.1\" }]\n";
    only(&format!("mode = \"registry_only\"\n{service}"), "nothing can reach this service");
    let door = "[[listener]]\nkind = \"tcp\"\nbind = \"127.0.0.1:1\"\nservice = \"db\"\n";
    assert_eq!(warnings(&format!("mode = \"registry_only\"\n{door}{service}")), Vec::<String>::new());
}
