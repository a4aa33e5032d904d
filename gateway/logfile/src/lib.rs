//! Appends to access-log files through tokio-uring. It must not know what is in a line or when a file is opened anew: that
//! is the control plane's `FileWriter`, which also writes by plain calls where io_uring is blocked.

mod uring;

use std::io;
use std::path::Path;

use sluice_controlplane::FileWriter;

/// A writer of this file, through tokio-uring where the system allows it, else by plain calls.
///
/// # Errors
/// As [`FileWriter::open`].
pub fn open(path: &Path) -> io::Result<FileWriter> {
    FileWriter::open_with(path, uring::append)
}

#[cfg(test)]
mod tests;
