//! Large arguments and results: memory that one process writes and the other one reads.
//!
//! A [`Segment`] is a memfd that its creator has mapped for writing, divided into [`Block`]s of one size. Its descriptor is
//! sent once to each process that is to read it, which maps it as a [`SegmentView`]; after that a [`Locator`] in a frame says
//! where a payload is. The pages are used again and again: a page that is new costs 20 times as much as copying it.
//!
//! # Who may do what
//!
//! | | creator | the other process |
//! |---|---|---|
//! | change its size | nobody: sealed | nobody |
//! | write | through its mapping, to blocks that are not lent | never: `F_SEAL_FUTURE_WRITE` |
//! | read | | a block that is lent to it |
//!
//! A worker runs code that may write anywhere. So before it starts another task it [protects](Block::protect) the results that
//! are still lent: whatever strays there dies of it, and no result is spoilt that has been reported.
//!
//! # States of a block
//!
//! ```text
//!         Segment::take               encoded, locator sent
//!  free ────────────────▶ being written ────────────────▶ lent
//!    ▲                          │ given up                  │ the other side is done with it, or dead
//!    └──────────────────────────┴───────────────────────────┘
//! ```
//!
//! The creator keeps the [`Block`] for as long as it is lent; dropping it makes it free. For arguments the creator is the
//! supervisor: they are lent until the worker's answer has come, or the worker is dead, whatever has become of the task
//! meanwhile. For results it is the worker: they are lent until the supervisor says so ([`Kind::Release`](crate::Kind)).
//!
//! # Trust
//!
//! The worker believes the supervisor, so it borrows arguments where they are ([`SegmentView::bytes`]). The supervisor
//! believes nothing: a worker can write to its own segment at any time, also while it is read. So the supervisor never has a
//! reference into it, but copies out ([`SegmentView::append_to`]) and decodes the copy. The size cannot change, and memory
//! that could fault otherwise is refused, so a hostile segment yields wrong bytes at worst.
//!
//! A child that is forked without exec shares the memory behind its parent's mappings: it must take no blocks.
//!
//! A [`Sealed`] file is the exception: nobody can ever write to it again, not even its creator, which the kernel vouches for
//! (`F_SEAL_WRITE`). It is read where it is, and used once.

mod locator;
mod mapping;
mod sealed;
mod view;

use std::{
    fmt, io,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use nix::fcntl::SealFlag;

pub use locator::Locator;
use mapping::Mapping;
pub use sealed::{Sealed, SealedWriter};
pub use view::SegmentView;

/// What a segment must have been sealed with when it is shared.
const SEALS: SealFlag = mapping::FIXED_SIZE.union(SealFlag::F_SEAL_SEAL).union(mapping::FUTURE_WRITE);

/// The most blocks of a segment.
pub const MAX_BLOCKS: u32 = 64;

/// Numbers segments and sealed files alike: one socket carries both.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Memory that this process writes and others read; see the [module documentation](self).
///
/// ```
/// use std::os::fd::AsFd;
/// use std::sync::Arc;
/// use pool_ipc::segment::{Segment, SegmentView};
///
/// let segment = Arc::new(Segment::create(64 << 10, 4)?);
/// let mut block = segment.take().expect("all four are free");
/// block.bytes_mut()[..5].copy_from_slice(b"hello");
///
/// let view = SegmentView::open(segment.fd())?; // in the other process
/// let mut copy = Vec::new();
/// assert!(view.append_to(block.offset(), 5, &mut copy));
/// assert_eq!(copy, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Segment {
    id: u64,
    fd: OwnedFd,
    mapping: Mapping,
    block: NonZeroUsize,
    count: u32,
    /// A bit for each block that nobody has.
    free: AtomicU64,
    /// A bit for each block that has been used, and so has pages.
    touched: AtomicU64,
}

