//! What the reader of SOCKS5 messages promises, case by case and for every cut.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{IpAddr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use sluice_proto::socks5::{
    Address, Method, Reply, SocksError, credentials, credentials_answer, greeting, method_selection, reply,
    request,
};

/// Reads a message that is whole, and every beginning of it, which is none yet.
#[track_caller]
fn reads<'b, T: PartialEq + std::fmt::Debug>(
    wire: &'b [u8],
    read: fn(&'b [u8]) -> Result<Option<T>, SocksError>,
) -> T {
    for end in 0..wire.len() {
        assert_eq!(read(&wire[..end]), Ok(None), "cut at {end}");
    }
    read(wire).unwrap().unwrap()
}

#[test]
fn a_greeting_offers_methods() {
    for (wire, no_authentication, password) in [
        (&[5, 1, 0][..], true, false),
        (&[5, 1, 2], false, true),
        (&[5, 2, 2, 0], true, true),
        (&[5, 3, 1, 3, 0x80], false, false),
    ] {
        let found = reads(wire, greeting);
        assert_eq!((found.no_authentication, found.password), (no_authentication, password), "{wire:?}");
        assert_eq!(found.wire_bytes, wire.len());
    }
    let all: Vec<u8> = [5, 255].into_iter().chain(1..=255).collect();
    assert!(reads(&all, greeting).password);
    let pipelined = [&[5, 1, 0][..], &[5, 1, 0, 1]].concat();
    assert_eq!(greeting(&pipelined).unwrap().unwrap().wire_bytes, 3);
}

#[test]
fn other_greetings_are_refused() {
    assert_eq!(greeting(&[5, 0]), Err(SocksError::Malformed("a greeting without methods")));
    for first in (0..=255).filter(|first| *first != 5) {
        assert_eq!(greeting(&[first]), Err(SocksError::Version(first)));
    }
    assert_eq!(greeting(b"GET / HTTP/1.1\r\n"), Err(SocksError::Version(b'G')));
}

#[test]
fn users_and_passwords_are_counted_bytes() {
    let found = reads(b"\x01\x05idgen\x06s3:ret", credentials);
    assert_eq!((found.user, found.password, found.wire_bytes), (&b"idgen"[..], &b"s3:ret"[..], 14));
    let longest = [&[1, 255][..], &[b'u'; 255], &[255], &[b'p'; 255]].concat();
    let found = reads(&longest, credentials);
    assert_eq!((found.user.len(), found.password.len()), (255, 255));
    assert_eq!(longest.len(), sluice_proto::socks5::MESSAGE_BYTES_MAX);
    let pipelined = [&longest[..], &[5, 1, 0]].concat();
    assert_eq!(credentials(&pipelined).unwrap().unwrap().wire_bytes, longest.len());
    assert_eq!(format!("{found:?}"), "Credentials(redacted)");

    assert_eq!(credentials(&[1, 0]), Err(SocksError::EmptyCredentials));
    assert_eq!(credentials(&[1, 1, b'u', 0]), Err(SocksError::EmptyCredentials));
    for first in (0..=255).filter(|first| *first != 1) {
        assert!(matches!(credentials(&[first]), Err(SocksError::Malformed(_))), "{first}");
    }
}

#[test]
fn requests_name_a_host_in_three_ways() {
    let found = reads(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80], request);
    assert_eq!((found.address, found.port), (Address::Ip("192.0.2.1".parse().unwrap()), 80));
    let octets = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    let wire = [&[5, 1, 0, 4][..], &octets, &[0xff, 0xff]].concat();
    let found = reads(&wire, request);
    assert_eq!((found.address, found.port), (Address::Ip(IpAddr::from(octets)), 65_535));
    let wire = [&[5, 1, 0, 3, 12][..], b"allowed.test", &[1, 0xbb]].concat();
    let found = reads(&wire, request);
    assert_eq!((found.address, found.port), (Address::Name(b"allowed.test"), 443));
    assert_eq!(found.wire_bytes, wire.len());
    let longest = [&[5, 1, 0, 3, 255][..], &[b'a'; 255], &[1, 0xbb]].concat();
    assert_eq!(reads(&longest, request).address, Address::Name(&[b'a'; 255]));
    let pipelined = [&wire[..], b"GET / HTTP/1.1\r\n"].concat();
    assert_eq!(request(&pipelined).unwrap().unwrap().wire_bytes, wire.len());
}

