//! The pipes through which bulk is spliced: few, reused, and never passed on with bytes in them. Knows no sockets.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use crate::limits::PIPE_BYTES_MIN;

/// One pipe and what is parked in it.
pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
    /// Bytes in the pipe.
    pub(crate) parked: usize,
    /// Bytes that fit, if they come in whole pages.
    pub(crate) capacity: usize,
}

impl Pipe {
    fn open(bytes: usize) -> Option<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let mut wanted = bytes;
        // An unprivileged user is refused a size beyond /proc/sys/fs/pipe-max-size or the user's share of pages.
        while wanted >= PIPE_BYTES_MIN && fcntl_setpipe_size(&writer, wanted).is_err() {
            wanted /= 2;
        }
        let capacity = fcntl_getpipe_size(&writer).ok()?;
        (capacity >= PIPE_BYTES_MIN).then_some(Self { reader, writer, parked: 0, capacity })
    }
}

/// A bounded stock of pipes, last in, first out.
pub(crate) struct Pipes {
    spare: Vec<Pipe>,
    /// Pipes that exist, spare or in use.
    count: usize,
    pipes_max: usize,
    pipe_bytes: usize,
}

impl Pipes {
    pub(crate) fn new(pipes_max: usize, pipe_bytes: usize) -> Self {
        Self { spare: Vec::new(), count: 0, pipes_max, pipe_bytes }
    }

    /// An empty pipe; none if the bound is reached or the system has none to give.
    pub(crate) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        if self.count >= self.pipes_max {
            return None;
        }
        let pipe = Pipe::open(self.pipe_bytes)?;
        self.count += 1;
        Some(pipe)
    }

    /// Takes a pipe back. One that holds bytes is closed: they are somebody's, and never another flow's.
    pub(crate) fn give(&mut self, pipe: Pipe) {
        if pipe.parked == 0 {
            self.spare.push(pipe);
        } else {
            self.count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PIPE_BYTES;

    #[test]
    fn the_pool_is_bounded_and_takes_no_pipe_with_bytes_in_it() {
        let mut pipes = Pipes::new(1, PIPE_BYTES);
        let mut pipe = pipes.take().unwrap();
        assert!(pipe.capacity >= PIPE_BYTES_MIN);
        assert!(pipes.take().is_none(), "the bound holds");
        rustix::io::write(&pipe.writer, b"someone's").unwrap();
        pipe.parked = 9;
        pipes.give(pipe);
        let fresh = pipes.take().unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&fresh.reader, &mut byte), Err(rustix::io::Errno::AGAIN), "it is empty");
        pipes.give(fresh);
        assert_eq!((pipes.spare.len(), pipes.count), (1, 1));
    }
}
