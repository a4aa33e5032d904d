//! Every class of mistake is refused with its line, column and key, and with a remedy that works.

use crate::common::{accepted, error, errors};

/// What a refused text must say: its place, its key, a part of the message, a part of the suggestion.
struct Case {
    text: &'static str,
    at: (u32, u32),
    key: &'static str,
    message: &'static str,
    suggestion: &'static str,
}

const fn case(
    text: &'static str,
    at: (u32, u32),
    key: &'static str,
    message: &'static str,
    suggestion: &'static str,
) -> Case {
    Case { text, at, key, message, suggestion }
}

fn check(cases: &[Case]) {
    for case in cases {
        let problem = error(case.text);
        let suggestion = problem.suggestion.as_deref().unwrap_or_default();
        assert_eq!((problem.line, problem.column), case.at, "{problem}\n{}", case.text);
        assert_eq!(problem.key, case.key, "{problem}");
        assert!(problem.message.contains(case.message), "{problem}");
        assert!(suggestion.contains(case.suggestion), "{problem}");
        assert_eq!(suggestion.is_empty(), case.suggestion.is_empty(), "{problem}");
        assert!(problem.file.ends_with("sluice.toml"), "{problem}");
    }
}

#[test]
fn structure() {
    check(&[
        case(
            "mode = \"registry\"",
            (1, 8),
            "mode",
            "unknown value \"registry\"",
            "did you mean \"registry_only\"?",
        ),
        case("mode = \"deny\"", (1, 8), "mode", "unknown value", "use \"allow_any\" or \"registry_only\""),
        case("mode = 1", (1, 8), "mode", "expected one of", "in quotes"),
        case("[dns]\nttl_min_s = 1", (1, 1), "", "`mode` is missing", "registry_only"),
        case("# only a comment", (1, 1), "", "`mode` is missing", "registry_only"),
        case("mod = \"allow_any\"\nmode = \"allow_any\"", (1, 1), "mod", "unknown key `mod`", "`mode`"),
        case(
            "mode = \"allow_any\"\n[[servcie]]\nname = \"a\"",
            (2, 3),
            "servcie",
            "unknown key",
            "`service`",
        ),
        case(
            "mode = \"allow_any\"\n[service]\nname = \"a\"",
            (2, 1),
            "service",
            "expected an array",
            "[[service]]",
        ),
        case(
            "mode = \"allow_any\"\n[[dns]]\nttl_min_s = 1",
            (2, 1),
            "dns",
            "expected a table, found a list",
            "",
        ),
        case(
            "mode = \"allow_any\"\n[dns]\nttl_mins = 1",
            (3, 1),
            "dns.ttl_mins",
            "unknown key",
            "`ttl_min_s`",
        ),
        case("mode = \"allow_any\"\n[dns]\ncontact = \"x\"", (3, 1), "dns.contact", "unknown key", "[deny]"),
        case("mode = \"allow_any\"\n[dns]\n\"a b\" = 1", (3, 1), "dns.\"a b\"", "unknown key", "known here"),
        case(
            "mode = \"allow_any\"\n[dns]\nttl_min_s = 1\nlistener = []",
            (4, 1),
            "dns.listener",
            "unknown",
            "[[listener]]",
        ),
        case(
            "mode = \"allow_any\"\n[limits]\nconnect_timeout_ms = \"5s\"",
            (3, 22),
            "limits.connect_timeout_ms",
            "found the string \"5s\"",
            "milliseconds",
        ),
        case(
            "mode = \"allow_any\"\n[limits]\nconnect_timeout_ms = \"500\"",
            (3, 22),
            "limits.connect_timeout_ms",
            "expected a whole",
            "without quotes",
        ),
        case(
            "mode = \"allow_any\"\n[limits]\nconnect_timeout_ms = 0",
            (3, 22),
            "limits.connect_timeout_ms",
            "from 10 to 600000, found 0",
            "",
        ),
        case(
            "mode = \"allow_any\"\n[limits]\nconnect_timeout_ms = 1.5",
            (3, 22),
            "limits.connect_timeout_ms",
            "found the number 1.5",
            "",
        ),
        case(
            "mode = \"allow_any\"\n[limits]\nconnect_timeout_ms = 99999999999999999999999999999999999999999999",
            (3, 22),
            "limits.connect_timeout_ms",
            "expected",
            "",
        ),
        case(
            "mode = \"allow_any\"\n[dataplane]\nbusy_poll = \"false\"",
            (3, 13),
            "dataplane.busy_poll",
            "expected true or false",
            "without quotes",
        ),
        case(
            "mode = \"allow_any\"\n[guard]\nallow = \"10.0.0.0/8\"",
            (3, 9),
            "guard.allow",
            "expected a list",
            "[\"10.0.0.0/8\"]",
        ),
        case("mode = \"allow_any\"\n[deny]\ncontact = \"\"", (3, 11), "deny.contact", "is empty", "string"),
        case(
            "mode = \"allow_any\"\n[deny]\ncontact = \"a\\nb\"",
            (3, 11),
            "deny.contact",
            "control character",
            "string",
        ),
        case(
            "mode = \"allow_any\"\n[[listener]]\nkind = \"tcp_proxy\"\nbind = \"127.0.0.1:1\"",
            (3, 8),
            "listener[0].kind",
            "unknown value",
            "\"http_proxy\"",
        ),
        case(
            "mode = \"allow_any\"\n[[listener]]\nbind = \"127.0.0.1:1\"",
            (2, 1),
            "listener[0]",
            "`kind` is missing",
            "http_proxy",
        ),
        case(
            "mode = \"allow_any\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\", 5]",
            (4, 23),
            "service[0].hosts[1]",
            "found 5",
            "quotes",
        ),
    ]);
}

