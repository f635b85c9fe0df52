//! How tasks end: results, failures, retries, cancellation, and the abort of a batch.

use std::time::{Duration, Instant};

use super::Machine;
use super::hand::Held;
use super::unit::{Place, Unit};
use crate::call::RetryOn;
use crate::error::{Death, TaskError};
use crate::supervisor::event::{Action, Incarnation, KillReason, Span, TaskKey, Ticket};
use crate::supervisor::slot::Phase;

/// What became of an attempt that did not succeed.
#[derive(Debug)]
pub(super) enum Mishap {
    /// The worker died in it.
    Death(Death),
    /// The worker told us of the failure, or we stopped the task.
    Error(TaskError),
}

impl<P> Machine<P> {
    /// Ends what is left of a unit, once: a key that is not in the table has ended before.
    pub(super) fn resolve(&mut self, task: TaskKey, result: Result<P, TaskError>) {
        let Some(unit) = self.units.get(task) else { return };
        let (first, count) = (unit.done, unit.left());
        match unit.place {
            Place::Queued => {
                self.queue.remove(&mut self.units, task);
                self.queued -= count as usize;
            }
            Place::Suspect => self.suspects.remove(&mut self.units, task),
            Place::With(_) => {}
        }
        self.units.remove(task);
        self.settle(task, first, count, result);
    }

    /// Items with results: the first ones of a unit.
    fn succeed(&mut self, task: TaskKey, count: u32, payload: P) {
        let Some(unit) = self.units.get_mut(task) else { return };
        let first = unit.done;
        unit.done += count;
        if unit.done == unit.end {
            self.units.remove(task);
        }
        self.settle(task, first, count, Ok(payload));
    }

    /// Items of a unit, for each of which so much was charged, have taken so much of a worker's time. It matters only where lanes may compete.
    #[inline]
    pub(super) fn bill(&mut self, task: TaskKey, items: u32, each: u64, spent: Duration) {
        if self.queue.is_shared()
            && let Some(unit) = self.units.get(task)
        {
            let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            self.queue.note(unit.lane, items, each.saturating_mul(u64::from(items)), spent);
        }
    }

    fn settle(&mut self, task: TaskKey, first: u32, count: u32, result: Result<P, TaskError>) {
        let counter = match &result {
            Ok(_) => &mut self.counters.succeeded,
            Err(TaskError::Cancelled) => &mut self.counters.cancelled,
            Err(TaskError::TimedOut { .. }) => &mut self.counters.timed_out,
            Err(TaskError::DeadlineExceeded { .. }) => &mut self.counters.overdue,
            Err(_) => &mut self.counters.failed,
        };
        *counter += u64::from(count);
        self.pending -= count as usize;
        self.out.push_back(Action::Resolve { task, first, count, result });
    }

    /// A worker delivered results: they must be those of the oldest items that it holds. [`catch_up`](Self::catch_up) has to follow,
    /// before anything else happens to a worker.
    pub(super) fn on_finished(
        &mut self,
        now: Instant,
        who: Incarnation,
        ticket: Ticket,
        count: u32,
        payload: P,
    ) {
        let Some(index) = self.alive(who) else { return };
        if self.behind.is_some_and(|behind| behind as usize != index) {
            self.catch_up(now);
        }
        let Some(ready) = self.slots[index].ready() else {
            if let Some(held) = self.late_result(now, index, Span { first: ticket, count }) {
                if let Some(task) = held.task {
                    self.resolve(task, Ok(payload));
                }
                self.dispatch(now);
            }
            return;
        };
        let Some(front) =
            ready.hand.front().filter(|front| front.ticket == ticket && (1..=front.count).contains(&count))
        else {
            return self.not_its_own(now, who, ticket);
        };
        let task = front.task;
        // Before the report ends it.
        let bill = self.queue.is_shared().then(|| (front.charged, ready.pace.silence(now)));
        ready.hand.advance(count, now);
        let done = ready.hand.is_empty() && ready.is_going();
        if let Some(took) = ready.pace.report(now, count, &self.config) {
            self.tempo.note(took, &self.config);
        }
        self.held -= count as usize;
        self.settled += u64::from(count);
        self.slots[index].strikes.clear();
        if let Some(task) = task {
            if let Some((charged, spent)) = bill {
                self.bill(task, count, charged, spent);
            }
            self.succeed(task, count, payload);
        }
        self.touch_hand(index);
        if done {
            self.behind = None;
            self.retire_if_done(now, index);
            return self.dispatch(now);
        }
        self.behind = Some(index as u32);
    }

