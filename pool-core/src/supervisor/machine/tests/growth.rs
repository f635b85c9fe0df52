//! When an elastic pool grows: not for what will be done before a new worker is of use.

use super::*;

const START_UP: Duration = Duration::from_millis(5);

/// A pool of at least one worker, which is ready, and at most so many. What waits behind something short is not sent elsewhere.
fn elastic(most: u32) -> Bench {
    let staffing = Staffing { least: Some(1), idle: Some(Duration::from_secs(2)), ..Staffing::default() };
    Bench::ready(Config { staffing, start_up: START_UP, ..config(most) })
}

impl Bench {
    /// Worker 0 does so many, each in this time.
    fn finish_each(&mut self, count: usize, each: Duration) {
        for _ in 0..count {
            self.pass(each);
            self.finish(0);
        }
    }

    fn there(&self) -> usize {
        let counts = |slot: &&crate::supervisor::slot::Slot| {
            !matches!(slot.phase, crate::supervisor::slot::Phase::Stopped)
        };
        self.machine.slots().iter().filter(counts).count()
    }
}

#[test]
fn a_backlog_of_tiny_tasks_starts_nobody() {
    let mut pool = elastic(8);
    let each = Duration::from_micros(1);
    // Of these nothing is known; they are done before anybody could have started.
    pool.submit(100, &plain());
    pool.finish_each(100, each);
    for _ in 0..1000 {
        pool.submit(60, &plain());
        pool.finish_each(60, each);
    }
    assert_eq!((pool.there(), pool.machine.counters().spawned), (1, 1));
    assert!(pool.machine.pending() == 0);
    // Nor does it look again for ever.
    pool.pass(2 * START_TIMEOUT);
    assert_eq!(pool.machine.deadline(), None);
}

#[test]
fn a_stream_that_the_present_worker_keeps_up_with_starts_nobody() {
    let mut pool = elastic(8);
    pool.submit(3, &plain());
    for _ in 0..10_000 {
        // There is always something that waits.
        pool.finish_each(1, Duration::from_micros(20));
        pool.submit(1, &plain());
    }
    assert_eq!(pool.machine.counters().spawned, 1);
}

#[test]
fn a_backlog_that_takes_longer_than_a_start_brings_as_many_as_have_it_done_by_then() {
    let mut pool = elastic(100);
    pool.submit(10, &plain());
    pool.finish_each(10, Duration::from_micros(100));
    // 30 ms of work, at once.
    pool.forget().submit(300, &plain());
    assert_eq!(pool.there(), 6, "each has 5 ms of it");
}

#[test]
fn long_tasks_of_which_nothing_is_known_bring_all_once_a_start_has_passed() {
    let mut pool = elastic(4);
    pool.forget().submit(10, &plain());
    pool.pass(START_UP - MILLI);
    assert_eq!(pool.spawned(), [0; 0], "they might be done");
    pool.pass(2 * MILLI);
    assert_eq!(pool.spawned(), [1, 2, 3]);
}

#[test]
fn long_tasks_after_short_ones_bring_all_once_a_start_has_passed() {
    let mut pool = elastic(4);
    pool.submit(100, &plain());
    pool.finish_each(100, Duration::from_micros(1));
    pool.forget().submit(10, &plain());
    assert_eq!(pool.spawned(), [0; 0]);
    pool.pass(START_UP + MILLI);
    assert_eq!(pool.spawned(), [1, 2, 3]);
}

#[test]
fn one_that_is_stuck_counts_for_nothing_that_waits() {
    let mut pool = elastic(3);
    pool.submit(2, &plain());
    pool.pass(START_UP + MILLI);
    pool.on(Event::Ready(pool.who(1)));
    let who = pool.who(0);
    let back: Vec<(Ticket, bool)> =
        pool.taken().into_iter().flat_map(|(_, tickets)| tickets).map(|ticket| (ticket, true)).collect();
    pool.on(Event::TookBack(who, answers(&back)));
    pool.finish(1);
    // Worker 0 goes on with its first; tiny ones that come are done by the other one, and nobody else is needed.
    for _ in 0..50 {
        pool.submit(3, &plain());
        while pool.machine.load(1) > 0 {
            pool.pass(Duration::from_micros(1));
            pool.finish(1);
        }
    }
    assert_eq!(pool.machine.counters().spawned, 2);
}

#[test]
fn with_nobody_there_one_comes_at_once_and_the_others_when_they_are_missed() {
    let staffing = Staffing { least: Some(0), idle: Some(Duration::from_secs(2)), ..Staffing::default() };
    let mut pool = Bench::new(Config { staffing, start_up: START_UP, ..config(3) });
    pool.submit(10, &plain());
    assert_eq!(pool.spawned(), [0]);
    pool.pass(START_UP);
    assert_eq!(pool.spawned(), [0, 1, 2], "whatever they wait for takes longer than it should");
}

#[test]
fn one_that_dies_with_the_only_task_there_is_replaced_at_once() {
    let staffing = Staffing { least: Some(0), idle: Some(Duration::from_secs(2)), ..Staffing::default() };
    let mut pool = Bench::new(Config { staffing, start_up: START_UP, ..config(3) });
    pool.submit(2, &plain());
    pool.on(Event::Ready(pool.who(0)));
    pool.forget().die(0, true);
    assert_eq!(pool.spawned(), [0], "for the second");
}

#[test]
fn nobody_is_started_for_what_waits_for_a_worker_that_is_there() {
    let mut pool = elastic(2);
    let batch = pool.machine.open(GroupSpec::default());
    let mut submit = |piece| {
        let spec = TaskSpec { piece: Some(piece), ..of(batch) };
        pool.machine.submit(&spec).expect("the pool is open");
        pool.on(Event::Pump);
        // As long as a task of worker 0 takes.
        pool.pass(Duration::from_secs(9));
        pool.machine.counters().spawned
    };
    assert_eq!(
        (0..5).map(|piece| submit(2 * piece)).max(),
        Some(1),
        "somebody has come who has nothing to do"
    );
    assert_eq!(submit(1), 2, "somebody is wanted in the other seat");
}
