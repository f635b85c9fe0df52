//! What became of a task, as its caller saw it.

use std::time::Duration;

use pool_core::{RetryOn, TaskError};

use crate::deed::Reply;
use crate::plan::Plan;

/// How a task ended for its caller.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// With the right answer.
    Right,
    /// With another one.
    Wrong(String),
    /// In another order than that of the items.
    Misplaced(String),
    /// With an error.
    Failed(Box<TaskError>),
    /// Nobody has looked, or nobody could: the handle was dropped, the map aborted.
    Unseen,
    /// Somebody has looked, and nothing came.
    Missing,
}

impl Outcome {
    pub(crate) fn of(plan: &Plan, result: Result<Reply, TaskError>) -> Self {
        match result {
            Ok(reply) if reply == plan.reply() => Self::Right,
            Ok(reply) => {
                let mut text = format!("{reply:?}");
                text.truncate(200);
                Self::Wrong(text)
            }
            Err(error) => Self::Failed(Box::new(error)),
        }
    }
}

/// What the caller has done that the outcome may be due to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct May {
    pub(crate) be_cancelled: bool,
    pub(crate) be_overdue: bool,
}

/// A task and its outcome.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) plan: Plan,
    /// Which pool of the round.
    pub(crate) pool: usize,
    /// By which call.
    pub(crate) how: &'static str,
    /// What counts: that of the call, of the batch, of the pool.
    pub(crate) limit: Duration,
    pub(crate) retries: u32,
    pub(crate) retry_on: RetryOn,
    pub(crate) may: May,
    pub(crate) outcome: Outcome,
    /// Outcomes beyond the first.
    pub(crate) more: u32,
}
