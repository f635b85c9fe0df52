//! What a worker does to itself to be confined, apart from [`landlock`](super::landlock) and [`seccomp`](super::seccomp).

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A timer of the processor time of this process, which ends it with `SIGXCPU`.
#[derive(Debug)]
pub(crate) struct CpuTimer {
    timer: usize,
    limit: Duration,
}

impl CpuTimer {
    /// Makes it; it is not armed.
    pub(crate) fn new(limit: Duration) -> io::Result<Self> {
        // SAFETY: plain data for which all zeroes are valid; both places are valid for the call.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = libc::SIGXCPU;
            let mut timer: libc::timer_t = std::mem::zeroed();
            let made = libc::timer_create(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut event, &raw mut timer);
            checked(made.into())?;
            Ok(Self { timer: timer as usize, limit })
        }
    }

    /// From now on, so much is left.
    pub(crate) fn arm(&self) -> io::Result<()> {
        self.set(self.limit)
    }

    pub(crate) fn disarm(&self) -> io::Result<()> {
        self.set(Duration::ZERO)
    }

    fn set(&self, left: Duration) -> io::Result<()> {
        let left = libc::timespec {
            tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: left.subsec_nanos() as _,
        };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: left };
        // SAFETY: `spec` is valid for the call, and the old value is not asked for. Of a timer that task code has deleted, the
        // number is unknown.
        let set = unsafe {
            libc::timer_settime(self.timer as libc::timer_t, 0, &raw const spec, std::ptr::null_mut())
        };
        checked(set.into())
    }
}

/// Sets an environment variable.
pub(crate) fn set_env(name: &str, value: &OsStr) {
    // SAFETY: called from `init()`, at the start of main, while the process has one thread.
    unsafe { std::env::set_var(name, value) };
}

/// No program that is executed from now on has more privileges than this process.
pub(crate) fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: integers.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

/// The kernel itself kills this process when the thread dies that has spawned it: no handler that could be replaced.
pub(crate) fn be_killed_with_parent() -> io::Result<()> {
    // SAFETY: integers.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) }.into())
}

/// Gives up all capabilities.
#[doc(alias = "capset")]
pub(crate) fn drop_capabilities() -> io::Result<()> {
    /// `struct __user_cap_header_struct`, version 3.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    // Effective, permitted and inheritable ones, in two halves.
    let none = [0_u32; 6];
    // SAFETY: both are valid for the call, and of the size that belongs to this version.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) })
}
