//! Where large arguments and results are encoded: the process-wide store of segments.
//!
//! A page that is new costs 20 times as much as copying it, so segments are kept when their content has ended, and used
//! again, best fit first. What is kept is bounded, and goes back to the system when it has not been used for [`IDLE`]. The
//! store never fails: where a limit is reached or the system refuses, the payload goes to the heap and through the rings.
//!
//! One store serves all pools of a process, and in a worker its results. It is closed until a pool is built or the process
//! becomes a worker, and for ever in a forked child, which shares the memory behind the mappings with its parent.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pool_ipc::Segment;
use pool_ipc::segment::MAX_BLOCKS;

use crate::fork::Origin;

/// Payloads of this many bytes and more are large.
pub(crate) const LARGE: usize = 64 << 10;
/// A segment that has not been used for so long goes back to the system.
pub(crate) const IDLE: Duration = Duration::from_secs(10);
/// Small blocks share segments of about this size, because each segment takes a descriptor and a mapping.
const SEGMENT: usize = 4 << 20;
/// A kept block may be used for a payload of a quarter of its size, but not for less.
const LOOSEST_FIT: usize = 4;

/// Blocks of one size that may be in use in any case.
const SOME: usize = 3;

/// How much a store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of blocks that are in use, but always some of them, however large.
    pub(crate) used: usize,
    /// Bytes of blocks that are kept for later use.
    pub(crate) kept: usize,
    /// Bytes of all segments.
    pub(crate) bytes: usize,
    /// Segments.
    pub(crate) segments: usize,
}

impl Limits {
    /// For arguments: as much as the heap would hold otherwise, but not all descriptors of the process.
    pub(crate) const SUPERVISOR: Self =
        Self { used: usize::MAX, kept: 256 << 20, bytes: 8 << 30, segments: 128 };
    /// For the results of one worker, which the supervisor admits this much of. Few are in use at once: a worker that is ahead
    /// of the callers had better wait for room in its ring than fill pages that are new.
    pub(crate) const WORKER: Self = Self { used: 32 << 20, kept: 64 << 20, bytes: 4 << 30, segments: 32 };
}

/// A store of segments.
pub(crate) struct Arena {
    opened: OnceLock<(Origin, Limits)>,
    /// Who has it open. While it is nobody, nothing is kept.
    users: AtomicUsize,
    segments: Mutex<Vec<Entry>>,
    /// How many segments have been given back to the system.
    gone: AtomicU64,
}

struct Entry {
    segment: Arc<Segment>,
    used: Instant,
}

/// The store of this process.
pub(crate) static ARENA: Arena = Arena::new();

impl Arena {
    pub(crate) const fn new() -> Self {
        Self {
            opened: OnceLock::new(),
            users: AtomicUsize::new(0),
            segments: Mutex::new(Vec::new()),
            gone: AtomicU64::new(0),
        }
    }

    /// Opens the store for as long as the answer lives: large payloads are encoded in segments. The limits are those of who
    /// comes first.
    pub(crate) fn open(&'static self, limits: Limits) -> Opened {
        self.opened.get_or_init(|| (Origin::here(), limits));
        self.users.fetch_add(1, Ordering::SeqCst);
        Opened(self)
    }

