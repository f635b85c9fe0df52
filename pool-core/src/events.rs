//! What happens to workers, told to whoever wants to know.
//!
//! Events are made under the lock of the pool, in their order, and put into a queue of limited length; a thread of its own
//! takes them out and calls the hook. So the hook may take its time, use the pool, panic, or drop the pool: workers and callers
//! do not wait for it. What does not fit into the queue is counted, and told as [`WorkerEvent::Missed`] in its place.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};

use crate::error::{BrokenReason, Death};
use crate::ids::WorkerId;
use crate::stats::RetireReason;
use crate::told::caught;

/// Events that may wait for the hook.
const QUEUE: usize = 1024;

/// Something that has happened to a worker of a pool; see [`Builder::on_worker_event`](crate::Builder::on_worker_event).
///
/// A process that has been `Spawned` ends with exactly one of `Exited` and `Died`; in between it becomes `Ready` unless it
/// dies before.
///
/// ```
/// use pool_core::WorkerEvent;
///
/// fn log(event: &WorkerEvent) -> String {
///     match event {
///         WorkerEvent::Ready { worker, pid, after, .. } => format!("worker {worker} (pid {pid}) ready after {after:.1?}"),
///         WorkerEvent::Died(death) => death.to_string(),
///         WorkerEvent::Broken(reason) => format!("pool broken: {reason}"),
///         other => format!("{other:?}"),
///     }
/// }
/// # let _ = log;
/// ```
///
/// # Tracing
/// The same and more is told through the [`tracing`](https://docs.rs/tracing) crate, whoever collects it. Everything is inside
/// a span `pool` (level DEBUG) with the field `pool`, its name. Messages, targets and the fields in this table stay as they are;
/// there may be more. A field in parentheses is left out where it has no value.
///
/// | message | target | level | fields |
/// |---|---|---|---|
/// | pool broken | `pool_core::pool` | ERROR | `pool` `reason` |
/// | pool drained | `pool_core::pool` | DEBUG | `pool` |
/// | worker spawned | `pool_core::worker` | DEBUG | `pool` `worker` `generation` `pid` |
/// | worker not spawned | `pool_core::worker` | WARN | `pool` `worker` `generation` `reason` |
/// | worker ready | `pool_core::worker` | DEBUG | `pool` `worker` `generation` `pid` `after_us` |
/// | worker killed | `pool_core::worker` | DEBUG | `pool` `worker` `generation` `pid` `reason` |
/// | worker retiring | `pool_core::worker` | DEBUG | `pool` `worker` `generation` `pid` `reason` |
/// | worker exited | `pool_core::worker` | DEBUG | `pool` `worker` `generation` `pid` |
/// | worker died | `pool_core::worker` | WARN | `pool` `worker` `generation` `pid` `cause` (`task`) (`name`) (`ran_for_us`) |
/// | task submitted | `pool_core::task` | TRACE | `pool` `task` `count` `name` |
/// | task refused | `pool_core::task` | TRACE | `pool` `count` `name` `reason` |
/// | task sent | `pool_core::task` | TRACE | `pool` `task` `count` `worker` `generation` `pid` `attempt` |
/// | task ended | `pool_core::task` | TRACE | `pool` `task` `count` (`reason`) |
///
/// `worker` is the place in the pool, `generation` the number of the process there. `task` is the number of a task, and
/// `count` says how many tasks with consecutive numbers, from that one on, it is about. Times are in microseconds. `reason` of a
/// task that has ended says why it has no result, that of a worker that retires is the [`RetireReason`] in lower case. A worker that the pool kills to end itself *died*, too.
///
/// They are told while the pool is locked: a subscriber must not use the pool, and the slower it is, the slower is the pool.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// A process has been started.
    #[non_exhaustive]
    Spawned {
        /// Its place in the pool.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// A process could not be started.
    #[non_exhaustive]
    NotSpawned {
        /// The place in the pool.
        worker: WorkerId,
        /// What the operating system said.
        why: String,
    },
    /// A worker can be given tasks.
    #[non_exhaustive]
    Ready {
        /// Its place in the pool.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
        /// How long that took, from the beginning of its start.
        after: Duration,
    },
    /// A worker has been asked to exit.
    #[non_exhaustive]
    Retiring {
        /// Its place in the pool.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
        /// Why.
        reason: RetireReason,
    },
    /// A worker has exited because it was asked to.
    #[non_exhaustive]
    Exited {
        /// Its place in the pool.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// A worker has died, whoever killed it.
    Died(Box<Death>),
    /// The pool has given up.
    Broken(Arc<BrokenReason>),
    /// The function that is told was so slow that these many events were left out here.
    #[non_exhaustive]
    Missed {
        /// How many.
        count: u64,
    },
}

/// Who is told.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn(&WorkerEvent) + Send + Sync>);

impl Hook {
    pub(crate) fn new(function: impl Fn(&WorkerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    fn call(&self, event: &WorkerEvent) {
        if caught(|| (self.0)(event)).is_none() {
            // The panic hook has shown it; nobody else is harmed.
            tracing::error!("an on_worker_event callback panicked");
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook(..)")
    }
}

/// The way to the hook's thread, which ends when this is dropped and what was queued has been told.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Sender<WorkerEvent>,
    done: Receiver<()>,
    thread: ThreadId,
    missed: u64,
}

impl Events {
    /// Starts the thread.
    pub(crate) fn start(pool: &str, hook: Hook) -> io::Result<Self> {
        let (queue, events) = crossbeam_channel::bounded::<WorkerEvent>(QUEUE);
        let (ended, done) = crossbeam_channel::bounded::<()>(0);
        let thread = thread::Builder::new().name(format!("{pool}-events")).spawn(move || {
            for event in events {
                hook.call(&event);
            }
            drop(ended);
        })?;
        Ok(Self { queue, done, thread: thread.thread().id(), missed: 0 })
    }

    /// Queues an event; it does not wait.
    pub(crate) fn tell(&mut self, event: WorkerEvent) {
        if self.missed > 0 && self.queue.try_send(WorkerEvent::Missed { count: self.missed }).is_ok() {
            self.missed = 0;
        }
        // Not before the gap has been told.
        if self.missed > 0 || matches!(self.queue.try_send(event), Err(TrySendError::Full(_))) {
            self.missed += 1;
        }
    }

    /// Waits until everything has been told, for at most `patience`.
    pub(crate) fn finish(self, pool: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        if self.thread == thread::current().id() {
            // The hook itself ends the pool.
            return;
        }
        let told = self.missed == 0
            || self.queue.send_deadline(WorkerEvent::Missed { count: self.missed }, deadline).is_ok();
        drop(self.queue);
        // Nothing is ever sent: the channel ends when the thread does.
        if !told || self.done.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(pool, "the on_worker_event callback is still busy; the pool does not wait for it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn spawned(pid: u32) -> WorkerEvent {
        WorkerEvent::Spawned { worker: WorkerId::new(0), pid }
    }

    #[test]
    fn a_slow_hook_misses_events_and_is_told_how_many() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (begun, waits) = crossbeam_channel::bounded(1);
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        let hook = {
            let told = Arc::clone(&told);
            Hook::new(move |event| {
                if matches!(event, WorkerEvent::Spawned { pid: 0, .. }) {
                    begun.send(()).expect("the test waits");
                    assert!(released.recv().is_err(), "only dropped");
                }
                told.lock().expect("no panic").push(event.clone());
            })
        };
        let mut events = Events::start("test", hook).expect("a thread");
        events.tell(spawned(0));
        waits.recv().expect("the hook runs");
        let more = QUEUE as u32 + 5;
        (1..=more).for_each(|pid| events.tell(spawned(pid)));
        assert_eq!(events.missed, 5);
        drop(release);
        events.finish("test", PATIENCE);
        let told = told.lock().expect("no panic");
        assert_eq!(told.len(), QUEUE + 2);
        assert!(matches!(told.last(), Some(WorkerEvent::Missed { count: 5 })), "{:?}", told.last());
    }

    #[test]
    fn a_panicking_hook_is_called_again() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let hook = {
            let told = Arc::clone(&told);
            Hook::new(move |event| {
                let WorkerEvent::Spawned { pid, .. } = event else { return };
                told.lock().expect("not held in a panic").push(*pid);
                assert_ne!(*pid, 1, "on purpose");
            })
        };
        let mut events = Events::start("test", hook).expect("a thread");
        (1..=3).for_each(|pid| events.tell(spawned(pid)));
        events.finish("test", PATIENCE);
        assert_eq!(*told.lock().expect("released"), [1, 2, 3]);
    }
}
