//! The policy's behaviour, point by point: one module per part of the design, and properties over random
//! policies.

mod addresses;
mod compiling;
mod explaining;
mod guard;
mod matching;
mod names;
mod properties;
mod sources;
mod support;
