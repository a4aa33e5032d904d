//! The bounds of this crate, together. It must not know where the numbers are configured: these are not
//! configurable.

/// Longest canonical name, in bytes, without the trailing dot (RFC 1035 §2.3.4 less the length octets).
pub const NAME_BYTES_MAX: usize = 253;
/// Longest label, in bytes (RFC 1035 §2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest text of one selector pattern, in bytes (a SPIFFE id is at most 2048 bytes).
pub const PATTERN_BYTES_MAX: usize = 2048;
/// Services in one registry.
pub const SERVICES_MAX: usize = 4_000_000;
/// Ports of one service.
pub const PORTS_PER_SERVICE_MAX: usize = 1024;
/// Services that may share one host and port; each of them is looked at in a decision.
pub const SERVICES_PER_HOST_PORT_MAX: usize = 256;
/// (port, service) pairs that may hang on one host or range.
pub const BINDINGS_PER_HOST_MAX: usize = u16::MAX as usize;
/// Selectors in one `allow` or `deny` list; each of them is looked at in a decision.
pub const SELECTORS_PER_LIST_MAX: usize = 10_000;
/// Scopes; each of them may be looked at in a decision.
pub const SCOPES_MAX: usize = 1024;
/// Workloads in the table.
pub const WORKLOADS_MAX: usize = 4_000_000;
/// Bytes of all host patterns and ranges together (offsets are 32 bits wide).
pub const TEXT_BYTES_MAX: usize = u32::MAX as usize;
/// Configured NAT64 prefixes; each of them is compared with every IPv6 address that is judged.
pub const NAT64_PREFIXES_MAX: usize = 16;
/// The gateway's own sockets and addresses that the guard compares with.
pub const OWN_SOCKETS_MAX: usize = 4096;
/// Errors of one compilation that are reported; further ones are left out.
pub const ERRORS_MAX: usize = 1000;
/// Warnings of one snapshot that are reported; further ones are left out.
pub const WARNINGS_MAX: usize = 1000;
