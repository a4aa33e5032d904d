//! Where a host or an address stands in the registry, at a cost that does not grow with it.
//! It must not know who asks or what time it is: it only says which services hang on a host, in order of
//! port.

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::{
    hash::{BuildHasher, Hasher},
    net::IpAddr,
    ops::ControlFlow,
};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::{
    Cidr, Service,
    compile::Problem,
    limits::{BINDINGS_PER_HOST_MAX, SERVICES_PER_HOST_PORT_MAX, TEXT_BYTES_MAX},
    trie::Trie,
};

/// A host pattern or range of one snapshot: what a decision matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatchId {
    /// Offset into the registry's text.
    start: u32,
    len: u8,
}

/// One service at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) port: u16,
    pub(crate) service: u32,
    /// Position among the service's ports.
    pub(crate) index: u16,
}

/// The bindings of one host or range: a run of `Registry::bindings`, equal runs shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// While the registry is built: the last link of the chain of services.
    first: u32,
    count: u16,
}

/// 12 bytes: one million of them stay in 24 MiB of table.
#[derive(Clone, Copy, Debug)]
struct HostEntry {
    start: u32,
    first: u32,
    count: u16,
    len: u8,
}

impl HostEntry {
    fn id(&self) -> MatchId {
        MatchId { start: self.start, len: self.len }
    }
}

#[derive(Clone, Copy, Debug)]
struct RangeEntry {
    id: MatchId,
    run: Run,
}

/// A host or range that holds what is looked for, with the services that hang on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'s> {
    pub(crate) matched: Option<MatchId>,
    /// By rising port, then service.
    pub(crate) bindings: &'s [Binding],
}

impl<'s> Candidate<'s> {
    /// Those with this port.
    pub(crate) fn at_port(&self, port: u16) -> &'s [Binding] {
        let from = self.bindings.partition_point(|binding| binding.port < port);
        let rest = &self.bindings[from..];
        &rest[..rest.partition_point(|binding| binding.port == port)]
    }
}

/// Names and ranges with the services that hang on them.
#[derive(Debug)]
pub(crate) struct Registry {
    hasher: FixedState,
    /// All patterns and ranges as text, one after the other.
    text: String,
    exact: HashTable<HostEntry>,
    /// By suffix.
    wildcard: HashTable<HostEntry>,
    /// Bit n is set if some wildcard's suffix has n labels: other suffixes need no look-up.
    wildcard_depths: u128,
    ranges: Trie<RangeEntry>,
    bindings: Vec<Binding>,
}

/// What stands before a suffix.
const STAR: &str = "*.";

impl Registry {
    pub(crate) fn text(&self, id: MatchId) -> &str {
        let start = id.start as usize;
        self.text.get(start..start + usize::from(id.len)).unwrap_or_default()
    }

    pub(crate) fn hosts(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    pub(crate) fn hosts_as_text(&self) -> impl Iterator<Item = &str> {
        self.exact.iter().chain(&self.wildcard).map(|entry| self.text(entry.id()))
    }

    pub(crate) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Every host pattern and range with its bindings, in no particular order.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        let hosts = self.exact.iter().chain(&self.wildcard).map(|entry| self.host_candidate(entry));
        hosts.chain(self.ranges.values().iter().map(|entry| self.range_candidate(entry)))
    }

    /// Visits what holds a canonical name: the exact host, then wildcards from the longest suffix on.
    pub(crate) fn by_name<'s>(&'s self, name: &str, mut visit: impl FnMut(Candidate<'s>) -> ControlFlow<()>) {
        let find = |table: &'s HashTable<HostEntry>, skip: usize, key: &str| {
            table.find(hash(&self.hasher, key), |entry| stored(&self.text, entry, skip) == key.as_bytes())
        };
        if let Some(entry) = find(&self.exact, 0, name)
            && visit(self.host_candidate(entry)).is_break()
        {
            return;
        }
        if self.wildcard_depths == 0 {
            return;
        }
        let mut suffix = name;
        let mut depth = labels(name);
        while let Some((_, shorter)) = suffix.split_once('.') {
            (suffix, depth) = (shorter, depth.saturating_sub(1));
            if depth < u128::BITS
                && self.wildcard_depths >> depth & 1 == 1
                && let Some(entry) = find(&self.wildcard, STAR.len(), suffix)
                && visit(self.host_candidate(entry)).is_break()
            {
                return;
            }
        }
    }

    /// Visits the ranges that hold an (unwrapped) address, the longest prefix first.
    pub(crate) fn by_address<'s>(
        &'s self,
        address: IpAddr,
        mut visit: impl FnMut(Candidate<'s>) -> ControlFlow<()>,
    ) {
        // An address has at most 129 prefixes; the trie meets them from the shortest on.
        let mut covering: [Option<&RangeEntry>; 129] = [None; 129];
        let mut count = 0;
        self.ranges.covering(address, |entry| {
            covering[count] = Some(entry);
            count += 1;
        });
        for entry in covering[..count].iter().rev().flatten() {
            if visit(self.range_candidate(entry)).is_break() {
                return;
            }
        }
    }

    fn host_candidate(&self, entry: &HostEntry) -> Candidate<'_> {
        Candidate {
            matched: Some(entry.id()),
            bindings: self.run(Run { first: entry.first, count: entry.count }),
        }
    }

    fn range_candidate(&self, entry: &RangeEntry) -> Candidate<'_> {
        Candidate { matched: Some(entry.id), bindings: self.run(entry.run) }
    }

    fn run(&self, run: Run) -> &[Binding] {
        let first = run.first as usize;
        self.bindings.get(first..first + usize::from(run.count)).unwrap_or_default()
    }
}

