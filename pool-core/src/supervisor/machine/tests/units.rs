//! Units of many items: what concerns one item concerns no other.

use super::*;

fn unit(count: u32) -> TaskSpec {
    TaskSpec { count, size: count as usize, ..plain() }
}

fn span(first: Ticket, count: u32) -> Span {
    Span { first, count }
}

fn all(items: RangeInclusive<u64>, what: &'static str) -> Vec<(u64, &'static str)> {
    items.map(|item| (item, what)).collect()
}

fn panicked() -> TaskError {
    TaskError::Panicked { message: "no".to_owned(), location: None, backtrace: None, output: None }
}

impl Bench {
    /// Results of the first items that a worker holds.
    fn finish_run(&mut self, worker: u32, count: u32) {
        let first = self.machine.head(self.who(worker)).expect("it holds something").span.first;
        self.on(Event::Finished(self.who(worker), first, count, "done"));
    }

    fn splits(&self) -> Vec<(u64, u32, u64)> {
        let split = |action: &Action<_>| match action {
            Action::Split { from, at, into } => Some((from.id.get(), *at, into.id.get())),
            _ => None,
        };
        self.done.iter().filter_map(split).collect()
    }
}

#[test]
fn results_come_in_runs_and_the_unit_leaves_with_its_last_item() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &unit(10));
    assert_eq!(pool.sends(0), [(1, 1..=10)]);
    pool.finish_run(0, 3);
    pool.finish_run(0, 6);
    let counters = pool.machine.counters();
    assert_eq!((pool.machine.pending(), counters.submitted, counters.succeeded), (1, 10, 9));
    pool.finish_run(0, 1);
    assert_eq!(pool.ends(), all(1..=10, "done"));
    assert_eq!(
        (pool.machine.pending(), pool.done.len()),
        (0, 5),
        "a send, three runs, and the spawn: {:?}",
        pool.done
    );
}

#[test]
fn numbers_go_on_behind_the_last_item() {
    let mut pool = Bench::new(config(1));
    let ids = [7, 1, 3].map(|count| pool.submit(1, &unit(count))[0].id.get());
    assert_eq!(ids, [1, 8, 9]);
}

#[test]
fn a_unit_is_split_among_the_workers_before_it_is_sent() {
    let mut pool = Bench::ready(config(2));
    pool.submit(1, &unit(10));
    assert_eq!((pool.sends(0), pool.sends(1)), (vec![(1, 1..=5)], vec![(1, 6..=10)]));
    assert_eq!(pool.splits(), [(1, 5, 6)]);
    let split = pool.done.iter().position(|action| matches!(action, Action::Split { .. }));
    let sent = pool.done.iter().position(|action| matches!(action, Action::Send { .. }));
    assert!(split < sent);
}

#[test]
fn results_of_more_than_the_unit_break_the_protocol() {
    let mut pool = Bench::ready(config(1));
    pool.submit(2, &unit(3));
    pool.finish_run(0, 4);
    assert!(matches!(&pool.kills()[..], [(_, KillReason::Violation(_))]));
    assert_eq!(pool.ends(), []);
}

#[test]
fn an_item_that_fails_fails_alone() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &unit(6));
    pool.finish_run(0, 2);
    pool.on(Event::Failed(pool.who(0), 3, panicked()));
    pool.finish_run(0, 3);
    let ends = [all(1..=2, "done"), all(3..=3, "panicked"), all(4..=6, "done")].concat();
    assert_eq!((pool.ends(), pool.machine.pending()), (ends, 0));
    assert_eq!(pool.splits(), [(1, 3, 4)], "what had ended need not be split off");
}

