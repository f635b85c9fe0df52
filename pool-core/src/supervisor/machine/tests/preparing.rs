//! States that are built before a hello or before a claim.

use std::sync::Arc;

use super::*;

const STATE: &str = "a::Model";

impl Bench {
    fn begin(&mut self, worker: u32) {
        self.on(Event::Preparing(self.who(worker), Arc::from(STATE)));
    }

    fn done(&mut self, worker: u32) {
        self.on(Event::Prepared(self.who(worker)));
    }

    /// Answers all inspections so far: nothing has been claimed.
    fn nothing_claimed(&mut self) {
        let inspected = self.done.iter().filter_map(|action| match action {
            Action::Inspect(who) => Some(*who),
            _ => None,
        });
        let inspected: Vec<Incarnation> = inspected.collect();
        self.forget();
        for who in inspected {
            let ticket = self.machine.head(who).map(|head| head.span.first);
            self.on(Event::Observed(who, Observation { ticket, started: None, moving: false }));
        }
    }

    /// Lets time pass; whatever is inspected has claimed nothing.
    fn pass_unclaimed(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.pass((end - self.now).min(Duration::from_secs(1)));
            self.nothing_claimed();
        }
    }

    fn state_failed(&self) -> Option<(&str, usize)> {
        match self.broken()? {
            BrokenReason::StateFailed { state, why, deaths } => {
                assert_eq!(state, STATE);
                Some((why, deaths.len()))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A worker that has built the state once, lost it in a task, and has begun to build it again for another one.
fn rebuilding(config: Config) -> (Bench, TaskKey) {
    let mut pool = Bench::ready(config);
    pool.submit(1, &plain());
    pool.begin(0);
    pool.done(0);
    pool.finish(0);
    let task = pool.submit(1, &plain())[0];
    pool.forget().begin(0);
    assert!(pool.kills().is_empty());
    (pool, task)
}

#[test]
fn a_build_may_have_less_time_than_a_claim() {
    let limit = Duration::from_secs(2);
    let (mut pool, _) = rebuilding(Config { init_timeout: limit, ..config(1) });
    pool.pass_unclaimed(limit - MILLI);
    assert!(pool.kills().is_empty(), "{:?}", pool.done);
    pool.pass_unclaimed(2 * MILLI);
    assert_eq!(pool.kills().len(), 1, "{:?}", pool.done);
}

#[test]
fn a_head_that_waits_for_its_state_is_allowed_the_time_for_that_and_then_that_of_a_claim() {
    let mut pool = Bench::ready(config(1));
    let limit = MILLI;
    let task = pool.submit(1, &TaskSpec { limit: Some(limit), ..plain() })[0];
    pool.begin(0);
    pool.pass_unclaimed(INIT_TIMEOUT - Duration::from_secs(2));
    assert!(pool.kills().is_empty() && pool.outcome(task).is_none(), "{:?}", pool.done);
    pool.done(0);
    pool.pass_unclaimed(START_TIMEOUT - Duration::from_secs(2));
    assert!(pool.kills().is_empty() && pool.outcome(task).is_none(), "{:?}", pool.done);
    pool.forget().show_claim(0);
    pool.pass(limit);
    pool.show_claim(0);
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::TimedOut { .. }))), "{:?}", pool.done);
}

#[test]
fn a_state_that_has_never_been_built_in_time_breaks_the_pool() {
    let mut pool = Bench::ready(config(2));
    let task = pool.submit(1, &plain())[0];
    let worker = pool.holder();
    pool.begin(worker);
    pool.pass(INIT_TIMEOUT);
    let ticket = pool.machine.head(pool.who(worker)).map(|head| head.span.first);
    assert_eq!(pool.inspections(), 1);
    pool.on(Event::Observed(pool.who(worker), Observation { ticket, started: None, moving: true }));
    let (why, deaths) = pool.state_failed().expect("it breaks");
    assert!(why.contains("60s (init_timeout)") && deaths == 0, "{why}");
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::PoolBroken(_)))));
}

#[test]
fn a_worker_that_builds_a_state_for_too_long_that_others_have_built_is_killed_and_replaced() {
    let (mut pool, task) = rebuilding(config(1));
    pool.pass(INIT_TIMEOUT);
    pool.nothing_claimed();
    assert_eq!(pool.kills(), [(pool.who(0), KillReason::InitTimeout(INIT_TIMEOUT))]);
    pool.die(0, false);
    pool.greet_all();
    assert_eq!((pool.broken().is_none(), pool.sent(0)), (true, vec![task]), "it runs again, unblamed");
    pool.finish(0);
    assert!(matches!(pool.outcome(task), Some(Ok("done"))));
}

