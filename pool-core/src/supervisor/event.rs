//! What goes into the state machine, and what comes out of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::RetryOn;
use crate::error::{BrokenReason, Death, TaskError};
use crate::ids::{Generation, TaskId, WorkerId};
use crate::stats::RetireReason;

/// Number of a task on one incarnation of a worker; never used twice there.
pub(crate) type Ticket = u64;

/// Consecutive tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: Ticket,
    pub(crate) count: u32,
}

impl Span {
    /// The ticket behind the last one.
    pub(crate) fn end(self) -> Ticket {
        self.first + u64::from(self.count)
    }

    pub(crate) fn tickets(self) -> Range<Ticket> {
        self.first..self.end()
    }
}

/// Names one unit inside the supervisor: a place in a table, and the number of its first item as a guard against reuse.
///
/// A unit takes as many task numbers as it has items: its item at *offset* `n` is the task `id + n`. Offsets count from the
/// item that gave the unit its key, whatever has ended since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TaskKey {
    pub(crate) index: u32,
    pub(crate) id: TaskId,
}

impl TaskKey {
    /// The task at an offset.
    pub(crate) fn item(self, offset: u32) -> TaskId {
        TaskId::new(self.id.get() + u64::from(offset))
    }
}

/// Names one batch: a place in a table, and a guard against reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId {
    pub(crate) index: u32,
    pub(crate) guard: u32,
}

/// What is to become of a batch as a whole.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GroupSpec {
    /// Whether its first failure ends it.
    pub(crate) abort: bool,
    /// When it ends at the latest, and how long it had.
    pub(crate) deadline: Option<(Instant, Duration)>,
}

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

/// What the state machine needs to know of a unit: one task, or many of a kind that are submitted together.
#[derive(Debug, Clone)]
pub(crate) struct TaskSpec {
    /// Items, at least one. Each is a task of its own: it has its own number, ticket, start, limit and end.
    pub(crate) count: u32,
    /// Items that a worker is given at a time, or 0 to have that measured.
    pub(crate) chunk: u32,
    /// Time limit of an item from its start.
    pub(crate) limit: Option<Duration>,
    /// How often an item may run again.
    pub(crate) retries: u32,
    /// Which failures, besides deaths, it may run again after.
    pub(crate) retry_on: RetryOn,
    /// The batch it belongs to.
    pub(crate) group: Option<GroupId>,
    /// What has a higher one is given out first.
    pub(crate) priority: i8,
    /// Its place among the pieces of its batch, where these go to the workers in turns: piece `i` to the worker in the
    /// [seat](super::machine) `i mod n`. Single tasks have none.
    pub(crate) piece: Option<u64>,
    /// Bytes of the arguments of all items.
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
    /// A worker builds this state from now on, before its hello or before it claims its next task.
    Preparing(Incarnation, Arc<str>),
    /// It is done with that.
    Prepared(Incarnation),
    /// A worker has said that a state cannot be built; the reason breaks the pool.
    Unfit(Incarnation, BrokenReason),
    /// A worker has said something that shows it can never work; the reason breaks the pool.
    Unusable(Incarnation, BrokenReason),
    /// A worker could not be spawned for a reason that may pass.
    SpawnFailed(Incarnation, Death),
    /// A worker delivered the results of this many consecutive tickets from this one on, all of the same unit.
    Finished(Incarnation, Ticket, u32, P),
    /// A worker reported that a task failed without harm to itself.
    Failed(Incarnation, Ticket, TaskError),
    /// What an [`Action::Send`] is about cannot be sent to this worker, and never will be.
    Unsendable(Incarnation, Span, TaskError),
    /// The answer to [`Action::TakeBack`], the oldest tickets first: whether they were still unclaimed. The shell takes back
    /// against the direction of the worker, so what was claimed of a span is its beginning, and what was taken its end.
    TookBack(Incarnation, Vec<(Span, bool)>),
    /// The rest of the answer to [`Action::TakeBack`]: what the board says of these tickets makes no sense. Every result
    /// that the worker had written by then has been reported.
    Illegible(Incarnation, Vec<Span>),
    /// The answer to [`Action::Inspect`].
    Observed(Incarnation, Observation),
    /// Something that is no frame came out of a worker: the task that it runs has written into its result pipe.
    Garbage(Incarnation, String),
    /// A worker has so many bytes of private memory, more than this limit.
    OverLimit(Incarnation, u64, u64),
    /// The tasks of a worker wanted to start more processes and threads than this limit.
    Crowded(Incarnation, u32),
    /// A worker broke the protocol.
    Violation(Incarnation, String),
    /// A worker that is about to be reported dead had started these tasks besides its oldest one, and their results are
    /// lost.
    Lost(Incarnation, Vec<(Ticket, Death)>),
    /// A worker is dead, and every result it had written has been reported.
    Died(Incarnation, Autopsy),
    /// Somebody cancels what is left of a unit under this key. What has been split from it goes on.
    Cancel(TaskKey),
    /// Nothing more comes of a batch: all its tasks that have not ended are cancelled.
    CloseGroup(GroupId),
    /// No more tasks will come.
    Close,
    /// From now on so many workers are wanted.
    Resize(u32),
    /// A worker has grown so large that it is to be replaced once it has finished what it runs.
    Heavy(Incarnation),
    /// Stop now.
    Terminate,
    /// Stop now, because of this signal.
    Interrupt(i32),
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
    /// It took longer than this to build a state.
    InitTimeout(Duration),
    /// It had so many bytes of private memory, more than the limit.
    MemoryLimit {
        rss: u64,
        limit: u64,
    },
    /// Its tasks wanted to start more processes and threads than this.
    ProcessLimit(u32),
    Terminated,
    ExitTimeout,
}

/// What the shell is to do.
#[derive(Debug)]
pub(crate) enum Action<P> {
    /// Start a worker process.
    Spawn(Incarnation),
    /// The items of the unit `from` at the offset `at` and behind it are the unit `into` from now on; the key `from` stays with
    /// those before it. `into.id` is `from.id + at`.
    Split { from: TaskKey, at: u32, into: TaskKey },
    /// Send the `count` items of the unit `task` at the offset `first` and behind it to a worker, as `ticket` and the tickets
    /// behind it. They are all that is left of that unit.
    Send {
        to: Incarnation,
        ticket: Ticket,
        task: TaskKey,
        first: u32,
        count: u32,
        attempt: u32,
        limit: Option<Duration>,
    },
    /// Take unclaimed tasks back, from the youngest to the oldest; answered by [`Event::TookBack`].
    TakeBack(Incarnation, Vec<Span>),
    /// Look at the board for the oldest task that the worker holds, after delivering what the worker had written before;
    /// answered by [`Event::Observed`].
    Inspect(Incarnation),
    /// Raise the cooperative cancel flag of a running task: the item of a unit at an offset, unless that has ended.
    FlagCancel(Incarnation, Ticket, Option<(TaskKey, u32)>),
    /// Kill a worker and its process group. When `fenced`, its death is of no further interest to the state machine.
    Kill { who: Incarnation, why: KillReason, fenced: bool },
    /// Ask an idle worker to exit, for this reason.
    Retire(Incarnation, RetireReason),
    /// The `count` items of the unit `task` at the offset `first` and behind it have ended; they were the first ones left.
    /// The unit is gone with its last item.
    Resolve { task: TaskKey, first: u32, count: u32, result: Result<P, TaskError> },
    /// The pool is broken from now on.
    Broken(Arc<BrokenReason>),
    /// All tasks have ended and no worker is left (those being killed excepted).
    Drained,
}
