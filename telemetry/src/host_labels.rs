//! Which unregistered host names may become label values: a bounded table, so that no client can grow the metrics at
//! will. It must not know what is counted under them.

use crate::{
    SourceId,
    keys::Map,
    limits::{HOST_BYTES_MAX, HOST_LABELS_MAX, HOST_LABELS_PER_SOURCE_MAX},
};
use std::sync::Arc;

/// What the table says about a host for a source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// It may be a label.
    Admitted,
    /// It may not, and never will: admissions are final and the table or the source's quota is full.
    Refused,
    /// Not decided in this copy of the table.
    Open,
}

/// At most [`HOST_LABELS_MAX`] names for the gateway and [`HOST_LABELS_PER_SOURCE_MAX`] per source, where all sources
/// without proof are one ([`SourceId::UNKNOWN`]).
///
/// The registry holds the truth; each worker holds a copy that lags behind. As nothing is ever removed, what a copy
/// admits or refuses stays true, and only what is [`Admission::Open`] has to ask the truth: under a flood of random names
/// a worker soon answers all of them by itself, without a lock.
#[derive(Default)]
pub(crate) struct HostTable {
    ids: Map<Arc<str>, u16>,
    names: Vec<Arc<str>>,
    quotas: Map<SourceId, Quota>,
}

#[derive(Clone, Copy, Default)]
struct Quota {
    used: usize,
    hosts: [u16; HOST_LABELS_PER_SOURCE_MAX],
}

impl Quota {
    fn has(&self, host: u16) -> bool {
        self.hosts[..self.used].contains(&host)
    }

    fn is_full(&self) -> bool {
        self.used == self.hosts.len()
    }
}

impl HostTable {
    /// What this copy knows. No allocation, no lock.
    pub(crate) fn lookup(&self, source: SourceId, host: &str) -> Admission {
        let quota = self.quotas.get(&source);
        match self.ids.get(host) {
            Some(&id) if quota.is_some_and(|quota| quota.has(id)) => Admission::Admitted,
            None if self.names.len() == HOST_LABELS_MAX => Admission::Refused,
            _ if quota.is_some_and(Quota::is_full) => Admission::Refused,
            _ => Admission::Open,
        }
    }

    /// Admits the host if there is room. For the truth only; never answers [`Admission::Open`].
    pub(crate) fn admit(&mut self, source: SourceId, host: &str) -> Admission {
        match self.lookup(source, host) {
            Admission::Open => {}
            decided => return decided,
        }
        let id = self.ids.get(host).copied().unwrap_or_else(|| {
            let id = self.names.len() as u16;
            self.push(host.into());
            id
        });
        let quota = self.quotas.entry(source).or_default();
        quota.hosts[quota.used] = id;
        quota.used += 1;
        Admission::Admitted
    }

    /// Brings this copy up to the truth, as far as this source is concerned.
    pub(crate) fn refresh(&mut self, truth: &Self, source: SourceId) {
        for name in &truth.names[self.names.len()..] {
            self.push(Arc::clone(name));
        }
        if let Some(quota) = truth.quotas.get(&source) {
            self.quotas.insert(source, *quota);
        }
    }

    fn push(&mut self, name: Arc<str>) {
        // At most HOST_LABELS_MAX names, so the index fits.
        self.ids.insert(Arc::clone(&name), self.names.len() as u16);
        self.names.push(name);
    }
}

/// The host of an authority: `a:80` is `a`, `[::1]:80` is `[::1]`; a bare IPv6 address is left alone.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (host.ends_with(']') || !host.contains(':')) =>
        {
            host
        }
        _ => authority,
    }
}

/// The name in lower case, without trailing dot, if it is a valid DNS name that is no IPv4 literal in any notation (its
/// last label is not a number). Letters, digits, hyphen and underscore; labels of 1 to 63 bytes.
pub(crate) fn canonical<'b>(host: &str, buffer: &'b mut [u8; HOST_BYTES_MAX]) -> Option<&'b str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let buffer = buffer.get_mut(..host.len())?;
    buffer.copy_from_slice(host.as_bytes());
    buffer.make_ascii_lowercase();
    let mut last: &[u8] = b"";
    for label in buffer.split(|&byte| byte == b'.') {
        let valid = |&byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if label.is_empty() || label.len() > 63 || !label.iter().all(valid) {
            return None;
        }
        last = label;
    }
    let numeric = last.iter().all(u8::is_ascii_digit)
        || last.strip_prefix(b"0x").is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if numeric { None } else { core::str::from_utf8(buffer).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> String {
        format!("h{number}.test")
    }

    #[test]
    fn one_source_gets_sixteen_names_and_keeps_them() {
        let mut table = HostTable::default();
        for number in 0..16 {
            assert_eq!(table.admit(SourceId(3), &host(number)), Admission::Admitted);
        }
        assert_eq!(table.admit(SourceId(3), &host(16)), Admission::Refused);
        assert_eq!(table.admit(SourceId(3), &host(7)), Admission::Admitted);
        assert_eq!(table.admit(SourceId(4), &host(16)), Admission::Admitted, "others are not harmed");
    }

    #[test]
    fn the_gateway_gets_256_names_and_they_are_shared() {
        let mut table = HostTable::default();
        for number in 0..256 {
            assert_eq!(table.admit(SourceId((number / 16) as u32), &host(number)), Admission::Admitted);
        }
        assert_eq!(table.admit(SourceId(99), &host(256)), Admission::Refused);
        assert_eq!(
            table.admit(SourceId(99), &host(255)),
            Admission::Admitted,
            "a name that is there already"
        );
    }

    #[test]
    fn a_copy_decides_alone_once_it_has_seen_the_end() {
        let mut truth = HostTable::default();
        let mut copy = HostTable::default();
        for number in 0..16 {
            assert_eq!(copy.lookup(SourceId::UNKNOWN, &host(number)), Admission::Open);
            truth.admit(SourceId::UNKNOWN, &host(number));
        }
        assert_eq!(truth.admit(SourceId::UNKNOWN, "flood.test"), Admission::Refused);
        copy.refresh(&truth, SourceId::UNKNOWN);
        assert_eq!(copy.lookup(SourceId::UNKNOWN, "flood2.test"), Admission::Refused);
        assert_eq!(copy.lookup(SourceId::UNKNOWN, &host(3)), Admission::Admitted);
        assert_eq!(copy.lookup(SourceId(1), &host(3)), Admission::Open);
    }

    #[test]
    fn a_port_is_no_part_of_a_host() {
        let pairs = [
            ("a:80", "a"),
            ("a", "a"),
            ("a:", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ];
        assert!(pairs.iter().all(|(authority, host)| without_port(authority) == *host));
    }

    #[test]
    fn only_dns_names_are_canonical() {
        let canonical = |host: &str| canonical(host, &mut [0; HOST_BYTES_MAX]).map(str::to_owned);
        assert_eq!(canonical("WwW.Example.COM."), Some("www.example.com".into()));
        assert_eq!(canonical("_dmarc.x-y.test"), Some("_dmarc.x-y.test".into()));
        let long = format!("{}.test", "a".repeat(64));
        let endless = format!("{}test", "a.".repeat(130));
        for bad in [
            "",
            ".",
            "a..b",
            "192.0.2.1",
            "0x7f.1",
            "1.0x7f",
            "2130706433",
            "[::1]",
            "::1",
            "a b",
            "a\nb",
            "ü.test",
            "a:80",
            "*.x.test",
            &long,
            &endless,
        ] {
            assert_eq!(canonical(bad), None, "{bad:?}");
        }
    }
}
