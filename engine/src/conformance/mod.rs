//! What every engine that moves real bytes must do, as tests that are generic over the engine.
//!
//! An engine's crate implements [`Rig`] and calls [`engine_conformance!`](crate::engine_conformance) in a test file.
//! The peers are plain blocking sockets on threads of their own, so that nothing of an engine tests itself. What
//! changes limits of the whole process stands in [`process`] and wants a test file of its own for each case.
//! It knows no engine by name.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a suite of tests: names say it, and a failure is to panic in place"
)]

mod peers;
pub mod pipes;
pub mod process;
pub mod races;
pub mod relays;
pub mod splices;
pub mod streams;
pub mod tasks;

use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::limits::POOL_BUFFERS_MAX;
use crate::{Deadline, Engine, EngineStats, Listener, RelaySetup, relay};

pub use peers::Signal;

/// What a tunnel may move in a turn, and a pipe may hold, where a case wants both to be small. Bytes.
pub const SMALL_TURN_BYTES: usize = 64 * 1024;

/// How an engine is made for a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Buffers of the pool.
    pub buffers_max: usize,
    /// Pipes for splice.
    pub pipes_max: usize,
    /// A tunnel gives way to others after [`SMALL_TURN_BYTES`], and pipes hold as much.
    pub small_turns: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { buffers_max: POOL_BUFFERS_MAX, pipes_max: 64, small_turns: false }
    }
}

/// How the suite gets at an engine.
pub trait Rig {
    /// The engine under test.
    type Engine: Engine;

    /// Makes an engine on this thread and runs what `body` gives on it, to its end.
    fn run<F: Future>(tuning: Tuning, body: impl FnOnce(Self::Engine) -> F) -> F::Output;
}

/// The stream of a rig's engine.
pub type StreamOf<R> = <<R as Rig>::Engine as Engine>::Stream;

/// No case takes as long; what hangs is to fail.
pub const CASE_MAX: Duration = Duration::from_secs(60);

/// Runs `future`, which must end in time.
///
/// # Panics
/// If it does not.
pub async fn in_time<E: Engine, F: Future>(engine: &E, future: F) -> F::Output {
    let deadline = Deadline::new(engine.clone());
    deadline.set(Some(engine.now() + CASE_MAX));
    deadline.run(future).await.expect("the case hangs")
}

/// A client that connects to the engine, an origin that the engine connects to, and what the engine does between.
pub fn between<R: Rig, A, B, T, F>(
    tuning: Tuning,
    client: impl FnOnce(TcpStream) -> A + Send + 'static,
    origin: impl FnOnce(TcpStream) -> B + Send + 'static,
    body: impl FnOnce(R::Engine, StreamOf<R>, StreamOf<R>) -> F,
) -> (A, B, T)
where
    A: Send + 'static,
    B: Send + 'static,
    F: Future<Output = T>,
{
    let (door, origin_door) = (peers::door(), peers::door());
    let (at, origin_at) = (peers::address(&door), peers::address(&origin_door));
    let client = thread::spawn(move || client(peers::connect(at)));
    let origin = thread::spawn(move || origin(peers::accept(&origin_door)));
    let outcome = R::run(tuning, |engine| async move {
        let listener = engine.listen(at, Some(door)).unwrap();
        let (downstream, upstream) = in_time(&engine, async {
            let downstream = listener.accept().await.unwrap();
            (downstream, engine.connect(origin_at, None).await.unwrap())
        })
        .await;
        in_time(&engine.clone(), body(engine, downstream, upstream)).await
    });
    (client.join().expect("the client"), origin.join().expect("the origin"), outcome)
}

/// What came of a tunnel.
#[derive(Debug)]
pub struct Outcome<A, B> {
    /// What the client gave.
    pub client: A,
    /// What the origin gave.
    pub origin: B,
    /// What the engine reported.
    pub report: relay::Report,
    /// Both live counters after the tunnel: to upstream, to downstream.
    pub counted: (u64, u64),
    /// The engine's figures after the tunnel.
    pub stats: EngineStats,
}

/// A client and an origin with a relay between them.
pub fn tunnel<R: Rig, A: Send + 'static, B: Send + 'static>(
    tuning: Tuning,
    settings: relay::Settings,
    client: impl FnOnce(TcpStream) -> A + Send + 'static,
    origin: impl FnOnce(TcpStream) -> B + Send + 'static,
) -> Outcome<A, B> {
    let (client, origin, (report, counted, stats)) =
        between::<R, _, _, _, _>(tuning, client, origin, |engine, downstream, upstream| async move {
            let setup = RelaySetup { settings, ..RelaySetup::default() };
            let counters = std::rc::Rc::clone(&setup.counters);
            let report = engine.relay(downstream, upstream, setup).await;
            let counted = (counters.to_upstream_bytes.get(), counters.to_downstream_bytes.get());
            (report, counted, engine.stats())
        });
    assert_eq!(
        (report.to_upstream_bytes, report.to_downstream_bytes),
        counted,
        "live and final counts agree"
    );
    Outcome { client, origin, report, counted, stats }
}

