//! A ServiceEntry and the TOML that `import istio` makes of it decide the same: generated entries, random questions.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::select;
use sluice_config::Loaded;
use sluice_policy::{
    Host, HostBuf, Identity, Origin, Proof, Request, ServiceInput, Snapshot, Source, UnixSeconds, compile,
    explain, parse_host,
};

use crate::common::accepted;
use crate::istio::{import, load_yaml};

const HOSTS: &[&str] =
    &["a.example", "b.a.example", "*.a.example", "*.example", "Bücher.example", "c.example", "*"];
const ADDRESSES: &[&str] =
    &["198.51.100.7", "198.51.100.0/24", "203.0.113.9/16", "2001:db8::/32", "2001:db8::7", "nowhere"];
const PROTOCOLS: &[&str] = &["HTTP", "https", "TLS", "TCP", "Mongo", "GRPC-Web", "UDP", ""];
const RESOLUTIONS: &[&str] = &["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS", ""];
const ENDPOINTS: &[&str] = &["192.0.2.1", "2001:db8::1", "origin.example", "unix:///x"];
const NUMBERS: &[u16] = &[80, 443, 5432];

/// Mostly what is valid together, since whatever is not is refused before anything can be compared.
fn entry() -> impl Strategy<Value = String> {
    let hosts = prop::collection::vec(select(HOSTS), 1..3);
    let addresses = prop::collection::vec(select(ADDRESSES), 0..3);
    let ports =
        prop::collection::vec((select(NUMBERS), select(PROTOCOLS), prop::option::of(1..9000_u16)), 1..3);
    let endpoints = prop::collection::vec((select(ENDPOINTS), 0..3_u32, prop::option::of(1..9000_u16)), 0..3);
    let assigned = prop::option::of(select(&["240.240.0.1", "2001:2::1"][..]));
    (hosts, addresses, ports, select(RESOLUTIONS), endpoints, assigned, any::<bool>()).prop_map(
        |(hosts, addresses, ports, resolution, endpoints, assigned, internal)| {
            let hosts: Vec<String> = hosts.iter().map(|host| format!("{host:?}")).collect();
            let mut text = format!("  hosts: [{}]\n", hosts.join(", "));
            if !addresses.is_empty() {
                text += &format!("  addresses: {addresses:?}\n");
            }
            text += "  ports:\n";
            for (index, (number, protocol, target)) in ports.iter().enumerate() {
                text += &format!("  - {{number: {number}, name: p{index}, protocol: {protocol:?}");
                text += &target.map(|target| format!(", targetPort: {target}")).unwrap_or_default();
                text += "}\n";
            }
            if !resolution.is_empty() {
                text += &format!("  resolution: {resolution}\n");
            }
            if internal {
                text += "  location: MESH_INTERNAL\n";
            }
            if !endpoints.is_empty() && !matches!(resolution, "NONE" | "DYNAMIC_DNS" | "") {
                text += "  endpoints:\n";
                for (address, weight, port) in endpoints {
                    text += &format!("  - {{address: {address:?}, weight: {weight}");
                    text += &port.map(|port| format!(", ports: {{p0: {port}}}")).unwrap_or_default();
                    text += "}\n";
                }
            }
            if let Some(address) = assigned {
                text += &format!("status:\n  addresses: [{{value: {address:?}}}]\n");
            }
            text
        },
    )
}

fn document(index: usize, rest: &str) -> String {
    let version = ["v1", "v1beta1", "v1alpha3"][index % 3];
    format!(
        "---\napiVersion: networking.istio.io/{version}\nkind: ServiceEntry\nmetadata:\n  name: e{index}\nspec:\n{rest}"
    )
}

fn without_origin(services: &[ServiceInput]) -> Vec<ServiceInput> {
    let nowhere = Origin::new("", 0);
    services.iter().map(|service| ServiceInput { origin: nowhere.clone(), ..service.clone() }).collect()
}

