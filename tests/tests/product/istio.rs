//! Istio ServiceEntry files in front of real clients and origins: what they open, how they come and go while traffic runs,
//! and what the command line says of them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sluice_tests::harness::gateway::{Start, command, run};
use sluice_tests::harness::servers::Server;
use sluice_tests::harness::{Dns, Ending, Gateway, Origin, door, registry_only, tools, until};

/// A ServiceEntry of one host whose one port leads to an address of the test.
fn entry(name: &str, host: &str, port: u16, protocol: &str, to: SocketAddr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: {name}
  namespace: shop
spec:
  hosts:
  - {host}
  ports:
  - number: {port}
    name: main
    protocol: {protocol}
  resolution: STATIC
  endpoints:
  - address: {}
    ports:
      main: {}
",
        to.ip(),
        to.port()
    )
}

const REGISTRY: &str = "[registry]\nservice_entries = [\"entries/*.yaml\"]\n";

/// A gateway whose configuration reads these files of its folder `entries`.
fn start(toml: &str, files: &[(&str, &str)]) -> (Gateway, PathBuf) {
    let start = Start::new(&format!("{toml}{REGISTRY}"));
    let folder = start.folder().join("entries");
    fs::create_dir(&folder).expect("a folder");
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("written");
    }
    (start.ready(), folder)
}

/// Puts a file in place at once, as a careful tool does.
fn put(folder: &Path, name: &str, text: &str) {
    let new = folder.join(format!(".{name}.new"));
    fs::write(&new, text).expect("written");
    fs::rename(new, folder.join(name)).expect("renamed");
}

fn reloads(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("egress_config_reload_total", &[result])
}

#[test]
fn an_http_host_is_opened_by_its_entry() {
    let origin = Origin::http("hello");
    let (gateway, _) =
        start(&registry_only(), &[("web.yaml", &entry("web", "web.test", 80, "HTTP", origin.address()))]);
    let done = tools::curl(gateway.proxy(), &["http://web.test/"]);
    assert_eq!(done.stdout, "hello", "{done:?}");
    assert_eq!(gateway.client().get("http://web.test:8080/").reason(), "port_not_registered");
    assert_eq!(gateway.client().get("http://other.test/").reason(), "not_registered");
    gateway.wait_metric(
        "istio_requests_total",
        &[
            "destination_service=\"web.test\"",
            "destination_service_namespace=\"shop\"",
            "response_code=\"200\"",
        ],
        1.0,
    );
    let config = gateway.admin_get("/config").json();
    assert_eq!(config["service_entries"][0]["service"], "shop/web");
    let from = config["service_entries"][0]["from"].as_str().expect("a place");
    assert!(from.ends_with("entries/web.yaml:1"), "{from}");
}

