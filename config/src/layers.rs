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
/// The key of the registry's tables.
const SERVICE: &str = "service";

/// What the merged values came from.
pub(crate) struct Layers {
    pub(crate) document: Option<Document>,
    /// Knows the layer of each value by its tag.
    figment: Figment,
    /// Key path → flag as typed.
    flags: BTreeMap<String, String>,
    /// The services from elsewhere: they follow the `[[service]]` tables of the file.
    imported: Vec<Imported>,
    /// The index of the first of them among all services.
    first_imported: usize,
}

/// Where a value comes from, in the order in which the layers cover each other.
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
    /// Merges a file with its values and the other layers; what cannot be placed at all becomes a problem.
    pub(crate) fn merge(
        file: Option<(Document, Dict)>,
        environment: &[(OsString, OsString)],
        overrides: &[Override],
        problems: &mut Vec<Problem>,
    ) -> (Self, Value) {
        let mut defaults = section_defaults(&schema::ROOT, "");
        if file.is_none() {
            // Only where there is no file at all: a truncated one must not open the gate.
            defaults.insert("mode".into(), Value::from("allow_any"));
        }
        let (document, file) = file.unzip();
        let mut layers = [
            (Layer::Default, defaults),
            (Layer::File, file.unwrap_or_default()),
            (Layer::Environment, environment_dict(environment, problems)),
            (Layer::Flag, flags_dict(overrides, problems)),
        ];
        let mut repeated: Vec<Dict> = layers.iter_mut().map(|(_, dict)| take_repeated(dict)).collect();
        let figment =
            layers.into_iter().fold(Figment::new(), |all, (layer, dict)| all.merge(Named(layer, dict)));
        // Invariant: our providers never fail, and the empty path is the whole.
        let mut value = figment.find_value("").unwrap_or_else(|_| Value::from(Dict::new()));
        let flags = overrides.iter().map(|each| (each.key.clone(), each.flag.clone())).collect();
        let layers = Self { document, figment, flags, imported: Vec::new(), first_imported: 0 };
        if let Value::Dict(_, merged) = &mut value {
            layers.put_back(&mut repeated, merged);
        }
        (layers, value)
    }

    /// Puts each list of tables where figment has kept its place, with the tag that the place was given.
    fn put_back(&self, repeated: &mut [Dict], merged: &mut Dict) {
        for (name, place) in merged {
            let tag = place.tag();
            let list = repeated.get_mut(self.layer(place) as usize).and_then(|lists| lists.remove(name));
            if let Some(mut list) = list {
                retag(&mut list, tag);
                *place = list;
            }
        }
    }

    /// Adds services that stand in other files, after those of this configuration.
    pub(crate) fn import(&mut self, value: &mut Value, services: Vec<Imported>) {
        let Value::Dict(_, merged) = value else { return };
        if services.is_empty() {
            return;
        }
        // A place in a layer of their own, for its tag.
        let place = Dict::from([(SERVICE.to_owned(), Value::from(Vec::<Value>::new()))]);
        self.figment = std::mem::take(&mut self.figment).merge(Named(Layer::Entries, place));
        let place = self.figment.find_value(SERVICE).unwrap_or_else(|_| Value::from(Vec::<Value>::new()));
        let tag = place.tag();
        // What is no list is reported with the structure; nothing may be hidden behind other services.
        let Value::Array(_, tables) = merged.entry(SERVICE.to_owned()).or_insert(place) else { return };
        self.first_imported = tables.len();
        tables.extend(services.iter().map(|service| {
            // Invariant: texts, numbers, lists and maps of them are values.
            let mut table = Value::serialize(&service.table).unwrap_or_else(|_| Value::from(Dict::new()));
            retag(&mut table, tag);
            table
        }));
        self.imported = services;
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

/// Takes the lists of tables out of a layer and leaves an empty one for each. There may be a hundred thousand services;
/// figment copies what it merges several times over, and all it has to say of a list is which layer's it is.
fn take_repeated(layer: &mut Dict) -> Dict {
    let mut taken = Dict::new();
    for (name, value) in layer {
        let repeats = schema::ROOT.key(name).is_some_and(|key| matches!(key.kind, Kind::Tables(_)));
        if repeats && matches!(value, Value::Array(..)) {
            taken.insert(name.clone(), std::mem::replace(value, Value::Array(Tag::Default, Vec::new())));
        }
    }
    taken
}

/// Gives a value and all that is in it one tag, as figment does.
fn retag(value: &mut Value, new: Tag) {
    match value {
        Value::String(tag, _)
        | Value::Char(tag, _)
        | Value::Bool(tag, _)
        | Value::Num(tag, _)
        | Value::Empty(tag, _) => *tag = new,
        Value::Dict(tag, dict) => {
            *tag = new;
            dict.values_mut().for_each(|value| retag(value, new));
        }
        Value::Array(tag, items) => {
            *tag = new;
            items.iter_mut().for_each(|value| retag(value, new));
        }
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
        let remedy =
            nearest.map_or_else(|| known_there(path), |known| format!("did you mean `{}`?", written(&known)));
        return Err(("no such key".to_owned(), Some(remedy)));
    };
    let first = path.split('.').next().unwrap_or(path);
    let repeated = schema::ROOT.key(first).is_some_and(|key| matches!(key.kind, Kind::Tables(_)));
    if repeated || matches!(key.kind, Kind::Table(_) | Kind::Tables(_) | Kind::Map(_)) {
        let message = "tables cannot be set from the environment or by flags";
        return Err((message.to_owned(), Some(format!("write `{first}` in the configuration file"))));
    }
    Ok(key)
}

/// The keys of the section that a path leads to, as far as it leads to one.
fn known_there(path: &str) -> String {
    let (mut section, mut known) = (&schema::ROOT, String::new());
    for name in path.split('.') {
        match section.key(name).map(|key| &key.kind) {
            Some(Kind::Table(inner)) => (section, known) = (inner, spans::join(&known, name)),
            Some(Kind::Tables(_) | Kind::Map(_)) => {
                return format!("write `{name}` in the configuration file");
            }
            _ => break,
        }
    }
    let available = |name: &&str| unavailable::refused(&spans::join(&known, name), None).is_none();
    let names: Vec<&str> = section.keys.iter().map(|key| key.name).filter(available).collect();
    let names = names.join(", ");
    if known.is_empty() { format!("known: {names}") } else { format!("known in `{known}`: {names}") }
}

/// Within a section that exists, the nearest key; else the nearest path, or the one that ends in the very name: a right
/// section alone makes no likeness.
fn nearest_path(path: &str, known: &[String]) -> Option<String> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let siblings: Vec<&str> = known
        .iter()
        .filter_map(|known| known.rsplit_once('.'))
        .filter(|(of, _)| *of == section)
        .map(|(_, name)| name)
        .collect();
    if siblings.is_empty() {
        let same_name = || known.iter().find(|known| known.rsplit('.').next() == Some(name));
        let near = suggest::nearest(path, known.iter().map(String::as_str)).map(str::to_owned);
        return near.or_else(|| same_name().cloned());
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
