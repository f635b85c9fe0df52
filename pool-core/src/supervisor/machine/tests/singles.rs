//! Units of one item: the life of a single task.

use super::*;

// What happens when a worker dies …

#[test]
fn while_running_an_isolated_task_only_that_task_fails() {
    let mut pool = Bench::ready(config(2));
    let tasks = pool.submit(2, &plain());
    pool.die(0, true);
    assert!(matches!(pool.outcome(tasks[0]), Some(Err(TaskError::WorkerDied(_)))));
    assert!(pool.outcome(tasks[1]).is_none(), "the other one goes on");
    assert_eq!(pool.spawns(), 3, "it is replaced at once");
}

#[test]
fn a_task_with_retries_runs_again_and_is_poisoned_in_the_end() {
    let mut pool = Bench::ready(config(1));
    let task = pool.submit(1, &TaskSpec { retries: 2, ..plain() })[0];
    for _ in 0..3 {
        assert!(pool.outcome(task).is_none());
        pool.die(0, true);
        pool.greet_all();
    }
    assert_eq!(pool.sent(0), [task; 3]);
    let Some(Err(TaskError::Poisoned { deaths })) = pool.outcome(task) else { panic!("{:?}", pool.done) };
    assert_eq!(deaths.len(), 3);
}

#[test]
fn in_a_map_the_first_death_drops_what_waits_and_cancels_what_runs() {
    let mut pool = Bench::ready(Config { prefetch: 1, ..config(3) });
    let map = pool.open_map();
    let tasks = pool.submit(5, &of(map));
    let other = pool.submit(1, &plain())[0];
    pool.show_claim(1);
    pool.show_claim(2);
    pool.forget().die(0, true);
    assert!(matches!(pool.outcome(tasks[0]), Some(Err(TaskError::WorkerDied(_)))));
    for task in &tasks[1..] {
        assert!(matches!(pool.outcome(*task), Some(Err(TaskError::Cancelled))), "{:?}", pool.done);
    }
    let flagged = pool.done.iter().filter(|action| matches!(action, Action::FlagCancel(..))).count();
    assert_eq!((flagged, pool.kills().len()), (2, 0), "flag first");
    let ran = [pool.who(1), pool.who(2)];
    pool.pass(GRACE);
    assert_eq!(pool.inspections(), 2, "their results may have come");
    for who in ran {
        let ticket = pool.machine.head(who).map(|head| head.span.first);
        pool.on(Event::Observed(who, Observation { ticket, started: Some(pool.now), moving: false }));
    }
    assert_eq!(pool.kills(), ran.map(|who| (who, KillReason::Cancelled)), "after the grace period");
    assert!(pool.outcome(other).is_none(), "what is not of this map goes on");
    pool.greet_all();
    let holder = pool.holder();
    pool.finish(holder);
    assert!(matches!(pool.outcome(other), Some(Ok("done"))));
}

#[test]
fn tasks_that_it_had_not_started_return_to_the_front_in_their_old_order_and_count_no_attempt() {
    let mut pool = Bench::ready(config(1));
    let tasks = pool.submit(4, &plain());
    let later = pool.submit(1, &plain());
    pool.forget().die(0, true);
    pool.greet_all();
    assert_eq!(pool.sent(0), [&tasks[1..], &later].concat());
    let first = |action: &Action<_>| !matches!(action, Action::Send { attempt, .. } if *attempt != 1);
    assert!(pool.done.iter().all(first));
}

#[test]
fn a_result_that_it_had_written_is_delivered() {
    let mut pool = Bench::ready(config(1));
    let tasks = pool.submit(2, &plain());
    pool.finish(0);
    pool.die(0, false);
    assert!(matches!(pool.outcome(tasks[0]), Some(Ok("done"))));
    assert!(pool.outcome(tasks[1]).is_none(), "the next one had not been started");
}

