//! Who is ready, who is idle, and who could take more: kept up to date with every change of a worker, so that handing out
//! one task does not cost a look at every worker.

use std::collections::VecDeque;

use super::Machine;
use crate::supervisor::slot::{Phase, Slot};

/// The workers at a glance.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    /// How many will be there for more tasks, or will be replaced in their place.
    pub(super) staffed: usize,
    /// How many are active.
    pub(super) active: usize,
    /// Those that are ready and not active. The last one has become ready last.
    pub(super) spare: Vec<u32>,
    /// Those that have nothing to do and may be given something, by place. The last one has the lowest: so few work where few
    /// are enough, and these are awake.
    pub(super) idle: Vec<u32>,
    /// Those that are known to have room, besides the idle ones. Somebody in it may have none any more; somebody who is
    /// missing gets more with its next result.
    pub(super) hungry: VecDeque<u32>,
    /// How many hold more than they run.
    pub(super) hoarders: usize,
    /// For how many a suspect waits.
    pub(super) reserved: usize,
}

/// How a worker counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(super) staffed: bool,
    pub(super) active: bool,
    pub(super) spare: bool,
    pub(super) idle: bool,
    pub(super) hoards: bool,
    pub(super) reserved: bool,
}

impl Standing {
    pub(super) fn of(slot: &Slot) -> Self {
        let ready = match &slot.phase {
            Phase::Ready(ready) => ready,
            Phase::Waiting { .. } | Phase::Starting { .. } | Phase::Dying { going: false, .. } => {
                return Self { staffed: true, ..Self::default() };
            }
            Phase::Dying { .. } | Phase::Retiring { .. } | Phase::Stopped => return Self::default(),
        };
        Self {
            staffed: !ready.is_going(),
            active: slot.active,
            spare: !slot.active && ready.is_open(),
            idle: slot.active && ready.is_idle(),
            hoards: ready.hand.items() > 1,
            reserved: ready.reserved.is_some(),
        }
    }
}

impl<P> Machine<P> {
    /// A worker has changed.
    pub(super) fn touch(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let now = Standing::of(slot);
        let was = std::mem::replace(&mut slot.standing, now);
        if now == was {
            return;
        }
        let count =
            |count: &mut usize, was: bool, now: bool| *count = *count + usize::from(now) - usize::from(was);
        count(&mut self.crew.staffed, was.staffed, now.staffed);
        self.unsettled |= was.staffed && !now.staffed;
        count(&mut self.crew.active, was.active, now.active);
        count(&mut self.crew.hoarders, was.hoards, now.hoards);
        count(&mut self.crew.reserved, was.reserved, now.reserved);
        sort_in(&mut self.crew.idle, index as u32, was.idle, now.idle);
        list(&mut self.crew.spare, index as u32, was.spare, now.spare);
    }

    /// As [`touch`](Self::touch), where only the number of its items has changed: seldom does it count for something else then.
    #[inline]
    pub(super) fn touch_hand(&mut self, index: usize) {
        let slot = &self.slots[index];
        let was = slot.standing;
        if let Phase::Ready(ready) = &slot.phase
            && ready.hand.items() > 1
            && was.hoards
            && was.active
            && slot.active
            && !was.reserved
            && ready.reserved.is_none()
            && was.staffed
            && !ready.is_going()
        {
            debug_assert_eq!(was, Standing::of(slot));
            return;
        }
        self.touch(index);
    }

    /// Puts a worker into another phase, and returns the old one.
    pub(super) fn enter(&mut self, index: usize, phase: Phase) -> Phase {
        let slot = &mut self.slots[index];
        slot.active &= matches!(phase, Phase::Ready(_));
        let old = std::mem::replace(&mut slot.phase, phase);
        self.touch(index);
        old
    }

    /// Has spares take the places of those that are active no longer.
    pub(super) fn muster(&mut self) {
        // After a shrink: who leaves counts until it has gone, so somebody who has nothing to do waits for that.
        while self.crew.active > self.sizing.most
            && let Some(&idle) = self.crew.idle.first()
        {
            self.slots[idle as usize].active = false;
            self.touch(idle as usize);
        }
        while self.crew.active < self.sizing.most
            && let Some(&spare) = self.crew.spare.last()
        {
            self.slots[spare as usize].active = true;
            self.touch(spare as usize);
        }
    }

    /// Notes that a worker has room.
    pub(super) fn note_hungry(&mut self, index: usize) {
        if !std::mem::replace(&mut self.slots[index].hungry, true) {
            self.crew.hungry.push_back(index as u32);
        }
    }
}

/// Puts a worker into a list that is in descending order, or takes it out.
fn sort_in(list: &mut Vec<u32>, index: u32, was: bool, now: bool) {
    if was != now {
        // Almost always the last ones.
        let place = list.iter().rposition(|listed| *listed >= index);
        match place {
            Some(place) if was => _ = list.remove(place),
            place => list.insert(place.map_or(0, |place| place + 1), index),
        }
    }
}

/// Puts a worker at the end of a list, or takes it out.
fn list(list: &mut Vec<u32>, index: u32, was: bool, now: bool) {
    match (was, now) {
        (false, true) => list.push(index),
        (true, false) => {
            // Almost always the last one.
            if let Some(place) = list.iter().rposition(|listed| *listed == index) {
                list.remove(place);
            }
        }
        _ => {}
    }
}
