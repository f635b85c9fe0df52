//! Bytes that nobody can ever change again.

use std::{
    fs::File,
    io::{self, Write},
    ops::Deref,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::atomic::Ordering::Relaxed,
};

use nix::fcntl::SealFlag;

use super::{NEXT_ID, mapping, mapping::Mapping};

/// With these nobody can change size or content any more, and nobody can have it mapped for writing.
const SEALS: SealFlag = mapping::FIXED_SIZE.union(SealFlag::F_SEAL_WRITE);

/// Writes bytes that will be [`Sealed`].
///
/// They go to the file by `write(2)` and not through a mapping: on pages that are new this is twice as fast, and leaves
/// nothing to unmap.
#[derive(Debug)]
pub struct SealedWriter {
    file: File,
    len: u64,
}

impl SealedWriter {
    /// An empty file.
    ///
    /// # Errors
    /// Those of `memfd_create(2)`.
    pub fn create() -> io::Result<Self> {
        Ok(Self { file: mapping::memfd()?.into(), len: 0 })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`FileTooLarge`](io::ErrorKind::FileTooLarge) over the limit on the size of files (`RLIMIT_FSIZE`); those of `write(2)`: what was appended before is still there, and nothing can be appended any more.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        crate::sys::allow_len(self.len.saturating_add(bytes.len() as u64))?;
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Seals the file.
    ///
    /// # Errors
    /// Gives the writer back with the error: [`InvalidData`](io::ErrorKind::InvalidData) if nothing was written, because that
    /// cannot be mapped; those of `fcntl(2)` and `mmap(2)`.
    pub fn seal(self) -> Result<Sealed, (Self, io::Error)> {
        match self.try_seal() {
            Ok(sealed) => Ok(Sealed { fd: Some(self.file.into()), ..sealed }),
            Err(error) => Err((self, error)),
        }
    }

    fn try_seal(&self) -> io::Result<Sealed> {
        mapping::add_seals(self.file.as_fd(), SEALS.union(SealFlag::F_SEAL_SEAL))?;
        Sealed::open(self.file.as_fd())
    }

    /// What has been written so far, on the heap.
    ///
    /// # Errors
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory); those of `pread(2)`.
    pub fn into_vec(self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        bytes.resize(len, 0);
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// Bytes in a file that nobody can change any more, mapped.
#[derive(Debug)]
pub struct Sealed {
    id: u64,
    /// The file, where it was made; who opens it needs the mapping alone.
    fd: Option<OwnedFd>,
    mapping: Mapping,
}

impl Sealed {
    /// Whether a descriptor that another process sent is of a file that nobody can write to any more.
    #[must_use]
    pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
        mapping::checked_len(fd, SEALS).is_ok()
    }

    /// Maps such a file. The descriptor is not needed afterwards.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if it is not of ordinary memory, lacks a seal, or is empty; those of
    /// `fcntl(2)` (`EINVAL` for what cannot have seals), `fstat(2)`, `fstatfs(2)` and `mmap(2)`.
    #[doc(alias = "F_SEAL_WRITE")]
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let len = mapping::checked_len(fd, SEALS)?;
        let mapping = Mapping::readable(fd, len)?;
        Ok(Self { id: NEXT_ID.fetch_add(1, Relaxed), fd: None, mapping })
    }

    /// Its number, unique in this process among segments and sealed files.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The file, if it was made by this value.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }
}

impl Deref for Sealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `open` has seen F_SEAL_WRITE, which the kernel grants only while no mapping can write, and after which none
        // can be made; with the seals on the size the bytes are constant for ever.
        let bytes = unsafe { self.mapping.bytes(0, self.mapping.len()) };
        // The whole mapping is inside the mapping.
        bytes.unwrap_or_default()
    }
}
