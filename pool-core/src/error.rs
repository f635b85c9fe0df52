//! Everything that can go wrong, as data.
//!
//! A task ends with its result or with a [`TaskError`]; a pool that cannot be built says so with a [`BuildError`].
//! The death of a worker is described by a [`Death`], which reads like a short post-mortem when it is printed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{TaskId, WorkerId};

/// Why a task has no result.
///
/// ```
/// use pool_core::{DeathCause, TaskError};
///
/// fn advice(error: &TaskError) -> &'static str {
///     match error {
///         TaskError::WorkerDied(death) => match death.cause {
///             DeathCause::Signalled { signal: 11, .. } => "a segmentation fault: look at the last stderr lines",
///             DeathCause::OutOfMemory { .. } => "give it more memory, or fewer workers",
///             _ => "the worker died",
///         },
///         TaskError::TimedOut { .. } => "raise the limit, or find what hangs",
///         _ => "see the message",
///     }
/// }
/// assert_eq!(advice(&TaskError::Cancelled), "see the message");
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The worker died while it ran this task.
    #[error("{0}")]
    WorkerDied(Box<Death>),
    /// The task panicked. The worker lives on.
    #[error("task panicked{}: {message}", at(location))]
    #[non_exhaustive]
    Panicked {
        /// What was given to `panic!`.
        message: String,
        /// `file:line:column` of the panic, when known.
        location: Option<String>,
        /// The stack at the panic; left out where the worker runs with `RUST_BACKTRACE=0`.
        backtrace: Option<String>,
    },
    /// The task ran longer than its limit, counted from its start.
    #[error("task timed out: it ran longer than its limit of {limit:?}")]
    #[non_exhaustive]
    TimedOut {
        /// The limit that was exceeded.
        limit: Duration,
    },
    /// The batch of the task had not ended by its deadline.
    #[error("the batch did not end within its deadline of {limit:?}")]
    #[non_exhaustive]
    DeadlineExceeded {
        /// The time that the batch had.
        limit: Duration,
    },
    /// The task was cancelled, by its handle or because its batch was aborted.
    #[error("task was cancelled")]
    Cancelled,
    /// The task killed its worker on every attempt that `.retries(n)` allowed.
    #[error("poison task: it killed its worker on each of {} attempts; the last time: {}", deaths.len(), last(deaths))]
    #[non_exhaustive]
    Poisoned {
        /// One death for each attempt, the oldest first.
        deaths: Vec<Death>,
    },
    /// The worker executable has no task of this name.
    #[error(
        "worker executable {executable} has no task `{task}`; is the crate that defines it linked there? \
         add `use that_crate as _;` to its main file"
    )]
    #[non_exhaustive]
    UnknownTask {
        /// The full name of the task.
        task: String,
        /// The worker executable.
        executable: String,
    },
    /// The worker executable declares a task of this name differently.
    #[error(
        "task `{task}` is declared differently in worker executable {executable}: `{theirs}` there, `{ours}` here; \
         build both from the same sources"
    )]
    #[non_exhaustive]
    TaskDiffers {
        /// The full name of the task.
        task: String,
        /// The worker executable.
        executable: String,
        /// The declaration that this program was built with.
        ours: String,
        /// The declaration in the worker executable.
        theirs: String,
    },
    /// The arguments or the result could not be encoded, or are over the frame limit.
    #[error("task `{task}`: {message}")]
    #[non_exhaustive]
    Encode {
        /// The full name of the task.
        task: String,
        /// What could not be encoded, and why.
        message: String,
    },
    /// The arguments or the result could not be decoded.
    #[error("task `{task}`: {message}")]
    #[non_exhaustive]
    Decode {
        /// The full name of the task.
        task: String,
        /// What could not be decoded, and why.
        message: String,
    },
    /// The worker's state (`#[state]`) could not be built.
    #[error("task `{task}`: the worker state could not be built: {message}")]
    #[non_exhaustive]
    State {
        /// The full name of the task.
        task: String,
        /// What `WorkerState::init` reported.
        message: String,
    },
    /// The pool gave up: see the reason.
    #[error("the pool is broken: {0}")]
    PoolBroken(Arc<BrokenReason>),
    /// The pool was closed, shut down or dropped before the task could finish.
    #[error("the pool is closed; build a new one to run more tasks")]
    PoolClosed,
    /// The handle is used in a forked child of the process that made the pool.
    #[error(
        "this pool belongs to another process: it was made before a fork; build a pool of its own in the child"
    )]
    Forked,
}

