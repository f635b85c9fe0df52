//! The supervisor's ends of both rings, with a hostile worker at the other ends.

use pool_ipc::ring::CAPACITY;
use pool_ipc::{Fill, FrameReader, Kind, RingReader, RingWriter, Wake};

use super::frames::{drain, framed};
use super::input::Input;
use super::memory::{HEAD, Memory, NOTE, READER_WAITS, RESULTS, TAIL, TASKS, WRITER_WAITS, offset};

const WORDS: [u64; 5] = [TAIL, HEAD, READER_WAITS, WRITER_WAITS, NOTE];
const FULL: u64 = CAPACITY as u64;

/// The hostile worker writes positions, flags and bytes as it likes; the supervisor's ends are used in any order. What they
/// answer, read and write must be what the module's documentation promises for the words that are there.
pub fn ring(input: &[u8]) {
    let mut input = Input::new(input);
    let memory = Memory::new();
    let (tasks, results) = memory.region.supervisor();
    let mut reading = Reading { ring: results, memory: &memory, position: 0, published: 0 };
    let mut writing =
        Writing { ring: tasks, memory: &memory, shadow: vec![0; CAPACITY], staged: 0, published: 0, read: 0 };
    let mut frames = FrameReader::new(1 << 20);
    let salvaged = input.byte().is_multiple_of(4);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let action = input.byte();
        match action % 16 {
            0 => memory.set(RESULTS + WORDS[usize::from(input.byte()) % 5], input.long()),
            1 => memory.set(TASKS + WORDS[usize::from(input.byte()) % 5], input.long()),
            // Almost right.
            2 => {
                let tail = memory.word(RESULTS + TAIL);
                memory.set(RESULTS + TAIL, tail.wrapping_add_signed(small(&mut input)));
            }
            3 => {
                let head = memory.word(TASKS + HEAD);
                memory.set(TASKS + HEAD, head.wrapping_add_signed(small(&mut input)));
            }
            // An honest frame, if there is room for it.
            4 => {
                let len = usize::from(input.short()) % 3000;
                let frame = framed(Kind::Done, input.byte().into(), input.bytes(len));
                reading.receive(&frame);
            }
            5 => {
                let at = input.long() % FULL;
                memory.set_ring(RESULTS, at, input.bytes(64));
            }
            // The honest reader of the other ring catches up.
            6 => memory.set(TASKS + HEAD, writing.published),
            7 => reading.look(),
            8 => {
                let most = input.word() as usize % (2 * CAPACITY);
                reading.read(most);
            }
            9 => reading.sleep(input.byte()),
            10 => reading.fill(&mut frames),
            11 => {
                let len = input.word() as usize % (CAPACITY + 100);
                writing.stage(&vec![input.byte(); len]);
            }
            12 => {
                let len = input.word() as usize % (CAPACITY + 100);
                writing.frame(&vec![input.byte(); len]);
            }
            13 => writing.publish(input.byte().is_multiple_of(2)),
            14 => writing.wait(input.word() as usize % (2 * CAPACITY)),
            _ => {
                writing.ring.leave_note(input.long());
                assert_eq!(reading.ring.note(), memory.word(RESULTS + NOTE));
            }
        }
    }
    writing.check();
    if salvaged {
        reading.salvage(&mut frames);
    }
}

fn small(input: &mut Input<'_>) -> i64 {
    match input.byte() % 4 {
        0 => i64::from(input.byte()) - 128,
        1 => FULL as i64 + i64::from(input.byte()) - 128,
        2 => -(FULL as i64) + i64::from(input.byte()),
        _ => i64::from(input.short()),
    }
}

/// The reader of results, and what is known of it.
struct Reading<'a> {
    ring: RingReader,
    memory: &'a Memory,
    position: u64,
    published: u64,
}

