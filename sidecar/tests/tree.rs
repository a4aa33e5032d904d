//! The sidecar links no io_uring: neither the engine of that name nor a crate that could make the system call.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Everything that is linked into this package: normal dependencies of normal dependencies, as resolved for Linux.
fn linked(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let names: HashMap<&PackageId, String> =
        metadata.packages.iter().map(|package| (&package.id, package.name.to_string())).collect();
    let nodes: HashMap<_, _> =
        metadata.resolve.as_ref().unwrap().nodes.iter().map(|node| (&node.id, node)).collect();
    let mut waiting: Vec<&PackageId> =
        names.iter().filter(|(_, name)| *name == package).map(|(id, _)| *id).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if found.insert(names[id].clone()) {
            let normal = nodes[id].deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
            });
            waiting.extend(normal.map(|dependency| &dependency.pkg));
        }
    }
    found
}

#[test]
fn no_io_uring_is_linked() {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), platform])
        .exec()
        .unwrap();
    let forbidden = ["io-uring", "tokio-uring", "sluice-engine-uring", "sluice-logfile", "sluice-gateway"];
    let sidecar = linked(&metadata, "sluice-sidecar");
    assert!(sidecar.contains("sluice-dataplane") && sidecar.contains("sluice-engine-epoll"), "{sidecar:?}");
    for name in forbidden {
        assert!(!sidecar.contains(name), "the sidecar links {name}");
    }
    // The question is asked rightly: the gateway has them.
    let gateway = linked(&metadata, "sluice-gateway");
    assert!(gateway.contains("io-uring") && gateway.contains("tokio-uring"), "{gateway:?}");
}
