//! What is removed: what dead programs have left, what nobody has used for long, and what is too much.
//!
//! How long ago an entry was used is told by its time of change, which is set to now when it is written and when it is found (if
//! that is some seconds old). It is compared with the time of a file that has just been made there, so no clock need be right.
//!
//! To find out what was used least lately takes two walks over the directory, and memory that does not depend on the number of
//! entries: the first one adds the bytes up by how long ago they were used, in steps of less than a fiftieth of that time; the
//! second one removes what is older than the step in which the limit is reached, and of that step as much as is needed.
//!
//! # Races
//! * *An entry is used between the look at it and its removal.* It is computed again.
//! * *Several programs sweep at once.* What somebody else has removed counts as removed here, so not more is removed than by one.
//! * *Somebody writes to a temporary file for longer than the stale age.* It cannot be published, which is an error of that write.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use super::error::{StoreError, is_absent};
use super::files::{self, Found};
use super::lease::Sight;
use super::{Inner, Store};

/// How often it is looked whether somebody has swept lately.
const LOOK: Duration = Duration::from_secs(60);

/// What [`Store::sweep`] has found and done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Entries that are left.
    pub entries: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Entries that were removed.
    pub evicted: u64,
    /// Bytes of their files.
    pub bytes_evicted: u64,
    /// Files that were removed because dead programs had left them: unfinished ones, and leases.
    pub stale: u64,
}

/// When to sweep.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    /// Bytes that were written since the last time.
    written: AtomicU64,
    /// When it was looked last whether it is time; locked while somebody sweeps.
    looked: Mutex<Option<Instant>>,
}

impl Store {
    /// Removes what is over the limits, and what dead programs have left.
    ///
    /// Publishing does so now and then, so this is for those who want to know what is there, or to have it done at a certain time.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be read. What cannot be removed is left.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        self.inner.sweep(true)
    }

    /// Removes all results. What is being computed by then may still be stored.
    ///
    /// # Errors
    /// [`StoreError`] when the directory cannot be read, or a result not be removed.
    pub fn clear(&self) -> Result<(), StoreError> {
        let mut failed = None;
        let walked = self.inner.walk(
            |found| found == Found::Entry,
            |path, _, _| {
                if let Err(error) = fs::remove_file(path)
                    && !is_absent(&error)
                {
                    failed.get_or_insert(StoreError::new("remove", path, error));
                }
            },
        );
        failed.map_or(walked, Err)
    }

    /// So many bytes have been written: sweeps, if it is time.
    pub(crate) fn sweep_if_needed(&self, bytes: u64) {
        let inner = &self.inner;
        let sweeper = &inner.sweeper;
        let written = sweeper.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut looked = match sweeper.looked.try_lock() {
            Ok(looked) => looked,
            Err(TryLockError::Poisoned(looked)) => looked.into_inner(),
            // Somebody is about it.
            Err(TryLockError::WouldBlock) => return,
        };
        let much = inner.options.max_bytes.is_some_and(|most| written > most / 10);
        if !much {
            if looked.is_some_and(|at| at.elapsed() < LOOK) {
                return;
            }
            *looked = Some(Instant::now());
            let every = inner
                .options
                .max_age
                .map_or(Duration::from_secs(3600), |age| age.min(Duration::from_secs(3600)));
            let swept = fs::metadata(inner.files.swept()).and_then(|meta| meta.modified());
            if swept.is_ok_and(|at| inner.now().duration_since(at).is_ok_and(|ago| ago < every)) {
                return;
            }
        }
        *looked = Some(Instant::now());
        sweeper.written.store(0, Ordering::Relaxed);
        // Where nothing is too old or too much, nobody need look at the entries.
        let limited = inner.options.max_age.is_some() || inner.options.max_bytes.is_some();
        if let Err(error) = inner.sweep(limited) {
            tracing::warn!(%error, "the store cannot be swept");
        }
    }
}

impl Inner {
    /// `entries`: whether to look at them, which takes long where there are many.
    fn sweep(&self, entries: bool) -> Result<Swept, StoreError> {
        // At once, so that others do not begin as well.
        if let Err(error) = files::mark(&self.files.swept()) {
            tracing::debug!(%error, "when it was swept cannot be noted");
        }
        let now = self.now();
        let (mut swept, mut by_age) = (Swept::default(), Ages::default());
        self.walk(
            |found| entries || found != Found::Entry,
            |path, found, meta| {
                // What is ahead of the clock has just been touched.
                let age =
                    meta.modified().map_or(Duration::ZERO, |at| now.duration_since(at).unwrap_or_default());
                match found {
                    Found::Temporary if age > self.options.stale_age => {
                        swept.stale += u64::from(fs::remove_file(path).is_ok())
                    }
                    Found::Lease if age > self.options.stale_age => {
                        swept.stale += u64::from(self.remove_stale(path, now))
                    }
                    Found::Entry if self.options.max_age.is_some_and(|most| age > most) => {
                        swept.remove(path, meta.len())
                    }
                    Found::Entry => {
                        swept.entries += 1;
                        swept.bytes += meta.len();
                        by_age.add(age, meta.len());
                    }
                    Found::Temporary | Found::Lease => {}
                }
            },
        )?;
        if let Some(most) = self.options.max_bytes
            && swept.bytes > most
        {
            let wanted = swept.bytes - most / 10 * 9;
            let (limit, mut of_limit) = by_age.oldest(wanted);
            self.walk(
                |found| found == Found::Entry,
                |path, _, meta| {
                    let age = meta
                        .modified()
                        .map_or(Duration::ZERO, |at| now.duration_since(at).unwrap_or_default());
                    let step = Ages::step(age);
                    if step < limit || (step == limit && of_limit == 0) {
                        return;
                    }
                    if step == limit {
                        of_limit = of_limit.saturating_sub(meta.len());
                    }
                    swept.entries = swept.entries.saturating_sub(1);
                    swept.bytes = swept.bytes.saturating_sub(meta.len());
                    swept.remove(path, meta.len());
                },
            )?;
        }
        self.counters.evictions.add(swept.evicted);
        self.counters.bytes_evicted.add(swept.bytes_evicted);
        if swept.evicted + swept.stale > 0 {
            tracing::info!(?swept, dir = %self.dir.display(), "swept the store");
        }
        Ok(swept)
    }

