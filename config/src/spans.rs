//! A TOML file with the place of every key and value. Knows TOML and key paths, not what any key means.

use std::sync::Arc;

use figment::value::{Dict, Empty, Num, Tag, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::structure::shorten;

/// A parsed file that can still say where everything stands.
pub(crate) struct Document {
    /// The file's name as messages show it.
    pub(crate) name: Arc<str>,
    text: String,
    line_starts: Vec<usize>,
    spots: Spot,
}

/// A place in a file; 0, 0 where the place is not in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// What to point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Key,
    Value,
}

/// A syntax error, with the place where it was noticed.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// Where one value starts, and what is in it.
#[derive(Default)]
struct Spot {
    start: usize,
    inner: Inner,
}

#[derive(Default)]
enum Inner {
    #[default]
    Leaf,
    Array(Box<[Spot]>),
    /// By name.
    Table(Box<[KeySpot]>),
}

/// Where one key of a table starts, and its value.
struct KeySpot {
    name: Box<str>,
    start: usize,
    value: Spot,
}

impl Document {
    /// Parses a file into the places of its values and the values themselves, for the layers.
    pub(crate) fn parse(name: Arc<str>, text: String) -> Result<(Self, Dict), SyntaxError> {
        let line_starts = line_starts(&text);
        let (spots, dict) = match DeTable::parse(&text) {
            Ok(whole) => {
                let (inner, dict) = table(whole.into_inner());
                (Spot { start: 0, inner }, dict)
            }
            Err(error) => {
                let span = error.span().unwrap_or(text.len()..text.len());
                let mut message = one_line(error.message());
                if message == "duplicate key" {
                    // The parser says which only by its place.
                    let key = text.get(span.clone()).unwrap_or_default().trim_matches(['"', '\'']);
                    message = format!("`{}` is written twice", shorten(key));
                }
                return Err(SyntaxError { place: place(&text, &line_starts, span.start), message });
            }
        };
        Ok((Self { name, text, line_starts, spots }, dict))
    }

    /// Whether this key stands at the top of the file.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.spots.inner.key(name).is_some()
    }

    /// The place of `path` (`service[0].hosts[1]`), or of the nearest enclosing thing that is in the file.
    pub(crate) fn place(&self, path: &str, part: Part) -> Place {
        let mut spot = &self.spots;
        let mut start = 0;
        for step in steps(path) {
            let next = match (&spot.inner, step) {
                (inner @ Inner::Table(_), Step::Name(name)) => inner.key(name).map(|key| {
                    start = if part == Part::Key { key.start } else { key.value.start };
                    &key.value
                }),
                (Inner::Array(items), Step::Index(index)) => {
                    items.get(index).inspect(|item| start = item.start)
                }
                _ => None,
            };
            let Some(next) = next else { break };
            spot = next;
        }
        place(&self.text, &self.line_starts, start)
    }
}

impl Inner {
    /// What stands under this name, if this is a table.
    fn key(&self, name: &str) -> Option<&KeySpot> {
        let Self::Table(keys) = self else { return None };
        keys.binary_search_by(|key| (*key.name).cmp(name)).ok().map(|at| &keys[at])
    }
}

enum Step<'p> {
    Name(&'p str),
    Index(usize),
}

/// `a.b[2].c` → a, b, 2, c; a quoted name keeps its dots.
fn steps(path: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            steps.push(Step::Name(&quoted[..end]));
            rest = quoted.get(end + 1..).unwrap_or("");
        } else if let Some(index) = rest.strip_prefix('[') {
            let end = index.find(']').unwrap_or(index.len());
            steps.extend(index[..end].parse().ok().map(Step::Index));
            rest = index.get(end + 1..).unwrap_or("");
        } else if let Some(name) = rest.strip_prefix('.') {
            rest = name;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            steps.push(Step::Name(&rest[..end]));
            rest = &rest[end..];
        }
    }
    steps
}

/// `path` with one more name, quoted where it is not a bare word.
pub(crate) fn join(path: &str, name: &str) -> String {
    let bare = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let quote = if bare { "" } else { "\"" };
    let dot = if path.is_empty() { "" } else { "." };
    format!("{path}{dot}{quote}{name}{quote}")
}