/// A service that hangs on a host, and the link before it.
struct Link {
    service: u32,
    before: u32,
}

/// End of a chain of links.
const END: u32 = u32::MAX;

/// What a registry will need at most, so that none of its tables grows while it is built.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    exact: usize,
    wildcard: usize,
    text_bytes: usize,
}

impl Room {
    /// For these patterns.
    pub(crate) fn of<'p>(patterns: impl Iterator<Item = &'p str>) -> Self {
        patterns.fold(Self::default(), |room, pattern| {
            let wildcard = usize::from(pattern.starts_with(STAR));
            Self {
                exact: room.exact + 1 - wildcard,
                wildcard: room.wildcard + wildcard,
                text_bytes: room.text_bytes + pattern.len(),
            }
        })
    }
}

/// Collects hosts and ranges, then lays out the bindings.
pub(crate) struct Builder {
    hasher: FixedState,
    text: String,
    exact: HashTable<HostEntry>,
    wildcard: HashTable<HostEntry>,
    wildcard_depths: u128,
    ranges: Trie<RangeEntry>,
    links: Vec<Link>,
}

impl Builder {
    pub(crate) fn new(hash_seed: u64, room: Room) -> Self {
        Self {
            hasher: FixedState::with_seed(hash_seed),
            text: String::with_capacity(room.text_bytes),
            exact: HashTable::with_capacity(room.exact),
            wildcard: HashTable::with_capacity(room.wildcard),
            wildcard_depths: 0,
            ranges: Trie::new(),
            links: Vec::with_capacity(room.exact + room.wildcard),
        }
    }

    /// Hangs a service on a name: the canonical text of its pattern. Services come by rising index.
    pub(crate) fn add_host(&mut self, service: u32, pattern: &str) -> Result<MatchId, Problem> {
        let (table, key, skip) = match pattern.strip_prefix(STAR) {
            None => (&mut self.exact, pattern, 0),
            Some(suffix) => {
                self.wildcard_depths |= 1_u128.checked_shl(labels(suffix)).unwrap_or(0);
                (&mut self.wildcard, suffix, STAR.len())
            }
        };
        let (text, hasher) = (&self.text, &self.hasher);
        let hash_of = hash(hasher, key);
        if let Some(entry) = table.find_mut(hash_of, |entry| stored(text, entry, skip) == key.as_bytes()) {
            entry.first = link(&mut self.links, service, entry.first)?;
            return Ok(entry.id());
        }
        let id = push_text(&mut self.text, pattern)?;
        let first = link(&mut self.links, service, END)?;
        let text = &self.text;
        table.insert_unique(hash_of, HostEntry { start: id.start, first, count: 0, len: id.len }, |entry| {
            hasher_of(hasher, stored(text, entry, skip))
        });
        Ok(id)
    }

    /// Hangs a service on an (unwrapped) range. Services come by rising index.
    pub(crate) fn add_range(&mut self, service: u32, range: Cidr) -> Result<MatchId, Problem> {
        let vacant = RangeEntry { id: MatchId { start: 0, len: 0 }, run: Run { first: END, count: 0 } };
        let entry = self.ranges.get_or_insert_with(range, || vacant);
        if entry.id.len == 0 {
            entry.id = push_text(&mut self.text, &alloc::format!("{range}"))?;
        }
        entry.run.first = link(&mut self.links, service, entry.run.first)?;
        Ok(entry.id)
    }

