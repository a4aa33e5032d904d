//! A counter in front of a server: it listens where the server is looked for, passes everything on and knows to the
//! byte what moved. It must not know what is spoken.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Origin;
use super::origin::Peer;

/// What passed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Connections that reached it.
    pub connections: u64,
    /// Bytes that came for the server.
    pub to_server: u64,
    /// Bytes that the server sent.
    pub to_client: u64,
}

impl Passed {
    /// What passed since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            connections: self.connections - before.connections,
            to_server: self.to_server - before.to_server,
            to_client: self.to_client - before.to_client,
        }
    }
}

/// The counter. Made and dropped in the namespace that it listens in.
pub struct Meter {
    origin: Origin,
    to_client: Arc<AtomicU64>,
}

impl Meter {
    /// Listens on `at` for the server on `server`.
    ///
    /// # Panics
    /// When the address cannot be bound.
    #[must_use]
    pub fn start(at: SocketAddr, server: SocketAddr) -> Self {
        let to_client = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&to_client);
        let origin = Origin::at(at, move |peer| pass(peer, server, &counted));
        Self { origin, to_client }
    }

    /// What passed so far. A connection counts as soon as it is there, a byte once it has been read.
    #[must_use]
    pub fn passed(&self) -> Passed {
        Passed {
            connections: self.origin.accepted(),
            to_server: self.origin.bytes(),
            to_client: self.to_client.load(SeqCst),
        }
    }
}

fn pass(peer: &mut Peer, server: SocketAddr, to_client: &Arc<AtomicU64>) {
    let Ok(mut upstream) = TcpStream::connect(server) else { return peer.reset() };
    upstream.set_nodelay(true).ok();
    let (Ok(from), Ok(to)) = (upstream.try_clone(), peer.stream.try_clone()) else { return peer.reset() };
    let counted = Arc::clone(to_client);
    let back = std::thread::spawn(move || pass_back(from, to, &counted));
    while let Some(bytes) = peer.read_some() {
        if bytes.is_empty() || upstream.write_all(&bytes).is_err() {
            break;
        }
    }
    upstream.shutdown(Shutdown::Write).ok();
    // A panic there has been printed.
    back.join().ok();
}

fn pass_back(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut block = vec![0; 64 * 1024];
    loop {
        match from.read(&mut block) {
            Ok(read) if read > 0 => {
                counted.fetch_add(read as u64, SeqCst);
                if to.write_all(&block[..read]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    to.shutdown(Shutdown::Write).ok();
}
