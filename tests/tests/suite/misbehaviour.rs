//! Workers that do not die, or not by themselves: they lie, babble, block, stop, and leave things behind.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{BrokenReason, Death, DeathCause, Output, Pool, TaskError};
use pool_tests::{
    IsCause, Mode, Part, Scene, Trial, cause_of, expect_death, expect_healthy, innocent, is_signal, play,
    process, quiet, right, running, sevens, victim, wait_until, with_rings, zygote,
};
use pool_worker::drill;

use crate::programs::{Once, hostile, stock};

/// Whether the pool has killed a worker for something like this.
pub(crate) fn is_violation(cause: &DeathCause, text: &str) -> bool {
    matches!(cause, DeathCause::ProtocolViolation { what, .. } if what.contains(text))
}

/// Whether a worker, or the pool for it, has found that a ring is not what it was.
fn is_scribbled_ring(cause: &DeathCause) -> bool {
    let gave_up = matches!(cause, DeathCause::Exited(102 | 103));
    let texts = ["has been overwritten", "a frame that makes no sense"];
    with_rings() && (gave_up || texts.iter().any(|text| is_violation(cause, text)))
}

/// Lets a hostile worker play a trick on one task among innocents, in every mode.
#[track_caller]
fn in_every_mode(trick: &str, expect: impl Fn(&Pool, Result<Vec<u8>, TaskError>)) {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(hostile(trick)).build().unwrap();
        let outcome = Trial { victim: || victim(1000), innocent }.run(&pool, mode, sevens);
        expect(&pool, outcome);
        expect_healthy(&pool);
    }
}

#[test]
fn frames_that_break_the_protocol_cost_the_worker_and_the_task_that_it_runs() {
    let tricks = [
        ("huge", "exceeds the limit"),
        ("unknown-kind", "kind 77"),
        ("wrong-ticket", "which it does not run"),
        ("garbage-failure", "failure report that makes no sense"),
        ("supervisors-frame", "unexpected Task frame"),
        ("second-hello", "unexpected Hello frame"),
        ("bye", "unexpected Bye frame"),
        ("close-results", "closed its pipes and lives on"),
        ("half-and-linger", "closed its pipes and lives on"),
        ("wrong-sum", "does not match its sum"),
        ("exit-note", "exit value before it was asked to retire"),
        ("garbage-unfit", "report about a state that makes no sense"),
        ("garbage-state", "name of a state that is none"),
        ("prepared", "built a state that it had not begun"),
        ("preparing-twice", "builds two states at a time"),
        ("endless-garbage", "a frame that makes no sense"),
    ];
    for (trick, what) in tricks {
        in_every_mode(trick, |pool, outcome| {
            let death = expect_death(outcome);
            assert!(is_violation(&death.cause, what), "{trick}: {death}");
            assert!(death.task.as_deref().is_some_and(|task| task.ends_with("::victim")), "{trick}: {death}");
            assert_eq!(pool.stats().deaths.protocol_violation, 1, "{trick}");
        });
    }
}

#[test]
fn a_truncated_frame_and_an_exit_are_a_death_in_the_task() {
    in_every_mode("half-and-exit", |_, outcome| {
        assert_eq!(expect_death(outcome).cause, DeathCause::Exited(0));
    });
}

#[test]
fn the_same_result_twice_or_without_end_is_delivered_once_and_nobody_is_blamed() {
    for trick in ["twice", "endless-results"] {
        in_every_mode(trick, |pool, outcome| {
            assert_eq!(outcome.unwrap(), sevens(1000));
            wait_until("the worker is killed", || pool.stats().deaths.protocol_violation == 1);
        });
    }
}

#[test]
fn results_out_of_order_are_not_believed_and_what_was_started_runs_again_only_on_request() {
    for retries in [0, 1] {
        let (scene, once) = (Scene::new(), Once::new());
        let pool = scene.builder().workers(1).worker(once.hostile("out-of-order")).build().unwrap();
        let first = pool.apply_async(victim(10));
        let second = pool.apply_async(innocent(20).retries(retries));
        let is_expected = |death: &Death| is_violation(&death.cause, "which it does not run");
        match first.get() {
            Err(TaskError::WorkerDied(death)) => assert!(is_expected(&death), "{death}"),
            // Its result came out of turn, but it may have come in time.
            other => assert_eq!(other.unwrap(), sevens(10)),
        }
        match second.get() {
            // It had been started, and its result came when it could not have ended.
            Err(TaskError::WorkerDied(death)) if retries == 0 => assert!(is_expected(&death), "{death}"),
            Ok(result) if retries == 1 => assert_eq!(result, sevens(20)),
            other => panic!("{other:?}"),
        }
        expect_healthy(&pool);
    }
}