#[test]
fn syntax() {
    check(&[
        case("mode = \"allow_any", (1, 18), "", "syntax error", ""),
        case("mode = \"allow_any\"\n[limits", (2, 8), "", "syntax error", ""),
        case("mode = \"allow_any\"\nmode = \"allow_any\"", (2, 1), "", "`mode` is written twice", ""),
        case(
            "mode = \"allow_any\"\n[limits]\ndrain_timeout_ms = 1\n \"drain_timeout_ms\" = 2",
            (4, 2),
            "",
            "`drain_timeout_ms` is written twice",
            "",
        ),
        case("mode = \"allow_any\"\n[dns]\n[guard]\n[dns]", (4, 2), "", "`dns` is written twice", ""),
    ]);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for kind in ["mesh", "hbone", "dns"] {
        let problem =
            error(&format!("mode = \"allow_any\"\n[[listener]]\nkind = \"{kind}\"\nbind = \"127.0.0.1:1\""));
        assert_eq!((problem.line, problem.column), (3, 8), "{problem}");
        assert!(
            problem.message.contains(kind) && problem.message.contains("not available in this version"),
            "{problem}"
        );
        assert!(problem.suggestion.unwrap().contains("http_proxy"));
    }
    let service = "mode = \"allow_any\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\"]\n";
    for (head, line, key) in [
        (service, "tls = { anything = true }", "service[0].tls"),
        (
            "mode = \"allow_any\"\n\n\n\n",
            "telemetry.otlp = { endpoint = \"http://127.0.0.1:4317\" }",
            "telemetry.otlp",
        ),
        ("mode = \"allow_any\"\n\n\n\n", "dataplane.busy_poll = true", "dataplane.busy_poll"),
        (
            "mode = \"allow_any\"\n\n\n\n",
            "limits.mesh_handshake_timeout_ms = 5000",
            "limits.mesh_handshake_timeout_ms",
        ),
    ] {
        let problem = error(&format!("{head}{line}"));
        assert!(problem.message.contains("not available in this version"), "{problem}");
        assert_eq!((problem.key.as_str(), problem.line), (key, 5), "{problem}");
    }
    accepted("mode = \"allow_any\"\ndataplane.busy_poll = false");
}

