//! The worker's ends of the exchange, for a worker that may put anything into them.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use pool_ipc::{Boot, Fill, FrameReader, Region, RingReader, RingWriter, Wake, WorkerEnds};
use pool_tests::region::Place;

use crate::{Result, told};

/// Where tasks come from and results go to: rings with their doorbells, or pipes.
pub(crate) struct Wire {
    rings: Option<Rings>,
    /// The task pipe, or the doorbell of this worker.
    tasks: std::fs::File,
    /// The result pipe, or the supervisor's doorbell.
    results: Option<std::fs::File>,
    /// The shared memory, to be written behind everybody's back.
    memory: std::fs::File,
    /// Where descriptors are passed.
    socket: Option<OwnedFd>,
    reader: FrameReader,
    /// Whether the supervisor's doorbell is left alone.
    is_silent: bool,
}

struct Rings {
    tasks: RingReader,
    results: RingWriter,
}

impl Wire {
    pub(crate) fn new(boot: &Boot, region: &Region, ends: WorkerEnds, socket: Option<OwnedFd>) -> Self {
        let rings = boot.ring.then(|| {
            let (tasks, results) = region.worker();
            Rings { tasks, results }
        });
        Self {
            rings,
            tasks: ends.tasks.into(),
            results: Some(ends.results.into()),
            memory: ends.region.into(),
            socket,
            reader: FrameReader::new(boot.frame_limit),
            is_silent: false,
        }
    }

    /// What has been read and not been taken.
    pub(crate) fn reader(&mut self) -> &mut FrameReader {
        &mut self.reader
    }

    /// Waits until there is something to read, and reads it; false at the end.
    pub(crate) fn fill(&mut self) -> Result<bool> {
        let Some(rings) = &mut self.rings else {
            return Ok(told("read", self.reader.fill(self.tasks.as_fd()))? != Fill::Eof);
        };
        loop {
            let (filled, waits_for_room) = told("read", self.reader.fill_from(&mut rings.tasks))?;
            if waits_for_room {
                ring(&self.results)?;
            }
            if filled != Fill::WouldBlock {
                return Ok(true);
            }
            if told("arm", rings.tasks.arm(Wake::Each))? && wait_for_bell(&self.tasks)? == 0 {
                return Ok(false);
            }
        }
    }

    /// Writes bytes, which need not be frames, and announces them.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some(rings) = &mut self.rings else {
            let pipe = self.results.as_mut().ok_or("the result pipe has been closed")?;
            return told("result", pipe.write_all(bytes));
        };
        loop {
            let staged = told("result", rings.results.stage(bytes))?;
            bytes = &bytes[staged..];
            if bytes.is_empty() {
                break;
            }
            let room = told("room", rings.results.wait_for_room(bytes.len()))?;
            if room.ring {
                ring(&self.results)?;
            }
            if !room.now && wait_for_bell(&self.tasks)? == 0 {
                return Err("the supervisor is gone".to_owned());
            }
        }
        let is_awaited = rings.results.publish() || rings.results.ring_if_waiting();
        if is_awaited && !self.is_silent { ring(&self.results) } else { Ok(()) }
    }

    /// Closes the result pipe, or the supervisor's doorbell.
    pub(crate) fn close_results(&mut self) {
        self.results = None;
    }

    /// Rings no bell any more.
    pub(crate) fn fall_silent(&mut self) {
        self.is_silent = true;
    }

    /// Rings without end, on a thread of its own.
    pub(crate) fn ring_for_ever(&self) -> Result<()> {
        let bell = self.results.as_ref().ok_or("the doorbell has been closed")?;
        let bell = told("bell", bell.try_clone())?;
        let ringing = move || while (&bell).write_all(&[1; 512]).is_ok() {};
        told("thread", std::thread::Builder::new().spawn(ringing)).map(drop)
    }

    /// Puts bytes where there ought to be bells; in a pipe for results they are part of these.
    pub(crate) fn ring_with(&self, bytes: &[u8]) -> Result<()> {
        let mut bell = self.results.as_ref().ok_or("the doorbell has been closed")?;
        told("bell", bell.write_all(bytes))
    }

    /// Where descriptors are passed, if the supervisor has sent that.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The shared memory.
    pub(crate) fn memory(&self) -> Result<std::fs::File> {
        told("memory", self.memory.try_clone())
    }

    /// Overwrites a part of the shared memory, behind everybody's back.
    pub(crate) fn scribble(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        told("scribble", self.memory.write_all_at(bytes, offset))
    }

    /// Adds to a word of the shared memory, behind everybody's back.
    pub(crate) fn bend(&self, place: Place, by: i64) -> Result<()> {
        let mut word = [0; 8];
        told("look", self.memory.read_exact_at(&mut word, place.offset()))?;
        let bent = u64::from_le_bytes(word).wrapping_add_signed(by);
        told("bend", self.memory.write_all_at(&bent.to_le_bytes(), place.offset()))
    }
}

fn ring(bell: &Option<std::fs::File>) -> Result<()> {
    let mut bell = bell.as_ref().ok_or("the doorbell has been closed")?;
    told("bell", bell.write_all(&[1]))
}

/// Reads doorbells; how many, 0 at the end.
fn wait_for_bell(bell: &std::fs::File) -> Result<usize> {
    told("bell", nix::unistd::read(bell, &mut [0; 64]))
}