#[test]
fn an_item_that_may_run_again_does_so_alone_and_the_others_count_no_attempt() {
    let mut pool = Bench::ready(config(1));
    let retried = TaskSpec { retries: 1, retry_on: RetryOn::PANIC, ..unit(4) };
    pool.submit(1, &retried);
    pool.finish_run(0, 1);
    pool.on(Event::Failed(pool.who(0), 2, panicked()));
    pool.finish_run(0, 2);
    assert_eq!(pool.sends(0), [(1, 1..=4), (5, 2..=2)], "when the worker has become empty");
    let attempts = pool.done.iter().filter_map(|action| match action {
        Action::Send { attempt, .. } => Some(*attempt),
        _ => None,
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [1, 2]);
    pool.on(Event::Failed(pool.who(0), 5, panicked()));
    assert_eq!(pool.ends().last(), Some(&(2, "panicked")));
}

#[test]
fn a_death_is_the_fault_of_one_item_and_the_others_go_back_to_the_front() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &unit(6));
    pool.submit(1, &unit(2));
    pool.finish_run(0, 2);
    pool.forget().die(0, true);
    assert_eq!((pool.ends(), pool.machine.counters().requeued), (all(3..=3, "died"), 5));
    pool.greet_all();
    assert_eq!(pool.sends(0), [(1, 4..=6), (4, 7..=8)]);
}

#[test]
fn what_had_not_been_started_of_a_unit_is_sent_again_under_its_old_key() {
    let mut pool = Bench::ready(config(1));
    let key = pool.submit(1, &unit(4))[0];
    pool.finish_run(0, 1);
    pool.forget().die(0, false);
    pool.greet_all();
    let sent =
        |action: &Action<_>| matches!(action, Action::Send { task, first: 1, count: 3, .. } if *task == key);
    assert_eq!((pool.done.iter().filter(|action| sent(action)).count(), pool.splits()), (1, vec![]));
}

#[test]
fn the_items_that_a_dead_worker_had_started_out_of_turn_are_not_run_again() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &unit(6));
    let who = pool.who(0);
    pool.on(Event::Violation(who, "garbage in its result pipe".to_owned()));
    pool.on(Event::Lost(who, vec![(3, death(who)), (2, death(who))]));
    pool.forget().die(0, true);
    assert_eq!(pool.ends(), all(1..=1, "died"));
    pool.greet_all();
    assert_eq!(pool.sends(0), [(1, 4..=6)]);
}

#[test]
fn the_item_that_wrote_garbage_is_blamed_and_results_behind_it_count() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &unit(6));
    pool.finish_run(0, 1);
    let who = pool.who(0);
    pool.on(Event::Garbage(who, "not a frame".to_owned()));
    assert_eq!(
        pool.machine.head(who).map(|head| head.span),
        Some(span(2, 1)),
        "so the shell reports no run over it"
    );
    pool.on(Event::Finished(who, 2, 1, "mangled"));
    pool.on(Event::Finished(who, 4, 2, "done"));
    pool.on(Event::Lost(who, vec![(3, death(who))]));
    pool.forget().die(0, true);
    assert_eq!(pool.ends(), all(2..=2, "died"));
    pool.greet_all();
    assert_eq!(pool.sends(0), [(1, 6..=6)]);
}

#[test]
fn an_idle_worker_gets_the_half_that_was_not_claimed() {
    let mut pool = Bench::new(config(2));
    pool.on(Event::Ready(pool.who(0)));
    pool.submit(1, &unit(9));
    pool.on(Event::Ready(pool.who(1)));
    let who = pool.who(0);
    assert_eq!(
        pool.done.last().map(|action| format!("{action:?}")),
        Some(format!("{:?}", Action::<()>::TakeBack(who, vec![span(6, 4)])))
    );
    assert_eq!(pool.splits(), [], "nothing is split before the answer");
    // Meanwhile it has come to the seventh one.
    pool.finish_run(0, 6);
    pool.forget().on(Event::TookBack(who, vec![(span(6, 2), false), (span(8, 2), true)]));
    assert_eq!((pool.sends(1), pool.splits()), (vec![(1, 8..=9)], vec![(1, 7, 8)]));
    pool.finish_run(0, 1);
    pool.finish_run(1, 2);
    assert_eq!((pool.machine.pending(), pool.machine.counters().taken_back), (0, 2));
}

