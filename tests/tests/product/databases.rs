//! Real databases and a mail server behind the gateway, through every door that can carry them. Their servers may
//! speak first and their TLS begins inside the protocol: nothing may be waited for, nothing may be read, and every byte
//! is counted.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sluice_tests::harness::databases::Database;
use sluice_tests::harness::gateway::{Start, binary, engine, get, sum};
use sluice_tests::harness::meter::{Meter, Passed};
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::process::Process;
use sluice_tests::harness::tools::{Done, tool};
use sluice_tests::harness::{Dns, Gateway, Http, until};

/// Where the gateway's doors are.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Where the database is, for everybody: as far as the gateway can tell, somewhere in the world.
const DATABASE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The name of the database.
const NAME: &str = "db.test";
/// A second port of the database that no list and no registry knows.
const UNKNOWN_PORT: u16 = 9399;
/// What comes from the clients for the database, at whatever port, goes to the transparent door.
const CAPTURE: &str = r#"
table inet capture {
  chain redirected {
    type nat hook prerouting priority dstnat;
    iifname "app" ip daddr 198.51.100.10 meta l4proto tcp redirect to :15001
  }
}
"#;
/// A sniff that is waited for shows.
const SNIFF: Duration = Duration::from_millis(700);
/// What the gateway may add to the first bytes of a server. A sniff that is waited for takes 3 s.
const PROMPT: Duration = Duration::from_millis(50);
const MIB: usize = 1 << 20;

/// How a client comes to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A `tcp` door of its own.
    Tcp,
    /// CONNECT to its name.
    Connect,
    /// CONNECT to its address.
    ConnectAddress,
    /// SOCKS5 with its name.
    Socks,
    /// SOCKS5 with its address.
    SocksAddress,
    /// To its address, and captured on the way.
    Captured,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Tcp, Self::Connect, Self::ConnectAddress, Self::Socks, Self::SocksAddress, Self::Captured];
    /// Those that give an address and no name.
    const BY_ADDRESS: [Self; 3] = [Self::ConnectAddress, Self::SocksAddress, Self::Captured];

    /// Where the gateway listens for those who come so.
    fn door(self) -> SocketAddr {
        let port = match self {
            Self::Tcp => 7000,
            Self::Connect | Self::ConnectAddress => 3128,
            Self::Socks | Self::SocksAddress => 1080,
            Self::Captured => 15001,
        };
        (GATEWAY, port).into()
    }

    /// Where a client connects.
    fn address(self, port: u16) -> SocketAddr {
        if self == Self::Captured { (DATABASE, port).into() } else { self.door() }
    }

    /// What the client asks the door for.
    fn destination(self) -> String {
        match self {
            Self::Connect | Self::Socks => NAME.to_owned(),
            _ => DATABASE.to_string(),
        }
    }
}

/// Where a client program connects, and what takes it to the gateway where it speaks to no proxy itself.
struct Target {
    address: SocketAddr,
    _forwarder: Option<Process>,
}

/// One server with a counter in front of it, and a gateway.
struct World {
    gateway: Option<Gateway>,
    /// In front of the server's own port and of [`UNKNOWN_PORT`].
    meters: Option<[Meter; 2]>,
    database: Database,
    dns: Dns,
    /// Where the clients are.
    app: Netns,
    /// Where the gateway is, and the server behind it.
    router: Netns,
    port: u16,
}

impl World {
    fn new(port: u16, start: fn(&Netns, &str, u16) -> Database) -> Self {
        let (app, router) = (Netns::new(), Netns::new());
        router.cable(("app", &["10.99.0.1/24"]), &app, ("out", &["10.99.0.2/24"]));
        app.default_route(GATEWAY.into());
        router.address(DATABASE);
        router.run("nft", &[CAPTURE]);
        let database = start(&router, NAME, port);
        let server = database.address();
        let meters = router.enter(|| {
            [port, UNKNOWN_PORT].map(|port| Meter::start(SocketAddr::from((DATABASE, port)), server))
        });
        let dns = router.enter(Dns::start);
        dns.set(NAME, DATABASE.into(), 60);
        Self { gateway: None, meters: Some(meters), database, dns, app, router, port }
    }

