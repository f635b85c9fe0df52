//! Handing out what is pinned to a [seat](super::seats): each worker is offered the lanes that it serves, beside those that are for
//! anybody. None of this runs while no batch has asked for it.

use std::time::Instant;

use super::Machine;
use super::hand::{Hand, Held};
use super::unit::Unit;
use crate::supervisor::event::TaskKey;
use crate::supervisor::slot::Phase;

impl<P> Machine<P> {
    /// The unit that is next for a worker.
    #[inline]
    pub(super) fn next_for(&self, index: usize) -> Option<(TaskKey, &Unit)> {
        if !self.queue.is_pinned() {
            return self.queue.first(&self.units);
        }
        self.queue.first_of(&self.units, |pin| self.server(pin) == Some(index))
    }

    /// How many lanes have a turn with a worker.
    pub(super) fn turns(&self) -> usize {
        if !self.queue.is_pinned() {
            return self.queue.busy();
        }
        // Of those that are pinned, it seldom serves more than one.
        let loose = self.queue.loose();
        loose + usize::from(loose < self.queue.busy())
    }

    /// Offers every idle worker what it may be given.
    pub(super) fn feed_idle_in_seats(&mut self, now: Instant) {
        for idle in self.crew.idle.clone().into_iter().rev() {
            if self.queued == 0 {
                return;
            }
            let each = (self.queued / self.crew.idle.len().max(1)).max(1);
            self.fill(idle as usize, now, each.max(self.tempo.soon(self.is_crowded())));
        }
    }

    /// The seat that a unit is for, if it is for one only.
    pub(super) fn pin_of_unit(&self, key: TaskKey) -> Option<u32> {
        self.queue.pin(self.units.get(key)?.lane)
    }

    /// A suspect waits for a busy worker: whether it is pinned and goes on waiting for it, or has been released because it is for
    /// another one by now.
    pub(super) fn stays_or_moves(&mut self, index: usize, suspect: TaskKey) -> bool {
        let Some(pin) = self.pin_of_unit(suspect) else { return false };
        let is_its_own = self.server(pin) == Some(index);
        let Some(ready) = self.slots[index].ready() else { return true };
        if is_its_own {
            return !ready.hand.is_empty();
        }
        ready.reserved = None;
        self.release_reserved(Some(suspect));
        self.touch(index);
        true
    }

    /// Finds every suspect a worker: those that are pinned that which serves them, once it has no other one.
    pub(super) fn reserve_for_seats(&mut self, now: Instant) {
        let suspects: Vec<TaskKey> = self.suspects.iter(&self.units).map(|(key, _)| key).collect();
        for key in suspects {
            let may_wait = |index: usize, pin| {
                let ready = self.slots[index].active().filter(|ready| ready.is_open());
                ready.is_some_and(|ready| ready.hand.is_empty() || !self.is_stopgap(index, pin))
            };
            let worker = match self.pin_of_unit(key) {
                None => self.emptiest(),
                Some(pin) => self.server(pin).filter(|index| may_wait(*index, pin)),
            };
            if let Some(index) = worker {
                self.suspects.remove(&mut self.units, key);
                self.reserve(index, key);
                self.fill(index, now, 1);
            }
        }
    }

    /// How many items of a hand could be given to anybody else, its head excepted.
    pub(super) fn loose_in(&self, hand: &Hand) -> usize {
        if !self.queue.is_pinned() {
            return hand.items() - 1;
        }
        let loose =
            hand.spans().filter(|held| self.is_loose(held)).map(|held| held.count as usize).sum::<usize>();
        loose - usize::from(loose > 0 && hand.front().is_some_and(|held| self.is_loose(held)))
    }

    fn is_loose(&self, held: &Held) -> bool {
        held.task.is_none_or(|key| self.pin_of_unit(key).is_none())
    }

    /// As [`take_back`](Self::take_back), but nothing that nobody else may be given.
    pub(super) fn take_back_loose(&mut self, index: usize, most: usize) {
        if !self.queue.is_pinned() {
            return self.take_back(index, most);
        }
        self.take_back_of(index, most, |queue, unit| queue.pin(unit.lane).is_none());
    }

    /// If somebody may serve other seats than before: has everybody asked for what it has not begun and does not serve any more.
    #[inline]
    pub(super) fn call_back_astray(&mut self) {
        if self.seats.has_changed() {
            self.after_change();
        }
    }

    #[cold]
    fn after_change(&mut self) {
        let may_stray = self.seats.forget_change();
        if !may_stray || self.crew.hoarders == 0 {
            return;
        }
        if !self.queue.is_pinned() {
            return self.seats.forget_strays();
        }
        for index in 0..self.slots.len() {
            let astray = self.astray(index);
            if !astray.is_empty() {
                self.take_back_of(index, usize::MAX, |_, unit| astray.contains(&unit.lane));
            }
        }
    }

    /// The lanes for seats that a worker does not serve, of which it holds something behind what it runs.
    fn astray(&self, index: usize) -> Vec<u32> {
        let Phase::Ready(ready) = &self.slots[index].phase else { return Vec::new() };
        if ready.hand.items() < 2 {
            return Vec::new();
        }
        let rest = ready.hand.spans().enumerate().filter(|(place, held)| *place > 0 || held.count > 1);
        let units = rest.filter_map(|(_, held)| self.units.get(held.task?));
        let mut lanes: Vec<u32> = units.map(|unit| unit.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes.retain(|lane| self.queue.pin(*lane).is_some_and(|pin| self.server(pin) != Some(index)));
        lanes
    }
}
