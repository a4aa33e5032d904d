//! Every bound of this crate in one place. Nothing here grows with traffic beyond these numbers.

/// HTTP label sets kept for one gateway (each is 67 exposed series and 512 bytes per worker that uses it).
pub const HTTP_SERIES_MAX: usize = 2048;
/// TCP label sets kept for one gateway (each is 4 exposed series and 40 bytes per worker that uses it).
pub const TCP_SERIES_MAX: usize = 4096;
/// HTTP label sets that one source may have towards unregistered destinations (all sources without proof together): an
/// origin that answers with ever new status codes cannot take the table from the others.
pub const HTTP_SERIES_PER_SOURCE_MAX: usize = 512;
/// As [`HTTP_SERIES_PER_SOURCE_MAX`], for TCP.
pub const TCP_SERIES_PER_SOURCE_MAX: usize = 512;
/// Label sets of product counters and gauges (`egress_*`) kept for one gateway.
pub const EGRESS_SERIES_MAX: usize = 2048;
/// Different source workloads that can be labelled; further ones are labelled `unknown`.
pub const SOURCES_MAX: usize = 16_384;
/// Different destinations that can be labelled; further ones are labelled `unknown`. The registry's hosts
/// count here, unregistered names are bounded by [`HOST_LABELS_MAX`] long before (in `bounded` mode).
pub const DESTINATIONS_MAX: usize = 131_072;
/// Unregistered host names admitted as labels by one gateway (`host_labels = "bounded"`).
pub const HOST_LABELS_MAX: usize = 256;
/// Unregistered host names that one source may label; all sources without proof share one such quota.
pub const HOST_LABELS_PER_SOURCE_MAX: usize = 16;
/// A DNS name's length (RFC 1035 §3.1), the longest host that can be a label.
pub const HOST_BYTES_MAX: usize = 253;
/// One variable field of an access-log entry; what is longer is cut and ends in `...`.
pub const LOG_FIELD_BYTES_MAX: usize = 8192;
/// An idle series is forgotten after this time by default, so that a churn of hosts cannot pin memory.
pub const SERIES_IDLE_MS: u64 = 3_600_000;

/// Label sets per lazily allocated block of a worker's slots.
pub(crate) const HTTP_CHUNK: usize = 16;
/// As [`HTTP_CHUNK`], for TCP.
pub(crate) const TCP_CHUNK: usize = 64;
/// As [`HTTP_CHUNK`], for product counters.
pub(crate) const EGRESS_CHUNK: usize = 128;
