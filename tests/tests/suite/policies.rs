//! What happens to the others: the table of failure semantics row by row, retries, time limits, cancellation, take-back.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{BrokenReason, Call, DeathCause, MapError, RestartPolicy, RetryOn, TaskError};
use pool_tests::{
    Answer, Mode, Part, Scene, Trial, attempt_after_deaths, cause_of, even, exit_once_there, expect_death,
    expect_healthy, innocent, is_signal, note_cancellation, play, process, right, running, wait_until,
};
use pool_worker::drill;

use crate::programs::{hostile, stock};

fn segv() -> Part {
    Part::Segv
}

fn up_to(attempt: u32, part: Part) -> Part {
    Part::UpToAttempt(attempt, Box::new(part))
}

// The batch that fails, and the others

#[test]
fn a_map_aborts_only_itself() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let before: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Sleep(1)))).collect();
    let (aborted, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| pool.map(|n| play(n, Part::Sleep(1)), 0..200));
        wait_until("the other map is under way", || pool.stats().submitted > 60);
        let part = |n| if n == 70 { Part::Segv } else { Part::Innocent };
        (pool.map(|n| play(n, part(n)), 0..500), other.join().unwrap())
    });
    let MapError { index, error, completed, .. } = aborted.unwrap_err();
    assert_eq!(index, 70);
    assert!(completed < 500);
    assert!(is_signal(&expect_death::<()>(Err(error)).cause, libc::SIGSEGV));
    assert_eq!(other.unwrap(), (0..200).map(right).collect::<Vec<_>>());
    for (n, handle) in (0..).zip(before) {
        assert_eq!(handle.get().unwrap(), right(n));
    }
    expect_healthy(&pool);
}

#[test]
fn a_map_fails_at_once_and_its_running_siblings_are_told_to_stop() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let (started, noted) = (dir.path().join("started"), dir.path().join("noted"));
    let builder = scene.builder().worker(stock()).cancel_grace(Duration::from_secs(20));
    let pool = builder.build().unwrap();
    let start = Instant::now();
    let call = |n| match n {
        0 => note_cancellation(started.clone(), noted.clone()),
        _ => exit_once_there(started.clone()),
    };
    let MapError { index, error, .. } = pool.map(call, 0..2).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "it waits for nobody");
    assert_eq!(index, 1);
    assert_eq!(expect_death::<()>(Err(error)).cause, DeathCause::Exited(1));
    // The sibling has seen the flag, and its worker lives on.
    wait_until("the sibling has noticed", || noted.exists());
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.cancelled, 0);
}

#[test]
fn siblings_that_do_not_stop_are_killed_after_the_grace_period() {
    let scene = Scene::new();
    let grace = Duration::from_millis(300);
    let pool = scene.builder().workers(3).worker(stock()).cancel_grace(grace).build().unwrap();
    expect_healthy(&pool);
    let before: Vec<_> = pool.workers().iter().map(|worker| worker.pid).collect();
    let part = |n| if n == 2 { Part::After(100, Box::new(Part::Exit(1))) } else { Part::Hang };
    let start = Instant::now();
    let error = pool.map(|n| play(n, part(n)), 0..3).unwrap_err();
    assert_eq!((error.index, error.completed), (2, 0));
    assert!(start.elapsed() < Duration::from_secs(10));
    wait_until("the siblings are killed", || pool.stats().deaths.cancelled == 2);
    assert!(start.elapsed() >= grace, "{:?}", start.elapsed());
    expect_healthy(&pool);
    assert!(pool.workers().iter().all(|worker| !before.contains(&worker.pid)));
}

#[test]
fn a_map_tells_which_item_failed_and_how_many_were_done() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    for at in [0, 1, 50, 999] {
        let part = |n| if n == at { Part::Exit(4) } else { Part::Innocent };
        let error = pool.map(|n| play(n, part(n)), 0..1000).unwrap_err();
        assert_eq!(error.index as u64, at);
        // One worker runs them in order, and every result that was written before the death counts.
        assert_eq!(error.completed as u64, at);
        assert!(std::error::Error::source(&error).is_some());
    }
    expect_healthy(&pool);
}

#[test]
fn an_error_that_the_task_returns_is_a_value() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let results = pool.map(|n| even(n).retries(3), 0..10).unwrap();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 5);
    assert_eq!(pool.stats().retried, 0);
    expect_healthy(&pool);
}

