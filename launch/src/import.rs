//! The command `import`: the configuration of something else as TOML on standard output, everything else on standard error.

use std::io::Read;
use std::path::PathBuf;

use sluice_config::{ImportSource, import_istio, limits::ENTRY_FILE_BYTES_MAX};

use crate::check::{complain, print_report, print_warnings, say};
use crate::cli::Import;
use crate::exit::Exit;

/// Imports; nothing is written to standard output where there is an error.
pub(crate) fn run(import: Import) -> Exit {
    let Import::Istio { files } = import;
    let mut sources = Vec::new();
    for file in files {
        match source(file) {
            Ok(source) => sources.push(source),
            Err(message) => {
                complain(&message);
                return Exit::Usage;
            }
        }
    }
    match import_istio(&sources) {
        Ok(import) => {
            print_warnings(&import.warnings);
            say(&import.toml);
            Exit::Ok
        }
        Err(report) => {
            print_report(&report);
            Exit::Usage
        }
    }
}

fn source(file: PathBuf) -> Result<ImportSource, String> {
    if file.as_os_str() != "-" {
        return Ok(ImportSource::File(file));
    }
    let name = "standard input".to_owned();
    let mut text = String::new();
    match std::io::stdin().take(ENTRY_FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Err(error) => Err(format!("{name} cannot be read: {error}")),
        Ok(_) if text.len() as u64 > ENTRY_FILE_BYTES_MAX => {
            Err(format!("{name} is larger than {ENTRY_FILE_BYTES_MAX} bytes"))
        }
        Ok(_) => Ok(ImportSource::Text { name, text }),
    }
}
