//! The life of a pool as a whole: how it closes, and how it ends.

use std::sync::Arc;
use std::time::Instant;

use super::Machine;
use crate::error::{BrokenReason, TaskError};
use crate::stats::RetireReason;
use crate::supervisor::event::{Action, Incarnation, KillReason};
use crate::supervisor::slot::Phase;

/// Whether the pool goes on.
#[derive(Debug, Clone)]
pub(crate) enum Life {
    Open,
    Closing,
    /// Everything has been settled and all workers are gone or being killed.
    Over(TaskError),
}

impl<P> Machine<P> {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.life, Life::Over(_))
    }

    pub(super) fn on_close(&mut self, now: Instant) {
        if matches!(self.life, Life::Open) {
            self.life = Life::Closing;
        }
        self.dispatch(now);
    }

    /// Once the pool is closing and all tasks have ended: sends the workers home; once they are gone, says so.
    pub(super) fn wind_up(&mut self, now: Instant) {
        if self.pending > 0 || matches!(self.life, Life::Open) {
            return;
        }
        let mut left = 0;
        for index in 0..self.slots.len() {
            let who = self.slots[index].incarnation();
            match &self.slots[index].phase {
                Phase::Ready(ready) if ready.hand.is_empty() => {
                    self.retire(now, index, RetireReason::Closed);
                    left += 1;
                }
                Phase::Starting { .. } => {
                    // It has nothing to lose, so it need not be asked.
                    self.out.push_back(Action::Kill { who, why: KillReason::Terminated, fenced: true });
                    self.enter(index, Phase::Stopped);
                }
                Phase::Waiting { .. } => _ = self.enter(index, Phase::Stopped),
                Phase::Stopped => {}
                Phase::Ready(_) | Phase::Dying { .. } | Phase::Retiring { .. } => left += 1,
            }
        }
        if left == 0 && !self.drained {
            self.drained = true;
            self.out.push_back(Action::Drained);
        }
    }

    /// Ends everything at once: every task gets `error`, every worker is killed.
    pub(super) fn end(&mut self, error: TaskError) {
        if matches!(self.life, Life::Over(_)) {
            return;
        }
        for index in 0..self.slots.len() {
            let who = self.slots[index].incarnation();
            match self.slots[index].phase {
                Phase::Waiting { .. } | Phase::Stopped => {}
                _ => self.out.push_back(Action::Kill { who, why: KillReason::Terminated, fenced: true }),
            }
            self.enter(index, Phase::Stopped);
        }
        self.held = 0;
        for unit in self.units.keys() {
            self.resolve(unit, Err(error.clone()));
        }
        self.life = Life::Over(error);
    }

    pub(super) fn break_pool(&mut self, reason: BrokenReason) {
        // After the last worker has gone there is nothing left that could break.
        if self.is_over() || self.drained {
            return;
        }
        let reason = Arc::new(reason);
        self.out.push_back(Action::Broken(Arc::clone(&reason)));
        self.end(TaskError::PoolBroken(reason));
    }

    pub(super) fn on_unusable(&mut self, _now: Instant, who: Incarnation, reason: BrokenReason) {
        // Once a closed pool has settled everything, all it waits for is that those go who have been killed.
        let is_winding_up = matches!(self.life, Life::Closing) && self.pending == 0;
        if self.expects(who) && !is_winding_up {
            self.break_pool(reason);
        }
    }
}