// Retries

#[test]
fn retries_run_the_task_again_and_count_the_attempts() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let trial =
            Trial { victim: || play(0, up_to(2, segv())).retries(2), innocent: |n| play(n, Part::Innocent) };
        assert_eq!(trial.run(&pool, mode, right).unwrap(), right(0), "{mode:?}");
        let stats = pool.stats();
        assert_eq!((stats.retried, stats.deaths.signalled, stats.deaths.total()), (2, 2, 2), "{stats:?}");
        expect_healthy(&pool);
    }
}

#[test]
fn a_task_that_kills_its_worker_on_every_attempt_is_poisoned() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let trial = Trial { victim: || play(0, segv()).retries(3), innocent: |n| play(n, Part::Innocent) };
        match trial.run(&pool, mode, right) {
            Err(TaskError::Poisoned { deaths, .. }) => {
                assert_eq!(deaths.len(), 4);
                assert!(deaths.iter().all(|death| is_signal(&death.cause, libc::SIGSEGV)));
            }
            other => panic!("{mode:?}: {other:?}"),
        }
        expect_healthy(&pool);
    }
}

#[test]
fn the_task_itself_is_told_which_attempt_it_is() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    assert_eq!(pool.apply(drill::attempt()).unwrap(), 1);
    assert_eq!(pool.apply(attempt_after_deaths(3).retries(9)).unwrap(), 4);
    expect_healthy(&pool);
}

#[test]
fn panics_and_time_limits_are_retried_only_on_request() {
    let limit = Duration::from_millis(400);
    let panic = || Part::Panic("once".to_owned());
    let hang = |call: Call<Answer>| call.timeout(limit);
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let once = |part: Part| play(1, up_to(1, part)).retries(1);

    assert!(matches!(pool.apply(once(panic())), Err(TaskError::Panicked { .. })));
    assert!(matches!(pool.apply(hang(once(Part::Hang))), Err(TaskError::TimedOut { .. })));
    assert_eq!(pool.stats().retried, 0);
    assert_eq!(pool.apply(once(panic()).retry_on(RetryOn::PANIC)).unwrap(), right(1));
    assert_eq!(pool.apply(hang(once(Part::Hang)).retry_on(RetryOn::TIMEOUT)).unwrap(), right(1));
    assert_eq!(pool.apply(once(segv()).retry_on(RetryOn::TIMEOUT)).unwrap(), right(1));
    assert_eq!(pool.stats().retried, 3);

    // On every attempt: the error is that of the last one.
    let always = |part: Part| play(1, part).retries(2);
    let error = pool.apply(always(panic()).retry_on(RetryOn::PANIC)).unwrap_err();
    assert!(matches!(error, TaskError::Panicked { .. }), "{error:?}");
    let error = pool.apply(hang(always(Part::Hang)).retry_on(RetryOn::TIMEOUT)).unwrap_err();
    assert!(matches!(error, TaskError::TimedOut { .. }), "{error:?}");
    assert_eq!(pool.stats().retried, 7);
    expect_healthy(&pool);
}

// Time limits

#[test]
fn a_time_limit_counts_from_the_start_of_the_task_and_not_from_its_submission() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    let limit = Duration::from_millis(400);
    let long = pool.apply_async(play(1, Part::Sleep(900)));
    // They wait longer than their limit, and then run for less.
    let waiting: Vec<_> = (0..5).map(|n| pool.apply_async(play(n, Part::Sleep(20)).timeout(limit))).collect();
    assert_eq!(long.get().unwrap(), right(1));
    for (n, handle) in (0..).zip(waiting) {
        assert_eq!(handle.get().unwrap(), right(n));
    }
    expect_healthy(&pool);
}

