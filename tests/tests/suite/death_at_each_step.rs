//! A worker dies at every point of its life.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{BrokenReason, DeathCause, MapError, Pool, RestartPolicy, TaskError};
use pool_ipc::HEADER_LEN;

use pool_tests::{
    Mode, Part, Scene, Trial, block_on, expect_death, expect_healthy, innocent, is_signal, play, process,
    right, sevens, victim, wait_until,
};
use pool_worker::drill;

use crate::programs::{Once, hostile, stock};

/// The pids of all workers, once all are ready.
fn pids(pool: &Pool) -> Vec<u32> {
    wait_until("every worker is ready", || pool.stats().workers_ready == pool.workers().len());
    pool.workers().iter().map(|worker| worker.pid.expect("it is ready")).collect()
}

#[test]
fn before_the_handshake_nobody_is_blamed_and_the_worker_is_replaced() {
    for trick in ["exit-early", "die-early"] {
        for mode in Mode::ALL {
            let (scene, once) = (Scene::new(), Once::new());
            let pool = scene.builder().worker(once.hostile(trick)).build().unwrap();
            let trial = Trial { victim: || victim(9), innocent };
            assert_eq!(trial.run(&pool, mode, sevens).unwrap(), sevens(9), "{trick}, {mode:?}");
            wait_until("the death is counted", || pool.stats().deaths.start_failed == 1);
            assert!(once.was_played());
            expect_healthy(&pool);
            assert_eq!((pool.stats().spawned, pool.stats().deaths.total()), (3, 1));
        }
    }
}

#[test]
fn while_the_state_is_built_nobody_is_blamed_and_in_the_end_the_pool_gives_up() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let call = |_| drill::with_dying_state();
        let handle = || pool.apply_async(drill::with_dying_state());
        let first = |results: Result<Vec<_>, MapError>| results.map(|_| ()).map_err(|error| error.error);
        let outcome = match mode {
            Mode::ApplyAsync => handle().get().map(drop),
            Mode::WaitTimeout => {
                let handle = handle();
                while !handle.wait_timeout(Duration::from_millis(20)) {}
                handle.get().map(drop)
            }
            Mode::Future => block_on(handle()).map(drop),
            Mode::Map => first(pool.map(call, 0..1)),
            Mode::MapUnordered => first(pool.map_unordered(call, 0..1)),
            Mode::Imap => pool.imap(call, 0..1).next().expect("one outcome").map(drop),
            Mode::ImapUnordered => pool.imap_unordered(call, 0..1).next().expect("one outcome").map(drop),
            Mode::MapSettled => pool.map_settled(call, 0..1).remove(0).map(drop),
        };
        let Err(TaskError::PoolBroken(reason)) = &outcome else { panic!("{mode:?}: {outcome:?}") };
        let BrokenReason::StateFailed { state, deaths, .. } = &**reason else { panic!("{reason:?}") };
        assert!(state.ends_with("::DyingState"), "{state}");
        assert_eq!(deaths.len() as u32, RestartPolicy::default().max_restarts + 1);
        for death in deaths {
            assert!(is_signal(&death.cause, libc::SIGKILL) && death.task.is_none(), "{death}");
        }
    }
}

#[test]
fn before_the_task_is_claimed_it_runs_again_and_it_is_no_attempt() {
    for mode in Mode::ALL {
        let (scene, once) = (Scene::new(), Once::new());
        let pool = scene.builder().worker(once.hostile("die-unclaimed")).build().unwrap();
        let trial = Trial { victim: || victim(9), innocent };
        assert_eq!(trial.run(&pool, mode, sevens).unwrap(), sevens(9), "{mode:?}");
        assert!(once.was_played());
        expect_healthy(&pool);
        let stats = pool.stats();
        // The other worker may have been given it before the death was known.
        assert!(stats.requeued + stats.taken_back >= 1, "{stats:?}");
        assert_eq!((stats.retried, stats.deaths.signalled), (0, 1), "{stats:?}");
    }
}

