//! Frames out of a byte stream, for non-blocking (supervisor) and blocking (worker) descriptors alike.

use std::{borrow::Cow, fmt, io, os::fd::BorrowedFd};

use nix::errno::Errno;

use crate::{
    frame::{Frame, FrameError, HEADER_LEN, Header, Kind},
    ring::RingReader,
    run::Run,
    sum::SUMMED_MAX,
    sys,
};

/// Bytes of the inner buffer.
const BUFFER: usize = 64 << 10;
/// Payloads of more bytes than this get a vector of their own, unless they happen to be in the buffer
/// already.
const LARGE: usize = 48 << 10;
/// With less room than this behind the buffered bytes, they are moved to the front before the next read.
const LOW_ROOM: usize = 16 << 10;
/// Capacity, in bytes, that a header alone can cause to be reserved.
const FIRST_RESERVE: usize = 1 << 20;

// A fragment that begins at the front always fits in the buffer, or it would be large.
const _: () = assert!(HEADER_LEN + LARGE <= BUFFER && LOW_ROOM <= BUFFER - LARGE);

/// What one [`FrameReader::fill`] brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// So many bytes; 0 if nothing was read because the buffer is full of whole frames that have to be taken
    /// first.
    Bytes(usize),
    /// Nothing to read now, on a non-blocking descriptor.
    WouldBlock,
    /// No writer is left.
    Eof,
}

/// Cuts a stream of bytes into frames.
///
/// A frame that fits the inner buffer of 64 KiB is lent from it. The payload of a larger one is read straight
/// into a vector, which is handed out without another copy and grows only as bytes arrive, so that a header
/// which lies about its length costs nothing. Once a header is refused the reader is poisoned, until
/// [`resync`](Self::resync) goes looking for the next frame.
///
/// ```no_run
/// # fn handle(_: pool_ipc::Frame<'_>) {}
/// # fn run(pipe: std::os::fd::BorrowedFd<'_>) -> Result<(), Box<dyn std::error::Error>> {
/// use pool_ipc::{DEFAULT_FRAME_LIMIT, Fill, FrameReader};
///
/// let mut reader = FrameReader::new(DEFAULT_FRAME_LIMIT);
/// loop {
///     while let Some(frame) = reader.next_frame()? {
///         handle(frame);
///     }
///     match reader.fill(pipe)? {
///         Fill::Bytes(_) => {}
///         Fill::WouldBlock => return Ok(()), // come back when poll(2) says so
///         Fill::Eof => return Ok(reader.end()?),
///     }
/// }
/// # }
/// ```
pub struct FrameReader {
    limit: u32,
    /// Of [`BUFFER`] bytes from the first fill on; those from `start` on are unread.
    buffer: Vec<u8>,
    start: usize,
    /// While it is incomplete the buffer is empty: every byte that arrives is its own.
    large: Option<Large>,
    poison: Option<FrameError>,
    /// What was unread when a ring was salvaged for the first time.
    salvaged: Option<Vec<u8>>,
}

/// A payload that does not fit the buffer.
struct Large {
    header: Header,
    payload: Vec<u8>,
}

impl Large {
    fn missing(&self) -> usize {
        self.header.len as usize - self.payload.len()
    }

    /// Makes room for the next bytes: how many there is room for.
    fn reserve(&mut self) -> io::Result<usize> {
        let missing = self.missing();
        if self.payload.len() == self.payload.capacity() {
            // Doubling keeps the copying linear; never more than twice of what has really arrived.
            let step = self.payload.len().max(FIRST_RESERVE).min(missing);
            self.payload.try_reserve_exact(step).map_err(|_| io::ErrorKind::OutOfMemory)?;
        }
        Ok(missing.min(self.payload.capacity() - self.payload.len()))
    }
}