fn at(location: &Option<String>) -> String {
    location.as_ref().map(|l| format!(" at {l}")).unwrap_or_default()
}

fn last(deaths: &[Death]) -> String {
    deaths.last().map(ToString::to_string).unwrap_or_default()
}

/// How and where a worker died, and what it was doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Death {
    /// Process id of the worker.
    pub pid: u32,
    /// Which worker of the pool it was.
    pub worker: WorkerId,
    /// What killed it.
    pub cause: DeathCause,
    /// Name of the task that was running, if one was.
    pub task: Option<String>,
    /// Number of that task.
    pub task_id: Option<TaskId>,
    /// How long that task had been running.
    pub ran_for: Option<Duration>,
    /// Largest resident set of the worker in bytes, where the kernel tells it.
    pub peak_rss: Option<u64>,
    /// The last lines that the worker wrote to stderr: 8 KiB at most. What was read before the task started is left out,
    /// but lines of the tasks just before it may be among them.
    pub stderr_tail: String,
}

/// What ended a worker process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeathCause {
    /// It exited with this status.
    Exited(i32),
    /// A signal ended it that the pool did not send.
    #[non_exhaustive]
    Signalled {
        /// Signal number (11 is SIGSEGV, 9 is SIGKILL, …).
        signal: i32,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
    /// The kernel's OOM killer ended it.
    #[non_exhaustive]
    OutOfMemory {
        /// The counter that shows it.
        evidence: String,
    },
    /// It used more memory than its limit, and the pool killed it.
    #[non_exhaustive]
    MemoryLimit {
        /// Resident bytes when it was killed.
        rss: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A task exceeded its time limit, and the pool killed the worker.
    TaskTimeout,
    /// A running task was cancelled, and the pool killed the worker.
    Cancelled,
    /// It sent something that the protocol does not allow, and the pool killed it.
    #[non_exhaustive]
    ProtocolViolation {
        /// What it sent.
        what: String,
    },
    /// It did not take up its next task in time, and the pool killed it.
    #[non_exhaustive]
    Unresponsive {
        /// How long the pool waited.
        waited: Duration,
    },
    /// It never became ready.
    #[non_exhaustive]
    StartFailed {
        /// What went wrong.
        why: String,
    },
    /// The pool was terminated, and killed it.
    Terminated,
    /// Its exit status could not be read, because the program ignores SIGCHLD or reaps children that are not its own.
    StatusLost,
}

impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with status {code}"),
            Self::Signalled { signal, core_dumped } => {
                match nix::sys::signal::Signal::try_from(*signal) {
                    Ok(name) => write!(f, "was killed by {name}")?,
                    Err(_) => write!(f, "was killed by signal {signal}")?,
                }
                if *core_dumped { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::OutOfMemory { evidence } => write!(f, "was killed by the kernel's OOM killer ({evidence})"),
            Self::MemoryLimit { rss, limit } => write!(f, "used {rss} bytes, over its limit of {limit}, and was killed"),
            Self::TaskTimeout => f.write_str("was killed because its task timed out"),
            Self::Cancelled => f.write_str("was killed because its task was cancelled"),
            Self::ProtocolViolation { what } => write!(f, "broke the protocol ({what}) and was killed"),
            Self::Unresponsive { waited } => {
                write!(f, "did not take up its next task within {waited:?} and was killed")
            }
            Self::StartFailed { why } => write!(f, "did not start: {why}"),
            Self::Terminated => f.write_str("was killed because the pool was terminated"),
            Self::StatusLost => f.write_str(
                "ended, but its exit status was lost: this program ignores SIGCHLD or waits for children that are not its own",
            ),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (pid {}) {}", self.worker, self.pid, self.cause)?;
        if let Some(task) = &self.task {
            write!(f, " while it ran `{task}`")?;
            if let Some(id) = self.task_id {
                write!(f, " (task {id}")?;
                match self.ran_for {
                    Some(time) => write!(f, ", for {time:.1?})")?,
                    None => f.write_str(")")?,
                }
            }
        }
        if let Some(rss) = self.peak_rss {
            write!(f, "; peak memory {:.1} MiB", rss as f64 / (1 << 20) as f64)?;
        }
        let tail = self.stderr_tail.trim_end();
        if !tail.is_empty() {
            let lines: Vec<&str> = tail.lines().rev().take(10).collect();
            f.write_str("; last lines of its stderr:")?;
            for line in lines.iter().rev() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

/// Why a pool gave up.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenReason {
    /// Workers died again and again without any task finishing in between.
    #[error(
        "worker {worker} died {} times within {window:?} and no task finished in between; the last time: {}",
        deaths.len(), last(deaths)
    )]
    #[non_exhaustive]
    TooManyDeaths {
        /// The worker that gave the last reason.
        worker: WorkerId,
        /// Its last deaths, the oldest first.
        deaths: Vec<Death>,
        /// The window of the restart policy.
        window: Duration,
    },
    /// The worker executable cannot be started.
    #[error("worker executable {executable} cannot be started: {why}")]
    #[non_exhaustive]
    CannotStart {
        /// The worker executable.
        executable: String,
        /// What the operating system said.
        why: String,
    },
    /// The worker executable speaks another protocol, or none.
    #[error("worker executable {executable} is no worker for this pool: {why}")]
    #[non_exhaustive]
    Incompatible {
        /// The worker executable.
        executable: String,
        /// What does not fit, and what to do.
        why: String,
    },
    /// A fault inside the pool itself.
    #[error("internal fault of the pool, please report it: {0}")]
    Internal(String),
}

/// The first failure of a [`Pool::map`](crate::Pool::map).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MapError {
    /// Position of the failed item in the input, counted from 0.
    pub index: usize,
    /// What happened to it.
    pub error: TaskError,
    /// How many items had been completed by then.
    pub completed: usize,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {} failed after {} were completed: {}", self.index, self.completed, self.error)
    }
}