#[test]
fn a_result_that_cannot_be_decoded_fails_its_task_only() {
    in_every_mode("garbage-result", |pool, outcome| {
        assert!(
            matches!(&outcome, Err(TaskError::Decode { task, .. }) if task.ends_with("::victim")),
            "{outcome:?}"
        );
        // In an aborted map others may have been cancelled; nobody is killed for the garbage.
        assert_eq!(pool.stats().deaths.protocol_violation, 0);
    });
}

#[test]
fn a_board_that_lies_about_the_start_does_not_put_the_time_limit_off() {
    let limit = Duration::from_millis(200);
    let scene = Scene::new();
    let pool = scene.builder().worker(hostile("claim-from-the-future")).build().unwrap();
    let error = pool.apply(victim(1).timeout(limit)).unwrap_err();
    assert!(matches!(error, TaskError::TimedOut { .. }), "{error:?}");
    expect_healthy(&pool);
}

#[test]
fn a_board_that_says_finished_without_a_result_is_found_out() {
    for limit in [None, Some(Duration::from_millis(100))] {
        let scene = Scene::new();
        let pool = scene
            .builder()
            .worker(hostile("finish-without-result"))
            .start_timeout(Duration::from_millis(1500))
            .build()
            .unwrap();
        let call = victim(1);
        let call = if let Some(limit) = limit { call.timeout(limit) } else { call };
        let death = expect_death(pool.apply(call));
        assert!(is_violation(&death.cause, "claim board shows Finished"), "{death}");
        expect_healthy(&pool);
    }
}

#[test]
fn a_worker_that_never_takes_up_its_task_is_replaced_and_the_task_runs_elsewhere() {
    for mode in Mode::ALL {
        let (scene, once) = (Scene::new(), Once::new());
        let patience = Duration::from_millis(1500);
        let builder = scene.builder().workers(1).worker(once.hostile("never-claim")).start_timeout(patience);
        let pool = builder.build().unwrap();
        let outcome = Trial { victim: || victim(1000), innocent }.run(&pool, mode, sevens);
        assert_eq!(outcome.unwrap(), sevens(1000));
        let stats = pool.stats();
        assert_eq!((stats.deaths.unresponsive, stats.deaths.total(), stats.retried), (1, 1, 0), "{stats:?}");
        expect_healthy(&pool);
    }
}

#[test]
fn a_worker_that_builds_states_without_end_is_replaced_and_no_task_is_blamed() {
    for trick in ["prepare-for-ever", "prepare-early"] {
        let (scene, once) = (Scene::new(), Once::new());
        let pool = scene.builder().workers(1).worker(once.hostile(trick)).build().unwrap();
        assert_eq!(pool.apply(victim(1000)).unwrap(), sevens(1000), "{trick}");
        let stats = pool.stats();
        assert_eq!((stats.deaths.protocol_violation, stats.deaths.total()), (1, 1), "{trick}: {stats:?}");
        assert_eq!((stats.retried, stats.failed), (0, 0), "{trick}: {stats:?}");
        expect_healthy(&pool);
    }
}

#[test]
fn a_worker_that_was_stopped_while_idle_is_replaced_and_its_task_runs_elsewhere() {
    let scene = Scene::new();
    let patience = Duration::from_millis(1500);
    let pool = scene.builder().workers(1).worker(stock()).start_timeout(patience).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    process::send(pid, Signal::SIGSTOP);
    wait_until("it is stopped", || process::state(pid) == Some('T'));
    let other = pool.apply(drill::pid()).unwrap();
    assert_ne!(other, pid);
    assert_eq!(pool.stats().deaths.unresponsive, 1);
    expect_healthy(&pool);
}

#[test]
fn a_worker_that_stops_between_task_and_result_is_killed_at_the_time_limit() {
    let limit = Duration::from_millis(200);
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(hostile("stop-before-result")).build().unwrap();
        let trial = Trial { victim: || victim(10).timeout(limit), innocent };
        let error = trial.run(&pool, mode, sevens).unwrap_err();
        assert!(matches!(error, TaskError::TimedOut { .. }), "{error:?}");
        expect_healthy(&pool);
    }
}

