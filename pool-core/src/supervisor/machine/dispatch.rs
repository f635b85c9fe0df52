//! Handing tasks out, and taking them back.
//!
//! Workers are filled evenly: with `n` tasks to do and `w` workers, none is given more than its share `n / w` ahead of
//! time, nor more than the prefetch limit. A worker is refilled when it is half empty, so that tasks travel many at a
//! time. When there is nothing left to give out, an idle worker is given half of what the fullest one has not claimed.

use std::time::Instant;

use super::{Machine, Place};
use crate::supervisor::event::{Action, Incarnation, KillReason, TaskKey, Ticket};
use crate::supervisor::slot::{Held, Phase, Slot};

impl<P> Machine<P> {
    /// Fills every worker that has room.
    pub(super) fn dispatch(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        self.place_reserved(now);
        self.reserve_suspects(now);
        let count = self.slots.len();
        let open = self.slots.iter().filter(|slot| matches!(slot.phase, Phase::Ready(_))).count();
        if open == 0 {
            return;
        }
        let share = self.share(open);
        // Idle workers first, so that nothing is queued behind a task while somebody has nothing to do.
        for idle_only in [true, false] {
            for offset in 0..count {
                if self.queued == 0 {
                    break;
                }
                let index = (self.cursor + offset) % count;
                let Phase::Ready(ready) = &self.slots[index].phase else { continue };
                if !idle_only {
                    self.fill(index, now, share);
                } else if ready.held.is_empty() {
                    self.fill(index, now, 1);
                }
                if self.queued == 0 {
                    self.cursor = (index + 1) % count;
                }
            }
        }
        if self.queued == 0 && self.held > 1 {
            for index in 0..count {
                self.steal_for(index);
            }
        }
    }

    /// One worker has finished a task: gives it more when it runs low.
    pub(super) fn refill(&mut self, index: usize, now: Instant) {
        if !self.suspects.is_empty() {
            self.reserve_suspects(now);
        }
        let Some(ready) = self.slots[index].ready() else { return };
        if ready.is_idle() {
            self.place_reserved(now);
        }
        let Some(ready) = self.slots[index].ready() else { return };
        let (load, waiting) = (ready.held.len(), ready.reserved.is_some());
        if waiting {
            return self.fill(index, now, 1);
        }
        if self.queued == 0 {
            if load == 0 && self.held > 0 {
                self.steal_for(index);
            }
            return;
        }
        let open = self.slots.iter().filter(|slot| matches!(slot.phase, Phase::Ready(_))).count();
        let share = self.share(open.max(1));
        if load <= share / 2 {
            self.fill(index, now, share);
        }
    }

    /// How many tasks a worker should hold now.
    fn share(&self, open: usize) -> usize {
        (self.queued + self.held).div_ceil(open).clamp(1, self.config.prefetch)
    }

    /// Gives one worker tasks until it holds `share` of them.
    fn fill(&mut self, index: usize, now: Instant, share: usize) {
        let Some(ready) = self.slots[index].ready() else { return };
        if let (Some(task), true, None) = (ready.reserved, ready.held.is_empty(), &ready.condemned) {
            ready.reserved = None;
            ready.alone = true;
            return self.send(index, now, task);
        }
        loop {
            let config = &self.config;
            let Some(ready) = self.slots[index].ready() else { return };
            let oldest = ready.held.front().map_or(ready.next_ticket, |held| held.ticket);
            if !ready.is_open()
                || ready.held.len() >= share
                || ready.has_doomed_head()
                || ready.next_ticket - oldest >= config.ticket_window
            {
                return;
            }
            let (room, empty) = (config.prefetch_bytes.saturating_sub(ready.bytes), ready.held.is_empty());
            let Some(&task) = self.queue.front() else { return };
            match self.tasks.get(task) {
                Some(waiting) if !empty && waiting.spec.size > room => return,
                Some(_) => {
                    self.queue.pop_front();
                    self.queued -= 1;
                    self.send(index, now, task);
                }
                None => {
                    self.queue.pop_front();
                }
            }
        }
    }

