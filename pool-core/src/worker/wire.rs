//! The worker's ends of the exchange: where tasks come from, and where results go.
//!
//! Frames travel through rings in shared memory, or through the two pipes where there are none. With rings, the pipes carry
//! doorbells: a byte that means "look again", sent only to a side that has said that it sleeps. The worker has one place
//! to sleep, a read of its task pipe; there the end of the supervisor shows, too.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use pool_ipc::{
    Board, Fill, Flush, FrameReader, FrameWriter, Kind, RingReader, RingWriter, Wake, write_frame,
};

use crate::supervisor::spin::{self, Spin, Turn};
use crate::sys::setup;
use crate::transport::BELL;
use crate::worker::parcels::Parcels;
use crate::worker::serve::{give_up, sound};

/// Where tasks come from, and what has been read of them.
pub(super) struct Inlet {
    pub(super) reader: FrameReader,
    pub(super) source: Source,
    /// Bytes that the last fill has brought.
    filled: usize,
}

/// Where tasks come from.
pub(super) struct Source {
    ring: Option<RingReader>,
    board: Board,
    /// The task pipe.
    pipe: &'static OwnedFd,
    identity: Option<(u64, u64)>,
    spin: Spin,
}

/// Where results go.
pub(super) struct Outlet {
    ring: Option<RingWriter>,
    /// The result pipe.
    pipe: &'static OwnedFd,
    identity: Option<(u64, u64)>,
    /// The task pipe, where a worker waits for room in the ring.
    doorbell: &'static OwnedFd,
}

impl Inlet {
    pub(super) fn new(
        frame_limit: u32,
        ring: Option<RingReader>,
        board: Board,
        pipe: &'static OwnedFd,
    ) -> Self {
        let source = Source { ring, board, pipe, identity: identity(pipe), spin: Spin::new() };
        Self { reader: FrameReader::new(frame_limit), source, filled: 0 }
    }

    /// Waits until there is something to read, and reads it.
    pub(super) fn fill(&mut self, outlet: &mut Outlet, parcels: &mut Parcels) {
        let Self { reader, source, filled } = self;
        *filled = match &mut source.ring {
            Some(_) => source.fill_from_ring(reader, outlet, parcels),
            None => source.fill_from_pipe(reader, outlet, parcels),
        };
    }

    /// Whether at most half of what was read last is left, and nothing more is there: time for the supervisor to send more.
    pub(super) fn is_low(&mut self) -> bool {
        self.reader.unread() <= self.filled / 2 && self.source.is_empty()
    }
}

impl Source {
    /// Whether it is known that nothing has come.
    pub(super) fn is_empty(&mut self) -> bool {
        self.ring.as_mut().is_some_and(|ring| ring.available() == Ok(0))
    }

    fn fill_from_ring(
        &mut self,
        reader: &mut FrameReader,
        outlet: &mut Outlet,
        parcels: &mut Parcels,
    ) -> usize {
        let Some(ring) = &mut self.ring else { return 0 };
        let mut told = false;
        loop {
            let (fill, waits_for_room) = sound(reader.fill_from(ring));
            if let Fill::Bytes(bytes) = fill {
                self.spin.found();
                if waits_for_room {
                    outlet.ring_the_bell();
                }
                return bytes;
            }
            if !told {
                told = true;
                outlet.run_low();
            }
            match if self.board.may_spin() { self.spin.turn() } else { Turn::Sleep } {
                Turn::Look => continue,
                Turn::Yield => {
                    self.spin.was_away(spin::give_way());
                    continue;
                }
                Turn::Sleep => {}
            }
            if sound(ring.arm(Wake::Each)) {
                idle(self.pipe, outlet, parcels);
                // It may have waited for room, at the same bell.
                if sound(ring.arm(Wake::Each)) && wait_for_bell(self.pipe) == 0 {
                    end_of_tasks(self.pipe, self.identity);
                }
            }
        }
    }

    fn fill_from_pipe(
        &mut self,
        reader: &mut FrameReader,
        outlet: &mut Outlet,
        parcels: &mut Parcels,
    ) -> usize {
        loop {
            idle(self.pipe, outlet, parcels);
            match reader.fill(self.pipe.as_fd()) {
                Ok(Fill::Bytes(bytes)) => return bytes,
                Ok(Fill::Eof) => end_of_tasks(self.pipe, self.identity),
                // Somebody has made the descriptor non-blocking: wait for it as for any other.
                Ok(Fill::WouldBlock) => _ = wait_readable(self.pipe, None),
                Err(error) => give_up(&format!("cannot read tasks: {error}")),
            }
        }
    }
}

/// What a ring says, or the end of this worker if the ring has been overwritten.
fn in_order<T>(what: Result<T, impl std::fmt::Display>) -> T {
    what.unwrap_or_else(|error| give_up(&error.to_string()))
}

