//! Other processes: pidfds, signals, wait status.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Exited(i32),
    Signalled { signal: i32, core_dumped: bool },
}

impl ExitStatus {
    /// What wait(2) gives.
    fn of(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Exited(libc::WEXITSTATUS(status))
        } else {
            Self::Signalled { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
        }
    }
}

/// What waiting for a dead child tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remains {
    /// `None` when somebody else has reaped the child.
    pub(crate) status: Option<ExitStatus>,
    /// Largest resident set in bytes, the memory inherited across `exec` included.
    pub(crate) max_rss: Option<u64>,
    /// Processor time that it has used, without its children's that it has not waited for.
    pub(crate) cpu_time: Option<Duration>,
}

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// pidfd_send_signal(2) with SIGKILL.
fn pidfd_send_sigkill(pidfd: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed; no other memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Kills the process behind a pidfd.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    pidfd_send_sigkill(pidfd, 0)
}

/// Sends SIGKILL to every process of the group that `leader` leads.
///
/// Through the pidfd where the kernel can do that (6.9) and lets us; otherwise by number, which is safe for a child that has not
/// been reaped: until then its number cannot belong to anybody else.
pub(crate) fn kill_group(pidfd: BorrowedFd<'_>, leader: u32) -> io::Result<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
    let mut result = pidfd_send_sigkill(pidfd, PIDFD_SIGNAL_PROCESS_GROUP);
    // EINVAL: an older kernel. The others come from a seccomp filter, or from a kernel that is none.
    let refused = [libc::EINVAL, libc::ENOSYS, libc::EPERM].map(Some);
    let unknown = result.as_ref().is_err_and(|error| refused.contains(&error.raw_os_error()));
    if let (true, Ok(group @ 2..)) = (unknown, libc::pid_t::try_from(leader)) {
        // SAFETY: kill(2) takes two integers.
        let sent = unsafe { libc::kill(-group, libc::SIGKILL) };
        result = if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    }
    match result {
        // Nobody is left in the group.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Makes a child that has not called `exec` since it was forked the leader of a process group of its own (setpgid(2)).
///
/// An error says that it is no child of this process, or has been reaped, or is in another session.
pub(crate) fn set_group(child: u32) -> io::Result<()> {
    let child = libc::pid_t::try_from(child).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: setpgid(2) takes two integers.
    if unsafe { libc::setpgid(child, child) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes this process the leader of a process group of its own.
pub(crate) fn lead_group() -> io::Result<()> {
    set_group(std::process::id())
}

/// Kills a child that has not been reaped.
pub(crate) fn kill_child(child: u32) {
    if let Ok(child @ 2..) = libc::pid_t::try_from(child) {
        // SAFETY: kill(2) takes two integers. There is nothing to be done about an error: a child may always be killed.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
}

/// Reaps all children of this process that are in a process group and dead, until none are left there or the time is over.
///
/// The leader must be a child that has not been reaped, and all must have been killed.
pub(crate) fn reap_group(group: u32, deadline: Instant) {
    while reap_dead_of(group) && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

/// Reaps all children of this process that are in a process group and dead; whether there are others in it.
pub(crate) fn reap_dead_of(group: u32) -> bool {
    loop {
        // SAFETY: siginfo_t is plain data for which all zeroes are a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is valid for the duration of the call.
        let result =
            unsafe { libc::waitid(libc::P_PGID, group, &raw mut info, libc::WEXITED | libc::WNOHANG) };
        if result < 0 {
            // ECHILD: none are left, or this program has the kernel reap its children.
            return false;
        }
        // SAFETY: after waitid the field is set, or zero when no child was dead.
        if unsafe { info.si_pid() } == 0 {
            return true;
        }
    }
}

/// Whether the children of children that have died become this process's own.
#[doc(alias = "PR_GET_CHILD_SUBREAPER")]
pub(crate) fn adopts_orphans() -> bool {
    let mut subreaper: libc::c_int = 0;
    // SAFETY: the call writes one int to the place passed.
    let asked = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut subreaper) };
    std::process::id() == 1 || (asked == 0 && subreaper != 0)
}

/// Whether the process behind a pidfd is dead, reaped or not.
pub(crate) fn is_over(pidfd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd; the call does not block.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLIN != 0 }
}

/// How a process has ended that is dead and has not been reaped, as far as `/proc` shows it.
pub(crate) fn shown_status(pid: u32) -> Option<ExitStatus> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name is in parentheses, and may contain anything. Behind it come the state, which is the third field, and all others.
    let (_, fields) = stat.rsplit_once(") ")?;
    let status: i32 = fields.split_ascii_whitespace().nth(52 - 3)?.parse().ok()?;
    // Who may not look sees a zero there. This file has the same condition.
    if status == 0 && std::fs::read(format!("/proc/{pid}/personality")).is_err() {
        return None;
    }
    Some(ExitStatus::of(status))
}

/// waitid(2) on a pidfd, without blocking: reaps the child if it is dead.
///
/// `Ok(None)`: it lives. When somebody else has reaped it (SIGCHLD is ignored, or the program waits for any child),
/// `Remains` has no status, unless the kernel (6.15 or later) still tells it through the pidfd.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<Remains>> {
    // SAFETY: siginfo_t and rusage are plain data for which all zeroes are valid values.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the duration of the call. The raw call is used because libc's waitid has no rusage.
    let result = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            &raw mut info,
            libc::WEXITED | libc::WNOHANG,
            &raw mut usage,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ECHILD) {
            return Ok(Some(Remains { status: exit_info(pidfd), max_rss: None, cpu_time: None }));
        }
        return Err(error);
    }
    // SAFETY: after waitid the fields of the SIGCHLD form are set, or zero when no child was waiting.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Exited(status),
        code => ExitStatus::Signalled { signal: status, core_dumped: code == libc::CLD_DUMPED },
    };
    let max_rss = u64::try_from(usage.ru_maxrss).ok().map(|kib| kib * 1024);
    let time = |time: libc::timeval| {
        Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
            + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    let cpu_time = Some(time(usage.ru_utime) + time(usage.ru_stime));
    Ok(Some(Remains { status: Some(status), max_rss, cpu_time }))
}

