//! What a worker measures of its tasks, in memory that its supervisor reads whenever it is asked, and once more when the
//! worker is dead. No message is sent for it.
//!
//! There is one writer, the worker's main thread, so that a plain load and a plain store make a change. The reader may see one
//! figure of a task and not yet the next one; when it has seen the task's result, it sees all of its figures, because they
//! were written before the result was published. Whatever it reads may have been overwritten by task code: see
//! [`Measured::is_sound`].
//!
//! Arguments are kept here to be decoded once more, in the supervisor, where nothing may be decoded that kills whoever does: so
//! it must be certain that this worker has decoded just those. What says so is sealed with a key that only the two processes
//! know, and that is not in this memory. Without it, a stray write that adds one to the number of a task would say that the next
//! one has been decoded. A worker that means harm can read the key in its own memory.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    region::Layout,
    sum::sum,
    sys::{Mapping, Part},
};

/// Buckets of a [`Histogram`]: eight for each power of two, and one for each of the numbers below eight.
pub const BUCKETS: usize = 496;
/// How many of the longest tasks are kept.
pub const LONGEST: usize = 5;
/// Encoded arguments of more bytes than this are not kept, only how many they are.
pub const KEPT_MAX: usize = 1024;

/// Where in the region they are.
#[repr(C, align(4096))]
pub(crate) struct Figures {
    ran_ns: AtomicU64,
    waited_ns: AtomicU64,
    longest_wait_ns: AtomicU64,
    init_ns: AtomicU64,
    /// The latest task whose arguments have been decoded, [sealed](seal).
    decoded: AtomicU64,
    longest: [Entry; LONGEST],
    waits: [AtomicU64; BUCKETS],
    runs: [AtomicU64; BUCKETS],
    kept: [Kept; LONGEST],
}

#[repr(C)]
struct Entry {
    ns: AtomicU64,
    task: AtomicU64,
    index: AtomicU64,
    /// Which of the kept arguments are its own, so that they are not moved when entries are.
    place: AtomicU64,
}

/// Encoded arguments of a task.
#[repr(C)]
struct Kept {
    size: AtomicU64,
    /// Whether they are there.
    whole: AtomicU64,
    /// Of the key, task, time, both of these and the bytes: the reader may come while they are written, or after task code has
    /// overwritten them.
    sum: AtomicU64,
    bytes: [AtomicU64; KEPT_MAX / 8],
}

/// A handle of a worker's figures. It keeps the memory alive.
#[derive(Clone)]
pub struct Gauges {
    figures: Part<Layout, Figures>,
    key: u64,
}

/// One of the longest tasks of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Longest {
    /// How long it ran, in nanoseconds.
    pub ns: u64,
    /// The number of the task.
    pub task: u64,
    /// Its place in the worker's table of tasks.
    pub index: u32,
    /// What it was called with.
    pub arguments: KeptArguments,
}

