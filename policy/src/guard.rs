//! Which addresses may be dialled at all, in either mode: the last look before a connect. It must not know
//! names or sources.

use alloc::{sync::Arc, vec::Vec};
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::{Cidr, ServiceId, Snapshot, service::words, trie::Trie, unwrap_address};

/// What may be dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardInput {
    /// Ranges that names may resolve to though they are not public.
    pub allow: Vec<Cidr>,
    /// NAT64 prefixes of this network besides 64:ff9b::/96.
    pub nat64: Vec<Cidr>,
    /// Every socket that the gateway listens on: doors, admin, metrics.
    pub own_listeners: Vec<SocketAddr>,
    /// This host's addresses, for listeners bound to 0.0.0.0 or ::. Loopback counts without being listed.
    pub local_addresses: Vec<IpAddr>,
}

words! {
    /// Why an address is special.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    GuardClass, "guard class", {
        /// A listener of the gateway itself: never dialled.
        OwnListener = "own_listener",
        /// A cloud's metadata service.
        Metadata = "metadata",
        /// fe80::/10.
        LinkLocal = "link_local",
        /// 224.0.0.0/4, ff00::/8.
        Multicast = "multicast",
        /// 0.0.0.0/8, ::.
        ThisNetwork = "this_network",
        /// 127.0.0.0/8, ::1.
        Loopback = "loopback",
        /// RFC 1918, unique local (fc00::/7), fec0::/10, 64:ff9b:1::/48.
        Private = "private",
        /// 100.64.0.0/10 (RFC 6598).
        Cgnat = "cgnat",
        /// 240.0.0.0/4, ::/96: no public address.
        Reserved = "reserved",
    }
}

impl GuardClass {
    /// Only a range that lies within the class's own range lets such an address through, a broader one never
    /// implies it.
    pub const fn is_strict(self) -> bool {
        matches!(
            self,
            Self::Metadata | Self::LinkLocal | Self::Multicast | Self::ThisNetwork | Self::OwnListener
        )
    }
}

/// An address that must not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is refused: {class} ({range})")]
pub struct GuardRefusal {
    /// The address that was judged, unwrapped.
    pub address: IpAddr,
    /// Why it is special.
    pub class: GuardClass,
    /// The range of that class that it lies in.
    pub range: Cidr,
}

impl GuardRefusal {
    /// The narrowest `[guard]` line that would let this address through; `None` for a listener of our own.
    pub fn would_allow(&self) -> Option<impl fmt::Display + use<>> {
        (self.class != GuardClass::OwnListener).then_some(GuardLine(self.address))
    }
}

struct GuardLine(IpAddr);

impl fmt::Display for GuardLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[guard] allow = [\"{}\"]", Cidr::single(self.0))
    }
}

/// The compiled guard.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) nat64: Vec<Cidr>,
    /// Ranges of `[guard] allow`.
    allow: Arc<Trie<Cidr>>,
    /// Ranges that services name literally, with the services that do (sorted).
    named: Arc<Trie<Named>>,
    own_listeners: Vec<SocketAddr>,
    local_addresses: Vec<IpAddr>,
}

/// A range that services name literally.
#[derive(Debug)]
struct Named {
    range: Cidr,
    /// Sorted, without doubles.
    services: Vec<ServiceId>,
}

impl Guard {
    /// `named`: every literal address of a service, by rising service.
    pub(crate) fn new(input: &GuardInput, literals: impl Iterator<Item = (ServiceId, Cidr)>) -> Self {
        let mut allow = Trie::new();
        for range in &input.allow {
            let range = range.unwrapped(&input.nat64);
            allow.get_or_insert_with(range, || range);
        }
        let mut named = Trie::new();
        for (service, range) in literals {
            let range = range.unwrapped(&input.nat64);
            let named: &mut Named = named.get_or_insert_with(range, || Named { range, services: Vec::new() });
            if named.services.last() != Some(&service) {
                named.services.push(service);
            }
        }
        let named = named.map(|mut named| {
            named.services.shrink_to_fit();
            named
        });
        let bare = Self {
            nat64: input.nat64.clone(),
            allow: Arc::new(allow),
            named: Arc::new(named),
            own_listeners: Vec::new(),
            local_addresses: Vec::new(),
        };
        bare.with_own_sockets(&input.own_listeners, &input.local_addresses)
    }

    /// The same guard for a gateway that listens elsewhere.
    pub(crate) fn with_own_sockets(&self, listeners: &[SocketAddr], local_addresses: &[IpAddr]) -> Self {
        let local_addresses = local_addresses.iter().map(IpAddr::to_canonical).collect();
        Self { own_listeners: listeners.to_vec(), local_addresses, ..self.clone() }
    }

