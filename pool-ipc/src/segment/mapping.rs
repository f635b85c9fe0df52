//! Every `unsafe` block and raw system call of the segments, one small function each.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        statfs::{TMPFS_MAGIC, fstatfs},
    },
};

/// Nobody can change the size, so that no access to the mapped file faults (`SIGBUS`).
pub(super) const FIXED_SIZE: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);
/// Nobody can write from now on, other than through mappings that exist already.
pub(super) const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE);

/// Part of a file in memory, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, shared.
    fn new(fd: BorrowedFd<'_>, len: usize, protection: libc::c_int) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses overlaps nothing.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap chose address 0"))?;
        Ok(Self { base, len })
    }

    /// For reading and writing.
    pub(super) fn writable(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::new(fd, len, libc::PROT_READ | libc::PROT_WRITE)
    }

    /// For reading only.
    pub(super) fn readable(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        Self::new(fd, len, libc::PROT_READ)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Has stores to these bytes fault, or undoes that. Both ends must be at the start of a page.
    pub(super) fn protect(&self, offset: usize, len: usize, is_writable: bool) -> io::Result<()> {
        let start = self.at(offset, len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = if is_writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: the pages are part of this mapping alone. Who has a `&mut` to bytes of them does not protect them meanwhile.
        let failed = unsafe { libc::mprotect(start.as_ptr().cast(), len, protection) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The address of `len` bytes from `offset` on, if they are inside.
    fn at(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        // SAFETY: `offset <= end <= self.len`, which is the length of the mapping.
        (end <= self.len).then(|| unsafe { self.base.add(offset) })
    }

    /// # Safety
    /// Nobody, in any process, writes to these bytes while the borrow lasts, and the file cannot shrink.
    pub(super) unsafe fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        let start = self.at(offset, len)?;
        // SAFETY: the bytes are inside the mapping, which lives as long as `self`; the caller promises the rest.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) })
    }

    /// # Safety
    /// Nobody else, in any process, reads through a reference or writes to these bytes while the borrow lasts; the mapping
    /// is writable, and the file cannot shrink.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that nobody else has these bytes")]
    pub(super) unsafe fn bytes_mut(&self, offset: usize, len: usize) -> Option<&mut [u8]> {
        let start = self.at(offset, len)?;
        // SAFETY: the bytes are inside the mapping, which lives as long as `self`; the caller promises the rest.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) })
    }

    /// Appends `len` bytes from `offset` on to `into`; false, and nothing appended, if they are not all inside. The file
    /// must not be able to shrink; another process may write to it meanwhile, which spoils the copy and nothing else.
    pub(super) fn append_to(&self, offset: usize, len: usize, into: &mut Vec<u8>) -> bool {
        let Some(start) = self.at(offset, len) else { return false };
        into.reserve(len);
        // SAFETY: the source is inside the mapping; the target is the spare capacity of a vector that nobody else sees. No
        // reference to the source exists: whatever another process does to it, each byte of the copy has some value.
        unsafe { ptr::copy_nonoverlapping(start.as_ptr(), into.as_mut_ptr().add(into.len()), len) };
        // SAFETY: `len` bytes after the old length have just been written, within the reserved capacity.
        unsafe { into.set_len(into.len() + len) };
        true
    }

    /// Copies from `offset` on to `into`; false, and nothing copied, if that is not all inside. As
    /// [`append_to`](Self::append_to) otherwise.
    pub(super) fn copy_to(&self, offset: usize, into: &mut [u8]) -> bool {
        let Some(start) = self.at(offset, into.len()) else { return false };
        // SAFETY: the source is inside the mapping and no reference to it exists; the target is exclusively borrowed.
        unsafe { ptr::copy_nonoverlapping(start.as_ptr(), into.as_mut_ptr(), into.len()) };
        true
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value alone owns the mapping, and no borrow of it outlives `self`.
        let failed = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        // munmap(2) of a whole mapping cannot fail.
        debug_assert_eq!(failed, 0);
    }
}

// SAFETY: it owns a mapping, which belongs to the process and to no thread.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference bytes are copied out only; what hands out references is `unsafe`.
unsafe impl Sync for Mapping {}

/// An empty memfd that can be sealed, and never executed where the kernel knows how to say that (Linux 6.3).
pub(super) fn memfd() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(c"pool-data", flags | no_exec) {
        Err(Errno::EINVAL) => Ok(memfd_create(c"pool-data", flags)?),
        made => Ok(made?),
    }
}

pub(super) fn add_seals(fd: BorrowedFd<'_>, seals: SealFlag) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

/// The size of a file that somebody else has made, if it is an ordinary memfd with these seals. Memory of other kinds, such
/// as huge pages that have run out, can fault when it is read.
pub(super) fn checked_len(fd: BorrowedFd<'_>, seals: SealFlag) -> io::Result<usize> {
    let refuse = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let found = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
    if !found.contains(seals) {
        return Err(refuse(format!("segment has the seals {found:?} and not {seals:?}")));
    }
    if fstatfs(fd.as_fd())?.filesystem_type() != TMPFS_MAGIC {
        return Err(refuse("segment is not of ordinary memory".to_owned()));
    }
    let len = nix::sys::stat::fstat(fd)?.st_size;
    usize::try_from(len).ok().filter(|len| *len > 0).ok_or_else(|| refuse(format!("segment has {len} bytes")))
}