    /// Looks after the worker whose results have been taken in last.
    #[inline]
    pub(super) fn catch_up(&mut self, now: Instant) {
        if let Some(index) = self.behind.take() {
            self.arm(index as usize, now);
            self.refill(index as usize, now);
        }
    }

    /// A worker reported the failure of a task: it must be the oldest one that it holds.
    pub(super) fn on_failed(&mut self, now: Instant, who: Incarnation, ticket: Ticket, error: TaskError) {
        let Some(index) = self.alive(who) else { return };
        let span = Span { first: ticket, count: 1 };
        let Some(ready) = self.slots[index].ready() else {
            if let Some(held) = self.late_result(now, index, span) {
                if let Some(task) = held.task {
                    self.mishap(now, task, Mishap::Error(error));
                }
                self.dispatch(now);
            }
            return;
        };
        if ready.hand.front().is_none_or(|front| front.ticket != ticket) {
            return self.not_its_own(now, who, ticket);
        }
        let spent = ready.pace.silence(now);
        if let Some(took) = ready.pace.report(now, 1, &self.config) {
            self.tempo.note(took, &self.config);
        }
        self.settled += 1;
        self.slots[index].strikes.clear();
        let held = self.extract(index, span, now);
        if let Some((task, charged)) = held.into_iter().find_map(|held| Some((held.task?, held.charged))) {
            self.bill(task, 1, charged, spent);
            self.mishap(now, task, Mishap::Error(error));
        }
        if self.retire_if_done(now, index) {
            return self.dispatch(now);
        }
        self.arm(index, now);
        self.refill(index, now);
    }

    fn not_its_own(&mut self, now: Instant, who: Incarnation, ticket: Ticket) {
        self.on_violation(now, who, format!("a result for ticket {ticket}, which it does not run"));
    }

    /// A worker that is being killed finished something after all, before the signal arrived. Whatever it was killed for,
    /// these are its head's results, or, where the head is spoiled, those of later items: results between them may have been
    /// mangled. Those items stay, and the board tells in the end what became of them.
    fn late_result(&mut self, now: Instant, index: usize, span: Span) -> Option<Held> {
        let Phase::Dying { hand, .. } = &self.slots[index].phase else { return None };
        let place = hand.place(span.first);
        let held = hand.get(place).filter(|held| held.ticket <= span.first && span.end() <= held.end())?;
        let fits = match hand.head()?.spoiled {
            true => place > 0,
            false => place == 0 && held.ticket == span.first,
        };
        if !fits || span.count == 0 {
            return None;
        }
        self.settled += u64::from(span.count);
        self.slots[index].strikes.clear();
        self.extract(index, span, now).pop()
    }

    /// Tasks cannot be sent to this worker.
    pub(super) fn on_unsendable(&mut self, now: Instant, who: Incarnation, span: Span, error: &TaskError) {
        let Some(index) = self.alive(who) else { return };
        // They must not be taken for tasks that were started, when the worker is dead.
        let held = self.extract(index, span, now);
        self.give_back_quota(index, &held);
        self.refund(&held);
        for task in held.into_iter().filter_map(|held| held.task) {
            self.fail(now, task, error.clone());
        }
        self.arm(index, now);
        self.retire_if_done(now, index);
        self.dispatch(now);
    }

