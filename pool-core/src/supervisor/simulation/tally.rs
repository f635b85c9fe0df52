//! What the figures of a pool should be, by what was seen of it from outside.

use super::world::World;
use crate::error::TaskError;
use crate::supervisor::event::KillReason;
use crate::supervisor::machine::Counters;

/// The figures.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Those of which there is no doubt; `retried` is the least that it may be.
    pub(super) sure: Counters,
    /// Attempts that could have been followed by another one, but for something else that happened in the same moment.
    pub(super) doubtful: u64,
}

impl Tally {
    pub(super) fn end<T>(&mut self, result: &Result<T, &TaskError>) {
        let counter = match result {
            Ok(_) => &mut self.sure.succeeded,
            Err(TaskError::Cancelled) => &mut self.sure.cancelled,
            Err(TaskError::TimedOut { .. }) => &mut self.sure.timed_out,
            Err(TaskError::DeadlineExceeded { .. }) => &mut self.sure.overdue,
            Err(_) => &mut self.sure.failed,
        };
        *counter += 1;
    }

    /// Who is not needed any more, and has nothing to lose, is not counted.
    pub(super) fn kill(&mut self, why: &KillReason) {
        self.sure.kills += u64::from(*why != KillReason::Terminated);
    }

    /// An attempt has failed that may be followed by another one: it was, if the task has not ended.
    pub(super) fn attempt(&mut self, may_run_again: bool, ended: bool) {
        match ended {
            _ if !may_run_again => {}
            true => self.doubtful += 1,
            false => self.sure.retried += 1,
        }
    }
}

impl World<'_> {
    pub(super) fn check_tally(&self) {
        let mut found = self.machine.counters();
        let Tally { sure, doubtful } = &self.tally;
        let retried = sure.retried..=sure.retried + doubtful;
        assert!(retried.contains(&found.retried), "{} retries are counted, not {retried:?}", found.retried);
        found.retried = sure.retried;
        assert_eq!(found, *sure, "the figures are not what was seen");
    }
}
