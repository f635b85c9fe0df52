//! The supervisor's state machine: events in, actions out, no I/O and no clock of its own.
//!
//! # Units
//! What is submitted is a *unit*: one task, or many *items* of a kind. Every item is a task of its own, with its own number,
//! ticket and end; but as long as items fare alike they are handled together, so that handing out a thousand, getting them
//! back or settling them costs as much as one. A unit is in one place at a time: in its [lane](lanes) of the queue, among the suspects, or in the
//! [hand](hand) of one worker as a span of consecutive tickets. Its items end from the front on. Whatever concerns only
//! some of them splits it first ([`Action::Split`]): a part that is handed out or taken back, an item that fails, the item
//! that a dead worker ran. From then on the parts have nothing to do with each other. What may be blamed on somebody is always
//! a unit of one item: a failure, a time limit, a death, a suspect.
//!
//! # Promises it keeps
//! 1. Every item ends exactly once, by one [`Action::Resolve`].
//! 2. An item that was started is never given out again, unless its retries allow it.
//! 3. An item that was not started is never blamed: it goes back to the front of the queue, in its old order.
//! 4. The first failure of a batch with `abort` ends that batch, and nothing else.
//! 5. Nothing waits for ever: every state that waits for a worker has a timer, and a pool that cannot make progress breaks.
//! 6. No active worker is idle while an item waits that nobody is known to have started, longer than an answer takes, or than
//!    a few times the time to wake a worker if another should have done it by then. An item that is [pinned](seats) waits for
//!    its own worker only, and there is always one, or one that comes.
//! 7. As many workers are active as there should be, as long as enough are ready; no other is given anything.
//!
//! # Events and races
//! * *A result and a kill cross.* A worker is killed for its head in three steps: take back everything else
//!   (nothing innocent can start any more), inspect (results that were already written are delivered first), and only if
//!   the head is still the condemned item, kill.
//! * *A take-back and a claim cross.* The compare-and-swap on the board decides; the answer arrives as
//!   [`Event::TookBack`]. Until then the items stay in the hand, counted as being taken. The shell takes from the youngest
//!   to the oldest, so the answer divides what was asked for into what the worker has claimed and what it has not. Nothing
//!   is split before the answer is known. Results that arrive meanwhile shorten a span from its front, and may eat
//!   into what was asked for: that is then no longer being taken.
//! * *Take-backs overlap.* Half of a span is being taken for an idle worker, and the unit is cancelled, or its worker
//!   condemned: only the rest is asked for, and the answers may come in any order. Each is applied to those of its
//!   tickets that are still held and still being taken.
//! * *Results of a run that is no longer one.* The shell reports results of consecutive tickets together, but not beyond the
//!   head's unit, and asks for it anew after each report ([`Machine::head`]): a failure or a kill may have split it.
//! * *Garbage between results.* What comes before it belongs to older tasks, and what comes behind it to younger ones, so the
//!   head has written it. The head is `spoiled`: it is blamed whatever result it still delivers. Results behind the
//!   garbage are good, as far as they can be found.
//! * *Results are lost.* A worker whose result pipe was broken by task code may have run several items since. The board
//!   knows; they are reported by [`Event::Lost`] before the death, and treated as started.
//! * *The board is overwritten.* Then nothing on it can be claimed or taken back any more: the worker gives up when it
//!   comes to its next item. Whatever it held besides its head has not been started, and never will be.
//! * *A result and the death cross.* The shell reports everything that the worker had written before it reports
//!   [`Event::Died`], so what is still held then has no result.
//! * *A unit is cancelled while a worker runs one of its items.* All that is left of it ends at once. The span stays in the
//!   hand without a unit: the item that runs is told to stop, and the others are taken back, so that the worker does not
//!   begin them.
//! * *Late news of an old incarnation* carry its generation and are dropped (see [`Machine::alive`]).
//! * *A worker is about to be killed, and a spare has taken over, but the head ends in time.* The worker lives on as a spare.
//! * *A batch ends while its caller submits.* What is submitted to it from then on is refused with what it has ended with, so
//!   nothing of it is left (see [groups]).
//! * *A second batch, or a single task, comes while workers hold much of the first.* What they hold too much of is taken back (see
//!   [lanes] and `Machine::level_hands`).
//! * *Something of a higher priority comes while workers hold others.* What would take long is taken back (see [urgent]).
//! * *An item takes for ever, and the others have always something to do.* So nobody becomes idle, and takes over what lies behind that
//!   item, or what is to run alone there. While others come for more, it is looked at now and then (see `Machine::unload`, and
//!   `Machine::place_reserved`).