#[test]
fn other_requests_are_refused() {
    for command in (0..=255).filter(|command| *command != 1) {
        assert_eq!(request(&[5, command]), Err(SocksError::Command(command)));
    }
    for kind in (0..=255).filter(|kind| !matches!(kind, 1 | 3 | 4)) {
        assert_eq!(request(&[5, 1, 0, kind]), Err(SocksError::AddressType(kind)));
    }
    for reserved in 1..=255 {
        assert!(matches!(request(&[5, 1, reserved]), Err(SocksError::Malformed(_))), "{reserved}");
    }
    assert_eq!(request(&[5, 1, 0, 3, 0]), Err(SocksError::Malformed("an empty name")));
    assert_eq!(request(&[5, 1, 0, 3, 1, b'a', 0, 0]), Err(SocksError::Malformed("port 0")));
    assert_eq!(request(&[5, 1, 0, 1, 1, 2, 3, 4, 0, 0]), Err(SocksError::Malformed("port 0")));
    assert_eq!(request(&[4, 1, 0, 80]), Err(SocksError::Version(4)));
}

#[test]
fn answers_have_their_wire_form() {
    assert_eq!(method_selection(Some(Method::NoAuthentication)).as_bytes(), [5, 0]);
    assert_eq!(method_selection(Some(Method::Password)).as_bytes(), [5, 2]);
    assert_eq!(method_selection(None).as_bytes(), [5, 0xff]);
    assert_eq!(credentials_answer(true).as_bytes(), [1, 0]);
    assert_eq!(credentials_answer(false).as_bytes(), [1, 1]);
    let of = |code, bound: Option<&str>| reply(code, bound.map(|text| text.parse().unwrap()));
    assert_eq!(of(Reply::NotAllowed, None).as_bytes(), [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    let bound = of(Reply::Succeeded, Some("192.0.2.1:4000"));
    assert_eq!(bound.as_bytes(), [5, 0, 0, 1, 192, 0, 2, 1, 0x0f, 0xa0]);
    let mapped = of(Reply::Succeeded, Some("[::ffff:192.0.2.1]:4000"));
    assert_eq!(mapped.as_bytes(), bound.as_bytes());
    let v6 = of(Reply::Succeeded, Some("[2001:db8::1]:1"));
    assert_eq!(v6.as_bytes().len(), 22);
    assert_eq!(v6.as_bytes()[..6], [5, 0, 0, 4, 0x20, 1]);
    let codes = [
        Reply::Succeeded,
        Reply::GeneralFailure,
        Reply::NotAllowed,
        Reply::NetworkUnreachable,
        Reply::HostUnreachable,
        Reply::Refused,
        Reply::TtlExpired,
        Reply::CommandNotSupported,
        Reply::AddressTypeNotSupported,
    ];
    assert_eq!(codes.map(|code| reply(code, None).as_bytes()[1]), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

/// Whether more bytes never change what fewer have said.
fn is_stable<'b, T: PartialEq>(wire: &'b [u8], read: fn(&'b [u8]) -> Result<Option<T>, SocksError>) -> bool {
    let whole = read(wire);
    (0..wire.len()).map(|end| read(&wire[..end])).all(|cut| cut == Ok(None) || cut == whole)
}

proptest! {
    #[test]
    fn more_bytes_change_nothing(
        head in prop::sample::select(vec![&b""[..], b"\x05", b"\x01", b"\x05\x01\x00", b"\x05\x01\x00\x03\x05"]),
        rest in vec(any::<u8>(), 0..600),
    ) {
        let wire = [head, &rest[..]].concat();
        prop_assert!(is_stable(&wire, greeting));
        prop_assert!(is_stable(&wire, credentials));
        prop_assert!(is_stable(&wire, request));
    }
}
