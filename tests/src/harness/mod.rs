//! The real `sluice` program among real clients, origins and DNS servers, all on loopback addresses and free ports.
//!
//! Whatever a test starts belongs to a value and ends when that is dropped. Nothing here knows the product's code: it
//! sees what a user sees, which is the command line, the configuration, the sockets, the logs and the admin API.

pub mod bodies;
pub mod captured;
pub mod cgroup;
pub mod client;
pub mod config;
pub mod container;
pub mod databases;
pub mod dns;
pub mod gateway;
pub mod hello;
pub mod meter;
pub mod netns;
pub mod origin;
pub mod process;
pub mod resolvers;
pub mod servers;
pub mod tools;
pub mod wait;

pub use client::{Ending, Http, Response};
pub use config::{Service, allow_any, door, registry_only};
pub use dns::Dns;
pub use gateway::{Gateway, engine};
pub use origin::Origin;
pub use wait::{DEADLINE, until};
