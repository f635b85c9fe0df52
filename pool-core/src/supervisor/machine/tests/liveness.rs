//! Nothing waits behind what may run for ever while somebody else could do it, be he idle or busy with what ends.

use super::*;

const LONG: Duration = Duration::from_millis(50);

/// A piece of a batch whose pieces go to the workers in turns.
fn piece(group: GroupId, piece: u64) -> TaskSpec {
    TaskSpec { piece: Some(piece), ..of(group) }
}

impl Bench {
    /// Whatever is asked back was not begun.
    fn yield_all(&mut self) {
        for (who, tickets) in self.taken() {
            self.done.retain(|action| !matches!(action, Action::TakeBack(from, _) if *from == who));
            let unclaimed: Vec<(Ticket, bool)> = tickets.into_iter().map(|ticket| (ticket, true)).collect();
            self.on(Event::TookBack(who, answers(&unclaimed)));
        }
    }

    /// One worker does a task a millisecond for so long, and there is always another one for it, as long as this is wanted.
    fn stream(&mut self, worker: u32, time: Duration, mut is_wanted: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + time;
        while self.now < end {
            while self.machine.waiting().len() < 4 {
                self.machine.submit(&plain()).expect("the pool is open");
            }
            self.on(Event::Pump);
            self.pass(MILLI);
            self.finish(worker);
            self.yield_all();
            if !is_wanted(self) {
                return true;
            }
        }
        false
    }
}

#[test]
fn what_lies_behind_a_long_task_is_done_by_others_although_these_have_always_something_to_do() {
    let mut pool = Bench::ready(Config { unpaced: 2, ..config(2) });
    let first = pool.submit(4, &plain());
    let behind = *pool.sent(0).last().expect("two for each");
    assert!(first.contains(&behind) && pool.machine.load(0) == 2);
    let done = pool.stream(1, 20 * LONG, |pool| pool.outcome(behind).is_none());
    assert!(done, "it waits for what may run for ever: {:?}", pool.machine.slots()[0]);
    assert!(pool.machine.load(0) == 1, "nothing else is put there");
}

#[test]
fn what_lies_behind_a_long_task_is_done_by_others_while_these_work_off_a_backlog() {
    let mut pool = Bench::ready(Config { unpaced: 4, ..config(2) });
    pool.submit(8, &plain());
    let behind = *pool.sent(0).last().expect("four for each");
    pool.submit(1000, &plain());
    let begun = pool.now;
    while pool.outcome(behind).is_none() {
        pool.pass(MILLI);
        pool.finish(1);
        pool.yield_all();
        assert!(
            pool.now - begun < 3 * LONG,
            "it waits for what may run for ever: {:?}",
            pool.machine.slots()
        );
    }
    assert_eq!(pool.machine.load(0), 1, "all of it is given to others");
}

#[test]
fn a_suspect_waits_for_one_worker_as_long_as_that_finishes_something() {
    let mut pool = Bench::ready(Config { unpaced: 8, ..config(3) });
    pool.submit(1, &plain());
    pool.submit(1, &plain());
    let suspect = pool.submit(1, &TaskSpec { retries: 1, ..plain() })[0];
    pool.submit(1000, &plain());
    assert_eq!(pool.sent(2)[0], suspect);
    pool.die(2, true);
    pool.forget();
    let mut rounds = 0;
    while (0..2).all(|worker| !pool.sent(worker).contains(&suspect)) {
        rounds += 1;
        assert!(rounds <= 8, "it goes from one to the other: {:?}", pool.machine.slots());
        (0..2).for_each(|worker| pool.finish(worker));
    }
    let other = (0..2).find(|worker| !pool.sent(*worker).contains(&suspect)).expect("it is sent once");
    assert!(!pool.sent(other).is_empty(), "the other one is given others");
}

#[test]
fn a_suspect_does_not_wait_for_a_long_task_because_others_have_always_something_to_do() {
    let mut pool = Bench::ready(Config { unpaced: 2, ..config(4) });
    (0..3).for_each(|_| _ = pool.submit(1, &plain()));
    let suspect = pool.submit(1, &TaskSpec { retries: 1, ..plain() })[0];
    pool.submit(4, &plain());
    assert_eq!([0, 1, 2, 3].map(|worker| pool.machine.load(worker)), [2; 4]);
    pool.stream(2, 3 * LONG, |_| true);
    assert_eq!([0, 1].map(|worker| pool.machine.load(worker)), [1; 2], "the emptiest ones");
    pool.die(3, true);
    let done = pool.stream(2, 20 * LONG, |pool| pool.outcome(suspect).is_none());
    assert!(done, "two run something long, the third one does not: {:?}", pool.machine.slots());
}

#[test]
fn whoever_stands_in_is_given_what_waited_for_a_worker_that_cannot_be_spawned() {
    let mut pool = Bench::ready(config(3));
    let batch = pool.machine.open(GroupSpec::default());
    pool.die(1, false);
    let key = pool.submit(1, &piece(batch, 1))[0];
    assert!([0, 2].into_iter().all(|worker| pool.sent(worker).is_empty()), "it starts");
    let who = pool.who(1);
    pool.on(Event::SpawnFailed(who, death(who)));
    assert_eq!(pool.sent(2), [key], "the others are idle");
}

