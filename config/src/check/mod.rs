//! The second check: what the values mean, alone and together. Turns the merged values into runtime types; every finding
//! names its key. Structure (types, ranges, unknown keys) has been checked before and is not repeated here.

mod addresses;
mod doors;
pub(crate) mod hosts;
mod services;
mod settings;
mod workloads;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use figment::value::Value;
use sluice_policy::{Mode, Origin, PolicyInput, ScopeInput, Snapshot, UnixSeconds};

use crate::entry_files::FilePattern;
use crate::layers::{Layer, Layers};
use crate::limits::{PROBLEMS_MAX, WARNINGS_MAX};
use crate::plan::Plan;
use crate::problem::Problem;
use crate::spans::{Part, join};

/// What every check needs: the layers to name places, and where findings go.
pub(crate) struct Check<'c> {
    pub(crate) layers: &'c Layers,
    pub(crate) now: UnixSeconds,
    pub(crate) hash_seed: u64,
    pub(crate) errors: RefCell<Vec<Problem>>,
    pub(crate) warnings: RefCell<Vec<Problem>>,
    /// What hinders a start and no reload.
    pub(crate) start_errors: RefCell<Vec<Problem>>,
    /// Relative paths of `hosts_file` and `password_file` start here.
    pub(crate) folder: PathBuf,
    /// Texts that many services have in common, kept once.
    pub(crate) texts: RefCell<HashSet<Arc<str>>>,
    /// Every file that the configuration names and that was read for it.
    pub(crate) files: RefCell<BTreeSet<PathBuf>>,
    /// Where more files may appear.
    pub(crate) file_patterns: Vec<FilePattern>,
}

impl<'c> Check<'c> {
    /// A check that has found these already; no file, no clock.
    pub(crate) fn new(layers: &'c Layers, errors: Vec<Problem>, warnings: Vec<Problem>) -> Self {
        Self {
            layers,
            now: UnixSeconds(0),
            hash_seed: 0,
            errors: RefCell::new(errors),
            warnings: RefCell::new(warnings),
            start_errors: RefCell::default(),
            folder: PathBuf::new(),
            files: RefCell::default(),
            texts: RefCell::default(),
            file_patterns: Vec::new(),
        }
    }

    /// The services alone, as an import makes them.
    pub(crate) fn imported(&self, root: &Value) {
        self.services(&Node::root(root));
    }
}

/// A value with its path. Wrong types read as absent: they have been reported already.
#[derive(Clone)]
pub(crate) struct Node<'v> {
    pub(crate) value: &'v Value,
    pub(crate) path: String,
}

impl<'v> Node<'v> {
    pub(crate) fn root(value: &'v Value) -> Self {
        Self { value, path: String::new() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.as_dict()?.get(key)?;
        Some(Self { value, path: join(&self.path, key) })
    }

    /// The elements of a list under a key; empty where it is absent.
    pub(crate) fn items(&self, key: &str) -> Vec<Self> {
        let Some(list) = self.get(key) else { return Vec::new() };
        let items = list.value.as_array().unwrap_or_default().iter().enumerate();
        items.map(|(index, value)| Self { value, path: format!("{}[{index}]", list.path) }).collect()
    }

    pub(crate) fn as_text(&self) -> Option<&'v str> {
        self.value.as_str().filter(|text| !text.trim().is_empty() && !text.chars().any(char::is_control))
    }

    /// A text under a key, with its node.
    pub(crate) fn text(&self, key: &str) -> Option<(&'v str, Self)> {
        let node = self.get(key)?;
        Some((node.as_text()?, node))
    }

    pub(crate) fn shared_text(&self, key: &str) -> Option<Arc<str>> {
        self.text(key).map(|(text, _)| text.into())
    }

    pub(crate) fn as_number<N: TryFrom<i128>>(&self) -> Option<N> {
        match self.value.to_num()? {
            figment::value::Num::I128(number) => N::try_from(number).ok(),
            number => N::try_from(number.to_i128()?).ok(),
        }
    }

    pub(crate) fn number<N: TryFrom<i128>>(&self, key: &str) -> Option<N> {
        self.get(key)?.as_number()
    }

    /// A word of a fixed set; an unknown one has been reported already.
    pub(crate) fn word<W: std::str::FromStr>(&self, key: &str) -> Option<W> {
        self.text(key)?.0.parse().ok()
    }
}

