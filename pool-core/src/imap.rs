//! Lazy iterators over results.

use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::call::IntoCall;
use crate::error::{Elapsed, TaskError};
use crate::flight::Flight;

/// The result of an item. An error is much larger than most values, and rare.
type Outcome<R> = Result<R, Box<TaskError>>;

/// A lazy iterator of results in the order of the items; made by [`Pool::imap`](crate::Pool::imap) and
/// [`Batch::imap`](crate::Batch::imap).
///
/// Nothing is submitted before the first result is asked for. From then on the items are pulled, on the thread that asks, as
/// far as workers need them: what has been pulled and not been handed out (it waits, runs, or has its result) is bounded, by
/// [`Batch::max_in_flight`](crate::Batch::max_in_flight) or else by what keeps the workers busy and by 64 MiB. So the input may
/// be endless, and a slow consumer holds everything up without filling memory. An input that blocks delays results that are
/// there, by one item at most.
///
/// A failure comes as an `Err`. It is the last thing that comes, and the items in flight are cancelled, unless the batch has
/// [`OnFailure::Isolate`](crate::OnFailure::Isolate): then each failure is in its place, and the iterator goes on.
///
/// Dropping the iterator cancels what it has in flight. The iterator does not keep the pool alive: when the pool ends, the items
/// in flight come as [`TaskError::PoolClosed`], and then no more.
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
/// for result in pool.imap(square, 1..) {
///     let square = result?;
///     if square > 10_000 {
///         break; // what is still in flight is cancelled
///     }
///     println!("{square}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// Only when the closure or the input panics: then [`next`](Iterator::next) does, and if it is asked again, there are no more
/// results.
#[must_use = "an iterator submits nothing until it is asked for results"]
pub struct Imap<F, I, R>(Lazy<F, I, R, InOrder<R>>);

/// A lazy iterator of results in the order in which the tasks end; made by
/// [`Pool::imap_unordered`](crate::Pool::imap_unordered) and [`Batch::imap_unordered`](crate::Batch::imap_unordered).
///
/// Otherwise as [`Imap`]; [`index`](Self::index) tells which item a result belongs to.
///
/// ```no_run
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
/// let mut squares = pool.batch().on_failure(OnFailure::Isolate).imap_unordered(square, 0..1000);
/// while let Some(result) = squares.next() {
///     match (squares.index(), result) {
///         (Some(index), Ok(square)) => println!("{index}: {square}"),
///         (index, Err(error)) => eprintln!("{index:?}: {error}"),
///         (None, Ok(_)) => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
/// In a `for` loop, [`indexed`](Self::indexed) gives both.
#[must_use = "an iterator submits nothing until it is asked for results"]
pub struct ImapUnordered<F, I, R>(Lazy<F, I, R, AsTheyCome<R>>);

/// The results of an [`ImapUnordered`], each with the index of its item; made by [`ImapUnordered::indexed`].
#[must_use = "an iterator submits nothing until it is asked for results"]
pub struct Indexed<F, I, R>(ImapUnordered<F, I, R>);

/// Where results wait to be handed out.
trait Shelf<R> {
    fn put(&mut self, index: usize, result: Outcome<R>);
    /// The next one to be handed out.
    fn pop(&mut self) -> Option<(usize, Outcome<R>)>;
    fn len(&self) -> usize;
}

/// By item, from the next one to be handed out on.
struct InOrder<R> {
    base: usize,
    results: VecDeque<Option<Outcome<R>>>,
    len: usize,
}

impl<R> InOrder<R> {
    fn new() -> Self {
        Self { base: 0, results: VecDeque::new(), len: 0 }
    }
}

impl<R> Shelf<R> for InOrder<R> {
    fn put(&mut self, index: usize, result: Outcome<R>) {
        let Some(place) = index.checked_sub(self.base) else { return };
        if self.results.len() <= place {
            self.results.resize_with(place + 1, || None);
        }
        self.len += usize::from(self.results[place].replace(result).is_none());
    }

    fn pop(&mut self) -> Option<(usize, Outcome<R>)> {
        let result = self.results.front_mut()?.take()?;
        self.results.pop_front();
        self.base += 1;
        self.len -= 1;
        Some((self.base - 1, result))
    }

    fn len(&self) -> usize {
        self.len
    }
}

struct AsTheyCome<R>(VecDeque<(usize, Outcome<R>)>);

