//! Counters and snapshots of a pool.

use std::fmt;

use crate::error::DeathCause;
use crate::ids::{TaskId, WorkerId};

/// Counters of a pool since it was built, and how many tasks and workers it has now.
///
/// ```no_run
/// # fn show(pool: &pool_core::Pool) {
/// let stats = pool.stats();
/// println!("{} of {} tasks done, {} deaths", stats.succeeded, stats.submitted, stats.deaths.total());
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks taken in.
    pub submitted: u64,
    /// Tasks that ended with a result.
    pub succeeded: u64,
    /// Tasks that ended with an error other than the next three.
    pub failed: u64,
    /// Tasks that ended because they were cancelled, or their batch was aborted.
    pub cancelled: u64,
    /// Tasks that ended because they exceeded their time limit.
    pub timed_out: u64,
    /// Tasks that ended because their batch did not end by its deadline.
    pub overdue: u64,
    /// Attempts made because of `.retries(n)`.
    pub retried: u64,
    /// Tasks that went back to the queue because their worker died before it had started them.
    pub requeued: u64,
    /// Tasks that were taken back from a busy worker to be given to an idle one.
    pub taken_back: u64,
    /// Tasks that have not ended.
    pub pending: usize,
    /// Workers that are ready or busy.
    pub workers_ready: usize,
    /// Worker processes started.
    pub spawned: u64,
    /// Deaths of workers by cause. Workers that exit because they were asked to are not counted.
    pub deaths: DeathCounts,
    /// Workers that were asked to exit.
    pub retired: RetireCounts,
}

/// Why a worker exits that has done nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// It has run as many tasks as it may; see
    /// [`Builder::max_tasks_per_worker`](crate::Builder::max_tasks_per_worker).
    Tasks,
    /// It has grown too large; see [`Builder::recycle_above`](crate::Builder::recycle_above).
    Memory,
    /// The pool was made smaller; see [`Pool::resize`](crate::Pool::resize).
    Resized,
    /// It has had nothing to do for long; see [`Builder::idle_timeout`](crate::Builder::idle_timeout).
    Idle,
    /// The pool was closed.
    Closed,
}

/// Workers that were asked to exit, by reason. They are no deaths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetireCounts {
    /// They had run as many tasks as they may.
    pub tasks: u64,
    /// They had grown too large.
    pub memory: u64,
    /// The pool was made smaller.
    pub resized: u64,
    /// They had nothing to do for long.
    pub idle: u64,
    /// The pool was closed.
    pub closed: u64,
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tasks => "tasks",
            Self::Memory => "memory",
            Self::Resized => "resized",
            Self::Idle => "idle",
            Self::Closed => "closed",
        })
    }
}

impl RetireCounts {
    pub(crate) fn count(&mut self, why: RetireReason) {
        *match why {
            RetireReason::Tasks => &mut self.tasks,
            RetireReason::Memory => &mut self.memory,
            RetireReason::Resized => &mut self.resized,
            RetireReason::Idle => &mut self.idle,
            RetireReason::Closed => &mut self.closed,
        } += 1;
    }

    /// Reason and count of every kind of retirement, in a fixed order.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); 5] {
        [
            ("tasks", self.tasks),
            ("memory", self.memory),
            ("resized", self.resized),
            ("idle", self.idle),
            ("closed", self.closed),
        ]
    }

    /// All workers that were asked to exit.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_reason().iter().map(|(_, count)| count).sum()
    }
}

