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

    /// Worker 1 does a task a millisecond for so long, and there is always another one for it, as long as this is wanted.
    fn stream(&mut self, time: Duration, mut is_wanted: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + time;
        while self.now < end {
            while self.machine.waiting().len() < 4 {
                self.machine.submit(&plain()).expect("the pool is open");
            }
            self.on(Event::Pump);
            self.pass(MILLI);
            self.finish(1);
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
    let done = pool.stream(20 * LONG, |pool| pool.outcome(behind).is_none());
    assert!(done, "it waits for what may run for ever: {:?}", pool.machine.slots()[0]);
    assert!(pool.machine.load(0) == 1, "nothing else is put there");
}

#[test]
fn a_suspect_does_not_wait_for_a_long_task_because_others_have_always_something_to_do() {
    let mut pool = Bench::ready(Config { unpaced: 2, ..config(3) });
    pool.submit(1, &plain());
    pool.submit(1, &plain());
    let suspect = pool.submit(1, &TaskSpec { retries: 1, ..plain() })[0];
    pool.submit(3, &plain());
    assert_eq!([0, 1, 2].map(|worker| pool.machine.load(worker)), [2; 3]);
    pool.die(2, true);
    let done = pool.stream(20 * LONG, |pool| pool.outcome(suspect).is_none());
    assert!(done, "{:?}", pool.machine.slots());
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
