//! Damaged configurations: never a panic, never quietly looser than what is written.

use std::path::PathBuf;

use proptest::prelude::*;
use sluice_config::{Loaded, Report, Source, load};
use sluice_policy::Mode;

fn originals() -> Vec<Vec<u8>> {
    ["allow-any.toml", "registry-only.toml", "databases.toml"]
        .map(|name| std::fs::read(crate::common::examples().join(name)).unwrap())
        .to_vec()
}

/// A folder with what the examples name, for damaged copies of them.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["hosts/partners.txt", "secrets/checkout.password"] {
            let to = folder.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(crate::common::examples().join(file), to).unwrap();
        }
        Self(folder)
    }

    fn load(&self, bytes: &[u8]) -> Result<Loaded, Report> {
        let path: PathBuf = self.0.path().join("sluice.toml");
        std::fs::write(&path, bytes).unwrap();
        let result = load(&Source::isolated(Some(path)));
        if let Err(report) = &result {
            assert!(!report.errors.is_empty());
            assert!(!report.to_string().is_empty());
        }
        result
    }
}

#[test]
fn no_truncation_opens_the_gate() {
    let folder = Folder::new();
    for original in originals() {
        let text = std::str::from_utf8(&original).unwrap();
        let mode_line = text.lines().find(|line| line.starts_with("mode")).unwrap();
        let mode_end = text.find(mode_line).unwrap() + mode_line.len();
        let whole = folder.load(&original).unwrap().plan;
        for length in 0..original.len() {
            match folder.load(&original[..length]) {
                Ok(loaded) => {
                    assert!(length >= mode_end, "{length} bytes without a whole mode were accepted");
                    assert_eq!(loaded.plan.mode, whole.mode, "{length} bytes");
                    if whole.mode == Mode::RegistryOnly {
                        assert!(loaded.plan.policy_input.services.len() <= whole.policy_input.services.len());
                    }
                }
                Err(report) if length < mode_end => assert!(!report.errors.is_empty()),
                Err(_) => {}
            }
        }
    }
}

/// Whether the damage is within the mode's own line, where it may well mean another mode.
fn in_mode_line(original: &[u8], at: usize) -> bool {
    let start = original[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    original[start..].starts_with(b"mode")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_never_panics_or_changes_the_mode(which in 0_usize..3, at in any::<prop::sample::Index>(), byte: u8) {
        let folder = Folder::new();
        let original = originals().swap_remove(which);
        let mode = folder.load(&original).unwrap().plan.mode;
        let mut damaged = original.clone();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        if let Ok(loaded) = folder.load(&damaged)
            && !in_mode_line(&original, at)
        {
            prop_assert_eq!(loaded.plan.mode, mode);
        }
    }

    #[test]
    fn a_lost_or_doubled_byte_never_panics(which in 0_usize..3, at in any::<prop::sample::Index>(), doubled: bool) {
        let folder = Folder::new();
        let mut damaged = originals().swap_remove(which);
        let at = at.index(damaged.len());
        if doubled {
            damaged.insert(at, damaged[at]);
        } else {
            damaged.remove(at);
        }
        let _ = folder.load(&damaged);
    }

    #[test]
    fn any_text_is_answered(text in "[a-z\\[\\]{}=\"'.,# \n0-9_-]{0,200}") {
        let _ = Folder::new().load(format!("mode = \"allow_any\"\n{text}").as_bytes());
    }
}
