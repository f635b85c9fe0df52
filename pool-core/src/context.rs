//! What a running task can learn about its circumstances.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::ids::{TaskId, WorkerId};

/// Answers whether a task was cancelled; a worker makes one and shares it among its tasks.
#[doc(hidden)]
pub type CancelProbe = Arc<dyn Fn(TaskId) -> bool + Send + Sync>;

/// The circumstances of a running task, for a parameter marked `#[context]`.
///
/// ```
/// use pool_core::{TaskContext, task};
///
/// #[task]
/// fn sum_until_cancelled(values: &[u64], #[context] cx: &TaskContext) -> Option<u64> {
///     let mut sum = 0;
///     for value in values {
///         if cx.is_cancelled() {
///             return None;
///         }
///         sum += value;
///     }
///     Some(sum)
/// }
///
/// assert_eq!(sum_until_cancelled(&[1, 2, 3]).run_here().unwrap(), Some(6));
/// ```
pub struct TaskContext {
    worker: WorkerId,
    task: TaskId,
    attempt: u32,
    deadline: Option<Instant>,
    cancelled: Option<CancelProbe>,
}

impl TaskContext {
    #[doc(hidden)]
    pub fn new(
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
        deadline: Option<Instant>,
        cancelled: CancelProbe,
    ) -> Self {
        Self { worker, task, attempt, deadline, cancelled: Some(cancelled) }
    }

    /// The context of a worker's tasks; [`enter`](Self::enter) makes it that of the next one.
    pub(crate) fn of_worker(worker: WorkerId, cancelled: CancelProbe) -> Self {
        Self::new(worker, TaskId::new(0), 1, None, cancelled)
    }

    /// Another task begins.
    pub(crate) fn enter(&mut self, task: TaskId, attempt: u32, deadline: Option<Instant>) {
        (self.task, self.attempt, self.deadline) = (task, attempt, deadline);
    }

    /// The context of a task that runs in the calling process: worker 0, task 0, first attempt, no
    /// deadline, never cancelled.
    pub fn local() -> Self {
        Self { worker: WorkerId::new(0), task: TaskId::new(0), attempt: 1, deadline: None, cancelled: None }
    }

    /// The place of this worker in its pool, from 0: no two processes have the same at a time, and low ones are used first.
    ///
    /// One that replaces a worker that died has the same index. One that starts while its predecessor still works has another;
    /// see [`Builder::recycle_overlap`](crate::Builder::recycle_overlap).
    pub fn worker_index(&self) -> usize {
        self.worker.get() as usize
    }

    pub(crate) fn worker_id(&self) -> WorkerId {
        self.worker
    }

    /// The number of the task in its pool.
    pub fn task_id(&self) -> TaskId {
        self.task
    }

    /// 1 when the task runs for the first time, 2 when it runs again after the first failure, and so on.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When the task will be stopped for taking too long, if it has a time-out.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the result is no longer wanted, so that the task should return soon; cheap enough for an
    /// inner loop.
    ///
    /// A task that goes on regardless is stopped by killing its worker.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.as_ref().is_some_and(|cancelled| cancelled(self.task))
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("worker", &self.worker)
            .field("task", &self.task)
            .field("attempt", &self.attempt)
            .field("deadline", &self.deadline)
            .field("cancelled", &self.is_cancelled())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn cancellation_is_asked_about_this_task_each_time() {
        let cancelled_task = Arc::new(AtomicU64::new(0));
        let probe: CancelProbe = {
            let cancelled_task = Arc::clone(&cancelled_task);
            Arc::new(move |task| task.get() == cancelled_task.load(Ordering::Relaxed))
        };
        let cx = TaskContext::new(WorkerId::new(3), TaskId::new(17), 2, None, probe);
        assert_eq!((cx.worker_index(), cx.task_id().get(), cx.attempt(), cx.deadline()), (3, 17, 2, None));
        assert!(!cx.is_cancelled());
        cancelled_task.store(17, Ordering::Relaxed);
        assert!(cx.is_cancelled());
    }

    #[test]
    fn a_local_context_is_a_first_attempt_that_nobody_cancels() {
        let cx = TaskContext::local();
        assert_eq!((cx.worker_index(), cx.task_id().get(), cx.attempt(), cx.deadline()), (0, 0, 1, None));
        assert!(!cx.is_cancelled());
    }
}
