//! Addresses and ranges: wrapping, parsing, containment.

use sluice_policy::*;

use crate::support::*;

#[test]
fn mapped_nat64_and_6to4_addresses_are_the_ipv4_address_within() {
    for (wrapped, expected) in [
        ("::ffff:169.254.169.254", "169.254.169.254"),
        ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
        ("2002:a9fe:a9fe::1", "169.254.169.254"),
        ("2002:0a00:0001:1:2:3:4:5", "10.0.0.1"),
        ("64:ff9b::8.8.8.8", "8.8.8.8"),
        ("2001:db8::1", "2001:db8::1"),
        ("64:ff9b:1::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe"),
        ("198.51.100.20", "198.51.100.20"),
    ] {
        assert_eq!(unwrap_address(ip(wrapped), &[]), ip(expected), "{wrapped}");
    }
}

/// The examples of RFC 6052 §2.4 for 192.0.2.33.
#[test]
fn configured_nat64_prefixes_of_every_length_of_rfc_6052() {
    for (prefix, wrapped) in [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ] {
        assert_eq!(unwrap_address(ip(wrapped), &[cidr(prefix)]), ip("192.0.2.33"), "{prefix}");
        assert_eq!(unwrap_address(ip(wrapped), &[]), ip(wrapped));
    }
}

#[test]
fn ranges_parse_strictly() {
    assert_eq!(cidr("10.0.0.0/8").to_string(), "10.0.0.0/8");
    assert_eq!(cidr("10.1.2.3").to_string(), "10.1.2.3/32");
    assert_eq!(cidr("fd00::1").to_string(), "fd00::1/128");
    assert_eq!(cidr("0.0.0.0/0").to_string(), "0.0.0.0/0");
    assert_eq!(cidr("::ffff:10.0.0.0/104").to_string(), "10.0.0.0/8");
    assert_eq!("10.1.2.3/8".parse::<Cidr>(), Err(CidrError::HostBits { network: cidr("10.0.0.0/8") }));
    assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::Prefix { max_bits: 32 }));
    assert_eq!("::/129".parse::<Cidr>(), Err(CidrError::Prefix { max_bits: 128 }));
    for text in ["10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/ 8", "10.0.0.0/8/8", "10.0.0.0/300"] {
        assert_eq!(text.parse::<Cidr>(), Err(CidrError::Prefix { max_bits: 32 }), "{text}");
    }
    for text in ["", "/8", "example.com", "10.0.0", "010.0.0.0/8", "fe80::1%lo/64"] {
        assert_eq!(text.parse::<Cidr>(), Err(CidrError::Address), "{text}");
    }
}

#[test]
fn a_range_holds_what_shares_its_prefix_in_its_own_family() {
    for (range, address, expected) in [
        ("10.0.0.0/8", "10.255.255.255", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("0.0.0.0/0", "255.255.255.255", true),
        ("0.0.0.0/0", "::1", false),
        ("::/0", "10.0.0.1", false),
        ("fd00::/8", "fdff::1", true),
        ("192.0.2.1/32", "192.0.2.1", true),
        ("192.0.2.1/32", "192.0.2.2", false),
    ] {
        assert_eq!(cidr(range).contains(ip(address)), expected, "{range} {address}");
    }
    assert!(cidr("10.0.0.0/8").contains_range(&cidr("10.1.0.0/16")));
    assert!(!cidr("10.1.0.0/16").contains_range(&cidr("10.0.0.0/8")));
}
