//! Keeping descriptors 0, 1 and 2 out of what the pool opens.

use std::fs::File;
use std::os::fd::IntoRawFd;

/// Puts `/dev/null` on whichever of the three standard streams this program has closed, as the standard library does when
/// a program starts.
///
/// Otherwise the next descriptors that the pool opens would be standard streams: what this program prints would go into a
/// pipe of the pool, and a worker executable opened as descriptor 0 would be hidden by the worker's standard input.
pub(crate) fn plug() -> std::io::Result<()> {
    let closed = |fd: i32| {
        // SAFETY: fcntl(2) with F_GETFD only looks.
        let failed = unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0;
        // Other errors come from a seccomp filter, and would never end.
        failed && std::io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
    };
    while (0..3).any(closed) {
        // The kernel gives out the lowest free number, so this is one of the three; it stays open.
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let _ = null.into_raw_fd();
    }
    Ok(())
}
