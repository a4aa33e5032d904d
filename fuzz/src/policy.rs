//! Bodies for the policy: canonical hosts, and decisions of small policies that the input spells out. Knows nothing of
//! how inputs are made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_policy::{
    Cidr, Decision, Host, HostBuf, HostPattern, Identity, Mode, Origin, PolicyInput, PortInput, Proof,
    Protocol, Reason, Request, ScopeInput, Selector, ServiceInput, Shadow, Snapshot, Source, UnixSeconds,
    Verdict, compile, explain, limits, parse_host, unwrap_address,
};

const NOW: UnixSeconds = UnixSeconds(1000);

/// The canonical form is a fixed point, and no name can be read as an address.
pub(crate) fn host(data: &[u8]) {
    let mut buf = HostBuf::new();
    let Ok(host) = parse_host(data, &mut buf) else {
        return;
    };
    let text = host.to_string();
    assert_eq!(parse_host(text.as_bytes(), &mut HostBuf::new()), Ok(host));
    match host {
        Host::Address(address) => {
            let once = unwrap_address(address, &[]);
            assert_eq!(unwrap_address(once, &[]), once, "nothing is left to unwrap");
        }
        Host::Name(name) => {
            assert!((1..=limits::NAME_BYTES_MAX).contains(&name.len()));
            assert!(name.parse::<IpAddr>().is_err());
            assert!(name.split('.').all(|label| (1..=limits::LABEL_BYTES_MAX).contains(&label.len())));
            assert!(
                name.eq_ignore_ascii_case(&String::from_utf8_lossy(data.strip_suffix(b".").unwrap_or(data)))
            );
            let exact = HostPattern::parse(name).expect("a name is a pattern");
            assert!(exact.matches(name) && !exact.matches(&format!("a.{name}")));
        }
    }
}

/// A policy and questions to it, spelt by the input: whatever they are there is an answer, `explain` gives the same, and
/// the answer fits what the patterns say one by one.
pub(crate) fn decide(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let mut choices = Choices(&mut bytes);
    let input = choices.policy();
    let Ok(snapshot) = compile(input.clone()) else {
        return;
    };
    let identity = choices.identity();
    for _ in 0..8 {
        let name = choices.name();
        let source = Source { proof: choices.proof(), identity: Some(&identity), address: choices.address() };
        let address = choices.address();
        let host = match choices.below(4) {
            0 => Some(Host::Address(address)),
            1 => None,
            _ => Some(Host::Name(&name)),
        };
        let original = (choices.below(2) == 0).then(|| (choices.address(), 1).into());
        let request = Request { source, host, original, port: choices.port(), bound: None };
        check(&snapshot, &input, &request);
    }
}

fn check(snapshot: &Snapshot, input: &PolicyInput, request: &Request<'_>) {
    let decision = sluice_policy::decide(snapshot, request, NOW);
    let (explained, trail) = explain(snapshot, request, NOW);
    assert_eq!(decision, explained, "{trail}");
    consistent(&decision);
    if let Some(id) = decision.service.filter(|_| decision.passes()) {
        assert!(!snapshot.service(id).is_expired(NOW), "{trail}");
        let covers = |host| snapshot.covers(id, host, request.port, NOW);
        assert!(request.host.is_none_or(covers), "{trail}");
    }
    let Some(Host::Name(name)) = request.host else {
        return;
    };
    let fits = |service: &&ServiceInput| service.hosts.iter().any(|pattern| pattern.matches(name));
    let known = input.services.iter().any(|service| fits(&service));
    assert_eq!(decision.shadow.reason == Reason::NotRegistered, !known && request.port != 0, "{trail}");
    if let Some(id) = decision.service {
        let found = snapshot.service(id);
        let same =
            |service: &&ServiceInput| service.name == found.name && service.namespace == found.namespace;
        assert!(input.services.iter().filter(same).any(|service| fits(&service)), "{trail}");
        let port = decision.port.and_then(|port| found.port(port)).expect("a port of the service");
        assert_eq!(port.number, request.port);
    }
}

