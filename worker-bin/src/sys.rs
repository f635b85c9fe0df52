//! Every `unsafe` block and raw system call of this crate: one small function each.

use std::fs;
use std::hint::black_box;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

/// `_exit(2)`.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Sends `signal` to this process, unblocked and with its default action, and waits for it to take effect.
pub(crate) fn die_by(signal: i32) -> ! {
    // SAFETY: a plain-data signal set, valid for the calls; numbers that are no signal are refused by the kernel.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
    pause_for_ever()
}

/// Stops this process until somebody sends SIGCONT.
pub(crate) fn stop() {
    // SAFETY: takes integers.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

/// pause(2), again and again.
pub(crate) fn pause_for_ever() -> ! {
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

/// Writes a byte to address 0, as C code would: Rust's own null checks would abort instead.
pub(crate) fn write_to_null() {
    // SAFETY: deliberately none. The page at address 0 is never mapped, so the kernel ends the process here.
    unsafe { libc::memset(black_box(ptr::null_mut()), 1, black_box(1)) };
}

/// Reads a mapped page of a file that has been truncated (SIGBUS). Returns only if that could not be arranged.
pub(crate) fn read_beyond_end_of_file() -> io::Error {
    const PAGE: usize = 4096;
    // SAFETY: a valid name; the mapping is fresh and nobody else's. Reading it faults, which is the purpose.
    unsafe {
        let fd = libc::memfd_create(c"truncated".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return io::Error::last_os_error();
        }
        let page = libc::mmap(ptr::null_mut(), PAGE, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        if page == libc::MAP_FAILED {
            return io::Error::last_os_error();
        }
        black_box(page.cast::<u8>().read_volatile());
    }
    io::Error::other("the page could be read")
}

/// Sets the limit on CPU time (`RLIMIT_CPU`). The hard limit is a second higher, so that SIGXCPU comes before SIGKILL.
pub(crate) fn limit_cpu_time(seconds: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: seconds, rlim_max: seconds.saturating_add(1) };
    // SAFETY: a plain structure, valid for the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_CPU, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ignores SIGTERM.
pub(crate) fn ignore_sigterm() {
    // SAFETY: no handler of ours is installed. It cannot fail for SIGTERM.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}

/// Blocks every signal that can be blocked, on the calling thread.
pub(crate) fn block_signals() {
    // SAFETY: a plain-data signal set, valid for the calls, which cannot fail.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Forks; true in the child, which is a copy of this thread alone.
pub(crate) fn fork() -> io::Result<bool> {
    // SAFETY: what the child may do is the caller's business, and to do too much is the purpose. The allocator of glibc works
    // after a fork.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(child == 0),
    }
}

/// Forks a child that sleeps for ever, and returns its process id.
pub(crate) fn fork_a_sleeper() -> io::Result<i32> {
    // SAFETY: the child makes async-signal-safe calls only.
    match unsafe { libc::fork() } {
        0 => pause_for_ever(),
        -1 => Err(io::Error::last_os_error()),
        child => Ok(child),
    }
}

/// The numbers of all open descriptors, the one used to find them included.
pub(crate) fn open_fds() -> io::Result<Vec<RawFd>> {
    let entries = fs::read_dir("/proc/self/fd")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Whether the descriptor is the write end of a pipe.
pub(crate) fn is_write_end_of_pipe(fd: RawFd) -> bool {
    // SAFETY: a plain structure, valid for the call; a number that is no descriptor is an error.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        libc::fstat(fd, &raw mut stat) == 0
            && stat.st_mode & libc::S_IFMT == libc::S_IFIFO
            && libc::fcntl(fd, libc::F_GETFL) & libc::O_ACCMODE == libc::O_WRONLY
    }
}

/// write(2) on whatever has this number.
pub(crate) fn write_raw(fd: RawFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer is valid for its length. That the descriptor is somebody else's is the purpose.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from 3 on, whoever it belongs to.
pub(crate) fn close_all_fds() -> io::Result<()> {
    // SAFETY: takes integers. The owners of the descriptors will fail from now on, which is the purpose.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every socket from 3 on, whoever it belongs to; returns how many.
pub(crate) fn close_all_sockets() -> io::Result<usize> {
    let is_socket = |fd: &RawFd| {
        fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    let sockets: Vec<RawFd> = open_fds()?.into_iter().filter(|fd| *fd > 2).filter(is_socket).collect();
    for fd in &sockets {
        // SAFETY: takes an integer. The owner will fail from now on, which is the purpose.
        if unsafe { libc::close(*fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(sockets.len())
}

/// Puts /dev/null in the place of every descriptor from 3 on, whoever it belongs to.
pub(crate) fn cover_all_fds() -> io::Result<()> {
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    for fd in open_fds()?.into_iter().filter(|fd| *fd > 2 && *fd != null.as_raw_fd()) {
        // SAFETY: takes integers. The owners of the descriptors will be surprised, which is the purpose. The number of the
        // directory that was listed is closed by now, and becomes one more descriptor.
        if unsafe { libc::dup2(null.as_raw_fd(), fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Overwrites every writable shared mapping of a memfd, and returns how many there are.
pub(crate) fn scribble_shared_memory(byte: u8) -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let ranges: Vec<(usize, usize)> = maps.lines().filter_map(shared_memfd).collect();
    for &(start, end) in &ranges {
        // SAFETY: the range is mapped and writable, says the kernel, and it is plain shared memory. Those who use it have to
        // distrust it, which is the purpose.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(start).write_bytes(byte, end - start) };
    }
    Ok(ranges.len())
}

/// The addresses of a line of /proc/self/maps, if it is a writable shared mapping of a memfd.
fn shared_memfd(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, access) = (fields.next()?, fields.next()?);
    if access != "rw-s" || !fields.nth(3)?.starts_with("/memfd:") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_shared_mappings_of_memfds_are_found() {
        let line =
            "7f0000001000-7f0000003000 rw-s 00000000 00:01 2048                       /memfd:board (deleted)";
        assert_eq!(shared_memfd(line), Some((0x7f00_0000_1000, 0x7f00_0000_3000)));
        for other in [
            "7f0000001000-7f0000003000 r--s 00000000 00:01 2048 /memfd:board (deleted)",
            "7f0000001000-7f0000003000 rw-p 00000000 00:01 2048 /memfd:board (deleted)",
            "7f0000001000-7f0000003000 rw-s 00000000 00:01 2048 /dev/shm/board",
            "7f0000001000-7f0000003000 rw-p 00000000 00:00 0",
        ] {
            assert_eq!(shared_memfd(other), None, "{other}");
        }
    }

    #[test]
    fn the_ends_of_a_pipe_are_told_apart() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!is_write_end_of_pipe(reader.as_raw_fd()));
        assert!(is_write_end_of_pipe(writer.as_raw_fd()));
        assert!(open_fds().unwrap().contains(&writer.as_raw_fd()));
        assert!(!is_write_end_of_pipe(-1));
    }
}
