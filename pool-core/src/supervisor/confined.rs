//! What the supervisor knows and keeps of a worker's limits and of its sandbox.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pool_ipc::{Confinement, Jail};

use crate::error::DeathCause;
use crate::limits::WorkerLimits;
use crate::supervisor::cgroup::{Group, Groups};

/// What is used of processor time is not counted to the nanosecond.
const INEXACT: Duration = Duration::from_millis(20);
/// How many names for a directory are tried.
const MOST_NAMES: u32 = 100;

/// How the workers of a pool are confined.
#[derive(Debug, Default)]
pub(crate) struct Confiner {
    pub(crate) limits: WorkerLimits,
    pub(crate) groups: Option<Arc<Groups>>,
    pub(crate) jail: Option<Jail>,
    pub(crate) clears_env: bool,
    pub(crate) has_scratch: bool,
}

/// What belongs to one worker, until it is gone.
#[derive(Debug, Default)]
pub(crate) struct Confined {
    cpu_time: Option<Duration>,
    file_size: Option<u64>,
    group: Option<Group>,
    scratch: Option<Scratch>,
}

impl Confiner {
    /// Prepares for a worker: what it is told, and what is kept.
    pub(crate) fn prepare(&self) -> io::Result<(Confinement, Confined)> {
        let group = self.groups.as_ref().map(Groups::make).transpose()?;
        let scratch = self.has_scratch.then(Scratch::make).transpose()?;
        let limits = &self.limits;
        let told = Confinement {
            // None that anybody could use up is longer.
            cpu_ns: limits.cpu_time.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)),
            open_files: limits.open_files,
            file_size: limits.file_size,
            groups: group.as_ref().map(Group::doors).unwrap_or_default(),
            scratch: scratch.as_ref().map(|scratch| scratch.path.as_os_str().as_bytes().to_vec()),
            jail: self.jail.clone(),
        };
        let kept = Confined { cpu_time: limits.cpu_time, file_size: limits.file_size, group, scratch };
        Ok((told, kept))
    }
}

impl Confined {
    /// Whether there is something to be cleared away.
    pub(crate) fn leaves_anything(&self) -> bool {
        self.group.is_some() || self.scratch.is_some()
    }

    /// Whether its tasks wanted to start more than they may.
    pub(crate) fn is_full(&self) -> bool {
        self.group.as_ref().is_some_and(Group::is_full)
    }

    /// Kills whatever its tasks have started.
    pub(crate) fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
    }

    /// Why a worker was killed for want of memory, by its own limit or another one, that died of a SIGKILL that nobody here has sent.
    pub(crate) fn out_of_memory(&self) -> Option<DeathCause> {
        let group = self.group.as_ref()?;
        let limited = group.out_of_memory().map(|(rss, limit)| DeathCause::MemoryLimit { rss, limit });
        limited.or_else(|| group.oom_killed().map(|evidence| DeathCause::OutOfMemory { evidence }))
    }

    /// The limit behind a signal, if there is one. `used` is the processor time that the worker has used in its life.
    pub(crate) fn limit_behind(&self, signal: i32, used: Option<Duration>) -> Option<DeathCause> {
        match signal {
            // Somebody else may have sent it.
            libc::SIGXCPU => self
                .cpu_time
                .filter(|limit| used.is_none_or(|used| used + INEXACT >= *limit))
                .map(|limit| DeathCause::CpuLimit { limit }),
            libc::SIGXFSZ => self.file_size.map(|limit| DeathCause::FileSizeLimit { limit }),
            _ => None,
        }
    }
}

/// A directory for the temporary files of one worker.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let within = std::path::absolute(std::env::temp_dir())?;
        let mut tries = 0;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = within.join(format!("pool-scratch-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                // One that a killed program has left, with the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < MOST_NAMES => {
                    tries += 1
                }
                Err(error) => {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
                }
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = ?self.path, %error, "the temporary files of a worker cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_limit_only_where_there_is_one_and_it_can_have_been_exceeded() {
        let limit = Duration::from_secs(1);
        let confined = Confined { cpu_time: Some(limit), file_size: Some(7), ..Confined::default() };
        let cpu = Some(DeathCause::CpuLimit { limit });
        assert_eq!(confined.limit_behind(libc::SIGXCPU, Some(limit)), cpu);
        assert_eq!(confined.limit_behind(libc::SIGXCPU, None), cpu);
        assert_eq!(confined.limit_behind(libc::SIGXCPU, Some(limit / 2)), None);
        assert_eq!(confined.limit_behind(libc::SIGXFSZ, None), Some(DeathCause::FileSizeLimit { limit: 7 }));
        assert_eq!(confined.limit_behind(libc::SIGSEGV, None), None);
        assert_eq!(Confined::default().limit_behind(libc::SIGXCPU, None), None);
        assert_eq!(Confined::default().limit_behind(libc::SIGXFSZ, None), None);
    }

    #[test]
    fn a_scratch_directory_is_private_and_goes_with_what_is_in_it() {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = (Scratch::make().expect("a writable /tmp"), Scratch::make().expect("another"));
        assert_ne!(one.path, other.path);
        assert_eq!(fs::metadata(&one.path).expect("it was made").mode() & 0o777, 0o700);
        fs::create_dir(one.path.join("within")).expect("it is writable");
        fs::write(one.path.join("within/file"), "x").expect("it is writable");
        let path = one.path.clone();
        drop(one);
        assert!(!path.exists());
    }
}
