//! The control plane as a whole, with workers that only take commands: publication, reload, expiry, doors, the end.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_bridge::limits::Bounds;
use sluice_bridge::{Command, DnsQuestion, Door, Notice, Snapshot, WorkerPort};
use sluice_config::Source;
use sluice_controlplane::backlog::{Batch, LogStats};
use sluice_controlplane::descriptors::Budget;
use sluice_controlplane::{Ending, Listeners, LogWriter, Order, Running, Setup, start};
use sluice_policy::Mode;
use sluice_telemetry::{Registry, Settings};

const WAIT: Duration = Duration::from_secs(10);

/// A log writer that keeps lines and counts reopenings.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<(Vec<u8>, usize)>>);

impl LogWriter for Kept {
    fn write(&mut self, batch: Batch) {
        self.0.lock().unwrap().0.extend(batch.bytes);
    }
    fn reopen(&mut self) {
        self.0.lock().unwrap().1 += 1;
    }
    fn stats(&self) -> LogStats {
        LogStats::default()
    }
    fn finish(&mut self, _: Duration) {}
}

struct Rig {
    folder: tempfile::TempDir,
    running: Option<Running>,
    workers: Vec<WorkerPort>,
    admin: SocketAddr,
    kept: Kept,
    made: Arc<Mutex<usize>>,
}

/// A port that is free now.
fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn config(mode: &str, doors: &[SocketAddr], more: &str) -> String {
    let doors: String = doors
        .iter()
        .map(|bind| format!("[[listener]]\nkind = \"http_proxy\"\nbind = \"{bind}\"\n"))
        .collect();
    format!("mode = \"{mode}\"\n{doors}[admin]\nbind = \"127.0.0.1:0\"\n{more}")
}

