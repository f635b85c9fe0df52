//! What a worker measures of its tasks, in memory that its supervisor reads whenever it is asked, and once more when the
//! worker is dead. No message is sent for it.
//!
//! There is one writer, the worker's main thread, so that a plain load and a plain store make a change. The reader may see one
//! figure of a task and not yet the next one; when it has seen the task's result, it sees all of its figures, because they
//! were written before the result was published. Whatever it reads may have been overwritten by task code: see
//! [`Measured::is_sound`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    region::Layout,
    sys::{Mapping, Part},
};

/// Buckets of a [`Histogram`]: eight for each power of two, and one for each of the numbers below eight.
pub const BUCKETS: usize = 496;
/// How many of the longest tasks are kept.
pub const LONGEST: usize = 5;

/// Where in the region they are.
#[repr(C, align(4096))]
pub(crate) struct Figures {
    ran_ns: AtomicU64,
    waited_ns: AtomicU64,
    longest_wait_ns: AtomicU64,
    init_ns: AtomicU64,
    longest: [Entry; LONGEST],
    waits: [AtomicU64; BUCKETS],
    runs: [AtomicU64; BUCKETS],
}

#[repr(C)]
struct Entry {
    ns: AtomicU64,
    task: AtomicU64,
    index: AtomicU64,
}

/// A handle of a worker's figures. It keeps the memory alive.
#[derive(Clone)]
pub struct Gauges {
    figures: Part<Layout, Figures>,
}

/// One of the longest tasks of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Longest {
    /// How long it ran, in nanoseconds.
    pub ns: u64,
    /// The number of the task.
    pub task: u64,
    /// Its place in the worker's table of tasks.
    pub index: u32,
}

/// What a worker has measured so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// From the submission of tasks to their start, first attempts only.
    pub waits: Histogram,
    /// From the start of tasks to their end.
    pub runs: Histogram,
    /// What it took to build its states, in nanoseconds.
    pub init_ns: u64,
    /// The longest tasks, the longest one first.
    pub longest: Vec<Longest>,
}

impl Gauges {
    pub(crate) fn new(mapping: &Arc<Mapping<Layout>>) -> Self {
        Self { figures: Part::new(mapping, |region| &region.figures) }
    }

    /// A task has waited this long, in nanoseconds.
    pub fn note_wait(&self, ns: u64) {
        let figures = &*self.figures;
        add(&figures.waits[bucket(ns)], 1);
        add(&figures.waited_ns, ns);
        if ns > figures.longest_wait_ns.load(Relaxed) {
            figures.longest_wait_ns.store(ns, Relaxed);
        }
    }

    /// The task of this number, at this place of the worker's table, has run this long, in nanoseconds.
    pub fn note_run(&self, task: u64, index: u32, ns: u64) {
        let figures = &*self.figures;
        add(&figures.runs[bucket(ns)], 1);
        add(&figures.ran_ns, ns);
        let longest = &figures.longest;
        if ns <= longest[LONGEST - 1].ns.load(Relaxed) {
            return;
        }
        let mut entry = (ns, task, u64::from(index));
        for place in longest {
            if entry.0 > place.ns.load(Relaxed) {
                entry = place.replace(entry);
            }
        }
    }

    /// The worker's states have taken this long to build, all told, in nanoseconds.
    pub fn set_init(&self, ns: u64) {
        self.figures.init_ns.store(ns, Relaxed);
    }

