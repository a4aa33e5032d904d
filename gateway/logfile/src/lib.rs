//! Access-log lines to a file: appended through tokio-uring on a thread of its own, or with plain file calls where
//! io_uring is blocked. It must not know what is in a line, and it never holds up whoever hands lines over.
//!
//! A write that fails (a full disk) drops its lines and counts them; the next write is tried all the same, so that the
//! log recovers by itself. A line torn in the middle is ended before the next one begins.

mod append;

use std::io;
use std::path::{Path, PathBuf};
use std::thread::Builder;
use std::time::Duration;

use sluice_controlplane::LogWriter;
use sluice_controlplane::backlog::{Backlog, BacklogEnd, Batch, LogStats, Taken, backlog};
use sluice_controlplane::limits::LOG_BACKLOG_BYTES_MAX;

use append::{Append, Appender};

/// Appends lines to one file.
#[derive(Debug)]
pub struct FileWriter {
    backlog: Backlog,
}

/// By which calls a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// tokio-uring where the system allows it, else plain calls.
    Auto,
    /// Plain calls.
    PlainCalls,
}

impl FileWriter {
    /// Opens (or makes) the file and starts the writer's thread.
    ///
    /// # Errors
    /// As open(2), or when the system cannot start a thread.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_through(path, Through::Auto)
    }

    /// The same with a choice of calls.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_through(path: &Path, through: Through) -> io::Result<Self> {
        let file = append::open(path)?;
        let (backlog, end) = backlog(LOG_BACKLOG_BYTES_MAX);
        let path = path.to_owned();
        // Not joined: a write to a stuck file system may never return.
        Builder::new().name("log-file".into()).spawn(move || {
            let appender = match through {
                Through::Auto => Appender::new(file),
                Through::PlainCalls => Appender::plain(file),
            };
            Writer { path, appender, failing: false, torn: false }.run(&end);
        })?;
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
    appender: Appender,
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
                Taken::End => return self.appender.close(),
            }
        }
    }

    fn write(&mut self, batch: Batch, end: &BacklogEnd) {
        let Batch { mut bytes, lines } = batch;
        if self.torn {
            bytes.insert(0, b'\n');
        }
        let appended = self.appender.append(bytes);
        let Append { mut bytes, length, error } = appended;
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
        match append::open(&self.path) {
            Ok(file) => {
                self.appender.replace(file);
                self.torn = false;
                tracing::info!(file = %self.path.display(), "access log opened anew");
            }
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the access log cannot be opened anew; the old file is kept");
            }
        }
    }
}

#[cfg(test)]
mod tests;
