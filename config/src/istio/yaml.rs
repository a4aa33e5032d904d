//! YAML as a tree in which every key and value knows its place. Bounded: nesting, nodes, what aliases unfold to. Knows
//! nothing of what the keys mean.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag, options};

use crate::limits::{YAML_DEPTH_MAX, YAML_NODES_MAX};
use crate::spans::Place;
use crate::structure::shorten;

/// A value and where it starts.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `plain` where it stands without quotes and may mean a number or a truth value.
    Scalar {
        text: Box<str>,
        plain: bool,
    },
    Sequence(Vec<Node>),
    /// In the order of the file; no key stands twice.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: Box<str>,
}

/// What makes a text unreadable as a whole.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) suggestion: Option<&'static str>,
}

impl Node {
    /// The value in words, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, plain: true } if is_not_text(text) => format!("`{}`", shorten(text)),
            Value::Scalar { text, .. } => format!("the text \"{}\"", shorten(text)),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Whether a plain scalar is a number or a truth value for whoever reads it as YAML or JSON.
pub(super) fn is_not_text(text: &str) -> bool {
    let number = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.'))
            && text.parse::<f64>().is_ok()
    };
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE") || number(text)
}

/// Reads every document of a text and hands each to `take`.
///
/// # Errors
/// The first syntax error, duplicate key or exceeded bound; documents before it have been handed over.
pub(super) fn documents(text: &str, take: &mut dyn FnMut(Node)) -> Result<(), SyntaxError> {
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: YAML_DEPTH_MAX,
        block_nesting_limit: YAML_DEPTH_MAX,
    };
    let mut tree = Tree::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| SyntaxError {
            place: place(error.marker().line(), error.marker().col()),
            message: format!("not valid YAML: {}", error.info()),
            suggestion: Some("check the indentation and the quotes around here; is the file complete?"),
        })?;
        if let Some(document) = tree.event(event, &span)? {
            take(document);
        }
    }
    Ok(())
}

/// Puts events together.
#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    /// Complete anchored nodes of this document with the number of their nodes.
    anchors: HashMap<usize, (Node, usize)>,
    /// Nodes of the whole text so far, those that aliases repeat included.
    nodes: usize,
}

/// A collection that is not complete yet.
struct Open {
    place: Place,
    anchor: usize,
    /// Nodes before it.
    nodes: usize,
    inner: Inner,
}

enum Inner {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<(Key, Node)>, key: Option<Key> },
}

impl Tree {
    /// Takes one event; gives the document that it ends.
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<Option<Node>, SyntaxError> {
        let at = place(span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::DocumentEnd => return Ok(self.root.take()),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !is_text(tag.as_deref(), at)?;
                let before = self.nodes;
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Scalar { text: text.into(), plain },
                };
                self.complete(Node { place: at, value }, anchor, before)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                is_text(tag.as_deref(), at)?;
                self.open(at, anchor, Inner::Sequence(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                is_text(tag.as_deref(), at)?;
                self.open(at, anchor, Inner::Mapping { entries: Vec::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(id) => self.repeat(id, at)?,
            _ => {}
        }
        Ok(None)
    }

    fn open(&mut self, place: Place, anchor: usize, inner: Inner) -> Result<(), SyntaxError> {
        if let Some(Open { inner: Inner::Mapping { key: None, .. }, .. }) = self.open.last() {
            return Err(odd_key(place));
        }
        if self.open.len() >= YAML_DEPTH_MAX {
            let message = format!("more than {YAML_DEPTH_MAX} levels of nesting");
            return Err(SyntaxError { place, message, suggestion: None });
        }
        let nodes = self.nodes;
        self.open.push(Open { place, anchor, nodes, inner });
        Ok(())
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        // Invariant: the parser ends only what it has started.
        let Some(Open { place, anchor, nodes, inner }) = self.open.pop() else { return Ok(()) };
        let value = match inner {
            Inner::Sequence(items) => Value::Sequence(items),
            Inner::Mapping { entries, .. } => {
                no_key_twice(&entries)?;
                Value::Mapping(entries)
            }
        };
        self.complete(Node { place, value }, anchor, nodes)
    }

    /// An alias: the anchored node once more, if there is room for it.
    fn repeat(&mut self, id: usize, at: Place) -> Result<(), SyntaxError> {
        let Some((node, size)) = self.anchors.get(&id) else {
            let message = "an alias within the value that it names".to_owned();
            return Err(SyntaxError { place: at, message, suggestion: Some("write the value out") });
        };
        let before = self.nodes;
        self.nodes = self.nodes.saturating_add(*size - 1);
        if self.nodes > YAML_NODES_MAX {
            return Err(too_many(at));
        }
        let node = node.clone();
        self.complete(node, 0, before)
    }

    /// A complete value goes to where it belongs; `before` is the number of nodes before it and what is in it.
    fn complete(&mut self, node: Node, anchor: usize, before: usize) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if anchor != 0 {
            let size = self.nodes - before;
            self.nodes = self.nodes.saturating_add(size);
            if self.nodes <= YAML_NODES_MAX {
                self.anchors.insert(anchor, (node.clone(), size));
            }
        }
        if self.nodes > YAML_NODES_MAX {
            return Err(too_many(node.place));
        }
        match self.open.last_mut().map(|open| &mut open.inner) {
            None => self.root = Some(node),
            Some(Inner::Sequence(items)) => items.push(node),
            Some(Inner::Mapping { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let text = match node.value {
                        Value::Scalar { text, .. } => text,
                        Value::Null => "".into(),
                        Value::Sequence(_) | Value::Mapping(_) => return Err(odd_key(node.place)),
                    };
                    *key = Some(Key { place: node.place, text });
                }
            },
        }
        Ok(())
    }
}

/// Whether a tag says that the value is text, whatever it looks like.
fn is_text(tag: Option<&Tag>, at: Place) -> Result<bool, SyntaxError> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() => Ok(tag.is_yaml_core_schema_tag("str")),
        Some(tag) => Err(SyntaxError {
            place: at,
            message: format!("the tag {} has no meaning here", shorten(&tag.original())),
            suggestion: Some("remove it"),
        }),
    }
}

