//! One worker under test with a control plane of a few lines: a zone instead of DNS, a policy written in place.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use sluice_bridge::{
    Addresses, Auth, Capture, Command, ControlPort, CredentialsBuilder, Deny, DenyTls, DnsAnswer, DnsFailure,
    DnsSettings, Door, DoorKind, DoorPlan, Limits, Notice, ProxyProtocol, Snapshot, UpstreamSource,
    limits::Bounds, pair,
};
use sluice_dataplane::{WorkerConfig, run_worker};
use sluice_engine::Engine;
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_policy::{
    Cidr, EndpointAddress, EndpointInput, HostPattern, Identity, Mode, Origin, PolicyInput, PortInput,
    Protocol, Resolution, ServiceInput, compile,
};
use sluice_telemetry::Registry;
use sluice_telemetry::access_log::{Entry, Field};
use tokio::sync::mpsc;

use super::origin::{self, Ledger};

/// Where the proxy door listens.
pub const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 3128);
/// Where the TLS door listens.
pub const TLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8443);
/// Where the TCP door listens, bound to the service `db`.
pub const TCP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 5432);
/// Where the SOCKS door listens.
pub const SOCKS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1080);

/// Where the HTTP door listens.
pub const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8080);
/// Where a transparent door listens whose clients are redirected.
pub const REDIRECT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 15001);
/// Where a transparent door listens whose clients' packets keep their destination.
pub const TPROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 15002);

/// The origin that the registry allows.
pub const ALLOWED: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 10);
/// An origin that it does not.
pub const DENIED: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 20);

/// A world with one worker, which serves one door of each kind.
pub struct World {
    /// The simulation.
    pub sim: Sim,
    commands: mpsc::Sender<Command>,
    records: Rc<RefCell<Vec<Entry>>>,
    drain: Rc<dyn Fn()>,
    /// The metrics.
    pub registry: Registry,
    /// What DNS says.
    pub dns: Rc<Dns>,
    /// What the worker has told control.
    pub notices: Rc<RefCell<Vec<Notice>>>,
    setup: RefCell<Setup>,
    generation: Cell<u64>,
}

/// What a world starts with beside its policy.
pub struct Setup {
    /// The numbers in force.
    pub limits: Limits,
    /// Proxy users: name, password, workload.
    pub users: Vec<(&'static str, &'static str, &'static str)>,
    /// Whether the proxy and the SOCKS door ask for them.
    pub auth: Auth,
    /// What the TLS door does to those it refuses.
    pub deny_tls: DenyTls,
    /// Ports that are never sniffed in allow-any.
    pub opaque_ports: &'static [u16],
    /// The PROXY header that every door wants.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whose address connections upstream of the TPROXY door come from.
    pub upstream_source: UpstreamSource,
    /// Connections that the worker carries.
    pub connections_max: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            users: Vec::new(),
            auth: Auth::Off,
            deny_tls: DenyTls::Reset,
            opaque_ports: &[],
            proxy_protocol: None,
            upstream_source: UpstreamSource::Gateway,
            connections_max: 1000,
        }
    }
}

/// The zone and its moods.
pub struct Dns {
    zone: HashMap<&'static str, Vec<IpAddr>>,
    /// Questions for this name are never answered.
    pub lost: Cell<Option<&'static str>>,
    /// How long answers live. Milliseconds.
    pub fresh_ms: Cell<u64>,
    /// Questions so far.
    pub asked: Cell<u64>,
}

impl World {
    /// Starts the worker under `policy` and waits until its doors are open.
    pub fn start(sim: Sim, policy: PolicyInput) -> Self {
        Self::with(sim, policy, Setup::default())
    }

