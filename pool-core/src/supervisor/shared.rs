//! What a pool's handles, its callers and its reactor share.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Instant;

use nix::sys::epoll::Epoll;
use nix::sys::eventfd::EventFd;

use crate::callbacks::Callbacks;
use crate::fork::Origin;
use crate::gate::{Gate, Place};
use crate::job::{Job, Settled, Sink};
use crate::outcome::{self, Callback, Cell, Cells, Foreign};
use crate::supervisor::engine::Engine;
use crate::supervisor::engine::bells::Leading;
use crate::supervisor::event::{Event, TaskKey, TaskSpec};
use crate::supervisor::launch::Launcher;
use crate::supervisor::lead::Lead;
use crate::sync::{AtomicUsize, Condvar, Mutex, MutexGuard, now, ready};

/// A buffer between two uses is no larger than this.
const MOST_SPARE: usize = 1024;
/// How often the lock is tried before the thread sleeps for it: some ten microseconds.
const LOCK_TRIES: u32 = if cfg!(pool_loom) { 0 } else { 100 };

/// The one object behind every handle of a pool.
#[derive(Debug)]
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    /// Threads that want the lock and have not got it at once.
    contenders: AtomicUsize,
    pub(crate) lead: Arc<Lead>,
    /// A buffer for outcomes that are to be delivered, between two uses.
    spare: Mutex<Vec<Settled>>,
    pub(crate) cells: Cells,
    pub(crate) gate: Gate,
    /// Notified when everything has ended and every process is gone.
    gone: Condvar,
    wake: Arc<EventFd>,
    pub(crate) epoll: Arc<Epoll>,
    pub(crate) origin: Origin,
    pub(crate) name: String,
    /// How many tasks may run at a time.
    size: AtomicUsize,
    pub(crate) launcher: Launcher,
    callbacks: Callbacks,
    /// Looks after single calls whose results are stored.
    #[cfg(feature = "durable")]
    pub(crate) keeper: crate::stored::single::Keeper,
}

impl Shared {
    pub(crate) fn new(
        engine: Engine,
        wake: Arc<EventFd>,
        epoll: Arc<Epoll>,
        name: String,
        size: usize,
        launcher: Launcher,
        gate: Gate,
    ) -> Self {
        Self {
            lead: Arc::clone(&engine.lead),
            engine: Mutex::new(engine),
            contenders: AtomicUsize::new(0),
            spare: Mutex::default(),
            cells: Cells::default(),
            gate,
            gone: Condvar::new(),
            wake,
            epoll,
            origin: Origin::here(),
            name,
            size: AtomicUsize::new(size),
            launcher,
            callbacks: Callbacks::default(),
            #[cfg(feature = "durable")]
            keeper: crate::stored::single::Keeper::default(),
        }
    }

    /// How many tasks may run at a time.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// From now on so many tasks may run at a time.
    pub(crate) fn resize(&self, workers: u32) {
        self.with(|engine, now| {
            // Under the lock: so the last of several calls is the last for both.
            self.size.store(workers as usize, Ordering::Relaxed);
            engine.machine.on(now, Event::Resize(workers));
        });
    }