#[test]
fn a_wildcard_host_passes_tls_by_its_sni() {
    let server = Server::nginx("a.wild.test", 0);
    let dns = Dns::start();
    dns.set("a.wild.test", server.tls.ip(), 60);
    let wild = format!(
        "apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {{name: wild}}
spec:
  hosts: ['*.wild.test']
  ports: [{{number: 443, name: tls, protocol: TLS, targetPort: {}}}]
  resolution: NONE
",
        server.tls.port()
    );
    let toml = format!(
        "mode = \"registry_only\"\n{}{}[guard]\nallow = [\"127.0.0.0/8\"]\n",
        door("tls", "destination_port = 443"),
        dns.toml("")
    );
    let (gateway, _) = start(&toml, &[("wild.yaml", &wild)]);
    let ask = |name: &str| {
        let request = format!("GET /hello HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        tools::s_client(gateway.door("tls"), &["-servername", name, "-quiet"], request.as_bytes())
    };
    let done = ask("a.wild.test");
    assert!(done.stdout.contains("hello from nginx"), "{done:?}");
    for denied in ["wild.test", "a.wild.test.example"] {
        assert!(!ask(denied).stdout.contains("hello"), "{denied}");
        let entry = gateway.wait_entry(|entry| entry["requested_server_name"] == denied);
        assert_eq!(entry["policy_reason"], "not_registered");
    }
}

#[test]
fn a_virtual_address_means_its_service() {
    let origin = Origin::echo();
    let database = entry("db", "db.test", 5432, "TCP", origin.address())
        .replace("  ports:\n  - number", "  addresses: [240.240.7.7]\n  ports:\n  - number")
        + "status:\n  addresses:\n  - value: 240.240.0.9\n    host: db.test\n";
    let tcp = door("tcp", "service = \"shop/db\"");
    let (gateway, _) = start(&(registry_only() + &tcp), &[("db.yaml", &database)]);
    for target in ["240.240.7.7:5432", "240.240.0.9:5432", "db.test:5432"] {
        let mut client = gateway.client();
        assert_eq!(client.connect_to(target).status, 200, "{target}");
        client.send("select 1");
        assert_eq!(client.exactly(8), b"select 1", "{target}");
    }
    let mut client = sluice_tests::harness::Http::connect(gateway.door("tcp"));
    client.send("by the door");
    assert_eq!(client.exactly(11), b"by the door");
    // An address without a name may still tell one: it is judged after its first bytes.
    let mut client = gateway.client();
    client.connect_to("240.240.7.8:5432");
    client.try_send("select 1");
    assert_eq!(client.rest().0, b"");
    let denied = gateway.wait_entry(|entry| entry["authority"] == "240.240.7.8:5432");
    assert_eq!(
        (&denied["policy_decision"], &denied["policy_reason"]),
        (&"deny".into(), &"not_registered".into())
    );
}

#[test]
fn entries_come_and_go_while_traffic_runs() {
    let (web, echo) = (Origin::http("hello"), Origin::echo());
    let kept = entry("kept", "kept.test", 9000, "TCP", echo.address());
    let (gateway, folder) = start(&registry_only(), &[("kept.yaml", &kept)]);
    let mut keeps = gateway.client();
    assert_eq!(keeps.connect_to("kept.test:9000").status, 200);
    assert_eq!(gateway.client().get("http://web.test/").status, 502);
    // A new file opens a host.
    put(&folder, "web.yaml", &entry("web", "web.test", 80, "HTTP", web.address()));
    until("the new host", || (gateway.client().get("http://web.test/").status == 200).then_some(()));
    put(&folder, "tunnel.yaml", &entry("tunnel", "tunnel.test", 9000, "TCP", echo.address()));
    let mut tunnel = until("the new tunnel", || {
        let mut client = gateway.client();
        (client.connect_to("tunnel.test:9000").status == 200).then_some(client)
    });
    // A file that is half-written, in a second place or wrong refuses the whole; what was good stays.
    let good = entry("web", "web.test", 80, "HTTP", web.address());
    for (bad, said) in [
        (&good[..good.find("kind").expect("kind") + 3], "not valid YAML"),
        (&good[..good.find("kind").expect("kind") + 10], "web.yaml:2:7: kind: \"Serv\" is no kind of"),
        (&good[..good.find("ports:").expect("ports")], "web.yaml:1:1: spec.ports: no port is named"),
        (&*good.replace("web\n", "kept\n"), "shop/kept is already there at"),
        (&*good.replace("STATIC", "MAGIC"), "web.yaml:13:15: spec.resolution: unknown resolution"),
        ("", "web.yaml:1:1: the file is empty"),
    ] {
        let refused = reloads(&gateway, "failure");
        put(&folder, "web.yaml", bad);
        until("the refusal", || (reloads(&gateway, "failure") > refused).then_some(()));
        gateway.wait_log(said);
        assert_eq!(gateway.client().get("http://web.test/").status, 200, "{said}");
        tunnel.send("x");
        assert_eq!(tunnel.exactly(1), b"x", "{said}");
    }
    let before = reloads(&gateway, "success");
    put(&folder, "web.yaml", &good);
    until("the good file", || (reloads(&gateway, "success") > before).then_some(()));
    // A file that goes cuts what it had opened, within a second of the change being in force, and nothing else.
    let before = reloads(&gateway, "success");
    fs::remove_file(folder.join("tunnel.yaml")).expect("removed");
    until("the reload", || (reloads(&gateway, "success") > before).then_some(()));
    let in_force = Instant::now();
    tunnel.expect_end(Ending::Reset);
    assert!(in_force.elapsed() < Duration::from_secs(1), "{:?}", in_force.elapsed());
    let cut = |entry: &serde_json::Value| {
        entry["authority"] == "tunnel.test:9000" && entry["policy_reason"] == "revoked"
    };
    assert_eq!(gateway.wait_entry(cut)["policy_decision"], "deny");
    keeps.send("still here");
    assert_eq!(keeps.exactly(10), b"still here");
    // A rename away from the pattern counts as well. (A request in flight would be cut: none is sent meanwhile.)
    let before = reloads(&gateway, "success");
    fs::rename(folder.join("web.yaml"), folder.join("web.yaml.off")).expect("renamed");
    until("the reload", || (reloads(&gateway, "success") > before).then_some(()));
    assert_eq!(gateway.client().get("http://web.test/").reason(), "not_registered");
}

#[test]
fn a_fifo_among_the_entries_refuses_the_reload_and_holds_nothing_up() {
    let web = Origin::http("hello");
    let entries = entry("web", "web.test", 80, "HTTP", web.address());
    let (gateway, folder) = start(&registry_only(), &[("web.yaml", &entries)]);
    let pipe = folder.join("z.yaml");
    let refused = reloads(&gateway, "failure");
    let made = tools::tool(std::process::Command::new("mkfifo").arg(&pipe), b"");
    assert_eq!(made.code, 0, "{}", made.stderr);
    gateway.signal(Signal::HUP);
    until("the refusal", || (reloads(&gateway, "failure") > refused).then_some(()));
    gateway.wait_log("z.yaml is not a regular file");
    assert_eq!(gateway.client().get("http://web.test/").status, 200);
    // Neither do a check and a start wait for a writer.
    let config = gateway.config_path().to_string_lossy().into_owned();
    let checked = run(&["check", "--config", &config]);
    let said =
        String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(64), "{said}");
    assert!(said.contains("z.yaml is not a regular file"), "{said}");
    // Later reloads go on.
    let before = reloads(&gateway, "success");
    fs::remove_file(&pipe).expect("removed");
    put(&folder, "later.yaml", &entry("later", "later.test", 80, "HTTP", web.address()));
    gateway.signal(Signal::HUP);
    until("a reload", || (reloads(&gateway, "success") > before).then_some(()));
    until("the later host", || (gateway.client().get("http://later.test/").status == 200).then_some(()));
}

