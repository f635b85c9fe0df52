//! What a store has done.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a [`Store`](crate::Store) and its clones since it was opened; other programs that use the same directory count for
/// themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Results that were found.
    pub hits: u64,
    /// Results that were looked for and not found.
    pub misses: u64,
    /// Results that were written.
    pub stored: u64,
    /// Results that were not written because somebody else had written them.
    pub stored_by_others: u64,
    /// Results that could not be written.
    pub write_errors: u64,
    /// Bytes of the results that were found.
    pub bytes_read: u64,
    /// Bytes of the results that were written.
    pub bytes_written: u64,
    /// Entries that were damaged, and have been taken as absent and removed.
    pub bad_entries: u64,
    /// Entries that could not be read, and have been taken as absent.
    pub read_errors: u64,
    /// Results that somebody else was about to compute, so that they were waited for.
    pub waited: u64,
    /// Leases that were taken over from programs that had died, or had not renewed them.
    pub taken_over: u64,
    /// Entries that were removed because they were too old, or because there were too many bytes.
    pub evictions: u64,
    /// Bytes of those.
    pub bytes_evicted: u64,
}

/// As [`StoreStats`], while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) stored: Counter,
    pub(crate) stored_by_others: Counter,
    pub(crate) write_errors: Counter,
    pub(crate) bytes_read: Counter,
    pub(crate) bytes_written: Counter,
    pub(crate) bad_entries: Counter,
    pub(crate) read_errors: Counter,
    pub(crate) waited: Counter,
    pub(crate) taken_over: Counter,
    pub(crate) evictions: Counter,
    pub(crate) bytes_evicted: Counter,
}

impl Counters {
    pub(crate) fn read(&self) -> StoreStats {
        StoreStats {
            hits: self.hits.get(),
            misses: self.misses.get(),
            stored: self.stored.get(),
            stored_by_others: self.stored_by_others.get(),
            write_errors: self.write_errors.get(),
            bytes_read: self.bytes_read.get(),
            bytes_written: self.bytes_written.get(),
            bad_entries: self.bad_entries.get(),
            read_errors: self.read_errors.get(),
            waited: self.waited.get(),
            taken_over: self.taken_over.get(),
            evictions: self.evictions.get(),
            bytes_evicted: self.bytes_evicted.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) -> u64 {
        self.0.fetch_add(more, Ordering::Relaxed) + more
    }

    pub(crate) fn one(&self) -> u64 {
        self.add(1)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
