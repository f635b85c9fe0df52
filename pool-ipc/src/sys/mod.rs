//! Every `unsafe` block and raw system call of this crate, one small function each.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};

mod bytes;
#[cfg(not(loom))]
mod mapping;

pub(crate) use bytes::Bytes;
#[cfg(all(test, not(loom)))]
pub(crate) use mapping::SEALS;
#[cfg(not(loom))]
pub(crate) use mapping::{Mapping, Part};

/// One `read(2)` of at most `max` bytes into the spare capacity of `into`, which is not zeroed first.
///
/// `EINTR` is returned like any other error. 0 means end of file, unless `max` or the spare capacity is 0.
pub(crate) fn read_spare(fd: BorrowedFd<'_>, into: &mut Vec<u8>, max: usize) -> io::Result<usize> {
    let spare = into.spare_capacity_mut();
    let max = max.min(spare.len());
    // SAFETY: `spare` is valid for writes of `max` bytes, exclusively borrowed; the kernel needs no
    // initialised memory.
    let read = unsafe { libc::read(fd.as_raw_fd(), spare.as_mut_ptr().cast(), max) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let len = into.len() + read;
    // SAFETY: the kernel has initialised the first `read <= max <= capacity - len` bytes after the old
    // length.
    unsafe { into.set_len(len) };
    Ok(read)
}

/// Gives an empty file its size: `ftruncate(2)`.
pub(crate) fn set_len(fd: impl std::os::fd::AsFd, len: usize) -> io::Result<()> {
    allow_len(len as u64)?;
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(nix::unistd::ftruncate(fd, len)?)
}

/// Whether a file may become so long, files in memory included.
///
/// Over the limit on the size of files (`RLIMIT_FSIZE`) the kernel sends `SIGXFSZ`, which would end the program; so it is asked before.
pub(crate) fn allow_len(len: u64) -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if len > limit {
        let message = format!(
            "{len} bytes of shared memory are over the limit on the size of files, {limit} (RLIMIT_FSIZE)"
        );
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(())
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// `CLOCK_MONOTONIC_COARSE` in nanoseconds: the same clock as of the last timer interrupt.
pub(crate) fn coarse_monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC_COARSE)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes for the length of the call.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    // clock_gettime(2) fails for a bad clock or a bad pointer only.
    debug_assert_eq!(failed, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A close-on-exec duplicate of `fd` with the lowest free number from `lowest` on (`F_DUPFD_CLOEXEC`).
pub(crate) fn duplicate_from(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What one `recvmsg(2)` brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes written to the buffer.
    pub(crate) len: usize,
    /// Data or descriptors did not fit, and were discarded by the kernel.
    pub(crate) truncated: bool,
    /// All descriptors that came with it, close-on-exec.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Descriptors that [`receive`] has room for; the kernel closes any beyond that.
const MAX_DESCRIPTORS: usize = 8;

/// One `recvmsg(2)` with `MSG_CMSG_CLOEXEC`, which waits for a message only if it is to `wait`.
///
/// Every descriptor that the kernel installed is owned by the answer, also if the message is not what was
/// expected.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> io::Result<Received> {
    // u64 elements for the alignment of cmsghdr; generous for its padding.
    let mut control = [0_u64; 4 + MAX_DESCRIPTORS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain old data, for which zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: `message` refers to `part`, `buffer` and `control`, which outlive the call and are not
    // otherwise borrowed.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;

    let mut descriptors = Vec::new();
    // SAFETY: `message` was filled in by recvmsg(2) and its control buffer is alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while let Some(found) = NonNull::new(next) {
        // SAFETY: the CMSG macros return null or a pointer to a whole header inside `control`.
        let header = unsafe { found.as_ref() };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: CMSG_LEN does arithmetic only.
            let prefix = unsafe { libc::CMSG_LEN(0) };
            // Widened because the type of cmsg_len differs between C libraries.
            let count = (header.cmsg_len as u64).saturating_sub(prefix.into()) as usize / size_of::<RawFd>();
            // SAFETY: `found` points to a whole control message.
            let data = unsafe { libc::CMSG_DATA(found.as_ptr()) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: the kernel wrote `count` descriptor numbers there; they need not be aligned.
                let raw = unsafe { ptr::read_unaligned(data.add(index)) };
                // SAFETY: the kernel has just installed it for us, and it is taken once.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
        // SAFETY: as above; `found` is a header of `message`.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, found.as_ptr()) };
    }
    let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok(Received { len, truncated, descriptors })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{IoSlice, Write},
        os::fd::AsFd,
    };

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;
    use crate::{boot, pipe_pair};

    #[test]
    fn read_spare_appends_within_its_bounds_and_keeps_what_was_there() {
        let (read, write) = pipe_pair().unwrap();
        let mut writer = File::from(write);
        writer.write_all(b"abcdef").unwrap();
        let mut into = Vec::with_capacity(8);
        into.extend_from_slice(b"123");
        assert_eq!(read_spare(read.as_fd(), &mut into, 2).unwrap(), 2);
        assert_eq!(into, b"123ab");
        let spare = into.capacity() - into.len();
        assert_eq!(read_spare(read.as_fd(), &mut into, usize::MAX).unwrap(), spare.min(4));
        assert!(into.starts_with(b"123abcde"));
        assert!(read_spare(writer.as_fd(), &mut Vec::with_capacity(1), 1).is_err(), "not open for reading");
        drop(writer);
        into.reserve(16);
        while read_spare(read.as_fd(), &mut into, 1).unwrap() > 0 {}
        assert_eq!(into, b"123abcdef");
    }

    #[test]
    fn received_descriptors_close_on_exec_from_the_start() {
        let (ours, theirs) = boot::socket_pair().unwrap();
        let raw = [ours.as_raw_fd(), theirs.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(raw[0], &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
        let received = receive(theirs.as_fd(), &mut [0; 4], false).unwrap();
        assert_eq!((received.len, received.truncated, received.descriptors.len()), (1, false, 2));
        for fd in &received.descriptors {
            assert_eq!(fcntl(fd, FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
        }
    }

    #[test]
    fn duplicates_start_at_the_number_asked_for_and_are_independent() {
        let (read, write) = pipe_pair().unwrap();
        let copy = duplicate_from(write.as_fd(), 200).unwrap();
        assert!(copy.as_raw_fd() >= 200);
        drop(write);
        File::from(copy).write_all(b"x").unwrap();
        let mut into = Vec::with_capacity(1);
        assert_eq!(read_spare(read.as_fd(), &mut into, 1).unwrap(), 1);
        let error = duplicate_from(read.as_fd(), -1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
