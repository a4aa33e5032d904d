//! A child process whose output lines are collected while it runs. Dropping it ends it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use super::wait::until;

/// Lines of one output, growing.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn collect(&self, from: impl Read + Send + 'static) {
        let lines = self.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
        });
    }

    /// All lines so far.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line that contains `part`, if there is one yet.
    #[must_use]
    pub fn find(&self, part: &str) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|line| line.contains(part)).cloned()
    }

    /// Waits for a line that contains `part`.
    ///
    /// # Panics
    /// When none comes; the message holds what came instead.
    #[must_use]
    pub fn wait_for(&self, part: &str) -> String {
        match super::wait::within(super::DEADLINE, || self.find(part)) {
            Some(line) => line,
            None => panic!("no line with {part:?} in:\n{}", self.all().join("\n")),
        }
    }
}

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    /// Its standard output.
    pub stdout: Lines,
    /// Its standard error.
    pub stderr: Lines,
}

impl Process {
    /// Starts it; standard input is empty. An output that `command` has redirected already is not collected if
    /// `collect` says so.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        Self::start(command.stdout(Stdio::piped()))
    }

    /// Starts it with the standard output that `command` has; only standard error is collected.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{name} cannot be started: {error}"),
        };
        let (stdout, stderr) = (Lines::default(), Lines::default());
        if let Some(from) = child.stdout.take() {
            stdout.collect(from);
        }
        if let Some(from) = child.stderr.take() {
            stderr.collect(from);
        }
        Self { name, child, stdout, stderr }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal. One that has ended already is left alone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, signal).ok();
        }
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, || self.ended())
    }

    /// Waits for its end and returns its exit code.
    ///
    /// # Panics
    /// When it does not end, or ends by a signal.
    pub fn wait_code(&mut self) -> i32 {
        let status = self.wait();
        match status.code() {
            Some(code) => code,
            None => panic!("{} ended by {status}: {}", self.name, self.stderr.all().join("\n")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::TERM);
            let gently = std::time::Duration::from_secs(2);
            if super::wait::within(gently, || self.ended()).is_none() {
                self.child.kill().ok();
                self.child.wait().ok();
            }
        }
    }
}
