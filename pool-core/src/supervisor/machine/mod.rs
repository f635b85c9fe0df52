//! The supervisor's state machine: events in, actions out, no I/O and no clock of its own.
//!
//! # Promises it keeps
//! 1. Every submitted task ends exactly once, by one [`Action::Resolve`].
//! 2. A task that was started is never given out again, unless its retries allow it.
//! 3. A task that was not started is never blamed: it goes back to the front of the queue, in its old order.
//! 4. The first failure of a batch with `abort` ends that batch, and nothing else.
//! 5. Nothing waits for ever: every state that waits for a worker has a timer, and a pool that cannot make progress breaks.
//!
//! # Events and races
//! * *A result and a kill cross.* A worker is killed for its head task in three steps: take back all the other tasks
//!   (nothing innocent can start any more), inspect (results that were already written are delivered first), and only if
//!   the head is still the condemned task, kill.
//! * *A take-back and a claim cross.* The compare-and-swap on the board decides; the answer arrives as
//!   [`Event::TookBack`]. Until then the entry stays in `held` with `taking` set.
//! * *Garbage between results.* What comes before it belongs to older tasks, and what comes behind it to younger ones, so the
//!   head has written it. The head is `spoiled`: it is blamed whatever result it still delivers. Results behind the
//!   garbage are good, as far as they can be found.
//! * *Results are lost.* A worker whose result pipe was broken by task code may have run several tasks since. The board
//!   knows; they are reported by [`Event::Lost`] before the death, and treated as started.
//! * *The board is overwritten.* Then nothing on it can be claimed or taken back any more: the worker gives up when it
//!   comes to its next task. Whatever it held besides its head has not been started, and never will be.
//! * *A result and the death cross.* The shell reports everything that the worker had written before it reports
//!   [`Event::Died`], so what is still held then has no result.
//! * *Late news of an old incarnation* carry its generation and are dropped (see [`Machine::alive`]).
//! * *A batch is aborted while its caller submits.* The caller cancels the group again when it has stopped submitting, so
//!   nothing of it is left.

mod deaths;
mod dispatch;
mod endings;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod tests;
mod timing;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{BrokenReason, Death, TaskError};
use crate::ids::{TaskId, WorkerId};
use crate::policy::RestartPolicy;
use crate::supervisor::event::{Action, Event, Incarnation, KillReason, TaskKey, TaskSpec, Ticket};
use crate::supervisor::slot::{Phase, Ready, Slot};
use crate::supervisor::table::TaskTable;

/// What the state machine is configured with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) workers: u32,
    /// The worker executable, for messages.
    pub(crate) executable: String,
    pub(crate) restart: RestartPolicy,
    pub(crate) start_timeout: Duration,
    pub(crate) exit_timeout: Duration,
    pub(crate) cancel_grace: Duration,
    /// How long a worker may leave its next task unclaimed.
    pub(crate) claim_timeout: Duration,
    /// Most tasks given to a worker ahead of time, the running one included.
    pub(crate) prefetch: usize,
    /// Most bytes of arguments given to a worker ahead of time.
    pub(crate) prefetch_bytes: usize,
    /// The distance between the oldest ticket held and a new one stays below this.
    pub(crate) ticket_window: u64,
    /// Seed of the back-off's jitter.
    pub(crate) seed: u64,
}

/// Counters; they only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) submitted: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) timed_out: u64,
    pub(crate) retried: u64,
    pub(crate) requeued: u64,
    pub(crate) taken_back: u64,
    pub(crate) spawned: u64,
    pub(crate) task_deaths: u64,
    pub(crate) idle_deaths: u64,
    pub(crate) start_deaths: u64,
    pub(crate) kills: u64,
}

/// A task that has not ended.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) spec: TaskSpec,
    /// Attempts that were started and failed.
    pub(crate) attempts: u32,
    pub(crate) deaths: Vec<Death>,
    pub(crate) place: Place,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Queued,
    /// It failed before and waits to run alone.
    Suspect,
    /// Reserved for this worker, or held by it.
    With(WorkerId),
}

/// Whether the pool goes on.
#[derive(Debug, Clone)]
pub(crate) enum Life {
    Open,
    Closing,
    /// Everything has been settled and all workers are gone or being killed.
    Over(TaskError),
}

/// The supervisor's state. `P` is what a result is made of.
#[derive(Debug)]
pub(crate) struct Machine<P> {
    config: Config,
    slots: Vec<Slot>,
    tasks: TaskTable<Task>,
    /// Tasks to give out; keys of tasks that have ended meanwhile are skipped.
    queue: VecDeque<TaskKey>,
    suspects: VecDeque<TaskKey>,
    /// Living tasks in `queue`.
    queued: usize,
    /// Tasks held by ready workers.
    held: usize,
    next_task: u64,
    next_generation: u64,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    life: Life,
    drained: bool,
    ever_ready: bool,
    /// Tasks settled by a worker's doing; a sign of progress.
    settled: u64,
    /// Where the next round of handing out starts.
    cursor: usize,
    random: u64,
    counters: Counters,
    out: Vec<Action<P>>,
}

