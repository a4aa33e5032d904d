//! Micro-benchmark of the policy: nanoseconds and allocations per decision, against registries of 1,000, 100,000 and
//! 1,000,000 hosts, with what the registry costs to compile and to hold. It must not touch the network.
//!
//! `cargo run --release -p sluice-bench --bin micro_policy`, optionally with the sizes to measure as arguments.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use allocation_counter::measure;
use anyhow::Context;
use sluice_policy::*;

const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];
/// Decisions per case; enough that every host of the largest registry is asked for once.
const DECISIONS: usize = 1_000_000;
/// Decisions between two looks at the clock.
const STRETCH: usize = 500;
const HOSTS_PER_SERVICE: u32 = 100;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn main() -> anyhow::Result<()> {
    let sizes: Vec<u32> =
        std::env::args().skip(1).map(|size| size.parse()).collect::<Result<_, _>>().context("sizes")?;
    for hosts in if sizes.is_empty() { SIZES.to_vec() } else { sizes } {
        bench(hosts)?;
    }
    Ok(())
}

fn bench(hosts: u32) -> anyhow::Result<()> {
    let identity =
        Identity { namespace: Some("default".into()), workload: Some("idgen".into()), ..Identity::default() };
    let source = Source {
        proof: Proof::Address,
        identity: Some(&identity),
        address: Ipv4Addr::new(10, 1, 2, 3).into(),
    };
    let snapshot = registry(hosts)?;
    let exact = |index: u32| host(index * 2 % hosts);
    let wildcard = |index: u32| format!("a.b.{}", host(index * 2 % hosts + 1));
    let one = host(0);

    report(hosts, "exact host, one and the same", &Names::new(hosts, |_| one.clone()), |name| {
        decide(&snapshot, &Request::new(source, Host::Name(name), 443), NOW)
    });
    report(hosts, "exact host, uniformly random", &Names::new(hosts, exact), |name| {
        decide(&snapshot, &Request::new(source, Host::Name(name), 443), NOW)
    });
    report(hosts, "wildcard, uniformly random", &Names::new(hosts, wildcard), |name| {
        decide(&snapshot, &Request::new(source, Host::Name(name), 443), NOW)
    });
    report(hosts, "not registered", &Names::new(hosts, |index| format!("x{index}.nowhere.test")), |name| {
        decide(&snapshot, &Request::new(source, Host::Name(name), 443), NOW)
    });
    report(hosts, "parse_host and decide, random", &Names::new(hosts, exact), |name| {
        let mut buf = HostBuf::new();
        match parse_host(name.as_bytes(), &mut buf) {
            Ok(host) => decide(&snapshot, &Request::new(source, host, 443), NOW),
            Err(_) => Decision::denied(Reason::Malformed),
        }
    });
    report(
        hosts,
        "no name, range, random",
        &Names::new(hosts, |index| address(index % hosts).to_string()),
        |text| {
            // Parsing the address is part of the figure; it allocates nothing.
            let address: IpAddr = text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            decide(&snapshot, &Request::new(source, Host::Address(address), 443), NOW)
        },
    );
    report(hosts, "guard, public address", &Names::new(hosts, |_| "198.51.100.20".to_owned()), |text| {
        let address: IpAddr = text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        snapshot.guard((address, 443).into(), None)
    });
    Ok(())
}

/// Even hosts are exact, odd ones wildcards; a range for each hundred of them.
fn registry(hosts: u32) -> anyhow::Result<Snapshot> {
    let mut snapshot = None;
    let mut compile_ms = 0.0;
    let mut failed = None;
    let held = measure(|| {
        let mut input = PolicyInput { hash_seed: 0x5eed, ..PolicyInput::new(Mode::RegistryOnly) };
        for first in (0..hosts).step_by(HOSTS_PER_SERVICE as usize) {
            match service(first, hosts) {
                Ok(service) => input.services.push(service),
                Err(error) => failed = Some(anyhow::Error::from(error)),
            }
        }
        let start = Instant::now();
        match compile(input) {
            Ok(compiled) => snapshot = Some(compiled),
            Err(errors) => failed = Some(anyhow::anyhow!("{errors:?}")),
        }
        compile_ms = start.elapsed().as_secs_f64() * 1000.0;
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let bytes = held.bytes_current / i64::from(hosts);
    println!("{hosts:>9} hosts: compiled in {compile_ms:.0} ms, {bytes} bytes per host");
    snapshot.context("a compiled policy")
}

fn service(first: u32, hosts: u32) -> Result<ServiceInput, HostError> {
    let allow = Selector { workload: "id*".parse().ok(), ..Selector::default() };
    let mut service =
        ServiceInput::new("default", format!("service-{first}"), Origin::new("registry.txt", first));
    for index in first..hosts.min(first + HOSTS_PER_SERVICE) {
        let star = if index % 2 == 0 { "" } else { "*." };
        service.hosts.push(HostPattern::parse(&format!("{star}{}", host(index)))?);
    }
    service.addresses.extend(Cidr::new(address(first), 25));
    service.allow = Some(vec![allow]);
    Ok(service)
}

fn host(index: u32) -> String {
    format!("host-{index:07}.example{}.com", index % 97)
}

/// Documentation-like public addresses, 128 per service.
fn address(index: u32) -> IpAddr {
    let base = u32::from(Ipv4Addr::new(20, 0, 0, 0));
    IpAddr::V4(Ipv4Addr::from(base + index / HOSTS_PER_SERVICE * 128 + index % HOSTS_PER_SERVICE))
}

/// Names in random order, one after the other in memory, so that fetching the question costs next to nothing.
struct Names {
    text: String,
    ends: Vec<usize>,
}

impl Names {
    fn new(hosts: u32, name: impl Fn(u32) -> String) -> Self {
        let mut names = Self { text: String::new(), ends: Vec::with_capacity(DECISIONS) };
        // A full-period linear congruential generator (Numerical Recipes): every run asks the same.
        let mut state = 12345_u32;
        for _ in 0..DECISIONS {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // The upper bits are the random ones: scale instead of taking the remainder.
            let index = ((u64::from(state) * u64::from(hosts)) >> 32) as u32;
            names.text.push_str(&name(index / 2));
            names.ends.push(names.text.len());
        }
        names
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }
}

fn report<T>(hosts: u32, case: &str, names: &Names, mut decide: impl FnMut(&str) -> T) {
    // The median of short stretches: on a machine that others use as well, most of them run undisturbed.
    let mut stretches_ns = Vec::with_capacity(DECISIONS / STRETCH);
    let mut names_left = names.iter();
    for _ in 0..DECISIONS / STRETCH {
        let start = Instant::now();
        for name in names_left.by_ref().take(STRETCH) {
            black_box(decide(black_box(name)));
        }
        stretches_ns.push(start.elapsed().as_nanos() as f64 / STRETCH as f64);
    }
    stretches_ns.sort_by(f64::total_cmp);
    let median_ns = stretches_ns[stretches_ns.len() / 2];
    let allocations = measure(|| {
        for name in names.iter() {
            black_box(decide(black_box(name)));
        }
    });
    let each = allocations.count_total as f64 / DECISIONS as f64;
    println!("{hosts:>9} hosts: {case:<32} {median_ns:>7.1} ns/op  {each} allocations/op");
}