    fn send(&mut self, index: usize, now: Instant, key: TaskKey) {
        let to = self.slots[index].incarnation();
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.place = Place::With(to.worker);
        let (attempt, limit, size) = (task.attempts + 1, task.spec.limit, task.spec.size);
        let Some(ready) = self.slots[index].ready() else { return };
        let ticket = ready.next_ticket;
        ready.next_ticket += 1;
        let first = ready.held.is_empty();
        if first {
            ready.head_since = now;
        }
        ready.bytes += size;
        ready.held.push_back(Held {
            ticket,
            task: Some(key),
            size,
            limit,
            started: None,
            spoiled: false,
            taking: false,
            doomed: None,
        });
        self.held += 1;
        self.out.push(Action::Send { to, ticket, task: key, attempt, limit });
        if first {
            self.arm(index, now);
        }
    }

    /// Sends the suspects whose workers have become empty. One whose worker is still busy is given to a worker that has
    /// become idle meanwhile: what it waits for may take for ever.
    fn place_reserved(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let Some(ready) = self.slots[index].ready() else { continue };
            let Some(task) = ready.reserved else { continue };
            if ready.held.is_empty() {
                self.fill(index, now, 1);
                continue;
            }
            let idle = |slot: &Slot| matches!(&slot.phase, Phase::Ready(ready) if ready.is_idle());
            let Some(other) = self.slots.iter().position(idle) else { continue };
            self.slots[index].ready().into_iter().for_each(|ready| ready.reserved = None);
            self.reserve(other, task);
            self.fill(other, now, 1);
        }
    }

    fn reserve(&mut self, index: usize, task: TaskKey) {
        let worker = self.slots[index].worker;
        let Some(ready) = self.slots[index].ready() else { return };
        ready.reserved = Some(task);
        if let Some(waiting) = self.tasks.get_mut(task) {
            waiting.place = Place::With(worker);
        }
    }

    /// The worker that a suspect waited for is gone: it waits for another one.
    pub(super) fn release_reserved(&mut self, reserved: Option<TaskKey>) {
        let Some(task) = reserved else { return };
        if let Some(waiting) = self.tasks.get_mut(task) {
            waiting.place = Place::Suspect;
            self.suspects.push_front(task);
        }
    }

    /// Finds every suspect a worker of its own: the emptiest one gets nothing else until it has run the suspect.
    fn reserve_suspects(&mut self, now: Instant) {
        while let Some(&task) = self.suspects.front() {
            if self.tasks.get(task).is_none() {
                self.suspects.pop_front();
                continue;
            }
            let fits = |slot: &Slot| match &slot.phase {
                Phase::Ready(ready) if ready.is_open() && !ready.has_doomed_head() => Some(ready.held.len()),
                _ => None,
            };
            let best =
                self.slots.iter().enumerate().filter_map(|(i, slot)| fits(slot).map(|load| (load, i))).min();
            let Some((_, index)) = best else { return };
            self.suspects.pop_front();
            self.reserve(index, task);
            self.fill(index, now, 1);
        }
    }

    /// Asks the fullest worker for half of its unclaimed tasks, on behalf of an idle one.
    fn steal_for(&mut self, index: usize) {
        if !self.slots[index].ready().is_some_and(|ready| ready.is_idle()) {
            return;
        }
        let mut best: Option<(usize, usize)> = None;
        for (other, slot) in self.slots.iter().enumerate() {
            if let Phase::Ready(ready) = &slot.phase {
                let spare = if ready.is_taking() { 0 } else { ready.held.len().saturating_sub(1) };
                if spare > best.map_or(0, |(spare, _)| spare) {
                    best = Some((spare, other));
                }
            }
        }
        let Some((spare, victim)) = best else { return };
        self.take_back(victim, spare.div_ceil(2));
    }

    /// Asks for the last `count` tasks that a worker holds and is not known to have claimed.
    pub(super) fn take_back(&mut self, index: usize, count: usize) {
        let who = self.slots[index].incarnation();
        let Some(ready) = self.slots[index].ready() else { return };
        let mut tickets: Vec<Ticket> = Vec::new();
        for held in ready.held.iter_mut().skip(1).rev().take(count).filter(|held| !held.taking) {
            held.taking = true;
            tickets.push(held.ticket);
        }
        if !tickets.is_empty() {
            tickets.reverse();
            self.out.push(Action::TakeBack(who, tickets));
        }
    }

    pub(super) fn on_took_back(&mut self, now: Instant, who: Incarnation, answers: Vec<(Ticket, bool)>) {
        if let Some(index) = self.alive(who)
            && let Phase::Dying { held, .. } = &mut self.slots[index].phase
        {
            // It was killed meanwhile. What was taken from it is its own no longer, and stands in no result's way.
            let taken = |held: &Held| held.taking && answers.contains(&(held.ticket, true));
            let (back, rest): (Vec<Held>, Vec<Held>) = held.drain(..).partition(taken);
            held.extend(rest);
            self.held -= back.len();
            let back: Vec<TaskKey> = back.into_iter().filter_map(|held| held.task).collect();
            self.counters.taken_back += back.len() as u64;
            self.requeue(back);
            return self.dispatch(now);
        }
        let Some((index, ready)) = self.working(who) else { return };
        let mut back = Vec::new();
        let mut running = false;
        let mut broken = None;
        let mut removed = 0;
        for (ticket, unclaimed) in answers {
            let Some(position) = ready.held.iter().position(|held| held.ticket == ticket && held.taking)
            else {
                continue;
            };
            if unclaimed {
                if let Some(held) = ready.remove(position, now) {
                    removed += 1;
                    back.extend(held.task);
                }
            } else {
                // The worker was faster: it runs this task. Its older results came before this answer.
                let held = &mut ready.held[position];
                held.taking = false;
                held.started.get_or_insert(now);
                running |= position == 0 && held.task.is_none();
                if position > 0 {
                    broken = Some(ticket);
                }
            }
        }
        self.held -= removed;
        self.counters.taken_back += back.len() as u64;
        self.requeue(back);
        if let Some(ticket) = broken {
            return self.on_violation(
                now,
                who,
                format!("ticket {ticket} was claimed before an older one had its result"),
            );
        }
        if running {
            // A cancelled task turned out to be running.
            self.doom(now, index, KillReason::Cancelled);
        }
        self.arm(index, now);
        self.proceed(index);
        self.dispatch(now);
    }

    /// Task code has overwritten the board. The head may be running, so it stays. The others were not claimed before, or the
    /// result of the head would have been reported by now, and cannot be claimed any more: they are given to somebody else.
    pub(super) fn on_illegible(&mut self, now: Instant, who: Incarnation, tickets: &[Ticket]) {
        let Some((index, ready)) = self.working(who) else { return };
        let mut back = Vec::new();
        for ticket in tickets {
            match ready.held.iter().position(|held| held.ticket == *ticket && held.taking) {
                Some(0) => ready.held[0].taking = false,
                Some(place) => back.extend(ready.remove(place, now)),
                None => {}
            }
        }
        self.held -= back.len();
        back.sort_unstable_by_key(|held| held.ticket);
        self.requeue(back.into_iter().filter_map(|held| held.task).collect());
        self.proceed(index);
        self.dispatch(now);
    }

    /// Puts tasks that were never started back to the front of the queue, in their old order.
    pub(super) fn requeue(&mut self, tasks: Vec<TaskKey>) {
        for key in tasks.into_iter().rev() {
            let Some(task) = self.tasks.get_mut(key) else { continue };
            if task.attempts > 0 {
                task.place = Place::Suspect;
                self.suspects.push_front(key);
            } else {
                task.place = Place::Queued;
                self.queue.push_front(key);
                self.queued += 1;
            }
        }
    }

    /// A condemned worker from which everything else has been taken back is inspected a last time.
    pub(super) fn proceed(&mut self, index: usize) {
        let who = self.slots[index].incarnation();
        let Some(ready) = self.slots[index].ready() else { return };
        if ready.condemned.is_some() && !ready.is_taking() {
            self.out.push(Action::Inspect(who));
        }
    }

    /// First step of a kill: nothing else may start on this worker.
    pub(super) fn condemn(&mut self, index: usize, ticket: Ticket, why: KillReason) {
        let Some(ready) = self.slots[index].ready() else { return };
        if ready.condemned.is_some() {
            return;
        }
        ready.condemned = Some(crate::supervisor::slot::Condemned { ticket, why });
        self.take_back(index, usize::MAX);
        self.proceed(index);
    }
}