/// A YAML mapping must not name a key twice; which of the two would count depends on the reader.
fn no_key_twice(entries: &[(Key, Node)]) -> Result<(), SyntaxError> {
    let mut keys: Vec<&Key> = entries.iter().map(|(key, _)| key).collect();
    keys.sort_by_key(|key| (&key.text, key.place.line, key.place.column));
    let twice = keys.windows(2).find(|pair| pair[0].text == pair[1].text);
    let Some([first, second]) = twice else { return Ok(()) };
    Err(SyntaxError {
        place: second.place,
        message: format!(
            "the key `{}` is there already, at line {}",
            shorten(&second.text),
            first.place.line
        ),
        suggestion: Some("keep one of them"),
    })
}

fn odd_key(place: Place) -> SyntaxError {
    let message = "a key must be a word, not a list or a mapping".to_owned();
    SyntaxError { place, message, suggestion: None }
}

fn too_many(place: Place) -> SyntaxError {
    SyntaxError {
        place,
        message: format!("more than {YAML_NODES_MAX} values, what aliases repeat included"),
        suggestion: Some("split the file, or write aliases out"),
    }
}

/// The parser counts lines from 1 and columns from 0.
fn place(line: usize, column: usize) -> Place {
    let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
    Place { line: number(line.max(1)), column: number(column.saturating_add(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Node>, SyntaxError> {
        let mut found = Vec::new();
        documents(text, &mut |node| found.push(node))?;
        Ok(found)
    }

    fn at<'n>(node: &'n Node, key: &str) -> (&'n Key, &'n Node) {
        let Value::Mapping(entries) = &node.value else { panic!("{node:?}") };
        let (key, node) = entries.iter().find(|(known, _)| &*known.text == key).expect("the key");
        (key, node)
    }

    #[test]
    fn places_count_characters_from_one() {
        let found = all("é: [ x, ü, y ]\n---\n\nb:\n  c: 'd'\n").expect("valid");
        let (key, list) = at(&found[0], "é");
        assert_eq!((key.place, list.place), (Place { line: 1, column: 1 }, Place { line: 1, column: 4 }));
        let Value::Sequence(items) = &list.value else { panic!("{list:?}") };
        assert_eq!(items[2].place, Place { line: 1, column: 12 });
        let (_, inner) = at(&found[1], "b");
        let (key, value) = at(inner, "c");
        assert_eq!((key.place, value.place), (Place { line: 5, column: 3 }, Place { line: 5, column: 6 }));
    }

    #[test]
    fn quotes_and_tags_make_text() {
        let found = all("[80, '80', !!str 80, ~, '', \"null\"]").expect("valid");
        let Value::Sequence(items) = &found[0].value else { panic!("{found:?}") };
        let kinds: Vec<_> = items
            .iter()
            .map(|item| match &item.value {
                Value::Null => "null",
                Value::Scalar { plain: true, .. } => "plain",
                _ => "text",
            })
            .collect();
        assert_eq!(kinds, ["plain", "text", "text", "null", "text", "text"]);
    }

    #[test]
    fn aliases_repeat_and_do_not_explode() {
        let found = all("a: &x [1, 2]\nb: *x\n").expect("valid");
        let (_, list) = at(&found[0], "b");
        assert!(matches!(&list.value, Value::Sequence(items) if items.len() == 2));
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..30 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            laughs += &format!("a{level}: &a{level} [{inner}]\n");
        }
        let error = all(&laughs).expect_err("too many");
        assert!(error.message.contains("aliases"), "{}", error.message);
        assert!(all("a: &a [*a]\n").is_err(), "a value within itself");
        assert!(all("a: *b\n").is_err(), "an alias of nothing");
    }

    #[test]
    fn what_cannot_be_read_has_its_place() {
        for (text, line, column, said) in [
            ("a: 1\nb: 2\na: 3\n", 3, 1, "`a` is there already, at line 1"),
            ("a: {b: 1, b: 2}\n", 1, 11, "`b` is there already"),
            ("a:\n  - b: [1\nc: 2\n", 3, 2, "not valid YAML"),
            ("a: !odd x\n", 1, 9, "!odd"),
            ("? [a, b]\n: c\n", 1, 3, "a key must be a word"),
        ] {
            let error = all(text).expect_err(text);
            assert!(error.message.contains(said), "{text}: {}", error.message);
            assert_eq!((error.place.line, error.place.column), (line, column), "{text}: {}", error.message);
        }
        assert!(all(&"[".repeat(100_000)).is_err());
        assert!(all(&"- ".repeat(100_000)).is_err());
        assert!(all(&"{a: ".repeat(100_000)).is_err());
    }
}
