//! The doors of captured traffic and of plain HTTP, and where connections of a service come from.

use sluice_config::{Capture, DoorKind, UpstreamSource};

use crate::common::{accepted, error};

fn door(rest: &str) -> String {
    format!("mode = \"allow_any\"\n[[listener]]\nbind = \"0.0.0.0:15001\"\n{rest}\n")
}

#[test]
fn a_transparent_door_says_how_it_is_captured() {
    let plan = accepted(&door("kind = \"transparent\"\ncapture = \"redirect\"")).plan;
    let redirect = &plan.doors[0];
    assert_eq!((redirect.kind, redirect.capture), (DoorKind::Transparent, Some(Capture::Redirect)));
    assert_eq!((redirect.opaque_ports.as_deref(), redirect.is_tproxy()), (None, false));
    assert_eq!(redirect.upstream_source, UpstreamSource::Gateway);
    let more =
        "capture = \"tproxy\"\nopaque_ports = [22, 9001]\nupstream_source = \"client\"\ndeny_tls = \"alert\"";
    let plan = accepted(&door(&format!("kind = \"transparent\"\n{more}"))).plan;
    let tproxy = &plan.doors[0];
    assert_eq!((tproxy.opaque_ports.as_deref(), tproxy.is_tproxy()), (Some(&[22, 9001][..]), true));
    assert_eq!(tproxy.upstream_source, UpstreamSource::Client);
    for (rest, at, key, message, remedy) in [
        ("kind = \"transparent\"", (2, 1), "listener[0]", "needs `capture`", "redirect"),
        ("kind = \"transparent\"\ncapture = \"dnat\"", (5, 11), "listener[0].capture", "dnat", "redirect"),
        (
            "kind = \"http\"\ncapture = \"redirect\"",
            (5, 11),
            "listener[0].capture",
            "no meaning",
            "transparent",
        ),
        (
            "kind = \"http\"\nopaque_ports = [22]",
            (5, 16),
            "listener[0].opaque_ports",
            "no meaning",
            "transparent",
        ),
        ("kind = \"http\"\nauth = \"off\"", (5, 8), "listener[0].auth", "no meaning", "http_proxy"),
        (
            "kind = \"http\"\nupstream_source = \"client\"",
            (5, 19),
            "listener[0].upstream_source",
            "no meaning",
            "",
        ),
        (
            "kind = \"transparent\"\ncapture = \"redirect\"\nupstream_source = \"client\"",
            (6, 19),
            "listener[0].upstream_source",
            "tproxy",
            "capture with tproxy",
        ),
        (
            "kind = \"transparent\"\ncapture = \"redirect\"\nopaque_ports = [22, 0]",
            (6, 21),
            "listener[0].opaque_ports[1]",
            "0",
            "",
        ),
    ] {
        let problem = error(&door(rest));
        assert_eq!((problem.line, problem.column), at, "{problem}");
        assert_eq!(problem.key, key, "{problem}");
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.suggestion.as_deref().unwrap_or_default().contains(remedy), "{problem}");
    }
}

#[test]
fn a_source_address_is_one_that_a_host_may_have() {
    let service = |address: &str| {
        format!(
            "mode = \"allow_any\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\"]\nsource_address = \"{address}\"\n"
        )
    };
    for (written, meant) in
        [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1")]
    {
        let plan = accepted(&service(written)).plan;
        let source = plan.policy_input.services[0].source_address.expect("set");
        assert_eq!(source.to_string(), meant);
    }
    for refused in [
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:255.255.255.255",
        "fe80::1",
        "febf::1",
        "192.0.2.0/24",
        "192.0.2.1:80",
        "gateway.example",
    ] {
        let problem = error(&service(refused));
        assert_eq!((problem.line, problem.column), (5, 18), "{problem}");
        assert_eq!(problem.key, "service[0].source_address");
        assert!(problem.message.contains("no address that a host may have"), "{problem}");
    }
}
