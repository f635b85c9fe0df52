//! The supervisor's ends for large arguments and results of one worker: [`passing`](crate::passing), with the socket to it.

use std::os::fd::{AsFd, OwnedFd};

use pool_ipc::boot::{receive_descriptor, send_descriptor};
use pool_ipc::{Kind, Locator};

use crate::buffer::Args;
use crate::passing::{ArgumentsOut, Refusal, ResultsIn};
use crate::reply::Reply;
use crate::supervisor::event::Ticket;

/// What goes and comes without being sent.
#[derive(Debug)]
pub(crate) struct Parcels {
    /// Where descriptors go to and come from.
    socket: OwnedFd,
    arguments: ArgumentsOut,
    results: ResultsIn,
}

impl Parcels {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, arguments: ArgumentsOut::new(), results: ResultsIn::new() }
    }

    /// Lends arguments that are in shared memory; `None` says that they are to be sent.
    pub(crate) fn lend(&mut self, ticket: Ticket, args: &Args) -> Option<Locator> {
        let Self { socket, arguments, .. } = self;
        arguments.lend(ticket, args, |id, fd| send_descriptor(socket.as_fd(), id, fd))
    }

    /// The worker has answered `ticket`.
    #[inline]
    pub(crate) fn answered(&mut self, ticket: Ticket) {
        self.arguments.answered(ticket);
    }

    /// Tickets have been taken back from the worker.
    pub(crate) fn taken_back(&mut self, first: Ticket, count: u32) {
        self.arguments.taken_back(first, count.into());
    }

    /// The result that a `DoneAt` frame tells of.
    pub(crate) fn accept(&mut self, payload: &[u8], limit: usize) -> Result<Reply, Refusal> {
        let Self { socket, results, .. } = self;
        results.accept(payload, limit, || receive_descriptor(socket.as_fd(), false))
    }

    /// What a `Forget` frame says; false if it says nothing.
    pub(crate) fn forget(&mut self, payload: &[u8]) -> bool {
        let id = payload.try_into().map(u64::from_le_bytes);
        if let Ok(id) = id {
            self.results.forget(id);
        }
        id.is_ok()
    }

    /// Whether the worker's segments are mapped here.
    pub(crate) fn has_mapped(&self) -> bool {
        !self.results.is_empty()
    }

    /// What the worker is to be told of memory that is free again, to be sent before any task.
    #[inline]
    pub(crate) fn news(&mut self) -> Option<Vec<(Kind, Vec<u8>)>> {
        let (released, forgotten) = (self.results.released(), self.arguments.forgotten());
        if released.is_empty() && forgotten.is_empty() {
            return None;
        }
        let released = released.iter().map(|locator| (Kind::Release, locator.encode().to_vec()));
        let forgotten = forgotten.iter().map(|id| (Kind::Forget, id.to_le_bytes().to_vec()));
        Some(released.chain(forgotten).collect())
    }
}
