//! An origin that does exactly what a test has written down, one script per connection, and keeps what it was sent.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sluice_engine::{Buffer, Engine, Listener, Stream};
use sluice_engine_sim::{Sim, SimEngine, SimStream};

use super::world::{ALLOWED, Setup, World, registry_only};

/// A response that anybody may see.
pub const HONEST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest";
/// A response that nobody may.
pub const FORGED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";

/// One thing that an origin does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads until it has had this many request heads, whatever else came with them.
    Heads(usize),
    /// Reads until it has had this many bytes behind the last head it waited for.
    Behind(usize),
    /// Sends.
    Send(Vec<u8>),
    /// Waits.
    Pause(Duration),
    /// Sends back what comes, what came behind the last head first, until the other side ends.
    Echo,
    /// Ends the connection with a reset.
    Reset,
}

/// A text to send.
pub fn send(text: impl AsRef<[u8]>) -> Step {
    Step::Send(text.as_ref().to_vec())
}

/// What a scripted origin was sent, by connection.
#[derive(Clone, Default)]
pub struct Heard(Rc<RefCell<Vec<Vec<u8>>>>);

impl Heard {
    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.0.borrow().len()
    }

    /// What came on the `index`-th connection, as text.
    pub fn text(&self, index: usize) -> String {
        String::from_utf8_lossy(&self.0.borrow()[index]).into_owned()
    }

    /// What came on all of them, as text.
    pub fn all(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow().concat()).into_owned()
    }
}

/// A world whose only origin, that of `allowed.test` on port 80, plays `script(n)` on its n-th connection; and its clients'
/// host.
pub fn world(
    sim: Sim,
    setup: Setup,
    script: impl Fn(usize) -> Vec<Step> + 'static,
) -> (World, SimEngine, Heard) {
    let world = World::with(sim, registry_only(), setup);
    let heard = serve(&world.host(200), SocketAddr::new(ALLOWED.into(), 80), script);
    let engine = world.host(5);
    (world, engine, heard)
}

/// A script whose first connection plays `steps`; all others answer honestly.
pub fn first(steps: Vec<Step>) -> impl Fn(usize) -> Vec<Step> {
    move |index| match index {
        0 => steps.clone(),
        _ => vec![[Step::Heads(1), send(HONEST)]; 10].concat(),
    }
}

/// Serves `script(n)` to the n-th connection; at its end the connection is closed in order.
pub fn serve(
    engine: &SimEngine,
    address: SocketAddr,
    script: impl Fn(usize) -> Vec<Step> + 'static,
) -> Heard {
    let listener = engine.listen(address, None).expect("a free address");
    let (engine, heard) = (engine.clone(), Heard::default());
    let result = heard.clone();
    engine.clone().spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let index = heard.connections();
            heard.0.borrow_mut().push(Vec::new());
            let connection =
                Connection { engine: engine.clone(), stream, heard: heard.clone(), index, taken: 0 };
            let steps = script(index);
            engine.spawn(async move {
                // The end of a connection, whoever ended it.
                let _ = connection.play(steps).await;
            });
        }
    });
    result
}

struct Connection {
    engine: SimEngine,
    stream: SimStream,
    heard: Heard,
    index: usize,
    /// Where what has been waited for ends.
    taken: usize,
}

/// The connection is over.
struct Over;

impl Connection {
    async fn play(mut self, steps: Vec<Step>) -> Result<(), Over> {
        for step in steps {
            match step {
                Step::Heads(count) => {
                    for _ in 0..count {
                        self.head().await?;
                    }
                }
                Step::Behind(count) => {
                    while self.heard_bytes() < self.taken + count {
                        self.more().await?;
                    }
                    self.taken += count;
                }
                Step::Send(bytes) => self.send(&bytes).await?,
                Step::Pause(time) => self.engine.sleep_until(self.engine.now() + time).await,
                Step::Echo => self.echo().await?,
                Step::Reset => {
                    self.stream.reset();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn heard_bytes(&self) -> usize {
        self.heard.0.borrow()[self.index].len()
    }

    async fn head(&mut self) -> Result<(), Over> {
        loop {
            let end = {
                let heard = self.heard.0.borrow();
                let rest = &heard[self.index][self.taken..];
                rest.windows(4).position(|window| window == b"\r\n\r\n")
            };
            match end {
                Some(at) => {
                    self.taken += at + 4;
                    return Ok(());
                }
                None => self.more().await?,
            }
        }
    }

    async fn echo(&mut self) -> Result<(), Over> {
        loop {
            let fresh = self.heard.0.borrow()[self.index][self.taken..].to_vec();
            self.taken += fresh.len();
            self.send(&fresh).await?;
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Over> {
        match self.stream.receive().await {
            Ok(buffer) if !buffer.is_empty() => {
                self.heard.0.borrow_mut()[self.index].extend_from_slice(&buffer);
                Ok(())
            }
            _ => Err(Over),
        }
    }

    async fn send(&self, bytes: &[u8]) -> Result<(), Over> {
        for piece in bytes.chunks(10_000) {
            self.stream.send(Buffer::from(piece.to_vec())).await.map_err(|_| Over)?;
        }
        Ok(())
    }
}
