//! One restricted ring: set-up, a submission queue that never refuses, the wait, the completions. Knows nothing of
//! what the operations mean.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, types};

use crate::buffers::BufferRing;
use crate::restrict::restrict;

/// What the kernel says of one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// A ring that is set up but can do nothing yet: it is disabled.
pub(crate) fn build(submission_entries: u32, completion_entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completion_entries)
        .setup_clamp()
        .dontfork()
        .build(submission_entries)
}

/// See the module.
pub(crate) struct Ring {
    ring: IoUring,
    /// What found the submission queue full although it had just been submitted.
    backlog: VecDeque<Entry>,
}

impl Ring {
    /// Registers the buffers, restricts the ring and enables it: from here on this thread is its only issuer.
    ///
    /// # Safety
    /// `buffers` must be dropped after the ring.
    pub(crate) unsafe fn start(ring: IoUring, buffers: &BufferRing) -> io::Result<Self> {
        // SAFETY: this function's contract is the callee's.
        unsafe { buffers.register(&ring)? };
        restrict(&ring)?;
        ring.submitter().register_enable_rings()?;
        Ok(Self { ring, backlog: VecDeque::new() })
    }

    /// Queues an operation.
    ///
    /// # Safety
    /// All memory that the entry points to must stay valid, unmoved and otherwise unused until the operation's last
    /// completion has been reaped.
    pub(crate) unsafe fn push(&mut self, entry: Entry) {
        if !self.backlog.is_empty() {
            return self.backlog.push_back(entry);
        }
        // SAFETY: this function's contract is the callee's.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            // Full: hand over what is there. If even that fails the entry waits for the next turn, in order.
            let _ = self.ring.submit();
            // SAFETY: as above.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                self.backlog.push_back(entry);
            }
        }
    }

    /// Queues the cancellation of all operations on a descriptor. The descriptor must stay open until the cancellation
    /// itself has completed, or it may hit the number's next owner.
    pub(crate) fn push_cancel_fd(&mut self, fd: i32, user_data: u64) {
        let what = types::CancelBuilder::fd(types::Fd(fd)).all();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(opcode::AsyncCancel2::new(what).build().user_data(user_data)) };
    }

    /// Queues the cancellation of everything.
    pub(crate) fn push_cancel_all(&mut self, user_data: u64) {
        let what = types::CancelBuilder::any();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(opcode::AsyncCancel2::new(what).build().user_data(user_data)) };
    }

    /// Submits what is queued and lets the kernel deliver; waits until something has completed or `wait` is over.
    pub(crate) fn submit(&mut self, wait: Option<Duration>) -> io::Result<()> {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: promised when the entry was given to `push`.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
        let result = match wait {
            Some(wait) if self.backlog.is_empty() => {
                let timeout = Timespec::from(wait);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
            _ if self.is_quiet() => Ok(0),
            _ => self.ring.submitter().submit(),
        };
        match result {
            Ok(_) => Ok(()),
            // The time is up; a signal; the kernel is short of memory, wants its completions reaped first, or tells of
            // one that it dropped, which `completions_lost` counts.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM | libc::EBADR)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Nothing is queued, and the kernel has nothing to run or to flush for us: a system call would do nothing.
    fn is_quiet(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
    }

    /// Appends all completions that are there.
    pub(crate) fn reap(&mut self, into: &mut Vec<Completion>) {
        into.extend(self.ring.completion().map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }

    /// Completions that the kernel had to drop: none, unless there is a bug.
    pub(crate) fn completions_lost(&mut self) -> u64 {
        u64::from(self.ring.completion().overflow())
    }
}

#[cfg(test)]
mod tests {
    use sluice_engine::Pool;

    use super::*;

    /// The ring comes second, so that a caller's bindings drop it first.
    fn ring() -> (BufferRing, Ring) {
        let buffers = BufferRing::new(2, Pool::new(2));
        // SAFETY: bindings are dropped in reverse order, so the ring goes before the buffers.
        let ring = unsafe { Ring::start(build(4, 8).unwrap(), &buffers).unwrap() };
        (buffers, ring)
    }

    #[test]
    fn the_kernel_refuses_whatever_is_not_on_the_list() {
        let (_buffers, mut ring) = ring();
        // SAFETY: neither entry points to memory that is written; the path is static.
        unsafe {
            ring.push(opcode::Nop::new().build().user_data(1));
            let path = c"/etc/passwd".as_ptr();
            ring.push(opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path).build().user_data(2));
            let linked = io_uring::squeue::Flags::IO_LINK;
            let poll = opcode::PollAdd::new(types::Fd(0), 0).build().flags(linked);
            ring.push(poll.user_data(3));
        }
        let mut completions = Vec::new();
        while completions.len() < 3 {
            ring.submit(Some(Duration::from_secs(1))).unwrap();
            ring.reap(&mut completions);
        }
        for completion in completions {
            assert_eq!(completion.result, -libc::EACCES, "operation {}", completion.user_data);
        }
        let registered = ring.ring.submitter().register_files(&[0]).unwrap_err();
        assert_eq!(registered.raw_os_error(), Some(libc::EACCES));
    }

    #[test]
    fn a_full_submission_queue_refuses_nothing_and_keeps_the_order() {
        let (_buffers, mut ring) = ring();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let fd = types::Fd(std::os::fd::AsRawFd::as_raw_fd(&reader));
        for number in 0..100 {
            // SAFETY: a poll points to no memory.
            unsafe {
                let poll = opcode::PollAdd::new(fd, u32::from(libc::POLLIN.cast_unsigned()));
                ring.push(poll.build().user_data(number));
            }
        }
        ring.push_cancel_fd(fd.0, 100);
        let mut completions = Vec::new();
        for _ in 0..100 {
            ring.submit(Some(Duration::from_secs(1))).unwrap();
            ring.reap(&mut completions);
            if completions.len() == 101 {
                break;
            }
        }
        let mut seen: Vec<u64> = completions.iter().map(|completion| completion.user_data).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..101).collect::<Vec<_>>(), "more than the completion queue holds, and none lost");
        assert_eq!(ring.completions_lost(), 0);
    }
}
