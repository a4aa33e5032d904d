//! The resources of a YAML text: documents, lists, kinds and API versions. Knows nothing of what is in a ServiceEntry.

use super::entry;
use super::findings::{Findings, path};
use super::table::Imported;
use super::yaml::{self, Key, Node, Value};
use crate::structure::shorten;

/// The API group of Istio's networking resources.
const GROUP: &str = "networking.istio.io";
/// Its versions; a ServiceEntry means the same in each.
const VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// Every ServiceEntry of a text.
pub(super) fn read(text: &str, findings: &mut Findings) -> Vec<Imported> {
    let mut found = Vec::new();
    let read = yaml::documents(text, &mut |node| {
        if !matches!(node.value, Value::Null) {
            resource(&node, "", None, findings, &mut found);
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

fn resource(
    node: &Node,
    within: &str,
    inherited: Option<Inherited>,
    findings: &mut Findings,
    found: &mut Vec<Imported>,
) {
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
        "List" | "ServiceEntryList" if within.is_empty() => {
            let typed = (kind == "ServiceEntryList")
                .then_some(Inherited { api_version: "networking.istio.io/v1", kind: "ServiceEntry" });
            list(fields, typed, findings, found);
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
        other => {
            let at = place_of(fields, "kind").unwrap_or(node);
            let message =
                format!("{} is not read: only ServiceEntry of {GROUP} is", shorten(&kind_of(group, other)));
            findings.warn(at.place, "kind", message, None);
        }
    }
}

fn kind_of(group: &str, kind: &str) -> String {
    if group.is_empty() || group == GROUP { kind.to_owned() } else { format!("{kind} of {group}") }
}

fn list(
    fields: &[(Key, Node)],
    inherited: Option<Inherited>,
    findings: &mut Findings,
    found: &mut Vec<Imported>,
) {
    for (key, node) in fields {
        match &*key.text {
            "apiVersion" | "kind" => {}
            "items" => {
                for (index, item) in findings.list(node, "items").iter().enumerate() {
                    resource(item, &format!("items[{index}]"), inherited, findings, found);
                }
            }
            "metadata" => findings.warn(key.place, "metadata", "the list's own metadata are ignored", None),
            _ => findings.unknown(key, "", &["apiVersion", "kind", "metadata", "items"]),
        }
    }
}

fn word<'n>(fields: &'n [(Key, Node)], name: &str, within: &str, findings: &mut Findings) -> Option<&'n str> {
    findings.text(place_of(fields, name)?, &path(within, name))
}

fn place_of<'n>(fields: &'n [(Key, Node)], name: &str) -> Option<&'n Node> {
    fields.iter().find(|(key, _)| &*key.text == name).map(|(_, node)| node)
}