impl<R> Shelf<R> for AsTheyCome<R> {
    fn put(&mut self, index: usize, result: Outcome<R>) {
        self.0.push_back((index, result));
    }

    fn pop(&mut self) -> Option<(usize, Outcome<R>)> {
        self.0.pop_front()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// What both iterators are.
struct Lazy<F, I, R, S> {
    flight: Flight<F, I, R>,
    ready: S,
    /// What ends the batch, before it has been handed out.
    failure: Option<(usize, Box<TaskError>)>,
    /// An item that was cancelled because of that, which may come before it.
    consequence: Option<usize>,
    /// The item whose result came last.
    index: Option<usize>,
    /// There are no more results.
    over: bool,
}

impl<F, I, R, S> Lazy<F, I, R, S> {
    fn new(flight: Flight<F, I, R>, ready: S) -> Self {
        Self { flight, ready, failure: None, consequence: None, index: None, over: false }
    }

    /// The error is that of what should have remembered the outcomes.
    fn finish(&mut self) -> Option<TaskError> {
        self.over = true;
        self.flight.finish().err()
    }
}

impl<F, I: Iterator, R, S: Shelf<R>> Lazy<F, I, R, S> {
    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.over {
            return (0, Some(0));
        }
        let held = self.flight.flying() + self.ready.len() + usize::from(self.failure.is_some());
        let (least, most) = self.flight.size_hint();
        // The first failure may be the last result.
        let least = if self.flight.aborts() { 0 } else { held.saturating_add(least) };
        (least, most.and_then(|most| most.checked_add(held)))
    }
}

impl<F, I, C, R, S> Lazy<F, I, R, S>
where
    I: Iterator,
    F: FnMut(I::Item) -> C,
    C: IntoCall<Output = R>,
    S: Shelf<R>,
{
    /// The next result, unless it takes longer.
    fn ask(&mut self, until: Option<Instant>) -> Result<Option<Result<R, TaskError>>, Elapsed> {
        if self.over {
            return Ok(None);
        }
        if self.flight.is_elsewhere() {
            self.over = true;
            return Ok(Some(Err(TaskError::Forked)));
        }
        if self.flight.is_torn() {
            return Ok(self.finish().map(Err));
        }
        if self.ready.len() > 0 && self.failure.is_none() && self.flight.runs_low() {
            // No more than are submitted together: results are waiting.
            self.flight.fill(Some(Instant::now()));
        }
        loop {
            if let Some((index, result)) = self.ready.pop() {
                self.index = Some(index);
                self.flight.hand_out();
                return Ok(Some(result.map_err(|error| *error)));
            }
            if let Some((index, error)) = self.failure.take() {
                self.index = Some(index);
                // The first failure is what counts; a second one is in the log.
                let _ = self.finish();
                return Ok(Some(Err(*error)));
            }
            self.flight.tend();
            if self.flight.is_over() {
                let unkept = self.finish();
                self.index = self.consequence.or(self.index);
                let consequence = self.consequence.map(|_| TaskError::Cancelled);
                return Ok(consequence.or(unkept).map(Err));
            }
            if !self.flight.has_any() {
                self.flight.fill(until);
                if self.flight.flying() > 0 && !self.flight.wait_for_some(until) {
                    return Err(Elapsed);
                }
            }
            self.take();
        }
    }

    fn take(&mut self) {
        let Self { flight, ready, failure, consequence, .. } = self;
        let aborts = flight.aborts();
        // What comes behind a failure is not wanted any more, and what had come before it is.
        let _ = flight.take(&mut |index, result| {
            match result {
                Err(TaskError::Cancelled) if aborts => drop(consequence.get_or_insert(index)),
                Err(error) if aborts => drop(failure.get_or_insert_with(|| (index, Box::new(error)))),
                Err(error) => ready.put(index, Err(Box::new(error))),
                Ok(value) => ready.put(index, Ok(value)),
            }
            ControlFlow::Continue(())
        });
    }
}

macro_rules! iterator {
    ($name:ident) => {
        impl<F, I, R> $name<F, I, R> {
            /// The index of the item whose result came last.
            #[must_use]
            pub fn index(&self) -> Option<usize> {
                self.0.index
            }
        }

        impl<F, I, C, R> $name<F, I, R>
        where
            I: Iterator,
            F: FnMut(I::Item) -> C,
            C: IntoCall<Output = R>,
        {
            /// The next result, as [`next`](Iterator::next) gives it, unless it takes longer than this. The batch goes on
            /// meanwhile, and the next call may have it.
            ///
            /// Whether the time is up is looked at between two items; an input that blocks cannot be interrupted.
            ///
            /// # Errors
            /// [`Elapsed`] when no result has come in time.
            ///
            /// # Panics
            /// Only when the closure or the input panics.
            pub fn next_timeout(
                &mut self,
                timeout: Duration,
            ) -> Result<Option<Result<R, TaskError>>, Elapsed> {
                // A timeout too long to be represented is no timeout.
                self.0.ask(Instant::now().checked_add(timeout))
            }
        }

        impl<F, I, C, R> Iterator for $name<F, I, R>
        where
            I: Iterator,
            F: FnMut(I::Item) -> C,
            C: IntoCall<Output = R>,
        {
            type Item = Result<R, TaskError>;

            fn next(&mut self) -> Option<Self::Item> {
                // Without a limit no time is up.
                self.0.ask(None).unwrap_or(None)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.0.size_hint()
            }
        }

        impl<F, I, C, R> FusedIterator for $name<F, I, R>
        where
            I: Iterator,
            F: FnMut(I::Item) -> C,
            C: IntoCall<Output = R>,
        {
        }

        impl<F, I, R> fmt::Debug for $name<F, I, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("index", &self.0.index)
                    .field("in_flight", &self.0.flight.flying())
                    .field("over", &self.0.over)
                    .finish_non_exhaustive()
            }
        }
    };
}

