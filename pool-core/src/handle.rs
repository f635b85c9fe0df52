//! The handle of one task.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::TaskError;
use crate::ids::TaskId;
use crate::outcome::Cell;
use crate::reply::Encoded;
#[cfg(feature = "durable")]
use crate::stored::single::Pending;
use crate::supervisor::event::{Event, TaskKey};
use crate::supervisor::lead::Leader;
use crate::supervisor::shared::Shared;
use crate::sync::now;
use crate::told::caught;

/// Turns what a worker sent into a value.
pub(crate) type Decode<R> = fn(Encoded<'_>) -> Result<R, String>;

/// A task that has been submitted.
///
/// The task goes on when its handle is dropped; it is [`cancel`](Self::cancel) that stops it.
///
/// ```no_run
/// use std::time::Duration;
/// use pool_core::{Pool, TaskError, task};
///
/// #[task]
/// fn slow(n: u64) -> u64 {
///     n + 1
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// pool_core::init();
/// let pool = Pool::builder().build()?;
/// let handle = pool.apply_async(slow(1));
/// if !handle.wait_timeout(Duration::from_secs(5)) {
///     handle.cancel();
/// }
/// match handle.get() {
///     Ok(n) => println!("{n}"),
///     Err(TaskError::Cancelled) => println!("took too long"),
///     Err(other) => return Err(other.into()),
/// }
/// # Ok(())
/// # }
/// ```
///
/// A handle can be awaited in any async runtime ([`init`](fn@crate::init) says where to start it): `handle.await` gives what
/// [`get`](Self::get) would return. Dropping the future cancels nothing, unless [`cancel_on_drop`](Self::cancel_on_drop) has
/// been asked for.
pub struct TaskHandle<R> {
    cell: Arc<Cell>,
    /// `None` when the task was refused, so there is nothing to cancel.
    task: Option<TaskKey>,
    /// What there is instead of `task`, if the result is stored.
    #[cfg(feature = "durable")]
    pending: Option<Arc<Pending>>,
    shared: Arc<Shared>,
    name: &'static str,
    decode: Decode<R>,
    /// Cancels the task when the handle is dropped; most have none.
    guard: Option<Box<CancelGuard>>,
}

/// A panic leaves nothing half done in a handle.
impl<R> UnwindSafe for TaskHandle<R> {}

/// As for [`UnwindSafe`].
impl<R> RefUnwindSafe for TaskHandle<R> {}

/// Cancels a task when it is dropped, unless the task has ended.
struct CancelGuard {
    target: Target,
    shared: Arc<Shared>,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.target.cancel(&self.shared);
    }
}

/// What can be cancelled.
enum Target {
    Task(TaskKey),
    #[cfg(feature = "durable")]
    Pending(Arc<Pending>),
}

impl Target {
    fn cancel(&self, shared: &Shared) {
        if shared.origin.is_elsewhere() {
            return;
        }
        match self {
            Self::Task(task) => cancel(shared, *task),
            #[cfg(feature = "durable")]
            Self::Pending(pending) => pending.cancel(shared),
        }
    }
}

fn cancel(shared: &Shared, task: TaskKey) {
    if !shared.origin.is_elsewhere() {
        shared.with(|engine, now| engine.machine.on(now, Event::Cancel(task)));
    }
}

impl<R> TaskHandle<R> {
    pub(crate) fn new(
        cell: Arc<Cell>,
        task: Option<TaskKey>,
        shared: Arc<Shared>,
        name: &'static str,
        decode: Decode<R>,
    ) -> Self {
        Self {
            cell,
            task,
            #[cfg(feature = "durable")]
            pending: None,
            shared,
            name,
            decode,
            guard: None,
        }
    }

    /// The handle of a call whose result is stored.
    #[cfg(feature = "durable")]
    pub(crate) fn stored(mut self, pending: Option<Arc<Pending>>) -> Self {
        self.pending = pending;
        self
    }

    fn target(&self) -> Option<Target> {
        #[cfg(feature = "durable")]
        if let Some(pending) = &self.pending {
            return Some(Target::Pending(Arc::clone(pending)));
        }
        self.task.map(Target::Task)
    }

