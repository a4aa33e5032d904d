//! The gateway's own log on standard error: one line per event, from a thread of its own so that a reader that does not
//! read holds nobody up, and with a bound per place in the code so that no peer can flood it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that wait for standard error; more are dropped and counted.
const LINES_MAX: usize = 1024;
/// Lines of one place in the code in one window …
const LINES_PER_PLACE: u64 = 20;
/// … of this length; what goes beyond is counted, and the count follows with the first line of a later window.
const WINDOW: Duration = Duration::from_secs(5);

/// The running log; [`flush`](Self::flush) before the process ends.
pub(crate) struct Log {
    lines: SyncSender<Message>,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Starts the log for the whole process.
///
/// # Errors
/// As the system's when it cannot start a thread.
pub(crate) fn start() -> io::Result<Log> {
    let (lines, queue) = sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let lost = Arc::clone(&dropped);
    std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&queue, &lost))?;
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(Lines { queue: lines.clone(), dropped })
        .with_filter(Bounded { places: Mutex::default(), queue: lines.clone() });
    // Fails only if a log is running already, in tests.
    tracing_subscriber::registry().with(layer).try_init().ok();
    Ok(Log { lines })
}

impl Log {
    /// Waits until what was logged has been written, for a moment at most.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.lines.try_send(Message::Flush(done)).is_ok() {
            wait.recv_timeout(Duration::from_millis(500)).ok();
        }
    }
}

fn write_lines(queue: &Receiver<Message>, lost: &AtomicU64) {
    let mut stderr = io::stderr();
    while let Ok(message) = queue.recv() {
        match message {
            // Nothing can be done about a standard error that fails.
            Message::Line(line) => drop(stderr.write_all(&line)),
            Message::Flush(done) => drop(done.send(())),
        }
        let lost = lost.swap(0, Relaxed);
        if lost > 0 {
            writeln!(stderr, "{lost} log lines were dropped: standard error was too slow").ok();
        }
    }
}

/// Collects one event's text and puts it into the queue.
struct Lines {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

struct Line<'a> {
    text: Vec<u8>,
    lines: &'a Lines,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { text: Vec::new(), lines: self }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() && self.lines.queue.try_send(Message::Line(text)).is_err() {
            self.lines.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Our own events at info and above, so many per place and window. Libraries are silent: what matters of theirs
/// comes back as an error and is logged by us.
struct Bounded {
    places: Mutex<HashMap<Identifier, Place>>,
    queue: SyncSender<Message>,
}

struct Place {
    since: Instant,
    passed: u64,
    held_back: u64,
}

impl Bounded {
    /// Whether one more line of this place may pass, and how many were held back before.
    fn admit(&self, place: Identifier, now: Instant) -> (bool, u64) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(place).or_insert(Place { since: now, passed: 0, held_back: 0 });
        let mut before = 0;
        if now.duration_since(place.since) >= WINDOW {
            before = place.held_back;
            *place = Place { since: now, passed: 0, held_back: 0 };
        }
        place.passed += 1;
        let admitted = place.passed <= LINES_PER_PLACE;
        place.held_back += u64::from(!admitted);
        (admitted, before)
    }
}

impl<S: Subscriber> Filter<S> for Bounded {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        metadata.target().starts_with("sluice") && *metadata.level() <= LevelFilter::INFO
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let place = event.metadata();
        let (admitted, before) = self.admit(place.callsite(), Instant::now());
        if before > 0 {
            // Straight into the queue: an event within an event is not delivered.
            let (file, line) = (place.file().unwrap_or("?"), place.line().unwrap_or(0));
            let told = format!("{before} log lines like the next one ({file}:{line}) were held back\n");
            self.queue.try_send(Message::Line(told.into_bytes())).ok();
        }
        admitted
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_told_later() {
        let (queue, _lines) = sync_channel(1);
        let bounded = Bounded { places: Mutex::default(), queue };
        let place = || {
            let event = tracing::callsite!(name: "x", kind: tracing::metadata::Kind::EVENT, fields: {});
            tracing::Callsite::metadata(event).callsite()
        };
        let start = Instant::now();
        let place = place();
        let admitted = (0..100).filter(|_| bounded.admit(place.clone(), start).0).count();
        assert_eq!(admitted as u64, LINES_PER_PLACE);
        assert_eq!(bounded.admit(place, start + WINDOW), (true, 100 - LINES_PER_PLACE));
    }
}
