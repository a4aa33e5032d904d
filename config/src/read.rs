//! Reading a file whole, within a bound and without ever waiting for another process, with the failure in words: every file
//! that a configuration names is read here. Knows no format.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Why a file cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
    /// Where the first bad byte of a text stands: line and column.
    pub(crate) place: (u32, u32),
    /// There is no such file.
    pub(crate) missing: bool,
}

impl Unreadable {
    fn new(message: String, suggestion: Option<&str>) -> Self {
        Self { message, suggestion: suggestion.map(str::to_owned), place: (0, 0), missing: false }
    }
}

/// The bytes of a regular file of at most `bytes_max`. A FIFO, a socket or a device is refused: its end may never come, and
/// a reload that waits for it would hold up every later one.
pub(crate) fn bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Unreadable> {
    // Without NONBLOCK the open itself waits until somebody writes into a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let file = file.map_err(|error| unreadable(path, error.into()))?;
    let kind = file.metadata().map_err(|error| unreadable(path, error))?.file_type();
    if kind.is_dir() {
        return Err(unreadable(path, ErrorKind::IsADirectory.into()));
    }
    if !kind.is_file() {
        return Err(not_regular(path));
    }
    whole(file, path, bytes_max)
}

/// The same of a file that a person names for one command: what another process writes into a pipe is awaited.
fn piped_bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Unreadable> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    whole(file, path, bytes_max)
}

fn whole(file: File, path: &Path, bytes_max: u64) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Unreadable::new(format!("{} is larger than {bytes_max} bytes", path.display()), None));
    }
    Ok(bytes)
}

fn not_regular(path: &Path) -> Unreadable {
    let remedy = "a FIFO, a socket or a device is never read: name a file";
    Unreadable::new(format!("{} is not a regular file", path.display()), Some(remedy))
}

fn unreadable(path: &Path, error: std::io::Error) -> Unreadable {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotFound => Unreadable {
            missing: true,
            ..Unreadable::new(
                format!("{shown}: no such file"),
                Some("check the path, and that the file is mounted"),
            )
        },
        ErrorKind::PermissionDenied => Unreadable::new(
            format!("{shown}: permission denied"),
            Some("let the user that sluice runs as read it"),
        ),
        ErrorKind::IsADirectory => {
            Unreadable::new(format!("{shown} is a directory"), Some("name the file in it"))
        }
        // What open(2) says of a socket, and of a device without a driver.
        _ if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => not_regular(path),
        _ => Unreadable::new(format!("{shown} cannot be read: {error}"), None),
    }
}

/// A regular file as UTF-8 text, without a byte-order mark.
pub(crate) fn text(path: &Path, bytes_max: u64) -> Result<String, Unreadable> {
    decoded(path, bytes(path, bytes_max)?)
}

/// The same of a file that a person names for one command, which may be a pipe.
pub(crate) fn piped_text(path: &Path, bytes_max: u64) -> Result<String, Unreadable> {
    decoded(path, piped_bytes(path, bytes_max)?)
}

fn decoded(path: &Path, bytes: Vec<u8>) -> Result<String, Unreadable> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let line_start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&good[line_start..]).chars().count() + 1;
        let place = (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX));
        let remedy = Some("save the file as UTF-8");
        Unreadable { place, ..Unreadable::new(format!("{} is not UTF-8", path.display()), remedy) }
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(bare) => bare.to_owned(),
        None => text,
    })
}
