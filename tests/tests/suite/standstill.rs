//! Tasks that will never end, in a worker that will not die by itself, without a time limit.

use std::time::Duration;

use pool_core::{DeathCause, TaskError};
use pool_tests::{Part, Trial, expect_death, in_every_mode, play, right};

use crate::programs::stock;

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
