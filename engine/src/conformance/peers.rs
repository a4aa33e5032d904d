//! The peers of the suite: blocking sockets, a signal across threads, bytes that prove their own order.

use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// A peer that waits longer for the engine gives up.
const PEER_MAX: Duration = Duration::from_secs(30);

/// How long a writer sees no progress before it counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(500);

pub(super) fn door() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

pub(super) fn address(door: &TcpListener) -> SocketAddr {
    door.local_addr().unwrap()
}

pub(super) fn connect(to: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(to).unwrap())
}

pub(super) fn accept(door: &TcpListener) -> TcpStream {
    patient(door.accept().unwrap().0)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PEER_MAX)).unwrap();
    stream.set_write_timeout(Some(PEER_MAX)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Closes with a reset.
pub(super) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Reads to the end, which must be a reset; how many bytes came before it.
pub(super) fn read_to_reset(mut stream: TcpStream) -> usize {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => bytes.len(),
        other => panic!("expected a reset after {} bytes, got {other:?}", bytes.len()),
    }
}

pub(super) fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

pub(super) fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Writes until no byte has moved for a while; how many were taken.
pub(super) fn write_until_blocked(stream: &mut TcpStream) -> usize {
    stream.set_write_timeout(Some(BLOCKED_AFTER)).unwrap();
    let chunk = vec![b'x'; 64 * 1024];
    let mut written = 0;
    loop {
        match stream.write(&chunk) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return written,
            Err(error) => panic!("expected to be held back after {written} bytes: {error}"),
        }
        assert!(written < 1 << 30, "nothing holds the sender back");
    }
}

/// Gives back whatever comes, until the end.
pub(super) fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 16 * 1024];
    loop {
        match stream.read(&mut bytes).unwrap() {
            0 => return,
            count => stream.write_all(&bytes[..count]).unwrap(),
        }
    }
}

const BLOCK_BYTES: usize = 64 * 1024;

/// The bytes of one block of a flow: each block differs, so that loss, doubling and reordering show.
fn fill(block: u64, bytes: &mut [u8]) {
    let mut state = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Writes a flow of whole blocks.
pub(super) fn write_flow(stream: &mut impl Write, bytes: usize, seed: u64) {
    let mut block = vec![0; BLOCK_BYTES];
    for index in 0..bytes / BLOCK_BYTES {
        fill(seed + index as u64, &mut block);
        stream.write_all(&block).unwrap();
    }
}

/// Reads such a flow and compares every byte.
pub(super) fn read_flow(stream: &mut impl Read, bytes: usize, seed: u64) {
    let (mut block, mut expected) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    for index in 0..bytes / BLOCK_BYTES {
        fill(seed + index as u64, &mut expected);
        stream.read_exact(&mut block).unwrap();
        assert!(block == expected, "block {index} of the flow is not what was sent");
    }
}

/// Set once, seen by any thread and by a task.
#[derive(Clone, Debug, Default)]
pub struct Signal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    set: bool,
    waiting: Option<Waker>,
}

impl Signal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the task and the threads that wait.
    pub fn set(&self) {
        let mut state = self.state();
        state.set = true;
        let waiting = state.waiting.take();
        drop(state);
        self.0.changed.notify_all();
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Blocks this thread until it is set.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn wait(&self) {
        let outcome = self.0.changed.wait_timeout_while(self.state(), PEER_MAX, |state| !state.set);
        let (state, _) = outcome.unwrap_or_else(PoisonError::into_inner);
        assert!(state.set, "the signal never came");
    }

    /// Waits in a task, of which there may be one.
    pub fn seen(&self) -> impl Future<Output = ()> {
        poll_fn(|cx| {
            let mut state = self.state();
            if state.set {
                return Poll::Ready(());
            }
            state.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}
