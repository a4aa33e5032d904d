//! What a decision costs with a given configuration: loads it as the gateway does and asks for the names of a file, one
//! per line, over and over. Prints one line of JSON. It must not touch the network.
//!
//! `registry_probe --config sluice.toml --names hot.txt --decisions 1000000`

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sluice_bench::Arguments;
use sluice_config::Source as ConfigurationSource;
use sluice_policy::{Host, Request, Source, UnixSeconds, decide};

/// Decisions between two looks at the clock.
const STRETCH: usize = 1000;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn main() -> Result<()> {
    let arguments = Arguments::from_environment()?;
    let (config, names): (PathBuf, PathBuf) = (arguments.get("config")?, arguments.get("names")?);
    let decisions: usize = arguments.get("decisions")?;
    let policy = sluice_config::load(&ConfigurationSource::isolated(Some(config)))?.plan.policy;
    let text = std::fs::read_to_string(&names).with_context(|| names.display().to_string())?;
    // One after the other in memory, so that fetching the question costs next to nothing.
    let names: Vec<&str> = text.lines().collect();
    ensure!(!names.is_empty(), "no names");

    let source =
        Source { proof: sluice_policy::Proof::None, identity: None, address: Ipv4Addr::LOCALHOST.into() };
    let ask = |name: &str| decide(&policy, &Request::new(source, Host::Name(name), 443), NOW);
    let passed = names.iter().filter(|name| ask(name).passes()).count();
    ensure!(passed == names.len(), "{passed} of {} names are allowed", names.len());

    let mut asked = names.iter().cycle();
    let mut stretches_ns = Vec::with_capacity(decisions / STRETCH);
    for _ in 0..decisions.div_ceil(STRETCH) {
        let start = Instant::now();
        for name in asked.by_ref().take(STRETCH) {
            black_box(ask(black_box(name)));
        }
        stretches_ns.push(start.elapsed().as_nanos() as f64 / STRETCH as f64);
    }
    stretches_ns.sort_by(f64::total_cmp);
    let quantile = |percent: usize| stretches_ns.get((stretches_ns.len() - 1) * percent / 100);
    println!(
        "{}",
        serde_json::json!({
            "hosts": policy.counts().hosts,
            "services": policy.counts().services,
            "names": names.len(),
            // On a machine that others use as well, the lower quarter ran undisturbed.
            "lowest_ns": quantile(0),
            "quarter_ns": quantile(25),
            "median_ns": quantile(50),
        })
    );
    Ok(())
}
