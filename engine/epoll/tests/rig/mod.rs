//! How the shared suite gets at this engine.

use std::future::Future;

use sluice_engine::conformance::{Rig, SMALL_TURN_BYTES, Tuning};
use sluice_engine_epoll::{Config, EpollEngine};

/// The epoll engine.
pub(crate) struct Epoll;

impl Rig for Epoll {
    type Engine = EpollEngine;

    fn run<F: Future>(tuning: Tuning, body: impl FnOnce(EpollEngine) -> F) -> F::Output {
        let Tuning { buffers_max: pool_buffers_max, pipes_max, small_turns } = tuning;
        let mut config = Config { pool_buffers_max, pipes_max, ..Config::default() };
        if small_turns {
            (config.turn_bytes_max, config.pipe_bytes) = (SMALL_TURN_BYTES, SMALL_TURN_BYTES);
        }
        let engine = EpollEngine::new(config);
        let engine = engine.expect("an engine");
        engine.block_on(body(engine.clone()))
    }
}
