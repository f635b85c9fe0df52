//! Where the outcome of a task waits for whoever wants it.
//!
//! A [`Cell`] is written once by the supervisor, and read by handles. Whoever waits on it (a thread, a waker, a callback) is
//! told outside of every lock of the pool; code of others is run by whoever has settled it, when that has been done.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::buffer::Args;
use crate::error::TaskError;
use crate::reply::Reply;
use crate::supervisor::lead::Wait;
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicUsize, Mutex, MutexGuard, now};
use crate::task::TaskEntry;
use crate::told::caught;
use crate::wait::Tally;

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

/// Code of others that is to be run because of an outcome.
#[derive(Default)]
pub(crate) struct Foreign {
    pub(crate) wakers: Vec<Waker>,
    pub(crate) callbacks: Vec<Callback>,
}

/// Runs wakers. Each may take long, panic, or wait for the pool.
pub(crate) fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        // Should it panic, the others are still woken.
        caught(|| waker.wake());
    }
}

/// A place for one outcome.
pub(crate) struct Cell {
    entry: &'static TaskEntry,
    state: Mutex<State>,
}

enum State {
    Waiting {
        args: Args,
        /// Most tasks have none of it.
        rare: Option<Box<Rare>>,
    },
    /// An error is much larger than most results, and rare.
    Ready(Result<Reply, Box<TaskError>>),
}

// Many tasks may wait, each with a cell.
#[cfg(not(pool_loom))]
const _: () = assert!(size_of::<Cell>() <= 48, "a cell and its two counters fit into 64 bytes");

/// What few tasks have before they have ended.
#[derive(Default)]
struct Rare {
    /// What the task is called in messages, if it is not its own name.
    name: Option<Box<str>>,
    /// Whether somebody wants to be told at once.
    watched: bool,
    wakers: Vec<Waker>,
    threads: Vec<Thread>,
    callbacks: Vec<Callback>,
    /// Who counts outcomes, this one under a number. Whether they want to be told at once is their own business.
    tallies: Vec<(Arc<Tally>, usize)>,
}

impl Rare {
    /// Somebody has left: if it was the last one, nobody wants to be told.
    fn unwatch(&mut self, watched: &Watched) {
        let nobody = self.threads.is_empty() && self.wakers.is_empty() && self.callbacks.is_empty();
        if self.watched && nobody {
            self.watched = false;
            watched.remove();
        }
    }
}

/// How many outcomes somebody wants to be told of at once. While there are none, workers announce results by the many.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    cells: AtomicUsize,
    /// Those for which foreign code is to be run.
    foreign: AtomicUsize,
}

impl Watched {
    pub(crate) fn any(&self) -> bool {
        self.cells.load(Ordering::SeqCst) > 0
    }

