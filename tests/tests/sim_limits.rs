//! What happens at a worker's limits: a full one rests its doors and says so, one out of descriptors backs off, idle upstreams
//! give way.

use std::time::Duration;

use sluice_bridge::{Command, Notice};
use sluice_engine::Engine;
use sluice_engine_sim::Faults;
use sluice_proto::http1::Method;
use sluice_tests::sim::client::{Client, open, tunnel};
use sluice_tests::sim::get;
use sluice_tests::sim::origin::Behaviour;
use sluice_tests::sim::world::{PROXY, Setup, registry_only, undisturbed};

#[test]
fn a_full_worker_rests_its_doors_and_can_still_close_them() {
    let (world, engine) = undisturbed(registry_only(), Setup { connections_max: 2, ..Setup::default() });
    world.sim.block_on(async {
        let first = tunnel(&engine, "allowed.test:9000").await;
        let _second = tunnel(&engine, "allowed.test:9000").await;
        // A door that is accepting already takes one more at most.
        let waiting = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        let mut queued = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        engine.sleep_until(engine.now() + Duration::from_secs(2)).await;
        assert!(world.metric("egress_active_connections", "") <= 3.0);
        assert!(world.metric("egress_connection_limit_reached_total", "") >= 1.0);
        drop((first, waiting));
        assert_eq!(queued.response(Method::Get).await.unwrap().status, 200, "it goes on when there is room");
        let _third = tunnel(&engine, "allowed.test:9000").await;
        engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
        let doors = world.sim.open().engine_listeners;
        world.command(Command::CloseDoor(PROXY));
        engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
        assert_eq!(world.sim.open().engine_listeners, doors - 1, "a full door closes, too");
    });
    world.stop();
}

#[test]
fn the_log_hears_of_a_full_worker_now_and_then_and_each_time_of_its_end() {
    let (world, engine) = undisturbed(registry_only(), Setup { connections_max: 2, ..Setup::default() });
    let told = || {
        let notices = world.notices.borrow();
        let count = |wanted| {
            notices
                .iter()
                .filter(|notice| matches!(notice, Notice::AtConnectionLimit(full) if *full == wanted))
                .count()
        };
        (count(true), count(false))
    };
    world.sim.block_on(async {
        let fill = || async {
            let both =
                (tunnel(&engine, "allowed.test:9000").await, tunnel(&engine, "allowed.test:9000").await);
            engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
            both
        };
        for _ in 0..20 {
            drop(fill().await);
            engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
        }
        assert!(world.metric("egress_connection_limit_reached_total", "") >= 20.0, "each time is counted");
        assert_eq!(told(), (1, 1), "and one of them told");
        engine.sleep_until(engine.now() + Duration::from_secs(10)).await;
        let full = fill().await;
        assert_eq!(told(), (2, 1));
        // The door that rests closes; the log hears of the end all the same.
        world.command(Command::CloseDoor(PROXY));
        engine.sleep_until(engine.now() + Duration::from_secs(1)).await;
        assert_eq!(told(), (2, 1), "it is still full");
        drop(full);
        engine.sleep_until(engine.now() + Duration::from_millis(100)).await;
        assert_eq!(told(), (2, 2));
    });
    world.stop();
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let (world, engine) = undisturbed(registry_only(), Setup::default());
    world.sim.block_on(async {
        world.sim.set_faults(Faults { descriptors_exhausted_permille: 1000, ..Faults::none() });
        let mut client = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        engine.sleep_until(engine.now() + Duration::from_secs(3)).await;
        assert!((5.0..60.0).contains(&world.metric("egress_accept_errors_total", "EMFILE")), "it backs off");
        let fails = |notice: &&Notice| matches!(notice, Notice::AcceptFails { errno: 24, .. });
        assert_eq!(
            world.notices.borrow().iter().filter(fails).count(),
            1,
            "the log hears of it once in a while"
        );
        world.sim.set_faults(Faults::none());
        assert_eq!(client.response(Method::Get).await.unwrap().status, 200);
    });
    world.stop();
}

#[test]
fn idle_upstreams_give_their_descriptors_to_connections() {
    let (world, engine) = undisturbed(registry_only(), Setup { connections_max: 2, ..Setup::default() });
    world.sim.block_on(async {
        let mut first = Client::connect(&engine, PROXY).await.unwrap();
        for host in ["allowed.test", "other.allowed.test", "mixed.test", "dual.test"] {
            first.send(&get(host, Behaviour::Plain, 5)).await.unwrap();
            assert_eq!(first.response(Method::Get).await.unwrap().status, 200);
            assert!(world.sim.open().engine_streams <= 4, "two for each of two connections");
        }
        let mut second = open(&engine, PROXY, &get("allowed.test", Behaviour::Plain, 5)).await;
        assert_eq!(second.response(Method::Get).await.unwrap().status, 200);
        assert!(world.sim.open().engine_streams <= 4);
        drop(first);
        let _tunnel = tunnel(&engine, "allowed.test:9000").await;
        assert!(world.sim.open().engine_streams <= 4);
        second.send(&get("mixed.test", Behaviour::Plain, 5)).await.unwrap();
        assert_eq!(second.response(Method::Get).await.unwrap().status, 200);
    });
    world.stop();
}

#[test]
fn a_draining_worker_answers_the_request_that_is_on_its_way_and_says_that_none_may_follow() {
    let (world, engine) = undisturbed(registry_only(), Setup::default());
    world.sim.block_on(async {
        let request = get("allowed.test", Behaviour::Plain, 5);
        let mut client = open(&engine, PROXY, &request).await;
        assert!(client.response(Method::Get).await.unwrap().persistent);
        world.command(Command::Drain { deadline_ms: 10_000 });
        // Its sender cannot know: one round trip later.
        engine.sleep_until(engine.now() + Duration::from_millis(300)).await;
        client.send(&request).await.unwrap();
        let last = client.response(Method::Get).await.expect("an answer");
        assert_eq!((last.status, last.persistent), (200, false));
        engine.sleep_until(engine.now() + Duration::from_secs(2)).await;
        assert!(world.notices.borrow().iter().any(|notice| matches!(notice, Notice::Drained { cut: 0 })));
    });
    world.stop();
}