#[test]
fn a_time_limit_holds_in_every_result_mode() {
    let limit = Duration::from_millis(500);
    // Stuck next to steady ones: the bug class of joblib.
    let stuck = |n: u64| {
        if n == 10 { play(n, Part::Hang).timeout(limit) } else { play(n, Part::Sleep(3)).timeout(limit) }
    };
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let is_late =
        |error: &TaskError| matches!(error, TaskError::TimedOut { limit: told, .. } if *told == limit);

    let error = pool.map(stuck, 0..100).unwrap_err();
    assert!(error.index == 10 && is_late(&error.error), "{error:?}");

    for (n, result) in (0..).zip(pool.map_settled(stuck, 0..100)) {
        match result {
            Ok(answer) => assert!(n != 10 && answer == right(n)),
            Err(error) => assert!(n == 10 && is_late(&error), "{n}: {error:?}"),
        }
    }

    assert!(is_late(&pool.apply(stuck(10)).unwrap_err()), "get");

    let handle = pool.apply_async(stuck(10));
    assert!(handle.wait_timeout(Duration::from_secs(20)), "wait_timeout");
    assert!(handle.is_finished() && is_late(&handle.get().unwrap_err()));

    let (tell, told) = channel();
    pool.apply_async(stuck(10)).on_complete(move |result| tell.send(result).unwrap());
    assert!(is_late(&told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap_err()), "on_complete");

    // With nobody waiting.
    let before = pool.stats().timed_out;
    drop(pool.apply_async(stuck(10)));
    wait_until("it has timed out", || pool.stats().timed_out == before + 1);
    expect_healthy(&pool);
}

#[test]
fn the_time_limit_of_the_pool_holds_for_tasks_without_one_of_their_own() {
    let scene = Scene::new();
    let limit = Duration::from_millis(200);
    let pool = scene.builder().worker(stock()).task_timeout(limit).build().unwrap();
    let patient = pool.apply_async(play(1, Part::Sleep(500)).timeout(Duration::from_secs(20)));
    let error = pool.apply(play(1, Part::Hang)).unwrap_err();
    assert!(matches!(error, TaskError::TimedOut { limit: told, .. } if told == limit), "{error:?}");
    assert_eq!(patient.get().unwrap(), right(1));
    expect_healthy(&pool);
}

#[test]
fn a_task_that_notices_its_time_limit_keeps_its_worker() {
    let scene = Scene::new();
    let pool =
        scene.builder().workers(1).worker(stock()).cancel_grace(Duration::from_secs(20)).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    let call = play(1, Part::Cooperate(50_000)).timeout(Duration::from_millis(100));
    assert!(matches!(pool.apply(call), Err(TaskError::TimedOut { .. })));
    assert_eq!(pool.apply(drill::pid()).unwrap(), pid);
    assert_eq!(pool.stats().deaths.total(), 0);
    expect_healthy(&pool);
}

// Cancellation

#[test]
fn cancel_drops_a_task_that_waits_stops_one_that_runs_and_leaves_one_that_has_ended() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    let ended = pool.apply_async(play(1, Part::Innocent));
    assert!(ended.wait_timeout(Duration::from_secs(20)));
    let runs = pool.apply_async(play(2, Part::Hang));
    let waits = pool.apply_async(play(3, Part::Exit(1)));
    let behind = pool.apply_async(play(4, Part::Innocent));
    wait_until("it runs", || running(&pool) == 1);
    for handle in [&ended, &runs, &waits] {
        handle.cancel();
        assert!(handle.is_finished(), "at once");
    }
    assert_eq!(ended.get().unwrap(), right(1));
    assert!(matches!(runs.get(), Err(TaskError::Cancelled)));
    assert!(matches!(waits.get(), Err(TaskError::Cancelled)));
    assert_eq!(behind.get().unwrap(), right(4));
    let stats = pool.stats();
    assert_eq!((stats.cancelled, stats.deaths.cancelled, stats.deaths.total()), (2, 1, 1), "{stats:?}");
    expect_healthy(&pool);
}

#[test]
fn a_cancelled_task_that_notices_keeps_its_worker() {
    let scene = Scene::new();
    let pool =
        scene.builder().workers(1).worker(stock()).cancel_grace(Duration::from_secs(20)).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    let handle = pool.apply_async(play(1, Part::Cooperate(50_000)));
    wait_until("it runs", || running(&pool) == 1);
    handle.cancel();
    assert!(matches!(handle.get(), Err(TaskError::Cancelled)));
    assert_eq!(pool.apply(drill::pid()).unwrap(), pid);
    // The flag was for that task alone.
    assert_eq!(pool.apply(play(2, Part::Cooperate(20))).unwrap(), Answer::Cancelled(false));
    expect_healthy(&pool);
}

