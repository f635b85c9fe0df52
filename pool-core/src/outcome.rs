//! Where the outcome of a task waits for whoever wants it.
//!
//! A [`Cell`] is written once by the supervisor, and read by handles. Whoever waits on it (a thread, a waker, a callback) is
//! told outside of every lock of the pool.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::error::TaskError;

/// What a worker returned, still encoded, or why it did not.
pub(crate) type Outcome = Result<Vec<u8>, TaskError>;

/// Something to be called with the outcome.
pub(crate) type Callback = Box<dyn FnOnce(&Outcome) + Send>;

/// A place for one outcome.
pub(crate) struct Cell {
    state: Mutex<State>,
    ready: Condvar,
}

enum State {
    Waiting { wakers: Vec<Waker>, callbacks: Vec<Callback> },
    Ready(Arc<Outcome>),
}

impl Cell {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::Waiting { wakers: Vec::new(), callbacks: Vec::new() }),
            ready: Condvar::new(),
        }
    }

    /// A cell that has its outcome from the start.
    pub(crate) fn settled(outcome: Outcome) -> Self {
        Self { state: Mutex::new(State::Ready(Arc::new(outcome))), ready: Condvar::new() }
    }

    /// Stores the outcome, unless there is one, and wakes who waits. Returns what is to be called back.
    pub(crate) fn settle(&self, outcome: Outcome) -> Vec<(Callback, Arc<Outcome>)> {
        let outcome = Arc::new(outcome);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Ready(_)) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut *state, State::Ready(Arc::clone(&outcome)));
        drop(state);
        self.ready.notify_all();
        let State::Waiting { wakers, callbacks } = before else { return Vec::new() };
        for waker in wakers {
            // A waker is foreign code: should it panic, the others are still woken.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
        }
        callbacks.into_iter().map(|callback| (callback, Arc::clone(&outcome))).collect()
    }

    pub(crate) fn is_settled(&self) -> bool {
        matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Ready(_))
    }

    /// Waits for the outcome, until `deadline` if there is one.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<Arc<Outcome>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let State::Ready(outcome) = &*state {
                return Some(Arc::clone(outcome));
            }
            state = match deadline {
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Arc<Outcome>> {
        match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Ready(outcome) => Poll::Ready(Arc::clone(outcome)),
            State::Waiting { wakers, .. } => {
                if !wakers.iter().any(|known| known.will_wake(waker)) {
                    wakers.push(waker.clone());
                }
                Poll::Pending
            }
        }
    }

    /// Registers a callback; gives it back with the outcome when that is there already.
    pub(crate) fn call_back(&self, callback: Callback) -> Option<(Callback, Arc<Outcome>)> {
        match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Ready(outcome) => Some((callback, Arc::clone(outcome))),
            State::Waiting { callbacks, .. } => {
                callbacks.push(callback);
                None
            }
        }
    }
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell").field("settled", &self.is_settled()).finish()
    }
}

/// Where the outcomes of a batch are collected for the thread that waits for them.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    ready: Condvar,
}

#[derive(Debug)]
struct InboxState {
    outcomes: Vec<(usize, Outcome)>,
    /// The waiting thread is woken when there are this many; 0: nobody waits.
    wanted: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(InboxState { outcomes: Vec::new(), wanted: 0 }), ready: Condvar::new() }
    }

    pub(crate) fn push(&self, index: usize, outcome: Outcome) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let urgent = outcome.is_err();
        state.outcomes.push((index, outcome));
        if state.wanted > 0 && (urgent || state.outcomes.len() >= state.wanted) {
            state.wanted = 0;
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Exchanges an empty buffer for the outcomes that have come; waits for `wanted` of them, or for the first error.
    /// With `wanted` 0 it does not wait.
    pub(crate) fn take(&self, mut buffer: Vec<(usize, Outcome)>, wanted: usize) -> Vec<(usize, Outcome)> {
        buffer.clear();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > 0 && state.outcomes.len() < wanted && !state.outcomes.iter().any(|(_, o)| o.is_err()) {
            state.wanted = wanted;
            while state.wanted != 0 {
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        std::mem::replace(&mut state.outcomes, buffer)
    }
}