impl Rig {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sluice.toml");
        fs::write(&file, text).unwrap();
        Self::start_from(folder, &file)
    }

    fn start_from(folder: tempfile::TempDir, file: &Path) -> Self {
        let source = Source::isolated(Some(file.to_owned()));
        let loaded_at = std::time::SystemTime::now();
        let plan = sluice_config::load(&source).unwrap().plan;
        let listeners = Listeners::bind(&plan, 2).unwrap();
        let budget = Budget::divide(&plan.limits, 20_000, 2, plan.doors.len()).unwrap();
        let admin = listeners.admin.local_addr().unwrap();
        let (workers, ports) = (0..2).map(|index| sluice_bridge::pair(index, &Bounds::default())).unzip();
        let (kept, made) = (Kept::default(), Arc::new(Mutex::new(0)));
        let (writer, count) = (kept.clone(), Arc::clone(&made));
        let running = start(Setup {
            plan,
            source,
            loaded_at,
            listeners,
            ports,
            registry: Registry::new(Settings::default()),
            make_writer: Arc::new(move |_| -> io::Result<Box<dyn LogWriter>> {
                *count.lock().unwrap() += 1;
                Ok(Box::new(writer.clone()))
            }),
            budget,
            engine: ("epoll", "configured".to_owned()),
            resolv_conf: PathBuf::from("/nonexistent"),
            slow_cores: Vec::new(),
            signals: false,
        })
        .unwrap();
        Self { folder, running: Some(running), workers, admin, kept, made }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file as an editor does.
    fn rename_over(&self, name: &str, text: &str) {
        fs::write(self.file("new"), text).unwrap();
        fs::rename(self.file("new"), self.file(name)).unwrap();
    }

    fn order(&self, order: Order) {
        self.running.as_ref().unwrap().order(order);
    }

    fn next(&mut self, worker: usize) -> Command {
        let deadline = Instant::now() + WAIT;
        loop {
            match self.workers[worker].commands.try_recv() {
                Ok(command) => return command,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => panic!("no command for worker {worker}: {error}"),
            }
        }
    }

    fn next_snapshot(&mut self, worker: usize) -> Arc<Snapshot> {
        match self.next(worker) {
            Command::Snapshot(snapshot) => snapshot,
            other => panic!("a snapshot, not {other:?}"),
        }
    }

    fn next_door(&mut self, worker: usize) -> Door {
        match self.next(worker) {
            Command::OpenDoor(door) => door,
            other => panic!("a door, not {other:?}"),
        }
    }

    fn nothing_comes(&mut self, wait: Duration) {
        std::thread::sleep(wait);
        for worker in &mut self.workers {
            let command = worker.commands.try_recv();
            assert!(command.is_err(), "{command:?}");
        }
    }

    /// Takes in what every worker gets at start.
    fn adopt_first(&mut self) -> Arc<Snapshot> {
        let mut first = None;
        for worker in 0..2 {
            let snapshot = self.next_snapshot(worker);
            let door = self.next_door(worker);
            assert!(door.socket.is_some(), "every worker gets a socket of its own");
            let notice = Notice::Adopted { generation: snapshot.generation, revoked: 0 };
            self.workers[worker].notices.blocking_send(notice).unwrap();
            first = Some(snapshot);
        }
        first.unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn eventually(&self, what: &str, path: &str, wanted: &str) {
        let deadline = Instant::now() + WAIT;
        let mut answer = String::new();
        while Instant::now() < deadline {
            answer = self.get(path);
            if answer.contains(wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what}: {wanted:?} is not in {answer}");
    }

    fn end(mut self) -> Ending {
        self.running.take().unwrap().wait().unwrap()
    }
}

#[test]
fn ready_once_every_worker_has_the_first_snapshot() {
    let mut rig = Rig::start(&config("registry_only", &[free()], ""));
    assert!(rig.get("/readyz").contains("starting"));
    let snapshot = rig.adopt_first();
    assert_eq!((snapshot.generation, snapshot.policy.mode()), (1, Mode::RegistryOnly));
    assert_eq!(snapshot.limits.connections_max, Some(9000));
    assert!(snapshot.policy.guard(rig.admin, None).is_err(), "our own admin API is never dialled");
    rig.eventually("ready", "/readyz", "ready");
    rig.eventually("metrics", "/metrics", "egress_config_generation 1");
}

#[test]
fn a_rename_puts_the_new_configuration_in_force() {
    let door = free();
    let mut rig = Rig::start(&config("registry_only", &[door], ""));
    rig.adopt_first();
    rig.rename_over("sluice.toml", &config("allow_any", &[door], ""));
    for worker in 0..2 {
        let snapshot = rig.next_snapshot(worker);
        assert_eq!((snapshot.generation, snapshot.policy.mode()), (2, Mode::AllowAny));
    }
    rig.eventually("config", "/config", "\"mode\": \"allow_any\"");
    rig.eventually("metrics", "/metrics", "egress_config_reload_total{result=\"success\"} 1");
}

#[test]
fn a_configmap_swap_puts_the_new_configuration_in_force() {
    let door = free();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    for (version, mode) in [("..1", "registry_only"), ("..2", "allow_any")] {
        fs::create_dir(place(version)).unwrap();
        fs::write(place(version).join("sluice.toml"), config(mode, &[door], "")).unwrap();
    }
    std::os::unix::fs::symlink("..1", place("..data")).unwrap();
    std::os::unix::fs::symlink("..data/sluice.toml", place("sluice.toml")).unwrap();
    let file = place("sluice.toml");
    let mut rig = Rig::start_from(folder, &file);
    rig.adopt_first();
    std::os::unix::fs::symlink("..2", rig.file("..data_tmp")).unwrap();
    fs::rename(rig.file("..data_tmp"), rig.file("..data")).unwrap();
    assert_eq!(rig.next_snapshot(0).policy.mode(), Mode::AllowAny);
}

#[test]
fn a_bad_file_keeps_the_last_good_configuration() {
    let door = free();
    let mut rig = Rig::start(&config("registry_only", &[door], ""));
    rig.adopt_first();
    for (failures, bad) in
        ["mode = \"allow", "", "mode = \"allow_any\"\nnonsense = 1\n"].into_iter().enumerate()
    {
        rig.rename_over("sluice.toml", bad);
        let wanted = format!("egress_config_reload_total{{result=\"failure\"}} {}", failures + 1);
        rig.eventually("counted", "/metrics", &wanted);
    }
    rig.nothing_comes(Duration::ZERO);
    rig.eventually("config", "/config", "\"mode\": \"registry_only\"");
    rig.rename_over("sluice.toml", &config("allow_any", &[door], ""));
    assert_eq!(rig.next_snapshot(0).generation, 2, "a good one is taken again");
}

#[test]
fn a_half_written_file_is_not_read() {
    let door = free();
    let mut rig = Rig::start(&config("registry_only", &[door], ""));
    rig.adopt_first();
    let text = config("allow_any", &[door], "");
    let (first, second) = text.split_at(text.len() / 2);
    let mut file = fs::File::create(rig.file("sluice.toml")).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    rig.nothing_comes(Duration::from_millis(700));
    rig.eventually("not even tried", "/metrics", "egress_config_reload_total{result=\"failure\"} 0");
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    assert_eq!(rig.next_snapshot(0).policy.mode(), Mode::AllowAny);
}

#[test]
fn hosts_files_and_password_files_count_as_configuration() {
    let door = free();
    let more = "[[service]]\nname = \"a\"\nhosts_file = \"hosts.txt\"\n\
                [[workload]]\nname = \"w\"\ncredentials = [{ user = \"u\", password_file = \"secret\" }]\n";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hosts.txt"), "a.test\n").unwrap();
    fs::write(folder.path().join("secret"), "one\n").unwrap();
    let file = folder.path().join("sluice.toml");
    fs::write(&file, config("registry_only", &[door], more)).unwrap();
    let mut rig = Rig::start_from(folder, &file);
    assert_eq!(rig.adopt_first().policy.counts().hosts, 1);
    rig.rename_over("hosts.txt", "a.test\nb.test\n");
    let snapshot = rig.next_snapshot(0);
    assert_eq!(snapshot.policy.counts().hosts, 2);
    assert!(snapshot.credentials.verify(b"u", b"one").is_some());
    rig.rename_over("secret", "two\n");
    let snapshot = rig.next_snapshot(0);
    assert!(snapshot.credentials.verify(b"u", b"one").is_none());
    assert!(snapshot.credentials.verify(b"u", b"two").is_some());
}

#[test]
fn doors_come_go_and_change_by_their_address() {
    let (old, new) = (free(), free());
    let mut rig = Rig::start(&config("registry_only", &[old], ""));
    rig.adopt_first();
    fs::write(rig.file("sluice.toml"), config("registry_only", &[old, new], "")).unwrap();
    rig.order(Order::Reload);
    for worker in 0..2 {
        assert_eq!(
            rig.next_snapshot(worker).generation,
            2,
            "the snapshot comes before the door that may need it"
        );
        let door = rig.next_door(worker);
        assert_eq!((door.plan.bind, door.socket.is_some()), (new, true));
        drop(door);
    }
    let only_new = config("registry_only", &[new], "").replace("kind", "name = \"renamed\"\nkind");
    rig.rename_over("sluice.toml", &only_new);
    for worker in 0..2 {
        rig.next_snapshot(worker);
        let door = rig.next_door(worker);
        assert_eq!((door.plan.bind, &*door.plan.name, door.socket.is_none()), (new, "renamed", true));
        let Command::CloseDoor(address) = rig.next(worker) else { panic!("the old door closes") };
        assert_eq!(address, old);
    }
}

#[test]
fn a_door_that_cannot_be_bound_refuses_the_whole_reload() {
    let door = free();
    let mut rig = Rig::start(&config("registry_only", &[door], ""));
    rig.adopt_first();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (good, bad) = (free(), taken.local_addr().unwrap());
    rig.rename_over("sluice.toml", &config("allow_any", &[door, good, bad], ""));
    rig.eventually("refused", "/metrics", "egress_config_reload_total{result=\"failure\"} 1");
    rig.nothing_comes(Duration::ZERO);
    TcpListener::bind(good).expect("what was bound for it is released");
}

#[test]
fn what_needs_a_restart_is_not_taken_over() {
    let door = free();
    let mut rig = Rig::start(&config("registry_only", &[door], ""));
    rig.adopt_first();
    let other_admin = free();
    let text = config("allow_any", &[door], "")
        .replace("bind = \"127.0.0.1:0\"", &format!("bind = \"{other_admin}\""));
    rig.rename_over("sluice.toml", &text);
    assert_eq!(rig.next_snapshot(0).policy.mode(), Mode::AllowAny, "the rest is taken over");
    assert!(TcpStream::connect(other_admin).is_err());
    assert!(rig.get("/healthz").contains("200 OK"), "the admin API is where it was");
}

#[test]
fn the_prometheus_listener_comes_and_goes() {
    let (door, bind) = (free(), free());
    let mut rig = Rig::start(&config("registry_only", &[door], ""));
    rig.adopt_first();
    let more = format!("[telemetry.prometheus]\nbind = \"{bind}\"\n");
    rig.rename_over("sluice.toml", &config("registry_only", &[door], &more));
    let snapshot = rig.next_snapshot(0);
    assert!(snapshot.policy.guard(bind, None).is_err(), "it is our own listener");
    let mut probe = TcpStream::connect(bind).unwrap();
    write!(probe, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("egress_config_generation"), "{answer}");
    rig.rename_over("sluice.toml", &config("registry_only", &[door], ""));
    rig.next_snapshot(0);
    let closed = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        TcpStream::connect(bind).is_err()
    });
    assert!(closed);
}