/// Takes a table apart: where everything stands, and what it is. One pass, so that a large file is never there thrice.
fn table(table: DeTable<'_>) -> (Inner, Dict) {
    let mut spots = Vec::with_capacity(table.len());
    let mut dict = Dict::new();
    for (key, value) in table {
        let start = key.span().start;
        let (value_spot, value) = value_with_spot(value);
        spots.push(KeySpot { name: key.get_ref().as_ref().into(), start, value: value_spot });
        dict.insert(key.into_inner().into_owned(), value);
    }
    spots.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    (Inner::Table(spots.into_boxed_slice()), dict)
}

fn value_with_spot(value: Spanned<DeValue<'_>>) -> (Spot, Value) {
    let start = value.span().start;
    let (inner, value) = match value.into_inner() {
        DeValue::Array(items) => {
            let (spots, values): (Vec<Spot>, Vec<Value>) = items.into_iter().map(value_with_spot).unzip();
            (Inner::Array(spots.into_boxed_slice()), Value::Array(Tag::Default, values))
        }
        DeValue::Table(inner) => {
            let (spots, dict) = table(inner);
            (spots, Value::Dict(Tag::Default, dict))
        }
        plain => (Inner::Leaf, plain_value(plain)),
    };
    (Spot { start, inner }, value)
}

/// A TOML value without others in it as a layer's value. A date becomes its text; a number beyond 128 bits becomes
/// infinite (and is refused by every range).
fn plain_value(value: DeValue<'_>) -> Value {
    let tag = Tag::Default;
    match value {
        DeValue::String(text) => Value::String(tag, text.into_owned()),
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix());
            Value::Num(tag, number.map_or(Num::F64(f64::INFINITY), Num::I128))
        }
        DeValue::Float(number) => Value::Num(tag, Num::F64(number.as_str().parse().unwrap_or(f64::NAN))),
        DeValue::Boolean(flag) => Value::Bool(tag, flag),
        DeValue::Datetime(time) => Value::String(tag, time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => Value::Empty(tag, Empty::Unit),
    }
}

/// A single TOML value (not a document): for defaults, environment and flags.
pub(crate) fn parse_value(text: &str) -> Option<Value> {
    DeValue::parse(text).ok().map(|value| value_with_spot(value).1)
}

fn line_starts(text: &str) -> Vec<usize> {
    let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    core::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect()
}

fn place(text: &str, line_starts: &[usize], offset: usize) -> Place {
    let offset = offset.min(text.len());
    let line = line_starts.partition_point(|start| *start <= offset).max(1);
    let start = line_starts[line - 1]; // invariant: line is between 1 and the number of lines
    let column = text.get(start..offset).map_or(offset - start, |before| before.chars().count()) + 1;
    Place { line: saturate(line), column: saturate(column) }
}

fn saturate(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "mode = \"x\"\n\n[[service]]\nname = \"é\"; \n";

    fn document(text: &str) -> Document {
        Document::parse("t.toml".into(), text.to_owned()).unwrap().0
    }

    #[test]
    fn places_count_characters_from_one() {
        let document = document(
            "mode = \"é\" # x\n[[service]]\nname='a'\nports = [{ number = 1 }, { number = 2 }]\n[a]\nb = 1\n",
        );
        let at = |path, part| {
            let place = document.place(path, part);
            (place.line, place.column)
        };
        assert_eq!(at("mode", Part::Key), (1, 1));
        assert_eq!(at("mode", Part::Value), (1, 8));
        assert_eq!(at("service[0].name", Part::Value), (3, 6));
        assert_eq!(at("service[0].ports[1].number", Part::Key), (4, 28));
        assert_eq!(at("service[0].ports[1].missing", Part::Key), (4, 26));
        assert_eq!(at("a.b", Part::Value), (6, 5));
        assert_eq!(at("service[0]", Part::Value).0, 2);
        assert_eq!(at("service[0].gone", Part::Value).0, 2);
    }

    #[test]
    fn a_syntax_error_has_its_place() {
        let Err(error) = Document::parse("t.toml".into(), TEXT.to_owned()) else { panic!("parsed") };
        assert_eq!((error.place.line, error.place.column), (4, 11), "{}", error.message);
    }

    #[test]
    fn quoted_names_keep_their_dots() {
        let document = document("[a]\n\"b.c\" = 1\n");
        assert_eq!(document.place(&join("a", "b.c"), Part::Key).line, 2);
    }
}