mod config;
#[cfg(test)]
mod costs;
mod crew;
mod deaths;
mod dispatch;
mod endings;
mod groups;
mod hand;
#[cfg(test)]
mod invariants;
mod lanes;
mod life;
mod line;
mod pace;
mod pinned;
mod prepare;
mod recycle;
mod seats;
mod staff;
mod taking;
#[cfg(test)]
mod tests;
mod timing;
mod unit;
mod urgent;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

pub(crate) use config::{Config, Counters, Staffing};
use crew::Crew;
pub(crate) use crew::Standing;
use groups::Groups;
pub(crate) use hand::{Hand, Head, Held};
use lanes::Lanes;
use life::Life;
use line::Line;
pub(crate) use pace::Pace;
use pace::Tempo;
use prepare::Known;
use seats::Seats;
use staff::Sizing;
#[cfg(test)]
pub(crate) use unit::Place;
use unit::{Terms, Unit};

use crate::error::{BrokenReason, TaskError};
use crate::ids::{Generation, TaskId, WorkerId};
use crate::stats::RetireReason;
use crate::supervisor::event::{Action, Event, Incarnation, KillReason, Span, TaskKey, TaskSpec, Ticket};
use crate::supervisor::slot::{Phase, Ready, Slot};
use crate::supervisor::table::TaskTable;

/// A buffer for actions is kept for the next ones unless it has grown beyond so many.
const MOST_SPARE: usize = 1024;

/// Tickets that a worker holds, and what they stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) span: Span,
    /// The unit, and the offset of the first ticket's item in it; `None` if it has been settled without the worker.
    pub(crate) unit: Option<(TaskKey, u32)>,
}

impl Holding {
    /// The task that a ticket of the span stands for.
    pub(crate) fn task(&self, ticket: Ticket) -> Option<TaskId> {
        let (key, first) = self.unit?;
        let behind =
            ticket.checked_sub(self.span.first).filter(|behind| *behind < u64::from(self.span.count))?;
        Some(key.item(first + behind as u32))
    }
}

/// The supervisor's state. `P` is what a result is made of.
#[derive(Debug)]
pub(crate) struct Machine<P> {
    config: Config,
    slots: Vec<Slot>,
    sizing: Sizing,
    crew: Crew,
    seats: Seats,
    /// Whether somebody may be missing.
    unsettled: bool,
    units: TaskTable<Unit>,
    /// What the last unit asked for that asked for anything.
    terms: Option<Arc<Terms>>,
    /// Units to give out.
    queue: Lanes,
    groups: Groups,
    /// Those that are to run alone, of one item each.
    suspects: Line,
    /// Items that have not ended.
    pending: usize,
    /// Items in `queue`.
    queued: usize,
    /// Items held by workers.
    held: usize,
    next_task: u64,
    next_generation: u64,
    tempo: Tempo,
    /// Until when tasks are collected, to be handed out together.
    collecting: Option<Instant>,
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    /// When something that waits behind a busy worker while another is idle is looked at again.
    again: Option<Instant>,
    /// But not before this time.
    again_from: Instant,
    /// When an elastic pool looks again whether it should grow.
    grow_at: Option<Instant>,
    /// It has waited for that: what waits has waited for as long as a worker takes to start.
    grow_due: bool,
    /// When workers are looked at that hold more than they should while lanes compete.
    level_at: Option<Instant>,
    /// From when on it is looked again who runs something that takes long, and holds more.
    unload_from: Instant,
    life: Life,
    drained: bool,
    ever_ready: bool,
    /// The worker whose results have been taken in, and that has not been given more for them yet.
    behind: Option<u32>,
    /// What is known of the states of workers.
    states: Vec<Known>,
    /// Items settled by a worker's doing; a sign of progress.
    settled: u64,
    random: u64,
    counters: Counters,
    out: VecDeque<Action<P>>,
}

