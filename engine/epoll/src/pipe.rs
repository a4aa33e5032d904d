//! The worker's stock of pipes for splice(2). Only empty pipes come back to it. Knows nothing of sockets or tunnels.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::limits::PIPE_BYTES_MIN;

/// A pipe; bytes that were spliced into it wait here for the other socket.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read_end: OwnedFd,
    pub(crate) write_end: OwnedFd,
    /// What fits, in bytes.
    pub(crate) capacity: usize,
    /// What is in it now, in bytes.
    pub(crate) parked: usize,
}

/// At most a fixed number of pipes, used last in, first out.
#[derive(Debug)]
pub(crate) struct PipePool {
    free: RefCell<Vec<Pipe>>,
    out: Cell<usize>,
    pipes_max: usize,
    pipe_bytes: usize,
}

impl PipePool {
    pub(crate) fn new(pipes_max: usize, pipe_bytes: usize) -> Self {
        Self { free: RefCell::new(Vec::new()), out: Cell::new(0), pipes_max, pipe_bytes }
    }

    /// An empty pipe, or none if all are in use or the kernel refuses one of useful size.
    pub(crate) fn take(&self) -> Option<Pipe> {
        if self.out.get() >= self.pipes_max {
            return None;
        }
        let pipe = self.free.borrow_mut().pop().or_else(|| self.open())?;
        self.out.set(self.out.get() + 1);
        Some(pipe)
    }

    /// Takes a pipe back; one that holds bytes is closed, so that they can never reach another tunnel.
    pub(crate) fn give(&self, pipe: Pipe) {
        self.out.set(self.out.get().saturating_sub(1));
        if pipe.parked == 0 {
            self.free.borrow_mut().push(pipe);
        }
    }

    fn open(&self) -> Option<Pipe> {
        let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Without room under the user's limit the kernel refuses to grow a pipe; its default size serves too.
        let capacity = match fcntl_setpipe_size(&write_end, self.pipe_bytes) {
            Ok(granted) => granted,
            Err(_) => rustix::pipe::fcntl_getpipe_size(&write_end).ok()?,
        };
        (capacity >= PIPE_BYTES_MIN).then_some(Pipe { read_end, write_end, capacity, parked: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_only_empty_pipes_come_back() {
        let pool = PipePool::new(1, 64 * 1024);
        let mut pipe = pool.take().unwrap();
        assert!(pool.take().is_none(), "the bound holds");
        assert!(pipe.capacity >= 64 * 1024);
        rustix::io::write(&pipe.write_end, b"left over").unwrap();
        pipe.parked = 9;
        pool.give(pipe);
        let pipe = pool.take().expect("a pipe that was closed leaves room for a new one");
        let mut bytes = [0; 16];
        assert_eq!(
            rustix::io::read(&pipe.read_end, &mut bytes),
            Err(rustix::io::Errno::AGAIN),
            "it is empty"
        );
        pool.give(pipe);
        assert_eq!(pool.free.borrow().len(), 1);
    }
}
