//! "What would happen if …": words of the admin API and of the command line to a policy request, and the answer as text
//! and JSON. The decision itself is the policy's; nothing is judged here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_config::{Auth, Plan};
use sluice_policy::{
    Cidr, Decision, HostBuf, Identity, Proof, Reason, Request, Snapshot, Source, Spoken, Step, Trail,
    UnixSeconds, WorkloadInput, parse_host,
};

/// The question, as it is typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question<'a> {
    /// `namespace/name`, a SPIFFE id, an IP address; absent: somebody unknown.
    pub from: Option<&'a str>,
    /// A URL, or `host:port`.
    pub to: &'a str,
    /// The original destination of a redirected connection, `ip:port`.
    pub original: Option<&'a str>,
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The source is none of the three forms.
    #[error("from={0:?}: give namespace/name, a SPIFFE id or an IP address")]
    From(String),
    /// The destination is neither URL nor host:port.
    #[error("to={0:?}: give a URL such as https://example.org, or host:port")]
    To(String),
    /// The original destination is no socket address.
    #[error("original={0:?}: give ip:port")]
    Original(String),
}

/// The decision and how it came about.
#[derive(Debug)]
pub struct Answer {
    /// What would happen.
    pub decision: Decision,
    /// Step by step.
    pub trail: Trail,
    /// What was assumed about the source.
    pub assumed: String,
    service: Option<String>,
    matched: Option<String>,
}

/// Asks the policy.
///
/// # Errors
/// [`QuestionError`] where the question cannot be read.
pub fn explain(
    policy: &Snapshot,
    plan: &Plan,
    question: &Question<'_>,
    now: UnixSeconds,
) -> Result<Answer, QuestionError> {
    let asker = Asker::find(policy, plan, question.from)?;
    let Destination { host, port, spoken } = destination(question.to)?;
    let mut buffer = HostBuf::new();
    let host = parse_host(host.as_bytes(), &mut buffer);
    let original = question
        .original
        .map(|text| text.parse::<SocketAddr>().map_err(|_| QuestionError::Original(text.to_owned())))
        .transpose()?;
    let host = match host {
        Ok(host) => host,
        Err(error) => return Ok(Answer::malformed(asker.assumed, &error)),
    };
    let source = Source { proof: asker.proof, identity: asker.identity.as_deref(), address: asker.address };
    let request = Request { source, host: Some(host), original, port, bound: None };
    let (decision, trail) = match spoken {
        Some(spoken) => sluice_policy::explain_spoken(policy, &request, spoken, now),
        None => sluice_policy::explain(policy, &request, now),
    };
    Ok(Answer {
        decision,
        trail,
        assumed: asker.assumed,
        service: decision.service.map(|id| {
            let service = policy.service(id);
            format!("{}/{}", service.namespace, service.name)
        }),
        matched: decision.matched.map(|id| policy.matched_host(id).to_owned()),
    })
}

impl Answer {
    /// The gateway's answer to a host that is none: it denies the request without asking the policy.
    fn malformed(assumed: String, error: &sluice_policy::HostError) -> Self {
        let step = Step { about: "host", found: format!("it {error}"), origin: None, change: None };
        let trail = Trail { steps: vec![step] };
        Self { decision: Decision::denied(Reason::Malformed), trail, assumed, service: None, matched: None }
    }

    /// Whether the flow may go on.
    pub fn passes(&self) -> bool {
        self.decision.passes()
    }

    /// As the admin API gives it.
    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> = self
            .trail
            .steps
            .iter()
            .map(|step| {
                json!({
                    "about": step.about,
                    "found": step.found,
                    "origin": step.origin.as_ref().map(ToString::to_string),
                    "change": step.change,
                })
            })
            .collect();
        json!({
            "decision": self.decision.verdict.as_str(),
            "reason": self.decision.reason.as_str(),
            "service": self.service,
            "matched": self.matched,
            "shadow": {
                "decision": self.decision.shadow.verdict.as_str(),
                "reason": self.decision.shadow.reason.as_str(),
            },
            "assumed": self.assumed,
            "trail": steps,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.decision.verdict.as_str(), self.decision.reason.as_str())?;
        if let Some(service) = &self.service {
            write!(out, " by {service}")?;
        }
        writeln!(out, "\n{:<12} {}", "assumed", self.assumed)?;
        writeln!(out, "{}", self.trail)
    }
}

