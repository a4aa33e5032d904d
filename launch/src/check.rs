//! The commands `check` and `explain`: a configuration looked at without running it.

use std::io::{self, Write};

use sluice_config::{Loaded, Problem, Report, Source};
use sluice_controlplane::explain::{Question, explain as ask};

use crate::cli::Explain;
use crate::exit::Exit;

/// Prints every problem of a configuration.
pub(crate) fn check(source: &Source) -> Exit {
    match sluice_config::load(source).and_then(Loaded::startable) {
        Ok(loaded) => {
            print_warnings(&loaded.warnings);
            let plan = loaded.plan;
            let missing = sluice_controlplane::publish::missing_sources(&plan);
            missing.iter().for_each(|problem| complain(&format!("warning: {problem}")));
            let file = plan.file.map_or_else(|| "defaults".to_owned(), |file| file.display().to_string());
            let (services, doors) = (plan.policy_input.services.len(), plan.doors.len());
            let warnings = loaded.warnings.len() + missing.len();
            say(&format!(
                "{file}: valid; mode {}, doors {doors}, services {services}, warnings {warnings}",
                plan.mode.as_str()
            ));
            Exit::Ok
        }
        Err(report) => {
            print_report(&report);
            Exit::Usage
        }
    }
}

/// Says what would happen to a request.
pub(crate) fn explain(question: Explain) -> Exit {
    let source = question.layers.source();
    let plan = match sluice_config::load(&source) {
        Ok(loaded) => loaded.plan,
        Err(report) => {
            print_report(&report);
            return Exit::Usage;
        }
    };
    let asked =
        Question { from: question.from.as_deref(), to: &question.to, original: question.original.as_deref() };
    match ask(&plan.policy, &plan, &asked, source.now) {
        Ok(answer) => {
            say(&if question.json { format!("{:#}", answer.to_json()) } else { answer.to_string() });
            if answer.passes() { Exit::Ok } else { Exit::Denied }
        }
        Err(error) => {
            complain(&error.to_string());
            Exit::Usage
        }
    }
}

/// Prints errors and warnings of a refused configuration.
pub(crate) fn print_report(report: &Report) {
    complain(&report.to_string());
}

/// Prints what is allowed and probably not meant.
pub(crate) fn print_warnings(warnings: &[Problem]) {
    for problem in warnings {
        complain(&format!("warning: {problem}"));
    }
}

/// To standard output; a reader that went away is no reason to panic.
pub(crate) fn say(text: &str) {
    writeln!(io::stdout(), "{}", text.trim_end()).ok();
}

pub(crate) fn complain(text: &str) {
    writeln!(io::stderr(), "{}", text.trim_end()).ok();
}
