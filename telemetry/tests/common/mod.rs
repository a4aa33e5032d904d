//! A small reader of the Prometheus text format, strict where the format is: it panics on what a scraper would refuse.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)] // tests, of which each uses a part

use sluice_telemetry::Registry;
use std::collections::{BTreeMap, BTreeSet};

/// One line of an exposition.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// A read exposition.
pub struct Exposition {
    pub samples: Vec<Sample>,
    pub types: BTreeMap<String, String>,
}

impl Exposition {
    pub fn of(registry: &Registry) -> Self {
        let mut text = String::new();
        registry.prometheus(&mut text);
        Self::parse(&text)
    }

    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let mut types = BTreeMap::new();
        let mut helped = BTreeSet::new();
        let mut samples: Vec<Sample> = Vec::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, _) = help.split_once(' ').unwrap();
                assert!(helped.insert(name.to_owned()), "two HELP lines: {name}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helped.contains(name), "TYPE without HELP: {name}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "two TYPE lines: {name}");
            } else {
                let sample = sample(line);
                let twin = samples.iter().rev().find(|s| s.name == sample.name && s.labels == sample.labels);
                assert!(twin.is_none(), "twice: {line}");
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| {
                        sample.name.strip_suffix(suffix).filter(|name| types.contains_key(*name))
                    })
                    .unwrap_or(&sample.name);
                assert!(types.contains_key(family), "no TYPE before {line}");
                samples.push(sample);
            }
        }
        Self { samples, types }
    }

    pub fn named(&self, name: &str) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.name == name).collect()
    }

    /// The value of the only sample of that name with these labels (others do not matter).
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = |s: &&&Sample| labels.iter().all(|(label, value)| s.label(label) == Some(value));
        let found: Vec<f64> = self.named(name).iter().filter(wanted).map(|sample| sample.value).collect();
        assert!(found.len() <= 1, "{name} {labels:?}: {found:?}");
        found.first().copied()
    }
}

fn sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).unwrap();
    let (name, rest) = line.split_at(name_end);
    assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
    let (labels, value) = match rest.strip_prefix('{') {
        None => (Vec::new(), rest),
        Some(rest) => labels(rest),
    };
    let value = value.strip_prefix(' ').unwrap().parse().unwrap();
    Sample { name: name.to_owned(), labels, value }
}

fn labels(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut labels = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    other => panic!("unknown escape {other:?}"),
                }),
                (at, '"') => break at + 1,
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, rest.strip_prefix('}').unwrap()),
        }
    }
}