// Many at once

#[test]
fn all_workers_are_killed_at_the_same_instant_with_a_full_queue() {
    let scene = Scene::new();
    let pool = scene.builder().workers(3).worker(stock()).build().unwrap();
    wait_until("every worker is ready", || pool.stats().workers_ready == 3);
    let handles: Vec<_> = (0..600).map(|n| pool.apply_async(play(n, Part::Sleep(1)).retries(5))).collect();
    for _ in 0..3 {
        wait_until("every worker is busy", || running(&pool) == 3);
        for worker in pool.workers() {
            worker.pid.into_iter().for_each(|pid| process::send(pid, Signal::SIGKILL));
        }
    }
    for (n, handle) in (0..).zip(handles) {
        assert_eq!(handle.get().unwrap(), right(n), "task {n}");
    }
    assert!(pool.stats().deaths.signalled >= 3, "{:?}", pool.stats());
    expect_healthy(&pool);
}

#[test]
fn workers_killed_from_outside_lose_exactly_the_tasks_that_they_ran() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    const KILLS: u64 = 10;
    let results = std::thread::scope(|scope| {
        scope.spawn(|| {
            for kill in 1..=KILLS {
                wait_until("the map has got on", || pool.stats().succeeded >= kill * 1500);
                // One that was killed before is shown until the pool has buried it.
                let mut pid = None;
                wait_until("somebody is alive", || {
                    let pids: Vec<_> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
                    pid = pids.into_iter().find(|pid| process::is_alive(*pid));
                    pid.is_some()
                });
                let pid = pid.expect("it was waited for");
                process::send(pid, Signal::SIGKILL);
                wait_until("it is gone", || !process::is_alive(pid));
            }
        });
        pool.map_settled(|n| play(n, Part::Innocent), 0..20_000)
    });
    assert_eq!(results.len(), 20_000);
    let mut lost = 0;
    for (n, result) in (0..).zip(results) {
        match result {
            Ok(answer) => assert_eq!(answer, right(n)),
            Err(TaskError::WorkerDied(death)) => {
                assert!(is_signal(&death.cause, libc::SIGKILL), "{death}");
                lost += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(lost <= KILLS, "{KILLS} workers were killed, {lost} tasks lost");
    let known = || pool.stats().deaths.signalled + pool.stats().deaths.start_failed;
    wait_until("all deaths are known", || known() == KILLS);
    expect_healthy(&pool);
}

#[test]
fn one_two_five_and_thirteen_tasks_in_a_row_kill_their_worker() {
    for killers in [1, 2, 5, 13] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let part = |n| if n < killers { Part::Raise(libc::SIGKILL) } else { Part::Innocent };
        let results = pool.map_settled(|n| play(n, part(n)), 0..killers + 20);
        for (n, result) in (0..).zip(results) {
            if n < killers {
                assert!(is_signal(&expect_death(result).cause, libc::SIGKILL));
            } else {
                assert_eq!(result.unwrap(), right(n));
            }
        }
        assert_eq!(pool.stats().deaths.total(), killers);
        expect_healthy(&pool);
    }
}

#[test]
fn a_storm_in_which_every_third_task_crashes_breaks_nothing() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let part = |n| if n % 3 == 0 { Part::Segv } else { Part::Innocent };
    for (n, result) in (0..).zip(pool.map_settled(|n| play(n, part(n)), 0..300)) {
        match result {
            Ok(answer) => assert!(n % 3 != 0 && answer == right(n)),
            Err(error) => assert!(n % 3 == 0 && is_signal(cause_of(&error), libc::SIGSEGV)),
        }
    }
    let stats = pool.stats();
    assert_eq!((stats.succeeded, stats.failed, stats.deaths.total()), (200, 100, 100));
    expect_healthy(&pool);
}

#[test]
fn one_poisonous_task_among_a_thousand_on_one_worker() {
    for retries in [0, 5] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
        let part = |n| if n == 333 { Part::Segv } else { Part::Innocent };
        let results = pool.map_settled(|n| play(n, part(n)).retries(retries), 0..1000);
        for (n, result) in (0..).zip(results) {
            match result {
                Ok(answer) => assert!(n != 333 && answer == right(n)),
                Err(TaskError::WorkerDied(_)) => assert!(n == 333 && retries == 0),
                Err(TaskError::Poisoned { deaths, .. }) => {
                    assert!(n == 333 && deaths.len() == retries as usize + 1);
                }
                Err(other) => panic!("{n}: {other:?}"),
            }
        }
        expect_healthy(&pool);
    }
}