#[test]
fn at_the_first_instruction_of_the_task_it_is_blamed() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(hostile("die-claimed")).build().unwrap();
        let death = expect_death(Trial { victim: || victim(9), innocent }.run(&pool, mode, sevens));
        assert!(is_signal(&death.cause, libc::SIGKILL), "{death}");
        assert!(death.task.is_some_and(|task| task.ends_with("::victim")));
        expect_healthy(&pool);
    }
}

#[test]
fn in_the_middle_of_the_task_it_is_blamed_and_those_queued_behind_it_are_not() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
        let part = Part::After(50, Box::new(Part::Segv));
        let trial = Trial { victim: || play(0, part.clone()), innocent: |n| play(n, Part::Innocent) };
        let death = expect_death(trial.run(&pool, mode, right));
        assert!(death.ran_for.is_some_and(|ran| ran >= Duration::from_millis(50)), "{death}");
        expect_healthy(&pool);
        // With one worker, some innocents were waiting behind the victim on it.
        assert!(
            matches!(mode, Mode::Map | Mode::MapUnordered) || pool.stats().requeued > 0,
            "{:?}",
            pool.stats()
        );
    }
}

/// The worker dies when part of its result has been written. Whether it counts as written depends on the last byte.
#[test]
fn after_part_of_the_result_the_task_is_blamed_and_after_all_of_it_the_result_is_delivered() {
    let header = HEADER_LEN;
    // A result that fits into the reader's buffer, and one that does not.
    for len in [100, 150_000] {
        let all = header + usize::try_from(encoded_len(len)).unwrap();
        let portions = [
            ("write=0".to_owned(), false),
            ("write=1".to_owned(), false),
            (format!("write={}", header / 2), false),
            (format!("write={header}"), false),
            (format!("write={}", header + 1), false),
            ("write-half".to_owned(), false),
            ("write-all-but=1".to_owned(), false),
            (format!("write={all}"), true),
            ("write-all-but=0".to_owned(), true),
            ("finish-and-die".to_owned(), true),
        ];
        for (trick, delivered) in portions {
            for mode in Mode::ALL {
                let scene = Scene::new();
                let pool = scene.builder().worker(hostile(&trick)).build().unwrap();
                let outcome = Trial { victim: || victim(len), innocent }
                    .run(&pool, mode, |n| if n == Trial::<(), ()>::VICTIM { sevens(len) } else { sevens(n) });
                match outcome {
                    Ok(result) if delivered => assert_eq!(result, sevens(len)),
                    Err(TaskError::WorkerDied(death)) if !delivered => {
                        assert!(is_signal(&death.cause, libc::SIGKILL), "{trick}, {mode:?}: {death}");
                        assert!(death.task.is_some_and(|task| task.ends_with("::victim")));
                    }
                    other => panic!("{trick}, {mode:?}: {other:?}"),
                }
                wait_until("the death is counted", || pool.stats().deaths.signalled == 1);
                expect_healthy(&pool);
            }
        }
    }
}

/// The length of the encoding of `len` bytes.
fn encoded_len(len: u64) -> u64 {
    // A varint has 7 bits a byte.
    len + u64::from((64 - len.leading_zeros()).div_ceil(7))
}

#[test]
fn while_idle_nobody_is_blamed_and_every_worker_is_replaced() {
    let scene = Scene::new();
    let pool = scene.builder().workers(3).worker(stock()).build().unwrap();
    for round in 1..=2 {
        let before = pids(&pool);
        before.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
        // Submitted before the pool can know.
        let results = pool.map(|n| play(n, Part::Innocent), 0..100).unwrap();
        assert_eq!(results, (0..100).map(right).collect::<Vec<_>>());
        wait_until("all deaths are counted", || pool.stats().deaths.signalled == 3 * round);
        assert!(pids(&pool).iter().all(|pid| !before.contains(pid)));
    }
    expect_healthy(&pool);
    assert_eq!(pool.stats().retried, 0);
}

