//! What the two sides of a ring share.

#[cfg(not(loom))]
use std::mem::offset_of;

#[cfg(not(loom))]
use crate::{region::Layout, sys::Part};
use crate::{
    sys::Bytes,
    word::{Flag, Word},
};

/// Bytes that a ring holds.
#[cfg(not(loom))]
pub const CAPACITY: usize = 256 << 10;
/// Bytes that a ring holds; few, so that loom sees it full and going round.
#[cfg(loom)]
pub const CAPACITY: usize = 4;

const _: () = assert!(CAPACITY.is_power_of_two());
// As the table in the module documentation says.
#[cfg(not(loom))]
const _: () = {
    assert!(offset_of!(Ring, tail) == 0 && offset_of!(Ring, head) == 128);
    assert!(offset_of!(Ring, reader_waits) == 256 && offset_of!(Ring, writer_waits) == 384);
    assert!(offset_of!(Ring, note) == 512 && offset_of!(Ring, bytes) == 640);
};

/// One ring in shared memory; the [module documentation](super) has its table.
#[repr(C)]
pub(crate) struct Ring {
    pub(super) tail: Word,
    pub(super) head: Word,
    pub(super) reader_waits: Flag,
    pub(super) writer_waits: Flag,
    pub(super) note: Word,
    pub(super) bytes: Bytes<CAPACITY>,
}

/// Neither sleeps nor is about to; the value of fresh memory.
pub(super) const AWAKE: u64 = 0;
/// To be rung; any other value that is not known means the same.
pub(super) const WAITS: u64 = 1;
/// The reader only: to be rung when the ring is half full, or when the writer says that it has no more.
pub(super) const WAITS_LOW: u64 = 2;

/// Where the byte of a position is.
#[inline]
pub(super) fn offset(position: u64) -> usize {
    position as usize & (CAPACITY - 1)
}

/// A ring, kept alive.
#[cfg(not(loom))]
pub(super) type Shared = Part<Layout, Ring>;
#[cfg(loom)]
pub(super) type Shared = loom::sync::Arc<Ring>;

/// Both sides of a ring of [`CAPACITY`] bytes that exists in a model only.
#[cfg(loom)]
#[must_use]
pub fn model() -> (super::RingWriter, super::RingReader) {
    let ring = Ring {
        tail: Word::new(),
        head: Word::new(),
        reader_waits: Flag::new(),
        writer_waits: Flag::new(),
        note: Word::new(),
        bytes: Bytes::new(),
    };
    let ring = Shared::new(ring);
    (super::RingWriter::new(ring.clone()), super::RingReader::new(ring))
}
