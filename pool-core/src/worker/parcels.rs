//! The worker's ends for large arguments and results: [`passing`](crate::passing), with the socket to it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pool_ipc::boot::{receive_descriptor, send_descriptor};
use pool_ipc::{Kind, Locator, SegmentView};

use crate::arena::{ARENA, Limits, Opened};
use crate::buffer::Buffer;
use crate::passing::{ArgumentsIn, ResultsOut};
use crate::worker::serve::refuse;
use crate::worker::wire::Outlet;

/// What comes and goes without being sent.
pub(super) struct Parcels {
    /// Where descriptors go to and come from.
    socket: OwnedFd,
    arguments: ArgumentsIn,
    results: ResultsOut,
    _arena: Opened,
}

impl Parcels {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let _arena = ARENA.open(Limits::WORKER);
        Self { socket, arguments: ArgumentsIn::default(), results: ResultsOut::new(), _arena }
    }

    /// The segment that arguments are in.
    pub(super) fn find(&mut self, locator: &Locator) -> Arc<SegmentView> {
        let Self { socket, arguments, .. } = self;
        arguments
            .find(locator, || receive_descriptor(socket.as_fd(), false))
            .unwrap_or_else(|error| refuse(&format!("cannot get at arguments: {error}")))
    }

    /// Says where a result is, if it is in shared memory.
    #[inline]
    pub(super) fn lend(&mut self, output: &mut Buffer) -> Option<Locator> {
        let Self { socket, results, .. } = self;
        results.lend(output, |id, fd| send_descriptor(socket.as_fd(), id, fd))
    }

    /// A task is about to begin.
    #[inline]
    pub(super) fn protect(&mut self) {
        self.results.protect();
    }

    /// The supervisor has copied a result.
    pub(super) fn released(&mut self, locator: &Locator) {
        self.results.released(locator);
    }

    /// The supervisor has given a segment back.
    pub(super) fn forget(&mut self, id: u64) {
        let Self { socket, arguments, .. } = self;
        if let Err(error) = arguments.forget(id, || receive_descriptor(socket.as_fd(), false)) {
            refuse(&format!("cannot forget a segment: {error}"));
        }
    }

    /// Gives memory back that has not been used for long. How long the worker may sleep until it does so again; `None` for as
    /// long as it likes.
    pub(super) fn tidy(&mut self, outlet: &mut Outlet) -> Option<Duration> {
        if ARENA.is_empty() {
            return None;
        }
        let now = Instant::now();
        let due = ARENA.trim(now);
        for id in self.results.forgotten() {
            outlet.send(Kind::Forget, 0, &id.to_le_bytes());
        }
        due.map(|due| due.saturating_duration_since(now))
    }
}
