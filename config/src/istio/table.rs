//! A `[[service]]` made of a ServiceEntry: the one form that checking, compiling and the import into TOML start from, with
//! the place of every value in its YAML. Knows nothing of how it was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::spans::Place;

/// The keys of a `[[service]]`, in the order in which the import writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) hosts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) location: Option<&'static str>,
    pub(crate) resolution: &'static str,
    pub(crate) ports: Vec<PortTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) endpoints: Vec<EndpointTable>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PortTable {
    pub(crate) number: i64,
    pub(crate) name: String,
    pub(crate) protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_port: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct EndpointTable {
    pub(crate) address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<i64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) ports: BTreeMap<String, i64>,
}

/// A service with its places.
#[derive(Clone, Debug)]
pub(crate) struct Imported {
    pub(crate) table: Table,
    /// The file as the user named it.
    pub(crate) file: Arc<str>,
    /// Where the resource begins.
    pub(crate) place: Place,
    /// Key path in the table → where its value stands.
    pub(crate) places: Vec<(Box<str>, Place)>,
    /// How many of `addresses` come from the spec; the others come from the status.
    pub(crate) spec_addresses: usize,
}

impl Imported {
    /// The place of a key of the table, or of the nearest enclosing thing that stands in the file.
    pub(crate) fn place(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some((_, place)) = self.places.iter().find(|(known, _)| **known == *path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.place,
            }
        }
    }

    /// The key path in the resource for one in the table.
    pub(crate) fn key(&self, path: &str) -> String {
        let index = path.strip_prefix("addresses[").and_then(|rest| rest.split(']').next());
        let index: Option<usize> = index.and_then(|index| index.parse().ok());
        match (path, index) {
            ("", _) => String::new(),
            ("name" | "namespace", _) => format!("metadata.{path}"),
            (_, Some(index)) if index >= self.spec_addresses => {
                format!("status.addresses[{}].value", index - self.spec_addresses)
            }
            _ => format!("spec.{}", path.replace("target_port", "targetPort")),
        }
    }
}
