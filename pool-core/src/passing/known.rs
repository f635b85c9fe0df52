//! Which of our segments the other side knows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use pool_ipc::Segment;

use crate::arena::Arena;

/// The segments whose descriptors have been sent.
#[derive(Debug)]
pub(super) struct Known {
    segments: BTreeMap<u64, Weak<Segment>>,
    arena: &'static Arena,
    /// How many segments had been given back when the list was looked through last.
    gone: u64,
}

impl Known {
    pub(super) fn new(arena: &'static Arena) -> Self {
        Self { segments: BTreeMap::new(), arena, gone: 0 }
    }

    /// Has the other side know `segment`: sends the descriptor with its number, unless that has been done.
    pub(super) fn introduce(
        &mut self,
        segment: &Arc<Segment>,
        send: impl FnOnce(u64, BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Entry::Vacant(place) = self.segments.entry(segment.id()) {
            send(segment.id(), segment.fd())?;
            place.insert(Arc::downgrade(segment));
        }
        Ok(())
    }

    /// The numbers of segments that are gone, of which the other side is to be told; once each.
    pub(super) fn forgotten(&mut self) -> Vec<u64> {
        let gone = self.arena.gone();
        if gone == self.gone || self.segments.is_empty() {
            return Vec::new();
        }
        self.gone = gone;
        let is_gone = |_: &u64, segment: &mut Weak<Segment>| segment.strong_count() == 0;
        let mut forgotten = Vec::new();
        self.segments.retain(|id, segment| {
            let gone = is_gone(id, segment);
            if gone {
                forgotten.push(*id);
            }
            !gone
        });
        forgotten
    }
}