iterator!(Imap);
iterator!(ImapUnordered);

impl<F, I, R> Imap<F, I, R> {
    pub(crate) fn new(flight: Flight<F, I, R>) -> Self {
        Self(Lazy::new(flight, InOrder::new()))
    }
}

impl<F, I, R> ImapUnordered<F, I, R> {
    pub(crate) fn new(flight: Flight<F, I, R>) -> Self {
        Self(Lazy::new(flight, AsTheyCome(VecDeque::new())))
    }

    /// The same results, each with the index of its item, as [`as_completed`](crate::as_completed) gives them.
    ///
    /// An error that is none of an item, as after a fork, has the index of the result before it, or 0.
    ///
    /// ```no_run
    /// # use pool_core::{OnFailure, Pool, task};
    /// # #[task]
    /// # fn word_count(path: String) -> usize {
    /// #     path.len()
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// # let pool = Pool::builder().build()?;
    /// let paths = ["a.txt", "b.txt"];
    /// let counts = pool.batch().on_failure(OnFailure::Isolate).imap_unordered(word_count, paths.map(String::from));
    /// for (index, count) in counts.indexed() {
    ///     println!("{}: {count:?}", paths[index]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn indexed(self) -> Indexed<F, I, R> {
        Indexed(self)
    }
}

impl<F, I, C, R> Iterator for Indexed<F, I, R>
where
    I: Iterator,
    F: FnMut(I::Item) -> C,
    C: IntoCall<Output = R>,
{
    type Item = (usize, Result<R, TaskError>);

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.0.next()?;
        Some((self.0.index().unwrap_or(0), result))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<F, I, C, R> FusedIterator for Indexed<F, I, R>
where
    I: Iterator,
    F: FnMut(I::Item) -> C,
    C: IntoCall<Output = R>,
{
}

impl<F, I, R> fmt::Debug for Indexed<F, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Indexed").field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send<T: Send>() {}

    #[test]
    fn iterators_can_be_sent_to_other_threads() {
        is_send::<Imap<fn(u64), std::ops::Range<u64>, u64>>();
        is_send::<ImapUnordered<fn(u64), std::ops::Range<u64>, u64>>();
    }

    #[test]
    fn results_in_order_wait_for_those_before_them() {
        let mut shelf = InOrder::new();
        assert!(shelf.pop().is_none());
        shelf.put(2, Ok('c'));
        shelf.put(1, Err(Box::new(TaskError::Cancelled)));
        assert!(shelf.pop().is_none());
        assert_eq!(shelf.len(), 2);
        shelf.put(0, Ok('a'));
        assert!(matches!(shelf.pop(), Some((0, Ok('a')))));
        shelf.put(0, Ok('x'));
        assert!(matches!(shelf.pop(), Some((1, Err(_)))));
        assert!(matches!(shelf.pop(), Some((2, Ok('c')))), "what is put a second time is ignored");
        assert!(shelf.pop().is_none());
        assert_eq!(shelf.len(), 0);
    }
}