#[test]
fn deaths_in_a_state_break_the_pool_whatever_else_succeeds() {
    let policy = RestartPolicy { max_restarts: 2, first_delay: MILLI, ..RestartPolicy::default() };
    let mut pool = Bench::ready(Config { restart: policy, ..config(2) });
    for round in 0..3 {
        assert!(pool.broken().is_none(), "after {round} deaths");
        let task = pool.submit(1, &plain())[0];
        pool.begin(0);
        pool.die(0, false);
        if round < 2 {
            // The other worker has the state.
            pool.finish(1);
            assert!(matches!(pool.outcome(task), Some(Ok("done"))));
            pool.pass(Duration::from_secs(1));
            pool.on(Event::Ready(pool.who(0)));
        }
    }
    let (why, deaths) = pool.state_failed().expect("it breaks");
    assert!(why.contains("3 workers in a row") && deaths == 3, "{why}");
}

#[test]
fn the_death_that_breaks_the_pool_is_counted_like_those_before_it() {
    let most = RestartPolicy { max_restarts: 0, ..RestartPolicy::default() };
    let mut pool = Bench::new(Config { restart: most, ..config(1) });
    pool.begin(0);
    pool.die(0, false);
    assert!(pool.state_failed().is_some());
    assert_eq!(pool.machine.counters().start_deaths, 1);
    let mut pool = Bench::ready(Config { restart: most, ..config(1) });
    pool.submit(1, &plain());
    pool.begin(0);
    pool.die(0, false);
    assert!(pool.state_failed().is_some());
    assert_eq!(pool.machine.counters().idle_deaths, 1);
}

#[test]
fn a_state_that_somebody_builds_is_forgiven_its_deaths() {
    let policy = RestartPolicy { max_restarts: 1, first_delay: MILLI, ..RestartPolicy::default() };
    let mut pool = Bench::ready(Config { restart: policy, ..config(2) });
    for _ in 0..5 {
        pool.submit(1, &plain());
        pool.begin(0);
        pool.die(0, false);
        pool.begin(1);
        pool.done(1);
        // A sign of progress, so that the strikes of the place are forgiven as well.
        pool.finish(1);
        pool.pass(Duration::from_secs(60));
        pool.on(Event::Ready(pool.who(0)));
    }
    assert!(pool.broken().is_none(), "{:?}", pool.broken());
    assert!(
        pool.kills().iter().all(|(_, why)| !matches!(why, KillReason::Violation(_))),
        "{:?}",
        pool.kills()
    );
}

#[test]
fn a_worker_that_dies_in_a_task_after_its_state_was_built_blames_the_task() {
    let mut pool = Bench::ready(config(1));
    let task = pool.submit(1, &plain())[0];
    pool.begin(0);
    pool.done(0);
    pool.die(0, true);
    assert!(matches!(pool.outcome(task), Some(Err(TaskError::WorkerDied(_)))));
}

#[test]
fn before_the_hello_the_time_to_start_does_not_count_while_a_state_is_built() {
    let mut pool = Bench::new(config(1));
    pool.begin(0);
    pool.pass(INIT_TIMEOUT - MILLI);
    assert!(pool.broken().is_none());
    pool.done(0);
    pool.pass(START_TIMEOUT - MILLI);
    assert!(pool.broken().is_none());
    pool.on(Event::Ready(pool.who(0)));

    let mut pool = Bench::new(config(1));
    pool.begin(0);
    pool.pass(INIT_TIMEOUT);
    assert_eq!(pool.state_failed().map(|(_, deaths)| deaths), Some(0));
}

#[test]
fn what_cannot_be_built_breaks_the_pool_at_any_time_but_while_the_worker_retires() {
    let failed =
        || BrokenReason::StateFailed { state: STATE.to_owned(), why: "no".to_owned(), deaths: vec![] };
    let mut pool = Bench::new(config(1));
    pool.begin(0);
    pool.on(Event::Unfit(pool.who(0), failed()));
    assert_eq!(pool.state_failed(), Some(("no", 0)));

    let mut pool = Bench::ready(config(1));
    pool.submit(1, &plain());
    pool.begin(0);
    pool.on(Event::Unfit(pool.who(0), failed()));
    assert_eq!(pool.state_failed(), Some(("no", 0)));

    let mut pool = Bench::ready(config(1));
    let old = pool.who(0);
    pool.die(0, false);
    pool.on(Event::Unfit(old, failed()));
    assert!(pool.broken().is_none(), "news of an old incarnation");
    pool.greet_all();
    pool.on(Event::Close);
    pool.on(Event::Unfit(pool.who(0), failed()));
    assert!(pool.broken().is_none());
}

