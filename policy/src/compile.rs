//! From plain data to a snapshot: every error at once, each with the places that it concerns.
//! It must not know the format of the configuration.

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use core::{borrow::Borrow, fmt};

use hashbrown::HashSet;

use crate::{
    Cidr, EndpointAddress, GuardInput, Origin, PolicyInput, PortInput, Protocol, ScopeInput, Selector,
    Service, ServiceId, ServiceInput, Snapshot, UnixSeconds, WorkloadInput,
    address::is_nat64_prefix,
    guard::Guard,
    input::qualified,
    limits::{
        ERRORS_MAX, NAT64_PREFIXES_MAX, OWN_SOCKETS_MAX, PORTS_PER_SERVICE_MAX, SCOPES_MAX,
        SELECTORS_PER_LIST_MAX, SERVICES_MAX, WORKLOADS_MAX,
    },
    registry,
    scope::Scopes,
    trie::Trie,
};

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Two services of one namespace with the same name.
    #[error("service {0} is defined twice")]
    DuplicateService(String),
    /// A port number twice in one service.
    #[error("service {service} has port {port} twice")]
    DuplicatePort {
        /// namespace/name.
        service: String,
        /// The number.
        port: u16,
    },
    /// Two scopes name the same sources and disagree.
    #[error("two scopes of {0} have different modes")]
    DuplicateScope(String),
    /// The same range in two workloads: whose address is it?
    #[error("the range {0} belongs to two workloads")]
    DuplicateWorkloadRange(Cidr),
    /// An endpoint names a port that its service does not have.
    #[error("an endpoint of service {service} names the port \"{port}\", which the service does not have")]
    UnknownEndpointPort {
        /// namespace/name.
        service: String,
        /// The name.
        port: String,
    },
    /// A port or target port of 0.
    #[error("service {0} has a port of 0: ports are 1 to 65535")]
    PortZero(String),
    /// A NAT64 prefix of another length than RFC 6052 knows.
    #[error("{0} is no NAT64 prefix: IPv6, of length 32, 40, 48, 56, 64 or 96")]
    Nat64Prefix(Cidr),
    /// Too many services share a host (and port).
    #[error("more services and ports share {host} than the limit of {limit}")]
    TooManyServicesOnHost {
        /// The host pattern or range.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// A bound of [`crate::limits`].
    #[error("too many {what}: the limit is {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// A problem, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong.
    pub problem: Problem,
    /// The places that it concerns, the first one first; empty only where no item is to blame (a limit on
    /// their number).
    pub origins: Vec<Origin>,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.problem)?;
        for (index, origin) in self.origins.iter().enumerate() {
            write!(f, "{}{origin}", if index == 0 { ": " } else { " and " })?;
        }
        Ok(())
    }
}

impl core::error::Error for CompileError {}

/// Compiles a policy. The input may be given away or only shown: what both hold is shared.
///
/// # Errors
/// Every problem that was found (at most [`crate::limits::ERRORS_MAX`]), never an empty list.
pub fn compile(input: impl Borrow<PolicyInput>) -> Result<Snapshot, Vec<CompileError>> {
    compile_shown(input.borrow())
}

fn compile_shown(input: &PolicyInput) -> Result<Snapshot, Vec<CompileError>> {
    let mut errors = Errors(Vec::new());
    check_guard(&input.guard, &mut errors);
    check_scopes(&input.scopes, &mut errors);
    let (workloads, identities) = compile_workloads(&input.workloads, &mut errors);

    let mut inputs: Vec<&ServiceInput> = input.services.iter().collect();
    errors.bound(inputs.len(), "services", SERVICES_MAX, &[]);
    if !errors.0.is_empty() && inputs.len() > SERVICES_MAX {
        return Err(errors.0);
    }
    inputs.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    check_services(&inputs, &mut errors);
    let mut expiries: Vec<UnixSeconds> = inputs.iter().filter_map(|service| service.expires).collect();
    expiries.sort_unstable();
    expiries.dedup();

    let (services, registry) = compile_registry(&inputs, &input.guard.nat64, input.hash_seed, &mut errors);
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    Ok(Snapshot {
        opaque_ports: opaque_ports(&services).into(),
        registry: Arc::new(registry),
        services: services.into(),
        scopes: Arc::new(Scopes::new(input.mode, input.scopes.clone())),
        workloads: Arc::new(workloads),
        identities: identities.into(),
        guard: Guard::new(&input.guard, literals_of(&inputs)),
        expiries: expiries.into(),
    })
}

/// What was found so far.
struct Errors(Vec<CompileError>);