impl Outlet {
    pub(super) fn new(ring: Option<RingWriter>, pipe: &'static OwnedFd, doorbell: &'static OwnedFd) -> Self {
        Self { ring, pipe, identity: identity(pipe), doorbell }
    }

    /// Sends one frame: when it returns, the supervisor gets it, whatever happens to this process.
    pub(super) fn send(&mut self, kind: Kind, ticket: u64, payload: &[u8]) {
        let Some(ring) = &mut self.ring else {
            // What is written into something else is lost, and with it what tells that tasks have been run. So is a result, then;
            // but no later task is begun.
            if identity(self.pipe) != self.identity {
                give_up(
                    "the result pipe is gone: has the task put something else in the place of descriptors that are not its own?",
                );
            }
            return match write_frame(self.pipe.as_fd(), kind, ticket, &[payload]) {
                Ok(()) => {}
                // Nobody reads results any more.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => setup::kill_own_group(),
                Err(error) => give_up(&format!(
                    "cannot write a result: {error} (has the task closed descriptors that are not its own?)"
                )),
            };
        };
        if !in_order(ring.frame(kind, ticket, &[payload])) {
            self.send_in_pieces(kind, ticket, payload);
        } else if ring.publish() {
            self.ring_the_bell();
        }
    }

    /// Sends a frame for which there is no room now, or never at once.
    #[cold]
    fn send_in_pieces(&mut self, kind: Kind, ticket: u64, payload: &[u8]) {
        let mut writer = FrameWriter::new();
        if let Err(error) = writer.push_copy(kind, ticket, payload) {
            give_up(&format!("cannot frame a result: {error}"));
        }
        loop {
            let Some(ring) = &mut self.ring else { return };
            let flushed = in_order(writer.flush_into(ring));
            if flushed == Flush::Done {
                if ring.publish() {
                    self.ring_the_bell();
                }
                return;
            }
            let room = in_order(ring.wait_for_room(writer.pending_bytes()));
            if room.ring {
                self.ring_the_bell();
            }
            if !room.now && wait_for_bell(self.doorbell) == 0 {
                setup::kill_own_group();
            }
        }
    }

    /// There is something that the supervisor should not learn late: few tasks are left, or one has failed.
    pub(super) fn run_low(&mut self) {
        if self.ring.as_mut().is_some_and(RingWriter::ring_if_waiting) {
            self.ring_the_bell();
        }
    }

    /// Says how long each of the latest tasks took.
    pub(super) fn note_pace(&mut self, pace: u64) {
        if let Some(ring) = &mut self.ring {
            ring.leave_note(pace);
        }
    }

    fn ring_the_bell(&self) {
        loop {
            match nix::unistd::write(self.pipe, &[BELL]) {
                // A full pipe wakes the supervisor, too.
                Ok(_) | Err(nix::errno::Errno::EAGAIN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EPIPE) => setup::kill_own_group(),
                Err(error) => give_up(&format!(
                    "cannot announce a result: {error} (has the task closed descriptors that are not its own?)"
                )),
            }
        }
    }
}

/// Reads doorbells; how many, 0 at the end of file.
fn wait_for_bell(pipe: &OwnedFd) -> usize {
    let mut bells = [0; 64];
    loop {
        match nix::unistd::read(pipe, &mut bells) {
            Ok(count) => return count,
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => _ = wait_readable(pipe, None),
            Err(error) => give_up(&format!("cannot wait for tasks: {error}")),
        }
    }
}

/// The task pipe has ended: the supervisor is gone, unless the task has put something else in its place.
fn end_of_tasks(pipe: &OwnedFd, own: Option<(u64, u64)>) -> ! {
    if identity(pipe) != own {
        give_up(
            "the task pipe is gone: has the task put something else in the place of descriptors that are not its own?",
        );
    }
    setup::kill_own_group()
}

/// Device and inode behind a descriptor.
pub(super) fn identity(fd: &OwnedFd) -> Option<(u64, u64)> {
    nix::sys::stat::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Gives memory back while nothing comes. It returns when something has come, or nothing is left to be given back.
fn idle(pipe: &OwnedFd, outlet: &mut Outlet, parcels: &mut Parcels) {
    while let Some(time) = parcels.tidy(outlet) {
        if wait_readable(pipe, Some(time)) {
            return;
        }
    }
}

/// Waits, for at most this long; false if the time is over.
fn wait_readable(fd: &OwnedFd, time: Option<Duration>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // One millisecond more, because the rest of one is cut off.
    let time = time.map_or(PollTimeout::NONE, |time| {
        PollTimeout::try_from(time.as_millis() + 1).unwrap_or(PollTimeout::MAX)
    });
    // An error is for the next read to tell.
    poll(&mut fds, time) != Ok(0)
}