    /// Waits until the task has ended, and returns its result.
    ///
    /// # Errors
    /// Why there is no result; see [`TaskError`]. [`TaskError::Forked`] in a forked child of the process that submitted the task.
    pub fn get(self) -> Result<R, TaskError> {
        if self.shared.origin.is_elsewhere() {
            return Err(TaskError::Forked);
        }
        self.get_leading(None)
    }

    /// As [`get`](Self::get), by a thread that may have the lead already.
    pub(crate) fn get_leading(self, leader: Option<Leader<'_>>) -> Result<R, TaskError> {
        let Self { cell, shared, name, decode, guard: _guard, .. } = self;
        if leader.is_none()
            && let Some(result) = outcome_of(&cell, name, decode)
        {
            shared.cells.give_back(cell);
            return result;
        }
        let sound = leader.is_some_and(|leader| leader.read_until(&*cell, None));
        if !sound {
            shared.wait_for(&*cell, None);
        }
        let result = outcome(&cell, name, decode);
        shared.cells.give_back(cell);
        result
    }

    /// Waits until the task has ended. In a forked child it returns at once.
    ///
    /// For several tasks there are [`wait_any`](crate::wait_any), [`wait_all`](crate::wait_all) and
    /// [`as_completed`](crate::as_completed).
    pub fn wait(&self) {
        if !self.shared.origin.is_elsewhere() {
            self.shared.wait_for(&*self.cell, None);
        }
    }

    /// Waits until the task has ended, for at most this long; tells whether it has.
    ///
    /// A task that has not ended goes on. In a forked child it returns true at once, and [`get`](Self::get) tells why.
    #[must_use = "it may have been in vain"]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        // A timeout too long to be represented is no timeout.
        self.wait_until(now().checked_add(timeout))
    }

    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> bool {
        if !self.shared.origin.is_elsewhere() {
            self.shared.wait_for(&*self.cell, deadline);
        }
        self.is_finished()
    }

    /// Whether the task has ended, so that [`get`](Self::get) would return at once.
    pub fn is_finished(&self) -> bool {
        if self.has_ended() {
            return true;
        }
        // The result may be there without anybody having read it: results that nobody waits for are announced late.
        self.shared.with(|engine, _| engine.glance());
        self.cell.is_settled()
    }

    /// As [`is_finished`](Self::is_finished), as far as results have been read.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.origin.is_elsewhere() || self.cell.is_settled()
    }

    /// Cancels the task, unless it has ended.
    ///
    /// The handle gets [`TaskError::Cancelled`] at once. A task that waits is dropped. A task that runs is told through
    /// [`TaskContext::is_cancelled`](crate::TaskContext::is_cancelled); if it has not returned after the pool's
    /// [`cancel_grace`](crate::Builder::cancel_grace), its worker is killed and replaced. Other tasks are not affected.
    pub fn cancel(&self) {
        if let Some(target) = self.target() {
            target.cancel(&self.shared);
        }
    }

    /// Has the task cancelled, as by [`cancel`](Self::cancel), when the handle or the future made of it is dropped before the
    /// task has ended.
    ///
    /// ```no_run
    /// # use pool_core::{Pool, task};
    /// # #[task]
    /// # fn render(page: u32) -> Vec<u8> {
    /// #     vec![page as u8]
    /// # }
    /// # async fn timeout<F: Future>(f: F) -> Option<F::Output> {
    /// #     Some(f.await)
    /// # }
    /// # async fn serve(pool: &Pool) {
    /// // A request that takes too long is given up, and so is the task.
    /// let page = timeout(pool.apply_async(render(7)).cancel_on_drop().into_future()).await;
    /// # }
    /// ```
    #[must_use = "a handle that is dropped at once has its task cancelled at once"]
    pub fn cancel_on_drop(mut self) -> Self {
        if self.guard.is_none()
            && let Some(target) = self.target()
        {
            self.guard = Some(Box::new(CancelGuard { target, shared: Arc::clone(&self.shared) }));
        }
        self
    }

    pub(crate) fn cell(&self) -> &Cell {
        &self.cell
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn outcome(&self) -> Result<R, TaskError> {
        outcome(&self.cell, self.name, self.decode)
    }

    /// The number of the task, unique in its pool; 0 for a task that the pool refused, and for one that has not been submitted
    /// because its result is in a store, or is computed by another program.
    pub fn id(&self) -> TaskId {
        #[cfg(feature = "durable")]
        let task = self.task.or_else(|| self.pending.as_ref()?.task());
        #[cfg(not(feature = "durable"))]
        let task = self.task;
        task.map_or(TaskId::new(0), |task| task.id)
    }

    /// The name of the task, as in messages.
    pub fn task_name(&self) -> &'static str {
        self.name
    }
}