#[test]
fn doors() {
    let door = |rest: &str| format!("mode = \"allow_any\"\n[[listener]]\n{rest}");
    for (rest, at, key, message, suggestion) in [
        ("kind = \"http_proxy\"\nbind = \"3128\"", (4, 8), "bind", "no address", "127.0.0.1:3128"),
        ("kind = \"http_proxy\"\nbind = \":3128\"", (4, 8), "bind", "no address", "0.0.0.0:3128"),
        ("kind = \"http_proxy\"\nbind = \"*:3128\"", (4, 8), "bind", "no address", "0.0.0.0:3128"),
        ("kind = \"http_proxy\"\nbind = \"127.0.0.1\"", (4, 8), "bind", "no port", "ADDRESS:PORT"),
        ("kind = \"http_proxy\"\nbind = \"0.0.0.0:0\"", (4, 8), "bind", "port 0", "loopback address only"),
        ("kind = \"tls\"\nbind = \"127.0.0.1:0\"", (2, 1), "", "no port to dial", "443"),
        (
            "kind = \"http_proxy\"\nbind = \"127.0.0.1:70000\"",
            (4, 8),
            "bind",
            "\"70000\" is not a port",
            "65535",
        ),
        (
            "kind = \"http_proxy\"\nbind = \"localhost:3128\"",
            (4, 8),
            "bind",
            "names a host",
            "127.0.0.1:3128",
        ),
        (
            "kind = \"http_proxy\"\nbind = \"proxy.example:3128\"",
            (4, 8),
            "bind",
            "not an IP address",
            "brackets",
        ),
        ("kind = \"tcp\"\nbind = \"127.0.0.1:1\"", (2, 1), "", "needs `service`", "service ="),
        (
            "kind = \"tcp\"\nbind = \"127.0.0.1:1\"\nservice = \"a/b\"",
            (5, 11),
            "service",
            "no service a/b",
            "[[service]]",
        ),
        (
            "kind = \"tls\"\nbind = \"127.0.0.1:1\"\nservice = \"a/b\"",
            (5, 11),
            "service",
            "no meaning",
            "tcp",
        ),
        (
            "kind = \"tls\"\nbind = \"127.0.0.1:1\"\nauth = \"off\"",
            (5, 8),
            "auth",
            "no meaning",
            "http_proxy",
        ),
        (
            "kind = \"http_proxy\"\nbind = \"127.0.0.1:1\"\ndestination_port = 443",
            (5, 20),
            "destination_port",
            "no meaning",
            "tls and tcp",
        ),
        (
            "kind = \"http_proxy\"\nbind = \"127.0.0.1:1\"\ndeny_tls = \"alert\"",
            (5, 12),
            "deny_tls",
            "no meaning",
            "tls",
        ),
        (
            "kind = \"http_proxy\"\nbind = \"127.0.0.1:1\"\nauth = \"required\"",
            (5, 8),
            "auth",
            "nobody could pass",
            "credentials",
        ),
        (
            "kind = \"tls\"\nbind = \"127.0.0.1:1\"\ndestination_port = 65536",
            (5, 20),
            "destination_port",
            "65536",
            "",
        ),
        (
            "kind = \"http_proxy\"\nbind = \"127.0.0.1:15000\"",
            (4, 8),
            "bind",
            "taken by `admin.bind`",
            "another port",
        ),
        (
            "kind = \"http_proxy\"\nbind = \"0.0.0.0:15000\"",
            (4, 8),
            "bind",
            "overlaps 127.0.0.1:15000",
            "another port",
        ),
    ] {
        let problem = error(&door(rest));
        assert_eq!((problem.line, problem.column), at, "{problem}\n{rest}");
        let full = if key.is_empty() { "listener[0]".to_owned() } else { format!("listener[0].{key}") };
        assert_eq!(problem.key, full, "{problem}");
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.suggestion.as_deref().unwrap_or_default().contains(suggestion), "{problem}");
    }
    let two = |second: &str| {
        door(&format!(
            "kind = \"http_proxy\"\nbind = \"127.0.0.1:1\"\n[[listener]]\nkind = \"tls\"\n{second}"
        ))
    };
    assert!(error(&two("bind = \"127.0.0.1:1\"")).message.contains("taken by `listener[0].bind`"));
    assert!(error(&two("bind = \"127.0.0.1:2\"\nname = \"http_proxy-1\"")).message.contains("named"));
    let unnumbered = door("kind = \"http_proxy\"\nbind = \"127.0.0.1:0\"\n[admin]\nbind = \"127.0.0.1:0\"\n");
    assert_eq!(accepted(&unnumbered).warnings.len(), 2);
    let twice =
        format!("{unnumbered}[[listener]]\nkind = \"http_proxy\"\nname = \"b\"\nbind = \"127.0.0.1:0\"\n");
    assert!(error(&twice).message.contains("taken by `listener[0]`"));
    assert!(error("mode = \"allow_any\"\nlistener = []").message.contains("no door is left"));
}

