//! How much a worker is given, and who is given it.

use super::*;

const MICRO: Duration = Duration::from_micros(1);

fn timed(workers: u32) -> Config {
    Config { unpaced: 2, prefetch: 1000, ticket_window: 4096, ..config(workers) }
}

impl Bench {
    fn load(&self, worker: u32) -> usize {
        self.machine.load(worker as usize)
    }

    /// A worker finishes as many items as it holds of its oldest unit, or `most`, each in this time.
    fn work(&mut self, worker: u32, most: u32, each: Duration) {
        let head = self.machine.head(self.who(worker)).expect("it holds something").span;
        let count = head.count.min(most);
        self.now += each * count;
        self.on(Event::Finished(self.who(worker), head.first, count, "done"));
    }
}

#[test]
fn nobody_is_given_much_before_it_is_known_how_long_it_takes() {
    let mut pool = Bench::ready(timed(1));
    pool.submit(1, &TaskSpec { count: 10_000, ..plain() });
    assert_eq!(pool.load(0), 2);
    pool.work(0, 1, 100 * MICRO);
    assert_eq!(pool.load(0), 10, "a millisecond of work");
}

#[test]
fn a_fast_worker_soon_has_a_millisecond_of_work_and_a_slow_item_shrinks_that_at_once() {
    let mut pool = Bench::ready(timed(1));
    pool.submit(1, &TaskSpec { count: 100_000, ..plain() });
    // The first result comes late, because the worker had to be woken.
    pool.work(0, 1, 100 * MICRO);
    for _ in 0..40 {
        pool.work(0, 100, 2 * MICRO);
    }
    assert!((250..=500).contains(&pool.load(0)), "{} items of 2 µs", pool.load(0));
    let before = pool.machine.counters();
    pool.forget().work(0, 1, 50 * MILLI);
    for _ in 0..300 {
        pool.work(0, 1, 50 * MILLI);
    }
    let sent: u64 = pool.sends(0).iter().map(|(_, items)| items.end() - items.start() + 1).sum();
    assert!(before.succeeded > 0 && sent == 0, "{sent} more were given to it");
}

#[test]
fn items_that_take_long_are_given_two_at_a_time_and_one_if_there_are_no_more() {
    let mut pool = Bench::ready(timed(2));
    pool.submit(1, &TaskSpec { count: 7, ..plain() });
    for loads in [[2, 2], [2, 1], [1, 0]] {
        pool.work(0, 1, 40 * MILLI);
        pool.work(1, 1, Duration::ZERO);
        assert_eq!([pool.load(0), pool.load(1)], loads);
    }
}

#[test]
fn nothing_waits_behind_items_that_take_very_long() {
    let mut pool = Bench::ready(timed(1));
    pool.submit(1, &TaskSpec { count: 10, ..plain() });
    for loads in [1, 1, 1] {
        pool.work(0, 1, 100 * MILLI);
        assert_eq!(pool.load(0), loads);
    }
}

#[test]
fn reports_at_one_moment_are_measured_together() {
    let mut pool = Bench::ready(timed(1));
    pool.submit(1, &TaskSpec { count: 10_000, ..plain() });
    for _ in 0..50 {
        pool.work(0, 10, 10 * MICRO);
        // More of what was read at once.
        pool.work(0, 10, Duration::ZERO);
    }
    assert!((100..=200).contains(&pool.load(0)), "{} items of 5 µs", pool.load(0));
}

#[test]
fn single_tasks_go_to_the_first_worker_that_is_idle() {
    let mut pool = Bench::ready(config(4));
    pool.submit(4, &plain());
    for worker in [3, 1, 0, 2] {
        pool.finish(worker);
    }
    for _ in 0..3 {
        pool.forget().submit(1, &plain());
        assert_eq!(pool.sent(0).len(), 1);
        pool.finish(0);
    }
    pool.forget().submit(8, &plain());
    assert_eq!([0, 1, 2, 3].map(|worker| pool.load(worker)), [2; 4], "many are for all");
}

#[test]
fn tasks_that_come_one_by_one_are_spread_evenly() {
    let mut pool = Bench::ready(config(4));
    for _ in 0..4 * 16 {
        pool.submit(1, &plain());
    }
    assert_eq!([0, 1, 2, 3].map(|worker| pool.load(worker)), [16; 4]);
}

#[test]
fn an_idle_worker_takes_from_the_one_that_has_the_longest_way_to_go() {
    let mut pool = Bench::ready(timed(3));
    pool.submit(1, &TaskSpec { count: 6, ..plain() });
    pool.work(1, 2, MICRO);
    pool.work(2, 2, MICRO);
    pool.work(0, 2, 300 * MICRO);
    pool.submit(1, &TaskSpec { count: 600, ..plain() });
    let [slow, fast] = [pool.load(0), pool.load(1)];
    assert_eq!([slow, fast], [3, 200]);
    pool.forget();
    while pool.taken().is_empty() {
        pool.work(2, 1000, MICRO);
    }
    let taken: Vec<_> = pool.taken().into_iter().map(|(who, _)| who).collect();
    assert_eq!(taken, [pool.who(0)]);
}

#[test]
fn nothing_more_is_queued_behind_an_item_that_takes_long() {
    let mut pool = Bench::ready(timed(1));
    pool.submit(1, &TaskSpec { count: 100, ..plain() });
    while pool.machine.pending() > 0 {
        pool.work(0, 10, MICRO);
    }
    pool.submit(1, &plain());
    pool.now += 5 * MILLI;
    pool.submit(50, &plain());
    assert_eq!(pool.load(0), 2);
}

/// Waking somebody takes as long as fifty items of a microsecond.
fn waking(workers: u32) -> Config {
    Config { wake: 50 * MICRO, ..timed(workers) }
}

