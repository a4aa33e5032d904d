//! The one place that says what is designed and not built in this version. Such a key is refused by name, never
//! ignored; building the behaviour means removing its line here.

/// A key, or one value of a key, that is known and refused.
pub(crate) struct Unavailable {
    /// Names without indices, e.g. `listener.kind`.
    pub(crate) path: &'static str,
    /// Only this word, or `true`; `None`: the key altogether.
    pub(crate) value: Option<&'static str>,
    /// What to use meanwhile; may be empty.
    pub(crate) instead: &'static str,
}

const fn key(path: &'static str, instead: &'static str) -> Unavailable {
    Unavailable { path, value: None, instead }
}

const fn value(path: &'static str, value: &'static str, instead: &'static str) -> Unavailable {
    Unavailable { path, value: Some(value), instead }
}

/// Everything that waits to be built.
pub(crate) const TABLE: &[Unavailable] = &[
    value("listener.kind", "mesh", DOORS),
    value("listener.kind", "hbone", DOORS),
    value("listener.kind", "dns", DOORS),
    key("service.tls", "let the client speak TLS through CONNECT or the tls door"),
    key("service.endpoints.locality", "remove it; endpoints are chosen by weight"),
    key("telemetry.otlp", "scrape [telemetry.prometheus]"),
    value("dataplane.busy_poll", "true", "remove it or set it to false"),
    key("limits.mesh_handshake_timeout_ms", "it belongs to the mesh door"),
];

const DOORS: &str =
    "this version opens \"http_proxy\", \"tls\", \"tcp\", \"http\", \"transparent\" and \"socks5\"";

/// Why a key (`value` = `None`) or one of its values is refused in this version.
pub(crate) fn refused(path: &str, value: Option<&str>) -> Option<&'static Unavailable> {
    TABLE.iter().find(|entry| entry.path == path && entry.value == value)
}
