//! What task code may try that wants to get out of a sandbox. Every attempt is harmless where it succeeds.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pool_core::task;
use serde::{Deserialize, Serialize};

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attempt {
    /// Reads a file.
    Read(PathBuf),
    /// Lists a directory.
    List(PathBuf),
    /// Writes into a file that may be there.
    Write(PathBuf),
    /// Makes a directory and removes it.
    MakeDir(PathBuf),
    /// Renames a file there and back.
    Rename(PathBuf, PathBuf),
    /// Makes a hard link, and removes it.
    Link(PathBuf, PathBuf),
    /// Cuts a file to the length that it has, by its name.
    Truncate(PathBuf),
    /// Opens a file with these flags.
    Open(PathBuf, i32),
    /// The same, by the call whose flags are in memory.
    Open2(PathBuf, i32),
    /// Gives a file the mode that it has.
    Chmod(PathBuf),
    /// Gives an open file the mode that it has.
    Fchmod(PathBuf),
    /// Gives a file the owner that it has.
    Chown(PathBuf),
    /// Gives a file an extended attribute.
    Xattr(PathBuf),
    /// Makes a socket of this family.
    Socket(i32),
    /// Makes a pair of sockets for packets that could go elsewhere.
    DatagramPair,
    /// Makes a pair of connected sockets, which harms nobody.
    StreamPair,
    /// Runs a program.
    Run(PathBuf),
    /// Runs a program that it has in memory.
    RunFromMemory(PathBuf),
    /// Forks.
    Fork,
    /// Looks whether it could send a signal.
    Kill(i32),
    /// The same, to one thread.
    Tgkill(i32),
    /// The same, with a value.
    Queue(i32),
    /// The same, through a descriptor of the process.
    PidfdSignal(i32),
    /// Has the kernel send a signal for a pipe.
    Owner(i32),
    /// Attaches a debugger, and lets go.
    Trace(i32),
    /// Reads a word of another process's memory.
    ReadMemory(i32, u64),
    /// Takes a descriptor of another process.
    TakeDescriptor(i32),
    /// Sets a limit of another process to what it is.
    Limits(i32),
    /// Sets the priority of another process to what it is.
    Priority(i32),
    /// Binds another process to the CPUs that it is bound to.
    Affinity(i32),
    /// Makes a name space.
    Unshare,
    /// Makes a process in a name space, the new way.
    Clone3,
    /// Makes an `io_uring`.
    IoUring,
    /// Makes memory that others find by name.
    SharedMemory,
    /// Asks for kernel keys.
    Keys,
    /// Raises its own hard limit on core dumps.
    RaiseLimit,
    /// Makes itself outlive the supervisor.
    Outlive,
}

