//! The pool as its users hold it.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::builder::Builder;
use crate::call::{CallOptions, IntoCall};
use crate::error::{MapError, TaskError};
use crate::exit_values::ExitValue;
use crate::flow::QueueFull;
use crate::gate::Place;
use crate::handle::TaskHandle;
use crate::imap::{Imap, ImapUnordered};
use crate::insights::Insights;
use crate::outcome::{Cell, Results};
use crate::policy::bounded;
use crate::stats::{Stats, WorkerInfo, WorkerStatus};
#[cfg(feature = "durable")]
use crate::stored::single::{Wanted, make};
use crate::supervisor::engine::Engine;
use crate::supervisor::event::{Event, TaskSpec};
use crate::supervisor::shared::Shared;
use crate::supervisor::slot::Phase;

/// How long a dropped or terminated pool waits for its killed workers to be gone. SIGKILL is prompt; only a process that
/// is stuck inside the kernel takes longer.
const REAP_PATIENCE: Duration = Duration::from_secs(10);
/// How long the last output of workers is waited for while this program's own output is blocked.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);

/// A pool of worker processes.
///
/// Cheap to clone; all clones are the same pool. When the last one is dropped the pool is terminated: its workers are
/// killed, and handles that are still open get [`TaskError::PoolClosed`].
///
/// ```no_run
/// use pool_core::{Pool, task};
///
/// #[task]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     pool_core::init(); // a launched worker never returns from here
///     let pool = Pool::builder().workers(2).build()?;
///     let one = pool.apply_async(square(7));
///     let all = pool.map(square, 0..1000)?;
///     assert_eq!(one.get()?, 49);
///     assert_eq!(all[999], 998_001);
///     Ok(())
/// }
/// ```
///
/// # After a fork
/// A pool belongs to the process that built it. In a forked child every task ends with [`TaskError::Forked`], the counters are
/// zero, and dropping the pool does nothing.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

/// What a panic leaves half done is the caller's: the pool cancels what it had in flight for it, and goes on.
impl UnwindSafe for Pool {}

/// As for [`UnwindSafe`].
impl RefUnwindSafe for Pool {}

/// What the clones of a pool share.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    reactor: Mutex<Option<JoinHandle<()>>>,
    reactor_id: ThreadId,
    pub(crate) prefetch: usize,
    pub(crate) task_timeout: Option<Duration>,
}

/// What the state machine needs to know of a call.
pub(crate) fn spec_of(
    options: Option<&CallOptions>,
    size: usize,
    default_limit: Option<Duration>,
) -> TaskSpec {
    TaskSpec {
        count: 1,
        chunk: 0,
        limit: options.and_then(|options| options.timeout).or(default_limit).map(bounded),
        retries: options.and_then(|options| options.retries).unwrap_or(0),
        retry_on: options.and_then(|options| options.retry_on).unwrap_or_default(),
        group: None,
        priority: options.and_then(|options| options.priority).unwrap_or(0),
        piece: None,
        size,
    }
}

