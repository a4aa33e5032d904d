//! The target `istio`, for cargo-fuzz or for replaying single inputs. Knows nothing of what it checks.

#![cfg_attr(fuzzing, no_main)]

sluice_fuzz::fuzz_program!("istio");