/// Tries something; the error number if it is refused.
#[task]
pub fn attempt(what: Attempt) -> Result<(), i32> {
    run(&what).map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn result(returned: impl Into<i64>) -> io::Result<i64> {
    let returned = returned.into();
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

fn c_path(path: &std::path::Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in it")
}

fn run(what: &Attempt) -> io::Result<()> {
    match what {
        Attempt::Read(path) => fs::read(path).map(drop),
        Attempt::List(path) => fs::read_dir(path).map(drop),
        Attempt::Write(path) => {
            use std::io::Write;
            OpenOptions::new().create(true).append(true).open(path)?.write_all(b"x")
        }
        Attempt::MakeDir(path) => fs::create_dir(path).and_then(|()| fs::remove_dir(path)),
        Attempt::Rename(from, to) => fs::rename(from, to).and_then(|()| fs::rename(to, from)),
        Attempt::Link(from, to) => fs::hard_link(from, to).and_then(|()| fs::remove_file(to)),
        Attempt::Chmod(path) => fs::set_permissions(path, fs::metadata(path)?.permissions()),
        Attempt::Fchmod(path) => {
            let file = File::open(path)?;
            file.set_permissions(PermissionsExt::from_mode(file.metadata()?.permissions().mode()))
        }
        Attempt::Chown(path) => {
            use std::os::unix::fs::MetadataExt;
            let now = fs::metadata(path)?;
            std::os::unix::fs::chown(path, Some(now.uid()), Some(now.gid()))
        }
        Attempt::Run(path) => {
            let mut child = Command::new(path).stdin(Stdio::null()).spawn()?;
            let status = child.wait()?;
            if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
        }
        other => run_raw(other),
    }
}

fn memfd_of(path: &std::path::Path) -> io::Result<OwnedFd> {
    use std::io::Write;
    // SAFETY: a NUL-terminated string and a flag.
    let fd = result(unsafe { libc::memfd_create(c"program".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    File::from(fd.try_clone()?).write_all(&fs::read(path).unwrap_or_default())?;
    Ok(fd)
}

fn run_raw(what: &Attempt) -> io::Result<()> {
    // SAFETY: every pointer is to something that lives through its call, and of the type that the call takes; what is returned as a
    // descriptor is used here alone. The forked child makes one call, which is async-signal-safe.
    unsafe {
        match what {
            Attempt::Truncate(path) => {
                let len = fs::metadata(path)?.len();
                result(libc::truncate(c_path(path).as_ptr(), len as libc::off_t))?;
            }
            Attempt::Open(path, flags) => {
                let fd = result(libc::open(c_path(path).as_ptr(), flags | libc::O_CLOEXEC))?;
                drop(OwnedFd::from_raw_fd(fd as i32));
            }
            Attempt::Open2(path, flags) => {
                // `struct open_how`: flags, mode, resolve.
                let how = [(flags | libc::O_CLOEXEC) as u64, 0, 0];
                let (path, size) = (c_path(path), size_of_val(&how));
                let opened =
                    libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), &raw const how, size);
                let fd = result(opened).map_err(|error| match error.raw_os_error() {
                    // To be told that there is no such call is to be refused.
                    Some(libc::ENOSYS) => io::Error::from_raw_os_error(libc::EPERM),
                    _ => error,
                })?;
                drop(OwnedFd::from_raw_fd(fd as i32));
            }
            Attempt::Xattr(path) => {
                let (path, name) = (c_path(path), c"user.pool-tests");
                result(libc::setxattr(path.as_ptr(), name.as_ptr(), c"x".as_ptr().cast(), 1, 0))?;
            }
            Attempt::Socket(family) => {
                let fd = result(libc::socket(*family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
                drop(OwnedFd::from_raw_fd(fd as i32));
            }
            Attempt::DatagramPair | Attempt::StreamPair => {
                let kind = if *what == Attempt::StreamPair { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
                let mut fds = [0; 2];
                result(libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()))?;
                fds.into_iter().for_each(|fd| drop(OwnedFd::from_raw_fd(fd)));
            }
            Attempt::RunFromMemory(path) => {
                let program = memfd_of(path)?;
                let pid = result(libc::fork())?;
                if pid == 0 {
                    let (name, end) = (c"program".as_ptr(), std::ptr::null());
                    libc::fexecve(program.as_raw_fd(), [name, end].as_ptr(), [end].as_ptr());
                    libc::_exit(77);
                }
                wait_for(pid as i32)?;
            }
            Attempt::Fork => {
                let pid = result(libc::fork())?;
                if pid == 0 {
                    libc::_exit(0);
                }
                wait_for(pid as i32)?;
            }
            Attempt::Kill(pid) => _ = result(libc::kill(*pid, 0))?,
            Attempt::Tgkill(pid) => _ = result(libc::syscall(libc::SYS_tgkill, *pid, *pid, 0))?,
            Attempt::Queue(pid) => {
                _ = result(libc::sigqueue(*pid, 0, libc::sigval { sival_ptr: std::ptr::null_mut() }))?;
            }
            Attempt::PidfdSignal(pid) => {
                let fd = result(libc::syscall(libc::SYS_pidfd_open, *pid, 0))?;
                let fd = OwnedFd::from_raw_fd(fd as i32);
                let nothing = std::ptr::null::<libc::siginfo_t>();
                result(libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), 0, nothing, 0))?;
            }
            Attempt::Owner(pid) => {
                let mut fds = [0; 2];
                result(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC))?;
                let fds = fds.map(|fd| OwnedFd::from_raw_fd(fd));
                result(libc::fcntl(fds[0].as_raw_fd(), libc::F_SETOWN, *pid))?;
            }
            Attempt::Trace(pid) => {
                result(libc::ptrace(libc::PTRACE_SEIZE, *pid, 0, 0))?;
                // It can be let go when it has stopped only.
                result(libc::ptrace(libc::PTRACE_INTERRUPT, *pid, 0, 0))?;
                wait_for_stop(*pid)?;
                result(libc::ptrace(libc::PTRACE_DETACH, *pid, 0, 0))?;
            }
            Attempt::ReadMemory(pid, address) => {
                let mut word = [0_u8; 8];
                let here = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: 8 };
                let there = libc::iovec { iov_base: *address as *mut libc::c_void, iov_len: 8 };
                result(libc::process_vm_readv(*pid, &raw const here, 1, &raw const there, 1, 0) as i64)?;
            }
            Attempt::TakeDescriptor(pid) => {
                let pidfd =
                    OwnedFd::from_raw_fd(result(libc::syscall(libc::SYS_pidfd_open, *pid, 0))? as i32);
                let fd = result(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), 2, 0))?;
                drop(OwnedFd::from_raw_fd(fd as i32));
            }
            Attempt::Limits(pid) => {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                let none = std::ptr::null();
                result(libc::prlimit(*pid, libc::RLIMIT_CORE, none, &raw mut limit))?;
                result(libc::prlimit(*pid, libc::RLIMIT_CORE, &raw const limit, std::ptr::null_mut()))?;
            }
            Attempt::Priority(pid) => {
                let now = libc::getpriority(libc::PRIO_PROCESS, *pid as libc::id_t);
                result(libc::setpriority(libc::PRIO_PROCESS, *pid as libc::id_t, now))?;
            }
            Attempt::Affinity(pid) => {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                result(libc::sched_getaffinity(*pid, size_of::<libc::cpu_set_t>(), &raw mut set))?;
                result(libc::sched_setaffinity(*pid, size_of::<libc::cpu_set_t>(), &raw const set))?;
            }
            Attempt::Unshare => _ = result(libc::unshare(libc::CLONE_NEWUTS))?,
            Attempt::Clone3 => {
                // struct clone_args, its first version: flags first, the exit signal fifth.
                let mut args = [0_u64; 8];
                args[4] = libc::SIGCHLD as u64;
                let pid = result(libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)))?;
                if pid == 0 {
                    libc::_exit(0);
                }
                wait_for(pid as i32)?;
            }
            Attempt::IoUring => {
                // struct io_uring_params.
                let mut params = [0_u32; 30];
                let fd = result(libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()))?;
                drop(OwnedFd::from_raw_fd(fd as i32));
            }
            Attempt::SharedMemory => {
                let id = result(libc::shmget(libc::IPC_PRIVATE, 4096, 0o600))?;
                result(libc::shmctl(id as i32, libc::IPC_RMID, std::ptr::null_mut()))?;
            }
            Attempt::Keys => {
                const KEYCTL_GET_KEYRING_ID: i32 = 0;
                result(libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, -3, 1))?;
            }
            Attempt::RaiseLimit => {
                let most = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
                result(libc::setrlimit(libc::RLIMIT_CORE, &raw const most))?;
            }
            Attempt::Outlive => _ = result(libc::prctl(libc::PR_SET_PDEATHSIG, 0))?,
            other => unreachable!("{other:?} is done above"),
        }
    }
    Ok(())
}

