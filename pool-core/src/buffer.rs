//! Where values are encoded, and what encoded arguments become.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use pool_ipc::{Locator, Segment};

use crate::arena::{ARENA, Arena, Block, LARGE};
use crate::reply::Encoded;
use crate::shared_bytes::SharedBytes;

/// Bytes that need no memory beside the value that holds them.
pub(crate) const INLINE: usize = 22;

/// The least that the heap is asked for.
const SMALLEST: usize = 64;

/// More than this no frame can have, whatever the limit of a pool.
const MOST: usize = u32::MAX as usize;

/// Where values are encoded, one after another: at first inside itself, then on the heap, and from 64 KiB on in shared
/// memory, where the other process finds them without another copy.
#[derive(Debug)]
pub struct Buffer {
    place: Place,
    /// What follows the rest and is not copied: of a result only.
    attached: Option<SharedBytes>,
    arena: &'static Arena,
    /// What is encoded piece by piece may become so long. A value that is in memory as a whole is copied, however long it is: it
    /// is looked at afterwards.
    most: usize,
}

#[derive(Debug)]
enum Place {
    Inline(Inline),
    Heap(Vec<u8>),
    Block(Filled),
}

/// A few bytes.
///
/// It is moved often, right after its bytes have been written. Aligned, it is moved by whole words; one that begins anywhere is
/// moved by words that overlap, and each of those waits for the bytes before it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Inline {
    bytes: [u8; INLINE],
    len: Len,
    /// Of no use; without it, the last word would not be moved as one.
    rest: u8,
}

/// How many bytes of an [`Inline`] are in use. An enum, so that an enum around it needs no other tag.
#[derive(Clone, Copy)]
#[repr(u8)]
#[rustfmt::skip]
enum Len {
    L0, L1, L2, L3, L4, L5, L6, L7, L8, L9, L10, L11,
    L12, L13, L14, L15, L16, L17, L18, L19, L20, L21, L22,
}

impl Len {
    #[rustfmt::skip]
    const ALL: [Self; INLINE + 1] = [
        Self::L0, Self::L1, Self::L2, Self::L3, Self::L4, Self::L5, Self::L6, Self::L7, Self::L8, Self::L9, Self::L10, Self::L11,
        Self::L12, Self::L13, Self::L14, Self::L15, Self::L16, Self::L17, Self::L18, Self::L19, Self::L20, Self::L21, Self::L22,
    ];

    #[inline]
    fn new(len: usize) -> Option<Self> {
        Self::ALL.get(len).copied()
    }
}

impl Default for Inline {
    #[inline]
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Inline {
    const EMPTY: Self = Self { bytes: [0; INLINE], len: Len::L0, rest: 0 };

    #[inline]
    fn len(&self) -> usize {
        self.len as usize
    }

    fn truncate(&mut self, len: usize) {
        self.len = Len::new(len.min(self.len())).unwrap_or(Len::L0);
    }

    /// Holds `bytes`, if they are few enough.
    #[inline]
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let mut inline = Self::default();
        inline.append(bytes).then_some(inline)
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        // The length never exceeds the array; saying so here spares the check a panic.
        &self.bytes[..self.len().min(INLINE)]
    }

    /// Appends, if there is room.
    #[inline]
    fn append(&mut self, bytes: &[u8]) -> bool {
        let start = self.len();
        let (Some(len), Some(spare)) =
            (Len::new(start + bytes.len()), self.bytes.get_mut(start..start + bytes.len()))
        else {
            return false;
        };
        // Most values are numbers: a few bytes, for which calling `memcpy` takes long.
        match bytes.len() {
            1 => copy::<1>(spare, bytes),
            2 => copy::<2>(spare, bytes),
            3 => copy::<3>(spare, bytes),
            4 => copy::<4>(spare, bytes),
            5 => copy::<5>(spare, bytes),
            _ => spare.copy_from_slice(bytes),
        }
        self.len = len;
        true
    }
}

/// Copies exactly `N` bytes, one by one: they were written like that just before.
#[inline(always)]
fn copy<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = *from;
    }
}

/// A block, and how much of it is in use.
#[derive(Debug)]
struct Filled {
    block: Block,
    len: usize,
}

impl Filled {
    fn as_slice(&self) -> &[u8] {
        &self.block.bytes()[..self.len]
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(spare) = self.block.bytes_mut().get_mut(self.len..).and_then(|s| s.get_mut(..bytes.len()))
        else {
            return false;
        };
        spare.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Buffer {
    /// An empty one, which has allocated nothing.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self::of(&ARENA)
    }

    pub(crate) const fn of(arena: &'static Arena) -> Self {
        Self { place: Place::Inline(Inline::EMPTY), attached: None, arena, most: MOST }
    }

    /// An empty one, for values of at most so many bytes.
    pub(crate) const fn limited(most: usize) -> Self {
        Self { place: Place::Inline(Inline::EMPTY), attached: None, arena: &ARENA, most }
    }

    /// Appends one byte.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        self.extend_from_slice(&[byte]);
    }