    /// What has been measured so far, by the worker's account.
    #[must_use]
    pub fn read(&self) -> Measured {
        let figures = &*self.figures;
        let found = figures.longest.iter().map(Entry::read).take_while(|entry| entry.ns > 0);
        let longest: Vec<Longest> = found.collect();
        let runs = Histogram {
            buckets: load(&figures.runs),
            sum_ns: figures.ran_ns.load(Relaxed),
            max_ns: longest.first().map_or(0, |entry| entry.ns),
        };
        let waits = Histogram {
            buckets: load(&figures.waits),
            sum_ns: figures.waited_ns.load(Relaxed),
            max_ns: figures.longest_wait_ns.load(Relaxed),
        };
        Measured { waits, runs, init_ns: figures.init_ns.load(Relaxed), longest }
    }
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Entry {
    fn read(&self) -> Longest {
        Longest {
            ns: self.ns.load(Relaxed),
            task: self.task.load(Relaxed),
            index: u32::try_from(self.index.load(Relaxed)).unwrap_or(u32::MAX),
        }
    }

    fn replace(&self, (ns, task, index): (u64, u64, u64)) -> (u64, u64, u64) {
        let old = (self.ns.load(Relaxed), self.task.load(Relaxed), self.index.load(Relaxed));
        self.ns.store(ns, Relaxed);
        self.task.store(task, Relaxed);
        self.index.store(index, Relaxed);
        old
    }
}

/// There is one writer.
fn add(word: &AtomicU64, more: u64) {
    word.store(word.load(Relaxed).wrapping_add(more), Relaxed);
}

fn load(words: &[AtomicU64; BUCKETS]) -> Vec<u64> {
    words.iter().map(|word| word.load(Relaxed)).collect()
}

impl Measured {
    /// Whether this can be true of a worker that has been given this many tasks and is this old. Task code may have
    /// overwritten it.
    #[must_use]
    pub fn is_sound(&self, given: u64, age_ns: u64) -> bool {
        let few = |histogram: &Histogram| histogram.total().is_some_and(|total| total <= given);
        few(&self.waits)
            && few(&self.runs)
            && self.runs.sum_ns <= age_ns
            && self.init_ns <= age_ns
            && self.longest.is_sorted_by(|longer, shorter| longer.ns >= shorter.ns)
            && self.runs.max_ns <= age_ns
    }
}

/// How often something has taken how long.
///
/// Times are kept to three binary digits: a quantile is at most 12.5 % too large, and never too small.
///
/// ```
/// use pool_ipc::Histogram;
///
/// let mut histogram = Histogram::default();
/// (1..=100).for_each(|ns| histogram.record(ns));
/// assert_eq!(histogram.count(), 100);
/// assert!((50..=57).contains(&histogram.quantile(0.5)));
/// assert_eq!(histogram.quantile(1.0), 100);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<u64>,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Adds a time, in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        let bucket = &mut self.buckets[bucket(ns)];
        *bucket = bucket.saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds what another one has.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many times it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total().unwrap_or(u64::MAX)
    }

    fn total(&self) -> Option<u64> {
        self.buckets.iter().try_fold(0_u64, |total, count| total.checked_add(*count))
    }

    /// All times together, in nanoseconds.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum_ns
    }

    /// The longest time, in nanoseconds.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max_ns
    }

    /// The mean, in nanoseconds; 0 if it is empty.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.sum_ns.checked_div(self.count()).unwrap_or(0).min(self.max_ns)
    }

    /// The time that this part of all times, from 0 to 1, does not exceed, in nanoseconds; 0 if it is empty.
    #[must_use]
    pub fn quantile(&self, part: f64) -> u64 {
        let count = self.count();
        // More than 2^53 times are never counted.
        let wanted = ((count as f64 * part).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0_u64;
        let found = self.buckets.iter().position(|bucket| {
            seen = seen.saturating_add(*bucket);
            seen >= wanted
        });
        found.map_or(0, |place| last_of(place).min(self.max_ns))
    }
}

/// The bucket of a time.
fn bucket(ns: u64) -> usize {
    let magnitude = ns.checked_ilog2().unwrap_or(0);
    match magnitude.checked_sub(3) {
        None => ns as usize,
        Some(shift) => (shift as usize + 1) * 8 + (ns >> shift) as usize % 8,
    }
}

/// The longest time in a bucket.
fn last_of(bucket: usize) -> u64 {
    let (power, step) = (bucket / 8, bucket as u64 % 8);
    match power.checked_sub(1) {
        None => step,
        Some(shift) => ((8 + step) << shift) + ((1 << shift) - 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Region;

    #[test]
    fn buckets_follow_each_other_and_the_last_one_is_the_last() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(last_of(BUCKETS - 1), u64::MAX);
        for place in 0..BUCKETS - 1 {
            assert_eq!(bucket(last_of(place)), place);
            assert_eq!(bucket(last_of(place) + 1), place + 1);
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_too_small_and_little_too_large(
            mut times in proptest::collection::vec(any::<u64>().prop_map(|bits| bits >> (bits % 60)), 1..200),
            part in 0.01_f64..1.0,
        ) {
            let mut histogram = Histogram::default();
            times.iter().for_each(|ns| histogram.record(*ns));
            times.sort_unstable();
            let exact = times[((times.len() as f64 * part).ceil() as usize).clamp(1, times.len()) - 1];
            let found = histogram.quantile(part);
            prop_assert!(found >= exact && (found - exact) as f64 <= exact as f64 / 8.0, "{found} for {exact}");
        }
    }

    #[test]
    fn what_a_worker_notes_is_read_by_its_supervisor() {
        let (region, _memory) = Region::create().unwrap();
        let (theirs, ours) = (region.gauges(), region.gauges());
        for (task, ns) in (1..).zip([500, 100, 900, 300, 700, 200, 600]) {
            theirs.note_wait(ns / 10);
            theirs.note_run(task, 4, ns);
        }
        theirs.set_init(40);
        let measured = ours.read();
        assert!(measured.is_sound(7, 3_400));
        assert_eq!((measured.runs.count(), measured.runs.sum(), measured.runs.max()), (7, 3_300, 900));
        assert_eq!((measured.waits.count(), measured.waits.sum(), measured.waits.max()), (7, 330, 90));
        assert_eq!(measured.init_ns, 40);
        let longest: Vec<(u64, u64)> = measured.longest.iter().map(|entry| (entry.ns, entry.task)).collect();
        assert_eq!(longest, [(900, 3), (700, 5), (600, 7), (500, 1), (300, 4)]);
    }

    #[test]
    fn what_cannot_be_true_is_not_sound() {
        let (region, _memory) = Region::create().unwrap();
        let gauges = region.gauges();
        gauges.note_run(1, 0, 100);
        assert!(gauges.read().is_sound(1, 100));
        assert!(!gauges.read().is_sound(0, 100), "more tasks than it was given");
        assert!(!gauges.read().is_sound(1, 99), "longer than it has lived");
        gauges.figures.waits.iter().for_each(|bucket| bucket.store(u64::MAX, Relaxed));
        assert!(!gauges.read().is_sound(u64::MAX, u64::MAX), "no sum");
    }
}
