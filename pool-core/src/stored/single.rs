//! Single calls whose results are stored.
//!
//! The caller asks the store itself, and has what is found at once. Otherwise its handle has a cell of its own, and what remains to
//! be done is kept by a thread, the *keeper* (`<pool>-store`): it waits for what others compute, renews leases, and has results
//! written. It is there while there is such a call.
//!
//! # Races
//! * *A call is added while the keeper ends.* It ends under the lock under which calls are added.
//! * *A call is cancelled while it is aside.* The mark is set, and the keeper woken. If the keeper submits it at that moment, it
//!   looks at the mark under the same lock when it notes the task, and cancels that.
//! * *The task ends before the keeper knows of it.* Its cell counts for the tally at once then.
//! * *The pool ends.* What has been submitted ends with it. What is aside is submitted, and refused for the right reason.
//!   `join`, `shutdown` and the end of the pool wait for the keeper, so that what is being written is written.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

use pool_store::{Store, StoreKey, Waiting};

use super::writers::{Write, Writers};
use super::{Answer, Looks, Mine, Renewals, key_of, writers};
use crate::buffer::Args;
use crate::error::TaskError;
use crate::gate::Place;
use crate::handle::Decode;
use crate::job::{Job, Settled, Sink};
use crate::outcome::{Cell, Outcome, Results};
use crate::reply::Encoded;
use crate::supervisor::event::{Event, TaskKey, TaskSpec};
use crate::supervisor::shared::Shared;
use crate::task::TaskEntry;
use crate::wait::Tally;

/// What the keeper is told through its tally when no task has ended.
const NEWS: usize = usize::MAX;

/// A call that is to be made, as its store sees it.
pub(crate) struct Wanted<R> {
    pub(crate) store: Store,
    pub(crate) entry: &'static TaskEntry,
    pub(crate) args: Args,
    pub(crate) spec: TaskSpec,
    pub(crate) name: Option<Box<str>>,
    pub(crate) decode: Decode<R>,
}

/// What a handle has instead of a task: one that may come later.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    cancelled: bool,
    task: Option<TaskKey>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels the task, or has it never made.
    pub(crate) fn cancel(&self, shared: &Shared) {
        let mut known = self.lock();
        known.cancelled = true;
        let task = known.task;
        drop(known);
        match task {
            Some(task) => shared.with(|engine, now| engine.machine.on(now, Event::Cancel(task))),
            None => shared.keeper.wake(shared),
        }
    }

    pub(crate) fn task(&self) -> Option<TaskKey> {
        self.lock().task
    }
}

/// Makes a call, unless its result is known; returns where its outcome will be.
pub(crate) fn make<R>(
    shared: &Arc<Shared>,
    wanted: Wanted<R>,
    place: Option<Place<'_>>,
) -> (Arc<Cell>, Option<Arc<Pending>>) {
    let Wanted { store, entry, args, spec, name, decode } = wanted;
    let key = key_of(entry, &args);
    let decodes = |encoded: Encoded<'_>| decode(encoded).is_ok();
    let claim = store.claim(&key, 0);
    let outer = shared.cells.make(entry, Args::from(Vec::new()), name.clone());
    let call = Call { entry, args, spec, name, place: place.is_some() };
    let state = match Answer::of(&store, key, entry, claim, &decodes) {
        Answer::Found(reply) => {
            drop(place);
            outer.settle(Ok(Results::One(reply)), &shared.lead.watched);
            return (outer, None);
        }
        Answer::Mine(mine) => call.submit(shared, mine),
        Answer::Aside(waiting) => State::Aside { call, store, key, waiting },
    };
    if let Some(place) = place {
        place.keep();
    }
    let task = match &state {
        State::Running { task, .. } => *task,
        State::Aside { .. } => None,
    };
    let pending = Arc::new(Pending(Mutex::new(Known { cancelled: false, task })));
    shared.keeper.add(shared, Kept { outer: Arc::clone(&outer), pending: Arc::clone(&pending), state });
    (outer, Some(pending))
}

