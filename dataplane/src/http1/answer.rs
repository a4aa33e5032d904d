//! Answers that the gateway gives itself. A denial tells the person behind the client what was refused, to whom, why,
//! and what would change it.

use std::fmt::Write as _;
use std::net::IpAddr;

use sluice_engine::{Buffer, Engine, Stream};
use sluice_policy::{Cidr, GuardClass, Reason};
use sluice_proto::http1::reason_phrase;
use sluice_telemetry::ResponseFlags;

use super::{After, Client};
use crate::limits::SUGGESTED_NAMES_MAX;
use crate::record::Record;
use crate::route::Route;
use crate::worker::Worker;

/// An answer of ours.
#[derive(Default)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    /// One sentence.
    pub(super) text: &'a str,
    /// The policy's word, for `x-sluice-reason`; absent for troubles that are no denial.
    pub(super) reason: Option<Reason>,
    /// What was asked for and by whom, where it came to that.
    pub(super) route: Option<&'a Route>,
    /// What would change the decision.
    pub(super) remedy: Option<&'a str>,
    pub(super) request_id: Option<&'a str>,
    /// Whether the client may send another request.
    pub(super) persistent: bool,
    /// The answer to a HEAD has no body.
    pub(super) head_only: bool,
    /// One more header line, name and value.
    pub(super) header: Option<(&'static str, &'static str)>,
}

impl Answer<'_> {
    /// Sends the answer, notes it in the record and gives what becomes of the connection.
    pub(super) async fn send<E: Engine>(&self, client: &Client<E>, record: &mut Record<E>) -> After {
        let text = {
            let snapshot = client.worker().snapshot();
            self.compose(snapshot.deny.contact.as_deref())
        };
        match send_raw(client, record, self.status, &text).await {
            After::Close if self.persistent => After::KeepAlive,
            after => after,
        }
    }

    /// The whole answer, head and body.
    fn compose(&self, contact: Option<&str>) -> Vec<u8> {
        let mut body = format!("sluice: {}\n", self.text);
        let mut line = String::new();
        // Writing to a String cannot fail.
        if let Some(reason) = self.reason {
            let _ = write!(line, "{}", reason.as_str());
            let _ = writeln!(body, "reason: {}", reason.as_str());
        }
        if let Some(route) = self.route {
            let host = route.wanted.host_text().unwrap_or_else(|| "-".into());
            let source = route.asker.source();
            let _ = write!(line, "; destination={host}:{}; source={source}", route.wanted.port);
            let _ = writeln!(body, "destination: {host}:{}\nsource: {source}", route.wanted.port);
        }
        if let Some(remedy) = self.remedy {
            let _ = write!(line, "; remedy={}", remedy.lines().map(str::trim).collect::<Vec<_>>().join(" "));
            let _ = writeln!(body, "remedy: {remedy}");
        }
        if let Some(contact) = contact {
            let _ = write!(line, "; contact={contact}");
            let _ = writeln!(body, "contact: {contact}");
        }
        if let Some(id) = self.request_id {
            let _ = write!(line, "; request-id={id}");
            let _ = writeln!(body, "request id: {id}");
        }
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
            self.status,
            reason_phrase(self.status),
            body.len()
        );
        if self.reason.is_some() {
            let _ = write!(head, "x-sluice-reason: {}\r\n", one_line(&line));
        }
        if let Some(id) = self.request_id {
            let _ = write!(head, "x-request-id: {}\r\n", one_line(id));
        }
        if let Some((name, value)) = self.header {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str(if self.persistent { "\r\n" } else { "Connection: close\r\n\r\n" });
        let mut whole = head.into_bytes();
        if !self.head_only {
            whole.extend_from_slice(body.as_bytes());
        }
        whole
    }
}

/// Sends an answer as it is, noted in the record with this status. Nothing follows it.
pub(super) async fn send_raw<E: Engine>(
    client: &Client<E>,
    record: &mut Record<E>,
    status: u16,
    bytes: &[u8],
) -> After {
    record.code(status);
    record.response_bytes += bytes.len() as u64;
    let mut buffer = client.worker().engine.buffer();
    if !buffer.append(bytes) {
        buffer = Buffer::from(bytes.to_vec());
    }
    // A client that does not read must not keep us: the answer gets as long as a lingering close.
    let limit_ms = client.worker().snapshot().limits.linger_timeout_ms;
    client.deadline.set(client.after_ms(limit_ms));
    match client.deadline.run(client.stream.send(buffer)).await {
        Ok(Ok(())) => After::Close,
        // It is gone, or has part of an answer and takes no more.
        Ok(Err(_)) | Err(_) => {
            record.flag(ResponseFlags::DC);
            After::Reset
        }
    }
}

