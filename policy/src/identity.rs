//! Who asks, and how well that is proven. It must not know certificates or credentials, only what they
//! established.

use alloc::{sync::Arc, vec::Vec};
use core::{fmt, net::IpAddr};

use crate::{Cidr, Origin, service::words};

words! {
    /// How well a source's identity is proven, rising.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    Proof, "proof", {
        /// Not at all.
        #[default]
        None = "none",
        /// Its address stands in the workload table.
        Address = "address",
        /// A trusted peer's PROXY header gave the address.
        ProxyProtocol = "proxy_protocol",
        /// Proxy credentials that are bound to a workload.
        Credentials = "credentials",
        /// A verified SPIFFE certificate.
        Certificate = "certificate",
    }
}

/// The names of a workload. A field that is absent is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// SPIFFE id.
    pub principal: Option<Arc<str>>,
    /// Kubernetes namespace.
    pub namespace: Option<Arc<str>>,
    /// Kubernetes service account.
    pub service_account: Option<Arc<str>>,
    /// Workload (deployment) name.
    pub workload: Option<Arc<str>>,
    /// App label.
    pub app: Option<Arc<str>>,
    /// Version label.
    pub version: Option<Arc<str>>,
    /// Cluster id.
    pub cluster: Option<Arc<str>>,
    /// Region.
    pub region: Option<Arc<str>>,
}

/// One `[[workload]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadInput {
    /// Its names.
    pub identity: Arc<Identity>,
    /// The source addresses that are this workload's.
    pub addresses: Vec<Cidr>,
    /// Where it stands.
    pub origin: Origin,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// How well `identity` is proven; with `None` the identity does not count.
    pub proof: Proof,
    /// The names, as far as they are known.
    pub identity: Option<&'a Identity>,
    /// The client's address, for the trail.
    pub address: IpAddr,
}

impl<'a> Source<'a> {
    /// A source of which only the address is known, and nothing is proven.
    pub const fn unproven(address: IpAddr) -> Self {
        Self { proof: Proof::None, identity: None, address }
    }

    /// The identity that counts: none without proof.
    pub fn proven(&self) -> Option<&'a Identity> {
        if self.proof == Proof::None { None } else { self.identity }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A question that names no address has the unspecified one.
        let nowhere = self.address.is_unspecified();
        match self.proven() {
            None if nowhere => f.write_str("anybody (identity unproven)"),
            None => write!(f, "{} (identity unproven)", self.address),
            Some(identity) if nowhere => write!(f, "{identity} (proof: {})", self.proof),
            Some(identity) => write!(f, "{identity} at {} (proof: {})", self.address, self.proof),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.workload.as_ref().or(self.service_account.as_ref()).or(self.app.as_ref());
        match (&self.namespace, name, &self.principal) {
            (Some(namespace), Some(name), _) => write!(f, "{namespace}/{name}"),
            (_, None, Some(principal)) => f.write_str(principal),
            (None, Some(name), _) => f.write_str(name),
            (Some(namespace), None, None) => write!(f, "{namespace}/?"),
            (None, None, None) => f.write_str("unnamed workload"),
        }
    }
}
