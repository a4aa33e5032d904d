//! The whole product as its users meet it, on the engine that `SLUICE_TEST_ENGINE` names. `./test` runs it on both.

mod admin;
mod cli;
mod denials;
mod descriptors;
mod desync;
mod dns;
mod doors;
mod faults;
mod hellos;
mod http1;
mod http1_auth;
mod http1_peers;
mod http1_upgrade;
mod logs;
mod names;
mod packaging;
mod parity;
mod proxy_protocol;
mod reach;
mod rebinding;
mod reload;
mod start;
mod tunnels;
mod typed;
mod uplink;
