//! What a worker does to itself before its first task.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// close_range(2) over everything above the three standard streams.
pub(crate) fn close_inherited() {
    // SAFETY: the worker owns no descriptor yet; those it will use are still queued in the boot socket.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if result == 0 {
        return;
    }
    // A seccomp filter may refuse the call: close one by one what /proc shows.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: as above. EBADF for the directory stream that has been closed already is harmless.
        unsafe { libc::close(fd) };
    }
}

/// Puts `/dev/null` in the place of standard input.
pub(crate) fn null_stdin() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: dup2(2) on two descriptors; nobody in this process uses descriptor 0 yet.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives up the terminal that this process could ask something (its controlling terminal), if there is one.
///
/// A worker is never in the foreground. Whoever asks for a password there, be it a program that a task has started, would be stopped
/// (`SIGTTIN`), for ever and without a word. Without a terminal that is an error (`ENXIO`).
#[doc(alias = "TIOCNOTTY")]
pub(crate) fn leave_terminal() -> io::Result<()> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let terminal = std::fs::File::options().read(true).write(true).custom_flags(flags).open("/dev/tty");
    // There is none, or it cannot be opened by tasks either.
    let Ok(terminal) = terminal else { return Ok(()) };
    // SAFETY: the request takes an open descriptor, and nothing else.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts three descriptors in the place of the standard streams.
