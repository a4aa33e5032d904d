//! Istio ServiceEntry YAML: what each field means, and where each mistake is told.

use sluice_config::{Import, ImportSource, Loaded, Problem, Report, import_istio};
use sluice_policy::{Location, Protocol, Resolution, ServiceInput};

use crate::common::load_in;

/// Loads a text as the only file that `service_entries` names.
pub(crate) fn load_yaml(yaml: &str) -> Result<Loaded, Report> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("entries.yaml"), yaml).unwrap();
    load_in(folder.path(), "mode = \"registry_only\"\n[registry]\nservice_entries = [\"*.yaml\"]\n")
}

/// Imports one text.
pub(crate) fn import(yaml: &str) -> Result<Import, Report> {
    import_istio(&[ImportSource::Text { name: "entries.yaml".to_owned(), text: yaml.to_owned() }])
}

fn accepted(yaml: &str) -> (Vec<ServiceInput>, Vec<Problem>) {
    let loaded = load_yaml(yaml).unwrap_or_else(|report| panic!("refused: {report}\n{yaml}"));
    (loaded.plan.policy_input.services, loaded.warnings)
}

fn only(yaml: &str) -> ServiceInput {
    let (mut services, warnings) = accepted(yaml);
    assert_eq!(warnings, [], "{yaml}");
    assert_eq!(services.len(), 1, "{yaml}");
    services.remove(0)
}

/// An entry with these lines as its spec.
fn entry(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: ext\n  namespace: shop\nspec:\n{spec}"
    )
}

const HTTPS: &str =
    "hosts: [api.example.com]\nports:\n- {number: 443, name: tls, protocol: TLS}\nresolution: DNS\n";

#[test]
fn a_web_api_loads_as_it_is() {
    let service = only(
        "apiVersion: networking.istio.io/v1alpha3
kind: ServiceEntry
metadata:
  name: external-svc-https
spec:
  hosts:
  - api.dropboxapi.com
  - www.googleapis.com
  - '*.facebook.com'
  location: MESH_EXTERNAL
  ports:
  - number: 443
    name: https
    protocol: https
    targetPort: 8443
  - number: 80
    name: http
    protocol: HTTP
  resolution: NONE
  exportTo: ['*']
",
    );
    assert_eq!((&*service.namespace, &*service.name), ("default", "external-svc-https"));
    let hosts: Vec<&str> = service.hosts.iter().map(|host| host.as_str()).collect();
    assert_eq!(hosts, ["api.dropboxapi.com", "www.googleapis.com", "*.facebook.com"]);
    assert_eq!((service.resolution, service.location), (Resolution::None, Location::MeshExternal));
    let ports: Vec<_> =
        service.ports.iter().map(|port| (port.number, port.protocol, port.target_port)).collect();
    assert_eq!(ports, [(443, Protocol::Https, Some(8443)), (80, Protocol::Http, None)]);
    assert_eq!((service.allow, service.deny.len()), (None, 0), "every source");
    assert!(service.origin.file.ends_with("entries.yaml"), "{}", service.origin);
    assert_eq!(service.origin.line, 1);
}

#[test]
fn a_database_with_endpoints_loads_as_it_is() {
    let service = only(&entry(
        "hosts: [mysql.internal.example]
addresses: [192.192.192.192/32, 198.51.100.7]
ports:
- number: 3306
  name: mysql
  protocol: MySQL
location: MESH_INTERNAL
resolution: STATIC
endpoints:
- address: 192.0.2.1
  ports: {mysql: 3307}
- address: 2001:db8::1
  weight: 20
",
    ));
    assert_eq!((service.resolution, service.location), (Resolution::Static, Location::MeshInternal));
    let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.192.192.192/32", "198.51.100.7/32"]);
    let endpoints: Vec<_> = service
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.address.to_string(), endpoint.weight, endpoint.ports.len()))
        .collect();
    assert_eq!(endpoints, [("192.0.2.1".to_owned(), 1, 1), ("2001:db8::1".to_owned(), 20, 0)]);
    assert_eq!(service.endpoints[0].ports[0], ("mysql".into(), 3307));
}