/// Who is taken to be asking.
struct Asker {
    proof: Proof,
    identity: Option<Arc<Identity>>,
    address: IpAddr,
    assumed: String,
}

const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Asker {
    fn find(policy: &Snapshot, plan: &Plan, from: Option<&str>) -> Result<Self, QuestionError> {
        let Some(from) = from else {
            let assumed = "a source without proof".to_owned();
            return Ok(Self { proof: Proof::None, identity: None, address: NO_ADDRESS, assumed });
        };
        if let Ok(address) = from.parse::<IpAddr>() {
            return Ok(Self::by_address(policy, plan, address));
        }
        if from.starts_with("spiffe://") {
            return Self::by_principal(&plan.policy_input.workloads, from);
        }
        match from.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::by_name(plan, namespace, name))
            }
            _ => Err(QuestionError::From(from.to_owned())),
        }
    }

    fn by_address(policy: &Snapshot, plan: &Plan, address: IpAddr) -> Self {
        let identity = policy.workload_by_address(address).cloned();
        let (proof, assumed) = match &identity {
            Some(_) => {
                let (proof, how) = address_proof(plan);
                (proof, format!("{address}, whose workload is {how}"))
            }
            None => (Proof::None, format!("{address}, which belongs to no [[workload]]")),
        };
        Self { proof, identity, address, assumed }
    }

    fn by_principal(workloads: &[WorkloadInput], principal: &str) -> Result<Self, QuestionError> {
        let known =
            workloads.iter().find(|workload| workload.identity.principal.as_deref() == Some(principal));
        let identity = match known {
            Some(workload) => Arc::clone(&workload.identity),
            None => {
                Arc::new(identity_of(principal).ok_or_else(|| QuestionError::From(principal.to_owned()))?)
            }
        };
        let assumed = format!("the certificate of {principal}, which no door of this version asks for");
        Ok(Self { proof: Proof::Certificate, identity: Some(identity), address: NO_ADDRESS, assumed })
    }

    /// The strongest proof that the workload's entry and the doors make possible.
    fn by_name(plan: &Plan, namespace: &str, name: &str) -> Self {
        let is_named = |workload: &&WorkloadInput| {
            let identity = &workload.identity;
            identity.namespace.as_deref() == Some(namespace) && identity.workload.as_deref() == Some(name)
        };
        let asked = plan.doors.iter().any(|door| door.auth != Auth::Off);
        let has_credentials = |workload: &WorkloadInput| {
            plan.credentials.iter().any(|credential| credential.identity == workload.identity)
        };
        let found = plan.policy_input.workloads.iter().find(is_named);
        let identity = found.map(|workload| Arc::clone(&workload.identity)).unwrap_or_else(|| {
            Arc::new(Identity {
                namespace: Some(namespace.into()),
                workload: Some(name.into()),
                ..Identity::default()
            })
        });
        let (proof, address, how) = match found {
            Some(workload) if asked && has_credentials(workload) => {
                (Proof::Credentials, None, "with its credentials")
            }
            Some(workload) if !workload.addresses.is_empty() => {
                let (proof, how) = address_proof(plan);
                (proof, workload.addresses.first(), how)
            }
            Some(workload) if workload.identity.principal.is_some() => {
                (Proof::Certificate, None, "with its certificate, which no door of this version asks for")
            }
            Some(_) => {
                (Proof::None, None, "which nothing identifies: it has neither addresses nor credentials")
            }
            None => (Proof::Certificate, None, "which no [[workload]] names, as if it had a certificate"),
        };
        let assumed = format!("workload {namespace}/{name}, {how}");
        let address = address.map_or(NO_ADDRESS, Cidr::network);
        Self { proof, identity: Some(identity), address, assumed }
    }
}

/// The most that an address is worth on any door.
fn address_proof(plan: &Plan) -> (Proof, &'static str) {
    match plan.doors.iter().any(|door| door.proxy_protocol.is_some()) {
        true => (Proof::ProxyProtocol, "known by its address, as a trusted peer's PROXY header has it"),
        false => (Proof::Address, "known by its address"),
    }
}

