//! One worker under test with a control plane of a few lines: a zone instead of DNS, a policy written in place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use sluice_bridge::{
    Addresses, Command, ControlPort, Credentials, Deny, DnsAnswer, DnsFailure, DnsSettings, Door, DoorKind,
    DoorPlan, Limits, Snapshot, limits::Bounds, pair,
};
use sluice_dataplane::{WorkerConfig, run_worker};
use sluice_engine::Engine;
use sluice_engine_sim::{Sim, SimEngine};
use sluice_policy::{
    Cidr, EndpointAddress, EndpointInput, HostPattern, Mode, Origin, PolicyInput, PortInput, Protocol,
    Resolution, ServiceInput, compile,
};
use sluice_telemetry::Registry;
use sluice_telemetry::access_log::Entry;
use tokio::sync::mpsc;

/// Where the proxy door listens.
pub const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 3128);
/// Where the TLS door listens.
pub const TLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8443);
/// Where the TCP door listens, bound to the service `db`.
pub const TCP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 5432);

/// The origin that the registry allows.
pub const ALLOWED: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 10);
/// An origin that it does not.
pub const DENIED: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 20);

/// A world with one worker, which serves three doors.
pub struct World {
    /// The simulation.
    pub sim: Sim,
    commands: mpsc::Sender<Command>,
    records: Rc<RefCell<Vec<Box<Entry>>>>,
    drain: Rc<dyn Fn()>,
    /// The metrics.
    pub registry: Registry,
    generation: RefCell<u64>,
}

impl World {
    /// Starts the worker under `policy` and waits until its doors are open.
    pub fn start(sim: Sim, policy: PolicyInput) -> Self {
        let registry = Registry::new(sluice_telemetry::Settings::default());
        let (port, control) = pair(0, &Bounds::default());
        let engine = sim.engine();
        let config = WorkerConfig { connections_max: 1000 };
        engine.spawn(run_worker(engine.clone(), port, registry.worker(), config));
        let ControlPort { commands, questions, notices, records: queue, retired, .. } = control;
        let outside = sim.outside(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)));
        outside.spawn(answer_questions(questions, commands.clone()));
        outside.spawn(swallow(notices));
        outside.spawn(swallow(retired));
        let records = Rc::new(RefCell::new(Vec::new()));
        let queue = RefCell::new(queue);
        let sink = Rc::clone(&records);
        let drain = Rc::new(move || {
            while let Some(entry) = queue.borrow_mut().pop() {
                sink.borrow_mut().push(entry);
            }
        });
        let world = Self { sim, commands, records, drain, registry, generation: RefCell::new(0) };
        world.publish(policy);
        for (kind, bind) in [(DoorKind::HttpProxy, PROXY), (DoorKind::Tls, TLS), (DoorKind::Tcp, TCP)] {
            let mut plan = DoorPlan::new(kind, bind);
            plan.destination_port = (kind != DoorKind::HttpProxy).then_some(match kind {
                DoorKind::Tls => 443,
                _ => 5432,
            });
            plan.service = (kind == DoorKind::Tcp).then(|| ("default".into(), "db".into()));
            world.command(Command::OpenDoor(Door { plan: Arc::new(plan), socket: None }));
        }
        world.sim.run_until_idle();
        world
    }

    /// Puts a policy in force.
    pub fn publish(&self, policy: PolicyInput) {
        *self.generation.borrow_mut() += 1;
        let snapshot = Snapshot {
            generation: *self.generation.borrow(),
            policy: compile(policy).expect("the test's policy compiles"),
            limits: Limits::default(),
            deny: Deny { contact: Some("ask #platform".into()) },
            credentials: Credentials::none().expect("the test machine has randomness"),
            dns: DnsSettings::default(),
            telemetry: sluice_telemetry::Settings::default(),
            access_log: sluice_bridge::AccessLog::All,
        };
        self.command(Command::Snapshot(Arc::new(snapshot)));
    }

    /// Sends a command to the worker.
    pub fn command(&self, command: Command) {
        self.commands.try_send(command).expect("the queue of commands has room");
    }

    /// A host outside the machine under test.
    pub fn host(&self, last: u8) -> SimEngine {
        self.sim.outside(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
    }

    /// The records written so far.
    pub fn records(&self) -> Vec<Box<Entry>> {
        (self.drain)();
        self.records.borrow().clone()
    }

    /// Stops the worker and checks that it leaves nothing open.
    pub fn stop(self) {
        self.command(Command::Stop);
        let Self { sim, commands, .. } = self;
        drop(commands);
        sim.run_for(std::time::Duration::from_secs(5));
        sim.run_until_idle();
        let open = sim.open();
        assert_eq!((open.engine_streams, open.engine_listeners), (0, 0), "seed {}: {open:?}", sim.seed());
    }
}

/// The zone: what DNS says in this world.
fn zone() -> HashMap<&'static str, Vec<IpAddr>> {
    HashMap::from([
        ("allowed.test", vec![ALLOWED.into()]),
        ("other.allowed.test", vec![ALLOWED.into()]),
        ("denied.test", vec![DENIED.into()]),
        ("metadata.test", vec![Ipv4Addr::new(169, 254, 169, 254).into()]),
        ("private.test", vec![Ipv4Addr::new(10, 7, 7, 7).into()]),
        ("mixed.test", vec![Ipv4Addr::new(10, 7, 7, 7).into(), ALLOWED.into()]),
    ])
}

async fn answer_questions(
    mut questions: mpsc::Receiver<sluice_bridge::DnsQuestion>,
    commands: mpsc::Sender<Command>,
) {
    let zone = zone();
    while let Some(question) = questions.recv().await {
        let addresses = zone.get(&*question.name);
        let v4 = addresses.into_iter().flatten().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let outcome = Addresses::collect(v4, []).ok_or(DnsFailure::NoName);
        let answer = DnsAnswer { name: question.name, outcome, fresh_ms: 1000, stale_ms: 0 };
        if commands.send(Command::Answer(answer)).await.is_err() {
            return;
        }
    }
}

async fn swallow<T>(mut queue: mpsc::Receiver<T>) {
    while queue.recv().await.is_some() {}
}

/// Registry-only: `allowed.test` on 80 and 443, `*.allowed.test` on 80, `plain.test`-like names nowhere, and `db`.
pub fn registry_only() -> PolicyInput {
    policy(Mode::RegistryOnly)
}

/// The same registry in allow-any.
pub fn allow_any() -> PolicyInput {
    policy(Mode::AllowAny)
}

fn policy(mode: Mode) -> PolicyInput {
    let origin = || Origin::new("simulation", 1);
    let mut web = ServiceInput::new("default", "web", origin());
    web.hosts = patterns(&["allowed.test", "*.allowed.test", "metadata.test", "private.test", "mixed.test"]);
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

fn patterns(hosts: &[&str]) -> Vec<HostPattern> {
    hosts.iter().map(|host| HostPattern::parse(host).expect("a host of the test")).collect()
}

/// A range, for policies of tests.
pub fn cidr(text: &str) -> Cidr {
    text.parse().expect("a range of the test")
}
