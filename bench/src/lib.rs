//! Load scenarios and micro-benchmarks.
