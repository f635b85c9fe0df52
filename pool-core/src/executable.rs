//! The program that workers run.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::BuildError;

/// Which program workers run: this one, or another one.
///
/// Either way the file is opened once, when the pool is built, and every worker is started from that open file: a
/// program that is replaced or deleted on disk meanwhile changes nothing for a running pool. The exception is a script
/// (`#!`), whose interpreter opens it again by its path for every worker.
///
/// ```
/// use pool_core::WorkerExe;
///
/// let own = WorkerExe::current();
/// let other = WorkerExe::path("/usr/local/bin/my-worker").arg("--quiet");
/// assert_ne!(own, other);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerExe {
    path: Option<PathBuf>,
    args: Vec<OsString>,
}

impl Default for WorkerExe {
    fn default() -> Self {
        Self::current()
    }
}

impl WorkerExe {
    /// This program (`/proc/self/exe`). Its `main` must begin with [`pool_core::init()`](crate::init).
    #[must_use]
    pub fn current() -> Self {
        Self { path: None, args: Vec::new() }
    }

    /// Another program, by its path (`PATH` is not searched). Its `main` must begin with [`pool_core::init()`](crate::init), and it must link the crates that define
    /// the tasks.
    #[must_use]
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), args: Vec::new() }
    }

    /// Adds an argument to the worker's command line. The pool itself passes none.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args(&self) -> &[OsString] {
        &self.args
    }

    pub(crate) fn open(&self) -> Result<OpenExe, BuildError> {
        let path = self.path.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let shown = match &self.path {
            Some(path) => path.clone(),
            None => std::env::current_exe().unwrap_or_else(|_| path.clone()),
        };
        let fail = |source: io::Error| {
            let hint = match source.kind() {
                io::ErrorKind::NotFound if self.path.is_none() => {
                    "`/proc` is not mounted, so give the path of the worker"
                }
                io::ErrorKind::NotFound if path.components().count() == 1 => {
                    "`PATH` is not searched, give its whole path"
                }
                _ => "",
            };
            let source = match hint {
                "" => source,
                hint => io::Error::new(source.kind(), format!("{source}; {hint}")),
            };
            BuildError::Executable { path: shown.clone(), source }
        };
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(&path)
            .map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() {
            return Err(fail(io::Error::other("it is not a file")));
        }
        nix::unistd::access(&path, nix::unistd::AccessFlags::X_OK).map_err(|errno| fail(errno.into()))?;
        let fd = OwnedFd::from(file);
        // The interpreter of a script opens the file again, by name, when the descriptor is closed already.
        let held = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // Without `/proc` it has to be found by its name again, whatever that is by then.
        let launch = match is_script(&path) || held.symlink_metadata().is_err() {
            true => path.canonicalize().map_err(fail)?,
            false => held,
        };
        Ok(OpenExe { shown, launch, args: self.args.clone(), _file: fd })
    }
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!"
}

/// A worker executable that is held open.
#[derive(Debug)]
pub(crate) struct OpenExe {
    /// For messages.
    pub(crate) shown: PathBuf,
    /// What is passed to `exec`.
    pub(crate) launch: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// `launch` names this descriptor; it must stay open.
    _file: OwnedFd,
}
