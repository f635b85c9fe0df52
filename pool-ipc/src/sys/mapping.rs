//! Memory that is shared with another process.

use std::{
    fmt, io,
    marker::PhantomData,
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::fstat,
    },
};

use super::set_len;
use crate::region::Layout;

/// Seals that the file must have, so that nobody who holds it can make an access fault (`SIGBUS`).
pub(crate) const SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// What may lie in memory that another process writes to at any moment.
///
/// # Safety
/// Every bit pattern must be a valid value, and all of it must be atomics or [`UnsafeCell`](std::cell::UnsafeCell)s.
pub(crate) unsafe trait Shareable: Sync {}

// SAFETY: it consists of atomic integers and of `Bytes`.
unsafe impl Shareable for Layout {}

/// A `T` at the start of a file of exactly its size, unmapped on drop.
pub(crate) struct Mapping<T: Shareable> {
    base: NonNull<T>,
}

impl<T: Shareable> Mapping<T> {
    const LEN: usize = size_of::<T>();

    /// Makes a sealed file of zeros and maps it.
    pub(crate) fn create(name: &std::ffi::CStr) -> io::Result<(Self, OwnedFd)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // Linux 6.3 can make it impossible to execute the memory, and may be set up to insist on that
        // (vm.memfd_noexec); earlier kernels do not know the flag.
        let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
        let fd = match memfd_create(name, flags | no_exec) {
            Err(Errno::EINVAL) => memfd_create(name, flags)?,
            made => made?,
        };
        set_len(&fd, Self::LEN)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS))?;
        Ok((Self::open(fd.as_fd())?, fd))
    }

    /// Maps `fd`, which must be a file of the size of a `T` with [`SEALS`].
    pub(crate) fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let size = fstat(fd)?.st_size;
        if usize::try_from(size) != Ok(Self::LEN) {
            let message = format!("shared memory has {size} bytes, not {}: wrong descriptor", Self::LEN);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SEALS) {
            let message = "shared memory is not sealed against changes of its size: wrong descriptor";
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
}

impl<T: Shareable> Deref for Mapping<T> {
    type Target = T;

    /// The shared memory; all of it may change at any moment.
    fn deref(&self) -> &T {
        // SAFETY: the mapping is as long as a T, page-aligned, lives until drop, and its file can never shrink.
        // Other processes write to it, which is what `Shareable` allows.
        unsafe { self.base.as_ref() }
    }
}

impl<T: Shareable> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: `base` is a mapping of LEN bytes that only this value owns, and no borrow of it outlives
        // `self`.
        let failed = unsafe { libc::munmap(self.base.as_ptr().cast(), Self::LEN) };
        // munmap(2) of a whole mapping cannot fail.
        debug_assert_eq!(failed, 0);
    }
}

impl<T: Shareable> fmt::Debug for Mapping<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mapping").field(&self.base).finish()
    }
}

// SAFETY: it owns a mapping, which belongs to the process and to no thread; what is in it is `Sync`.
unsafe impl<T: Shareable> Send for Mapping<T> {}
// SAFETY: shared access is to a `T` only, which is `Sync`.
unsafe impl<T: Shareable> Sync for Mapping<T> {}

/// A part of a mapping that keeps the whole alive, at the cost of a plain pointer to look at it.
pub(crate) struct Part<T: Shareable, P> {
    part: NonNull<P>,
    whole: Arc<Mapping<T>>,
    _part: PhantomData<P>,
}

impl<T: Shareable, P: Sync> Part<T, P> {
    pub(crate) fn new(whole: &Arc<Mapping<T>>, part: impl FnOnce(&T) -> &P) -> Self {
        let found = NonNull::from(part(whole));
        Self { part: found, whole: Arc::clone(whole), _part: PhantomData }
    }
}

impl<T: Shareable, P> Deref for Part<T, P> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        // SAFETY: `part` was borrowed from the mapping that `whole` keeps (or lives for ever), and mappings do not
        // move.
        unsafe { self.part.as_ref() }
    }
}

impl<T: Shareable, P> Clone for Part<T, P> {
    fn clone(&self) -> Self {
        Self { part: self.part, whole: Arc::clone(&self.whole), _part: PhantomData }
    }
}

impl<T: Shareable, P> fmt::Debug for Part<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Part").field(&self.part).finish()
    }
}

// SAFETY: it is an `Arc` of something `Send` and `Sync`, and a shared borrow of a part of that.
unsafe impl<T: Shareable, P: Sync> Send for Part<T, P> {}
// SAFETY: as above.
unsafe impl<T: Shareable, P: Sync> Sync for Part<T, P> {}