    pub(crate) fn check(&self, socket: SocketAddr, service: Option<ServiceId>) -> Result<(), GuardRefusal> {
        let address = unwrap_address(socket.ip(), &self.nat64);
        if self.is_own(address, socket.port()) {
            return Err(GuardRefusal {
                address,
                class: GuardClass::OwnListener,
                range: Cidr::single(address),
            });
        }
        let Some((class, range)) = class_of(address) else { return Ok(()) };
        let permits = |permit: &Cidr| !class.is_strict() || range.contains_range(permit);
        let mut permitted = false;
        self.allow.covering(address, |allowed| permitted |= permits(allowed));
        if let Some(service) = service {
            self.named.covering(address, |named| {
                permitted |= permits(&named.range) && named.services.binary_search(&service).is_ok();
            });
        }
        if permitted { Ok(()) } else { Err(GuardRefusal { address, class, range }) }
    }

    /// Every range that services name literally, with those services.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&Cidr, &[ServiceId])> {
        self.named.values().iter().map(|named| (&named.range, named.services.as_slice()))
    }

    pub(crate) fn own_listeners(&self) -> &[SocketAddr] {
        &self.own_listeners
    }

    /// Whether a connect to this socket would reach a listener of our own.
    fn is_own(&self, address: IpAddr, port: u16) -> bool {
        // Linux takes 0.0.0.0 and :: as "this host": loopback.
        let local =
            || address.is_unspecified() || address.is_loopback() || self.local_addresses.contains(&address);
        self.own_listeners.iter().filter(|listener| listener.port() == port).any(|listener| {
            let bound = listener.ip().to_canonical();
            match bound {
                _ if bound == address => true,
                // A socket bound to :: takes IPv4 as well.
                IpAddr::V6(any) if any.is_unspecified() => local(),
                IpAddr::V4(any) if any.is_unspecified() => {
                    (address.is_ipv4() || address.is_unspecified()) && local()
                }
                _ => address.is_unspecified() && bound.is_loopback(),
            }
        })
    }
}

impl Snapshot {
    /// Judges the very address that is about to be dialled (or kept, at a reload), for the service that the
    /// decision named.
    ///
    /// To be asked on every dial and in either mode; queries to the configured DNS servers are exempt.
    ///
    /// # Errors
    /// The address is special and neither the service's literal addresses nor `[guard] allow` name it.
    pub fn guard(&self, socket: SocketAddr, service: Option<ServiceId>) -> Result<(), GuardRefusal> {
        self.guard.check(socket, service)
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix_bits: u8) -> Cidr {
    Cidr::constant(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix_bits)
}

const fn v6(segments: [u16; 8], prefix_bits: u8) -> Cidr {
    let [a, b, c, d, e, f, g, h] = segments;
    Cidr::constant(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix_bits)
}

/// Every special range; the first that holds an address counts, so the strict ones come first.
pub(crate) const CLASSES: [(GuardClass, Cidr); 22] = [
    (GuardClass::Metadata, v4(169, 254, 0, 0, 16)),
    (GuardClass::Metadata, v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32)),
    (GuardClass::Metadata, v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128)),
    (GuardClass::Metadata, v4(100, 100, 100, 200, 32)),
    (GuardClass::Metadata, v4(168, 63, 129, 16, 32)),
    (GuardClass::LinkLocal, v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    (GuardClass::Multicast, v4(224, 0, 0, 0, 4)),
    (GuardClass::Multicast, v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
    (GuardClass::ThisNetwork, v4(0, 0, 0, 0, 8)),
    (GuardClass::ThisNetwork, v6([0; 8], 128)),
    (GuardClass::Loopback, v4(127, 0, 0, 0, 8)),
    (GuardClass::Loopback, v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    (GuardClass::Private, v4(10, 0, 0, 0, 8)),
    (GuardClass::Private, v4(172, 16, 0, 0, 12)),
    (GuardClass::Private, v4(192, 168, 0, 0, 16)),
    (GuardClass::Private, v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)),
    (GuardClass::Private, v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10)),
    (GuardClass::Private, v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)),
    (GuardClass::Cgnat, v4(100, 64, 0, 0, 10)),
    (GuardClass::Reserved, v4(240, 0, 0, 0, 4)),
    (GuardClass::Reserved, v6([0; 8], 96)),
    (GuardClass::Reserved, v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64)),
];

fn class_of(address: IpAddr) -> Option<(GuardClass, Cidr)> {
    CLASSES.iter().find(|(_, range)| range.contains(address)).copied()
}