#[test]
fn hellos_that_make_no_sense_break_the_pool_at_once_and_say_why() {
    for (trick, what) in [("hello-version=999", "protocol version 999"), ("garbage-hello", "makes no sense")]
    {
        let scene = Scene::new();
        let pool = scene.builder().worker(hostile(trick)).build().unwrap();
        match pool.apply(innocent(1)) {
            Err(TaskError::PoolBroken(reason)) => match &*reason {
                BrokenReason::Incompatible { executable, why, .. } => {
                    assert!(executable.ends_with("hostile-worker") && why.contains(what), "{why}");
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
        assert!(pool.stats().spawned <= 2);
    }
}

#[test]
fn a_task_that_the_worker_does_not_have_or_declares_differently_fails_alone() {
    in_every_mode("hello-without-victim", |pool, outcome| {
        match outcome {
            Err(TaskError::UnknownTask { task, executable, .. }) => {
                assert!(task.ends_with("::victim") && executable.ends_with("hostile-worker"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.stats().deaths.total(), pool.stats().deaths.cancelled);
    });
    in_every_mode("hello-with-other-signature", |pool, outcome| {
        match outcome {
            Err(TaskError::TaskDiffers { task, ours, theirs, .. }) => {
                assert!(task.ends_with("::victim"));
                assert_eq!(theirs, format!("{ours}x"));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.stats().deaths.total(), pool.stats().deaths.cancelled);
    });
}

#[test]
fn garbage_on_the_descriptors_0_to_9_harms_nobody() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let outcome = Trial { victim: || drill::garbage_fds(0, 9), innocent: quiet }.run(&pool, mode, |_| ());
        outcome.unwrap();
        assert_eq!(pool.stats().deaths.total(), 0);
        expect_healthy(&pool);
    }
}

#[test]
fn garbage_in_the_result_pipe_is_blamed_on_its_task_and_results_behind_it_are_delivered() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let trial = Trial { victim: drill::garbage_frame, innocent: |n| quiet(n).retries(1) };
        let outcome = trial.run(&pool, mode, |_| ());
        if with_rings() {
            // The pipe is a doorbell: what is in it has no meaning.
            outcome.unwrap();
            assert_eq!(pool.stats().deaths.total(), 0);
            expect_healthy(&pool);
            continue;
        }
        let death = expect_death(outcome);
        assert!(is_violation(&death.cause, "a frame that makes no sense"), "{death}");
        assert!(death.task.is_some_and(|task| task.ends_with("::garbage_frame")));
        expect_healthy(&pool);
        let stats = pool.stats();
        assert_eq!(stats.deaths.protocol_violation, 1);
        // The worker goes on until it is killed: only what it runs at that moment may have to run again.
        assert!(stats.retried <= 1, "{stats:?}");
    }
}

#[test]
fn closed_pipes_cost_the_worker_that_lives_on() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let outcome = Trial { victim: drill::close_pipes, innocent: quiet }.run(&pool, mode, |_| ());
        let error = outcome.unwrap_err();
        assert!(is_violation(cause_of(&error), "closed its pipes and lives on"), "{error}");
        expect_healthy(&pool);
    }
}

#[test]
fn a_scribbled_claim_board_is_not_believed() {
    let limit = Duration::from_millis(200);
    for returns in [true, false] {
        for mode in Mode::ALL {
            let scene = Scene::new();
            let pool = scene.builder().worker(stock()).build().unwrap();
            // With rings, results that have not been read are in that memory, too: the tasks have run, and are lost.
            let retries = u32::from(with_rings());
            let innocent = |n| quiet(n).retries(retries);
            let trial = Trial { victim: || drill::scribble_board(returns).timeout(limit), innocent };
            match trial.run(&pool, mode, |_| ()) {
                Ok(()) if returns => {}
                Err(TaskError::WorkerDied(death)) => {
                    assert!(
                        is_violation(&death.cause, "claim") || is_scribbled_ring(&death.cause),
                        "{death}"
                    );
                }
                other => panic!("{other:?}"),
            }
            expect_healthy(&pool);
        }
    }
}

#[test]
fn a_flood_on_stdout_harms_nobody() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let flood = pool.apply_async(drill::spam_stdout(100 << 20));
    let results = pool.map(|n| play(n, Part::Innocent), 0..200).unwrap();
    assert_eq!(results, (0..200).map(right).collect::<Vec<_>>());
    flood.get().unwrap();
    expect_healthy(&pool);
}