pub(crate) fn replace_streams(fds: [OwnedFd; 3]) -> io::Result<()> {
    for (stream, fd) in (0..).zip(&fds) {
        // SAFETY: dup2(2) on two descriptors; nobody in this process uses the standard streams yet.
        if unsafe { libc::dup2(fd.as_raw_fd(), stream) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Writes out what C's output streams have buffered.
pub(crate) fn flush_c_streams() {
    // SAFETY: null stands for all streams.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Empties the signal mask, and gives every ignored signal its default action back, except SIGPIPE, which is ignored as in
/// every Rust program: task code expects `EPIPE`. Handlers need no care, `exec` has reset them, and those found now are of this program's own.
pub(crate) fn reset_signals() {
    // SAFETY: plain-data structures, valid for the calls; only dispositions that are SIG_IGN are changed.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        for signal in 1..=libc::SIGRTMAX() {
            let mut action: libc::sigaction = std::mem::zeroed();
            if signal != libc::SIGPIPE
                && libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
            {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Kills the process group of this worker, itself included. Async-signal-safe.
pub(crate) fn kill_own_group() -> ! {
    // SAFETY: getpid, kill and _exit are async-signal-safe and take integers.
    unsafe {
        libc::kill(-libc::getpid(), libc::SIGKILL);
        libc::kill(libc::getpid(), libc::SIGKILL);
        libc::_exit(137)
    }
}

/// Whether the calling thread is the one that the process has begun with.
pub(crate) fn on_main_thread() -> bool {
    // SAFETY: both calls take nothing and return a number.
    unsafe { libc::gettid() == libc::getpid() }
}

/// Ends this process at once, without running anything (`_exit(2)`).
pub(crate) fn leave() -> ! {
    // SAFETY: takes an integer, and does not return.
    unsafe { libc::_exit(0) }
}

extern "C" fn on_parent_death(_signal: libc::c_int) {
    kill_own_group();
}

/// Asks the kernel for a signal when the thread that spawned this worker dies (`PR_SET_PDEATHSIG`), and installs a
/// handler for it that kills the whole process group.
///
/// SIGKILL itself as the death signal would leave the children of the task behind. Where a task has blocked the signal, there is still
/// [`hang_on`].
#[doc(alias = "PR_SET_PDEATHSIG")]
pub(crate) fn die_with_parent() -> io::Result<()> {
    // The last real-time signal: the least likely one to be used by task code.
    let signal = libc::SIGRTMAX();
    // SAFETY: the handler only makes async-signal-safe calls; the structure is plain data, valid for the call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_parent_death as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) < 0
            || libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has the kernel kill this process group with SIGKILL when the other end of this pipe is closed, to which nothing is ever written:
/// `O_ASYNC`, with `F_SETOWN` and `F_SETSIG` of `fcntl(2)`.
///
/// No code of ours runs then, so no task can hinder it: not by blocking signals, nor by being stopped; only by closing
/// the descriptor, whose number is out of its way. It stays open for as long as this process lives. If the other end has been closed by
/// now, the group is killed here.
#[doc(alias = "F_SETSIG")]
#[doc(alias = "O_ASYNC")]
pub(crate) fn hang_on(lifeline: OwnedFd) -> io::Result<()> {
    /// Of `asm-generic/fcntl.h`, which all architectures share for this; `libc` lacks it.
    const F_SETSIG: libc::c_int = 10;
    let fd = lifeline.into_raw_fd();
    // SAFETY: the calls take a descriptor that is open and integers, and one valid pollfd.
    let revents = unsafe {
        let own = libc::getpid();
        let owner = if libc::getpgrp() == own { -own } else { own };
        if libc::fcntl(fd, libc::F_SETOWN, owner) < 0 || libc::fcntl(fd, F_SETSIG, libc::SIGKILL) < 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC) < 0 {
            return Err(io::Error::last_os_error());
        }
        // Armed first: a hang-up is either seen here, or comes later and is told.
        let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
        if libc::poll(&raw mut poll, 1, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        poll.revents
    };
    if revents != 0 {
        kill_own_group();
    }
    Ok(())
}

/// Adds to the niceness of the calling thread, and so of those that it starts from now on.
#[doc(alias = "setpriority")]
pub(crate) fn renice(by: i32) -> io::Result<()> {
    // SAFETY: both calls take integers; 0 stands for the calling thread. getpriority(2) may return -1 for good, which it tells
    // by leaving errno alone.
    let result = unsafe {
        *libc::__errno_location() = 0;
        let now = libc::getpriority(libc::PRIO_PROCESS, 0);
        if now == -1 && *libc::__errno_location() != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::setpriority(libc::PRIO_PROCESS, 0, now.saturating_add(by).clamp(-20, 19))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a program may have more privileges than the one that starts it: it is set-user-ID, or has file capabilities.
pub(crate) fn gains_privileges(program: &Path) -> bool {
    let is_setuid = std::fs::metadata(program).is_ok_and(|meta| meta.mode() & libc::S_ISUID != 0);
    let Ok(path) = CString::new(program.as_os_str().as_bytes()) else { return is_setuid };
    // SAFETY: two NUL-terminated strings; without a buffer the call returns the length only.
    let len =
        unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    is_setuid || len > 0
}

/// Forbids core dumps (`RLIMIT_CORE`).
///
/// The kernel hands a dump to a program (`core_pattern` begins with `|`, see core(5)) whatever the limit is, and who crashes is dead only when
/// that program has read it. But it does not at the value 1, which is too little for a file.
pub(crate) fn forbid_core_dumps() -> io::Result<()> {
    use nix::sys::resource::{Resource::RLIMIT_CORE, setrlimit};
    // It may be 0 already, and not to be raised.
    Ok(setrlimit(RLIMIT_CORE, 1, 1).or_else(|_| setrlimit(RLIMIT_CORE, 0, 0))?)
}

/// Sets the name of the calling thread, which `ps` and `top` show (`PR_SET_NAME`; the kernel keeps 15 bytes).
pub(crate) fn set_name(name: &str) {
    let name: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: a NUL-terminated string, valid for the call. It cannot fail.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Writes another text over the first argument of this process, which `ps` shows, if it begins with `old`.
#[doc(alias = "setproctitle")]
pub(crate) fn replace_title(old: &str, new: &str) {
    unsafe extern "C" {
        static program_invocation_name: *mut libc::c_char;
    }
    // SAFETY: the C library has set it to the first argument before main; a program may have set it to another string. It is
    // only read before it is known that it is the text which this process was started with, and that is in writable memory.
    unsafe {
        let title = program_invocation_name;
        if title.is_null() {
            return;
        }
        let len = libc::strlen(title);
        let title = title.cast::<u8>();
        if !std::slice::from_raw_parts(title, len).starts_with(old.as_bytes()) {
            return;
        }
        let text = &new.as_bytes()[..new.len().min(len)];
        title.copy_from_nonoverlapping(text.as_ptr(), text.len());
        title.add(text.len()).write_bytes(0, len - text.len());
    }
}

/// Makes C's `stdout` line-buffered, so that what C code prints is forwarded as it comes and is not lost in a crash.
pub(crate) fn line_buffer_c_stdout() {
    unsafe extern "C" {
        static stdout: *mut libc::FILE;
    }
    // SAFETY: `stdout` is initialised by the C library before main, and nothing has been printed through it yet.
    unsafe { libc::setvbuf(stdout, std::ptr::null_mut(), libc::_IOLBF, 0) };
}

/// Removes an environment variable.
pub(crate) fn remove_env(name: &str) {
    // SAFETY: called from `init()`, at the start of main, while the process has one thread.
    unsafe { std::env::remove_var(name) };
}
