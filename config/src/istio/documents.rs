//! The resources of a YAML text: documents, lists, kinds and API versions. Knows nothing of what is in a ServiceEntry.

use super::entry;
use super::findings::{Findings, path};
use super::table::Imported;
use super::yaml::{self, Key, Node, Value};
use crate::limits::LISTS_DEPTH_MAX;
use crate::structure::shorten;
use crate::suggest;

/// The API group of Istio's networking resources.
const GROUP: &str = "networking.istio.io";
/// Its versions; a ServiceEntry means the same in each.
const VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
/// Its kinds beside ServiceEntry: what they say is not in force here. Any other kind is a slip, or a word that is not written
/// to its end.
const NOT_READ: &[&str] = &[
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "Sidecar",
    "WorkloadEntry",
    "WorkloadGroup",
    "EnvoyFilter",
    "ProxyConfig",
];
/// Files of kustomize stand beside resources, and are none: they have no name.
const KUSTOMIZE: &str = "kustomize.config.k8s.io";
const FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// Every ServiceEntry of a text.
pub(super) fn read(text: &str, findings: &mut Findings) -> Vec<Imported> {
    let mut found = Vec::new();
    let read = yaml::documents(text, &mut |node| {
        if !matches!(node.value, Value::Null) {
            resource(&node, &Within::default(), findings, &mut found);
        }
    });
    if let Err(error) = read {
        findings.error(error.place, "", error.message, error.suggestion.map(str::to_owned));
    }
    found
}

/// What an item of a typed list need not say itself.
#[derive(Clone, Copy)]
struct Inherited {
    api_version: &'static str,
    kind: &'static str,
}

/// Where a resource stands.
#[derive(Default)]
struct Within {
    /// The key path of the item that it is; empty for a document.
    path: String,
    inherited: Option<Inherited>,
    /// Lists around it.
    lists: usize,
}

