//! Waiting for several tasks at once.
//!
//! A [`Tally`] is told of the end of every task it counts, in the order in which they end, by whoever delivers the outcome
//! ([`Cell::settle`](crate::outcome::Cell::settle)); so a wait costs the same for two tasks and for a hundred thousand.
//!
//! # States
//! A task that is counted is *open*, *ended* (its number is in the tally) or *taken* (the number has been taken out). A cell
//! pushes each number once: when it is registered, if the outcome is there already, and otherwise when it is settled. Both
//! happen under the lock of the cell or with what was taken out under it, so no end is missed and none is counted twice.
//!
//! # Races
//! * *A task ends while the thread falls asleep.* Where all tasks are of one pool, the thread waits as for a single outcome,
//!   as leader or follower, with the argument of [`lead`](crate::supervisor::lead): the number is in the tally before the
//!   leader is kicked. A follower looks under the lock of the tally, which whoever pushes takes too.
//! * *The tasks are of several pools.* The thread leads none of them. It says that it watches, has every pool arm its bells,
//!   and then sleeps on the tally: a result that came before is read when the bells are armed, and what comes later rings.
//! * *A fork.* Tasks of another process count as ended. A [`Completed`] that has been made before a fork does not touch its
//!   tally in the child, where nobody may be left to unlock it.

use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Elapsed, TaskError};
use crate::fork::Origin;
use crate::handle::TaskHandle;
use crate::outcome::Watched;
use crate::progress::{self, Feed, Progress};
use crate::supervisor::lead::Wait;
use crate::supervisor::shared::Shared;
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, now};

/// Numbers of tasks that have ended.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    any: AtomicBool,
    state: Mutex<Ended>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct Ended {
    numbers: VecDeque<usize>,
    /// Somebody sleeps until there is one, and nobody but us wakes it.
    following: bool,
}

impl Tally {
    /// The task with this number has ended.
    pub(crate) fn push(&self, number: usize) {
        let mut ended = self.lock();
        ended.numbers.push_back(number);
        self.any.store(true, Ordering::Release);
        if std::mem::take(&mut ended.following) {
            drop(ended);
            self.ready.notify_one();
        }
    }

    /// The one that has ended first.
    pub(crate) fn pop(&self) -> Option<usize> {
        let mut ended = self.lock();
        let number = ended.numbers.pop_front();
        self.any.store(!ended.numbers.is_empty(), Ordering::Release);
        number
    }

    /// The least number of all that have ended.
    fn least(&self) -> Option<usize> {
        self.lock().numbers.iter().copied().min()
    }

