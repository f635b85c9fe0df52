//! Priorities and hands: what waits is given out by priority, but what a worker holds already goes before it.
//!
//! Where hands are short, that is a matter of [`Config::ahead`](super::Config::ahead), about a millisecond. But a worker holds two
//! items, and each may take up to 50 ms: so what is urgent would wait for the item that runs *and* for the next one. Therefore, when
//! something is left that nobody has room for, it calls back what workers hold unclaimed of a lower priority, where that takes longer
//! than `ahead`: from as many workers as there are items that wait, from those first that have run their item for the
//! longest time. They are given it next.
//!
//! Where all tasks have the same priority, nothing of this happens.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::Machine;
use crate::supervisor::slot::Ready;

impl<P> Machine<P> {
    /// A lane has got work, and what there is has been given out as far as there was room.
    pub(super) fn call_back(&mut self, now: Instant) {
        if !self.queue.has_priorities() || self.crew.hoarders == 0 {
            return;
        }
        let Some((_, next)) = self.queue.first(&self.units) else { return };
        let waiting = self.queue.in_lane(next.lane, &self.units).take(self.crew.hoarders);
        let most = waiting.map(|(_, unit)| unit.left() as usize).sum();
        let slots = self.slots.iter().enumerate();
        let in_the_way = slots.filter_map(|(index, slot)| {
            let ready = slot.active().filter(|ready| ready.is_open() && !ready.hand.is_taking())?;
            let priority = self.is_in_the_way(index, ready, now)?;
            Some((Reverse(ready.pace.silence(now)), index, priority))
        });
        let mut in_the_way: Vec<(Reverse<Duration>, usize, i8)> = in_the_way.collect();
        in_the_way.sort_unstable();
        for (_, index, priority) in in_the_way.into_iter().take(most) {
            self.take_back_of(index, usize::MAX, |queue, unit| queue.level(unit.lane) < priority);
        }
    }

    /// Whether what is next for a worker would wait for long behind what it has not begun of a lower priority; and its priority.
    fn is_in_the_way(&self, index: usize, ready: &Ready, now: Instant) -> Option<i8> {
        if ready.hand.items() < 2 {
            return None;
        }
        let priority = self.next_for(index).map(|(_, unit)| self.queue.level(unit.lane))?;
        let lower = |key| self.units.get(key).is_some_and(|unit| self.queue.level(unit.lane) < priority);
        let spans = ready.hand.spans().filter(|held| held.task.is_some_and(lower));
        let held: u64 = spans.map(|held| u64::from(held.count)).sum();
        let head = u64::from(ready.hand.front().is_some_and(|front| front.task.is_some_and(lower)));
        let ahead = self.config.ahead;
        let takes = ready.pace.item(now, ahead).saturating_mul(held - head);
        (u128::from(takes) > ahead.as_nanos()).then_some(priority)
    }
}
