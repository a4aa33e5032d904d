//! Addresses and ranges: one form for an address however it is wrapped. It must not know what a range is used
//! for.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A range of addresses. IPv4 ranges written in IPv4-mapped form are held as IPv4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

/// Why a text is no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CidrError {
    /// The part before the slash is no address.
    #[error("is no address range: write 10.0.0.0/8, fd00::/8, or one address")]
    Address,
    /// The prefix length is no plain number, or above 32 (IPv4) or 128 (IPv6).
    #[error("has a bad prefix length: 0 to {max_bits}")]
    Prefix {
        /// The longest prefix of that family.
        max_bits: u8,
    },
    /// Bits are set after the prefix: more likely a slip than meant.
    #[error("has bits set after the prefix: write {network}, or a longer prefix")]
    HostBits {
        /// The range without these bits.
        network: Cidr,
    },
}

impl Cidr {
    /// The range of `prefix_bits` around `address`, whose further bits are cleared; `None` if the prefix is
    /// too long.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        if prefix_bits > max_bits(address) {
            return None;
        }
        if let IpAddr::V6(v6) = address
            && let (Some(v4), Some(bits)) = (v6.to_ipv4_mapped(), prefix_bits.checked_sub(96))
        {
            return Self::new(IpAddr::V4(v4), bits);
        }
        let bits = left_aligned(address) & mask(prefix_bits);
        let network = match address {
            // The upper 32 bits hold an IPv4 address: the cast keeps all of it.
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        Some(Self { network, prefix_bits })
    }

    /// The range that holds `address` only.
    pub fn single(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { network: address, prefix_bits: max_bits(address) }
    }

    /// A range for tables of constants; the caller keeps bits after the prefix clear.
    pub(crate) const fn constant(network: IpAddr, prefix_bits: u8) -> Self {
        Self { network, prefix_bits }
    }

    /// The first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Length of the prefix, in bits.
    pub fn prefix_bits(&self) -> u8 {
        self.prefix_bits
    }

    /// Whether `address`, as it is, lies within. IPv4-mapped addresses are to be unmapped before.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4()
            && (left_aligned(self.network) ^ left_aligned(address)) & mask(self.prefix_bits) == 0
    }

    /// Whether all of `other` lies within.
    pub fn contains_range(&self, other: &Self) -> bool {
        self.prefix_bits <= other.prefix_bits && self.contains(other.network)
    }

    /// The bits of the first address from the most significant one on, for both families.
    pub(crate) fn left_aligned(&self) -> u128 {
        left_aligned(self.network)
    }

    /// This range with the wrapping of [`unwrap_address`] taken off, so that both sides of a comparison look
    /// alike.
    pub(crate) fn unwrapped(&self, nat64: &[Self]) -> Self {
        let Some((wrapper, embedded)) = wrapper_of(self.network, nat64) else { return *self };
        if self.prefix_bits < wrapper.prefix_bits {
            return *self;
        }
        let octet_u_bits = if wrapper.prefix_bits > 64 || wrapper == SIX_TO_FOUR {
            0
        } else {
            self.prefix_bits.clamp(64, 72) - 64
        };
        let bits = (self.prefix_bits - wrapper.prefix_bits - octet_u_bits).min(32);
        Self::new(IpAddr::V4(embedded), bits).unwrap_or(*self)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// `address/prefix` or one address.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let Some(prefix) = prefix else { return Ok(Self::single(address)) };
        let error = CidrError::Prefix { max_bits: max_bits(address) };
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error);
        }
        let bits: u8 = prefix.parse().map_err(|_| error)?;
        let range = Self::new(address, bits).ok_or(error)?;
        if range.network != address && range.network != address.to_canonical() {
            return Err(CidrError::HostBits { network: range });
        }
        Ok(range)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cidr({self})")
    }
}

/// RFC 6052 §2.1: the well-known NAT64 prefix.
const NAT64_WELL_KNOWN: Cidr = Cidr::constant(IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)), 96);
/// RFC 3056: 6to4.
const SIX_TO_FOUR: Cidr = Cidr::constant(IpAddr::V6(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0)), 16);

/// The address that a packet to `address` ends up at: IPv4-mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96 and
/// the prefixes in `nat64`, RFC 6052) and 6to4 (2002::/16) addresses are the IPv4 address within. To be
/// compared, never to be dialled.
pub fn unwrap_address(address: IpAddr, nat64: &[Cidr]) -> IpAddr {
    let address = address.to_canonical();
    match wrapper_of(address, nat64) {
        Some((_, embedded)) => IpAddr::V4(embedded),
        None => address,
    }
}

/// The prefix that wraps `address`, with the IPv4 address within.
fn wrapper_of(address: IpAddr, nat64: &[Cidr]) -> Option<(Cidr, Ipv4Addr)> {
    let IpAddr::V6(v6) = address else { return None };
    if SIX_TO_FOUR.contains(address) {
        let [_, _, a, b, c, d, ..] = v6.octets();
        return Some((SIX_TO_FOUR, Ipv4Addr::new(a, b, c, d)));
    }
    let prefix = core::iter::once(&NAT64_WELL_KNOWN)
        .chain(nat64)
        .find(|prefix| is_nat64_prefix(prefix) && prefix.contains(address))?;
    // RFC 6052 §2.2: the IPv4 address follows the prefix and leaves out octet 8 ("u").
    let octets = v6.octets();
    let mut embedded = [0; 4];
    let mut index = usize::from(prefix.prefix_bits / 8);
    for octet in &mut embedded {
        if index == 8 && prefix.prefix_bits < 96 {
            index += 1;
        }
        *octet = octets[index];
        index += 1;
    }
    Some((*prefix, Ipv4Addr::from(embedded)))
}

/// Whether a range can be a NAT64 prefix: IPv6, of one of the lengths of RFC 6052 §2.2.
pub(crate) fn is_nat64_prefix(range: &Cidr) -> bool {
    range.network.is_ipv6() && matches!(range.prefix_bits, 32 | 40 | 48 | 56 | 64 | 96)
}

fn max_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The bits of an address from the most significant one on, for both families.
pub(crate) fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The topmost `bits` bits set.
pub(crate) fn mask(bits: u8) -> u128 {
    if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits.min(128))) }
}
