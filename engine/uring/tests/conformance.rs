//! The suite that every engine passes.

mod rig;

sluice_engine::engine_conformance!(rig::Uring);