#[test]
fn news_that_cannot_be_are_violations() {
    let mut pool = Bench::ready(config(2));
    pool.submit(1, &plain());
    pool.begin(0);
    assert!(pool.kills().is_empty());
    pool.begin(0);
    pool.done(1);
    let who = [pool.who(0), pool.who(1)];
    let kills = pool.kills();
    assert!(
        matches!(&kills[..], [(a, KillReason::Violation(_)), (b, KillReason::Violation(_))] if [*a, *b] == who),
        "{kills:?}"
    );
}

#[test]
fn the_time_goes_on_when_the_head_is_taken_back_meanwhile() {
    let (mut pool, first) = rebuilding(config(1));
    pool.pass_unclaimed(INIT_TIMEOUT - Duration::from_secs(2));
    pool.on(Event::Cancel(first));
    let ticket = pool.taken()[0].1[0];
    pool.on(Event::TookBack(pool.who(0), answers(&[(ticket, true)])));
    assert!(matches!(pool.outcome(first), Some(Err(TaskError::Cancelled))));
    let second = pool.submit(1, &plain())[0];
    pool.forget().pass(Duration::from_secs(2));
    pool.nothing_claimed();
    assert_eq!(pool.kills(), [(pool.who(0), KillReason::InitTimeout(INIT_TIMEOUT))]);
    pool.die(0, false);
    pool.greet_all();
    assert_eq!(pool.sent(0).last(), Some(&second));
}

#[test]
fn a_state_that_was_built_before_the_kill_was_noticed_is_built() {
    let restart = RestartPolicy { max_restarts: 0, ..RestartPolicy::default() };
    for built in [true, false] {
        let mut pool = Bench::ready(Config { restart, ..config(2) });
        // The other one works, so that the death alone breaks nothing.
        pool.submit(2, &plain());
        let worker = pool.holder();
        pool.begin(worker);
        let who = pool.who(worker);
        pool.on(Event::OverLimit(who, 2, 1));
        assert_eq!(pool.kills().len(), 1);
        if built {
            pool.done(worker);
        }
        pool.die_as(who, false);
        assert_eq!(pool.state_failed().is_some(), !built, "{:?}", pool.done);
    }
}

impl Bench {
    fn is_violation(&self, worker: u32) -> bool {
        let who = self.who(worker);
        self.kills().iter().any(|(killed, why)| *killed == who && matches!(why, KillReason::Violation(_)))
    }
}

#[test]
fn a_head_waits_for_one_state_and_no_longer_than_it_may_take() {
    let (mut pool, task) = rebuilding(config(1));
    pool.pass_unclaimed(INIT_TIMEOUT / 2);
    pool.done(0);
    assert!(pool.kills().is_empty());
    // It could go on like this for ever.
    pool.begin(0);
    assert!(pool.is_violation(0), "{:?}", pool.done);
    pool.die(0, false);
    pool.greet_all();
    pool.finish(0);
    assert!(matches!(pool.outcome(task), Some(Ok("done"))), "nobody is blamed");
}

#[test]
fn a_state_is_built_for_a_task_and_for_nothing_else() {
    let mut pool = Bench::ready(config(1));
    pool.begin(0);
    assert!(pool.is_violation(0), "it has never been given anything");

    // Those that it has answered give it nothing.
    let mut pool = Bench::ready(config(1));
    pool.submit(3, &plain());
    (0..3).for_each(|_| pool.finish(0));
    pool.begin(0);
    assert!(pool.is_violation(0), "it has nothing left");

    let mut pool = Bench::ready(config(1));
    pool.submit(3, &plain());
    let head = pool.machine.head(pool.who(0)).expect("it holds three").span.first;
    pool.on(Event::Failed(pool.who(0), head, TaskError::Cancelled));
    for _ in 0..2 {
        pool.begin(0);
        pool.done(0);
        assert!(pool.kills().is_empty(), "one for each, as after a panic: {:?}", pool.kills());
        pool.finish(0);
    }
}