    /// Whether any outcome makes foreign code run.
    pub(crate) fn any_foreign(&self) -> bool {
        self.foreign.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn add(&self) {
        self.cells.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn remove(&self) {
        self.cells.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Cell {
    pub(crate) fn new(entry: &'static TaskEntry, args: Args, name: Option<Box<str>>) -> Self {
        let rare = name.map(|name| Box::new(Rare { name: Some(name), ..Rare::default() }));
        Self { entry, state: Mutex::new(State::Waiting { args, rare }) }
    }

    /// A cell that has its outcome, an error, from the start.
    pub(crate) fn refused(entry: &'static TaskEntry, error: TaskError) -> Self {
        Self { entry, state: Mutex::new(State::Ready(Err(Box::new(error)))) }
    }

    /// Stores the outcome, unless there is one, and wakes who waits.
    ///
    /// Returns whom else to tell.
    pub(crate) fn settle(&self, outcome: Outcome, watched: &Watched) -> Foreign {
        let mut state = self.lock();
        let State::Waiting { rare, .. } = &mut *state else { return Foreign::default() };
        let rare = rare.take();
        *state = State::Ready(match outcome {
            Ok(Results::One(reply)) => Ok(reply),
            // Not for a task that is alone in its unit.
            Ok(Results::Run(frames)) => Ok(Reply::from(pool_ipc::frames(&frames).next().unwrap_or_default())),
            Err(error) => Err(Box::new(error)),
        });
        drop(state);
        let Some(rare) = rare else { return Foreign::default() };
        rare.tallies.iter().for_each(|(tally, number)| tally.push(*number));
        if !rare.watched {
            return Foreign::default();
        }
        watched.remove();
        if !rare.wakers.is_empty() {
            watched.foreign.fetch_sub(1, Ordering::SeqCst);
        }
        rare.threads.iter().for_each(Thread::unpark);
        Foreign { wakers: rare.wakers, callbacks: rare.callbacks }
    }

    pub(crate) fn is_settled(&self) -> bool {
        matches!(*self.lock(), State::Ready(_))
    }

    /// Looks at the result, if there is an outcome.
    pub(crate) fn look<T>(&self, view: impl FnOnce(&Reply) -> T) -> Option<Result<T, TaskError>> {
        match &*self.lock() {
            State::Ready(Ok(reply)) => Some(Ok(view(reply))),
            State::Ready(Err(error)) => Some(Err((**error).clone())),
            State::Waiting { .. } => None,
        }
    }

    /// Takes the outcome out, if it is there; whoever looks then finds that the pool has ended.
    #[cfg(feature = "durable")]
    pub(crate) fn take(&self) -> Option<Result<Reply, TaskError>> {
        let mut state = self.lock();
        match &*state {
            State::Waiting { .. } => None,
            State::Ready(_) => {
                match std::mem::replace(&mut *state, State::Ready(Err(Box::new(TaskError::PoolClosed)))) {
                    State::Ready(outcome) => Some(outcome.map_err(|error| *error)),
                    State::Waiting { .. } => None,
                }
            }
        }
    }

    /// Which task it is.
    pub(crate) fn entry(&self) -> &'static TaskEntry {
        self.entry
    }

    /// What the task is called in messages, if it is not its own name. Gone when it has ended.
    pub(crate) fn name(&self) -> Option<String> {
        match &*self.lock() {
            State::Waiting { rare: Some(rare), .. } => rare.name.as_deref().map(str::to_owned),
            _ => None,
        }
    }

    /// Looks at the arguments, which are kept until the task has ended.
    pub(crate) fn with_args<T>(&self, view: impl FnOnce(&Args) -> T) -> Option<T> {
        match &*self.lock() {
            State::Waiting { args, .. } => Some(view(args)),
            State::Ready(_) => None,
        }
    }

    /// Has a waker told, unless the outcome is there.
    pub(crate) fn poll(&self, waker: &Waker, watched: &Watched) -> Poll<()> {
        self.watch(watched, |watchers| {
            if watchers.wakers.is_empty() {
                watched.foreign.fetch_add(1, Ordering::SeqCst);
            }
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

    /// Has the outcome counted under a number, now if it is there.
    pub(crate) fn count(&self, tally: &Arc<Tally>, number: usize) {
        match &mut *self.lock() {
            State::Ready(_) => tally.push(number),
            State::Waiting { rare, .. } => {
                rare.get_or_insert_default().tallies.push((Arc::clone(tally), number));
            }
        }
    }

    /// The tally counts no longer.
    pub(crate) fn discount(&self, tally: &Arc<Tally>) {
        if let State::Waiting { rare: Some(rare), .. } = &mut *self.lock() {
            rare.tallies.retain(|(known, _)| !Arc::ptr_eq(known, tally));
        }
    }

    /// Registers somebody who wants to be told, unless the outcome is there.
    fn watch(&self, watched: &Watched, register: impl FnOnce(&mut Rare)) -> Poll<()> {
        match &mut *self.lock() {
            State::Ready(_) => Poll::Ready(()),
            State::Waiting { rare, .. } => {
                let rare = rare.get_or_insert_default();
                if !rare.watched {
                    rare.watched = true;
                    watched.add();
                }
                register(rare);
                Poll::Pending
            }
        }
    }

    /// Nobody wants to be woken by a waker any more.
    pub(crate) fn forget_wakers(&self, watched: &Watched) {
        let forgotten = match &mut *self.lock() {
            State::Waiting { rare: Some(rare), .. } => {
                let forgotten = std::mem::take(&mut rare.wakers);
                rare.unwatch(watched);
                forgotten
            }
            _ => return,
        };
        if !forgotten.is_empty() {
            watched.foreign.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// This thread waits no longer.
    fn forget_thread(&self, watched: &Watched) {
        let State::Waiting { rare: Some(rare), .. } = &mut *self.lock() else { return };
        let own = thread::current().id();
        if let Some(place) = rare.threads.iter().position(|thread| thread.id() == own) {
            rare.threads.remove(place);
        }
        rare.unwatch(watched);
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
        if self.watch(watched, |rare| rare.threads.push(thread::current())).is_ready() {
            return;
        }
        heed();
        while !self.is_settled() {
            // Others may unpark this thread for reasons of their own.
            match deadline.map(|deadline| deadline.saturating_duration_since(now())) {
                None => thread::park(),
                Some(Duration::ZERO) => return self.forget_thread(watched),
                Some(left) => thread::park_timeout(left),
            }
        }
    }
}

/// Cells that have been used up, to be used again.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    cells: Mutex<Vec<Arc<Cell>>>,
    /// About how many there are: where many tasks are submitted and then waited for, looking into the list would be in vain each time.
    count: AtomicUsize,
}

/// Most cells that are kept.
const MOST_CELLS: usize = 256;

impl Cells {
    /// A cell for a task.
    pub(crate) fn make(&self, entry: &'static TaskEntry, args: Args, name: Option<Box<str>>) -> Arc<Cell> {
        let cell = Cell::new(entry, args, name);
        if self.count.load(Ordering::Relaxed) == 0 {
            return Arc::new(cell);
        }
        let Some(mut used) = self.take() else { return Arc::new(cell) };
        match Arc::get_mut(&mut used) {
            Some(place) => *place = cell,
            None => return Arc::new(cell),
        }
        used
    }

    fn take(&self) -> Option<Arc<Cell>> {
        let mut cells = self.cells.try_lock().ok()?;
        let cell = cells.pop();
        self.count.store(cells.len(), Ordering::Relaxed);
        cell
    }

    /// Takes back a cell whose outcome has been taken; useless to it while somebody else has it.
    pub(crate) fn give_back(&self, mut cell: Arc<Cell>) {
        if self.count.load(Ordering::Relaxed) >= MOST_CELLS {
            return;
        }
        let Ok(mut cells) = self.cells.try_lock() else { return };
        if cells.len() < MOST_CELLS
            && let Some(place) = Arc::get_mut(&mut cell)
        {
            // What it held may be large.
            *place = Cell::new(place.entry, Args::from(Vec::new()), None);
            cells.push(cell);
            self.count.store(cells.len(), Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cell").field("settled", &self.is_settled()).finish()
    }
}
