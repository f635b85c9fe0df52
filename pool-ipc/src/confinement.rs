//! What a worker is told to deny itself.

use serde::{Deserialize, Serialize};

/// The limits and the sandbox of a worker, as its [`Boot`](crate::Boot) message carries them. Paths are bytes, as the system has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Processor time of each task in nanoseconds; 0 for no limit.
    pub cpu_ns: u64,
    /// `RLIMIT_NOFILE`.
    pub open_files: Option<u64>,
    /// `RLIMIT_FSIZE`, in bytes.
    pub file_size: Option<u64>,
    /// The `cgroup.procs` files that it writes itself into.
    pub groups: Vec<Vec<u8>>,
    /// A directory of its own for temporary files.
    pub scratch: Option<Vec<u8>>,
    /// What it gives up for good before its first task.
    pub jail: Option<Jail>,
}

/// What a worker gives up for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// Whether files outside of the two lists are out of reach.
    pub files: bool,
    /// Beneath these paths files may be read.
    pub read: Vec<Vec<u8>>,
    /// Beneath these paths files may be read, written, made and removed.
    pub write: Vec<Vec<u8>>,
    /// Whether it keeps the right to make sockets.
    pub network: bool,
    /// Whether it keeps the right to start processes.
    pub processes: bool,
    /// Whether it works without what the kernel does not have.
    pub best_effort: bool,
}