/// What holds for every decision.
fn consistent(decision: &Decision) {
    let Decision { verdict, reason, shadow, .. } = *decision;
    match verdict {
        Verdict::Allow => assert_eq!((reason, shadow), (Reason::Registered, Shadow { verdict, reason })),
        Verdict::Passthrough => assert!(reason == Reason::Passthrough && shadow.verdict == Verdict::Deny),
        Verdict::Deny => assert!(!matches!(reason, Reason::Registered | Reason::Passthrough)),
    }
    assert_ne!(shadow.verdict, Verdict::Passthrough);
    assert_eq!(decision.service.is_some(), decision.port.is_some());
}

/// Reads choices off the input; behind its end everything is the first choice.
struct Choices<'a>(&'a mut dyn Iterator<Item = u8>);

impl Choices<'_> {
    fn below(&mut self, bound: u8) -> u8 {
        self.0.next().unwrap_or(0) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        let bound = u8::try_from(of.len()).expect("invariant: tables here are short");
        of[usize::from(self.below(bound))]
    }

    fn some<T>(&mut self, below: u8, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(below)).map(|_| item(self)).collect()
    }

    fn name(&mut self) -> String {
        let labels = self.below(3);
        let prefix: String = (0..labels).map(|_| self.one(&["a.", "b.", "evil", "a-_."])).collect();
        prefix + self.one(&["test", "a.test", "b.test"])
    }

    fn pattern(&mut self) -> HostPattern {
        let star = self.one(&["", "*."]);
        HostPattern::parse(&format!("{star}{}", self.name()))
            .expect("labels of the table above make a pattern")
    }

    fn address(&mut self) -> IpAddr {
        let v4 = self.one(&[
            [198, 51, 100, 1],
            [198, 51, 100, 200],
            [10, 0, 0, 1],
            [169, 254, 169, 254],
            [127, 0, 0, 1],
        ]);
        let [a, b, c, d] = v4.map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        match self.below(4) {
            0 => Ipv4Addr::from(v4).into(),
            1 => Ipv4Addr::from(v4).to_ipv6_mapped().into(),
            2 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
            _ => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
        }
    }

    fn range(&mut self) -> Cidr {
        let address = self.address();
        let bits = self.below(129);
        Cidr::new(address, bits).unwrap_or(Cidr::single(address))
    }

    fn port(&mut self) -> u16 {
        self.one(&[80, 443, 3306, 0])
    }

    fn proof(&mut self) -> Proof {
        self.one(Proof::ALL)
    }

    fn selector(&mut self) -> Selector {
        let mut field = || self.one(&["", "*", "a", "b", "a*", "*b*"]).parse().ok();
        Selector { namespace: field(), workload: field(), ..Selector::default() }
    }

    fn identity(&mut self) -> Identity {
        let namespace = Some(self.one(&["a", "b", "ab"]).into());
        Identity { namespace, workload: Some(self.one(&["a", "b", "ab"]).into()), ..Identity::default() }
    }

    fn policy(&mut self) -> PolicyInput {
        let mut input = PolicyInput::new(self.one(Mode::ALL));
        input.hash_seed = self.below(255).into();
        input.services = self.some(6, Self::service);
        for (index, service) in input.services.iter_mut().enumerate() {
            service.name = index.to_string().into();
        }
        input.scopes = self.some(3, |choices| {
            let (source, mode) = (choices.selector(), choices.one(Mode::ALL));
            ScopeInput { source, mode, origin: Origin::new("scope", 1) }
        });
        input.guard.allow = self.some(3, Self::range);
        input
    }

    fn service(&mut self) -> ServiceInput {
        let mut service = ServiceInput::new(self.one(&["a", "b"]), "", Origin::new("service", 1));
        service.hosts = self.some(4, Self::pattern);
        service.addresses = self.some(3, Self::range);
        service.ports = self.some(3, |choices| PortInput::new(choices.port(), Protocol::Tcp));
        service.allow = (self.below(2) == 0).then(|| self.some(3, Self::selector));
        service.deny = self.some(2, Self::selector);
        service.require_proof = (self.below(3) == 0).then(|| self.proof());
        service.expires = (self.below(3) == 0).then(|| UnixSeconds(NOW.0 - 1 + i64::from(self.below(3))));
        service
    }
}
