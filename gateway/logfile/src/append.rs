//! Appending bytes to an open file by one of two ways. Knows no lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tokio_uring::buf::BoundedBuf;

/// Lines tell who calls whom: not for everybody's eyes.
const FILE_MODE: u32 = 0o640;
/// Entries of the ring: one write is in flight at a time.
const RING_ENTRIES: u32 = 8;

/// Opens a file for appending and makes it if need be.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

/// What became of an append.
#[derive(Debug)]
pub(crate) struct Append {
    /// The buffer that was given.
    pub(crate) bytes: Vec<u8>,
    /// How much of it the file took.
    pub(crate) length: usize,
    /// Why not all of it.
    pub(crate) error: Option<io::Error>,
}

/// A file that is appended to. It stays on the thread that made it.
pub(crate) enum Appender {
    /// Through a ring of its own.
    Uring(tokio_uring::Runtime, Option<tokio_uring::fs::File>),
    /// By write(2).
    Plain(File),
}

impl Appender {
    /// Through a ring where the system gives one.
    pub(crate) fn new(file: File) -> Self {
        let mut builder = tokio_uring::builder();
        builder.entries(RING_ENTRIES);
        match tokio_uring::Runtime::new(&builder) {
            Ok(runtime) => Self::Uring(runtime, Some(tokio_uring::fs::File::from_std(file))),
            Err(error) => {
                tracing::info!(%error, "the access log is written by plain file calls: io_uring is blocked");
                Self::plain(file)
            }
        }
    }

    pub(crate) fn plain(file: File) -> Self {
        Self::Plain(file)
    }

    /// Appends as much as the file takes.
    pub(crate) fn append(&mut self, bytes: Vec<u8>) -> Append {
        match self {
            Self::Uring(runtime, Some(file)) => runtime.block_on(append_uring(file, bytes)),
            Self::Uring(_, None) => {
                Append { bytes, length: 0, error: Some(io::ErrorKind::NotConnected.into()) }
            }
            Self::Plain(file) => append_plain(file, bytes),
        }
    }

    /// Goes on with another file.
    pub(crate) fn replace(&mut self, new: File) {
        match self {
            Self::Uring(runtime, file) => {
                let old = file.replace(tokio_uring::fs::File::from_std(new));
                close_uring(runtime, old);
            }
            Self::Plain(file) => *file = new,
        }
    }

    pub(crate) fn close(self) {
        if let Self::Uring(runtime, file) = self {
            close_uring(&runtime, file);
        }
    }
}

fn close_uring(runtime: &tokio_uring::Runtime, file: Option<tokio_uring::fs::File>) {
    let Some(file) = file else { return };
    if let Err(error) = runtime.block_on(file.close()) {
        tracing::warn!(%error, "closing the access log");
    }
}

/// The file is open for appending, so that the offset of a write does not count.
async fn append_uring(file: &tokio_uring::fs::File, mut bytes: Vec<u8>) -> Append {
    let mut length = 0;
    while length < bytes.len() {
        let (result, slice) = file.write_at(bytes.slice(length..), 0).submit().await;
        bytes = slice.into_inner();
        match result {
            Ok(0) => return Append { bytes, length, error: Some(io::ErrorKind::WriteZero.into()) },
            Ok(taken) => length += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Append { bytes, length, error: Some(error) },
        }
    }
    Append { bytes, length, error: None }
}

fn append_plain(file: &mut File, bytes: Vec<u8>) -> Append {
    let mut length = 0;
    while let Some(rest) = bytes.get(length..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Append { bytes, length, error: Some(io::ErrorKind::WriteZero.into()) },
            Ok(taken) => length += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Append { bytes, length, error: Some(error) },
        }
    }
    Append { bytes, length, error: None }
}
