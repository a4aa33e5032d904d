//! A `hosts_file`: one host per line, `#` starts a comment. Errors name the file's own lines; knows no services.

use std::path::Path;
use std::sync::Arc;

use sluice_policy::HostList;

use crate::check::hosts;
use crate::limits::HOSTS_FILE_BYTES_MAX;
use crate::problem::Problem;
use crate::read;

/// Reads the hosts of a file; `key` is the key that named it. Errors go to `problem`.
///
/// # Errors
/// The file as a whole cannot be read: the words for the key that named it.
pub(crate) fn load(
    path: &Path,
    key: &str,
    problem: &mut dyn FnMut(Problem),
) -> Result<HostList, read::Unreadable> {
    let text = read::text(path, HOSTS_FILE_BYTES_MAX)?;
    let file: Arc<str> = path.to_string_lossy().into();
    let mut list = HostList::with_capacity(text.len());
    for (index, line) in text.lines().enumerate() {
        let content = line.split('#').next().unwrap_or(line);
        let host = content.trim();
        if host.is_empty() {
            continue;
        }
        match hosts::add(&mut list, host) {
            Ok(()) => {}
            Err(bad) => {
                let column = content.chars().take_while(|c| c.is_whitespace()).count() + 1;
                problem(Problem {
                    file: Arc::clone(&file),
                    line: u32::try_from(index + 1).unwrap_or(u32::MAX),
                    column: u32::try_from(column).unwrap_or(u32::MAX),
                    key: key.to_owned(),
                    message: bad.message,
                    suggestion: bad.suggestion,
                });
            }
        }
    }
    list.shrink_to_fit();
    Ok(list)
}