    /// Sleeps until there is a number, or until the deadline.
    fn sleep(&self, deadline: Option<Instant>) {
        let mut ended = self.lock();
        while ended.numbers.is_empty() {
            ended.following = true;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            ended = match left {
                None => self.ready.wait(ended).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.ready.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        ended.following = false;
    }

    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait for Tally {
    fn is_over(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn is_bulk(&self) -> bool {
        false
    }

    fn follow(&self, watched: &Watched, heed: impl FnOnce(), deadline: Option<Instant>) {
        watched.add();
        heed();
        self.sleep(deadline);
        watched.remove();
    }
}

/// A tally, and the pools of the tasks that it counts.
#[derive(Debug, Default)]
struct Count {
    tally: Arc<Tally>,
    pools: Vec<Arc<Shared>>,
}

impl Count {
    fn of<'a, R: 'a>(handles: impl Iterator<Item = &'a TaskHandle<R>>) -> Self {
        let mut count = Self::default();
        for (number, handle) in handles.enumerate() {
            if handle.shared().origin.is_elsewhere() {
                count.tally.push(number);
                continue;
            }
            // There are few pools, and their tasks mostly come one pool after another.
            if !count.pools.iter().rev().any(|pool| Arc::ptr_eq(pool, handle.shared())) {
                count.pools.push(Arc::clone(handle.shared()));
            }
            handle.cell().count(&count.tally, number);
        }
        count
    }

    /// Waits until a task has ended whose number has not been taken, or until the deadline.
    fn wait(&self, deadline: Option<Instant>) {
        if let [pool] = &self.pools[..] {
            pool.wait_for(&*self.tally, deadline);
        } else if !self.tally.is_over() {
            self.pools.iter().for_each(|pool| pool.lead.watched.add());
            self.pools.iter().for_each(|pool| pool.heed());
            self.tally.sleep(deadline);
            self.pools.iter().for_each(|pool| pool.lead.watched.remove());
        }
        if !self.tally.is_over() {
            // As for a single handle: a result may be there that nobody has read.
            self.pools.iter().for_each(|pool| pool.with(|engine, _| engine.glance()));
        }
    }

    fn forget<R>(&self, handle: &TaskHandle<R>) {
        if !handle.shared().origin.is_elsewhere() {
            handle.cell().discount(&self.tally);
        }
    }
}

/// Waits until one of the tasks has ended, and returns its index: the lowest, if several have. `None` if there are none.
///
/// The tasks may be of several pools. To take the results of many as they come, use [`as_completed`]: it does not look at all
/// of them each time.
///
/// ```no_run
/// # use pool_core::{Pool, task};
/// # #[task]
/// # fn search(place: u64) -> Option<u64> {
/// #     Some(place)
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # pool_core::init();
/// # let pool = Pool::builder().build()?;
/// let mut handles: Vec<_> = (0..3).map(|place| pool.apply_async(search(place))).collect();
/// if let Some(first) = pool_core::wait_any(&handles) {
///     println!("{:?}", handles.swap_remove(first).get()?);
///     handles.iter().for_each(|slower| slower.cancel());
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "the index says which task has ended"]
pub fn wait_any<R>(handles: &[TaskHandle<R>]) -> Option<usize> {
    any_until(handles, None)
}

/// As [`wait_any`], for at most this long; `None` also if none has ended by then.
#[must_use = "the index says which task has ended"]
pub fn wait_any_timeout<R>(handles: &[TaskHandle<R>], timeout: Duration) -> Option<usize> {
    any_until(handles, now().checked_add(timeout))
}

fn any_until<R>(handles: &[TaskHandle<R>], deadline: Option<Instant>) -> Option<usize> {
    if let Some(ended) = handles.iter().position(TaskHandle::has_ended) {
        return Some(ended);
    }
    if handles.is_empty() {
        return None;
    }
    let count = Count::of(handles.iter());
    count.wait(deadline);
    handles.iter().for_each(|handle| count.forget(handle));
    count.tally.least()
}

/// Waits until all of the tasks have ended.
///
/// ```no_run
/// # use pool_core::{Pool, task};
/// # #[task]
/// # fn build(part: u64) -> u64 {
/// #     part
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # pool_core::init();
/// # let pool = Pool::builder().build()?;
/// let parts: Vec<_> = (0..3).map(|part| pool.apply_async(build(part))).collect();
/// pool_core::wait_all(&parts);
/// assert!(parts.iter().all(|part| part.is_finished()));
/// # Ok(())
/// # }
/// ```
pub fn wait_all<R>(handles: &[TaskHandle<R>]) {
    handles.iter().for_each(TaskHandle::wait);
}

/// As [`wait_all`], for at most this long; tells whether all have ended.
#[must_use = "it may have been in vain"]
pub fn wait_all_timeout<R>(handles: &[TaskHandle<R>], timeout: Duration) -> bool {
    let deadline = now().checked_add(timeout);
    handles.iter().all(|handle| handle.wait_until(deadline))
}

/// The results of tasks as they come, each with the index of its handle.
///
/// The tasks may be of several pools. Dropping the iterator drops the handles that are left, which cancels nothing unless
/// [`cancel_on_drop`](TaskHandle::cancel_on_drop) has been asked for.
///
/// ```no_run
/// # use pool_core::{Pool, task};
/// # #[task]
/// # fn fetch(page: u64) -> String {
/// #     page.to_string()
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # pool_core::init();
/// # let pool = Pool::builder().build()?;
/// let handles = (0..100).map(|page| pool.apply_async(fetch(page)));
/// for (page, text) in pool_core::as_completed(handles) {
///     println!("{page}: {}", text?);
/// }
/// # Ok(())
/// # }
/// ```
pub fn as_completed<R>(handles: impl IntoIterator<Item = TaskHandle<R>>) -> Completed<R> {
    let handles: Vec<_> = handles.into_iter().map(Some).collect();
    let count = Count::of(handles.iter().flatten());
    Completed { left: handles.len(), handles, count, next_forked: 0, origin: Origin::here(), feed: None }
}

/// The results of tasks in the order in which they end; made by [`as_completed`].
#[must_use = "an iterator waits for nothing until it is asked for results"]
pub struct Completed<R> {
    handles: Vec<Option<TaskHandle<R>>>,
    left: usize,
    count: Count,
    /// Where to go on in a forked child, which goes through them in their order.
    next_forked: usize,
    origin: Origin,
    feed: Option<Feed>,
}

impl<R> Completed<R> {
    /// Reports how many of the tasks have ended, while somebody waits for them: see [`Progress`].
    ///
    /// ```no_run
    /// # use pool_core::{Pool, Progress, task};
    /// # #[task]
    /// # fn fetch(page: u64) -> String {
    /// #     page.to_string()
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// # let pool = Pool::builder().build()?;
    /// let handles = (0..100).map(|page| pool.apply_async(fetch(page)));
    /// let progress = Progress::with(|report| eprintln!("{report}"));
    /// for (page, text) in pool_core::as_completed(handles).progress(progress) {
    ///     println!("{page}: {}", text?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress(mut self, progress: Progress) -> Self {
        let pools = self.count.pools.clone();
        self.feed = Some(Feed::new(progress, (self.left, Some(self.left)), pools));
        self
    }

    /// The next result, unless it takes longer than this. `None` when all have been returned.
    ///
    /// ```no_run
    /// # use pool_core::{Elapsed, Pool, as_completed, task};
    /// # use std::time::Duration;
    /// # #[task]
    /// # fn fetch(page: u64) -> String {
    /// #     page.to_string()
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// # let pool = Pool::builder().build()?;
    /// let mut pages = as_completed((0..100).map(|page| pool.apply_async(fetch(page))));
    /// loop {
    ///     match pages.next_timeout(Duration::from_secs(1)) {
    ///         Ok(Some((page, text))) => println!("{page}: {}", text?),
    ///         Ok(None) => break,
    ///         Err(Elapsed { .. }) => println!("{} to come", pages.len()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Elapsed`]; the tasks go on, and the next call may have more luck.
    #[expect(clippy::type_complexity, reason = "it is that of `next`, and a limit")]
    pub fn next_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<(usize, Result<R, TaskError>)>, Elapsed> {
        self.next_until(now().checked_add(timeout))
    }

    #[expect(clippy::type_complexity, reason = "as above")]
    fn next_until(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<(usize, Result<R, TaskError>)>, Elapsed> {
        if self.left == 0 {
            self.feed = None;
            return Ok(None);
        }
        let index = if self.origin.is_elsewhere() {
            self.first_left()
        } else {
            while !self.count.tally.is_over() {
                let tick = self.feed.is_some().then(|| Instant::now() + progress::INTERVAL);
                self.count.wait(tick.into_iter().chain(deadline).min());
                match &mut self.feed {
                    Some(feed) if !is_past(deadline) => feed.tick(),
                    _ => break,
                }
            }
            self.count.tally.pop()
        };
        let index = index.ok_or(Elapsed)?;
        // Every number is pushed once.
        let Some(handle) = self.handles.get_mut(index).and_then(Option::take) else { return Ok(None) };
        self.left -= 1;
        let result = handle.get();
        if let Some(feed) = &mut self.feed {
            result.as_ref().err().into_iter().for_each(|error| feed.failed(error));
            feed.landed(1);
        }
        Ok(Some((index, result)))
    }

    fn first_left(&mut self) -> Option<usize> {
        let from = self.next_forked;
        let index = self.handles.iter().skip(from).position(Option::is_some).map(|place| from + place);
        self.next_forked = index.unwrap_or(self.handles.len());
        index
    }
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

impl<R> Iterator for Completed<R> {
    type Item = (usize, Result<R, TaskError>);

    fn next(&mut self) -> Option<Self::Item> {
        // Without a deadline it never elapses.
        self.next_until(None).ok().flatten()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<R> ExactSizeIterator for Completed<R> {}

impl<R> FusedIterator for Completed<R> {}

impl<R> Drop for Completed<R> {
    fn drop(&mut self) {
        self.handles.iter().flatten().for_each(|handle| self.count.forget(handle));
    }
}

impl<R> fmt::Debug for Completed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completed").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn numbers_are_taken_in_the_order_of_the_ends_and_the_least_is_known() {
        let tally = Tally::default();
        assert!(!tally.is_over() && tally.pop().is_none() && tally.least().is_none());
        [5, 2, 7].into_iter().for_each(|number| tally.push(number));
        assert!(tally.is_over());
        assert_eq!(tally.least(), Some(2));
        assert_eq!([(); 4].map(|()| tally.pop()), [Some(5), Some(2), Some(7), None]);
        assert!(!tally.is_over());
    }

    #[test]
    fn a_sleeper_is_woken_by_a_number_or_by_its_deadline() {
        let tally = Tally::default();
        let start = Instant::now();
        tally.sleep(Some(start + Duration::from_millis(10)));
        assert!(start.elapsed() >= Duration::from_millis(10) && !tally.is_over());
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                tally.sleep(None);
                tally.pop()
            });
            tally.push(3);
            assert_eq!(sleeper.join().unwrap(), Some(3));
        });
        // Nobody follows any more, so there is nobody to wake.
        assert!(!tally.lock().following);
    }
}
