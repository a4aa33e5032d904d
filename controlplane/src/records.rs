//! The records thread: drains the workers' record queues, formats access-log lines, hands them to a writer. It must not
//! know where the lines go, and never waits for that place.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use sluice_bridge::RecordQueue;
use sluice_config::AccessLogFormat;
use sluice_telemetry::access_log::{self, Entry};

use crate::backlog::{Backlog, BacklogEnd, Batch, LogStats, Taken, backlog};
use crate::limits::{
    LOG_BACKLOG_BYTES_MAX, RECORDS_BATCH_BYTES_MAX, RECORDS_BATCH_MAX, RECORDS_BUSY_MS, RECORDS_IDLE_MS,
};

/// Where access-log lines go. Implementations never block in [`write`](Self::write): they have a thread and a bounded
/// backlog of their own.
pub trait LogWriter: Send + 'static {
    /// Hands whole lines over; what there is no room for is dropped and counted.
    fn write(&mut self, batch: Batch);
    /// Opens the file anew (log rotation).
    fn reopen(&mut self);
    /// What became of the lines so far.
    fn stats(&self) -> LogStats;
    /// Writes what is left, waiting so long at most.
    fn finish(&mut self, wait_max: Duration);
}

/// What the records thread counts, readable from anywhere.
#[derive(Debug, Default)]
pub struct RecordStats {
    written: AtomicU64,
    dropped_by_writer: AtomicU64,
    dropped_by_queue: AtomicU64,
    waiting: AtomicU64,
}

impl RecordStats {
    /// Lines that the system took.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Lines lost between here and the file: a full disk, a stuck reader.
    pub fn dropped_by_writer(&self) -> u64 {
        self.dropped_by_writer.load(Relaxed)
    }

    /// Records that waited when this thread last looked.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Records lost because this thread could not keep up.
    pub fn dropped_by_queue(&self) -> u64 {
        self.dropped_by_queue.load(Relaxed)
    }
}

enum Order {
    Reopen,
    Replace(Box<dyn LogWriter>, AccessLogFormat),
    Finish { deadline: Instant },
}

/// A handle on the records thread.
pub struct Records {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
    stats: Arc<RecordStats>,
}

impl Records {
    /// Starts the thread.
    ///
    /// # Errors
    /// As the system's when it cannot start a thread.
    pub fn start(
        queues: Vec<RecordQueue>,
        format: AccessLogFormat,
        writer: Box<dyn LogWriter>,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let stats = Arc::new(RecordStats::default());
        let mut state =
            State { queues, format, writer, stats: Arc::clone(&stats), retired: LogStats::default() };
        let thread = Builder::new().name("records".into()).spawn(move || state.run(&inbox))?;
        Ok(Self { orders, thread, stats })
    }

    /// Counters, live.
    pub fn stats(&self) -> Arc<RecordStats> {
        Arc::clone(&self.stats)
    }

    /// Has the writer open its file anew.
    pub fn reopen(&self) {
        self.order(Order::Reopen);
    }

    /// Writes elsewhere or otherwise from now on.
    pub fn replace(&self, writer: Box<dyn LogWriter>, format: AccessLogFormat) {
        self.order(Order::Replace(writer, format));
    }

    /// Writes what is left and ends the thread, within this time.
    pub fn finish(self, wait_max: Duration) {
        self.order(Order::Finish { deadline: Instant::now() + wait_max });
        if self.thread.join().is_err() {
            tracing::error!("the records thread panicked");
        }
    }

    fn order(&self, order: Order) {
        // Orders wake the thread from its idle wait; a thread that is gone has panicked, which was logged.
        self.orders.send(order).ok();
    }
}

struct State {
    queues: Vec<RecordQueue>,
    format: AccessLogFormat,
    writer: Box<dyn LogWriter>,
    stats: Arc<RecordStats>,
    /// What writers that were replaced have done.
    retired: LogStats,
}