    /// Ends the gateway and starts one with this configuration. Each has the doors that need no service.
    fn start(&mut self, mode: &str, more: &str) {
        self.gateway = None;
        let door = |way: Way, kind: &str, more: &str| {
            format!("[[listener]]\nkind = \"{kind}\"\nname = \"{kind}\"\nbind = \"{}\"\n{more}\n", way.door())
        };
        let mut config = format!("mode = \"{mode}\"\n{}", self.dns.toml(""));
        config += &door(Way::Connect, "http_proxy", "");
        config += &door(Way::Socks, "socks5", "");
        config += &door(Way::Captured, "transparent", "capture = \"redirect\"");
        if more.contains("[[service]]") {
            config += &door(Way::Tcp, "tcp", "service = \"default/db\"");
        }
        config += &format!("{more}\n[dataplane]\nengine = \"{}\"\n", engine());
        let gateway = Start::through(self.router.command(binary()), &config).ready();
        let admin = gateway.admin();
        let ready = || self.router.enter(|| get(admin, "/readyz").status == 200).then_some(());
        until("readiness", ready);
        self.gateway = Some(gateway);
    }

    /// As a user would write the database into the registry: by name and by address.
    fn service(&self, protocol: &str, more: &str) -> String {
        let port = self.port;
        format!(
            "[[service]]\nname = \"db\"\nhosts = [\"{NAME}\"]\naddresses = [\"{DATABASE}/32\"]\n\
             ports = [{{ number = {port}, protocol = \"{protocol}\" }}]\nresolution = \"NONE\"\n{more}\n"
        )
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("started")
    }

    fn meters(&self) -> &[Meter; 2] {
        self.meters.as_ref().expect("until the end")
    }

    fn passed(&self) -> Passed {
        self.meters()[0].passed()
    }

    fn entries(&self) -> Vec<serde_json::Value> {
        self.gateway().log_entries()
    }

    fn metric(&self, name: &str) -> f64 {
        let admin = self.gateway().admin();
        sum(&self.router.enter(|| get(admin, "/metrics").text()), name, &[])
    }

    /// Connects in this way as far as the door lets it: `Err` with how it was refused.
    fn open(&self, way: Way, port: u16) -> Result<Http, String> {
        self.app.enter(|| {
            let mut client = Http::connect(way.address(port));
            match way {
                Way::Tcp | Way::Captured => {}
                Way::Connect | Way::ConnectAddress => {
                    let answer = client.connect_to(&format!("{}:{port}", way.destination()));
                    if answer.status != 200 {
                        return Err(format!("{} {}", answer.status, answer.reason()));
                    }
                }
                Way::Socks | Way::SocksAddress => {
                    client.send([5, 1, 0]);
                    assert_eq!(client.exactly(2), [5, 0]);
                    let host = match way {
                        Way::Socks => [&[3, NAME.len() as u8], NAME.as_bytes()].concat(),
                        _ => [&[1], &DATABASE.octets()[..]].concat(),
                    };
                    client.send([&[5, 1, 0][..], &host, &port.to_be_bytes()].concat());
                    let code = client.exactly(10)[1];
                    if code != 0 {
                        return Err(format!("reply {code}"));
                    }
                }
            }
            Ok(client)
        })
    }

    /// How long the server's first bytes take from the moment of connecting; `asked` is sent first, where it is the
    /// client that speaks first.
    fn first_bytes(&self, way: Way, port: u16, asked: &[u8], wanted: &[u8]) -> Duration {
        let start = Instant::now();
        let mut client = match self.open(way, port) {
            Ok(client) => client,
            Err(refused) => panic!("{way:?}: {refused}"),
        };
        client.send(asked);
        let _ = client.until(wanted);
        start.elapsed()
    }

    /// The same without a gateway.
    fn first_bytes_directly(&self, asked: &[u8], wanted: &[u8]) -> Duration {
        self.router.enter(|| {
            let start = Instant::now();
            let mut client = Http::connect(self.database.address());
            client.send(asked);
            let _ = client.until(wanted);
            start.elapsed()
        })
    }

