//! Shared by the tests of this crate: loads of texts and files without the process's environment.

use std::path::{Path, PathBuf};

use sluice_config::{Loaded, Override, Problem, Report, Source, load};

/// The repository's folder of examples.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

/// Loads a text as `sluice.toml` in a folder of its own.
pub(crate) fn load_text(text: &str) -> Result<Loaded, Report> {
    let folder = tempfile::tempdir().unwrap();
    load_in(folder.path(), text)
}

/// Loads a text as `sluice.toml` in a folder that holds more files.
pub(crate) fn load_in(folder: &Path, text: &str) -> Result<Loaded, Report> {
    let path = folder.join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    load(&Source::isolated(Some(path)))
}

/// Loads a text with environment variables.
pub(crate) fn load_with_environment(
    text: Option<&str>,
    environment: &[(&str, &str)],
) -> Result<Loaded, Report> {
    let folder = tempfile::tempdir().unwrap();
    let path = text.map(|text| {
        let path = folder.path().join("sluice.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let environment = environment.iter().map(|(key, value)| (key.into(), value.into())).collect();
    load(&Source { environment, ..Source::isolated(path) })
}

/// A flag.
pub(crate) fn flag(flag: &str, key: &str, value: &str) -> Override {
    Override { flag: flag.to_owned(), key: key.to_owned(), value: value.to_owned() }
}

/// The errors of a text that must be refused.
pub(crate) fn errors(text: &str) -> Vec<Problem> {
    match load_text(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(report) => report.errors,
    }
}

/// The one error of a text: its place, key, message and suggestion.
pub(crate) fn error(text: &str) -> Problem {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

/// Loads a text that must be accepted.
pub(crate) fn accepted(text: &str) -> Loaded {
    load_text(text).unwrap_or_else(|report| panic!("refused: {report}\n{text}"))
}
