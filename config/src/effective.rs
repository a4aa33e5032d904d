//! The merged configuration as an operator sees it: values and the layer of each, never a secret. Knows no runtime type.

use figment::value::{Num, Value};
use serde_json::{Map, json};

use crate::istio::Imported;
use crate::layers::Layers;
use crate::spans::join;

/// Values with their layers, before they became a plan: JSON as text, a tenth of what it is as a tree. It is held for as
/// long as the plan is and read when somebody asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effective {
    json: Box<str>,
}

impl Effective {
    pub(crate) fn new(layers: &Layers, value: &Value) -> Self {
        let file = layers.document.as_ref().map(|document| document.name.to_string());
        let mut origins = Map::new();
        collect_layers(layers, value, "", &mut origins);
        let entries: Vec<_> = layers.all_imported().iter().map(origin).collect();
        let whole =
            json!({ "file": file, "values": values(value), "from": origins, "service_entries": entries });
        Self { json: whole.to_string().into_boxed_str() }
    }

    /// `file`, `values` (nested as in the file), `from` (key path → default, file, environment or flag),
    /// `service_entries` (each service of another file with its file and line).
    pub(crate) fn to_json(&self) -> serde_json::Value {
        // Invariant: it was written by the same library; a default value is empty.
        serde_json::from_str(&self.json).unwrap_or_default()
    }
}

fn origin(service: &Imported) -> serde_json::Value {
    let table = &service.table;
    json!({
        "service": format!("{}/{}", table.namespace, table.name),
        "from": format!("{}:{}", service.file, service.place.line),
    })
}

/// Secrets are never part of the values, only the files that hold them; a place for each says so.
fn values(value: &Value) -> serde_json::Value {
    match value {
        Value::String(_, text) => json!(text),
        Value::Char(_, letter) => json!(letter),
        Value::Bool(_, flag) => json!(flag),
        Value::Num(_, number) => number_value(*number),
        Value::Empty(..) => json!(null),
        Value::Array(_, items) => items.iter().map(values).collect(),
        Value::Dict(_, dict) => {
            let mut map: Map<_, _> = dict.iter().map(|(key, value)| (key.clone(), values(value))).collect();
            if map.contains_key("password_file") {
                map.insert("password".to_owned(), json!("[redacted]"));
            }
            serde_json::Value::Object(map)
        }
    }
}

fn number_value(number: Num) -> serde_json::Value {
    match number {
        Num::F32(number) => json!(number),
        Num::F64(number) => json!(number),
        // Invariant: after the checks every whole number fits its range, and no range exceeds 64 bits.
        other => json!(other.to_i128().and_then(|number| i64::try_from(number).ok())),
    }
}

/// One entry per key; a list counts as one value, since a layer replaces it as a whole.
fn collect_layers(layers: &Layers, value: &Value, path: &str, out: &mut Map<String, serde_json::Value>) {
    if let Value::Dict(_, dict) = value {
        for (key, value) in dict {
            collect_layers(layers, value, &join(path, key), out);
        }
    } else {
        let first = value.as_array().and_then(<[_]>::first).unwrap_or(value);
        out.insert(path.to_owned(), json!(layers.layer(first).as_str()));
    }
}