/// One client of an engine that only receives and sends.
pub fn with_client<R: Rig, A: Send + 'static, T, F: Future<Output = T>>(
    tuning: Tuning,
    client: impl FnOnce(TcpStream) -> A + Send + 'static,
    body: impl FnOnce(R::Engine, StreamOf<R>) -> F,
) -> (A, T) {
    let door = peers::door();
    let at: SocketAddr = peers::address(&door);
    let client = thread::spawn(move || client(peers::connect(at)));
    let outcome = R::run(tuning, |engine| async move {
        let listener = engine.listen(at, Some(door)).unwrap();
        let stream = in_time(&engine, listener.accept()).await.unwrap();
        in_time(&engine.clone(), body(engine, stream)).await
    });
    (client.join().expect("the client"), outcome)
}

/// Makes a test of every case that leaves the process as it is.
#[macro_export]
macro_rules! engine_conformance {
    ($rig:ty) => {
        $crate::engine_conformance! { @cases $rig;
            pipes::exactly_what_was_asked_for_passes_and_the_rest_stays,
            pipes::buffers_and_pipes_take_turns,
            pipes::a_source_that_ends_early_is_told,
            pipes::a_reset_of_either_side_ends_a_transfer,
            pipes::an_abort_ends_a_transfer_that_waits,
            pipes::without_a_pipe_nothing_is_moved_and_buffers_go_on,
            pipes::a_receive_under_way_keeps_its_bytes,
            races::sends_keep_their_order_under_load,
            races::a_drop_with_a_receive_under_way_is_an_orderly_end,
            races::a_reused_descriptor_gets_no_other_connections_bytes,
            races::a_relay_takes_over_a_receive_under_way,
            races::a_reset_in_the_middle_of_a_splice_harms_no_later_flow,
            races::messages_of_odd_sizes_pass_while_paths_change,
            races::wakes_from_many_threads_all_arrive,
            races::a_dropped_listener_closes_what_it_had_accepted,
            relays::a_half_close_by_the_client_leaves_the_other_direction_open,
            relays::a_half_close_by_the_origin_leaves_the_other_direction_open,
            relays::a_reset_by_the_client_reaches_the_origin_as_a_reset,
            relays::a_reset_by_the_origin_reaches_the_client_as_a_reset,
            relays::what_came_before_the_relay_goes_first,
            relays::a_side_that_ended_before_the_relay_is_passed_on,
            relays::nothing_moves_until_the_idle_timeout,
            relays::a_relay_that_changes_tasks_keeps_its_timer,
            relays::a_half_closed_tunnel_ends_at_its_own_timeout,
            relays::a_dropped_relay_resets_both_sides,
            relays::a_tiny_pool_serves_many_tunnels,
            splices::bulk_is_promoted_and_exact_in_both_directions,
            splices::bulk_without_splice_is_exact,
            splices::without_a_pipe_bulk_stays_with_buffers,
            splices::small_messages_after_bulk_go_back_to_buffers,
            splices::a_reader_that_never_reads_holds_the_sender_back,
            splices::an_abort_ends_a_blocked_tunnel_in_buffers,
            splices::an_abort_ends_a_blocked_tunnel_in_splice,
            splices::an_origin_that_resets_mid_bulk_resets_the_client,
            splices::bulk_leaves_small_messages_their_turn,
            splices::a_turn_moves_so_much_and_no_more,
            streams::a_receive_that_is_dropped_loses_nothing,
            streams::received_buffers_have_room_at_both_ends,
            streams::a_long_send_to_a_slow_reader_is_continued,
            streams::an_empty_pool_makes_a_receive_wait,
            streams::a_waiting_receive_that_is_given_up_leaves_its_turn_to_the_next,
            streams::an_abort_ends_present_and_later_operations,
            streams::a_drop_is_polite_unless_a_reset_was_asked_for,
            streams::a_shutdown_lets_what_was_sent_arrive,
            streams::a_stale_connection_is_known_as_such,
            streams::a_refused_connection_says_so,
            streams::a_connection_comes_from_the_source_address,
            streams::a_connection_that_was_not_redirected_names_nobody_else,
            streams::two_listeners_share_an_address,
            streams::what_is_queued_is_accepted_and_nothing_more_arrives,
            streams::addresses_are_told,
            tasks::sleeps_end_in_order_and_not_early,
            tasks::a_deadline_moves,
            tasks::a_panicking_task_is_dropped_and_counted,
            tasks::a_wake_from_another_thread_ends_the_wait,
            tasks::tasks_run_beside_each_other,
            tasks::random_numbers_differ,
        }
    };
    (@cases $rig:ty; $($module:ident::$case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$module::$case::<$rig>();
            }
        )*
    };
}
