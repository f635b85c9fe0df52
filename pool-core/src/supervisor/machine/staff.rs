//! How many workers there are: kept between a least and a most number, whoever dies, goes or is to be replaced.
//!
//! The *staff* are the places whose worker will be there for more tasks: those that start, work, wait for their back-off, or
//! are dying and will be replaced; not those that are [leaving](super::recycle), retire or are vacant. It is compared with
//! how many are *wanted*: all of them, or, where the pool may shrink and nobody is idle, as many as are [enough](Machine::enough)
//! for the items that have not ended, and whoever is needed in a free [seat](super::seats). What is missing is started in vacant
//! places, the lowest first. Where workers are recycled there are a few places more, the *reliefs*, so that a successor can start
//! before its predecessor has gone.
//!
//! A place is vacated instead of filled again if enough are left without it.
//!
//! When there are to be fewer, those go first that lose least: who is dying or waits for a back-off, who starts, who stands by, who is
//! idle (the highest place first), and then who has the least to do. A worker that has had nothing to do for long goes if
//! there are more than the least number. Nobody looks for that while there are not.
//!
//! # Growth
//! To start a worker takes [`Config::start_up`]; for what will be done before that nobody is started. The *pace* says what will be: what
//! items have taken lately, or, if it is more, for how long none has ended. A worker that has reported nothing for longer than
//! `start_up` is taken to be busy for as long as anybody knows, and does not count for what waits. So many others are enough
//! as will need no longer than `start_up`. That is looked at with what comes in, and, as silence makes no event, by a timer as long
//! as anybody may be missing.
//!
//! What waits for somebody in his seat does not count either, but for one item for each such seat: who is started for it would have
//! nothing to do, go, and be started again.
//!
//! # Races
//! * *Fewer, and at once more.* Who is leaving is not called back; others start.
//! * *Fewer while somebody dies.* The place of the dead one is vacated.
//! * *Tasks come while a worker retires for being idle.* It has been asked already; another one starts if one is missing.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::pace::nanos;
use super::{Config, Life, Machine};
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
    pub(super) fn wanted_staff(&self, now: Instant) -> usize {
        let Sizing { least, most, spares, .. } = self.sizing;
        match self.is_winding_up() {
            true => 0,
            false if least == most => most + spares,
            // While somebody is idle nobody is missing, but in a seat that something waits for.
            false if !self.crew.idle.is_empty() => {
                self.crew.staffed.clamp(least + spares, most + spares).max(self.least_staff())
            }
            false => (self.enough(self.demand(), now).clamp(least, most) + spares).max(self.least_staff()),
        }
    }

    /// How many workers should be there at least, whatever is measured: somebody in each seat that something waits for.
    pub(super) fn least_staff(&self) -> usize {
        let Sizing { least, most, spares, .. } = self.sizing;
        match self.is_winding_up() {
            true => 0,
            false if least == most => most + spares,
            false => match self.needed_seats().len() {
                0 => least + spares,
                needed => most.min(self.seats.taken() + needed).max(least + spares),
            },
        }
    }

    /// Whether nobody is needed any more.
    pub(super) fn is_winding_up(&self) -> bool {
        match self.life {
            Life::Open => false,
            Life::Closing => self.pending == 0,
            Life::Over(_) => true,
        }
    }

    /// How many workers have so many items done in about the time that it takes to start one more.
    fn enough(&self, items: usize, now: Instant) -> usize {
        let start = nanos(self.config.start_up);
        if start == 0 || items <= 1 {
            return items;
        }
        let busy = self.slots.iter().filter_map(Slot::active);
        let busy = busy.filter(|ready| !ready.hand.is_empty() && !ready.is_going());
        let (mut silent, mut quiet) = (0, None);
        for ready in busy {
            let silence = nanos(ready.pace.silence(now));
            silent += usize::from(silence >= start);
            quiet = Some(quiet.map_or(silence, |least: u64| least.min(silence)));
        }
        // While nobody works, it is the timer that knows how long something has waited.
        let quiet = quiet.unwrap_or(if self.grow_due { start } else { 0 });
        let rest = items.saturating_sub(silent);
        let wanted = (rest as u64).saturating_mul(self.tempo.item().max(quiet)).div_ceil(start);
        let others = usize::try_from(wanted).unwrap_or(usize::MAX).min(rest);
        (silent + others).clamp(1, items)
    }

    /// Somebody may be missing, and is if there is much to do; otherwise time will tell.
    fn consider_growth(&mut self, now: Instant) {
        let start = nanos(self.config.start_up);
        let there = self.crew.staffed.saturating_sub(self.sizing.spares) as u64;
        let work = (self.pending as u64).saturating_mul(self.tempo.item());
        if start == 0 || there == 0 || work > start.saturating_mul(there) {
            self.unsettled = true;
        }
        if start > 0 {
            self.grow_at.get_or_insert(now + self.config.start_up);
        }
    }

    /// Items that have not ended, but for those that workers run which are about to go. What waits behind these counts: it may
    /// have to wait for long.
    fn demand(&self) -> usize {
        let going = self.slots.iter().filter_map(|slot| match &slot.phase {
            Phase::Ready(ready) if ready.is_going() => ready.hand.front(),
            _ => None,
        });
        self.useful().saturating_sub(going.filter(|front| front.task.is_some()).count())
    }

    /// Items that have not ended, where of those that wait for somebody in his seat only one counts: nobody else is of any use
    /// for them.
    fn useful(&self) -> usize {
        if self.queue.is_pinned() { self.pending - self.bound_to_seats() } else { self.pending }
    }

    /// Whether somebody may have to wait for a worker that could be started.
    pub(super) fn may_grow(&self) -> bool {
        self.sizing.least < self.sizing.most
            && self.crew.idle.is_empty()
            && self.crew.staffed < self.useful().min(self.sizing.most) + self.sizing.spares
    }

    /// Starts whoever is missing, where there is a place.
    pub(super) fn staff(&mut self, now: Instant) {
        if self.may_grow() {
            self.consider_growth(now);
        }
        if self.queue.is_pinned() && self.crew.staffed < self.least_staff() {
            self.unsettled = true;
        }
        if !std::mem::take(&mut self.unsettled) || self.is_over() || self.drained {
            return;
        }
        let mut missing = self.wanted_staff(now).saturating_sub(self.crew.staffed);
        self.grow_due = false;
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
        self.note_successor(index);
    }

    /// Puts the next incarnation into the place of one that is gone, now or later, unless there are enough without it.
    pub(super) fn replace(&mut self, now: Instant, index: usize, until: Instant) {
        self.enter(index, Phase::Stopped);
        // After a shrink, those that have not gone yet may still take all places.
        let has_place = self.places_taken() < self.sizing.places();
        if has_place && self.crew.staffed < self.wanted_staff(now) {
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
        self.move_up();
        self.seats.recount();
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
            Phase::Waiting { .. } | Phase::Dying { going: false, .. } => Some((0, 0)),
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
            match &mut self.slots[index].phase {
                Phase::Waiting { until } => {
                    let until = *until;
                    self.vacate(index, until);
                }
                Phase::Dying { going, .. } => {
                    // Nobody comes after it.
                    *going = true;
                    self.touch(index);
                }
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
