//! What a reload would change.

use sluice_config::{Diff, diff};

use crate::common::accepted;

const BASE: &str = "mode = \"registry_only\"\n[[listener]]\nkind = \"http_proxy\"\nbind = \"127.0.0.1:1\"\n\
    [[listener]]\nkind = \"tls\"\nbind = \"127.0.0.1:2\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\"]\n";

fn between(old: &str, new: &str) -> Diff {
    diff(&accepted(old).plan, &accepted(new).plan)
}

#[test]
fn equal_texts_differ_in_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let load = || crate::common::load_in(folder.path(), BASE).unwrap().plan;
    assert!(diff(&load(), &load()).is_empty());
}

#[test]
fn doors_are_known_by_their_address() {
    let moved = BASE
        .replace("127.0.0.1:2", "127.0.0.1:3")
        .replace("bind = \"127.0.0.1:1\"", "bind = \"127.0.0.1:1\"\nname = \"p\"");
    let found = between(BASE, &moved);
    assert_eq!(found.doors_added.iter().map(|door| door.bind.port()).collect::<Vec<_>>(), [3]);
    assert_eq!(found.doors_removed.iter().map(|bind| bind.port()).collect::<Vec<_>>(), [2]);
    assert_eq!(found.doors_changed.iter().map(|door| &*door.name).collect::<Vec<_>>(), ["p"]);
    assert_eq!(found.needs_restart, Vec::<&str>::new());
    // The order in the file says nothing.
    let swapped = "mode = \"registry_only\"\n[[listener]]\nkind = \"tls\"\nbind = \"127.0.0.1:2\"\n[[listener]]\nkind = \"http_proxy\"\n\
        bind = \"127.0.0.1:1\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\"]\n";
    let found = between(BASE, swapped);
    assert!(found.doors_added.is_empty() && found.doors_removed.is_empty() && found.doors_changed.is_empty());
}

#[test]
fn each_part_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let load = |text: &str| crate::common::load_in(folder.path(), text).unwrap().plan;
    let base = load(BASE);
    let with = |more: &str| diff(&base, &load(&format!("{BASE}{more}")));
    let nothing = Diff::default();
    assert_eq!(with("[limits]\nconnect_timeout_ms = 100\n"), Diff { limits: true, ..nothing.clone() });
    assert_eq!(with("[dns]\nttl_max_s = 100\n"), Diff { dns: true, ..nothing.clone() });
    assert_eq!(with("[deny]\ncontact = \"x\"\n"), Diff { deny: true, ..nothing.clone() });
    assert_eq!(with("[access_log]\nformat = \"json\"\n"), Diff { access_log: true, ..nothing.clone() });
    assert_eq!(with("[guard]\nallow = [\"10.0.0.0/8\"]\n"), Diff { policy: true, ..nothing.clone() });
    assert_eq!(with("owner = \"x\"\n"), Diff { policy: true, ..nothing.clone() });
    let found =
        with("[telemetry]\nhost_labels = \"istio\"\n[telemetry.prometheus]\nbind = \"127.0.0.1:9\"\n");
    assert!(found.telemetry && found.prometheus);
    assert_eq!(found.needs_restart, ["telemetry.host_labels"]);
    let found = with("[dataplane]\nengine = \"epoll\"\ncores = [1]\n[admin]\nbind = \"127.0.0.1:15001\"\n");
    assert_eq!(found.needs_restart, ["dataplane.engine", "dataplane.cores", "admin.bind"]);
    let loosened = diff(&base, &load(&BASE.replace("registry_only", "allow_any")));
    assert_eq!(loosened, Diff { policy: true, ..nothing });
}

#[test]
fn a_hosts_file_with_other_names_is_another_policy() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{BASE}hosts_file = \"hosts\"\n");
    let load = |hosts: &str| {
        std::fs::write(folder.path().join("hosts"), hosts).unwrap();
        crate::common::load_in(folder.path(), &text).unwrap().plan
    };
    let base = load("b.example\nc.example\n");
    assert!(diff(&base, &load("# the same\nB.example\nc.example")).is_empty());
    let policy = Diff { policy: true, ..Diff::default() };
    assert_eq!(diff(&base, &load("b.example\nd.example\n")), policy);
    assert_eq!(diff(&base, &load("b.example\n")), policy);
}
