//! Timers: time limits, grace periods, start and exit deadlines, back-off.
//!
//! A slot has at most one timer that counts, `Slot::timer`; older entries of the heap are skipped. The timer of a busy
//! worker is set lazily: a task cannot have started before it became the head, so nothing needs to be looked at before
//! `head_since + limit`. Only then the board is read, and the timer is set again from the true start.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::Machine;
use crate::call::RetryOn;
use crate::error::{BrokenReason, TaskError};
use crate::supervisor::event::{Action, Incarnation, KillReason, Observation};
use crate::supervisor::slot::Phase;

/// While guesses have turned out right, they are looked at after so many times as long as it takes to wake a worker.
const CALM: u32 = 20;
/// An unclaimed task is not looked at more often than this, however short its limit is.
const LEAST_LOOK: Duration = Duration::from_millis(1);

impl<P> Machine<P> {
    /// When [`Event::Tick`](crate::supervisor::event::Event::Tick) is due next.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, index))) = self.timers.peek() {
            if self.slots[index as usize].timer == Some(at) {
                return Some(self.looks().map_or(at, |look| look.min(at)));
            }
            self.timers.pop();
        }
        self.looks()
    }

    /// The next moment that is of no worker in particular.
    fn looks(&self) -> Option<Instant> {
        if self.level_at.is_none() && self.grow_at.is_none() && self.groups.due().is_none() {
            return self.again;
        }
        [self.again, self.level_at, self.grow_at, self.groups.due()].into_iter().flatten().min()
    }

    /// Whether something is about to be decided for which one should know all that workers have done: who should be done by now,
    /// or what has ended before the deadline of its batch.
    pub(crate) fn is_to_look_again(&self, now: Instant) -> bool {
        self.looks().is_some_and(|look| look <= now)
    }

    /// Whether the deadline of a batch has come.
    pub(crate) fn is_batch_due(&self, now: Instant) -> bool {
        self.groups.due().is_some_and(|due| due <= now)
    }

    pub(super) fn schedule(&mut self, index: usize, at: Instant) {
        let slot = &mut self.slots[index];
        if slot.timer.is_none_or(|timer| at < timer) {
            slot.timer = Some(at);
            self.timers.push(Reverse((at, index as u32)));
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(&Reverse((at, index))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let index = index as usize;
            if self.slots[index].timer == Some(at) {
                self.slots[index].timer = None;
                self.look_at(index, now);
            }
        }
        if self.groups.due().is_some_and(|due| due <= now) {
            self.end_overdue(now);
            self.dispatch(now);
        }
        if self.level_at.is_some_and(|at| at <= now) {
            self.level_hands(now);
            self.dispatch(now);
        }
        if self.grow_at.is_some_and(|at| at <= now) {
            self.grow_at = None;
            if self.may_grow() {
                (self.grow_due, self.unsettled) = (true, true);
                self.grow_at = Some(now + self.config.start_up);
            }
        }
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            let wanted = self.out.len();
            self.dispatch(now);
            // While all goes as it should, once in a while is enough.
            let calm = self.out.len() == wanted;
            self.again_from = if calm { now + CALM * self.config.wake } else { now };
        }
    }

    fn look_at(&mut self, index: usize, now: Instant) {
        let who = self.slots[index].incarnation();
        match &self.slots[index].phase {
            Phase::Waiting { until } => {
                let until = *until;
                self.wake(now, index, until);
            }
            Phase::Starting { since } => {
                let due = self.init_due(index).unwrap_or(*since + self.config.start_timeout);
                if now < due {
                    self.schedule(index, due);
                } else if self.slots[index].preparing.is_some() {
                    self.init_timed_out(now, index);
                } else {
                    self.start_timed_out(index, now);
                }
            }
            Phase::Ready(ready) => match ready.hand.head() {
                Some(head) if head.doomed.is_none() && head.started.is_some() => {
                    self.out.push_back(Action::Inspect(who));
                }
                None => {
                    self.rest(now, index);
                    self.dispatch(now);
                }
                Some(_) => self.check_head(index, now),
            },
            Phase::Retiring { .. } => {
                if self.exit_due(index).is_some_and(|due| now < due) {
                    self.arm_exit(index);
                } else {
                    self.enter(index, Phase::Stopped);
                    self.unsettled = true;
                    self.counters.kills += 1;
                    self.out.push_back(Action::Kill { who, why: KillReason::ExitTimeout, fenced: true });
                }
            }
            Phase::Dying { .. } | Phase::Stopped => {}
        }
    }

    fn start_timed_out(&mut self, index: usize, now: Instant) {
        let who = self.slots[index].incarnation();
        let limit = self.config.start_timeout;
        if !self.ever_ready {
            // None has ever started: waiting for more of them only delays the news.
            let executable = self.config.executable.clone();
            let why = format!(
                "it did not report as a worker within {limit:?} (start_timeout); \
                 `pool_core::init()` must be the first line of its main()"
            );
            return self.break_pool(BrokenReason::CannotStart { executable, why });
        }
        self.kill_and_await(now, who, KillReason::StartTimeout(limit));
    }

    /// Sets the timer that the head of a worker needs.
    pub(super) fn arm(&mut self, index: usize, now: Instant) {
        let (claim, grace) = (self.config.claim_timeout, self.config.cancel_grace);
        let Phase::Ready(ready) = &self.slots[index].phase else { return };
        let (Some(front), Some(head)) = (ready.hand.front(), ready.hand.head()) else {
            return self.arm_idle(index);
        };
        let unclaimed = self.init_due(index);
        let due = match (&head.doomed, head.started, front.limit.get()) {
            (Some((since, _)), _, _) => Some(*since + grace),
            // Looked at now and then in any case: the news of its end may have been lost.
            (None, Some(started), Some(limit)) => Some((started + limit).min(now + claim)),
            (None, Some(_), None) => Some(now + claim),
            (None, None, _) if unclaimed.is_some() => unclaimed,
            (None, None, Some(limit)) => Some(head.since + limit.min(claim)),
            (None, None, None) => Some(head.since + claim),
        };
        if let Some(due) = due {
            self.schedule(index, due);
        }
    }

    fn check_head(&mut self, index: usize, now: Instant) {
        let who = self.slots[index].incarnation();
        let (claim, grace) = (self.config.claim_timeout, self.config.cancel_grace);
        let Phase::Ready(ready) = &self.slots[index].phase else { return };
        let (Some(front), Some(head)) = (ready.hand.front(), ready.hand.head()) else { return };
        let unclaimed = self.init_due(index);
        match (&head.doomed, head.started, front.limit.get()) {
            (Some((since, _)), _, _) if now >= *since + grace => self.condemn(now, index),
            // Inspected first: it may have finished in time, and only the news of it be late.
            (None, Some(started), Some(limit)) if now >= started + limit => {
                self.out.push_back(Action::Inspect(who))
            }
            (None, None, limit)
                if now >= unclaimed.unwrap_or(head.since + limit.unwrap_or(claim).min(claim)) =>
            {
                self.out.push_back(Action::Inspect(who));
            }
            _ => self.arm(index, now),
        }
    }

    pub(super) fn on_observed(&mut self, now: Instant, who: Incarnation, seen: Observation) {
        let claim = self.config.claim_timeout;
        let preparing = self.alive(who).and_then(|index| self.init_due(index));
        let Some((index, ready)) = self.working(who) else { return };
        let (since, taking) = (ready.since, ready.hand.is_taking());
        let front = ready.hand.front().filter(|front| Some(front.ticket) == seen.ticket);
        let Some((wanted, limit)) = front.map(|front| (front.task.is_some(), front.limit.get())) else {
            return self.arm(index, now);
        };
        let Some(head) = ready.hand.head_mut() else { return };
        if head.condemned && !taking {
            return self.execute(now, index);
        }
        // The board is untrusted: a start in the future would put the limit off for ever.
        head.started = head.started.or(seen.started.map(|at| at.clamp(since, now)));
        match head.started {
            Some(started) => {
                let late = limit.is_some_and(|limit| now >= started + limit);
                if head.doomed.is_none() && !wanted {
                    self.doom(now, index, KillReason::Cancelled);
                } else if head.doomed.is_none() && late {
                    self.expire(index, now);
                }
                self.check_head(index, now);
            }
            None if preparing.is_some_and(|due| now < due) => self.arm(index, now),
            None if preparing.is_some() => self.init_timed_out(now, index),
            None if seen.moving => {
                head.since = now;
                self.arm(index, now);
            }
            None if now >= head.since + claim => {
                let waited = now.duration_since(head.since);
                self.kill_and_await(now, who, KillReason::Unresponsive(waited));
                self.dispatch(now);
            }
            None => {
                let later = limit.map_or(head.since + claim, |limit| now + limit.max(LEAST_LOOK));
                let due = later.min(head.since + claim);
                self.schedule(index, due);
            }
        }
    }

    /// The head of a worker has exceeded its limit.
    fn expire(&mut self, index: usize, now: Instant) {
        self.doom(now, index, KillReason::Timeout);
        let Some(ready) = self.slots[index].ready() else { return };
        let spent =
            ready.hand.head().map_or(Duration::ZERO, |head| now.saturating_duration_since(head.since));
        let Some(front) = ready.hand.front_mut() else { return };
        let (Some(limit), Some(key)) = (front.limit.get(), front.task) else { return };
        if self.units.get(key).is_some_and(|unit| unit.runs_again(RetryOn::TIMEOUT)) {
            // It may still end in time, in another way or not at all: then it is billed.
            return;
        }
        front.task = None;
        let charged = std::mem::take(&mut front.charged);
        self.bill(key, 1, charged, spent);
        self.fail(now, key, TaskError::timed_out(limit));
    }
}