impl Bench {
    /// The first worker has shown that an item takes a microsecond.
    fn quick(workers: u32) -> Self {
        Self::quick_in(waking(workers))
    }

    fn quick_in(config: Config) -> Self {
        let mut pool = Self::ready(config);
        for _ in 0..20 {
            pool.submit(1, &TaskSpec { count: 200, ..plain() });
            while pool.machine.pending() > 0 {
                let holder = pool.holder();
                pool.work(holder, 50, MICRO);
            }
        }
        pool.forget();
        pool
    }
}

#[test]
fn nobody_is_woken_for_what_somebody_else_will_have_done_by_then() {
    let mut pool = Bench::quick(3);
    for count in 1..=40 {
        pool.submit(1, &plain());
        assert_eq!([pool.load(0), pool.load(1), pool.load(2)], [count, 0, 0]);
    }
    for _ in 0..40 {
        pool.submit(1, &plain());
    }
    assert!(pool.load(0) <= 50 && pool.load(1) >= 30 && pool.load(2) == 0, "for more than that, one is");
    pool.now += 3 * MICRO;
    pool.on(Event::Pump);
    assert_eq!(pool.machine.counters().taken_back, 0);
}

#[test]
fn what_waits_behind_an_item_that_takes_long_after_all_is_given_to_an_idle_worker() {
    let mut pool = Bench::quick(2);
    pool.submit(10, &plain());
    assert_eq!([pool.load(0), pool.load(1)], [10, 0]);
    let due = pool.machine.deadline().expect("it is looked at again");
    assert!(due <= pool.now + 200 * MICRO);
    pool.work(0, 1, 20 * MICRO);
    let before = pool.now;
    pool.pass(200 * MICRO);
    assert!(pool.taken().is_empty(), "it has just done something");
    pool.pass(MILLI);
    assert_eq!(pool.taken().len(), 1, "half of what waits is asked for: {:?}", pool.now - before);
}

#[test]
fn who_is_late_gives_back_also_while_somebody_else_will_soon_be_done_with_more() {
    let mut pool = Bench::quick_in(Config { ahead: 50 * MILLI, ..waking(3) });
    pool.submit(10, &plain());
    pool.pass(MILLI);
    assert_eq!(pool.taken().len(), 1, "half of what waits is asked for");
    let (late, tickets) = pool.taken().remove(0);
    pool.submit(30, &plain());
    let busy = (1..3).find(|worker| pool.load(*worker) == 30).expect("one does it before another is woken");
    let unclaimed: Vec<_> = tickets.into_iter().map(|ticket| (ticket, true)).collect();
    pool.forget().on(Event::TookBack(late, answers(&unclaimed)));
    assert_eq!(late, pool.who(0));
    assert!(pool.load(0) > 1 && pool.load(0) < pool.load(busy), "{} and {}", pool.load(0), pool.load(busy));
    for _ in 0..4 {
        pool.pass(100 * MICRO);
        pool.work(busy, 1, MICRO);
    }
    assert!(pool.taken().iter().any(|(who, _)| *who == late), "{:?}", pool.taken());
}

#[test]
fn a_result_that_wakes_nobody_is_looked_for_before_somebody_is_woken() {
    let mut pool = Bench::quick(2);
    pool.submit(40, &plain());
    assert!(!pool.machine.would_wake(pool.now));
    let submit = |pool: &mut Bench, count| {
        for _ in 0..count {
            pool.machine.submit(&plain()).expect("the pool is open");
        }
    };
    submit(&mut pool, 1);
    assert!(!pool.machine.would_wake(pool.now), "there is room for it");
    pool.on(Event::Pump);
    pool.now += 300 * MICRO;
    submit(&mut pool, 1);
    assert!(pool.machine.would_wake(pool.now), "it should have reported something by now");
    assert!(!pool.machine.may_wait(pool.now));
}

#[test]
fn short_tasks_that_come_one_by_one_are_handed_out_together() {
    let mut pool = Bench::quick(2);
    assert!(!pool.machine.may_wait(pool.now), "nobody would come for it");
    pool.pass(10 * MILLI);
    pool.submit(1, &plain());
    assert!(pool.machine.deadline().is_some_and(|due| due > pool.now + MILLI), "nothing is looked at soon");
    let mut waits = 0;
    loop {
        pool.machine.submit(&plain()).expect("the pool is open");
        if !pool.machine.may_wait(pool.now) {
            break;
        }
        waits += 1;
    }
    assert_eq!((waits, pool.load(0)), (255, 1));
    assert!(pool.machine.deadline().is_some_and(|due| due <= pool.now + 200 * MICRO), "but not for long");
    pool.work(0, 1, MICRO);
    assert!(pool.load(0) >= 50, "whoever has done something comes for them: {}", pool.load(0));
    while pool.machine.pending() > 0 {
        let holder = pool.holder();
        pool.work(holder, 50, MICRO);
    }
    pool.submit(1, &plain());
    pool.machine.submit(&plain()).expect("the pool is open");
    assert!(pool.machine.may_wait(pool.now));
    pool.now += 49 * MICRO;
    assert!(pool.machine.may_wait(pool.now));
    pool.now += MICRO;
    assert!(!pool.machine.may_wait(pool.now), "no longer than it takes to wake somebody");
}

#[test]
fn nothing_waits_behind_a_guess_while_lanes_compete() {
    let mut pool = Bench::quick(2);
    let batch = of(pool.open_map());
    pool.submit(1, &plain());
    pool.machine.submit(&batch).expect("the pool is open");
    pool.submit(1, &plain());
    assert_eq!(pool.load(0), 1, "the other one is woken");
    assert_eq!(pool.load(1), 2);
}