impl Errors {
    fn push(&mut self, problem: Problem, origins: &[&Origin]) {
        if self.0.len() < ERRORS_MAX {
            self.0.push(CompileError { problem, origins: origins.iter().copied().cloned().collect() });
        }
    }

    fn bound(&mut self, count: usize, what: &'static str, limit: usize, origins: &[&Origin]) {
        if count > limit {
            self.push(Problem::TooMany { what, limit }, origins);
        }
    }
}

fn check_guard(guard: &GuardInput, errors: &mut Errors) {
    errors.bound(guard.nat64.len(), "NAT64 prefixes", NAT64_PREFIXES_MAX, &[]);
    errors.bound(guard.own_listeners.len(), "listeners", OWN_SOCKETS_MAX, &[]);
    errors.bound(guard.local_addresses.len(), "local addresses", OWN_SOCKETS_MAX, &[]);
    for prefix in guard.nat64.iter().filter(|prefix| !is_nat64_prefix(prefix)) {
        errors.push(Problem::Nat64Prefix(*prefix), &[]);
    }
}

fn check_scopes(scopes: &[ScopeInput], errors: &mut Errors) {
    errors.bound(scopes.len(), "scopes", SCOPES_MAX, &[]);
    let mut seen: BTreeMap<&Selector, &ScopeInput> = BTreeMap::new();
    for scope in scopes {
        let first = *seen.entry(&scope.source).or_insert(scope);
        if first.mode != scope.mode {
            let sources = alloc::string::ToString::to_string(&scope.source);
            errors.push(Problem::DuplicateScope(sources), &[&first.origin, &scope.origin]);
        }
    }
}

fn compile_workloads(
    inputs: &[WorkloadInput],
    errors: &mut Errors,
) -> (Trie<u32>, Vec<Arc<crate::Identity>>) {
    errors.bound(inputs.len(), "workloads", WORKLOADS_MAX, &[]);
    let mut ranges = Trie::new();
    for (index, workload) in (0_u32..).zip(inputs) {
        for range in &workload.addresses {
            let owner = *ranges.get_or_insert_with(*range, || index);
            if owner != index {
                let origins = [&inputs[owner as usize].origin, &workload.origin];
                errors.push(Problem::DuplicateWorkloadRange(*range), &origins);
            }
        }
    }
    (ranges.map(|owner| owner), inputs.iter().map(|workload| Arc::clone(&workload.identity)).collect())
}

/// `services` are sorted by namespace and name.
fn check_services(services: &[&ServiceInput], errors: &mut Errors) {
    for pair in services.windows(2) {
        if (&pair[0].namespace, &pair[0].name) == (&pair[1].namespace, &pair[1].name) {
            let name = qualified(&pair[0].namespace, &pair[0].name);
            errors.push(Problem::DuplicateService(name), &[&pair[0].origin, &pair[1].origin]);
        }
    }
    for service in services {
        check_ports(service, errors);
        let origin = [&service.origin];
        errors.bound(service.deny.len(), "selectors in `deny`", SELECTORS_PER_LIST_MAX, &origin);
        let allow = service.allow.as_ref().map_or(0, Vec::len);
        errors.bound(allow, "selectors in `allow`", SELECTORS_PER_LIST_MAX, &origin);
    }
}

fn check_ports(service: &ServiceInput, errors: &mut Errors) {
    let origin = [&service.origin];
    let name = || qualified(&service.namespace, &service.name);
    errors.bound(service.ports.len(), "ports of one service", PORTS_PER_SERVICE_MAX, &origin);
    let mut numbers: Vec<u16> = service.ports.iter().map(|port| port.number).collect();
    numbers.sort_unstable();
    if let Some(twice) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        errors.push(Problem::DuplicatePort { service: name(), port: twice[0] }, &origin);
    }
    let endpoint_ports = || service.endpoints.iter().flat_map(|endpoint| &endpoint.ports);
    let targets = service.ports.iter().filter_map(|port| port.target_port);
    if numbers
        .iter()
        .copied()
        .chain(targets)
        .chain(endpoint_ports().map(|(_, port)| *port))
        .any(|port| port == 0)
    {
        errors.push(Problem::PortZero(name()), &origin);
    }
    for (wanted, _) in endpoint_ports() {
        if !service.ports.iter().any(|port| port.name.as_ref() == Some(wanted)) {
            errors.push(Problem::UnknownEndpointPort { service: name(), port: (&**wanted).into() }, &origin);
        }
    }
}