#[test]
fn each_resolution_means_what_istio_says() {
    let with = |lines: &str| {
        only(&entry(&format!("ports: [{{number: 443, name: tls, protocol: TLS}}]\n{lines}"))).resolution
    };
    assert_eq!(with("hosts: [a.example]"), Resolution::None, "the absent one");
    assert_eq!(with("hosts: ['*.a.example']\nresolution: NONE"), Resolution::None);
    assert_eq!(with("hosts: [a.example]\nresolution: DNS"), Resolution::Dns);
    assert_eq!(with("hosts: [a.example]\nresolution: DNS_ROUND_ROBIN"), Resolution::DnsRoundRobin);
    assert_eq!(
        with("hosts: ['*.a.example']\nresolution: DYNAMIC_DNS"),
        Resolution::Dns,
        "of what is asked for"
    );
    let endpoints = "endpoints: [{address: origin.example}, {address: 192.0.2.7}]";
    assert_eq!(with(&format!("hosts: ['*.a.example']\nresolution: DNS\n{endpoints}")), Resolution::Dns);
    let endpoints = "endpoints: [{address: 192.0.2.7}]";
    assert_eq!(with(&format!("hosts: ['*.a.example']\nresolution: STATIC\n{endpoints}")), Resolution::Static);
}

#[test]
fn lists_documents_and_json_are_read() {
    let item = |name: &str| {
        format!(
            "{{\"apiVersion\": \"networking.istio.io/v1beta1\", \"kind\": \"ServiceEntry\", \"metadata\": {{\"name\": \"{name}\"}}, \
             \"spec\": {{\"hosts\": [\"{name}.example\"], \"resolution\": \"DNS\", \"ports\": \
             [{{\"number\": 443, \"name\": \"tls\", \"protocol\": \"TLS\"}}]}}}}"
        )
    };
    let list =
        format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}, {}]}}", item("a"), item("b"));
    let typed = "apiVersion: networking.istio.io/v1\nkind: ServiceEntryList\nitems:\n- metadata: {name: c}\n  spec:\n    hosts: [c.example]\n    ports: [{number: 80, name: http, protocol: HTTP}]\n";
    let text = format!("# all of them\n---\n---\n{list}\n---\n{typed}---\n{}\n...\n", item("d"));
    let (services, warnings) = accepted(&text);
    assert_eq!(warnings, []);
    let names: Vec<&str> = services.iter().map(|service| &*service.name).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let lines: Vec<u32> = services.iter().map(|service| service.origin.line).collect();
    assert_eq!(lines, [4, 4, 9, 14]);
}

#[test]
fn assigned_addresses_count_where_they_lead_somewhere() {
    let with = |spec: &str, status: &str| format!("{}status:\n  addresses:\n{status}", entry(spec));
    let ranges =
        |service: &ServiceInput| service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let service =
        only(&with(HTTPS, "  - value: 240.240.0.1\n  - {value: '2001:2::1', host: api.example.com}\n"));
    assert_eq!(ranges(&service), ["240.240.0.1/32", "2001:2::1/128"]);
    // A client reaches a TCP port by an assigned address as well: nothing to warn of.
    let tcp = HTTPS.replace("TLS", "MONGO").replace("443", "27017");
    assert_eq!(ranges(&only(&with(&tcp, "  - value: 240.240.0.1\n"))), ["240.240.0.1/32"]);
    // Another host's address must not lead to the first host; a wildcard has no name to resolve for one.
    let two = HTTPS.replace("[api", "[first.example, api");
    for spec in [two, "hosts: ['*.example.com']\nports: [{number: 443, name: t, protocol: TLS}]\n".to_owned()]
    {
        let (services, warnings) =
            accepted(&with(&spec, "  - {value: 240.240.0.2, host: api.example.com}\n"));
        assert_eq!(ranges(&services[0]), Vec::<String>::new(), "{spec}");
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].message.contains("virtual address is left out"), "{}", warnings[0]);
    }
}

