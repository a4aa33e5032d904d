//! The command `doctor`: looks at the system and says what works, what does not and what to do about it. It changes
//! nothing.

mod checks;

use std::io::{self, Write};

use sluice_config::Source;

use crate::exit::Exit;
use crate::product::Product;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    grade: Grade,
    about: &'static str,
    found: String,
    /// What to do, where something is wrong.
    remedy: Option<String>,
}

impl Finding {
    /// What works.
    pub fn ok(about: &'static str, found: impl Into<String>) -> Self {
        Self { grade: Grade::Ok, about, found: found.into(), remedy: None }
    }

    /// What works less well than it could, and what to do.
    pub fn warn(about: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Warn, about, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// What does not work, and what to do.
    pub fn fail(about: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Fail, about, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Runs every check; 0 unless one of them fails, 64 where that is the configuration.
pub(crate) fn run(product: &Product, source: &Source) -> Exit {
    let findings = checks::all(product, source);
    let mut out = io::stdout();
    for finding in &findings {
        let grade = match finding.grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "fail",
        };
        writeln!(out, "{grade:<5} {:<15} {}", finding.about, finding.found).ok();
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "{:<21} do: {remedy}", "").ok();
        }
    }
    exit(&findings)
}

/// A refused configuration ends every command alike; it comes before what else is wrong.
fn exit(findings: &[Finding]) -> Exit {
    let mut failed = findings.iter().filter(|finding| finding.grade == Grade::Fail).peekable();
    if failed.peek().is_none() {
        return Exit::Ok;
    }
    let refused = failed.any(|finding| finding.about == checks::CONFIGURATION);
    if refused { Exit::Usage } else { Exit::Unavailable }
}
