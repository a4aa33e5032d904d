//! Where a configuration comes from: which file, which environment, which flags. Knows nothing of what the keys mean.

use std::ffi::OsString;
use std::path::PathBuf;

use sluice_policy::UnixSeconds;

/// Everything a load reads or depends on, so that a test can stand in for the process.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--config`: it must exist.
    pub path: Option<PathBuf>,
    /// The environment: `SLUICE_CONFIG` (must exist) and `SLUICE__SECTION__KEY`.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags, the last layer.
    pub overrides: Vec<Override>,
    /// Read if present and neither of the above names a file.
    pub default_path: PathBuf,
    /// For rules that have expired already (a warning).
    pub now: UnixSeconds,
    /// Seed of the registry's hash tables; keep it for the life of the process.
    pub hash_seed: u64,
}

/// One flag of the command line that sets a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The flag as typed, e.g. `--engine`: for messages.
    pub flag: String,
    /// The key path, e.g. `dataplane.engine`.
    pub key: String,
    /// The value as text.
    pub value: String,
}

/// The file that is read when nothing names another.
pub const DEFAULT_PATH: &str = "/etc/sluice/sluice.toml";

impl Source {
    /// The process's own: its environment, the default path, its clock, a random seed.
    pub fn from_process(path: Option<PathBuf>, overrides: Vec<Override>) -> Self {
        use std::hash::{BuildHasher, RandomState};
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            path,
            environment: std::env::vars_os().collect(),
            overrides,
            default_path: PathBuf::from(DEFAULT_PATH),
            now: UnixSeconds(now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))),
            hash_seed: RandomState::new().hash_one(0_u8),
        }
    }

    /// Nothing but the given file (or none): no environment, no flags, no default path; seed 0, time 0.
    pub fn isolated(path: Option<PathBuf>) -> Self {
        Self {
            path,
            environment: Vec::new(),
            overrides: Vec::new(),
            default_path: PathBuf::new(),
            now: UnixSeconds(0),
            hash_seed: 0,
        }
    }
}
