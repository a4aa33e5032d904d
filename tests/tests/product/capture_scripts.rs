//! The scripts of `deploy/nftables` as an operator meets them, and what holds while there is no gateway at all.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;

use sluice_tests::harness::captured::{
    Host, OUTSIDE, OWN_USER, REGISTERED, Routed, at, ip, probe, script, script_path, shut,
};
use sluice_tests::harness::netns::Netns;
use sluice_tests::harness::tools::tool;
use sluice_tests::harness::{Dns, Http};

#[test]
fn without_a_gateway_all_is_shut_and_without_the_rules_nothing_is() {
    let routed = Routed::new();
    let host = Host::new();
    // Connections from before the rules do not outlive them.
    let ask = |client: &mut Http| client.stream.write_all(b"GET / HTTP/1.1\r\nHost: example.test\r\n\r\n");
    let mut earlier: Vec<Http> = [&routed.application, &host.host]
        .into_iter()
        .flat_map(|netns| REGISTERED.map(|address| netns.enter(|| Http::connect(at(address, 80)))))
        .collect();
    for client in &mut earlier {
        ask(client).expect("an open way");
        assert_eq!(client.response().status, 200);
    }
    let routed_before = (routed.outside.begun(), routed.outside.strays());
    assert!(routed_before.1 > 0, "forwarded packets are not the gateway's");
    routed.up();
    host.up();
    for client in &mut earlier {
        let ended = ask(client).and_then(|()| client.stream.read(&mut [0; 16]));
        assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
    assert_eq!(
        (routed.outside.begun(), routed.outside.strays()),
        routed_before,
        "nothing of them is forwarded"
    );
    for (application, gateway, outside, interface, name) in [
        (&routed.application, &routed.router, &routed.outside, "eth0", "tproxy.sh"),
        (&host.host, &host.host, &host.outside, "uplink", "redirect.sh"),
    ] {
        shut(application, outside, interface);
        let strays = outside.strays();
        // The uplink does count: without the rules the same attempts arrive there.
        assert_eq!(script(gateway, name, &["down"]).code, 0);
        let results = probe(application, interface, false);
        assert!(outside.forbidden_accepted() > 0, "{results}");
        assert!(outside.strays() - strays > 30, "{} of {results}", outside.strays());
    }
}

#[test]
fn what_the_operator_names_passes_and_nothing_beside_it() {
    let routed = Routed::new();
    let host = Host::new();
    let excluded = REGISTERED.join(",");
    let resolver = OUTSIDE[0];
    let dns = routed.outside.netns.enter(|| Dns::at(at(resolver, 53)));
    dns.set("example.test", ip("198.51.100.10"), 60);
    let settings = ["--resolvers", resolver, "--exclude", &excluded];
    for (application, gateway, name, who) in [
        (&routed.application, &routed.router, "tproxy.sh", ["up", "--clients", "clients"]),
        (&host.host, &host.host, "redirect.sh", ["up", "--own-users", OWN_USER]),
    ] {
        let done = script(gateway, name, &[&who[..], &settings[..]].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        application.resolver(ip(resolver));
        let fetch = |arguments: &[&str]| {
            let mut curl = application.command("curl");
            tool(curl.args(["--silent", "--globoff", "--max-time", "20"]).args(arguments), b"").stdout
        };
        assert_eq!(fetch(&["http://example.test/"]), "from outside\n", "{name}: a name, then its address");
        assert_eq!(fetch(&[&format!("http://[{}]/", REGISTERED[1])]), "from outside\n", "{name}");
        let results = probe(application, if name == "tproxy.sh" { "eth0" } else { "uplink" }, false);
        assert_eq!(results["tcp4 443"][0], "ECONNREFUSED", "{name}: {results}");
        assert_ne!(results["udp4 53"][0], "timeout", "{name}: another server is refused: {results}");
        for counter in ["dns", "excluded"] {
            assert!(
                gateway.counter(&format!("sluice_{}", name.trim_end_matches(".sh")), counter) > 0,
                "{name}"
            );
        }
    }
    assert_eq!(routed.outside.forbidden_accepted() + host.outside.forbidden_accepted(), 0);
}

#[test]
fn the_scripts_leave_no_trace_and_say_what_is_wrong() {
    let netns = router();
    netns.run(
        "nft",
        &["table inet others { chain forward { type filter hook forward priority 5; counter; }; }"],
    );
    let everything = || {
        let rules = ["-4", "-6"].map(|family| {
            let routes = netns.run("ip", &[family, "route", "show", "table", "all"]);
            routes + &netns.run("ip", &[family, "rule", "show"])
        });
        (netns.run("nft", &["list", "ruleset"]), rules)
    };
    let code = |name: &str, arguments: &[&str]| script(&netns, name, arguments).code;
    for (name, up) in [
        (
            "tproxy.sh",
            &["up", "--clients", "clients,other", "--resolvers", "9.9.9.9 2620:fe::fe", "--manage", "icmp"][..],
        ),
        (
            "redirect.sh",
            &["up", "--own-users", OWN_USER, "--exclude", "10.0.0.0/8,fd00::/8", "--users", "0 nobody"],
        ),
    ] {
        let before = everything();
        assert_eq!(code(name, &["status"]), 1);
        assert_eq!(code(name, &["down"]), 0, "nothing to do");
        assert_eq!(before, everything());
        let printed = script(&netns, name, &[&["print"], &up[1..]].concat());
        assert!(printed.code == 0 && printed.stdout.ends_with("}\n"), "{}", printed.stderr);
        assert_eq!(before, everything());
        assert_eq!(code(name, up), 0);
        let once = everything();
        assert_ne!(before, once);
        assert_eq!(code(name, up), 0);
        assert_eq!(once, everything(), "{name}: again is as once");
        let status = script(&netns, name, &["status"]);
        assert!(status.code == 0 && status.stdout.contains("dropped"), "{}", status.stdout);
        // A refused change changes nothing.
        assert_ne!(code(name, &[up, &["--port", "70000"]].concat()), 0);
        assert_eq!(once, everything());
        assert_eq!(code(name, &["down"]), 0);
        assert_eq!(before, everything(), "{name}: down restores what was");
    }
    // Other marks and tables than those of `up` are found all the same.
    let before = everything();
    let other = ["--clients", "clients", "--mark", "9", "--table", "99", "--priority", "98"];
    assert_eq!(code("tproxy.sh", &[&["up"], &other[..]].concat()), 0);
    assert_eq!(code("tproxy.sh", &["up", "--clients", "clients"]), 0);
    assert!(!everything().1.concat().contains("lookup 99"), "the earlier rule has gone");
    netns.run("ip", &["rule", "del", "priority", "7361"]);
    assert_eq!(code("tproxy.sh", &["status"]), 2, "in part");
    assert_eq!(code("tproxy.sh", &["down"]), 0);
    assert_eq!(before, everything());
    mistakes(&netns);
    assert_eq!(before, everything());
}

/// Each mistake, its exit code and what is said of it.
fn mistakes(netns: &Netns) {
    netns.run("ip", &["route", "add", "198.51.100.0/24", "dev", "lo", "table", "77"]);
    for (name, arguments, code, words) in [
        ("tproxy.sh", &[][..], 64, "usage"),
        ("tproxy.sh", &["on"], 64, "unknown argument \"on\""),
        ("tproxy.sh", &["up", "down"], 64, "one at a time"),
        ("tproxy.sh", &["up"], 64, "no interface"),
        ("tproxy.sh", &["up", "--clients"], 64, "needs a value"),
        ("tproxy.sh", &["up", "--clients", "absent"], 69, "there is no interface \"absent\""),
        ("tproxy.sh", &["up", "--clients", "clients", "--port", "08"], 64, "--port: \"08\""),
        ("tproxy.sh", &["up", "--clients", "clients", "--table", "254"], 64, "belongs to the system"),
        ("tproxy.sh", &["up", "--clients", "clients", "--table", "77"], 69, "has routes of others"),
        ("tproxy.sh", &["up", "--clients", "clients", "--input", "sctp/9"], 64, "tcp/22"),
        (
            "tproxy.sh",
            &["up", "--clients", "clients", "--exclude", "example.test"],
            64,
            "neither an IP address",
        ),
        ("redirect.sh", &["up", "--own-users", "absent-user"], 64, "there is no user \"absent-user\""),
        ("redirect.sh", &["up", "--own-users", "root"], 64, "a user of its own"),
        ("redirect.sh", &["up", "--own-users", ""], 64, "would be captured again"),
        (
            "redirect.sh",
            &["up", "--own-users", "7", "--own-cgroup", "absent.slice"],
            69,
            "nothing has been changed",
        ),
        ("redirect.sh", &["--clients"], 64, "unknown argument"),
    ] {
        let done = script(netns, name, arguments);
        assert_eq!(done.code, code, "{name} {arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{name} {arguments:?}: {}", done.stderr);
    }
    netns.run("ip", &["route", "flush", "table", "77"]);
    // Words that nft would take for names, and ask the resolver for.
    for item in
        ["999.1.1.1", "1::2::3", "1.2.3", "01.2.3.4", "10.0.0.0/33", "::/129", "1:2:3:4:5:6:7", "::1.2.3.256"]
    {
        for (name, setting) in
            [("redirect.sh", "--exclude"), ("redirect.sh", "--resolvers"), ("tproxy.sh", "--exclude")]
        {
            let whose =
                if name == "tproxy.sh" { ["--clients", "clients"] } else { ["--own-users", OWN_USER] };
            let done = script(netns, name, &[&["print", setting, item][..], &whose].concat());
            assert_eq!(done.code, 64, "{name} {setting} {item}: {}", done.stderr);
            let words = format!("{setting}: \"{item}\" is neither an IP address nor a range");
            assert!(done.stderr.contains(&words), "{name}: {}", done.stderr);
        }
    }
    for (name, settings) in
        [("tproxy.sh", ["--clients", "clients"]), ("redirect.sh", ["--own-users", OWN_USER])]
    {
        for (way, code, words) in [
            (&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"][..], 77, "run it as root"),
            // Where Debian has neither nft nor ip.
            (&["env", "PATH=/usr/bin:/bin"], 69, "nft is not installed"),
        ] {
            let mut command = netns.command(way[0]);
            command.args(&way[1..]).arg(script_path(name)).arg("up").args(settings);
            let done = tool(&mut command, b"");
            assert!(
                done.code == code && done.stderr.contains(words),
                "{name} {way:?}: {} {}",
                done.code,
                done.stderr
            );
        }
    }
}

/// A namespace with an interface of clients.
fn router() -> Netns {
    let netns = Netns::new();
    netns.run("ip", &["link", "add", "clients", "type", "veth", "peer", "name", "other"]);
    netns
}

/// Routes and rules of both families, in numbers.
fn routing(netns: &Netns) -> String {
    let of = |family| {
        let routes = netns.run("ip", &["-N", family, "route", "show", "table", "all"]);
        routes + &netns.run("ip", &["-N", family, "rule", "show"])
    };
    of("-4") + &of("-6")
}

const UP: [&str; 3] = ["up", "--clients", "clients"];

#[test]
fn names_that_the_system_gives_to_our_numbers_are_no_hindrance() {
    let netns = router();
    let before = routing(&netns);
    netns.etc("iproute2/rt_tables", "255 local\n254 main\n253 default\n7361 delivered\n");
    netns.etc("iproute2/rt_protos", "2 kernel\n3 boot\n115 capture\n");
    assert_eq!(script(&netns, "tproxy.sh", &UP).code, 0);
    let shown = netns.run("ip", &["rule", "show"]);
    assert!(shown.contains("lookup delivered proto capture"), "they have names: {shown}");
    let once = routing(&netns);
    let again = script(&netns, "tproxy.sh", &UP);
    assert_eq!((again.code, routing(&netns)), (0, once), "{}", again.stderr);
    assert_eq!(script(&netns, "tproxy.sh", &["status"]).code, 0);
    let down = script(&netns, "tproxy.sh", &["down"]);
    assert_eq!((down.code, routing(&netns)), (0, before), "{}", down.stderr);
}

#[test]
fn rules_that_fail_at_the_last_moment_leave_what_was() {
    let netns = router();
    // Checks pass, and the load fails.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nft");
    let failing =
        "#!/bin/sh\n[ \"$1\" != -f ] || { echo no memory >&2; exit 1; }\nPATH=${PATH#*:} exec nft \"$@\"\n";
    std::fs::write(&path, failing).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let search = format!("PATH={}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let fail = || {
        let other = ["up", "--clients", "other", "--mark", "9", "--table", "99", "--priority", "98"];
        let mut command = netns.command("env");
        let done = tool(command.arg(&search).arg(script_path("tproxy.sh")).args(other), b"");
        assert_eq!(done.code, 69, "{}", done.stderr);
        assert!(done.stderr.contains("no memory") && done.stderr.contains("nothing has been changed"));
    };
    let everything = || (netns.run("nft", &["list", "ruleset"]), routing(&netns));
    let down = everything();
    fail();
    assert_eq!(everything(), down);
    assert_eq!(script(&netns, "tproxy.sh", &UP).code, 0);
    let up = everything();
    fail();
    assert_eq!(everything(), up, "an earlier capture stays as it was");
}