/// Deaths of workers by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeathCounts {
    /// Exited by themselves.
    pub exited: u64,
    /// Ended by a signal that the pool did not send.
    pub signalled: u64,
    /// Ended by the kernel's OOM killer.
    pub out_of_memory: u64,
    /// Killed because they used too much memory, by the pool or, in a control group of their own, by the kernel.
    pub memory_limit: u64,
    /// Ended because a task used too much processor time.
    pub cpu_limit: u64,
    /// Ended because a task wrote too large a file.
    pub file_size_limit: u64,
    /// Killed by the pool because their tasks started too many processes.
    pub process_limit: u64,
    /// Killed by the pool because their task timed out.
    pub task_timeout: u64,
    /// Killed by the pool because their task was cancelled.
    pub cancelled: u64,
    /// Killed by the pool because they broke the protocol.
    pub protocol_violation: u64,
    /// Killed by the pool because they did not take up their next task.
    pub unresponsive: u64,
    /// Never became ready.
    pub start_failed: u64,
    /// Killed because the pool was terminated or dropped, or because they did not exit in time.
    pub terminated: u64,
    /// The exit status was lost.
    pub status_lost: u64,
}

impl DeathCounts {
    pub(crate) fn count(&mut self, cause: &DeathCause) {
        *match cause {
            DeathCause::Exited(_) => &mut self.exited,
            DeathCause::Signalled { .. } => &mut self.signalled,
            DeathCause::OutOfMemory { .. } => &mut self.out_of_memory,
            DeathCause::MemoryLimit { .. } => &mut self.memory_limit,
            DeathCause::CpuLimit { .. } => &mut self.cpu_limit,
            DeathCause::FileSizeLimit { .. } => &mut self.file_size_limit,
            DeathCause::ProcessLimit { .. } => &mut self.process_limit,
            DeathCause::TaskTimeout => &mut self.task_timeout,
            DeathCause::Cancelled => &mut self.cancelled,
            DeathCause::ProtocolViolation { .. } => &mut self.protocol_violation,
            DeathCause::Unresponsive { .. } => &mut self.unresponsive,
            DeathCause::StartFailed { .. } => &mut self.start_failed,
            DeathCause::Terminated => &mut self.terminated,
            DeathCause::StatusLost => &mut self.status_lost,
        } += 1;
    }

    /// Cause and count of every kind of death, in a fixed order.
    #[must_use]
    pub fn by_cause(&self) -> [(&'static str, u64); 14] {
        [
            ("exited", self.exited),
            ("signalled", self.signalled),
            ("out of memory", self.out_of_memory),
            ("memory limit", self.memory_limit),
            ("cpu limit", self.cpu_limit),
            ("file size limit", self.file_size_limit),
            ("process limit", self.process_limit),
            ("task timeout", self.task_timeout),
            ("cancelled", self.cancelled),
            ("protocol violation", self.protocol_violation),
            ("unresponsive", self.unresponsive),
            ("start failed", self.start_failed),
            ("terminated", self.terminated),
            ("status lost", self.status_lost),
        ]
    }

    /// All deaths together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_cause().iter().map(|(_, count)| count).sum()
    }
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerStatus {
    /// Its process has been started and has not reported yet.
    Starting,
    /// It builds a state; see [`WorkerState`](crate::WorkerState). It may hold tasks that need it.
    Preparing,
    /// It is ready and waits to take the place of another one; see [`Builder::spares`](crate::Builder::spares).
    Spare,
    /// It has nothing to do.
    Idle,
    /// It holds tasks.
    Busy,
    /// It has been killed, and its death is awaited.
    Dying,
    /// It died, and its replacement waits for the back-off.
    BackingOff,
    /// It has been asked to exit.
    Retiring,
    /// It is gone, and will not be replaced.
    Stopped,
}

/// A snapshot of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its place in the pool; whoever replaces it when it dies has the same.
    pub worker: WorkerId,
    /// What it is doing.
    pub status: WorkerStatus,
    /// Its process id, when there is a process.
    pub pid: Option<u32>,
    /// The task that it runs: number and name.
    pub task: Option<(TaskId, String)>,
    /// Tasks given to it and not finished, the running one included.
    pub held: usize,
    /// Tasks that this process has finished.
    pub finished: u64,
    /// Its resident memory in bytes.
    pub rss: Option<u64>,
}
