//! Writes every target's seeds to `fuzz/corpus/<target>/`, where cargo-fuzz looks for them. Knows nothing of targets.

use std::path::Path;

use sluice_fuzz::{TARGETS, corpus};

fn main() -> std::io::Result<()> {
    for (name, _) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in corpus::seeds(name).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
