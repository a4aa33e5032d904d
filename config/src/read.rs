//! Reading a file whole, within a bound, with the failure in words. Knows no format.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

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

/// The bytes of a file of at most `bytes_max`.
pub(crate) fn bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Unreadable> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| match error.kind() {
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
        _ => Unreadable::new(format!("{shown} cannot be read: {error}"), None),
    };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(unreadable(ErrorKind::IsADirectory.into()));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Unreadable::new(format!("{shown} is larger than {bytes_max} bytes"), None));
    }
    Ok(bytes)
}

/// The same as UTF-8 text, without a byte-order mark.
pub(crate) fn text(path: &Path, bytes_max: u64) -> Result<String, Unreadable> {
    let bytes = bytes(path, bytes_max)?;
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