#[test]
fn spans_of_several_units_are_taken_back_together() {
    let mut pool = Bench::new(config(2));
    pool.on(Event::Ready(pool.who(0)));
    for count in [3, 1, 1, 4] {
        pool.submit(1, &unit(count));
    }
    pool.on(Event::Ready(pool.who(1)));
    let who = pool.who(0);
    assert!(matches!(&pool.done[..], [.., Action::TakeBack(_, spans)] if *spans == [span(6, 4)]));
    pool.forget().on(Event::Illegible(who, vec![span(6, 1)]));
    pool.on(Event::TookBack(who, vec![(span(7, 3), true)]));
    assert_eq!(pool.sends(1), [(1, 6..=6), (2, 7..=9)]);
}

#[test]
fn a_claim_out_of_turn_breaks_the_protocol() {
    let mut pool = Bench::new(config(2));
    pool.on(Event::Ready(pool.who(0)));
    pool.submit(1, &unit(9));
    pool.on(Event::Ready(pool.who(1)));
    pool.on(Event::TookBack(pool.who(0), vec![(span(6, 2), false), (span(8, 2), true)]));
    assert!(matches!(&pool.kills()[..], [(_, KillReason::Violation(_))]));
}

#[test]
fn a_cancelled_unit_ends_at_once_and_only_its_running_item_is_told_to_stop() {
    let mut pool = Bench::ready(config(1));
    let key = pool.submit(1, &unit(5))[0];
    pool.finish_run(0, 1);
    pool.show_claim(0);
    pool.forget().on(Event::Cancel(key));
    let who = pool.who(0);
    assert_eq!(pool.ends(), all(2..=5, "cancelled"));
    assert!(
        matches!(&pool.done[..], [
        Action::TakeBack(_, spans),
        Action::FlagCancel(_, 2, _),
        Action::Resolve { first: 1, count: 4, .. },
    ] if *spans == [span(3, 3)]),
        "{:?}",
        pool.done
    );
    pool.forget().on(Event::TookBack(who, vec![(span(3, 3), true)]));
    pool.on(Event::Finished(who, 2, 1, "late"));
    assert_eq!((pool.ends(), pool.machine.load(0)), (vec![], 0));
}

#[test]
fn a_cancelled_unit_of_which_nobody_knows_what_runs_is_asked_for_as_a_whole() {
    let mut pool = Bench::ready(config(1));
    let key = pool.submit(1, &unit(5))[0];
    pool.forget().on(Event::Cancel(key));
    assert_eq!(pool.taken(), [(pool.who(0), vec![1, 2, 3, 4, 5])]);
    pool.on(Event::TookBack(pool.who(0), vec![(span(1, 1), false), (span(2, 4), true)]));
    assert!(
        matches!(&pool.done[..], [.., Action::FlagCancel(_, 1, _)]),
        "it runs the first one: {:?}",
        pool.done
    );
    assert_eq!(pool.machine.load(0), 1);
}

#[test]
fn a_cancelled_unit_of_which_some_is_being_taken_is_asked_for_the_rest() {
    let mut pool = Bench::new(config(2));
    pool.on(Event::Ready(pool.who(0)));
    let key = pool.submit(1, &unit(9))[0];
    pool.on(Event::Ready(pool.who(1)));
    let who = pool.who(0);
    pool.forget().on(Event::Cancel(key));
    assert_eq!(pool.taken(), [(who, vec![1, 2, 3, 4, 5])]);
    // The answers come in the wrong order.
    pool.on(Event::TookBack(who, vec![(span(1, 1), false), (span(2, 4), true)]));
    pool.on(Event::TookBack(who, vec![(span(6, 4), true)]));
    assert_eq!((pool.machine.load(0), pool.sends(1)), (1, vec![]));
}