impl Segment {
    /// Makes a segment of `count` blocks of `block` bytes, rounded up to whole pages. Pages come with their first use.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `block` or `count` is 0, `count` is over [`MAX_BLOCKS`], or it would be
    /// too large; [`FileTooLarge`](io::ErrorKind::FileTooLarge) over the limit on the size of files (`RLIMIT_FSIZE`); those of `memfd_create(2)`, `ftruncate(2)`, `mmap(2)` and `fcntl(2)`.
    #[doc(alias = "memfd_create")]
    #[doc(alias = "F_SEAL_FUTURE_WRITE")]
    pub fn create(block: usize, count: u32) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let block = block.checked_next_multiple_of(PAGE).and_then(NonZeroUsize::new).ok_or_else(invalid)?;
        if count == 0 || count > MAX_BLOCKS {
            return Err(invalid());
        }
        let len = block.get().checked_mul(count as usize).ok_or_else(invalid)?;
        let fd = mapping::memfd()?;
        crate::sys::set_len(&fd, len)?;
        let mapping = Mapping::writable(fd.as_fd(), len)?;
        mapping::add_seals(fd.as_fd(), SEALS)?;
        let free = AtomicU64::new(u64::MAX >> (MAX_BLOCKS - count));
        let id = NEXT_ID.fetch_add(1, Relaxed);
        Ok(Self { id, fd, mapping, block, count, free, touched: AtomicU64::new(0) })
    }

    /// Its number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the other process opens; it stays usable for as many as there will be.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes of all its blocks.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a block at least")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_len(&self) -> usize {
        self.block.get()
    }

    /// How many blocks somebody has.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.count - self.free.load(Relaxed).count_ones()
    }

    /// How many blocks are free and have pages already.
    #[must_use]
    pub fn kept(&self) -> u32 {
        (self.free.load(Relaxed) & self.touched.load(Relaxed)).count_ones()
    }

    /// Whether some block is free.
    #[must_use]
    pub fn has_free(&self) -> bool {
        self.free.load(Relaxed) != 0
    }

    /// Whether every block is free.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.used() == 0
    }

    /// Takes a free block, one that has pages already if there is one. Its content is whatever it was.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Block> {
        let mut free = self.free.load(Relaxed);
        loop {
            let warm = free & self.touched.load(Relaxed);
            let choice = if warm != 0 { warm } else { free };
            if choice == 0 {
                return None;
            }
            let index = choice.trailing_zeros();
            // Acquire: what the block's last owner did to it came before.
            match self.free.compare_exchange_weak(free, free & !(1 << index), Acquire, Relaxed) {
                Ok(_) => {
                    self.touched.fetch_or(1 << index, AcqRel);
                    return Some(Block { segment: Arc::clone(self), index, is_protected: false });
                }
                Err(now) => free = now,
            }
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("id", &self.id)
            .field("block", &self.block)
            .field("count", &self.count)
            .field("free", &self.free.load(Relaxed).count_ones())
            .finish_non_exhaustive()
    }
}

/// A block of a [`Segment`], which nobody else in this process has; free again when it is dropped.
pub struct Block {
    segment: Arc<Segment>,
    index: u32,
    /// A store to it, by whatever code of this process, faults.
    is_protected: bool,
}

impl Block {
    /// The segment that it is part of.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where it starts in its segment, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.index as usize * self.segment.block_len()
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the bit in `free` makes this the only `Block` of these bytes, and it is borrowed, so nobody in this process
        // writes; the seals, which were put before the descriptor was given away, keep every other process from writing.
        let bytes = unsafe { self.segment.mapping.bytes(self.offset(), self.segment.block_len()) };
        // A block is inside its segment.
        bytes.unwrap_or_default()
    }

    /// Has stores to it fault until it is dropped: while it is lent, code that has lost its way cannot change it unnoticed.
    ///
    /// # Errors
    /// Those of `mprotect(2)`; nothing has changed then.
    #[doc(alias = "mprotect")]
    pub fn protect(&mut self) -> io::Result<()> {
        self.segment.mapping.protect(self.offset(), self.segment.block_len(), false)?;
        self.is_protected = true;
        Ok(())
    }

    /// Its bytes, to be written: none if it is [protected](Self::protect). Not while they are lent to another process.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.is_protected {
            return &mut [];
        }
        // SAFETY: as above, and the borrow is exclusive. Other processes may read, which is theirs to make sense of.
        let bytes = unsafe { self.segment.mapping.bytes_mut(self.offset(), self.segment.block_len()) };
        bytes.unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let whole = self.segment.block_len();
        if self.is_protected && self.segment.mapping.protect(self.offset(), whole, true).is_err() {
            // The kernel has no room for the change. Nobody else can use it then; it goes with its segment.
            return;
        }
        // Release: what was done to the block comes before its next owner.
        self.segment.free.fetch_or(1 << self.index, Release);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("segment", &self.segment.id).field("index", &self.index).finish()
    }
}

/// What the sizes of blocks are rounded to. Where pages are larger, neighbours share one, which only costs memory.
const PAGE: usize = 4 << 10;

#[cfg(test)]
mod tests;
