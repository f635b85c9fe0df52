//! Looking at outcomes.

use std::collections::HashSet;
use std::fmt::Debug;

use pool_core::{Death, DeathCause, Pool, TaskError};
use pool_worker::drill;

use crate::wait::wait_and_explain;

/// The death that a task has ended with.
///
/// # Panics
/// When it has ended otherwise.
#[track_caller]
pub fn expect_death<R: Debug>(result: Result<R, TaskError>) -> Death {
    match result {
        Err(TaskError::WorkerDied(death)) => *death,
        other => panic!("not the death of a worker: {other:?}"),
    }
}

/// The cause of the death that a task has ended with.
///
/// # Panics
/// When it has ended otherwise.
#[track_caller]
pub fn cause_of(error: &TaskError) -> &DeathCause {
    match error {
        TaskError::WorkerDied(death) => &death.cause,
        other => panic!("not the death of a worker: {other:?}"),
    }
}

/// Whether a cause of death is the expected one.
pub type IsCause = fn(&DeathCause) -> bool;

/// Whether a signal ended the worker that the pool did not send, without a core dump.
#[must_use]
pub fn is_signal(cause: &DeathCause, number: i32) -> bool {
    matches!(cause, DeathCause::Signalled { signal, core_dumped: false, .. } if *signal == number)
}

/// How many workers run a task at this moment.
#[must_use]
pub fn running(pool: &Pool) -> usize {
    pool.workers().iter().filter(|worker| worker.task.is_some()).count()
}

/// Checks that the pool works at full size: every worker is ready, every one runs tasks, results are right, and the
/// counters add up. No task may be in flight.
///
/// # Panics
/// When something is wrong.
#[track_caller]
pub fn expect_healthy(pool: &Pool) {
    let explain = || format!("{:?} {:?}", pool.workers(), pool.stats());
    // One that has been replaced is among them until it is gone.
    let all_are_ready = || pool.stats().workers_ready == pool.workers().len();
    wait_and_explain("every worker is ready", all_are_ready, explain);
    let size = pool.workers().len();
    let sums = pool.map(|n| drill::add(n, n), 0..300).expect("innocents are not harmed");
    assert_eq!(sums, (0..300).map(|n| n + n).collect::<Vec<u64>>());
    let mut seen = HashSet::new();
    let every_worker_has_run = || {
        let places = pool.map(|_| drill::worker_index(), 0..4 * size).expect("innocents are not harmed");
        seen.extend(places);
        seen.len() == size
    };
    wait_and_explain("every worker has run a task", every_worker_has_run, explain);
    let stats = pool.stats();
    let ended = stats.succeeded + stats.failed + stats.cancelled + stats.timed_out + stats.overdue;
    assert_eq!((stats.pending, stats.submitted), (0, ended), "each task ends once: {stats:?}");
}
