//! Encoded results, wherever they are.
//!
//! A small result is private memory of the supervisor. A large one is in a segment of its worker, which can still write to it:
//! it is copied once, by the thread that wants it, into what becomes the value where that is a block of bytes
//! ([`Encoded::block`]), and otherwise into a buffer that is decoded. A [`SharedBytes`] is not copied at all.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pool_ipc::{Locator, SegmentView};

use crate::buffer::{Buffer, Inline};
use crate::codec::CodecError;
use crate::shared_bytes::SharedBytes;

/// A result that a worker has returned, still encoded. Few bytes need no memory beside it.
pub(crate) struct Reply(Repr);

enum Repr {
    Inline(Inline),
    Heap(Box<[u8]>),
    Foreign(Box<Foreign>),
    Sealed(Box<SealedReply>),
}

/// What comes before the shared bytes, and these.
struct SealedReply {
    head: Vec<u8>,
    bytes: SharedBytes,
}

// The supervisor moves many of them.
const _: () = assert!(size_of::<Reply>() == 24);

impl Reply {
    /// A result in a worker's segment.
    pub(crate) fn foreign(foreign: Foreign) -> Self {
        Self(Repr::Foreign(Box::new(foreign)))
    }

    /// A result that ends with bytes which are not copied.
    pub(crate) fn sealed(head: &[u8], bytes: SharedBytes) -> Self {
        Self(Repr::Sealed(Box::new(SealedReply { head: head.to_vec(), bytes })))
    }

    /// Bytes of it that are in its worker's memory.
    #[inline]
    pub(crate) fn lent(&self) -> usize {
        match &self.0 {
            Repr::Foreign(foreign) => foreign.len(),
            _ => 0,
        }
    }

    /// Bytes of it, wherever they are.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        match &self.0 {
            Repr::Inline(inline) => inline.as_slice().len(),
            Repr::Heap(heap) => heap.len(),
            Repr::Foreign(foreign) => foreign.len(),
            Repr::Sealed(sealed) => sealed.head.len() + sealed.bytes.len(),
        }
    }

    /// Copies it to private memory, if it is where its worker could change it.
    #[cfg(feature = "durable")]
    pub(crate) fn detach(&mut self) {
        if let Repr::Foreign(foreign) = &self.0 {
            *self = Self::from(foreign.copy());
        }
    }

    /// The bytes of it, in pieces, as it would have been encoded without shared memory.
    #[cfg(feature = "durable")]
    pub(crate) fn with_pieces<T>(&self, look: impl FnOnce(&[&[u8]]) -> T) -> T {
        match &self.0 {
            Repr::Inline(inline) => look(&[inline.as_slice()]),
            Repr::Heap(heap) => look(&[heap]),
            Repr::Foreign(foreign) => look(&[&foreign.copy()]),
            Repr::Sealed(sealed) => {
                let mut length = Buffer::new();
                length.append_length(sealed.bytes.len());
                look(&[&sealed.head, &length, &sealed.bytes])
            }
        }
    }

    /// For decoding.
    #[inline]
    pub(crate) fn encoded(&self) -> Encoded<'_> {
        Encoded(match &self.0 {
            Repr::Inline(inline) => Place::Bytes(inline.as_slice()),
            Repr::Heap(heap) => Place::Bytes(heap),
            Repr::Foreign(foreign) => Place::Foreign(foreign),
            Repr::Sealed(sealed) => Place::Sealed(&sealed.head, &sealed.bytes),
        })
    }
}

impl From<&[u8]> for Reply {
    #[inline]
    fn from(bytes: &[u8]) -> Self {
        Self(match Inline::new(bytes) {
            Some(inline) => Repr::Inline(inline),
            None => Repr::Heap(bytes.into()),
        })
    }
}

impl From<Vec<u8>> for Reply {
    fn from(bytes: Vec<u8>) -> Self {
        Self(match Inline::new(&bytes) {
            Some(inline) => Repr::Inline(inline),
            None => Repr::Heap(bytes.into_boxed_slice()),
        })
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.0 {
            Repr::Inline(_) => "inline",
            Repr::Heap(_) => "heap",
            Repr::Foreign(_) => "segment",
            Repr::Sealed(_) => "sealed",
        };
        f.debug_struct("Reply").field("place", &place).finish_non_exhaustive()
    }
}

/// A piece of a worker's segment, which goes back to the worker when this is dropped.
#[derive(Debug)]
pub(crate) struct Foreign {
    view: Arc<SegmentView>,
    locator: Locator,
    returns: Arc<Returns>,
}

impl Foreign {
    /// The piece; `None` if it is not inside of the segment.
    pub(crate) fn new(view: Arc<SegmentView>, locator: Locator, returns: Arc<Returns>) -> Option<Self> {
        view.contains(locator.offset, locator.len).then_some(Self { view, locator, returns })
    }

