//! Looks at what an event is about before the machine is given it.

use std::ops::Range;

use super::{
    BatchEvent, BatchState, PoolEvent, PoolState, UnitEvent, UnitState, Verdict, WorkerEvent, WorkerState,
};
use crate::error::{BrokenReason, TaskError};
use crate::supervisor::event::{Action, Event, GroupId, Incarnation, Span, TaskKey, Ticket};
use crate::supervisor::simulation::fact::{Answer, Answers, Item};
use crate::supervisor::simulation::world::World;

/// What was there before an event.
#[derive(Debug)]
pub(in crate::supervisor::simulation) struct Before {
    /// How many actions had not been carried out.
    actions: usize,
    /// It is news of a worker that the machine ignores.
    ignored: Option<String>,
    /// Units of batches that a failure would end, if the event may bring one.
    mates: Vec<(TaskKey, UnitState)>,
}

/// What is remembered from one event to the next.
#[derive(Debug)]
pub(in crate::supervisor::simulation) struct Watch {
    /// What the pool was before the present event.
    pool: PoolState,
    /// How many workers were wanted last.
    most: u32,
    /// Units that have ended with their batch during the present event.
    aborted: Vec<TaskKey>,
}

impl Watch {
    pub(in crate::supervisor::simulation) fn new(most: u32) -> Self {
        Self { pool: PoolState::Fresh, most, aborted: Vec::new() }
    }
}

/// A unit that a worker holds, and its tickets.
type Held = (TaskKey, Range<Ticket>);