    /// Asserts that the server's first bytes come at once: that the gateway adds nothing one could see. The least of
    /// several, beside the least without a gateway: a busy machine is no failure, and a wait for the client's first bytes
    /// would delay each of them.
    fn prompt(&self, ways: &[Way], asked: &[u8], wanted: &[u8]) {
        const TRIES: usize = 6;
        for &way in ways {
            let before = self.entries().len();
            let times: Vec<_> = (0..TRIES).map(|_| self.first_bytes(way, self.port, asked, wanted)).collect();
            let directly: Vec<_> = (0..TRIES).map(|_| self.first_bytes_directly(asked, wanted)).collect();
            println!("{way:?}: first bytes after {times:?}, directly after {directly:?}");
            let least = |times: &[Duration]| *times.iter().min().expect("several");
            assert!(least(&times) < least(&directly) + PROMPT, "{way:?}: {times:?}, directly {directly:?}");
            until("the records", || (self.entries().len() >= before + TRIES).then_some(()));
        }
    }

    /// Runs clients through each way and compares what the gateway says of them with what the server's side has seen,
    /// to the byte: the access log, and the metrics.
    fn exact(&self, ways: &[Way], work: impl Fn(Way, &Target)) {
        const UP: &str = "istio_tcp_received_bytes_total";
        const DOWN: &str = "istio_tcp_sent_bytes_total";
        for &way in ways {
            let (lines, before) = (self.entries().len(), self.passed());
            let metrics = [UP, DOWN].map(|name| self.metric(name));
            let target = self.target(way);
            work(way, &target);
            drop(target);
            let logged = until("one record for each connection", || {
                let entries = self.entries().split_off(lines);
                let all = entries.len() as u64 == self.passed().since(before).connections;
                (all && !entries.is_empty()).then_some(entries)
            });
            let seen = self.passed().since(before);
            let total = |key: &str| logged.iter().filter_map(|entry| entry[key].as_u64()).sum::<u64>();
            let told = Passed {
                connections: logged.len() as u64,
                to_server: total("bytes_received"),
                to_client: total("bytes_sent"),
            };
            println!("{way:?}: {seen:?}");
            assert_eq!(told, seen, "{way:?}: {logged:?}");
            assert!(seen.to_client > 2 * MIB as u64 || seen.to_server > 2 * MIB as u64, "that was no bulk");
            for (name, before, bytes) in
                [(UP, metrics[0], seen.to_server), (DOWN, metrics[1], seen.to_client)]
            {
                let wanted = before + bytes as f64;
                until("the metrics", || ((self.metric(name) - wanted).abs() < 0.5).then_some(()));
            }
        }
    }