#[test]
fn an_expiring_rule_makes_the_workers_decide_again() {
    let expires = std::time::SystemTime::now() + Duration::from_secs(3);
    let seconds = expires.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let day_seconds = seconds % 86_400;
    let date = date_of(seconds / 86_400);
    let (hour, minute, second) = (day_seconds / 3600, day_seconds / 60 % 60, day_seconds % 60);
    let more = format!(
        "[[service]]\nname = \"a\"\nhosts = [\"a.test\"]\nexpires = \"{date}T{hour:02}:{minute:02}:{second:02}Z\"\n"
    );
    let mut rig = Rig::start(&config("registry_only", &[free()], &more));
    rig.adopt_first();
    let again = rig.next_snapshot(0);
    assert_eq!(again.generation, 1, "the same snapshot, at a later time");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now >= seconds && now <= seconds + 2, "{now} against {seconds}");
}

/// Year, month and day of a day number since 1970 (H. Hinnant's civil calendar).
fn date_of(days: u64) -> String {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[test]
fn log_files_are_opened_anew_and_replaced_when_configured_otherwise() {
    let door = free();
    let mut rig = Rig::start(&config("registry_only", &[door], ""));
    rig.adopt_first();
    rig.order(Order::ReopenLogs);
    let reopened = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        rig.kept.0.lock().unwrap().1 == 1
    });
    assert!(reopened);
    assert_eq!(*rig.made.lock().unwrap(), 1);
    rig.rename_over("sluice.toml", &config("registry_only", &[door], "[access_log]\nformat = \"json\"\n"));
    rig.next_snapshot(0);
    assert_eq!(*rig.made.lock().unwrap(), 2);
    let is_json = (0..500).any(|_| {
        rig.workers[0].records.push(Box::default());
        std::thread::sleep(Duration::from_millis(10));
        rig.kept.0.lock().unwrap().0.split(|byte| *byte == b'\n').any(|line| line.first() == Some(&b'{'))
    });
    assert!(is_json);
}