impl<R: 'static> TaskHandle<R> {
    /// Has a function called with the result, on a thread of the pool's own, once the task has ended.
    ///
    /// Callbacks run one after another. One that blocks delays the later ones, one that panics harms nobody, and all may use
    /// the pool. They still run when the pool has been dropped: with [`TaskError::PoolClosed`] for tasks that had not ended. In a
    /// forked child they do not.
    pub fn on_complete(&self, function: impl FnOnce(Result<R, TaskError>) + Send + 'static) {
        if self.shared.origin.is_elsewhere() {
            return;
        }
        let (name, convert) = (self.name, self.decode);
        let callback = Box::new(move |cell: &Cell| {
            // Nobody but the function waits: it is told that its value has panicked while it was decoded.
            let outcome = caught(|| outcome(cell, name, convert));
            function(outcome.unwrap_or_else(|| {
                let message = "result: its `Deserialize` implementation panicked".to_owned();
                Err(TaskError::Decode { task: name.to_owned(), message })
            }));
        });
        match self.cell.call_back(callback, &self.shared.lead.watched) {
            Some(callback) => self.shared.call_back(&self.cell, vec![callback]),
            None => self.shared.heed(),
        }
    }
}

/// The result in a cell that has been settled.
fn outcome<R>(cell: &Cell, task: &'static str, convert: Decode<R>) -> Result<R, TaskError> {
    outcome_of(cell, task, convert).unwrap_or(Err(TaskError::PoolClosed))
}

/// The result of a task that has ended.
fn outcome_of<R>(cell: &Cell, task: &'static str, convert: Decode<R>) -> Option<Result<R, TaskError>> {
    cell.look(|reply| decode(task, convert, reply.encoded())).map(|ended| ended.and_then(|result| result))
}

/// Turns one result that a worker has returned into a value.
#[inline]
pub(crate) fn decode<R>(
    task: &'static str,
    convert: Decode<R>,
    encoded: Encoded<'_>,
) -> Result<R, TaskError> {
    convert(encoded)
        .map_err(|message| TaskError::Decode { task: task.to_owned(), message: format!("result: {message}") })
}

impl<R> fmt::Debug for TaskHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("id", &self.id()).field("task", &self.name).finish_non_exhaustive()
    }
}

/// The future of a task's result; made by `handle.await`. Dropping it cancels nothing, unless
/// [`cancel_on_drop`](TaskHandle::cancel_on_drop) has been asked for.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct TaskFuture<R> {
    handle: TaskHandle<R>,
}

impl<R> Drop for TaskFuture<R> {
    fn drop(&mut self) {
        if !self.handle.shared.origin.is_elsewhere() {
            self.handle.cell.forget_wakers(&self.handle.shared.lead.watched);
        }
    }
}

impl<R> Future for TaskFuture<R> {
    type Output = Result<R, TaskError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = &self.handle;
        if handle.shared.origin.is_elsewhere() {
            return Poll::Ready(Err(TaskError::Forked));
        }
        let poll = handle.cell.poll(cx.waker(), &handle.shared.lead.watched);
        if poll.is_pending() {
            handle.shared.heed();
        }
        poll.map(|()| handle.outcome())
    }
}

impl<R> IntoFuture for TaskHandle<R> {
    type Output = Result<R, TaskError>;
    type IntoFuture = TaskFuture<R>;

    fn into_future(self) -> TaskFuture<R> {
        TaskFuture { handle: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    /// What can be taken through `catch_unwind`, and to other threads.
    fn is_robust<T: UnwindSafe + RefUnwindSafe + Send + Sync + 'static>() {}

    #[test]
    fn a_panic_beside_a_pool_may_be_caught() {
        is_robust::<Pool>();
        is_robust::<TaskHandle<Cell>>();
    }
}
