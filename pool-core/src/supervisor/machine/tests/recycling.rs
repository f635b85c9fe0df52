//! Healthy workers that are replaced.

use super::*;
use crate::stats::RetireReason;

fn recycling(workers: u32, quota: u64) -> Config {
    Config { staffing: Staffing { quota: Some(quota), ..Staffing::default() }, ..config(workers) }
}

impl Bench {
    /// The places whose workers were asked to exit, in order.
    fn retired(&self) -> Vec<u32> {
        let retired = |action: &Action<_>| match action {
            Action::Retire(who, _) => Some(who.worker.get()),
            _ => None,
        };
        self.done.iter().filter_map(retired).collect()
    }

    /// The places that processes were started in, in order.
    pub(super) fn spawned(&self) -> Vec<u32> {
        let spawned = |action: &Action<_>| match action {
            Action::Spawn(who) => Some(who.worker.get()),
            _ => None,
        };
        self.done.iter().filter_map(spawned).collect()
    }
}

#[test]
fn a_process_runs_as_many_tasks_as_it_may_and_its_successor_starts_meanwhile() {
    let mut pool = Bench::ready(recycling(1, 3));
    let tasks = pool.forget().submit(8, &plain());
    assert_eq!((pool.sent(0).len(), pool.spawned()), (3, vec![1]));
    pool.on(Event::Ready(pool.who(1)));
    assert_eq!(pool.sent(1).len(), 0, "it stands by until the first one has gone");
    (0..2).for_each(|_| pool.finish(0));
    assert_eq!((pool.sent(0).len(), pool.retired()), (3, vec![]));
    pool.finish(0);
    assert_eq!((pool.retired(), pool.sent(1)), (vec![0], tasks[3..6].to_vec()));
    assert_eq!(pool.spawned(), [1], "there is no place for a third one");
    pool.die(0, false);
    assert_eq!(pool.spawned(), [1, 0]);
    assert_eq!(pool.machine.counters().idle_deaths, 0, "that was no death");
    assert_eq!(pool.machine.counters().retired.tasks, 1);
}

#[test]
fn what_is_taken_back_unclaimed_does_not_count() {
    let mut pool = Bench::new(recycling(2, 3));
    pool.on(Event::Ready(pool.who(0)));
    pool.submit(3, &plain());
    assert_eq!(pool.sent(0).len(), 3);
    pool.on(Event::Ready(pool.who(1)));
    let who = pool.who(0);
    pool.on(Event::TookBack(who, answers(&[(3, true)])));
    pool.forget().submit(4, &plain());
    pool.finish(0);
    assert_eq!((pool.sent(0).len(), pool.sent(1).len()), (1, 2), "three for each, and no more");
}

#[test]
fn a_retry_counts_as_a_task() {
    let mut pool = Bench::ready(recycling(1, 2));
    let task = pool.submit(1, &TaskSpec { retries: 5, retry_on: RetryOn::PANIC, ..plain() })[0];
    let panicked =
        || TaskError::Panicked { message: "no".to_owned(), location: None, backtrace: None, output: None };
    for ticket in [1, 2] {
        let who = pool.who(0);
        pool.on(Event::Failed(who, ticket, panicked()));
    }
    assert_eq!((pool.retired(), pool.outcome(task).is_none()), (vec![0], true));
    let successor = pool.who(1);
    pool.forget().on(Event::Ready(successor));
    assert_eq!(pool.sent(1), [task]);
}

#[test]
fn without_overlap_there_is_never_one_process_more() {
    let staffing = Staffing { quota: Some(1), overlap: false, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(2) });
    pool.forget().submit(4, &plain());
    pool.finish(0);
    assert_eq!((pool.retired(), pool.spawns()), (vec![0], 0));
    pool.die(0, false);
    assert_eq!(pool.spawned(), [0]);
}

#[test]
fn no_more_than_a_quarter_is_replaced_at_a_time() {
    let mut pool = Bench::ready(recycling(8, 1));
    pool.forget().submit(8, &plain());
    assert_eq!(pool.spawned(), [8, 9], "all are on their last task");
    (0..8).for_each(|worker| pool.finish(worker));
    assert_eq!((pool.retired().len(), pool.spawns()), (8, 2));
    pool.die(3, false);
    assert_eq!(pool.spawned(), [8, 9, 3]);
}

#[test]
fn processes_retire_earlier_at_random() {
    let staffing = Staffing { quota: Some(10), jitter: 4, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(1) });
    let mut counts = Vec::new();
    for _ in 0..60 {
        let worker = match pool.machine.slots().iter().position(|slot| slot.active().is_some()) {
            Some(worker) => worker as u32,
            None => panic!("nobody works"),
        };
        pool.forget().submit(11, &plain());
        counts.push(pool.sent(worker).len());
        pool.on(Event::Ready(pool.who(1 - worker)));
        (0..counts[counts.len() - 1]).for_each(|_| pool.finish(worker));
        assert_eq!(pool.retired(), [worker]);
        while pool.machine.pending() > 0 && pool.machine.head(pool.who(1 - worker)).is_some() {
            let rest: Vec<TaskKey> = pool.machine.units.keys();
            rest.into_iter().for_each(|key| pool.on(Event::Cancel(key)));
            let back: Vec<(Ticket, bool)> = pool
                .taken()
                .into_iter()
                .flat_map(|(_, tickets)| tickets)
                .map(|ticket| (ticket, true))
                .collect();
            let who = pool.who(1 - worker);
            pool.on(Event::TookBack(who, answers(&back)));
        }
        pool.die(worker, false);
    }
    assert!(counts.iter().all(|count| (6..=10).contains(count)), "{counts:?}");
    assert!((6..=10).all(|wanted| counts.contains(&wanted)), "{counts:?}");
}

