//! A segment of another process.

use std::{io, os::fd::BorrowedFd};

use super::{SEALS, mapping, mapping::Mapping};

/// A segment of another process, mapped for reading.
///
/// Its content may change at any moment, but its size never: reading it cannot fault.
#[derive(Debug)]
pub struct SegmentView {
    mapping: Mapping,
}

impl SegmentView {
    /// Maps the segment behind a descriptor that the other process sent. The descriptor is not needed afterwards.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if it is not of ordinary memory, lacks a seal, or is empty; those of
    /// `fcntl(2)` (`EINVAL` for what cannot have seals), `fstat(2)`, `fstatfs(2)` and `mmap(2)`.
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let len = mapping::checked_len(fd, SEALS)?;
        Ok(Self { mapping: Mapping::readable(fd, len)? })
    }

    /// Its bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty segment is refused")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether `len` bytes from `offset` on are inside.
    #[must_use]
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len() as u64)
    }

    /// Appends a copy of `len` bytes from `offset` on to `into`; false, and nothing appended, if they are not all inside.
    ///
    /// If the other process writes to them meanwhile, the copy is a mixture.
    #[must_use = "false says that nothing was appended"]
    pub fn append_to(&self, offset: usize, len: usize, into: &mut Vec<u8>) -> bool {
        self.mapping.append_to(offset, len, into)
    }

    /// Copies from `offset` on until `into` is full; false, and nothing copied, if that is not all inside. Otherwise as
    /// [`append_to`](Self::append_to).
    #[must_use = "false says that nothing was copied"]
    pub fn copy_to(&self, offset: usize, into: &mut [u8]) -> bool {
        self.mapping.copy_to(offset, into)
    }

    /// Worker: `len` bytes from `offset` on, where they are; `None` if they are not all inside.
    ///
    /// # Safety
    /// The creator of the segment does not write to these bytes while they are borrowed: it is the supervisor, and has lent
    /// them to this process.
    #[must_use]
    pub unsafe fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        // SAFETY: nobody but the creator can write, as the seals say, and the caller vouches for that one; the size is sealed.
        unsafe { self.mapping.bytes(offset, len) }
    }
}
