//! Who may reach what, and why: the pure decision core of sluice.
