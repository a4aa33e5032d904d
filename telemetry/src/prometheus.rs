//! The Prometheus text exposition, format 0.0.4, of a [`Snapshot`]. It must not know where numbers come from.

use crate::{
    histogram::BOUNDS,
    labels::Labels,
    snapshot::{Histogram, Kind, Metric, Snapshot, Value},
};

/// `Content-Type` of the exposition.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Appends every metric with its HELP and TYPE lines, in the snapshot's order.
pub fn encode(snapshot: &Snapshot, out: &mut String) {
    let mut labels = String::new();
    for metric in &snapshot.metrics {
        head(metric, out);
        for point in &metric.points {
            labels.clear();
            render(&point.labels, &mut labels);
            match &point.value {
                Value::Counter(value) => {
                    sample(out, metric.name, "", &labels, "", itoa::Buffer::new().format(*value))
                }
                Value::Gauge(value) => {
                    sample(out, metric.name, "", &labels, "", itoa::Buffer::new().format(*value))
                }
                Value::Histogram(value) => histogram(out, metric.name, &labels, value),
            }
        }
    }
}

fn head(metric: &Metric, out: &mut String) {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    out.push_str("# HELP ");
    out.push_str(metric.name);
    out.push(' ');
    escape(out, metric.help, false);
    out.push_str("\n# TYPE ");
    out.push_str(metric.name);
    out.push(' ');
    out.push_str(kind);
    out.push('\n');
}

fn histogram(out: &mut String, name: &str, labels: &str, value: &Histogram) {
    let mut count = 0;
    for (bound, in_bucket) in BOUNDS.iter().zip(value.buckets) {
        count += in_bucket;
        sample(out, name, "_bucket", labels, bound, itoa::Buffer::new().format(count));
    }
    sample(out, name, "_sum", labels, "", &value.sum.to_string());
    sample(out, name, "_count", labels, "", itoa::Buffer::new().format(count));
}

/// One line. `labels` is rendered already, each label followed by a comma; `bound` is the `le` label, if any.
fn sample(out: &mut String, name: &str, suffix: &str, labels: &str, bound: &str, value: &str) {
    out.push_str(name);
    out.push_str(suffix);
    match (labels.is_empty(), bound.is_empty()) {
        (true, true) => {}
        (false, true) => {
            out.push('{');
            out.push_str(&labels[..labels.len() - 1]);
            out.push('}');
        }
        (_, false) => {
            out.push('{');
            out.push_str(labels);
            out.push_str("le=\"");
            out.push_str(bound);
            out.push_str("\"}");
        }
    }
    out.push(' ');
    out.push_str(value);
    out.push('\n');
}

fn render(labels: &Labels, out: &mut String) {
    for label in &labels.0 {
        out.push_str(label.name);
        out.push_str("=\"");
        escape(out, label.value.as_str(), true);
        out.push_str("\",");
    }
}

/// Backslash and newline, and in label values the quote too.
fn escape(out: &mut String, text: &str, quote: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quote => out.push_str("\\\""),
            _ => out.push(c),
        }
    }
}
