//! Defaults ← file ← environment ← flags, merged by figment so that every value still knows its layer. Knows the types
//! that the schema gives to keys, so that text from outside becomes the right kind of value; checks nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use figment::value::{Dict, Map, Num, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use crate::istio::Imported;
use crate::problem::Problem;
use crate::schema::{self, Key, Kind, Presence, Section};
use crate::source::Override;
use crate::spans::{self, Document, Part};
use crate::{suggest, unavailable};

/// The prefix of environment keys; `__` again separates sections.
const PREFIX: &str = "SLUICE__";

/// The merged values.
pub(crate) struct Layers {
    pub(crate) value: Value,
    pub(crate) document: Option<Document>,
    figment: Figment,
    /// Key path → flag as typed.
    flags: BTreeMap<String, String>,
    /// The services from elsewhere: they follow the `[[service]]` tables of the file.
    imported: Vec<Imported>,
    /// The index of the first of them among all services.
    first_imported: usize,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Default,
    File,
    Environment,
    Flag,
    /// A file that `registry.service_entries` names.
    Entries,
}

impl Layer {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
            Self::Entries => "service_entries",
        }
    }
}

/// One layer's values under its name.
struct Named(Layer, Dict);

impl Provider for Named {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.as_str())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.1.clone()))
    }
}

impl Layers {
    /// Merges; what cannot be placed at all becomes a problem.
    pub(crate) fn merge(
        document: Option<Document>,
        environment: &[(OsString, OsString)],
        overrides: &[Override],
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut defaults = section_defaults(&schema::ROOT, "");
        if document.is_none() {
            // Only where there is no file at all: a truncated one must not open the gate.
            defaults.insert("mode".into(), Value::from("allow_any"));
        }
        let file = document.as_ref().map(|document| document.dict().clone()).unwrap_or_default();
        let figment = Figment::new()
            .merge(Named(Layer::Default, defaults))
            .merge(Named(Layer::File, file))
            .merge(Named(Layer::Environment, environment_dict(environment, problems)))
            .merge(Named(Layer::Flag, flags_dict(overrides, problems)));
        // Invariant: our providers never fail, and the empty path is the whole.
        let value = figment.find_value("").unwrap_or_else(|_| Value::from(Dict::new()));
        let flags = overrides.iter().map(|each| (each.key.clone(), each.flag.clone())).collect();
        Self { value, document, figment, flags, imported: Vec::new(), first_imported: 0 }
    }

    /// Adds services that stand in other files, after those of this configuration.
    pub(crate) fn import(&mut self, services: Vec<Imported>) {
        let first = match self.value.find_ref("service") {
            None => 0,
            Some(Value::Array(_, tables)) => tables.len(),
            // Reported with the structure; nothing may be hidden behind other services.
            Some(_) => return,
        };
        if services.is_empty() {
            return;
        }
        // Invariant: texts, numbers, lists and maps of them are values.
        let value = |service: &Imported| {
            Value::serialize(&service.table).unwrap_or_else(|_| Value::from(Dict::new()))
        };
        let tables: Vec<Value> = services.iter().map(value).collect();
        let dict = Dict::from([("service".to_owned(), Value::from(tables))]);
        self.figment = std::mem::take(&mut self.figment).admerge(Named(Layer::Entries, dict));
        self.value = self.figment.find_value("").unwrap_or_else(|_| Value::from(Dict::new()));
        self.imported = services;
        self.first_imported = first;
    }

