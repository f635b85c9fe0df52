//! Deaths: who is blamed, what happens to what the worker held, and whether and when it is replaced.
//!
//! A death with a running task is that task's; the worker is replaced at once. A death without one (while starting, idle,
//! or between two tasks) is a *strike* against the worker's slot: the first replacement comes at once, later ones after a
//! back-off that doubles. More strikes within the window (of time in which the worker was ready) than the restart policy
//! allows, with no task finished in the pool in between, break the pool, provided that no other worker is of any use: for a
//! worker that does not start, that none is ready; for one that dies idle, that tasks wait and none is being worked on.
//! Kills of our own count against nobody, except where the worker gave the reason (protocol violation, no start).

use std::time::{Duration, Instant};

use super::endings::Mishap;
use super::hand::{Hand, Held};
use super::taking::cut;
use super::{Life, Machine};
use crate::error::{BrokenReason, Death, TaskError};
use crate::supervisor::event::{Action, Autopsy, Incarnation, KillReason, Span, TaskKey, Ticket};
use crate::supervisor::slot::{Phase, Strike};

/// Strikes of a slot that are remembered, if the policy does not need more: the back-off has long reached its limit.
const LONGEST_STREAK: usize = 32;

impl<P> Machine<P> {
    pub(super) fn on_died(&mut self, now: Instant, who: Incarnation, autopsy: Autopsy) {
        let Some(index) = self.alive(who) else { return };
        let Autopsy { death, started } = autopsy;
        let preparing = self.slots[index].preparing.take();
        if !started
            && let Some(preparing) = preparing
            && self.died_preparing(index, &preparing, &death)
        {
            return;
        }
        match self.enter(index, Phase::Stopped) {
            Phase::Starting { .. } | Phase::Dying { was_ready: false, .. } => {
                self.start_failed(now, index, death)
            }
            Phase::Ready(ready) => {
                self.slots[index].uptime += now.duration_since(ready.since);
                self.release_reserved(ready.reserved);
                self.bury(now, index, ready.hand, started, death);
            }
            Phase::Dying { hand, .. } => self.bury(now, index, hand, started, death),
            Phase::Retiring { .. } => {
                self.slots[index].timer = None;
                // Its place may be wanted.
                self.unsettled = true;
            }
            Phase::Stopped => {}
            Phase::Waiting { until } => {
                self.enter(index, Phase::Waiting { until });
            }
        }
        self.dispatch(now);
    }

    /// Tasks that a dying worker had started out of turn: they fail, and are not given out again without retries.
    pub(super) fn on_lost(&mut self, now: Instant, who: Incarnation, lost: Vec<(Ticket, Death)>) {
        let Some(index) = self.alive(who) else { return };
        let mut failed = Vec::new();
        for (ticket, death) in lost {
            let held = self.extract(index, Span { first: ticket, count: 1 }, now).pop();
            let Some((task, charged)) = held.and_then(|held| Some((held.task?, held.charged))) else {
                continue;
            };
            if charged > 0 {
                // Nobody knows what it took: what was expected.
                self.bill(task, 1, charged, Duration::from_nanos(charged));
            }
            // Where the abort of their batch, which the first of them may cause, finds them.
            self.suspect(task);
            failed.push((task, death));
        }
        for (task, death) in failed {
            self.mishap(now, task, Mishap::Death(death));
        }
    }

    /// Settles what a dead worker held, and replaces it.
    fn bury(&mut self, now: Instant, index: usize, mut hand: Hand, started: bool, death: Death) {
        self.held -= hand.items();
        let first = hand.front().map(|front| front.ticket);
        let doomed = hand.head_mut().and_then(|head| head.doomed.take());
        let spent = hand.head().map_or(Duration::ZERO, |head| now.saturating_duration_since(head.since));
        let victim = first.filter(|_| started).and_then(|first| {
            let behind = cut(&mut self.units, &mut self.out, &mut hand, first + 1);
            hand.remove(0..behind, now).pop()
        });
        let innocent: Vec<Held> = hand.into_spans().collect();
        self.refund(&innocent);
        let innocent: Vec<TaskKey> = innocent.into_iter().filter_map(|held| held.task).collect();
        self.counters.requeued += self.items_in(&innocent);
        self.requeue(innocent);
        let Some(victim) = victim else {
            self.counters.idle_deaths += 1;
            return self.strike(now, index, death, false);
        };
        self.counters.task_deaths += 1;
        // A task was running, so the death is explained: replace the worker at once, before its task is settled, so that
        // an abort finds the slots as they will be.
        self.replace(now, index, now);
        if let Some(task) = victim.task {
            let mishap = match (doomed, victim.limit.get()) {
                (Some((_, KillReason::Timeout)), Some(limit)) => Mishap::Error(TaskError::timed_out(limit)),
                _ => Mishap::Death(death),
            };
            self.bill(task, 1, victim.charged, spent);
            self.mishap(now, task, mishap);
        }
    }

    /// Items that have not ended in these units.
    pub(super) fn items_in(&self, units: &[TaskKey]) -> u64 {
        units.iter().filter_map(|key| self.units.get(*key)).map(|unit| u64::from(unit.left())).sum()
    }

    pub(super) fn on_spawn_failed(&mut self, now: Instant, who: Incarnation, death: Death) {
        let Some(index) = self.alive(who) else { return };
        // It may have been killed for its start timeout while it was being spawned: then this is its end.
        if matches!(self.slots[index].phase, Phase::Starting { .. } | Phase::Dying { was_ready: false, .. }) {
            self.start_failed(now, index, death);
        }
    }

    fn start_failed(&mut self, now: Instant, index: usize, death: Death) {
        self.counters.start_deaths += 1;
        self.strike(now, index, death, true);
    }

