//! Limits of what a worker may use.

use std::time::Duration;

use crate::error::BuildError;

/// Fewer descriptors than a worker needs for itself, with some room.
const LEAST_FILES: u64 = 16;

/// What a worker, and in part each task in it, may use: see [`Builder::limits`](crate::Builder::limits).
///
/// Nothing is limited unless it is named. Each limit says what happens to who exceeds it; where a worker dies of it, the
/// [`DeathCause`](crate::DeathCause) names the limit, and the death is like any other: the task that ran ends with it or is retried,
/// no other task is concerned, the worker is replaced. How long a task may take is
/// [`Builder::task_timeout`](crate::Builder::task_timeout).
///
/// ```no_run
/// use std::time::Duration;
/// use pool_core::{Pool, WorkerLimits};
///
/// # fn main() -> Result<(), pool_core::BuildError> {
/// # pool_core::init();
/// let limits = WorkerLimits::new()
///     .memory(2 << 30)
///     .cpu_time(Duration::from_secs(30))
///     .open_files(256)
///     .file_size(100 << 20);
/// let pool = Pool::builder().limits(limits).build()?;
/// # drop(pool);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "limits do nothing until a builder is given them"]
pub struct WorkerLimits {
    pub(crate) memory: Option<u64>,
    pub(crate) total_memory: Option<u64>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) open_files: Option<u64>,
    pub(crate) file_size: Option<u64>,
    pub(crate) processes: Option<u32>,
}

impl WorkerLimits {
    /// No limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Private memory of the worker process, in bytes: the same as [`Builder::memory_limit`](crate::Builder::memory_limit).
    ///
    /// The pool looks at it while the worker has tasks, and kills a worker with more
    /// ([`DeathCause::MemoryLimit`](crate::DeathCause::MemoryLimit)). It needs no privilege.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// All memory of the worker and of the processes that its tasks start, in bytes, as the kernel counts it: large results and files
    /// in memory count, and so do pages of files that cannot be given back.
    ///
    /// The kernel holds it for certain, without a moment of grace: what cannot be given is not given, and a process is killed
    /// ([`DeathCause::MemoryLimit`](crate::DeathCause::MemoryLimit), if it is the worker). Each worker is put into a control group of
    /// its own for that, so [`Builder::build`](crate::Builder::build) fails where this program may not make one with the memory
    /// controller.
    #[doc(alias = "cgroup")]
    pub fn total_memory(mut self, bytes: u64) -> Self {
        self.total_memory = Some(bytes);
        self
    }

    /// Processor time of each task, all threads of the worker together, without the processes that it starts.
    ///
    /// A worker whose task uses more is ended by a signal, `SIGXCPU`
    /// ([`DeathCause::CpuLimit`](crate::DeathCause::CpuLimit)). A task that waits uses none: it is
    /// [`task_timeout`](crate::Builder::task_timeout) that ends it. That is the limit to rely on, too, if task code may block signals.
    #[doc(alias = "RLIMIT_CPU")]
    pub fn cpu_time(mut self, limit: Duration) -> Self {
        self.cpu_time = Some(limit);
        self
    }

    /// Open files of each process, 16 at least: streams, sockets and the handful that the worker needs itself are among them.
    ///
    /// Opening one more fails with `EMFILE`, which is an error for the task to handle; nobody dies. A limit that this program has
    /// itself, and that is lower, stays.
    #[doc(alias = "RLIMIT_NOFILE")]
    pub fn open_files(mut self, files: u64) -> Self {
        self.open_files = Some(files);
        self
    }

    /// Size of any file that is written to, in bytes. [`SharedBytes`](crate::SharedBytes) count as files; other large results do not,
    /// but travel slower if they are larger.
    ///
    /// A worker that writes beyond it is ended by a signal, `SIGXFSZ`
    /// ([`DeathCause::FileSizeLimit`](crate::DeathCause::FileSizeLimit)).
    #[doc(alias = "RLIMIT_FSIZE")]
    pub fn file_size(mut self, bytes: u64) -> Self {
        self.file_size = Some(bytes);
        self
    }

    /// Processes and threads that tasks may have at a time, in each worker, besides the worker itself.
    ///
    /// Starting one more fails with `EAGAIN`. The pool looks at this about twenty times a second while the worker has tasks, and once
    /// more after that, and kills the worker with all that its tasks have started
    /// ([`DeathCause::ProcessLimit`](crate::DeathCause::ProcessLimit)): of a fork bomb nothing is left.
    ///
    /// Each worker is put into a control group of its own for that, so [`Builder::build`](crate::Builder::build) fails where this
    /// program may not make one with the pids controller. (`RLIMIT_NPROC` is no substitute: it counts all processes of a user.)
    #[doc(alias = "cgroup")]
    pub fn processes(mut self, processes: u32) -> Self {
        self.processes = Some(processes);
        self
    }

    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let wrong = |why: String| Err(BuildError::Setting { setting: "limits", why });
        if self.total_memory == Some(0) {
            return wrong("no worker can run without memory (`total_memory`)".to_owned());
        }
        if self.cpu_time.is_some_and(|limit| limit.is_zero()) {
            return wrong("no task can run in no time (`cpu_time`)".to_owned());
        }
        if let Some(files) = self.open_files.filter(|files| *files < LEAST_FILES) {
            return wrong(format!("{files} open files are too few, {LEAST_FILES} is the least"));
        }
        Ok(())
    }
}
