//! `import istio`: ServiceEntry YAML becomes TOML that decides the same. Uses the very tables that a load of the YAML
//! compiles, and the same checks.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::check::Check;
use crate::entry_files;
use crate::istio::{self, Imported, Table};
use crate::layers::Layers;
use crate::load::sorted;
use crate::problem::{Problem, Report};
use crate::read;
use crate::structure;

/// What to import.
#[derive(Clone, Debug)]
pub enum ImportSource {
    /// A file.
    File(PathBuf),
    /// A text and its name in messages, e.g. `standard input`.
    Text {
        /// Its name.
        name: String,
        /// YAML or JSON.
        text: String,
    },
}

/// What an import gives.
#[derive(Clone, Debug)]
pub struct Import {
    /// `[[service]]` tables in the order of the sources, to be added to a configuration file.
    pub toml: String,
    /// How many services they are.
    pub services: usize,
    /// What the gateway cannot honour, and what may not be meant.
    pub warnings: Vec<Problem>,
}

#[derive(Serialize)]
struct Fragment<'s> {
    /// Left out where there is none: `service = []` would forbid the tables of the file that it is added to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service: Vec<&'s Table>,
}

/// Translates Istio ServiceEntry resources into TOML.
///
/// # Errors
/// A [`Report`] with every error found, at its place in the YAML.
pub fn import_istio(sources: &[ImportSource]) -> Result<Import, Report> {
    let (mut services, mut errors, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        match source {
            ImportSource::File(path) => {
                // Once and on somebody's word: a shell's `<(kubectl get …)` is a pipe.
                entry_files::read_one(path, read::piped_text, &mut services, &mut errors, &mut warnings);
            }
            ImportSource::Text { name, text } => {
                let mut read = istio::read(&Arc::from(name.as_str()), text);
                services.append(&mut read.services);
                errors.append(&mut read.errors);
                warnings.append(&mut read.warnings);
            }
        }
    }
    let tables: Vec<Table> = services.iter().map(|service: &Imported| service.table.clone()).collect();
    let (mut layers, mut value) = Layers::merge(None, &[], &[], &mut errors);
    layers.import(&mut value, services);
    structure::check(&layers, &mut value, &mut errors);
    let check = Check::new(&layers, errors, warnings);
    check.imported(&value);
    let (errors, warnings) = (sorted(check.errors.into_inner()), sorted(check.warnings.into_inner()));
    if !errors.is_empty() {
        return Err(Report { errors, warnings });
    }
    let fragment = Fragment { service: tables.iter().collect() };
    match toml::to_string(&fragment) {
        Ok(text) => {
            Ok(Import { toml: opening(sources, tables.len()) + &text, services: tables.len(), warnings })
        }
        Err(error) => {
            let problem = Problem {
                file: "import".into(),
                line: 0,
                column: 0,
                key: String::new(),
                message: format!("the services cannot be written as TOML: {error}"),
                suggestion: None,
            };
            Err(Report { errors: vec![problem], warnings })
        }
    }
}

fn opening(sources: &[ImportSource], services: usize) -> String {
    const NAMED_MAX: usize = 8;
    let name = |source: &ImportSource| match source {
        ImportSource::File(path) => path.display().to_string(),
        ImportSource::Text { name, .. } => name.clone(),
    };
    let mut names: Vec<String> = sources.iter().take(NAMED_MAX).map(name).collect();
    if sources.len() > NAMED_MAX {
        names.push(format!("{} more", sources.len() - NAMED_MAX));
    }
    // A name is a comment here: nothing in it may end the line.
    let names = names.join(", ").replace(|c: char| c.is_control(), "?");
    let plural = if services == 1 { "" } else { "s" };
    format!(
        "# {services} service{plural} imported from Istio ServiceEntry resources: {names}\n\
         # Add them below the other tables of a sluice configuration file; then `[registry] service_entries` must not name\n\
         # the same resources. Without `allow` every source may use a service.\n\n"
    )
}
