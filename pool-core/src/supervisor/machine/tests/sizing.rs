//! How many workers there are.

use super::*;
use crate::supervisor::slot::Slot;

const IDLE: Duration = Duration::from_secs(2);

/// At most so many, at least so many.
fn elastic(most: u32, least: u32) -> Config {
    let staffing = Staffing { least: Some(least), idle: Some(IDLE), ..Staffing::default() };
    Config { staffing, ..config(most) }
}

impl Bench {
    fn retiring(&self) -> Vec<u32> {
        let retired = |action: &Action<_>| match action {
            Action::Retire(who, _) => Some(who.worker.get()),
            _ => None,
        };
        self.done.iter().filter_map(retired).collect()
    }
}

#[test]
fn more_start_at_once_and_work() {
    let mut pool = Bench::ready(config(1));
    pool.forget().submit(9, &plain());
    pool.on(Event::Resize(3));
    assert_eq!(pool.spawned(), [1, 2]);
    pool.on(Event::Ready(pool.who(1)));
    assert_eq!(pool.taken().len(), 1, "it gets some of what waits behind the first");
}

#[test]
fn those_go_first_that_lose_least() {
    let mut pool = Bench::new(config(5));
    (0..4).rev().for_each(|worker| pool.on(Event::Ready(pool.who(worker))));
    pool.submit(1, &plain());
    let starting = pool.who(4);
    pool.forget().on(Event::Resize(4));
    assert_eq!((pool.kills(), pool.retiring()), (vec![(starting, KillReason::Terminated)], vec![]));
    pool.forget().on(Event::Resize(2));
    assert_eq!(pool.retiring(), [3, 2], "the idle ones, the highest place first");
    pool.forget().submit(1, &plain());
    pool.on(Event::Resize(1));
    assert!(pool.retiring().is_empty(), "both are busy");
    pool.finish(1);
    assert_eq!(pool.retiring(), [1]);
    assert_eq!(pool.machine.counters().retired.resized, 3);
}

#[test]
fn a_busy_worker_that_is_one_too_many_ends_what_it_runs_and_gives_the_rest_back() {
    let mut pool = Bench::ready(config(2));
    let tasks = pool.submit(6, &plain());
    let who = pool.who(1);
    pool.forget().on(Event::Resize(1));
    assert_eq!(pool.taken().iter().map(|(from, _)| *from).collect::<Vec<_>>(), [who]);
    let back: Vec<(Ticket, bool)> =
        pool.taken().into_iter().flat_map(|(_, tickets)| tickets).map(|ticket| (ticket, true)).collect();
    pool.on(Event::TookBack(who, answers(&back)));
    pool.finish(1);
    assert_eq!((pool.retiring(), pool.kills()), (vec![1], vec![]));
    (0..5).for_each(|_| pool.finish(0));
    assert!(tasks.iter().all(|task| matches!(pool.outcome(*task), Some(Ok(_)))));
}

#[test]
fn fewer_and_at_once_more_runs_no_more_tasks_at_a_time() {
    let mut pool = Bench::ready(config(2));
    pool.submit(2, &plain());
    pool.on(Event::Resize(1));
    pool.forget().on(Event::Resize(2));
    assert_eq!(pool.spawned(), [2], "who is leaving is not called back");
    pool.on(Event::Ready(pool.who(2)));
    pool.submit(4, &plain());
    assert_eq!(pool.sent(2).len(), 0, "two run already");
    pool.finish(1);
    assert_eq!(pool.retiring(), [1]);
    assert_ne!(pool.sent(2).len(), 0);
}

#[test]
fn a_worker_with_nothing_to_do_waits_until_those_that_leave_have_gone() {
    let mut pool = Bench::ready(config(3));
    pool.submit(3, &plain());
    pool.on(Event::Resize(1));
    // The one that stays is done first.
    let leaving = |bench: &Bench, worker: u32| {
        bench.machine.slots()[worker as usize].active().is_some_and(|ready| ready.leaving.is_some())
    };
    let stays = (0..3).find(|worker| !leaving(&pool, *worker)).expect("one stays");
    pool.finish(stays);
    pool.forget().submit(2, &plain());
    assert_eq!(pool.sent(stays).len(), 0, "two run, and one is wanted");
    for worker in (0..3).filter(|worker| *worker != stays) {
        assert_eq!(pool.sent(stays).len(), 0);
        pool.finish(worker);
    }
    assert_eq!(pool.sent(stays).len(), 2);
}

#[test]
fn the_place_of_one_that_dies_while_there_are_too_many_stays_vacant() {
    let mut pool = Bench::ready(config(2));
    pool.submit(2, &plain());
    pool.on(Event::Resize(1));
    pool.forget().die(1, true);
    assert_eq!(pool.spawns(), 0);
    pool.die(0, true);
    assert_eq!(pool.spawned(), [0]);
}

