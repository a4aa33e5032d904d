//! Several endpoints of one service through the production sessions: who gets how much, and who steps in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_policy::{EndpointAddress, EndpointInput, PolicyInput, Resolution};
use sluice_proto::http1::Method;
use sluice_tests::sim::client::{Client, connect};
use sluice_tests::sim::script::{self, Heard, Step, send};
use sluice_tests::sim::world::{World, registry_only};

const WEIGHTS: [(u8, u32); 3] = [(10, 1), (20, 1), (30, 8)];

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(93, 184, 216, last).into()
}

/// The registry's first service, at three endpoints of its own.
fn weighted() -> PolicyInput {
    let mut input = registry_only();
    let endpoint = |(last, weight)| EndpointInput {
        address: EndpointAddress::Literal(address(last)),
        ports: Vec::new(),
        locality: None,
        weight,
    };
    input.services[0].resolution = Resolution::Static;
    input.services[0].endpoints = WEIGHTS.map(endpoint).to_vec();
    input
}

/// A world in which these endpoints serve, each with its number as the body; what each was sent.
fn world(seed: u64, serving: &[u8]) -> (World, SimEngine, Vec<Heard>) {
    let world = World::start(Sim::new(seed, Faults::none()), weighted());
    let origin = |last: &u8| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{last}");
        let script = move |_| vec![[Step::Heads(1), send(&answer)]; 1000].concat();
        script::serve(&world.host(*last), SocketAddr::new(address(*last), 80), script)
    };
    let heard = serving.iter().map(origin).collect();
    let engine = world.host(5);
    (world, engine, heard)
}

async fn ask(client: &mut Client) -> u8 {
    client.send(b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.expect("it reads");
    let response = client.response(Method::Get).await.expect("a response");
    assert_eq!(response.status, 200);
    String::from_utf8(response.body).expect("text").parse().expect("an endpoint's number")
}

#[test]
fn every_request_is_drawn_anew_and_connections_are_kept_all_the_same() {
    let (world, engine, heard) = world(23, &[10, 20, 30]);
    let mut shares = [0; 3];
    world.sim.block_on(async {
        // Over one connection, then over one each.
        let mut client = connect(&engine).await;
        for round in 0..400 {
            if round >= 200 {
                client = connect(&engine).await;
            }
            let from = ask(&mut client).await;
            shares[WEIGHTS.iter().position(|(last, _)| *last == from).expect("an endpoint")] += 1;
        }
    });
    // Of 400: 40, 40 and 320, and four standard deviations to either side.
    assert!((16..=64).contains(&shares[0]), "{shares:?}");
    assert!((16..=64).contains(&shares[1]), "{shares:?}");
    assert!((288..=352).contains(&shares[2]), "{shares:?}");
    assert!(heard.iter().all(|origin| origin.connections() == 1), "one connection serves each of them");
    world.stop();
}

#[test]
fn where_the_drawn_endpoint_does_not_answer_another_one_does() {
    let (world, engine, heard) = world(29, &[10]);
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        for _ in 0..20 {
            assert_eq!(ask(&mut client).await, 10);
        }
    });
    assert_eq!(heard.len(), 1);
    world.stop();
}