impl Pool {
    /// A builder with the default settings.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn assemble(
        shared: Arc<Shared>,
        reactor: JoinHandle<()>,
        prefetch: usize,
        task_timeout: Option<Duration>,
    ) -> Self {
        let reactor_id = reactor.thread().id();
        let reactor = Mutex::new(Some(reactor));
        Self { inner: Arc::new(Inner { shared, reactor, reactor_id, prefetch, task_timeout }) }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// The name of the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.shared.name
    }

    /// Runs one task, and waits for its result.
    ///
    /// # Errors
    /// Why there is no result; see [`TaskError`]. Other tasks are not affected by its failure.
    pub fn apply<C: IntoCall>(&self, call: C) -> Result<C::Output, TaskError> {
        let shared = &self.inner.shared;
        let place = self.enter();
        let call = call.into_call();
        if call.is_stored() {
            // Its thread waits for the task, and looks into the store before: it should not have the lead meanwhile.
            return self.submit(call, false, place).get();
        }
        // Before the task is submitted: so its worker need not wake anybody when it is done.
        let leader = if shared.origin.is_elsewhere() { None } else { shared.try_lead() };
        let handle = self.submit(call, leader.is_some(), place);
        handle.get_leading(leader)
    }

    /// Submits one task, and returns its handle at once, unless there is a [`queue_limit`](Builder::queue_limit) and the queue
    /// is full: then it waits for a place.
    ///
    /// The failure of a task is its own: whatever it does to its worker, other tasks get their results. A task that the
    /// pool refuses (closed, broken, arguments that cannot be encoded) has its error in the handle.
    pub fn apply_async<C: IntoCall>(&self, call: C) -> TaskHandle<C::Output> {
        self.submit(call, false, self.enter())
    }

    /// As [`apply_async`](Self::apply_async), but never waits.
    ///
    /// # Errors
    /// [`QueueFull`], with the call, when as many tasks wait as [`Builder::queue_limit`] allows.
    pub fn try_apply_async<C: IntoCall>(&self, call: C) -> Result<TaskHandle<C::Output>, QueueFull<C>> {
        let shared = &self.inner.shared;
        if !shared.gate.is_limited() || shared.origin.is_elsewhere() {
            return Ok(self.submit(call, false, None));
        }
        let place = shared.gate.try_enter().or_else(|| {
            // Some may have ended without anybody having read it.
            shared.with(|engine, _| engine.glance());
            shared.gate.try_enter()
        });
        match place {
            Some(place) => Ok(self.submit(call, false, Some(place))),
            None => Err(QueueFull(call)),
        }
    }

    /// Waits for a place in the queue, if it is bounded.
    fn enter(&self) -> Option<Place<'_>> {
        let shared = &self.inner.shared;
        (shared.gate.is_limited() && !shared.origin.is_elsewhere()).then(|| shared.gate.enter(shared))
    }

    /// `leading`: the caller has the lead, and is going to wait for this task.
    fn submit<C: IntoCall>(&self, call: C, leading: bool, place: Option<Place<'_>>) -> TaskHandle<C::Output> {
        let parts = call.into_call().into_parts();
        let shared = &self.inner.shared;
        let task = parts.entry.name;
        let handle = |cell, key| TaskHandle::new(cell, key, Arc::clone(shared), task, parts.decode);
        let refused = |error| handle(Arc::new(Cell::refused(parts.entry, error)), None);
        if shared.origin.is_elsewhere() {
            return refused(TaskError::Forked);
        }
        let args = match parts.args {
            Ok(args) => args,
            Err(message) => {
                return refused(TaskError::Encode { task: task.to_owned(), message: message.into() });
            }
        };
        let spec = spec_of(parts.options.as_deref(), args.len(), self.inner.task_timeout);
        #[cfg(feature = "durable")]
        let (name, store) = parts.options.map_or((None, None), |options| (options.name, options.store));
        #[cfg(feature = "durable")]
        if let Some(store) = store {
            let wanted = Wanted { store, entry: parts.entry, args, spec, name, decode: parts.decode };
            let (cell, pending) = make(shared, wanted, place);
            return handle(cell, None).stored(pending);
        }
        #[cfg(not(feature = "durable"))]
        let name = parts.options.and_then(|options| options.name);
        let cell = shared.cells.make(parts.entry, args, name);
        let key = shared.submit(&cell, spec, leading, place);
        handle(cell, key)
    }

    /// Many calls at once, with options: see [`Batch`].
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(&self.inner)
    }

    /// Runs a task for every item, and returns all results in the order of the items; the first failure aborts.
    ///
    /// `f` runs here and makes the calls: the task function itself, or a closure such as `|p| resize(p, 640, 480)`. Items
    /// are pulled as workers become free, so the input may be longer than memory. An `Err` that the task function
    /// returns is a value, not a failure.
    ///
    /// # Errors
    /// [`MapError`] with the first failure, at once: queued items are dropped, running ones cancelled as by
    /// [`TaskHandle::cancel`]. Other tasks of the pool are not affected.
    ///
    /// # Panics
    /// Only when `f`, the input iterator or the decoding of a result panics; the items in flight are cancelled, and the pool is not
    /// affected.
    pub fn map<F, I, C>(&self, f: F, items: I) -> Result<Vec<C::Output>, MapError>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        self.batch().map(f, items)
    }

    /// As [`map`](Self::map), in the order in which the tasks end.
    ///
    /// # Errors
    /// Those of [`map`](Self::map).
    ///
    /// # Panics
    /// Only when `f`, the input iterator or the decoding of a result panics; the items in flight are cancelled, and the pool is not
    /// affected.
    pub fn map_unordered<F, I, C>(&self, f: F, items: I) -> Result<Vec<C::Output>, MapError>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        self.batch().map_unordered(f, items)
    }

    /// A lazy iterator: runs a task for every item, and gives the results in the order of the items.
    ///
    /// Both ends are bounded: items are pulled only as results are taken, so the input may be endless. The first failure
    /// is the last thing that the iterator gives; [`Batch::on_failure`] changes that. See [`Imap`].
    pub fn imap<F, I, C>(&self, f: F, items: I) -> Imap<F, I::IntoIter, C::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        self.batch().imap(f, items)
    }

    /// As [`imap`](Self::imap), in the order in which the tasks end.
    pub fn imap_unordered<F, I, C>(&self, f: F, items: I) -> ImapUnordered<F, I::IntoIter, C::Output>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        self.batch().imap_unordered(f, items)
    }

    /// Runs a task for every item, and returns every item's own outcome, in the order of the items.
    ///
    /// A failure concerns its item only. As with [`map`](Self::map), `f` makes the calls and items are pulled as workers
    /// become free.
    ///
    /// # Panics
    /// Only when `f`, the input iterator or the decoding of a result panics; the items in flight are cancelled, and the pool is not
    /// affected.
    pub fn map_settled<F, I, C>(&self, f: F, items: I) -> Vec<Result<C::Output, TaskError>>
    where
        I: IntoIterator,
        F: FnMut(I::Item) -> C,
        C: IntoCall,
    {
        self.batch().map_settled(f, items)
    }

    /// The pool's counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        if shared.origin.is_elsewhere() {
            return Stats::default();
        }
        // Results that nobody waits for are read late.
        shared.with(|engine, _| engine.glance());
        shared.look(|engine| {
            let counters = engine.machine.counters();
            let ready = |slot: &&crate::supervisor::slot::Slot| slot.active().is_some();
            Stats {
                submitted: counters.submitted,
                succeeded: counters.succeeded,
                failed: counters.failed,
                cancelled: counters.cancelled,
                timed_out: counters.timed_out,
                overdue: counters.overdue,
                retried: counters.retried,
                requeued: counters.requeued,
                taken_back: counters.taken_back,
                pending: engine.machine.pending(),
                workers_ready: engine.machine.slots().iter().filter(ready).count(),
                spawned: counters.spawned,
                deaths: engine.deaths,
                retired: counters.retired,
            }
        })
    }

    /// Where the time of the pool has gone: a table, when it is printed.
    ///
    /// With [`Builder::insights`] it says how long tasks wait and run, too, and shows the arguments of the longest ones: for that,
    /// they are decoded here, and their [`Debug`](std::fmt::Debug) is called, on the calling thread. A panic of those is caught,
    /// after the program's panic hook has told of it.
    #[must_use]
    pub fn insights(&self) -> Insights {
        let shared = &self.inner.shared;
        if shared.origin.is_elsewhere() {
            return Insights::none();
        }
        // First, because it has results read that nobody waits for.
        let stats = self.stats();
        Insights::new(shared.look(Engine::survey), stats)
    }

    /// A snapshot of every worker.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let shared = &self.inner.shared;
        if shared.origin.is_elsewhere() {
            return Vec::new();
        }
        let mut workers = shared.look(|engine| {
            let describe = |(index, slot): (usize, &crate::supervisor::slot::Slot)| {
                let glimpse = engine.look(index);
                let status = match &slot.phase {
                    Phase::Waiting { .. } => WorkerStatus::BackingOff,
                    Phase::Starting { .. } | Phase::Ready(_) if slot.preparing.is_some() => {
                        WorkerStatus::Preparing
                    }
                    Phase::Starting { .. } => WorkerStatus::Starting,
                    Phase::Ready(ready) if ready.hand.is_empty() && !slot.active => WorkerStatus::Spare,
                    Phase::Ready(ready) if ready.hand.is_empty() => WorkerStatus::Idle,
                    Phase::Ready(_) => WorkerStatus::Busy,
                    Phase::Dying { .. } => WorkerStatus::Dying,
                    Phase::Retiring { .. } => WorkerStatus::Retiring,
                    Phase::Stopped => WorkerStatus::Stopped,
                };
                WorkerInfo {
                    worker: slot.worker,
                    status,
                    pid: glimpse.as_ref().map(|glimpse| glimpse.pid),
                    held: engine.machine.load(index),
                    finished: glimpse.as_ref().map_or(0, |glimpse| glimpse.finished),
                    task: glimpse.and_then(|glimpse| glimpse.running),
                    rss: None,
                }
            };
            // A vacant place is no worker, unless the pool is at its end.
            let open = engine.machine.is_open();
            let there = |slot: &crate::supervisor::slot::Slot| !open || !matches!(slot.phase, Phase::Stopped);
            let slots = engine.machine.slots().iter().enumerate().filter(|(_, slot)| there(slot));
            slots.map(describe).collect::<Vec<_>>()
        });
        for worker in &mut workers {
            worker.rss = worker.pid.and_then(crate::memory::resident).map(|(rss, _)| rss);
        }
        workers
    }

    /// The exit values of a state, by the name of its type.
    pub(crate) fn exits_of(&self, state: &str) -> Vec<ExitValue<Vec<u8>>> {
        let shared = &self.inner.shared;
        if shared.origin.is_elsewhere() {
            return Vec::new();
        }
        shared.look(|engine| engine.exits.of(state))
    }

    /// Takes no more tasks. What was submitted runs to its end; then the workers exit.
    pub fn close(&self) {
        self.tell(Event::Close);
    }

    /// Closes the pool, and waits until every task has ended and every worker is gone.
    ///
    /// It waits for as long as the tasks take; [`shutdown`](Self::shutdown) has a limit. Not to be called from a task's waker.
    pub fn join(&self) {
        if self.inner.shared.origin.is_elsewhere() {
            return;
        }
        self.close();
        self.inner.shared.wait_gone(None);
        self.inner.finish_storing(None);
        self.inner.flush();
    }

    /// Closes the pool, waits for its tasks, for at most `grace`, and terminates what is left. Tells whether every task
    /// had ended in time.
    pub fn shutdown(&self, grace: Duration) -> bool {
        if self.inner.shared.origin.is_elsewhere() {
            return false;
        }
        self.close();
        let in_time = self.inner.shared.wait_gone(Instant::now().checked_add(grace));
        if in_time {
            // What has run is stored, however long that takes beyond the limit of the tasks.
            self.inner.finish_storing(Some(Instant::now() + REAP_PATIENCE));
            self.inner.flush();
        } else {
            self.terminate();
        }
        in_time
    }

    /// Kills all workers now. Every task that has not ended gets [`TaskError::PoolClosed`].
    ///
    /// Returns when the workers are gone.
    pub fn terminate(&self) {
        if !self.inner.shared.origin.is_elsewhere() {
            self.inner.terminate();
        }
    }

    fn tell(&self, event: Event<Results>) {
        let shared = &self.inner.shared;
        if !shared.origin.is_elsewhere() {
            shared.with(|engine, now| engine.machine.on(now, event));
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name())
            .field("workers", &self.inner.shared.size())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn terminate(&self) {
        self.shared.with(|engine, now| engine.machine.on(now, Event::Terminate));
        if std::thread::current().id() == self.reactor_id {
            // Called from a waker, on the very thread that would have to do what is waited for.
            return;
        }
        if !self.shared.wait_gone(Some(Instant::now() + REAP_PATIENCE)) {
            tracing::error!(
                pool = self.shared.name,
                "killed workers are still not gone: are they stuck in the kernel?"
            );
            return;
        }
        self.finish_storing(Some(Instant::now() + REAP_PATIENCE));
        self.flush();
        let reactor = self.reactor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reactor) = reactor {
            // It catches its own panics.
            let _ = reactor.join();
        }
    }

    /// Waits until the results of single calls that are to be stored have been written.
    fn finish_storing(&self, deadline: Option<Instant>) {
        #[cfg(feature = "durable")]
        if !self.shared.keeper.finish(&self.shared, deadline) {
            tracing::error!(pool = self.shared.name, "results are still being written to a store");
        }
        #[cfg(not(feature = "durable"))]
        let _ = deadline;
    }

    fn flush(&self) {
        let (mut forwarder, events) =
            self.shared.with(|engine, _| (engine.take_forwarder(), engine.take_events()));
        forwarder.finish(OUTPUT_PATIENCE);
        if let Some(events) = events {
            events.finish(&self.shared.name, OUTPUT_PATIENCE);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.shared.origin.is_elsewhere() {
            // Everything behind it belongs to the parent process, locks that may be held for ever included.
            std::mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.terminate();
    }
}
