//! Breaking the protocol in random ways, one after the other.
//!
//! A worker can lie about the results of its own tasks, and nobody can tell. So that a test can, no blow here is a lie in sound
//! frames: whatever is delivered as a result is the right one.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pool_ipc::boot::send_descriptor;
use pool_ipc::ring::CAPACITY;
use pool_ipc::{HEADER_LEN, Header, Kind, Locator, SealedWriter, Segment, pipe_pair};
use pool_tests::region::{Place, Ring};

use crate::random::Random;
use crate::wire::Wire;
use crate::worker::{die, framed, sleep_for_ever, unknown_kind};
use crate::{Result, told};

/// Beyond the end of everything that is passed.
const FAR: u64 = 1 << 41;

/// One attack: what would have been right, and how far it has gone.
pub(crate) struct Assault<'a> {
    random: Random,
    ticket: u64,
    /// The right result, and its frame.
    output: &'a [u8],
    frame: &'a [u8],
    /// Whether the right result has been sent.
    is_answered: bool,
    /// The right frame, to be sent out of turn.
    late: Option<Vec<u8>>,
}

/// How an attack leaves its worker.
pub(crate) struct Aftermath {
    /// Whether the board is to say that the task has ended.
    pub(crate) finish: bool,
    /// A frame to be sent out of turn.
    pub(crate) late: Option<Vec<u8>>,
}

impl<'a> Assault<'a> {
    pub(crate) fn new(random: Random, ticket: u64, output: &'a [u8], frame: &'a [u8]) -> Self {
        Self { random, ticket, output, frame, is_answered: false, late: None }
    }

    /// Some blows, and one of several ends.
    pub(crate) fn run(mut self, wire: &mut Wire) -> Result<Aftermath> {
        for _ in 0..=self.random.below(4) {
            self.blow(wire)?;
        }
        if !self.is_answered && self.late.is_none() && !self.random.one_in(4) {
            wire.write(self.frame)?;
        }
        match self.random.below(32) {
            0..4 => die(),
            4 => std::process::exit(self.random.pick(&[0, 1, 3, 102, 103])),
            5 => sleep_for_ever(),
            6 => {
                wire.close_results();
                sleep_for_ever()
            }
            7 => told("raise", raise(Signal::SIGSTOP))?,
            _ => {}
        }
        Ok(Aftermath { finish: !self.random.one_in(16), late: self.late })
    }

    fn blow(&mut self, wire: &mut Wire) -> Result<()> {
        match self.random.below(20) {
            0 | 1 => self.answer(wire),
            2 => {
                self.answer(wire)?;
                self.answer(wire)
            }
            3 | 4 => wire.write(&self.mutated()),
            5 => {
                let end = self.random.below(self.frame.len());
                wire.write(&self.frame[..end])
            }
            6 => wire.write(&self.promise()),
            7 => {
                let frame = framed(Kind::Done, self.other_ticket(), &self.frame[HEADER_LEN..])?;
                wire.write(&frame)
            }
            8 => {
                let frame = self.wrong_frame()?;
                wire.write(&frame)
            }
            9 => {
                let len = self.random.below(3000);
                wire.write(&self.random.bytes(len))
            }
            10 => {
                self.late = (!self.is_answered).then(|| self.frame.to_vec());
                Ok(())
            }
            11 => {
                let place = self.random.pick(&Place::WORDS);
                match self.random.below(3) {
                    0 => wire.bend(place, self.random.below(CAPACITY) as i64 - CAPACITY as i64 / 2),
                    _ => wire.scribble(place.offset(), &self.random.number().to_le_bytes()),
                }
            }
            12 => {
                let ring = self.random.pick(&[Ring::Tasks, Ring::Results]);
                self.scribble(wire, Place::Bytes(ring), 2000)
            }
            13 => self.scribble_board(wire),
            14 => self.scribble(wire, Place::Gauges, 1000),
            15 => self.bells(wire),
            16 => self.packet(wire),
            17 => self.parcel(wire),
            18 => {
                let many = self.random.below(300);
                wire.write(&self.frame.repeat(many))?;
                self.is_answered |= many > 0;
                Ok(())
            }
            _ => self.vandal(wire),
        }
    }

    fn answer(&mut self, wire: &mut Wire) -> Result<()> {
        self.is_answered = true;
        wire.write(self.frame)
    }

