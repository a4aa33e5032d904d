//! The DNS service against a scripted server on loopback: real packets, every kind of answer and of silence.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use sluice_bridge::{Command, DnsAnswer, DnsFailure, DnsQuestion, DnsSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Input, Observer, Service};
use crate::limits::DNS_FAILURE_TTL_MS;

/// What the scripted server does with the A question for a name; AAAA questions get "no data" unless said.
#[derive(Clone, Debug)]
enum Script {
    /// One A record.
    V4(u32, [u8; 4]),
    /// One A and one AAAA record, each to its question.
    Both(u32),
    /// An A record; the AAAA question is never answered.
    V4AndSilence(u32),
    /// An alias to a target with its own A record in the same answer.
    Alias {
        alias_ttl_s: u32,
        target_ttl_s: u32,
    },
    /// An A record of another name only.
    OtherName,
    Code(ResponseCode),
    NoData,
    Silence,
    Garbage,
    /// First an answer with a wrong id, then the right one.
    ForgedFirst,
    /// An answer after this many milliseconds.
    Late(u64),
    /// A truncated answer; the whole one comes over TCP only.
    Truncated,
}

struct Server {
    address: SocketAddr,
    script: Arc<Mutex<HashMap<String, Script>>>,
    a_questions: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(script: &[(&str, Script)]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let script = Arc::new(Mutex::new(
            script
                .iter()
                .map(|(name, script)| ((*name).to_owned(), script.clone()))
                .collect::<HashMap<_, _>>(),
        ));
        let a_questions = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(Arc::new(socket), Arc::clone(&script), Arc::clone(&a_questions)));
        Self { address, script, a_questions, task }
    }

    fn set(&self, name: &str, script: Script) {
        self.script.lock().expect("no panic").insert(name.to_owned(), script);
    }

    fn asked(&self) -> usize {
        self.a_questions.load(SeqCst)
    }
}

async fn serve(socket: Arc<UdpSocket>, script: Arc<Mutex<HashMap<String, Script>>>, asked: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
        let question = Message::from_vec(&buffer[..length]).expect("a question that can be read");
        let query = question.queries.first().expect("one question").clone();
        let name = query.name().to_ascii().trim_end_matches('.').to_owned();
        if query.query_type() == RecordType::A {
            asked.fetch_add(1, SeqCst);
        }
        let act = script.lock().expect("no panic").get(&name).cloned().unwrap_or(Script::Silence);
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            if let Script::Late(delay_ms) = act {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            for reply in replies(&question, query.name(), query.query_type(), &act) {
                socket.send_to(&reply, peer).await.ok();
            }
        });
    }
}

fn replies(question: &Message, name: &Name, kind: RecordType, script: &Script) -> Vec<Vec<u8>> {
    let is_v4 = kind == RecordType::A;
    let v4 = |name: &Name, ttl_s, bytes: [u8; 4]| {
        Record::from_rdata(name.clone(), ttl_s, RData::A(A(bytes.into())))
    };
    let target = Name::from_ascii("target.test.").expect("a name");
    let mut message = Message::response(question.id, question.op_code);
    message.add_query(question.queries[0].clone());
    match script {
        Script::Silence => return Vec::new(),
        Script::V4AndSilence(_) if !is_v4 => return Vec::new(),
        Script::Garbage => return vec![vec![0xff; 40], b"GET / HTTP/1.1\r\n\r\n".to_vec(), Vec::new()],
        Script::Code(code) => message.metadata.response_code = *code,
        Script::Both(ttl_s) if !is_v4 => {
            let address = "2001:db8::1".parse().expect("an address");
            message.add_answer(Record::from_rdata(name.clone(), *ttl_s, RData::AAAA(AAAA(address))));
        }
        Script::NoData => {}
        _ if !is_v4 => {}
        Script::V4(ttl_s, bytes) => {
            message.add_answer(v4(name, *ttl_s, *bytes));
        }
        Script::Both(ttl_s) | Script::V4AndSilence(ttl_s) => {
            message.add_answer(v4(name, *ttl_s, [192, 0, 2, 1]));
        }
        Script::Alias { alias_ttl_s, target_ttl_s } => {
            message.add_answer(Record::from_rdata(
                name.clone(),
                *alias_ttl_s,
                RData::CNAME(CNAME(target.clone())),
            ));
            message.add_answer(v4(&target, *target_ttl_s, [192, 0, 2, 7]));
        }
        Script::OtherName => {
            message.add_answer(v4(&target, 60, [192, 0, 2, 66]));
        }
        Script::Truncated => message.metadata.truncation = true,
        Script::Late(_) => {
            message.add_answer(v4(name, 60, [192, 0, 2, 9]));
        }
        Script::ForgedFirst => {
            let mut forged = Message::response(question.id.wrapping_add(1), question.op_code);
            forged.add_query(question.queries[0].clone());
            forged.add_answer(v4(name, 60, [192, 0, 2, 66]));
            message.add_answer(v4(name, 60, [192, 0, 2, 1]));
            return vec![forged.to_vec().expect("encodes"), message.to_vec().expect("encodes")];
        }
    }
    vec![message.to_vec().expect("encodes")]
}