#[test]
fn a_result_that_crosses_our_own_kill_is_delivered() {
    let mut pool = Bench::ready(config(1));
    let task = pool.submit(1, &plain())[0];
    let who = pool.who(0);
    pool.pass(START_TIMEOUT);
    pool.on(Event::Observed(who, Observation { ticket: Some(1), started: None, moving: false }));
    assert!(matches!(&pool.kills()[..], [(_, KillReason::Unresponsive(_))]));
    pool.on(Event::Finished(who, 1, 1, "done"));
    assert!(matches!(pool.outcome(task), Some(Ok("done"))), "it woke up before the signal came");
    pool.die(0, false);
    assert!(pool.machine.pending() == 0);
}

#[test]
fn results_out_of_turn_of_a_worker_that_is_being_killed_do_not_count() {
    let mut pool = Bench::ready(config(1));
    let tasks = pool.submit(2, &plain());
    let who = pool.who(0);
    pool.on(Event::Violation(who, "a result for ticket 17".to_owned()));
    pool.on(Event::Finished(who, 2, 1, "made up"));
    assert!(pool.outcome(tasks[1]).is_none());
}

#[test]
fn tasks_taken_back_from_a_worker_that_is_being_killed_stand_in_no_results_way() {
    let mut pool = Bench::ready(config(1));
    let tasks = pool.submit(3, &plain());
    let who = pool.who(0);
    pool.finish(0);
    pool.on(Event::Cancel(tasks[1]));
    pool.on(Event::Violation(who, "a result for ticket 17".to_owned()));
    pool.on(Event::TookBack(who, answers(&[(2, true)])));
    pool.on(Event::Finished(who, 3, 1, "done"));
    assert!(matches!(pool.outcome(tasks[2]), Some(Ok("done"))));
}

#[test]
fn tasks_that_it_had_started_out_of_sight_are_not_run_twice() {
    let mut pool = Bench::ready(config(1));
    let tasks = pool.submit(3, &plain());
    let who = pool.who(0);
    pool.on(Event::Violation(who, "garbage in its result pipe".to_owned()));
    pool.on(Event::Lost(who, vec![(2, death(who))]));
    pool.forget().die(0, true);
    assert!(matches!(pool.outcome(tasks[0]), Some(Err(TaskError::WorkerDied(_)))));
    pool.greet_all();
    assert_eq!(pool.sent(0), [tasks[2]], "only the third had not been started");
}

#[test]
fn results_behind_garbage_are_delivered_and_the_spoiler_is_blamed() {
    let mut pool = Bench::ready(config(1));
    let tasks = pool.submit(4, &plain());
    let who = pool.who(0);
    pool.on(Event::Garbage(who, "not a frame".to_owned()));
    pool.on(Event::Finished(who, 1, 1, "mangled"));
    // The result of the second one was not found.
    pool.on(Event::Finished(who, 3, 1, "done"));
    assert!(matches!(pool.outcome(tasks[2]), Some(Ok("done"))));
    pool.on(Event::Lost(who, vec![(2, death(who))]));
    pool.forget().die(0, true);
    assert!(matches!(pool.outcome(tasks[0]), Some(Err(TaskError::WorkerDied(_)))), "{:?}", pool.done);
    pool.greet_all();
    assert_eq!(pool.sent(0), [tasks[3]]);
}

#[test]
fn the_abort_of_a_map_finds_tasks_that_were_lost_with_its_worker() {
    let mut pool = Bench::ready(config(1));
    let map = pool.open_map();
    let poison = pool.submit(1, &of(map))[0];
    let retried = pool.submit(1, &TaskSpec { retries: 5, ..of(map) })[0];
    let head = pool.machine.head(pool.who(0)).expect("it holds a task");
    assert_eq!((head.span.first, head.unit), (1, Some((poison, 0))));
    let who = pool.who(0);
    pool.on(Event::Lost(who, vec![(1, death(who)), (2, death(who))]));
    assert!(matches!(pool.outcome(poison), Some(Err(TaskError::WorkerDied(_)))));
    assert!(matches!(pool.outcome(retried), Some(Err(TaskError::Cancelled))), "its map has ended");
}

