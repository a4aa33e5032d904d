//! From a [`Source`] to a [`Plan`]: find the file, read it, merge the layers, check, and report everything at once.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::value::Dict;

use crate::check::Check;
use crate::entry_files;
use crate::layers::{self, Layers};
use crate::limits::{FILE_BYTES_MAX, PROBLEMS_MAX};
use crate::plan::Plan;
use crate::problem::{Problem, Report};
use crate::read::{self, Unreadable};
use crate::source::Source;
use crate::spans::Document;
use crate::structure;

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to run.
    pub plan: Plan,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Problem>,
    /// What keeps a gateway from starting with it, though one that runs already may take it over.
    start_errors: Vec<Problem>,
}

impl Loaded {
    /// The same, if a gateway can start with it here. A reload does not ask: a log folder that is gone must not stand in
    /// the way of a new policy.
    ///
    /// # Errors
    /// A [`Report`] of what is in the way: the folder of `access_log.path`.
    pub fn startable(self) -> Result<Self, Report> {
        if self.start_errors.is_empty() {
            return Ok(self);
        }
        Err(Report { errors: self.start_errors, warnings: self.warnings })
    }
}

/// Reads, merges and checks a configuration.
///
/// # Errors
/// A [`Report`] with every error found (an unreadable file or a syntax error hides what follows it).
pub fn load(source: &Source) -> Result<Loaded, Report> {
    let file = find(source).map_err(only)?;
    let document = file.as_deref().map(document).transpose().map_err(only)?;
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let (mut layers, mut value) =
        Layers::merge(document, &source.environment, &source.overrides, &mut errors);
    let folder = file.as_deref().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
    let entries = entry_files::load(&layers, &value, &folder, &mut errors, &mut warnings);
    layers.import(&mut value, entries.services);
    structure::check(&layers, &mut value, &mut errors);
    let check = Check {
        now: source.now,
        hash_seed: source.hash_seed,
        folder,
        files: RefCell::new(entries.files),
        file_patterns: entries.patterns,
        ..Check::new(&layers, errors, warnings)
    };
    let plan = check.plan(&value, file);
    let (mut errors, warnings) = (check.errors.into_inner(), sorted(check.warnings.into_inner()));
    let start_errors = check.start_errors.into_inner();
    match plan {
        Some(plan) if errors.is_empty() => Ok(Loaded { plan, warnings, start_errors }),
        _ => {
            errors.extend(start_errors);
            Err(Report { errors: sorted(errors), warnings })
        }
    }
}

/// Which file to read: what is named must exist, the default path may be missing.
fn find(source: &Source) -> Result<Option<PathBuf>, Problem> {
    if let Some(path) = &source.path {
        return Ok(Some(path.clone()));
    }
    if let Some(path) = layers::environment_value(&source.environment, "SLUICE_CONFIG") {
        if path.is_empty() {
            let message = "SLUICE_CONFIG is set and empty".to_owned();
            return Err(problem(
                "environment variable SLUICE_CONFIG".into(),
                message,
                Some("name a file or unset it"),
            ));
        }
        return Ok(Some(PathBuf::from(path)));
    }
    let path = &source.default_path;
    // A path that cannot be looked at is an error when it is read: it must not quietly mean "no file".
    let missing = path.as_os_str().is_empty()
        || path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    Ok((!missing).then(|| path.clone()))
}

fn document(path: &Path) -> Result<(Document, Dict), Problem> {
    let name: Arc<str> = path.to_string_lossy().into();
    let text = read::text(path, FILE_BYTES_MAX).map_err(|unreadable| {
        let Unreadable { message, suggestion, place: (line, column), .. } = unreadable;
        // The file is named by the problem itself.
        let message = message.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(message);
        Problem { file: Arc::clone(&name), line, column, key: String::new(), message, suggestion }
    })?;
    if text.trim().is_empty() {
        let remedy = "write at least mode = \"registry_only\"; to run on defaults give no file";
        return Err(Problem {
            line: 1,
            column: 1,
            ..problem(name, "the file is empty".to_owned(), Some(remedy))
        });
    }
    Document::parse(Arc::clone(&name), text).map_err(|error| Problem {
        line: error.place.line,
        column: error.place.column,
        ..problem(name, format!("syntax error: {}", error.message), None)
    })
}

fn problem(file: Arc<str>, message: String, suggestion: Option<&str>) -> Problem {
    Problem {
        file,
        line: 0,
        column: 0,
        key: String::new(),
        message,
        suggestion: suggestion.map(str::to_owned),
    }
}

fn only(problem: Problem) -> Report {
    Report { errors: vec![problem], warnings: Vec::new() }
}

/// In the order of the files, at most so many.
pub(crate) fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|left, right| {
        (&left.file, left.line, left.column).cmp(&(&right.file, right.line, right.column))
    });
    problems.dedup();
    problems.truncate(PROBLEMS_MAX);
    problems
}