impl State {
    fn run(&mut self, inbox: &mpsc::Receiver<Order>) {
        let idle = Duration::from_millis(RECORDS_IDLE_MS);
        let mut deadline = None;
        loop {
            let waiting: usize = self.queues.iter().map(RecordQueue::len).sum();
            self.stats.waiting.store(u64::try_from(waiting).unwrap_or(u64::MAX), Relaxed);
            let moved = self.drain();
            self.count();
            // Few records are better waited for than fetched one by one.
            let pause = Duration::from_millis(match moved {
                0 => RECORDS_IDLE_MS,
                1..RECORDS_BATCH_MAX => RECORDS_BUSY_MS,
                _ => 0,
            });
            let order = match deadline {
                None => match inbox.recv_timeout(pause) {
                    Ok(order) => Some(order),
                    Err(mpsc::RecvTimeoutError::Timeout) => None,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                },
                Some(_) if moved > 0 => None,
                Some(deadline) => {
                    let ended = self.queues.iter().all(RecordQueue::is_finished);
                    if ended || Instant::now() >= deadline {
                        self.writer.finish(deadline.saturating_duration_since(Instant::now()).max(idle));
                        return self.count();
                    }
                    std::thread::sleep(Duration::from_millis(1));
                    None
                }
            };
            match order {
                Some(Order::Reopen) => self.writer.reopen(),
                Some(Order::Replace(writer, format)) => self.replace(writer, format),
                Some(Order::Finish { deadline: until }) => deadline = Some(until),
                None => {}
            }
        }
    }

    /// Formats what waits, a bounded share of each queue in turn, and says how much that was.
    fn drain(&mut self) -> usize {
        let mut batch = Batch::default();
        let mut moved = 0;
        for queue in &mut self.queues {
            for _ in 0..RECORDS_BATCH_MAX {
                let Some(entry) = queue.pop() else { break };
                format(self.format, &entry, &mut batch.bytes);
                batch.lines += 1;
                moved += 1;
                if batch.bytes.len() >= RECORDS_BATCH_BYTES_MAX {
                    self.writer.write(std::mem::take(&mut batch));
                }
            }
        }
        if batch.lines > 0 {
            self.writer.write(batch);
        }
        moved
    }

    fn replace(&mut self, writer: Box<dyn LogWriter>, format: AccessLogFormat) {
        let mut old = std::mem::replace(&mut self.writer, writer);
        self.format = format;
        old.finish(Duration::from_millis(RECORDS_IDLE_MS));
        let stats = old.stats();
        self.retired.written += stats.written;
        self.retired.dropped += stats.dropped;
    }

    fn count(&self) {
        let stats = self.writer.stats();
        self.stats.written.store(self.retired.written + stats.written, Relaxed);
        self.stats.dropped_by_writer.store(self.retired.dropped + stats.dropped, Relaxed);
        self.stats.dropped_by_queue.store(self.queues.iter().map(RecordQueue::dropped).sum(), Relaxed);
    }
}

fn format(format: AccessLogFormat, entry: &Entry, out: &mut Vec<u8>) {
    match format {
        AccessLogFormat::Text => access_log::text(entry, out),
        AccessLogFormat::Json => access_log::json(entry, out),
    }
}

/// Lines to a stream such as standard output, from a thread of its own: a reader that does not read holds nobody up.
pub struct StreamWriter {
    backlog: Backlog,
}

impl StreamWriter {
    /// Writes to standard output.
    ///
    /// # Errors
    /// As the system's when it cannot start a thread.
    pub fn stdout() -> std::io::Result<Self> {
        Self::new(Box::new(std::io::stdout()))
    }

    /// Writes to this stream.
    ///
    /// # Errors
    /// As the system's when it cannot start a thread.
    pub fn new(stream: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let (backlog, end) = backlog(LOG_BACKLOG_BYTES_MAX);
        // Not joined: it may be stuck in a write for ever.
        Builder::new().name("log-stream".into()).spawn(move || write_stream(stream, &end))?;
        Ok(Self { backlog })
    }
}

impl LogWriter for StreamWriter {
    fn write(&mut self, batch: Batch) {
        self.backlog.push(batch);
    }

    fn reopen(&mut self) {
        tracing::info!("the access log is not a file: nothing to open anew");
    }

    fn stats(&self) -> LogStats {
        self.backlog.stats()
    }