#[test]
fn tcp_doors_find_their_port() {
    let text = |bind: u16, more: &str, ports: &str| {
        format!(
            "mode = \"registry_only\"\n[[listener]]\nkind = \"tcp\"\nbind = \"127.0.0.1:{bind}\"\nservice = \"db\"\n{more}\n\
             [[service]]\nname = \"db\"\nhosts = [\"db.example\"]\n{ports}"
        )
    };
    let two = "ports = [{ number = 1000 }, { number = 2000 }]";
    let port = |text: String| accepted(&text).plan.doors[0].destination_port;
    assert_eq!(port(text(9, "", "ports = [{ number = 1000 }]")), Some(1000));
    assert_eq!(port(text(2000, "", two)), Some(2000));
    assert_eq!(port(text(9, "destination_port = 1000", two)), Some(1000));
    assert_eq!(port(text(443, "", "")), Some(443));
    assert!(error(&text(9, "", two)).suggestion.unwrap().contains("1000, 2000"));
    assert!(error(&text(9, "destination_port = 3", two)).suggestion.unwrap().contains("1000, 2000"));
    let near = text(1000, "", two).replace("service = \"db\"", "service = \"payments/db\"");
    assert!(error(&near).suggestion.unwrap().contains("default/db"));
    let wildcard = text(1000, "", two).replace("db.example", "*.example");
    assert!(error(&wildcard).message.contains("nothing that can be dialled"));
}

