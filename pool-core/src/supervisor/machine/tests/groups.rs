//! Batches: how they end, and what is refused then.

use super::*;

impl Bench {
    fn open(&mut self, abort: bool, limit: Option<Duration>) -> GroupId {
        let deadline = limit.map(|limit| (self.now + limit, limit));
        self.machine.open(GroupSpec { abort, deadline })
    }

    fn refused(&mut self, group: GroupId) -> TaskError {
        self.machine.submit(&of(group)).expect_err("the batch has ended")
    }
}

#[test]
fn the_deadline_of_a_batch_ends_what_waits_and_what_runs() {
    let mut pool = Bench::ready(Config { prefetch: 1, ..config(2) });
    let batch = pool.open(false, Some(100 * MILLI));
    pool.submit(5, &of(batch));
    let other = pool.submit(1, &plain())[0];
    pool.pass(99 * MILLI);
    pool.show_claim(0);
    assert!(pool.ends().is_empty());
    let ran = pool.who(0);
    pool.pass(MILLI);
    let ends: Vec<_> = pool.ends();
    assert_eq!(ends.len(), 5, "{ends:?}");
    assert!(ends.iter().all(|(_, what)| *what == "overdue"), "{ends:?}");
    assert_eq!(pool.machine.counters().overdue, 5);
    pool.pass(GRACE);
    let ticket = pool.machine.head(ran).map(|head| head.span.first);
    pool.on(Event::Observed(ran, Observation { ticket, started: Some(pool.now), moving: false }));
    assert_eq!(pool.kills(), [(ran, KillReason::Cancelled)], "after the grace period");
    assert!(matches!(pool.refused(batch), TaskError::DeadlineExceeded { limit } if limit == 100 * MILLI));
    assert!(pool.outcome(other).is_none(), "what is not of this batch goes on");
    pool.on(Event::CloseGroup(batch));
    assert!(matches!(pool.refused(batch), TaskError::Cancelled));
}

#[test]
fn what_has_ended_before_the_deadline_is_read_first() {
    let mut pool = Bench::ready(config(1));
    let batch = pool.open(false, Some(100 * MILLI));
    let [in_time, late] = pool.submit(2, &of(batch))[..] else { panic!("two were submitted") };
    pool.pass(99 * MILLI);
    assert!(!pool.machine.is_to_look_again(pool.now));
    pool.now += MILLI;
    assert!(pool.machine.is_to_look_again(pool.now), "the shell reads results now");
    pool.finish(0);
    pool.on(Event::Tick);
    assert!(matches!(pool.outcome(in_time), Some(Ok("done"))));
    assert!(matches!(pool.outcome(late), Some(Err(TaskError::DeadlineExceeded { .. }))));
}

#[test]
fn a_deadline_that_is_over_at_the_start_starts_nothing() {
    let mut pool = Bench::new(config(1));
    let batch = pool.open(false, Some(Duration::ZERO));
    pool.submit(3, &of(batch));
    pool.on(Event::Tick);
    pool.greet_all();
    assert_eq!((pool.ends().len(), pool.sent(0).len()), (3, 0));
    assert_ne!(pool.machine.deadline(), Some(pool.now), "and is not looked at again");
}

#[test]
fn the_next_deadline_is_that_of_a_batch_that_goes_on() {
    let mut pool = Bench::new(config(1));
    let start = pool.now;
    let batches = [30, 10, 20].map(|limit| pool.open(false, Some(limit * MILLI)));
    assert_eq!(pool.machine.deadline(), Some(start + 10 * MILLI));
    pool.on(Event::CloseGroup(batches[1]));
    assert_eq!(pool.machine.deadline(), Some(start + 20 * MILLI));
    pool.pass(20 * MILLI);
    assert_eq!(pool.machine.deadline(), Some(start + 30 * MILLI));
    pool.on(Event::CloseGroup(batches[0]));
    assert_eq!(pool.machine.deadline(), Some(start + START_TIMEOUT), "only that of the start is left");
}

#[test]
fn what_is_submitted_to_a_batch_after_its_first_failure_is_refused() {
    let mut pool = Bench::ready(config(1));
    let [strict, lenient] = [pool.open(true, None), pool.open(false, None)];
    pool.submit(2, &of(strict));
    pool.submit(2, &of(lenient));
    for _ in 0..4 {
        if let Some(head) = pool.machine.head(pool.who(0)) {
            pool.on(Event::Failed(pool.who(0), head.span.first, failed()));
        }
    }
    assert!(matches!(pool.refused(strict), TaskError::Cancelled));
    assert!(pool.machine.submit(&of(lenient)).is_ok(), "its items fail by themselves");
    let failed = pool.ends().iter().filter(|(_, what)| *what == "unsendable").count();
    assert_eq!(failed, 3);
}

#[test]
fn a_retry_does_not_outlive_its_batch() {
    let mut pool = Bench::ready(config(1));
    let batch = pool.open(true, None);
    let retried = pool.submit(1, &TaskSpec { retries: 3, ..of(batch) })[0];
    pool.die(0, true);
    assert!(pool.outcome(retried).is_none());
    pool.on(Event::CloseGroup(batch));
    assert!(matches!(pool.outcome(retried), Some(Err(TaskError::Cancelled))));
    pool.greet_all();
    assert_eq!((pool.sent(0).len(), pool.machine.pending()), (1, 0));
}

#[test]
fn an_old_number_means_nothing_to_the_batch_that_has_its_place() {
    let mut pool = Bench::ready(config(1));
    let old = pool.open(false, None);
    pool.on(Event::CloseGroup(old));
    let new = pool.open(false, None);
    assert_eq!(old.index, new.index);
    let task = pool.submit(1, &of(new))[0];
    pool.on(Event::CloseGroup(old));
    assert!(pool.outcome(task).is_none());
    assert!(matches!(pool.refused(old), TaskError::Cancelled));
    pool.finish(0);
    assert!(matches!(pool.outcome(task), Some(Ok("done"))));
}

#[test]
fn a_pool_that_has_ended_lets_its_batches_be_closed() {
    let mut pool = Bench::ready(config(1));
    let batch = pool.open(true, Some(MILLI));
    pool.submit(10, &of(batch));
    pool.on(Event::Terminate);
    assert!(matches!(pool.refused(batch), TaskError::PoolClosed));
    pool.pass(2 * MILLI);
    pool.on(Event::CloseGroup(batch));
    assert_eq!(pool.ends_of(&TaskError::PoolClosed), 10);
}

impl Bench {
    /// How many items have ended with an error like this one.
    fn ends_of(&self, error: &TaskError) -> u32 {
        let is_it = |action: &Action<_>| match action {
            Action::Resolve { count, result: Err(found), .. }
                if std::mem::discriminant(found) == std::mem::discriminant(error) =>
            {
                *count
            }
            _ => 0,
        };
        self.done.iter().map(is_it).sum()
    }
}

fn failed() -> TaskError {
    TaskError::Encode { task: "t".to_owned(), message: "too long".to_owned() }
}