/// Every warning: its spec, its line and column, a part of what it says.
const WARNED: &[(&str, u32, u32, &str)] = &[
    ("subjectAltNames: [spiffe://x/ns/y/sa/z]", 11, 3, "spec.subjectAltNames: the server's certificate"),
    (
        "endpoints: [{address: 192.0.2.1, locality: us-east-1/a}]",
        11,
        36,
        "spec.endpoints[].locality: endpoints are chosen by weight",
    ),
    ("endpoints: [{address: 192.0.2.1, network: n1}]", 11, 36, "spec.endpoints[].network: every endpoint"),
    ("endpoints: [{address: 192.0.2.1, labels: {a: b}}]", 11, 36, "spec.endpoints[].labels: has no meaning"),
    (
        "endpoints: [{address: 192.0.2.1, serviceAccount: sa}]",
        11,
        36,
        "spec.endpoints[].serviceAccount: certificates",
    ),
];

#[test]
fn what_is_not_honoured_is_named_with_its_place() {
    for (line, at, column, said) in WARNED {
        let (services, warnings) = accepted(&entry(&format!("{HTTPS}{line}")));
        assert_eq!((services.len(), warnings.len()), (1, 1), "{line}: {warnings:#?}");
        let text = warnings[0].to_string();
        assert!(text.contains(&format!("entries.yaml:{at}:{column}: {said}")), "{line}: {text}");
    }
    let tcp = "hosts: [a.example]\nresolution: DNS\nports:\n- {number: 9000, name: p, protocol: TCP}\n- {number: 53, name: dns, protocol: UDP}\n- {number: 8080, name: any}\n";
    let (services, warnings) = accepted(&entry(tcp));
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said[0].contains("yaml:10:5: spec.ports[]: a TCP port without addresses"), "{said:#?}");
    assert!(said[1].contains("yaml:11:5: spec.ports[].protocol: UDP is not carried"), "{said:#?}");
    assert!(said[2].contains("yaml:12:5: spec.ports[].protocol: without a protocol"), "{said:#?}");
    let ports: Vec<_> = services[0].ports.iter().map(|port| (port.number, port.protocol)).collect();
    assert_eq!(ports, [(9000, Protocol::Tcp), (8080, Protocol::Tcp)]);
}

#[test]
fn bookkeeping_and_other_kinds_are_one_warning_each() {
    let exported = |name: &str| {
        entry(HTTPS)
            .replace("name: ext", &format!("name: {name}\n  uid: 1234\n  labels: {{team: x}}"))
            .replace("api.example.com", &format!("{name}.example"))
            + "status:\n  observedGeneration: 3\n"
    };
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: x}\n";
    let text = format!("{}---\n{rule}---\n{}---\n{}---\n{rule}", exported("a"), exported("b"), exported("c"));
    let (services, warnings) = accepted(&text);
    assert_eq!(services.len(), 3);
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 4, "{said:#?}");
    assert!(
        said[0].contains("yaml:5:3: metadata.uid: has no meaning here and is ignored (also lines 24, 39)"),
        "{said:#?}"
    );
    assert!(said[3].contains("yaml:17:7: kind: DestinationRule is not read"), "{said:#?}");
}

#[test]
fn an_entry_without_ports_opens_none() {
    for ports in ["", "ports: []\n"] {
        let report = load_yaml(&entry(&format!("hosts: [a.example]\n{ports}"))).unwrap_err();
        assert!(report.errors[0].to_string().contains("yaml:1:1: spec.ports: no port is named"), "{report}");
    }
    let udp = "hosts: [a.example]\nports: [{number: 53, name: dns, protocol: UDP}]\n";
    let (services, warnings) = accepted(&entry(udp));
    assert!(services.is_empty(), "80 and 443 must not be opened: {services:#?}");
    assert!(warnings[0].message.contains("registers nothing"), "{warnings:#?}");
}

