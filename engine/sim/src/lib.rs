//! The simulated engine: seeded, virtual time.
