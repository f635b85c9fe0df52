//! Every system call that has no safe wrapper, and the memory that is shared with the processes of the bare measurements.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Words are this far apart, so that no two share a cache line or a pair of them.
const LINE: usize = 128;

/// A file mapped for reading and writing, shared with whoever else maps it.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// mmap(2) of the first `length` bytes of a file that is at least as long.
    pub(crate) fn new(file: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, length }),
            None => Err(io::Error::other("mapped at address zero")),
        }
    }

    /// Word `index`, on a cache line of its own.
    pub(crate) fn word(&self, index: usize) -> io::Result<&AtomicU32> {
        let offset = self.check(index.saturating_mul(LINE), size_of::<AtomicU32>())?;
        // SAFETY: the word is inside the mapping, which lives as long as `self`; it is aligned, since mappings are to
        // pages; both processes touch it as an atomic only.
        Ok(unsafe { AtomicU32::from_ptr(self.start.add(offset).as_ptr().cast()) })
    }

    /// Copies into the mapping.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> io::Result<()> {
        let offset = self.check(offset, data.len())?;
        // SAFETY: the range is inside the mapping, which no reference points into but those to words, which are elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.start.add(offset).as_ptr(), data.len()) };
        Ok(())
    }

    /// Copies from one place in the mapping to another; they must not overlap.
    pub(crate) fn duplicate(&self, from: usize, to: usize, length: usize) -> io::Result<()> {
        let (from, to) = (self.check(from, length)?, self.check(to, length)?);
        if from.abs_diff(to) < length {
            return Err(io::Error::other("the two places overlap"));
        }
        // SAFETY: both ranges are inside the mapping, and do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.add(from).as_ptr(), self.start.add(to).as_ptr(), length)
        };
        Ok(())
    }

    /// Reads one byte.
    pub(crate) fn byte(&self, offset: usize) -> io::Result<u8> {
        let offset = self.check(offset, 1)?;
        // SAFETY: the byte is inside the mapping. Volatile, since the other process writes it.
        Ok(unsafe { self.start.add(offset).read_volatile() })
    }

    fn check(&self, offset: usize, length: usize) -> io::Result<usize> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(offset),
            _ => Err(io::Error::other(format!(
                "{offset} + {length} is outside of a mapping of {}",
                self.length
            ))),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and references into it cannot outlive `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// futex(2) `FUTEX_WAIT`: sleeps while the word has this value. It may return early, so the caller looks again.
pub(crate) fn futex_wait(word: &AtomicU32, value: u32) {
    // SAFETY: the word is valid for the call. Between processes, so without FUTEX_PRIVATE_FLAG.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            std::ptr::null::<libc::timespec>(),
        )
    };
}

/// futex(2) `FUTEX_WAKE` of one sleeper.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the kernel uses the address as a key only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// pidfd_open(2) of a child that has not been reaped.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Processor time of the calling thread in ns.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The clock that all processes of the machine share, in ns.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call. Neither clock can be missing.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
