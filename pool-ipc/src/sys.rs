//! Every `unsafe` block and raw system call of this crate, one small function each.

use std::{
    fmt, io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

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

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes for the length of the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
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

/// One `recvmsg(2)` with `MSG_DONTWAIT | MSG_CMSG_CLOEXEC`.
///
/// Every descriptor that the kernel installed is owned by the answer, also if the message is not what was
/// expected.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    // u64 elements for the alignment of cmsghdr; generous for its padding.
    let mut control = [0_u64; 4 + MAX_DESCRIPTORS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain old data, for which zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
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

/// Words of a [`SharedWords`].
pub(crate) const WORDS: usize = 512;

type Words = [AtomicU64; WORDS];

/// A page of atomic words shared with another process, unmapped on drop.
pub(crate) struct SharedWords {
    base: NonNull<Words>,
}

impl SharedWords {
    /// Bytes of the mapping, and of the file behind it.
    pub(crate) const LEN: usize = size_of::<Words>();
    /// Seals that the file must have, so that nobody who holds it can make an access fault (`SIGBUS`).
    pub(crate) const SEALS: SealFlag =
        SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

    /// Maps `fd`, which must be a file of [`LEN`](Self::LEN) bytes with [`SEALS`](Self::SEALS).
    pub(crate) fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let size = nix::sys::stat::fstat(fd)?.st_size;
        if usize::try_from(size) != Ok(Self::LEN) {
            let message = format!("shared page has {size} bytes, not {}: wrong descriptor", Self::LEN);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(Self::SEALS) {
            let message = "shared page is not sealed against changes of its size: wrong descriptor";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), Self::LEN, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap chose address 0"))?;
        Ok(Self { base })
    }

    /// The shared words; any of them may change at any moment.
    pub(crate) fn words(&self) -> &Words {
        // SAFETY: the mapping is LEN bytes long, page-aligned, lives until drop, and its file can never
        // shrink. Other processes write to it, which is what atomics are for; every bit pattern is a valid
        // AtomicU64.
        unsafe { self.base.as_ref() }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: `base` is a mapping of LEN bytes that only this value owns, and no borrow of it outlives
        // `self`.
        let failed = unsafe { libc::munmap(self.base.as_ptr().cast(), Self::LEN) };
        // munmap(2) of a whole mapping cannot fail.
        debug_assert_eq!(failed, 0);
    }
}

impl fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedWords").field(&self.base).finish()
    }
}

// SAFETY: it owns a mapping, which belongs to the process and to no thread.
unsafe impl Send for SharedWords {}
// SAFETY: shared access is to atomics only.
unsafe impl Sync for SharedWords {}

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
        let received = receive(theirs.as_fd(), &mut [0; 4]).unwrap();
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
