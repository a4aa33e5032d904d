//! Who is refused, and in which words: users without credentials, TLS clients, callers whom a service does not allow.

use std::time::Duration;

use sluice_bridge::{Auth, DenyTls};
use sluice_engine::{Engine, Stream};
use sluice_policy::Mode;
use sluice_proto::http1::Method;
use sluice_telemetry::access_log::Field;
use sluice_tests::sim::client::{Client, client_hello, open};
use sluice_tests::sim::origin::Behaviour;
use sluice_tests::sim::world::{PROXY, Setup, TCP, TLS, policy, registry_only, undisturbed};
use sluice_tests::sim::{connect_to, get};

const BASIC_ANN: &str = "Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n";
const BASIC_BOB: &str = "Proxy-Authorization: Basic Ym9iOnNlY3JldA==\r\n";

fn with_credentials(request: &[u8], line: &str) -> Vec<u8> {
    let end = request.len() - 2;
    [&request[..end], line.as_bytes(), b"\r\n"].concat()
}

#[test]
fn who_must_authenticate_does_and_a_removed_user_is_cut() {
    let users = vec![("ann", "secret", "ann-app"), ("bob", "secret", "bob-app")];
    let (world, engine) =
        undisturbed(registry_only(), Setup { users, auth: Auth::Required, ..Setup::default() });
    let good = get("allowed.test", Behaviour::Plain, 5);
    let (mut ann, mut bob, mut inner) = world.sim.block_on(async {
        let mut client = open(&engine, PROXY, &good).await;
        let refused = client.response(Method::Get).await.unwrap();
        assert_eq!((refused.status, refused.persistent), (407, true));
        client.send(&with_credentials(&good, "Proxy-Authorization: Basic YW5uOndyb25n\r\n")).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 407);
        client.send(&with_credentials(&good, BASIC_ANN)).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
        client.send(&good).await.unwrap();
        assert_eq!(client.response(Method::Get).await.unwrap().status, 407, "each request by itself");
        let mut tunnels = Vec::new();
        for (line, authority) in [
            (BASIC_ANN, "allowed.test:9000"),
            (BASIC_BOB, "allowed.test:9000"),
            (BASIC_ANN, "allowed.test:80"),
        ] {
            let mut client = open(&engine, PROXY, &with_credentials(&connect_to(authority), line)).await;
            assert_eq!(client.response(Method::Connect).await.unwrap().status, 200);
            tunnels.push(client);
        }
        let inner = tunnels.pop().unwrap();
        let mut bob = tunnels.pop().unwrap();
        bob.send(b"ping").await.unwrap();
        bob.exactly(4).await.unwrap();
        (tunnels.pop().unwrap(), bob, inner)
    });
    let workload = |at: usize| world.records()[at].get(Field::SourceWorkload).map(<[u8]>::to_vec);
    assert_eq!([workload(0), workload(2)], [None, Some(b"ann-app".to_vec())]);
    // The same users again: nobody is disturbed.
    world.publish(registry_only());
    world.sim.run_for(Duration::from_secs(1));
    assert_eq!(world.metric("egress_flows_revoked_total", ""), 0.0);
    world.set_users(vec![("bob", "secret", "bob-app")]);
    world.publish(registry_only());
    world.sim.block_on(async {
        assert!(ann.to_end().await.is_err(), "a removed user's tunnel is cut");
        bob.send(b"pong").await.unwrap();
        assert_eq!(bob.exactly(4).await.unwrap(), b"pong");
        inner.send(b"GET /Plain/10/5 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(inner.response(Method::Get).await.unwrap().status, 407, "an idle tunnel of requests, too");
    });
    assert_eq!(world.metric("egress_flows_revoked_total", ""), 1.0);
    drop(bob);
    world.stop();
}

#[test]
fn optional_credentials_are_checked_where_they_are_sent() {
    let users = vec![("ann", "secret", "ann-app")];
    let (world, engine) =
        undisturbed(registry_only(), Setup { users, auth: Auth::Optional, ..Setup::default() });
    let good = get("allowed.test", Behaviour::Plain, 5);
    world.sim.block_on(async {
        let mut client = open(&engine, PROXY, &good).await;
        for (line, status) in [("", 200), (BASIC_ANN, 200), ("", 200), (BASIC_BOB, 407)] {
            client.send(&with_credentials(&good, line)).await.unwrap();
            if line.is_empty() && world.records().is_empty() {
                assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
            }
            assert_eq!(client.response(Method::Get).await.unwrap().status, status);
        }
    });
    let proofs: Vec<_> = world
        .records()
        .iter()
        .map(|record| String::from_utf8_lossy(record.get(Field::Proof).unwrap()).into_owned())
        .collect();
    assert_eq!(
        proofs,
        ["none", "none", "credentials", "none", "none"],
        "a proof lasts as long as it is shown"
    );
    world.stop();
}

#[test]
fn a_refused_tls_client_may_be_told_why() {
    let (world, engine) =
        undisturbed(registry_only(), Setup { deny_tls: DenyTls::Alert, ..Setup::default() });
    world.sim.block_on(async {
        let mut client = open(&engine, TLS, &client_hello("denied.test")).await;
        assert_eq!(
            client.to_end().await.unwrap(),
            [21, 3, 3, 0, 2, 2, 112],
            "unrecognized_name, then the end"
        );
        // A probe of the port asks for nothing: it is no denial.
        for reset in [false, true] {
            let client = open(&engine, TLS, b"").await;
            engine.sleep_until(engine.now() + Duration::from_millis(10)).await;
            if reset {
                client.stream.reset();
            }
        }
        // Half a hello, then silence: 3 s and no packet.
        let before = engine.now();
        let mut client = open(&engine, TLS, &client_hello("allowed.test")[..40]).await;
        client.to_end().await.unwrap();
        assert!((2900..4200).contains(&engine.now().since(before).as_millis()));
    });
    assert_eq!(world.sim.engine_attempts(), []);
    assert_eq!(world.reasons(), ["not_registered", "-", "-", "sniff_timeout"]);
    assert_eq!(world.metric("egress_protocol_errors_total", "sniff_timeout"), 1.0);
    assert_eq!(world.metric("istio_tcp_connections_opened_total", "BlackHoleCluster"), 2.0);
    world.stop();
}

#[test]
fn a_registered_destination_that_is_denied_says_so_on_every_door() {
    let mut input = policy(Mode::AllowAny);
    for service in &mut input.services {
        service.allow = Some(Vec::new());
    }
    let (world, engine) = undisturbed(input, Setup::default());
    world.sim.block_on(async {
        let mut client = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        assert_eq!(client.response(Method::Get).await.unwrap().status, 403);
        client.send(&connect_to("allowed.test:443")).await.unwrap();
        assert_eq!(client.response(Method::Connect).await.unwrap().status, 403);
        for (door, first) in [(TLS, client_hello("allowed.test")), (TCP, b"x".to_vec())] {
            // A denial may come before the first byte has gone.
            let mut client = Client::connect(&engine, door).await.unwrap();
            client.start(&first);
            assert!(client.to_end().await.is_err());
        }
    });
    for record in world.records() {
        assert_eq!(record.get(Field::ResponseCodeDetails), Some(&b"rbac_access_denied"[..]));
        assert_eq!(record.get(Field::PolicyReason), Some(&b"workload_not_allowed"[..]));
    }
    assert_eq!(world.metric("egress_policy_decisions_total", "protocol=\"connect\""), 1.0);
    assert_eq!(world.sim.engine_attempts(), []);
    world.stop();
}
