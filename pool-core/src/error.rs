//! Everything that can go wrong, as data.
//!
//! A task ends with its result or with a [`TaskError`]; a pool that cannot be built says so with a [`BuildError`].
//! The death of a worker is described by a [`Death`], which reads like a short post-mortem when it is printed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use crate::death::{Death, DeathCause};
use crate::ids::WorkerId;

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
        /// What the task had printed, as far as it is known.
        output: Option<Box<TaskOutput>>,
    },
    /// The task ran longer than its limit, counted from its start.
    #[error("task timed out: it ran longer than its limit of {limit:?}")]
    #[non_exhaustive]
    TimedOut {
        /// The limit that was exceeded.
        limit: Duration,
        /// What the task had printed by then, as far as it is known.
        output: Option<Box<TaskOutput>>,
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
    /// The task has run, and this program had no descriptor or no memory left to receive its result. The worker lives on.
    #[error("task `{task}`: {message}")]
    #[non_exhaustive]
    NoResources {
        /// The full name of the task.
        task: String,
        /// What the operating system said, and what to look at.
        message: String,
    },
    /// The pool gave up: see the reason.
    #[error("the pool is broken: {0}")]
    PoolBroken(Arc<BrokenReason>),
    /// The pool was closed, shut down or dropped before the task could finish.
    #[error("the pool is closed; build a new one to run more tasks")]
    PoolClosed,
    /// The program was sent a signal that ends it, before the task could finish; see
    /// [`Builder::terminate_on_signals`](crate::Builder::terminate_on_signals).
    #[error("interrupted by {}", signal_name(*signal))]
    #[non_exhaustive]
    Interrupted {
        /// The signal.
        signal: i32,
    },
    /// The handle is used in a forked child of the process that made the pool.
    #[error(
        "this pool belongs to another process: it was made before a fork; build a pool of its own in the child"
    )]
    Forked,
    /// The journal of the batch ([`Batch::journal`](crate::Batch::journal)) cannot be written, or belongs to something else; the batch
    /// has ended because of that.
    #[cfg(feature = "durable")]
    #[error("{0}")]
    Journal(Arc<pool_store::journal::JournalError>),
    /// The result could not be written to its store, and [`OnWriteError::Fail`](crate::OnWriteError::Fail) was asked for; a batch has
    /// ended because of that.
    #[cfg(feature = "durable")]
    #[error("{0}")]
    Store(pool_store::StoreError),
}

fn signal_name(signal: i32) -> String {
    let known = nix::sys::signal::Signal::try_from(signal);
    known.map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned())
}

impl TaskError {
    /// Whether it says something of one task only, so that others may still have results.
    pub(crate) fn is_of_one_task(&self) -> bool {
        matches!(
            self,
            Self::WorkerDied(_)
                | Self::Panicked { .. }
                | Self::TimedOut { .. }
                | Self::Poisoned { .. }
                | Self::UnknownTask { .. }
                | Self::TaskDiffers { .. }
                | Self::Encode { .. }
                | Self::Decode { .. }
                | Self::NoResources { .. }
        )
    }

    /// Whether its batch cannot remember its outcomes, so that whatever still runs would run in vain.
    pub(crate) fn is_of_memory(&self) -> bool {
        #[cfg(feature = "durable")]
        return matches!(self, Self::Journal(_) | Self::Store(_));
        #[cfg(not(feature = "durable"))]
        false
    }
}

fn at(location: &Option<String>) -> String {
    location.as_ref().map(|l| format!(" at {l}")).unwrap_or_default()
}

fn last(deaths: &[Death]) -> String {
    deaths.last().map(ToString::to_string).unwrap_or_default()
}

fn after(deaths: &[Death]) -> String {
    deaths.last().map(|death| format!("; the last time: {death}")).unwrap_or_default()
}

/// The end of what a task has printed: 8 KiB of each stream at most. See [`TaskError::output`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskOutput {
    /// What it has written to stdout.
    pub stdout: String,
    /// What it has written to stderr.
    pub stderr: String,
}

impl TaskOutput {
    /// Nothing, if there is no text.
    pub(crate) fn some(stdout: String, stderr: String) -> Option<Self> {
        (!stdout.is_empty() || !stderr.is_empty()).then_some(Self { stdout, stderr })
    }
}

