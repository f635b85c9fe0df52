//! How tasks end: results, failures, retries, cancellation, and the abort of a batch.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Machine, Place};
use crate::call::RetryOn;
use crate::error::{Death, TaskError};
use crate::supervisor::event::{Action, GroupId, Incarnation, KillReason, TaskKey, Ticket};
use crate::supervisor::slot::{Held, Phase};

/// What became of an attempt that did not succeed.
#[derive(Debug)]
pub(super) enum Mishap {
    /// The worker died in it.
    Death(Death),
    /// The worker told us of the failure, or we stopped the task.
    Error(TaskError),
}

impl<P> Machine<P> {
    /// Ends a task, once: a key that is not in the table has ended before.
    pub(super) fn resolve(&mut self, task: TaskKey, result: Result<P, TaskError>) {
        let Some(ended) = self.tasks.remove(task) else { return };
        if ended.place == Place::Queued {
            self.queued = self.queued.saturating_sub(1);
        }
        match &result {
            Ok(_) => self.counters.succeeded += 1,
            Err(TaskError::Cancelled) => self.counters.cancelled += 1,
            Err(TaskError::TimedOut { .. }) => self.counters.timed_out += 1,
            Err(_) => self.counters.failed += 1,
        }
        self.out.push(Action::Resolve { task, result });
    }

    /// A worker delivered the outcome of a task: it must be the oldest one that it holds.
    pub(super) fn on_outcome(
        &mut self,
        now: Instant,
        who: Incarnation,
        ticket: Ticket,
        outcome: Result<P, TaskError>,
    ) {
        let Some(index) = self.alive(who) else { return };
        let (held, working) = match &mut self.slots[index].phase {
            Phase::Ready(ready) if ready.held.front().is_some_and(|head| head.ticket == ticket) => {
                (ready.remove(0, now), true)
            }
            // It finished its task after all before the signal arrived. Whatever it was killed for, this is its head's result,
            // or, where the head is spoiled, that of a later one: results between them may have been mangled. Those tasks
            // stay, and the board tells in the end what became of them.
            Phase::Dying { held, .. } => {
                let spoiled = held.front().is_some_and(|head| head.spoiled);
                let place = held.iter().position(|held| held.ticket == ticket && !held.spoiled);
                let Some(place) = place.filter(|place| spoiled || *place == 0) else { return };
                (held.remove(place), false)
            }
            Phase::Ready(_) => {
                let what = format!("a result for ticket {ticket}, which it does not run");
                return self.on_violation(now, who, what);
            }
            _ => return,
        };
        let Some(held) = held else { return };
        self.held -= 1;
        self.settled += 1;
        self.slots[index].strikes.clear();
        if let Some(task) = held.task {
            match outcome {
                Ok(payload) => self.resolve(task, Ok(payload)),
                Err(error) => self.mishap(now, task, Mishap::Error(error)),
            }
        }
        if working {
            self.new_head(index, now);
            self.refill(index, now);
        } else {
            self.dispatch(now);
        }
    }

    /// A task cannot be sent to this worker.
    pub(super) fn on_unsendable(&mut self, now: Instant, who: Incarnation, ticket: Ticket, error: TaskError) {
        if let Some(task) = self.drop_held(now, who, ticket) {
            self.fail(now, task, error);
        }
        self.dispatch(now);
    }

    /// Removes a task that a worker holds but will never run, and returns it if it has not ended.
    pub(super) fn drop_held(&mut self, now: Instant, who: Incarnation, ticket: Ticket) -> Option<TaskKey> {
        let index = self.alive(who)?;
        let position = |held: &VecDeque<Held>| held.iter().position(|held| held.ticket == ticket);
        let held = match &mut self.slots[index].phase {
            Phase::Ready(ready) => ready.remove(position(&ready.held)?, now)?,
            // It must not be taken for a task that was started, when the worker is dead.
            Phase::Dying { held, .. } => held.remove(position(held)?)?,
            _ => return None,
        };
        self.held -= 1;
        self.new_head(index, now);
        held.task
    }

    /// The head of a worker has changed.
    fn new_head(&mut self, index: usize, now: Instant) {
        let Some(ready) = self.slots[index].ready() else { return };
        if ready.held.front().is_some_and(|head| head.task.is_none() && head.started.is_some()) {
            // It was cancelled, and could not be taken back because it had been claimed.
            self.doom(now, index, KillReason::Cancelled);
        }
        self.arm(index, now);
    }