#[test]
fn while_retiring_the_pool_ends_all_the_same() {
    for trick in ["die-retiring", "exit-retiring=3", "hang-retiring"] {
        let scene = Scene::new();
        let pool =
            scene.builder().worker(hostile(trick)).exit_timeout(Duration::from_millis(200)).build().unwrap();
        let results = pool.map(innocent, 0..10).unwrap();
        assert_eq!(results, (0..10).map(sevens).collect::<Vec<_>>());
        pids(&pool);
        pool.join();
        let deaths = pool.stats().deaths;
        let counted = match trick {
            "die-retiring" => deaths.signalled,
            "exit-retiring=3" => deaths.exited,
            _ => deaths.terminated,
        };
        assert_eq!((counted, deaths.total()), (2, 2), "{trick}: {deaths:?}");
        assert!(matches!(pool.apply(innocent(1)), Err(TaskError::PoolClosed)));
        drop(pool);
        scene.expect_nothing_left();
    }
}

#[test]
fn during_shutdown_everything_that_was_submitted_still_ends_right() {
    for killed_from_outside in [false, true] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let part = |n| match n % 10 {
            5 if !killed_from_outside => Part::Segv,
            _ => Part::Sleep(2),
        };
        let before = pids(&pool);
        let handles: Vec<_> = (0..100).map(|n| pool.apply_async(play(n, part(n)).retries(20))).collect();
        pool.close();
        if killed_from_outside {
            before.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
        }
        for (n, handle) in (0..).zip(handles) {
            match (part(n), handle.get()) {
                (Part::Segv, Err(TaskError::Poisoned { deaths, .. })) => assert_eq!(deaths.len(), 21),
                (Part::Sleep(_), Ok(answer)) => assert_eq!(answer, right(n)),
                (part, other) => panic!("{part:?}: {other:?}"),
            }
        }
        pool.join();
        assert_eq!(pool.stats().pending, 0);
    }
}

#[test]
fn while_the_pool_is_terminated_or_dropped_its_tasks_end_with_that() {
    for terminate in [false, true] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let before = pids(&pool);
        let handles: Vec<_> = (0..20).map(|n| pool.apply_async(play(n, Part::Hang))).collect();
        before.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
        let start = Instant::now();
        if terminate {
            pool.terminate();
            assert!(matches!(pool.apply(play(1, Part::Innocent)), Err(TaskError::PoolClosed)));
        }
        drop(pool);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let mut blamed = 0;
        for handle in handles {
            match handle.get() {
                Err(TaskError::PoolClosed) => {}
                // The pool may have learnt of a death before it was told to end.
                Err(TaskError::WorkerDied(death)) if is_signal(&death.cause, libc::SIGKILL) => blamed += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(blamed <= 2, "two workers were killed, and {blamed} tasks blamed");
    }
}

#[test]
fn a_worker_that_always_dies_before_the_handshake_breaks_the_pool_after_a_bounded_number_of_starts() {
    for (trick, status) in [("exit-early", "exited with status 3"), ("die-early", "SIGKILL")] {
        let scene = Scene::new();
        let restart = RestartPolicy {
            max_restarts: 3,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(5),
            ..RestartPolicy::default()
        };
        let pool = scene.builder().worker(hostile(trick)).restart(restart).build().unwrap();
        let handles: Vec<_> = (0..10).map(|n| pool.apply_async(innocent(n))).collect();
        for handle in handles {
            match handle.get() {
                Err(TaskError::PoolBroken(reason)) => match &*reason {
                    BrokenReason::TooManyDeaths { deaths, .. } => {
                        assert_eq!(deaths.len(), 4);
                        for death in deaths {
                            assert!(
                                matches!(&death.cause, DeathCause::StartFailed { why, .. } if why.contains(status)),
                                "{death}"
                            );
                        }
                    }
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        assert!(pool.stats().spawned <= 2 * 4, "{:?}", pool.stats());
        assert!(matches!(pool.apply(innocent(1)), Err(TaskError::PoolBroken(_))));
    }
}
