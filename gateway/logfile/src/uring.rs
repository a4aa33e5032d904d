//! Appending bytes to an open file through a ring of its own. Knows no lines.

use std::fs::File;
use std::io;

use sluice_controlplane::{Append, Appended};
use tokio_uring::buf::BoundedBuf;

/// Entries of the ring: one write is in flight at a time.
const RING_ENTRIES: u32 = 8;

/// Through a ring where the system gives one, else by plain calls.
pub(crate) fn append(file: File) -> Box<dyn Append> {
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES);
    match tokio_uring::Runtime::new(&builder) {
        Ok(runtime) => Box::new(Uring { runtime, file: Some(tokio_uring::fs::File::from_std(file)) }),
        Err(error) => {
            tracing::info!(%error, "the access log is written by plain file calls: io_uring is blocked");
            Box::new(file)
        }
    }
}

/// It stays on the thread that made it.
struct Uring {
    runtime: tokio_uring::Runtime,
    /// Closed through the ring, so taken out to close it.
    file: Option<tokio_uring::fs::File>,
}

impl Append for Uring {
    fn append(&mut self, bytes: Vec<u8>) -> Appended {
        match &self.file {
            Some(file) => self.runtime.block_on(append_all(file, bytes)),
            None => Appended { bytes, length: 0, error: Some(io::ErrorKind::NotConnected.into()) },
        }
    }

    fn replace(&mut self, new: File) {
        self.close();
        self.file = Some(tokio_uring::fs::File::from_std(new));
    }
}

impl Uring {
    fn close(&mut self) {
        let Some(file) = self.file.take() else { return };
        if let Err(error) = self.runtime.block_on(file.close()) {
            tracing::warn!(%error, "closing the access log");
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.close();
    }
}

/// The file is open for appending, so that the offset of a write does not count.
async fn append_all(file: &tokio_uring::fs::File, mut bytes: Vec<u8>) -> Appended {
    let mut length = 0;
    while length < bytes.len() {
        let (result, slice) = file.write_at(bytes.slice(length..), 0).submit().await;
        bytes = slice.into_inner();
        match result {
            Ok(0) => return Appended { bytes, length, error: Some(io::ErrorKind::WriteZero.into()) },
            Ok(taken) => length += taken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Appended { bytes, length, error: Some(error) },
        }
    }
    Appended { bytes, length, error: None }
}