impl Check<'_> {
    pub(crate) fn error(
        &self,
        node: &Node<'_>,
        message: impl Into<String>,
        suggestion: impl Into<Option<String>>,
    ) {
        let problem =
            self.layers.problem(&node.path, Part::Value, Some(node.value), message, suggestion.into());
        push(&self.errors, PROBLEMS_MAX, problem);
    }

    pub(crate) fn warn(
        &self,
        node: &Node<'_>,
        message: impl Into<String>,
        suggestion: impl Into<Option<String>>,
    ) {
        let problem =
            self.layers.problem(&node.path, Part::Value, Some(node.value), message, suggestion.into());
        push(&self.warnings, WARNINGS_MAX, problem);
    }

    /// A text under a key; equal ones are one.
    pub(crate) fn common_text(&self, node: &Node<'_>, key: &str) -> Option<Arc<str>> {
        let (text, _) = node.text(key)?;
        let mut texts = self.texts.borrow_mut();
        if let Some(known) = texts.get(text) {
            return Some(Arc::clone(known));
        }
        let new: Arc<str> = text.into();
        texts.insert(Arc::clone(&new));
        Some(new)
    }

    /// A path as written, taken from the configuration file's folder if it is relative.
    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.join(text);
        self.files.borrow_mut().insert(path.clone());
        path
    }

    pub(crate) fn origin(&self, node: &Node<'_>) -> Origin {
        let problem = self.layers.problem(&node.path, Part::Value, Some(node.value), "", None);
        Origin::new(problem.file, problem.line)
    }
}

/// Leaves the lists of hosts to the compiled policy alone, which holds each of their names once, and gives what tells
/// one set of lists from another.
fn take_host_lists(input: &mut PolicyInput) -> u64 {
    let mut digest = DefaultHasher::new();
    for service in &mut input.services {
        std::mem::take(&mut service.host_list).hash(&mut digest);
    }
    digest.finish()
}

pub(crate) fn push(list: &RefCell<Vec<Problem>>, max: usize, problem: Problem) {
    let mut list = list.borrow_mut();
    if list.len() < max {
        list.push(problem);
    }
}

impl Check<'_> {
    /// The plan, as far as it can be made; it counts only if no error was found.
    pub(crate) fn plan(&self, root: &Value, file: Option<PathBuf>) -> Option<Plan> {
        let root = Node::root(root);
        let cluster_id = self.cluster_id(&root);
        let mode = root.word::<Mode>("mode");
        let scopes = self.scopes(&root);
        let (workloads, credentials) = self.workloads(&root, &cluster_id);
        let services = self.services(&root);
        let doors = self.doors(&root, &services);
        let admin = self.admin(&root);
        let prometheus = self.prometheus(&root);
        self.unreachable(&root, &services, &doors);
        self.binds(&root, &doors, admin.as_ref(), prometheus.as_ref());
        let mut guard = self.guard(&root);
        guard.own_listeners = doors.iter().map(|door| door.bind).collect();
        guard.own_listeners.extend(admin.iter().map(|admin| admin.bind));
        guard.own_listeners.extend(prometheus.iter().map(|prometheus| prometheus.bind));
        let mut policy_input = PolicyInput {
            mode: mode?,
            scopes,
            workloads,
            services: services.into_iter().map(|service| service.input).collect(),
            guard,
            hash_seed: self.hash_seed,
        };
        let policy = self.compile(&policy_input);
        let host_lists_digest = take_host_lists(&mut policy_input);
        Some(Plan {
            files: file.iter().cloned().chain(self.files.take()).collect(),
            file_patterns: self.file_patterns.clone(),
            file,
            mode: mode?,
            doors,
            credentials,
            dns: self.dns(&root)?,
            access_log: self.access_log(&root)?,
            admin: admin?,
            prometheus,
            dataplane: self.dataplane(&root)?,
            limits: self.limits(&root)?,
            deny: self.deny(&root),
            telemetry: self.telemetry(&root, cluster_id)?,
            policy_input,
            policy: policy?,
            host_lists_digest,
            effective: crate::effective::Effective::new(self.layers, root.value),
        })
    }

    fn scopes(&self, root: &Node<'_>) -> Vec<ScopeInput> {
        let scope = |node: Node<'_>| {
            let source_node = node.get("source")?;
            let source = self.selector(&source_node);
            if source.is_empty() && source_node.value.as_dict().is_some_and(|fields| fields.is_empty()) {
                let remedy = "name a namespace or workload, or change the global `mode`".to_owned();
                self.error(&source_node, "a scope must name at least one field of its sources", remedy);
            }
            Some(ScopeInput { source, mode: node.word("mode")?, origin: self.origin(&node) })
        };
        root.items("scope").into_iter().filter_map(scope).collect()
    }

    /// The policy, and the errors and warnings that only the whole can show.
    fn compile(&self, input: &PolicyInput) -> Option<Snapshot> {
        if !self.errors.borrow().is_empty() {
            return None;
        }
        match sluice_policy::compile(input) {
            Err(errors) => {
                for error in &errors {
                    push(&self.errors, PROBLEMS_MAX, services::compile_problem(error));
                }
                None
            }
            Ok(snapshot) => {
                self.policy_warnings(&snapshot);
                Some(snapshot)
            }
        }
    }

    /// Whether the value was written by somebody, not filled in by default.
    pub(crate) fn is_written(&self, node: &Node<'_>) -> bool {
        self.layers.layer(node.value) != Layer::Default
    }
}
