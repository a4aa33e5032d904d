//! Authentication of connections through the production sessions: whom an authenticated upstream connection serves.

use std::time::Duration;

use sluice_bridge::Auth;
use sluice_engine::Stream;
use sluice_engine_sim::{Faults, Sim, SimEngine};
use sluice_proto::http1::Method;
use sluice_tests::sim::client::{Client, connect};
use sluice_tests::sim::script::{self, Heard, Step, send};
use sluice_tests::sim::world::{Setup, World, registry_only};

/// An origin on whose every connection the first `asked` requests are challenged, and all others are taken for those of
/// who answered; the body tells the connection.
fn world(asked: usize, setup: Setup) -> (World, SimEngine, Heard) {
    let script = move |index: usize| {
        let challenge = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\", NTLM\r\nContent-Length: 2\r\n\r\nno";
        let welcome = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{index}");
        let answer = |text: &str| [Step::Heads(1), send(text)];
        let mut steps = vec![answer(challenge); asked];
        steps.extend(vec![answer(&welcome); 20]);
        steps.concat()
    };
    script::world(Sim::new(17, Faults::none()), setup, script)
}

/// Asks with more lines; gives the status and the body.
async fn ask(client: &mut Client, lines: &str) -> (u16, String) {
    let request = format!("GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n{lines}\r\n");
    client.send(request.as_bytes()).await.expect("the gateway reads");
    let response = client.response(Method::Get).await.expect("a response");
    (response.status, String::from_utf8(response.body).expect("a text body"))
}

fn seen(status: u16, body: &str) -> (u16, String) {
    (status, body.to_owned())
}

#[test]
fn a_challenged_connection_serves_the_client_that_was_challenged_alone() {
    let (world, engine, heard) = world(2, Setup::default());
    let mut first = world.sim.block_on(async {
        let mut first = connect(&engine).await;
        assert_eq!(ask(&mut first, "").await.0, 401);
        // Another client comes between the steps of the first one's handshake, and stays outside it.
        let mut second = connect(&engine).await;
        assert_eq!(ask(&mut second, "").await.0, 401);
        assert_eq!(heard.connections(), 2);
        assert_eq!(ask(&mut first, "Authorization: NTLM TlRM\r\n").await.0, 401);
        assert_eq!(ask(&mut first, "Authorization: NTLM TlRN\r\n").await, seen(200, "0"));
        for _ in 0..3 {
            assert_eq!(ask(&mut first, "").await, seen(200, "0"), "authenticated without another word");
        }
        let mut third = connect(&engine).await;
        assert_eq!(ask(&mut third, "").await.0, 401, "nobody inherits it");
        first
    });
    assert_eq!(heard.connections(), 3);
    // Longer than an idle upstream is kept, shorter than an idle client is.
    world.sim.run_for(Duration::from_secs(45));
    world.sim.block_on(async {
        assert_eq!(ask(&mut first, "").await, seen(200, "0"), "until either side closes");
    });
    first.stream.shutdown().unwrap();
    world.sim.run_for(Duration::from_secs(40));
    assert_eq!(world.sim.open().engine_streams, 0, "with its client the connection goes");
    world.sim.block_on(async {
        let mut last = connect(&engine).await;
        assert_eq!(ask(&mut last, "").await.0, 401);
    });
    world.stop();
}

#[test]
fn credentials_alone_pin_and_ordinary_ones_do_not() {
    for (lines, pinned) in [
        ("Authorization: NTLM TlRM\r\n", true),
        ("authorization: negotiate YII=\r\n", true),
        ("Authorization: Basic TlRMTQ==\r\n", false),
        ("Authorization: Bearer NTLM\r\n", false),
        ("X-Authorization: NTLM x\r\n", false),
    ] {
        let (world, engine, heard) = world(0, Setup::default());
        world.sim.block_on(async {
            let mut first = connect(&engine).await;
            assert_eq!(ask(&mut first, "").await, seen(200, "0"));
            // The connection that everybody shared until now.
            assert_eq!(ask(&mut first, lines).await, seen(200, "0"));
            let mut second = connect(&engine).await;
            let expected = if pinned { "1" } else { "0" };
            assert_eq!(ask(&mut second, "").await, seen(200, expected), "{lines}");
            assert_eq!(ask(&mut first, "").await, seen(200, "0"), "{lines}");
        });
        assert!(
            heard.all().to_ascii_lowercase().contains(&lines.to_ascii_lowercase()),
            "it goes on as it is"
        );
        world.stop();
    }
}

#[test]
fn two_users_on_one_client_connection_do_not_share_a_pin() {
    let setup = Setup {
        users: vec![("ann", "secret", "one"), ("bob", "secret", "two")],
        auth: Auth::Required,
        ..Setup::default()
    };
    let (world, engine, _) = world(0, setup);
    let (ann, bob) = (
        "Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n",
        "Proxy-Authorization: Basic Ym9iOnNlY3JldA==\r\n",
    );
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        let ntlm = format!("{ann}Authorization: NTLM TlRM\r\n");
        assert_eq!(ask(&mut client, &ntlm).await, seen(200, "0"));
        assert_eq!(ask(&mut client, ann).await, seen(200, "0"));
        assert_eq!(ask(&mut client, bob).await, seen(200, "1"), "not as ann");
        assert_eq!(ask(&mut client, ann).await.0, 200);
    });
    world.stop();
}

#[test]
fn an_idle_pinned_connection_to_what_is_denied_now_is_closed() {
    let (world, engine, heard) = world(0, Setup::default());
    let mut client = world.sim.block_on(async {
        let mut client = connect(&engine).await;
        assert_eq!(ask(&mut client, "Authorization: NTLM TlRM\r\n").await, seen(200, "0"));
        client
    });
    assert_eq!(world.sim.open().engine_streams, 2);
    let mut nothing = registry_only();
    nothing.services.clear();
    world.publish(nothing);
    world.sim.run_for(Duration::from_secs(1));
    assert_eq!(world.sim.open().engine_streams, 1, "the idle client stays, its upstream goes");
    world.sim.block_on(async {
        assert_eq!(ask(&mut client, "").await.0, 502);
    });
    assert_eq!(heard.connections(), 1);
    world.stop();
}

#[test]
fn a_pinned_connection_that_has_gone_is_replaced() {
    let script =
        |index| vec![Step::Heads(1), send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{index}"))];
    let (world, engine, heard) = script::world(Sim::new(17, Faults::none()), Setup::default(), script);
    world.sim.block_on(async {
        let mut client = connect(&engine).await;
        for index in ["0", "1", "2"] {
            assert_eq!(ask(&mut client, "Authorization: NTLM TlRM\r\n").await, seen(200, index));
        }
    });
    assert_eq!(heard.connections(), 3);
    world.stop();
}