#[test]
fn nobody_is_blamed_for_a_death_while_starting_idle_or_retiring() {
    let mut pool = Bench::new(config(1));
    let task = pool.submit(1, &plain())[0];
    pool.die(0, false);
    pool.greet_all();
    pool.die(0, false);
    pool.pass(Duration::from_secs(1));
    pool.greet_all();
    assert!(pool.outcome(task).is_none());
    pool.finish(0);
    assert!(matches!(pool.outcome(task), Some(Ok(_))));
    pool.on(Event::Close);
    pool.forget().die(0, false);
    assert!(matches!(pool.done[..], [Action::Drained]), "{:?}", pool.done);
}

// Restarts.

#[test]
fn the_first_replacement_comes_at_once_and_the_delay_doubles_from_then_on() {
    let policy = RestartPolicy { max_restarts: 50, ..RestartPolicy::default() };
    let mut pool = Bench::new(Config { restart: policy, ..config(1) });
    let mut delay = policy.first_delay;
    pool.forget().die(0, false);
    assert_eq!(pool.spawns(), 1, "at once");
    for _ in 0..12 {
        pool.forget().die(0, false);
        let due = pool.machine.deadline().expect("it waits");
        let wait = due - pool.now;
        assert!(wait >= delay.mul_f64(0.8) && wait <= delay.mul_f64(1.2), "{wait:?} is not {delay:?} ± 20 %");
        assert!(wait <= policy.max_delay);
        pool.pass(wait - MILLI);
        assert_eq!(pool.spawns(), 0, "too early");
        pool.pass(MILLI);
        assert_eq!(pool.spawns(), 1);
        delay = (2 * delay).min(policy.max_delay);
    }
}

#[test]
fn idle_deaths_back_off_even_if_none_is_forgiven() {
    let policy = RestartPolicy { max_restarts: 0, ..RestartPolicy::default() };
    let mut pool = Bench::ready(Config { restart: policy, ..config(1) });
    pool.die(0, false);
    pool.greet_all();
    pool.forget().die(0, false);
    assert!(pool.broken().is_none(), "nobody waits for anything");
    assert_eq!(pool.spawns(), 0, "it waits");
}

#[test]
fn too_many_deaths_without_progress_break_the_pool() {
    let mut pool = Bench::ready(config(1));
    let task = pool.submit(1, &plain())[0];
    for round in 0..=RestartPolicy::default().max_restarts {
        assert!(pool.broken().is_none(), "after {round} deaths");
        pool.greet_all();
        pool.die(0, false);
        pool.pass(Duration::from_secs(5));
    }
    let Some(BrokenReason::TooManyDeaths { deaths, .. }) = pool.broken() else { panic!("{:?}", pool.done) };
    assert_eq!(deaths.len(), 6);
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::PoolBroken(_)))));
    assert!(matches!(pool.machine.submit(&plain()), Err(TaskError::PoolBroken(_))));
}

#[test]
fn neither_slow_starts_nor_back_off_carry_deaths_out_of_the_window() {
    let window = Duration::from_secs(1);
    let policy = RestartPolicy { window, ..RestartPolicy::default() };
    let mut pool = Bench::ready(Config { restart: policy, ..config(1) });
    let task = pool.submit(1, &plain())[0];
    pool.die(0, false);
    for _ in 0..6 {
        // It hangs while it starts, each time for longer than the window.
        pool.pass(START_TIMEOUT);
        if pool.machine.expects(pool.who(0)) {
            pool.die(0, false);
        }
        pool.pass(Duration::from_secs(40));
    }
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::PoolBroken(_)))), "{:?}", pool.done);
}

#[test]
fn a_healthy_hour_forgives_old_deaths() {
    let mut pool = Bench::ready(config(1));
    for _ in 0..20 {
        pool.pass(Duration::from_secs(3600));
        pool.submit(1, &plain());
        pool.forget().die(0, false);
        assert_eq!(pool.spawns(), 1, "as if it were the first");
        pool.greet_all();
        pool.finish(0);
        assert!(pool.broken().is_none());
    }
}