    /// The right frame with some bits changed, of which one at least is in what has a check.
    fn mutated(&mut self) -> Vec<u8> {
        let mut frame = self.frame.to_vec();
        for _ in 0..=self.random.below(4) {
            let at = self.random.below(frame.len());
            frame[at] ^= 1 << self.random.below(8);
        }
        frame
    }

    /// A sound header with nothing behind it, or not what it promises.
    fn promise(&mut self) -> Vec<u8> {
        if self.random.one_in(8) {
            return unknown_kind(self.ticket).to_vec();
        }
        let len = self.random.number() as u32;
        let kind = self.random.pick(&[Kind::Done, Kind::Failed, Kind::DoneAt, Kind::Forget]);
        // Not 0, so that no payload fits it.
        let sum = self.random.next() as u32 | 1;
        Header { len, kind, ticket: self.ticket, sum }.encode().to_vec()
    }

    /// One that is far from those that may be held.
    fn other_ticket(&mut self) -> u64 {
        match self.random.below(3) {
            0 => self.ticket.wrapping_sub(5000 + self.random.below(5000) as u64),
            1 => self.ticket.wrapping_add(5000 + self.random.below(5000) as u64),
            _ => self.random.next() | 1 << 40,
        }
    }

    /// A frame that a worker must not send now, or whose payload makes no sense.
    fn wrong_frame(&mut self) -> Result<Vec<u8>> {
        let garbage = vec![0xFF; 1 + self.random.below(100)];
        let (kind, payload) = match self.random.below(14) {
            0 => (Kind::Hello, garbage),
            1 => (Kind::Task, garbage),
            2 => (Kind::Failed, garbage),
            3 => (Kind::Retire, Vec::new()),
            4 => (Kind::Bye, Vec::new()),
            5 => (Kind::Bundle, garbage),
            6 => (Kind::TaskAt, garbage),
            7 => (Kind::Release, garbage),
            8 => (Kind::Forget, garbage),
            9 => (Kind::Refused, Vec::new()),
            10 => (Kind::Preparing, garbage),
            11 => (Kind::Prepared, Vec::new()),
            12 => (Kind::Unfit, garbage),
            _ => (Kind::ExitNote, garbage),
        };
        let ticket = if self.random.one_in(2) { self.ticket } else { self.random.number() };
        framed(kind, ticket, &payload)
    }

    fn scribble(&mut self, wire: &Wire, place: Place, most: usize) -> Result<()> {
        let len = self.random.below(most);
        let at = self.random.below(place.size() - len);
        wire.scribble(place.offset() + at as u64, &self.random.bytes(len))
    }

    /// Slots of this task and of those around it, the start and the wish to cancel.
    fn scribble_board(&mut self, wire: &Wire) -> Result<()> {
        for _ in 0..=self.random.below(10) {
            let ticket = self.ticket.wrapping_add(self.random.below(4) as u64);
            let slot = 256 + 8 * (ticket % 4096);
            let (at, word) = match self.random.below(6) {
                0 => (0, self.random.number()),
                1 => (128, self.random.number()),
                2 => (slot, self.random.number()),
                3 => (256 + 8 * self.random.below(4096) as u64, self.random.number()),
                _ => (slot, ticket << 2 | self.random.next() & 3),
            };
            wire.scribble(Place::Board.offset() + at, &word.to_le_bytes())?;
        }
        Ok(())
    }

    /// Bells that mean nothing; where there are no bells, garbage.
    fn bells(&mut self, wire: &mut Wire) -> Result<()> {
        match self.random.below(8) {
            0 => wire.ring_for_ever(),
            1 => {
                wire.fall_silent();
                Ok(())
            }
            2 | 3 => {
                let ticket = self.random.pick(&[self.ticket, self.ticket - 1, 0, u64::MAX]);
                wire.ring_with(&framed(Kind::Refused, ticket, &[])?)
            }
            _ => {
                let len = self.random.below(500);
                wire.ring_with(&self.random.bytes(len))
            }
        }
    }