    fn len(&self) -> usize {
        // It is inside of a mapping.
        self.locator.len as usize
    }

    /// Appends a copy of what follows the first `skip` bytes.
    fn append_to(&self, skip: usize, into: &mut Vec<u8>) -> bool {
        match self.len().checked_sub(skip) {
            Some(rest) => self.view.append_to(self.locator.offset as usize + skip, rest, into),
            None => false,
        }
    }

    fn copy(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // It was inside when this was made, and sizes are sealed.
        let copied = self.append_to(0, &mut bytes);
        debug_assert!(copied);
        bytes
    }

    /// The block of bytes that follows `tag`, if the whole is that: copied once, from where it is into a vector of its own.
    /// Whatever else it is, or may be while the worker scribbles, is for the ordinary way to find out.
    fn block(&self, tag: Option<u8>) -> Option<Vec<u8>> {
        let mut start = [0; 16];
        let start = &mut start[..self.len().min(16)];
        if !self.view.copy_to(self.locator.offset as usize, start) {
            return None;
        }
        let counted = match tag {
            None => &*start,
            Some(tag) => start.strip_prefix(&[tag])?,
        };
        let (block, rest) = postcard::take_from_bytes::<usize>(counted).ok()?;
        let skip = start.len() - rest.len();
        if self.len().checked_sub(skip) != Some(block) {
            return None;
        }
        let mut bytes = Vec::with_capacity(block);
        self.append_to(skip, &mut bytes).then_some(bytes)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.returns.push(self.locator);
    }
}

/// Pieces of a worker's segments that are not needed any more, until it is told.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    any: AtomicBool,
    locators: Mutex<Vec<Locator>>,
}

impl Returns {
    pub(crate) fn push(&self, locator: Locator) {
        let mut locators = self.locators.lock().unwrap_or_else(PoisonError::into_inner);
        locators.push(locator);
        self.any.store(true, Ordering::Release);
    }

    /// Takes them; without a lock if there are none.
    #[inline]
    pub(crate) fn take(&self) -> Vec<Locator> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut locators = self.locators.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut *locators)
    }
}

/// A result as it has come, to be decoded.
#[derive(Debug, Clone, Copy)]
pub struct Encoded<'a>(Place<'a>);

#[derive(Clone, Copy)]
enum Place<'a> {
    /// In private memory.
    Bytes(&'a [u8]),
    /// In a segment that the worker can write to.
    Foreign(&'a Foreign),
    /// The beginning, and a block of bytes that nobody can write to.
    Sealed(&'a [u8], &'a SharedBytes),
}

/// What is wrong with an encoded result.
#[derive(Debug)]
pub enum ReplyError {
    /// It cannot be decoded.
    Codec(CodecError),
    /// So many bytes follow it.
    Left(usize),
}

impl<'a> From<&'a [u8]> for Encoded<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self(Place::Bytes(bytes))
    }
}

impl<'a> Encoded<'a> {
    /// A beginning, and bytes that are not copied.
    pub(crate) fn of_sealed(head: &'a [u8], bytes: &'a SharedBytes) -> Self {
        Self(Place::Sealed(head, bytes))
    }

    /// Decodes all of it.
    #[inline]
    pub(crate) fn read<T>(
        self,
        decode: impl FnOnce(&mut &[u8]) -> Result<T, CodecError>,
    ) -> Result<T, ReplyError> {
        match self.0 {
            Place::Bytes(bytes) => whole(bytes, decode),
            Place::Foreign(foreign) => whole(&foreign.copy(), decode),
            Place::Sealed(head, bytes) => {
                // As it would have been encoded without shared memory.
                let mut joined = Buffer::new();
                joined.extend_from_slice(head);
                joined.append_block(bytes);
                whole(&joined, decode)
            }
        }
    }

    /// The block of bytes that follows `tag`, if it is in a worker's segment and the whole is that.
    pub(crate) fn block(self, tag: Option<u8>) -> Option<Vec<u8>> {
        match self.0 {
            Place::Foreign(foreign) => foreign.block(tag),
            _ => None,
        }
    }

    /// The bytes that follow `head`, if they are not to be copied and the whole is that.
    pub(crate) fn shared(self, head: &[u8]) -> Option<SharedBytes> {
        match self.0 {
            Place::Sealed(found, bytes) if found == head => Some(bytes.clone()),
            _ => None,
        }
    }
}

#[inline]
fn whole<T>(
    mut bytes: &[u8],
    decode: impl FnOnce(&mut &[u8]) -> Result<T, CodecError>,
) -> Result<T, ReplyError> {
    let value = decode(&mut bytes).map_err(ReplyError::Codec)?;
    match bytes.len() {
        0 => Ok(value),
        left => Err(ReplyError::Left(left)),
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes(_) => "bytes",
            Self::Foreign(_) => "segment",
            Self::Sealed(..) => "sealed",
        })
    }
}
