//! States of workers: built before the hello, or before the claim of the first task that needs them.
//!
//! A worker says when it begins to build a state ([`Event::Preparing`]) and when it is done ([`Event::Prepared`]). In between its
//! head is unclaimed and nobody is to blame; instead of the time to start or to claim a task, it has `init_timeout`.
//!
//! * *It says that it cannot* ([`Event::Unfit`]): another worker could not either, so the pool breaks.
//! * *It takes too long.* If the state has never been built, the pool breaks; otherwise the worker is killed.
//! * *It goes on for ever.* It builds at most one state for each ticket, in the order of tickets, and none for a ticket behind its
//!   head; before its hello, at most as many as the builder has named. Anything else is a violation. So what a head can be made
//!   to wait is `init_timeout` once, besides what was begun for tickets before it that were taken back.
//! * *It dies*, or is killed for that: a strike, as for a worker that dies idle, and what it held goes to others. But those may
//!   finish tasks that do not need the state, so that the restart policy would never give up: the deaths are counted for each
//!   state, for the whole pool, until it is built by somebody; more than `max_restarts` of them break the pool.
//!
//! # Races
//! * *The head is taken back while its state is built.* The worker finds it withdrawn when it comes to the claim. The state
//!   stays, and the time that it may take goes on from where it began, whatever is given to the worker meanwhile.
//! * *The news are read late.* The shell reads what the worker has written before it answers an inspection, so a verdict about
//!   an unclaimed head knows of them.
//! * *It is killed, and has built the state by then.* The state counts as built, and the death is not one that came of building it.
//! * *It is asked to retire.* A worker that builds a state with an empty hand, because its head has been taken back, is asked like
//!   any other: it may have other states, which are to exit. It has the rest of `init_timeout`, and `exit_timeout` from
//!   the end of the build on. The request and the news of builds may cross; whatever comes, it is killed when both times
//!   have passed since the request. One that has not said hello is killed at once.

use std::sync::Arc;
use std::time::Instant;

use super::Machine;
use crate::error::{BrokenReason, Death};
use crate::supervisor::event::{Incarnation, KillReason};
use crate::supervisor::slot::{Phase, Preparing};

/// States that are remembered; the names come from the workers, which are not trusted.
const MOST_STATES: usize = 64;

/// What is known of a type of state.
#[derive(Debug)]
pub(super) struct Known {
    name: Arc<str>,
    /// Some worker has built it.
    built: bool,
    /// Workers that died while they built it, since it was built last.
    deaths: Vec<Death>,
}

impl<P> Machine<P> {
    pub(super) fn on_preparing(&mut self, now: Instant, who: Incarnation, state: Arc<str>) {
        let Some(index) = self.alive(who) else { return };
        let slot = &mut self.slots[index];
        if slot.preparing.is_some() && is_heard(&slot.phase) {
            return self.on_violation(now, who, "it builds two states at a time".to_owned());
        }
        match &mut slot.phase {
            Phase::Starting { .. } => {
                slot.prepared += 1;
                if slot.prepared > self.config.states {
                    let what = format!("it builds {} states before its hello", slot.prepared);
                    return self.on_violation(now, who, what);
                }
                slot.preparing = Some(Preparing { since: now, state });
                slot.timer = None;
                self.schedule(index, now + self.config.init_timeout);
            }
            Phase::Ready(ready) => {
                if !ready.hand.prepare(ready.next_ticket) {
                    return self.on_violation(now, who, "it builds a state for no task of its".to_owned());
                }
                slot.preparing = Some(Preparing { since: now, state });
                // If there is more time than for a claim, the timer of its head finds that out.
                self.arm(index, now);
            }
            Phase::Retiring { killed: false, builds, .. } => {
                let Some(left) = builds.checked_sub(1) else {
                    return self.on_violation(now, who, "it builds a state, and is to exit".to_owned());
                };
                *builds = left;
                // The timer of its exit finds out that there is more time.
                slot.preparing = Some(Preparing { since: now, state });
            }
            _ => {}
        }
    }