#[test]
fn a_range_with_host_bits_is_its_network() {
    let (services, warnings) = accepted(&entry(
        "hosts: [a.example]\naddresses: [10.1.2.3/8]\nports: [{number: 9000, name: p, protocol: TCP}]\n",
    ));
    assert_eq!(services[0].addresses[0].to_string(), "10.0.0.0/8");
    assert!(warnings[0].to_string().contains("yaml:8:15: spec.addresses[]: has bits set"), "{warnings:#?}");
}

/// Every error of a spec: the spec, line and column, key, a part of the message, a part of the remedy.
const REFUSED: &[(&str, u32, u32, &str, &str, &str)] = &[
    (
        "hosts: []\nports: [{number: 80, name: a, protocol: HTTP}]",
        1,
        1,
        "spec.hosts",
        "names no host",
        "spec.hosts",
    ),
    (
        "hosts: ['*']\nports: [{number: 80, name: a, protocol: HTTP}]",
        7,
        11,
        "spec.hosts[0]",
        "\"*\" is no host",
        "allow_any",
    ),
    ("hosts: [a.example, 'x:80']", 7, 22, "spec.hosts[1]", "has a port", "and the port under `ports`"),
    ("hosts: ['http://a.example/']", 7, 11, "spec.hosts[0]", "has a scheme", "\"a.example\""),
    ("hosts: [192.0.2.1]", 7, 11, "spec.hosts[0]", "is an address", "`addresses`"),
    ("hosts: ['a*.example']", 7, 11, "spec.hosts[0]", "`*`", "\"*.example\""),
    ("hosts: a.example", 7, 10, "spec.hosts", "expected a list", "- "),
    ("hosts: [80]", 7, 11, "spec.hosts[0]", "expected a text, found `80`", "\"80\""),
    ("hosts: ['']", 7, 11, "spec.hosts[0]", "empty", ""),
    ("hosts: [a.example]\naddresses: [nowhere]", 8, 15, "spec.addresses[0]", "\"nowhere\"", "`hosts`"),
    (
        "hosts: [a.example]\naddresses: [10.0.0.0/8]\nresolution: DNS",
        8,
        15,
        "spec.addresses[0]",
        "is a range",
        "NONE or STATIC",
    ),
    (
        "hosts: [a.example]\nports: [{number: 0, name: a, protocol: TLS}]",
        8,
        20,
        "spec.ports[0].number",
        "from 1 to 65535",
        "",
    ),
    (
        "hosts: [a.example]\nports: [{number: 70000, name: a, protocol: TLS}]",
        8,
        20,
        "spec.ports[0].number",
        "70000",
        "",
    ),
    (
        "hosts: [a.example]\nports: [{number: '443', name: a, protocol: TLS}]",
        8,
        20,
        "spec.ports[0].number",
        "whole number",
        "without quotes: 443",
    ),
    (
        "hosts: [a.example]\nports: [{number: 0x50, name: a, protocol: TLS}]",
        8,
        20,
        "spec.ports[0].number",
        "whole number",
        "",
    ),
    (
        "hosts: [a.example]\nports: [{name: a, protocol: TLS}]",
        8,
        11,
        "spec.ports[0].number",
        "no number",
        "add number",
    ),
    (
        "hosts: [a.example]\nports: [{number: 443, protocol: TLS}]",
        8,
        11,
        "spec.ports[0].name",
        "no name",
        "add name",
    ),
    (
        "hosts: [a.example]\nports: [{number: 443, name: 'a b', protocol: TLS}]",
        8,
        11,
        "spec.ports[0].name",
        "no port name",
        "",
    ),
    (
        "hosts: [a.example]\nports: [{number: 443, name: a, protocol: QUIC}]",
        8,
        11,
        "spec.ports[0].protocol",
        "\"QUIC\"",
        "TLS",
    ),
    (
        "hosts: [a.example]\nports: [{number: 443, name: a, protocol: TLS, targetPort: 70000}]",
        8,
        61,
        "spec.ports[0].targetPort",
        "70000",
        "",
    ),
    (
        "hosts: [a.example]\nports: [{number: 443, name: a, protocol: TLS, target_port: 1}]",
        8,
        49,
        "spec.ports[0].target_port",
        "unknown field",
        "`targetPort`",
    ),
    (
        "hosts: [a.example]\nports:\n- {number: 443, name: a, protocol: TLS}\n- {number: 443, name: b, protocol: TLS}",
        10,
        5,
        "spec.ports[1]",
        "443 is named twice",
        "one entry",
    ),
    (
        "hosts: [a.example]\nports:\n- {number: 443, name: a, protocol: TLS}\n- {number: 80, name: a, protocol: HTTP}",
        10,
        5,
        "spec.ports[1]",
        "two ports are named",
        "another name",
    ),
    ("hosts: [a.example]\nlocation: MESH", 8, 13, "spec.location", "\"MESH\"", "MESH_INTERNAL"),
    ("hosts: [a.example]\nresolution: STATIC", 8, 15, "spec.resolution", "nothing to dial", "spec.endpoints"),
    ("hosts: [a.example]\nresolution: MAGIC", 8, 15, "spec.resolution", "\"MAGIC\"", "DYNAMIC_DNS"),
    ("hosts: [a.example]\nendpoints: [{address: 192.0.2.1}]", 1, 1, "spec.resolution", "NONE", "STATIC"),
    ("hosts: ['*.example']\nresolution: DNS", 8, 15, "spec.resolution", "wildcard", "DYNAMIC_DNS or NONE"),
    (
        "hosts: [a.example]\nresolution: DNS_ROUND_ROBIN\nendpoints: [{address: a.b}, {address: c.d}]",
        8,
        15,
        "spec.resolution",
        "one endpoint",
        "DNS",
    ),
    (
        "hosts: [a.example]\nresolution: DYNAMIC_DNS\nports: [{number: 443, name: a, protocol: TLS}]",
        7,
        11,
        "spec.hosts[0]",
        "no wildcard",
        "DNS",
    ),
    (
        "hosts: ['*.example']\nresolution: DYNAMIC_DNS\naddresses: [192.0.2.1]\nports: [{number: 443, name: a, protocol: TLS}]",
        9,
        15,
        "spec.addresses[0]",
        "no addresses",
        "NONE",
    ),
    (
        "hosts: ['*.example']\nresolution: DYNAMIC_DNS\nendpoints: [{address: a.b}]\nports: [{number: 443, name: a, protocol: TLS}]",
        9,
        15,
        "spec.endpoints[0]",
        "no endpoints",
        "STATIC",
    ),
    (
        "hosts: ['*.example']\nresolution: DYNAMIC_DNS\nports: [{number: 443, name: a, protocol: TCP}]",
        9,
        11,
        "spec.ports[0].protocol",
        "HTTP, HTTP2, GRPC or TLS",
        "",
    ),
    (
        "hosts: [a.example, b.example]\nresolution: DNS\nports: [{number: 443, name: a, protocol: TCP}]",
        9,
        11,
        "spec.ports[0]",
        "several hosts",
        "protocol",
    ),
    (
        "hosts: [a.example]\nresolution: STATIC\nendpoints: [{address: 'unix:///var/run/x.sock'}]",
        9,
        25,
        "spec.endpoints[0].address",
        "Unix socket",
        "IP address",
    ),
    (
        "hosts: [a.example]\nresolution: STATIC\nendpoints: [{address: a.example}]",
        9,
        25,
        "spec.endpoints[0].address",
        "STATIC resolves no names",
        "DNS",
    ),
    (
        "hosts: [a.example]\nresolution: STATIC\nendpoints: [{network: n1}]",
        9,
        15,
        "spec.endpoints[0].address",
        "no address",
        "network alone",
    ),
    (
        "hosts: [a.example]\nresolution: DNS\nendpoints: [{address: '*.b.example'}]\nports: [{number: 443, name: a, protocol: TLS}]",
        9,
        25,
        "spec.endpoints[0].address",
        "wildcard",
        "",
    ),
    (
        "hosts: [a.example]\nresolution: DNS\nendpoints: [{address: b.example, ports: {b: 1}}]\nports: [{number: 443, name: a, protocol: TLS}]",
        9,
        47,
        "spec.endpoints[0].ports.b",
        "no port named \"b\"",
        "ports are a",
    ),
    (
        "hosts: [a.example]\nresolution: DNS\nendpoints: [{address: b.example, weight: 4294967296}]\nports: [{number: 443, name: a, protocol: TLS}]",
        9,
        44,
        "spec.endpoints[0].weight",
        "4294967296",
        "",
    ),
    (
        "hosts: [a.example]\nworkloadSelector: {labels: {a: b}}",
        8,
        3,
        "spec.workloadSelector",
        "selects workloads",
        "spec.endpoints",
    ),
    ("hosts: [a.example]\nexportTo: ['.']", 8, 14, "spec.exportTo[0]", "fewer namespaces", "`allow`"),
    (
        "hosts: [a.example]\nexportTo:\n- payments",
        9,
        5,
        "spec.exportTo[0]",
        "\"payments\"",
        "set it to [\"*\"]",
    ),
    ("hosts: [a.example]\nexportto: ['.']", 8, 3, "spec.exportto", "unknown field", "`exportTo`"),
];