/// `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT` (Linux 6.15): the exit status of a process that somebody else has reaped.
fn exit_info(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    /// `struct pidfd_info` of linux/pidfd.h, as of its first version (64 bytes).
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroupid: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info)
    const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | (64 << 16) | (0xFF << 8) | 11;
    const _: () = assert!(size_of::<PidfdInfo>() == 64);
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel writes at most the 64 bytes whose size is part of the request number.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    if result < 0 || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    Some(ExitStatus::of(info.exit_code))
}

/// getrusage(2) of this process: its largest resident set in bytes, memory inherited across `exec` included.
pub(crate) fn own_max_rss() -> u64 {
    // SAFETY: rusage is plain data, and the pointer is valid for the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024
}

/// Bytes of a page of memory.
pub(crate) fn page_size() -> u64 {
    // SAFETY: takes an integer, and cannot fail for this one.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Arms a timerfd once, `after` from now; `None` disarms it.
pub(crate) fn arm_timer(timer: BorrowedFd<'_>, after: Option<Duration>) -> io::Result<()> {
    // A value of zero would disarm, so what is due is due in a nanosecond.
    let after = after.map_or(Duration::ZERO, |after| after.max(Duration::from_nanos(1)));
    // SAFETY: itimerspec is plain data for which all zeroes are valid (no interval).
    let mut spec: libc::itimerspec = unsafe { std::mem::zeroed() };
    spec.it_value.tv_sec = libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX);
    spec.it_value.tv_nsec = after.subsec_nanos() as _;
    // SAFETY: `spec` is valid for the call, and the old value is not asked for.
    let result =
        unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// timerfd_create(2) on the monotonic clock.
pub(crate) fn timer() -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
