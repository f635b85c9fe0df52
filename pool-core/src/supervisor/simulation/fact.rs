//! What really happened to a task and to a batch, as an all-knowing observer saw it.

use std::time::{Duration, Instant};

use crate::call::RetryOn;
use crate::error::TaskError;
use crate::supervisor::event::{GroupId, TaskKey, Ticket};

/// Results of consecutive tickets.
pub(super) type Answers = Vec<Answer>;

/// Number of a task: of one item.
pub(super) type Item = u64;

/// What the shell knows of a unit: the offset of the first item left, and the one behind the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parcel {
    pub(super) done: u32,
    pub(super) end: u32,
}

impl Parcel {
    /// The items left of the unit with this key.
    pub(super) fn items(self, key: TaskKey) -> impl Iterator<Item = Item> {
        (self.done..self.end).map(move |offset| key.item(offset).get())
    }
}

/// A result: which task was computed, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) task: Item,
    pub(super) generation: u64,
    pub(super) ticket: Ticket,
}

/// What a task does wherever it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    Plain,
    Kills,
    Hangs,
    Panics,
}

/// How one run of a task ended, as far as the supervisor has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Panicked,
    Failed,
    /// The worker died, and its death has been reported.
    Died,
    /// The worker was killed because of the time limit.
    TimedOut,
}

/// One run of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) generation: u64,
    pub(super) ticket: Ticket,
    pub(super) at: Instant,
    pub(super) end: Option<End>,
}

/// What waits together, in one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) priority: i8,
    pub(super) group: Option<usize>,
    pub(super) pin: Option<usize>,
}

/// One task.
#[derive(Debug)]
pub(super) struct Fact {
    /// The unit that it belongs to now.
    pub(super) unit: TaskKey,
    /// What the pieces of its unit should not exceed, if it matters.
    pub(super) chunk: u32,
    pub(super) nature: Nature,
    /// How long it takes at most, if it is not like the others of its pool.
    pub(super) work: Option<Duration>,
    pub(super) limit: Option<Duration>,
    pub(super) retries: u32,
    pub(super) retry_on: RetryOn,
    /// Index of its batch.
    pub(super) group: Option<usize>,
    pub(super) priority: i8,
    /// The seat that it was submitted for, if for one only.
    pub(super) pin: Option<usize>,
    pub(super) claims: Vec<Claim>,
    pub(super) resolved: bool,
    /// When it ended.
    pub(super) ended: Option<Instant>,
    pub(super) cancelled: bool,
    pub(super) unsendable: bool,
}

impl Fact {
    /// Where it waits: with others of its batch, or of none, that have the same priority, and are for the same seat.
    pub(super) fn lane(&self) -> Lane {
        Lane { priority: self.priority, group: self.group, pin: self.pin }
    }

    pub(super) fn last_end(&self) -> Option<End> {
        self.claims.last().and_then(|claim| claim.end)
    }

    /// Whether every run so far has ended in a way that allows another one.
    pub(super) fn may_run_again(&self) -> bool {
        let allows = |claim: &Claim| match claim.end {
            Some(End::Died) => true,
            Some(End::Panicked) => self.retry_on.contains(RetryOn::PANIC),
            Some(End::TimedOut) => self.retry_on.contains(RetryOn::TIMEOUT),
            Some(End::Done | End::Failed) | None => false,
        };
        self.claims.len() <= self.retries as usize && self.claims.iter().all(allows)
    }
}

/// One batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: GroupId,
    pub(super) abort: bool,
    /// Whether its pieces go to the workers in turns.
    pub(super) ordered: bool,
    /// Indices of its tasks.
    pub(super) members: Vec<usize>,
    pub(super) failed: bool,
    pub(super) cancelled: bool,
    pub(super) deadline: Option<(Instant, Duration)>,
    /// It has ended by its deadline.
    pub(super) overdue: bool,
    /// Its deadline has come, whether it had ended before or not.
    pub(super) passed: bool,
    /// How many of its tasks have not ended.
    pub(super) open: usize,
}

impl Batch {
    pub(super) fn new(
        id: GroupId,
        abort: bool,
        ordered: bool,
        deadline: Option<(Instant, Duration)>,
    ) -> Self {
        let (failed, cancelled, overdue, passed) = (false, false, false, false);
        let (members, open) = (Vec::new(), 0);
        Self { id, abort, ordered, deadline, members, failed, cancelled, overdue, passed, open }
    }

    /// What becomes of a task that is submitted to it now, unless it is taken in.
    pub(super) fn refusal(&self) -> Option<TaskError> {
        match self.deadline {
            _ if self.cancelled => Some(TaskError::Cancelled),
            Some((_, limit)) if self.overdue => Some(TaskError::DeadlineExceeded { limit }),
            _ if self.failed && self.abort => Some(TaskError::Cancelled),
            _ => None,
        }
    }
}