    fn finish(&mut self, wait_max: Duration) {
        self.backlog.finish(wait_max);
    }
}

fn write_stream(mut stream: Box<dyn Write + Send>, end: &BacklogEnd) {
    let mut failing = false;
    loop {
        match end.take() {
            Taken::Batch(batch) => match stream.write_all(&batch.bytes).and_then(|()| stream.flush()) {
                Ok(()) => {
                    failing = false;
                    end.written(batch.lines);
                }
                Err(error) => {
                    end.dropped(batch.lines);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the access log cannot be written; lines are dropped");
                    }
                }
            },
            Taken::Reopen => {}
            Taken::End => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_bridge::limits::Bounds;
    use std::sync::Mutex;

    struct Lines(mpsc::Sender<Batch>, Arc<Mutex<u64>>);

    impl LogWriter for Lines {
        fn write(&mut self, batch: Batch) {
            *self.1.lock().expect("no panic") += batch.lines;
            self.0.send(batch).ok();
        }
        fn reopen(&mut self) {
            self.0.send(Batch { bytes: b"reopened".to_vec(), lines: 0 }).ok();
        }
        fn stats(&self) -> LogStats {
            LogStats { written: *self.1.lock().expect("no panic"), dropped: 0 }
        }
        fn finish(&mut self, _: Duration) {}
    }

    fn lines() -> (Lines, mpsc::Receiver<Batch>) {
        let (sender, receiver) = mpsc::channel();
        (Lines(sender, Arc::default()), receiver)
    }

    #[test]
    fn a_record_becomes_a_line_within_a_second_and_none_is_lost_at_the_end() {
        let (mut worker, control) = sluice_bridge::pair(0, &Bounds::default());
        let (writer, written) = lines();
        let records =
            Records::start(vec![control.records], AccessLogFormat::Text, Box::new(writer)).expect("a thread");
        assert!(worker.records.push(Box::default()));
        let batch = written.recv_timeout(Duration::from_secs(1)).expect("visible within a second");
        assert_eq!((batch.lines, batch.bytes.last()), (1, Some(&b'\n')));
        records.reopen();
        let batch = written.recv_timeout(Duration::from_secs(1)).expect("reopened");
        assert_eq!(batch.bytes, b"reopened");
        let stats = records.stats();
        for _ in 0..3000 {
            assert!(worker.records.push(Box::default()));
        }
        drop(worker);
        records.finish(Duration::from_secs(5));
        assert_eq!((stats.written(), stats.dropped_by_queue()), (3001, 0));
    }

    #[test]
    fn a_new_writer_and_format_take_over() {
        let (mut worker, control) = sluice_bridge::pair(0, &Bounds::default());
        let (first, _first_lines) = lines();
        let (second, second_lines) = lines();
        let records =
            Records::start(vec![control.records], AccessLogFormat::Text, Box::new(first)).expect("a thread");
        records.replace(Box::new(second), AccessLogFormat::Json);
        records.reopen();
        second_lines.recv_timeout(Duration::from_secs(1)).expect("reopened");
        assert!(worker.records.push(Box::default()));
        let batch = second_lines.recv_timeout(Duration::from_secs(1)).expect("a line");
        assert_eq!(batch.bytes.first(), Some(&b'{'));
        drop(worker);
        records.finish(Duration::from_secs(5));
    }

    /// A stream that nobody reads: the first write never returns.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            self.0.recv().ok();
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_stream_drops_and_counts() {
        let (release, stuck) = mpsc::channel();
        let mut writer = StreamWriter::new(Box::new(Stuck(stuck))).expect("a thread");
        let batch = Batch { bytes: vec![b'x'; LOG_BACKLOG_BYTES_MAX / 4], lines: 10 };
        for _ in 0..8 {
            writer.write(batch.clone());
        }
        let dropped = writer.stats().dropped;
        assert!(
            (30..=40).contains(&dropped),
            "four batches wait, one may be in the writer's hands: {dropped}"
        );
        drop(release);
        writer.finish(Duration::from_secs(5));
        assert_eq!(writer.stats(), LogStats { written: 0, dropped: 80 });
    }
}