// Take-back

#[test]
fn short_tasks_do_not_wait_behind_a_long_one_on_the_same_worker() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    // All are given out at once, some of them to the worker that runs the long one.
    let (tell, told) = channel();
    let long = pool.apply_async(play(0, Part::Hang));
    let short: Vec<_> = (1..=100).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
    for (n, handle) in (1..).zip(&short) {
        let tell = tell.clone();
        handle.on_complete(move |result| tell.send((n, result)).unwrap());
    }
    for _ in 0..100 {
        let (n, result) =
            told.recv_timeout(Duration::from_secs(20)).expect("the long one does not hold it up");
        assert_eq!(result.unwrap(), right(n));
    }
    assert!(!long.is_finished());
    drop(short);
    long.cancel();
    expect_healthy(&pool);
}

#[test]
fn in_a_map_too_short_tasks_do_not_wait_behind_a_long_one() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    let part = |n| if n == 0 { Part::Cooperate(50_000) } else { Part::Innocent };
    let results = std::thread::scope(|scope| {
        let map = scope.spawn(|| pool.map_settled(|n| play(n, part(n)), 0..100));
        wait_until("all but the long one are done", || pool.stats().succeeded == 99);
        wait_until("the long one runs", || running(&pool) == 1);
        let pids: Vec<_> = pool.workers().iter().filter(|w| w.task.is_some()).filter_map(|w| w.pid).collect();
        assert_eq!(pids.len(), 1, "one worker runs the long one");
        process::send(pids[0], Signal::SIGKILL);
        map.join().unwrap()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 99);
    assert!(results[0].is_err());
    expect_healthy(&pool);
}

// The end

#[test]
fn a_broken_pool_resolves_every_handle_old_and_new() {
    let scene = Scene::new();
    let restart =
        RestartPolicy { max_restarts: 1, first_delay: Duration::from_millis(1), ..RestartPolicy::default() };
    let pool = scene.builder().worker(hostile("exit-early")).restart(restart).build().unwrap();
    let handles: Vec<_> = (0..200).map(|n| pool.apply_async(innocent(n))).collect();
    let is_broken = |error: &TaskError| match error {
        TaskError::PoolBroken(reason) => matches!(&**reason, BrokenReason::TooManyDeaths { .. }),
        _ => false,
    };
    for handle in handles {
        assert!(is_broken(&handle.get().unwrap_err()));
    }
    assert!(is_broken(&pool.apply(innocent(1)).unwrap_err()));
    assert!(is_broken(&pool.map(innocent, 0..10).unwrap_err().error));
    let settled = pool.map_settled(innocent, 0..10);
    assert!(settled.len() == 10 && settled.iter().all(|result| is_broken(result.as_ref().unwrap_err())));
    let (tell, told) = channel();
    pool.apply_async(innocent(1)).on_complete(move |result| tell.send(result).unwrap());
    assert!(is_broken(&told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap_err()));
    pool.join();
    assert_eq!(pool.stats().pending, 0);
}

#[test]
fn a_closed_pool_takes_nothing_and_finishes_what_it_has() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handles: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Sleep(2)))).collect();
    pool.close();
    assert!(matches!(pool.apply(play(1, Part::Innocent)), Err(TaskError::PoolClosed)));
    assert!(matches!(pool.map(|n| play(n, Part::Innocent), 0..3).unwrap_err().error, TaskError::PoolClosed));
    assert!(
        pool.map_settled(|n| play(n, Part::Innocent), 0..3)
            .iter()
            .all(|result| matches!(result, Err(TaskError::PoolClosed)))
    );
    for (n, handle) in (0..).zip(handles) {
        assert_eq!(handle.get().unwrap(), right(n));
    }
    pool.join();
    let stats = pool.stats();
    assert_eq!((stats.pending, stats.workers_ready, stats.deaths.total()), (0, 0, 0), "{stats:?}");
    drop(pool);
    scene.expect_nothing_left();
}
