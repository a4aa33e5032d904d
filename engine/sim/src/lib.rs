//! The simulated engine: seeded, virtual time, a network in memory.
//!
//! [`Sim`] is one small world: hosts, connections, a clock that jumps, tasks. [`Sim::engine`] is the machine under
//! test; [`Sim::outside`] makes hosts for clients and origins, whose tasks use the same [`Engine`] trait. Everything
//! that may happen in several orders happens in an order drawn from the seed; everything that may go wrong goes wrong
//! as often as [`Faults`] says. The same seed gives the same run, to the last step ([`Sim::trace_hash`]).
//!
//! A run that panics prints its seed; `SLUICE_SIM_SEED=<seed>` makes [`seeds`] give only that one.
//!
//! There is one thread: a wake from another one is taken at the next step, but a world in which nothing can happen
//! does not wait for it.
//!
//! What it knows of TCP: ordered bytes with latency, bounded buffers, half-close, resets (also those that a close with
//! unread bytes and bytes for a closed socket cause), refusal, time-out, silence. It knows no policy and no protocol.
//!
//! [`Engine`]: sluice_engine::Engine

mod engine;
mod executor;
mod faults;
pub mod limits;
mod listener;
mod network;
mod observe;
mod pipe;
mod random;
mod relay;
mod sim;
mod sleep;
mod socket;
mod state;
mod stream;

pub use engine::SimEngine;
pub use faults::{Bounds, Faults};
pub use listener::SimListener;
pub use network::Capture;
pub use observe::{Attempt, AttemptOutcome, Connection, OpenCounts};
pub use pipe::SimPipe;
pub use sim::{Sim, for_each_seed, seeds};
pub use sleep::SimSleep;
pub use stream::{SimAbort, SimStream};
