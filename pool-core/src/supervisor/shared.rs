//! What a pool's handles, its callers and its reactor share.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::epoll::Epoll;
use nix::sys::eventfd::EventFd;

use crate::callbacks::Callbacks;
use crate::fork::Origin;
use crate::outcome::Outcome;
use crate::supervisor::engine::{Engine, Sink};
use crate::supervisor::event::Event;
use crate::supervisor::launch::Launcher;

/// The one object behind every handle of a pool.
#[derive(Debug)]
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    /// Notified when everything has ended and every process is gone.
    gone: Condvar,
    wake: Arc<EventFd>,
    pub(crate) epoll: Arc<Epoll>,
    pub(crate) origin: Origin,
    pub(crate) name: String,
    pub(crate) launcher: Launcher,
    callbacks: Callbacks,
}

impl Shared {
    pub(crate) fn new(
        engine: Engine,
        wake: Arc<EventFd>,
        epoll: Arc<Epoll>,
        name: String,
        launcher: Launcher,
    ) -> Self {
        Self {
            engine: Mutex::new(engine),
            gone: Condvar::new(),
            wake,
            epoll,
            origin: Origin::here(),
            name,
            launcher,
            callbacks: Callbacks::default(),
        }
    }

    /// Does something with the engine, carries out what follows from it, and then, without the lock, tells everybody
    /// whose task has ended.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Engine, Instant) -> T) -> T {
        let mut engine = self.lock();
        let now = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let result = work(&mut engine, now);
            engine.run(now);
            result
        }));
        if result.is_err() {
            // A fault of ours. No caller may wait for ever because of it.
            engine.machine.on(now, Event::Fault("a panic in the supervisor".to_owned()));
            engine.run(now);
        }
        let settled = std::mem::take(&mut engine.settled);
        let wake = std::mem::take(&mut engine.needs_reactor);
        if engine.is_gone() {
            self.gone.notify_all();
        }
        drop(engine);
        if wake {
            self.wake();
        }
        for (sink, outcome) in settled {
            self.deliver(sink, outcome);
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Looks at the engine without changing it.
    pub(crate) fn look<T>(&self, view: impl FnOnce(&Engine) -> T) -> T {
        view(&self.lock())
    }

    /// Tells whoever waits for a task how it ended.
    pub(crate) fn deliver(&self, sink: Sink, outcome: Outcome) {
        match sink {
            Sink::Handle(cell) => self.call_back(cell.settle(outcome)),
            Sink::Batch { inbox, index } => inbox.push(index, outcome),
        }
    }

    /// Runs callbacks on their own thread.
    pub(crate) fn call_back(&self, jobs: Vec<(crate::outcome::Callback, Arc<Outcome>)>) {
        self.callbacks.run(&self.name, jobs);
    }

    /// Wakes the reactor.
    pub(crate) fn wake(&self) {
        // EAGAIN: the counter is full, so the reactor is being woken anyway.
        if let Err(error) = self.wake.write(1)
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
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    self.gone.wait_timeout(engine, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        // Panics under the lock are caught in `with`, which leaves the engine broken but consistent.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
