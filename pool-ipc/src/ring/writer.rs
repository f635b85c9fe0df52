//! The writing side of a ring.

use std::fmt;

use crate::{
    frame::{HEADER_LEN, Header, Kind},
    ring::{
        CAPACITY, RingError, check,
        shared::{AWAKE, Shared, WAITS, WAITS_LOW, offset},
    },
};

/// What a writer that wanted room is to do; see [`RingWriter::wait_for_room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Room {
    /// There is room by now. Otherwise it may sleep: it will be rung when half of the ring is free.
    pub now: bool,
    /// The reader sleeps and must be rung first: now, and by this caller. Else both might sleep for ever.
    pub ring: bool,
}

/// The writing side of a ring: bytes are staged, then published together.
///
/// See the [module documentation](crate::ring) for what is shared and what can race.
pub struct RingWriter {
    pub(super) shared: Shared,
    /// Where the next byte goes.
    staged: u64,
    /// Up to where the reader may read; as it is in shared memory unless that has been overwritten.
    published: u64,
    /// Up to where the reader has read, as last seen.
    read: u64,
}

impl RingWriter {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, staged: 0, published: 0, read: 0 }
    }

    /// Bytes that can be staged now.
    ///
    /// # Errors
    /// [`RingError`].
    #[inline]
    pub fn free(&mut self) -> Result<usize, RingError> {
        let found = self.shared.head.get();
        self.accept(found)?;
        Ok(self.known_free())
    }

    /// Whether `len` bytes can be staged now. Looks at the reader's position only if the last known one does not suffice.
    ///
    /// # Errors
    /// [`RingError`].
    #[inline]
    pub fn has_room(&mut self, len: usize) -> Result<bool, RingError> {
        Ok(len <= self.known_free() || len <= self.free()?)
    }

    fn known_free(&self) -> usize {
        CAPACITY - (self.staged - self.read) as usize
    }

    fn accept(&mut self, head: u64) -> Result<(), RingError> {
        self.read = check("reader's", head, self.read, self.published)?;
        Ok(())
    }

    /// Copies as much of `bytes` as there is room for behind what is staged already: how much. The reader sees it
    /// once it is [published](Self::publish).
    ///
    /// # Errors
    /// [`RingError`].
    pub fn stage(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        let len = if self.has_room(bytes.len())? { bytes.len() } else { self.known_free() };
        self.put(&bytes[..len]);
        Ok(len)
    }

    /// Stages a whole frame whose payload is `parts` one after the other, or nothing if there is no room for all of it:
    /// whether it did.
    ///
    /// A frame that is larger than the ring never fits; a [`FrameWriter`](crate::FrameWriter) passes it through in pieces.
    ///
    /// # Errors
    /// [`RingError`].
    #[inline]
    pub fn frame(&mut self, kind: Kind, ticket: u64, parts: &[&[u8]]) -> Result<bool, RingError> {
        let len = parts.iter().fold(HEADER_LEN, |sum, part| sum.saturating_add(part.len()));
        if len > self.known_free() && len > self.free()? {
            return Ok(false);
        }
        // Nothing that fits is too long.
        let Ok(header) = Header::new(kind, ticket, parts) else { return Ok(false) };
        self.put_header(&header.encode());
        for part in parts {
            self.put(part);
        }
        Ok(true)
    }

    /// Copies `bytes`, for which there is room.
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.known_free(), "room was checked for");
        let at = offset(self.staged);
        let to_end = CAPACITY - at;
        // SAFETY: these bytes are free: the reader has given them up by publishing `read`, and learns of them with
        // `publish` only. There is one writer, as a `Region` hands it out once.
        unsafe {
            if bytes.len() <= to_end {
                self.shared.bytes.copy_in(at, bytes);
            } else {
                self.shared.bytes.copy_in(at, &bytes[..to_end]);
                self.shared.bytes.copy_in(0, &bytes[to_end..]);
            }
        }
        self.staged += bytes.len() as u64;
    }

    /// As [`put`](Self::put), for a length that is known to the compiler.
    #[inline]
    fn put_header(&mut self, bytes: &[u8; HEADER_LEN]) {
        let at = offset(self.staged);
        if CAPACITY - at < HEADER_LEN {
            return self.put(bytes);
        }
        assert!(HEADER_LEN <= self.known_free(), "room was checked for");
        // SAFETY: as in `put`.
        unsafe { self.shared.bytes.copy_array_in(at, bytes) };
        self.staged += HEADER_LEN as u64;
    }

    /// Makes visible what is staged. True says that the reader sleeps and that its doorbell must be rung, now and by this
    /// caller: nobody is told a second time.
    #[inline]
    #[must_use = "true says that the doorbell must be rung"]
    pub fn publish(&mut self) -> bool {
        if self.staged == self.published {
            return false;
        }
        self.published = self.staged;
        self.shared.tail.tell(self.published);
        self.wakes(false)
    }

    /// Leaves a note beside the ring; the one before it is gone.
    #[cfg(not(loom))]
    #[inline]
    pub fn leave_note(&mut self, note: u64) {
        self.shared.note.set(note);
    }

    /// For a writer that will have nothing to publish for a while: true says that the reader sleeps, in whatever mode, and
    /// that its doorbell must be rung.
    ///
    /// This is what a reader in mode [`Wake::Low`](crate::Wake::Low) relies on. Where nothing has been published since
    /// the reader went to sleep it rings too; it is the caller who knows.
    #[inline]
    #[must_use = "true says that the doorbell must be rung"]
    pub fn ring_if_waiting(&mut self) -> bool {
        self.wakes(true)
    }

    #[inline]
    fn wakes(&mut self, even_low: bool) -> bool {
        match self.shared.reader_waits.look() {
            AWAKE => false,
            WAITS_LOW if !even_low && !self.is_half_full() => false,
            // The reader may have disarmed it meanwhile, or a second look have found it.
            _ => self.shared.reader_waits.lower(),
        }
    }

    /// Whether the reader has more than half a ring to read. A position that cannot be is no reason to let it sleep.
    fn is_half_full(&mut self) -> bool {
        let published = self.published;
        let is_half = |read| published - read > CAPACITY as u64 / 2;
        is_half(self.read) && (self.free().is_err() || is_half(self.read))
    }

    /// For a writer that wants to sleep until `len` bytes can be staged (more than the ring holds count as all of it).
    /// Publishes what is staged.
    ///
    /// Where it may sleep it does so until its doorbell is rung, and then asks again.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn wait_for_room(&mut self, len: usize) -> Result<Room, RingError> {
        let is_news = self.publish();
        self.shared.writer_waits.raise(WAITS);
        let head = self.shared.head.look();
        self.accept(head)?;
        let now = len.min(CAPACITY) <= self.known_free();
        if now {
            self.shared.writer_waits.lower();
        }
        Ok(Room { now, ring: is_news || (!now && self.ring_if_waiting()) })
    }

    /// Bytes published so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.published
    }

    /// Bytes staged and not yet published.
    #[must_use]
    pub fn unpublished(&self) -> usize {
        (self.staged - self.published) as usize
    }
}

impl fmt::Debug for RingWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingWriter")
            .field("staged", &self.staged)
            .field("published", &self.published)
            .field("read", &self.read)
            .finish()
    }
}
