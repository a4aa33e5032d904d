//! The promises of the relay, one story each.

use sluice_relay::limits::SPLICE_RETRY_FULL_BUFFERS;
use sluice_relay::{Action, Counters, End, Input, Machine, Settings, Side, Start};

use Side::{Downstream, Upstream};

struct Tunnel {
    machine: Machine,
    counters: Counters,
    now_ms: u64,
}

impl Tunnel {
    fn new(settings: Settings, start: Start) -> (Self, Vec<Action>) {
        let mut machine = Machine::new(settings, 0);
        let counters = Counters::default();
        let actions = machine.start(start, &counters).collect();
        (Self { machine, counters, now_ms: 0 }, actions)
    }

    fn plain() -> Self {
        let (tunnel, actions) = Self::new(Settings::default(), Start::default());
        assert_eq!(actions, [Action::Receive { from: Downstream }, Action::Receive { from: Upstream }]);
        tunnel
    }

    fn give(&mut self, input: Input) -> Vec<Action> {
        self.machine.handle(input, self.now_ms, &self.counters).collect()
    }

    fn received(&mut self, from: Side, bytes: usize) -> Vec<Action> {
        self.give(Input::Received { from, bytes, full: false })
    }

    fn full(&mut self, from: Side) -> Vec<Action> {
        self.give(Input::Received { from, bytes: 16_000, full: true })
    }

    fn sent(&mut self, from: Side, bytes: usize) -> Vec<Action> {
        self.give(Input::Sent { from, bytes, whole: true })
    }

    fn end(&self) -> Option<End> {
        self.machine.end()
    }
}

const FINISH: [Action; 1] = [Action::Finish { reset: false }];
const RESET: [Action; 1] = [Action::Finish { reset: true }];

#[test]
fn credit_bounds_what_is_held() {
    let mut tunnel = Tunnel::plain();
    let both = [Action::Send { from: Downstream }, Action::Receive { from: Downstream }];
    assert_eq!(tunnel.received(Downstream, 10), both);
    assert_eq!(tunnel.received(Downstream, 20), [], "two are held: no more until one is sent");
    let part = tunnel.give(Input::Sent { from: Downstream, bytes: 4, whole: false });
    assert_eq!(part, [], "a short send frees nothing");
    assert_eq!(tunnel.sent(Downstream, 6), both);
    assert_eq!(tunnel.machine.report().to_upstream_bytes, 10);
    assert_eq!(tunnel.counters.to_upstream_bytes.get(), 10);
    assert_eq!(tunnel.machine.held_bytes(Downstream), 20);
}

#[test]
fn a_credit_of_one_alternates() {
    let settings = Settings { credit_buffers: 1, ..Settings::default() };
    let (mut tunnel, _) = Tunnel::new(settings, Start::default());
    assert_eq!(tunnel.received(Upstream, 10), [Action::Send { from: Upstream }]);
    assert_eq!(tunnel.sent(Upstream, 10), [Action::Receive { from: Upstream }]);
}

#[test]
fn held_bytes_go_first_and_an_end_before_the_start_is_passed_on() {
    let start = Start { from_downstream_bytes: 5, downstream_ended: true, ..Start::default() };
    let (mut tunnel, actions) = Tunnel::new(Settings::default(), start);
    assert_eq!(actions, [Action::Send { from: Downstream }, Action::Receive { from: Upstream }]);
    assert_eq!(tunnel.sent(Downstream, 5), [Action::Shutdown { side: Upstream }]);
    assert_eq!(tunnel.give(Input::Ended { from: Upstream }), FINISH);
    assert_eq!(tunnel.end(), Some(End::Closed));
}

#[test]
fn a_half_close_waits_for_what_is_held_and_the_other_direction_goes_on() {
    let mut tunnel = Tunnel::plain();
    tunnel.received(Downstream, 10);
    assert_eq!(tunnel.give(Input::Ended { from: Downstream }), []);
    assert_eq!(tunnel.sent(Downstream, 10), [Action::Shutdown { side: Upstream }]);
    for _ in 0..3 {
        let both = [Action::Send { from: Upstream }, Action::Receive { from: Upstream }];
        assert_eq!(tunnel.received(Upstream, 7), both);
        assert_eq!(tunnel.sent(Upstream, 7), []);
    }
    assert_eq!(tunnel.give(Input::Ended { from: Upstream }), FINISH);
    let report = tunnel.machine.report();
    assert_eq!((report.to_upstream_bytes, report.to_downstream_bytes, report.end), (10, 21, End::Closed));
}