    /// The same with a setup of its own.
    pub fn with(sim: Sim, policy: PolicyInput, setup: Setup) -> Self {
        let registry = Registry::new(sluice_telemetry::Settings::default());
        let (port, control) = pair(0, &Bounds::default());
        let engine = sim.engine();
        let config = WorkerConfig { connections_max: setup.connections_max, own_dials: Arc::default() };
        engine.spawn(run_worker(engine.clone(), port, registry.worker(), config));
        let ControlPort { commands, questions, notices, records: queue, retired, .. } = control;
        let outside = sim.outside(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)));
        let dns = Rc::new(Dns {
            zone: zone(),
            lost: Cell::new(None),
            fresh_ms: Cell::new(1000),
            asked: Cell::new(0),
        });
        outside.spawn(answer_questions(Rc::clone(&dns), questions, commands.clone()));
        let told = Rc::new(RefCell::new(Vec::new()));
        outside.spawn(collect(notices, Rc::clone(&told)));
        outside.spawn(collect(retired, Rc::default()));
        let records = Rc::new(RefCell::new(Vec::new()));
        let queue = RefCell::new(queue);
        let sink = Rc::clone(&records);
        let drain = Rc::new(move || {
            while let Some(entry) = queue.borrow_mut().pop() {
                sink.borrow_mut().push(*entry);
            }
        });
        let (setup, generation) = (RefCell::new(setup), Cell::new(0));
        let world = Self { sim, commands, records, drain, registry, dns, notices: told, setup, generation };
        world.publish(policy);
        for (kind, bind) in [
            (DoorKind::HttpProxy, PROXY),
            (DoorKind::Tls, TLS),
            (DoorKind::Tcp, TCP),
            (DoorKind::Socks5, SOCKS),
            (DoorKind::Http, HTTP),
            (DoorKind::Transparent, REDIRECT),
            (DoorKind::Transparent, TPROXY),
        ] {
            let mut plan = DoorPlan::new(kind, bind);
            plan.destination_port = match kind {
                DoorKind::Tls => Some(443),
                DoorKind::Tcp => Some(5432),
                _ => None,
            };
            plan.capture = match bind {
                REDIRECT => Some(Capture::Redirect),
                TPROXY => Some(Capture::Tproxy),
                _ => None,
            };
            plan.service = (kind == DoorKind::Tcp).then(|| ("default".into(), "db".into()));
            let setup = world.setup.borrow();
            (plan.auth, plan.deny_tls) = (setup.auth, setup.deny_tls);
            plan.opaque_ports = setup.opaque_ports.into();
            plan.proxy_protocol = setup.proxy_protocol.clone();
            if bind == TPROXY {
                plan.upstream_source = setup.upstream_source;
            }
            drop(setup);
            world.command(Command::OpenDoor(Door { plan: Arc::new(plan), socket: None }));
        }
        world.sim.run_until_idle();
        world
    }

    /// Puts a policy in force.
    pub fn publish(&self, policy: PolicyInput) {
        self.generation.set(self.generation.get() + 1);
        let setup = self.setup.borrow();
        let mut credentials = CredentialsBuilder::new().expect("the test machine has randomness");
        for (user, password, workload) in &setup.users {
            let identity = Identity { workload: Some((*workload).into()), ..Identity::default() };
            credentials.add(user, password.as_bytes(), Arc::new(identity)).expect("a user of the test");
        }
        let snapshot = Snapshot {
            generation: self.generation.get(),
            policy: compile(policy).expect("the test's policy compiles"),
            limits: setup.limits.clone(),
            deny: Deny { contact: Some("ask #platform".into()) },
            credentials: credentials.build(),
            dns: DnsSettings::default(),
            telemetry: sluice_telemetry::Settings::default(),
            access_log: sluice_bridge::AccessLog::All,
        };
        self.command(Command::Snapshot(Arc::new(snapshot)));
    }

    /// From the next publication on these are the users.
    pub fn set_users(&self, users: Vec<(&'static str, &'static str, &'static str)>) {
        self.setup.borrow_mut().users = users;
    }

    /// The sum of a metric over all label sets that hold `with`.
    pub fn metric(&self, name: &str, with: &str) -> f64 {
        let mut text = String::new();
        self.registry.prometheus(&mut text);
        let values = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(with)
        });
        values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Sends a command to the worker.
    pub fn command(&self, command: Command) {
        self.commands.try_send(command).expect("the queue of commands has room");
    }

    /// Starts origins at [`ALLOWED`] and [`DENIED`]: HTTP on 80; an echo on 443, 5432 and 9000; on 9001 one that
    /// speaks first, on 9002 one that never ends, on 9003 one that
    /// sends and resets.
    pub fn serve_origins(&self) -> Ledger {
        let host = self.host(200);
        let ledger = Ledger::default();
        for address in [ALLOWED, DENIED] {
            origin::serve_http(&host, SocketAddr::new(address.into(), 80), &ledger);
            for port in [443, 5432, 9000] {
                origin::serve_echo(&host, SocketAddr::new(address.into(), port));
            }
            origin::serve_greeting(&host, SocketAddr::new(address.into(), 9001));
            origin::serve_nothing(&host, SocketAddr::new(address.into(), 9002));
            origin::serve_reset(&host, SocketAddr::new(address.into(), 9003));
        }
        ledger
    }

    /// Starts one more origin.
    pub fn serve_http_at(&self, address: SocketAddr) -> Ledger {
        let ledger = Ledger::default();
        origin::serve_http(&self.host(201), address, &ledger);
        ledger
    }

    /// A host outside the machine under test.
    pub fn host(&self, last: u8) -> SimEngine {
        self.sim.outside(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    /// The records written so far.
    pub fn records(&self) -> Vec<Entry> {
        (self.drain)();
        self.records.borrow().clone()
    }

    /// The reasons in the records written so far; `-` where there is none.
    pub fn reasons(&self) -> Vec<String> {
        let reason = |reason: Option<&[u8]>| String::from_utf8_lossy(reason.unwrap_or(b"-")).into_owned();
        self.records().iter().map(|record| reason(record.get(Field::PolicyReason))).collect()
    }

    /// Stops the worker and checks that it leaves nothing open and that the books balance. Gives all records.
    pub fn stop(self) -> Vec<Entry> {
        self.command(Command::Stop);
        self.sim.run_for(std::time::Duration::from_secs(5));
        let seed = self.sim.seed();
        // What was opened at a destination is closed at that destination.
        let (opened, closed) = ("istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total");
        for name in ["", "PassthroughCluster", "BlackHoleCluster", "\"allowed.test\"", "\"db.test\""] {
            assert_eq!(self.metric(opened, name), self.metric(closed, name), "seed {seed}: {name}");
        }
        assert_eq!(self.metric("egress_active_connections", ""), 0.0, "seed {seed}: active connections");
        let records = self.records();
        let Self { sim, commands, .. } = self;
        drop(commands);
        sim.run_for(std::time::Duration::from_secs(5));
        sim.run_until_idle();
        let open = sim.open();
        assert_eq!((open.engine_streams, open.engine_listeners), (0, 0), "seed {}: {open:?}", sim.seed());
        records
    }
}

/// A world without faults, with its origins; and its clients' host.
pub fn undisturbed(policy: PolicyInput, setup: Setup) -> (World, SimEngine) {
    let world = World::with(Sim::new(11, Faults::none()), policy, setup);
    world.serve_origins();
    let engine = world.host(5);
    (world, engine)
}

/// The zone: what DNS says in this world.
fn zone() -> HashMap<&'static str, Vec<IpAddr>> {
    HashMap::from([
        ("allowed.test", vec![ALLOWED.into()]),
        ("other.allowed.test", vec![ALLOWED.into()]),
        ("denied.test", vec![DENIED.into()]),
        ("metadata.test", vec![Ipv4Addr::new(169, 254, 169, 254).into()]),
        ("private.test", vec![Ipv4Addr::new(10, 7, 7, 7).into()]),
        ("dual.test", vec![Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1).into(), ALLOWED.into()]),
        ("open.test", vec![DENIED.into()]),
        ("second.test", vec![ALLOWED.into()]),
        ("many.test", vec![DENIED.into(), ALLOWED.into()]),
        ("mixed.test", vec![Ipv4Addr::new(10, 7, 7, 7).into(), ALLOWED.into()]),
    ])
}