/// Text as a header value: visible ASCII on one line, whatever it was.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// What would let a denied request through, in the words of the configuration. A listener of our own is never dialled,
/// whatever the configuration says. `tunnel`: a CONNECT, whose inside nobody has seen.
pub(super) fn remedy<E: Engine>(worker: &Worker<E>, route: &Route, tunnel: bool) -> Option<String> {
    if let Some(original) = route.wanted.original.filter(|_| route.wanted.host.is_none())
        && let Err(refused) = worker.snapshot().policy.guard(original, route.decision.service)
        && refused.class == GuardClass::OwnListener
    {
        return Some(refused.to_string());
    }
    let host = route.wanted.host_text()?;
    let port = route.wanted.port;
    let rule =
        route.service.as_ref().map(|service| format!("service {}/{}", service.namespace, service.name));
    Some(match (route.reason(), rule) {
        (Reason::NotRegistered, _) => {
            let snapshot = worker.snapshot();
            let taken = |name: &str| snapshot.policy.service_by_name(DEFAULT_NAMESPACE, name).is_some();
            register(&host, port, tunnel, taken)
        }
        (Reason::PortNotRegistered, _) => {
            let (protocol, doubt) = protocol(port, tunnel);
            let doubt = doubt.map(|doubt| format!(" ({doubt})")).unwrap_or_default();
            format!(
                "add {{ number = {port}, protocol = \"{protocol}\" }} to the ports of the service that has {host}{doubt}"
            )
        }
        (Reason::WorkloadNotAllowed, Some(rule)) => format!("add this source to allow of {rule}"),
        (Reason::WorkloadDenied, Some(rule)) => format!("a line of deny of {rule} names this source"),
        (Reason::Expired, Some(rule)) => format!("{rule} has expired: renew its expires"),
        (Reason::Expired, None) => "the rule for this destination has expired: renew its expires".to_owned(),
        _ => return None,
    })
}

/// The namespace of a service that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The protocol to declare for a port, and what is to be said where that is a guess. A request is HTTP, whatever its port; what a tunnel
/// carries is known by convention alone (IANA's service names; 8443, 6443 and 9443 by use), and where there is none TCP lets it pass.
fn protocol(port: u16, tunnel: bool) -> (&'static str, Option<&'static str>) {
    let by_convention = match port {
        443 if !tunnel => "TLS",
        _ if !tunnel => "HTTP",
        443 | 465 | 636 | 853 | 989 | 990 | 993 | 995 | 5061 | 5671 | 6443 | 8443 | 8883 | 9443 => "TLS",
        80 | 8080 => "HTTP",
        3306 => "MYSQL",
        5432 => "POSTGRES",
        6379 => "REDIS",
        27017 => "MONGO",
        _ => return ("TCP", Some("or \"TLS\", if it carries TLS: then the name inside must fit, too")),
    };
    (by_convention, None)
}

/// The service that would have this destination, in lines that can be put into a configuration as they are: under a name that is not
/// `taken`.
fn register(host: &str, port: u16, tunnel: bool, taken: impl Fn(&str) -> bool) -> String {
    let (protocol, doubt) = protocol(port, tunnel);
    let doubt = doubt.map(|doubt| format!(" # {doubt}")).unwrap_or_default();
    let destination = match host.parse::<IpAddr>() {
        Ok(address) => format!("addresses = [\"{}\"]", Cidr::single(address.to_canonical())),
        Err(_) => format!("hosts = [\"{host}\"]"),
    };
    let plain = host.replace(['.', ':'], "-");
    let numbered = (2..SUGGESTED_NAMES_MAX).map(|number| format!("{plain}-{number}"));
    let name = std::iter::once(plain.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or(plain);
    format!(
        "register it:\n    [[service]]\n    name = \"{name}\"\n    {destination}\n    ports = [{{ number = {port}, protocol = \"{protocol}\" }}]{doubt}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_and_no_text_can_forge_a_header() {
        let answer = Answer {
            status: 502,
            text: "not registered",
            reason: Some(Reason::NotRegistered),
            remedy: Some("line\r\nSet-Cookie: a=b"),
            request_id: Some("id\r\nx: y"),
            ..Answer::default()
        };
        let text = String::from_utf8(answer.compose(Some("ask #platform"))).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
        assert!(
            !head.lines().any(|line| line.starts_with("Set-Cookie") || line.starts_with("x: ")),
            "{head}"
        );
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("x-sluice-reason: not_registered; remedy=line"));
        assert!(head.contains("contact=ask #platform"));
        assert!(body.contains("reason: not_registered\n"));
    }

    #[test]
    fn an_address_is_registered_as_one() {
        for (host, port, line, name) in [
            ("a.test", 80, "hosts = [\"a.test\"]", "a-test"),
            ("198.51.100.10", 80, "addresses = [\"198.51.100.10/32\"]", "198-51-100-10"),
            ("2001:db8::7", 443, "addresses = [\"2001:db8::7/128\"]", "2001-db8--7"),
        ] {
            let text = register(host, port, false, |_| false);
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            assert_eq!(lines[1..4], ["[[service]]", &format!("name = \"{name}\""), line], "{text}");
            assert!(lines[4].starts_with(&format!("ports = [{{ number = {port}, ")), "{text}");
        }
    }

    #[test]
    fn a_suggested_name_is_not_one_that_is_taken() {
        let taken = |name: &str| ["a-b-test", "a-b-test-2"].contains(&name);
        let text = register("a.b.test", 80, false, taken);
        assert!(text.contains("name = \"a-b-test-3\""), "{text}");
    }

    #[test]
    fn what_a_tunnel_carries_is_not_called_http() {
        for (port, tunnel, wanted) in [
            (80, false, "HTTP"),
            (8022, false, "HTTP"),
            (443, false, "TLS"),
            (8443, false, "HTTP"),
            (443, true, "TLS"),
            (8443, true, "TLS"),
            (5432, true, "POSTGRES"),
            (80, true, "HTTP"),
            (22, true, "TCP"),
            (8022, true, "TCP"),
        ] {
            let (given, doubt) = protocol(port, tunnel);
            assert_eq!((given, doubt.is_some()), (wanted, wanted == "TCP"), "{port} {tunnel}");
        }
    }
}
