//! Many calls at once, with options.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::call::{IntoCall, RetryOn};
use crate::error::{MapError, TaskError};
use crate::flight::Flight;
use crate::imap::{Imap, ImapUnordered};
use crate::pool::Inner;
use crate::progress::Progress;

/// Many calls at once, with options; made by [`Pool::batch`](crate::Pool::batch).
///
/// What a call says for itself ([`Call::timeout`](crate::Call::timeout), [`Call::retries`](crate::Call::retries)) comes first,
/// then what the batch says, and then what the pool does.
///
/// ```no_run
/// use std::time::Duration;
/// use pool_core::{OnFailure, Pool, task};
///
/// #[task]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// pool_core::init();
/// let pool = Pool::builder().workers(2).build()?;
/// let squares = pool.batch().chunk_size(100).timeout(Duration::from_secs(1)).map(square, 0..1000)?;
/// assert_eq!(squares[7], 49);
/// let batch = pool.batch().on_failure(OnFailure::Isolate).retries(2).max_in_flight(64);
/// for result in batch.imap_unordered(square, 0..1000) {
///     println!("{result:?}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a batch does nothing until one of its map calls"]
pub struct Batch<'p> {
    pool: &'p Inner,
    plan: Plan,
}

/// What the failure of an item means for the other items of its batch.
///
/// An `Err` that a task function returns is a value, and no failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFailure {
    /// The first failure ends the batch: what waits is dropped, what runs is cancelled as by
    /// [`TaskHandle::cancel`](crate::TaskHandle::cancel), and no more items are pulled.
    #[default]
    Abort,
    /// Each item fails by itself, and the others go on.
    Isolate,
}

/// How a batch is run. What is `None` was not said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) on_failure: Option<OnFailure>,
    /// Items that a worker is given at a time; 0 to have that measured.
    pub(crate) chunk: u32,
    /// Time limit of an item.
    pub(crate) limit: Option<Duration>,
    /// Time limit of the whole.
    pub(crate) deadline: Option<Duration>,
    /// Most items that are held.
    pub(crate) in_flight: Option<usize>,
    pub(crate) retries: Option<u32>,
    pub(crate) retry_on: Option<RetryOn>,
    pub(crate) progress: Option<Progress>,
    /// For calls that do not say whether they come before others.
    pub(crate) priority: Option<i8>,
    /// Whether pieces go to the workers in turns.
    pub(crate) ordered: bool,
    /// Where outcomes are noted.
    #[cfg(feature = "durable")]
    pub(crate) journal: Option<pool_store::journal::Journal>,
    /// Where results are looked for and kept, for calls that do not say it themselves.
    #[cfg(feature = "durable")]
    pub(crate) store: Option<pool_store::Store>,
}

impl<'p> Batch<'p> {
    pub(crate) fn new(pool: &'p Inner) -> Self {
        Self { pool, plan: Plan::default() }
    }