#[test]
fn cancelled_tasks_are_no_sign_of_progress() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &plain());
    for _ in 0..=RestartPolicy::default().max_restarts {
        let task = pool.submit(1, &plain())[0];
        pool.on(Event::Cancel(task));
        pool.greet_all();
        pool.die(0, false);
        pool.pass(Duration::from_secs(5));
    }
    assert!(pool.broken().is_some());
}

#[test]
fn a_healthy_pool_with_a_poison_task_never_breaks() {
    let mut pool = Bench::ready(config(2));
    let poison = pool.submit(1, &TaskSpec { retries: 1000, ..plain() })[0];
    for _ in 0..=1000 {
        let worker = pool.holder();
        pool.die(worker, true);
        pool.greet_all();
    }
    assert!(pool.broken().is_none());
    assert!(
        matches!(pool.outcome(poison), Some(Err(TaskError::Poisoned { deaths })) if deaths.len() == 1001)
    );
    assert_eq!(pool.spawns(), 2 + 1001);
}

#[test]
fn a_spawn_that_fails_after_its_start_timeout_is_the_end_of_that_worker() {
    let mut pool = Bench::ready(config(2));
    pool.die(0, false);
    let who = pool.who(0);
    pool.pass(START_TIMEOUT);
    assert!(matches!(&pool.kills()[..], [(_, KillReason::StartTimeout(_))]));
    pool.forget().on(Event::SpawnFailed(who, death(who)));
    pool.pass(Duration::from_secs(1));
    assert_eq!(pool.spawns(), 1, "its place is not lost");
}

// Handing out.

#[test]
fn no_worker_is_given_more_than_its_share() {
    let mut pool = Bench::ready(Config { prefetch: 8, ..config(4) });
    pool.submit(10, &plain());
    assert_eq!((0..4).map(|worker| pool.sent(worker).len()).max(), Some(3));
    pool.forget().submit(1000, &plain());
    assert!((0..4).all(|worker| pool.machine.load(worker) == 8), "nor more than the limit");
}

#[test]
fn idle_workers_get_one_task_each_before_anybody_gets_two() {
    let mut pool = Bench::ready(config(3));
    pool.submit(4, &plain());
    let mut loads = [0, 1, 2].map(|worker| pool.sent(worker).len());
    loads.sort_unstable();
    assert_eq!((loads, pool.taken().len()), ([1, 1, 2], 0), "and nothing need be taken back");
}

#[test]
fn an_idle_worker_takes_half_of_what_the_fullest_one_has_not_claimed() {
    let mut pool = Bench::new(config(2));
    pool.on(Event::Ready(pool.who(0)));
    let tasks = pool.submit(9, &plain());
    pool.on(Event::Ready(pool.who(1)));
    let (full, idle) = (pool.who(0), pool.who(1));
    assert_eq!(pool.taken(), [(full, vec![6, 7, 8, 9])]);
    pool.on(Event::TookBack(full, answers(&[(6, true), (7, true), (8, true), (9, true)])));
    assert_eq!(pool.sent(idle.worker.get()), tasks[5..]);
}

#[test]
fn a_take_back_that_comes_too_late_leaves_no_trace() {
    let mut pool = Bench::new(config(2));
    pool.on(Event::Ready(pool.who(0)));
    pool.submit(2, &TaskSpec { limit: Some(MILLI), ..plain() });
    pool.on(Event::Ready(pool.who(1)));
    let who = pool.who(0);
    assert_eq!(pool.taken(), [(who, vec![2])]);
    pool.finish(0);
    pool.finish(0);
    pool.on(Event::TookBack(who, answers(&[(2, false)])));
    // The worker can still be killed for a task that hangs.
    pool.submit(2, &TaskSpec { limit: Some(MILLI), ..plain() });
    pool.show_claim(0);
    pool.pass(MILLI);
    pool.show_claim(0);
    pool.pass(GRACE);
    let ticket = pool.machine.head(who).map(|head| head.span.first);
    pool.on(Event::Observed(who, Observation { ticket, started: Some(pool.now), moving: false }));
    assert_eq!(pool.kills(), [(who, KillReason::Timeout)]);
}

