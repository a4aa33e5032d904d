//! Whole loads through the public interface: examples, mistakes, layers, files, reloads, damaged input.

mod common;
mod diff;
mod examples;
mod files;
mod layers;
mod problems;
mod robustness;
mod warnings;
