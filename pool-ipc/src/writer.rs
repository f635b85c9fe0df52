//! Frames into a byte stream: queued for the supervisor's non-blocking descriptors, at once for the worker's.

use std::{
    array,
    collections::VecDeque,
    fmt, io,
    io::IoSlice,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::uio::writev,
};

use crate::{
    frame::{FrameError, Header, Kind},
    ring::{RingError, RingWriter},
};

/// Bodies shorter than this, in bytes, are copied; a copy is cheaper than another `iovec`.
const COPY_BELOW: usize = 4 << 10;
/// The most bytes that one flush writes, so that one worker cannot keep the supervisor from the others.
const FLUSH_BUDGET: usize = 1 << 20;
/// The most slices in one `writev(2)`.
const SLICES: usize = 64;
/// Written bytes that may stay at the front of the coalescing buffer.
const SLACK: usize = 64 << 10;
/// Memory, in bytes, that an empty writer may keep.
const KEEP: usize = 256 << 10;

/// How far one [`FrameWriter::flush`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything is written.
    Done,
    /// The descriptor takes no more now; come back when it is writable.
    Blocked,
    /// The share of one call (1 MiB) is written; call again after the other descriptors had their turn.
    More,
}

/// A queue of outgoing frames for a non-blocking descriptor or a ring.
///
/// Small frames are gathered in one buffer and leave in one `write`. Large bodies are shared with the caller
/// and never copied. The queue itself has no bound: the caller bounds what it [pushes](Self::push), by
/// [`pending_bytes`](Self::pending_bytes) or by the number of tasks in flight.
#[derive(Default)]
pub struct FrameWriter {
    /// The bytes of all `Inline` parts, in order, from `start` on.
    inline: Vec<u8>,
    start: usize,
    queue: VecDeque<Part>,
    pending: usize,
    written: u64,
}

enum Part {
    /// The next so many bytes of `inline`; never 0, never two in a row.
    Inline(usize),
    /// A body, from this byte on; never empty.
    Shared(Arc<Vec<u8>>, usize),
}

impl FrameWriter {
    /// An empty queue. It allocates nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a frame whose payload is `head` followed by `body`.
    ///
    /// `head` is copied, and so is a `body` of less than 4 KiB; a longer one is kept by reference until it is
    /// written.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] if the payload exceeds [`u32::MAX`] bytes; then nothing is queued.
    pub fn push(
        &mut self,
        kind: Kind,
        ticket: u64,
        head: &[u8],
        body: &Arc<Vec<u8>>,
    ) -> Result<(), FrameError> {
        let header = Header::new(kind, ticket, &[head, body])?;
        if body.len() < COPY_BELOW {
            self.append(&[&header.encode(), head, body]);
        } else {
            self.append(&[&header.encode(), head]);
            self.pending += body.len();
            self.queue.push_back(Part::Shared(Arc::clone(body), 0));
        }
        Ok(())
    }

    /// Queues a frame that is copied whole: for control frames, which have no shared body.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] if the payload exceeds [`u32::MAX`] bytes; then nothing is queued.
    pub fn push_copy(&mut self, kind: Kind, ticket: u64, payload: &[u8]) -> Result<(), FrameError> {
        let header = Header::new(kind, ticket, &[payload])?;
        self.append(&[&header.encode(), payload]);
        Ok(())
    }

    fn append(&mut self, parts: &[&[u8]]) {
        if self.start > SLACK && self.start * 2 > self.inline.len() {
            // At most as many bytes move as were written since the last time.
            self.inline.drain(..self.start);
            self.start = 0;
        }
        let before = self.inline.len();
        for part in parts {
            self.inline.extend_from_slice(part);
        }
        let added = self.inline.len() - before;
        self.pending += added;
        match self.queue.back_mut() {
            Some(Part::Inline(len)) => *len += added,
            _ => self.queue.push_back(Part::Inline(added)),
        }
    }

