//! Long bodies, written and checked piece by piece and held nowhere. Knows the framing of HTTP/1.1, nothing of what a
//! head means.

use std::io::{BufRead, BufReader, BufWriter, Read, Result, Write};
use std::sync::OnceLock;

use super::servers::pattern;

/// A prime, so that no buffer's size divides it: what is lost, doubled or out of order does not fit any more.
const PERIOD: usize = 1_048_573;
const PIECE_BYTES: usize = 256 * 1024;

/// The bytes of every body from `position` on; at most [`PIECE_BYTES`] of them.
fn piece(position: u64, length: u64) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let once = pattern(PERIOD);
        [&once, &once[..PIECE_BYTES]].concat()
    });
    let start = (position % PERIOD as u64) as usize;
    &bytes[start..start + length.min(PIECE_BYTES as u64) as usize]
}

/// What was written or read of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of data.
    pub data: u64,
    /// Bytes with the framing, trailers included.
    pub wire: u64,
    /// Chunks but for the last.
    pub chunks: u64,
    /// Data bytes of the longest one.
    pub longest: u64,
    /// Chunks with an extension, the last one too.
    pub extended: u64,
    /// Trailer lines.
    pub trailers: Vec<String>,
}

/// Writes bodies.
pub struct Writer<W: Write> {
    to: BufWriter<W>,
    tally: Tally,
}

impl<W: Write> Writer<W> {
    /// To `to`, which should be the only way there.
    pub fn new(to: W) -> Self {
        Self { to: BufWriter::with_capacity(64 * 1024, to), tally: Tally::default() }
    }

    /// Writes a head, or whatever else there is before a body.
    ///
    /// # Errors
    /// When the other side does not take it.
    pub fn head(&mut self, head: &str) -> Result<()> {
        self.tally = Tally::default();
        self.to.write_all(head.as_bytes())?;
        self.to.flush()
    }

    /// Writes a chunk of that many data bytes; `extension` begins with a semicolon.
    ///
    /// # Errors
    /// When the other side does not take it.
    pub fn chunk(&mut self, length: u64, extension: &str) -> Result<()> {
        self.framing(&format!("{length:x}{extension}\r\n"))?;
        self.data(length)?;
        self.framing("\r\n")?;
        self.tally.chunks += 1;
        self.tally.longest = self.tally.longest.max(length);
        self.tally.extended += u64::from(!extension.is_empty());
        Ok(())
    }

    /// Writes the last chunk, trailers and all that is still held; returns the tally of this body.
    ///
    /// # Errors
    /// When the other side does not take it.
    pub fn end(&mut self, extension: &str, trailers: &[&str]) -> Result<Tally> {
        self.framing(&format!("0{extension}\r\n"))?;
        for line in trailers {
            self.framing(&format!("{line}\r\n"))?;
            self.tally.trailers.push((*line).to_owned());
        }
        self.framing("\r\n")?;
        self.tally.extended += u64::from(!extension.is_empty());
        self.to.flush()?;
        Ok(std::mem::take(&mut self.tally))
    }

    /// Writes bytes that are part of a chunk's framing, or that ought to be.
    ///
    /// # Errors
    /// When the other side does not take it.
    pub fn framing(&mut self, bytes: &str) -> Result<()> {
        self.tally.wire += bytes.len() as u64;
        self.to.write_all(bytes.as_bytes())
    }

    /// Writes that many data bytes without any framing, and returns the tally so far.
    ///
    /// # Errors
    /// When the other side does not take it.
    pub fn data(&mut self, length: u64) -> Result<Tally> {
        let end = self.tally.data + length;
        while self.tally.data < end {
            let bytes = piece(self.tally.data, end - self.tally.data);
            self.to.write_all(bytes)?;
            self.tally.data += bytes.len() as u64;
            self.tally.wire += bytes.len() as u64;
        }
        Ok(self.tally.clone())
    }

    /// Sends what is still held.
    ///
    /// # Errors
    /// When the other side does not take it.
    pub fn flush(&mut self) -> Result<()> {
        self.to.flush()
    }
}

/// Reads bodies and compares them with what a [`Writer`] writes.
pub struct Reader<R: Read> {
    from: BufReader<R>,
}

impl<R: Read> Reader<R> {
    /// From `from`, which nobody else may read.
    pub fn new(from: R) -> Self {
        Self { from: BufReader::with_capacity(PIECE_BYTES, from) }
    }

    /// Reads a head; `None` when the connection ends instead.
    pub fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.from.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        Some(head)
    }

    /// Reads that many bytes of text, whatever they are; `None` when the connection ends before.
    pub fn text(&mut self, length: usize) -> Option<String> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Reads a chunked body to its end.
    ///
    /// # Errors
    /// Where it differs from the pattern or from the chunked coding, or stops.
    pub fn chunked(&mut self) -> core::result::Result<Tally, String> {
        let mut tally = Tally::default();
        loop {
            let line = self.line(&mut tally)?;
            let (size, extension) =
                line.split_once(';').map_or((&*line, None), |(size, rest)| (size, Some(rest)));
            let length =
                u64::from_str_radix(size, 16).map_err(|_| format!("chunk size {line:?} after {tally:?}"))?;
            tally.extended += u64::from(extension.is_some());
            if length == 0 {
                break;
            }
            self.take(&mut tally, length)?;
            let end = self.line(&mut tally)?;
            if !end.is_empty() {
                return Err(format!("{end:?} behind a chunk, after {tally:?}"));
            }
            tally.chunks += 1;
            tally.longest = tally.longest.max(length);
        }
        loop {
            let line = self.line(&mut tally)?;
            if line.is_empty() {
                return Ok(tally);
            }
            tally.trailers.push(line);
        }
    }

    /// Reads a body of that many bytes.
    ///
    /// # Errors
    /// Where it differs from the pattern, or stops.
    pub fn fixed(&mut self, length: u64) -> core::result::Result<Tally, String> {
        let mut tally = Tally::default();
        self.take(&mut tally, length)?;
        Ok(tally)
    }

    fn take(&mut self, tally: &mut Tally, length: u64) -> core::result::Result<(), String> {
        let end = tally.data + length;
        while tally.data < end {
            let got = self.from.fill_buf().map_err(|error| format!("{error} after {tally:?}"))?;
            let wanted = piece(tally.data, end - tally.data);
            let taken = got.len().min(wanted.len());
            if taken == 0 {
                return Err(format!("the end after {tally:?}"));
            }
            if got[..taken] != wanted[..taken] {
                return Err(format!("other bytes within {taken} after {tally:?}"));
            }
            self.from.consume(taken);
            tally.data += taken as u64;
            tally.wire += taken as u64;
        }
        Ok(())
    }

    fn line(&mut self, tally: &mut Tally) -> core::result::Result<String, String> {
        let mut line = Vec::new();
        let read = (&mut self.from).take(4096).read_until(b'\n', &mut line);
        tally.wire += read.map_err(|error| format!("{error} after {tally:?}"))? as u64;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(format!("{:?} is no line, after {tally:?}", String::from_utf8_lossy(&line))),
        }
    }
}
