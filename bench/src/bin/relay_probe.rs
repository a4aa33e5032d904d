//! The smallest opaque relay on an engine: every connection is relayed to one address, nothing is decided or recorded.
//! It shows what an engine's relay costs without the product around it.
//!
//! `relay_probe --engine epoll --listen 127.0.0.1:7000 --to 127.0.0.1:8000`; it runs until it is killed.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use sluice_bench::Arguments;
use sluice_engine::{Engine, Listener, RelaySetup};
use sluice_engine_epoll::EpollEngine;
use sluice_engine_uring::UringEngine;

fn main() -> Result<()> {
    let arguments = Arguments::from_environment()?;
    let (listen, to) = (arguments.get("listen")?, arguments.get("to")?);
    match arguments.get::<String>("engine")?.as_str() {
        "epoll" => {
            let engine = EpollEngine::new(sluice_engine_epoll::Config::default())?;
            engine.block_on(serve(engine.clone(), listen, to))
        }
        "uring" => {
            let engine = UringEngine::new(sluice_engine_uring::Config::default())?;
            engine.block_on(serve(engine.clone(), listen, to))
        }
        other => bail!("there is no engine {other}"),
    }
}

async fn serve<E: Engine>(engine: E, listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let listener = engine.listen(listen, None)?;
    loop {
        let downstream = listener.accept().await?;
        let engine_too = engine.clone();
        engine.spawn(async move {
            let Ok(upstream) = engine_too.connect(to, None).await else { return };
            let relay = engine_too.relay(downstream, upstream, RelaySetup::default());
            // A task of its own, so that the tunnel costs what its relay needs and no more.
            engine_too.spawn(async move {
                relay.await;
            });
        });
    }
}