impl<P> Machine<P> {
    /// A machine whose workers are all due to be spawned at `now`, as many as there are when there is nothing to do.
    pub(crate) fn new(config: Config, now: Instant) -> Self {
        let ahead = u64::try_from(config.ahead.as_nanos()).unwrap_or(u64::MAX);
        let queue = Lanes::new(ahead / config.unpaced.max(1) as u64);
        let mut machine = Self {
            random: config.seed | 1,
            sizing: Sizing::new(&config, config.workers, 0),
            config,
            slots: Vec::new(),
            crew: Crew::default(),
            seats: Seats::default(),
            unsettled: false,
            units: TaskTable::new(),
            terms: None,
            queue,
            groups: Groups::default(),
            suspects: Line::new(),
            pending: 0,
            queued: 0,
            held: 0,
            next_task: 1,
            next_generation: 1,
            tempo: Tempo::default(),
            collecting: None,
            timers: BinaryHeap::new(),
            again: None,
            again_from: now,
            grow_at: None,
            grow_due: false,
            level_at: None,
            unload_from: now,
            life: Life::Open,
            drained: false,
            ever_ready: false,
            behind: None,
            states: Vec::new(),
            settled: 0,
            counters: Counters::default(),
            out: VecDeque::new(),
        };
        machine.add_places(machine.sizing.least as u32, now);
        machine
    }

    /// Adds places for workers that stand by, and spawns these, too.
    pub(crate) fn with_spares(mut self, spares: u32, now: Instant) -> Self {
        self.sizing.spares += spares as usize;
        self.add_places(spares, now);
        self
    }

    fn add_places(&mut self, count: u32, now: Instant) {
        for _ in 0..count {
            let index = self.slots.len();
            self.slots.push(Slot::new(WorkerId::new(index as u32)));
            self.spawn(index, now);
        }
    }

    /// Takes a unit in. It is handed out at the next event; [`Event::Pump`] is made for that.
    ///
    /// # Errors
    /// What its items end with, when the pool takes no more tasks, or its batch has ended.
    #[inline]
    pub(crate) fn submit(&mut self, spec: &TaskSpec) -> Result<TaskKey, TaskError> {
        match &self.life {
            Life::Open => {}
            Life::Closing => return Err(TaskError::PoolClosed),
            Life::Over(error) => return Err(error.clone()),
        }
        let lane = match spec.group {
            None => self.queue.single(spec.priority),
            Some(group) => {
                let pin = spec.piece.map(|piece| self.pin_of(piece));
                self.groups.lane(group, spec.priority, pin, &mut self.queue)?
            }
        };
        let unit = Unit::new(spec, lane, &mut self.terms);
        let count = unit.left();
        let key = self.units.insert(TaskId::new(self.next_task), unit);
        self.next_task += u64::from(count);
        self.queue.push_back(&mut self.units, key);
        self.queue.came(lane, count as usize);
        self.queued += count as usize;
        self.pending += count as usize;
        self.counters.submitted += u64::from(count);
        Ok(key)
    }

    /// Lets something happen. The actions to carry out are taken with [`exchange`](Self::exchange).
    pub(crate) fn on(&mut self, now: Instant, event: Event<P>) {
        self.catch_up(now);
        match event {
            Event::Pump => self.dispatch(now),
            Event::Tick => self.tick(now),
            Event::Ready(who) => self.on_ready(now, who),
            Event::Preparing(who, state) => self.on_preparing(now, who, state),
            Event::Prepared(who) => self.on_prepared(now, who),
            Event::Unfit(who, reason) => self.on_unfit(who, reason),
            Event::Unusable(who, reason) => self.on_unusable(now, who, reason),
            Event::SpawnFailed(who, death) => self.on_spawn_failed(now, who, death),
            Event::Finished(who, ticket, count, payload) => {
                self.on_finished(now, who, ticket, count, payload);
                self.catch_up(now);
            }
            Event::Failed(who, ticket, error) => self.on_failed(now, who, ticket, error),
            Event::Unsendable(who, span, error) => self.on_unsendable(now, who, span, &error),
            Event::TookBack(who, answers) => self.on_took_back(now, who, &answers),
            Event::Illegible(who, spans) => self.on_illegible(now, who, &spans),
            Event::Observed(who, seen) => self.on_observed(now, who, seen),
            Event::Garbage(who, what) => self.on_garbage(now, who, what),
            Event::OverLimit(who, rss, limit) => {
                self.on_over_limit(now, who, KillReason::MemoryLimit { rss, limit });
            }
            Event::Crowded(who, limit) => self.on_over_limit(now, who, KillReason::ProcessLimit(limit)),
            Event::Violation(who, what) => self.on_violation(now, who, what),
            Event::Lost(who, lost) => self.on_lost(now, who, lost),
            Event::Died(who, autopsy) => self.on_died(now, who, autopsy),
            Event::Cancel(task) => {
                self.cancel(now, task);
                self.dispatch(now);
            }
            Event::CloseGroup(group) => {
                self.close_group(now, group);
                self.dispatch(now);
            }
            Event::Close => self.on_close(now),
            Event::Terminate => self.end(TaskError::PoolClosed),
            Event::Interrupt(signal) => self.end(TaskError::Interrupted { signal }),
            Event::Resize(workers) => self.resize(now, workers),
            Event::Heavy(who) => {
                if let Some((index, _)) = self.working(who) {
                    self.leave(now, index, RetireReason::Memory);
                    self.dispatch(now);
                }
            }
            Event::Fault(what) => self.break_pool(BrokenReason::Internal(what)),
        }
        self.staff(now);
        self.hand_over(now);
        self.wind_up(now);
    }

