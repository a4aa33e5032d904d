//! One tunnel as a pure state machine: credit, half-close, reset, promotion to splice, revocation, exact byte counts.
//!
//! It does no I/O and reads no clock. An engine performs its [`Action`]s and tells it what came of them as
//! [`Input`]s; time comes in as an argument, in milliseconds on any monotonic scale.
//!
//! [`Machine`] is the place to start reading: its documentation has the table of states and the engine's duties.
#![no_std]

#[cfg(test)]
extern crate std;

mod action;
mod direction;
mod input;
pub mod limits;
mod machine;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod report;
mod settings;

pub use action::{Action, Actions};
pub use input::{Input, Side, Start};
pub use machine::Machine;
pub use report::{Counters, End, Report};
pub use settings::Settings;