#[test]
fn a_state_may_be_built_for_a_head_after_one_for_a_task_that_was_taken_back() {
    let (mut pool, first) = rebuilding(config(1));
    pool.on(Event::Cancel(first));
    let ticket = pool.taken()[0].1[0];
    pool.on(Event::TookBack(pool.who(0), answers(&[(ticket, true)])));
    pool.submit(1, &plain());
    // The next one needs another state.
    pool.done(0);
    pool.begin(0);
    assert!(pool.kills().is_empty(), "{:?}", pool.kills());
    pool.done(0);
    pool.begin(0);
    assert!(pool.is_violation(0));
}

#[test]
fn before_its_hello_a_worker_builds_as_many_states_as_were_asked_for() {
    let mut pool = Bench::new(Config { states: 2, ..config(1) });
    for _ in 0..2 {
        pool.begin(0);
        pool.done(0);
    }
    assert!(pool.kills().is_empty());
    pool.begin(0);
    assert!(pool.is_violation(0));
    pool.die(0, false);
    // The next one has as many.
    pool.forget().begin(0);
    pool.done(0);
    assert!(pool.kills().is_empty());
}

/// A worker that builds a state for a task which has been cancelled, in a pool that has been closed since.
fn building_at_the_close() -> Bench {
    let (mut pool, task) = rebuilding(config(1));
    pool.on(Event::Cancel(task));
    let ticket = pool.taken()[0].1[0];
    pool.on(Event::TookBack(pool.who(0), answers(&[(ticket, true)])));
    pool.forget().on(Event::Close);
    assert!(matches!(pool.done[..], [Action::Retire(..)]), "{:?}", pool.done);
    pool
}

const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn a_worker_that_builds_a_state_while_the_pool_closes_may_finish_it_and_has_its_time_to_exit() {
    let mut pool = building_at_the_close();
    pool.pass(INIT_TIMEOUT - MILLI);
    assert!(pool.kills().is_empty(), "{:?}", pool.kills());
    pool.done(0);
    pool.pass(EXIT_TIMEOUT - MILLI);
    assert!(pool.kills().is_empty(), "{:?}", pool.kills());
    pool.die(0, false);
    assert!(pool.machine.is_drained());
    assert_eq!(pool.machine.counters().retired.closed, 1);

    let mut pool = building_at_the_close();
    pool.done(0);
    pool.pass(EXIT_TIMEOUT);
    assert!(matches!(pool.kills()[..], [(_, KillReason::ExitTimeout)]), "{:?}", pool.kills());
}

#[test]
fn a_worker_that_builds_a_state_for_ever_while_the_pool_closes_is_killed() {
    let mut pool = building_at_the_close();
    pool.pass(INIT_TIMEOUT);
    assert!(matches!(pool.kills()[..], [(_, KillReason::ExitTimeout)]), "{:?}", pool.kills());
    assert!(pool.machine.is_drained() && pool.broken().is_none());
}

#[test]
fn builds_may_cross_the_request_to_exit_for_as_long_as_both_take() {
    // It has been given two tasks that were taken back, and has said nothing of them yet.
    let mut pool = Bench::ready(config(1));
    let tasks = pool.submit(2, &plain());
    tasks.iter().for_each(|task| pool.on(Event::Cancel(*task)));
    pool.on(Event::TookBack(pool.who(0), answers(&[(1, true), (2, true)])));
    pool.forget().on(Event::Close);
    assert!(matches!(pool.done[..], [Action::Retire(..)]), "{:?}", pool.done);
    pool.pass(EXIT_TIMEOUT - MILLI);
    pool.begin(0);
    pool.pass(INIT_TIMEOUT / 2);
    pool.done(0);
    pool.pass(EXIT_TIMEOUT - MILLI);
    pool.begin(0);
    pool.pass(INIT_TIMEOUT / 2 - EXIT_TIMEOUT);
    assert!(pool.kills().is_empty(), "{:?}", pool.kills());
    pool.pass(2 * MILLI);
    assert!(matches!(pool.kills()[..], [(_, KillReason::ExitTimeout)]), "{:?}", pool.kills());

    let mut pool = Bench::ready(config(1));
    pool.on(Event::Close);
    pool.begin(0);
    assert!(pool.is_violation(0), "it was given nothing");
}
