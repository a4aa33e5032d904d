//! Access-log lines to a file, appended on a thread of their own. It must not know what is in a line nor by which calls
//! the file is written, and it never holds up whoever hands lines over.
//!
//! A write that fails (a full disk) drops its lines and counts them; the next write is tried all the same, so that the
//! log recovers by itself. A line torn in the middle is ended before the next one begins.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::Duration;

use crate::backlog::{Backlog, BacklogEnd, Batch, LogStats, Taken, backlog};
use crate::limits::LOG_BACKLOG_BYTES_MAX;
use crate::records::LogWriter;

/// Lines tell who calls whom: not for everybody's eyes.
const FILE_MODE: u32 = 0o640;

/// What became of an append.
#[derive(Debug)]
pub struct Appended {
    /// The buffer that was given.
    pub bytes: Vec<u8>,
    /// How much of it the file took.
    pub length: usize,
    /// Why not all of it.
    pub error: Option<io::Error>,
}

/// By which calls a file that is open for appending is written. It lives on the writer's thread and may block it.
pub trait Append {
    /// Appends as much as the file takes.
    fn append(&mut self, bytes: Vec<u8>) -> Appended;
    /// Goes on with another file.
    fn replace(&mut self, new: File);
}

/// Plain write(2).
impl Append for File {
    fn append(&mut self, bytes: Vec<u8>) -> Appended {
        let mut length = 0;
        while let Some(rest) = bytes.get(length..).filter(|rest| !rest.is_empty()) {
            match self.write(rest) {
                Ok(0) => return Appended { bytes, length, error: Some(io::ErrorKind::WriteZero.into()) },
                Ok(taken) => length += taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Appended { bytes, length, error: Some(error) },
            }
        }
        Appended { bytes, length, error: None }
    }

    fn replace(&mut self, new: File) {
        *self = new;
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

/// Appends lines to one file.
#[derive(Debug)]
pub struct FileWriter {
    backlog: Backlog,
}

impl FileWriter {
    /// Opens (or makes) the file and starts the writer's thread, which writes by plain calls.
    ///
    /// # Errors
    /// As open(2), or when the system cannot start a thread.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, |file| Box::new(file))
    }

    /// The same by other calls, made on the writer's thread.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        path: &Path,
        by: impl FnOnce(File) -> Box<dyn Append> + Send + 'static,
    ) -> io::Result<Self> {
        let file = open(path)?;
        let (backlog, end) = backlog(LOG_BACKLOG_BYTES_MAX);
        let path = path.to_owned();
        // Not joined: a write to a stuck file system may never return.
        Builder::new()
            .name("log-file".into())
            .spawn(move || Writer { path, file: by(file), failing: false, torn: false }.run(&end))?;
        Ok(Self { backlog })
    }
}

impl LogWriter for FileWriter {
    fn write(&mut self, batch: Batch) {
        self.backlog.push(batch);
    }

    fn reopen(&mut self) {
        self.backlog.reopen();
    }

    fn stats(&self) -> LogStats {
        self.backlog.stats()
    }

    fn finish(&mut self, wait_max: Duration) {
        self.backlog.finish(wait_max);
    }
}

/// The writer's thread.
struct Writer {
    path: PathBuf,
    file: Box<dyn Append>,
    /// The last write failed: said once, not for every batch.
    failing: bool,
    /// The file ends in the middle of a line.
    torn: bool,
}

impl Writer {
    fn run(mut self, end: &BacklogEnd) {
        loop {
            match end.take() {
                Taken::Batch(batch) => self.write(batch, end),
                Taken::Reopen => self.reopen(),
                Taken::End => return,
            }
        }
    }

    fn write(&mut self, batch: Batch, end: &BacklogEnd) {
        let Batch { mut bytes, lines } = batch;
        if self.torn {
            bytes.insert(0, b'\n');
        }
        let Appended { mut bytes, length, error } = self.file.append(bytes);
        bytes.truncate(length);
        let ends = u64::try_from(bytes.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u64::MAX);
        let whole = ends.saturating_sub(u64::from(self.torn && length > 0)).min(lines);
        if let Some(last) = bytes.last() {
            self.torn = *last != b'\n';
        }
        end.written(whole);
        end.dropped(lines - whole);
        match error {
            Some(error) if !self.failing => {
                self.failing = true;
                tracing::error!(file = %self.path.display(), %error, "the access log cannot be written; lines are dropped");
            }
            None if self.failing => {
                self.failing = false;
                tracing::info!(file = %self.path.display(), "the access log is written again");
            }
            _ => {}
        }
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => {
                self.file.replace(file);
                self.torn = false;
                tracing::info!(file = %self.path.display(), "access log opened anew");
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the access log cannot be opened anew; the old file is kept");
            }
        }
    }
}
