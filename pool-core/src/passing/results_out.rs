//! Worker: results that are lent to the supervisor.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use pool_ipc::Locator;

use super::known::Known;
use crate::arena::{ARENA, Arena};
use crate::buffer::{Args, Buffer, Passage};

/// The results that the supervisor may be reading, and the segments that it knows.
#[derive(Debug)]
pub(crate) struct ResultsOut {
    known: Known,
    lent: HashMap<Locator, Args>,
    /// Those that have been lent since the last task began.
    fresh: Vec<Locator>,
}

impl ResultsOut {
    pub(crate) fn new() -> Self {
        Self::of(&ARENA)
    }

    pub(super) fn of(arena: &'static Arena) -> Self {
        Self { known: Known::new(arena), lent: HashMap::new(), fresh: Vec::new() }
    }

    /// Lends a result that is in shared memory: the payload of the `DoneAt` frame is the locator and then what is left in
    /// `output`. `None` says that all of it is in `output`, to be sent as `Done`. `send` sends a descriptor with its number,
    /// without waiting.
    #[inline]
    pub(crate) fn lend(
        &mut self,
        output: &mut Buffer,
        send: impl FnOnce(u64, BorrowedFd<'_>) -> io::Result<()>,
    ) -> Option<Locator> {
        if output.is_private() { None } else { self.lend_shared(output, send) }
    }

    fn lend_shared(
        &mut self,
        output: &mut Buffer,
        send: impl FnOnce(u64, BorrowedFd<'_>) -> io::Result<()>,
    ) -> Option<Locator> {
        if let Some(attached) = output.take_attached() {
            let sent = attached.sealed().and_then(|sealed| {
                send(sealed.id(), sealed.fd()?).ok()?;
                Some(Locator { segment: sealed.id(), offset: 0, len: sealed.len() as u64 })
            });
            if sent.is_none() {
                output.append_block(&attached);
            }
            return sent;
        }
        self.known.introduce(output.segment()?, send).ok()?;
        let args = output.take_block()?;
        let Passage::At(_, locator) = args.passage() else { return None };
        self.lent.insert(locator, args);
        self.fresh.push(locator);
        Some(locator)
    }

    /// A task is about to begin: what is still lent is protected from it.
    #[inline]
    pub(crate) fn protect(&mut self) {
        // Whoever waits for a result before it calls again has released it by now.
        if !self.fresh.is_empty() {
            self.protect_fresh();
        }
    }

    #[cold]
    fn protect_fresh(&mut self) {
        for locator in self.fresh.drain(..) {
            if let Some(args) = self.lent.get_mut(&locator) {
                args.protect();
            }
        }
    }

    /// The supervisor has copied a result.
    pub(crate) fn released(&mut self, locator: &Locator) {
        self.lent.remove(locator);
    }

    /// What a `DoneAt` frame tells of, as if it had been released.
    #[cfg(test)]
    pub(super) fn take_for_test(&mut self, payload: &[u8]) -> Option<Args> {
        self.lent.remove(&Locator::split(payload).ok()?.0)
    }

    /// The segments that the supervisor is to be told to forget; once each.
    pub(crate) fn forgotten(&mut self) -> Vec<u64> {
        self.known.forgotten()
    }
}
