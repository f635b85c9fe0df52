//! The memory that a supervisor shares with one worker: a sealed file (`memfd_create(2)`), mapped by both.
//!
//! | offset | what | |
//! |---|---|---|
//! | 0 | magic, which names the version of this table | 128 bytes |
//! | 128 | [claim board](crate::board) | 33,024 bytes |
//! | 33,152 | [ring](crate::ring) of tasks | 262,656 bytes |
//! | 295,808 | ring of results | 262,656 bytes |
//!
//! The supervisor makes one for each incarnation of a worker, maps it before the worker is started, and passes its
//! descriptor at the handshake. Fresh memory is zeros, which is the state in which everything starts: no ticket offered,
//! rings empty, everybody awake. Pages are touched as they are used, so a worker that has little to do costs a few.
//!
//! Its size is sealed, so that no access to it can fault, whatever the other side does with its descriptor.

use std::{
    fmt, io,
    mem::offset_of,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
};

use crate::{
    board::{Board, Words},
    gauges::{Figures, Gauges},
    ring::{Ring, RingReader, RingWriter},
    sys::{Mapping, Part},
    word::Word,
};

/// What is in the file, from its start on.
#[repr(C, align(4096))]
pub(crate) struct Layout {
    magic: Word,
    pub(crate) board: Words,
    tasks: Ring,
    results: Ring,
    pub(crate) figures: Figures,
}

/// Changes with everything that the layout depends on.
const MAGIC: u64 = u64::from_le_bytes(*b"POOLRGN5");

const _: () = {
    assert!(offset_of!(Layout, board) == 128);
    assert!(offset_of!(Layout, tasks) == 33_152 && size_of::<Words>() == 33_024);
    assert!(offset_of!(Layout, results) == 295_936 && size_of::<Ring>() == 262_784);
    assert!(offset_of!(Layout, figures) == 561_152 && size_of::<Figures>() == 16_384);
};

/// The memory that a supervisor shares with one worker: claim board, task ring, result ring and gauges, in one sealed file.
///
/// A clone is another handle of the same memory.
#[derive(Clone)]
pub struct Region {
    inner: Arc<Inner>,
}

struct Inner {
    mapping: Arc<Mapping<Layout>>,
    /// Whether the ends of the rings have been handed out.
    is_taken: AtomicBool,
}

