//! Many calls at once, with options.

use std::fmt;
use std::ops::ControlFlow;

use crate::call::IntoCall;
use crate::error::{MapError, TaskError};
use crate::flight;
use crate::pool::Inner;

/// Many calls at once, with options; made by [`Pool::batch`](crate::Pool::batch).
///
/// ```no_run
/// use pool_core::{Pool, task};
///
/// #[task]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// pool_core::init();
/// let pool = Pool::builder().workers(2).build()?;
/// let squares = pool.batch().chunk_size(100).map(square, 0..1000)?;
/// assert_eq!(squares[7], 49);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a batch does nothing until one of its map calls"]
pub struct Batch<'p> {
    pool: &'p Inner,
    plan: Plan,
}

/// How a batch is run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plan {
    /// Whether the first failure ends it.
    pub(crate) abort: bool,
    /// Items that a worker is given at a time; 0 to have that measured.
    pub(crate) chunk: u32,
    /// For calls that do not say whether they come before others.
    pub(crate) priority: Option<i8>,
}

impl<'p> Batch<'p> {
    pub(crate) fn new(pool: &'p Inner) -> Self {
        Self { pool, plan: Plan::default() }
    }

    /// How many items a worker is given at a time.
    ///
    /// Default: as many as it runs in about a millisecond, which is measured while the batch runs; 0 says the same. Whatever
    /// the size, a worker that has nothing to do takes over items that another one has not begun, every item fails by
    /// itself, and sizes above 1024 are cut to that.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.plan.chunk = u32::try_from(items).unwrap_or(u32::MAX);
        self
    }

    /// As [`Call::priority`](crate::Call::priority), for calls that say nothing themselves.
    ///
    /// Batches of the same priority, and single tasks, share the time of the workers in equal parts, whatever their items take.
    pub fn priority(mut self, priority: i8) -> Self {
        self.plan.priority = Some(priority);
        self
    }

    /// As [`Pool::map`](crate::Pool::map), with the options of this batch.
    ///
    /// # Errors
    /// Those of [`Pool::map`](crate::Pool::map).
    ///
    /// # Panics
    /// Only when `f` or the input iterator panics; the items in flight are cancelled, and the pool is not affected.
    pub fn map<F, I, C>(self, f: F, items: I) -> Result<Vec<C::Output>, MapError>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        let items = items.into_iter();
        let mut values = Values::with_capacity(items.size_hint().0);
        let (mut completed, mut failure) = (0, None);
        let plan = Plan { abort: true, ..self.plan };
        flight::run(self.pool, plan, f, items, |index, result| match result {
            Ok(value) => {
                values.put(index, value);
                completed += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure.get_or_insert((index, error));
                ControlFlow::Break(())
            }
        });
        match failure {
            Some((index, error)) => Err(MapError { index, error, completed }),
            None => Ok(values.0.into_iter().flatten().collect()),
        }
    }

    /// As [`Pool::map_settled`](crate::Pool::map_settled), with the options of this batch.
    ///
    /// # Panics
    /// Only when `f` or the input iterator panics; the items in flight are cancelled, and the pool is not affected.
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
        flight::run(self.pool, self.plan, f, items, |index, result| {
            match result {
                Ok(value) => values.put(index, value),
                Err(error) => errors.push((index, error)),
            }
            ControlFlow::Continue(())
        });
        errors.sort_unstable_by_key(|(index, _)| *index);
        let count = values.0.len().max(errors.last().map_or(0, |(index, _)| index + 1));
        values.0.resize_with(count, || None);
        let mut errors = errors.into_iter().map(|(_, error)| error);
        // Every item has the one or the other.
        values.0.into_iter().filter_map(|value| value.map(Ok).or_else(|| errors.next().map(Err))).collect()
    }
}

/// Results by item.
struct Values<R>(Vec<Option<R>>);

impl<R> Values<R> {
    fn with_capacity(items: usize) -> Self {
        // The length that an iterator announces is a hint, and may be any number.
        let most = (64 << 20) / size_of::<Option<R>>().max(1);
        Self(Vec::with_capacity(items.min(most)))
    }

    #[inline]
    fn put(&mut self, index: usize, value: R) {
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        self.0[index] = Some(value);
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("plan", &self.plan).finish_non_exhaustive()
    }
}