impl World<'_> {
    pub(in crate::supervisor::simulation) fn pool_state(&self) -> PoolState {
        PoolState::of(&self.machine, self.terminated || self.broken)
    }

    /// Counts what is about to happen.
    pub(in crate::supervisor::simulation) fn foresee(&mut self, event: &Event<Answers>) -> Before {
        self.watch.pool = self.pool_state();
        self.coverage.pools.count(self.watch.pool, PoolEvent::of(event));
        let mut before = Before { actions: self.pending.len(), ignored: None, mates: Vec::new() };
        if let Some((who, what)) = WorkerEvent::of(&self.machine, event) {
            let state = WorkerState::of(&self.machine, who);
            if let Verdict::Ignored(_) = self.coverage.workers.count(state, what) {
                before.ignored = Some(format!("{state:?} × {what:?}"));
            }
            before.mates = self.foresee_units(who, event);
        }
        if let Some(what) = WorkerEvent::of_all(event, self.watch.most) {
            for slot in self.machine.slots() {
                self.coverage.workers.count(WorkerState::of_slot(slot), what);
            }
        }
        match event {
            Event::Tick => self.foresee_tick(),
            Event::Cancel(key) => {
                let state = self.unit_state(*key);
                self.coverage.units.count(state, UnitEvent::Cancel);
            }
            Event::CloseGroup(id) => self.count_batch(*id, UnitEvent::CloseGroup),
            Event::Resize(most) => self.watch.most = *most,
            Event::Terminate | Event::Interrupt(_) | Event::Fault(_) => {
                for key in self.parcels.keys().copied().collect::<Vec<_>>() {
                    let state = self.unit_state(key);
                    self.coverage.units.count(state, UnitEvent::End);
                }
                for batch in &self.batches {
                    self.coverage.batches.count(BatchState::of(batch), BatchEvent::End);
                }
            }
            _ => {}
        }
        before
    }

    /// Counts what one can only tell by what has come of it; what is ignored has had no effect.
    pub(in crate::supervisor::simulation) fn look_back(&mut self, before: Before) {
        let aborted = std::mem::take(&mut self.watch.aborted);
        for (_, state) in before.mates.iter().filter(|(key, _)| aborted.contains(key)) {
            self.coverage.units.count(*state, UnitEvent::Aborted);
        }
        let Some(what) = before.ignored else { return };
        // What was to be done anyway may be done now.
        let matters = |action: &&Action<Answers>| {
            matches!(
                action,
                Action::Kill { .. }
                    | Action::Retire(..)
                    | Action::Resolve { .. }
                    | Action::FlagCancel(..)
                    | Action::Broken(_)
                    | Action::Drained
            )
        };
        let effect = self.pending.iter().skip(before.actions).find(matters);
        assert!(effect.is_none(), "{what} is to be ignored: {effect:?}");
    }

    fn foresee_tick(&mut self) {
        let due = |timer: Option<std::time::Instant>| timer.is_some_and(|at| at <= self.now);
        let slots = self.machine.slots().iter();
        let states: Vec<WorkerState> =
            slots.filter(|slot| due(slot.timer)).map(WorkerState::of_slot).collect();
        for state in states {
            self.coverage.workers.count(state, WorkerEvent::Timer);
        }
        for index in 0..self.batches.len() {
            let batch = &mut self.batches[index];
            if !batch.passed && batch.deadline.is_some_and(|(at, _)| at <= self.now) {
                batch.passed = true;
                let (id, state) = (batch.id, BatchState::of(batch));
                self.coverage.batches.count(state, BatchEvent::Deadline);
                self.count_batch(id, UnitEvent::Deadline);
            }
        }
    }

    pub(in crate::supervisor::simulation) fn unit_state(&self, key: TaskKey) -> UnitState {
        let pinned = self.facts.get(key.id.get() as usize - 1).is_some_and(|fact| fact.pin.is_some());
        UnitState::of(&self.machine, key, pinned)
    }

    fn units_of(&self, batch: usize) -> Vec<(TaskKey, UnitState)> {
        let is_of = |key: &&TaskKey| self.facts[key.id.get() as usize - 1].group == Some(batch);
        self.parcels.keys().filter(is_of).map(|key| (*key, self.unit_state(*key))).collect()
    }

    fn count_batch(&mut self, id: GroupId, what: UnitEvent) {
        let Some(index) = self.batches.iter().position(|batch| batch.id == id) else { return };
        for (_, state) in self.units_of(index) {
            self.coverage.units.count(state, what);
        }
    }

    /// Counts the units that an event of a worker is about, and returns what it may abort.
    fn foresee_units(&mut self, who: Incarnation, event: &Event<Answers>) -> Vec<(TaskKey, UnitState)> {
        let slot = self.machine.slots().get(who.index()).filter(|slot| slot.incarnation() == who);
        let hand = slot.and_then(|slot| slot.hand());
        let spans = hand.into_iter().flat_map(|hand| hand.spans());
        let held: Vec<Held> = spans.filter_map(|held| Some((held.task?, held.ticket..held.end()))).collect();
        let head = hand.and_then(|hand| hand.front()).map(|front| front.ticket);
        let reserved = slot.and_then(|slot| slot.active()).and_then(|ready| ready.reserved);
        let is_head = |(_, tickets): &&Held| head == Some(tickets.start);
        let mut seen: Vec<(TaskKey, UnitEvent)> = Vec::new();
        let all = |what: UnitEvent| held.iter().map(move |(key, _)| (*key, what));
        let at = |ticket: Ticket, what: UnitEvent| {
            held.iter()
                .filter(move |(_, tickets)| tickets.contains(&ticket))
                .map(move |(key, _)| (*key, what))
        };
        let within = |span: Span, what: UnitEvent| {
            let meets = move |tickets: &Range<Ticket>| tickets.start < span.end() && span.first < tickets.end;
            held.iter().filter(move |(_, tickets)| meets(tickets)).map(move |(key, _)| (*key, what))
        };
        match event {
            Event::Finished(_, ticket, ..) => seen.extend(at(*ticket, UnitEvent::Finished)),
            Event::Failed(_, ticket, _) => seen.extend(at(*ticket, UnitEvent::Failed)),
            Event::Unsendable(_, span, _) => seen.extend(within(*span, UnitEvent::Unsendable)),
            Event::TookBack(_, answers) => {
                for (span, unclaimed) in answers {
                    let what = if *unclaimed { UnitEvent::TookBack } else { UnitEvent::Claimed };
                    seen.extend(within(*span, what));
                }
            }
            Event::Illegible(_, spans) => {
                spans.iter().for_each(|span| seen.extend(within(*span, UnitEvent::Illegible)));
            }
            Event::Observed(_, looked) if looked.ticket.is_some() && looked.ticket == head => {
                for (key, tickets) in held.iter().filter(is_head) {
                    let late = looked.started.is_some() && self.is_overdue(self.item_at(*key));
                    let what = if late { UnitEvent::Overdue } else { UnitEvent::Observed };
                    seen.extend(at(tickets.start, what));
                }
            }
            Event::Garbage(..) | Event::OverLimit(..) | Event::Crowded(..) | Event::Violation(..) => {
                seen.extend(all(UnitEvent::KillsWorker));
                seen.extend(reserved.map(|key| (key, UnitEvent::KillsWorker)));
            }
            Event::Lost(_, lost) => {
                lost.iter().for_each(|(ticket, _)| seen.extend(at(*ticket, UnitEvent::Lost)));
            }
            Event::Died(_, autopsy) => {
                for unit in &held {
                    let is_victim = autopsy.started && is_head(&unit);
                    seen.push((unit.0, if is_victim { UnitEvent::DiedInIt } else { UnitEvent::Died }));
                }
                seen.extend(reserved.map(|key| (key, UnitEvent::Died)));
            }
            Event::Heavy(_) => {
                seen.extend(all(UnitEvent::Leaves));
                seen.extend(reserved.map(|key| (key, UnitEvent::Leaves)));
            }
            _ => {}
        }
        let fails = matches!(
            event,
            Event::Failed(..)
                | Event::Unsendable(..)
                | Event::Observed(..)
                | Event::Lost(..)
                | Event::Died(..)
        );
        let groups = held.iter().filter_map(|(key, _)| self.facts[key.id.get() as usize - 1].group);
        let mut groups: Vec<usize> = groups.filter(|group| fails && self.batches[*group].abort).collect();
        groups.sort_unstable();
        groups.dedup();
        for (key, what) in seen {
            let state = self.unit_state(key);
            self.coverage.units.count(state, what);
        }
        groups.into_iter().flat_map(|group| self.units_of(group)).collect()
    }

    /// The first item that is left of a unit.
    fn item_at(&self, key: TaskKey) -> Item {
        self.parcels.get(&key).and_then(|parcel| parcel.items(key).next()).unwrap_or(key.id.get())
    }

    pub(in crate::supervisor::simulation) fn count_submit(&mut self, batch: Option<usize>) {
        let pool = self.pool_state();
        self.coverage.pools.count(pool, PoolEvent::Submit);
        if let Some(index) = batch {
            self.coverage.batches.count(BatchState::of(&self.batches[index]), BatchEvent::Submit);
        }
    }

    pub(in crate::supervisor::simulation) fn count_open(&mut self) {
        let pool = self.pool_state();
        self.coverage.pools.count(pool, PoolEvent::Open);
    }

    pub(in crate::supervisor::simulation) fn count_close(&mut self, batch: usize) {
        self.coverage.batches.count(BatchState::of(&self.batches[batch]), BatchEvent::Close);
    }

    /// A task of a batch ends, by itself or alone.
    pub(in crate::supervisor::simulation) fn count_end(
        &mut self,
        batch: usize,
        alone: bool,
        result: Result<&Answer, &TaskError>,
    ) {
        let what = match result {
            Ok(_) => BatchEvent::Success,
            Err(TaskError::Cancelled) if alone => BatchEvent::Cancelled,
            Err(
                TaskError::Cancelled
                | TaskError::DeadlineExceeded { .. }
                | TaskError::PoolBroken(_)
                | TaskError::PoolClosed
                | TaskError::Interrupted { .. },
            ) => return,
            Err(_) if self.batches[batch].abort => BatchEvent::FatalFailure,
            Err(_) => BatchEvent::Failure,
        };
        self.coverage.batches.count(BatchState::of(&self.batches[batch]), what);
    }

    /// A unit has ended because another task of its batch has failed.
    pub(in crate::supervisor::simulation) fn note_aborted(&mut self, key: TaskKey) {
        self.watch.aborted.push(key);
    }

    pub(in crate::supervisor::simulation) fn count_break(&mut self, reason: &BrokenReason) {
        if let Some(what) = PoolEvent::of_break(reason) {
            self.coverage.pools.count(self.watch.pool, what);
        }
    }
}
