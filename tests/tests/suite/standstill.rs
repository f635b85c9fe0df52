//! Tasks that will never end, in a worker that will not die by itself, without a time limit.

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::Pool;
use pool_core::{DeathCause, TaskError};
use pool_tests::{
    Leash, Part, Scene, Trial, expect_death, expect_healthy, in_every_mode, play, process, right, skipped,
    wait_until,
};
use pool_worker::drill;

use crate::programs::stock;
use crate::stuck::Freezer;

const VICTIM: u64 = Trial::<(), ()>::VICTIM;
/// A task is looked at after that time, and again after it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The victim has no limit, and is found all the same.
#[track_caller]
fn is_found(part: &Part, says: &str) {
    let trial = Trial { victim: || play(VICTIM, part.clone()), innocent: |n| play(n, Part::Innocent) };
    in_every_mode(
        |scene| scene.builder().worker(stock()).start_timeout(PATIENCE),
        &trial,
        right,
        |mode, pool, outcome| {
            let death = expect_death(outcome);
            let told =
                matches!(&death.cause, DeathCause::ProtocolViolation { what, .. } if what.contains(says));
            assert!(told, "{mode:?}: {death}");
            assert_eq!(pool.stats().deaths.protocol_violation, 1, "{mode:?}");
        },
    );
}

#[test]
fn a_task_whose_thread_has_ended_alone_is_dead() {
    is_found(&Part::EndThread, "the thread that runs its tasks has ended, and others of its threads live on");
}

#[test]
fn whoever_is_busy_beside_the_thread_that_has_ended_does_not_hide_it() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).start_timeout(PATIENCE).build().unwrap();
    let death = expect_death(pool.apply(play(VICTIM, Part::EndThreadBesideSpinner)));
    let told = matches!(&death.cause, DeathCause::ProtocolViolation { what, .. } if what.contains("live on"));
    assert!(told, "{death}");
    expect_healthy(&pool);
    drop(pool);
    scene.expect_nothing_left();
}

#[test]
fn a_task_that_waits_for_its_parent_to_debug_it_is_dead() {
    is_found(&Part::StopForParent, "(PTRACE_TRACEME)");
}

#[test]
fn with_a_time_limit_they_are_told_apart_from_what_only_takes_long() {
    for (part, late) in [(Part::EndThread, false), (Part::StopForParent, false), (Part::Hang, true)] {
        let trial = Trial {
            victim: || play(VICTIM, part.clone()).timeout(Duration::from_millis(200)),
            innocent: |n| play(n, Part::Innocent),
        };
        in_every_mode(
            |scene| scene.builder().worker(stock()),
            &trial,
            right,
            |mode, _, outcome| match outcome {
                Err(TaskError::TimedOut { .. }) => assert!(late, "{mode:?}: {part:?}"),
                outcome => {
                    let death = expect_death(outcome);
                    assert!(!late && matches!(death.cause, DeathCause::ProtocolViolation { .. }), "{death}");
                }
            },
        );
    }
}

/// Gives the only worker a second thread that is frozen.
fn half_frozen(pool: &Pool, freezer: &Freezer) -> u32 {
    let pid = pool.apply(drill::pid()).unwrap();
    pool.apply(drill::orphan_thread()).unwrap();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads =
        threads.map(|thread| thread.unwrap().file_name().into_string().unwrap().parse::<u32>().unwrap());
    freezer.freeze_thread(threads.max().unwrap());
    pid
}

/// Its first thread has ended, and another one has not, which cannot die before it is thawed: this is a death like any other.
#[test]
fn a_worker_that_needs_long_to_die_does_not_stand_still() {
    let freezer = match Freezer::new("half") {
        Ok(freezer) => freezer,
        Err(error) => {
            return skipped(&format!("no control group of the first version that can be frozen: {error}"));
        }
    };
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).start_timeout(PATIENCE).build().unwrap();
    let pid = half_frozen(&pool, &freezer);
    let leash = Leash::new();
    let handle = pool.apply_async(leash.task(VICTIM).timeout(7 * PATIENCE / 2));
    wait_until("it runs", || leash.has_begun(VICTIM));
    process::send(pid, Signal::SIGKILL);
    wait_until("its first thread has ended", || process::state(pid) == Some('Z'));
    // It is looked at three times, and at the limit.
    let outcome = handle.get();
    assert!(matches!(outcome, Err(TaskError::TimedOut { .. })), "{outcome:?}");
    freezer.thaw().unwrap();
    wait_until("it is reaped", || process::state(pid).is_none());
    assert_eq!(pool.stats().deaths.protocol_violation, 0);
    expect_healthy(&pool);
    drop(pool);
    scene.expect_nothing_left();
}
