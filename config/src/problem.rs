//! What is wrong with a configuration, said so that a person can mend it. Knows nothing of how it was found.

use core::fmt;
use std::sync::Arc;

/// One error or warning: where, which key, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or `environment` or `command line`.
    pub file: Arc<str>,
    /// Line from 1; 0 where the place has no lines.
    pub line: u32,
    /// Column from 1, in characters; 0 where the place has no lines.
    pub column: u32,
    /// Key path such as `service[0].ports[1].number`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// The remedy: the nearest known key, the allowed values, the corrected text.
    pub suggestion: Option<String>,
}

impl Problem {
    /// The same on one line, for a log.
    pub fn one_line(&self) -> String {
        let place = Self { suggestion: None, ..self.clone() };
        match &self.suggestion {
            Some(suggestion) => format!("{place}; {suggestion}"),
            None => place.to_string(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.file)?;
        if self.line > 0 {
            write!(out, ":{}:{}", self.line, self.column)?;
        }
        out.write_str(": ")?;
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(out, "\n    help: {suggestion}")?;
        }
        Ok(())
    }
}

/// Why a configuration was refused: every error that was found, and the warnings beside them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    /// At least one.
    pub errors: Vec<Problem>,
    /// What would have been said of it had it been accepted.
    pub warnings: Vec<Problem>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.errors {
            writeln!(out, "error: {problem}")?;
        }
        for problem in &self.warnings {
            writeln!(out, "warning: {problem}")?;
        }
        let count = self.errors.len();
        write!(out, "{count} error{} in the configuration", if count == 1 { "" } else { "s" })
    }
}
