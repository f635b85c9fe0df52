//! Where the outcome of a task waits for whoever wants it.
//!
//! A [`Cell`] is written once by the supervisor, and read by handles. Whoever waits on it (a thread, a waker, a callback) is
//! told outside of every lock of the pool. An [`Inbox`] collects the outcomes of a batch for the one thread that runs it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::error::TaskError;
use crate::reply::Reply;
use crate::supervisor::lead::Wait;

/// What workers returned, still encoded.
#[derive(Debug)]
pub(crate) enum Results {
    /// The result of one task.
    One(Reply),
    /// The frames with the results of tasks that were handed out together.
    Run(Vec<u8>),
}

/// What a worker returned, or why it did not.
pub(crate) type Outcome = Result<Results, TaskError>;

/// Something to be called when there is an outcome.
pub(crate) type Callback = Box<dyn FnOnce(&Cell) + Send>;

/// A place for one outcome.
pub(crate) struct Cell {
    /// Set after the state, so that looking costs one load.
    settled: AtomicBool,
    state: Mutex<State>,
    ready: Condvar,
}

enum State {
    /// Most tasks are not watched, so that watchers are a thing apart.
    Waiting(Option<Box<Watchers>>),
    /// An error is much larger than most results, and rare.
    Ready(Result<Reply, Box<TaskError>>),
}

// Many tasks may wait, each with a cell.
const _: () = assert!(size_of::<Cell>() <= 56);

/// Who wants to be told at once.
#[derive(Default)]
struct Watchers {
    wakers: Vec<Waker>,
    callbacks: Vec<Callback>,
}

/// How many outcomes somebody wants to be told of at once. While there are none, workers announce results by the many.
#[derive(Debug, Default)]
pub(crate) struct Watched(AtomicUsize);

impl Watched {
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn remove(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Cell {
    pub(crate) fn new() -> Self {
        Self {
            settled: AtomicBool::new(false),
            state: Mutex::new(State::Waiting(None)),
            ready: Condvar::new(),
        }
    }

    /// A cell that has its outcome, an error, from the start.
    pub(crate) fn refused(error: TaskError) -> Self {
        Self {
            settled: AtomicBool::new(true),
            state: Mutex::new(State::Ready(Err(Box::new(error)))),
            ready: Condvar::new(),
        }
    }

    /// Stores the outcome, unless there is one, and wakes who waits.
    ///
    /// Returns what is to be called back.
    pub(crate) fn settle(&self, outcome: Outcome, watched: &Watched) -> Vec<Callback> {
        let mut state = self.lock();
        let State::Waiting(watchers) = &mut *state else { return Vec::new() };
        let watchers = watchers.take();
        *state = State::Ready(match outcome {
            Ok(Results::One(reply)) => Ok(reply),
            // Not for a task that is alone in its unit.
            Ok(Results::Run(frames)) => Ok(Reply::from(pool_ipc::frames(&frames).next().unwrap_or_default())),
            Err(error) => Err(Box::new(error)),
        });
        self.settled.store(true, Ordering::Release);
        drop(state);
        let Some(watchers) = watchers else { return Vec::new() };
        watched.remove();
        self.ready.notify_all();
        for waker in watchers.wakers {
            // A waker is foreign code: should it panic, the others are still woken.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
        }
        watchers.callbacks
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Looks at the result, if there is an outcome.
    pub(crate) fn look<T>(&self, view: impl FnOnce(&Reply) -> T) -> Option<Result<T, TaskError>> {
        match &*self.lock() {
            State::Ready(Ok(reply)) => Some(Ok(view(reply))),
            State::Ready(Err(error)) => Some(Err((**error).clone())),
            State::Waiting(_) => None,
        }
    }

    /// Has a waker told, unless the outcome is there.
    pub(crate) fn poll(&self, waker: &Waker, watched: &Watched) -> Poll<()> {
        self.watch(watched, |watchers| {
            if !watchers.wakers.iter().any(|known| known.will_wake(waker)) {
                watchers.wakers.push(waker.clone());
            }
        })
    }

    /// Registers a callback; gives it back when the outcome is there already.
    pub(crate) fn call_back(&self, callback: Callback, watched: &Watched) -> Option<Callback> {
        let mut callback = Some(callback);
        let registered = self.watch(watched, |watchers| watchers.callbacks.extend(callback.take()));
        debug_assert_eq!(registered.is_pending(), callback.is_none());
        callback
    }

    /// Registers somebody who wants to be told, unless the outcome is there.
    fn watch(&self, watched: &Watched, register: impl FnOnce(&mut Watchers)) -> Poll<()> {
        match &mut *self.lock() {
            State::Ready(_) => Poll::Ready(()),
            State::Waiting(watchers) => {
                if watchers.is_none() {
                    watched.add();
                }
                register(watchers.get_or_insert_default());
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait for Cell {
    fn is_over(&self) -> bool {
        self.is_settled()
    }

    fn is_bulk(&self) -> bool {
        false
    }

    fn follow(&self, watched: &Watched, heed: impl FnOnce(), deadline: Option<Instant>) {
        if self.watch(watched, |_| ()).is_ready() {
            return;
        }
        heed();
        let waiting = |state: &mut State| matches!(state, State::Waiting(_));
        wait_while(&self.ready, self.lock(), waiting, deadline);
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
            let left = deadline.saturating_duration_since(Instant::now());
            drop(condvar.wait_timeout_while(guard, left, condition).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell").field("settled", &self.is_settled()).finish()
    }
}

/// The outcome of items of a batch, from `index` on.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) index: usize,
    pub(crate) count: u32,
    pub(crate) outcome: Outcome,
}

/// Where the outcomes of a batch are collected for the thread that runs it.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct InboxState {
    outcomes: Vec<Landed>,
    /// Items in `outcomes`.
    count: usize,
    /// An outcome is an error, so that it should be looked at now.
    urgent: bool,
    /// The thread waits for this many; 0: it does not wait.
    wanted: usize,
    /// It sleeps until then, and nobody but us wakes it.
    following: bool,
}

impl InboxState {
    fn is_over(&self) -> bool {
        self.urgent || self.count >= self.wanted
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(InboxState::default()), ready: Condvar::new() }
    }

    pub(crate) fn push(&self, index: usize, count: u32, outcome: Outcome) {
        let mut state = self.lock();
        state.urgent |= outcome.is_err();
        state.count += count as usize;
        state.outcomes.push(Landed { index, count, outcome });
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

    /// Exchanges an empty buffer for the outcomes that have come.
    pub(crate) fn take(&self, mut buffer: Vec<Landed>) -> Vec<Landed> {
        buffer.clear();
        let mut state = self.lock();
        (state.urgent, state.count) = (false, 0);
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
        true
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