    /// Lays out the bindings; `problem` hears of hosts that too many services share, with the first of them.
    pub(crate) fn finish(mut self, services: &[Service], mut problem: impl FnMut(Problem, u32)) -> Registry {
        let mut layout =
            Layout { bindings: Vec::new(), alone: Vec::new(), shared: BTreeMap::new(), services };
        layout.alone.resize(services.len(), None);
        let mut chain = Vec::new();
        let mut run_of = |last: u32, id: MatchId| {
            // Services are added by rising index and a repeated one makes no link: the chain falls strictly.
            chain.clear();
            let mut at = last;
            while let Some(link) = self.links.get(at as usize) {
                chain.push(link.service);
                at = link.before;
            }
            layout.run(&chain).unwrap_or_else(|too_many| {
                let start = id.start as usize;
                let host = self.text.get(start..start + usize::from(id.len)).unwrap_or_default().into();
                problem(
                    Problem::TooManyServicesOnHost { host, limit: too_many },
                    chain.first().copied().unwrap_or(0),
                );
                Run { first: 0, count: 0 }
            })
        };
        for entry in self.exact.iter_mut().chain(self.wildcard.iter_mut()) {
            let run = run_of(entry.first, entry.id());
            (entry.first, entry.count) = (run.first, run.count);
        }
        let ranges = self.ranges.map(|entry| RangeEntry { run: run_of(entry.run.first, entry.id), ..entry });
        let mut bindings = layout.bindings;
        bindings.shrink_to_fit();
        self.text.shrink_to_fit();
        let (text, hasher) = (&self.text, &self.hasher);
        for (table, skip) in [(&mut self.exact, 0), (&mut self.wildcard, STAR.len())] {
            // Hosts that many services share were counted for each of them.
            if table.len() < table.capacity() / 2 {
                table.shrink_to_fit(|entry| hasher_of(hasher, stored(text, entry, skip)));
            }
        }
        Registry {
            hasher: self.hasher,
            text: self.text,
            exact: self.exact,
            wildcard: self.wildcard,
            wildcard_depths: self.wildcard_depths,
            ranges,
            bindings,
        }
    }
}

/// Runs of bindings; hosts with the same services share theirs.
struct Layout<'a> {
    bindings: Vec<Binding>,
    /// The run of each service that is alone on a host.
    alone: Vec<Option<Run>>,
    shared: BTreeMap<Vec<u32>, Run>,
    services: &'a [Service],
}

impl Layout<'_> {
    /// The run of these services (falling, without doubles), or the limit that it breaks.
    fn run(&mut self, chain: &[u32]) -> Result<Run, usize> {
        let known = match chain {
            [service] => self.alone[*service as usize],
            _ => self.shared.get(chain).copied(),
        };
        if let Some(run) = known {
            return Ok(run);
        }
        let from = self.bindings.len();
        for &service in chain {
            for (index, port) in (0_u16..).zip(self.services[service as usize].ports.iter()) {
                self.bindings.push(Binding { port: port.number, service, index });
            }
        }
        let new = &mut self.bindings[from..];
        new.sort_unstable();
        let most = new.chunk_by(|a, b| a.port == b.port).map(<[_]>::len).max().unwrap_or(0);
        let (Ok(first), Ok(count)) = (u32::try_from(from), u16::try_from(new.len())) else {
            self.bindings.truncate(from);
            return Err(BINDINGS_PER_HOST_MAX);
        };
        if most > SERVICES_PER_HOST_PORT_MAX {
            self.bindings.truncate(from);
            return Err(SERVICES_PER_HOST_PORT_MAX);
        }
        let run = Run { first, count };
        match chain {
            [service] => self.alone[*service as usize] = Some(run),
            _ => {
                self.shared.insert(chain.to_vec(), run);
            }
        }
        Ok(run)
    }
}

/// Appends to the registry's text.
fn push_text(text: &mut String, item: &str) -> Result<MatchId, Problem> {
    let (Ok(start), Ok(len)) = (u32::try_from(text.len()), u8::try_from(item.len())) else {
        return Err(Problem::TooMany { what: "bytes of hosts and ranges", limit: TEXT_BYTES_MAX });
    };
    text.push_str(item);
    Ok(MatchId { start, len })
}

fn link(links: &mut Vec<Link>, service: u32, before: u32) -> Result<u32, Problem> {
    // The same service once more (a host listed twice): nothing to add.
    if links.get(before as usize).is_some_and(|link| link.service == service) {
        return Ok(before);
    }
    let at = u32::try_from(links.len()).ok().filter(|at| *at != END);
    let at = at.ok_or(Problem::TooMany { what: "hosts and ranges", limit: END as usize })?;
    links.push(Link { service, before });
    Ok(at)
}

/// The key of an entry: its text without the first `skip` bytes.
fn stored<'t>(text: &'t str, entry: &HostEntry, skip: usize) -> &'t [u8] {
    let start = entry.start as usize;
    text.as_bytes().get(start + skip..start + usize::from(entry.len)).unwrap_or_default()
}

fn hash(hasher: &FixedState, key: &str) -> u64 {
    hasher_of(hasher, key.as_bytes())
}

fn hasher_of(hasher: &FixedState, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(key);
    state.finish()
}

/// Labels of a name; a canonical one has at most 127.
fn labels(name: &str) -> u32 {
    name.bytes().filter(|byte| *byte == b'.').fold(1, |labels: u32, _| labels.saturating_add(1))
}