/// Outcomes of lookups, and whether an old answer served instead.
type Outcomes = Vec<(Result<(), DnsFailure>, bool)>;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Outcomes>>);

impl Observer for Seen {
    fn lookup(&self, outcome: Result<(), DnsFailure>, stale: bool, _: u64) {
        self.0.lock().expect("no panic").push((outcome, stale));
    }
    fn entries(&self, _: usize) {}
    fn waiting(&self, _: usize) {}
}

struct Rig {
    server: Server,
    inputs: mpsc::Sender<Input>,
    workers: Vec<mpsc::Receiver<Command>>,
    seen: Seen,
}

const WAIT: Duration = Duration::from_secs(10);

impl Rig {
    async fn start(script: &[(&str, Script)], change: impl FnOnce(&mut DnsSettings)) -> Self {
        let server = Server::start(script).await;
        let mut settings =
            DnsSettings { servers: vec![server.address], timeout_ms: 600, ..DnsSettings::default() };
        change(&mut settings);
        let (queues, workers) = (0..2).map(|_| mpsc::channel(16)).unzip();
        let (inputs, receiver) = mpsc::channel(16);
        let seen = Seen::default();
        let service = Service::new(settings, Path::new("/nonexistent"), queues, 4, seen.clone());
        tokio::spawn(service.run(receiver));
        Self { server, inputs, workers, seen }
    }

    async fn put(&self, worker: usize, name: &str) {
        let question = DnsQuestion { name: name.into(), worker };
        self.inputs.send(Input::Question(question)).await.expect("the service runs");
    }

    async fn answer(&mut self, worker: usize) -> DnsAnswer {
        let command = tokio::time::timeout(WAIT, self.workers[worker].recv()).await.expect("in time");
        let Some(Command::Answer(answer)) = command else { panic!("an answer, not {command:?}") };
        answer
    }

    async fn ask(&mut self, name: &str) -> DnsAnswer {
        self.put(0, name).await;
        self.answer(0).await
    }
}