/// A request that no rule allows any more, and its reload, after `swap`.
fn closes_when(gateway: &Gateway, host: &str, swap: impl FnOnce()) {
    let (url, before) = (format!("http://{host}/"), reloads(gateway, "success"));
    assert_eq!(gateway.client().get(&url).status, 200, "{host}");
    swap();
    until("the reload", || (reloads(gateway, "success") > before).then_some(()));
    assert_eq!(gateway.client().get(&url).reason(), "not_registered", "{host}");
}

#[test]
fn a_folder_that_is_swapped_closes_what_it_no_longer_has() {
    let origin = Origin::http("hello");
    let web = |name: &str| entry(name, &format!("{name}.test"), 80, "HTTP", origin.address());
    let (a, b, c) = (web("a"), web("b"), web("c"));
    let (gateway, folder) = start(&registry_only(), &[("a.yaml", &a), ("b.yaml", &b), ("c.yaml", &c)]);
    let beside = |name: &str| folder.with_file_name(name);
    let make = |name: &str, files: &[(&str, &str)]| {
        fs::create_dir(beside(name)).expect("a folder");
        for (file, text) in files {
            fs::write(beside(name).join(file), text).expect("written");
        }
    };
    // By two renames.
    make("v1", &[("b.yaml", &b), ("c.yaml", &c)]);
    closes_when(&gateway, "a.test", || {
        fs::rename(&folder, beside("old")).expect("renamed");
        fs::rename(beside("v1"), &folder).expect("renamed");
    });
    // What is in the new folder is followed as before.
    closes_when(&gateway, "b.test", || fs::remove_file(folder.join("b.yaml")).expect("removed"));
    // By a link, as git-sync does; each time anew.
    make("v2", &[("a.yaml", &a), ("c.yaml", &c)]);
    make("v3", &[("c.yaml", &c)]);
    make("v4", &[]);
    let before = reloads(&gateway, "success");
    fs::rename(&folder, beside("v1")).expect("renamed");
    symlink("v2", &folder).expect("a link");
    until("the link", || (reloads(&gateway, "success") > before).then_some(()));
    for (host, version) in [("a.test", "v3"), ("c.test", "v4")] {
        closes_when(&gateway, host, || {
            symlink(version, beside("new")).expect("a link");
            fs::rename(beside("new"), &folder).expect("renamed");
        });
    }
}

fn piped(arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut child = command()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sluice starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("read to its end");
    child.wait_with_output().expect("ends")
}

#[test]
fn the_command_line_imports_checks_and_explains() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let to = SocketAddr::from(([192, 0, 2, 1], 8443));
    let good = entry("web", "web.test", 443, "TLS", to);
    fs::write(place("web.yaml"), &good).expect("written");
    let done = run(&["import", "istio", &place("web.yaml")]);
    let toml = String::from_utf8(done.stdout).expect("UTF-8");
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(piped(&["import", "istio", "-"], &good).stdout, {
        let named = toml.replace(&place("web.yaml"), "standard input");
        named.into_bytes()
    });
    // What comes out is a configuration that decides the same.
    let direct = "mode = \"registry_only\"\n[registry]\nservice_entries = [\"web.yaml\"]\n";
    fs::write(place("direct.toml"), direct).expect("written");
    fs::write(place("imported.toml"), format!("mode = \"registry_only\"\n{toml}")).expect("written");
    for (config, names) in [("direct.toml", "web.yaml:1"), ("imported.toml", "imported.toml:")] {
        assert_eq!(run(&["check", "--config", &place(config)]).status.code(), Some(0));
        let asked = |to: &str| run(&["explain", "--config", &place(config), "--to", to]);
        let allowed = asked("web.test:443");
        let text = String::from_utf8_lossy(&allowed.stdout).into_owned();
        assert_eq!(allowed.status.code(), Some(0), "{text}");
        assert!(text.contains("shop/web") && text.contains(names), "{text}");
        assert_eq!(asked("web.test:80").status.code(), Some(1));
    }
    // Errors: nothing on standard output.
    fs::write(place("bad.yaml"), good.replace("- web.test", "- '*'")).expect("written");
    let done = run(&["import", "istio", &place("web.yaml"), &place("bad.yaml")]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!((done.status.code(), done.stdout.len()), (Some(64), 0), "{said}");
    assert!(said.contains("bad.yaml:8:5: spec.hosts[0]: \"*\" is no host"), "{said}");
    assert_eq!(run(&["import", "istio", &place("missing.yaml")]).status.code(), Some(64));
    assert_eq!(run(&["import", "istio"]).status.code(), Some(64));
}
