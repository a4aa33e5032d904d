//! Names: the rows of the design on case, dots, brackets, numbers and IDNA.

use sluice_policy::*;

use crate::support::*;

fn name(wire: &str) -> Result<String, HostError> {
    name_bytes(wire.as_bytes())
}

fn name_bytes(wire: &[u8]) -> Result<String, HostError> {
    parse_host(wire, &mut HostBuf::new()).map(|host| host.to_string())
}

#[test]
fn case_and_one_trailing_dot_do_not_make_another_name() {
    for wire in ["allowed.test", "AlLoWeD.TeSt", "allowed.test.", "ALLOWED.TEST."] {
        assert_eq!(name(wire).as_deref(), Ok("allowed.test"));
    }
    assert_eq!(name("allowed.test.."), Err(HostError::EmptyLabel));
}

#[test]
fn empty_labels_are_refused() {
    assert_eq!(name(""), Err(HostError::Empty));
    for wire in [".", "..", "a..test", ".a.test"] {
        assert_eq!(name(wire), Err(HostError::EmptyLabel), "{wire}");
    }
}

#[test]
fn underscore_and_inner_hyphens_are_legal() {
    for wire in ["_dmarc.example.com", "a_b.test", "r3---sn-x.example.com", "localhost", "a.b-c"] {
        assert_eq!(name(wire).as_deref(), Ok(wire));
    }
}

#[test]
fn labels_hold_63_bytes_and_names_253() {
    let label = "a".repeat(63);
    assert!(name(&format!("{label}.test")).is_ok());
    assert_eq!(name(&format!("{label}a.test")), Err(HostError::LabelTooLong));
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    assert_eq!(longest.len(), 253);
    assert_eq!(name(&longest).as_deref(), Ok(&*longest));
    assert_eq!(name(&format!("{longest}.")).as_deref(), Ok(&*longest));
    assert_eq!(name(&format!("{longest}b")), Err(HostError::NameTooLong));
    assert_eq!(name(&"a.".repeat(500_000)), Err(HostError::NameTooLong));
}

#[test]
fn a_numeric_last_label_must_be_a_plain_dotted_quad() {
    let mut buf = HostBuf::new();
    assert_eq!(parse_host(b"198.51.100.20", &mut buf), Ok(Host::Address(ip("198.51.100.20"))));
    for wire in [
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "0x7f000001",
        "0X7F000001",
        "127.0.0.0x1",
        "256.1.1.1",
        "1.2.3.4.5",
        "a.1",
        "1.2.3.04",
        "0",
        "example.0x",
        "1.2.3",
        "example.123",
    ] {
        assert_eq!(name(wire), Err(HostError::NumericLabel), "{wire}");
    }
    // Only the last label counts.
    for wire in ["1.test", "0x7f.test", "127.0.0.1.test", "1a", "a.b.1c", "0xg"] {
        assert_eq!(name(wire).as_deref(), Ok(wire));
    }
}

#[test]
fn full_width_digits_and_other_scripts_are_refused_on_the_wire() {
    for wire in ["\u{ff11}27.0.0.1", "\u{430}llowed.test", "allowed\u{3002}test", "é"] {
        assert_eq!(name(wire), Err(HostError::NonAscii), "{wire}");
    }
    assert_eq!(name_bytes(b"\xff"), Err(HostError::NonAscii));
    assert_eq!(name("xn--llowed-2fg.test").as_deref(), Ok("xn--llowed-2fg.test"));
}

#[test]
fn brackets_hold_ipv6_only() {
    let mut buf = HostBuf::new();
    assert_eq!(parse_host(b"[2001:db8::1]", &mut buf), Ok(Host::Address(ip("2001:db8::1"))));
    assert_eq!(
        parse_host(b"[::ffff:169.254.169.254]", &mut buf),
        Ok(Host::Address(ip("::ffff:169.254.169.254")))
    );
    for wire in [
        "[denied.test]",
        "[]",
        "[",
        "[1.2.3.4]",
        "[::1",
        "[::1]]",
        "[::1]x",
        "[::1]:443",
        "[[::1]]",
        "[v1.x]",
    ] {
        assert_eq!(name(wire), Err(HostError::Brackets), "{wire}");
    }
    assert_eq!(name("::1"), Err(HostError::Port));
}

#[test]
fn zone_ids_are_refused() {
    for wire in ["[fe80::1%25lo]", "[fe80::1%lo]", "fe80%25lo"] {
        assert_eq!(name(wire), Err(HostError::ZoneId), "{wire}");
    }
}

#[test]
fn what_no_name_holds_is_refused() {
    assert_eq!(name("u@denied.test"), Err(HostError::Byte(b'@')));
    assert_eq!(name("allowed.test:443"), Err(HostError::Port));
    assert_eq!(name("*.test"), Err(HostError::Wildcard));
    for byte in b"\0\t\r\n !\"#$&'()+,/;<=>?@\\]^`{|}~\x7f" {
        let wire = [b"a".as_slice(), &[*byte], b".test"].concat();
        assert_eq!(name_bytes(&wire), Err(HostError::Byte(*byte)));
    }
}

#[test]
fn patterns_are_exact_names_or_a_star_before_a_suffix() {
    let pattern = |text| HostPattern::parse(text).map(|pattern| pattern.to_string());
    assert_eq!(pattern("Httpbin.ORG."), Ok("httpbin.org".into()));
    assert_eq!(pattern("*.Example.com."), Ok("*.example.com".into()));
    assert_eq!(pattern("*.com"), Ok("*.com".into()));
    for text in ["*", "a*.test", "*a.test", "a.*.test", "*.*.test", "**.test"] {
        assert_eq!(pattern(text), Err(HostError::Wildcard), "{text}");
    }
    assert_eq!(pattern("*."), Err(HostError::Empty));
    assert_eq!(pattern("httpbin.org:443"), Err(HostError::Port));
    assert_eq!(pattern("198.51.100.20"), Err(HostError::Address));
    assert_eq!(pattern("[2001:db8::1]"), Err(HostError::Address));
    assert_eq!(pattern("*.198.51.100.20"), Err(HostError::Address));
    assert_eq!(pattern("*.0.1"), Err(HostError::NumericLabel));
    assert_eq!(pattern("аllowed.test"), Err(HostError::NonAscii));
}

#[test]
fn a_wildcard_takes_one_whole_label_or_more_and_never_the_apex() {
    let pattern = HostPattern::parse("*.allowed.test").expect("a pattern");
    for (name, expected) in [
        ("a.allowed.test", true),
        ("a.b.allowed.test", true),
        ("allowed.test", false),
        ("evilallowed.test", false),
        ("allowed.test.evil", false),
        ("test", false),
        ("x.evilallowed.test", false),
    ] {
        assert_eq!(pattern.matches(name), expected, "{name}");
    }
}