fn v4(answer: &DnsAnswer) -> Vec<String> {
    answer.outcome.as_ref().expect("addresses").v4.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn both_families_are_asked_and_the_ttl_is_kept_within_its_bounds() {
    let script = [
        ("a.test", Script::Both(60)),
        ("zero.test", Script::V4(0, [192, 0, 2, 2])),
        ("long.test", Script::Both(9999)),
    ];
    let mut rig = Rig::start(&script, |_| {}).await;
    let answer = rig.ask("a.test").await;
    let addresses = answer.outcome.as_ref().expect("addresses");
    assert_eq!((addresses.v4.len(), addresses.v6.len()), (1, 1));
    assert_eq!((answer.fresh_ms, answer.stale_ms), (60_000, 3_600_000));
    assert_eq!(rig.ask("zero.test").await.fresh_ms, 1_000, "floor");
    assert_eq!(rig.ask("long.test").await.fresh_ms, 300_000, "ceiling");
}

#[tokio::test]
async fn one_question_goes_out_however_many_ask_and_every_asker_is_answered() {
    let mut rig = Rig::start(&[("a.test", Script::Late(100))], |_| {}).await;
    for worker in [0, 1, 0, 1, 0] {
        rig.put(worker, "a.test").await;
    }
    assert_eq!(v4(&rig.answer(0).await), ["192.0.2.9"]);
    assert_eq!(v4(&rig.answer(1).await), ["192.0.2.9"]);
    assert_eq!(rig.server.asked(), 1);
    let cached = rig.ask("a.test").await;
    assert!(cached.fresh_ms <= 60_000 && rig.server.asked() == 1, "the second time from the cache");
}

#[tokio::test]
async fn every_kind_of_no_is_told_apart() {
    let script = [
        ("nx.test", Script::Code(ResponseCode::NXDomain)),
        ("none.test", Script::NoData),
        ("fail.test", Script::Code(ResponseCode::ServFail)),
        ("refused.test", Script::Code(ResponseCode::Refused)),
        ("silent.test", Script::Silence),
    ];
    let mut rig = Rig::start(&script, |_| {}).await;
    for (name, failure) in [
        ("nx.test", DnsFailure::NoName),
        ("none.test", DnsFailure::NoData),
        ("fail.test", DnsFailure::ServerFailure),
        ("refused.test", DnsFailure::Refused),
        ("silent.test", DnsFailure::Timeout),
    ] {
        let answer = rig.ask(name).await;
        assert_eq!(answer.outcome, Err(failure), "{name}");
        let fresh_ms = if failure.is_answer() { 5_000 } else { DNS_FAILURE_TTL_MS };
        assert_eq!((answer.fresh_ms, answer.stale_ms), (fresh_ms, 0), "{name}");
    }
    let before = rig.server.asked();
    assert_eq!(rig.ask("nx.test").await.outcome, Err(DnsFailure::NoName));
    assert_eq!(rig.server.asked(), before, "absence is cached");
}

#[tokio::test]
async fn the_smallest_ttl_of_an_alias_chain_counts() {
    let script = [("a.test", Script::Alias { alias_ttl_s: 7, target_ttl_s: 300 })];
    let mut rig = Rig::start(&script, |_| {}).await;
    let answer = rig.ask("a.test").await;
    assert_eq!((v4(&answer), answer.fresh_ms), (vec!["192.0.2.7".to_owned()], 7_000));
}

#[tokio::test]
async fn lies_and_garbage_give_no_address() {
    let script = [
        ("other.test", Script::OtherName),
        ("garbage.test", Script::Garbage),
        ("forged.test", Script::ForgedFirst),
    ];
    let mut rig = Rig::start(&script, |_| {}).await;
    assert!(rig.ask("other.test").await.outcome.is_err(), "an address of another name");
    assert!(rig.ask("garbage.test").await.outcome.is_err());
    assert_eq!(v4(&rig.ask("forged.test").await), ["192.0.2.1"], "a wrong id is passed over");
    assert!(rig.ask("not a name").await.outcome.is_err());
}

#[tokio::test]
async fn old_addresses_serve_while_dns_is_down_and_new_ones_when_it_is_back() {
    let mut rig =
        Rig::start(&[("a.test", Script::V4(0, [192, 0, 2, 1]))], |settings| settings.ttl_min_ms = 1).await;
    assert_eq!(v4(&rig.ask("a.test").await), ["192.0.2.1"]);
    rig.server.set("a.test", Script::Silence);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let stale = rig.ask("a.test").await;
    assert_eq!(v4(&stale), ["192.0.2.1"]);
    assert!(stale.fresh_ms <= DNS_FAILURE_TTL_MS && stale.stale_ms > 3_500_000);
    assert_eq!(*rig.seen.0.lock().expect("no panic"), [(Ok(()), false), (Err(DnsFailure::Timeout), true)]);
    let asked = rig.server.asked();
    assert_eq!(v4(&rig.ask("a.test").await), ["192.0.2.1"]);
    assert_eq!(rig.server.asked(), asked, "a failing server is not asked for every request");
    tokio::time::sleep(Duration::from_millis(DNS_FAILURE_TTL_MS)).await;
    let started = std::time::Instant::now();
    assert_eq!(v4(&rig.ask("a.test").await), ["192.0.2.1"]);
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "a server that has failed is not waited for again"
    );
    rig.server.set("a.test", Script::V4(60, [192, 0, 2, 2]));
    let deadline = started + WAIT;
    while v4(&rig.ask("a.test").await) != ["192.0.2.2"] {
        assert!(std::time::Instant::now() < deadline, "the new address never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_family_that_is_never_answered_does_not_hold_up_the_other() {
    let mut rig =
        Rig::start(&[("a.test", Script::V4AndSilence(300))], |settings| settings.timeout_ms = 5_000).await;
    let started = std::time::Instant::now();
    let answer = rig.ask("a.test").await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((v4(&answer).len(), answer.fresh_ms), (1, 10_000), "and is asked again soon");
}

#[tokio::test]
async fn new_servers_are_used_at_once() {
    let mut rig = Rig::start(&[("a.test", Script::Silence)], |_| {}).await;
    let other = Server::start(&[("b.test", Script::V4(60, [192, 0, 2, 3]))]).await;
    let settings = DnsSettings { servers: vec![other.address], ..DnsSettings::default() };
    rig.inputs.send(Input::Settings(settings)).await.expect("the service runs");
    assert_eq!(v4(&rig.ask("b.test").await), ["192.0.2.3"]);
    assert_eq!(rig.server.asked(), 0);
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let mut rig = Rig::start(
        &[("a.test", Script::V4(60, [192, 0, 2, 1])), ("b.test", Script::V4(60, [192, 0, 2, 2]))],
        |settings| settings.cache_entries_max = 1,
    )
    .await;
    rig.ask("a.test").await;
    rig.ask("b.test").await;
    rig.ask("a.test").await;
    assert_eq!(rig.server.asked(), 3, "the first was pushed out by the second");
}

#[tokio::test]
async fn a_worker_that_does_not_read_holds_up_nobody() {
    let mut rig = Rig::start(&[("a.test", Script::V4(60, [192, 0, 2, 1]))], |_| {}).await;
    for _ in 0..64 {
        rig.put(0, "a.test").await;
    }
    rig.put(1, "a.test").await;
    assert_eq!(v4(&rig.answer(1).await), ["192.0.2.1"]);
    assert_eq!(v4(&rig.answer(0).await), ["192.0.2.1"], "and its own answers wait for it");
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    // A port that is free for UDP may be taken for TCP: another one then.
    let mut rig = Rig::start(&[("a.test", Script::Truncated)], |_| {}).await;
    let mut bound = tokio::net::TcpListener::bind(rig.server.address).await;
    for _ in 0..20 {
        if bound.is_err() {
            rig = Rig::start(&[("a.test", Script::Truncated)], |_| {}).await;
            bound = tokio::net::TcpListener::bind(rig.server.address).await;
        }
    }
    let listener = bound.expect("one of 20 ports is free for both");
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        loop {
            let Ok(length) = stream.read_u16().await else { return };
            let mut packet = vec![0; usize::from(length)];
            stream.read_exact(&mut packet).await.expect("a question");
            let question = Message::from_vec(&packet).expect("a question that can be read");
            let query = question.queries.first().expect("one question").clone();
            let script = Script::V4(60, [192, 0, 2, 5]);
            for reply in replies(&question, query.name(), query.query_type(), &script) {
                stream.write_u16(u16::try_from(reply.len()).expect("small")).await.expect("sends");
                stream.write_all(&reply).await.expect("sends");
            }
        }
    });
    assert_eq!(v4(&rig.ask("a.test").await), ["192.0.2.5"]);
    serving.abort();
}

#[tokio::test]
async fn many_names_at_once_are_all_answered() {
    const NAMES: usize = 600;
    let names: Vec<String> = (0..NAMES).map(|number| format!("n{number}.test")).collect();
    let script: Vec<_> = names.iter().map(|name| (name.as_str(), Script::Late(20))).collect();
    let mut rig = Rig::start(&script, |settings| settings.timeout_ms = 5_000).await;
    let inputs = rig.inputs.clone();
    let asking = tokio::spawn(async move {
        for name in names {
            let question = DnsQuestion { name: name.as_str().into(), worker: 0 };
            inputs.send(Input::Question(question)).await.expect("the service runs");
        }
    });
    let mut failed = Vec::new();
    for _ in 0..NAMES {
        let answer = rig.answer(0).await;
        if answer.outcome.is_err() {
            failed.push(answer);
        }
    }
    asking.await.expect("no panic");
    assert!(failed.is_empty(), "{} of {NAMES}: {:?}", failed.len(), failed.first());
    assert_eq!(rig.server.asked(), NAMES, "each was asked for once");
}
