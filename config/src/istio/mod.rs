//! Istio ServiceEntry YAML becomes the same `[[service]]` tables that a person writes; from there on there is one way. Each
//! field is honoured, or named in an error or warning with its line and column. Knows nothing of files and of policies.

mod documents;
mod entry;
mod findings;
mod rules;
mod table;
mod yaml;

use std::sync::Arc;

use crate::problem::Problem;

pub(crate) use table::{Imported, Table};

/// What one text holds.
pub(crate) struct Read {
    /// In the order of the text; those with errors are left out.
    pub(crate) services: Vec<Imported>,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// Reads a YAML (or JSON) text; `file` is its name in messages.
pub(crate) fn read(file: &Arc<str>, text: &str) -> Read {
    let mut findings = findings::Findings::new(Arc::clone(file));
    let mut services = Vec::new();
    if text.trim().is_empty() {
        let remedy = "remove the file, or write a ServiceEntry; a comment will do for none".to_owned();
        let start = crate::spans::Place { line: 1, column: 1 };
        findings.error(start, "", "the file is empty", remedy);
    } else {
        services = documents::read(text, &mut findings);
    }
    let (errors, warnings) = findings.finish();
    Read { services, errors, warnings }
}
