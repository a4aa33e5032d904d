//! The description of every key: one table that checking, defaults, environment and the reference are all read from.
//! Knows the shape of a configuration, not its meaning as a whole.

mod gateway;
mod registry;

use crate::unavailable;

pub(crate) use gateway::ROOT;

/// A table of keys.
pub(crate) struct Section {
    /// One paragraph for the reference.
    pub(crate) about: &'static str,
    /// In the order of the reference.
    pub(crate) keys: &'static [Key],
}

/// One key of a table.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) presence: Presence,
    /// What it means, in one or two sentences.
    pub(crate) about: &'static str,
    /// A value as TOML; empty for tables, whose keys have their own.
    pub(crate) example: &'static str,
}

/// Whether a key must be there, and what stands for it if not.
pub(crate) enum Presence {
    /// An error where it is missing.
    Required,
    /// The meaning of its absence, for the reference.
    Optional(&'static str),
    /// The value as TOML that the first layer holds.
    Default(&'static str),
}

/// What a value may be.
pub(crate) enum Kind {
    Bool,
    /// A whole number in a closed range.
    Integer {
        min: i64,
        max: i64,
        unit: &'static str,
    },
    /// One of a few words, each with its meaning.
    Choice(&'static [(&'static str, &'static str)]),
    /// A string; the words say of what kind, for messages and the reference.
    Text(&'static str),
    List(&'static Kind),
    /// A table whose keys are the user's own names.
    Map(&'static Kind),
    /// A table `[name]` or `{ … }`.
    Table(&'static Section),
    /// An array of tables `[[name]]` or `[{ … }]`.
    Tables(&'static Section),
}

impl Section {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Kind {
    /// The type in words, with its article: for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max, unit: "" } => {
                format!("a whole number from {min} to {max}")
            }
            Self::Integer { min, max, unit } => format!("a whole number of {unit} from {min} to {max}"),
            Self::Choice(words) => format!("one of {}", quoted_words(words)),
            Self::Text(what) => format!("a string: {what}"),
            Self::List(item) => match item {
                Self::Text(what) => format!("a list of strings, each {what}"),
                other => format!("a list, each item {}", other.describe()),
            },
            Self::Map(item) => format!("a table of names, each with {}", item.describe()),
            Self::Table(_) => "a table".to_owned(),
            Self::Tables(_) => "an array of tables".to_owned(),
        }
    }
}

/// `"a", "b" or "c"`, of the words that this version accepts at all.
pub(crate) fn quoted_words(words: &[(&str, &str)]) -> String {
    join_or(words.iter().map(|(word, _)| format!("\"{word}\"")).collect())
}

/// The allowed words of a key, without those that are not available yet.
pub(crate) fn available_words(path: &str, words: &[(&'static str, &'static str)]) -> String {
    let open = words.iter().filter(|(word, _)| unavailable::refused(path, Some(word)).is_none());
    join_or(open.map(|(word, _)| format!("\"{word}\"")).collect())
}

pub(crate) fn join_or(mut items: Vec<String>) -> String {
    match items.pop() {
        None => String::new(),
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} or {last}", items.join(", ")),
    }
}

/// The key at a path of names without indices, e.g. `telemetry.prometheus.bind`.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    let mut section = &ROOT;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let key = section.key(name)?;
        if names.peek().is_none() {
            return Some(key);
        }
        section = match key.kind {
            Kind::Table(inner) | Kind::Tables(inner) => inner,
            _ => return None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::parse_value;

    fn each(section: &'static Section, path: &str, visit: &mut dyn FnMut(&str, &'static Key)) {
        for key in section.keys {
            let path = crate::spans::join(path, key.name);
            visit(&path, key);
            if let Kind::Table(inner) | Kind::Tables(inner) = key.kind {
                each(inner, &path, visit);
            }
        }
    }

    #[test]
    fn every_key_explains_itself() {
        each(&ROOT, "", &mut |path, key| {
            let is_table = matches!(key.kind, Kind::Table(_) | Kind::Tables(_));
            assert!(is_table || (!key.about.is_empty() && !key.example.is_empty()), "{path}");
            assert!(key.example.is_empty() || parse_value(key.example).is_some(), "{path}: {}", key.example);
            if let Presence::Default(text) = key.presence {
                assert!(parse_value(text).is_some(), "{path}: {text}");
            }
        });
    }

    #[test]
    fn what_is_not_available_is_in_the_schema() {
        for entry in unavailable::TABLE {
            let key = find(entry.path).unwrap_or_else(|| panic!("{}", entry.path));
            let known = match (entry.value, &key.kind) {
                (None, _) | (Some("true"), Kind::Bool) => true,
                (Some(word), Kind::Choice(words)) => words.iter().any(|(known, _)| *known == word),
                _ => false,
            };
            assert!(known, "{} {:?}", entry.path, entry.value);
        }
    }
}