struct Call {
    entry: &'static TaskEntry,
    args: Args,
    spec: TaskSpec,
    name: Option<Box<str>>,
    /// Whether it has a place in a bounded queue, which its outcome leaves.
    place: bool,
}

impl Call {
    fn submit(self, shared: &Shared, mine: Mine) -> State {
        let cell = shared.cells.make(self.entry, self.args, self.name);
        let job = Job::Single(Arc::clone(&cell));
        let task = shared.with(|engine, now| {
            let task = engine.submit(now, self.spec, job);
            engine.hand_out(now, true);
            task
        });
        State::Running { cell, task, mine }
    }
}

/// A call that the keeper looks after.
struct Kept {
    /// The cell of its handle.
    outer: Arc<Cell>,
    pending: Arc<Pending>,
    state: State,
}

enum State {
    Aside { call: Call, store: Store, key: StoreKey, waiting: Box<Waiting> },
    Running { cell: Arc<Cell>, task: Option<TaskKey>, mine: Mine },
}

impl Kept {
    fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Aside { waiting, .. } => Some(waiting.due()),
            State::Running { .. } => None,
        }
    }

    fn mine(&mut self) -> Option<&mut Mine> {
        match &mut self.state {
            State::Aside { .. } => None,
            State::Running { mine, .. } => Some(mine),
        }
    }
}

/// Looks after single calls whose results are stored.
#[derive(Default)]
pub(crate) struct Keeper {
    state: Mutex<KeeperState>,
    tally: Arc<Tally>,
    ended: Condvar,
}

#[derive(Default)]
struct KeeperState {
    new: Vec<Kept>,
    running: bool,
    /// The thread, while it runs.
    thread: Option<ThreadId>,
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, KeeperState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, shared: &Shared) {
        self.tally.push(NEWS);
        shared.lead.kick();
    }

    fn add(&self, shared: &Arc<Shared>, kept: Kept) {
        let mut state = self.lock();
        state.new.push(kept);
        if !state.running {
            let own = Arc::clone(shared);
            let name = format!("{}-store", shared.name);
            match std::thread::Builder::new().name(name).spawn(move || Round::new(&own).run()) {
                Ok(thread) => (state.running, state.thread) = (true, Some(thread.thread().id())),
                Err(error) => {
                    tracing::warn!(pool = shared.name, %error, "no thread to store results: the caller does it");
                    (state.running, state.thread) = (true, Some(std::thread::current().id()));
                    drop(state);
                    return Round::new(shared).run();
                }
            }
        }
        drop(state);
        self.wake(shared);
    }

    /// Waits until there is nothing to be looked after, at most until the deadline. The pool takes no more tasks by then.
    pub(crate) fn finish(&self, shared: &Shared, deadline: Option<Instant>) -> bool {
        self.wake(shared);
        let mut state = self.lock();
        // A waker may end the pool on that very thread, or on one that it waits for.
        if writers::is_here(shared) {
            return true;
        }
        while state.running && state.thread != Some(std::thread::current().id()) {
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.ended.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }
}

/// The keeper's thread, from its first call to its last.
struct Round<'a> {
    shared: &'a Arc<Shared>,
    kept: HashMap<usize, Kept>,
    next: usize,
    looks: Looks,
    renewals: Renewals,
    writers: Writers,
}