#[test]
fn a_suspect_runs_alone() {
    let mut pool = Bench::ready(config(1));
    let suspect = pool.submit(1, &TaskSpec { retries: 1, ..plain() })[0];
    pool.die(0, true);
    let others = pool.submit(5, &plain());
    pool.forget().greet_all();
    assert_eq!(pool.sent(0), [suspect], "it goes first, and nothing goes with it");
    pool.forget().finish(0);
    assert_eq!(pool.sent(0), others);
}

#[test]
fn a_suspect_does_not_wait_for_a_busy_worker_while_another_is_idle() {
    let mut pool = Bench::ready(config(2));
    let tasks = pool.submit(2, &TaskSpec { retries: 1, ..plain() });
    // The first is reserved for the busy second worker, until the first one is back.
    pool.die(0, true);
    pool.forget().greet_all();
    assert_eq!(pool.sent(0), [tasks[0]]);
}

#[test]
fn a_suspect_is_sent_when_its_worker_becomes_empty_without_a_result() {
    let mut pool = Bench::ready(config(2));
    let tasks = pool.submit(2, &TaskSpec { retries: 1, ..plain() });
    pool.die(0, true);
    let (second, ticket) = (pool.who(1), 1);
    pool.forget().on(Event::Cancel(tasks[1]));
    pool.on(Event::TookBack(second, answers(&[(ticket, true)])));
    assert_eq!(pool.sent(1), [tasks[0]]);
}

#[test]
fn a_task_that_cannot_be_sent_leaves_no_worker_idle() {
    let mut pool = Bench::ready(Config { prefetch: 1, ..config(1) });
    let tasks = pool.submit(2, &plain());
    let who = pool.who(0);
    pool.on(Event::Cancel(tasks[0]));
    let refused = TaskError::Encode { task: "t".to_owned(), message: "too long".to_owned() };
    pool.forget().on(Event::Unsendable(who, Span { first: 1, count: 1 }, refused));
    assert_eq!(pool.sent(0), [tasks[1]]);
}

// Limits and kills.

#[test]
fn a_task_that_seems_late_is_looked_at_before_it_fails() {
    let mut pool = Bench::ready(config(1));
    let task = pool.submit(1, &TaskSpec { limit: Some(MILLI), ..plain() })[0];
    pool.show_claim(0);
    pool.forget().pass(10 * MILLI);
    assert_eq!(pool.inspections(), 1);
    assert!(pool.outcome(task).is_none());
    // The shell reads what was written before it answers: here, a result.
    pool.finish(0);
    pool.on(Event::Observed(pool.who(0), Observation { ticket: None, started: None, moving: false }));
    assert!(matches!(pool.outcome(task), Some(Ok("done"))));
}

#[test]
fn a_task_that_takes_long_is_looked_at_now_and_then_and_left_alone() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &plain());
    pool.show_claim(0);
    pool.forget();
    for looks in 1..=5 {
        pool.pass(START_TIMEOUT);
        assert_eq!(pool.inspections(), looks, "the news of its end may have been lost");
        pool.show_claim(0);
    }
    assert_eq!(pool.kills(), []);
}

#[test]
fn a_worker_is_killed_only_after_its_other_tasks_are_safe_and_after_a_last_look() {
    let mut pool = Bench::ready(config(1));
    let late = pool.submit(1, &TaskSpec { limit: Some(MILLI), ..plain() })[0];
    let others = pool.submit(2, &plain());
    pool.show_claim(0);
    pool.pass(MILLI);
    let started = pool.now - MILLI;
    let seen = Observation { ticket: Some(1), started: Some(started), moving: false };
    let who = pool.who(0);
    pool.forget().on(Event::Observed(who, seen));
    assert!(
        matches!(pool.outcome(late), Some(Err(TaskError::TimedOut { .. }))),
        "its handle is told at once"
    );
    pool.pass(GRACE);
    assert_eq!((pool.taken(), pool.inspections()), (vec![(who, vec![2, 3])], 0));
    pool.on(Event::TookBack(who, answers(&[(2, true), (3, true)])));
    assert_eq!((pool.inspections(), pool.kills().len()), (1, 0));
    pool.on(Event::Observed(who, seen));
    assert_eq!(pool.kills(), [(who, KillReason::Timeout)]);
    pool.forget().greet_all();
    assert_eq!(pool.sent(0), others);
}

