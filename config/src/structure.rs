//! The first check: every key is known, available, of its type and in its range, and every required key is there.
//! Reads only the schema; what the values mean together is for `check`.

use std::collections::HashMap;

use figment::value::{Dict, Num, Value};

use crate::layers::{self, Layers};
use crate::limits::QUOTE_CHARS_MAX;
use crate::problem::Problem;
use crate::schema::{self, Key, Kind, Presence, Section};
use crate::spans::{Part, join};
use crate::{suggest, unavailable};

/// Checks the merged values and fills in the defaults of repeated tables.
pub(crate) fn check(layers: &Layers, value: &mut Value, problems: &mut Vec<Problem>) {
    let mut walk = Walk { layers, problems, defaults: HashMap::new() };
    walk.section(value, &schema::ROOT, &Path::root());
    if layers.document.as_ref().is_some_and(|document| !document.has("mode")) {
        walk.missing(&Path::root(), "mode", MODE_REMEDY);
    }
}

const MODE_REMEDY: &str = "write mode = \"registry_only\" or mode = \"allow_any\" above the first [table]";

struct Walk<'w> {
    layers: &'w Layers,
    problems: &'w mut Vec<Problem>,
    /// Of the repeated tables met so far, by schema path.
    defaults: HashMap<String, Dict>,
}

/// The path of a value with indices, and the same in the schema without.
struct Path {
    full: String,
    schema: String,
}

impl Path {
    fn root() -> Self {
        Self { full: String::new(), schema: String::new() }
    }

    fn key(&self, name: &str) -> Self {
        Self { full: join(&self.full, name), schema: join(&self.schema, name) }
    }

    fn index(&self, index: usize) -> Self {
        Self { full: format!("{}[{index}]", self.full), schema: self.schema.clone() }
    }
}

impl Walk<'_> {
    fn say(&mut self, path: &Path, part: Part, value: &Value, message: String, suggestion: Option<String>) {
        self.problems.push(self.layers.problem(&path.full, part, Some(value), message, suggestion));
    }

    fn missing(&mut self, path: &Path, name: &str, remedy: &str) {
        let place = if path.full.is_empty() { "the file".to_owned() } else { format!("`{}`", path.full) };
        let message = format!("`{name}` is missing: {place} must have it");
        self.problems.push(self.layers.problem(
            &path.full,
            Part::Key,
            None,
            message,
            Some(remedy.to_owned()),
        ));
    }

    fn section(&mut self, value: &mut Value, section: &'static Section, path: &Path) {
        let Value::Dict(_, dict) = value else {
            let text = format!("expected a table, found {}", describe(value));
            return self.say(path, Part::Value, value, text, None);
        };
        for (name, value) in dict.iter_mut() {
            let path = path.key(name);
            match section.key(name) {
                Some(key) => self.key(value, key, &path),
                None => {
                    let suggestion = unknown_remedy(name, section, &path);
                    let what = format!("unknown key `{}`", shorten(name));
                    self.say(&path, Part::Key, value, what, suggestion);
                }
            }
        }
        for key in section.keys {
            // The root's only required key is the mode: `check` wants it in the file itself.
            if matches!(key.presence, Presence::Required)
                && !path.full.is_empty()
                && !dict.contains_key(key.name)
            {
                self.missing(path, key.name, &format!("for example {} = {}", key.name, key.example));
            }
        }
    }

    fn key(&mut self, value: &mut Value, key: &'static Key, path: &Path) {
        let word = match value {
            Value::String(_, text) => Some(text.as_str()),
            Value::Bool(_, true) => Some("true"),
            _ => None,
        };
        let refusal = unavailable::refused(&path.schema, None)
            .or_else(|| word.and_then(|word| unavailable::refused(&path.schema, Some(word))));
        if let Some(refusal) = refusal {
            let what = refusal
                .value
                .map_or_else(|| format!("`{}`", key.name), |word| format!("`{} = {word}`", key.name));
            let suggestion = (!refusal.instead.is_empty()).then(|| refusal.instead.to_owned());
            let part = if refusal.value.is_some() { Part::Value } else { Part::Key };
            return self.say(
                path,
                part,
                value,
                format!("{what} is not available in this version"),
                suggestion,
            );
        }
        self.value(value, &key.kind, path);
    }

    fn value(&mut self, value: &mut Value, kind: &'static Kind, path: &Path) {
        match (kind, &mut *value) {
            (Kind::Bool, Value::Bool(..)) => {}
            (Kind::Integer { min, max, .. }, Value::Num(_, number)) => {
                let whole = whole(*number);
                if whole.is_none_or(|whole| whole < i128::from(*min) || whole > i128::from(*max)) {
                    self.wrong(path, value, kind, None);
                }
            }
            (Kind::Choice(words), Value::String(_, word)) => {
                if !words.iter().any(|(known, _)| known == word) {
                    let open = words.iter().map(|(word, _)| *word);
                    let open = open.filter(|word| unavailable::refused(&path.schema, Some(word)).is_none());
                    let suggestion = suggest::nearest(word, open)
                        .map(|near| format!("did you mean \"{near}\"?"))
                        .unwrap_or_else(|| format!("use {}", schema::available_words(&path.schema, words)));
                    let text = format!("unknown value \"{}\"", shorten(word));
                    self.say(path, Part::Value, value, text, Some(suggestion));
                }
            }
            (Kind::Text(_), Value::String(_, text)) => {
                let text = if text.trim().is_empty() {
                    "the value is empty"
                } else if text.chars().any(char::is_control) {
                    "the value contains a control character"
                } else {
                    return;
                };
                self.say(
                    path,
                    Part::Value,
                    value,
                    text.to_owned(),
                    Some(format!("write {}", kind.describe())),
                );
            }
            (Kind::List(item), Value::Array(_, items)) => {
                for (index, value) in items.iter_mut().enumerate() {
                    self.value(value, item, &path.index(index));
                }
            }
            (Kind::Map(item), Value::Dict(_, entries)) => {
                for (name, value) in entries.iter_mut() {
                    self.value(value, item, &path.key(name));
                }
            }
            (Kind::Table(section), _) => self.section(value, section, path),
            (Kind::Tables(section), Value::Array(_, items)) => {
                for (index, value) in items.iter_mut().enumerate() {
                    self.section(value, section, &path.index(index));
                    self.fill(value, section, &path.schema);
                }
            }
            _ => {
                let suggestion = type_remedy(kind, value, path);
                self.wrong(path, value, kind, suggestion);
            }
        }
    }

    /// Gives a repeated table the defaults that the layers cannot know of.
    fn fill(&mut self, value: &mut Value, section: &Section, path: &str) {
        let Value::Dict(_, dict) = value else { return };
        if !self.defaults.contains_key(path) {
            self.defaults.insert(path.to_owned(), layers::section_defaults(section, path));
        }
        for (name, default) in self.defaults.get(path).into_iter().flatten() {
            if !dict.contains_key(name) {
                dict.insert(name.clone(), default.clone());
            }
        }
    }

    fn wrong(&mut self, path: &Path, value: &Value, kind: &Kind, suggestion: Option<String>) {
        let text = format!("expected {}, found {}", kind.describe(), describe(value));
        self.say(path, Part::Value, value, text, suggestion);
    }
}

