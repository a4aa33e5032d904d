//! What the reader of PROXY headers promises, case by case and for every cut.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use proptest::collection::vec;
use proptest::prelude::*;
use sluice_proto::limits::{PROXY_HEADER_BYTES_MAX, PROXY_LINE_BYTES_MAX};
use sluice_proto::proxy_protocol::{Forwarded, ProxyError, ProxyHeader, parse};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with that command, family, and payload.
fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, payload].concat()
}

/// 192.0.2.1:4000 to 198.51.100.2:443, then fields.
fn over_ipv4(fields: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[192, 0, 2, 1, 198, 51, 100, 2, 0x0f, 0xa0, 1, 0xbb][..], fields].concat())
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
}

/// CRC-32C bit by bit: it shares nothing with the one under test.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// Puts the checksum into a header whose field of four zeros ends `from_end` bytes before its end.
fn signed(mut header: Vec<u8>, from_end: usize) -> Vec<u8> {
    let sum = crc32c(&header).to_be_bytes();
    let at = header.len() - from_end - 4;
    header[at..at + 4].copy_from_slice(&sum);
    header
}

fn forwarded(source: &str, destination: &str) -> Forwarded {
    Forwarded { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

#[track_caller]
fn accepts(header: &[u8], expected: Option<Forwarded>) {
    let with_payload = [header, b"GET / HTTP/1.1\r\n"].concat();
    let found = parse(&with_payload).unwrap().unwrap();
    assert_eq!(found, ProxyHeader { forwarded: expected, wire_bytes: header.len() });
    assert_eq!(parse(header), Ok(Some(found)), "nothing behind it");
    for end in 0..header.len() {
        assert_eq!(parse(&header[..end]), Ok(None), "cut at {end}");
    }
}

#[track_caller]
fn refuses(header: &[u8], expected: ProxyError) {
    assert_eq!(parse(header), Err(expected), "{}", header.escape_ascii());
    let first = (0..=header.len()).map(|end| parse(&header[..end])).find(|found| *found != Ok(None));
    assert_eq!(first, Some(Err(expected)), "the same byte by byte: {}", header.escape_ascii());
}

#[test]
fn lines_tell_both_ends() {
    accepts(
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 443\r\n",
        Some(forwarded("192.0.2.1:4000", "198.51.100.2:443")),
    );
    accepts(
        b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n",
        Some(forwarded("[2001:db8::1]:65535", "[2001:db8::2]:0")),
    );
    accepts(
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 1 2\r\n",
        Some(forwarded("192.0.2.1:1", "198.51.100.2:2")),
    );
}

#[test]
fn an_unknown_line_speaks_for_the_peer_itself() {
    accepts(b"PROXY UNKNOWN\r\n", None);
    accepts(b"PROXY UNKNOWN ffff::1 whatever 65535 stands here\r\n", None);
}

#[test]
fn lines_are_strict() {
    use ProxyError::{Absent, Line, TooLong};
    for (line, error) in [
        (&b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 443\n"[..], Line("a bare line feed")),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4000\r\n", Line("too few words")),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 443 1\r\n", Line("too many words")),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 443 \r\n", Line("too many words")),
        (b"PROXY TCP4  192.0.2.1 198.51.100.2 4000 443\r\n", Line("too many words")),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 04000 443\r\n", Line("port")),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 +400 443\r\n", Line("port")),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 65536\r\n", Line("port")),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 443\r\r\n", Line("port")),
        (b"PROXY TCP4 192.0.2.01 198.51.100.2 4000 443\r\n", Line("address")),
        (b"PROXY TCP4 192.0.2 198.51.100.2 4000 443\r\n", Line("address")),
        (b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", Line("address")),
        (b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n", Line("address")),
        (b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", Line("address")),
        (b"PROXY TCP6 [::1] ::1 1 2\r\n", Line("address")),
        (b"PROXY TCP4 \xff.0.2.1 198.51.100.2 4000 443\r\n", Line("not ASCII")),
        (b"PROXY UDP4 192.0.2.1 198.51.100.2 4000 443\r\n", Line("unknown protocol")),
        (b"PROXY tcp4 192.0.2.1 198.51.100.2 4000 443\r\n", Line("unknown protocol")),
        (b"PROXY \r\n", Line("unknown protocol")),
        (b"PROXY TCP4\r\n", Line("too few words")),
        (b"PROXY\r\n", Absent),
        (b"proxy TCP4 192.0.2.1 198.51.100.2 4000 443\r\n", Absent),
        (b"GET / HTTP/1.1\r\n", Absent),
        (b"\x16\x03\x01", Absent),
        (&[b'P'; 3], Absent),
    ] {
        refuses(line, error);
    }
    let longest = |bytes: usize| {
        let start = b"PROXY UNKNOWN ";
        [start, &vec![b'x'; bytes - start.len() - 2][..], b"\r\n"].concat()
    };
    accepts(&longest(PROXY_LINE_BYTES_MAX), None);
    refuses(&longest(PROXY_LINE_BYTES_MAX + 1), TooLong);
    refuses(&[b"PROXY TCP4 ", &vec![b'1'; 1000][..]].concat(), TooLong);
}

#[test]
fn binary_headers_tell_both_ends() {
    accepts(&over_ipv4(&[]), Some(forwarded("192.0.2.1:4000", "198.51.100.2:443")));
    let mut block = vec![0; 36];
    block[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    block[15] = 7;
    block[16..20].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    block[31] = 8;
    block[33] = 80;
    block[35] = 81;
    accepts(&v2(0x21, 0x21, &block), Some(forwarded("[2001:db8::7]:80", "[2001:db8::8]:81")));
    let mut mapped = vec![0; 36];
    mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    mapped[26..32].copy_from_slice(&[0xff, 0xff, 198, 51, 100, 2]);
    accepts(&v2(0x21, 0x21, &mapped), Some(forwarded("192.0.2.1:0", "198.51.100.2:0")));
}

#[test]
fn a_local_header_speaks_for_the_peer_itself() {
    accepts(&v2(0x20, 0, &[]), None);
    accepts(&v2(0x20, 0x11, &[1, 2, 3]), None);
    accepts(&v2(0x20, 0x31, &[0xff; 300]), None);
}

#[test]
fn other_versions_commands_and_families_are_refused() {
    for command in (0..=255).filter(|command| !matches!(command, 0x20 | 0x21)) {
        refuses(&v2(command, 0x11, &[0; 12]), ProxyError::Command(command));
    }
    for family in (0..=255).filter(|family| !matches!(family, 0x11 | 0x21)) {
        refuses(&v2(0x21, family, &[0; 300]), ProxyError::Family(family));
    }
}

#[test]
fn lengths_are_checked() {
    for bytes in 0..12 {
        refuses(&v2(0x21, 0x11, &vec![0; bytes]), ProxyError::TooShort);
    }
    refuses(&v2(0x21, 0x21, &[0; 35]), ProxyError::TooShort);
    let room = PROXY_HEADER_BYTES_MAX - 16 - 12 - 3;
    accepts(&over_ipv4(&field(4, &vec![0; room])), Some(forwarded("192.0.2.1:4000", "198.51.100.2:443")));
    refuses(&over_ipv4(&field(4, &vec![0; room + 1])), ProxyError::TooLong);
    refuses(&v2(0x20, 0, &vec![0; PROXY_HEADER_BYTES_MAX]), ProxyError::TooLong);
}

#[test]
fn fields_are_walked_to_the_last_byte() {
    use ProxyError::Tlv;
    let known = forwarded("192.0.2.1:4000", "198.51.100.2:443");
    let ssl = field(0x20, &[&[1, 0, 0, 0, 0][..], &field(0x21, b"TLSv1.3"), &field(0x22, b"cn")].concat());
    let all =
        [field(1, b"h2"), field(2, b"a.test"), field(4, b""), field(4, b"pad"), field(5, &[7; 128]), ssl];
    accepts(&over_ipv4(&all.concat()), Some(known));
    accepts(&over_ipv4(&field(0xea, &[1; 40])), Some(known));

    refuses(&over_ipv4(&[1]), Tlv("cut within its length"));
    refuses(&over_ipv4(&[1, 0]), Tlv("cut within its length"));
    refuses(&over_ipv4(&[1, 0, 1]), Tlv("longer than the header"));
    refuses(&over_ipv4(&[1, 0xff, 0xff, 1, 2]), Tlv("longer than the header"));
    refuses(&over_ipv4(&[field(1, b"h2"), vec![9]].concat()), Tlv("cut within its length"));
    refuses(&over_ipv4(&[field(2, b"a"), field(2, b"b")].concat()), Tlv("the same type twice"));
    refuses(&over_ipv4(&[field(0xea, b"a"), field(0xea, b"a")].concat()), Tlv("the same type twice"));
    refuses(&over_ipv4(&field(5, &[7; 129])), Tlv("a unique id has at most 128 bytes"));
    refuses(&over_ipv4(&field(0x20, &[1, 0, 0, 0])), Tlv("the SSL field is cut"));
    refuses(&over_ipv4(&field(0x20, &[1, 0, 0, 0, 0, 0x21])), Tlv("cut within its length"));
    refuses(&over_ipv4(&field(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 9, 1])), Tlv("longer than the header"));
}

#[test]
fn a_checksum_is_checked_where_there_is_one() {
    let known = forwarded("192.0.2.1:4000", "198.51.100.2:443");
    let last = signed(over_ipv4(&field(3, &[0; 4])), 0);
    accepts(&last, Some(known));
    let first = signed(over_ipv4(&[field(3, &[0; 4]), field(5, b"id")].concat()), 5);
    accepts(&first, Some(known));
    // The type of the checksum's own field left out: with another one there is none.
    for at in (16..first.len()).filter(|at| *at != 28) {
        let mut broken = first.clone();
        broken[at] ^= 1;
        assert!(parse(&broken).is_err(), "a flipped bit at {at}");
    }
    let mut broken = last;
    let end = broken.len();
    broken[end - 1] ^= 0x80;
    refuses(&broken, ProxyError::Checksum);
    refuses(&over_ipv4(&field(3, &[0; 4])), ProxyError::Checksum);
    refuses(&over_ipv4(&field(3, &[0; 3])), ProxyError::Tlv("a checksum has 4 bytes"));
    refuses(&over_ipv4(&field(3, &[0; 5])), ProxyError::Tlv("a checksum has 4 bytes"));
    let twice = [field(3, &[0; 4]), field(3, &[0; 4])].concat();
    refuses(&over_ipv4(&twice), ProxyError::Tlv("the same type twice"));
}

/// Headers that are nearly right.
fn near_header() -> impl Strategy<Value = Vec<u8>> {
    let fragments: Vec<Vec<u8>> = vec![
        b"PROXY ".to_vec(),
        b"TCP4 ".to_vec(),
        b"TCP6 ".to_vec(),
        b"UNKNOWN".to_vec(),
        b"192.0.2.1 ".to_vec(),
        b"::1 ".to_vec(),
        b"80".to_vec(),
        b" ".to_vec(),
        b"\r\n".to_vec(),
        SIGNATURE.to_vec(),
        over_ipv4(&[]),
        over_ipv4(&field(2, b"a.test")),
        signed(over_ipv4(&field(3, &[0; 4])), 0),
        v2(0x20, 0, &[]),
        vec![0x21, 0x11, 0, 12],
        vec![0x21, 0x21, 0, 39],
        field(4, b"xx"),
        vec![0; 12],
        vec![0xff],
    ];
    vec(prop::sample::select(fragments), 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn more_bytes_change_nothing(wire in prop_oneof![near_header(), vec(any::<u8>(), 0..200)]) {
        let whole = parse(&wire);
        for end in 0..=wire.len() {
            let cut = parse(&wire[..end]);
            if cut != Ok(None) {
                prop_assert_eq!(cut, whole);
            }
        }
        if let Ok(Some(header)) = whole {
            prop_assert!(header.wire_bytes <= wire.len());
            prop_assert_eq!(parse(&wire[..header.wire_bytes]), whole);
            prop_assert_eq!(parse(&wire[..header.wire_bytes - 1]), Ok(None));
        }
    }

    #[test]
    fn what_is_written_is_read(
        source in any::<std::net::SocketAddr>(),
        destination in any::<std::net::SocketAddr>(),
    ) {
        prop_assume!(source.is_ipv4() == destination.is_ipv4());
        let expected = Forwarded {
            source: (source.ip().to_canonical(), source.port()).into(),
            destination: (destination.ip().to_canonical(), destination.port()).into(),
        };
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let line = format!(
            "PROXY {family} {} {} {} {}\r\n",
            source.ip(), destination.ip(), source.port(), destination.port()
        );
        prop_assert_eq!(parse(line.as_bytes()).unwrap().unwrap().forwarded, Some(expected));
        let octets = |address: std::net::SocketAddr| match address.ip() {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        };
        let block = [
            octets(source), octets(destination),
            source.port().to_be_bytes().to_vec(), destination.port().to_be_bytes().to_vec(),
        ].concat();
        let header = v2(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &block);
        prop_assert_eq!(parse(&header).unwrap().unwrap().forwarded, Some(expected));
    }
}