impl FrameReader {
    /// A reader that refuses payloads of more than `limit` bytes, unless their [kind](Kind::limit) may have more. It allocates
    /// nothing yet.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, buffer: Vec::new(), start: 0, large: None, poison: None, salvaged: None }
    }

    /// Reads once from `fd`, as much as is there and fits (`read(2)`; repeated if a signal interrupts it).
    ///
    /// Take all frames with [`next_frame`](Self::next_frame) between two fills.
    ///
    /// # Errors
    /// Those of `read(2)`; [`OutOfMemory`](io::ErrorKind::OutOfMemory) if a payload cannot be held;
    /// [`InvalidData`](io::ErrorKind::InvalidData) with the [`FrameError`] inside if the reader is poisoned.
    pub fn fill(&mut self, fd: BorrowedFd<'_>) -> io::Result<Fill> {
        loop {
            let (into, room) = self.target()?;
            if room == 0 {
                return Ok(Fill::Bytes(0));
            }
            return match sys::read_spare(fd, into, room) {
                Ok(0) => Ok(Fill::Eof),
                Ok(bytes) => Ok(Fill::Bytes(bytes)),
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Fill::WouldBlock),
                Err(error) => Err(error),
            };
        }
    }

    /// Reads once from `ring`, as much as is there and fits; an empty ring is [`Fill::WouldBlock`], and never
    /// [`Fill::Eof`]. The flag says that the writer waits for room: its doorbell must be rung, now and by this caller.
    ///
    /// Take all frames with [`next_frame`](Self::next_frame) between two fills.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) with a [`RingError`](crate::RingError) or, if the reader is poisoned,
    /// a [`FrameError`] inside; [`OutOfMemory`](io::ErrorKind::OutOfMemory) if a payload cannot be held.
    pub fn fill_from(&mut self, ring: &mut RingReader) -> io::Result<(Fill, bool)> {
        let (into, room) = self.target()?;
        if room == 0 {
            return Ok((Fill::Bytes(0), false));
        }
        Ok(match ring.read_into(into, room)? {
            (0, rings) => (Fill::WouldBlock, rings),
            (bytes, rings) => (Fill::Bytes(bytes), rings),
        })
    }

    /// Takes all bytes of a ring whose writer's position has been overwritten: frames that were published before are still
    /// there, in front. [`next_run`](Self::next_run) tells which are sound; there is no other use for this reader afterwards.
    ///
    /// What the writer adds meanwhile is found the next time, behind the same frames again.
    pub fn salvage_from(&mut self, ring: &RingReader) {
        if self.large.is_none() && self.poison.is_none() {
            // The writer may be at work: only what has a sum shows whether it is whole.
            self.limit = self.limit.min(SUMMED_MAX as u32);
            let unread = self.salvaged.get_or_insert_with(|| self.buffer[self.start..].to_vec());
            self.buffer.clear();
            self.buffer.extend_from_slice(unread);
            self.start = 0;
            ring.salvage(&mut self.buffer);
        }
    }

    /// Where the next bytes belong, and how many there is room for.
    fn target(&mut self) -> io::Result<(&mut Vec<u8>, usize)> {
        if let Some(poison) = self.poison {
            return Err(io::Error::new(io::ErrorKind::InvalidData, poison));
        }
        if self.large.as_ref().is_none_or(|large| large.missing() == 0) {
            self.make_room();
            let room = BUFFER - self.buffer.len();
            return Ok((&mut self.buffer, room));
        }
        let large = self.large.as_mut().expect("it is incomplete");
        let room = large.reserve()?;
        Ok((&mut large.payload, room))
    }

    /// Moves the unread bytes to the front if there is little room behind them. A fragment moves at most
    /// once.
    fn make_room(&mut self) {
        if self.buffer.capacity() < BUFFER {
            self.buffer.reserve_exact(BUFFER);
        }
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > 0 && BUFFER - self.buffer.len() < LOW_ROOM {
            self.buffer.copy_within(self.start.., 0);
            self.buffer.truncate(self.buffer.len() - self.start);
            self.start = 0;
        }
    }

    /// The next whole frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// Those of [`Header::decode`], before anything is allocated for the frame, and [`FrameError::Checksum`]; from then
    /// on always the same.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        if self.large.is_some() {
            return self.take_large();
        }
        let held = &self.buffer[self.start..];
        let Some((bytes, rest)) = held.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::decode(bytes, self.limit).inspect_err(|&error| {
            self.poison = Some(error);
        })?;
        let len = header.len as usize;
        if rest.len() < len {
            if len > LARGE {
                let mut payload = Vec::with_capacity(len.min(FIRST_RESERVE));
                payload.extend_from_slice(rest);
                self.buffer.clear();
                self.start = 0;
                self.large = Some(Large { header, payload });
            }
            return Ok(None);
        }
        let is_sound = header.matches(&rest[..len]);
        let body = self.start + HEADER_LEN;
        self.start = body + len;
        if !is_sound {
            let error = FrameError::Checksum { ticket: header.ticket };
            self.poison = Some(error);
            return Err(error);
        }
        let payload = Cow::Borrowed(&self.buffer[body..self.start]);
        Ok(Some(Frame { kind: header.kind, ticket: header.ticket, payload }))
    }

    /// The large payload, if it is complete.
    #[cold]
    fn take_large(&mut self) -> Result<Option<Frame<'static>>, FrameError> {
        let Some(large) = self.large.take_if(|large| large.missing() == 0) else { return Ok(None) };
        let Large { header, payload } = large;
        // It is too long to have a sum, and a header that promises one is not its own.
        if !header.matches(&payload) {
            let error = FrameError::Checksum { ticket: header.ticket };
            self.poison = Some(error);
            return Err(error);
        }
        Ok(Some(Frame { kind: header.kind, ticket: header.ticket, payload: Cow::Owned(payload) }))
    }

    /// Whether the buffer holds another whole frame for [`next_frame`](Self::next_frame), as far as its header, which is
    /// not checked, tells.
    #[inline]
    #[must_use]
    pub fn has_frame(&self) -> bool {
        match self.buffer[self.start..].split_first_chunk::<4>() {
            Some((len, rest)) => rest.len() >= u32::from_le_bytes(*len) as usize + (HEADER_LEN - 4),
            None => false,
        }
    }

    /// Bytes that have been read and not been handed out.
    #[inline]
    #[must_use]
    pub fn unread(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The longest run of whole and sound frames of this kind, at most `max`, at the start of the buffer, whose tickets
    /// are `first_ticket` and those that follow it; `None` if there is not one.
    ///
    /// What ends the run is for [`next_frame`](Self::next_frame) to say, once it comes first.
    ///
    /// # Errors
    /// The earlier error if the reader is poisoned.
    pub fn next_run(
        &mut self,
        kind: Kind,
        first_ticket: u64,
        max: u32,
    ) -> Result<Option<Run<'_>>, FrameError> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        if self.large.is_some() {
            return Ok(None);
        }
        let run = Run::at_start(&self.buffer[self.start..], self.limit, kind, first_ticket, max);
        self.start += run.bytes.len();
        Ok((run.count > 0).then_some(run))
    }

    /// After an error: drops bytes up to the next ones that are a valid header, or that may be the start of one.
    ///
    /// This is for what still stands behind garbage. Magic and check let about one in 2³² of random positions pass, so
    /// what is found must be checked against what is expected.
    ///
    /// A frame with a wrong sum has been dropped whole: its header is sound, so what was overwritten is its payload.
    pub fn resync(&mut self) {
        let poison = self.poison.take();
        if !matches!(poison, Some(FrameError::Checksum { .. })) {
            self.start = self.buffer.len().min(self.start + 1);
        }
        while let Some(bytes) = self.buffer[self.start..].first_chunk::<HEADER_LEN>() {
            if Header::decode(bytes, self.limit).is_ok() {
                return;
            }
            self.start += 1;
        }
    }

    /// Whether bytes of an unfinished frame are held, once [`next_frame`](Self::next_frame) has returned
    /// `None`.
    ///
    /// The end of the stream at this point means that the writer died, or closed it, while it was writing.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.large.is_some() || self.start < self.buffer.len()
    }

    /// Checks that the stream may end here: to be asked after [`Fill::Eof`], when all frames have been taken.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a frame; the earlier error if the reader is poisoned.
    pub fn end(&self) -> Result<(), FrameError> {
        if let Some(poison) = self.poison {
            return Err(poison);
        }
        if !self.is_mid_frame() {
            return Ok(());
        }
        let held = &self.buffer[self.start..];
        let missing = match (&self.large, held.first_chunk::<HEADER_LEN>()) {
            (Some(large), _) => large.missing(),
            (None, None) => HEADER_LEN - held.len(),
            (None, Some(bytes)) => {
                let len = Header::decode(bytes, self.limit)?.len as usize;
                (HEADER_LEN + len).saturating_sub(held.len())
            }
        };
        Err(FrameError::Truncated { missing })
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader")
            .field("limit", &self.limit)
            .field("buffered", &(self.buffer.len() - self.start))
            .field("large", &self.large.as_ref().map(|large| (large.header, large.payload.len())))
            .field("poison", &self.poison)
            .finish()
    }
}

#[cfg(test)]
mod tests;