#[test]
fn a_heavy_worker_finishes_what_it_runs_and_gives_the_rest_back() {
    let staffing = Staffing { weighs: true, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(1) });
    let tasks = pool.submit(3, &plain());
    let heavy = pool.who(0);
    pool.forget().on(Event::Heavy(heavy));
    assert_eq!(pool.taken(), [(heavy, vec![2, 3])]);
    assert_eq!((pool.spawned(), pool.retired()), (vec![1], vec![]));
    pool.on(Event::TookBack(heavy, answers(&[(2, true), (3, true)])));
    pool.on(Event::Ready(pool.who(1)));
    assert_eq!(pool.sent(1), [], "not more than one at a time");
    pool.finish(0);
    assert_eq!((pool.retired(), pool.sent(1)), (vec![0], tasks[1..].to_vec()));
    assert_eq!(pool.outcome(tasks[0]).map(Result::is_ok), Some(true));
    pool.die(0, false);
    assert_eq!(pool.spawns(), 1, "its successor is there already");
    assert_eq!(pool.machine.counters().retired.memory, 1);
}

#[test]
fn an_idle_worker_that_is_heavy_goes_at_once_and_late_news_of_it_are_dropped() {
    let staffing = Staffing { weighs: true, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(1) });
    let heavy = pool.who(0);
    pool.forget().on(Event::Heavy(heavy));
    assert_eq!((pool.retired(), pool.spawned()), (vec![0], vec![1]));
    pool.die(0, false);
    pool.forget().on(Event::Heavy(heavy));
    assert!(pool.done.is_empty(), "{:?}", pool.done);
}

#[test]
fn a_worker_that_dies_on_its_way_out_is_not_replaced_twice() {
    let staffing = Staffing { weighs: true, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(1) });
    let task = pool.submit(1, &plain())[0];
    let heavy = pool.who(0);
    pool.on(Event::Heavy(heavy));
    pool.on(Event::Ready(pool.who(1)));
    pool.forget().die(0, true);
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::WorkerDied(_)))));
    assert_eq!(pool.spawns(), 0);
    pool.submit(1, &plain());
    assert_eq!(pool.sent(1).len(), 1, "its successor works");
}

#[test]
fn a_suspect_that_waited_for_a_worker_that_leaves_runs_elsewhere() {
    let staffing = Staffing { weighs: true, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(1) });
    let suspect = pool.submit(1, &TaskSpec { retries: 1, retry_on: RetryOn::PANIC, ..plain() })[0];
    pool.submit(1, &plain());
    let panicked =
        TaskError::Panicked { message: "no".to_owned(), location: None, backtrace: None, output: None };
    let who = pool.who(0);
    pool.on(Event::Failed(who, 1, panicked));
    pool.on(Event::Heavy(who));
    pool.on(Event::Ready(pool.who(1)));
    pool.finish(0);
    assert_eq!((pool.retired(), pool.sent(1)), (vec![0], vec![suspect]));
}

#[test]
fn one_that_does_not_exit_is_killed_and_its_place_filled() {
    let staffing = Staffing { quota: Some(1), overlap: false, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(1) });
    pool.submit(2, &plain());
    pool.finish(0);
    let who = pool.who(0);
    pool.forget().pass(Duration::from_secs(5));
    assert_eq!((pool.kills(), pool.spawned()), (vec![(who, KillReason::ExitTimeout)], vec![0]));
}

#[test]
fn a_pool_that_has_nothing_more_to_do_starts_no_successor() {
    let mut pool = Bench::ready(recycling(1, 1));
    pool.on(Event::Close);
    let mut pool = Bench::ready(recycling(1, 1));
    pool.submit(1, &plain());
    pool.on(Event::Close);
    pool.on(Event::Ready(pool.who(1)));
    pool.forget().finish(0);
    assert_eq!((pool.retired(), pool.spawns()), (vec![0, 1], 0));
    let counts = pool.machine.counters().retired;
    assert_eq!((counts.tasks, counts.closed), (1, 1));
    pool.die(0, false);
    pool.die(1, false);
    assert!(pool.machine.is_drained());
}

#[test]
fn why_it_leaves_first_is_why_it_left() {
    let staffing = Staffing { weighs: true, ..Staffing::default() };
    let mut pool = Bench::ready(Config { staffing, ..config(2) });
    pool.submit(2, &plain());
    let who = pool.who(0);
    pool.on(Event::Heavy(who));
    pool.machine.leave(pool.now, 0, RetireReason::Resized);
    pool.finish(0);
    let counts = pool.machine.counters().retired;
    assert_eq!((counts.memory, counts.resized), (1, 0));
}