/// The trail without the places, which are all that may differ.
fn trail(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        let end = rest[start..].find(']').map_or(rest.len(), |end| start + end + 1);
        let is_place = rest[start..end].contains(".yaml:") || rest[start..end].contains(".toml:");
        out += if is_place { &rest[..start] } else { &rest[..end] };
        rest = &rest[end..];
    }
    out + rest
}

fn compiled(loaded: &Loaded) -> Snapshot {
    compile(loaded.plan.policy_input.clone()).unwrap()
}

const ASKED: &[&str] = &[
    "a.example",
    "b.a.example",
    "x.b.a.example",
    "example",
    "xn--bcher-kva.example",
    "c.example",
    "d.test",
    "198.51.100.7",
    "203.0.113.9",
    "[2001:db8::7]",
    "240.240.0.1",
    "192.0.2.1",
];

fn question(host: &str, port: u16, named: bool) -> impl Fn(&Snapshot) -> (String, String) {
    let host = host.to_owned();
    move |snapshot| {
        let mut buf = HostBuf::new();
        let host = parse_host(host.as_bytes(), &mut buf).unwrap();
        let identity = Identity { namespace: Some("shop".into()), ..Identity::default() };
        let proof = if named { Proof::Address } else { Proof::None };
        let source =
            Source { proof, identity: named.then_some(&identity), address: IpAddr::from([10, 0, 0, 1]) };
        let original = match host {
            Host::Address(address) => Some(SocketAddr::new(address, port)),
            Host::Name(_) => None,
        };
        let request = Request { original, ..Request::new(source, host, port) };
        let (decision, steps) = explain(snapshot, &request, UnixSeconds(0));
        let service = decision.service.map(|id| {
            let service = snapshot.service(id);
            let port = decision.port.and_then(|port| service.port(port)).unwrap();
            format!(
                "{service} {} {:?} {:?} {:?}",
                service.resolution, service.endpoints, port, service.location
            )
        });
        (
            format!("{} {} {service:?} {:?}", decision.verdict, decision.reason, decision.shadow),
            steps.to_string(),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn yaml_and_its_import_decide_the_same(entries in prop::collection::vec(entry(), 1..4)) {
        // One entry's errors must not hide the others: those that are refused are refused by both ways.
        let good: Vec<String> = entries
            .iter()
            .enumerate()
            .map(|(index, rest)| document(index, rest))
            .filter(|text| {
                let (loaded, imported) = (load_yaml(text), import(text));
                assert_eq!(loaded.is_ok(), imported.is_ok(), "{text}");
                loaded.is_ok()
            })
            .collect();
        prop_assume!(!good.is_empty());
        let text = good.concat();
        let direct = load_yaml(&text).unwrap_or_else(|report| panic!("{report}\n{text}"));
        let import = import(&text).unwrap();
        let through_toml = accepted(&format!("mode = \"registry_only\"\n{}", import.toml));
        let services = |loaded: &Loaded| without_origin(&loaded.plan.policy_input.services);
        prop_assert_eq!(services(&direct), services(&through_toml), "{}\n{}", &text, &import.toml);
        let (one, other) = (compiled(&direct), compiled(&through_toml));
        for host in ASKED {
            for port in NUMBERS.iter().copied().chain([25]) {
                for named in [true, false] {
                    let ask = question(host, port, named);
                    let ((decision, steps), (same, same_steps)) = (ask(&one), ask(&other));
                    prop_assert_eq!(decision, same, "{} {}\n{}", host, port, &text);
                    prop_assert_eq!(trail(&steps), trail(&same_steps), "{} {}\n{}", host, port, &text);
                }
            }
        }
    }
}

#[test]
fn generated_entries_are_often_valid() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let valid = (0..300)
        .filter(|index| {
            let rest = entry().new_tree(&mut runner).unwrap().current();
            import(&document(*index, &rest)).is_ok_and(|import| import.services == 1)
        })
        .count();
    assert!(valid >= 40, "only {valid} of 300: the property would say little");
}