fn whole(number: Num) -> Option<i128> {
    match number {
        Num::I128(number) => Some(number),
        Num::F64(_) | Num::F32(_) => None,
        other => other.to_i128().or_else(|| other.to_u128().and_then(|number| i128::try_from(number).ok())),
    }
}

/// What to do about an unknown key: the nearest one here, or the place where this one belongs.
fn unknown_remedy(name: &str, section: &Section, path: &Path) -> Option<String> {
    if schema::ROOT.key(name).is_some() && path.full != name {
        let header = match schema::ROOT.key(name).map(|key| &key.kind) {
            Some(Kind::Tables(_)) => format!("write it as [[{name}]]"),
            Some(Kind::Table(_)) => format!("write it as [{name}]"),
            _ => "move it above the first [table]".to_owned(),
        };
        return Some(format!("`{name}` belongs to the top of the file: {header}"));
    }
    if let Some(near) = suggest::nearest(name, section.keys.iter().map(|key| key.name)) {
        return Some(format!("did you mean `{near}`?"));
    }
    let home = schema::ROOT.keys.iter().find_map(|key| match key.kind {
        Kind::Table(inner) => inner.key(name).map(|_| format!("[{}]", key.name)),
        Kind::Tables(inner) => inner.key(name).map(|_| format!("[[{}]]", key.name)),
        _ => None,
    });
    let known = || section.keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
    Some(
        home.map_or_else(
            || format!("known here: {}", known()),
            |home| format!("`{name}` is a key of {home}"),
        ),
    )
}

fn type_remedy(kind: &Kind, value: &Value, path: &Path) -> Option<String> {
    let name = path.schema.rsplit('.').next().unwrap_or_default();
    match (kind, value) {
        (Kind::Integer { .. } | Kind::Bool, Value::String(_, text)) => {
            let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
            if text.trim() == digits || matches!(text.trim(), "true" | "false") {
                return (!text.trim().is_empty())
                    .then(|| format!("without quotes: {name} = {}", text.trim()));
            }
            let Kind::Integer { unit, .. } = kind else { return None };
            (!digits.is_empty() && !unit.is_empty()).then(|| format!("write the bare number of {unit}"))
        }
        (Kind::List(_), Value::String(_, text)) => {
            Some(format!("in brackets: {name} = [\"{}\"]", shorten(text)))
        }
        (Kind::Tables(_), Value::Dict(..)) if !path.full.contains(['.', '[']) => {
            Some(format!("with double brackets: [[{name}]]"))
        }
        (Kind::Tables(_), Value::Dict(..)) => Some(format!("in brackets: {name} = [{{ … }}]")),
        (Kind::Choice(_) | Kind::Text(_), Value::Num(..) | Value::Bool(..)) => {
            Some("write it in quotes".to_owned())
        }
        _ => None,
    }
}

/// A found value in words.
fn describe(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("the string \"{}\"", shorten(text)),
        Value::Bool(_, flag) => format!("{flag}"),
        Value::Num(_, Num::F64(number)) => format!("the number {number}"),
        Value::Num(_, number) => {
            whole(*number).map_or_else(|| "a number".to_owned(), |number| number.to_string())
        }
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
        Value::Char(..) | Value::Empty(..) => "nothing".to_owned(),
    }
}

/// At most so much of a foreign text in one message, without control characters.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String =
        text.chars().take(QUOTE_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(QUOTE_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}