    /// Writes as much as the descriptor takes, at most about 1 MiB (`writev(2)`; repeated if a signal
    /// interrupts it).
    ///
    /// # Errors
    /// Those of `writev(2)`. `EPIPE` ([`BrokenPipe`](io::ErrorKind::BrokenPipe)) means that nobody reads any
    /// more; it is an error and not a signal only where `SIGPIPE` is ignored, as the Rust runtime has it, or
    /// blocked in this thread.
    pub fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<Flush> {
        let mut budget = FLUSH_BUDGET;
        while !self.is_empty() {
            if budget == 0 {
                return Ok(Flush::More);
            }
            let (slices, count, offered) = self.slices(budget);
            match writev(fd.as_fd(), &slices[..count]) {
                Ok(written) => {
                    self.advance(written);
                    budget -= written;
                    // A short write says that the pipe is full, as EAGAIN would at the cost of another call
                    // (epoll(7)).
                    if written < offered {
                        return Ok(Flush::Blocked);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Flush::Blocked),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Flush::Done)
    }

    /// Stages as much as the ring takes. The caller publishes it.
    ///
    /// This is the way of frames that found no room, or that are larger than the ring: they pass through it in pieces.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn flush_into(&mut self, ring: &mut RingWriter) -> Result<Flush, RingError> {
        while !self.is_empty() {
            let (slices, count, offered) = self.slices(FLUSH_BUDGET);
            let mut staged = 0;
            for slice in &slices[..count] {
                let step = ring.stage(slice)?;
                staged += step;
                if step < slice.len() {
                    break;
                }
            }
            self.advance(staged);
            if staged < offered {
                return Ok(Flush::Blocked);
            }
        }
        Ok(Flush::Done)
    }

    /// The first bytes to write, at most `budget` of them: slices, how many, and how many bytes they are.
    fn slices(&self, budget: usize) -> ([IoSlice<'_>; SLICES], usize, usize) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut offered, mut inline) = (0, 0, &self.inline[self.start..]);
        for (slot, part) in slices.iter_mut().zip(&self.queue) {
            let bytes = match part {
                Part::Inline(len) => {
                    let (bytes, rest) = inline.split_at(*len);
                    inline = rest;
                    bytes
                }
                Part::Shared(body, from) => &body[*from..],
            };
            let bytes = &bytes[..bytes.len().min(budget - offered)];
            if bytes.is_empty() {
                break;
            }
            *slot = IoSlice::new(bytes);
            count += 1;
            offered += bytes.len();
        }
        (slices, count, offered)
    }

    /// Forgets the first `written` bytes.
    fn advance(&mut self, written: usize) {
        self.pending -= written;
        self.written += written as u64;
        let mut left = written;
        while left > 0 {
            let Some(part) = self.queue.front_mut() else { break };
            let (step, is_done) = match part {
                Part::Inline(len) => {
                    let step = left.min(*len);
                    *len -= step;
                    self.start += step;
                    (step, *len == 0)
                }
                Part::Shared(body, from) => {
                    let step = left.min(body.len() - *from);
                    *from += step;
                    (step, *from == body.len())
                }
            };
            left -= step;
            if is_done {
                self.queue.pop_front();
            }
        }
        if self.queue.is_empty() {
            self.inline.clear();
            self.start = 0;
            if self.inline.capacity() > KEEP {
                self.inline.shrink_to(SLACK);
            }
            if self.queue.capacity() * size_of::<Part>() > KEEP {
                self.queue.shrink_to(SLICES);
            }
        }
    }

    /// Bytes queued and not yet written.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending == 0
    }

    /// Bytes written so far: a counter that stands still while the other side does not read.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter")
            .field("pending", &self.pending)
            .field("parts", &self.queue.len())
            .field("written", &self.written)
            .finish()
    }
}

/// Slices that one `writev(2)` of [`write_frame`] takes.
const PARTS: usize = 8;