#[test]
fn services() {
    let service = |rest: &str| format!("mode = \"registry_only\"\n[[service]]\nname = \"a\"\n{rest}");
    for (rest, at, key, message, suggestion) in [
        ("hosts = [\"https://a.example/x\"]", (4, 10), ".hosts[0]", "scheme", "\"a.example\""),
        ("hosts = [\"a.example:443\"]", (4, 10), ".hosts[0]", "has a port", "`ports`"),
        ("hosts = [\"a..example\"]", (4, 10), ".hosts[0]", "empty label", ""),
        ("hosts = [\"*\"]", (4, 10), ".hosts[0]", "`*`", "allow_any"),
        ("hosts = [\"10.0.0.1\"]", (4, 10), ".hosts[0]", "is an address", "`addresses`"),
        ("hosts = []", (2, 1), "", "can never match", "`hosts`"),
        ("owner = \"x\"", (2, 1), "", "can never match", "`hosts`"),
        ("addresses = [\"10.1.2.3/16\"]", (4, 14), ".addresses[0]", "bits set", "10.1.0.0/16"),
        ("addresses = [\"10.1.0.0/33\"]", (4, 14), ".addresses[0]", "prefix length", ""),
        ("addresses = [\"a.example\"]", (4, 14), ".addresses[0]", "no address", "`hosts`"),
        ("hosts = [\"a.example\"]\nports = []", (5, 9), ".ports", "empty", "80 HTTP and 443 TLS"),
        ("hosts = [\"a.example\"]\nports = [{ number = 0 }]", (5, 21), ".ports[0].number", "found 0", ""),
        ("hosts = [\"a.example\"]\nports = [443]", (5, 10), ".ports[0]", "expected a table, found 443", ""),
        (
            "hosts = [\"a.example\"]\nports = [{ number = 1 }, { number = 1 }]",
            (5, 26),
            ".ports[1]",
            "named twice",
            "one entry",
        ),
        (
            "hosts = [\"a.example\"]\nports = [{ number = 1, protocol = \"http\" }]",
            (5, 35),
            ".ports[0].protocol",
            "unknown value",
            "\"HTTP\"",
        ),
        (
            "hosts = [\"a.example\"]\nresolution = \"STATIC\"",
            (5, 14),
            ".resolution",
            "needs `endpoints`",
            "endpoints =",
        ),
        (
            "hosts = [\"a.example\"]\nresolution = \"STATIC\"\nendpoints = [{ address = \"b.example\" }]",
            (6, 26),
            ".endpoints[0].address",
            "is a name",
            "DNS",
        ),
        (
            "hosts = [\"a.example\"]\nresolution = \"NONE\"\nendpoints = [{ address = \"192.0.2.1\" }]",
            (5, 14),
            ".resolution",
            "no `endpoints`",
            "STATIC",
        ),
        (
            "hosts = [\"a.example\"]\nendpoints = [{ address = \"192.0.2.1:80\" }]",
            (5, 26),
            ".endpoints[0].address",
            "has a port",
            "`ports`",
        ),
        (
            "hosts = [\"a.example\"]\nendpoints = [{ address = \"192.0.2.1\", ports = { x = 1 } }]",
            (5, 53),
            ".endpoints[0].ports.x",
            "no port named \"x\"",
            "`name`",
        ),
        (
            "addresses = [\"192.0.2.0/24\"]\nresolution = \"DNS\"",
            (5, 14),
            ".resolution",
            "no name to resolve",
            "NONE",
        ),
        (
            "hosts = [\"a.example\"]\nexpires = \"2027-01-31\"",
            (5, 11),
            ".expires",
            "RFC 3339",
            "2027-01-31T00:00:00Z",
        ),
        (
            "hosts = [\"a.example\"]\nexpires = 2027-01-31T10:00:00",
            (5, 11),
            ".expires",
            "RFC 3339",
            "2027-01-31T10:00:00Z",
        ),
        (
            "hosts = [\"a.example\"]\nexpires = \"tomorrow\"",
            (5, 11),
            ".expires",
            "RFC 3339",
            "2027-01-31T00:00:00Z",
        ),
        ("hosts = [\"a.example\"]\nallow = { namespace = \"x\" }", (5, 9), ".allow", "array of tables", "[{"),
        (
            "hosts = [\"a.example\"]\nallow = [{ serviceaccount = \"x\" }]",
            (5, 12),
            ".allow[0].serviceaccount",
            "unknown key",
            "`service_account`",
        ),
        (
            "hosts = [\"a.example\"]\nhosts_file = \"gone.txt\"",
            (5, 14),
            ".hosts_file",
            "no such file",
            "path",
        ),
        (
            "hosts = [\"a.example\"]\n[[service]]\nname = \"a\"\nhosts = [\"b.example\"]",
            (5, 1),
            "[1]",
            "already there as `service[0]`",
            "namespace",
        ),
    ] {
        let problem = error(&service(rest));
        assert_eq!((problem.line, problem.column), at, "{problem}\n{rest}");
        let key = if key.starts_with('[') { format!("service{key}") } else { format!("service[0]{key}") };
        assert_eq!(problem.key, key, "{problem}");
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.suggestion.as_deref().unwrap_or_default().contains(suggestion), "{problem}");
    }
}

#[test]
fn expiry_is_read_as_text_and_as_a_toml_time() {
    for time in ["\"2027-01-31T00:00:00Z\"", "2027-01-31T00:00:00Z", "\"2027-01-31T01:00:00+01:00\""] {
        let text = format!(
            "mode = \"allow_any\"\n[[service]]\nname = \"a\"\nhosts = [\"a.example\"]\nexpires = {time}"
        );
        assert_eq!(accepted(&text).plan.policy_input.services[0].expires.unwrap().0, 1_801_353_600, "{time}");
    }
}