    /// As [`Event::Finished`], where more results of the same worker may follow at once: what it is given for them is decided when
    /// all are known. [`reported`](Self::reported) has to follow.
    #[inline]
    pub(crate) fn report(&mut self, now: Instant, who: Incarnation, ticket: Ticket, count: u32, payload: P) {
        self.on_finished(now, who, ticket, count, payload);
    }

    /// There are no more results for now.
    pub(crate) fn reported(&mut self, now: Instant) {
        self.catch_up(now);
        self.staff(now);
        self.hand_over(now);
        self.wind_up(now);
    }

    /// What is to be done because of the events so far, in order, in exchange for a buffer that has been emptied.
    #[inline]
    pub(crate) fn exchange(&mut self, emptied: &mut VecDeque<Action<P>>) {
        debug_assert!(emptied.is_empty(), "actions would be lost");
        if emptied.capacity() > MOST_SPARE {
            *emptied = VecDeque::new();
        }
        std::mem::swap(&mut self.out, emptied);
    }

    /// As [`exchange`](Self::exchange), with a buffer of its own.
    #[cfg(test)]
    pub(crate) fn actions(&mut self) -> VecDeque<Action<P>> {
        std::mem::take(&mut self.out)
    }

    /// What is to be done and has not been asked for yet.
    pub(crate) fn wanted(&self) -> impl DoubleEndedIterator<Item = &Action<P>> {
        self.out.iter()
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

    /// The oldest item that a worker holds (what it runs, if it runs anything), and what is left of its unit behind it.
    pub(crate) fn head(&self, who: Incarnation) -> Option<Holding> {
        let held = self.slots[self.alive(who)?].hand()?.front()?;
        Some(self.holding(held))
    }

    /// Everything that a worker holds besides its head.
    pub(crate) fn tail(&self, who: Incarnation) -> Vec<Holding> {
        let hand = self.alive(who).and_then(|index| self.slots[index].hand());
        let mut tail: Vec<Holding> =
            hand.into_iter().flat_map(Hand::spans).map(|held| self.holding(held)).collect();
        if let Some(first) = tail.first_mut() {
            first.span = Span { first: first.span.first + 1, count: first.span.count - 1 };
            first.unit = first.unit.map(|(key, offset)| (key, offset + 1));
            if first.span.count == 0 {
                tail.remove(0);
            }
        }
        tail
    }

    fn holding(&self, held: &Held) -> Holding {
        let unit = held.task.and_then(|key| self.units.get(key).map(|unit| (key, unit.done)));
        Holding { span: held.span(), unit }
    }

    /// How many items a worker holds.
    pub(crate) fn load(&self, worker: usize) -> usize {
        self.slots.get(worker).and_then(Slot::hand).map_or(0, Hand::items)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Items that have not ended.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Whether any worker holds an item.
    pub(crate) fn holds_any(&self) -> bool {
        self.held > 0
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether it takes tasks.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.life, Life::Open)
    }

    /// Whether all tasks have ended and no worker is left, those being killed excepted.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained
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
        self.enter(index, Phase::Starting { since: now });
        let slot = &mut self.slots[index];
        slot.generation = Generation::new(self.next_generation);
        self.next_generation += 1;
        slot.timer = None;
        (slot.preparing, slot.prepared) = (None, 0);
        self.counters.spawned += 1;
        self.out.push_back(Action::Spawn(slot.incarnation()));
        self.schedule(index, now + self.config.start_timeout);
    }

    fn on_ready(&mut self, now: Instant, who: Incarnation) {
        let Some(index) = self.alive(who) else { return };
        if !matches!(self.slots[index].phase, Phase::Starting { .. }) {
            return self.on_violation(now, who, "a second hello".to_owned());
        }
        self.ever_ready = true;
        self.slots[index].timer = None;
        let quota = self.draw_quota();
        self.enter(index, Phase::Ready(Ready::new(now, Pace::new(now, &self.config), quota)));
        self.arm_idle(index);
        self.dispatch(now);
    }
}