    /// The imported service that a path leads to, and the rest of the path.
    fn imported<'p>(&self, path: &'p str) -> Option<(&Imported, &'p str)> {
        let (index, rest) = path.strip_prefix("service[")?.split_once(']')?;
        let index = index.parse::<usize>().ok()?.checked_sub(self.first_imported)?;
        Some((self.imported.get(index)?, rest.strip_prefix('.').unwrap_or(rest)))
    }

    /// Every imported service.
    pub(crate) fn all_imported(&self) -> &[Imported] {
        &self.imported
    }

    /// Whether this path leads into an imported service.
    pub(crate) fn is_imported(&self, path: &str) -> bool {
        self.imported(path).is_some()
    }

    /// The layer that set this value.
    pub(crate) fn layer(&self, value: &Value) -> Layer {
        match self.figment.get_metadata(value.tag()).map(|metadata| metadata.name.as_ref()) {
            Some("file") => Layer::File,
            Some("environment") => Layer::Environment,
            Some("flag") => Layer::Flag,
            Some("service_entries") => Layer::Entries,
            _ => Layer::Default,
        }
    }

    /// A problem at a path; `value` says which layer is to blame (none: the file, if there is one).
    pub(crate) fn problem(
        &self,
        path: &str,
        part: Part,
        value: Option<&Value>,
        message: impl Into<String>,
        suggestion: Option<String>,
    ) -> Problem {
        if let Some((service, rest)) = self.imported(path) {
            let spans::Place { line, column } = service.place(rest);
            let (file, key) = (Arc::clone(&service.file), service.key(rest));
            return Problem { file, line, column, key, message: message.into(), suggestion };
        }
        let layer = value.map_or(Layer::File, |value| self.layer(value));
        let mut place = spans::Place::default();
        let file: Arc<str> = match (layer, &self.document) {
            (Layer::Environment, _) => format!("environment variable {}", variable(path)).into(),
            (Layer::Flag, _) => {
                // A flag may set a whole list or table.
                let whole = path.split('[').next().unwrap_or(path);
                let flag = self.flags.get(path).or_else(|| self.flags.get(whole));
                format!("command line {}", flag.map_or("", String::as_str)).trim_end().into()
            }
            (_, Some(document)) => {
                place = document.place(path, part);
                Arc::clone(&document.name)
            }
            (_, None) => "defaults".into(),
        };
        let (line, column) = (place.line, place.column);
        Problem { file, line, column, key: path.to_owned(), message: message.into(), suggestion }
    }
}

/// The defaults of a section's own keys and of the tables in it; `path` is the section's, without indices.
pub(crate) fn section_defaults(section: &Section, path: &str) -> Dict {
    let mut dict = Dict::new();
    for key in section.keys {
        let path = spans::join(path, key.name);
        let value = match (&key.presence, &key.kind) {
            _ if unavailable::refused(&path, None).is_some() => None,
            (Presence::Default(text), _) => spans::parse_value(text),
            (_, Kind::Table(inner)) => {
                Some(section_defaults(inner, &path)).filter(|inner| !inner.is_empty()).map(Value::from)
            }
            _ => None,
        };
        if let Some(value) = value {
            dict.insert(key.name.to_owned(), value);
        }
    }
    dict
}

fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.split('[').next().unwrap_or(path).to_ascii_uppercase().replace('.', "__"))
}

fn environment_dict(environment: &[(OsString, OsString)], problems: &mut Vec<Problem>) -> Dict {
    let mut dict = Dict::new();
    for (name, text) in environment {
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let path = rest.to_ascii_lowercase().replace("__", ".");
        let mut refuse = |message: String, suggestion: Option<String>| {
            let file = format!("environment variable {}", name.to_string_lossy()).into();
            problems.push(Problem { file, line: 0, column: 0, key: path.clone(), message, suggestion });
        };
        if path == "mode" {
            let remedy = "write `mode` in the configuration file".to_owned();
            refuse("the mode is never read from the environment".to_owned(), Some(remedy));
            continue;
        }
        match (outside_key(&path, variable), text.to_str()) {
            (Err((message, suggestion)), _) => refuse(message, suggestion),
            (Ok(_), None) => refuse("the value is not UTF-8".to_owned(), None),
            (Ok(key), Some(text)) => insert(&mut dict, &path, typed(&key.kind, text)),
        }
    }
    dict
}