#[test]
fn settings() {
    check(&[
        case(
            "mode = \"allow_any\"\n[admin]\nbind = \"0.0.0.0:15000\"",
            (3, 8),
            "admin.bind",
            "loopback",
            "127.0.0.1:15000",
        ),
        case(
            "mode = \"allow_any\"\n[telemetry.prometheus]\n",
            (2, 12),
            "telemetry.prometheus",
            "`bind` is missing",
            "bind =",
        ),
        case(
            "mode = \"allow_any\"\n[dns]\nttl_min_s = 400",
            (3, 13),
            "dns.ttl_min_s",
            "above ttl_max_s (300)",
            "",
        ),
        case("mode = \"allow_any\"\n[dns]\nservers = []", (3, 11), "dns.servers", "empty", "resolv.conf"),
        case(
            "mode = \"allow_any\"\n[dns]\nservers = [\"dns.example\"]",
            (3, 12),
            "dns.servers[0]",
            "not an IP address",
            "\"10.0.0.2:53\"",
        ),
        case(
            "mode = \"allow_any\"\n[dns]\nservers = [\"10.0.0.2\", \"x\"]",
            (3, 24),
            "dns.servers[1]",
            "not an IP address",
            "\"10.0.0.2:53\"",
        ),
        case(
            "mode = \"allow_any\"\n[dns]\nservers = [\"127.0.0.1:0\"]",
            (3, 12),
            "dns.servers[0]",
            "port 0",
            "1 to 65535",
        ),
        case(
            "mode = \"allow_any\"\n[guard]\nallow = [\"10.0.0.1/8\"]",
            (3, 10),
            "guard.allow[0]",
            "bits set",
            "10.0.0.0/8",
        ),
        case(
            "mode = \"allow_any\"\n[guard]\nnat64 = [\"64:ff9b:1::/33\"]",
            (3, 10),
            "guard.nat64[0]",
            "bits set",
            "write",
        ),
        case(
            "mode = \"allow_any\"\n[guard]\nnat64 = [\"2001:db8::/33\"]",
            (3, 10),
            "guard.nat64[0]",
            "NAT64",
            "RFC 6052",
        ),
        case(
            "mode = \"allow_any\"\n[access_log]\npath = \"access.log\"",
            (3, 8),
            "access_log.path",
            "absolute",
            "/var/log",
        ),
        case("mode = \"allow_any\"\n[dataplane]\ncores = []", (3, 9), "dataplane.cores", "empty", "core"),
        case(
            "mode = \"allow_any\"\n[dataplane]\ncores = [1, 1]",
            (3, 13),
            "dataplane.cores[1]",
            "twice",
            "one worker",
        ),
        case(
            "mode = \"allow_any\"\n[[scope]]\nsource = {}\nmode = \"allow_any\"",
            (3, 10),
            "scope[0].source",
            "at least one field",
            "namespace",
        ),
        case(
            "mode = \"allow_any\"\n[[scope]]\nsource = { host = \"x\" }\nmode = \"allow_any\"",
            (3, 12),
            "scope[0].source.host",
            "unknown key",
            "known here",
        ),
    ]);
}

#[test]
fn all_errors_come_at_once_in_order() {
    let text = "mode = \"registry-only\"\nfoo = 1\n[limits]\nconnect_timeout_ms = -1\n[[service]]\nname = \"a\"\n\
                hosts = [\"http://a\"]\nports = [{ number = \"x\" }]\n[[listener]]\nkind = \"tls\"\nbind = \"x\"\n";
    let found = errors(text);
    let lines: Vec<u32> = found.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 2, 4, 7, 8, 11], "{found:#?}");
}

#[test]
fn a_flood_of_errors_is_bounded() {
    let many: String = (0..10_000).map(|index| format!("k{index} = 1\n")).collect();
    assert!(errors(&format!("mode = \"allow_any\"\n{many}")).len() <= sluice_config::limits::PROBLEMS_MAX);
}

/// The places of mistakes far down in a file of many tables, and a load that does not take the square of their number.
#[test]
fn mistakes_among_many_tables_have_their_places() {
    let table = |index: usize| format!("[[service]]\nname = \"s{index}\"\nhosts = [\"h{index}.example\"]\n");
    let mut text = "mode = \"registry_only\"\n".to_owned();
    text.extend((0..5000).map(table));
    let line = u32::try_from(text.lines().count()).unwrap() + 1;
    text.push_str(
        "[[service]]\nname = \"s17\"\nhosts = [\"ok.example\", \"https://no.example/\"]\ncolour = \"red\"\n",
    );
    let errors = errors(&text);
    let places: Vec<_> = errors.iter().map(|error| (error.line, error.column, error.key.as_str())).collect();
    let expected = [
        (line, 1, "service[5000]"),
        (line + 2, 24, "service[5000].hosts[1]"),
        (line + 3, 1, "service[5000].colour"),
    ];
    assert_eq!(places, expected, "{errors:#?}");
    assert!(errors[0].message.contains("already there as `service[17]`"), "{}", errors[0]);
}