impl<'a> Round<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            kept: HashMap::new(),
            next: 0,
            looks: Looks::default(),
            renewals: Renewals::default(),
            writers: Writers::new(shared),
        }
    }

    fn run(mut self) {
        let keeper = &self.shared.keeper;
        loop {
            let mut state = keeper.lock();
            let new = std::mem::take(&mut state.new);
            if new.is_empty() && self.kept.is_empty() {
                // Nobody is told that it has ended before everything is written.
                drop(state);
                self.writers = Writers::new(self.shared);
                state = keeper.lock();
                if state.new.is_empty() {
                    (state.running, state.thread) = (false, None);
                    keeper.ended.notify_all();
                    return;
                }
                continue;
            }
            drop(state);
            new.into_iter().for_each(|kept| self.keep(kept));
            self.tend();
            if !self.kept.is_empty() {
                let look = self.looks.next(self.kept.values().filter_map(Kept::due).min());
                let due = look.into_iter().chain(self.renewals.due).min();
                self.shared.wait_for(&*keeper.tally, due);
            }
            while let Some(number) = keeper.tally.pop() {
                if number != NEWS {
                    self.ended(number);
                }
            }
        }
    }

    fn keep(&mut self, mut kept: Kept) {
        let number = self.next;
        self.next += 1;
        if let Some(mine) = kept.mine() {
            self.renewals.add(mine);
        }
        if let State::Running { cell, .. } = &kept.state {
            cell.count(&self.shared.keeper.tally, number);
        }
        self.kept.insert(number, kept);
    }

    /// A task has ended.
    fn ended(&mut self, number: usize) {
        let Some(Kept { outer, state: State::Running { cell, mine, .. }, .. }) = self.kept.remove(&number)
        else {
            return;
        };
        match cell.take() {
            Some(Ok(reply)) => self.writers.push(Write { mine, reply, sink: Sink::Handle(outer) }),
            Some(Err(error)) => {
                drop(mine);
                self.deliver(outer, Err(error));
            }
            None => self.deliver(outer, Err(TaskError::PoolClosed)),
        }
        self.shared.cells.give_back(cell);
    }

    /// Renews leases, and looks for what is aside.
    fn tend(&mut self) {
        let now = Instant::now();
        self.renewals.carry_out(now, self.kept.values_mut().filter_map(Kept::mine));
        let aside = |(number, kept): (&usize, &Kept)| kept.due().map(|due| (*number, due));
        let aside: Vec<_> = self.kept.iter().filter_map(aside).collect();
        if aside.is_empty() {
            return;
        }
        let open = self.shared.look(|engine| engine.machine.is_open());
        // What is no longer wanted is not looked for.
        for (number, _) in &aside {
            let cancelled = self.kept.get(number).is_some_and(|kept| kept.pending.lock().cancelled);
            if cancelled || !open {
                self.look(*number, cancelled, open);
            }
        }
        let mut looks = std::mem::take(&mut self.looks);
        looks.carry_out(now, aside.into_iter().filter(|(_, due)| *due <= now), |(number, _)| {
            self.look(number, false, true)
        });
        self.looks = looks;
    }

    /// What becomes of a call that is aside; whether it still was.
    fn look(&mut self, number: usize, cancelled: bool, open: bool) -> bool {
        let Some(Kept { outer, pending, state }) = self.kept.remove(&number) else { return false };
        let State::Aside { call, store, key, waiting } = state else { return false };
        let place = call.place;
        if cancelled {
            self.leave(place);
            self.deliver(outer, Err(TaskError::Cancelled));
            return true;
        }
        let answer = match open {
            // It has just been computed: should it not decode here, the handle says so.
            true => Answer::of(&store, key, call.entry, store.look_again(waiting), &|_| true),
            false => Answer::Mine(Mine { store: store.clone(), key, fallible: false, lease: None }),
        };
        let state = match answer {
            Answer::Found(reply) => {
                self.leave(place);
                self.deliver(outer, Ok(Results::One(reply)));
                return true;
            }
            Answer::Aside(waiting) => State::Aside { call, store, key, waiting },
            Answer::Mine(mine) => call.submit(self.shared, mine),
        };
        if let State::Running { task: Some(task), .. } = &state {
            let mut known = pending.lock();
            known.task = Some(*task);
            if known.cancelled {
                drop(known);
                self.shared.with(|engine, now| engine.machine.on(now, Event::Cancel(*task)));
            }
        }
        self.keep(Kept { outer, pending, state });
        true
    }

    /// A call that was never made leaves the queue.
    fn leave(&self, place: bool) {
        if place {
            self.shared.gate.leave(1);
            self.shared.lead.kick();
        }
    }

    fn deliver(&self, outer: Arc<Cell>, outcome: Outcome) {
        self.shared.deliver(Settled { sink: Sink::Handle(outer), count: 1, outcome });
        self.shared.lead.kick();
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}
