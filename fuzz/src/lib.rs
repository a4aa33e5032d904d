//! Fuzz bodies in one table: each takes any bytes and panics where a promise is broken.
//!
//! The same bodies run under cargo-fuzz (`cargo +nightly fuzz run client_hello`), as bounded seeded tests on stable
//! (`tests/smoke.rs`), and on single files (`cargo run -p sluice-fuzz --bin client_hello -- FILE…`). The program
//! `seeds` writes the seeds to where cargo-fuzz finds them. To add a target: a body, a line in [`TARGETS`], seeds in
//! [`corpus`], a program in `fuzz_targets/` and its entry in `Cargo.toml`.

pub mod corpus;
mod doors;
pub mod generate;
mod http1;
mod istio;
mod policy;
mod relay_trace;
mod tls;

/// Takes any bytes; panics where a promise is broken.
pub type Body = fn(&[u8]);

/// Every target by name. Their inputs are arbitrary; those that need choices take them from the first bytes.
pub const TARGETS: &[(&str, Body)] = &[
    ("authority", http1::authority),
    ("basic", http1::basic),
    ("chunked", http1::chunked),
    ("client_hello", tls::client_hello),
    ("decide", policy::decide),
    ("host", policy::host),
    ("istio", istio::import),
    ("proxy_protocol", doors::proxy_protocol),
    ("relay_trace", relay_trace::body),
    ("request_head", http1::request_head),
    ("response_head", http1::response_head),
    ("socks5", doors::socks5),
];

/// A target that is broken on purpose, one bit away from its seed: whoever runs bodies must find out.
pub const CANARY: (&str, Body) = ("canary", canary);

fn canary(data: &[u8]) {
    assert!(data != b"fuzz", "the canary is found");
}

/// The body of a target.
///
/// # Panics
/// When [`TARGETS`] has no such name.
#[must_use]
pub fn target(name: &str) -> Body {
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, body)) => *body,
        None => panic!("no fuzz target is called {name}"),
    }
}

/// Runs a target on the files named on the command line, to reproduce what a fuzzer has found.
///
/// # Panics
/// When a file cannot be read, and where the body does.
pub fn replay(name: &str) {
    let body = target(name);
    for path in std::env::args_os().skip(1) {
        match std::fs::read(&path) {
            Ok(data) => body(&data),
            Err(error) => panic!("{}: {error}", path.display()),
        }
        println!("{name}: {} holds", path.display());
    }
}

/// The program of one target: a fuzzer under cargo-fuzz, [`replay`] otherwise.
#[macro_export]
macro_rules! fuzz_program {
    ($name:literal) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::target($name)(data));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay($name);
        }
    };
}
