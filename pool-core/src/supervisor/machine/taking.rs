//! Taking back what a worker has not begun: for an idle worker, or because the worker is about to be killed.
//!
//! When there is nothing left to give out, an idle worker is given half of what the one with the most work left has not
//! claimed.

use std::collections::VecDeque;
use std::time::Instant;

use super::Machine;
use super::hand::{Hand, Held};
use super::lanes::Lanes;
use super::pace::LONG;
use super::unit::{self, Unit};
use crate::supervisor::event::{Action, Incarnation, KillReason, Span, TaskKey, Ticket};
use crate::supervisor::slot::Phase;
use crate::supervisor::table::TaskTable;

/// Makes a span end before this ticket, if one contains it, and returns the place of what comes behind.
pub(super) fn cut<P>(
    units: &mut TaskTable<Unit>,
    out: &mut VecDeque<Action<P>>,
    hand: &mut Hand,
    ticket: Ticket,
) -> usize {
    let place = hand.place(ticket);
    let Some(held) = hand.get(place).filter(|held| held.ticket < ticket) else { return place };
    let items = (ticket - held.ticket) as u32;
    let second = held.task.and_then(|key| unit::split(units, out, key, items));
    hand.divide(place, ticket, second);
    place + 1
}

impl<P> Machine<P> {
    /// Makes the head of a worker a unit of its own.
    pub(super) fn isolate_head(&mut self, index: usize) {
        let Some(hand) = self.slots[index].hand_mut() else { return };
        if let Some(front) = hand.front().filter(|front| front.count > 1) {
            let second = front.ticket + 1;
            cut(&mut self.units, &mut self.out, hand, second);
        }
    }

    /// Takes tickets out of a worker's hand. What is taken out are whole units.
    pub(super) fn extract(&mut self, index: usize, span: Span, now: Instant) -> Vec<Held> {
        let Some(hand) = self.slots[index].hand_mut() else { return Vec::new() };
        let first = cut(&mut self.units, &mut self.out, hand, span.first);
        let end = cut(&mut self.units, &mut self.out, hand, span.end());
        let held = hand.remove(first..end, now);
        self.held -= held.iter().map(|held| held.count as usize).sum::<usize>();
        self.touch(index);
        held
    }

    /// Asks the worker with the most work left for half of what it has not begun, on behalf of an idle one.
    pub(super) fn steal(&mut self, now: Instant) -> bool {
        if self.crew.hoarders == 0 {
            return false;
        }
        let mut best: Option<(u64, usize, usize)> = None;
        let mut soon = false;
        for (index, slot) in self.slots.iter().enumerate() {
            if let Phase::Ready(ready) = &slot.phase
                && !ready.hand.is_taking()
                && ready.hand.items() > 1
            {
                let spare = self.loose_in(&ready.hand);
                if spare == 0 {
                    continue;
                }
                if self.is_done_soon(index, now) {
                    soon = true;
                    continue;
                }
                let left = ready.pace.item(now, self.config.ahead).saturating_mul(spare as u64);
                if best.is_none_or(|(most, ..)| left > most) {
                    best = Some((left, index, spare));
                }
            }
        }
        if soon {
            self.look_again(now);
        }
        let Some((_, victim, spare)) = best else { return false };
        self.take_back_loose(victim, spare.div_ceil(2));
        true
    }

    /// While there is always something to hand out, nobody becomes idle and takes over what lies behind an item that takes long. So
    /// it is looked now and then, when somebody comes for more: who has reported nothing for so long keeps what it runs.
    #[inline]
    pub(super) fn unload(&mut self, now: Instant) {
        if now >= self.unload_from && self.crew.hoarders > 0 {
            self.unload_from = now + LONG;
            self.unload_silent(now);
        }
    }

