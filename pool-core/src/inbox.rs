//! Where the outcomes of a batch are collected for the one thread that takes them.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::job::Run;
use crate::outcome::{Outcome, Results, Watched};
use crate::supervisor::lead::Wait;
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard, now};

/// A batch looks at its results when so many bytes of them are still in the memory of workers, which can then be used again.
const LENT: usize = 1 << 20;

/// The outcome of consecutive items of a batch.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) run: Run,
    pub(crate) count: u32,
    pub(crate) outcome: Outcome,
}

/// Where the outcomes of a batch are collected for the thread that takes them.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    ready: Condvar,
    /// Whether there are outcomes; changed under the lock, and read without it.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct InboxState {
    outcomes: Vec<Landed>,
    /// Items in `outcomes`.
    count: usize,
    /// Bytes of them in memory of workers.
    lent: usize,
    /// An outcome is an error, so that it should be looked at now.
    urgent: bool,
    /// The thread waits for this many; 0: it does not wait.
    wanted: usize,
    /// It sleeps until then, and nobody but us wakes it.
    following: bool,
}

impl InboxState {
    fn is_over(&self) -> bool {
        self.urgent || self.count >= self.wanted || self.lent >= LENT
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(InboxState::default()), ready: Condvar::new(), any: AtomicBool::new(false) }
    }

    pub(crate) fn push(&self, run: Run, count: u32, outcome: Outcome) {
        let mut state = self.lock();
        state.urgent |= outcome.is_err();
        state.count += count as usize;
        if let Ok(Results::One(reply)) = &outcome {
            state.lent += reply.lent();
        }
        state.outcomes.push(Landed { run, count, outcome });
        self.any.store(true, Ordering::Relaxed);
        if state.following && state.is_over() {
            state.following = false;
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Says how many outcomes to wait for; an error is always enough.
    pub(crate) fn want(&self, wanted: usize) {
        self.lock().wanted = wanted;
    }

    /// Whether any outcome has come. It costs no lock, and may be a moment late.
    pub(crate) fn has_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Exchanges an empty buffer for the outcomes that have come.
    pub(crate) fn take(&self, mut buffer: Vec<Landed>) -> Vec<Landed> {
        buffer.clear();
        let mut state = self.lock();
        (state.urgent, state.count, state.lent) = (false, 0, 0);
        self.any.store(false, Ordering::Relaxed);
        std::mem::replace(&mut state.outcomes, buffer)
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait for Inbox {
    fn is_over(&self) -> bool {
        self.lock().is_over()
    }

    fn is_bulk(&self) -> bool {
        self.lock().wanted > 1
    }

    fn follow(&self, watched: &Watched, heed: impl FnOnce(), deadline: Option<Instant>) {
        watched.add();
        heed();
        let mut state = self.lock();
        state.following = !state.is_over();
        wait_while(&self.ready, state, |state| state.following && !state.is_over(), deadline);
        self.lock().following = false;
        watched.remove();
    }
}

/// Waits until the condition is false, or the deadline has come.
fn wait_while<T>(
    condvar: &Condvar,
    guard: MutexGuard<'_, T>,
    condition: impl FnMut(&mut T) -> bool,
    deadline: Option<Instant>,
) {
    match deadline {
        None => drop(condvar.wait_while(guard, condition).unwrap_or_else(PoisonError::into_inner)),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(now());
            drop(condvar.wait_timeout_while(guard, left, condition).unwrap_or_else(PoisonError::into_inner));
        }
    }
}
