//! The reading side of a ring.

use std::fmt;

use crate::ring::{
    CAPACITY, RingError, check,
    shared::{AWAKE, Shared, WAITS, WAITS_LOW, offset},
};

/// When a sleeping reader is rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// As soon as anything is published.
    Each,
    /// When more than half of the ring is full, or when the writer [says](crate::RingWriter::ring_if_waiting) that it
    /// has no more. What is published before that waits as long as the writer is busy.
    Low,
}

/// The reading side of a ring: bytes are copied out, and their space is given back.
///
/// See the [module documentation](crate::ring) for what is shared and what can race.
pub struct RingReader {
    pub(super) shared: Shared,
    /// The next byte to read; as it is in shared memory unless that has been overwritten.
    position: u64,
    /// Up to where the writer has published, as last seen.
    published: u64,
}

impl RingReader {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, position: 0, published: 0 }
    }

    /// Bytes that can be read now.
    ///
    /// # Errors
    /// [`RingError`].
    #[inline]
    pub fn available(&mut self) -> Result<usize, RingError> {
        let found = self.shared.tail.get();
        self.accept(found)
    }

    #[inline]
    fn accept(&mut self, tail: u64) -> Result<usize, RingError> {
        self.published = check("writer's", tail, self.published, self.position + CAPACITY as u64)?;
        Ok((self.published - self.position) as usize)
    }

    /// For a reader that wants to sleep: true says that nothing is there and that it may sleep until its doorbell is
    /// rung; false that there is something, and that no bell will be rung.
    ///
    /// # Errors
    /// [`RingError`]; it is not armed then.
    #[inline]
    #[must_use = "false says that there is something to read"]
    pub fn arm(&mut self, wake: Wake) -> Result<bool, RingError> {
        let found = self.raise(wake);
        if found != Ok(0) {
            self.disarm();
        }
        Ok(found? == 0)
    }

    /// As [`arm`](Self::arm), but armed in any case: how much there is that no bell will be rung for. For what comes later one
    /// will, so a reader that reads this much may sleep then.
    ///
    /// # Errors
    /// [`RingError`].
    #[inline]
    pub fn raise(&mut self, wake: Wake) -> Result<usize, RingError> {
        self.shared.reader_waits.raise(match wake {
            Wake::Each => WAITS,
            Wake::Low => WAITS_LOW,
        });
        let tail = self.shared.tail.look();
        self.accept(tail)
    }

    /// Wants no bell any more. One that the writer has decided on already may still come; a bell carries no meaning.
    #[inline]
    pub fn disarm(&mut self) {
        self.shared.reader_waits.lower();
    }

    /// Appends at most `max` bytes to `into` and frees their space: how many, and whether the writer waits for room and
    /// its doorbell must be rung, now and by this caller.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn read_into(&mut self, into: &mut Vec<u8>, max: usize) -> Result<(usize, bool), RingError> {
        let len = self.available()?.min(max);
        if len == 0 {
            return Ok((0, false));
        }
        into.reserve(len);
        let at = offset(self.position);
        let spare = &mut into.spare_capacity_mut()[..len];
        let (first, second) = spare.split_at_mut(len.min(CAPACITY - at));
        // SAFETY: the writer has published these bytes, and does not touch them until it sees a position behind them.
        // There is one reader, as a `Region` hands it out once.
        unsafe {
            self.shared.bytes.copy_out(at, first);
            self.shared.bytes.copy_out(0, second);
            into.set_len(into.len() + len);
        }
        self.position += len as u64;
        self.shared.head.tell(self.position);
        Ok((len, self.wakes()))
    }

    /// Appends all bytes of the ring to `into`, from the position of the next one on, whatever the writer says of them: for a
    /// reader that has found that the writer's position has been overwritten. What is sound among them has to show by itself.
    pub fn salvage(&self, into: &mut Vec<u8>) {
        into.reserve(CAPACITY);
        let at = offset(self.position);
        let spare = &mut into.spare_capacity_mut()[..CAPACITY];
        let (first, second) = spare.split_at_mut(CAPACITY - at);
        // SAFETY: the bytes are inside of the ring. The writer may be changing some of them; they are copied by address,
        // and nothing is concluded from them but by checks of the copy.
        unsafe {
            self.shared.bytes.copy_out(at, first);
            self.shared.bytes.copy_out(0, second);
            into.set_len(into.len() + CAPACITY);
        }
    }

    /// Whether the writer sleeps, and is worth to be woken: not for a few bytes of room at a time.
    #[inline]
    fn wakes(&self) -> bool {
        self.shared.writer_waits.look() != AWAKE
            && (self.published - self.position) as usize <= CAPACITY / 2
            && self.shared.writer_waits.lower()
    }

    /// The latest note that the writer has left, 0 before the first. It comes independently of the bytes.
    #[cfg(not(loom))]
    #[inline]
    #[must_use]
    pub fn note(&self) -> u64 {
        self.shared.note.get()
    }

    /// Bytes read so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.position
    }
}

impl fmt::Debug for RingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingReader")
            .field("position", &self.position)
            .field("published", &self.published)
            .finish()
    }
}
