//! Real databases beyond a router that captures by `deploy/nftables/tproxy.sh`: their clients know of no proxy, both
//! addresses of their packets are kept, nobody waits longer than without the gateway, and every byte is counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_tests::harness::captured::{REGISTERED, Routed, at};
use sluice_tests::harness::databases::Database;
use sluice_tests::harness::gateway::{Start, binary, engine, get, sum};
use sluice_tests::harness::meter::{Meter, Passed};
use sluice_tests::harness::tools::tool;
use sluice_tests::harness::{Gateway, Http, until};

/// What the first bytes of a server may take longer than without the gateway. A sniff that is waited for takes 3 s.
const MORE: Duration = Duration::from_millis(50);
const MARIADB: u16 = 3306;
const REDIS: u16 = 6379;
const MIB: usize = 1 << 20;
/// What each server is asked first, and how its first bytes begin or end. MariaDB speaks first.
const TALK: [(u16, &[u8], &[u8]); 2] = [(MARIADB, b"", b"MariaDB"), (REDIS, b"PING\r\n", b"+PONG\r\n")];

/// The databases on the outside, at both of its registered addresses, each with a counter in front of it.
struct World {
    meters: Option<Vec<Meter>>,
    mariadb: Database,
    _redis: Database,
    network: Routed,
}

impl World {
    fn new() -> Self {
        let network = Routed::new();
        let outside = &network.outside.netns;
        let mariadb = Database::mariadb(outside, "example.test", MARIADB);
        let redis = Database::redis(outside, "example.test", REDIS);
        let servers = [mariadb.address(), redis.address()];
        let places = servers.iter().flat_map(|server| REGISTERED.map(|address| (address, *server)));
        let meters = outside.enter(|| {
            places.map(|(address, server)| Meter::start(at(address, server.port()), server)).collect()
        });
        Self { meters: Some(meters), mariadb, _redis: redis, network }
    }

    fn gateway(&self, mode: &str, services: &str) -> Gateway {
        let config = format!(
            "mode = \"{mode}\"\n[[listener]]\nkind = \"transparent\"\nname = \"captured\"\nbind = \"[::]:15001\"\n\
             capture = \"tproxy\"\n{services}[dataplane]\nengine = \"{}\"\n{}",
            engine(),
            self.network.dns.toml("")
        );
        let gateway = Start::through(self.network.router.command(binary()), &config).ready();
        let admin = gateway.admin();
        let ready = || self.network.router.enter(|| get(admin, "/readyz").status == 200).then_some(());
        until("readiness", ready);
        gateway
    }

    fn metric(&self, gateway: &Gateway, name: &str) -> f64 {
        let admin = gateway.admin();
        sum(&self.network.router.enter(|| get(admin, "/metrics").text()), name, &[])
    }

    /// What has passed to and from both servers.
    fn passed(&self) -> Passed {
        let meters = self.meters.iter().flatten().map(Meter::passed);
        meters.fold(Passed::default(), |all, one| Passed {
            connections: all.connections + one.connections,
            to_server: all.to_server + one.to_server,
            to_client: all.to_client + one.to_client,
        })
    }

    /// How long the first bytes of each server take from the moment of connecting. The least of several tries: a busy
    /// machine is no failure, and a wait would delay each of them.
    fn first_bytes(&self) -> Vec<(SocketAddr, Duration)> {
        let places = TALK.into_iter().flat_map(|talk| REGISTERED.map(|address| (address, talk)));
        let least = |(address, (port, asked, wanted)): (&str, (u16, &[u8], &[u8]))| {
            let tries = (0..6).map(|_| {
                self.network.application.enter(|| {
                    let start = Instant::now();
                    let mut client = Http::connect(at(address, port));
                    client.send(asked);
                    let _ = client.until(wanted);
                    start.elapsed()
                })
            });
            (at(address, port), tries.min().expect("several"))
        };
        places.map(least).collect()
    }

    /// A client program where the application is, by the name that its own resolver knows.
    fn client(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let mut command = self.network.application.command("timeout");
        let done = tool(command.args(["120", program]).args(arguments), input.as_bytes());
        assert_eq!(done.code, 0, "{program}: {}\n{}", done.stderr, self.mariadb.complaints());
        done.stdout
    }