fn flags_dict(overrides: &[Override], problems: &mut Vec<Problem>) -> Dict {
    let mut dict = Dict::new();
    for Override { flag, key: path, value } in overrides {
        if let Some(tables) = whole_tables(path, value) {
            insert(&mut dict, path, tables);
            continue;
        }
        match outside_key(path, str::to_owned) {
            Ok(key) => insert(&mut dict, path, typed(&key.kind, value)),
            Err((message, suggestion)) => {
                let file = format!("command line {flag}").into();
                problems.push(Problem { file, line: 0, column: 0, key: path.clone(), message, suggestion });
            }
        }
    }
    dict
}

/// A flag may replace all tables of one kind by a TOML array: `listener` by `[{ kind = "tls", bind = "…" }]`.
fn whole_tables(path: &str, text: &str) -> Option<Value> {
    let key = schema::find(path)?;
    let whole = matches!(key.kind, Kind::Tables(_)) && text.trim_start().starts_with('[');
    spans::parse_value(text).filter(|_| whole)
}

/// The key that environment or a flag may set at this path; `written` is how a path is written there.
fn outside_key(
    path: &str,
    written: impl Fn(&str) -> String,
) -> Result<&'static Key, (String, Option<String>)> {
    let Some(key) = schema::find(path) else {
        let nearest = nearest_path(path, &settable_paths());
        return Err((
            "no such key".to_owned(),
            nearest.map(|known| format!("did you mean `{}`?", written(&known))),
        ));
    };
    let first = path.split('.').next().unwrap_or(path);
    let repeated = schema::ROOT.key(first).is_some_and(|key| matches!(key.kind, Kind::Tables(_)));
    if repeated || matches!(key.kind, Kind::Table(_) | Kind::Tables(_) | Kind::Map(_)) {
        let message = "tables cannot be set from the environment or by flags";
        return Err((message.to_owned(), Some(format!("write `{first}` in the configuration file"))));
    }
    Ok(key)
}

/// Within a section that exists, the nearest key; else the nearest path: a right section alone makes no likeness.
fn nearest_path(path: &str, known: &[String]) -> Option<String> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let siblings: Vec<&str> = known
        .iter()
        .filter_map(|known| known.rsplit_once('.'))
        .filter(|(of, _)| *of == section)
        .map(|(_, name)| name)
        .collect();
    if siblings.is_empty() {
        return suggest::nearest(path, known.iter().map(String::as_str)).map(str::to_owned);
    }
    suggest::nearest(name, siblings).map(|name| spans::join(section, name))
}

/// Every path that is one value and stands once.
fn settable_paths() -> Vec<String> {
    fn collect(section: &Section, path: &str, out: &mut Vec<String>) {
        for key in section.keys {
            let path = spans::join(path, key.name);
            match &key.kind {
                Kind::Table(inner) => collect(inner, &path, out),
                Kind::Tables(_) | Kind::Map(_) => {}
                _ => out.push(path),
            }
        }
    }
    let mut out = Vec::new();
    collect(&schema::ROOT, "", &mut out);
    out
}

/// Text as the kind of value that the key wants; where it does not fit it stays text, and the schema's check says so.
fn typed(kind: &Kind, text: &str) -> Value {
    let plain = || Value::from(text);
    match kind {
        Kind::Bool => text.parse::<bool>().map_or_else(|_| plain(), Value::from),
        Kind::Integer { .. } => text
            .parse::<i128>()
            .map_or_else(|_| plain(), |number| Value::Num(Tag::Default, Num::I128(number))),
        Kind::List(_) if text.trim_start().starts_with('[') => spans::parse_value(text).unwrap_or_else(plain),
        Kind::List(item) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::from(parts.map(|part| typed(item, part)).collect::<Vec<_>>())
        }
        _ => plain(),
    }
}

fn insert(dict: &mut Dict, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        dict.insert(path.to_owned(), value);
        return;
    };
    let inner = dict.entry(first.to_owned()).or_insert_with(|| Value::from(Dict::new()));
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}

/// The value of one environment variable, if it is set.
pub(crate) fn environment_value<'e>(
    environment: &'e [(OsString, OsString)],
    name: &str,
) -> Option<&'e OsStr> {
    environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
}