#[test]
fn every_mistake_in_a_spec_has_its_place_and_remedy() {
    for (spec, line, column, key, message, remedy) in REFUSED {
        let ports = if spec.contains("ports:\n") || spec.contains("ports: [") {
            ""
        } else {
            "\nports: [{number: 443, name: tls, protocol: TLS}]"
        };
        let text = entry(&format!("{spec}{ports}"));
        for report in [load_yaml(&text).map(drop), import(&text).map(drop)] {
            let Err(Report { errors, .. }) = report else { panic!("accepted:\n{text}") };
            assert_eq!(errors.len(), 1, "{spec}: {errors:#?}");
            let error = &errors[0];
            assert!(error.file.ends_with("entries.yaml"), "{error}");
            assert_eq!(
                (error.line, error.column, error.key.as_str()),
                (*line, *column, *key),
                "{spec}: {error}"
            );
            assert!(error.message.contains(message), "{spec}: {error}");
            assert!(error.suggestion.as_deref().unwrap_or_default().contains(remedy), "{spec}: {error}");
        }
    }
}

#[test]
fn what_is_no_service_entry_is_told() {
    let good = entry(HTTPS);
    for (text, line, column, said) in [
        (good.replace("/v1\n", "/v2\n"), 1, 13, "apiVersion: unknown version \"v2\""),
        (good.replace("kind: ServiceEntry\n", ""), 1, 1, "`kind` is missing"),
        (good.replace("apiVersion: networking.istio.io/v1\n", ""), 1, 1, "`apiVersion` is missing"),
        (good.replace("  name: ext\n", ""), 1, 1, "metadata.name: the ServiceEntry has no name"),
        (good.replace("name: ext", "name: a/b"), 4, 9, "metadata.name: \"a/b\" contains a slash"),
        (good.replace("name: ext", "name: ext\n  nmespace: x"), 5, 3, "metadata.nmespace: unknown field"),
        (good.split("spec:").next().unwrap().to_owned(), 1, 1, "spec: the ServiceEntry has no spec"),
        (good.replace("spec:", "specs:"), 6, 1, "specs: unknown field"),
        (good.replace("resolution: DNS", "hosts: [b.example]"), 10, 3, "`hosts` is there already, at line 7"),
        (good.replace("[api.example.com]", "[api.example.com"), 8, 8, "not valid YAML"),
        ("- a\n".to_owned(), 1, 1, "expected a Kubernetes resource, found a list"),
        ("  \n".to_owned(), 1, 1, "the file is empty"),
        ("apiVersion: v1\nkind: List\nitems: {}\n".to_owned(), 3, 8, "items: expected a list"),
    ] {
        let Err(report) = load_yaml(&text) else { panic!("accepted:\n{text}") };
        let shown = report.errors.iter().map(|error| format!("{error}\n")).collect::<String>();
        let place = format!("entries.yaml:{line}:{column}: ");
        let found = shown.lines().any(|line| line.contains(&place) && line.contains(said));
        assert!(found, "{line}:{column}: {said}\n{report}\n{text}");
    }
}

