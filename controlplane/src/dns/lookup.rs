//! One question to the configured servers: A and AAAA side by side, judged strictly. Knows no cache and no worker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use sluice_bridge::{Addresses, DnsFailure};

use crate::limits::{CNAME_CHAIN_MAX, DNS_ATTEMPTS, RESOLUTION_DELAY_MS};

/// What the servers said about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Addresses,
    /// The smallest TTL of every record on the way, aliases included, in seconds.
    pub(super) ttl_s: u32,
    /// One family did not answer in time: to be asked again soon.
    pub(super) partial: bool,
}

/// One family's records: addresses and the smallest TTL of the chain that led to them.
type Family<A> = Result<(Vec<A>, u32), DnsFailure>;

/// Asks a fixed set of servers. Cheap to clone; ids, source ports and retries are hickory's.
#[derive(Clone)]
pub(super) struct Servers {
    resolver: TokioResolver,
    timeout: Duration,
}

impl Servers {
    /// Servers that are asked over UDP, and over TCP when an answer is truncated.
    pub(super) fn new(addresses: &[SocketAddr], timeout: Duration) -> Result<Self, NetError> {
        let servers = addresses.iter().map(server_config).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        configure(builder.options_mut(), timeout);
        Ok(Self { resolver: builder.build()?, timeout })
    }

    /// Asks for both families at once. With addresses of one family in hand the other gets
    /// [`RESOLUTION_DELAY_MS`] more.
    pub(super) async fn resolve(&self, name: &str) -> Result<Found, DnsFailure> {
        let Ok(mut name) = Name::from_ascii(name) else { return Err(DnsFailure::NoName) };
        name.set_fqdn(true);
        let v4 = self.family(name.clone(), RecordType::A, |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        });
        let v6 = self.family(name, RecordType::AAAA, |data| match data {
            RData::AAAA(address) => Some(address.0),
            _ => None,
        });
        let (v4, v6) = both(v4, v6, self.timeout).await;
        combine(v4, v6)
    }

    async fn family<A>(&self, name: Name, kind: RecordType, pick: fn(&RData) -> Option<A>) -> Family<A> {
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => follow(&name, lookup.answers(), pick),
            Err(error) => Err(failure(&error)),
        }
    }
}

fn server_config(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.to_vec())
}

fn configure(options: &mut ResolverOpts, timeout: Duration) {
    options.cache_size = 0;
    options.ndots = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.attempts = DNS_ATTEMPTS - 1;
    options.timeout = timeout / u32::try_from(DNS_ATTEMPTS).unwrap_or(1);
    options.preserve_intermediates = true;
    options.recursion_desired = true;
}

/// Runs both families; `None` is a family that did not make it in time.
async fn both<A, B>(
    v4: impl Future<Output = Family<A>>,
    v6: impl Future<Output = Family<B>>,
    timeout: Duration,
) -> (Option<Family<A>>, Option<Family<B>>) {
    let deadline = tokio::time::Instant::now() + timeout;
    let (mut first, mut second) = (None, None);
    let mut until = deadline;
    let (mut v4, mut v6) = (std::pin::pin!(v4), std::pin::pin!(v6));
    while first.is_none() || second.is_none() {
        let has_addresses = tokio::select! {
            answer = &mut v4, if first.is_none() => { let ok = answer.is_ok(); first = Some(answer); ok }
            answer = &mut v6, if second.is_none() => { let ok = answer.is_ok(); second = Some(answer); ok }
            () = tokio::time::sleep_until(until) => break,
        };
        if has_addresses {
            until = deadline.min(tokio::time::Instant::now() + Duration::from_millis(RESOLUTION_DELAY_MS));
        }
    }
    (first, second)
}

/// Addresses of either family win; else a server's failure is worth more than "there is none", because it may
/// hide addresses.
fn combine(v4: Option<Family<Ipv4Addr>>, v6: Option<Family<Ipv6Addr>>) -> Result<Found, DnsFailure> {
    let failures = [
        v4.as_ref().map_or(Some(DnsFailure::Timeout), |family| family.as_ref().err().copied()),
        v6.as_ref().map_or(Some(DnsFailure::Timeout), |family| family.as_ref().err().copied()),
    ];
    let (v4, v4_ttl_s) = v4.and_then(Result::ok).unwrap_or((Vec::new(), u32::MAX));
    let (v6, v6_ttl_s) = v6.and_then(Result::ok).unwrap_or((Vec::new(), u32::MAX));
    let worst = failures.into_iter().flatten().max_by_key(|failure| weight(*failure));
    let Some(addresses) = Addresses::collect(v4, v6) else { return Err(worst.unwrap_or(DnsFailure::NoData)) };
    let partial = worst.is_some_and(|failure| !failure.is_answer());
    Ok(Found { addresses, ttl_s: v4_ttl_s.min(v6_ttl_s), partial })
}