/// Encoded arguments of a task, as far as they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptArguments {
    /// All of them.
    Whole(Vec<u8>),
    /// Only that they are so many bytes: because they are more than [`KEPT_MAX`], or because the worker has not decoded them,
    /// which may be what is wrong with them.
    Size(u64),
    /// They were just being written, or have been overwritten.
    Lost,
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
    pub(crate) fn new(mapping: &Arc<Mapping<Layout>>, key: u64) -> Self {
        Self { figures: Part::new(mapping, |region| &region.figures), key }
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

    /// The task of this number, at this place of the worker's table, has run this long, in nanoseconds, with these arguments.
    pub fn note_run(&self, task: u64, index: u32, ns: u64, arguments: &[u8]) {
        let figures = &*self.figures;
        add(&figures.runs[bucket(ns)], 1);
        add(&figures.ran_ns, ns);
        if ns > figures.longest[LONGEST - 1].ns.load(Relaxed) {
            self.list(task, index, ns, arguments);
        }
    }

    /// Puts a task among the longest ones.
    #[cold]
    fn list(&self, task: u64, index: u32, ns: u64, arguments: &[u8]) {
        let (Figures { longest, kept, .. }, key) = (&*self.figures, self.key);
        let listed = longest.iter().take_while(|entry| entry.ns.load(Relaxed) > 0).count();
        // The next place that has never been used, or that of the task which falls out.
        let place = match listed.checked_sub(LONGEST) {
            None => listed,
            Some(_) => longest[LONGEST - 1].place.load(Relaxed) as usize % LONGEST,
        };
        let keep = arguments.len() <= KEPT_MAX && self.has_decoded(task);
        let mut entry = [ns, task, u64::from(index), place as u64];
        kept[place].keep(key, entry, arguments.len() as u64, keep.then_some(arguments));
        for place in longest {
            if entry[0] > place.ns.load(Relaxed) {
                entry = place.replace(entry);
            }
        }
    }

    /// The arguments of this task have been decoded.
    #[inline]
    pub fn note_decoded(&self, task: u64) {
        self.figures.decoded.store(seal(self.key, task), Relaxed);
    }

    /// Whether the arguments of this task, the latest one, have been decoded.
    #[must_use]
    pub fn has_decoded(&self, task: u64) -> bool {
        self.figures.decoded.load(Relaxed) == seal(self.key, task)
    }

    /// The worker's states have taken this long to build, all told, in nanoseconds.
    pub fn set_init(&self, ns: u64) {
        self.figures.init_ns.store(ns, Relaxed);
    }

    /// What has been measured so far, by the worker's account.
    #[must_use]
    pub fn read(&self) -> Measured {
        let figures = &*self.figures;
        let found = figures.longest.iter().map(|entry| entry.read(self.key, &figures.kept));
        let longest: Vec<Longest> = found.take_while(|entry| entry.ns > 0).collect();
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
    fn read(&self, key: u64, kept: &[Kept; LONGEST]) -> Longest {
        let entry = self.words().map(|word| word.load(Relaxed));
        let [ns, task, index, place] = entry;
        let arguments = match kept.get(place as usize) {
            Some(kept) if ns > 0 => kept.read(key, entry),
            _ => KeptArguments::Lost,
        };
        Longest { ns, task, index: u32::try_from(index).unwrap_or(u32::MAX), arguments }
    }

    fn replace(&self, new: [u64; 4]) -> [u64; 4] {
        let old = self.words().map(|word| word.load(Relaxed));
        self.words().into_iter().zip(new).for_each(|(word, new)| word.store(new, Relaxed));
        old
    }

    fn words(&self) -> [&AtomicU64; 4] {
        [&self.ns, &self.task, &self.index, &self.place]
    }
}

impl Kept {
    /// Keeps these bytes, of arguments of this size, for this entry.
    fn keep(&self, key: u64, entry: [u64; 4], size: u64, bytes: Option<&[u8]>) {
        let whole = u64::from(bytes.is_some());
        let bytes = bytes.unwrap_or_default();
        self.size.store(size, Relaxed);
        self.whole.store(whole, Relaxed);
        self.sum.store(sum_of(key, entry, [size, whole], bytes), Relaxed);
        for (word, bytes) in self.bytes.iter().zip(bytes.chunks(8)) {
            let mut filled = [0; 8];
            filled[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(filled), Relaxed);
        }
    }

    fn read(&self, key: u64, entry: [u64; 4]) -> KeptArguments {
        let (size, whole) = (self.size.load(Relaxed), self.whole.load(Relaxed));
        let len = if whole == 0 { 0 } else { size.min(KEPT_MAX as u64) as usize };
        let words = self.bytes[..len.div_ceil(8)].iter();
        let mut bytes: Vec<u8> = words.flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        bytes.truncate(len);
        if self.sum.load(Relaxed) != sum_of(key, entry, [size, whole], &bytes) {
            KeptArguments::Lost
        } else if whole == 0 {
            KeptArguments::Size(size)
        } else {
            KeptArguments::Whole(bytes)
        }
    }
}

/// All of the entry is part of it: arguments of one task must not be decoded as those of another. And so is the length.
fn sum_of(key: u64, [ns, task, index, place]: [u64; 4], [size, whole]: [u64; 2], bytes: &[u8]) -> u64 {
    let numbers = [key, ns, task, index, place, size, whole].map(u64::to_le_bytes);
    u64::from(sum(&[numbers.as_flattened(), bytes], numbers.as_flattened().len() + bytes.len()))
}

/// Stands for a task, for those who know the key: the last step of `splitmix64`, so that the seals of neighbours are not alike.
fn seal(key: u64, task: u64) -> u64 {
    let mixed = key.wrapping_add(task.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
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
        let (theirs, ours) = (region.gauges(7), region.gauges(7));
        for (task, ns) in (1..).zip([500, 100, 900, 300, 700, 200, 600]) {
            theirs.note_wait(ns / 10);
            theirs.note_decoded(task);
            theirs.note_run(task, 4, ns, format!("of {task}").as_bytes());
        }
        theirs.set_init(40);
        let measured = ours.read();
        assert!(measured.is_sound(7, 3_400));
        assert_eq!((measured.runs.count(), measured.runs.sum(), measured.runs.max()), (7, 3_300, 900));
        assert_eq!((measured.waits.count(), measured.waits.sum(), measured.waits.max()), (7, 330, 90));
        assert_eq!(measured.init_ns, 40);
        let longest: Vec<(u64, u64)> = measured.longest.iter().map(|entry| (entry.ns, entry.task)).collect();
        assert_eq!(longest, [(900, 3), (700, 5), (600, 7), (500, 1), (300, 4)]);
        for entry in &measured.longest {
            assert_eq!(entry.arguments, KeptArguments::Whole(format!("of {}", entry.task).into_bytes()));
        }
    }

    #[test]
    fn arguments_are_kept_up_to_a_size() {
        let (region, _memory) = Region::create().unwrap();
        let gauges = region.gauges(7);
        let arguments = |len: usize| (0..len).map(|at| (at % 251) as u8).collect::<Vec<u8>>();
        let sizes = [0, 1, 7, 8, 9, KEPT_MAX - 1, KEPT_MAX, KEPT_MAX + 1, 1 << 20];
        for (ns, size) in (1..).zip(sizes) {
            gauges.note_decoded(ns);
            gauges.note_run(ns, 0, ns, &arguments(size));
            let kept = match size {
                ..=KEPT_MAX => KeptArguments::Whole(arguments(size)),
                _ => KeptArguments::Size(size as u64),
            };
            assert_eq!(gauges.read().longest[0].arguments, kept, "{size} bytes");
        }
    }

    #[test]
    fn arguments_that_were_not_decoded_are_not_kept() {
        let (region, _memory) = Region::create().unwrap();
        let gauges = region.gauges(7);
        assert!(!gauges.has_decoded(0), "nothing has been");
        gauges.note_decoded(4);
        assert!(gauges.has_decoded(4) && !gauges.has_decoded(5));
        // A stray write, or those of somebody else.
        for by in 1..=64 {
            gauges.figures.decoded.store(seal(7, 4).wrapping_add(by), Relaxed);
            assert!(!gauges.has_decoded(4 + by) && !gauges.has_decoded(4));
        }
        region.gauges(8).note_decoded(5);
        assert!(!gauges.has_decoded(5), "another key");
        gauges.note_run(5, 0, 10, b"arguments");
        gauges.note_run(6, 0, 9, b"");
        let found: Vec<KeptArguments> =
            gauges.read().longest.into_iter().map(|entry| entry.arguments).collect();
        assert_eq!(found, [KeptArguments::Size(9), KeptArguments::Size(0)]);
    }

    #[test]
    fn arguments_that_were_overwritten_are_lost() {
        let (region, _memory) = Region::create().unwrap();
        let gauges = region.gauges(7);
        let run = |task| {
            gauges.note_decoded(task);
            gauges.note_run(task, 0, task, b"arguments");
        };
        (1..=3).for_each(run);
        let figures = &*gauges.figures;
        figures.kept[0].bytes[1].store(7, Relaxed);
        figures.kept[1].size.store(u64::MAX, Relaxed);
        figures.longest[0].place.store(77, Relaxed);
        let found: Vec<KeptArguments> =
            gauges.read().longest.into_iter().map(|entry| entry.arguments).collect();
        assert_eq!(found, [KeptArguments::Lost, KeptArguments::Lost, KeptArguments::Lost]);
        // Those of one task are not taken for those of another.
        run(4);
        for word in [1, 2] {
            run(4 + word);
            figures.longest[0].words()[word as usize].fetch_xor(1, Relaxed);
            assert_eq!(gauges.read().longest[0].arguments, KeptArguments::Lost, "word {word}");
        }
        // A place that cannot be is no place to write to.
        figures.longest.iter().for_each(|entry| entry.place.store(u64::MAX, Relaxed));
        (10..=20).for_each(run);
        assert_eq!(gauges.read().longest[0].arguments, KeptArguments::Whole(b"arguments".to_vec()));
    }

    #[test]
    fn what_cannot_be_true_is_not_sound() {
        let (region, _memory) = Region::create().unwrap();
        let gauges = region.gauges(7);
        gauges.note_run(1, 0, 100, &[]);
        assert!(gauges.read().is_sound(1, 100));
        assert!(!gauges.read().is_sound(0, 100), "more tasks than it was given");
        assert!(!gauges.read().is_sound(1, 99), "longer than it has lived");
        gauges.figures.waits.iter().for_each(|bucket| bucket.store(u64::MAX, Relaxed));
        assert!(!gauges.read().is_sound(u64::MAX, u64::MAX), "no sum");
    }
}
