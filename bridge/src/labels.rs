//! From the policy's words to the metrics' words: the one place that knows both crates. It must not know flows.

use sluice_policy::Identity;
use sluice_telemetry::Source;

/// The source labels of a proven identity; without proof use [`sluice_telemetry::SourceId::UNKNOWN`].
#[must_use]
pub fn source_labels(identity: &Identity) -> Source<'_> {
    Source {
        workload: identity.workload.as_deref(),
        namespace: identity.namespace.as_deref(),
        principal: identity.principal.as_deref(),
        service_account: identity.service_account.as_deref(),
        app: identity.app.as_deref(),
        version: identity.version.as_deref(),
        cluster: identity.cluster.as_deref(),
    }
}