impl Reading<'_> {
    /// What the next look at the writer's position brings.
    fn expected(&mut self) -> Option<u64> {
        let tail = self.memory.word(RESULTS + TAIL);
        let sound = (self.published..=self.position + FULL).contains(&tail);
        sound.then(|| {
            self.published = tail;
            tail - self.position
        })
    }

    /// A worker writes as it should.
    fn receive(&mut self, frame: &[u8]) {
        let tail = self.memory.word(RESULTS + TAIL);
        if let Some(known) = tail.checked_sub(self.position)
            && known.saturating_add(frame.len() as u64) <= FULL
        {
            self.memory.set_ring(RESULTS, tail, frame);
            self.memory.set(RESULTS + TAIL, tail + frame.len() as u64);
        }
    }

    fn look(&mut self) {
        let expected = self.expected();
        assert_eq!(self.ring.available().ok().map(|len| len as u64), expected);
    }

    fn read(&mut self, most: usize) {
        let expected = self.expected().map(|len| (len as usize).min(most));
        let mut bytes = vec![1, 2, 3];
        let writer_waits = self.memory.word(RESULTS + WRITER_WAITS) != 0;
        let found = self.ring.read_into(&mut bytes, most).ok();
        assert_eq!(found.map(|(len, _)| len), expected);
        let Some((len, rings)) = found else { return };
        assert_eq!(bytes, [vec![1, 2, 3], self.memory.ring(RESULTS, self.position, len)].concat());
        self.position += len as u64;
        assert_eq!(self.ring.read(), self.position);
        let half = self.published - self.position <= FULL / 2;
        assert_eq!(rings, len > 0 && writer_waits && half);
        if len > 0 {
            assert_eq!(self.memory.word(RESULTS + HEAD), self.position);
        }
        if rings {
            assert_eq!(self.memory.word(RESULTS + WRITER_WAITS), 0);
        }
    }

    fn sleep(&mut self, how: u8) {
        let wake = if how & 1 == 0 { Wake::Each } else { Wake::Low };
        let flag = RESULTS + READER_WAITS;
        match how >> 1 & 3 {
            0 => {
                self.ring.disarm();
                assert_eq!(self.memory.word(flag), 0);
            }
            1 => {
                let expected = self.expected();
                assert_eq!(self.ring.raise(wake).ok().map(|len| len as u64), expected);
                assert_ne!(self.memory.word(flag), 0);
            }
            _ => {
                let expected = self.expected();
                assert_eq!(self.ring.arm(wake).ok(), expected.map(|len| len == 0));
                assert_eq!(self.memory.word(flag) != 0, expected == Some(0));
            }
        }
    }

    fn fill(&mut self, frames: &mut FrameReader) {
        let expected = self.expected();
        match frames.fill_from(&mut self.ring) {
            Ok((Fill::Bytes(len), _)) => {
                assert!(len as u64 <= expected.unwrap_or(0));
                self.position += len as u64;
                drain(frames);
            }
            Ok((filled, rings)) => assert_eq!((filled, rings, expected), (Fill::WouldBlock, false, Some(0))),
            Err(_) => assert_eq!(expected, None),
        }
        assert_eq!(self.ring.read(), self.position);
    }

    /// Whatever has happened, the bytes of the ring can be looked through.
    fn salvage(&mut self, frames: &mut FrameReader) {
        let mut bytes = Vec::new();
        self.ring.salvage(&mut bytes);
        assert!(bytes == self.memory.ring(RESULTS, self.position, CAPACITY));
        frames.salvage_from(&self.ring);
        let runs = |frames: &mut FrameReader| {
            let mut tickets = 0..=255;
            tickets.any(|ticket| frames.next_run(Kind::Done, ticket, 9).is_ok_and(|run| run.is_some()))
        };
        let found = runs(frames);
        frames.salvage_from(&self.ring);
        assert_eq!(runs(frames), found, "it is found again");
    }
}

/// The writer of tasks, and what is known of it.
struct Writing<'a> {
    ring: RingWriter,
    memory: &'a Memory,
    /// What must be in the ring.
    shadow: Vec<u8>,
    staged: u64,
    published: u64,
    read: u64,
}

impl Writing<'_> {
    fn free(&self) -> usize {
        CAPACITY - (self.staged - self.read) as usize
    }

    /// Looks at the reader's position; whether it can be true.
    fn look(&mut self) -> bool {
        let head = self.memory.word(TASKS + HEAD);
        let sound = (self.read..=self.published).contains(&head);
        if sound {
            self.read = head;
        }
        sound
    }

    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.shadow[offset(self.staged)] = *byte;
            self.staged += 1;
        }
        assert_eq!(self.ring.unpublished() as u64, self.staged - self.published);
    }

    fn stage(&mut self, bytes: &[u8]) {
        let sound = bytes.len() <= self.free() || self.look();
        let expected = sound.then(|| bytes.len().min(self.free()));
        assert_eq!(self.ring.stage(bytes).ok(), expected);
        self.put(&bytes[..expected.unwrap_or(0)]);
    }

    fn frame(&mut self, payload: &[u8]) {
        let frame = framed(Kind::Task, 7, payload);
        let sound = frame.len() <= self.free() || self.look();
        let expected = sound.then(|| frame.len() <= self.free());
        let (first, second) = payload.split_at(payload.len() / 3);
        assert_eq!(self.ring.frame(Kind::Task, 7, &[first, second]).ok(), expected);
        if expected == Some(true) {
            self.put(&frame);
        }
    }

    /// Whether the reader is to be woken now.
    fn wakes(&mut self, even_low: bool) -> bool {
        let flag = self.memory.word(TASKS + READER_WAITS);
        let half = |read: u64, published: u64| published - read > FULL / 2;
        match flag {
            0 => false,
            // A position that cannot be is no reason to let it sleep.
            2 if !even_low => {
                half(self.read, self.published) && (!self.look() || half(self.read, self.published))
            }
            _ => true,
        }
    }

    fn publish(&mut self, says_so: bool) {
        if says_so {
            let expected = self.wakes(true);
            assert_eq!(self.ring.ring_if_waiting(), expected);
            return;
        }
        let is_news = self.staged > self.published;
        self.published = self.staged;
        let expected = is_news && self.wakes(false);
        assert_eq!(self.ring.publish(), expected);
        assert_eq!(self.ring.written(), self.published);
        if is_news {
            assert_eq!(self.memory.word(TASKS + TAIL), self.published);
        }
        if expected {
            assert_eq!(self.memory.word(TASKS + READER_WAITS), 0);
        }
    }

    fn wait(&mut self, len: usize) {
        let is_news = self.staged > self.published;
        self.published = self.staged;
        let rings = is_news && self.wakes(false);
        let sound = self.look();
        let room = self.ring.wait_for_room(len).ok();
        assert_eq!(room.is_some(), sound);
        let Some(room) = room else { return };
        assert_eq!(room.now, len.min(CAPACITY) <= self.free());
        assert!(room.ring || !rings);
        assert_eq!(self.memory.word(TASKS + WRITER_WAITS) != 0, !room.now);
        if !room.now {
            assert_eq!(self.memory.word(TASKS + READER_WAITS), 0, "both would sleep");
        }
    }

    /// Nothing has been written but what was to be, and where.
    fn check(&self) {
        if self.staged > 0 {
            assert!(self.memory.ring(TASKS, 0, CAPACITY) == self.shadow);
        }
        assert!(self.staged - self.read <= FULL && self.ring.written() == self.published);
    }
}