impl std::error::Error for MapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why a pool could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// `pool_core::init()` has not been called in this process.
    #[error(
        "pool_core::init() has not been called: make it the first line of main(), \
         or put `pool_core::test_worker!();` at the root of a test crate"
    )]
    NotInitialised,
    /// A pool without workers was asked for.
    #[error("a pool needs at least one worker: `.workers(0)` was asked for")]
    NoWorkers,
    /// A setting is out of range.
    #[error("`.{setting}(…)`: {why}")]
    #[non_exhaustive]
    Setting {
        /// The builder method.
        setting: &'static str,
        /// What is wrong with its value.
        why: String,
    },
    /// Two tasks of this program have the same name.
    #[error("two tasks are named `{name}`: give one of them another name with `#[task(name = \"…\")]`")]
    #[non_exhaustive]
    DuplicateTask {
        /// The name.
        name: String,
    },
    /// Pools are nested too deeply: a task of a task of a task … builds a pool.
    #[error(
        "pools are nested {depth} deep, {limit} is the limit: does a task build a pool for itself without end?"
    )]
    #[non_exhaustive]
    TooDeep {
        /// The depth of this process.
        depth: u32,
        /// The limit.
        limit: u32,
    },
    /// The worker executable cannot be used.
    #[error("worker executable {}: {source}", path.display())]
    #[non_exhaustive]
    Executable {
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The operating system refused something that the pool needs.
    #[error("cannot {what}: {source}")]
    #[non_exhaustive]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
}
