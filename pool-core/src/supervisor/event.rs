//! What goes into the state machine, and what comes out of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::RetryOn;
use crate::error::{BrokenReason, Death, TaskError};
use crate::ids::{Generation, TaskId, WorkerId};

/// Number of a task on one incarnation of a worker; never used twice there.
pub(crate) type Ticket = u64;

/// Names one task inside the supervisor: a place in a table, and the task's number as a guard against reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TaskKey {
    pub(crate) index: u32,
    pub(crate) id: TaskId,
}

/// Names one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) u64);

/// Names one incarnation of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Incarnation {
    pub(crate) worker: WorkerId,
    pub(crate) generation: Generation,
}

impl Incarnation {
    /// The worker's place in the pool.
    pub(crate) fn index(self) -> usize {
        self.worker.get() as usize
    }
}

/// What the state machine needs to know of a task.
#[derive(Debug, Clone)]
pub(crate) struct TaskSpec {
    /// Time limit from the start of the task.
    pub(crate) limit: Option<Duration>,
    /// How often it may run again.
    pub(crate) retries: u32,
    /// Which failures, besides deaths, it may run again after.
    pub(crate) retry_on: RetryOn,
    /// The batch it belongs to.
    pub(crate) group: Option<GroupId>,
    /// Whether its failure aborts the batch.
    pub(crate) abort: bool,
    /// Bytes of its arguments.
    pub(crate) size: usize,
}

/// What happens to the supervisor.
#[derive(Debug)]
pub(crate) enum Event<P> {
    /// Tasks were submitted, or nothing in particular: look for work to hand out.
    Pump,
    /// A timer may have run out.
    Tick,
    /// A worker has said hello and fits.
    Ready(Incarnation),
    /// A worker has said something that shows it can never work; the reason breaks the pool.
    Unusable(Incarnation, BrokenReason),
    /// A worker could not be spawned for a reason that may pass.
    SpawnFailed(Incarnation, Death),
    /// A worker delivered a result.
    Finished(Incarnation, Ticket, P),
    /// A worker reported that a task failed without harm to itself.
    Failed(Incarnation, Ticket, TaskError),
    /// A task cannot be sent to this worker, and never will be.
    Unsendable(Incarnation, Ticket, TaskError),
    /// The answer to [`Action::TakeBack`]: for each ticket whether it was still unclaimed.
    TookBack(Incarnation, Vec<(Ticket, bool)>),
    /// The rest of the answer to [`Action::TakeBack`]: what the board says of these tickets makes no sense. Every result
    /// that the worker had written by then has been reported.
    Illegible(Incarnation, Vec<Ticket>),
    /// The answer to [`Action::Inspect`].
    Observed(Incarnation, Observation),
    /// Something that is no frame came out of a worker: the task that it runs has written into its result pipe.
    Garbage(Incarnation, String),
    /// A worker broke the protocol.
    Violation(Incarnation, String),
    /// A worker that is about to be reported dead had started these tasks besides its oldest one, and their results are
    /// lost.
    Lost(Incarnation, Vec<(Ticket, Death)>),
    /// A worker is dead, and every result it had written has been reported.
    Died(Incarnation, Autopsy),
    /// Somebody cancels a task.
    Cancel(TaskKey),
    /// Somebody cancels all tasks of a batch.
    CancelGroup(GroupId),
    /// No more tasks will come.
    Close,
    /// Stop now.
    Terminate,
    /// The shell around the state machine has failed.
    Fault(String),
}

/// What the claim board says of the oldest task that a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observation {
    /// The ticket that was looked up.
    pub(crate) ticket: Option<Ticket>,
    /// When it was claimed, if it was.
    pub(crate) started: Option<Instant>,
    /// Whether bytes have moved towards the worker since the last look.
    pub(crate) moving: bool,
}

/// What is known of a dead worker.
#[derive(Debug)]
pub(crate) struct Autopsy {
    /// The report for users.
    pub(crate) death: Death,
    /// Whether it had started the oldest task that it held.
    pub(crate) started: bool,
}

/// Why the supervisor kills a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KillReason {
    Timeout,
    Cancelled,
    Violation(String),
    Unresponsive(Duration),
    StartTimeout(Duration),
    Terminated,
    ExitTimeout,
}

/// What the shell is to do.
#[derive(Debug)]
pub(crate) enum Action<P> {
    /// Start a worker process.
    Spawn(Incarnation),
    /// Send a task to a worker.
    Send { to: Incarnation, ticket: Ticket, task: TaskKey, attempt: u32, limit: Option<Duration> },
    /// Take unclaimed tasks back; answered by [`Event::TookBack`].
    TakeBack(Incarnation, Vec<Ticket>),
    /// Look at the board for the oldest task that the worker holds, after delivering what the worker had written before;
    /// answered by [`Event::Observed`].
    Inspect(Incarnation),
    /// Raise the cooperative cancel flag of a running task.
    FlagCancel(Incarnation, Ticket),
    /// Kill a worker and its process group. When `fenced`, its death is of no further interest to the state machine.
    Kill { who: Incarnation, why: KillReason, fenced: bool },
    /// Ask an idle worker to exit.
    Retire(Incarnation),
    /// A task has ended.
    Resolve { task: TaskKey, result: Result<P, TaskError> },
    /// The pool is broken from now on.
    Broken(Arc<BrokenReason>),
    /// All tasks have ended and no worker is left (those being killed excepted).
    Drained,
}
