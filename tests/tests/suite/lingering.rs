//! Faults that outlive their task, or are over before anybody looks, in every result mode.

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{DeathCause, TaskError};
use pool_tests::{
    IsCause, Mode, Part, Scene, Trial, expect_death, expect_healthy, in_every_mode, innocent, is_signal,
    play, process, quiet, right, sevens, wait_until,
};
use pool_worker::drill;

use crate::programs::{Once, stock};

const VICTIM: u64 = Trial::<(), ()>::VICTIM;

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_hide_the_death_of_its_parent() {
    let cases: [(&str, IsCause); 2] = [
        ("segv", |cause| is_signal(cause, libc::SIGSEGV)),
        ("exit", |cause| *cause == DeathCause::Exited(0)),
    ];
    for (then, is_cause) in cases {
        in_every_mode(
            |scene| scene.builder().worker(stock()),
            &Trial { victim: || drill::grandchild(600, then.to_owned()), innocent: |_| drill::attempt() },
            |_| 1,
            |mode, _, outcome| {
                let death = expect_death(outcome);
                assert!(is_cause(&death.cause), "{mode:?}: {death}");
            },
        );
    }
}

#[test]
fn what_a_task_leaves_running_goes_with_its_worker() {
    in_every_mode(
        |scene| scene.builder().worker(stock()),
        &Trial { victim: || drill::grandchild(600, "return".to_owned()), innocent: |_| drill::attempt() },
        |_| 1,
        |mode, pool, outcome| {
            let child = outcome.unwrap();
            assert!(process::is_alive(child), "{mode:?}: it has the life of its worker");
            let parent = process::parent(child).expect("it lives");
            assert!(pool.workers().iter().any(|worker| worker.pid == Some(parent)));
            process::send(parent, Signal::SIGKILL);
            wait_until("the grandchild is gone", || !process::is_alive(child));
        },
    );
    in_every_mode(
        |scene| scene.builder().worker(stock()),
        &Trial { victim: drill::orphan_thread, innocent: quiet },
        |_| (),
        |_, _, outcome| outcome.unwrap(),
    );
}

#[test]
fn a_task_that_makes_a_daemon_of_its_worker_is_a_death() {
    in_every_mode(
        |scene| scene.builder().worker(stock()),
        &Trial { victim: drill::fork_and_exit, innocent: quiet },
        |_| (),
        |mode, _, outcome| assert_eq!(expect_death(outcome).cause, DeathCause::Exited(0), "{mode:?}"),
    );
}

#[test]
fn a_flood_of_output_is_a_result_like_others() {
    in_every_mode(
        |scene| scene.builder().worker(stock()),
        &Trial { victim: || drill::spam_stdout(10 << 20), innocent: quiet },
        |_| (),
        |mode, pool, outcome| {
            outcome.unwrap();
            assert_eq!(pool.stats().deaths.total(), 0, "{mode:?}");
        },
    );
}

#[test]
fn a_result_and_its_limit_at_the_same_moment_are_one_or_the_other_in_every_mode() {
    let limit = Duration::from_millis(20);
    for length in [18, 20, 22] {
        let late = || play(VICTIM, Part::Sleep(length)).timeout(limit);
        in_every_mode(
            |scene| scene.builder().worker(stock()),
            &Trial { victim: late, innocent: |n| play(n, Part::Innocent) },
            right,
            |mode, pool, outcome| {
                let timed_out = match outcome {
                    Ok(answer) => {
                        assert_eq!(answer, right(VICTIM), "{mode:?}");
                        0
                    }
                    Err(TaskError::TimedOut { .. }) => 1,
                    other => panic!("{mode:?}: {other:?}"),
                };
                assert_eq!(pool.stats().timed_out, timed_out, "{mode:?}");
            },
        );
    }
}

#[test]
fn a_worker_that_stops_before_its_task_costs_time_and_no_task() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let patience = Duration::from_millis(1500);
        let pool = scene.builder().workers(1).worker(stock()).start_timeout(patience).build().unwrap();
        let pid = pool.apply(drill::pid()).unwrap();
        process::send(pid, Signal::SIGSTOP);
        wait_until("it is stopped", || process::state(pid) == Some('T'));
        let trial = Trial { victim: || play(VICTIM, Part::Innocent), innocent: |n| play(n, Part::Innocent) };
        assert_eq!(trial.run(&pool, mode, right).unwrap(), right(VICTIM), "{mode:?}");
        let stats = pool.stats();
        assert_eq!((stats.deaths.unresponsive, stats.retried), (1, 0), "{mode:?}: {stats:?}");
        expect_healthy(&pool);
    }
}

#[test]
fn a_start_that_hangs_is_no_matter_of_any_task() {
    for mode in Mode::ALL {
        let (scene, once) = (Scene::new(), Once::new());
        let builder = scene.builder().worker(once.hostile("hang-early"));
        let pool = builder.start_timeout(Duration::from_millis(1500)).build().unwrap();
        let trial = Trial { victim: || innocent(VICTIM), innocent };
        assert_eq!(trial.run(&pool, mode, sevens).unwrap(), sevens(VICTIM), "{mode:?}");
        wait_until("the hanging start is killed", || pool.stats().deaths.start_failed == 1);
        assert!(once.was_played());
        expect_healthy(&pool);
        assert_eq!(pool.stats().deaths.total(), 1, "{mode:?}: {:?}", pool.stats());
    }
}