    /// Where a program connects that knows of no proxy. socat speaks CONNECT for it, ncat SOCKS5.
    fn target(&self, way: Way) -> Target {
        let (door, host, port) = (way.door(), way.destination(), self.port);
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 7100));
        let mut command = match way {
            Way::Tcp | Way::Captured => {
                return Target { address: way.address(port), _forwarder: None };
            }
            Way::Connect | Way::ConnectAddress => {
                let mut socat = self.app.command("socat");
                socat.arg(format!("TCP-LISTEN:{},bind={},fork,reuseaddr", local.port(), local.ip()));
                socat.arg(format!("PROXY:{}:{host}:{port},proxyport={}", door.ip(), door.port()));
                socat
            }
            Way::Socks | Way::SocksAddress => {
                let mut ncat = self.app.command("ncat");
                ncat.args(["--listen", "--keep-open"]).arg(local.ip().to_string());
                ncat.arg(local.port().to_string()).arg("--sh-exec");
                ncat.arg(format!(
                    "exec ncat --proxy {door} --proxy-type socks5 --proxy-dns remote {host} {port}"
                ));
                ncat
            }
        };
        let forwarder = Process::spawn(&mut command);
        // A connection that only looks would be one more tunnel.
        let filter = format!("sport = :{}", local.port());
        let listens = || !self.app.run("ss", &["-Hltn", &filter]).is_empty();
        until("a forwarder that listens", || listens().then_some(()));
        Target { address: local, _forwarder: Some(forwarder) }
    }

    /// A client program with more arguments, in the clients' namespace and bounded in time.
    fn client(&self, program: &str, arguments: &[&str], input: &[u8]) -> Done {
        let mut command = self.app.command("timeout");
        tool(command.args(["120", program]).args(arguments), input)
    }

    /// Asserts that a port is refused in these ways for `reason`, and that the server hears nothing and the client
    /// nothing of the server.
    fn refused(&self, ways: &[Way], port: u16, reason: &str) {
        for &way in ways {
            let (lines, before) = (self.entries().len(), self.meters().each_ref().map(Meter::passed));
            if let Ok(mut client) = self.open(way, port) {
                let (rest, _) = client.rest();
                assert!(rest.is_empty(), "{way:?}: {rest:?}");
            }
            let entry = until("a record", || self.entries().get(lines).cloned());
            assert_eq!(
                (&entry["policy_decision"], &entry["policy_reason"]),
                (&"deny".into(), &reason.into()),
                "{way:?}: {entry}"
            );
            assert_eq!(self.meters().each_ref().map(Meter::passed), before, "{way:?}");
        }
    }

    /// What neither the registry nor a list of ports knows: a server that speaks first is heard after the sniff, if the
    /// address may be reached; and never if it may not.
    fn unknown_port(&mut self, wanted: &[u8]) {
        let limits = format!("[limits]\nsniff_timeout_ms = {}\n", SNIFF.as_millis());
        self.start("allow_any", &limits);
        for way in Way::BY_ADDRESS {
            let before = self.meters()[1].passed();
            let took = self.first_bytes(way, UNKNOWN_PORT, b"", wanted);
            assert!(took >= SNIFF, "{way:?}: {took:?} is before the decision");
            assert_eq!(self.meters()[1].passed().since(before).connections, 1);
        }
        let service = self.service("TCP", "allow = []");
        self.start("registry_only", &(service + &limits));
        self.refused(&Way::ALL, self.port, "workload_not_allowed");
        self.refused(&Way::BY_ADDRESS, UNKNOWN_PORT, "port_not_registered");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.gateway = None;
        // They wake their own listeners by a connection, which must not leave for the world.
        let meters = self.meters.take();
        self.router.enter(|| drop(meters));
    }
}

fn letters(length: usize) -> String {
    let line = |n: usize| format!("{n:015x}").into_bytes();
    let bytes: Vec<u8> = (0..=length / 15).flat_map(line).take(length).collect();
    String::from_utf8(bytes).expect("hexadecimal digits")
}

fn mariadb(world: &World, target: &Target, more: &[&str], sql: &str) -> String {
    let (host, port) = (target.address.ip().to_string(), target.address.port().to_string());
    let arguments = [
        &["--no-defaults", "--protocol=tcp", "--user=root", "--batch", "--skip-column-names"][..],
        &["--max-allowed-packet=64M", "--host", &host, "--port", &port],
        more,
        &["test"],
    ];
    let done = world.client("mariadb", &arguments.concat(), sql.as_bytes());
    assert_eq!(done.code, 0, "{}\n{}", done.stderr, world.database.complaints());
    done.stdout
}