#[test]
fn output_that_nobody_takes_blocks_those_that_print_and_nobody_else() {
    let scene = Scene::new();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    // Blocks at the first line until the other end is dropped.
    let blocked = Output::capture(move |_| {
        let _ = gate.lock().unwrap().recv();
    });
    let pool = scene.builder().worker(stock()).output(blocked).build().unwrap();
    let flood = pool.apply_async(drill::spam_stdout(20 << 20));
    wait_until("the flood runs", || running(&pool) == 1);
    for n in 0..200 {
        assert_eq!(pool.apply(play(n, Part::Innocent)).unwrap(), right(n));
    }
    assert!(!flood.is_finished());
    drop(open);
    flood.get().unwrap();
    expect_healthy(&pool);
}

#[test]
fn a_grandchild_that_holds_the_pipes_open_does_not_hide_the_death_of_the_worker() {
    for (then, is_cause) in [
        ("segv", (|cause| is_signal(cause, libc::SIGSEGV)) as IsCause),
        ("exit", |cause| *cause == DeathCause::Exited(0)),
    ] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let start = Instant::now();
        let death = expect_death(pool.apply(drill::grandchild(600, then.to_owned())));
        assert!(is_cause(&death.cause), "{death}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        // It is gone with its worker, not with the pool.
        let pids: Vec<_> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
        wait_until("nothing but workers and what forks them is left", || {
            let zygotes = zygote::pids();
            process::marked(scene.mark())
                .iter()
                .filter(|pid| !zygotes.contains(pid))
                .all(|pid| pids.contains(pid) || pool.workers().iter().any(|worker| worker.pid == Some(*pid)))
        });
        expect_healthy(&pool);
    }
}

#[test]
fn a_task_that_daemonises_is_a_death_and_what_it_leaves_is_killed() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let death = expect_death(pool.apply(drill::fork_and_exit()));
    assert_eq!(death.cause, DeathCause::Exited(0));
    expect_healthy(&pool);
}

#[test]
fn grandchildren_and_threads_that_are_left_running_do_not_disturb_and_go_with_the_pool() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let child = pool.apply(drill::grandchild(600, "return".to_owned())).unwrap();
    pool.apply(drill::orphan_thread()).unwrap();
    assert!(process::is_alive(child));
    expect_healthy(&pool);
    assert!(process::is_alive(child), "it has the life of its worker");
    drop(pool);
    wait_until("the grandchild is gone", || !process::is_alive(child));
}

#[test]
fn tasks_that_ignore_signals_do_not_mind_the_crash_of_a_sibling_and_go_with_the_pool() {
    for hang in [drill::hang_ignoring_sigterm, drill::hang_blocking_signals] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let stubborn = pool.apply_async(hang());
        for n in 0..5 {
            let death = expect_death(pool.apply(play(n, Part::Segv)));
            assert!(is_signal(&death.cause, libc::SIGSEGV));
        }
        assert!(!stubborn.is_finished());
        stubborn.cancel();
        assert!(matches!(stubborn.get(), Err(TaskError::Cancelled)));
        expect_healthy(&pool);
        let stubborn = pool.apply_async(hang());
        wait_until("it runs", || running(&pool) == 1);
        drop(pool);
        assert!(matches!(stubborn.get(), Err(TaskError::PoolClosed)));
    }
}

#[test]
fn a_result_and_its_time_limit_at_the_same_moment_are_one_or_the_other() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let (mut done, mut late) = (0, 0);
    for n in 0..60 {
        // Around the limit, from both sides.
        let length = 15 + n % 10;
        match pool.apply(play(n, Part::Sleep(length)).timeout(Duration::from_millis(20))) {
            Ok(answer) => {
                assert_eq!(answer, right(n));
                done += 1;
            }
            Err(TaskError::TimedOut { .. }) => late += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(done + late, 60);
    expect_healthy(&pool);
}

#[test]
fn a_result_and_a_cancellation_at_the_same_moment_are_one_or_the_other() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).cancel_grace(Duration::ZERO).build().unwrap();
    for n in 0..300 {
        let handle = pool.apply_async(play(n, Part::Innocent));
        let behind = pool.apply_async(play(n + 1000, Part::Innocent));
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(n % 60 * 10) {
            std::hint::spin_loop();
        }
        handle.cancel();
        match handle.get() {
            Ok(answer) => assert_eq!(answer, right(n)),
            Err(TaskError::Cancelled) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(behind.get().unwrap(), right(n + 1000), "it is not the one that was cancelled");
    }
    expect_healthy(&pool);
}