#[test]
fn whoever_stands_in_is_given_what_is_for_a_vacant_place_in_which_many_have_failed() {
    let staffing = Staffing { least: Some(1), idle: Some(100 * MILLI), ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(2) });
    pool.submit(2, &plain());
    for _ in 0..2 {
        let who = pool.who(1);
        pool.on(Event::SpawnFailed(who, death(who)));
    }
    while pool.machine.pending() > 0 {
        pool.finish(0);
    }
    pool.pass(Duration::from_secs(2));
    assert!(!pool.machine.expects(pool.who(1)), "one is enough");
    let batch = pool.machine.open(GroupSpec::default());
    let key = pool.forget().submit(1, &piece(batch, 1))[0];
    assert_eq!(pool.spawns(), 1, "somebody is missing now");
    assert_eq!(pool.sent(0), [key], "nobody waits for one that has failed twice");
}

#[test]
fn whoever_stands_in_gives_back_what_somebody_else_stands_in_for_now() {
    let mut pool = Bench::ready(config(4));
    let batch = pool.machine.open(GroupSpec::default());
    pool.die(1, false);
    let who = pool.who(1);
    pool.on(Event::SpawnFailed(who, death(who)));
    let own = pool.submit(1, &piece(batch, 2))[0];
    let other = pool.submit(1, &piece(batch, 1))[0];
    assert_eq!(pool.sent(2), [own, other], "the second of three");
    pool.show_claim(2);
    pool.die(0, false);
    assert_eq!(pool.taken(), [(pool.who(2), vec![2])], "what it runs may take for ever");
    pool.yield_all();
    let who = pool.who(0);
    pool.on(Event::SpawnFailed(who, death(who)));
    assert_eq!(pool.sent(3), [other], "the second of two");
}

/// An elastic pool in which two are ready, and a third one has failed twice and is not there: nobody has needed him.
fn two_of_three() -> Bench {
    let staffing = Staffing { least: Some(1), idle: Some(Duration::from_secs(3600)), ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(3) });
    pool.submit(3, &plain());
    pool.on(Event::Ready(pool.who(1)));
    pool.yield_all();
    for _ in 0..2 {
        let who = pool.who(2);
        pool.on(Event::SpawnFailed(who, death(who)));
    }
    while pool.machine.pending() > 0 {
        let holder = pool.holder();
        pool.finish(holder);
    }
    pool.pass(Duration::from_secs(2));
    assert!(!pool.machine.expects(pool.who(2)), "two are enough");
    pool.forget();
    pool
}

#[test]
fn an_elastic_pool_goes_on_starting_somebody_for_what_waits_behind_a_long_task_of_who_stands_in() {
    for retries in [0, 1] {
        let mut pool = two_of_three();
        let batch = pool.machine.open(GroupSpec::default());
        let spec = TaskSpec { retries, retry_on: RetryOn::PANIC, ..piece(batch, 2) };
        let panicked =
            TaskError::Panicked { message: String::new(), location: None, backtrace: None, output: None };
        if retries > 0 {
            // It is given to whoever stands in, and will be again.
            let first = pool.submit(1, &spec)[0];
            assert_eq!(pool.sent(0), [first]);
        }
        let long = pool.submit(1, &piece(batch, 0))[0];
        if retries > 0 {
            let ticket = pool.machine.head(pool.who(0)).expect("it runs the first one").span.first;
            pool.on(Event::Failed(pool.who(0), ticket, panicked));
        } else {
            pool.submit(1, &spec);
        }
        assert!(pool.sent(0).contains(&long), "{:?}", pool.machine.slots());
        let who = pool.who(2);
        pool.on(Event::SpawnFailed(who, death(who)));
        pool.pass(Duration::from_secs(10));
        assert!(pool.machine.expects(pool.who(2)), "retries {retries}: {:?}", pool.machine.slots());
        let who = pool.who(2);
        pool.forget().on(Event::Ready(who));
        pool.yield_all();
        assert_eq!(pool.sent(2).len(), 1, "retries {retries}: {:?}", pool.machine.slots());
    }
}

#[test]
fn who_is_idle_finds_what_he_may_take_beside_what_is_for_others() {
    let mut pool = Bench::ready(Config { unpaced: 2, ..config(3) });
    let batch = pool.machine.open(GroupSpec::default());
    (0..2).for_each(|_| _ = pool.submit(1, &piece(batch, 0)));
    pool.submit(4, &plain());
    assert_eq!([0, 1, 2].map(|worker| pool.machine.load(worker)), [2; 3]);
    (0..2).for_each(|_| pool.finish(2));
    let from: Vec<Incarnation> = pool.taken().into_iter().map(|(who, _)| who).collect();
    assert_eq!(from, [pool.who(1)]);
}

#[test]
fn a_suspect_leaves_whoever_stands_in_when_somebody_sits_there() {
    let mut pool = Bench::ready(config(3));
    let batch = pool.machine.open(GroupSpec::default());
    pool.die(1, false);
    let who = pool.who(1);
    pool.on(Event::SpawnFailed(who, death(who)));
    let spec = TaskSpec { retries: 1, retry_on: RetryOn::PANIC, ..piece(batch, 1) };
    let suspect = pool.submit(1, &spec)[0];
    let long = pool.submit(1, &piece(batch, 2))[0];
    assert_eq!(pool.sent(2), [suspect, long]);
    let panicked =
        TaskError::Panicked { message: String::new(), location: None, backtrace: None, output: None };
    pool.on(Event::Failed(pool.who(2), 1, panicked));
    pool.pass(Duration::from_millis(150));
    assert!(pool.machine.expects(pool.who(1)) && pool.sent(2).len() == 2, "it waits for the long one");
    pool.on(Event::Ready(pool.who(1)));
    assert_eq!(pool.sent(1), [suspect]);
}