    /// Appends bytes.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        if !self.append(bytes) {
            self.move_and_extend(bytes);
        }
    }

    /// Appends a piece of a value; false if the value becomes too long.
    #[inline]
    pub(crate) fn try_extend(&mut self, bytes: &[u8]) -> bool {
        self.append(bytes) || self.try_move_and_extend(bytes)
    }

    /// Only where there is no room is there anything to be counted: the room never grows far beyond what is allowed.
    #[cold]
    fn try_move_and_extend(&mut self, bytes: &[u8]) -> bool {
        let fits = self.len().saturating_add(bytes.len()) <= self.most;
        if fits {
            self.move_and_extend(bytes);
        }
        fits
    }

    /// Appends, if there is room where it is.
    #[inline]
    fn append(&mut self, bytes: &[u8]) -> bool {
        match &mut self.place {
            Place::Inline(inline) => inline.append(bytes),
            Place::Heap(heap) => {
                let fits = bytes.len() <= heap.capacity() - heap.len();
                if fits {
                    heap.extend_from_slice(bytes);
                }
                fits
            }
            Place::Block(filled) => filled.append(bytes),
        }
    }

    #[cold]
    fn move_and_extend(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        if !self.append(bytes) {
            // Cannot be, since room has just been made. The heap takes everything.
            self.place = Place::Heap([self.as_slice(), bytes].concat());
        }
    }

    /// Moves to a place that has room for `more` bytes.
    fn make_room(&mut self, more: usize) {
        let need = self.len().saturating_add(more);
        if need >= LARGE {
            // A single large value is copied once. What grows piece by piece doubles.
            let grown = if let Place::Block(filled) = &self.place { filled.len.saturating_mul(2) } else { 0 };
            if let Some(block) = self.arena.take(need.max(grown)) {
                let mut filled = Filled { block, len: 0 };
                if filled.append(self) {
                    self.place = Place::Block(filled);
                    return;
                }
            }
        }
        match &mut self.place {
            Place::Heap(heap) => heap.reserve(more),
            _ => {
                let mut heap = Vec::with_capacity(need.max(SMALLEST));
                heap.extend_from_slice(self);
                self.place = Place::Heap(heap);
            }
        }
    }

    /// Cuts it to `len` bytes, if it has more.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.place {
            Place::Inline(inline) => inline.truncate(len),
            Place::Heap(heap) => heap.truncate(len),
            Place::Block(filled) => filled.len = filled.len.min(len),
        }
    }

    /// Empties it. Memory on the heap is kept, up to a bound, so that the next value needs none.
    #[inline]
    pub fn clear(&mut self) {
        if self.attached.is_some() {
            self.attached = None;
        }
        match &mut self.place {
            Place::Inline(inline) => inline.len = Len::L0,
            Place::Heap(heap) if heap.capacity() <= LARGE => heap.clear(),
            _ => self.place = Place::Inline(Inline::default()),
        }
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.place {
            Place::Inline(inline) => inline.as_slice(),
            Place::Heap(heap) => heap,
            Place::Block(filled) => filled.as_slice(),
        }
    }

    /// What it holds, as a result to be decoded here.
    pub(crate) fn encoded(&self) -> Encoded<'_> {
        match &self.attached {
            None => Encoded::from(self.as_slice()),
            Some(bytes) => Encoded::of_sealed(self, bytes),
        }
    }

    /// Ends the result with `bytes`, which are not copied; false if they cannot be sent like that.
    pub(crate) fn attach(&mut self, bytes: &SharedBytes) -> bool {
        let can_be_sent = bytes.sealed().is_some_and(|sealed| sealed.fd().is_some());
        if can_be_sent {
            self.attached = Some(bytes.clone());
        }
        can_be_sent
    }

    /// Takes out what is not to be copied.
    pub(crate) fn take_attached(&mut self) -> Option<SharedBytes> {
        self.attached.take()
    }

    /// What it holds, to be kept and handed on.
    #[inline(always)]
    pub(crate) fn finish(self) -> Args {
        Args(match self.place {
            Place::Inline(inline) => Shared::Inline(inline),
            Place::Heap(heap) => Shared::Heap(Arc::new(heap)),
            Place::Block(filled) => Shared::Block(Arc::new(filled)),
        })
    }

    /// Whether all of it is in private memory.
    #[inline]
    pub(crate) fn is_private(&self) -> bool {
        self.attached.is_none() && !matches!(self.place, Place::Block(_))
    }

    /// Bytes of all of it, what is attached included.
    #[inline]
    pub(crate) fn whole_len(&self) -> usize {
        self.as_slice().len() + self.attached.as_ref().map_or(0, |bytes| bytes.len())
    }

    /// The segment that it is in, if it is in one.
    pub(crate) fn segment(&self) -> Option<&Arc<Segment>> {
        match &self.place {
            Place::Block(filled) => Some(filled.block.segment()),
            _ => None,
        }
    }

    /// Appends the length of `bytes` and then these, as a block is encoded.
    pub(crate) fn append_block(&mut self, bytes: &[u8]) {
        self.append_length(bytes.len());
        self.extend_from_slice(bytes);
    }

    /// Appends a length, as a block begins with it.
    pub(crate) fn append_length(&mut self, len: usize) {
        let mut rest = len;
        while rest >= 0x80 {
            self.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.push(rest as u8);
    }

    /// Takes out what it holds if that is in shared memory, and leaves it empty.
    pub(crate) fn take_block(&mut self) -> Option<Args> {
        if !matches!(self.place, Place::Block(_)) {
            return None;
        }
        let empty = Self { most: self.most, ..Self::of(self.arena) };
        Some(std::mem::replace(self, empty).finish())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// Encoded arguments (or, in a worker, a large result): cheap to clone, and in no need of memory when they are few bytes.
#[derive(Clone)]
pub struct Args(Shared);

#[derive(Clone)]
enum Shared {
    Inline(Inline),
    Heap(Arc<Vec<u8>>),
    Block(Arc<Filled>),
}

// `map` holds many of them.
const _: () = assert!(size_of::<Args>() == 24 && size_of::<Result<Args, Box<str>>>() <= 32);

/// How arguments get to a worker.
#[derive(Debug)]
pub(crate) enum Passage<'a> {
    /// Their bytes are to be sent.
    Copy(&'a [u8]),
    /// Their bytes, which may be shared with a writer's queue, are to be sent.
    Queue(&'a Arc<Vec<u8>>),
    /// They are in shared memory: where they are is to be sent.
    At(&'a Arc<Segment>, Locator),
}

impl Args {
    /// How they travel.
    #[inline]
    pub(crate) fn passage(&self) -> Passage<'_> {
        match &self.0 {
            Shared::Inline(inline) => Passage::Copy(inline.as_slice()),
            Shared::Heap(heap) => Passage::Queue(heap),
            Shared::Block(filled) => {
                let segment = filled.block.segment();
                let offset = filled.block.offset() as u64;
                let locator = Locator { segment: segment.id(), offset, len: filled.len as u64 };
                Passage::At(segment, locator)
            }
        }
    }

    /// Appends them to `bytes`.
    #[inline]
    pub(crate) fn append_to(&self, bytes: &mut Vec<u8>) {
        match &self.0 {
            Shared::Inline(inline) => {
                // A copy of fixed length is much cheaper than one of few bytes.
                let end = bytes.len() + inline.as_slice().len();
                bytes.extend_from_slice(&inline.bytes);
                bytes.truncate(end);
            }
            _ => bytes.extend_from_slice(self),
        }
    }

    /// Has stores to them fault, if they are in shared memory and nobody else has them.
    pub(crate) fn protect(&mut self) {
        if let Shared::Block(filled) = &mut self.0
            && let Some(filled) = Arc::get_mut(filled)
        {
            filled.block.protect();
        }
    }

    /// Whether they are in shared memory.
    #[cfg(test)]
    pub(crate) fn is_block(&self) -> bool {
        matches!(self.0, Shared::Block(_))
    }
}

impl Deref for Args {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Shared::Inline(inline) => inline.as_slice(),
            Shared::Heap(heap) => heap,
            Shared::Block(filled) => filled.as_slice(),
        }
    }
}

impl From<Vec<u8>> for Args {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Inline::new(&bytes).map_or_else(|| Shared::Heap(Arc::new(bytes)), Shared::Inline))
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // They may be many, and secret.
        f.debug_struct("Args").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inline").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Limits, tests::arena};
    use proptest::prelude::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn place(buffer: &Buffer) -> &'static str {
        match buffer.place {
            Place::Inline(_) => "inline",
            Place::Heap(_) => "heap",
            Place::Block(_) => "block",
        }
    }

    #[test]
    fn what_is_encoded_piece_by_piece_is_refused_at_the_limit_and_not_far_behind_it() {
        for most in [0, 10, INLINE, 100, 4096, 5 << 20] {
            let mut buffer = Buffer::limited(most);
            let fitting = (0..).take_while(|_| buffer.try_extend(&[7; 100])).count() * 100;
            assert!((most.saturating_sub(99)..=2 * most + SMALLEST).contains(&fitting), "{most}: {fitting}");
            assert_eq!(*buffer, *vec![7; fitting], "nothing is lost");
            buffer.clear();
            assert!(
                !buffer.try_extend(&vec![7; 2 * most + LARGE]),
                "{most}: it has the limit for the next value"
            );
            buffer.extend_from_slice(&bytes(2 * most + LARGE));
            assert_eq!(buffer.len(), 2 * most + LARGE, "what is in memory anyway is copied");
        }
        let mut exact = Buffer::limited(5 << 20);
        assert!(exact.try_extend(&bytes(5 << 20)) && !exact.try_extend(&bytes(3 << 20)));
    }

    #[test]
    fn few_bytes_stay_inside_and_many_go_to_shared_memory() {
        let arena = arena(Limits::SUPERVISOR);
        for (len, expected) in [
            (0, "inline"),
            (INLINE, "inline"),
            (INLINE + 1, "heap"),
            (LARGE - 1, "heap"),
            (LARGE, "block"),
            (5 << 20, "block"),
        ] {
            let mut buffer = Buffer::of(arena);
            buffer.extend_from_slice(&bytes(len));
            assert_eq!(place(&buffer), expected, "{len}");
            let args = buffer.finish();
            assert!(*args == *bytes(len) && *args.clone() == *args);
            assert_eq!(args.is_block(), expected == "block");
            match args.passage() {
                Passage::Copy(small) => assert!(len <= INLINE && small.len() == len),
                Passage::Queue(heap) => assert!(len < LARGE && heap.len() == len),
                Passage::At(segment, locator) => {
                    assert_eq!((locator.segment, locator.len), (segment.id(), len as u64));
                }
            }
        }
    }

    #[test]
    fn a_large_value_is_placed_once() {
        let arena = arena(Limits::SUPERVISOR);
        let mut buffer = Buffer::of(arena);
        buffer.extend_from_slice(&[0x80, 0x80, 0x80, 0x08]);
        buffer.extend_from_slice(&bytes(16 << 20));
        let Place::Block(filled) = &buffer.place else { panic!("{}", place(&buffer)) };
        assert!(filled.block.capacity() < 21 << 20);
        assert_eq!(arena.gone(), 0);
    }

    #[test]
    fn without_shared_memory_the_heap_does() {
        static CLOSED: Arena = Arena::new();
        let mut buffer = Buffer::of(&CLOSED);
        buffer.extend_from_slice(&bytes(3 * LARGE));
        assert_eq!(place(&buffer), "heap");
        assert!(*buffer == *bytes(3 * LARGE));
        assert!(buffer.take_block().is_none());
        buffer.clear();
        assert_eq!((place(&buffer), buffer.len()), ("inline", 0), "so much is not kept");
    }

    #[test]
    fn shared_memory_that_runs_out_while_a_value_grows_leads_to_the_heap() {
        let arena = arena(Limits { kept: 0, bytes: 4 << 20, segments: 1, ..Limits::SUPERVISOR });
        let mut buffer = Buffer::of(arena);
        buffer.extend_from_slice(&bytes(LARGE));
        assert_eq!(place(&buffer), "block");
        let whole = bytes(3 << 20);
        buffer.extend_from_slice(&whole);
        assert_eq!(place(&buffer), "heap");
        assert!(buffer[LARGE..] == whole && buffer[..LARGE] == bytes(LARGE));
    }

    #[test]
    fn cleared_memory_on_the_heap_is_used_again() {
        let mut buffer = Buffer::new();
        buffer.extend_from_slice(&bytes(1000));
        let before = buffer.as_ptr();
        buffer.clear();
        buffer.extend_from_slice(&bytes(1000));
        assert_eq!((before, buffer.len()), (buffer.as_ptr(), 1000));
    }

    #[test]
    fn a_block_that_is_taken_out_leaves_an_empty_buffer() {
        let arena = arena(Limits::WORKER);
        let mut buffer = Buffer::of(arena);
        buffer.extend_from_slice(&bytes(LARGE));
        let taken = buffer.take_block().unwrap();
        assert!(*taken == *bytes(LARGE) && buffer.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_holds_what_was_appended(
            steps in prop::collection::vec((0..5_u8, prop_oneof![0..40_usize, 0..5_000_usize, 0..200_000_usize]), 0..20)
        ) {
            let arena = arena(Limits { kept: 1 << 20, bytes: 8 << 20, segments: 3, ..Limits::SUPERVISOR });
            let (mut buffer, mut model) = (Buffer::of(arena), Vec::new());
            for (kind, len) in steps {
                match kind {
                    0 => { buffer.push(len as u8); model.push(len as u8); }
                    1 => { buffer.truncate(len); model.truncate(len); }
                    2 if len < 20 => { buffer.clear(); model.clear(); }
                    _ => { buffer.extend_from_slice(&bytes(len)); model.extend_from_slice(&bytes(len)); }
                }
                prop_assert!(*buffer == *model);
            }
            prop_assert!(*buffer.finish() == *model);
        }
    }
}