#[test]
fn a_worker_whose_late_task_ends_before_the_last_look_lives() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &TaskSpec { limit: Some(MILLI), ..plain() });
    pool.show_claim(0);
    pool.pass(MILLI);
    pool.show_claim(0);
    pool.pass(GRACE);
    pool.finish(0);
    let next = pool.submit(1, &plain())[0];
    assert_eq!(pool.kills(), []);
    assert_eq!(pool.sent(0).last(), Some(&next), "and works on");
}

#[test]
fn an_overwritten_board_keeps_no_task_from_other_workers() {
    let mut pool = Bench::new(config(2));
    pool.on(Event::Ready(pool.who(0)));
    let tasks = pool.submit(3, &plain());
    let (who, other) = (pool.who(0), pool.who(1));
    pool.forget().on(Event::Ready(other));
    assert_eq!(pool.taken(), [(who, vec![3])]);
    pool.on(Event::Illegible(who, vec![Span { first: 3, count: 1 }]));
    assert_eq!(pool.sent(1), [tasks[2]]);
}

#[test]
fn a_zero_limit_does_not_make_the_timer_spin() {
    let mut pool = Bench::ready(config(1));
    pool.submit(1, &TaskSpec { limit: Some(Duration::ZERO), ..plain() });
    pool.on(Event::Tick);
    let who = pool.who(0);
    pool.on(Event::Observed(who, Observation { ticket: Some(1), started: None, moving: false }));
    assert!(pool.machine.deadline().is_some_and(|due| due >= pool.now + MILLI));
}

#[test]
fn late_news_of_a_former_incarnation_are_dropped() {
    let mut pool = Bench::ready(config(1));
    let old = pool.who(0);
    pool.die(0, false);
    pool.greet_all();
    let task = pool.submit(1, &plain())[0];
    let generation = Generation::new(old.generation.get() + 1);
    assert_eq!(pool.who(0), Incarnation { generation, ..old });
    pool.forget();
    pool.on(Event::Finished(old, 1, 1, "late"));
    pool.on(Event::Violation(old, "late".to_owned()));
    pool.die_as(old, true);
    assert!(pool.done.is_empty() && pool.outcome(task).is_none(), "{:?}", pool.done);
}

#[test]
fn who_is_killed_does_not_break_a_pool_that_has_done_everything() {
    for closed in [false, true] {
        let mut pool = Bench::new(config(1));
        let who = pool.who(0);
        pool.on(Event::Violation(who, "a greeting in Latin".to_owned()));
        if closed {
            pool.on(Event::Close);
        }
        pool.forget().on(Event::Unusable(who, BrokenReason::Internal("late".to_owned())));
        let broken = pool.done.iter().any(|action| matches!(action, Action::Broken(_)));
        assert_eq!(broken, !closed, "{:?}", pool.done);
    }
}

#[test]
fn a_drained_pool_does_nothing_more() {
    let mut pool = Bench::ready(config(1));
    pool.on(Event::Close);
    pool.die(0, false);
    assert!(matches!(pool.done.last(), Some(Action::Drained)));
    let who = pool.who(0);
    let reason = || BrokenReason::Internal("late".to_owned());
    pool.forget().on(Event::Fault("late".to_owned()));
    pool.on(Event::Unusable(who, reason()));
    pool.on(Event::Terminate);
    assert!(pool.done.is_empty(), "{:?}", pool.done);
}
