//! Whole loads through the public interface: examples, mistakes, layers, files, reloads, damaged input.
// Helpers outside #[test] functions fail a test by panicking, as the tests themselves do.
#![allow(clippy::unwrap_used)]

mod common;
mod diff;
mod doors;
mod examples;
mod files;
mod istio;
mod istio_files;
mod istio_parity;
mod layers;
mod problems;
mod proxy_protocol;
mod robustness;
mod warnings;
