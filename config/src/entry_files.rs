//! `[registry] service_entries`: which files the patterns mean, now and later, and what is read from them. Knows nothing
//! of what is in the files.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::value::Value;
use glob::{MatchOptions, Pattern};

use crate::istio::{self, Imported};
use crate::layers::Layers;
use crate::limits::{ENTRY_FILE_BYTES_MAX, ENTRY_FILES_MAX};
use crate::problem::Problem;
use crate::read::{self, Unreadable};
use crate::spans::Part;
use crate::structure::shorten;

/// The files of one folder whose names match: those that are there, and those that come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePattern {
    folder: PathBuf,
    name: Pattern,
}

impl FilePattern {
    /// The folder that the files are in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a file of this name in the folder is meant. A name with a leading dot has to be asked for: temporary files
    /// of editors and the folders of a ConfigMap begin so.
    pub fn matches(&self, name: &OsStr) -> bool {
        const OPTIONS: MatchOptions = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        name.to_str().is_some_and(|name| self.name.matches_with(name, OPTIONS))
    }
}

/// What the patterns lead to.
#[derive(Default)]
pub(crate) struct EntryFiles {
    pub(crate) services: Vec<Imported>,
    /// Every file that was read, or looked for.
    pub(crate) files: BTreeSet<PathBuf>,
    /// What may come to mean more files.
    pub(crate) patterns: Vec<FilePattern>,
}

/// Reads every file that `registry.service_entries` means; relative patterns start at `folder`.
pub(crate) fn load(
    layers: &Layers,
    merged: &Value,
    folder: &Path,
    errors: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) -> EntryFiles {
    let mut found = EntryFiles::default();
    let list = merged.find_ref("registry.service_entries");
    for (index, value) in list.and_then(|list| list.as_array()).unwrap_or_default().iter().enumerate() {
        // Anything else is reported with the structure.
        let Some(text) = value.as_str().filter(|text| !text.trim().is_empty()) else { continue };
        let key = format!("registry.service_entries[{index}]");
        let problem = |message: String, suggestion: Option<String>| {
            layers.problem(&key, Part::Value, Some(value), message, suggestion)
        };
        match files(folder, Path::new(text)) {
            Err((message, suggestion)) => errors.push(problem(message, suggestion)),
            Ok((pattern, files)) => {
                if let Some(pattern) = pattern {
                    if files.is_empty() {
                        let message = format!("\"{}\" matches no file", shorten(text));
                        warnings
                            .push(problem(message, Some("files that appear later are read then".to_owned())));
                    }
                    if !found.patterns.contains(&pattern) {
                        found.patterns.push(pattern);
                    }
                }
                found.files.extend(files);
            }
        }
        if found.files.len() > ENTRY_FILES_MAX {
            errors.push(problem(
                format!("more than {ENTRY_FILES_MAX} files"),
                Some("join some of them".to_owned()),
            ));
            return EntryFiles::default();
        }
    }
    for path in &found.files {
        read_one(path, read::text, &mut found.services, errors, warnings);
    }
    found
}

/// Reads one file of resources by one of the ways of `read`.
pub(crate) fn read_one(
    path: &Path,
    text: fn(&Path, u64) -> Result<String, Unreadable>,
    services: &mut Vec<Imported>,
    errors: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let name: Arc<str> = path.to_string_lossy().into();
    match text(path, ENTRY_FILE_BYTES_MAX) {
        Ok(text) => {
            let mut read = istio::read(&name, &text);
            services.append(&mut read.services);
            errors.append(&mut read.errors);
            warnings.append(&mut read.warnings);
        }
        Err(Unreadable { message, suggestion, place: (line, column), .. }) => {
            let message = message.strip_prefix(&format!("{name}: ")).map(str::to_owned).unwrap_or(message);
            errors.push(Problem { file: name, line, column, key: String::new(), message, suggestion });
        }
    }
}

type Wrong = (String, Option<String>);

/// The files that a pattern means now, and the pattern if it is one: a plain path means itself.
fn files(base: &Path, text: &Path) -> Result<(Option<FilePattern>, Vec<PathBuf>), Wrong> {
    let path = base.join(text);
    let shown = path.display();
    let special = |part: &OsStr| part.to_string_lossy().contains(['*', '?', '[']);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err((format!("{shown} names no file"), Some("for example \"entries/*.yaml\"".to_owned())));
    };
    if text.parent().is_some_and(|folder| folder.iter().any(special)) {
        let remedy = "name each folder with a pattern of its own";
        return Err((format!("{shown}: only the file's name may be a pattern"), Some(remedy.to_owned())));
    }
    if !special(name) {
        return Ok((None, vec![path]));
    }
    let name =
        Pattern::new(&name.to_string_lossy()).map_err(|error| (format!("{shown}: {}", error.msg), None))?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let pattern = FilePattern { folder: folder.to_path_buf(), name };
    let unreadable = |error: std::io::Error| {
        (
            format!("{} cannot be read: {error}", folder.display()),
            Some("create the folder, or check that it is mounted".to_owned()),
        )
    };
    let mut files = Vec::new();
    for item in folder.read_dir().map_err(unreadable)? {
        let item = item.map_err(unreadable)?;
        // A link counts as what it leads to; one that leads nowhere is an error when it is read.
        if pattern.matches(&item.file_name()) && !item.path().is_dir() {
            files.push(item.path());
            if files.len() > ENTRY_FILES_MAX {
                break;
            }
        }
    }
    Ok((Some(pattern), files))
}
