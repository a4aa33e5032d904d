//! Inputs made from a seed: random ones and mutations of a corpus. Knows nothing of what they are fed to.

use crate::Body;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Longest input made by mutation or at random; seeds may be longer.
pub const INPUT_BYTES_MAX: usize = 4 * 1024;

/// SplitMix64: small, fast, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of that seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub const fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    /// A number below 2 to some power below `powers`: mostly small, large now and then.
    const fn small(&mut self, powers: usize) -> usize {
        let bound = 1 << self.below(powers);
        self.below(bound)
    }

    fn byte(&mut self) -> u8 {
        // Bytes that grammars turn upon come up far more often than by chance.
        const TELLING: &[u8] = b"\r\n \t:;,/@[]%.-_0129afxZ\0\x01\x0b\x16\x7f\x80\xff";
        match self.below(3) {
            0 => self.next() as u8,
            _ => TELLING[self.below(TELLING.len())],
        }
    }
}

/// The next input: now and then random bytes, else a seed with a few changes, sometimes spliced with another.
#[must_use]
pub fn input(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    if seeds.is_empty() || random.below(16) == 0 {
        let length = random.small(10);
        return (0..length).map(|_| random.byte()).collect();
    }
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        mutate(random, &mut data, seeds);
    }
    data
}

fn mutate(random: &mut Random, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(data.len() + 1);
    let run = random.small(8).min(data.len() - at);
    match random.below(8) {
        0 => data.truncate(at),
        1 => drop(data.drain(at..at + run)),
        2 => data.insert(at, random.byte()),
        3 => {
            let copied = data[at..at + run].to_vec();
            let to = random.below(data.len() + 1);
            data.splice(to..to, copied);
        }
        4 => {
            let other = &seeds[random.below(seeds.len())];
            data.truncate(at);
            data.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
        5 if at < data.len() => data[at] = random.byte(),
        6 if at < data.len() => data[at] = data[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xff }),
        _ if at < data.len() => data[at] ^= 1 << random.below(8),
        _ => data.push(random.byte()),
    }
    if data.len() > INPUT_BYTES_MAX {
        data.truncate(INPUT_BYTES_MAX.max(seeds.iter().map(Vec::len).max().unwrap_or(0)));
    }
}

/// Runs a body on its seeds and then on `inputs` inputs made from `seed`.
///
/// # Errors
/// The first input that it panicked on.
pub fn run(body: Body, seeds: &[Vec<u8>], seed: u64, inputs: usize) -> Result<(), Vec<u8>> {
    let holds = |data: &[u8]| catch_unwind(AssertUnwindSafe(|| body(data))).is_ok();
    if let Some(broken) = seeds.iter().find(|data| !holds(data)) {
        return Err(broken.clone());
    }
    let mut random = Random::new(seed);
    for _ in 0..inputs {
        let data = input(&mut random, seeds);
        if !holds(&data) {
            return Err(data);
        }
    }
    Ok(())
}
