//! A simulated world around the production worker: its control plane, clients and origins, all under one seed.

pub mod client;
pub mod origin;
pub mod world;

/// The payload that both ends can compute: `length` bytes that depend on `tag`.
pub fn pattern(tag: u64, length: usize) -> Vec<u8> {
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state & 0xff) as u8
        })
        .collect()
}