    /// Does something with the engine, carries out what follows from it, and then, without the lock, tells everybody
    /// whose task has ended.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Engine, Instant) -> T) -> T {
        let mut engine = self.lock();
        let now = now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let result = work(&mut engine, now);
            engine.run(now);
            result
        }));
        if result.is_err() {
            // A fault of ours. No caller may wait for ever because of it.
            engine.fault(now, "a panic in the supervisor");
        }
        let aside = !engine.settled.is_empty() && self.lead.watched.any_foreign();
        if aside {
            // Foreign code may come next, which may take long, or wait for this very pool: meanwhile somebody else reads.
            engine.step_aside();
            engine.run(now);
        }
        let mut settled = match engine.settled.is_empty() {
            true => Vec::new(),
            false => std::mem::replace(&mut engine.settled, self.spare_settled()),
        };
        let wake = std::mem::take(&mut engine.needs_reactor);
        let gate_moves = self.gate.is_limited() && self.gate.adjust(self.size(), engine.machine.is_open());
        if engine.is_gone() {
            self.gone.notify_all();
        }
        drop(engine);
        if wake {
            self.wake();
        }
        if gate_moves {
            self.lead.kick();
        }
        if !settled.is_empty() {
            if self.gate.is_limited() {
                self.gate.leave(settled.iter().filter(|ended| matches!(ended.sink, Sink::Handle(_))).count());
                // The leader may wait for a place, and foreign code may come next.
                self.lead.kick();
            }
            let mut wakers = Vec::new();
            for ended in settled.drain(..) {
                wakers.append(&mut self.settle(ended));
            }
            self.lead.kick();
            if let Ok(mut spare) = self.spare.try_lock() {
                *spare = settled;
            }
            if !wakers.is_empty() {
                // The first one may wait for the task that ended last.
                if !aside {
                    self.step_aside();
                }
                outcome::wake(wakers);
            }
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// An empty buffer that was used before, if there is one.
    fn spare_settled(&self) -> Vec<Settled> {
        let mut spare = match self.spare.try_lock() {
            Ok(mut spare) => std::mem::take(&mut *spare),
            Err(_) => return Vec::new(),
        };
        spare.shrink_to(MOST_SPARE);
        spare
    }

    /// Submits a single task, and hands it out. `leading`: the caller has the lead, and is going to wait for this task.
    pub(crate) fn submit(
        &self,
        cell: &Arc<Cell>,
        spec: TaskSpec,
        leading: bool,
        place: Option<Place<'_>>,
    ) -> Option<TaskKey> {
        let job = Job::Single(Arc::clone(cell));
        if let Some(place) = place {
            place.keep();
        }
        self.with(|engine, now| {
            if leading {
                engine.lead(Some(Leading::Awake));
            }
            let key = engine.submit(now, spec, job);
            engine.hand_out(now, true);
            key
        })
    }

    /// Looks at the engine without changing it.
    pub(crate) fn look<T>(&self, view: impl FnOnce(&Engine) -> T) -> T {
        view(&self.lock())
    }

    /// Somebody has come to be woken since this thread has looked whether there was anybody.
    fn step_aside(&self) {
        self.with(|engine, _| engine.step_aside());
    }

    /// Tells whoever waits for a task how it ended.
    pub(crate) fn deliver(&self, ended: Settled) {
        outcome::wake(self.settle(ended));
    }

    /// As [`deliver`](Self::deliver), but for the wakers, which are left.
    fn settle(&self, ended: Settled) -> Vec<Waker> {
        let Settled { sink, count, outcome } = ended;
        match sink {
            Sink::Handle(cell) => {
                let Foreign { wakers, callbacks } = cell.settle(outcome, &self.lead.watched);
                self.call_back(&cell, callbacks);
                wakers
            }
            Sink::Batch(inbox, run) => {
                inbox.push(run, count, outcome);
                Vec::new()
            }
        }
    }

    /// Runs callbacks on their own thread.
    pub(crate) fn call_back(&self, cell: &Arc<Cell>, callbacks: Vec<Callback>) {
        self.callbacks
            .run(&self.name, callbacks.into_iter().map(|callback| (callback, Arc::clone(cell))).collect());
    }

    /// Wakes the reactor.
    pub(crate) fn wake(&self) {
        // EAGAIN: the counter is full, so the reactor is being woken anyway.
        if let Err(error) = ready::tell(|| self.wake.write(1))
            && error != nix::errno::Errno::EAGAIN
        {
            tracing::error!(pool = self.name, %error, "cannot wake the reactor");
        }
    }

    /// Takes the wake-up that the reactor has been sent.
    pub(crate) fn woken(&self) {
        // EAGAIN: somebody else has read it.
        let _ = self.wake.read();
    }

    /// Waits until everything has ended and every process is gone, until `deadline` if there is one.
    pub(crate) fn wait_gone(&self, deadline: Option<Instant>) -> bool {
        let mut engine = self.lock();
        while !engine.is_gone() {
            engine = match deadline {
                None => self.gone.wait(engine).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(now());
                    if left.is_zero() {
                        return false;
                    }
                    self.gone.wait_timeout(engine, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// Whether somebody else waits for the lock: the leader, which holds it while it spins, lets them in.
    pub(crate) fn is_contended(&self) -> bool {
        self.contenders.load(Ordering::Relaxed) > 0
    }

    /// The lock is held for microseconds at most, so that it is worth to wait for it awake. A thread that comes again and
    /// again does not overtake those that wait.
    fn lock(&self) -> MutexGuard<'_, Engine> {
        if !self.is_contended()
            && let Some(engine) = self.try_lock()
        {
            return engine;
        }
        self.contenders.fetch_add(1, Ordering::Relaxed);
        let mut tries = 0..LOCK_TRIES;
        let engine = loop {
            if let Some(engine) = self.try_lock() {
                break engine;
            }
            if tries.next().is_none() {
                break self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            }
            (0..8).for_each(|_| std::hint::spin_loop());
        };
        self.contenders.fetch_sub(1, Ordering::Relaxed);
        engine
    }

    // Panics under the lock are caught in `with`, which leaves the engine broken but consistent.
    fn try_lock(&self) -> Option<MutexGuard<'_, Engine>> {
        match self.engine.try_lock() {
            Ok(engine) => Some(engine),
            Err(TryLockError::Poisoned(engine)) => Some(engine.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