fn wait_for(pid: i32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the place is valid for the call.
    result(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("wait status {status}"))) }
}

fn wait_for_stop(pid: i32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the place is valid for the call.
    result(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) })?;
    if libc::WIFSTOPPED(status) { Ok(()) } else { Err(io::Error::other(format!("wait status {status}"))) }
}

/// The signal that the worker gets when its supervisor dies.
#[task]
pub fn death_signal() -> i32 {
    let mut signal = 0;
    // SAFETY: the place is valid for the call.
    let asked = unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    assert_eq!(asked, 0, "{}", io::Error::last_os_error());
    signal
}

/// The kinds of the open descriptors, as the upper bits of their mode, in ascending order.
#[task]
pub fn descriptors() -> Vec<u32> {
    let mode = |fd: i32| {
        // SAFETY: plain data for which all zeroes are valid, and the place is valid for the call.
        unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            (libc::fstat(fd, &raw mut stat) == 0).then_some(stat.st_mode & libc::S_IFMT)
        }
    };
    let mut found: Vec<u32> = (0..4096).filter_map(mode).collect();
    found.sort_unstable();
    found
}

/// Writes garbage to every descriptor from this one on. How many took it.
#[task]
pub fn scrawl(from: i32) -> usize {
    let garbage = [0xA5_u8; 64];
    // SAFETY: the bytes are valid for the call. What the descriptors are is for the test to care.
    let took = |fd: &i32| unsafe { libc::write(*fd, garbage.as_ptr().cast(), garbage.len()) } > 0;
    (from..4096).filter(took).count()
}

/// Calls the kernel by the door for 32-bit programs.
#[cfg(target_arch = "x86_64")]
#[task]
pub fn old_door() -> i64 {
    let mut number: i64 = 20;
    // SAFETY: getpid of the 32-bit numbers, which touches no memory.
    unsafe { std::arch::asm!("int 0x80", inout("rax") number, options(nostack)) };
    number
}