#[test]
fn terminating_drains_and_a_second_signal_ends_at_once() {
    let mut rig = Rig::start(&config("registry_only", &[free()], ""));
    rig.adopt_first();
    rig.order(Order::Terminate);
    for worker in 0..2 {
        let Command::Drain { deadline_ms } = rig.next(worker) else { panic!("a drain") };
        assert_eq!(deadline_ms, 25_000);
    }
    rig.eventually("not ready", "/readyz", "draining");
    assert!(rig.get("/healthz").contains("200 OK"));
    for worker in 0..2 {
        rig.workers[worker].notices.blocking_send(Notice::Drained { cut: 1 }).unwrap();
    }
    assert_eq!(rig.end(), Ending::Drained { cut: 2 });

    let mut rig = Rig::start(&config("registry_only", &[free()], ""));
    rig.adopt_first();
    rig.order(Order::Terminate);
    rig.order(Order::Terminate);
    assert_eq!(rig.end(), Ending::AtOnce);
}

#[test]
fn a_worker_that_ends_unasked_is_a_failure() {
    let mut rig = Rig::start(&config("registry_only", &[free()], ""));
    rig.adopt_first();
    rig.workers.pop();
    assert_eq!(rig.end(), Ending::WorkerFailed { worker: 1 });
}

#[test]
fn dns_is_answered_fast_while_the_heavy_thread_compiles() {
    let server = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = server.local_addr().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let answering = std::thread::spawn(move || {
        let mut packet = [0; 512];
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let Ok((length, peer)) = server.recv_from(&mut packet) else { continue };
            // NXDOMAIN, recursion available: the question sent back.
            (packet[2], packet[3]) = (0x81, 0x83);
            packet[10..12].fill(0);
            server.send_to(&packet[..end_of_question(&packet[..length])], peer).unwrap();
        }
    });
    let hosts: String = (0..60_000).map(|number| format!("h{number}.test\n")).collect();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hosts.txt"), hosts).unwrap();
    let more =
        format!("[dns]\nservers = [\"{address}\"]\n[[service]]\nname = \"a\"\nhosts_file = \"hosts.txt\"\n");
    let file = folder.path().join("sluice.toml");
    fs::write(&file, config("registry_only", &[free()], &more)).unwrap();
    let mut rig = Rig::start_from(folder, &file);
    rig.adopt_first();
    rig.order(Order::Reload);
    let mut asked = 0;
    let mut slowest = Duration::ZERO;
    let done = loop {
        let name = format!("n{asked}.test");
        let started = Instant::now();
        rig.workers[0]
            .questions
            .blocking_send(DnsQuestion { name: name.as_str().into(), worker: 0 })
            .unwrap();
        match rig.next(0) {
            Command::Answer(answer) => assert_eq!(&*answer.name, name),
            Command::Snapshot(snapshot) => break snapshot,
            other => panic!("{other:?}"),
        }
        slowest = slowest.max(started.elapsed());
        asked += 1;
    };
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    answering.join().unwrap();
    assert_eq!(done.policy.counts().hosts, 60_000);
    assert!(asked > 0, "the compilation took no time at all");
    // Generous for a machine that is busy with other tests; a compilation on the control thread would take longer.
    assert!(slowest < Duration::from_millis(250), "{slowest:?} over {asked} questions");
}

fn end_of_question(packet: &[u8]) -> usize {
    let mut at = 12;
    while packet[at] != 0 {
        at += 1 + usize::from(packet[at]);
    }
    at + 5
}
