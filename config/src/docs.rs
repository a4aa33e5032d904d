//! The reference of every key as Markdown, from the same table that checks are made of. Knows no values.

use core::fmt::Write;

use crate::schema::{self, Key, Kind, Presence, Section};
use crate::unavailable;

const OPENING: &str = "\
# Configuration

<!-- Generated from the schema in config/src/schema; SLUICE_UPDATE_DOCS=1 cargo test -p sluice-config writes it. -->

One TOML file. It is found in this order: `--config FILE`, else `$SLUICE_CONFIG`, else `/etc/sluice/sluice.toml` if it is
there, else none. With no file at all the gateway runs with the defaults: `allow_any`, an `http_proxy` door on
127.0.0.1:3128, admin on 127.0.0.1:15000. With a file `mode` is required, and an empty file is an error.

Values come in layers, the later ones winning: defaults, the file, the environment, flags. A key of a table that stands
once can be set as `SLUICE__SECTION__KEY` (for example `SLUICE__LIMITS__CONNECT_TIMEOUT_MS=2000`; a list is separated by
commas). Other names that begin with `SLUICE_` are ignored. `mode` never comes from the environment.

Unknown keys are errors, and so are known keys that this version does not have yet. `sluice check --config FILE` prints
every error with its file, line, column, key and remedy. Durations and sizes are whole numbers; the unit is part of the
key's name. A reload (SIGHUP, or a changed file) applies everything but `[dataplane]`, `[admin]` and the labels of
`[telemetry]`, which need a restart and say so.
Examples: [docs/examples](examples).
";

/// The reference of every key as Markdown: `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let mut out = OPENING.to_owned();
    section(&mut out, &schema::ROOT, "", "The top of the file");
    tables(&mut out, &schema::ROOT, "", "");
    out
}

/// Every table within a section, each under a heading of its own, depth first.
fn tables(out: &mut String, parent: &Section, path: &str, header: &str) {
    for key in parent.keys {
        let (Kind::Table(inner) | Kind::Tables(inner)) = key.kind else { continue };
        if inner.keys.is_empty() {
            continue;
        }
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        let nested_in_list = header.starts_with("[[") || header.starts_with('`');
        let header = match (&key.kind, nested_in_list) {
            (Kind::Tables(_), false) => format!("[[{path}]]"),
            (_, false) => format!("[{path}]"),
            (_, true) => format!("`{path}`"),
        };
        if !is_selector(&path) {
            let title = if header.starts_with('`') { header.clone() } else { format!("`{header}`") };
            section(out, inner, &path, &title);
        }
        tables(out, inner, &path, &header);
    }
}

/// The selector's fields are described once, with `scope.source`.
fn is_selector(path: &str) -> bool {
    matches!(path, "service.allow" | "service.deny")
}

fn section(out: &mut String, section: &Section, path: &str, title: &str) {
    let _ = write!(out, "\n## {title}\n");
    if !section.about.is_empty() {
        let _ = write!(out, "\n{}\n", section.about);
    }
    if unavailable::refused(path, None).is_some() {
        let _ = write!(out, "\n**Not available in this version.**\n");
    }
    for key in section.keys.iter().filter(|key| !key.about.is_empty()) {
        entry(out, key, path);
    }
}

fn entry(out: &mut String, key: &Key, section: &str) {
    let path = if section.is_empty() { key.name.to_owned() } else { format!("{section}.{}", key.name) };
    let _ = write!(out, "\n### `{path}`\n\n{}\n\n", key.about);
    if unavailable::refused(&path, None).is_some() {
        let _ = writeln!(out, "- **Not available in this version.**");
    }
    let _ = writeln!(out, "- Type: {}", type_words(&key.kind, &path));
    let _ = match key.presence {
        Presence::Required => writeln!(out, "- Required"),
        Presence::Optional(absent) => writeln!(out, "- Absent: {absent}"),
        Presence::Default(value) => writeln!(out, "- Default: `{value}`"),
    };
    if !key.example.is_empty() {
        let _ = writeln!(out, "- Example: `{} = {}`", key.name, key.example);
    }
}

fn type_words(kind: &Kind, path: &str) -> String {
    match kind {
        Kind::Choice(words) => {
            let mut text = "one of".to_owned();
            for (word, meaning) in *words {
                let later =
                    unavailable::refused(path, Some(word)).map_or("", |_| " (not available in this version)");
                let _ = write!(text, "\n  - `\"{word}\"`: {meaning}{later}");
            }
            text
        }
        Kind::Tables(_) if is_selector(path) => "a list of selectors, see `scope.source`".to_owned(),
        Kind::Tables(_) => format!("a list of tables, see `{path}` below"),
        Kind::Table(inner) if inner.keys.is_empty() => "a table".to_owned(),
        Kind::Table(_) => format!("a table, see `{path}` below"),
        other => other.describe(),
    }
}
