//! The heavy threads: niced, blocking, each does one job after the other. They must not know what the jobs do.
//!
//! There are two, so that whoever asks for metrics does not wait for a large registry to compile: `heavy` does what
//! takes long and is waited for by nobody outside, `pages` writes what somebody is waiting to read.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::{mpsc, oneshot};

use crate::limits::{HEAVY_JOBS_MAX, HEAVY_NICE};

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the heavy threads; they end when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Heavy {
    jobs: mpsc::Sender<Job>,
    pages: mpsc::Sender<Job>,
}

/// A job was lost: it panicked (which is logged), or the thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the heavy thread lost a job")]
pub struct JobLost;

impl Heavy {
    /// Starts the threads, kept on these cores; none: wherever the system puts them. A niced thread that is running when a
    /// worker wakes on the same core may keep it for another time slice, some milliseconds.
    ///
    /// # Errors
    /// As the system's when it cannot start a thread.
    pub fn start(cores: &[usize]) -> io::Result<(Self, [JoinHandle<()>; 2])> {
        let (jobs, heavy) = start("heavy", cores)?;
        let (pages, writing) = start("pages", cores)?;
        Ok((Self { jobs, pages }, [heavy, writing]))
    }

    /// Runs a job that may take seconds and waits for its result.
    ///
    /// # Errors
    /// [`JobLost`] when there will be no result.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, JobLost> {
        run_on(&self.jobs, job).await
    }

    /// Writes a page that somebody waits for; long jobs do not delay it.
    ///
    /// # Errors
    /// [`JobLost`] when there will be no page.
    pub async fn write(&self, page: impl FnOnce() -> String + Send + 'static) -> Result<String, JobLost> {
        run_on(&self.pages, page).await
    }

    /// Jobs and pages that wait.
    pub fn waiting(&self) -> usize {
        [&self.jobs, &self.pages]
            .map(|queue| HEAVY_JOBS_MAX - queue.capacity().min(HEAVY_JOBS_MAX))
            .iter()
            .sum()
    }

    /// Frees a value there.
    pub async fn free<T: Send + 'static>(&self, value: T) {
        self.jobs.send(Box::new(move || drop(value))).await.ok();
    }
}

fn start(name: &str, cores: &[usize]) -> io::Result<(mpsc::Sender<Job>, JoinHandle<()>)> {
    let (jobs, mut queue) = mpsc::channel::<Job>(HEAVY_JOBS_MAX);
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    let thread = Builder::new().name(name.into()).spawn(move || {
        if set.count() > 0
            && let Err(error) = sched_setaffinity(None, &set)
        {
            tracing::debug!(%error, "a heavy thread runs on any core");
        }
        // Niceness belongs to the calling thread on Linux. Without the right to change it the work is still done.
        if let Err(error) = rustix::process::nice(HEAVY_NICE) {
            tracing::debug!(%error, "a heavy thread keeps its priority");
        }
        while let Some(job) = queue.blocking_recv() {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a job of a heavy thread panicked");
            }
        }
    })?;
    Ok((jobs, thread))
}

async fn run_on<R: Send + 'static>(
    queue: &mpsc::Sender<Job>,
    job: impl FnOnce() -> R + Send + 'static,
) -> Result<R, JobLost> {
    let (reply, result) = oneshot::channel();
    let job: Job = Box::new(move || {
        // Nobody waiting any more is no error.
        reply.send(job()).ok();
    });
    queue.send(job).await.map_err(|_| JobLost)?;
    result.await.map_err(|_| JobLost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_job_is_lost_and_the_next_one_runs() {
        let (heavy, threads) = Heavy::start(&[]).expect("a thread");
        assert_eq!(heavy.run(|| 1 + 1).await, Ok(2));
        assert_eq!(heavy.run(|| panic!("on purpose")).await, Err::<(), _>(JobLost));
        assert_eq!(
            heavy.run(|| std::thread::current().name().map(str::to_owned)).await,
            Ok(Some("heavy".into()))
        );
        drop(heavy);
        for thread in threads {
            thread.join().expect("a thread ends with its last handle");
        }
    }

    #[tokio::test]
    async fn both_threads_stay_on_the_cores_that_they_are_given() {
        let allowed = || rustix::thread::sched_getaffinity(None).expect("an affinity");
        let own: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed().is_set(*core)).collect();
        let last = *own.last().expect("this test runs somewhere");
        let (heavy, _) = Heavy::start(&[last]).expect("threads");
        let only = move || (0..CpuSet::MAX_CPU).filter(|core| allowed().is_set(*core)).eq([last]);
        assert_eq!(heavy.run(only).await, Ok(true));
        assert_eq!(heavy.write(move || only().to_string()).await, Ok("true".to_owned()));
        let (free, _) = Heavy::start(&[]).expect("threads");
        let count = move || usize::try_from(allowed().count()).unwrap_or_default();
        assert_eq!(free.run(count).await, Ok(own.len()));
    }

    #[tokio::test]
    async fn a_page_does_not_wait_for_a_long_job() {
        let (heavy, _) = Heavy::start(&[]).expect("threads");
        let (release, released) = std::sync::mpsc::channel::<()>();
        let jobs = heavy.clone();
        let (start, started) = oneshot::channel();
        let job = move || {
            start.send(()).ok();
            released.recv()
        };
        let long = tokio::spawn(async move { jobs.run(job).await });
        started.await.expect("the job starts");
        let page = tokio::time::timeout(std::time::Duration::from_secs(10), heavy.write(|| "page".into()));
        assert_eq!(page.await.expect("in time"), Ok("page".to_owned()));
        release.send(()).expect("the job still waits");
        assert_eq!(long.await.expect("no panic"), Ok(Ok(())));
    }
}