#[test]
fn a_half_closed_tunnel_in_which_nothing_moves_is_reset() {
    let mut tunnel = Tunnel::plain();
    tunnel.now_ms = 1_000;
    tunnel.give(Input::Ended { from: Upstream });
    assert_eq!(tunnel.machine.deadline_ms(), Some(61_000));
    tunnel.now_ms = 60_999;
    assert_eq!(tunnel.give(Input::Timer), [], "a timer may come early");
    tunnel.received(Downstream, 1);
    assert_eq!(tunnel.machine.deadline_ms(), Some(120_999), "what moves, lives");
    tunnel.now_ms = 120_999;
    assert_eq!(tunnel.give(Input::Timer), RESET);
    assert_eq!(tunnel.end(), Some(End::HalfCloseTimeout));
}

#[test]
fn an_idle_tunnel_is_reset_and_zero_means_never() {
    let mut tunnel = Tunnel::plain();
    tunnel.now_ms = 3_600_000;
    assert_eq!(tunnel.give(Input::Timer), RESET);
    assert_eq!(tunnel.end(), Some(End::IdleTimeout));
    assert_eq!(tunnel.machine.deadline_ms(), None);

    let settings = Settings { idle_timeout_ms: 0, half_close_timeout_ms: 0, ..Settings::default() };
    let (mut tunnel, _) = Tunnel::new(settings, Start::default());
    tunnel.give(Input::Ended { from: Downstream });
    assert_eq!(tunnel.machine.deadline_ms(), None);
    tunnel.now_ms = u64::MAX;
    assert_eq!(tunnel.give(Input::Timer), []);
}

#[test]
fn a_reset_is_passed_on_after_what_came_before_it() {
    let mut tunnel = Tunnel::plain();
    tunnel.received(Upstream, 100);
    tunnel.received(Downstream, 50);
    assert_eq!(tunnel.give(Input::Failed { side: Upstream }), [], "100 bytes are still owed to downstream");
    assert_eq!(tunnel.machine.deadline_ms(), Some(60_000));
    assert_eq!(tunnel.give(Input::Failed { side: Upstream }), [], "told twice, heard once");
    assert_eq!(tunnel.sent(Upstream, 100), RESET);
    assert_eq!(tunnel.end(), Some(End::Reset(Upstream)));
    assert_eq!(tunnel.machine.report().to_downstream_bytes, 100);
    assert_eq!(tunnel.machine.report().to_upstream_bytes, 0);
}

#[test]
fn a_side_that_takes_nothing_delays_a_reset_only_so_long() {
    let mut tunnel = Tunnel::plain();
    tunnel.received(Upstream, 100);
    tunnel.now_ms = 5_000;
    tunnel.give(Input::Failed { side: Upstream });
    tunnel.now_ms = 30_000;
    tunnel.give(Input::Sent { from: Upstream, bytes: 1, whole: false });
    tunnel.now_ms = 64_999;
    assert_eq!(tunnel.give(Input::Timer), []);
    tunnel.now_ms = 65_000;
    assert_eq!(tunnel.give(Input::Timer), RESET);
    assert_eq!(tunnel.end(), Some(End::Reset(Upstream)));
}

#[test]
fn a_failure_after_an_orderly_end_is_no_clean_end() {
    let mut tunnel = Tunnel::plain();
    tunnel.received(Downstream, 9);
    tunnel.give(Input::Ended { from: Upstream });
    assert_eq!(tunnel.give(Input::Failed { side: Upstream }), RESET, "nine bytes never arrived");
    assert_eq!(tunnel.end(), Some(End::Reset(Upstream)));
}

#[test]
fn the_first_side_that_failed_is_named() {
    let mut tunnel = Tunnel::plain();
    tunnel.received(Downstream, 9);
    tunnel.give(Input::Failed { side: Downstream });
    assert_eq!(tunnel.give(Input::Failed { side: Upstream }), RESET);
    assert_eq!(tunnel.end(), Some(End::Reset(Downstream)));
}

#[test]
fn an_abort_ends_at_once_and_late_completions_cause_nothing() {
    let mut tunnel = Tunnel::plain();
    tunnel.received(Downstream, 9);
    assert_eq!(tunnel.give(Input::Abort), RESET);
    assert_eq!(tunnel.end(), Some(End::Aborted));
    assert_eq!(tunnel.received(Upstream, 9), []);
    assert_eq!(tunnel.sent(Downstream, 9), []);
    assert_eq!(tunnel.give(Input::Abort), []);
    let report = tunnel.machine.report();
    assert_eq!(
        (report.to_upstream_bytes, report.to_downstream_bytes),
        (9, 0),
        "what was taken late is counted"
    );
}