impl TaskError {
    /// The end of what the task had printed when it panicked, exceeded its limit, or ended with its worker (the last time, if it
    /// was retried); `None` if it had printed nothing, or failed in another way.
    ///
    /// With [`Output::Capture`](crate::Output::Capture) it is exactly what the task has printed. Otherwise it is what has come
    /// since the task was started, and lines of the tasks just before it may be among it, or, with many short tasks, some of its
    /// own be missing.
    ///
    /// ```no_run
    /// # fn report(error: pool_core::TaskError) {
    /// if let Some(output) = error.output() {
    ///     eprintln!("{error}; it had printed:\n{}{}", output.stdout, output.stderr);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn output(&self) -> Option<TaskOutput> {
        let of = |death: &Death| TaskOutput::some(death.stdout_tail.clone(), death.stderr_tail.clone());
        match self {
            Self::Panicked { output, .. } | Self::TimedOut { output, .. } => output.as_deref().cloned(),
            Self::WorkerDied(death) => of(death),
            Self::Poisoned { deaths } => deaths.last().and_then(of),
            _ => None,
        }
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::TimedOut { limit, output: None }
    }

    /// Adds what the task had printed, if this is an error that has room for it.
    pub(crate) fn attach(&mut self, printed: Option<TaskOutput>) {
        if let Self::Panicked { output, .. } | Self::TimedOut { output, .. } = self {
            *output = printed.map(Box::new);
        }
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
    /// A [state](crate::WorkerState) of the workers cannot be built.
    #[error("state `{state}` could not be built: {why}{}", after(deaths))]
    #[non_exhaustive]
    StateFailed {
        /// The full name of its type.
        state: String,
        /// What [`WorkerState::init`](crate::WorkerState::init) reported, or what happened instead.
        why: String,
        /// The workers that it cost in a row, the oldest first; none if it failed or panicked.
        deaths: Vec<Death>,
    },
    /// A fault inside the pool itself.
    #[error("internal fault of the pool, please report it: {0}")]
    Internal(String),
}

/// The first failure of a [`Pool::map`](crate::Pool::map).
///
/// Printed, it includes the text of the [`TaskError`], which is its [`source`](std::error::Error::source), too. A report that
/// follows the sources prints that twice; where the item does not matter, `?` makes it the [`TaskError`] alone.
///
/// ```no_run
/// use pool_core::{Pool, TaskError, task};
///
/// #[task]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// fn sum_of_squares(pool: &Pool) -> Result<u64, TaskError> {
///     let first = pool.apply(square(1))?;
///     let others: u64 = pool.map(square, 2..10)?.iter().sum();
///     Ok(first + others)
/// }
/// ```
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

/// What happened to the item.
impl From<MapError> for TaskError {
    fn from(failed: MapError) -> Self {
        failed.error
    }
}

/// No result has come in time: what [`Imap::next_timeout`](crate::Imap::next_timeout) and
/// [`Completed::next_timeout`](crate::Completed::next_timeout) say. The tasks go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no result has come in time")]
#[non_exhaustive]
pub struct Elapsed;

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
    /// The pool belongs to another process: see [`TaskError::Forked`].
    #[error(
        "this pool belongs to another process: it was made before a fork, and only that process can change it"
    )]
    Forked,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    fn death() -> Death {
        Death {
            pid: 7,
            worker: WorkerId::new(0),
            cause: DeathCause::Exited(3),
            task: None,
            task_id: None,
            ran_for: None,
            peak_rss: None,
            stderr_tail: String::new(),
            stdout_tail: String::new(),
        }
    }

    #[test]
    fn what_users_pass_on_is_an_error() {
        fn of_a_map(failed: MapError) -> Result<(), TaskError> {
            Err(failed)?
        }
        fn of_a_worker(death: Box<Death>) -> Result<(), Box<dyn Error + Send + Sync>> {
            Err(death)?
        }
        let failed = MapError { index: 0, error: TaskError::Cancelled, completed: 0 };
        assert!(matches!(of_a_map(failed), Err(TaskError::Cancelled)));
        assert_eq!(
            of_a_worker(Box::new(death())).unwrap_err().to_string(),
            "worker 0 (pid 7) exited with status 3"
        );
    }
}