#[test]
fn mariadb_is_greeted_queried_and_counted_through_every_door() {
    let mut world = World::new(3306, Database::mariadb);
    let work = |world: &World, target: &Target| {
        let sql = "CREATE OR REPLACE TABLE t (a INT) ENGINE=InnoDB;
            START TRANSACTION; INSERT INTO t VALUES (1), (2); ROLLBACK;
            START TRANSACTION; INSERT INTO t VALUES (3), (4); COMMIT;
            SELECT GROUP_CONCAT(a ORDER BY a) FROM t; SHOW STATUS LIKE 'Ssl_cipher';";
        assert_eq!(mariadb(world, target, &["--skip-ssl"], sql), "3,4\nSsl_cipher\t\n");
        // TLS begins inside the protocol, behind a greeting in the clear.
        let ca = format!("--ssl-ca={}", world.database.file("cert.pem").display());
        let cipher = mariadb(world, target, &["--ssl", &ca], "SHOW STATUS LIKE 'Ssl_cipher'");
        assert!(cipher.starts_with("Ssl_cipher\tTLS_"), "{cipher}");
        let rows = ["SELECT REPEAT('x', 1048576)"; 6].join(" UNION ALL ");
        assert_eq!(mariadb(world, target, &["--skip-ssl"], &rows).len(), 6 * (MIB + 1));
        let text = letters(3 * MIB);
        let there_and_back = mariadb(world, target, &["--skip-ssl"], &format!("SELECT '{text}'"));
        assert!(there_and_back == text + "\n", "{} bytes came back", there_and_back.len());
    };
    world.start("registry_only", &world.service("MYSQL", ""));
    world.prompt(&Way::ALL, b"", b"MariaDB");
    world.exact(&Way::ALL, |_, target| work(&world, target));
    // Without a registry: 3306 is one of the ports where servers speak first.
    world.start("allow_any", "");
    world.prompt(&Way::ALL[1..], b"", b"MariaDB");
    world.exact(&Way::BY_ADDRESS, |_, target| work(&world, target));
    world.unknown_port(b"MariaDB");
}

fn psql(world: &World, target: &Target, ssl: &str, sql: &str) -> String {
    let host = format!(
        "host={NAME} hostaddr={} port={} user=postgres dbname=postgres sslrootcert={} sslmode={ssl}",
        target.address.ip(),
        target.address.port(),
        world.database.file("cert.pem").display()
    );
    let arguments = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &host];
    let done = world.client("psql", &arguments, sql.as_bytes());
    assert_eq!(done.code, 0, "{}\n{}", done.stderr, world.database.complaints());
    done.stdout
}

#[test]
fn postgresql_is_queried_and_counted_through_every_door() {
    /// SSLRequest of its protocol, which is answered with one byte.
    const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
    let mut world = World::new(5432, Database::postgres);
    let work = |world: &World, target: &Target| {
        let sql = "DROP TABLE IF EXISTS t; CREATE TABLE t (a int);
            BEGIN; INSERT INTO t VALUES (1), (2); ROLLBACK;
            BEGIN; INSERT INTO t VALUES (3), (4); COMMIT;
            SELECT string_agg(a::text, ',' ORDER BY a) FROM t;
            SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid();";
        assert_eq!(psql(world, target, "disable", sql), "3,4\nf\n");
        // The certificate is checked to the name: nobody has put himself in between.
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid();";
        assert_eq!(psql(world, target, "verify-full", sql), "t\n");
        let sql = "COPY (SELECT repeat('x', 1023) FROM generate_series(1, 6144)) TO STDOUT;";
        assert_eq!(psql(world, target, "disable", sql).len(), 6 * MIB);
        let rows = format!("{}\n", letters(1023)).repeat(3 * 1024);
        let sql = format!(
            "DROP TABLE IF EXISTS u; CREATE TABLE u (a text); COPY u FROM STDIN;\n{rows}\\.\n\
             SELECT count(*), count(DISTINCT a), sum(length(a)) FROM u;"
        );
        assert_eq!(psql(world, target, "disable", &sql), format!("3072|1|{}\n", 3072 * 1023));
    };
    world.start("registry_only", &world.service("POSTGRES", ""));
    world.prompt(&Way::ALL, SSL_REQUEST, b"S");
    world.exact(&Way::ALL, |_, target| work(&world, target));
    world.start("allow_any", "");
    world.prompt(&Way::ALL[1..], SSL_REQUEST, b"S");
    world.exact(&Way::BY_ADDRESS, |_, target| work(&world, target));
}

