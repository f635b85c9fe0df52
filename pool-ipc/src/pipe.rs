//! Pipes between supervisor and worker.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};

/// Bytes that a pipe of [`pipe_pair`] can hold if the kernel grants it: 256 KiB.
pub const PIPE_CAPACITY: usize = 256 << 10;

/// Makes a close-on-exec pipe: the end to read from, and the end to write to.
///
/// It holds [`PIPE_CAPACITY`] bytes where the kernel grants that, so that a burst of small frames or one
/// middle-sized frame moves without a switch between the processes.
///
/// # Errors
/// Those of `pipe2(2)`: no descriptor is left.
#[doc(alias = "pipe2")]
#[doc(alias = "F_SETPIPE_SZ")]
pub fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Deliberately not an error: EPERM says that this user's pipes have used up
    // /proc/sys/fs/pipe-user-pages-soft or that pipe-max-size is lower. A pipe of the default size works too,
    // with more wake-ups.
    let _granted = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_CAPACITY as libc::c_int));
    Ok((read, write))
}

/// Makes reads and writes through `fd`, and through its duplicates, return instead of wait.
///
/// # Errors
/// Those of `fcntl(2)`.
#[doc(alias = "O_NONBLOCK")]
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::{errno::Errno, fcntl::FdFlag, unistd};

    use super::*;

    #[test]
    fn both_ends_close_on_exec_and_carry_bytes_one_way() {
        let (read, write) = pipe_pair().unwrap();
        for end in [&read, &write] {
            let flags = FdFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        assert_eq!(unistd::write(&write, b"abc"), Ok(3));
        let mut buffer = [0; 8];
        assert_eq!(unistd::read(&read, &mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"abc");
        assert_eq!(unistd::write(&read, b"abc"), Err(Errno::EBADF));
    }

    #[test]
    fn nonblocking_end_does_not_wait_and_the_other_end_is_untouched() {
        let (read, write) = pipe_pair().unwrap();
        set_nonblocking(read.as_fd()).unwrap();
        assert_eq!(unistd::read(&read, &mut [0; 8]), Err(Errno::EAGAIN));
        let flags = OFlag::from_bits_retain(fcntl(&write, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }
}
