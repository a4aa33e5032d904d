//! Bytes in, facts out: strict and bounded parsers of the protocols sluice reads.
//!
//! Knows wire formats and nothing else: no sockets, no clock, no policy. A parser here says what is on the
//! wire or why it is not acceptable; whether a destination is allowed is decided by the caller from those facts.
//! Every parser is bounded by a limit that the caller gives or that stands in [`limits`].

#![no_std]

extern crate alloc;

pub mod basic;
pub mod http1;
pub mod limits;
pub mod proxy_protocol;
pub mod socks5;
pub mod tls;
