//! Body for the import of Istio YAML: whatever the bytes are it ends, and every finding has its place. Knows nothing of
//! how inputs are made.

use sluice_config::{ImportSource, import_istio};

/// Errors and warnings point into the text; TOML that is written can be read.
pub(crate) fn import(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    // A carriage return alone ends a line of YAML as well.
    let lines = text.split(['\n', '\r']).count();
    let named = |line: u32, column: u32| (1..=lines).contains(&(line as usize)) && column >= 1;
    let source = ImportSource::Text { name: "input".to_owned(), text };
    match import_istio(&[source]) {
        Ok(import) => {
            let tables = import.toml.lines().filter(|line| *line == "[[service]]").count();
            assert_eq!(tables, import.services, "{}", import.toml);
            for warning in &import.warnings {
                assert!(named(warning.line, warning.column), "{warning}");
            }
        }
        Err(report) => {
            assert!(!report.errors.is_empty());
            for error in &report.errors {
                assert!(named(error.line, error.column), "{error}");
                assert!(!error.to_string().contains('\u{0}'), "{error}");
            }
        }
    }
}
