//! The heavy thread: niced, blocking, one job after the other. It must not know what the jobs do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use crate::limits::{HEAVY_JOBS_MAX, HEAVY_NICE};

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the heavy thread; the thread ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Heavy {
    jobs: mpsc::Sender<Job>,
}

/// A job was lost: it panicked (which is logged), or the thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the heavy thread lost a job")]
pub struct JobLost;

impl Heavy {
    /// Starts the thread.
    ///
    /// # Errors
    /// As the system's when it cannot start a thread.
    pub fn start() -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, mut queue) = mpsc::channel::<Job>(HEAVY_JOBS_MAX);
        let thread = Builder::new().name("heavy".into()).spawn(move || {
            // Niceness belongs to the calling thread on Linux. Without the right to change it the work is still done.
            if let Err(error) = rustix::process::nice(HEAVY_NICE) {
                tracing::debug!(%error, "the heavy thread keeps its priority");
            }
            while let Some(job) = queue.blocking_recv() {
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("a job of the heavy thread panicked");
                }
            }
        })?;
        Ok((Self { jobs }, thread))
    }

    /// Runs a job there and waits for its result.
    ///
    /// # Errors
    /// [`JobLost`] when there will be no result.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, JobLost> {
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waiting any more is no error.
            reply.send(job()).ok();
        });
        self.jobs.send(job).await.map_err(|_| JobLost)?;
        result.await.map_err(|_| JobLost)
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        HEAVY_JOBS_MAX - self.jobs.capacity().min(HEAVY_JOBS_MAX)
    }

    /// Frees a value there.
    pub async fn free<T: Send + 'static>(&self, value: T) {
        self.jobs.send(Box::new(move || drop(value))).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_job_is_lost_and_the_next_one_runs() {
        let (heavy, thread) = Heavy::start().expect("a thread");
        assert_eq!(heavy.run(|| 1 + 1).await, Ok(2));
        assert_eq!(heavy.run(|| panic!("on purpose")).await, Err::<(), _>(JobLost));
        assert_eq!(
            heavy.run(|| std::thread::current().name().map(str::to_owned)).await,
            Ok(Some("heavy".into()))
        );
        drop(heavy);
        thread.join().expect("the thread ends with its last handle");
    }
}