    /// Removes a lease, if it is stale.
    fn remove_stale(&self, path: &Path, now: SystemTime) -> bool {
        let own = self.options.lease_time;
        let is_stale = |path: &Path| matches!(Sight::at(path), Ok(Some(sight)) if sight.is_stale(own, now));
        is_stale(path) && files::remove_if(path, is_stale).unwrap_or(false)
    }

    /// Shows the files of the store that are `wanted`. What goes away meanwhile is left out.
    fn walk(
        &self,
        wanted: impl Fn(Found) -> bool,
        mut see: impl FnMut(&Path, Found, &fs::Metadata),
    ) -> Result<(), StoreError> {
        let root = self.files.root();
        let mut dirs = self.files.shards().map_err(StoreError::of("read", root))?;
        // Where the time is looked at.
        dirs.push(root.to_owned());
        for dir in dirs {
            let mut look = || -> io::Result<()> {
                for file in fs::read_dir(&dir)? {
                    let file = file?;
                    let found = file.file_name().to_str().and_then(Found::of).filter(|found| wanted(*found));
                    let Some(found) = found else { continue };
                    match file.metadata() {
                        Ok(meta) => see(&file.path(), found, &meta),
                        Err(error) if is_absent(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            };
            match look() {
                Err(error) if !is_absent(&error) => return Err(StoreError::new("read", &dir, error)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Swept {
    fn remove(&mut self, path: &Path, len: u64) {
        match fs::remove_file(path) {
            // Whoever did it, it is done.
            Ok(()) => (self.evicted, self.bytes_evicted) = (self.evicted + 1, self.bytes_evicted + len),
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                tracing::debug!(%error, entry = %path.display(), "an entry cannot be removed");
                (self.entries, self.bytes) = (self.entries + 1, self.bytes + len);
            }
        }
    }
}

/// Bytes by how long ago they were used.
#[derive(Debug)]
struct Ages(Vec<u64>);

impl Default for Ages {
    fn default() -> Self {
        Self(vec![0; Self::STEPS])
    }
}

impl Ages {
    /// Each power of two of milliseconds is divided into so many steps.
    const FINE: u32 = 6;
    const STEPS: usize = 64 << Self::FINE;

    /// The older, the larger.
    fn step(age: Duration) -> usize {
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let power = ms.checked_ilog2().unwrap_or(0);
        if power < Self::FINE {
            return ms as usize;
        }
        let fine = (ms >> (power - Self::FINE)) as usize & ((1 << Self::FINE) - 1);
        (((power - Self::FINE + 1) as usize) << Self::FINE) + fine
    }

    fn add(&mut self, age: Duration, bytes: u64) {
        if let Some(step) = self.0.get_mut(Self::step(age)) {
            *step += bytes;
        }
    }

    /// The step at which so many bytes are as old or older, and how many of its own are among them.
    fn oldest(&self, wanted: u64) -> (usize, u64) {
        let mut missing = wanted;
        for (step, bytes) in self.0.iter().enumerate().rev() {
            if *bytes >= missing {
                return (step, missing);
            }
            missing -= bytes;
        }
        (0, missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_are_in_the_order_of_ages_and_fine() {
        let mut last = 0;
        for ms in (0..5000).chain((5000..1 << 40).step_by(9_999_999_999)).chain([u64::MAX]) {
            let step = Ages::step(Duration::from_millis(ms));
            assert!(step >= last && step < Ages::STEPS, "{ms}");
            last = step;
        }
        let of = |secs| Ages::step(Duration::from_secs(secs));
        assert!(of(1000) < of(1020) && of(1_000_000) < of(1_020_000));
    }

    proptest! {
        #[test]
        fn the_oldest_are_as_many_as_wanted(ages in prop::collection::vec((0..1_000_000_u64, 1..100_u64), 1..50), part in 1..100_u64) {
            let mut sums = Ages::default();
            let total: u64 = ages.iter().map(|(_, bytes)| bytes).sum();
            ages.iter().for_each(|(ms, bytes)| sums.add(Duration::from_millis(*ms), *bytes));
            let wanted = (total * part / 100).max(1);
            let (limit, of_limit) = sums.oldest(wanted);
            let older: u64 = ages.iter().filter(|(ms, _)| Ages::step(Duration::from_millis(*ms)) > limit).map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(older + of_limit, wanted);
            prop_assert!(of_limit > 0);
        }
    }
}
