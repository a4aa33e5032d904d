//! Runs every fuzz body on seeded inputs, bounded, on stable. Knows nothing of what a body checks.

use sluice_fuzz::generate::run;
use sluice_fuzz::{CANARY, TARGETS, corpus};

const SEED: u64 = 0x51u64;
const INPUTS: usize = 50_000;

#[test]
fn every_target_holds() {
    for (name, body) in TARGETS {
        let seeds = corpus::seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        if let Err(data) = run(*body, &seeds, SEED, INPUTS) {
            panic!("{name} broke, seed {SEED:#x}, on the input b\"{}\"", data.escape_ascii());
        }
    }
}

#[test]
fn the_canary_is_found() {
    let (name, body) = CANARY;
    assert_eq!(run(body, &corpus::seeds(name), SEED, INPUTS), Err(b"fuzz".to_vec()));
}

#[test]
fn every_target_has_its_program_and_every_program_its_target() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz_targets");
    let files = std::fs::read_dir(folder).expect("the folder of programs");
    let mut programs: Vec<String> = files
        .map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8"))
        .map(|file| file.strip_suffix(".rs").expect("only programs").to_owned())
        .collect();
    programs.sort_unstable();
    let targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, targets, "TARGETS in alphabetical order");
}

#[test]
fn the_same_seed_makes_the_same_inputs() {
    use sluice_fuzz::generate::{Random, input};
    let seeds = corpus::seeds("request_head");
    let inputs = |seed| {
        let mut random = Random::new(seed);
        (0..100).map(|_| input(&mut random, &seeds)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}