    /// The limits, if the store may be used here; nothing is kept where nobody uses it.
    fn limits(&self) -> Option<Limits> {
        let (_, limits) = self.opened.get().filter(|(origin, _)| !origin.is_elsewhere())?;
        let is_open = self.users.load(Ordering::SeqCst) > 0;
        Some(if is_open { *limits } else { Limits { used: 0, kept: 0, bytes: 0, segments: 0 } })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Nothing panics between two changes that belong together.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `need` bytes; `None` says that the heap has to do.
    pub(crate) fn take(&'static self, need: usize) -> Option<Block> {
        let limits = self.limits()?;
        let mut evicted = Vec::new();
        let mut segments = self.lock();
        let used: usize = segments.iter().map(used_bytes).sum();
        if used.saturating_add(need) > limits.used.max(need.saturating_mul(SOME)) {
            return None;
        }
        let inner = match find(&mut segments, need) {
            Some(block) => block,
            None => {
                let (block, count) = shape(need)?;
                evicted = make_room(&mut segments, limits, block.checked_mul(count as usize)?)?;
                let segment = match Segment::create(block, count) {
                    Ok(segment) => Arc::new(segment),
                    Err(error) => {
                        tracing::debug!(%error, "no segment for a large payload; it takes the slow way");
                        return None;
                    }
                };
                segments.push(Entry { segment: Arc::clone(&segment), used: Instant::now() });
                segment.take()?
            }
        };
        drop(segments);
        self.let_go(evicted);
        Some(Block { inner, _freed: Freed(self) })
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Gives segments back that have not been used for [`IDLE`]. Returns when to come again, if there is anything left.
    pub(crate) fn trim(&self, now: Instant) -> Option<Instant> {
        self.limits()?;
        let mut segments = self.lock();
        let idle = |entry: &mut Entry| {
            entry.segment.is_unused() && now.saturating_duration_since(entry.used) >= IDLE
        };
        let evicted: Vec<Entry> = segments.extract_if(.., idle).collect();
        // Those in use are looked at again later, though nothing says when they will be free.
        let due = segments.iter().map(|entry| if entry.segment.is_unused() { entry.used } else { now }).min();
        drop(segments);
        self.let_go(evicted);
        due.map(|used| used + IDLE)
    }

    /// How many segments have been given back so far: if it has grown, some numbers mean nothing any more.
    pub(crate) fn gone(&self) -> u64 {
        self.gone.load(Ordering::Acquire)
    }

    /// Unmaps segments, which takes long, so not under the lock.
    fn let_go(&self, segments: Vec<Entry>) {
        let count = segments.len() as u64;
        drop(segments);
        self.gone.fetch_add(count, Ordering::Release);
    }

    /// A block has become free: what is kept beyond the limit goes.
    fn freed(&self) {
        let Some(limits) = self.limits() else { return };
        let mut segments = self.lock();
        // One that is over the limit by itself goes before it drives out all others.
        let oversized =
            |entry: &mut Entry| entry.segment.block_len() > limits.kept && entry.segment.is_unused();
        let mut evicted: Vec<Entry> = segments.extract_if(.., oversized).collect();
        let mut kept: usize = segments.iter().map(kept_bytes).sum();
        while kept > limits.kept
            && let Some(entry) = oldest_unused(&mut segments)
        {
            kept -= kept_bytes(&entry);
            evicted.push(entry);
        }
        drop(segments);
        self.let_go(evicted);
    }
}

fn used_bytes(entry: &Entry) -> usize {
    entry.segment.used() as usize * entry.segment.block_len()
}

fn kept_bytes(entry: &Entry) -> usize {
    entry.segment.kept() as usize * entry.segment.block_len()
}

/// Takes the block that fits best: one that has pages, or else one of the right size.
fn find(segments: &mut [Entry], need: usize) -> Option<pool_ipc::Block> {
    let loosest = need.saturating_mul(LOOSEST_FIT).max(LARGE);
    let fits = |entry: &&mut Entry| (need..=loosest).contains(&entry.segment.block_len());
    let exact = shape(need)?.0;
    let best = segments
        .iter_mut()
        .filter(fits)
        .filter(|entry| {
            entry.segment.kept() > 0 || (entry.segment.block_len() == exact && entry.segment.has_free())
        })
        .min_by_key(|entry| (entry.segment.kept() == 0, entry.segment.block_len()))?;
    best.used = Instant::now();
    best.segment.take()
}

/// The size of blocks for payloads of `need` bytes, and how many share a segment: a quarter of a power of two is the step, so
/// at most a fifth of a block is waste.
fn shape(need: usize) -> Option<(usize, u32)> {
    let need = need.max(LARGE);
    let step = need.checked_next_power_of_two()? / 8;
    let block = need.checked_next_multiple_of(step)?;
    let count = u32::try_from(SEGMENT / block).unwrap_or(MAX_BLOCKS).clamp(1, MAX_BLOCKS);
    Some((block, count))
}

/// Takes unused segments out until there is room for one more of `len` bytes; `None` if there cannot be.
fn make_room(segments: &mut Vec<Entry>, limits: Limits, len: usize) -> Option<Vec<Entry>> {
    let bytes_of = |entry: &Entry| entry.segment.len();
    let mut bytes: usize = segments.iter().map(bytes_of).sum();
    let mut evicted = Vec::new();
    while segments.len() >= limits.segments || bytes.saturating_add(len) > limits.bytes {
        let Some(entry) = oldest_unused(segments) else {
            // Those taken out already are as good as any that would be needed next: keep them.
            segments.append(&mut evicted);
            return None;
        };
        bytes -= bytes_of(&entry);
        evicted.push(entry);
    }
    Some(evicted)
}

fn oldest_unused(segments: &mut Vec<Entry>) -> Option<Entry> {
    let unused = segments.iter().enumerate().filter(|(_, entry)| entry.segment.is_unused());
    let (index, _) = unused.min_by_key(|(_, entry)| entry.used)?;
    Some(segments.swap_remove(index))
}

/// Keeps a store open.
#[derive(Debug)]
pub(crate) struct Opened(&'static Arena);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::SeqCst);
        // Gives back what is kept, if that was the last one.
        self.0.freed();
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("opened", &self.opened.get()).finish_non_exhaustive()
    }
}

/// A block from the store, to which it returns when it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    // Dropped in this order: the store is told of a block that is free.
    inner: pool_ipc::Block,
    _freed: Freed,
}