    /// Something on the socket on which descriptors are passed.
    fn packet(&mut self, wire: &mut Wire) -> Result<()> {
        let Some(socket) = wire.socket() else { return Ok(()) };
        let fds = (0..self.random.pick(&[0, 0, 1, 1, 2, 7, 25])).map(|_| self.descriptor());
        let fds = fds.collect::<Result<Vec<OwnedFd>>>()?;
        let mut bytes = [b"POOLDSCR", &self.random.number().to_le_bytes()[..]].concat();
        match self.random.below(3) {
            0 => {
                let at = self.random.below(bytes.len());
                bytes[at] ^= 1 << self.random.below(8);
            }
            1 => bytes.resize(self.random.below(40), 0),
            _ => {}
        }
        let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        for _ in 0..self.random.pick(&[1, 1, 3, 1000]) {
            let parts = [IoSlice::new(&bytes)];
            if sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None).is_err() {
                // It is full.
                break;
            }
        }
        // That is looked at when it is wanted.
        if self.random.one_in(2) {
            let locator = Locator { segment: self.random.number(), offset: FAR, len: 1 };
            wire.write(&framed(Kind::DoneAt, self.ticket, &locator.encode())?)?;
        }
        Ok(())
    }

    /// A descriptor of which nothing can be expected.
    fn descriptor(&mut self) -> Result<OwnedFd> {
        let kind = self.random.below(6);
        match kind {
            0 => Ok(told("null", std::fs::File::open("/dev/null"))?.into()),
            1 => Ok(told("pipe", pipe_pair())?.0),
            2 => Ok(told("directory", std::fs::File::open("/"))?.into()),
            _ => {
                let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
                let fd = told("memfd", memfd_create(c"hostile", flags))?;
                let len = self.random.pick(&[0, 1, 10, 4096, 1 << 20, 1 << 40]);
                told("length", nix::unistd::ftruncate(&fd, len))?;
                let mut seals = SealFlag::from_bits_retain(self.random.next() as i32 & 0x1F);
                if kind == 3 {
                    // As they should be.
                    seals = SealFlag::from_bits_retain(0x17);
                }
                told("seals", fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)))?;
                Ok(fd)
            }
        }
    }

    /// A result in shared memory, passed rightly, or described as something that it is not.
    fn parcel(&mut self, wire: &mut Wire) -> Result<()> {
        let Some(socket) = wire.socket() else { return Ok(()) };
        let len = self.output.len() as u64;
        let id = self.random.next();
        let mut locator = match self.random.below(4) {
            // A sealed file: of a result that is bytes, these and not their number before them.
            0 => {
                let before = self.output.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
                let content = &self.output[before.min(self.output.len())..];
                let mut writer = told("sealed", SealedWriter::create())?;
                told("sealed", writer.append(content))?;
                let sealed = writer.seal().map_err(|(_, error)| format!("sealed: {error}"))?;
                let fd = sealed.fd().ok_or("a sealed file without a descriptor")?;
                told("descriptor", send_descriptor(socket, id, fd))?;
                Locator { segment: id, offset: 0, len: content.len() as u64 }
            }
            1 => {
                let segment = Arc::new(told("segment", Segment::create(self.output.len(), 1))?);
                let mut block = segment.take().ok_or("a segment without a block")?;
                block.bytes_mut()[..self.output.len()].copy_from_slice(self.output);
                told("descriptor", send_descriptor(socket, id, segment.fd()))?;
                Locator { segment: id, offset: 0, len }
            }
            2 => {
                let fd = self.descriptor()?;
                told("descriptor", send_descriptor(socket, id, fd.as_fd()))?;
                Locator { segment: id, offset: FAR, len: 1 }
            }
            _ => Locator { segment: id, offset: self.random.number(), len },
        };
        if self.random.one_in(3) {
            let far = FAR + self.random.next() % (1 << 62);
            match self.random.below(2) {
                0 => locator.offset = far,
                _ => locator.len = far,
            }
        }
        self.is_answered = true;
        wire.write(&framed(Kind::DoneAt, self.ticket, &locator.encode())?)
    }

    /// Somebody who scribbles over positions, flags and board while all goes on.
    fn vandal(&mut self, wire: &Wire) -> Result<()> {
        let memory = wire.memory()?;
        let mut random = Random::new(self.random.next());
        let slot = Place::Board.offset() + 256 + 8 * (self.ticket % 4096);
        let vandalise = move || {
            for _ in 0..2000 {
                let at = match random.below(3) {
                    0 => slot,
                    _ => random.pick(&Place::WORDS).offset(),
                };
                let number = random.number();
                // Who does harm does not mind whether it works.
                let _ = memory.write_all_at(&number.to_le_bytes(), at);
                std::thread::yield_now();
            }
        };
        told("thread", std::thread::Builder::new().spawn(vandalise)).map(drop)
    }
}