/// Writes one whole frame, whose payload is `payload_parts` one after the other, and waits until it is
/// written.
///
/// With up to seven parts it is a single `writev(2)`, unless the pipe is too full to take it at once. A
/// descriptor that is, or that task code has made, non-blocking is waited for with `poll(2)`.
///
/// # Errors
/// Those of `writev(2)` and `poll(2)`, after which part of the frame may be written;
/// [`InvalidInput`](io::ErrorKind::InvalidInput) with [`FrameError::TooLong`] inside, and nothing written, if
/// the payload exceeds [`u32::MAX`] bytes.
pub fn write_frame(fd: BorrowedFd<'_>, kind: Kind, ticket: u64, payload_parts: &[&[u8]]) -> io::Result<()> {
    let header = Header::new(kind, ticket, payload_parts)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
        .encode();
    let part =
        |index: usize| if index == 0 { Some(&header[..]) } else { payload_parts.get(index - 1).copied() };

    // The first part that is not wholly written, and how many of its bytes are.
    let (mut first, mut done) = (0, 0);
    loop {
        while let Some(bytes) = part(first).filter(|bytes| bytes.len() <= done) {
            done -= bytes.len();
            first += 1;
        }
        if part(first).is_none() {
            return Ok(());
        }
        let slices: [IoSlice<'_>; PARTS] = array::from_fn(|index| {
            let bytes = part(first + index).unwrap_or_default();
            IoSlice::new(if index == 0 { &bytes[done..] } else { bytes })
        });
        let used = PARTS.min(payload_parts.len() + 1 - first);
        match writev(fd.as_fd(), &slices[..used]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_writable(fd)?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until `fd` takes bytes or its reader is gone. The wait has no limit: a worker that cannot hand over
/// its result has nothing else to do, and ends with its supervisor, which closes the other end.
fn wait_writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::OwnedFd, thread};

    use nix::fcntl::{FcntlArg, fcntl};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        DEFAULT_FRAME_LIMIT, Fill, Frame, FrameReader, HEADER_LEN,
        pipe::{pipe_pair, set_nonblocking},
    };

    /// A pipe that holds 4 KiB and has non-blocking ends.
    fn tiny_pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = pipe_pair().unwrap();
        assert_eq!(fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)), Ok(4096));
        set_nonblocking(read.as_fd()).unwrap();
        set_nonblocking(write.as_fd()).unwrap();
        (read, write)
    }

    /// Takes all that can be read now; what ended it.
    fn take(reader: &mut FrameReader, fd: &OwnedFd, frames: &mut Vec<Frame<'static>>) -> Fill {
        loop {
            match reader.fill(fd.as_fd()).unwrap() {
                Fill::Bytes(bytes) => assert!(bytes > 0, "a reader whose frames are taken has room"),
                end => return end,
            }
            while let Some(frame) = reader.next_frame().unwrap() {
                frames.push(frame.into_owned());
            }
        }
    }

    fn body(len: usize, seed: u8) -> Arc<Vec<u8>> {
        Arc::new((0..len).map(|i| (i as u8).wrapping_mul(7) ^ (i >> 8) as u8 ^ seed).collect())
    }

    #[test]
    fn small_frames_coalesce_and_large_bodies_are_shared() {
        let (small, large) = (body(COPY_BELOW - 1, 1), body(COPY_BELOW, 2));
        let mut writer = FrameWriter::new();
        for _ in 0..3 {
            writer.push(Kind::Task, 1, b"head", &small).unwrap();
        }
        assert_eq!((writer.queue.len(), Arc::strong_count(&small)), (1, 1));
        writer.push(Kind::Task, 2, b"head", &large).unwrap();
        assert_eq!((writer.queue.len(), Arc::strong_count(&large)), (2, 2));
        assert_eq!(writer.pending_bytes(), 3 * (24 + COPY_BELOW - 1) + 24 + COPY_BELOW);

        let (read, write) = pipe_pair().unwrap();
        assert_eq!(writer.flush(write.as_fd()).unwrap(), Flush::Done);
        assert_eq!(Arc::strong_count(&large), 1, "a written body is let go");
        assert_eq!(writer.written(), (4 * 24 + 3 * (COPY_BELOW - 1) + COPY_BELOW) as u64);
        set_nonblocking(read.as_fd()).unwrap();
        let mut frames = Vec::new();
        take(&mut FrameReader::new(DEFAULT_FRAME_LIMIT), &read, &mut frames);
        assert_eq!(frames.len(), 4);
        assert_eq!(frames[3].payload, [b"head", &large[..]].concat());
    }

    #[test]
    fn back_pressure_blocks_and_nothing_is_lost() {
        let (read, write) = tiny_pipe();
        let mut writer = FrameWriter::new();
        let bodies = [body(100, 1), body(50_000, 2), body(0, 3), body(COPY_BELOW, 4), body(9_999, 5)];
        for (body, ticket) in bodies.iter().zip(1..) {
            writer.push(Kind::Task, ticket, &[ticket as u8; 24], body).unwrap();
        }
        let total = writer.pending_bytes();
        assert_eq!(writer.flush(write.as_fd()).unwrap(), Flush::Blocked);
        assert_eq!(writer.flush(write.as_fd()).unwrap(), Flush::Blocked, "nobody has read");
        assert_eq!(writer.written(), 4096);

        let (mut reader, mut frames) = (FrameReader::new(DEFAULT_FRAME_LIMIT), Vec::new());
        for round in 0.. {
            assert!(round < 1_000, "no progress");
            take(&mut reader, &read, &mut frames);
            if writer.flush(write.as_fd()).unwrap() == Flush::Done {
                break;
            }
        }
        take(&mut reader, &read, &mut frames);
        assert_eq!((writer.written(), writer.pending_bytes()), (total as u64, 0));
        assert_eq!(frames.len(), bodies.len());
        for ((frame, body), ticket) in frames.iter().zip(&bodies).zip(1..) {
            assert_eq!(frame.ticket, ticket);
            assert!(frame.payload == [&[ticket as u8; 24][..], body].concat());
        }
    }

    #[test]
    fn one_flush_writes_no_more_than_its_share() {
        let (read, write) = pipe_pair().unwrap();
        let mut writer = FrameWriter::new();
        writer.push(Kind::Task, 1, b"", &body(FLUSH_BUDGET + 5, 0)).unwrap();
        let reader = thread::spawn(move || io::copy(&mut std::fs::File::from(read), &mut io::sink()));
        // The write end blocks, so that the share and not the pipe is what ends the call.
        assert_eq!(writer.flush(write.as_fd()).unwrap(), Flush::More);
        assert_eq!(writer.written(), FLUSH_BUDGET as u64);
        assert_eq!(writer.pending_bytes(), HEADER_LEN + 5);
        assert_eq!(writer.flush(write.as_fd()).unwrap(), Flush::Done);
        drop(write);
        assert_eq!(reader.join().unwrap().unwrap(), (HEADER_LEN + FLUSH_BUDGET + 5) as u64);
    }

    #[test]
    fn a_gone_reader_is_an_error() {
        let (read, write) = tiny_pipe();
        drop(read);
        let mut writer = FrameWriter::new();
        writer.push_copy(Kind::Retire, 0, b"").unwrap();
        assert_eq!(writer.flush(write.as_fd()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(writer.pending_bytes(), HEADER_LEN);
        let error = write_frame(write.as_fd(), Kind::Bye, 0, &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn memory_is_released_after_a_burst_and_bounded_during_a_long_one() {
        let (read, write) = pipe_pair().unwrap();
        let reader = thread::spawn(move || io::copy(&mut std::fs::File::from(read), &mut io::sink()));
        let (mut writer, small, large) = (FrameWriter::new(), body(4_000, 0), body(COPY_BELOW, 0));
        for ticket in 0..20_000 {
            writer.push(Kind::Task, ticket, b"", if ticket % 2 == 0 { &small } else { &large }).unwrap();
        }
        assert!(writer.inline.capacity() > KEEP);
        while writer.flush(write.as_fd()).unwrap() != Flush::Done {}
        assert!(writer.inline.capacity() <= KEEP);
        assert!(writer.queue.capacity() * size_of::<Part>() <= KEEP);

        // Never empty: each flush leaves something behind, and the written bytes must not pile up.
        writer.push(Kind::Task, 0, b"", &body(FLUSH_BUDGET, 0)).unwrap();
        for ticket in 1..200 {
            writer.push(Kind::Task, ticket, &[0; 20_000], &body(FLUSH_BUDGET, 0)).unwrap();
            assert_eq!(writer.flush(write.as_fd()).unwrap(), Flush::More);
        }
        let unsent = writer.inline.len() - writer.start;
        assert!(
            writer.inline.len() <= 2 * unsent + SLACK + 20_000 + HEADER_LEN,
            "{} bytes for {unsent}",
            writer.inline.len()
        );
        drop(write);
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn blocking_write_takes_any_number_of_parts_and_short_writes() {
        let (read, write) = tiny_pipe();
        let text: Vec<Vec<u8>> = (0..30_u8).map(|n| vec![n; usize::from(n) * 40]).collect();
        let expected = text.concat();
        // The write end is non-blocking: every full pipe goes through poll(2).
        let sender = thread::spawn(move || {
            let parts: Vec<&[u8]> = text.iter().map(Vec::as_slice).collect();
            write_frame(write.as_fd(), Kind::Done, 9, &parts)?;
            write_frame(write.as_fd(), Kind::Done, 10, &[b"", b"", b"x", b""])?;
            write_frame(write.as_fd(), Kind::Bye, 0, &[])
        });
        let (mut reader, mut frames) = (FrameReader::new(DEFAULT_FRAME_LIMIT), Vec::new());
        while take(&mut reader, &read, &mut frames) != Fill::Eof {
            let events =
                poll(&mut [PollFd::new(read.as_fd(), PollFlags::POLLIN)], PollTimeout::from(10_000_u16));
            assert_eq!(events, Ok(1), "the sender neither writes nor ends");
        }
        sender.join().unwrap().unwrap();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].payload, expected);
        assert_eq!(&frames[1].payload[..], b"x");
    }

    #[test]
    fn payload_that_the_header_cannot_tell_is_refused() {
        // 2 MiB named 2,048 times over: 4 GiB without the memory.
        let megabytes = vec![0; 2 << 20];
        let parts = vec![&megabytes[..]; 2_048];
        let header = |parts| Header::new(Kind::Done, 1, parts).map(|header| header.len);
        assert_eq!(header(&parts), Err(FrameError::TooLong { len: 1 << 32, limit: u32::MAX }));
        assert_eq!(header(&parts[1..]), Ok(u32::MAX - (2 << 20) + 1));
        let (_read, write) = tiny_pipe();
        let error = write_frame(write.as_fd(), Kind::Done, 1, &parts).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![0..100_usize, 4_000..4_200_usize, 0..30_000_usize]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_pushed_arrives(pushes in prop::collection::vec((0..60_usize, length(), any::<bool>()), 1..40)) {
            let (read, write) = tiny_pipe();
            let (mut writer, mut reader) = (FrameWriter::new(), FrameReader::new(DEFAULT_FRAME_LIMIT));
            let mut frames = Vec::new();
            let mut sent = Vec::new();
            for (ticket, (head, len, flush_now)) in pushes.into_iter().enumerate() {
                let (head, body) = (vec![ticket as u8; head], body(len, ticket as u8));
                writer.push(Kind::Task, ticket as u64, &head, &body).unwrap();
                sent.push([head, body.to_vec()].concat());
                if flush_now {
                    writer.flush(write.as_fd()).unwrap();
                    take(&mut reader, &read, &mut frames);
                }
            }
            while writer.flush(write.as_fd()).unwrap() != Flush::Done {
                let before = writer.written();
                take(&mut reader, &read, &mut frames);
                writer.flush(write.as_fd()).unwrap();
                prop_assert!(writer.written() > before);
            }
            take(&mut reader, &read, &mut frames);
            prop_assert_eq!(frames.len(), sent.len());
            for (ticket, (frame, payload)) in frames.iter().zip(&sent).enumerate() {
                prop_assert_eq!(frame.ticket, ticket as u64);
                prop_assert!(frame.payload == *payload);
            }
        }
    }
}
