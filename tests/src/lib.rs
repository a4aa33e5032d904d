//! Whole-product tests: what they share. Nothing of the product imports this crate.

pub mod harness;
pub mod sim;