impl Block {
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        self.inner.segment()
    }

    pub(crate) fn offset(&self) -> usize {
        self.inner.offset()
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.inner.segment().block_len()
    }

    /// Has stores to it fault until it is dropped, if the system can.
    pub(crate) fn protect(&mut self) {
        if let Err(error) = self.inner.protect() {
            tracing::debug!(%error, "a result that is lent cannot be protected");
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.inner.bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.inner.bytes_mut()
    }
}

/// Tells the store that a block is free.
#[derive(Debug)]
struct Freed(&'static Arena);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.freed();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    /// A store of a test's own.
    pub(crate) fn arena(limits: Limits) -> &'static Arena {
        let arena: &'static Arena = Box::leak(Box::new(Arena::new()));
        std::mem::forget(arena.open(limits));
        arena
    }

    fn held(arena: &Arena) -> usize {
        arena.lock().len()
    }

    #[test]
    fn a_block_is_used_again() {
        let arena = arena(Limits::SUPERVISOR);
        let first = arena.take(MIB).unwrap();
        let (id, offset) = (first.segment().id(), first.offset());
        assert!(first.capacity() >= MIB && first.bytes().len() == first.capacity());
        let second = arena.take(MIB).unwrap();
        assert_eq!((second.segment().id(), second.offset() == offset), (id, false), "they share a segment");
        drop(first);
        let third = arena.take(MIB - 5).unwrap();
        assert_eq!((third.segment().id(), third.offset()), (id, offset));
        assert_eq!((held(arena), arena.gone()), (1, 0));
    }

    #[test]
    fn the_best_fit_is_taken_and_a_far_too_large_one_is_left() {
        let arena = arena(Limits::SUPERVISOR);
        let sizes = [40 * MIB, 10 * MIB, 20 * MIB];
        let blocks = sizes.map(|size| arena.take(size).unwrap());
        let ids = blocks.each_ref().map(|block| block.segment().id());
        drop(blocks);
        assert_eq!(arena.take(9 * MIB).unwrap().segment().id(), ids[1]);
        assert_eq!(arena.take(11 * MIB).unwrap().segment().id(), ids[2]);
        assert_eq!(arena.take(30 * MIB).unwrap().segment().id(), ids[0]);
        assert!(!ids.contains(&arena.take(2 * MIB).unwrap().segment().id()));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let arena = arena(Limits { kept: 32 * MIB, ..Limits::SUPERVISOR });
        let blocks: Vec<Block> = (0..10).map(|_| arena.take(8 * MIB).unwrap()).collect();
        let last = blocks[9].segment().id();
        assert_eq!(held(arena), 10);
        drop(blocks);
        assert_eq!((held(arena), arena.gone()), (4, 6));
        assert!(arena.lock().iter().any(|entry| entry.segment.id() == last));
        drop(arena.take(100 * MIB));
        assert_eq!(arena.lock().iter().map(|entry| entry.segment.len()).max(), Some(8 * MIB));
    }

    #[test]
    fn what_is_idle_goes_back() {
        let arena = arena(Limits::SUPERVISOR);
        assert_eq!(arena.trim(Instant::now()), None);
        let (kept, busy) = (arena.take(16 * MIB).unwrap(), arena.take(MIB).unwrap());
        drop(kept);
        let soon = Instant::now();
        assert!(arena.trim(soon).is_some_and(|due| due <= soon + IDLE));
        assert_eq!(held(arena), 2);
        let later = soon + 2 * IDLE;
        assert_eq!(arena.trim(later), Some(later + IDLE), "one is in use");
        assert_eq!((held(arena), arena.gone()), (1, 1));
        drop(busy);
        assert_eq!(arena.trim(later), None);
        assert_eq!((held(arena), arena.gone()), (0, 2));
    }

    #[test]
    fn limits_lead_to_the_heap_once_nothing_unused_can_make_room() {
        let arena = arena(Limits { used: usize::MAX, kept: 64 * MIB, bytes: 20 * MIB, segments: 2 });
        assert!(arena.take(32 * MIB).is_none(), "more than all");
        let first = arena.take(8 * MIB).unwrap();
        assert!(arena.take(16 * MIB).is_none(), "too many bytes");
        let second = arena.take(6 * MIB).unwrap();
        assert!(arena.take(MIB).is_none(), "too many segments");
        drop(second);
        assert!(arena.take(12 * MIB).is_some(), "in the place of the one that is unused");
        drop(first);
        assert!(arena.take(usize::MAX).is_none());
        assert!(held(arena) <= 2);
    }

    #[test]
    fn few_bytes_are_in_use_at_once_but_always_some_blocks() {
        let arena = arena(Limits { used: 8 * MIB, ..Limits::SUPERVISOR });
        let small: Vec<Block> = std::iter::from_fn(|| arena.take(MIB)).collect();
        assert_eq!(small.len(), 8);
        drop(small);
        let large: Vec<Block> = std::iter::from_fn(|| arena.take(16 * MIB)).collect();
        assert_eq!(large.len(), SOME);
        assert!(arena.take(LARGE).is_none());
        drop(large);
        assert!(arena.take(LARGE).is_some());
    }

    #[test]
    fn nothing_is_kept_once_the_last_user_is_gone() {
        let arena: &'static Arena = Box::leak(Box::new(Arena::new()));
        let users = [arena.open(Limits::SUPERVISOR), arena.open(Limits::SUPERVISOR)];
        let (kept, held) = (arena.take(16 * MIB).unwrap(), arena.take(16 * MIB).unwrap());
        drop(kept);
        let [first, second] = users;
        drop(first);
        assert_eq!(super::tests::held(arena), 2);
        drop(second);
        assert_eq!(super::tests::held(arena), 1, "one is in use");
        assert!(arena.take(16 * MIB).is_none());
        drop(held);
        assert!(arena.is_empty());
        let _again = arena.open(Limits::SUPERVISOR);
        assert!(arena.take(16 * MIB).is_some());
    }

    #[test]
    fn a_store_that_was_not_opened_has_nothing() {
        static CLOSED: Arena = Arena::new();
        assert!(CLOSED.take(MIB).is_none());
        assert_eq!(CLOSED.trim(Instant::now()), None);
    }

    proptest! {
        #[test]
        fn blocks_are_large_enough_and_waste_a_fifth_at_most(need in 0..usize::MAX / 4) {
            let (block, count) = shape(need).unwrap();
            prop_assert!(block >= need.max(LARGE));
            prop_assert!(block <= need.max(LARGE) / 4 * 5 + 8);
            prop_assert!((1..=MAX_BLOCKS).contains(&count));
            prop_assert!(count == 1 || block * count as usize <= SEGMENT);
        }
    }
}
