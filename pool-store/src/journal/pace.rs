//! When a journal is synced: the part that only counts.
//!
//! # States
//! ```text
//!         written                 the interval is over, or enough items wait
//! Clean ───────────▶ Waiting ─────────────────────────────────────────────▶ Syncing ──▶ Clean, or Waiting if more was
//!                                                                              │         written meanwhile
//!                                                                              └─ it fails ──▶ Failed, for ever
//! ```
//!
//! # Events and races
//! * *More is written while a sync runs.* The sync may or may not have taken it along. What counts as synced is what had been
//!   written when it began.
//! * *More is written than the disk takes.* When twice as many items wait as a sync begins at, the writer waits.
//! * *A sync fails.* What it was for may be lost, and the kernel may call the next one a success: it has given up the pages. So
//!   nothing is written or synced any more.

use std::time::{Duration, Instant};

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) every: Duration,
    pub(crate) items: u64,
}

/// How much has been written, and how much of it is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pace: Pace,
    written: Mark,
    synced: Mark,
    /// Since when something waits to be synced.
    since: Option<Instant>,
}

/// A place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// The end of what is there.
    pub(crate) end: u64,
    /// Outcomes that have been written since the journal was opened.
    pub(crate) items: u64,
}

/// When to sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Now,
    At(Instant),
    /// Not before more is written.
    Later,
}

impl Marks {
    /// Of a file of so many bytes, of which nothing is known to be on the disk but its first bytes.
    pub(crate) fn new(pace: Pace, end: u64) -> Self {
        let start = Mark { end, items: 0 };
        Self { pace, written: start, synced: start, since: None }
    }

    pub(crate) fn wrote(&mut self, now: Instant, end: u64, items: u64) {
        self.written = Mark { end, items: self.written.items + items };
        self.since.get_or_insert(now);
    }

    /// What a sync that begins now is about.
    pub(crate) fn written(&self) -> Mark {
        self.written
    }

    /// A sync has succeeded.
    pub(crate) fn reached(&mut self, now: Instant, mark: Mark) {
        self.synced = self.synced.max(mark);
        self.since = (self.synced < self.written).then_some(now);
    }

    /// The end of what is on the disk for certain.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.end
    }

    /// Whether something was written that is not on the disk.
    pub(crate) fn is_waiting(&self) -> bool {
        self.synced < self.written
    }

    fn waiting(&self) -> u64 {
        self.written.items - self.synced.items
    }

    pub(crate) fn due(&self, now: Instant) -> Due {
        let Some(since) = self.since else { return Due::Later };
        if self.waiting() >= self.pace.items {
            return Due::Now;
        }
        match since.checked_add(self.pace.every) {
            Some(at) if at <= now => Due::Now,
            Some(at) => Due::At(at),
            // An interval too long to be represented never ends.
            None => Due::Later,
        }
    }

    /// Whether the writer has to wait for a sync.
    pub(crate) fn is_behind(&self) -> bool {
        self.waiting() >= self.pace.items.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { every: Duration::from_millis(50), items: 10 };

    #[test]
    fn a_sync_is_due_after_a_time_or_a_number_of_items() {
        let start = Instant::now();
        let mut marks = Marks::new(PACE, 64);
        assert_eq!(marks.due(start), Due::Later);
        marks.wrote(start, 100, 1);
        marks.wrote(start + PACE.every / 2, 200, 8);
        assert_eq!(marks.due(start), Due::At(start + PACE.every));
        assert_eq!(marks.due(start + PACE.every), Due::Now);
        marks.wrote(start, 300, 1);
        assert_eq!(marks.due(start), Due::Now);
        let never = Pace { every: Duration::MAX, items: 10 };
        let mut marks = Marks::new(never, 64);
        marks.wrote(start, 100, 1);
        assert_eq!(marks.due(start + Duration::from_secs(1 << 20)), Due::Later);
    }

    #[test]
    fn what_is_written_while_a_sync_runs_waits_for_the_next() {
        let start = Instant::now();
        let mut marks = Marks::new(PACE, 64);
        marks.wrote(start, 100, 5);
        let begun = marks.written();
        marks.wrote(start, 200, 5);
        let later = start + PACE.every;
        marks.reached(later, begun);
        assert_eq!((marks.synced(), marks.due(later)), (100, Due::At(later + PACE.every)));
        marks.reached(later, marks.written());
        assert_eq!((marks.synced(), marks.due(later)), (200, Due::Later));
    }

    #[test]
    fn the_writer_waits_when_twice_as_many_items_do() {
        let start = Instant::now();
        let mut marks = Marks::new(PACE, 64);
        marks.wrote(start, 100, 19);
        assert!(!marks.is_behind());
        marks.wrote(start, 200, 1);
        assert!(marks.is_behind());
    }
}
