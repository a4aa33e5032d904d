//! This host's own addresses, so that the guard knows which dials would come back to our own doors. Knows no door.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The kernel's IPv4 routing trie; local addresses are marked in it.
const FIB_TRIE: &str = "/proc/net/fib_trie";
/// The kernel's IPv6 addresses, one per line.
const IF_INET6: &str = "/proc/net/if_inet6";

/// Every address of this host's interfaces, as the kernel shows them now; what cannot be read is left out.
pub fn addresses() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = v4(&read(FIB_TRIE)).into_iter().map(IpAddr::V4).collect();
    addresses.extend(v6(&read(IF_INET6)).into_iter().map(IpAddr::V6));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// An address stands on the line before its `host LOCAL` mark.
fn v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.contains("host LOCAL") {
            found.extend(last);
        }
    }
    found
}

/// The first word of each line: 32 hexadecimal digits.
fn v6(lines: &str) -> Vec<Ipv6Addr> {
    lines
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter(|word| word.len() == 32)
        .filter_map(|word| u128::from_str_radix(word, 16).ok())
        .map(Ipv6Addr::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.0.0.5\n        \
                    /32 host LOCAL\n     |-- 127.0.0.0\n        /31 link UNICAST\n           /8 host LOCAL\n";
        assert_eq!(v4(trie), [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(127, 0, 0, 0)]);
        assert_eq!(
            v6("00000000000000000000000000000001 01 80 10 80       lo\nnonsense\n"),
            [Ipv6Addr::LOCALHOST]
        );
    }

    #[test]
    fn this_host_has_its_loopback() {
        assert!(addresses().iter().any(IpAddr::is_loopback));
    }
}