    /// Queries and bulk in both directions, in the clear and in TLS that begins inside the protocol.
    fn work(&self, host: &str) {
        let mariadb = |more: &[&str], sql: &str| {
            let own = ["--no-defaults", "--protocol=tcp", "--user=root", "--batch", "--skip-column-names"];
            let to = ["--max-allowed-packet=64M", "--host", host, "test"];
            self.client("mariadb", &[&own[..], more, &to].concat(), sql)
        };
        let sql = "CREATE OR REPLACE TABLE t (a INT) ENGINE=InnoDB; INSERT INTO t VALUES (3), (4);
            SELECT GROUP_CONCAT(a ORDER BY a) FROM t;";
        assert_eq!(mariadb(&["--skip-ssl"], sql), "3,4\n");
        let ca = format!("--ssl-ca={}", self.mariadb.file("cert.pem").display());
        let cipher = mariadb(&["--ssl", &ca], "SHOW STATUS LIKE 'Ssl_cipher'");
        assert!(cipher.starts_with("Ssl_cipher\tTLS_"), "{cipher}");
        let rows = ["SELECT REPEAT('x', 1048576)"; 3].join(" UNION ALL ");
        assert_eq!(mariadb(&["--skip-ssl"], &rows).len(), 3 * (MIB + 1));
        let value: String = (0..2 * MIB / 16).map(|n| format!("{n:016x}")).collect();
        let redis = |more: &[&str], input: &str| {
            self.client("redis-cli", &[&["-h", host, "-p", "6379"], more].concat(), input)
        };
        assert_eq!(redis(&["-x", "SET", "bulk"], &value), "OK\n");
        assert!(redis(&["GET", "bulk"], "") == value + "\n");
    }

    /// Runs the clients and compares what the gateway says of them with what the servers' side has seen, to the byte.
    fn exact(&self, gateway: &Gateway, host: &str) {
        const METRICS: [&str; 2] = ["istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"];
        let (lines, before) = (gateway.log_entries().len(), self.passed());
        let metrics = METRICS.map(|name| self.metric(gateway, name));
        self.work(host);
        let logged = until("one record for each connection", || {
            let entries = gateway.log_entries().split_off(lines);
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
        assert_eq!(told, seen, "{logged:?}");
        assert!(seen.to_server > 2 * MIB as u64 && seen.to_client > 5 * MIB as u64, "that was no bulk");
        for (name, before, bytes) in
            [(METRICS[0], metrics[0], seen.to_server), (METRICS[1], metrics[1], seen.to_client)]
        {
            let counted = || (self.metric(gateway, name) - before - bytes as f64).abs() < 0.5;
            until("the metrics", || counted().then_some(()));
        }
        logged.iter().for_each(keeps_both_addresses);
    }
}

/// The client's own address, and the one that it connected to.
fn keeps_both_addresses(entry: &Value) {
    let [from, to] = ["downstream_remote_address", "downstream_local_address"]
        .map(|key| entry[key].as_str().unwrap_or_default());
    let (v4, v6) = (from.starts_with("10.71.0.2:"), from.starts_with("[fd71::2]:"));
    let kept = [MARIADB, REDIS].into_iter().any(|port| {
        (v4 && to == at(REGISTERED[0], port).to_string()) || (v6 && to == at(REGISTERED[1], port).to_string())
    });
    assert!(kept, "{entry}");
}

impl Drop for World {
    fn drop(&mut self) {
        // They wake their own listeners by a connection, which must not leave for the world.
        let meters = self.meters.take();
        self.network.outside.netns.enter(|| drop(meters));
    }
}

#[test]
fn databases_behind_the_router_greet_at_once_and_are_counted() {
    let world = World::new();
    let Routed { router, outside, .. } = &world.network;
    // Forwarded, without a gateway.
    let directly = world.first_bytes();
    world.network.up();
    let strays = outside.strays();
    let services = format!(
        "[[service]]\nname = \"db\"\naddresses = [\"{}\", \"{}\"]\nresolution = \"NONE\"\n\
         ports = [{{ number = {MARIADB}, protocol = \"MYSQL\" }}, {{ number = {REDIS}, protocol = \"REDIS\" }}]\n",
        REGISTERED[0], REGISTERED[1]
    );
    // With a registry, and without: 3306 is one of the ports where servers speak first.
    for (mode, services) in [("registry_only", &*services), ("allow_any", "")] {
        let (begun, captured) = (outside.begun(), router.counter("sluice_tproxy", "captured"));
        let gateway = world.gateway(mode, services);
        let captured_now = world.first_bytes();
        for ((place, direct), (_, found)) in directly.iter().zip(&captured_now) {
            println!("{mode} {place}: first bytes after {found:?}, directly {direct:?}");
            assert!(*found < *direct + MORE, "{mode} {place}: {found:?}, directly {direct:?}");
        }
        until("the records", || (gateway.log_entries().len() >= 24).then_some(()));
        for host in REGISTERED.into_iter().chain(["example.test"]) {
            world.exact(&gateway, host);
        }
        let connects = world.metric(&gateway, "egress_upstream_connects_total");
        assert_eq!((outside.begun() - begun) as f64, connects, "each was captured and dialled once");
        assert!(router.counter("sluice_tproxy", "captured") - captured >= connects as u64);
    }
    assert_eq!(outside.strays(), strays, "nothing went around");
}