    pub(super) fn on_prepared(&mut self, now: Instant, who: Incarnation) {
        let Some(index) = self.alive(who) else { return };
        let slot = &mut self.slots[index];
        if !is_heard(&slot.phase) && !matches!(slot.phase, Phase::Dying { .. }) {
            return;
        }
        let Some(Preparing { state, .. }) = slot.preparing.take() else {
            return self.on_violation(now, who, "it has built a state that it had not begun".to_owned());
        };
        match &mut slot.phase {
            Phase::Starting { since } => {
                *since = now;
                slot.timer = None;
                self.schedule(index, now + self.config.start_timeout);
            }
            Phase::Ready(ready) => {
                if let Some(head) = ready.hand.head_mut().filter(|head| head.started.is_none()) {
                    head.since = now;
                }
                // What it took was no item.
                ready.pace.start(now);
                self.arm(index, now);
            }
            Phase::Retiring { since, .. } => {
                *since = now;
                slot.timer = None;
                self.arm_exit(index);
            }
            _ => {}
        }
        let known = self.known(&state);
        known.built = true;
        known.deaths.clear();
    }

    pub(super) fn on_unfit(&mut self, who: Incarnation, reason: BrokenReason) {
        let Some(index) = self.alive(who) else { return };
        if !matches!(self.slots[index].phase, Phase::Retiring { .. } | Phase::Stopped | Phase::Waiting { .. })
        {
            self.break_pool(reason);
        }
    }

    /// Until when a worker may take that was asked to exit.
    pub(super) fn exit_due(&self, index: usize) -> Option<Instant> {
        let Phase::Retiring { since, asked, .. } = self.slots[index].phase else { return None };
        let exit = self.config.exit_timeout;
        let due = self.init_due(index).map_or(since + exit, |init| init.max(since + exit));
        Some(due.min(asked + self.config.init_timeout + exit))
    }

    pub(super) fn arm_exit(&mut self, index: usize) {
        if let Some(due) = self.exit_due(index) {
            self.schedule(index, due);
        }
    }

    /// Until when a worker may build a state, if it does.
    pub(super) fn init_due(&self, index: usize) -> Option<Instant> {
        Some(self.slots[index].preparing.as_ref()?.since + self.config.init_timeout)
    }

    pub(super) fn init_timed_out(&mut self, now: Instant, index: usize) {
        let (who, limit) = (self.slots[index].incarnation(), self.config.init_timeout);
        let Some(state) = self.slots[index].preparing.as_ref().map(|preparing| Arc::clone(&preparing.state))
        else {
            return;
        };
        if !self.known(&state).built {
            // Waiting for more of them only delays the news.
            let why = format!("it was not built within {limit:?} (init_timeout)");
            return self.break_pool(BrokenReason::StateFailed {
                state: state.to_string(),
                why,
                deaths: Vec::new(),
            });
        }
        self.kill_and_await(now, who, KillReason::InitTimeout(limit));
        self.dispatch(now);
    }

    /// A worker has died that was building a state; whether that has broken the pool.
    pub(super) fn died_preparing(&mut self, index: usize, preparing: &Preparing, death: &Death) -> bool {
        if !matches!(self.slots[index].phase, Phase::Starting { .. } | Phase::Ready(_) | Phase::Dying { .. })
        {
            return false;
        }
        let most = self.config.restart.max_restarts as usize;
        let deaths = &mut self.known(&preparing.state).deaths;
        deaths.push(death.clone());
        if deaths.len() <= most {
            return false;
        }
        let deaths = std::mem::take(deaths);
        // Nobody is replaced for it, and so it is counted here.
        match &self.slots[index].phase {
            Phase::Ready(_) | Phase::Dying { was_ready: true, .. } => self.counters.idle_deaths += 1,
            _ => self.counters.start_deaths += 1,
        }
        let why = format!("{} workers in a row died while they built it", deaths.len());
        self.break_pool(BrokenReason::StateFailed { state: preparing.state.to_string(), why, deaths });
        true
    }

    fn known(&mut self, name: &Arc<str>) -> &mut Known {
        let place = match self.states.iter().position(|known| known.name == *name) {
            Some(place) => place,
            None => {
                if self.states.len() >= MOST_STATES {
                    self.states.remove(0);
                }
                self.states.push(Known { name: Arc::clone(name), built: false, deaths: Vec::new() });
                self.states.len() - 1
            }
        };
        &mut self.states[place]
    }
}

/// Whether what a worker says of its states is of interest.
fn is_heard(phase: &Phase) -> bool {
    matches!(phase, Phase::Starting { .. } | Phase::Ready(_) | Phase::Retiring { killed: false, .. })
}
