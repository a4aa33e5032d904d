//! The merged configuration as an operator sees it: values and the layer of each, never a secret. Knows no runtime type.

use figment::value::{Num, Value};
use serde_json::json;

use crate::istio::Imported;
use crate::layers::Layers;
use crate::spans::join;

/// Values with their layers, before they became a plan: JSON as text, a tenth of what it is as a tree. It is held for as
/// long as the plan is and read when somebody asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effective {
    /// Without spaces.
    json: Box<str>,
}

impl Effective {
    /// `file`, `values` (nested as in the file), `from` (key path → default, file, environment or flag),
    /// `service_entries` (each service of another file with its file and line).
    pub(crate) fn new(layers: &Layers, value: &Value) -> Self {
        let file = layers.document.as_ref().map(|document| &*document.name);
        let mut json = format!("{{\"file\":{},\"from\":{{", json!(file));
        let mut first = true;
        write_layers(layers, value, "", &mut first, &mut json);
        let entries: Vec<_> = layers.all_imported().iter().map(origin).collect();
        json.push_str(&format!("}},\"service_entries\":{},\"values\":", serde_json::Value::from(entries)));
        write_value(value, &mut json);
        json.push('}');
        Self { json: json.into_boxed_str() }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        // Invariant: it is JSON; the text of a default value is empty, and so is what becomes of it.
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    pub(crate) fn to_text(&self) -> String {
        indented(&self.json)
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
fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::String(_, text) => write_text(text, out),
        Value::Char(_, letter) => write_text(letter.encode_utf8(&mut [0; 4]), out),
        Value::Bool(_, flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Num(_, number) => out.push_str(&number_value(*number).to_string()),
        Value::Empty(..) => out.push_str("null"),
        Value::Array(_, items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write_value(item, out);
            }
            out.push(']');
        }
        Value::Dict(_, dict) => {
            out.push('{');
            for (index, (key, value)) in dict.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                if key == "password_file" {
                    out.push_str("\"password\":\"[redacted]\",");
                }
                write_text(key, out);
                out.push(':');
                write_value(value, out);
            }
            out.push('}');
        }
    }
}

fn write_text(text: &str, out: &mut String) {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&json!(text).to_string());
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
fn write_layers(layers: &Layers, value: &Value, path: &str, first: &mut bool, out: &mut String) {
    if let Value::Dict(_, dict) = value {
        for (key, value) in dict {
            write_layers(layers, value, &join(path, key), first, out);
        }
    } else {
        out.push_str(if std::mem::take(first) { "" } else { "," });
        let item = value.as_array().and_then(<[_]>::first).unwrap_or(value);
        write_text(path, out);
        out.push(':');
        write_text(layers.layer(item).as_str(), out);
    }
}

/// JSON without spaces, one value to a line and two spaces for each level. The tree that a library would make of it
/// first is many times as large, and a registry may be.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut inside_text, mut escaped) = (0, false, false);
    let mut characters = json.chars().peekable();
    while let Some(character) = characters.next() {
        if inside_text {
            out.push(character);
            inside_text = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        let line = |depth: usize, out: &mut String| {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        };
        match character {
            '{' | '[' => {
                out.push(character);
                if let Some(end) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(depth, &mut out);
                }
            }
            '}' | ']' => {
                // Invariant: in JSON every end has its beginning.
                depth = depth.saturating_sub(1);
                line(depth, &mut out);
                out.push(character);
            }
            ',' => {
                out.push(',');
                line(depth, &mut out);
            }
            ':' => out.push_str(": "),
            other => {
                inside_text = other == '"';
                out.push(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use figment::value::Tag;

    use super::*;

    #[test]
    fn text_is_indented_as_the_library_does_it() {
        for value in [
            json!({}),
            json!([]),
            json!(null),
            json!({ "a": [], "b": {}, "c": [1, -2.5, true, null, ["x"]], "d": { "e": { "f": "g" } } }),
            json!({ "quotes \" and \\": "a \"b\", [c]: {d}\\", "end\\": "\\\"", "umlaut ü": "\u{1} \n ☃" }),
        ] {
            assert_eq!(indented(&value.to_string()), format!("{value:#}"));
        }
    }

    #[test]
    fn values_are_written_as_the_library_writes_them() {
        let text = |text: &str| Value::from(text);
        for value in ["plain", "", "\"", "back\\slash", "tab\t", "ü ☃", "\u{7f}"] {
            let mut out = String::new();
            write_value(&text(value), &mut out);
            assert_eq!(out, json!(value).to_string());
        }
        let number = |number: i128| Value::Num(Tag::Default, Num::I128(number));
        let mut dict = figment::value::Dict::new();
        dict.insert("password_file".into(), text("f"));
        dict.insert("list".into(), Value::from(vec![number(1), number(-7)]));
        let mut out = String::new();
        write_value(&Value::from(dict), &mut out);
        let expected = json!({ "list": [1, -7], "password": "[redacted]", "password_file": "f" });
        assert_eq!(out, expected.to_string());
    }
}
