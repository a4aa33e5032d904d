//! Stands in for the policy crate's types until they exist; replaced by `sluice_policy` in the next change.
#![allow(missing_docs)]
#[derive(Debug, Default)]
pub struct Snapshot;
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity;
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict;
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reason;
