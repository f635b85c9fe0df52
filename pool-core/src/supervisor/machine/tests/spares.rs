//! Workers that stand by.

use super::*;
use crate::stats::RetireReason;

/// One worker, and one that stands by: the first one, because the second one is ready before it.
fn one_of_two() -> Bench {
    let now = Instant::now();
    let mut bench = Bench::around(Machine::new(config(1), now).with_spares(1, now), now);
    bench.greet_all();
    bench
}

#[test]
fn a_spare_is_given_nothing_as_long_as_there_are_enough_others() {
    let mut pool = one_of_two();
    pool.submit(10, &plain());
    assert_eq!((pool.sent(1).len(), pool.sent(0).len()), (10, 0));
}

#[test]
fn a_spare_takes_over_in_the_moment_of_a_death_and_the_next_process_is_the_spare() {
    let mut pool = one_of_two();
    let tasks = pool.submit(3, &plain());
    pool.forget().die(1, true);
    assert_eq!(pool.sent(0), tasks[1..], "without waiting for the new process");
    assert_eq!(pool.spawns(), 1);
    pool.on(Event::Ready(pool.who(1)));
    pool.forget().submit(3, &plain());
    assert_eq!((pool.sent(0).len(), pool.sent(1).len()), (3, 0));
}

#[test]
fn a_spare_takes_over_when_a_worker_is_killed_for_what_it_did_wrong() {
    let mut pool = one_of_two();
    pool.submit(2, &plain());
    let who = pool.who(1);
    pool.on(Event::Violation(who, "a second hello".to_owned()));
    let later = pool.submit(1, &plain());
    assert_eq!(pool.sent(0), later, "what the other one held must wait for the last word of its board");
}

#[test]
fn a_spare_takes_over_when_a_worker_is_about_to_be_killed_and_a_worker_that_is_spared_is_one() {
    let mut pool = one_of_two();
    pool.submit(1, &TaskSpec { limit: Some(MILLI), ..plain() });
    let others = pool.submit(2, &plain());
    pool.show_claim(1);
    pool.pass(MILLI);
    pool.show_claim(1);
    pool.pass(GRACE);
    let late = pool.who(1);
    pool.forget().on(Event::TookBack(late, answers(&[(2, true), (3, true)])));
    assert_eq!(pool.sent(0), others, "before it is killed");
    pool.finish(1);
    assert_eq!(pool.kills(), []);
    pool.forget().submit(3, &plain());
    assert_eq!((pool.sent(0).len(), pool.sent(1).len()), (3, 0));
    pool.forget().die(0, true);
    assert!(!pool.sent(1).is_empty(), "it works again when it is needed");
}

#[test]
fn a_spare_that_dies_is_replaced_and_nobody_is_blamed() {
    let mut pool = one_of_two();
    let task = pool.submit(1, &plain())[0];
    pool.forget().die(0, false);
    assert_eq!((pool.spawns(), pool.outcome(task).is_none()), (1, true));
}

#[test]
fn a_suspect_that_waits_for_a_worker_that_is_about_to_be_killed_runs_on_the_spare() {
    let mut pool = one_of_two();
    let suspect = TaskSpec { retries: 1, retry_on: RetryOn::PANIC, ..plain() };
    let suspect = pool.submit(1, &suspect)[0];
    pool.submit(1, &TaskSpec { limit: Some(MILLI), ..plain() });
    let panicked =
        TaskError::Panicked { message: "no".to_owned(), location: None, backtrace: None, output: None };
    let who = pool.who(1);
    pool.on(Event::Failed(who, 1, panicked));
    pool.show_claim(1);
    pool.pass(MILLI);
    pool.show_claim(1);
    pool.forget().pass(GRACE);
    assert_eq!(pool.sent(0), [suspect]);
}

#[test]
fn all_of_them_are_sent_home_in_the_end() {
    let mut pool = one_of_two();
    pool.forget().on(Event::Close);
    let goes = |action: &Action<_>| matches!(action, Action::Retire(_, RetireReason::Closed));
    assert!(pool.done.len() == 2 && pool.done.iter().all(goes), "{:?}", pool.done);
}
