//! Tasks, timers and wakes.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::{Rig, Signal, Tuning, in_time};
use crate::{Deadline, Elapsed, Engine};

pub fn sleeps_end_in_order_and_not_early<R: Rig>() {
    let order = R::run(Tuning::default(), |engine| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        let all = Signal::default();
        let start = engine.now();
        for after_ms in [60, 20, 40] {
            let (engine_too, order, all) = (engine.clone(), Rc::clone(&order), all.clone());
            engine.spawn(async move {
                let at = start + Duration::from_millis(after_ms);
                engine_too.sleep_until(at).await;
                assert!(engine_too.now() >= at, "not early");
                order.borrow_mut().push(after_ms);
                if order.borrow().len() == 3 {
                    all.set();
                }
            });
        }
        engine.sleep_until(start).await;
        in_time(&engine, all.seen()).await;
        order.take()
    });
    assert_eq!(order, [20, 40, 60]);
}

pub fn a_deadline_moves<R: Rig>() {
    R::run(Tuning::default(), |engine| async move {
        let deadline = Deadline::new(engine.clone());
        deadline.run(engine.yield_now()).await.expect("none is set");
        let start = engine.now();
        deadline.set(Some(start + Duration::from_millis(10)));
        // Later, with the timer under way; then nearer.
        let nap = engine.sleep_until(start + Duration::from_millis(5));
        deadline.run(nap).await.expect("in time");
        deadline.set(Some(start + Duration::from_millis(60)));
        assert_eq!(deadline.run(std::future::pending::<()>()).await, Err(Elapsed));
        assert!(engine.now().since(start) >= Duration::from_millis(60));
        deadline.set(Some(engine.now() + Duration::from_secs(3600)));
        deadline.run(engine.yield_now()).await.expect("in time");
        deadline.set(Some(engine.now() + Duration::from_millis(1)));
        assert_eq!(in_time(&engine, deadline.run(std::future::pending::<()>())).await, Err(Elapsed));
    });
}

pub fn a_panicking_task_is_dropped_and_counted<R: Rig>() {
    struct Dropped(Signal);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set();
        }
    }
    R::run(Tuning::default(), |engine| async move {
        let dropped = Signal::default();
        let held = Dropped(dropped.clone());
        let engine_too = engine.clone();
        engine.spawn(async move {
            let _held = held;
            engine_too.yield_now().await;
            panic!("a panic that belongs to the test");
        });
        in_time(&engine, dropped.seen()).await;
        while engine.stats().tasks_panicked == 0 {
            engine.yield_now().await;
        }
        assert_eq!(engine.stats().tasks_panicked, 1);
    });
}

pub fn a_wake_from_another_thread_ends_the_wait<R: Rig>() {
    R::run(Tuning::default(), |engine| async move {
        let (there, back) = (Signal::default(), Signal::default());
        let (there_too, back_too) = (there.clone(), back.clone());
        let thread = thread::spawn(move || {
            there_too.wait();
            // The engine has gone to sleep by then, or nearly so: either must do.
            thread::sleep(Duration::from_millis(20));
            back_too.set();
        });
        there.set();
        in_time(&engine, back.seen()).await;
        thread.join().unwrap();
    });
}

pub fn tasks_run_beside_each_other<R: Rig>() {
    R::run(Tuning::default(), |engine| async move {
        let turns = Rc::new(Cell::new(0));
        for _ in 0..10 {
            let (engine_too, turns) = (engine.clone(), Rc::clone(&turns));
            engine.spawn(async move {
                for _ in 0..100 {
                    turns.set(turns.get() + 1);
                    engine_too.yield_now().await;
                }
            });
        }
        let mut waited = 0;
        while turns.get() < 1000 {
            waited += 1;
            assert!(waited < 10_000, "the others get their turn");
            engine.yield_now().await;
        }
    });
}

pub fn random_numbers_differ<R: Rig>() {
    let numbers: HashSet<u64> = R::run(Tuning::default(), |engine| async move {
        let at = engine.unix_micros();
        assert!(at > 1_700_000_000_000_000, "microseconds since the epoch");
        (0..1000).map(|_| engine.random()).collect()
    });
    assert_eq!(numbers.len(), 1000);
}