#[test]
fn a_text_cut_within_its_first_words_is_refused() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: x\n";
    let list = "apiVersion: v1\nkind: List\nitems:\n- kind: ServiceEntry\n";
    for (text, whole) in [
        (entry(HTTPS), ""),
        (rule.to_owned(), "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: "),
        (list.to_owned(), "apiVersion: v1\nkind: List\nitems:"),
    ] {
        let end = if whole.is_empty() { text.find("  hosts").unwrap() } else { whole.len() };
        for cut in 1..end {
            assert!(load_yaml(&text[..cut]).is_err(), "accepted:\n{}", &text[..cut]);
        }
    }
    // Whatever stands first.
    let kind_first = "kind: ServiceEntry\napiVersion: networking.istio.io/v1\nmetadata: {name: x}\n";
    for cut in 1..kind_first.len() {
        assert!(load_yaml(&kind_first[..cut]).is_err(), "accepted:\n{}", &kind_first[..cut]);
    }
}

#[test]
fn resources_that_are_not_read_are_whole_resources() {
    let of_istio = "apiVersion: networking.istio.io/v1\n";
    for (text, line, column, key, message, remedy) in [
        (
            format!("{of_istio}kind: Serv"),
            2,
            7,
            "kind",
            "\"Serv\" is no kind of networking.istio.io",
            "complete?",
        ),
        (
            format!("{of_istio}kind: serviceentry\nmetadata: {{name: x}}"),
            2,
            7,
            "kind",
            "no kind",
            "ServiceEntry",
        ),
        (format!("{of_istio}kind: Gateway\n"), 1, 1, "metadata.name", "the Gateway has no name", "complete?"),
        (
            format!("{of_istio}kind: Gateway\nmetadata:\n"),
            1,
            1,
            "metadata.name",
            "has no name",
            "metadata.name",
        ),
        (
            format!("{of_istio}kind: Gateway\nmetadata:\n  name: ''\n"),
            1,
            1,
            "metadata.name",
            "has no name",
            "",
        ),
        ("apiVersion: v1\nkind: Lis".to_owned(), 1, 1, "metadata.name", "the Lis has no name", "complete?"),
        ("apiVersion: v1\nkind: List\n".to_owned(), 1, 1, "items", "the list has no items", "items: []"),
    ] {
        let errors = load_yaml(&text).unwrap_err().errors;
        assert_eq!(errors.len(), 1, "{errors:#?}");
        let error = &errors[0];
        assert_eq!((error.line, error.column, error.key.as_str()), (line, column, key), "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(error.suggestion.as_deref().unwrap_or_default().contains(remedy), "{error}");
    }
    for whole in [
        format!("{of_istio}kind: Gateway\nmetadata: {{name: x}}\n"),
        format!("{of_istio}kind: VirtualServiceList\nitems: []\n"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n".to_owned(),
        "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: x-}\n".to_owned(),
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n".to_owned(),
    ] {
        let (services, warnings) = accepted(&whole);
        assert_eq!((services.len(), warnings.len()), (0, 1), "{whole}: {warnings:#?}");
        assert!(warnings[0].message.contains("is not read"), "{warnings:#?}");
    }
}

#[test]
fn a_weight_is_any_uint32() {
    let spec = "hosts: [a.example]\nports: [{number: 443, name: tls, protocol: TLS}]\nresolution: STATIC\n\
                endpoints: [{address: 192.0.2.1, weight: 4294967295}, {address: 192.0.2.2, weight: 1000001}, {address: 192.0.2.3}]\n";
    let weights = |service: &ServiceInput| -> Vec<u32> {
        service.endpoints.iter().map(|endpoint| endpoint.weight).collect()
    };
    assert_eq!(weights(&only(&entry(spec))), [u32::MAX, 1_000_001, 1]);
    let folder = tempfile::tempdir().unwrap();
    let toml = import(&entry(spec)).unwrap().toml;
    let loaded = load_in(folder.path(), &format!("mode = \"registry_only\"\n{toml}")).unwrap();
    assert_eq!(weights(&loaded.plan.policy_input.services[0]), [u32::MAX, 1_000_001, 1]);
}

#[test]
fn a_protocol_that_istio_does_not_know_is_named() {
    let spec = "hosts: [a.example]\naddresses: [192.0.2.1]\nports: [{number: 5432, name: db, protocol: postgres}]\nresolution: DNS\n";
    let (services, warnings) = accepted(&entry(spec));
    assert_eq!(services[0].ports[0].protocol, Protocol::Postgres);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!((warnings[0].line, warnings[0].key.as_str()), (9, "spec.ports[].protocol"));
    assert!(warnings[0].message.contains("Istio refuses it"), "{warnings:#?}");
}

#[test]
fn everybody_stands_alone_in_an_export() {
    for list in ["['*', '.']", "['.', '*']", "['*', payments]", "['*', '*']"] {
        let error = load_yaml(&entry(&format!("{HTTPS}exportTo: {list}\n"))).unwrap_err().errors;
        assert_eq!(error.len(), 1, "{list}: {error:#?}");
        assert_eq!(error[0].key, "spec.exportTo", "{list}");
        assert!(error[0].message.contains("\"*\" cannot stand with others"), "{list}: {error:#?}");
    }
}

#[test]
fn lists_within_lists_are_read_to_a_bound() {
    let nested = |depth: usize| {
        let item = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a}, spec: {hosts: [a.example], \
                    resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}}";
        (0..depth).fold(item.to_owned(), |item, _| format!("{{apiVersion: v1, kind: List, items: [{item}]}}"))
    };
    for depth in [1, 2, 8] {
        assert_eq!(&*only(&nested(depth)).name, "a", "{depth}");
    }
    let error = load_yaml(&nested(9)).unwrap_err().errors.remove(0);
    assert!(error.message.contains("more than 8 lists within one another"), "{error}");
    let inner =
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items:\n  - kind: Pod\n";
    let error = load_yaml(inner).unwrap_err().errors.remove(0);
    assert_eq!((error.line, error.key.as_str()), (7, "items[0].items[0]"), "{error}");
}

