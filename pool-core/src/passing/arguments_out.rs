//! Supervisor: arguments that are lent to one worker.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use pool_ipc::Locator;

use super::known::Known;
use crate::arena::{ARENA, Arena};
use crate::buffer::{Args, Passage};

/// The arguments that one worker may be reading, and the segments that it knows.
///
/// To be dropped when the worker is dead, and not before: until then nobody may write to what it reads.
#[derive(Debug)]
pub(crate) struct ArgumentsOut {
    known: Known,
    /// By ticket, the oldest first.
    lent: VecDeque<(u64, Args)>,
}

impl ArgumentsOut {
    pub(crate) fn new() -> Self {
        Self::of(&ARENA)
    }

    pub(super) fn of(arena: &'static Arena) -> Self {
        Self { known: Known::new(arena), lent: VecDeque::new() }
    }

    /// Lends `args` for `ticket`, which is later than all before: what to put into a `TaskAt` frame. `None` says that the
    /// bytes are to be sent. `send` sends a descriptor with its number, without waiting.
    #[inline]
    pub(crate) fn lend(
        &mut self,
        ticket: u64,
        args: &Args,
        send: impl FnOnce(u64, BorrowedFd<'_>) -> io::Result<()>,
    ) -> Option<Locator> {
        let Passage::At(segment, locator) = args.passage() else { return None };
        if let Err(error) = self.known.introduce(segment, send) {
            tracing::debug!(%error, "a segment cannot be passed; the bytes are sent");
            return None;
        }
        self.lent.push_back((ticket, args.clone()));
        Some(locator)
    }

    /// The worker has answered `ticket`, and so is done with it and all older ones.
    #[inline]
    pub(crate) fn answered(&mut self, ticket: u64) {
        while self.lent.front().is_some_and(|(oldest, _)| *oldest <= ticket) {
            self.lent.pop_front();
        }
    }

    /// The worker has not claimed these tickets, and cannot any more.
    #[inline]
    pub(crate) fn taken_back(&mut self, first: u64, count: u64) {
        if !self.lent.is_empty() {
            self.lent.retain(|(ticket, _)| ticket.wrapping_sub(first) >= count);
        }
    }

    /// The segments that the worker is to be told to forget; once each.
    #[inline]
    pub(crate) fn forgotten(&mut self) -> Vec<u64> {
        self.known.forgotten()
    }
}
