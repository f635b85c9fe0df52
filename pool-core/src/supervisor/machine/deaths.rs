//! Deaths: who is blamed, what happens to what the worker held, and whether and when it is replaced.
//!
//! A death with a running task is that task's; the worker is replaced at once. A death without one (while starting, idle,
//! or between two tasks) is a *strike* against the worker's slot: the first replacement comes at once, later ones after a
//! back-off that doubles. More strikes within the window than the restart policy allows, with no task settled in the
//! pool in between, break the pool, provided that somebody waits for it or that the worker never started.
//! Kills of our own count against nobody, except where the worker gave the reason (protocol violation, no start).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::endings::Mishap;
use super::{Life, Machine, Place};
use crate::error::{BrokenReason, Death, TaskError};
use crate::supervisor::event::{Action, Autopsy, Incarnation, KillReason, TaskKey};
use crate::supervisor::slot::{Held, Phase, Strike};

impl<P> Machine<P> {
    pub(super) fn on_died(&mut self, now: Instant, who: Incarnation, autopsy: Autopsy) {
        let Some(index) = self.alive(who) else { return };
        let Autopsy { death, started } = autopsy;
        match std::mem::replace(&mut self.slots[index].phase, Phase::Stopped) {
            Phase::Starting { .. } | Phase::Dying { was_ready: false, .. } => {
                self.start_failed(now, index, death)
            }
            Phase::Ready(ready) => self.bury(now, index, ready.held, ready.reserved, started, death),
            Phase::Dying { held, reserved, .. } => self.bury(now, index, held, reserved, started, death),
            Phase::Retiring { .. } | Phase::Stopped => {}
            Phase::Waiting { until } => self.slots[index].phase = Phase::Waiting { until },
        }
        self.dispatch(now);
    }

    /// Settles what a dead worker held, and replaces it.
    fn bury(
        &mut self,
        now: Instant,
        index: usize,
        mut held: VecDeque<Held>,
        reserved: Option<TaskKey>,
        started: bool,
        death: Death,
    ) {
        self.held -= held.len();
        let victim = if started { held.pop_front() } else { None };
        if let Some(task) = reserved {
            self.suspects.push_front(task);
            if let Some(waiting) = self.tasks.get_mut(task) {
                waiting.place = Place::Suspect;
            }
        }
        let innocent: Vec<TaskKey> = held.iter().filter_map(|held| held.task).collect();
        self.counters.requeued += innocent.len() as u64;
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
            let mishap = match (victim.doomed, victim.limit) {
                (Some((_, KillReason::Timeout)), Some(limit)) => Mishap::Error(TaskError::TimedOut { limit }),
                _ => Mishap::Death(death),
            };
            self.mishap(now, task, mishap);
        }
    }

    pub(super) fn on_spawn_failed(&mut self, now: Instant, who: Incarnation, death: Death) {
        let Some(index) = self.alive(who) else { return };
        if matches!(self.slots[index].phase, Phase::Starting { .. }) {
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
        let slot = &mut self.slots[index];
        slot.strikes.retain(|strike| now.duration_since(strike.at) <= policy.window);
        slot.strikes.push(Strike { at: now, settled, death });
        let allowed = policy.max_restarts as usize;
        while slot.strikes.len() > allowed + 1 {
            slot.strikes.remove(0);
        }
        let count = slot.strikes.len();
        let progress = slot.strikes.first().is_some_and(|first| first.settled != settled);
        if count > allowed && !progress && (starting || self.tasks.len() > 0) {
            let slot = &self.slots[index];
            let deaths = slot.strikes.iter().map(|strike| strike.death.clone()).collect();
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
        // xorshift64: jitter needs no better randomness, and a seed makes it repeatable.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        delay.mul_f64(0.8 + 0.4 * ((self.random >> 11) as f64 / (1_u64 << 53) as f64))
    }

    /// Puts the next incarnation into a slot, now or later.
    fn replace(&mut self, now: Instant, index: usize, until: Instant) {
        self.slots[index].timer = None;
        if !matches!(self.life, Life::Open) && self.tasks.len() == 0 {
            self.slots[index].phase = Phase::Stopped;
        } else if until <= now {
            self.spawn(index, now);
        } else {
            self.slots[index].phase = Phase::Waiting { until };
            self.schedule(index, until);
        }
    }

    /// A slot that waited for its back-off to pass.
    pub(super) fn wake(&mut self, now: Instant, index: usize, until: Instant) {
        self.replace(now, index, until);
    }

    pub(super) fn on_violation(&mut self, now: Instant, who: Incarnation, what: String) {
        self.kill_and_await(now, who, KillReason::Violation(what));
    }

    /// Kills a worker for a reason of its own making. What it holds is settled when it is dead, because only then the
    /// board has its last word.
    pub(super) fn kill_and_await(&mut self, _now: Instant, who: Incarnation, why: KillReason) {
        let Some(index) = self.alive(who) else { return };
        let phase = match std::mem::replace(&mut self.slots[index].phase, Phase::Stopped) {
            Phase::Starting { .. } => {
                Phase::Dying { held: VecDeque::new(), reserved: None, was_ready: false }
            }
            Phase::Ready(ready) => {
                Phase::Dying { held: ready.held, reserved: ready.reserved, was_ready: true }
            }
            Phase::Retiring { since, killed: false } => Phase::Retiring { since, killed: true },
            other => {
                self.slots[index].phase = other;
                return;
            }
        };
        self.slots[index].phase = phase;
        self.counters.kills += 1;
        self.out.push(Action::Kill { who, why, fenced: false });
    }

    /// Last step of a kill for a timeout or a cancellation: the worker holds nothing but the condemned task, so its
    /// place is filled at once.
    pub(super) fn execute(&mut self, now: Instant, index: usize) {
        let who = self.slots[index].incarnation();
        let Phase::Ready(ready) = std::mem::replace(&mut self.slots[index].phase, Phase::Stopped) else {
            return;
        };
        let Some(condemned) = ready.condemned else { return };
        self.held -= ready.held.len();
        self.counters.kills += 1;
        self.out.push(Action::Kill { who, why: condemned.why, fenced: true });
        if let Some(task) = ready.reserved {
            self.suspects.push_front(task);
            if let Some(waiting) = self.tasks.get_mut(task) {
                waiting.place = Place::Suspect;
            }
        }
        let mut held = ready.held;
        let head = held.pop_front();
        let innocent: Vec<TaskKey> = held.iter().filter_map(|held| held.task).collect();
        debug_assert!(innocent.is_empty(), "everything else was taken back before the kill");
        self.requeue(innocent);
        self.replace(now, index, now);
        if let Some(Held { task: Some(task), limit: Some(limit), .. }) = head {
            self.mishap(now, task, Mishap::Error(TaskError::TimedOut { limit }));
        }
        self.dispatch(now);
    }
}