#[test]
fn every_error_of_every_file_is_told_at_once() {
    let text = format!(
        "{}---\n{}---\n{}",
        entry("hosts: ['*']\nports: [{number: 1, name: a, protocol: x}]"),
        entry(HTTPS).replace("ext", "good"),
        entry(
            "hosts: [a.example]\nexportTo: [x]\nworkloadSelector: {}\nports: [{number: 443, name: t, protocol: TLS}]"
        )
    );
    let report = load_yaml(&text).unwrap_err();
    let lines: Vec<u32> = report.errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [7, 8, 28, 29], "{report}");
}

#[test]
fn the_remedy_for_a_narrower_export_works() {
    let spec = |line: &str| entry(&format!("{HTTPS}{line}"));
    for narrow in ["exportTo: ['.']\n", "exportTo: [payments]\n"] {
        assert!(import(&spec(narrow)).is_err(), "{narrow}: it would be open to everybody");
    }
    // As the remedy says: opened, imported, and narrowed in the TOML.
    for open in ["exportTo: ['*']\n", ""] {
        let imported = import(&spec(open)).unwrap_or_else(|report| panic!("{open}: {report}"));
        let narrowed = imported
            .toml
            .replace("\nresolution = ", "\nallow = [{ namespace = \"payments\" }]\nresolution = ");
        assert_ne!(narrowed, imported.toml);
        let folder = tempfile::tempdir().unwrap();
        let loaded = load_in(folder.path(), &format!("mode = \"registry_only\"\n{narrowed}")).unwrap();
        let services = loaded.plan.policy_input.services;
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].allow.as_ref().map(Vec::len), Some(1), "{narrowed}");
    }
}