    /// An attempt failed: the task runs again if its retries allow that, and ends otherwise.
    pub(super) fn mishap(&mut self, now: Instant, key: TaskKey, mishap: Mishap) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.attempts += 1;
        let retry = match &mishap {
            Mishap::Death(_) => true,
            Mishap::Error(TaskError::TimedOut { .. }) => task.spec.retry_on.contains(RetryOn::TIMEOUT),
            Mishap::Error(TaskError::Panicked { .. }) => task.spec.retry_on.contains(RetryOn::PANIC),
            Mishap::Error(_) => false,
        } && task.attempts <= task.spec.retries;
        if let Mishap::Death(death) = &mishap {
            task.deaths.push(death.clone());
        }
        if retry {
            if task.place != Place::Suspect {
                task.place = Place::Suspect;
                self.suspects.push_back(key);
            }
            self.counters.retried += 1;
            return;
        }
        let error = match mishap {
            Mishap::Death(death) if task.spec.retries == 0 => TaskError::WorkerDied(Box::new(death)),
            Mishap::Death(_) => TaskError::Poisoned { deaths: std::mem::take(&mut task.deaths) },
            Mishap::Error(error) => error,
        };
        self.fail(now, key, error);
    }

    /// Ends a task with an error, and its batch with it if the batch wants that.
    pub(super) fn fail(&mut self, now: Instant, key: TaskKey, error: TaskError) {
        let group = self.tasks.get(key).and_then(|task| task.spec.group.filter(|_| task.spec.abort));
        self.resolve(key, Err(error));
        if let Some(group) = group {
            self.cancel_group(now, group);
        }
    }

    /// Cancels one task, wherever it is. Its handle is told at once; a worker that runs it gets the grace period.
    pub(super) fn cancel(&mut self, now: Instant, key: TaskKey) {
        let Some(task) = self.tasks.get(key) else { return };
        let Place::With(worker) = task.place else {
            self.resolve(key, Err(TaskError::Cancelled));
            if self.queue.len() > 2 * self.queued + 64 {
                self.queue.retain(|task| self.tasks.get(*task).is_some());
            }
            return;
        };
        let index = worker.get() as usize;
        let who = self.slots[index].incarnation();
        match &mut self.slots[index].phase {
            Phase::Ready(ready) if ready.reserved == Some(key) => {
                ready.reserved = None;
                self.resolve(key, Err(TaskError::Cancelled));
            }
            Phase::Ready(ready) => {
                let Some(position) = ready.held.iter().position(|held| held.task == Some(key)) else {
                    return;
                };
                let held = &mut ready.held[position];
                held.task = None;
                if position == 0 && held.started.is_some() {
                    self.doom(now, index, KillReason::Cancelled);
                } else if !held.taking {
                    held.taking = true;
                    let ticket = held.ticket;
                    self.out.push(Action::TakeBack(who, vec![ticket]));
                }
                self.resolve(key, Err(TaskError::Cancelled));
            }
            Phase::Dying { held, .. } => {
                held.iter_mut().filter(|held| held.task == Some(key)).for_each(|held| held.task = None);
                self.resolve(key, Err(TaskError::Cancelled));
            }
            Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Retiring { .. } | Phase::Stopped => {}
        }
    }

    /// Cancels every task of a batch that has not ended.
    pub(super) fn cancel_group(&mut self, now: Instant, group: GroupId) {
        let of_group = |task: &TaskKey| self.tasks.get(*task).is_some_and(|t| t.spec.group == Some(group));
        let mut doomed: Vec<TaskKey> =
            self.queue.iter().chain(&self.suspects).copied().filter(of_group).collect();
        for slot in &self.slots {
            let (held, reserved) = match &slot.phase {
                Phase::Ready(ready) => (&ready.held, ready.reserved),
                Phase::Dying { held, .. } => (held, None),
                _ => continue,
            };
            doomed.extend(held.iter().filter_map(|held| held.task).chain(reserved).filter(of_group));
        }
        for task in doomed {
            self.cancel(now, task);
        }
        self.queue.retain(|task| self.tasks.get(*task).is_some());
        self.suspects.retain(|task| self.tasks.get(*task).is_some());
    }

    /// Tells the running head of a worker to stop: flag now, kill after the grace period.
    pub(super) fn doom(&mut self, now: Instant, index: usize, why: KillReason) {
        let who = self.slots[index].incarnation();
        let Some(ready) = self.slots[index].ready() else { return };
        let Some(head) = ready.held.front_mut() else { return };
        if head.doomed.is_some() {
            return;
        }
        head.doomed = Some((now, why));
        let ticket = head.ticket;
        self.out.push(Action::FlagCancel(who, ticket));
        self.schedule(index, now + self.config.cancel_grace);
    }
}
