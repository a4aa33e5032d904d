//! `[[listener]] proxy_protocol`: what it means, what it refuses and where.

use crate::common::{accepted, error};

fn door(kind: &str, value: &str) -> String {
    let kind = match kind {
        "tcp" => "kind = \"tcp\"\nservice = \"db\"",
        "tls" => "kind = \"tls\"\ndestination_port = 443",
        "http" => "kind = \"http\"\n",
        "transparent" => "kind = \"transparent\"\ncapture = \"redirect\"",
        _ => "kind = \"http_proxy\"\n",
    };
    let service = "[[service]]\nname = \"db\"\nhosts = [\"db.example\"]\nports = [{ number = 5432 }]\n";
    format!(
        "mode = \"allow_any\"\n[[listener]]\n{kind}\nbind = \"127.0.0.1:1\"\nproxy_protocol = {value}\n{service}"
    )
}

#[test]
fn every_door_may_want_it() {
    let value = "{ mode = \"required\", trusted = [\"10.0.0.0/8\", \"2001:db8::7\"] }";
    for kind in ["http_proxy", "tls", "tcp"] {
        let loaded = accepted(&door(kind, value));
        assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
        let expected = loaded.plan.doors[0].proxy_protocol.as_ref().unwrap();
        assert_eq!(expected.trusted, ["10.0.0.0/8".parse().unwrap(), "2001:db8::7".parse().unwrap()]);
        assert!(!expected.use_destination);
    }
    let value = "{ mode = \"required\", trusted = [\"10.0.0.0/8\"], use_destination = true }";
    for kind in ["tls", "tcp", "http", "transparent"] {
        let plan = accepted(&door(kind, value)).plan;
        assert!(plan.doors[0].proxy_protocol.as_ref().unwrap().use_destination);
    }
    assert!(accepted("mode = \"allow_any\"").plan.doors[0].proxy_protocol.is_none());
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (kind, value, column, key, message, suggestion) in [
        ("http_proxy", "{ mode = \"required\" }", 1, "", "`trusted` is missing", "trusted = "),
        ("http_proxy", "{ trusted = [\"10.0.0.0/8\"] }", 1, "", "`mode` is missing", "required"),
        (
            "http_proxy",
            "{ mode = \"optional\", trusted = [\"10.0.0.0/8\"] }",
            27,
            ".mode",
            "unknown value",
            "required",
        ),
        (
            "http_proxy",
            "{ mode = \"required\", trusted = [] }",
            49,
            ".trusted",
            "nobody could connect",
            "10.0.0.0/24",
        ),
        (
            "http_proxy",
            "{ mode = \"required\", trusted = [\"10.0.0.1/8\"] }",
            50,
            ".trusted[0]",
            "bits set",
            "10.0.0.0/8",
        ),
        (
            "http_proxy",
            "{ mode = \"required\", trusted = [\"lb.example\"] }",
            50,
            ".trusted[0]",
            "lb.example",
            "",
        ),
        (
            "http_proxy",
            "{ mode = \"required\", trusted = [\"10.0.0.0/8\"], use_destination = true }",
            83,
            ".use_destination",
            "names the destination itself",
            "tls",
        ),
        (
            "tls",
            "{ mode = \"required\", trusted = [\"10.0.0.0/8\"], use_destination = 1 }",
            83,
            ".use_destination",
            "true or false",
            "",
        ),
        (
            "tls",
            "{ mode = \"required\", trusted = [\"10.0.0.0/8\"], version = 2 }",
            65,
            ".version",
            "unknown key",
            "",
        ),
    ] {
        let problem = error(&door(kind, value));
        assert_eq!(problem.key, format!("listener[0].proxy_protocol{key}"), "{problem}");
        assert_eq!((problem.line, problem.column), (6, column), "{problem}");
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.suggestion.as_deref().unwrap_or_default().contains(suggestion), "{problem}");
    }
}

#[test]
fn to_trust_everybody_is_worth_a_warning() {
    for range in ["0.0.0.0/0", "::/0"] {
        let loaded =
            accepted(&door("http_proxy", &format!("{{ mode = \"required\", trusted = [\"{range}\"] }}")));
        let texts: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert!(texts.len() == 1 && texts[0].contains("anybody may claim"), "{texts:?}");
    }
}
