//! How many workers there are: kept between a least and a most number, whoever dies, goes or is to be replaced.
//!
//! The *staff* are the places whose worker will be there for more tasks: those that start, work, wait for their back-off, or
//! are dying and will be replaced; not those that are [leaving](super::recycle), retire or are vacant. It is compared with
//! how many are *wanted*: all of them, or, where the pool may shrink and nobody is idle, as many as there are items that
//! have not ended. What is missing is started in vacant places, the lowest first. Where workers are recycled there are a few places more, the
//! *reliefs*, so that a successor can start before its predecessor has gone.
//!
//! A place is vacated instead of filled again if enough are left without it.
//!
//! When there are to be fewer, those go first that lose least: who waits for a back-off, who starts, who stands by, who is
//! idle (the highest place first), and then who has the least to do. A worker that has had nothing to do for long goes if
//! there are more than the least number. Nobody looks for that while there are not.
//!
//! # Races
//! * *Fewer, and at once more.* Who is leaving is not called back; others start.
//! * *Fewer while somebody dies.* The place of the dead one is vacated.
//! * *Tasks come while a worker retires for being idle.* It has been asked already; another one starts if one is missing.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::{Config, Hand, Life, Machine};
use crate::ids::WorkerId;
use crate::stats::RetireReason;
use crate::supervisor::event::{Action, KillReason};
use crate::supervisor::slot::{Phase, Slot};
use crate::supervisor::token::MAX_WORKERS;

/// A spare that need not go is not looked at more often than this.
const LEAST_REST: Duration = Duration::from_millis(100);

/// How many workers there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizing {
    /// Fewer there are only while some are being replaced.
    pub(super) least: usize,
    /// So many work at a time.
    pub(super) most: usize,
    /// So many more stand by.
    pub(super) spares: usize,
    /// Places for successors of those that have not gone yet.
    pub(super) reliefs: usize,
}

impl Sizing {
    pub(super) fn new(config: &Config, most: u32, spares: usize) -> Self {
        let (most, staffing) = (most as usize, &config.staffing);
        let least = staffing.least.map_or(most, |least| (least as usize).min(most));
        let recycles = staffing.quota.is_some() || staffing.weighs;
        let reliefs = if recycles && staffing.overlap { (most / 4).max(1) } else { 0 };
        Self { least, most, spares, reliefs }
    }

    /// Most places that may be taken.
    pub(super) fn places(&self) -> usize {
        self.most + self.spares + self.reliefs
    }

    /// With more than so many, those that have been idle for long go.
    pub(super) fn at_rest(&self) -> usize {
        self.least + self.spares
    }
}

impl<P> Machine<P> {
    /// How many workers should be there now, besides those that are about to go.
    pub(super) fn wanted_staff(&self) -> usize {
        let over = match self.life {
            Life::Open => false,
            Life::Closing => self.pending == 0,
            Life::Over(_) => true,
        };
        let Sizing { least, most, spares, .. } = self.sizing;
        match over {
            true => 0,
            false if least == most => most + spares,
            // While somebody is idle nobody is missing.
            false if !self.crew.idle.is_empty() => self.crew.staffed.clamp(least + spares, most + spares),
            false => self.demand().clamp(least, most) + spares,
        }
    }

    /// Items that have not ended and are not with a worker that is about to go: it will have done them by then.
    fn demand(&self) -> usize {
        let going = self.slots.iter().filter_map(|slot| match &slot.phase {
            Phase::Ready(ready) if ready.is_going() => Some(&ready.hand),
            _ => None,
        });
        let held = going.flat_map(Hand::spans).filter(|held| held.task.is_some());
        self.pending - held.map(|held| held.count as usize).sum::<usize>()
    }

    /// Whether somebody may have to wait for a worker that could be started.
    pub(super) fn may_grow(&self) -> bool {
        self.sizing.least < self.sizing.most
            && self.crew.idle.is_empty()
            && self.crew.staffed < self.pending.min(self.sizing.most) + self.sizing.spares
    }

    /// Starts whoever is missing, where there is a place.
    pub(super) fn staff(&mut self, now: Instant) {
        if !std::mem::take(&mut self.unsettled) || self.is_over() || self.drained {
            return;
        }
        let mut missing = self.wanted_staff().saturating_sub(self.crew.staffed);
        if missing == 0 {
            return;
        }
        // Where there is no place, the end of a worker that retires comes back here.
        missing = missing.min(self.sizing.places().saturating_sub(self.places_taken()));
        let mut index = 0;
        while missing > 0 {
            if index == self.slots.len() {
                if index >= MAX_WORKERS as usize {
                    return;
                }
                self.slots.push(Slot::new(WorkerId::new(index as u32)));
            }
            if matches!(self.slots[index].phase, Phase::Stopped) {
                let until = self.slots[index].rests_until.unwrap_or(now);
                self.occupy(index, now, until);
                missing -= 1;
            }
            index += 1;
        }
    }

    pub(super) fn places_taken(&self) -> usize {
        self.slots.iter().filter(|slot| takes_a_place(slot)).count()
    }

