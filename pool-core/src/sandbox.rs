//! What workers give up before their first task.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pool_ipc::Jail;

use crate::error::BuildError;
use crate::sys::{landlock, seccomp};

/// Most bytes of all paths together: they travel in one message.
const MOST_PATH_BYTES: usize = 32 << 10;

/// What workers give up for good before their first task, so that code which turns hostile can do little: see
/// [`Builder::sandbox`](crate::Builder::sandbox).
///
/// A new one denies as much as it can:
/// * files: none can be opened, made, changed or removed (Landlock); modes, owners and times cannot be changed;
/// * network: no sockets can be made, of whatever kind;
/// * processes: none can be started, no other program be executed; threads can;
/// * others: no signals to other processes, no debugging, no look into their memory or their descriptors, no change to their
///   priorities;
/// * the system: no mounts, namespaces, kernel keys, kernel modules, `bpf`, `io_uring`, performance counters, System V memory and the
///   like;
/// * privileges: all capabilities are dropped, and none can be gained (`no_new_privs`);
/// * environment: empty, but for what [`Builder::env`](crate::Builder::env) and `worker_env` set.
///
/// What is refused fails with an error (`EPERM` or `EACCES`); nobody dies of it. All that tasks need besides is allowed step by step
/// with the methods below. [`WorkerState::init`](crate::WorkerState::init) runs inside, too.
///
/// docs/security.md says what is promised, and what is not. [`WorkerLimits`](crate::WorkerLimits) bound what is used up.
///
/// ```no_run
/// use pool_core::{Pool, Sandbox, WorkerLimits};
///
/// # fn main() -> Result<(), pool_core::BuildError> {
/// # pool_core::init();
/// let pool = Pool::builder()
///     .sandbox(Sandbox::new().read("/usr/share/fonts").scratch(true))
///     .limits(WorkerLimits::new().memory(1 << 30))
///     .build()?;
/// # drop(pool);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "landlock")]
#[doc(alias = "seccomp")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a sandbox does nothing until a builder is given it"]
pub struct Sandbox {
    all_files: bool,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    network: bool,
    processes: bool,
    inherit_env: bool,
    scratch: bool,
    best_effort: bool,
}

impl Sandbox {
    /// Denies all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows to read this file, or all files beneath this directory. With `/` all files can be read, and none be changed.
    ///
    /// Whoever may start [processes](Self::processes) may execute them, too.
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Allows to read and write this file, or to read, write, make and remove files beneath this directory.
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Whether files are left alone altogether, but for the memory of other processes, which is in `/proc`. Default: no.
    pub fn all_files(mut self, allowed: bool) -> Self {
        self.all_files = allowed;
        self
    }

    /// Whether sockets can be made. Default: no.
    pub fn network(mut self, allowed: bool) -> Self {
        self.network = allowed;
        self
    }

    /// Whether processes can be started, as far as their programs can be [read](Self::read). Default: no. They are in the same
    /// sandbox.
    ///
    /// Before Linux 6.12 they cannot be sent signals, not even by the worker.
    pub fn processes(mut self, allowed: bool) -> Self {
        self.processes = allowed;
        self
    }

    /// Whether workers inherit the environment of this program, which may hold secrets. Default: no.
    pub fn inherit_env(mut self, inherited: bool) -> Self {
        self.inherit_env = inherited;
        self
    }

    /// Whether each worker has a directory of its own for temporary files, which nobody else may enter. Default: no.
    ///
    /// It is made in the directory for temporary files of this program, the worker finds it in `TMPDIR`
    /// ([`std::env::temp_dir`]), and it is removed with all that is in it when the worker is gone.
    pub fn scratch(mut self, wanted: bool) -> Self {
        self.scratch = wanted;
        self
    }

    /// Goes without what the kernel does not have, and says so on the workers' stderr. Otherwise
    /// [`Builder::build`](crate::Builder::build) fails.
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }

    pub(crate) fn clears_env(&self) -> bool {
        !self.inherit_env
    }

    pub(crate) fn has_scratch(&self) -> bool {
        self.scratch
    }

    /// Checks it, and says what a worker is told.
    pub(crate) fn jail(&self) -> Result<Jail, BuildError> {
        let wrong = |why: String| BuildError::Setting { setting: "sandbox", why };
        let encode =
            |paths: &[PathBuf]| paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>();
        let (read, write) = (encode(&self.read)?, encode(&self.write)?);
        if read.iter().chain(&write).map(Vec::len).sum::<usize>() > MOST_PATH_BYTES {
            return Err(wrong(format!(
                "the paths have more than {MOST_PATH_BYTES} bytes; name a directory above them"
            )));
        }
        if self.all_files && !(read.is_empty() && write.is_empty()) {
            return Err(wrong("`all_files` and paths exclude each other".to_owned()));
        }
        let jail = Jail {
            files: !self.all_files,
            read,
            write,
            network: self.network,
            processes: self.processes,
            best_effort: self.best_effort,
        };
        if !self.best_effort {
            // Also for `all_files`: it keeps workers from the memory of others, which are files in `/proc`.
            landlock::abi().map_err(|error| {
                wrong(format!("this kernel has no Landlock ({error}); use `best_effort()` to go without"))
            })?;
            seccomp::find().map_err(|error| {
                wrong(format!(
                    "this kernel has no seccomp filters ({error}); use `best_effort()` to go without"
                ))
            })?;
        }
        Ok(jail)
    }
}

/// A path that is there, as workers will find it.
fn absolute(path: &Path) -> Result<Vec<u8>, BuildError> {
    let found = std::path::absolute(path).and_then(|path| std::fs::metadata(&path).map(|_| path));
    let bytes = found.map(|path| path.as_os_str().as_bytes().to_vec());
    bytes.map_err(|error| BuildError::Setting {
        setting: "sandbox",
        why: format!("{}: {error}", path.display()),
    })
}