    /// Limits the time of each item, from its start in a worker; by default the limit of the pool.
    ///
    /// As [`Call::timeout`](crate::Call::timeout), for calls that say nothing themselves.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.plan.limit = Some(limit);
        self
    }

    /// Limits the time of the whole batch, from the call of the map on.
    ///
    /// Whatever has not ended by then ends with [`TaskError::DeadlineExceeded`], whether or not anybody waits for it, and items
    /// that run are stopped as by [`TaskHandle::cancel`](crate::TaskHandle::cancel). Items that are pulled later are not
    /// started. Only pulling an item cannot be interrupted, should the input block.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.plan.deadline = Some(limit);
        self
    }

    /// How many items a worker is given at a time.
    ///
    /// Default: as many as it runs in about a millisecond, which is measured while the batch runs; 0 says the same. Whatever
    /// the size, a worker that has nothing to do takes over items that another one has not begun (unless
    /// [`order_tasks`](Self::order_tasks) forbids it), every item fails by itself, and sizes above 1024 are cut to that.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.plan.chunk = u32::try_from(items).unwrap_or(u32::MAX);
        self
    }

    /// As [`Call::priority`](crate::Call::priority), for calls that say nothing themselves.
    ///
    /// Batches of the same priority, and single tasks, share the time of the workers in equal parts, whatever their items take.
    ///
    /// ```no_run
    /// use pool_core::{Pool, task};
    ///
    /// #[task]
    /// fn index(document: String) -> usize {
    ///     document.len()
    /// }
    ///
    /// # fn run(pool: &Pool, archive: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    /// // Whatever has the default priority, 0, comes first.
    /// let sizes = pool.batch().priority(-1).map(index, archive)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn priority(mut self, priority: i8) -> Self {
        self.plan.priority = Some(priority);
        self
    }

    /// Whether the pieces of the batch go to the workers in turns: piece `i` to the worker `i mod n` of `n`, and to no other.
    ///
    /// By default whoever has nothing to do gets what comes next. In turns, it is known beforehand which items meet in one process:
    /// for caches that a worker keeps, or files that it writes. The price is that nobody takes over what is for a worker
    /// that is busy. A piece has [`chunk_size`](Self::chunk_size) items, also if these are too many to be sent at once, and one if
    /// nothing is said; small items are quicker with larger pieces.
    ///
    /// * When a worker dies, what is for it waits for its replacement, or for a [spare](crate::Builder::spares) that takes over;
    ///   retries do, too. Only where a replacement has failed twice, the workers that are left get it, until there is one.
    /// * `n` is the number of workers when a piece is submitted; see [`Pool::resize`](crate::Pool::resize). With fewer workers
    ///   than there were, they share what was for the others. An elastic pool
    ///   ([`min_workers`](crate::Builder::min_workers)) starts whom it needs.
    /// * Another batch in turns finds the same workers in the same order. They are numbered as by
    ///   [`worker_index`](crate::TaskContext::worker_index), unless spares or successors of recycled workers have taken over.
    ///
    /// ```no_run
    /// use pool_core::{Pool, TaskContext, task};
    ///
    /// #[task]
    /// fn count(line: String, #[context] cx: &TaskContext) -> (usize, usize) {
    ///     (cx.worker_index(), line.len())
    /// }
    ///
    /// # fn run(pool: &Pool, lines: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    /// // Lines 0 to 99 are counted by one worker, 100 to 199 by the next.
    /// let counts = pool.batch().order_tasks(true).chunk_size(100).map(count, lines)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn order_tasks(mut self, ordered: bool) -> Self {
        self.plan.ordered = ordered;
        self
    }

    /// Most items that have been pulled from the input and not been handed to the consumer: they wait, run, or have results
    /// that nobody has taken. 0 counts as 1.
    ///
    /// Default: what keeps the workers busy. The arguments of the items that wait or run are bounded to 64 MiB besides, unless
    /// a single item has more.
    pub fn max_in_flight(mut self, items: usize) -> Self {
        self.plan.in_flight = Some(items);
        self
    }

    /// What the failure of an item means for the others.
    ///
    /// Default: [`OnFailure::Abort`], but [`OnFailure::Isolate`] for [`map_settled`](Self::map_settled).
    ///
    /// | | `Abort` | `Isolate` |
    /// |---|---|---|
    /// | `map`, `map_unordered` | [`MapError`] at once | all items run; then [`MapError`] with the failure of the first item that failed |
    /// | `imap`, `imap_unordered` | what has come before, that failure, and the end | each failure in its place |
    /// | `map_settled` | the others end as [`TaskError::Cancelled`] | every item's own outcome |
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        self.plan.on_failure = Some(policy);
        self
    }

    /// Lets each item run again up to `n` times when its worker dies, 0 by default; see also [`retry_on`](Self::retry_on).
    ///
    /// As [`Call::retries`](crate::Call::retries), for calls that say nothing themselves.
    pub fn retries(mut self, n: u32) -> Self {
        self.plan.retries = Some(n);
        self
    }

    /// Chooses the failures that [`retries`](Self::retries) applies to; the death of the worker always is one of them.
    ///
    /// As [`Call::retry_on`](crate::Call::retry_on), for calls that say nothing themselves.
    pub fn retry_on(mut self, failures: RetryOn) -> Self {
        self.plan.retry_on = Some(failures);
        self
    }

    /// Reports how far the batch is, while somebody waits for its results: see [`Progress`].
    pub fn progress(mut self, progress: Progress) -> Self {
        self.plan.progress = Some(progress);
        self
    }

    /// Notes the outcome of every item in a file, and does not run again what is noted there.
    ///
    /// So a program that was killed, or a machine that has died, goes on where it was when the same program is started again:
    /// the batch gives what it would have given, and only what was not done runs. A path is a journal, and
    /// [`Journal`](crate::Journal) has the options. Each batch needs a journal of its own, and no two programs can use one at a
    /// time. It is kept when the batch has ended: the program removes it when it has made use of the results.
    ///
    /// * An item is recognised by its place in the input, and by its task, the task's declared
    ///   [version](macro@crate::task#options) and the arguments. Where one has changed, the batch is refused
    ///   ([`TaskError::Journal`]) before anything is mixed up.
    /// * A result is noted before it is handed out. What has run and was not handed out when the program died may run again, as may
    ///   what was noted less than about 50 ms before the machine died.
    /// * Items that have failed run again, unless [`Journal::keep_failures`](crate::Journal::keep_failures) is set. An `Err` that a
    ///   task returns is a result.
    /// * A batch that gives no error is on the disk. Where the last sync fails, the last item has the error in place of its result.
    ///
    /// What exactly is promised, and what it costs, is in `docs/durability.md`.
    ///
    /// ```no_run
    /// use pool_core::{Pool, task};
    ///
    /// #[task(version = 2)]
    /// fn render(page: u32) -> Vec<u8> {
    ///     vec![page as u8]
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// pool_core::init();
    /// let pool = Pool::builder().build()?;
    /// let pages = pool.batch().journal("book.journal").map(render, 0..10_000)?;
    /// std::fs::write("book.bin", pages.concat())?;
    /// std::fs::remove_file("book.journal")?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "durable")]
    pub fn journal(mut self, journal: impl Into<pool_store::journal::Journal>) -> Self {
        self.plan.journal = Some(journal.into());
        self
    }

    /// Takes the results that are in a store from there, and runs only the other calls, whose results go into it.
    ///
    /// As [`Call::stored`](crate::Call::stored), which says what is remembered and when, for calls that say nothing themselves.
    /// Items that another program is computing are put aside, and others run meanwhile; so programs that work on the same items
    /// share the work. A result is handed out when it has been written, and a batch returns when all have been, also one that fails.
    ///
    /// ```no_run
    /// use pool_core::{Pool, Store, task};
    ///
    /// #[task(version = 1)]
    /// fn features(path: String) -> Vec<f32> {
    ///     vec![path.len() as f32]
    /// }
    ///
    /// # fn run(pool: &Pool, paths: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Store::open("cache")?;
    /// let all = pool.batch().store(&store).map(features, paths)?;
    /// println!("{} of {} were known", store.stats().hits, all.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Where a result cannot be written, what happens is for
    /// [`StoreBuilder::on_write_error`](crate::StoreBuilder::on_write_error) to say; an error ends the batch.
    #[cfg(feature = "durable")]
    pub fn store(mut self, store: &pool_store::Store) -> Self {
        self.plan.store = Some(store.clone());
        self
    }

    /// As [`Pool::map`](crate::Pool::map), with the options of this batch.
    ///
    /// # Errors
    /// Those of [`Pool::map`](crate::Pool::map); see also [`on_failure`](Self::on_failure).
    ///
    /// # Panics
    /// Only when `f`, the input iterator or the decoding of a result panics; the items in flight are cancelled, and the pool is not
    /// affected.
    pub fn map<F, I, C>(self, f: F, items: I) -> Result<Vec<C::Output>, MapError>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        let items = items.into_iter();
        let mut values = Values::with_capacity(items.size_hint().0);
        self.all_or_nothing(f, items, |index, value| values.put(index, value))?;
        Ok(values.0.into_iter().flatten().collect())
    }

    /// As [`map`](Self::map), with the results in the order in which the tasks ended.
    ///
    /// # Errors
    /// Those of [`map`](Self::map).
    ///
    /// # Panics
    /// Only when `f`, the input iterator or the decoding of a result panics; the items in flight are cancelled, and the pool is not
    /// affected.
    pub fn map_unordered<F, I, C>(self, f: F, items: I) -> Result<Vec<C::Output>, MapError>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        let items = items.into_iter();
        let mut values = Vec::with_capacity(likely::<C::Output>(items.size_hint().0));
        self.all_or_nothing(f, items, |_, value| values.push(value))?;
        Ok(values)
    }

    fn all_or_nothing<F, I, C>(
        self,
        f: F,
        items: I,
        mut put: impl FnMut(usize, C::Output),
    ) -> Result<(), MapError>
    where
        I: Iterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        let mut flight = Flight::new(self.pool, self.plan, OnFailure::Abort, false, f, items);
        let aborts = flight.aborts();
        let (mut completed, mut failure, mut consequence) = (0, None, None);
        flight.drive(|index, result| match result {
            Ok(value) => {
                put(index, value);
                completed += 1;
                ControlFlow::Continue(())
            }
            // What failed first may come after what was cancelled because of it.
            Err(error @ TaskError::Cancelled) if aborts => {
                consequence.get_or_insert((index, error));
                ControlFlow::Continue(())
            }
            Err(error) => {
                match &failure {
                    Some((first, _)) if aborts || *first < index => {}
                    _ => failure = Some((index, error)),
                }
                if aborts { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        });
        match failure.or(consequence) {
            Some((index, error)) => Err(MapError { index, error, completed }),
            None => Ok(()),
        }
    }

    /// As [`Pool::imap`](crate::Pool::imap), with the options of this batch.
    pub fn imap<F, I, C>(self, f: F, items: I) -> Imap<F, I::IntoIter, C::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        Imap::new(Flight::new(self.pool, self.plan, OnFailure::Abort, true, f, items.into_iter()))
    }

    /// As [`imap`](Self::imap), with the results in the order in which the tasks end.
    pub fn imap_unordered<F, I, C>(self, f: F, items: I) -> ImapUnordered<F, I::IntoIter, C::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        ImapUnordered::new(Flight::new(self.pool, self.plan, OnFailure::Abort, true, f, items.into_iter()))
    }

    /// As [`Pool::map_settled`](crate::Pool::map_settled), with the options of this batch.
    ///
    /// # Panics
    /// Only when `f`, the input iterator or the decoding of a result panics; the items in flight are cancelled, and the pool is not
    /// affected.
    pub fn map_settled<F, I, C>(self, f: F, items: I) -> Vec<Result<C::Output, TaskError>>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        let items = items.into_iter();
        let mut values = Values::with_capacity(items.size_hint().0);
        // Apart, because an error is much larger than most values, and rare.
        let mut errors: Vec<(usize, TaskError)> = Vec::new();
        let mut flight = Flight::new(self.pool, self.plan, OnFailure::Isolate, false, f, items);
        flight.drive(|index, result| {
            match result {
                Ok(value) => values.put(index, value),
                Err(error) => {
                    // The last item's, if what was noted could not be brought to the disk.
                    values.take(index);
                    errors.push((index, error));
                }
            }
            ControlFlow::Continue(())
        });
        if let Some((next, error)) = flight.refusal() {
            // Every item has an outcome, also those that were not even pulled when the batch or the pool ended.
            errors.extend((next..).zip(flight.rest()).map(|(index, _)| (index, error.clone())));
        }
        errors.sort_by_key(|(index, _)| *index);
        errors.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        let count = values.0.len().max(errors.last().map_or(0, |(index, _)| index + 1));
        values.0.resize_with(count, || None);
        let mut errors = errors.into_iter().map(|(_, error)| error);
        // Every item has the one or the other.
        values.0.into_iter().filter_map(|value| value.map(Ok).or_else(|| errors.next().map(Err))).collect()
    }
}

/// How many of the announced values room is made for. The length that an iterator announces is a hint, and may be any number.
fn likely<T>(announced: usize) -> usize {
    announced.min((64 << 20) / size_of::<T>().max(1))
}

/// Results by item.
struct Values<R>(Vec<Option<R>>);

impl<R> Values<R> {
    fn with_capacity(items: usize) -> Self {
        Self(Vec::with_capacity(likely::<Option<R>>(items)))
    }

    #[inline]
    fn put(&mut self, index: usize, value: R) {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(value);
    }

    fn take(&mut self, index: usize) -> Option<R> {
        self.0.get_mut(index)?.take()
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("plan", &self.plan).finish_non_exhaustive()
    }
}