    /// An attempt failed: the task runs again if its retries allow that, and ends otherwise.
    pub(super) fn mishap(&mut self, now: Instant, key: TaskKey, mishap: Mishap) {
        let Some(unit) = self.units.get_mut(key) else { return };
        debug_assert_eq!(unit.left(), 1, "several items fail as one: {unit:?}");
        let kind = match &mishap {
            Mishap::Death(_) => Some(RetryOn::DEATH),
            Mishap::Error(TaskError::TimedOut { .. }) => Some(RetryOn::TIMEOUT),
            Mishap::Error(TaskError::Panicked { .. }) => Some(RetryOn::PANIC),
            Mishap::Error(_) => None,
        };
        let again = kind.is_some_and(|kind| unit.runs_again(kind));
        let death = match &mishap {
            Mishap::Death(death) => Some(death),
            Mishap::Error(_) => None,
        };
        unit.count_attempt(death);
        if again {
            self.counters.retried += 1;
            return self.suspect(key);
        }
        let error = match mishap {
            Mishap::Death(death) => match unit.take_deaths() {
                Some(deaths) => TaskError::Poisoned { deaths },
                None => TaskError::WorkerDied(Box::new(death)),
            },
            Mishap::Error(error) => error,
        };
        self.fail(now, key, error);
    }

    /// A task is to run alone, if it runs at all.
    pub(super) fn suspect(&mut self, key: TaskKey) {
        let Some(unit) = self.units.get_mut(key) else { return };
        if unit.place != Place::Suspect {
            unit.place = Place::Suspect;
            self.suspects.push_back(&mut self.units, key);
        }
    }

    /// Ends a unit with an error, and its batch with it if the batch wants that.
    pub(super) fn fail(&mut self, now: Instant, key: TaskKey, error: TaskError) {
        let group = self.units.get(key).and_then(Unit::group);
        self.resolve(key, Err(error));
        if let Some(group) = group {
            self.abort_group(now, group);
        }
    }

    /// Cancels what is left of a unit, wherever it is. Its handle is told at once; a worker that runs one of its items gets the
    /// grace period.
    pub(super) fn cancel(&mut self, now: Instant, key: TaskKey) {
        self.stop(now, key, TaskError::Cancelled);
    }

    /// Ends what is left of a unit with an error of the pool's, wherever it is.
    pub(super) fn stop(&mut self, now: Instant, key: TaskKey, error: TaskError) {
        let Some(unit) = self.units.get(key) else { return };
        if let Place::With(worker) = unit.place {
            self.disown(now, worker.get() as usize, key);
        }
        self.resolve(key, Err(error));
    }

    /// A worker shall not run what is left of a unit, and its results will not be wanted.
    fn disown(&mut self, now: Instant, index: usize, key: TaskKey) {
        let who = self.slots[index].incarnation();
        match &mut self.slots[index].phase {
            Phase::Ready(ready) if ready.reserved == Some(key) => {
                ready.reserved = None;
                self.touch(index);
            }
            Phase::Ready(ready) => {
                let Some(place) = ready.hand.disown(key) else { return };
                let started = place == 0 && ready.hand.head().is_some_and(|head| head.started.is_some());
                if let Some(span) = ready.hand.ask_for(place, started) {
                    self.out.push_back(Action::TakeBack(who, vec![span]));
                }
                if started {
                    self.doom(now, index, KillReason::Cancelled);
                }
            }
            Phase::Dying { hand, .. } => {
                hand.disown(key);
            }
            Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Retiring { .. } | Phase::Stopped => {}
        }
    }

    /// Tells the running head of a worker to stop: flag now, kill after the grace period.
    pub(super) fn doom(&mut self, now: Instant, index: usize, why: KillReason) {
        let who = self.slots[index].incarnation();
        self.isolate_head(index);
        let task = self.head(who).and_then(|head| head.unit);
        let Some(ready) = self.slots[index].ready() else { return };
        let Some(ticket) = ready.hand.front().map(|front| front.ticket) else { return };
        let Some(head) = ready.hand.head_mut().filter(|head| head.doomed.is_none()) else { return };
        head.doomed = Some((now, why));
        self.out.push_back(Action::FlagCancel(who, ticket, task));
        self.schedule(index, now + self.config.cancel_grace);
        self.touch(index);
    }
}
