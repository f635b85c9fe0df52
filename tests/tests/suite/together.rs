//! Many deaths at a time: workers that kill each other, and deaths while somebody waits for the end.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{Call, OnFailure, Pool, TaskError, task};
use pool_tests::{
    Mode, Part, Scene, Trial, block_on, expect_death, expect_healthy, in_every_mode, is_signal, play,
    process, quiet, right, running, wait_until,
};

use crate::programs::stock;

/// Kills another process after so many microseconds.
#[task]
fn kill(pid: u32, after: u64) {
    std::thread::sleep(Duration::from_micros(after));
    process::send(pid, Signal::SIGKILL);
    // Its own end may be on the way.
    std::thread::sleep(Duration::from_millis(2));
}

/// The outcome of every item.
fn run(pool: &Pool, mode: Mode, call: &dyn Fn(u64) -> Call<()>, items: u64) -> Vec<Result<(), TaskError>> {
    let handles = || (0..items).map(|n| pool.apply_async(call(n))).collect::<Vec<_>>();
    let isolated = || pool.batch().on_failure(OnFailure::Isolate);
    match mode {
        Mode::ApplyAsync => handles().into_iter().map(|handle| handle.get()).collect(),
        Mode::WaitTimeout => {
            let handles = handles();
            assert!(handles.iter().all(|handle| handle.wait_timeout(Duration::from_secs(30))));
            handles.into_iter().map(|handle| handle.get()).collect()
        }
        Mode::Future => handles().into_iter().map(block_on).collect(),
        Mode::MapSettled => pool.map_settled(call, 0..items),
        Mode::Imap => isolated().imap(call, 0..items).collect(),
        Mode::ImapUnordered => isolated().imap_unordered(call, 0..items).collect(),
        // One error stands for all of the items; how many were done is told, too.
        Mode::Map | Mode::MapUnordered => {
            let batch = isolated();
            let outcome = match mode {
                Mode::Map => batch.map(call, 0..items),
                _ => batch.map_unordered(call, 0..items),
            };
            match outcome {
                Ok(done) => done.into_iter().map(Ok).collect(),
                Err(error) => {
                    let done = (0..error.completed).map(|_| Ok(()));
                    let rest = items as usize - error.completed;
                    done.chain((0..rest).map(|_| Err(error.error.clone()))).collect()
                }
            }
        }
    }
}

#[test]
fn one_two_five_and_thirteen_workers_kill_each_other() {
    for workers in [1, 2, 5, 13] {
        for mode in Mode::ALL {
            let scene = Scene::new();
            let pool = scene.builder().workers(workers).build().unwrap();
            wait_until("every worker is ready", || pool.stats().workers_ready == workers);
            let pids: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
            let items = 4 * workers as u64;
            // Each is killed by one of the first tasks; the others are in between.
            let call = |n: u64| match pids.get((n / 2) as usize) {
                Some(pid) if n.is_multiple_of(2) => kill(*pid, n * 50),
                _ => quiet(n),
            };
            let outcomes = run(&pool, mode, &call, items);
            assert_eq!(outcomes.len() as u64, items, "{mode:?}");
            let mut lost = 0;
            for outcome in outcomes.into_iter().filter(Result::is_err) {
                let death = expect_death(outcome);
                assert!(is_signal(&death.cause, libc::SIGKILL), "{workers}, {mode:?}: {death}");
                lost += 1;
            }
            // One that was killed before it could kill has let another one live.
            let dead = || pids.iter().filter(|pid| !process::is_alive(**pid)).count();
            wait_until("the dead are buried", || {
                dead() > 0 && pool.stats().deaths.signalled == dead() as u64
            });
            assert!(lost <= dead(), "{workers} workers, {mode:?}: {} are dead, {lost} tasks lost", dead());
            assert_eq!(pool.stats().failed, lost as u64, "{:?}", pool.stats());
            expect_healthy(&pool);
            assert_eq!(pool.stats().deaths.total(), dead() as u64, "{mode:?}: {:?}", pool.stats());
        }
    }
}

#[test]
fn all_workers_are_killed_in_the_midst_of_each_call() {
    let trial = Trial {
        victim: || play(Trial::<(), ()>::VICTIM, Part::Sleep(10)).retries(5),
        innocent: |n| play(n, Part::Sleep(10)).retries(5),
    };
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        wait_until("every worker is ready", || pool.stats().workers_ready == 2);
        let pids: BTreeSet<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                wait_until("both are busy", || running(&pool) == 2);
                pids.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
            });
            trial.run(&pool, mode, right)
        });
        assert_eq!(outcome.unwrap(), right(Trial::<(), ()>::VICTIM), "{mode:?}");
        let stats = pool.stats();
        assert_eq!((stats.deaths.signalled, stats.deaths.total()), (2, 2), "{mode:?}: {stats:?}");
        // Each ran one task at most, and what they had not begun is no attempt.
        assert!(stats.retried <= 2, "{mode:?}: {stats:?}");
        expect_healthy(&pool);
    }
}

#[test]
fn workers_that_were_killed_while_idle_do_no_harm_to_the_next_call() {
    let trial = Trial {
        victim: || play(Trial::<(), ()>::VICTIM, Part::Innocent),
        innocent: |n| play(n, Part::Innocent),
    };
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        wait_until("every worker is ready", || pool.stats().workers_ready == 2);
        // The pool cannot know it yet.
        for worker in pool.workers() {
            process::send(worker.pid.expect("it is ready"), Signal::SIGKILL);
        }
        assert_eq!(trial.run(&pool, mode, right).unwrap(), right(Trial::<(), ()>::VICTIM), "{mode:?}");
        wait_until("the deaths are counted", || pool.stats().deaths.signalled == 2);
        expect_healthy(&pool);
        let stats = pool.stats();
        assert_eq!((stats.failed, stats.retried, stats.deaths.total()), (0, 0, 2), "{mode:?}: {stats:?}");
    }
}

#[test]
fn workers_die_while_somebody_joins() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let part = |n| match n % 10 {
        5 => Part::Segv,
        _ => Part::Sleep(3),
    };
    let handles: Vec<_> =
        (0..60).map(|n| pool.apply_async(play(n, part(n)).retries(u32::from(n % 10 != 5)))).collect();
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| pool.join());
        wait_until("everybody is busy", || running(&pool) == 2);
        let pids: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
        pids.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
        joining.join().unwrap();
    });
    for (n, handle) in (0..).zip(handles) {
        assert!(handle.is_finished(), "the pool has been joined");
        match (n % 10, handle.get()) {
            // Killed by us, if it was just about to kill itself.
            (5, outcome) => drop(expect_death(outcome)),
            (_, outcome) => assert_eq!(outcome.unwrap(), right(n)),
        }
    }
    let stats = pool.stats();
    assert_eq!((stats.pending, stats.succeeded, stats.failed), (0, 54, 6), "{stats:?}");
    drop(pool);
    scene.expect_nothing_left();
}

#[test]
fn signals_that_end_a_worker_in_its_task_fail_that_task_alone() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let trial =
            Trial { victim: || play(0, Part::Raise(signal as i32)), innocent: |n| play(n, Part::Innocent) };
        in_every_mode(
            |scene| scene.builder().worker(stock()),
            &trial,
            right,
            |mode, _, outcome| {
                let death = expect_death(outcome);
                assert!(is_signal(&death.cause, signal as i32), "{mode:?}: {death}");
            },
        );
    }
}