impl Region {
    /// Makes an empty region, and the descriptor to give to the worker.
    ///
    /// # Errors
    /// [`FileTooLarge`](io::ErrorKind::FileTooLarge) over the limit on the size of files (`RLIMIT_FSIZE`); those of
    /// `memfd_create(2)`, `ftruncate(2)`, `fcntl(2)` and `mmap(2)`.
    #[doc(alias = "memfd_create")]
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let (mapping, fd) = Mapping::<Layout>::create(c"pool-region")?;
        mapping.magic.set(MAGIC);
        Ok((Self::new(mapping), fd))
    }

    /// Maps the region behind a descriptor that the supervisor sent. The descriptor is not needed afterwards.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if it has another size, other seals or no region's magic;
    /// those of `fstat(2)`, `fcntl(2)` and `mmap(2)`.
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let mapping = Mapping::<Layout>::open(fd.as_fd())?;
        if mapping.magic.get() != MAGIC {
            let message = "shared memory does not start with the magic of a region: wrong descriptor";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Self::new(mapping))
    }

    fn new(mapping: Mapping<Layout>) -> Self {
        Self { inner: Arc::new(Inner { mapping: Arc::new(mapping), is_taken: AtomicBool::new(false) }) }
    }

    /// The claim board. It keeps the memory alive by itself.
    #[must_use]
    pub fn board(&self) -> Board {
        Board::new(&self.inner.mapping)
    }

    /// What the worker measures, with the key that supervisor and worker have agreed upon. It keeps the memory alive by itself.
    #[must_use]
    pub fn gauges(&self, key: u64) -> Gauges {
        Gauges::new(&self.inner.mapping, key)
    }

    /// The supervisor's ends of the rings: tasks to write, results to read. They keep the memory alive by themselves.
    ///
    /// # Panics
    /// If ends of this region have been taken before: a ring has one writer and one reader.
    #[must_use]
    pub fn supervisor(&self) -> (RingWriter, RingReader) {
        self.take();
        let (tasks, results) = self.rings();
        (RingWriter::new(tasks), RingReader::new(results))
    }

    /// The worker's ends of the rings: tasks to read, results to write. They keep the memory alive by themselves.
    ///
    /// # Panics
    /// If ends of this region have been taken before: a ring has one writer and one reader.
    #[must_use]
    pub fn worker(&self) -> (RingReader, RingWriter) {
        self.take();
        let (tasks, results) = self.rings();
        (RingReader::new(tasks), RingWriter::new(results))
    }

    fn take(&self) {
        assert!(!self.inner.is_taken.swap(true, AcqRel), "the ends of a region's rings are taken once");
    }

    fn rings(&self) -> (Part<Layout, Ring>, Part<Layout, Ring>) {
        let mapping = &self.inner.mapping;
        (Part::new(mapping, |region| &region.tasks), Part::new(mapping, |region| &region.results))
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("mapping", &self.inner.mapping).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use nix::{
        errno::Errno,
        fcntl::{FcntlArg, SealFlag, fcntl},
        sys::memfd::{MFdFlags, memfd_create},
        unistd::{self, ftruncate},
    };

    use super::*;
    use crate::sys::SEALS;

    #[test]
    fn a_region_keeps_its_size_whatever_its_holder_tries() {
        let (_region, memory) = Region::create().unwrap();
        assert_eq!(unistd::ftruncate(&memory, 0), Err(Errno::EPERM));
        assert_eq!(unistd::ftruncate(&memory, 1 << 30), Err(Errno::EPERM));
        assert_eq!(fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
    }

    #[test]
    fn only_a_region_opens_as_one() {
        let open = |fd: &OwnedFd| Region::open(fd.as_fd()).unwrap_err().kind();
        let memfd = |len, seals| {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let fd = memfd_create(c"not-a-region", flags).unwrap();
            ftruncate(&fd, len).unwrap();
            fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            fd
        };
        let len = size_of::<Layout>() as libc::off_t;
        assert_eq!(open(&memfd(len - 1, SEALS)), io::ErrorKind::InvalidData);
        assert_eq!(open(&memfd(len, SealFlag::F_SEAL_GROW)), io::ErrorKind::InvalidData);
        assert_eq!(open(&memfd(len, SEALS)), io::ErrorKind::InvalidData, "no magic");
        let (read, _write) = crate::pipe_pair().unwrap();
        assert_eq!(open(&read), io::ErrorKind::InvalidData);
    }

    #[test]
    fn each_ring_leads_from_one_side_to_the_other() {
        let (ours, memory) = Region::create().unwrap();
        let theirs = Region::open(memory.as_fd()).unwrap();
        let (mut tasks_in, mut results_out) = ours.supervisor();
        let (mut tasks_out, mut results_in) = theirs.worker();
        let mut found = Vec::new();
        tasks_in.stage(b"task").unwrap();
        assert!(!tasks_in.publish());
        assert_eq!(results_out.available(), Ok(0));
        tasks_out.read_into(&mut found, usize::MAX).unwrap();
        results_in.stage(b"result").unwrap();
        assert!(!results_in.publish());
        results_out.read_into(&mut found, usize::MAX).unwrap();
        assert_eq!(found, b"taskresult");
    }

    #[test]
    #[should_panic(expected = "taken once")]
    fn ends_are_handed_out_once() {
        let (region, _memory) = Region::create().unwrap();
        let _ends = region.supervisor();
        let _more = region.clone().worker();
    }

    #[test]
    fn an_idle_region_uses_few_pages() {
        let (region, memory) = Region::create().unwrap();
        let blocks = || nix::sys::stat::fstat(&memory).unwrap().st_blocks * 512;
        let (mut tasks, mut results) = region.supervisor();
        region.board().offer_all(1, 100);
        tasks.stage(&[1; 1000]).unwrap();
        let _ = tasks.publish();
        assert_eq!(results.available(), Ok(0));
        assert!(blocks() <= 4 * 4096, "{} bytes", blocks());
    }
}
