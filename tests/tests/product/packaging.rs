//! The product as its container image runs it: process 1, an unknown user, a read-only root, nothing else in it. What the
//! Dockerfile and the systemd unit say is compared with the sources in `tests/packaging.rs`.

use std::path::Path;

use rustix::process::Signal;
use sluice_tests::harness::container::{Container, Image, Prepared, run};
use sluice_tests::harness::{Origin, Service, registry_only, tools, until};

const WITHOUT_IO_URING: &str = env!("CARGO_BIN_EXE_without_io_uring");

/// A registry with one service at `origin`.
fn config(origin: &Origin) -> String {
    registry_only() + &Service::new("a", "a.test").port(80, "HTTP", origin.address()).toml()
}

#[test]
fn in_a_container_it_serves_reloads_and_drains_as_process_1() {
    let (held, release) = super::start::held_origin();
    let origin = Origin::http("through the container");
    let held_service = Service::new("held", "held.test").port(80, "HTTP", held.address()).toml();
    let mut container = Container::start(&(config(&origin) + &held_service));

    let image = Image::read();
    let (uid, gid) = image.user.split_once(':').expect("uid:gid");
    for (name, id) in [("Uid", uid), ("Gid", gid)] {
        assert_eq!(container.status(name), [id; 4].join("\t"), "all four of {name}");
    }
    assert_eq!(container.status("Groups"), "");
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(container.status(set), "0000000000000000", "{set}");
    }
    assert!(container.status("NSpid").ends_with("\t1"), "{}", container.status("NSpid"));

    let gateway = &container.gateway;
    let done = tools::curl(gateway.proxy(), &["http://a.test/"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "through the container"), "{done:?}");
    let denied = tools::curl(gateway.proxy(), &["-i", "http://later.test/"]);
    assert!(denied.stdout.contains("x-sluice-reason: not_registered"), "{denied:?}");
    let _ = gateway.wait_entry(|entry| entry["response_code"] == 200);

    // The folder is mounted, not the file: a rename on the host is seen inside.
    let later = Service::new("later", "later.test").port(80, "HTTP", origin.address()).toml();
    gateway.reload(&(config(&origin) + &held_service + &later));
    assert_eq!(gateway.client().get("http://later.test/").status, 200);

    let mut running = gateway.client();
    running.send("GET http://held.test/slow HTTP/1.1\r\nHost: held.test\r\n\r\n");
    until("the request at the origin", || (held.heads().len() == 1).then_some(()));
    container.signal(Signal::TERM);
    until("draining", || (container.gateway.admin_get("/readyz").status == 503).then_some(()));
    release.send(()).expect("the origin waits");
    assert_eq!(running.response().text(), "late");
    assert_eq!(container.gateway.process().wait_code(), 0, "{}", container.gateway.stderr());
}

#[test]
fn process_1_ends_on_either_signal_and_at_any_time() {
    let origin = Origin::http("x");
    for signal in [Signal::TERM, Signal::INT] {
        let mut container = Container::start(&config(&origin));
        container.signal(signal);
        assert_eq!(container.gateway.process().wait_code(), 0, "{}", container.gateway.stderr());

        // Process 1 has no default actions: a signal during the start would be lost. Nobody reads this log, so the
        // start lasts as long as the test needs: it has to open it.
        let log = "[access_log]\npath = \"/etc/sluice/access.log\"\n";
        let prepared = Prepared::new(None, &(config(&origin) + log));
        let path = prepared.folder().join("access.log");
        let done = tools::tool(std::process::Command::new("mkfifo").args(["-m", "666"]).arg(&path), b"");
        assert_eq!(done.code, 0, "{}", done.stderr);
        let mut container = prepared.started();
        let caught = 1_u64 << (signal.as_raw() - 1);
        until("a handler in the program", || {
            let caught_set = u64::from_str_radix(&container.status("SigCgt"), 16).expect("a mask");
            (container.status("Name") == "sluice" && caught_set & caught != 0).then_some(())
        });
        container.signal(signal);
        assert_eq!(container.gateway.process().wait_code(), 0, "{}", container.gateway.stderr());
        assert!(!container.gateway.stderr().contains("limits"), "{}", container.gateway.stderr());
    }
}

#[test]
fn in_a_container_without_io_uring_it_runs_on_epoll() {
    let origin = Origin::http("through epoll");
    let config = config(&origin) + "[dataplane]\nengine = \"auto\"\n";
    let mut container = Prepared::new(Some(Path::new(WITHOUT_IO_URING)), &config).ready();
    let gateway = &container.gateway;
    let line = gateway.report().iter().find(|line| line.contains("engine")).expect("an engine line");
    assert!(line.contains("epoll") && line.contains("seccomp"), "{line}");
    assert_eq!(gateway.client().get("http://a.test/").text(), "through epoll");
    container.signal(Signal::TERM);
    assert_eq!(container.gateway.process().wait_code(), 0);
}

#[test]
fn the_other_commands_work_in_a_container() {
    // No resolv.conf is in there: doctor asks the server that is named.
    let dns = sluice_tests::harness::Dns::start();
    let config = registry_only() + &format!("[dns]\nservers = [\"{}\"]\n", dns.address());
    let checked = run(&["check"], &config);
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(said.contains("/etc/sluice/sluice.toml"), "{said}");
    let refused = run(&["check"], "mode = \"registry_onyl\"\n");
    assert_eq!(refused.status.code(), Some(64));
    let examined = run(&["doctor"], &config);
    let said = String::from_utf8_lossy(&examined.stdout) + String::from_utf8_lossy(&examined.stderr);
    assert_eq!(examined.status.code(), Some(0), "{said}");
    assert!(said.contains("/etc/sluice/sluice.toml: valid, registry_only"), "{said}");
    assert!(said.contains(&format!("{} answers", dns.address())), "{said}");
}