async fn answer_questions(
    dns: Rc<Dns>,
    mut questions: mpsc::Receiver<sluice_bridge::DnsQuestion>,
    commands: mpsc::Sender<Command>,
) {
    while let Some(question) = questions.recv().await {
        dns.asked.set(dns.asked.get() + 1);
        if dns.lost.get() == Some(&*question.name) {
            continue;
        }
        let addresses = dns.zone.get(&*question.name);
        let v4 = addresses.into_iter().flatten().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.into_iter().flatten().filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        let outcome = Addresses::collect(v4, v6).ok_or(DnsFailure::NoName);
        let answer = DnsAnswer { name: question.name, outcome, fresh_ms: dns.fresh_ms.get(), stale_ms: 0 };
        if commands.send(Command::Answer(answer)).await.is_err() {
            return;
        }
    }
}

async fn collect<T>(mut queue: mpsc::Receiver<T>, into: Rc<RefCell<Vec<T>>>) {
    while let Some(item) = queue.recv().await {
        into.borrow_mut().push(item);
    }
}

/// Registry-only: `allowed.test` on 80 and 443, `*.allowed.test` on 80, `plain.test`-like names nowhere, and `db`.
pub fn registry_only() -> PolicyInput {
    policy(Mode::RegistryOnly)
}

/// The same registry in allow-any.
pub fn allow_any() -> PolicyInput {
    policy(Mode::AllowAny)
}

/// What [`registry_only`] and [`allow_any`] are made of.
pub fn policy(mode: Mode) -> PolicyInput {
    let origin = || Origin::new("simulation", 1);
    let mut web = ServiceInput::new("default", "web", origin());
    web.hosts = patterns(&[
        "allowed.test",
        "*.allowed.test",
        "metadata.test",
        "private.test",
        "mixed.test",
        "dual.test",
    ]);
    web.ports = vec![PortInput::new(80, Protocol::Http), PortInput::new(443, Protocol::Tls)];
    let mut opaque = ServiceInput::new("default", "opaque", origin());
    opaque.hosts = patterns(&["allowed.test"]);
    opaque.ports = vec![PortInput::new(9000, Protocol::Tcp)];
    let mut db = ServiceInput::new("default", "db", origin());
    db.hosts = patterns(&["db.test"]);
    db.ports = vec![PortInput::new(5432, Protocol::Tcp)];
    db.resolution = Resolution::Static;
    db.endpoints = vec![EndpointInput {
        address: EndpointAddress::Literal(ALLOWED.into()),
        ports: Vec::new(),
        locality: None,
        weight: 1,
    }];
    let mut input = PolicyInput::new(mode);
    input.services = vec![web, opaque, db];
    input
}

/// Hosts, for policies of tests.
pub fn patterns(hosts: &[&str]) -> Vec<HostPattern> {
    hosts.iter().map(|host| HostPattern::parse(host).expect("a host of the test")).collect()
}

/// A range, for policies of tests.
pub fn cidr(text: &str) -> Cidr {
    text.parse().expect("a range of the test")
}