/// Every literal address of a service, by rising service: named for the guard.
fn literals_of(services: &[&ServiceInput]) -> impl Iterator<Item = (ServiceId, Cidr)> {
    (0..).zip(services).flat_map(|(index, service)| {
        let endpoints = service.endpoints.iter().filter_map(|endpoint| match endpoint.address {
            EndpointAddress::Literal(address) => Some(Cidr::single(address)),
            EndpointAddress::Name(_) => None,
        });
        service.addresses.iter().copied().chain(endpoints).map(move |range| (ServiceId(index), range))
    })
}

fn compile_registry(
    inputs: &[&ServiceInput],
    nat64: &[Cidr],
    hash_seed: u64,
    errors: &mut Errors,
) -> (Vec<Service>, registry::Registry) {
    let mut builder = registry::Builder::new(
        hash_seed,
        registry::Room::of(inputs.iter().flat_map(|service| service.patterns())),
    );
    let mut shared = Shared::new(hash_seed);
    let mut services = Vec::with_capacity(inputs.len());
    for (index, input) in (0..).zip(inputs) {
        let mut first_host = None;
        let added = input.patterns().try_for_each(|host| {
            let id = builder.add_host(index, host)?;
            first_host = first_host.or(Some(id));
            Ok(())
        });
        let mut ranges = input.addresses.iter();
        let added = added.and_then(|()| {
            ranges.try_for_each(|range| builder.add_range(index, range.unwrapped(nat64)).map(|_| ()))
        });
        if let Err(problem) = added {
            errors.push(problem, &[&input.origin]);
        }
        services.push(shared.service(input, first_host));
    }
    let registry = builder.finish(&services, |problem, service| {
        let origin = services.get(service as usize).map(|service| &service.origin);
        errors.push(problem, origin.as_slice());
    });
    (services, registry)
}

/// Equal lists of many services, kept once.
struct Shared {
    ports: HashSet<Arc<[PortInput]>, foldhash::fast::FixedState>,
    selectors: HashSet<Arc<[Selector]>, foldhash::fast::FixedState>,
    texts: HashSet<Arc<str>, foldhash::fast::FixedState>,
}

impl Shared {
    fn new(hash_seed: u64) -> Self {
        let hasher = foldhash::fast::FixedState::with_seed(hash_seed);
        Self {
            ports: HashSet::with_hasher(hasher.clone()),
            selectors: HashSet::with_hasher(hasher.clone()),
            texts: HashSet::with_hasher(hasher),
        }
    }

    fn service(&mut self, input: &ServiceInput, first_host: Option<crate::MatchId>) -> Service {
        let mut ports = input.ports.clone();
        if ports.is_empty() {
            ports.extend([PortInput::new(80, Protocol::Http), PortInput::new(443, Protocol::Tls)]);
        }
        ports.sort_by_key(|port| port.number);
        Service {
            name: Arc::clone(&input.name),
            namespace: self.text(&input.namespace),
            ports: one(&mut self.ports, &ports),
            location: input.location,
            resolution: input.resolution,
            endpoints: Box::from(&*input.endpoints),
            require_proof: input.require_proof,
            source_address: input.source_address,
            region: input.region.as_ref().map(|text| self.text(text)),
            owner: input.owner.as_ref().map(|text| self.text(text)),
            ticket: input.ticket.as_ref().map(|text| self.text(text)),
            expires: input.expires,
            origin: input.origin.clone(),
            allow: input.allow.as_ref().map(|allow| one(&mut self.selectors, allow)),
            deny: (!input.deny.is_empty()).then(|| one(&mut self.selectors, &input.deny)),
            first_host,
        }
    }

    fn text(&mut self, text: &Arc<str>) -> Arc<str> {
        Arc::clone(self.texts.get_or_insert_with(&**text, |_| Arc::clone(text)))
    }
}

/// The shared copy of a list.
fn one<T: Clone + Eq + core::hash::Hash>(
    known: &mut HashSet<Arc<[T]>, foldhash::fast::FixedState>,
    list: &[T],
) -> Arc<[T]> {
    Arc::clone(known.get_or_insert_with(list, |list| list.into()))
}

/// The ports that every service which has them declares opaque, in order.
fn opaque_ports(services: &[Service]) -> Vec<u16> {
    let mut opaque: BTreeMap<u16, bool> = BTreeMap::new();
    for port in services.iter().flat_map(|service| service.ports.iter()) {
        *opaque.entry(port.number).or_insert(true) &= port.protocol.is_opaque();
    }
    opaque.into_iter().filter_map(|(port, opaque)| opaque.then_some(port)).collect()
}