#[test]
fn an_item_that_is_late_is_stopped_alone_and_the_others_go_elsewhere() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &TaskSpec { limit: Some(MILLI), ..unit(5) });
    pool.finish_run(0, 1);
    pool.show_claim(0);
    let (who, started) = (pool.who(0), pool.now);
    pool.pass(MILLI);
    let seen = Observation { ticket: Some(2), started: Some(started), moving: false };
    pool.forget().on(Event::Observed(who, seen));
    assert_eq!(pool.ends(), all(2..=2, "timed out"));
    pool.pass(GRACE);
    pool.on(Event::TookBack(who, vec![(span(3, 3), true)]));
    pool.on(Event::Observed(who, seen));
    assert_eq!(pool.kills(), [(who, KillReason::Timeout)]);
    pool.forget().greet_all();
    assert_eq!(pool.sends(0), [(1, 3..=5)]);
}

#[test]
fn an_item_that_fails_aborts_its_batch_with_one_action_for_each_unit() {
    let mut pool = Bench::ready(config(1));
    let map = pool.open_map();
    let spec = TaskSpec { group: Some(map), ..unit(1000) };
    let other = unit(3);
    pool.submit(1, &spec);
    pool.submit(1, &other);
    pool.finish_run(0, 3);
    let who = pool.who(0);
    pool.forget().on(Event::Failed(who, 4, panicked()));
    let ends = [all(4..=4, "panicked"), all(65..=1000, "cancelled"), all(5..=64, "cancelled")].concat();
    assert_eq!(pool.ends(), ends);
    assert_eq!(pool.machine.pending(), 3, "what is not of this batch goes on");
    let resolved = pool.done.iter().filter(|action| matches!(action, Action::Resolve { .. })).count();
    assert_eq!(resolved, 3);
}

#[test]
fn a_unit_that_cannot_be_sent_fails_as_a_whole() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &unit(4));
    let refused = TaskError::Encode { task: "t".to_owned(), message: "too long".to_owned() };
    pool.on(Event::Unsendable(pool.who(0), span(1, 4), refused));
    assert_eq!((pool.ends(), pool.machine.pending()), (all(1..=4, "unsendable"), 0));
}

#[test]
fn a_unit_is_handed_out_in_pieces_of_the_size_that_it_asks_for() {
    let mut pool = Bench::ready(config(2));
    pool.submit(1, &TaskSpec { chunk: 10, ..unit(75) });
    let pieces =
        |pool: &Bench, worker| pool.sends(worker).into_iter().map(|(_, items)| items).collect::<Vec<_>>();
    assert_eq!(pieces(&pool, 0), [1..=10, 11..=20], "one to run, and one ahead");
    assert_eq!(pieces(&pool, 1), [21..=30, 31..=40]);
    pool.forget().finish_run(0, 9);
    assert_eq!(pieces(&pool, 0), []);
    pool.finish_run(0, 1);
    assert_eq!(pieces(&pool, 0), [41..=50]);
    pool.forget().finish_run(1, 10);
    pool.finish_run(1, 10);
    assert_eq!(pieces(&pool, 1), [51..=60, 61..=70], "the last piece goes to whoever is next");
}

#[test]
fn arguments_in_bytes_limit_what_is_handed_out() {
    let mut pool = Bench::ready(Config { prefetch_bytes: 1000, ..config(1) });
    pool.submit(1, &TaskSpec { size: 3000, ..unit(10) });
    assert_eq!(pool.sends(0), [(1, 1..=3)], "300 bytes each");
    pool.forget().submit(1, &TaskSpec { size: 5000, ..unit(2) });
    for _ in 0..12 {
        pool.finish(0);
    }
    assert_eq!(
        pool.sends(0).last(),
        Some(&(12, 12..=12)),
        "one is never too large, and nothing goes with it"
    );
}
