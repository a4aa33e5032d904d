//! Errors and warnings about one file of Istio resources, each with its place. What is said of many places alike is one
//! warning that names them. Knows nothing of what is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::yaml::{Key, Node, Value, is_not_text};
use crate::limits::{LINES_NAMED_MAX, PROBLEMS_MAX};
use crate::problem::Problem;
use crate::spans::Place;
use crate::structure::shorten;
use crate::suggest;

/// What was found in one file.
pub(super) struct Findings {
    pub(super) file: Arc<str>,
    pub(super) errors: Vec<Problem>,
    /// By key path and message.
    warnings: BTreeMap<(String, String), Warned>,
}

struct Warned {
    first: Place,
    suggestion: Option<String>,
    /// Lines of the further places, the first few.
    more: Vec<u32>,
    count: usize,
}

impl Findings {
    pub(super) fn new(file: Arc<str>) -> Self {
        Self { file, errors: Vec::new(), warnings: BTreeMap::new() }
    }

    pub(super) fn error(
        &mut self,
        place: Place,
        key: &str,
        message: impl Into<String>,
        suggestion: impl Into<Option<String>>,
    ) {
        if self.errors.len() < PROBLEMS_MAX {
            let problem = self.problem(place, key, message.into(), suggestion.into());
            self.errors.push(problem);
        }
    }

    /// A warning about every place with this key and message; so the key has no indices, the message no names.
    pub(super) fn warn(
        &mut self,
        place: Place,
        key: &str,
        message: impl Into<String>,
        suggestion: impl Into<Option<String>>,
    ) {
        let fresh = || Warned { first: place, suggestion: suggestion.into(), more: Vec::new(), count: 0 };
        let warned = self.warnings.entry((key.to_owned(), message.into())).or_insert_with(fresh);
        if warned.count > 0 && warned.more.len() < LINES_NAMED_MAX {
            warned.more.push(place.line);
        }
        warned.count += 1;
    }

    /// Errors and warnings, in the words for a person.
    pub(super) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        let warnings = std::mem::take(&mut self.warnings);
        let said = |((key, message), warned): ((String, String), Warned)| {
            let message = message + &further(&warned);
            self.problem(warned.first, &key, message, warned.suggestion)
        };
        let warnings = warnings.into_iter().map(said).collect();
        (self.errors, warnings)
    }

    fn problem(&self, place: Place, key: &str, message: String, suggestion: Option<String>) -> Problem {
        let (line, column) = (place.line, place.column);
        Problem { file: Arc::clone(&self.file), line, column, key: key.to_owned(), message, suggestion }
    }
}

/// Where else: some lines, and how many places more.
fn further(warned: &Warned) -> String {
    if warned.more.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = warned.more.iter().map(ToString::to_string).collect();
    let unnamed = warned.count - 1 - warned.more.len();
    let rest = if unnamed == 0 { String::new() } else { format!(" and {unnamed} more") };
    let word = if lines.len() == 1 { "line" } else { "lines" };
    format!(" (also {word} {}{rest})", lines.join(", "))
}

/// Typed reading: what has another type is an error and reads as absent, as `null` does.
impl Findings {
    pub(super) fn mapping<'n>(&mut self, node: &'n Node, key: &str) -> &'n [(Key, Node)] {
        match &node.value {
            Value::Mapping(entries) => entries,
            Value::Null => &[],
            _ => {
                self.error(node.place, key, format!("expected a mapping, found {}", node.describe()), None);
                &[]
            }
        }
    }

    pub(super) fn list<'n>(&mut self, node: &'n Node, key: &str) -> &'n [Node] {
        match &node.value {
            Value::Sequence(items) => items,
            Value::Null => &[],
            _ => {
                let remedy = "write it as a list: one line with `- ` per item".to_owned();
                self.error(node.place, key, format!("expected a list, found {}", node.describe()), remedy);
                &[]
            }
        }
    }

    /// Absent where it is empty, as everywhere in Istio's resources.
    pub(super) fn text<'n>(&mut self, node: &'n Node, key: &str) -> Option<&'n str> {
        match &node.value {
            Value::Null => None,
            Value::Scalar { text, plain } if !*plain || !is_not_text(text) => {
                if text.chars().any(char::is_control) {
                    let message = format!("\"{}\" contains a control character", shorten(text));
                    self.error(node.place, key, message, None);
                    return None;
                }
                Some(text.trim()).filter(|text| !text.is_empty())
            }
            Value::Scalar { text, .. } => {
                let remedy = format!("quote it: \"{}\"", shorten(text));
                self.error(node.place, key, format!("expected a text, found {}", node.describe()), remedy);
                None
            }
            _ => {
                self.error(node.place, key, format!("expected a text, found {}", node.describe()), None);
                None
            }
        }
    }

    pub(super) fn number(&mut self, node: &Node, key: &str) -> Option<i64> {
        let digits = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let canonical = digits == "0" || !digits.starts_with('0');
            canonical && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let remedy = match &node.value {
            Value::Null => return None,
            Value::Scalar { text, plain: true } if digits(text) => match text.parse() {
                Ok(number) => return Some(number),
                Err(_) => None,
            },
            Value::Scalar { text, plain: false } if digits(text) => {
                Some(format!("without quotes: {}", shorten(text)))
            }
            _ => None,
        };
        self.error(node.place, key, format!("expected a whole number, found {}", node.describe()), remedy);
        None
    }

    /// A key that nobody knows: it may have been meant to restrict something, so it is never passed over.
    pub(super) fn unknown(&mut self, key: &Key, within: &str, known: &[&str]) {
        let near = suggest::nearest(&key.text, known.iter().copied());
        let remedy = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        let message = format!("unknown field `{}`", shorten(&key.text));
        self.error(key.place, &path(within, &key.text), message, remedy);
    }
}

/// The path of a field within another.
pub(super) fn path(within: &str, name: &str) -> String {
    let dot = if within.is_empty() { "" } else { "." };
    format!("{within}{dot}{}", shorten(name))
}