/// Namespace and service account of `spiffe://domain/ns/NAMESPACE/sa/ACCOUNT`.
fn identity_of(principal: &str) -> Option<Identity> {
    let mut parts = principal.strip_prefix("spiffe://")?.split('/');
    let domain = parts.next()?;
    let (ns, namespace, sa, account) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let whole = ns == "ns" && sa == "sa" && parts.next().is_none();
    let named = !domain.is_empty() && !namespace.is_empty() && !account.is_empty();
    (whole && named).then(|| Identity {
        principal: Some(principal.into()),
        namespace: Some(namespace.into()),
        service_account: Some(account.into()),
        ..Identity::default()
    })
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Destination<'a> {
    host: &'a str,
    port: u16,
    /// What the scheme says is spoken; other schemes and none claim nothing.
    spoken: Option<Spoken>,
}

/// The parts of a URL or of `host:port`.
fn destination(to: &str) -> Result<Destination<'_>, QuestionError> {
    let error = || QuestionError::To(to.to_owned());
    let (scheme, rest) = to.split_once("://").map_or((None, to), |(scheme, rest)| (Some(scheme), rest));
    let authority = match scheme {
        Some(_) => rest.split(['/', '?', '#']).next().unwrap_or_default(),
        None => rest,
    };
    let (spoken, default) = match scheme.map(str::to_ascii_lowercase).as_deref() {
        Some("http" | "ws") => (Some(Spoken::Requests), Some(80)),
        Some("https" | "wss") => (Some(Spoken::Tls), Some(443)),
        _ => (None, None),
    };
    let port_at = match authority.rfind(']') {
        Some(bracket) => authority[bracket..].find(':').map(|colon| bracket + colon),
        None => authority.rfind(':'),
    };
    let (host, port) = match port_at {
        Some(at) => {
            let digits = &authority[at + 1..];
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            let port = digits.parse::<u16>().ok().filter(|port| plain && *port != 0).ok_or_else(error)?;
            (&authority[..at], port)
        }
        None => (authority, default.ok_or_else(error)?),
    };
    if host.is_empty() { Err(error()) } else { Ok(Destination { host, port, spoken }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_policy::{HostPattern, Mode, Origin, PolicyInput, Selector, ServiceInput, compile};

    fn policy() -> (Snapshot, Plan) {
        let isolated = sluice_config::Source::isolated(None);
        let mut plan = sluice_config::load(&isolated).expect("defaults are a configuration").plan;
        let mut input = PolicyInput::new(Mode::RegistryOnly);
        let mut service = ServiceInput::new("default", "httpbin-ext", Origin::new("sluice.toml", 7));
        service.hosts = vec![HostPattern::parse("httpbin.org").expect("a host")];
        service.allow = Some(vec![Selector {
            service_account: Some("idgen".parse().expect("a pattern")),
            ..Selector::default()
        }]);
        input.services = vec![service];
        let identity = Identity {
            namespace: Some("default".into()),
            workload: Some("idgen".into()),
            service_account: Some("idgen".into()),
            ..Identity::default()
        };
        let addresses = vec!["10.1.2.0/24".parse().expect("a range")];
        input.workloads = vec![WorkloadInput {
            identity: Arc::new(identity),
            addresses,
            origin: Origin::new("sluice.toml", 3),
        }];
        plan.policy_input = input.clone();
        (compile(input).expect("compiles"), plan)
    }

    fn ask(from: Option<&str>, to: &str) -> Result<Answer, QuestionError> {
        let (policy, plan) = policy();
        explain(&policy, &plan, &Question { from, to, original: None }, UnixSeconds(0))
    }

    #[test]
    fn every_form_of_source_is_understood() {
        for (from, passes) in [
            (Some("default/idgen"), true),
            (Some("spiffe://cluster.local/ns/default/sa/idgen"), true),
            (Some("10.1.2.3"), true),
            (Some("10.9.9.9"), false),
            (Some("other/thing"), false),
            (None, false),
        ] {
            let answer = ask(from, "https://httpbin.org/uuid").expect("an answer");
            assert_eq!(answer.passes(), passes, "{from:?}\n{answer}");
        }
    }

    #[test]
    fn the_proof_that_is_assumed_is_one_that_a_door_can_find() {
        let answer = ask(Some("default/idgen"), "https://httpbin.org").expect("an answer");
        assert!(answer.assumed.contains("known by its address"), "{answer}");
        assert!(answer.to_string().contains("default/idgen at 10.1.2.0 (proof: address)"), "{answer}");
        let answer = ask(None, "https://httpbin.org").expect("an answer");
        assert!(!answer.to_string().contains("0.0.0.0"), "{answer}");
    }

    #[test]
    fn a_door_behind_a_load_balancer_makes_an_address_worth_more() {
        let (_, mut plan) = policy();
        let mut input = plan.policy_input.clone();
        input.services[0].require_proof = Some(Proof::ProxyProtocol);
        let policy = compile(input).expect("compiles");
        for (proxy_protocol, passes) in [
            (None, false),
            (Some(sluice_config::ProxyProtocol { trusted: Vec::new(), use_destination: false }), true),
        ] {
            plan.doors[0].proxy_protocol = proxy_protocol;
            for from in ["default/idgen", "10.1.2.3"] {
                let question = Question { from: Some(from), to: "https://httpbin.org", original: None };
                let answer = explain(&policy, &plan, &question, UnixSeconds(0)).expect("an answer");
                assert_eq!(answer.passes(), passes, "{from}\n{answer}");
            }
        }
    }

    #[test]
    fn destinations_are_urls_or_host_and_port() {
        for (to, expected) in [
            ("http://a.test/x?y", ("a.test", 80)),
            ("https://a.test", ("a.test", 443)),
            ("https://a.test:8443#z", ("a.test", 8443)),
            ("a.test:25", ("a.test", 25)),
            ("[2001:db8::1]:443", ("[2001:db8::1]", 443)),
            ("https://[2001:db8::1]/", ("[2001:db8::1]", 443)),
        ] {
            let found = destination(to).map(|found| (found.host, found.port));
            assert_eq!(found, Ok(expected));
        }
        for to in ["a.test", "a.test:", "a.test:+1", "a.test:0", "a.test:65536", ":443", "ftp://a.test", ""] {
            assert!(destination(to).is_err(), "{to}");
        }
    }

    #[test]
    fn what_the_scheme_says_is_held_against_the_declared_protocol() {
        for (to, passes) in [
            ("http://httpbin.org", true),
            ("https://httpbin.org", true),
            ("http://httpbin.org:443/", false),
            ("HTTP://httpbin.org:443/", false),
            ("ws://httpbin.org:443", false),
            ("https://httpbin.org:80", false),
            ("wss://httpbin.org:80", false),
            ("tcp://httpbin.org:443", true),
            ("tcp://httpbin.org:80", true),
            ("httpbin.org:443", true),
            ("httpbin.org:80", true),
        ] {
            let answer = ask(Some("default/idgen"), to).expect("an answer");
            assert_eq!(answer.passes(), passes, "{to}\n{answer}");
            if !passes {
                let text = answer.to_string();
                assert!(text.starts_with("deny: protocol_mismatch by default/httpbin-ext\n"), "{text}");
                assert!(text.contains("of default/httpbin-ext is declared "), "{text}");
                assert!(text.contains("declare protocol = "), "{text}");
                assert_eq!(answer.to_json()["shadow"]["decision"], json!("deny"));
            }
        }
        // Somebody who may not is told that, not the protocol.
        let answer = ask(None, "http://httpbin.org:443").expect("an answer");
        assert!(answer.to_string().starts_with("deny: workload_not_allowed"), "{answer}");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert!(matches!(ask(Some("idgen"), "a.test:1"), Err(QuestionError::From(_))));
        assert!(matches!(ask(Some("spiffe://x/y"), "a.test:1"), Err(QuestionError::From(_))));
    }

    #[test]
    fn a_host_that_is_none_is_denied_as_malformed() {
        for to in ["a..test:1", "http://0x7f.1/", "https://[a.test]", "http://\u{430}.test"] {
            let answer = ask(None, to).expect("an answer");
            assert!(
                !answer.passes() && answer.to_string().starts_with("deny: malformed\n"),
                "{to}: {answer}"
            );
            assert_eq!(answer.to_json()["reason"], json!("malformed"));
            assert!(answer.to_string().contains("host "), "{answer}");
        }
    }

    #[test]
    fn text_and_json_tell_the_same() {
        let answer = ask(Some("default/idgen"), "https://httpbin.org").expect("an answer");
        let json = answer.to_json();
        assert_eq!((&json["decision"], &json["reason"]), (&json!("allow"), &json!("registered")));
        assert_eq!(
            (&json["service"], &json["matched"]),
            (&json!("default/httpbin-ext"), &json!("httpbin.org"))
        );
        assert!(answer.to_string().starts_with("allow: registered by default/httpbin-ext\n"), "{answer}");
    }
}
