//! How a worker has died, as data.

use std::fmt;
use std::time::Duration;

use crate::ids::{TaskId, WorkerId};

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
    /// Largest resident set of the worker in bytes. `None` where it cannot be told from that of this program, of which the
    /// kernel counts a part for a process that it starts.
    pub peak_rss: Option<u64>,
    /// The last lines that the worker wrote to stderr: 8 KiB at most. What was read before the task started is left out,
    /// but lines of the tasks just before it may be among them.
    ///
    /// With [`Output::Capture`](crate::Output::Capture), these are exactly the lines of the task.
    pub stderr_tail: String,
    /// The last lines that the worker wrote to stdout, in the same way.
    pub stdout_tail: String,
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
    /// It used more memory than [`memory_limit`](crate::Builder::memory_limit) allows, and the pool killed it; or its control group
    /// wanted more than [`WorkerLimits::total_memory`](crate::WorkerLimits::total_memory), and the kernel killed it.
    #[non_exhaustive]
    MemoryLimit {
        /// Bytes of private memory when it was looked at; or the most bytes that its group had, which is never above the limit.
        rss: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A task used more processor time than [`WorkerLimits::cpu_time`](crate::WorkerLimits::cpu_time).
    #[non_exhaustive]
    CpuLimit {
        /// The limit.
        limit: Duration,
    },
    /// A task wrote a larger file than [`WorkerLimits::file_size`](crate::WorkerLimits::file_size) allows.
    #[non_exhaustive]
    FileSizeLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// Its tasks wanted to have more processes and threads than [`WorkerLimits::processes`](crate::WorkerLimits::processes) allows,
    /// and the pool killed it.
    #[non_exhaustive]
    ProcessLimit {
        /// The limit.
        limit: u32,
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
            Self::MemoryLimit { rss, limit } if rss <= limit => {
                write!(f, "needed more memory than its limit of {limit} bytes, and was killed")
            }
            Self::CpuLimit { limit } => write!(f, "used more processor time in a task than its limit of {limit:?}"),
            Self::FileSizeLimit { limit } => write!(f, "wrote a file beyond its limit of {limit} bytes"),
            Self::ProcessLimit { limit } => {
                write!(f, "wanted more processes and threads than its limit of {limit}, and was killed")
            }
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

impl std::error::Error for Death {}
