//! Forking so that the child has the same parent as this process.
//!
//! `fork(2)` cannot do that, so this is `clone3(2)`, and what `fork` of the C library does for the child is done here: the
//! kernel writes the child's thread number to where the library keeps it, and is told of the list of robust mutexes again.
//! Functions registered with `pthread_atfork(3)` are not called. Locks that another thread would hold in the child for ever
//! cannot be, because a process that has a second thread is refused.

use std::io;

/// What the C library keeps of its main thread for the kernel.
#[derive(Debug)]
pub(crate) struct Anchor {
    /// Address of the thread's number.
    tid: usize,
    /// Address and length of the head of its list of robust mutexes.
    robust: (usize, usize),
}

/// In which process [`Anchor::fork_sibling`] has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Parent,
    Child,
}

/// Why there is no child.
#[derive(Debug)]
pub(crate) enum Refused {
    /// This process has more than one thread.
    Threads,
    Os(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

/// `struct clone_args` of linux/sched.h, as of its first version.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

impl Anchor {
    /// Looks up what a child will need; an error where the kernel or the C library does not say.
    #[doc(alias = "PR_GET_TID_ADDRESS")]
    pub(crate) fn find() -> io::Result<Self> {
        const PR_GET_TID_ADDRESS: libc::c_int = 40;
        let (mut tid, mut robust) = (0_usize, (0_usize, 0_usize));
        // SAFETY: each call writes one word to each of the places passed.
        let failed = unsafe {
            libc::prctl(PR_GET_TID_ADDRESS, &raw mut tid) < 0
                || libc::syscall(libc::SYS_get_robust_list, 0, &raw mut robust.0, &raw mut robust.1) < 0
        };
        if failed {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the C library has registered this address for the life of its main thread, and the kernel writes an int there
        // when that ends. Another library than glibc may have registered a word of another meaning, hence the comparison.
        let is_ours = tid != 0 && unsafe { (tid as *const libc::pid_t).read_volatile() == libc::gettid() };
        if is_ours { Ok(Self { tid, robust }) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    /// Forks, with the parent of this process as the child's, and its signal at the child's end.
    #[doc(alias = "CLONE_PARENT")]
    pub(crate) fn fork_sibling(&self) -> Result<Side, Refused> {
        if threads()? != 1 {
            return Err(Refused::Threads);
        }
        // With CLONE_PARENT the exit signal has to be 0, and is that of this process.
        let flags = libc::CLONE_PARENT | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
        let args = CloneArgs { flags: flags as u64, child_tid: self.tid as u64, ..CloneArgs::default() };
        // SAFETY: without CLONE_VM the child has a copy of all memory, and goes on on a copy of this stack. This is the only
        // thread, so nothing in the copy is half changed or locked by somebody who is not there.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
        match pid {
            0 => {
                // SAFETY: what the C library had registered in the process that this is a copy of. The call fails for a wrong
                // length only.
                unsafe { libc::syscall(libc::SYS_set_robust_list, self.robust.0, self.robust.1) };
                Ok(Side::Child)
            }
            1.. => Ok(Side::Parent),
            _ => Err(io::Error::last_os_error().into()),
        }
    }
}

/// How many threads this process has.
pub(crate) fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        let anchor = Anchor { tid: 0, robust: (0, 0) };
        let other = std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || stopped.recv());
            let refused = anchor.fork_sibling();
            drop(stop);
            refused
        });
        assert!(matches!(other, Err(Refused::Threads)), "{other:?}");
    }
}
