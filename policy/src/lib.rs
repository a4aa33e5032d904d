//! Who may reach what, and why: the pure decision core of sluice.
//!
//! [`compile`] turns a [`PolicyInput`] (plain data that the configuration fills) into an immutable
//! [`Snapshot`]; [`decide`] judges one [`Request`] against it, [`explain`] runs the same code and keeps the
//! trail, and [`Snapshot::guard`] judges every single address before it is dialled.
//!
//! This crate does no I/O, reads no clock and draws no random numbers: the time is an argument, the hash seed
//! a field. It must not know sockets, wire formats, configuration files, or how a decision is carried out.
#![no_std]

extern crate alloc;

mod address;
mod compile;
mod decide;
mod explain;
mod guard;
mod host_list;
mod identity;
mod input;
pub mod limits;
mod name;
mod registry;
mod scope;
mod selector;
mod service;
mod snapshot;
mod trie;
mod warnings;

pub use address::{Cidr, CidrError, unwrap_address};
pub use compile::{CompileError, Problem, compile};
pub use decide::{Decision, Reason, Request, Shadow, UnixSeconds, Verdict, decide};
pub use explain::{Step, Trail, explain, explain_spoken};
pub use guard::{GuardClass, GuardInput, GuardRefusal};
pub use host_list::HostList;
pub use identity::{Identity, Proof, Source, WorkloadInput};
pub use input::{EndpointAddress, EndpointInput, Origin, PolicyInput, PortInput, ServiceInput};
pub use name::{Host, HostBuf, HostError, HostPattern, parse_host};
pub use registry::MatchId;
pub use scope::{Mode, Scope, ScopeId, ScopeInput};
pub use selector::{Pattern, PatternError, Selector};
pub use service::{
    Endpoint, Location, Port, PortId, Protocol, Resolution, Service, ServiceId, Spoken, UnknownWord,
};
pub use snapshot::{Counts, Snapshot};
pub use warnings::{Warning, WarningKind};