    /// Puts the next incarnation into a place, now or later.
    fn occupy(&mut self, index: usize, now: Instant, until: Instant) {
        let slot = &mut self.slots[index];
        (slot.timer, slot.rests_until) = (None, None);
        if until <= now {
            self.spawn(index, now);
        } else {
            self.enter(index, Phase::Waiting { until });
            self.schedule(index, until);
        }
    }

    /// Puts the next incarnation into the place of one that is gone, now or later, unless there are enough without it.
    pub(super) fn replace(&mut self, now: Instant, index: usize, until: Instant) {
        self.enter(index, Phase::Stopped);
        // After a shrink, those that have not gone yet may still take all places.
        let has_place = self.places_taken() < self.sizing.places();
        if has_place && self.crew.staffed < self.wanted_staff() {
            return self.occupy(index, now, until);
        }
        self.vacate(index, until);
    }

    /// Nobody comes into this place until somebody is missing, and not before a back-off has passed.
    fn vacate(&mut self, index: usize, until: Instant) {
        self.slots[index].timer = None;
        self.slots[index].rests_until = Some(until);
        self.enter(index, Phase::Stopped);
        self.unsettled = true;
    }

    /// From now on so many workers are wanted.
    pub(super) fn resize(&mut self, now: Instant, most: u32) {
        if self.is_over() || self.drained {
            return;
        }
        self.sizing = Sizing::new(&self.config, most, self.sizing.spares);
        self.unsettled = true;
        self.shrink(now);
        if self.crew.active > self.sizing.most {
            // Some are busy, and leave. Until they have gone, no suspect may begin in addition.
            for index in 0..self.slots.len() {
                let reserved = self.slots[index].ready().and_then(|ready| ready.reserved.take());
                self.release_reserved(reserved);
                self.touch(index);
            }
        }
        self.dispatch(now);
    }

    /// Sends those away that are too many.
    fn shrink(&mut self, now: Instant) {
        let surplus = self.crew.staffed.saturating_sub(self.sizing.most + self.sizing.spares);
        if surplus == 0 {
            return;
        }
        let ahead = self.config.ahead;
        let loss = |slot: &Slot| match &slot.phase {
            Phase::Waiting { .. } => Some((0, 0)),
            Phase::Starting { .. } => Some((1, 0)),
            Phase::Ready(ready) if ready.is_going() => None,
            Phase::Ready(ready) if ready.hand.is_empty() => Some((if slot.active { 3 } else { 2 }, 0)),
            Phase::Ready(ready) => {
                Some((4, ready.pace.item(now, ahead).saturating_mul(ready.hand.items() as u64)))
            }
            Phase::Dying { .. } | Phase::Retiring { .. } | Phase::Stopped => None,
        };
        let places = self.slots.iter().enumerate();
        let mut order: Vec<_> =
            places.filter_map(|(index, slot)| loss(slot).map(|loss| (loss, Reverse(index)))).collect();
        order.sort_unstable();
        for (_, Reverse(index)) in order.into_iter().take(surplus) {
            match self.slots[index].phase {
                Phase::Waiting { until } => self.vacate(index, until),
                Phase::Starting { .. } => {
                    // It has nothing to lose, so it need not be asked.
                    let who = self.slots[index].incarnation();
                    self.out.push_back(Action::Kill { who, why: KillReason::Terminated, fenced: true });
                    self.vacate(index, now);
                }
                _ => self.leave(now, index, RetireReason::Resized),
            }
        }
    }

    /// When a worker that has nothing to do is to be looked at, if it may have to go.
    pub(super) fn arm_idle(&mut self, index: usize) {
        let Some(idle) = self.config.staffing.idle else { return };
        if self.crew.staffed > self.sizing.at_rest()
            && let Phase::Ready(ready) = &self.slots[index].phase
            && ready.hand.is_empty()
        {
            let due = ready.hand.since() + idle;
            self.schedule(index, due);
        }
    }

    /// A worker may have had nothing to do for long: those that have go, the highest place first, as long as enough are left.
    pub(super) fn rest(&mut self, now: Instant, index: usize) {
        let Some(idle) = self.config.staffing.idle else { return };
        for place in self.crew.idle.clone() {
            if self.crew.staffed <= self.sizing.at_rest() {
                return;
            }
            let rested = |slot: &mut Slot| {
                slot.ready().is_some_and(|ready| now.saturating_duration_since(ready.hand.since()) >= idle)
            };
            if rested(&mut self.slots[place as usize]) {
                self.leave(now, place as usize, RetireReason::Idle);
            }
        }
        // There are still too many: a spare, or somebody who has not rested for long enough.
        if self.crew.staffed > self.sizing.at_rest()
            && let Phase::Ready(ready) = &self.slots[index].phase
            && ready.hand.is_empty()
        {
            let due = ready.hand.since() + idle;
            self.schedule(index, if due > now { due } else { now + idle.max(LEAST_REST) });
        }
    }
}

/// Whether a place counts against the most that there may be. One that is given up need not be waited for.
fn takes_a_place(slot: &Slot) -> bool {
    let given_up = |why: RetireReason| matches!(why, RetireReason::Resized | RetireReason::Idle);
    match &slot.phase {
        Phase::Stopped => false,
        Phase::Ready(ready) => !ready.leaving.is_some_and(given_up),
        Phase::Retiring { why, .. } => !given_up(*why),
        _ => true,
    }
}