#[test]
fn after_a_shrink_nobody_comes_as_long_as_those_that_go_take_all_places() {
    let staffing = Staffing { quota: Some(2), overlap: false, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(2) });
    pool.submit(4, &plain());
    // Both are on their last tasks, and one is wanted.
    pool.forget().on(Event::Resize(1));
    pool.die(0, true);
    assert_eq!(pool.spawns(), 0);
    while pool.machine.load(1) > 0 {
        pool.finish(1);
    }
    pool.die(1, false);
    assert_eq!(pool.spawned(), [0]);
}

#[test]
fn a_back_off_is_kept_when_somebody_else_comes_into_the_place() {
    let restart = RestartPolicy { first_delay: IDLE, max_delay: IDLE, ..RestartPolicy::default() };
    let mut pool = Bench::ready(Config { restart, ..config(2) });
    pool.die(1, false);
    pool.on(Event::Ready(pool.who(1)));
    pool.die(1, false);
    pool.on(Event::Resize(1));
    pool.forget().on(Event::Resize(2));
    assert_eq!(pool.spawns(), 0);
    pool.pass(IDLE);
    assert_eq!(pool.spawned(), [1]);
}

#[test]
fn spares_stay_when_the_pool_shrinks() {
    let now = Instant::now();
    let mut pool = Bench::around(Machine::new(config(3), now).with_spares(1, now), now);
    pool.greet_all();
    pool.forget().on(Event::Resize(1));
    assert_eq!(pool.retiring().len(), 2);
    pool.submit(1, &plain());
    let busy = pool.holder();
    pool.forget().die(busy, true);
    pool.submit(1, &plain());
    assert_ne!(pool.holder(), busy, "one stood by");
}

#[test]
fn an_elastic_pool_starts_with_its_least_and_grows_while_tasks_wait() {
    let mut pool = Bench::new(elastic(3, 1));
    assert_eq!(pool.spawned(), [0]);
    pool.on(Event::Ready(pool.who(0)));
    pool.forget().submit(1, &plain());
    assert_eq!(pool.spawns(), 0, "one is enough");
    pool.submit(1, &plain());
    assert_eq!(pool.spawned(), [1]);
    pool.submit(10, &plain());
    assert_eq!(pool.spawned(), [1, 2], "and never more");
}

#[test]
fn those_that_have_been_idle_for_long_go_down_to_the_least() {
    let mut pool = Bench::new(elastic(3, 1));
    pool.submit(3, &plain());
    pool.greet_all();
    let who = pool.who(0);
    pool.submit(3, &plain());
    let back: Vec<(Ticket, bool)> =
        pool.taken().into_iter().flat_map(|(_, tickets)| tickets).map(|ticket| (ticket, true)).collect();
    pool.on(Event::TookBack(who, answers(&back)));
    while pool.machine.pending() > 0 {
        let busy = pool.holder();
        pool.finish(busy);
    }
    pool.forget().pass(IDLE - MILLI);
    assert!(pool.retiring().is_empty());
    pool.pass(MILLI);
    assert_eq!(pool.retiring(), [2, 1]);
    assert_eq!(pool.machine.counters().retired.idle, 2);
    pool.die(1, false);
    pool.die(2, false);
    assert_eq!((pool.spawns(), pool.machine.deadline()), (0, None), "nothing wakes it up any more");
    pool.submit(2, &plain());
    assert_eq!(pool.spawned(), [1], "they come back when they are needed");
}

#[test]
fn whoever_works_now_and_then_stays() {
    let mut pool = Bench::new(elastic(2, 1));
    pool.submit(2, &plain());
    pool.greet_all();
    while pool.machine.pending() > 0 {
        let busy = pool.holder();
        pool.finish(busy);
    }
    // Two are there; the lower one has something to do every now and then.
    for _ in 0..4 {
        pool.forget().submit(1, &plain());
        assert_eq!(pool.holder(), 0);
        pool.finish(0);
        pool.pass(IDLE / 2);
    }
    let mut left = pool.machine.slots().iter().filter(|slot| slot.active().is_some());
    assert_eq!(left.next().map(|slot| slot.worker.get()), Some(0));
    assert_eq!(left.count(), 0, "the other one has gone");
}

#[test]
fn with_a_least_of_none_the_first_task_starts_a_worker() {
    let mut pool = Bench::new(elastic(2, 0));
    assert_eq!((pool.spawns(), pool.machine.deadline()), (0, None));
    let task = pool.submit(1, &plain())[0];
    assert_eq!(pool.spawned(), [0]);
    pool.on(Event::Ready(pool.who(0)));
    pool.finish(0);
    assert!(matches!(pool.outcome(task), Some(Ok(_))));
    pool.pass(IDLE);
    assert_eq!(pool.retiring(), [0]);
    pool.die(0, false);
    pool.on(Event::Close);
    assert!(pool.machine.is_drained());
}

