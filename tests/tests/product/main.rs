//! The whole product as its users meet it, on the engine that `SLUICE_TEST_ENGINE` names. `./test` runs it on both.

mod admin;
mod cli;
mod denials;
mod dns;
mod doors;
mod faults;
mod http1;
mod http1_auth;
mod http1_peers;
mod http1_upgrade;
mod istio;
mod logs;
mod names;
mod parity;
mod proxy_protocol;
mod reach;
mod reload;
mod socks5;
mod start;
mod tunnels;
