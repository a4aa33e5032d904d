//! What a client wants, read from its first bytes without answering them. The bytes themselves are kept, unmodified.

use sluice_bridge::Phase;
use sluice_engine::{Buffer, Engine, Stream};
use sluice_policy::Reason;
use sluice_proto::tls::{ClientHello, HelloError, HelloParser};

use crate::connection::Connection;

/// A ClientHello and every byte that has arrived so far.
pub(crate) struct Sniffed {
    pub(crate) hello: ClientHello,
    pub(crate) early: Buffer,
}

/// Why there is no ClientHello to judge.
#[derive(Debug)]
pub(crate) enum NoHello {
    /// The bytes are no acceptable ClientHello; the name that was refused, where one was.
    Refused(HelloError, Option<String>),
    /// The client ended or failed within its hello.
    Gone,
    /// The client ended or failed before it sent anything: a probe of the port, a client that thought better of it.
    Nothing,
    /// The client took too long.
    Timeout,
}

impl NoHello {
    /// Why the flow is denied; `None` where nothing was asked for.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(HelloError::NotTls { .. }, _) => Some(Reason::ProtocolMismatch),
            Self::Refused(HelloError::TooLong { .. }, _) => Some(Reason::Limit),
            Self::Refused(..) | Self::Gone => Some(Reason::Malformed),
            Self::Timeout => Some(Reason::SniffTimeout),
            Self::Nothing => None,
        }
    }

    /// The server name that was refused, as it was sent.
    pub(crate) fn name_text(&self) -> Option<&str> {
        match self {
            Self::Refused(_, name) => name.as_deref(),
            Self::Gone | Self::Nothing | Self::Timeout => None,
        }
    }
}

/// Reads until the ClientHello is whole, within the limits in force. `early` are bytes that were received before.
pub(crate) async fn client_hello<E: Engine>(
    connection: &Connection<E>,
    stream: &E::Stream,
    early: Option<Buffer>,
) -> Result<Sniffed, NoHello> {
    connection.phase.set(Phase::Sniffing);
    let worker = &connection.worker;
    let (bytes_max, timeout_ms) = {
        let snapshot = worker.snapshot();
        (snapshot.limits.hello_bytes_max, snapshot.limits.sniff_timeout_ms)
    };
    let deadline = worker.deadline_in_ms(timeout_ms);
    let mut parser = HelloParser::new(bytes_max);
    let mut held = Held::default();
    let mut next = early;
    loop {
        let buffer = match next.take() {
            Some(buffer) => buffer,
            None => match deadline.run(stream.receive()).await {
                Ok(Ok(buffer)) if !buffer.is_empty() => buffer,
                Ok(_) if held.bytes().is_empty() => return Err(NoHello::Nothing),
                Ok(_) => return Err(NoHello::Gone),
                Err(_) => return Err(NoHello::Timeout),
            },
        };
        let fed = parser.feed(&buffer);
        match fed {
            Ok(Some(hello)) => {
                held.push(buffer);
                return Ok(Sniffed { hello, early: held.into_buffer() });
            }
            Ok(None) => held.push(buffer),
            Err(error) => {
                let name = parser.rejected_name().map(|name| String::from_utf8_lossy(name).into_owned());
                return Err(NoHello::Refused(error, name));
            }
        }
    }
}

/// Received bytes in order: one buffer while they fit one, a vector beyond that.
#[derive(Default)]
pub(crate) struct Held {
    bytes: Option<Buffer>,
}

impl Held {
    pub(crate) fn push(&mut self, buffer: Buffer) {
        let Some(mut first) = self.bytes.take() else {
            self.bytes = Some(buffer);
            return;
        };
        if !first.append(&buffer) {
            // Doubling keeps the total cost of many small pieces linear.
            let mut larger = Buffer::with_capacity((first.len() + buffer.len()) * 2);
            let fits = larger.append(&first) && larger.append(&buffer);
            debug_assert!(fits, "made to fit");
            first = larger;
        }
        self.bytes = Some(first);
    }

    /// All of them.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }

    /// Drops bytes from the front.
    pub(crate) fn advance(&mut self, count: usize) {
        if let Some(bytes) = &mut self.bytes {
            bytes.advance(count);
        }
    }

    pub(crate) fn into_buffer(self) -> Buffer {
        self.bytes.unwrap_or_else(Buffer::end_of_stream)
    }
}
