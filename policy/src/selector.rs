//! Which sources a rule names. It must not know how an identity was proven beyond whether it was.

use alloc::boxed::Box;
use core::{fmt, str::FromStr};

use crate::{Identity, limits::PATTERN_BYTES_MAX};

/// A text in which `*` stands for any run of characters, also none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: Box<str>,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PatternError {
    /// An empty pattern would match nothing: leave the field out to match everything.
    #[error("is empty: leave the field out to name every source")]
    Empty,
    /// Above 2048 bytes.
    #[error("is longer than 2048 bytes")]
    TooLong,
}

impl Pattern {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether there is no `*` in it.
    pub fn is_exact(&self) -> bool {
        !self.text.contains('*')
    }

    /// Whether all of `text` fits. Time is bounded by the product of both lengths; no allocation.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.text.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // Where to go on after a mismatch: behind the last `*`, one byte of the text further than last time.
        let mut retry = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p + 1, t));
                    p += 1;
                }
                Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
                _ => {
                    let Some((behind_star, from)) = retry else { return false };
                    retry = Some((behind_star, from + 1));
                    (p, t) = (behind_star, from + 1);
                }
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        match text.len() {
            0 => Err(PatternError::Empty),
            1..=PATTERN_BYTES_MAX => Ok(Self { text: text.into() }),
            _ => Err(PatternError::TooLong),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// Names sources: all fields that are present must match. A selector without fields names every source, also
/// unproven ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// SPIFFE id.
    pub principal: Option<Pattern>,
    /// Kubernetes namespace.
    pub namespace: Option<Pattern>,
    /// Kubernetes service account.
    pub service_account: Option<Pattern>,
    /// Workload name.
    pub workload: Option<Pattern>,
    /// App label.
    pub app: Option<Pattern>,
}

impl Selector {
    /// The fields with their names, from the one that says most about a source to the one that says least.
    fn fields(&self) -> [(&'static str, Option<&Pattern>); 5] {
        [
            ("principal", self.principal.as_ref()),
            ("workload", self.workload.as_ref()),
            ("service_account", self.service_account.as_ref()),
            ("app", self.app.as_ref()),
            ("namespace", self.namespace.as_ref()),
        ]
    }

    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a source of this (proven) identity is named; `None` is a source without proof.
    ///
    /// A field that the identity lacks matches no pattern, not even `*`.
    pub fn matches(&self, identity: Option<&Identity>) -> bool {
        let Some(identity) = identity else { return self.is_empty() };
        let fits = |pattern: &Option<Pattern>, value: &Option<alloc::sync::Arc<str>>| match (pattern, value) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(value)) => pattern.matches(value),
        };
        fits(&self.principal, &identity.principal)
            && fits(&self.namespace, &identity.namespace)
            && fits(&self.service_account, &identity.service_account)
            && fits(&self.workload, &identity.workload)
            && fits(&self.app, &identity.app)
    }

    /// How much it says, for "the most specific wins": first which fields it names exactly, then which by
    /// pattern (principal over workload over service account over app over namespace), then how many
    /// characters are given.
    pub(crate) fn specificity(&self) -> (u8, u8, usize) {
        let (mut exact, mut patterns, mut characters) = (0, 0, 0);
        for (_, pattern) in self.fields() {
            (exact, patterns) = (exact << 1, patterns << 1);
            if let Some(pattern) = pattern {
                if pattern.is_exact() {
                    exact |= 1
                } else {
                    patterns |= 1
                }
                characters += pattern.text.bytes().filter(|byte| *byte != b'*').count();
            }
        }
        (exact, patterns, characters)
    }
}

impl fmt::Display for Selector {
    /// As it stands in TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = " ";
        f.write_str("{")?;
        for (name, pattern) in self.fields() {
            if let Some(pattern) = pattern {
                write!(f, "{separator}{name} = {:?}", pattern.as_str())?;
                separator = ", ";
            }
        }
        f.write_str(if separator == " " { "}" } else { " }" })
    }
}
