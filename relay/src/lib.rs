//! One tunnel as a pure state machine.