#[test]
fn a_pool_without_workers_breaks_if_none_can_start() {
    let restart = RestartPolicy { max_restarts: 1, first_delay: Duration::ZERO, ..RestartPolicy::default() };
    let mut pool = Bench::new(Config { restart, ..elastic(2, 0) });
    let task = pool.submit(1, &plain())[0];
    (0..2).for_each(|_| pool.die(0, false));
    assert!(matches!(pool.broken(), Some(BrokenReason::TooManyDeaths { .. })), "{:?}", pool.broken());
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::PoolBroken(_)))));
}

#[test]
fn a_pool_that_is_at_its_end_keeps_its_size() {
    let mut pool = Bench::ready(config(1));
    pool.on(Event::Close);
    pool.forget().on(Event::Resize(4));
    assert_eq!(pool.spawns(), 0);
    pool.die(0, false);
    pool.forget().on(Event::Resize(4));
    let mut broken = Bench::ready(config(1));
    broken.on(Event::Fault("no".to_owned()));
    broken.forget().on(Event::Resize(4));
    assert!(pool.done.is_empty() && broken.done.is_empty());
}

#[test]
fn a_pool_that_is_closing_grows_if_tasks_wait() {
    let mut pool = Bench::ready(config(1));
    pool.submit(3, &plain());
    pool.on(Event::Close);
    pool.forget().on(Event::Resize(2));
    assert_eq!(pool.spawned(), [1]);
}

#[test]
fn a_signal_ends_everything_with_its_number() {
    let mut pool = Bench::ready(config(2));
    let task = pool.submit(1, &plain())[0];
    pool.forget().on(Event::Interrupt(15));
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::Interrupted { signal: 15 }))));
    assert_eq!(pool.kills().len(), 2);
    assert!(matches!(pool.machine.submit(&plain()), Err(TaskError::Interrupted { signal: 15 })));
}

#[test]
fn a_suspect_that_waits_for_a_worker_does_not_begin_while_there_are_too_many() {
    let mut pool = Bench::ready(Config { prefetch: 1, ..config(4) });
    let suspect = pool.submit(1, &TaskSpec { retries: 1, ..plain() })[0];
    let worker = pool.holder();
    pool.submit(3, &plain());
    pool.die(worker, true);
    let reserved = pool.machine.slots().iter().filter_map(Slot::active).filter_map(|ready| ready.reserved);
    assert_eq!(reserved.collect::<Vec<_>>(), [suspect], "it waits for the emptiest");
    pool.forget().on(Event::Resize(2));
    let worker = (0..4).find(|worker| {
        let ready = pool.machine.slots()[*worker as usize].active();
        ready.is_some_and(|ready| ready.leaving.is_none())
    });
    pool.finish(worker.expect("two of them stay"));
    assert!(pool.outcome(suspect).is_none());
    let sent = (0..4).flat_map(|worker| pool.sent(worker)).filter(|key| *key == suspect).count();
    assert_eq!(sent, 0, "three have tasks still");
}

#[test]
fn when_there_are_to_be_fewer_the_dying_are_not_replaced_and_the_living_stay() {
    let mut pool = Bench::ready(config(2));
    pool.submit(2, &plain());
    let dying = pool.who(0);
    pool.on(Event::Violation(dying, "it lies".to_owned()));
    pool.forget().on(Event::Resize(1));
    let lives = pool.machine.slots()[1].active().is_some_and(|ready| ready.leaving.is_none());
    assert!(lives, "the other one does what is left: {:?}", pool.machine.slots());
    pool.die_as(dying, false);
    assert_eq!(pool.spawns(), 0);
    pool.finish(1);
    pool.finish(1);
    assert_eq!(pool.machine.pending(), 0);
}

#[test]
fn somebody_is_started_for_what_waits_behind_the_last_task_of_a_worker() {
    let Config { staffing, .. } = elastic(3, 1);
    let staffing = Staffing { quota: Some(3), ..staffing };
    let mut pool = Bench::ready(Config { staffing, ..config(3) });
    // Nothing fits in behind it.
    pool.submit(1, &TaskSpec { size: 1 << 20, ..plain() });
    pool.submit(1, &plain());
    pool.on(Event::Ready(pool.who(1)));
    pool.finish(1);
    pool.forget().submit(1, &TaskSpec { count: 2, chunk: 2, ..plain() });
    assert_eq!((pool.machine.load(1), pool.spawns()), (2, 1), "the first of them may take long");
    let new = 2;
    pool.on(Event::Ready(pool.who(new)));
    assert_eq!(pool.taken(), [(pool.who(1), vec![3])]);
}
