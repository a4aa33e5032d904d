//! One target per parser, for the policy and for relay traces.
