//! `[[workload]]`, its credentials, and selectors. Reads password files; knows nothing of services.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use sluice_policy::{Cidr, Identity, Pattern, Selector, WorkloadInput};

use super::{Check, Node};
use crate::limits::{PASSWORD_FILE_BYTES_MAX, USER_BYTES_MAX};
use crate::plan::Credential;
use crate::read;
use crate::secret::Secret;
use crate::structure::shorten;

impl Check<'_> {
    pub(crate) fn workloads(
        &self,
        root: &Node<'_>,
        cluster_id: &Arc<str>,
    ) -> (Vec<WorkloadInput>, Vec<Credential>) {
        let mut credentials = Vec::new();
        let mut users: HashMap<String, String> = HashMap::new();
        let mut names: HashMap<(Arc<str>, Arc<str>), String> = HashMap::new();
        let mut prefixes: HashMap<Cidr, String> = HashMap::new();
        let mut workloads = Vec::new();
        for node in root.items("workload") {
            let identity = Arc::new(self.identity(&node, cluster_id));
            if let (Some(name), Some(namespace)) = (&identity.workload, &identity.namespace) {
                let first = names
                    .entry((Arc::clone(namespace), Arc::clone(name)))
                    .or_insert_with(|| node.path.clone());
                if *first != node.path {
                    self.error(
                        &node,
                        format!("workload {namespace}/{name} is already there as `{first}`"),
                        same_name(),
                    );
                }
            }
            for user in node.items("credentials") {
                credentials.extend(self.credential(&user, &identity, &mut users));
            }
            let mut addresses = Vec::new();
            for item in node.items("addresses") {
                let Some(range) = self.range(&item) else { continue };
                let first = prefixes.entry(range).or_insert_with(|| node.path.clone());
                if *first != node.path {
                    let message =
                        format!("{range} is already an address of `{first}`: a source would be both");
                    self.error(&item, message, "give one of them a longer prefix".to_owned());
                }
                addresses.push(range);
            }
            if addresses.is_empty() && node.items("credentials").is_empty() {
                let remedy = "add `addresses` or `credentials`".to_owned();
                self.warn(&node, "nothing identifies this workload", remedy);
            }
            workloads.push(WorkloadInput { identity, addresses, origin: self.origin(&node) });
        }
        (workloads, credentials)
    }

    fn identity(&self, node: &Node<'_>, cluster_id: &Arc<str>) -> Identity {
        let identity = Identity {
            principal: node.shared_text("principal"),
            namespace: node.shared_text("namespace"),
            service_account: node.shared_text("service_account"),
            workload: node.shared_text("name"),
            app: node.shared_text("app"),
            version: node.shared_text("version"),
            cluster: node.shared_text("cluster").or_else(|| Some(Arc::clone(cluster_id))),
            region: node.shared_text("region"),
        };
        if let Some((principal, at)) = node.text("principal") {
            self.principal(principal, &identity, &at);
        }
        identity
    }

    /// A SPIFFE id of the mesh's form must not contradict the fields beside it.
    fn principal(&self, principal: &str, identity: &Identity, at: &Node<'_>) {
        let path = principal.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        let Some((_, path)) = path.filter(|(domain, path)| !domain.is_empty() && !path.is_empty()) else {
            let remedy = "spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT".to_owned();
            return self.error(
                at,
                format!("\"{}\" is not a SPIFFE id with a path", shorten(principal)),
                remedy,
            );
        };
        let ["ns", namespace, "sa", account] = path.split('/').collect::<Vec<_>>()[..] else { return };
        for (field, said, named) in [
            ("namespace", namespace, &identity.namespace),
            ("service_account", account, &identity.service_account),
        ] {
            if let Some(named) = named.as_deref().filter(|named| *named != said) {
                let message = format!(
                    "the SPIFFE id says {field} \"{}\", the key `{field}` says \"{named}\"",
                    shorten(said)
                );
                self.error(at, message, format!("make them agree: {field} = \"{}\"", shorten(said)));
            }
        }
    }

    fn credential(
        &self,
        node: &Node<'_>,
        identity: &Arc<Identity>,
        users: &mut HashMap<String, String>,
    ) -> Option<Credential> {
        let user = node.text("user");
        if let Some((user, at)) = &user {
            if user.contains(':') || user.len() > USER_BYTES_MAX {
                let message = format!(
                    "\"{}\" cannot be a user: no colon, at most {USER_BYTES_MAX} bytes",
                    shorten(user)
                );
                self.error(at, message, None);
            }
            let first = users.entry((*user).to_owned()).or_insert_with(|| at.path.clone());
            if *first != at.path {
                let message = format!("user \"{}\" is already there as `{first}`", shorten(user));
                self.error(at, message, "one user proves one workload: choose another name".to_owned());
            }
        }
        let password = self.password(&node.text("password_file")?.1)?;
        Some(Credential { user: user?.0.into(), password, identity: Arc::clone(identity) })
    }

    fn password(&self, node: &Node<'_>) -> Option<Secret> {
        let path = self.file(node.as_text()?);
        let mut bytes = match read::bytes(&path, PASSWORD_FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(unreadable) => {
                self.error(node, unreadable.message, unreadable.suggestion);
                return None;
            }
        };
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        let shown = path.display();
        if bytes.is_empty() {
            self.error(node, format!("{shown} holds no password"), "write the password into it".to_owned());
            return None;
        }
        if bytes.contains(&b'\n') || bytes.contains(&0) {
            self.error(
                node,
                format!("{shown} holds more than one line, or a NUL"),
                "one password, alone".to_owned(),
            );
            return None;
        }
        let mode = std::fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o004 != 0 {
            self.warn(node, format!("{shown} can be read by every user"), format!("chmod o= {shown}"));
        }
        Some(Secret::new(bytes))
    }

    /// A selector of sources; a field that is no pattern is reported.
    pub(crate) fn selector(&self, node: &Node<'_>) -> Selector {
        let field = |key: &str| -> Option<Pattern> {
            let (text, at) = node.text(key)?;
            text.parse().map_err(|error| self.error(&at, format!("the pattern {error}"), None)).ok()
        };
        Selector {
            principal: field("principal"),
            namespace: field("namespace"),
            service_account: field("service_account"),
            workload: field("workload"),
            app: field("app"),
        }
    }
}

fn same_name() -> String {
    "choose another name or namespace, or join the two entries".to_owned()
}