fn weight(failure: DnsFailure) -> u8 {
    match failure {
        DnsFailure::NoData => 0,
        DnsFailure::NoName => 1,
        DnsFailure::Refused => 2,
        DnsFailure::ServerFailure => 3,
        DnsFailure::Timeout => 4,
    }
}

/// Walks the alias chain from the name that was asked: only records on it count, whatever else the answer holds.
fn follow<A>(asked: &Name, records: &[Record], pick: fn(&RData) -> Option<A>) -> Family<A> {
    let mut owner = asked.clone();
    let mut ttl_s = u32::MAX;
    for _ in 0..CNAME_CHAIN_MAX {
        let mut addresses = Vec::new();
        for record in records.iter().filter(|record| record.name == owner) {
            if let Some(address) = pick(&record.data) {
                ttl_s = ttl_s.min(record.ttl);
                addresses.push(address);
            }
        }
        if !addresses.is_empty() {
            return Ok((addresses, ttl_s));
        }
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == owner => Some((target.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl_s)) = alias else { return Err(DnsFailure::NoData) };
        ttl_s = ttl_s.min(alias_ttl_s);
        owner = target;
    }
    Err(DnsFailure::ServerFailure)
}

fn failure(error: &NetError) -> DnsFailure {
    match error {
        NetError::Timeout => DnsFailure::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => DnsFailure::NoName,
            ResponseCode::Refused => DnsFailure::Refused,
            ResponseCode::NoError => DnsFailure::NoData,
            _ => DnsFailure::ServerFailure,
        },
        NetError::Dns(DnsError::ResponseCode(ResponseCode::NXDomain)) => DnsFailure::NoName,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => DnsFailure::Refused,
        _ => DnsFailure::ServerFailure,
    }
}

/// The `nameserver` lines of resolv.conf, in order, at port 53. Everything else in that file (search list, options) is
/// for relative names, which a gateway does not have.
pub fn nameservers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            words.next()?.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, CNAME};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a valid name in a test")
    }

    fn address(owner: &str, last: u8, ttl_s: u32) -> Record {
        Record::from_rdata(name(owner), ttl_s, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
    }

    fn alias(owner: &str, target: &str, ttl_s: u32) -> Record {
        Record::from_rdata(name(owner), ttl_s, RData::CNAME(CNAME(name(target))))
    }

    fn pick(data: &RData) -> Option<Ipv4Addr> {
        match data {
            RData::A(address) => Some(address.0),
            _ => None,
        }
    }

    #[test]
    fn the_smallest_ttl_of_the_alias_chain_counts() {
        let records =
            [alias("a.test.", "b.test.", 7), alias("b.test.", "c.test.", 90), address("c.test.", 1, 300)];
        assert_eq!(follow(&name("a.test."), &records, pick), Ok((vec![Ipv4Addr::new(192, 0, 2, 1)], 7)));
    }

    #[test]
    fn records_off_the_chain_are_ignored() {
        let records = [address("evil.test.", 66, 1), address("a.test.", 1, 60)];
        assert_eq!(follow(&name("a.test."), &records, pick), Ok((vec![Ipv4Addr::new(192, 0, 2, 1)], 60)));
        assert_eq!(follow(&name("b.test."), &records, pick), Err(DnsFailure::NoData));
    }

    #[test]
    fn an_alias_loop_ends() {
        let records = [alias("a.test.", "b.test.", 1), alias("b.test.", "a.test.", 1)];
        assert_eq!(follow(&name("a.test."), &records, pick), Err(DnsFailure::ServerFailure));
    }

    #[test]
    fn a_failure_is_not_taken_for_absence() {
        let none: Family<Ipv4Addr> = Err(DnsFailure::NoData);
        assert_eq!(combine(Some(none.clone()), None), Err(DnsFailure::Timeout));
        assert_eq!(
            combine(Some(none.clone()), Some(Err(DnsFailure::ServerFailure))),
            Err(DnsFailure::ServerFailure)
        );
        assert_eq!(combine(Some(none), Some(Err(DnsFailure::NoName))), Err(DnsFailure::NoName));
    }

    #[test]
    fn one_family_is_enough_and_says_that_the_other_failed() {
        let found = combine(Some(Ok((vec![Ipv4Addr::LOCALHOST], 5))), None).expect("addresses of one family");
        assert!(found.partial && found.ttl_s == 5);
        let found = combine(Some(Ok((vec![Ipv4Addr::LOCALHOST], 5))), Some(Err(DnsFailure::NoData)))
            .expect("as above");
        assert!(!found.partial);
    }

    #[test]
    fn only_nameserver_lines_of_resolv_conf_count() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.2\nnameserver ::1 # x\nnameserver bad\noptions ndots:5\n";
        let servers: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[::1]:53"]);
    }
}