impl<P> Machine<P> {
    /// A machine whose workers are all due to be spawned at `now`.
    pub(crate) fn new(config: Config, now: Instant) -> Self {
        let slots = (0..config.workers).map(|index| Slot::new(WorkerId::new(index), now)).collect();
        let mut machine = Self {
            random: config.seed | 1,
            config,
            slots,
            tasks: TaskTable::new(),
            queue: VecDeque::new(),
            suspects: VecDeque::new(),
            queued: 0,
            held: 0,
            next_task: 1,
            next_generation: 1,
            timers: BinaryHeap::new(),
            life: Life::Open,
            drained: false,
            ever_ready: false,
            settled: 0,
            cursor: 0,
            counters: Counters::default(),
            out: Vec::new(),
        };
        for index in 0..machine.slots.len() {
            machine.spawn(index, now);
        }
        machine
    }

    /// Takes a task in. It is handed out at the next event; [`Event::Pump`] is made for that.
    ///
    /// # Errors
    /// What the task ends with, when the pool takes no more tasks.
    pub(crate) fn submit(&mut self, spec: TaskSpec) -> Result<TaskKey, TaskError> {
        match &self.life {
            Life::Open => {}
            Life::Closing => return Err(TaskError::PoolClosed),
            Life::Over(error) => return Err(error.clone()),
        }
        let id = TaskId::new(self.next_task);
        self.next_task += 1;
        let task = Task { spec, attempts: 0, deaths: Vec::new(), place: Place::Queued };
        let key = self.tasks.insert(id, task);
        self.queue.push_back(key);
        self.queued += 1;
        self.counters.submitted += 1;
        Ok(key)
    }

    /// Lets something happen. The actions to carry out are taken with [`actions`](Self::actions).
    pub(crate) fn on(&mut self, now: Instant, event: Event<P>) {
        match event {
            Event::Pump => self.dispatch(now),
            Event::Tick => self.tick(now),
            Event::Ready(who) => self.on_ready(now, who),
            Event::Unusable(who, reason) => self.on_unusable(now, who, reason),
            Event::SpawnFailed(who, death) => self.on_spawn_failed(now, who, death),
            Event::Finished(who, ticket, payload) => self.on_outcome(now, who, ticket, Ok(payload)),
            Event::Failed(who, ticket, error) => self.on_outcome(now, who, ticket, Err(error)),
            Event::Unsendable(who, ticket, error) => self.on_unsendable(now, who, ticket, error),
            Event::TookBack(who, answers) => self.on_took_back(now, who, answers),
            Event::Illegible(who, tickets) => self.on_illegible(now, who, &tickets),
            Event::Observed(who, seen) => self.on_observed(now, who, seen),
            Event::Garbage(who, what) => self.on_garbage(now, who, what),
            Event::Violation(who, what) => self.on_violation(now, who, what),
            Event::Lost(who, lost) => self.on_lost(now, who, lost),
            Event::Died(who, autopsy) => self.on_died(now, who, autopsy),
            Event::Cancel(task) => {
                self.cancel(now, task);
                self.dispatch(now);
            }
            Event::CancelGroup(group) => {
                self.cancel_group(now, group);
                self.dispatch(now);
            }
            Event::Close => self.on_close(now),
            Event::Terminate => self.end(TaskError::PoolClosed),
            Event::Fault(what) => self.break_pool(BrokenReason::Internal(what)),
        }
        self.wind_up(now);
    }

    /// What is to be done because of the events so far, in order.
    pub(crate) fn actions(&mut self) -> Vec<Action<P>> {
        std::mem::take(&mut self.out)
    }

