//! TOML to a checked plan and a compiled policy.
