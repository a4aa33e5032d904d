//! The operator's guide names every metric, with its labels. It must not know how they are counted.

use sluice_telemetry::{Counter, Family, Gauge};

#[test]
fn every_metric_is_in_the_guide() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let guide = std::fs::read_to_string(path).expect("the guide");
    let plain = |name: &str, help: &str| format!("| `{name}` | – | {help} |");
    let mut rows: Vec<String> =
        Counter::ALL.iter().map(|counter| plain(counter.name(), counter.help())).collect();
    rows.extend(Gauge::ALL.iter().map(|gauge| plain(gauge.name(), gauge.help())));
    rows.extend(Family::ALL.iter().map(|family| {
        let labels: Vec<String> = family.labels().iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} |", family.name(), labels.join(", "), family.help())
    }));
    for row in &rows {
        assert!(guide.contains(row.as_str()), "docs/operations.md lacks this row:\n{row}");
    }
    let listed = guide.lines().filter(|line| line.starts_with("| `egress_")).count();
    assert_eq!(listed, rows.len(), "the guide lists metrics that do not exist");
}