/// A tunnel whose downstream direction has just been promoted after two full buffers.
fn promoted() -> Tunnel {
    let settings = Settings { splice_after_full_buffers: 2, splice_demote_after: 2, ..Settings::default() };
    let (mut tunnel, _) = Tunnel::new(settings, Start::default());
    tunnel.full(Downstream);
    assert_eq!(tunnel.full(Downstream), [], "promotion: no more is received");
    assert_eq!(tunnel.sent(Downstream, 16_000), [Action::Send { from: Downstream }]);
    assert_eq!(tunnel.sent(Downstream, 16_000), [Action::SpliceIn { from: Downstream }]);
    assert_eq!(tunnel.counters.splicing.get(), 1);
    tunnel
}

#[test]
fn full_buffers_promote_to_splice_and_small_ones_demote() {
    let mut tunnel = promoted();
    let out = [Action::SpliceOut { from: Downstream }];
    assert_eq!(tunnel.give(Input::SplicedIn { from: Downstream, bytes: 60_000 }), out);
    assert_eq!(tunnel.machine.parked_bytes(Downstream), 60_000);
    assert_eq!(tunnel.give(Input::SplicedOut { from: Downstream, bytes: 50_000 }), out);
    let again = [Action::SpliceIn { from: Downstream }];
    assert_eq!(tunnel.give(Input::SplicedOut { from: Downstream, bytes: 10_000 }), again);
    tunnel.give(Input::SplicedIn { from: Downstream, bytes: 10 });
    assert_eq!(tunnel.give(Input::SplicedOut { from: Downstream, bytes: 10 }), again);
    tunnel.give(Input::SplicedIn { from: Downstream, bytes: 10 });
    let back = [Action::ReleasePipe { from: Downstream }, Action::Receive { from: Downstream }];
    assert_eq!(tunnel.give(Input::SplicedOut { from: Downstream, bytes: 10 }), back);
    assert_eq!(tunnel.counters.splicing.get(), 0);
    assert_eq!(tunnel.machine.report().to_upstream_bytes, 92_020);
}

#[test]
fn a_small_buffer_breaks_the_run() {
    let settings = Settings { splice_after_full_buffers: 2, ..Settings::default() };
    let (mut tunnel, _) = Tunnel::new(settings, Start::default());
    for _ in 0..5 {
        tunnel.full(Upstream);
        tunnel.sent(Upstream, 16_000);
        tunnel.received(Upstream, 1);
        assert_eq!(tunnel.sent(Upstream, 1), [], "still buffers: a receive is under way");
    }
    assert!(!tunnel.machine.is_splicing(Upstream));
}

#[test]
fn a_refused_splice_is_asked_for_again_much_later() {
    let mut tunnel = promoted();
    let refused = tunnel.give(Input::SpliceUnavailable { from: Downstream });
    assert_eq!(refused, [Action::Receive { from: Downstream }]);
    assert_eq!(tunnel.counters.splicing.get(), 0);
    for _ in 1..SPLICE_RETRY_FULL_BUFFERS {
        tunnel.full(Downstream);
        assert_eq!(tunnel.sent(Downstream, 16_000), []);
    }
    tunnel.full(Downstream);
    assert_eq!(tunnel.sent(Downstream, 16_000), [Action::SpliceIn { from: Downstream }]);
}

#[test]
fn an_end_in_splice_releases_the_pipe_before_it_is_passed_on() {
    let mut tunnel = promoted();
    let end = [Action::ReleasePipe { from: Downstream }, Action::Shutdown { side: Upstream }];
    assert_eq!(tunnel.give(Input::Ended { from: Downstream }), end);
    assert_eq!(tunnel.give(Input::Ended { from: Upstream }), FINISH);
}

#[test]
fn a_failure_in_splice_still_sends_what_is_parked() {
    let mut tunnel = promoted();
    tunnel.give(Input::SplicedIn { from: Downstream, bytes: 100 });
    assert_eq!(tunnel.give(Input::Failed { side: Downstream }), []);
    let more = tunnel.give(Input::SplicedOut { from: Downstream, bytes: 40 });
    assert_eq!(more, [Action::SpliceOut { from: Downstream }]);
    assert_eq!(tunnel.give(Input::SplicedOut { from: Downstream, bytes: 60 }), RESET);
    assert_eq!(tunnel.counters.splicing.get(), 0);
}

#[test]
fn an_aborted_splice_says_that_its_pipe_is_not_empty() {
    let mut tunnel = promoted();
    tunnel.give(Input::SplicedIn { from: Downstream, bytes: 100 });
    assert_eq!(tunnel.give(Input::Abort), RESET);
    assert_eq!(tunnel.machine.parked_bytes(Downstream), 100);
    assert_eq!(tunnel.machine.parked_bytes(Upstream), 0);
}

#[test]
fn a_machine_is_small() {
    assert!(size_of::<Machine>() <= 192, "{} bytes per tunnel", size_of::<Machine>());
}