fn resource(node: &Node, around: &Within, findings: &mut Findings, found: &mut Vec<Imported>) {
    let (within, inherited) = (around.path.as_str(), around.inherited);
    let Value::Mapping(fields) = &node.value else {
        let message = format!("expected a Kubernetes resource, found {}", node.describe());
        return findings.error(node.place, within, message, None);
    };
    let errors = findings.errors.len();
    let kind = word(fields, "kind", within, findings).or(inherited.map(|inherited| inherited.kind));
    let version =
        word(fields, "apiVersion", within, findings).or(inherited.map(|inherited| inherited.api_version));
    let (Some(kind), Some(version)) = (kind, version) else {
        if findings.errors.len() == errors {
            let missing = if kind.is_none() { "kind" } else { "apiVersion" };
            let remedy = "a ServiceEntry begins with apiVersion: networking.istio.io/v1, kind: ServiceEntry";
            let message = format!("`{missing}` is missing: this is no Kubernetes resource");
            findings.error(node.place, within, message, remedy.to_owned());
        }
        return;
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    match kind {
        "List" | "ServiceEntryList" if around.lists >= LISTS_DEPTH_MAX => {
            let message = format!("more than {LISTS_DEPTH_MAX} lists within one another");
            findings.error(node.place, within, message, "put the items into one list".to_owned());
        }
        "List" | "ServiceEntryList" => {
            let typed = (kind == "ServiceEntryList")
                .then_some(Inherited { api_version: "networking.istio.io/v1", kind: "ServiceEntry" });
            list(node, fields, around, typed, findings, found);
        }
        "ServiceEntry" if group == GROUP => {
            if !VERSIONS.contains(&version) {
                let message = format!("unknown version \"{}\" of {GROUP}", shorten(version));
                let at = place_of(fields, "apiVersion").unwrap_or(node);
                let remedy = format!("known are {}", VERSIONS.join(", "));
                return findings.error(at.place, &path(within, "apiVersion"), message, remedy);
            }
            for (key, _) in fields.iter().filter(|(key, _)| !FIELDS.contains(&&*key.text)) {
                findings.unknown(key, within, FIELDS);
            }
            found.extend(entry::translate(fields, node.place, findings));
        }
        other => not_read(node, fields, group, other, within, findings),
    }
}

/// A resource of another kind: a warning, if it is one and whole as far as can be seen.
fn not_read(
    node: &Node,
    fields: &[(Key, Node)],
    group: &str,
    kind: &str,
    within: &str,
    findings: &mut Findings,
) {
    let at = place_of(fields, "kind").unwrap_or(node);
    let of_istio = kind.strip_suffix("List").unwrap_or(kind);
    if group == GROUP && !NOT_READ.contains(&of_istio) {
        let known = || NOT_READ.iter().copied().chain(["ServiceEntry"]);
        let remedy = match suggest::nearest(kind, known()) {
            Some(near) => format!("did you mean {near}? is the file complete?"),
            None => format!("is the file complete? known are {}", known().collect::<Vec<_>>().join(", ")),
        };
        let message = format!("\"{}\" is no kind of {GROUP}", shorten(kind));
        return findings.error(at.place, &path(within, "kind"), message, remedy);
    }
    // A list has no name of its own.
    let nameless = kind.ends_with("List") || group == KUSTOMIZE;
    if !nameless && !has_name(fields) {
        let message = format!("the {} has no name", shorten(&kind_of(group, kind)));
        let remedy = "add metadata.name; is the file complete?".to_owned();
        return findings.error(node.place, &path(within, "metadata.name"), message, remedy);
    }
    let message = format!("{} is not read: only ServiceEntry of {GROUP} is", shorten(&kind_of(group, kind)));
    findings.warn(at.place, "kind", message, None);
}

fn has_name(fields: &[(Key, Node)]) -> bool {
    let Some(Node { value: Value::Mapping(metadata), .. }) = place_of(fields, "metadata") else {
        return false;
    };
    let is_set = |node: &Node| matches!(&node.value, Value::Scalar { text, .. } if !text.trim().is_empty());
    // A name that the API server makes up counts.
    ["name", "generateName"].into_iter().any(|key| place_of(metadata, key).is_some_and(is_set))
}

fn kind_of(group: &str, kind: &str) -> String {
    if group.is_empty() || group == GROUP { kind.to_owned() } else { format!("{kind} of {group}") }
}

fn list(
    node: &Node,
    fields: &[(Key, Node)],
    around: &Within,
    inherited: Option<Inherited>,
    findings: &mut Findings,
    found: &mut Vec<Imported>,
) {
    let within = around.path.as_str();
    // An empty list says so; without the key the file may have been cut before it.
    if place_of(fields, "items").is_none() {
        let remedy = "is the file complete? an empty list has items: []".to_owned();
        findings.error(node.place, &path(within, "items"), "the list has no items", remedy);
    }
    for (key, node) in fields {
        match &*key.text {
            "apiVersion" | "kind" => {}
            "items" => {
                let items = path(within, "items");
                for (index, item) in findings.list(node, &items).iter().enumerate() {
                    let around =
                        Within { path: format!("{items}[{index}]"), inherited, lists: around.lists + 1 };
                    resource(item, &around, findings, found);
                }
            }
            "metadata" => findings.warn(key.place, "metadata", "the list's own metadata are ignored", None),
            _ => findings.unknown(key, within, &["apiVersion", "kind", "metadata", "items"]),
        }
    }
}

fn word<'n>(fields: &'n [(Key, Node)], name: &str, within: &str, findings: &mut Findings) -> Option<&'n str> {
    findings.text(place_of(fields, name)?, &path(within, name))
}

fn place_of<'n>(fields: &'n [(Key, Node)], name: &str) -> Option<&'n Node> {
    fields.iter().find(|(key, _)| &*key.text == name).map(|(_, node)| node)
}
