//! How often and how fast dead workers are replaced.

use std::time::Duration;

/// When the pool gives up on replacing workers that die without running a task, and how it paces itself before.
///
/// A worker that dies *in a task* is replaced at once, and counts for nothing here: that death has its explanation, and
/// the task has its error. What counts is a worker that dies while it starts, or idle. The first replacement comes at once,
/// the next after [`first_delay`](Self::first_delay), then twice as long each time, ± 20 %, up to
/// [`max_delay`](Self::max_delay). When one worker dies more than [`max_restarts`](Self::max_restarts) times within
/// [`window`](Self::window), no task of the pool has finished in between, and no other worker is of any use, the pool is
/// broken: every pending handle gets [`TaskError::PoolBroken`](crate::TaskError::PoolBroken) with these deaths. A pool in
/// which idle workers die breaks only while somebody waits for a task.
///
/// ```
/// use std::time::Duration;
/// use pool_core::RestartPolicy;
///
/// let policy = RestartPolicy { max_restarts: 3, ..RestartPolicy::default() };
/// assert_eq!(policy.window, Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Deaths of one worker that are forgiven within the window. Default: 5.
    pub max_restarts: u32,
    /// The sliding window, in time during which the worker was ready: delays and slow starts do not count. Default: 60 s.
    pub window: Duration,
    /// Delay before the second replacement. Default: 100 ms.
    pub first_delay: Duration,
    /// Longest delay. Default: 30 s.
    pub max_delay: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            max_restarts: 5,
            window: Duration::from_secs(60),
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(30),
        }
    }
}

/// The longest time that is told apart from "for ever": some 136 years. It keeps sums with points in time in range.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// Cuts a duration that came from outside.
pub(crate) fn bounded(duration: Duration) -> Duration {
    duration.min(LONGEST)
}

impl RestartPolicy {
    pub(crate) fn bounded(self) -> Self {
        Self {
            window: bounded(self.window),
            first_delay: bounded(self.first_delay),
            max_delay: bounded(self.max_delay),
            ..self
        }
    }
}