#[test]
fn redis_is_queried_and_counted_through_every_door() {
    let mut world = World::new(6379, Database::redis);
    let work = |world: &World, target: &Target| {
        let (host, port) = (target.address.ip().to_string(), target.address.port().to_string());
        let redis = |more: &[&str], input: &str| {
            let done =
                world.client("redis-cli", &[&["-h", &host, "-p", &port], more].concat(), input.as_bytes());
            assert_eq!(done.code, 0, "{}", done.stderr);
            done.stdout
        };
        redis(&["DEL", "n"], "");
        let answers = redis(&[], "MULTI\nINCR n\nINCR n\nEXEC\nGET n\n");
        assert!(answers.ends_with("2\n"), "{answers}");
        let value = letters(4 * MIB);
        assert_eq!(redis(&["-x", "SET", "bulk"], &value), "OK\n");
        assert_eq!(redis(&["GET", "bulk"], ""), value + "\n");
    };
    world.start("registry_only", &world.service("REDIS", ""));
    world.prompt(&Way::ALL, b"*1\r\n$4\r\nPING\r\n", b"+PONG");
    // As a person types it; `GET ` is how HTTP begins, too.
    world.prompt(&Way::ALL, b"GET nothing\r\n", b"$-1");
    world.exact(&Way::ALL, |_, target| work(&world, target));
    // Its clients speak first and not as HTTP does: no list of ports is needed.
    world.start("allow_any", "");
    world.prompt(&Way::ALL[1..], b"*1\r\n$4\r\nPING\r\n", b"+PONG");
    world.exact(&Way::BY_ADDRESS, |_, target| work(&world, target));
}

/// curl sends a message to `smtp://…`; it speaks to the proxies itself.
fn mail(world: &World, way: Way, starttls: bool, message: &str) {
    let url = format!("smtp://{NAME}:{}/client.test", world.port);
    let to = match way {
        Way::Tcp | Way::Captured => way.address(world.port).to_string(),
        _ => format!("{}:{}", way.destination(), world.port),
    };
    let connect_to = format!("{NAME}:{}:{to}", world.port);
    let ca = world.database.file("cert.pem").display().to_string();
    let proxy = match way {
        Way::Tcp | Way::Captured => None,
        Way::Connect | Way::ConnectAddress => Some(format!("http://{}", way.door())),
        Way::Socks | Way::SocksAddress => Some(format!("socks5h://{}", way.door())),
    };
    let mut arguments = vec!["--silent", "--show-error", "--max-time", "60", "--connect-to", &connect_to];
    arguments.extend(["--mail-from", "a@client.test", "--mail-rcpt", "b@db.test", "--upload-file", "-"]);
    if let Some(proxy) = &proxy {
        arguments.extend(["--proxytunnel", "--proxy", proxy]);
    }
    if starttls {
        arguments.extend(["--ssl-reqd", "--cacert", &ca]);
    }
    arguments.push(&url);
    let done = world.client("curl", &arguments, message.as_bytes());
    assert_eq!(done.code, 0, "{way:?}: {}\n{}", done.stderr, world.database.complaints());
}

/// The messages in the server's queue: how many, and how long the longest is.
fn queued(world: &World) -> (usize, u64) {
    let files = std::fs::read_dir(world.database.file("spool/input")).into_iter().flatten().flatten();
    let data = files.filter(|file| file.file_name().to_string_lossy().ends_with("-D"));
    let sizes: Vec<u64> = data.filter_map(|file| Some(file.metadata().ok()?.len())).collect();
    (sizes.len(), sizes.into_iter().max().unwrap_or(0))
}

#[test]
fn mail_is_greeted_sent_and_counted_through_every_door() {
    let mut world = World::new(25, Database::exim);
    let work = |world: &World, way: Way| {
        let before = queued(world).0;
        let body = format!("{}\r\n", letters(62)).repeat(3 * MIB / 64);
        for starttls in [false, true] {
            mail(world, way, starttls, &format!("Subject: through {way:?}\r\n\r\n{body}"));
        }
        // Lines are kept with one character for their end.
        let (messages, longest) = queued(world);
        assert_eq!(messages, before + 2);
        assert!(longest >= (body.len() - body.len() / 64) as u64, "{longest}");
    };
    world.start("registry_only", &world.service("TCP", ""));
    world.prompt(&Way::ALL, b"", b"220 db.test");
    world.exact(&Way::ALL, |way, _| work(&world, way));
    world.start("allow_any", "");
    world.prompt(&Way::ALL[1..], b"", b"220 db.test");
    world.exact(&Way::BY_ADDRESS, |way, _| work(&world, way));
    world.unknown_port(b"220 db.test");
}