    #[cold]
    fn unload_silent(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            if let Phase::Ready(ready) = &self.slots[index].phase
                && ready.hand.items() > 1
                && !ready.hand.is_taking()
                && ready.pace.is_long(now)
            {
                self.take_back_loose(index, usize::MAX);
            }
        }
    }

    /// Whether a worker should have done everything it holds by the time another could be woken for it.
    fn is_done_soon(&self, index: usize, now: Instant) -> bool {
        let Some(ready) = self.slots[index].active().filter(|ready| ready.is_open()) else { return false };
        ready.hand.items() <= self.soon(ready, now)
    }

    /// While lanes compete, nobody is to hold much that others have to wait behind: who has reported nothing for longer than what it
    /// holds should take has been given too much, and keeps what it runs. The others are looked at again.
    pub(super) fn level_hands(&mut self, now: Instant) {
        self.level_at = None;
        if self.crew.hoarders == 0 {
            return;
        }
        let ahead = self.config.ahead;
        for index in 0..self.slots.len() {
            let Phase::Ready(ready) = &self.slots[index].phase else { continue };
            let (items, silence) = (ready.hand.items(), ready.pace.silence(now));
            if items < 2 || !self.competes(&ready.hand) {
                continue;
            }
            // From whom something is being taken back, the answer has him watched again; that he is looked at meanwhile does no harm.
            let has_too_much = items > 2 && ready.pace.is_silent(now, ahead) || silence >= LONG;
            if has_too_much && !ready.hand.is_taking() {
                self.take_back(index, usize::MAX);
            } else {
                let patience = if items > 2 { 2 * ahead } else { LONG };
                let at = now + patience.saturating_sub(silence).max(ahead);
                self.level_at = Some(self.level_at.map_or(at, |look| look.min(at)));
            }
        }
    }

    /// Whether items of several lanes wait for each other, in this hand or because of it.
    fn competes(&self, hand: &Hand) -> bool {
        let held = hand.spans().filter_map(|held| held.task).filter_map(|key| self.units.get(key));
        let mut lanes = held.map(|unit| unit.lane).chain(self.queue.waiting());
        let first = lanes.next();
        self.queue.is_contended() || lanes.any(|lane| Some(lane) != first)
    }

    /// A worker holds something that is to be looked at again if lanes compete.
    pub(super) fn watch_hand(&mut self, index: usize, now: Instant) {
        if self.queue.is_shared() && self.slots[index].hand().is_some_and(|hand| hand.items() > 1) {
            self.level_at.get_or_insert(now + 2 * self.config.ahead);
        }
    }

    /// Asks for the last items that a worker holds and is not known to have claimed.
    pub(super) fn take_back(&mut self, index: usize, most: usize) {
        let who = self.slots[index].incarnation();
        let Some(ready) = self.slots[index].ready() else { return };
        let spans = ready.hand.ask(most, |_| true);
        if !spans.is_empty() {
            self.out.push_back(Action::TakeBack(who, spans));
        }
    }

    /// As [`take_back`](Self::take_back), but of these units only.
    pub(super) fn take_back_of(&mut self, index: usize, most: usize, may: impl Fn(&Lanes, &Unit) -> bool) {
        let who = self.slots[index].incarnation();
        let (units, queue) = (&self.units, &self.queue);
        let may = |held: &Held| held.task.and_then(|key| units.get(key)).is_none_or(|unit| may(queue, unit));
        let Some(ready) = self.slots[index].ready() else { return };
        let spans = ready.hand.ask(most, may);
        if !spans.is_empty() {
            self.out.push_back(Action::TakeBack(who, spans));
        }
    }

    pub(super) fn on_took_back(&mut self, now: Instant, who: Incarnation, answers: &[(Span, bool)]) {
        let Some(index) = self.alive(who) else { return };
        let mut back: Vec<TaskKey> = Vec::new();
        for (span, _) in answers.iter().filter(|(_, unclaimed)| *unclaimed) {
            back.extend(self.take_out(index, *span, now));
        }
        self.counters.taken_back += self.items_in(&back);
        self.requeue(back);
        let Some(ready) = self.slots[index].ready() else {
            // It was killed meanwhile. What was taken from it stands in no result's way any more; the rest its death will tell.
            return self.dispatch(now);
        };
        // The worker was faster: it runs these, or has run them. Its older results came before this answer.
        let mut running = false;
        let mut broken = None;
        for (span, _) in answers.iter().filter(|(_, unclaimed)| !*unclaimed) {
            for place in ready.hand.place(span.first)..=ready.hand.place(span.end()) {
                let Some(kept) = ready.hand.get(place).map(|held| held.taking_in(span.tickets())) else {
                    break;
                };
                if kept.is_empty() {
                    continue;
                }
                ready.hand.keep(place, kept.end);
                let head = ready.hand.front().map(|front| front.ticket);
                if head == Some(kept.start) && kept.end == kept.start + 1 {
                    running |= ready.hand.front().is_some_and(|front| front.task.is_none());
                    ready.hand.head_mut().into_iter().for_each(|head| {
                        head.started.get_or_insert(now);
                    });
                } else {
                    broken = Some(kept.end - 1);
                }
            }
        }
        if let Some(ticket) = broken {
            let what = format!("ticket {ticket} was claimed before an older one had its result");
            return self.on_violation(now, who, what);
        }
        if running {
            // A cancelled task turned out to be running.
            self.doom(now, index, KillReason::Cancelled);
        }
        self.arm(index, now);
        self.proceed(index);
        self.watch_hand(index, now);
        self.retire_if_done(now, index);
        self.dispatch(now);
    }

    /// Takes those tickets out of a worker's hand that are still being taken, and returns their units.
    fn take_out(&mut self, index: usize, span: Span, now: Instant) -> Vec<TaskKey> {
        let mut back = Vec::new();
        let mut ticket = span.first;
        while let Some(found) = self.slots[index].hand().and_then(|hand| hand.taking_from(ticket, span.end()))
        {
            ticket = found.end();
            let held = self.extract(index, found, now);
            self.give_back_quota(index, &held);
            self.refund(&held);
            back.extend(held.into_iter().filter_map(|held| held.task));
        }
        back
    }

    /// What a worker was given and has not begun does not count.
    pub(super) fn give_back_quota(&mut self, index: usize, held: &[Held]) {
        if let Some(ready) = self.slots[index].ready() {
            ready.quota += held.iter().map(|held| u64::from(held.count)).sum::<u64>();
            self.touch(index);
        }
    }

    /// Task code has overwritten the board. The head may be running, so it stays. The others were not claimed before, or the
    /// result of the head would have been reported by now, and cannot be claimed any more: they are given to somebody else.
    pub(super) fn on_illegible(&mut self, now: Instant, who: Incarnation, spans: &[Span]) {
        let Some((index, _)) = self.working(who) else { return };
        let mut back: Vec<(Ticket, TaskKey)> = Vec::new();
        for span in spans {
            let Some(hand) = self.slots[index].hand_mut() else { return };
            if let Some(head) =
                hand.front().map(|front| front.ticket).filter(|head| span.tickets().contains(head))
            {
                hand.keep(0, head + 1);
            }
            back.extend(self.take_out(index, *span, now).into_iter().map(|key| (span.first, key)));
        }
        // The spans may come in any order.
        back.sort_by_key(|(first, _)| *first);
        self.requeue(back.into_iter().map(|(_, key)| key).collect());
        self.proceed(index);
        self.watch_hand(index, now);
        self.retire_if_done(now, index);
        self.dispatch(now);
    }

    /// First step of a kill: nothing else may start on this worker.
    pub(super) fn condemn(&mut self, now: Instant, index: usize) {
        let Some(ready) = self.slots[index].ready() else { return };
        let Some(head) = ready.hand.head_mut() else { return };
        if std::mem::replace(&mut head.condemned, true) {
            return;
        }
        // Should it live on after all, it is a spare.
        let reserved = ready.reserved.take();
        self.slots[index].active = false;
        self.release_reserved(reserved);
        self.take_back(index, usize::MAX);
        self.touch(index);
        self.proceed(index);
        self.dispatch(now);
    }

    /// A condemned worker from which everything else has been taken back is inspected a last time.
    pub(super) fn proceed(&mut self, index: usize) {
        let who = self.slots[index].incarnation();
        let Some(ready) = self.slots[index].ready() else { return };
        if ready.hand.head().is_some_and(|head| head.condemned) && !ready.hand.is_taking() {
            self.out.push_back(Action::Inspect(who));
        }
    }
}