    /// Gives a buffer back that [`actions`](Self::actions) returned, so that it is used again.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<Action<P>>) {
        if self.out.is_empty() && buffer.capacity() <= 1024 {
            buffer.clear();
            self.out = buffer;
        }
    }

    pub(crate) fn has_actions(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether a process of this incarnation is wanted.
    pub(crate) fn expects(&self, who: Incarnation) -> bool {
        self.alive(who).is_some_and(|index| {
            matches!(self.slots[index].phase, Phase::Starting { .. } | Phase::Dying { .. })
        })
    }

    /// Whether this incarnation has been asked to exit.
    pub(crate) fn is_retiring(&self, who: Incarnation) -> bool {
        self.alive(who).is_some_and(|index| matches!(self.slots[index].phase, Phase::Retiring { .. }))
    }

    /// Whether any worker has ever become ready.
    pub(crate) fn was_ever_ready(&self) -> bool {
        self.ever_ready
    }

    /// The oldest task that a worker holds: what it runs, if it runs anything.
    pub(crate) fn head(&self, who: Incarnation) -> Option<(Ticket, Option<TaskKey>)> {
        let slot = self.slots.get(who.index()).filter(|slot| slot.generation == who.generation)?;
        let held = match &slot.phase {
            Phase::Ready(ready) => &ready.held,
            Phase::Dying { held, .. } => held,
            _ => return None,
        };
        held.front().map(|held| (held.ticket, held.task))
    }

    /// Everything that a worker holds besides its oldest task.
    pub(crate) fn tail(&self, who: Incarnation) -> Vec<(Ticket, Option<TaskKey>)> {
        let Some(index) = self.alive(who) else { return Vec::new() };
        let held = match &self.slots[index].phase {
            Phase::Ready(ready) => &ready.held,
            Phase::Dying { held, .. } => held,
            _ => return Vec::new(),
        };
        held.iter().skip(1).map(|held| (held.ticket, held.task)).collect()
    }

    /// How many tasks a worker holds.
    pub(crate) fn load(&self, worker: usize) -> usize {
        match self.slots.get(worker).map(|slot| &slot.phase) {
            Some(Phase::Ready(ready)) => ready.held.len(),
            Some(Phase::Dying { held, .. }) => held.len(),
            _ => 0,
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Tasks that have not ended.
    pub(crate) fn pending(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether all tasks have ended and no worker is left, those being killed excepted.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.life, Life::Over(_))
    }

    /// The index of a worker, if this incarnation is still the one in its place.
    fn alive(&self, who: Incarnation) -> Option<usize> {
        let index = who.index();
        self.slots.get(index).filter(|slot| slot.generation == who.generation).map(|_| index)
    }

    /// The working state of an incarnation, if it is alive and working.
    fn working(&mut self, who: Incarnation) -> Option<(usize, &mut Ready)> {
        let index = self.alive(who)?;
        self.slots[index].ready().map(|ready| (index, ready))
    }

    fn spawn(&mut self, index: usize, now: Instant) {
        let slot = &mut self.slots[index];
        slot.generation = crate::ids::Generation::new(self.next_generation);
        self.next_generation += 1;
        slot.phase = Phase::Starting { since: now };
        slot.timer = None;
        self.counters.spawned += 1;
        self.out.push(Action::Spawn(slot.incarnation()));
        self.schedule(index, now + self.config.start_timeout);
    }

    fn on_ready(&mut self, now: Instant, who: Incarnation) {
        let Some(index) = self.alive(who) else { return };
        if !matches!(self.slots[index].phase, Phase::Starting { .. }) {
            return self.on_violation(now, who, "a second hello".to_owned());
        }
        self.ever_ready = true;
        self.slots[index].phase = Phase::Ready(Ready::new(now));
        self.slots[index].timer = None;
        if let (Life::Closing, true) = (&self.life, self.tasks.len() == 0) {
            return;
        }
        self.dispatch(now);
    }

    fn on_close(&mut self, now: Instant) {
        if matches!(self.life, Life::Open) {
            self.life = Life::Closing;
        }
        self.dispatch(now);
    }

    /// Once the pool is closing and all tasks have ended: sends the workers home; once they are gone, says so.
    fn wind_up(&mut self, now: Instant) {
        if matches!(self.life, Life::Open) || self.tasks.len() > 0 {
            return;
        }
        let mut left = 0;
        for index in 0..self.slots.len() {
            let who = self.slots[index].incarnation();
            match &self.slots[index].phase {
                Phase::Ready(ready) if ready.held.is_empty() => {
                    self.slots[index].phase = Phase::Retiring { since: now, killed: false };
                    self.out.push(Action::Retire(who));
                    self.schedule(index, now + self.config.exit_timeout);
                    left += 1;
                }
                Phase::Starting { .. } => {
                    // It has nothing to lose, so it need not be asked.
                    self.out.push(Action::Kill { who, why: KillReason::Terminated, fenced: true });
                    self.slots[index].phase = Phase::Stopped;
                }
                Phase::Waiting { .. } => self.slots[index].phase = Phase::Stopped,
                Phase::Stopped => {}
                Phase::Ready(_) | Phase::Dying { .. } | Phase::Retiring { .. } => left += 1,
            }
        }
        if left == 0 && !self.drained {
            self.drained = true;
            self.out.push(Action::Drained);
        }
    }

    /// Ends everything at once: every task gets `error`, every worker is killed.
    fn end(&mut self, error: TaskError) {
        if matches!(self.life, Life::Over(_)) {
            return;
        }
        for index in 0..self.slots.len() {
            let who = self.slots[index].incarnation();
            match self.slots[index].phase {
                Phase::Waiting { .. } | Phase::Stopped => {}
                _ => self.out.push(Action::Kill { who, why: KillReason::Terminated, fenced: true }),
            }
            self.slots[index].phase = Phase::Stopped;
        }
        self.held = 0;
        for task in self.tasks.keys() {
            self.resolve(task, Err(error.clone()));
        }
        self.queue.clear();
        self.suspects.clear();
        self.queued = 0;
        self.life = Life::Over(error);
    }

    fn break_pool(&mut self, reason: BrokenReason) {
        // After the last worker has gone there is nothing left that could break.
        if self.is_over() || self.drained {
            return;
        }
        let reason = Arc::new(reason);
        self.out.push(Action::Broken(Arc::clone(&reason)));
        self.end(TaskError::PoolBroken(reason));
    }

    fn on_unusable(&mut self, _now: Instant, who: Incarnation, reason: BrokenReason) {
        if self.expects(who) {
            self.break_pool(reason);
        }
    }
}