    /// A death that nobody's task explains: back off, and give up in the end.
    fn strike(&mut self, now: Instant, index: usize, death: Death, starting: bool) {
        let (settled, policy) = (self.settled, self.config.restart);
        let needed = matches!(self.life, Life::Open) || self.pending > 0;
        // While somebody works, the pool is of use, and what is missing is a matter of patience.
        let stuck = if starting { self.crew.active == 0 } else { self.pending > 0 && self.held == 0 };
        let slot = &mut self.slots[index];
        let uptime = slot.uptime;
        slot.strikes.retain(|strike| uptime - strike.uptime <= policy.window);
        slot.strikes.push(Strike { uptime, settled, death });
        let fatal = policy.max_restarts as usize + 1;
        if slot.strikes.len() > fatal.max(LONGEST_STREAK) {
            slot.strikes.remove(0);
        }
        let count = slot.strikes.len();
        let last = count.checked_sub(fatal).map(|first| &slot.strikes[first..]);
        if let Some(last) = last.filter(|last| needed && stuck && last[0].settled == settled) {
            let deaths = last.iter().map(|strike| strike.death.clone()).collect();
            let (worker, window) = (slot.worker, policy.window);
            return self.break_pool(BrokenReason::TooManyDeaths { worker, deaths, window });
        }
        let until = now + self.back_off(count);
        self.replace(now, index, until);
    }

    /// Nothing before the first replacement, then `first_delay` doubled each time, ± 20 %.
    fn back_off(&mut self, strikes: usize) -> Duration {
        let Some(doublings) = strikes.checked_sub(2) else { return Duration::ZERO };
        let policy = self.config.restart;
        let factor = 2_u32.saturating_pow(doublings.try_into().unwrap_or(u32::MAX));
        let delay = policy.first_delay.saturating_mul(factor).min(policy.max_delay);
        let jitter = 0.8 + 0.4 * ((self.draw() >> 11) as f64 / (1_u64 << 53) as f64);
        delay.mul_f64(jitter).min(policy.max_delay)
    }

    /// A random number.
    pub(super) fn draw(&mut self) -> u64 {
        // xorshift64: jitter needs no better randomness, and a seed makes it repeatable.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A slot that waited for its back-off to pass.
    pub(super) fn wake(&mut self, now: Instant, index: usize, until: Instant) {
        self.replace(now, index, until);
    }

    /// The head of a worker has written into the result pipe.
    pub(super) fn on_garbage(&mut self, now: Instant, who: Incarnation, what: String) {
        let Some(index) = self.alive(who) else { return };
        self.isolate_head(index);
        let head = self.slots[index].hand_mut().and_then(Hand::head_mut);
        head.into_iter().for_each(|head| head.spoiled = true);
        self.on_violation(now, who, what);
    }

    pub(super) fn on_violation(&mut self, now: Instant, who: Incarnation, what: String) {
        self.kill_and_await(now, who, KillReason::Violation(what));
        self.dispatch(now);
    }

    /// A worker has more of something than it may have. The task that it runs is to blame; if it runs none, it is a strike.
    pub(super) fn on_over_limit(&mut self, now: Instant, who: Incarnation, why: KillReason) {
        if self.working(who).is_some() {
            self.kill_and_await(now, who, why);
            self.dispatch(now);
        }
    }

    /// Kills a worker for a reason of its own making. What it holds is settled when it is dead, because only then the
    /// board has its last word.
    pub(super) fn kill_and_await(&mut self, now: Instant, who: Incarnation, why: KillReason) {
        let Some(index) = self.alive(who) else { return };
        let phase = match self.enter(index, Phase::Stopped) {
            Phase::Starting { .. } => Phase::Dying { hand: Hand::new(now), was_ready: false, going: false },
            Phase::Ready(ready) => {
                self.slots[index].uptime += now.duration_since(ready.since);
                self.release_reserved(ready.reserved);
                let going = ready.is_going();
                Phase::Dying { hand: ready.hand, was_ready: true, going }
            }
            Phase::Retiring { asked, since, killed: false, builds, why } => {
                Phase::Retiring { asked, since, killed: true, builds, why }
            }
            other => {
                self.enter(index, other);
                return;
            }
        };
        self.enter(index, phase);
        self.counters.kills += 1;
        self.out.push_back(Action::Kill { who, why, fenced: false });
    }

    /// Last step of a kill for a timeout or a cancellation: the worker holds nothing but the condemned task, so its
    /// place is filled at once.
    pub(super) fn execute(&mut self, now: Instant, index: usize) {
        let who = self.slots[index].incarnation();
        let Phase::Ready(mut ready) = self.enter(index, Phase::Stopped) else { return };
        let Some((_, why)) = ready.hand.head_mut().and_then(|head| head.doomed.take()) else { return };
        let spent = now.saturating_duration_since(ready.hand.since());
        self.held -= ready.hand.items();
        self.counters.kills += 1;
        self.out.push_back(Action::Kill { who, why, fenced: true });
        self.slots[index].uptime += now.duration_since(ready.since);
        self.release_reserved(ready.reserved);
        let mut held = ready.hand.into_spans();
        let head = held.next();
        // Everything else was taken back before the kill, unless the board was overwritten: then it cannot be claimed.
        let innocent: Vec<Held> = held.collect();
        self.refund(&innocent);
        self.requeue(innocent.into_iter().filter_map(|held| held.task).collect());
        self.replace(now, index, now);
        if let Some((task, limit, charged)) =
            head.and_then(|head| Some((head.task?, head.limit.get()?, head.charged)))
        {
            self.bill(task, 1, charged, spent);
            self.mishap(now, task, Mishap::Error(TaskError::timed_out(limit)));
        }
        self.dispatch(now);
    }
}
